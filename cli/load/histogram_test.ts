import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { Histogram, MAX_US } from "./histogram.ts";

/** Pseudorandom numbers between 0 and 1, the same in each run. */
function* numbers(seed: number): Generator<number> {
  for (let state = seed;; state = state * 1_103_515_245 + 12_345 & 0x7fffffff) {
    yield state / 0x80000000;
  }
}

Deno.test("Histogram.quantileMs() is at most 0.8 % above the exact quantile, for all sizes", () => {
  const times = new Histogram();
  const exact: number[] = [];
  const random = numbers(7);
  for (let i = 0; i < 20_000; i++) {
    const us = Math.floor(2 ** (random.next().value! * 31));
    exact.push(us);
    times.add(us);
  }
  exact.sort((a, b) => a - b);
  for (const part of [0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1]) {
    const wanted = exact[Math.max(0, Math.ceil(part * exact.length) - 1)]! / 1_000;
    const got = times.quantileMs(part);
    assert(got >= wanted && got <= wanted * (1 + 1 / 128), `${part}: ${got} for ${wanted}`);
  }
});

Deno.test("Histogram.quantiles() are exact for minimum, maximum, mean and short times", () => {
  const times = new Histogram();
  for (const us of [1, 50, 127, 4_000_001]) times.add(us);
  const { count, min, mean, p50, max } = times.quantiles();
  assertEquals({ count, min, p50, max }, { count: 4, min: 0.001, p50: 0.05, max: 4_000.001 });
  assertAlmostEquals(mean, 1_000.045, 0.001);
});

Deno.test("Histogram.add() counts negative times as 0, and the longest as an hour and more", () => {
  const times = new Histogram();
  times.add(-5);
  times.add(1e12);
  assertEquals([times.quantileMs(0.5), times.quantileMs(1)], [0, MAX_US / 1_000]);
});

Deno.test("Histogram.merge() returns the quantiles of all times", () => {
  const [all, a, b] = [new Histogram(), new Histogram(), new Histogram()];
  for (let us = 1; us < 100_000; us += 37) {
    all.add(us);
    (us % 2 === 0 ? a : b).add(us);
  }
  const merged = new Histogram();
  merged.merge(structuredClone(a.toCells()));
  merged.merge(b.toCells());
  merged.merge(new Histogram().toCells());
  assertEquals(merged.quantiles(), all.quantiles());
});

Deno.test("Histogram.quantiles() are 0 without times, and after clear()", () => {
  const times = new Histogram();
  const none = times.quantiles();
  times.add(1_000);
  times.clear();
  assertEquals(times.quantiles(), none);
  assertEquals(Object.values(none), [0, 0, 0, 0, 0, 0, 0, 0]);
});
