import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Arrivals } from "./_arrivals.ts";

/** A queue of three, and what happened to its items. */
function make(): { queue: Arrivals<number, string>; dropped: number[]; taken: () => number } {
  let taken = 0;
  const dropped: number[] = [];
  const queue = new Arrivals<number, string>({
    capacity: 3,
    onTaken: () => taken++,
    onDropped: (item) => dropped.push(item),
  }, (item) => `${item}`);
  return { queue, dropped, taken: () => taken };
}

for (const how of ["a loop", "a reader"]) {
  const readAll = async (stream: ReadableStream<string>): Promise<string[]> => {
    if (how === "a loop") return await Array.fromAsync(stream);
    const items: string[] = [];
    const reader = stream.getReader();
    for (let next; !(next = await reader.read()).done;) items.push(next.value);
    return items;
  };

  Deno.test(`Arrivals gives ${how} what came before and after, and ends`, async () => {
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

  Deno.test(`Arrivals fails ${how} that waits, and one that comes later`, async () => {
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

Deno.test("Arrivals answers several calls of a loop in their order", async () => {
  const { queue } = make();
  const iterator = queue.readable.values();
  const results = [iterator.next(), iterator.next(), iterator.next()];
  queue.push(1);
  queue.push(2);
  queue.end();
  const values = (await Promise.all(results)).map(({ value }) => value);
  assertEquals(values, ["1", "2", undefined]);
});

Deno.test("Arrivals is locked while a loop runs, and cancelled when it is left", async () => {
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

Deno.test("Arrivals goes on after a loop that prevents its cancel", async () => {
  const { queue } = make();
  for (const item of [1, 2]) queue.push(item);
  for await (const _ of queue.readable.values({ preventCancel: true })) break;
  queue.end();
  assertEquals(await Array.fromAsync(queue.readable), ["2"]);
});
