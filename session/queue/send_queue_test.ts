import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { QueueFullError } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import { SharedMessages } from "./broadcast.ts";
import { MAX_JOINED_BYTES } from "./frames.ts";
import { bench } from "./queues_fixture.ts";
import { HIGH_WATER_MARK, type SendQueueBounds } from "./send_queue.ts";

Deno.test("SendQueue joins the messages of one turn into frames up to the size limit, if the connection allows", () => {
  const [a, b, c, d, bytes] = ["a", "b", "c", "d", Uint8Array.of(1)];
  const half = "x".repeat(MAX_JOINED_BYTES / 2);
  const large = "x".repeat(MAX_JOINED_BYTES + 1);
  const cases: [joins: boolean, pushed: Frame[], sent: Frame[]][] = [
    [true, [a, b, c], ["a\nb\nc"]],
    [true, [a, b, bytes, c, d], ["a\nb", bytes, "c\nd"]],
    [true, [half.slice(1), half, half], [`${half.slice(1)}\n${half}`, half]],
    [true, [a, large, b], [a, large, b]],
    [false, [a, b], [a, b]],
    // A plain WebSocket carries no bytes.
    [false, [a, bytes], [a]],
  ];
  for (const [joins, pushed, sent] of cases) {
    const { frames, flusher, queue, entry } = bench({}, joins);
    for (const frame of pushed) queue.push(entry(frame));
    assertEquals(frames.sent, []);
    flusher.flush();
    assertEquals(frames.sent, sent);
    const dropped = joins ? 0 : pushed.length - sent.length;
    const { sentMessages, droppedMessages } = queue.stats;
    assertEquals([sentMessages, droppedMessages], [pushed.length - dropped, dropped]);
  }
});

Deno.test("SendQueue flushes early, without overflow, while the connection accepts all frames", () => {
  for (const limits of [{ maxMessages: 4 }, { maxBytes: 20 }]) {
    const { frames, flusher, overflows, push } = bench(limits);
    const sent = Array.from({ length: 100 }, (_, i) => `${i}`);
    push(...sent);
    flusher.flush();
    assertEquals(frames.take(), sent);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue holds messages while the connection is behind, then sends them", async () => {
  const { frames, flusher, queue, push, hold } = bench();
  hold();
  push("a", "b");
  flusher.flush();
  assertEquals(frames.sent, []);
  assertEquals([queue.stats.queuedMessages, queue.stats.queuedBytes], [2, 2]);
  await frames.drain();
  flusher.flush();
  assertEquals(frames.sent, ["a\nb"]);
  assert(queue.isFlushed);
});

Deno.test("SendQueue stops in the middle of a backlog when the connection falls behind again", async () => {
  const { frames, flusher, queue, push, hold } = bench();
  hold();
  push("a".repeat(HIGH_WATER_MARK), "b".repeat(HIGH_WATER_MARK), "c");
  await frames.drain();
  frames.isStalled = true;
  flusher.flush();
  assertEquals(frames.sent.splice(0).length, 1);
  assertEquals(queue.stats.queuedMessages, 2);
  assertEquals(queue.stats.queuedBytes, HIGH_WATER_MARK + 1);
  await frames.drain();
  flusher.flush();
  assertEquals(frames.sent.map(({ length }) => length), [HIGH_WATER_MARK, 1]);
  assertEquals(queue.stats.queuedBytes, 0);
});

Deno.test("SendQueue.flushed() resolves once the connection has caught up, or the queue has ended", async () => {
  const { frames, flusher, queue, push, hold } = bench();
  await queue.flushed();
  hold();
  push("a");
  let isFlushed = false;
  const flushed = queue.flushed().then(() => isFlushed = true);
  await Promise.resolve();
  assert(!isFlushed);
  await frames.drain();
  flusher.flush();
  await flushed;
  assertEquals(frames.take(), ["a"]);
  hold();
  const ended = queue.flushed();
  queue.end();
  await ended;
});

Deno.test("SendQueue.flushed() resolves when the queue is empty after the connection stalled", async () => {
  const { frames, queue, hold } = bench();
  hold();
  const flushed = queue.flushed();
  await frames.drain();
  await flushed;
});

Deno.test("SendQueue.push() accepts one message of any size; a full queue throws and closes by policy", () => {
  const failure = new Error("no policy");
  const policy = () => {
    throw failure;
  };
  const cases: [Parameters<typeof bench>[0], taken: string[], rule: string, cause?: Error][] = [
    [{ maxMessages: 2 }, ["a", "b"], "2 messages"],
    [{ maxBytes: 40 }, ["x".repeat(30), "y".repeat(10)], "40 bytes"],
    [{ maxBytes: 10 }, ["x".repeat(11)], "11 bytes"],
    [{ maxMessages: 1, policy }, ["a"], "1 message", failure],
  ];
  for (const [limits, taken, rule, cause] of cases) {
    const { queue, overflows, push, hold } = bench(limits);
    hold();
    push(...taken);
    assertEquals([queue.stats.queuedBytes, overflows], [taken.join("").length, []]);
    const error = assertThrows(() => push("z"), QueueFullError, rule);
    assertEquals([overflows, error.cause], [[error], cause]);
    push("ignored");
    assertEquals(queue.stats.queuedMessages, 0);
  }
});

Deno.test("SendQueue closes if its policy function returns no name of a policy", () => {
  const cases: [policy: () => unknown, received: string][] = [
    [() => "drop_oldest", "drop_oldest"],
    [() => undefined, "undefined"],
    [() => Promise.reject(new Error("no policy")), "[object Promise]"],
  ];
  for (const [policy, received] of cases) {
    const { queue, overflows, push, hold } = bench({ maxMessages: 1, policy: policy as never });
    hold();
    push("a");
    const { cause } = assertThrows(() => push("z"), QueueFullError);
    assertInstanceOf(cause, TypeError);
    assertEquals(cause.message, `sendQueue.policy returned ${received}`);
    assertEquals([queue.stats.droppedMessages, overflows.length], [0, 1]);
  }
});

Deno.test("SendQueue makes room by the topic's policy, and reports each gap once, at its position", async () => {
  const byTopic = (topic: string) => topic === "c" ? "latest" : "drop-newest";
  const [a, c] = ["a", "c"].map((topic) => Array.from({ length: 101 }, (_, i) => topic + i));
  const both = a!.flatMap((text, i) => [text, c![i]!]);
  const cases: [SendQueueBounds["policy"], string[], string[]][] = [
    ["drop-oldest", ["a1", "b1", "c1", "c2"], ['{"dropped":2}', "c1", "c2"]],
    ["drop-oldest", ["a1", "a2", "b1", "b2"], ['{"dropped":2,"topic":"a"}', "b1", "b2"]],
    ["drop-newest", ["a1", "b1", "c1", "c2"], ["a1", "b1", '{"dropped":2,"topic":"c"}']],
    ["drop-newest", ["a1", "b1", "c1", "d1"], ["a1", "b1", '{"dropped":2}']],
    ["latest", ["a1", "b1", "a2", "a3"], ['{"dropped":2,"topic":"a"}', "b1", "a3"]],
    ["latest", ["a1", "b1", "c1"], ['{"dropped":1,"topic":"a"}', "b1", "c1"]],
    [byTopic, ["a1", "c1", "c2", "a2"], [
      '{"dropped":1,"topic":"c"}',
      "a1",
      "c2",
      '{"dropped":1,"topic":"a"}',
    ]],
    [byTopic, both, [
      '{"dropped":100,"topic":"c"}',
      "a0",
      '{"dropped":100,"topic":"a"}',
      "c100",
    ]],
  ];
  for (const [policy, pushed, sent] of cases) {
    const { frames, flusher, queue, overflows, push, hold } = bench({ maxMessages: 2, policy });
    hold();
    push(...pushed);
    assertEquals(queue.stats.droppedMessages, pushed.length - 2);
    assertEquals(queue.stats.queuedMessages, sent.length);
    await frames.drain();
    flusher.flush();
    assertEquals(frames.take(), sent);
    assertEquals([queue.stats.queuedMessages, queue.stats.queuedBytes], [0, 0]);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue keeps only the newest message of a topic while the connection is behind", () => {
  const { frames, flusher, push } = bench({ policy: "latest" });
  push("a1", "a2");
  flusher.flush();
  assertEquals(frames.sent, ["a1\na2"]);
});

Deno.test("SendQueue drops silently if the peer does not support notices", async () => {
  const { frames, flusher, queue, push, hold } = bench(
    { maxMessages: 1, policy: "drop-oldest" },
    false,
  );
  hold();
  push("a", "b");
  await frames.drain();
  flusher.flush();
  assertEquals(frames.sent, ["b"]);
  assertEquals(queue.stats.droppedMessages, 1);
});

Deno.test("SendQueue makes room for a message that fills the queue, and its notice needs none", () => {
  const { queue, overflows, push, hold } = bench({ maxBytes: 100, policy: "drop-oldest" });
  hold();
  for (let i = 0; i < 3; i++) push("x".repeat(100));
  assertEquals([queue.stats.queuedBytes, queue.stats.droppedMessages], [100, 2]);
  assertEquals(overflows, []);
});

Deno.test("SendQueue never drops protected messages", async () => {
  for (const policy of ["drop-oldest", "drop-newest", "latest"] as const) {
    const { frames, flusher, queue, entry, overflows, push, hold } = bench({
      maxMessages: 2,
      policy,
    });
    hold();
    push("a1", "b1");
    queue.push(entry("c1", { isProtected: true }));
    queue.push(entry("c2", { isProtected: true }));
    await frames.drain();
    flusher.flush();
    assertEquals(frames.take(), ['{"dropped":2}', "c1", "c2"], policy);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue closes when no room can be made for protected messages", () => {
  const { queue, entry, overflows, hold } = bench({ maxMessages: 1, policy: "drop-oldest" });
  hold();
  queue.push(entry("a", { isProtected: true }));
  assertThrows(() => queue.push(entry("b", { isProtected: true })), QueueFullError);
  assertEquals(overflows.length, 1);
});

Deno.test("SendQueue.end() drops waiting messages and accepts no more", async () => {
  const { frames, flusher, queue, entry, push, hold } = bench();
  hold();
  push("a");
  queue.end();
  push("b");
  new SharedMessages([entry("c")], undefined).giveTo(queue);
  await frames.drain();
  flusher.flush();
  assertEquals(frames.sent, []);
  assertEquals(queue.stats.queuedMessages, 0);
});
