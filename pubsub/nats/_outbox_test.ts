import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import type { Link } from "./_link.ts";
import { Outbox } from "./_outbox.ts";
import { Budget } from "./_queue.ts";

/** A link that notes what it is given, turn by turn of the client library. */
class FakeLink {
  readonly runtime = platformRuntime();
  readonly sent: string[] = [];
  isUp = true;
  readonly open = { publish: (subject: string) => void this.sent.push(subject) };
  flush(): Promise<boolean> {
    return Promise.resolve(this.isUp);
  }
}

function make(maxMessages = 100): { readonly link: FakeLink; readonly outbox: Outbox } {
  const link = new FakeLink();
  const budget = new Budget(maxMessages, 1_000_000);
  return { link, outbox: new Outbox(link as unknown as Link, budget, 30_000) };
}

const turn = () => new Promise<void>((resolve) => void setImmediate(resolve));

Deno.test("Outbox sends at the end of a turn what came in all of it", async () => {
  const { link, outbox } = make();
  outbox.publish("a", new Uint8Array(10));
  await Promise.resolve();
  outbox.publish("b", new Uint8Array(10));
  assertEquals(link.sent, []);
  await turn();
  assertEquals(link.sent, ["a", "b"]);
});

Deno.test("Outbox sends at once what is much, and what it is told to", () => {
  const { link, outbox } = make();
  outbox.publish("a", new Uint8Array(10));
  outbox.publish("b", new Uint8Array(40_000));
  assertEquals(link.sent, ["a", "b"]);
  outbox.publish("c", new Uint8Array(10));
  outbox.send();
  assertEquals(link.sent, ["a", "b", "c"]);
});

Deno.test("Outbox drops nothing that could be sent, however small its bounds", () => {
  const { link, outbox } = make(1);
  for (const subject of ["a", "b", "c"]) outbox.publish(subject, new Uint8Array(10));
  outbox.send();
  assertEquals([link.sent, outbox.dropped], [["a", "b", "c"], 0]);
});

Deno.test("Outbox keeps in order what waits for the server, within its bounds", () => {
  const { link, outbox } = make(2);
  link.isUp = false;
  for (const subject of ["a", "b", "c"]) outbox.publish(subject, new Uint8Array(10));
  link.isUp = true;
  outbox.resume();
  assertEquals([link.sent, outbox.dropped], [["a", "b"], 1]);
});
