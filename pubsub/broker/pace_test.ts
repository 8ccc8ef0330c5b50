import { assert, assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { Pace } from "./pace.ts";

/** Turns that the test ends. */
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

Deno.test("Pace delivers small batches immediately", () => {
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
    // Items added meanwhile wait after the held ones.
    if (counts.length === 2) pace.take(200, () => got.push(1_000));
  }
  assertEquals(got, Array.from({ length: 1_001 }, (_, i) => i));
  assert(counts.every((count, i) => count - (counts[i - 1] ?? 0) <= 128), `${counts}`);
  assertEquals(isScheduled(), false);
});

Deno.test("Pace keeps the order if a delivery adds more messages", () => {
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

Deno.test("Pace delivers each message once if a delivery adds more than its bound", () => {
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
