import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkRate, TokenBucket } from "./token_bucket.ts";

/** Takes items one after another, and returns the number of accepted ones. */
function drain(bucket: TokenBucket, now: number): number {
  let count = 0;
  for (; bucket.waitMs(1, now) === 0; count++) bucket.take(1, now);
  return count;
}

Deno.test("TokenBucket allows its burst, and then its rate", () => {
  const bucket = new TokenBucket({ perSecond: 10, burst: 30 }, 1_000);
  assertEquals(drain(bucket, 1_000), 30);
  assertEquals(drain(bucket, 1_099), 0);
  assertEquals(drain(bucket, 1_100), 1);
  assertEquals(drain(bucket, 2_100), 10);
  assertEquals(drain(bucket, 1_000_000), 30, "No more than the burst is saved up");
});

Deno.test("TokenBucket.waitMs() returns exactly the time until there are enough tokens", () => {
  for (const perSecond of [0.1, 0.5, 3, 7, 1_000, 12_345]) {
    const bucket = new TokenBucket({ perSecond, burst: 1 }, 0);
    bucket.take(1, 0);
    const wait = bucket.waitMs(1, 0);
    assertEquals(wait, Math.ceil(1_000 / perSecond));
    if (wait > 1) assertEquals(bucket.waitMs(1, wait - 1) > 0, true, `${perSecond} too late`);
    assertEquals(bucket.waitMs(1, wait), 0, `${perSecond} too early`);
  }
});

Deno.test("TokenBucket holds its rate over any number of small steps", () => {
  const bucket = new TokenBucket({ perSecond: 7, burst: 3 }, 0);
  let count = 0;
  for (let now = 0; now <= 60_000; now += 13) count += drain(bucket, now);
  assert(count >= 421 && count <= 423, `7 a second in a minute, and a burst of 3: ${count}`);
});

Deno.test("TokenBucket allows an amount above its burst when it is full, and delays later ones", () => {
  const bucket = new TokenBucket({ perSecond: 100, burst: 1_000 }, 0);
  assertEquals(bucket.waitMs(5_000, 0), 0);
  bucket.take(5_000, 0);
  assertEquals(bucket.waitMs(1, 0), 40_010);
  assertEquals(bucket.waitMs(5_000, 49_999), 1);
  assertEquals(bucket.waitMs(5_000, 50_000), 0);
});

Deno.test("TokenBucket.isFull() is true again after the refill", () => {
  const bucket = new TokenBucket({ perSecond: 2, burst: 4 }, 0);
  assert(bucket.isFull(0));
  bucket.take(3, 0);
  assert(!bucket.isFull(1_499));
  assert(bucket.isFull(1_500));
});

Deno.test("TokenBucket continues when the clock is set back, and is at most full when it is set forward", () => {
  const bucket = new TokenBucket({ perSecond: 10, burst: 5 }, 1_000_000);
  assertEquals(drain(bucket, 1_000_000), 5);
  assertEquals(drain(bucket, 0), 0);
  assertEquals(drain(bucket, 100), 1);
  assertEquals(drain(bucket, 10_000_000), 5);
});

Deno.test("checkRate() fills in the burst, accepts Infinity as no limit, and rejects invalid rates", () => {
  assertEquals(checkRate(undefined, "a"), undefined);
  assertEquals(checkRate({ perSecond: 20 }, "a"), { perSecond: 20, burst: 20 });
  assertEquals(checkRate({ perSecond: 0.1 }, "a"), { perSecond: 0.1, burst: 1 });
  assertEquals(checkRate({ perSecond: Infinity }, "a"), undefined);
  assertEquals(checkRate({ perSecond: 5, burst: Infinity }, "a"), undefined);
  for (const perSecond of [0, -1, NaN, "5" as never, undefined as never]) {
    const rule = "Cannot create rate limits: a.perSecond must be a number above 0, received";
    assertThrows(() => checkRate({ perSecond }, "a"), RangeError, rule);
  }
  for (const burst of [0, 0.5, -1, NaN, "5" as never]) {
    const rule = "Cannot create rate limits: a.burst must be 1 or more, received";
    assertThrows(() => checkRate({ perSecond: 1, burst }, "a"), RangeError, rule);
  }
});
