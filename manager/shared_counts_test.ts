import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../base/runtime.ts";
import { passTime } from "../tests/waiting.ts";
import {
  BrokerCounts,
  SharedBucket,
  type SharedCount,
  type SharedCounts,
} from "./shared_counts.ts";
import { type Rate, TokenBucket } from "../base/quotas/token_bucket.ts";

const RATE = { perSecond: 10, burst: 100 };

/** A broker in memory, which can be unreachable, hang, or be slow. */
class FakeCounts implements SharedCounts {
  readonly asked: number[] = [];
  readonly #buckets = new Map<string, TokenBucket>();
  delayMs = 5;
  state: "there" | "away" | "hanging" = "there";

  async take(key: string, amount: number, rate: Required<Rate>): Promise<SharedCount> {
    this.asked.push(amount);
    if (this.state === "away") throw new Error("The broker is unreachable");
    if (this.state === "hanging") return await new Promise(() => {});
    await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    const now = Date.now();
    const bucket = this.#buckets.get(key) ?? new TokenBucket(rate, now);
    this.#buckets.set(key, bucket);
    const retryAfterMs = bucket.waitMs(amount, now);
    if (retryAfterMs === 0) bucket.take(amount, now);
    return { granted: retryAfterMs === 0, retryAfterMs };
  }
}

function nodeOf(counts: SharedCounts): { broker: BrokerCounts; bucket: SharedBucket } {
  const broker = new BrokerCounts(platformRuntime(), counts);
  return { broker, bucket: new SharedBucket(broker, "rate:user:messages:ann", RATE, Date.now()) };
}

/** Sends as many as pass, up to a number. */
function send(bucket: SharedBucket, count: number): number {
  for (let sent = 0; sent < count; sent++) {
    if (bucket.waitMs(1, Date.now()) > 0) return sent;
    bucket.take(1, Date.now());
  }
  return count;
}

Deno.test("SharedBucket allows a burst without waiting, and settles it in few requests", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const { broker, bucket } = nodeOf(counts);
  using _broker = broker;
  assertEquals(send(bucket, 1_000), 100);
  await passTime(time, 100);
  assertEquals(counts.asked, [10, 90], "One request at a time, for everything owed");
  assertEquals(send(bucket, 1_000), 1);
  await passTime(time, 100);
  assertEquals(counts.asked.length, 2, "Too little to request");
});

Deno.test("SharedBucket holds the rate on two nodes together, except for one burst", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const nodes = [nodeOf(counts), nodeOf(counts)];
  using _brokers = brokers(nodes);
  let sent = 0;
  for (let ms = 0; ms < 30_000; ms += 50) {
    for (const { bucket } of nodes) sent += send(bucket, 1);
    await time.tickAsync(50);
  }
  // 10 a second, a burst of 100, and at most one burst more for each node.
  assert(sent >= 300 && sent <= 600, `${sent} in half a minute`);
  assert(counts.asked.length < 200, `${counts.asked.length} questions`);
});

Deno.test("SharedBucket holds the rate on two nodes that are flooded", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const nodes = [nodeOf(counts), nodeOf(counts)];
  using _brokers = brokers(nodes);
  let sent = 0;
  for (let ms = 0; ms < 30_000; ms += 50) {
    for (const { bucket } of nodes) sent += send(bucket, 1_000);
    await time.tickAsync(50);
  }
  assert(sent >= 300 && sent <= 600, `${sent} in half a minute`);
});

Deno.test("SharedBucket says when to retry, once another node has used up the tokens", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const [ann, bob] = [nodeOf(counts), nodeOf(counts)];
  using _brokers = brokers([ann, bob]);
  for (let i = 0; i < 10; i++) {
    send(ann.bucket, 10);
    await passTime(time, 10);
  }
  assertEquals(send(bob.bucket, 10), 10, "It does not know yet");
  await passTime(time, 10);
  const wait = bob.bucket.waitMs(1, Date.now());
  assert(wait > 800 && wait <= 1_000, `${wait} ms until 10 tokens came back`);
  assertEquals(send(bob.bucket, 10), 0);
  await passTime(time, wait + 2 * counts.delayMs);
  assertEquals(send(bob.bucket, 1), 1);
});

Deno.test("SharedBucket counts alone while the broker is unreachable, and with it afterwards", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const { broker, bucket } = nodeOf(counts);
  using _broker = broker;
  counts.state = "away";
  assertEquals(send(bucket, 1_000), 100);
  await passTime(time, 0);
  assertEquals([broker.failures, broker.isAway(Date.now())], [1, true]);
  await passTime(time, 900);
  assertEquals(send(bucket, 1_000), 9, "Its own rate still holds");
  assertEquals(counts.asked.length, 1, "It is not called in vain");
  counts.state = "there";
  await passTime(time, 5_000);
  assertEquals(send(bucket, 20), 20);
  await passTime(time, 100);
  assertEquals([counts.asked, broker.isAway(Date.now())], [[10, 10, 10], false]);
});

Deno.test("SharedBucket counts alone when the broker does not respond in time", async () => {
  using time = new FakeTime();
  const counts = new FakeCounts();
  const { broker, bucket } = nodeOf(counts);
  using _broker = broker;
  counts.state = "hanging";
  assertEquals(send(bucket, 50), 50);
  await passTime(time, 499);
  assertEquals(broker.failures, 0);
  await passTime(time, 1);
  assertEquals([broker.failures, broker.isAway(Date.now())], [1, true]);
  assertEquals(send(bucket, 1_000), 55);
});

Deno.test("SharedBucket calls the broker again soon, and says when to retry, if the clock is set back", async () => {
  using time = new FakeTime(3_600_000);
  const counts = new FakeCounts();
  const { broker, bucket } = nodeOf(counts);
  using _broker = broker;
  counts.state = "away";
  send(bucket, 20);
  await passTime(time, 100);
  assert(broker.isAway(Date.now()));
  counts.state = "there";
  assertEquals(broker.isAway(Date.now() - 3_600_000), false);
  // Another node uses up the tokens.
  const other = nodeOf(counts);
  using _other = other.broker;
  await passTime(time, 2_000);
  send(other.bucket, 100);
  await passTime(time, 100);
  send(bucket, 100);
  await passTime(time, 100);
  const waitMs = bucket.waitMs(1, Date.now());
  assert(waitMs > 100, `${waitMs} ms`);
  const later = bucket.waitMs(1, Date.now() - 3_600_000);
  assert(later > 0 && later <= 10_000, `${later} ms`);
});

Deno.test("SharedBucket is not forgotten while it owes counts to the broker", async () => {
  using time = new FakeTime();
  const { broker, bucket } = nodeOf(new FakeCounts());
  using _broker = broker;
  assert(bucket.isFull(Date.now()));
  send(bucket, 5);
  await passTime(time, 9_999);
  assert(!bucket.isFull(Date.now()));
  await passTime(time, 1);
  assert(bucket.isFull(Date.now()), "An empty bucket would be full again by now");
});

Deno.test("SharedBucket pauses between requests when the reply has no wait time", async () => {
  for (const retryAfterMs of [NaN, undefined, -1, Infinity]) {
    using time = new FakeTime();
    let asked = 0;
    using broker = new BrokerCounts(platformRuntime(), {
      take() {
        asked++;
        return Promise.resolve({ granted: false, retryAfterMs } as SharedCount);
      },
    });
    const bucket = new SharedBucket(broker, "rate:user:messages:ann", RATE, Date.now());
    send(bucket, 10);
    await passTime(time, 1_000);
    assert(asked >= 1 && asked <= 21, `${asked} requests in a second after ${retryAfterMs}`);
    assertEquals(Number.isFinite(bucket.waitMs(1, Date.now())), true, `${retryAfterMs}`);
  }
});

Deno.test("Broker leaves no timer running when it is disposed of during a request", async () => {
  const counts = new FakeCounts();
  counts.state = "hanging";
  const broker = new BrokerCounts(platformRuntime(), counts);
  const reply = broker.take("a", 1, RATE);
  broker[Symbol.dispose]();
  assertEquals(await reply, undefined);
  assertEquals([broker.failures, broker.isAway(Date.now())], [0, true]);
});

function brokers(nodes: readonly { readonly broker: BrokerCounts }[]): DisposableStack {
  const stack = new DisposableStack();
  for (const { broker } of nodes) stack.use(broker);
  return stack;
}
