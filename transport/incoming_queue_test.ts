import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { IncomingQueue, takeOut } from "./incoming_queue.ts";
import { turns } from "../tests/waiting.ts";

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

/** Creates a queue with a capacity of three, and records what happens to its items. */
function make(): { queue: IncomingQueue<number, string>; dropped: number[]; taken: () => number } {
  let taken = 0;
  const dropped: number[] = [];
  const queue = new IncomingQueue<number, string>({
    capacity: 3,
    onTaken: () => taken++,
    onDropped: (item) => dropped.push(item),
  }, (item) => `${item}`);
  return { queue, dropped, taken: () => taken };
}

/** Requests an item, and cancels the request. */
async function giveUp(stream: ReadableStream<string>): Promise<void> {
  const reader = stream.getReader();
  const read = assertRejects(() => reader.read(), TypeError);
  await turns(1);
  reader.releaseLock();
  await read;
}

for (const how of ["a loop", "a reader"]) {
  const readAll = async (stream: ReadableStream<string>): Promise<string[]> => {
    if (how === "a loop") return await Array.fromAsync(stream);
    const items: string[] = [];
    const reader = stream.getReader();
    for (let next; !(next = await reader.read()).done;) items.push(next.value);
    return items;
  };

  Deno.test(`IncomingQueue gives ${how} earlier and later items, and ends`, async () => {
    const { queue, dropped, taken } = make();
    for (const item of [1, 2, 3, 4]) queue.push(item);
    const reading = readAll(queue.readable);
    await Promise.resolve();
    queue.push(5);
    queue.end();
    queue.push(6);
    assertEquals(await reading, ["2", "3", "4", "5"]);
    assertEquals([dropped, taken()], [[1, 6], 4]);
  });

  Deno.test(`IncomingQueue gives ${how} items after a cancelled read`, async () => {
    const { queue, dropped, taken } = make();
    await giveUp(queue.readable);
    queue.push(1);
    queue.push(2);
    const reading = readAll(queue.readable);
    await Promise.resolve();
    queue.push(3);
    queue.end();
    assertEquals(await reading, ["1", "2", "3"]);
    assertEquals([dropped, taken()], [[], 3]);
  });

  Deno.test(`IncomingQueue gives ${how} items that arrive while it waits after a cancelled read`, async () => {
    const { queue, dropped, taken } = make();
    await giveUp(queue.readable);
    const reading = readAll(queue.readable);
    for (let item = 1; item <= 5; item++) {
      queue.push(item);
      await turns(1);
    }
    queue.end();
    assertEquals(await reading, ["1", "2", "3", "4", "5"]);
    assertEquals([dropped, taken()], [[], 5]);
  });

  Deno.test(`IncomingQueue gives ${how} the items that an earlier reader left in the stream`, async () => {
    const { queue } = make();
    await giveUp(queue.readable);
    const idle = queue.readable.getReader();
    queue.push(1);
    queue.push(2);
    idle.releaseLock();
    queue.push(3);
    const reading = readAll(queue.readable);
    await Promise.resolve();
    queue.push(4);
    queue.end();
    assertEquals(await reading, ["1", "2", "3", "4"]);
  });

  for (
    const order of ["before that reader left", "after that reader left", "after the next began"]
  ) {
    Deno.test(`IncomingQueue fails ${how} after a reader left an item in the stream, ${order}`, async () => {
      const { queue, dropped } = make();
      const error = new Error("broken");
      await giveUp(queue.readable);
      const idle = queue.readable.getReader();
      idle.closed.catch(() => {});
      queue.push(1);
      queue.push(2);
      if (order === "before that reader left") queue.fail(error);
      idle.releaseLock();
      if (order === "after that reader left") queue.fail(error);
      const reading = readAll(queue.readable);
      if (order === "after the next began") queue.fail(error);
      assertEquals(await assertRejects(() => reading, Error), error);
      assertEquals([dropped, queue.size], [[2], 0]);
    });
  }

  Deno.test(`IncomingQueue fails ${how} that waits, and one that starts later`, async () => {
    const error = new Error("broken");
    for (const isWaiting of [true, false]) {
      const { queue, dropped } = make();
      if (!isWaiting) queue.push(1);
      const reading = isWaiting ? readAll(queue.readable) : undefined;
      queue.fail(error);
      queue.end();
      const caught = await assertRejects(() => reading ?? readAll(queue.readable), Error);
      assertEquals(caught, error);
      assertEquals(dropped, isWaiting ? [] : [1]);
    }
  });
}

Deno.test("IncomingQueue serves several calls of a loop in order", async () => {
  const { queue } = make();
  const iterator = queue.readable.values();
  const results = [iterator.next(), iterator.next(), iterator.next()];
  queue.push(1);
  queue.push(2);
  queue.end();
  const values = (await Promise.all(results)).map(({ value }) => value);
  assertEquals(values, ["1", "2", undefined]);
});

Deno.test("IncomingQueue is locked while a loop runs, and cancelled when the loop exits", async () => {
  const { queue, dropped } = make();
  for (const item of [1, 2, 3]) queue.push(item);
  const { readable } = queue;
  for await (const item of readable) {
    assertEquals([item, readable.locked], ["1", true]);
    assertThrows(() => readable.getReader(), TypeError);
    break;
  }
  assertEquals([readable.locked, dropped], [false, [2, 3]]);
  assertEquals((await readable.getReader().read()).done, true);
});

Deno.test("IncomingQueue continues after a loop that prevents cancellation", async () => {
  const { queue } = make();
  for (const item of [1, 2]) queue.push(item);
  for await (const _ of queue.readable.values({ preventCancel: true })) break;
  queue.end();
  assertEquals(await Array.fromAsync(queue.readable), ["2"]);
});

Deno.test("takeOut() takes one item out of a queue, and leaves the others in order", async () => {
  const { queue, dropped } = make();
  for (const item of [1, 2, 3]) queue.push(item);
  assertEquals(takeOut(queue, (item) => item === 2), 2);
  assertEquals(takeOut(queue, (item) => item === 2), undefined);
  queue.end();
  assertEquals(await Array.fromAsync(queue.readable), ["1", "3"]);
  assertEquals(dropped, []);
});

Deno.test("IncomingQueue counts nothing as taken for a cancelled read", async () => {
  const { queue, taken } = make();
  await giveUp(queue.readable);
  queue.push(1);
  assertEquals([queue.takeHeld(), taken()], [[1], 0]);
  // The same holds for a busy loop.
  const loop = queue.readable.values();
  queue.push(2);
  assertEquals(taken(), 0);
  assertEquals([await loop.next(), taken()], [{ done: false, value: "2" }, 1]);
});

Deno.test("IncomingQueue.takeHeld() takes all held items, in order, and leaves later ones", async () => {
  const { queue, dropped } = make();
  assertEquals(queue.takeHeld(), []);
  for (const item of [1, 2, 3, 4]) queue.push(item);
  assertEquals(queue.takeHeld(), [2, 3, 4]);
  assertEquals(queue.takeHeld(), []);
  queue.push(5);
  queue.end();
  assertEquals(await Array.fromAsync(queue.readable), ["5"]);
  assertEquals(dropped, [1]);
});

Deno.test("IncomingQueue.size counts the items without a reader, including those that a reader left in the stream", async () => {
  const arrivals = new IncomingQueue<number>({ capacity: 8 });
  assertEquals(arrivals.size, 0);
  arrivals.push(1);
  arrivals.push(2);
  assertEquals(arrivals.size, 2);
  const reader = arrivals.readable.getReader();
  assertEquals([(await reader.read()).value, arrivals.size], [1, 1]);
  assertEquals([(await reader.read()).value, arrivals.size], [2, 0]);
  const givenUp = reader.read().catch(() => {});
  reader.releaseLock();
  await givenUp;
  const next = arrivals.readable.getReader();
  arrivals.push(3);
  assertEquals(arrivals.size, 1);
  assertEquals([(await next.read()).value, arrivals.size], [3, 0]);
  arrivals.fail(new Error("over"));
  assertEquals(arrivals.size, 0);
});

for (const how of ["ends", "fails", "ended before the first use"]) {
  Deno.test(`IncomingQueue is not kept alive by the stream of a queue that ${how}`, async () => {
    /** Creates a stream with a reader, and the queue as a weak reference. */
    const over = (): [ReadableStreamDefaultReader<number>, WeakRef<IncomingQueue<number>>] => {
      const queue = new IncomingQueue<number>({ capacity: 1 });
      if (how === "ended before the first use") queue.end();
      const reader = queue.readable.getReader();
      reader.closed.catch(() => {});
      if (how === "fails") queue.fail(new Error("over"));
      else queue.end();
      return [reader, new WeakRef(queue)];
    };
    const [reader, queue] = over();
    // A weak reference keeps its target alive until the end of the turn that created the reference.
    await turns(1);
    collectGarbage();
    assertEquals(queue.deref(), undefined);
    if (how === "fails") await assertRejects(() => reader.read(), Error, "over");
    else assertEquals((await reader.read()).done, true);
  });
}
