import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import type { Link } from "./_link.ts";
import { PublishQueue } from "./_outbox.ts";
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

function make(maxMessages = 100): { readonly link: FakeLink; readonly queue: PublishQueue } {
  const link = new FakeLink();
  const budget = new Budget(maxMessages, 1_000_000);
  return { link, queue: new PublishQueue(link as unknown as Link, budget, 30_000) };
}

const turn = () => new Promise<void>((resolve) => void setImmediate(resolve));

Deno.test("PublishQueue sends at the end of a turn what came in all of it", async () => {
  const { link, queue } = make();
  queue.publish("a", new Uint8Array(10));
  await Promise.resolve();
  queue.publish("b", new Uint8Array(10));
  assertEquals(link.sent, []);
  await turn();
  assertEquals(link.sent, ["a", "b"]);
});

Deno.test("PublishQueue sends at once what is much, and what it is told to", () => {
  const { link, queue } = make();
  queue.publish("a", new Uint8Array(10));
  queue.publish("b", new Uint8Array(40_000));
  assertEquals(link.sent, ["a", "b"]);
  queue.publish("c", new Uint8Array(10));
  queue.send();
  assertEquals(link.sent, ["a", "b", "c"]);
});

Deno.test("PublishQueue drops nothing that could be sent, however small its bounds", () => {
  const { link, queue } = make(1);
  for (const subject of ["a", "b", "c"]) queue.publish(subject, new Uint8Array(10));
  queue.send();
  assertEquals([link.sent, queue.dropped], [["a", "b", "c"], 0]);
});

Deno.test("PublishQueue keeps in order what waits for the server, within its bounds", () => {
  const { link, queue } = make(2);
  link.isUp = false;
  for (const subject of ["a", "b", "c"]) queue.publish(subject, new Uint8Array(10));
  link.isUp = true;
  queue.resume();
  assertEquals([link.sent, queue.dropped], [["a", "b"], 1]);
});
