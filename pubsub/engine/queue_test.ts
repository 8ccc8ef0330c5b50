import { assertEquals } from "@std/assert";
import { Fifo, WaitingBudget } from "./queue.ts";

Deno.test("Fifo returns items in order, for any way of filling", () => {
  const queue = new Fifo<number>();
  const expected: number[] = [];
  const taken: (number | undefined)[] = [];
  for (let i = 1; i <= 1_000; i++) {
    queue.push(i);
    expected.push(i);
    if (i % 3 === 0) taken.push(queue.shift());
    assertEquals([queue.length, queue.first], [expected.length - taken.length, taken.length + 1]);
  }
  while (queue.length > 0) taken.push(queue.shift());
  assertEquals(taken, expected);
  assertEquals([queue.shift(), queue.first], [undefined, undefined]);
});

Deno.test("Fifo takes items in front of all others", () => {
  const queue = new Fifo<number>();
  for (const item of [1, 2, 3, 4]) queue.push(item);
  queue.shift();
  queue.unshift([8, 9]);
  assertEquals([queue.length, queue.clear(), queue.length], [5, [8, 9, 2, 3, 4], 0]);
});

Deno.test("WaitingBudget has room up to a number, and up to a number of bytes", () => {
  const budget = new WaitingBudget({ maxWaiting: 2, maxWaitingBytes: 10 });
  assertEquals([budget.take(5), budget.take(6), budget.take(5), budget.take(0)], [
    true,
    false,
    true,
    false,
  ]);
  assertEquals(budget.messages, 2);
  budget.give(5);
  assertEquals([budget.take(6), budget.take(4), budget.messages], [false, true, 2]);
});
