import { assertEquals, assertThrows } from "@std/assert";
import { Accounts } from "../base/quotas/accounts.ts";
import { platformRuntime } from "../base/runtime.ts";
import { RequestError, type RequestFailure } from "../errors.ts";
import { RateLimits, type RateLimitsOptions } from "./rate_limits.ts";
import { MAX_COST_BUCKETS } from "./costs.ts";

/** The rates of a server, on a clock that the test moves. */
class Till {
  nowMs = 0;
  /** The keys of proxies for which a hint was due. */
  readonly hints: (string | undefined)[] = [];
  readonly accounts: Accounts;
  readonly rates: RateLimits;

  constructor(rates: RateLimitsOptions = {}) {
    const now = () => this.nowMs;
    const runtime = Object.assign(platformRuntime(), { now, monotonic: now });
    this.rates = new RateLimits(runtime, rates, { maxSessionsPerAddress: 1_000 });
    this.accounts = new Accounts(runtime, {
      isProxy: (key) => key.startsWith("10."),
      onProxy: (key) => this.hints.push(key),
    });
  }

  /** Charges the cost; returns the rejection. */
  charge(facts: Parameters<Accounts["of"]>[0], cost = 1): RequestFailure | undefined {
    try {
      this.rates.charge(this.accounts.of(facts), cost, "start");
      return undefined;
    } catch (error) {
      if (error instanceof RequestError) return error.failure;
      throw error;
    }
  }

  /** Charges 1 until a rejection; returns how often it was accepted, and the rejection. */
  spend(facts: (i: number) => Parameters<Accounts["of"]>[0]): [number, RequestFailure] {
    for (let i = 0;; i++) {
      const error = this.charge(facts(i));
      if (error !== undefined) return [i, error];
    }
  }
}

const HERE = "203.0.113.66";
const ELSEWHERE = "198.51.100.7";

for (const kind of ["user", "guest"] as const) {
  Deno.test(`RateLimits.charge() lets a ${kind} start 10, then one a second`, () => {
    const till = new Till();
    const [count, { level, code, retryAfterMs, message }] = till.spend(() => ({
      address: HERE,
      [kind]: "ann",
    }));
    assertEquals([count, level, code, retryAfterMs], [10, "user", "too-many", 1_000]);
    assertEquals(message, "Cannot start: your user may start work that costs at most 1 a second");
    till.nowMs = 999;
    assertEquals(till.charge({ address: HERE, [kind]: "ann" })?.retryAfterMs, 1);
    till.nowMs = 1_000;
    assertEquals(till.charge({ address: HERE, [kind]: "ann" }), undefined);
    assertEquals(till.charge({ address: HERE, [kind]: "bob" }), undefined);
    assertEquals(till.charge({ address: ELSEWHERE, [kind]: "ann" })?.level, "user");
  });
}

Deno.test("RateLimits.charge() lets the guests and new users of an address start 64, then 5 a second", () => {
  const till = new Till();
  const visitor = (i: number) => ({ address: HERE, [i % 2 ? "user" : "guest"]: `${i}` });
  const [count, { level, retryAfterMs }] = till.spend(visitor);
  assertEquals([count, level, retryAfterMs], [64, "address", 200]);
  assertEquals(till.charge({ address: ELSEWHERE, guest: "ann" }), undefined);
  till.nowMs = 1_000;
  assertEquals(till.spend((i) => visitor(i + 64))[0], 5);
});

Deno.test("RateLimits.charge() lets the familiar users of an address start 640, then 50 a second", () => {
  const till = new Till();
  const user = (i: number) => ({ address: HERE, user: `${i}` });
  for (let i = 0; i < 800; i++) till.accounts.of(user(i));
  till.nowMs = 3_600_000;
  const [count, { level }] = till.spend(user);
  assertEquals([count, level], [640, "address"]);
  till.nowMs += 1_000;
  assertEquals(till.spend((i) => user(i + 700))[0], 50);
  // Guests of the address have their own rate, and so has another address.
  assertEquals(till.charge({ address: HERE, guest: "ann" }), undefined);
  assertEquals(till.charge({ address: ELSEWHERE, user: "ann" }), undefined);
});

Deno.test("RateLimits.charge() limits an IPv6 /64, /56 and /48", () => {
  const till = new Till();
  const at = (network: (i: number) => string) =>
    till.spend((i) => ({ address: `2001:db8:1:${network(i)}::1`, guest: `${i} ${network(i)}` }))[0];
  assertEquals(at(() => "0"), 64);
  assertEquals(at((i) => (i % 200 + 1).toString(16)), 4 * 64 - 64);
  assertEquals(at((i) => (256 + i).toString(16)), 16 * 64 - 4 * 64);
  assertEquals(till.charge({ address: "2001:db8:2::1", guest: "ann" }), undefined);
});

Deno.test("RateLimits.charge() counts all private and unknown addresses as one network", () => {
  const till = new Till();
  const visitor = (i: number) => ({
    address: i % 2 ? undefined : `10.0.0.${i % 256}`,
    guest: `${i}`,
  });
  const [count, { level, message, retryAfterMs }] = till.spend(visitor);
  assertEquals([count, level, retryAfterMs], [640, "address", 20]);
  assertEquals(
    message,
    "Cannot start: all clients at private or unknown addresses may start work that costs at most 50 a second",
  );
  assertEquals(till.hints, ["10.0.0.128"]);
  assertEquals(till.charge({ guest: "ann" })?.level, "address");
  assertEquals(till.hints, ["10.0.0.128", undefined]);
  assertEquals(till.charge({ address: ELSEWHERE, guest: "ann" }), undefined);
  till.nowMs = 1_000;
  assertEquals(till.spend((i) => visitor(i + 700))[0], 50);
});

Deno.test("RateLimits.charge() applies the rate of an address that is set also to a private one", () => {
  const till = new Till({ perAddress: { cost: { perSecond: 1, burst: 3 } } });
  assertEquals(till.spend((i) => ({ address: "10.0.0.1", guest: `${i}` }))[0], 3);
  assertEquals(till.spend((i) => ({ address: "10.0.0.2", guest: `${i}` }))[0], 3);
  assertEquals(till.spend((i) => ({ guest: `${i}` }))[0], 30);
});

Deno.test("RateLimits.charge() counts nothing without rates, and nothing for a cost of 0", () => {
  const off = { cost: { perSecond: Infinity } };
  const without = new Till({ perUser: off, perAddress: off });
  const till = new Till();
  for (let i = 0; i < 1_000; i++) {
    assertEquals(without.charge({ address: HERE, guest: "ann" }), undefined);
    assertEquals(till.charge({ address: HERE, guest: "ann" }, 0), undefined);
  }
  assertEquals(till.rates.stats.remembered, 0);
});

Deno.test("RateLimits.charge() takes a cost above the burst from a full bucket, which then waits", () => {
  const till = new Till();
  assertEquals(till.charge({ address: HERE, user: "ann" }, 25), undefined);
  assertEquals(till.charge({ address: HERE, user: "ann" })?.retryAfterMs, 16_000);
});

Deno.test("RateLimits.charge() reports a proxy whose clients share a rate that was set", () => {
  const till = new Till({ perAddress: { cost: { perSecond: 1, burst: 2 } } });
  const visitor = (i: number) => ({ address: "10.0.0.1", user: `visitor ${i}` });
  const [count, { level }] = till.spend(visitor);
  assertEquals([count, level, till.hints], [2, "address", ["10.0.0.1"]]);
  till.spend(() => ({ address: HERE, guest: "ann" }));
  assertEquals(till.hints.length, 1);
});

Deno.test("RateLimits.charge() takes nothing from one rate if another rejects", () => {
  const till = new Till();
  till.spend(() => ({ address: HERE, guest: "ann" }));
  for (let i = 0; i < 100; i++) till.charge({ address: HERE, guest: "ann" });
  assertEquals(till.spend((i) => ({ address: HERE, guest: `other ${i}` }))[0], 54);
  assertEquals(till.rates.stats.rejected, { session: 0, user: 101, address: 1 });
});

Deno.test("RateLimits.charge() forgets buckets that are full again, and the idlest beyond the limit", () => {
  const till = new Till();
  const { charge } = till.rates;
  charge.call(till.rates, till.accounts.of({ address: HERE, guest: "ann" }), 1, "start");
  assertEquals(till.rates.stats.remembered, 2);
  till.nowMs = 1_000;
  till.charge({ address: ELSEWHERE, guest: "bob" });
  assertEquals(till.rates.stats.remembered, 2);
  for (let i = 0; i < MAX_COST_BUCKETS; i++) {
    till.charge({ address: `192.${i >> 16}.${i >> 8 & 255}.${i & 255}`, guest: `${i}` });
  }
  assertEquals(till.rates.stats.remembered, MAX_COST_BUCKETS);
});

Deno.test("RateLimits.charge() remembers who has spent lately, however many others come", () => {
  const till = new Till();
  const ann = { address: HERE, user: "ann" };
  const others = (network: number) => {
    for (let i = 0; i < MAX_COST_BUCKETS / 4 + 4; i++) {
      till.charge({ address: `192.${network}.${i >> 8}.${i & 255}`, guest: `${network} ${i}` });
    }
  };
  till.charge(ann, 5);
  others(0);
  till.charge(ann, 5);
  others(1);
  assertEquals(till.rates.stats.remembered, MAX_COST_BUCKETS);
  assertEquals(till.charge(ann)?.retryAfterMs, 1_000);
});

Deno.test("RateLimits.charge() loses at most the elapsed time after the clock was set back", () => {
  const till = new Till();
  till.nowMs = 10_000_000;
  till.spend(() => ({ address: HERE, guest: "ann" }));
  till.nowMs -= 3_600_000;
  assertEquals(till.charge({ address: HERE, guest: "ann" })?.retryAfterMs, 1_000);
  till.nowMs += 1_000;
  assertEquals(till.charge({ address: HERE, guest: "ann" }), undefined);
});

Deno.test("RateLimits rejects costs that are no rates", () => {
  for (const scope of ["perUser", "perAddress"] as const) {
    assertThrows(
      () => new Till({ [scope]: { cost: { perSecond: 0 } } }),
      RangeError,
      `Cannot create rate limits: ${scope}.cost.perSecond must be a number above 0, received 0`,
    );
  }
});
