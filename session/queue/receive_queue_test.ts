import { assert, assertEquals } from "@std/assert";
import { ReceiveQueue } from "./receive_queue.ts";

const LIMITS = { maxMessages: 3, maxBytes: 10 };

Deno.test("ReceiveQueue delivers an item to its consumer synchronously", () => {
  const queue = new ReceiveQueue<number>(LIMITS, 1);
  const seen: number[] = [];
  queue.consume({ handle: (item) => void seen.push(item) });
  for (let i = 0; i < 10; i++) assert(queue.offer(i, 100));
  assertEquals(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert(queue.isIdle);
});

Deno.test("ReceiveQueue runs items one at a time, in order, whatever their duration", async () => {
  const queue = new ReceiveQueue<number>({ maxMessages: 10, maxBytes: 100 }, 1);
  const log: string[] = [];
  const gates = Array.from({ length: 3 }, () => Promise.withResolvers<void>());
  queue.consume({
    handle(item) {
      log.push(`begin ${item}`);
      return gates[item]?.promise.then(() => void log.push(`end ${item}`));
    },
  });
  for (let i = 0; i < 4; i++) queue.offer(i, 1);
  gates[2]!.resolve();
  gates[0]!.resolve();
  gates[1]!.resolve();
  while (!queue.isIdle) await queue.changed();
  assertEquals(log, ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2", "begin 3"]);
});

Deno.test("ReceiveQueue runs as many handlers at once as its concurrency allows", async () => {
  const queue = new ReceiveQueue<number>({ maxMessages: 10, maxBytes: 100 }, 2);
  let running = 0;
  let most = 0;
  queue.consume({
    async handle() {
      most = Math.max(most, ++running);
      await Promise.resolve();
      running--;
    },
  });
  for (let i = 0; i < 6; i++) queue.offer(i, 1);
  while (!queue.isIdle) await queue.changed();
  assertEquals([most, running], [2, 0]);
});

Deno.test("ReceiveQueue.offer() rejects the first item beyond either limit", () => {
  const byCount = new ReceiveQueue<number>(LIMITS, 1);
  assertEquals([1, 2, 3, 4].map((item) => byCount.offer(item, 0)), [true, true, true, false]);
  const byBytes = new ReceiveQueue<number>(LIMITS, 1);
  assertEquals([6, 4, 1].map((size) => byBytes.offer(size, size)), [true, true, false]);
  assertEquals(byBytes.take(), 6);
  assert(byBytes.offer(6, 6));
  assertEquals([byBytes.take(), byBytes.take(), byBytes.take()], [4, 6, undefined]);
});

Deno.test("ReceiveQueue.offer() accepts a single item of any size", () => {
  const queue = new ReceiveQueue<string>(LIMITS, 1);
  assertEquals(queue.offer("large", 1_000), true);
  assertEquals(queue.offer("small", 1), false);
});

Deno.test("ReceiveQueue holds its consumer until another task has finished or failed", async () => {
  for (const fails of [false, true]) {
    const queue = new ReceiveQueue<number>(LIMITS, 1);
    const seen: number[] = [];
    queue.consume({ handle: (item) => void seen.push(item) });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    queue.holdFor(promise.catch(() => {}));
    queue.offer(1, 1);
    assertEquals([queue.isIdle, seen.length], [false, 0]);
    if (fails) reject(new Error("no"));
    else resolve();
    while (!queue.isIdle) await queue.changed();
    assertEquals(seen, [1]);
  }
});

Deno.test("ReceiveQueue.consume() receives earlier items", () => {
  const queue = new ReceiveQueue<number>(LIMITS, 1);
  queue.offer(1, 1);
  queue.offer(2, 1);
  const seen: number[] = [];
  queue.consume({ handle: (item) => void seen.push(item) });
  assertEquals([seen, queue.size], [[1, 2], 0]);
});

Deno.test("ReceiveQueue.end() accepts no more items and keeps waiting ones", async () => {
  const queue = new ReceiveQueue<number>(LIMITS, 1);
  queue.offer(1, 1);
  const changed = queue.changed();
  queue.end();
  queue.end();
  await changed;
  assertEquals(queue.offer(2, 1), true);
  assertEquals({ isEnded: queue.isEnded, first: queue.take(), second: queue.take() }, {
    isEnded: true,
    first: 1,
    second: undefined,
  });
});

Deno.test("ReceiveQueue.clear() drops waiting items and their bytes", async () => {
  const queue = new ReceiveQueue<number>(LIMITS, 1);
  queue.offer(1, 10);
  const changed = queue.changed();
  queue.clear();
  await changed;
  assertEquals({
    size: queue.size,
    offeredBytes: queue.offer(2, 10),
    offeredEmpty: queue.offer(3, 0),
  }, { size: 0, offeredBytes: true, offeredEmpty: true });
});
