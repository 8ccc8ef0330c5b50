import { assert, assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { Fifo, Pace, WaitingBudget } from "./flow.ts";

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

/** Turns that end on demand. */
function makePace(): { pace: Pace; endTurn(): void; isScheduled(): boolean } {
  let ended: (() => void) | undefined;
  return {
    pace: new Pace(Object.assign(platformRuntime(), {
      schedule: (callback: () => void) => void (ended = callback),
    })),
    endTurn() {
      const callback = ended;
      ended = undefined;
      callback?.();
    },
    isScheduled: () => ended !== undefined,
  };
}

Deno.test("Pace delivers small batches at once", () => {
  const { pace, endTurn, isScheduled } = makePace();
  const got: number[] = [];
  for (let i = 0; i < 3; i++) pace.take(100, () => got.push(i));
  assertEquals(got, [0, 1, 2]);
  endTurn();
  assertEquals(isScheduled(), false);
});

Deno.test("Pace divides large batches into turns, in order", () => {
  const { pace, endTurn, isScheduled } = makePace();
  const got: number[] = [];
  for (let i = 0; i < 1_000; i++) pace.take(200, () => got.push(i));
  const counts: number[] = [];
  for (let last = -1; last < got.length; endTurn()) {
    last = got.length;
    counts.push(last);
    // Items of the meantime wait behind held ones.
    if (counts.length === 2) pace.take(200, () => got.push(1_000));
  }
  assertEquals(got, Array.from({ length: 1_001 }, (_, i) => i));
  assert(counts.every((count, i) => count - (counts[i - 1] ?? 0) <= 128), `${counts}`);
  assertEquals(isScheduled(), false);
});

Deno.test("Pace keeps its order where a delivery brings more", () => {
  const { pace, endTurn } = makePace();
  const got: number[] = [];
  pace.take(100_000, () => got.push(0));
  pace.take(100, () => {
    got.push(1);
    pace.take(100, () => got.push(3));
  });
  pace.take(100, () => got.push(2));
  for (let turn = 0; turn < 4; turn++) endTurn();
  assertEquals(got, [0, 1, 2, 3]);
});

Deno.test("Pace delivers items larger than a turn one by one", () => {
  const { pace, endTurn } = makePace();
  const got: number[] = [];
  for (let i = 0; i < 3; i++) pace.take(100_000, () => got.push(i));
  assertEquals(got, [0]);
  endTurn();
  assertEquals(got, [0, 1]);
  endTurn();
  assertEquals(got, [0, 1, 2]);
});

Deno.test("Pace holds no more than its bound, and loses nothing", () => {
  const { pace } = makePace();
  let got = 0;
  for (let i = 0; i < 200; i++) pace.take(1_000_000, () => got++);
  assert(got > 100, `${got}`);
});

Deno.test("Pace delivers each message once where a delivery brings more than its bound", () => {
  const { pace, endTurn } = makePace();
  const got: number[] = [];
  pace.take(100_000, () => got.push(0));
  pace.take(100, () => {
    got.push(1);
    for (let i = 3; i < 80; i++) pace.take(1_000_000, () => got.push(i));
  });
  pace.take(100, () => got.push(2));
  for (let turn = 0; turn < 80; turn++) endTurn();
  assertEquals(got, Array.from({ length: 80 }, (_, i) => i));
});
