import { assert, assertEquals, assertThrows } from "@std/assert";
import { QueueFullError } from "../../errors.ts";
import { bench } from "./queues_test.ts";
import { MAX_JOINED_BYTES } from "./packing.ts";
import { HIGH_WATER_MARK, type OverflowPolicy } from "./send_queue.ts";
import { Share } from "./fan_out.ts";

Deno.test("SendQueue joins what one turn pushed into one frame", () => {
  const { frames, turn, push } = bench();
  push("a", "b", "c");
  assertEquals(frames.sent, []);
  turn.flush();
  assertEquals(frames.sent, ["a\nb\nc"]);
});

Deno.test("SendQueue sends one envelope a frame where the wire does not join", () => {
  const { frames, turn, push } = bench({}, false);
  push("a", "b");
  turn.flush();
  assertEquals(frames.sent, ["a", "b"]);
});

Deno.test("SendQueue keeps the order of text and bytes", () => {
  const { frames, turn, queue, entry, push } = bench();
  push("a", "b");
  queue.push(entry(Uint8Array.of(1)));
  push("c", "d");
  turn.flush();
  assertEquals(frames.sent, ["a\nb", Uint8Array.of(1), "c\nd"]);
});

Deno.test("SendQueue counts bytes that a plain wire does not carry as dropped", () => {
  const { frames, turn, queue, entry, push } = bench({}, false);
  push("a");
  queue.push(entry(Uint8Array.of(1)));
  turn.flush();
  assertEquals(frames.sent, ["a"]);
  assertEquals([queue.stats.sentMessages, queue.stats.droppedMessages], [1, 1]);
});

Deno.test("SendQueue splits joined frames at their bound", () => {
  const { frames, turn, push } = bench();
  const half = "x".repeat(MAX_JOINED_BYTES / 2);
  push(half.slice(1), half, half);
  turn.flush();
  assertEquals(frames.sent.map(({ length }) => length), [MAX_JOINED_BYTES, MAX_JOINED_BYTES / 2]);
});

Deno.test("SendQueue sends one envelope above the bound by itself", () => {
  const { frames, turn, push } = bench();
  push("a", "x".repeat(MAX_JOINED_BYTES + 1), "b");
  turn.flush();
  assertEquals(frames.sent.map(({ length }) => length), [1, MAX_JOINED_BYTES + 1, 1]);
});

Deno.test("SendQueue flushes early, and does not overflow, while the wire takes everything", () => {
  for (const limits of [{ maxMessages: 4 }, { maxBytes: 20 }]) {
    const { frames, turn, overflows, push } = bench(limits);
    const sent = Array.from({ length: 100 }, (_, i) => `${i}`);
    push(...sent);
    turn.flush();
    assertEquals(frames.take(), sent);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue holds what waits while the wire is behind, then sends it", async () => {
  const { frames, turn, queue, push, hold } = bench();
  hold();
  push("a", "b");
  turn.flush();
  assertEquals(frames.sent, []);
  assertEquals([queue.stats.queuedMessages, queue.stats.queuedBytes], [2, 2]);
  await frames.drain();
  turn.flush();
  assertEquals(frames.sent, ["a\nb"]);
  assert(queue.isFlushed);
});

Deno.test("SendQueue stops in the middle of a backlog when the wire is behind again", async () => {
  const { frames, turn, queue, push, hold } = bench();
  hold();
  push("a".repeat(HIGH_WATER_MARK), "b".repeat(HIGH_WATER_MARK), "c");
  await frames.drain();
  frames.isStalled = true;
  turn.flush();
  assertEquals(frames.sent.splice(0).length, 1);
  assertEquals(queue.stats.queuedMessages, 2);
  assertEquals(queue.stats.queuedBytes, HIGH_WATER_MARK + 1);
  await frames.drain();
  turn.flush();
  assertEquals(frames.sent.map(({ length }) => length), [HIGH_WATER_MARK, 1]);
  assertEquals(queue.stats.queuedBytes, 0);
});

Deno.test("SendQueue.flushed() resolves once the wire is not behind, or the queue ended", async () => {
  const { frames, turn, queue, push, hold } = bench();
  await queue.flushed();
  hold();
  push("a");
  let isFlushed = false;
  const flushed = queue.flushed().then(() => isFlushed = true);
  await Promise.resolve();
  assert(!isFlushed);
  await frames.drain();
  turn.flush();
  await flushed;
  assertEquals(frames.take(), ["a"]);
  hold();
  const ended = queue.flushed();
  queue.end();
  await ended;
});

Deno.test("SendQueue.flushed() resolves when nothing waits but the wire was behind", async () => {
  const { frames, queue, hold } = bench();
  hold();
  const flushed = queue.flushed();
  await frames.drain();
  await flushed;
});

Deno.test("SendQueue.push() throws, and closes, when it is full and the policy is close", () => {
  const { queue, overflows, push, hold } = bench({ maxMessages: 2 });
  hold();
  push("a", "b");
  const error = assertThrows(() => push("c"), QueueFullError, "2 messages");
  assertEquals(overflows, [error]);
  push("ignored");
  assertEquals(queue.stats.queuedMessages, 0);
});

Deno.test("SendQueue bounds bytes as well as messages", () => {
  const { overflows, push, hold } = bench({ maxBytes: HIGH_WATER_MARK + 10 });
  hold();
  push("x".repeat(HIGH_WATER_MARK), "y".repeat(10));
  assertThrows(() => push("z"), QueueFullError, `${HIGH_WATER_MARK + 10} bytes`);
  assertEquals(overflows.length, 1);
});

Deno.test("SendQueue makes room by its policy, and tells what is missing where", async () => {
  const cases: [OverflowPolicy, string[], string[]][] = [
    ["drop-oldest", ["a1", "b1", "c1", "c2"], ['{"dropped":2}', "c1", "c2"]],
    ["drop-oldest", ["a1", "a2", "b1", "b2"], ['{"dropped":2,"topic":"a"}', "b1", "b2"]],
    ["drop-newest", ["a1", "b1", "c1", "c2"], ["a1", "b1", '{"dropped":2,"topic":"c"}']],
    ["drop-newest", ["a1", "b1", "c1", "d1"], ["a1", "b1", '{"dropped":2}']],
    ["latest", ["a1", "b1", "a2", "a3"], ['{"dropped":2,"topic":"a"}', "b1", "a3"]],
    ["latest", ["a1", "b1", "c1"], ['{"dropped":1,"topic":"a"}', "b1", "c1"]],
  ];
  for (const [policy, pushed, sent] of cases) {
    const { frames, turn, queue, overflows, push, hold } = bench({ maxMessages: 2, policy });
    hold();
    push(...pushed);
    assertEquals(queue.stats.droppedMessages, pushed.length - 2);
    await frames.drain();
    turn.flush();
    assertEquals(frames.take(), sent);
    assertEquals([queue.stats.queuedMessages, queue.stats.queuedBytes], [0, 0]);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue keeps the newest of a topic only while the wire is behind", () => {
  const { frames, turn, push } = bench({ policy: "latest" });
  push("a1", "a2");
  turn.flush();
  assertEquals(frames.sent, ["a1\na2"]);
});

Deno.test("SendQueue drops in silence where the peer does not know notices", async () => {
  const { frames, turn, queue, push, hold } = bench(
    { maxMessages: 1, policy: "drop-oldest" },
    false,
  );
  hold();
  push("a", "b");
  await frames.drain();
  turn.flush();
  assertEquals(frames.sent, ["b"]);
  assertEquals(queue.stats.droppedMessages, 1);
});

Deno.test("SendQueue takes one message of any size while nothing waits", () => {
  const { queue, overflows, push, hold } = bench({ maxBytes: 10 });
  hold();
  push("a".repeat(11));
  assertEquals([queue.stats.queuedBytes, overflows.length], [11, 0]);
  assertThrows(() => push("b"), QueueFullError);
  assertEquals(overflows.length, 1);
});

Deno.test("SendQueue makes room for a message that needs all of it, and its notice takes none", () => {
  const { queue, overflows, push, hold } = bench({ maxBytes: 100, policy: "drop-oldest" });
  hold();
  for (let i = 0; i < 3; i++) push("x".repeat(100));
  assertEquals([queue.stats.queuedBytes, queue.stats.droppedMessages], [100, 2]);
  assertEquals(overflows, []);
});

Deno.test("SendQueue closes when the policy function throws, and says so", () => {
  const failure = new Error("no policy");
  const policy = () => {
    throw failure;
  };
  const { overflows, push, hold } = bench({ policy, maxMessages: 1 });
  hold();
  assertThrows(() => push("a", "b"), QueueFullError);
  assertEquals(overflows.map(({ cause }) => cause), [failure]);
});

Deno.test("SendQueue takes the policy of the topic", async () => {
  const policy = (topic: string) => topic === "c" ? "latest" as const : "drop-newest" as const;
  const { frames, turn, push, hold } = bench({ maxMessages: 2, policy });
  hold();
  push("a1", "c1", "c2", "a2");
  await frames.drain();
  turn.flush();
  assertEquals(frames.take(), [
    '{"dropped":1,"topic":"c"}',
    "a1",
    "c2",
    '{"dropped":1,"topic":"a"}',
  ]);
});

Deno.test("SendQueue never drops what is protected", async () => {
  for (const policy of ["drop-oldest", "drop-newest", "latest"] as const) {
    const { frames, turn, queue, entry, overflows, push, hold } = bench({ maxMessages: 2, policy });
    hold();
    push("a1", "b1");
    queue.push(entry("c1", { isProtected: true }));
    queue.push(entry("c2", { isProtected: true }));
    await frames.drain();
    turn.flush();
    assertEquals(frames.take(), ['{"dropped":2}', "c1", "c2"], policy);
    assertEquals(overflows, []);
  }
});

Deno.test("SendQueue closes when nothing can make room for what is protected", () => {
  const { queue, entry, overflows, hold } = bench({ maxMessages: 1, policy: "drop-oldest" });
  hold();
  queue.push(entry("a", { isProtected: true }));
  assertThrows(() => queue.push(entry("b", { isProtected: true })), QueueFullError);
  assertEquals(overflows.length, 1);
});

Deno.test("SendQueue.end() forgets what waits and takes no more", async () => {
  const { frames, turn, queue, entry, push, hold } = bench();
  hold();
  push("a");
  queue.end();
  push("b");
  assert(new Share([entry("c")], undefined).giveTo(queue));
  await frames.drain();
  turn.flush();
  assertEquals(frames.sent, []);
  assertEquals(queue.stats.queuedMessages, 0);
});
