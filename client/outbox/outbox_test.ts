import { assertEquals, assertThrows } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { QueueFullError } from "../../errors.ts";
import { type EncodedMessage, encodeMessage } from "../../session/wire/encode.ts";
import { Outbox } from "./outbox.ts";

const message = (topic: string): EncodedMessage => encodeMessage(topic, undefined);
const SIZE = message("a").size;

function drain(outbox: Outbox): string[] {
  const topics: string[] = [];
  for (let first; (first = outbox.first) !== undefined; outbox.shift()) topics.push(first.topic);
  return topics;
}

Deno.test("Outbox keeps messages in order and delivers each once", () => {
  const outbox = new Outbox(platformRuntime());
  for (const topic of ["a", "b", "c"]) outbox.add(message(topic));
  assertEquals(outbox.state, { messages: 3, bytes: 3 * SIZE });
  assertEquals(drain(outbox), ["a", "b", "c"]);
  assertEquals(outbox.state, { messages: 0, bytes: 0 });
  assertEquals(drain(outbox), []);
});

Deno.test("Outbox.add() rejects the first message beyond either bound", () => {
  const byCount = new Outbox(platformRuntime(), { maxMessages: 2 });
  const byBytes = new Outbox(platformRuntime(), { maxBytes: 2 * SIZE });
  for (const outbox of [byCount, byBytes]) {
    outbox.add(message("a"));
    outbox.add(message("b"));
    assertThrows(() => outbox.add(message("c")), QueueFullError, "2 messages");
    assertEquals(drain(outbox), ["a", "b"]);
    outbox.add(message("c"));
  }
});

Deno.test("Outbox.add() accepts at most 1,000 messages and 1 MiB by default", () => {
  const outbox = new Outbox(platformRuntime());
  for (let i = 0; i < 1_000; i++) outbox.add(message("a"));
  assertThrows(() => outbox.add(message("a")), QueueFullError);
  const large = new Outbox(platformRuntime());
  const overhead = encodeMessage("a", "").size;
  for (let i = 0; i < 4; i++) large.add(encodeMessage("a", "x".repeat(262_144 - overhead)));
  assertEquals(large.state.bytes, 1_048_576);
  assertThrows(() => large.add(message("a")), QueueFullError);
});

Deno.test("Outbox.add() accepts a single message of any size", () => {
  const outbox = new Outbox(platformRuntime(), { maxBytes: 1 });
  outbox.add(message("a"));
  assertThrows(() => outbox.add(message("b")), QueueFullError, `1 messages, ${SIZE} bytes`);
});

Deno.test("Outbox.shift() removes only the first message, and none from an empty outbox", () => {
  const outbox = new Outbox(platformRuntime());
  outbox.shift();
  assertEquals(outbox.state, { messages: 0, bytes: 0 });
  for (const topic of ["a", "b", "c"]) outbox.add(message(topic));
  assertEquals(outbox.first?.topic, "a");
  outbox.shift();
  assertEquals(outbox.state, { messages: 2, bytes: 2 * SIZE });
  assertEquals(drain(outbox), ["b", "c"]);
});

Deno.test("Outbox() rejects invalid bounds", () => {
  for (const name of ["maxMessages", "maxBytes"]) {
    for (const value of [0, -1, 1.5, NaN]) {
      assertThrows(
        () => new Outbox(platformRuntime(), { [name]: value }),
        RangeError,
        `Cannot create outbox: ${name} must be a positive integer, received ${value}`,
      );
    }
  }
});
