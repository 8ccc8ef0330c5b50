import { assert, assertEquals, assertThrows } from "@std/assert";
import { Backoff } from "./backoff.ts";
import { platformRuntime } from "./runtime.ts";
import { drawing } from "../tests/sessions.ts";

Deno.test("Backoff.next() doubles up to the cap, and draws between zero and that delay", () => {
  for (const [draw, share] of [[0, 0], [0.5, 0.5], [1 - Number.EPSILON, 1]] as const) {
    const backoff = new Backoff(drawing(draw), { firstDelayMs: 100, maxDelayMs: 500 });
    const delays = Array.from({ length: 5 }, () => Math.round(backoff.next()!));
    assertEquals(delays, [100, 200, 400, 500, 500].map((whole) => whole * share));
  }
});

Deno.test("Backoff.next() starts at 500 ms and stops at 30 s by default", () => {
  const backoff = new Backoff(drawing(0.5));
  assertEquals(backoff.next(), 250);
  for (let i = 0; i < 20; i++) backoff.next();
  assertEquals(backoff.next(), 15_000);
});

Deno.test("Backoff.next() returns undefined after maxAttempts, until reset", () => {
  const backoff = new Backoff(drawing(0.5), { maxAttempts: 2 });
  assertEquals([backoff.next(), backoff.next(), backoff.next()], [250, 500, undefined]);
  assertEquals(backoff.attempt, 2);
  backoff.reset();
  assertEquals(backoff.attempt, 0);
  assertEquals(backoff.next(), 250);
});

Deno.test("Backoff.next() stays finite after very many attempts", () => {
  const backoff = new Backoff(drawing(0.5), { maxDelayMs: Number.MAX_VALUE });
  for (let i = 0; i < 2_000; i++) assert(Number.isFinite(backoff.next()));
});

Deno.test("Backoff.next() draws within the bounds from the runtime's randomness", () => {
  const backoff = new Backoff(platformRuntime(), { firstDelayMs: 100, maxDelayMs: 100 });
  const delays = Array.from({ length: 200 }, () => backoff.next()!);
  assert(delays.every((delay) => delay >= 0 && delay < 100));
  assert(delays.some((delay) => delay < 50));
});

Deno.test("Backoff() rejects options that are not positive", () => {
  for (const name of ["firstDelayMs", "maxDelayMs", "maxAttempts"]) {
    for (const value of [0, -1, NaN]) {
      assertThrows(
        () => new Backoff(platformRuntime(), { [name]: value }),
        RangeError,
        `${name} must be positive`,
      );
    }
  }
});
