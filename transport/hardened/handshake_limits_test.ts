import { assert, assertEquals } from "@std/assert";
import { HandshakeLimits, type HandshakeLimitsOptions } from "./handshake_limits.ts";

const keep = { destroy() {} };

function limitsOf(options: Partial<HandshakeLimitsOptions> = {}): HandshakeLimits {
  return new HandshakeLimits({
    handshakesPerSecond: 1,
    handshakeBurst: 100,
    maxPendingPerAddress: 100,
    maxPending: 100,
    maxConnectionsPerAddress: 100,
    maxConnections: 100,
    maxIdleAddresses: 100,
    ...options,
  });
}

Deno.test("HandshakeLimits.admit() says when an address that opens too many connections may open another", () => {
  const limits = limitsOf({ handshakesPerSecond: 0.5, handshakeBurst: 2 });
  const waits = (address: string, now: number) => limits.admit(address, now, keep)?.retryAfterS;
  assertEquals([waits("192.0.2.1", 0), waits("192.0.2.1", 0), waits("192.0.2.1", 0)], [0, 0, 2]);
  assertEquals(waits("192.0.2.2", 0), 0);
  assertEquals(waits("192.0.2.1", 1_000), 1);
  assertEquals(waits("192.0.2.1", 2_000), 0);
  assertEquals(limits.stats.tooFrequent, 2);
});

Deno.test("HandshakeLimits.admit() does not fill a bucket beyond its burst, or when the clock is set back", () => {
  const limits = limitsOf({ handshakeBurst: 1 });
  limits.admit("192.0.2.1", 10_000, keep);
  assertEquals(limits.admit("192.0.2.1", 5_000, keep)?.retryAfterS, 1);
  assertEquals(limits.admit("192.0.2.1", 99_000, keep)?.retryAfterS, 0);
  assertEquals(limits.admit("192.0.2.1", 99_000, keep)?.retryAfterS, 1);
});

Deno.test("HandshakeLimits.admit() has no rate limit if the burst is infinite", () => {
  const limits = limitsOf({ handshakeBurst: Infinity });
  for (let i = 0; i < 50; i++) assertEquals(limits.admit("192.0.2.1", 0, keep)?.retryAfterS, 0);
});

Deno.test("HandshakeLimits.admit() counts an IPv6 /64 as one address", () => {
  const limits = limitsOf({ maxPendingPerAddress: 1 });
  assert(limits.admit("2001:db8::1", 0, keep));
  assertEquals(limits.admit("2001:db8::2", 0, keep), undefined);
  assert(limits.admit("2001:db8:0:1::1", 0, keep));
  assert(limits.admit("::ffff:192.0.2.1", 0, keep));
  assertEquals(limits.admit("192.0.2.1", 0, keep), undefined);
});

Deno.test("HandshakeLimits.admit() limits connections without a request, by address and in total", () => {
  const limits = limitsOf({ maxPendingPerAddress: 2, maxPending: 3 });
  const first = limits.admit("192.0.2.1", 0, keep)!;
  assert(limits.admit("192.0.2.1", 0, keep));
  assertEquals(limits.admit("192.0.2.1", 0, keep), undefined);
  assert(limits.admit("192.0.2.2", 0, keep));
  first.requested();
  first.requested();
  assertEquals([limits.stats.pending, limits.stats.connections], [2, 3]);
  assert(limits.admit("192.0.2.1", 0, keep));
  assertEquals([limits.stats.pending, limits.stats.tooManyPending], [3, 1]);
});

Deno.test("HandshakeLimits.admit() drops the longest waiting connection if too many have no request", () => {
  const limits = limitsOf({ maxPendingPerAddress: 2, maxPending: 4 });
  const dropped: string[] = [];
  const admit = (address: string) =>
    limits.admit(address, 0, { destroy: () => void dropped.push(address) });
  const asked = admit("192.0.2.1")!;
  asked.requested();
  // A few addresses hold all pending slots and send no request.
  for (const host of [2, 2, 3, 3]) admit(`192.0.2.${host}`);
  assert(admit("192.0.2.4"));
  assert(admit("192.0.2.5"));
  assertEquals(dropped, ["192.0.2.2", "192.0.2.2"]);
  const { pending, connections, tooManyPending, addresses } = limits.stats;
  assertEquals({ pending, connections, tooManyPending, addresses }, {
    pending: 4,
    connections: 5,
    tooManyPending: 2,
    addresses: 5,
  });
});

Deno.test("HandshakeLimits.admit() limits connections, by address and in total", () => {
  const limits = limitsOf({
    maxConnectionsPerAddress: 1,
    maxConnections: 2,
    maxPendingPerAddress: 1,
    maxPending: 1,
  });
  const admit = (address: string) => {
    const admitted = limits.admit(address, 0, keep);
    admitted?.requested();
    return admitted;
  };
  const first = admit("192.0.2.1")!;
  assert(admit("192.0.2.1"));
  assertEquals(admit("192.0.2.1"), undefined);
  assert(admit("192.0.2.2"));
  assertEquals(admit("192.0.2.3"), undefined);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assertEquals(limits.stats.connections, 2);
  assert(admit("192.0.2.1"));
  assertEquals(limits.stats.tooMany, 2);
});

Deno.test("HandshakeLimits.admit() limits an address to its default share only after half is in use", () => {
  const open = { maxPendingPerAddress: undefined, maxConnectionsPerAddress: undefined };
  const limits = limitsOf({ ...open, maxPending: 1_000, maxConnections: 10_000 });
  const fill = (address: string) => {
    for (let count = 0;; count++) if (!limits.admit(address, 0, keep)) return count;
  };
  assertEquals([fill("192.0.2.1"), fill("192.0.2.2"), fill("192.0.2.2")], [500, 200, 0]);
  const { tooManyPending, tooMany } = limits.stats;
  assertEquals([tooManyPending, tooMany], [3, 0]);
  // A proxy's address is not limited to a share. Above the total limit, its connections drop the
  // oldest ones.
  for (let i = 0; i < 400; i++) assert(limits.admit("10.0.0.1", 0, keep));
  assertEquals([limits.stats.pending, limits.stats.tooManyPending], [1_000, 103]);
});

Deno.test("HandshakeLimits.admit() admits a request above the default share of an address, to reject it", () => {
  const limits = limitsOf({
    handshakeBurst: Infinity,
    maxConnections: 4_000,
    maxConnectionsPerAddress: undefined,
    maxPendingPerAddress: 1,
  });
  const open = (address: string, count: number) => {
    for (let i = 0; i < count; i++) limits.admit(address, 0, keep)!.requested();
  };
  for (const address of ["192.0.2.1", "192.0.2.2", "192.0.2.3"]) open(address, 700);
  open("192.0.2.4", 1_000);
  assert(limits.admit("192.0.2.4", 0, keep));
  assertEquals(limits.admit("192.0.2.4", 0, keep), undefined);
});

Deno.test("HandshakeLimits.admit() drops no connection in favor of an address that uses its whole share", () => {
  const limits = limitsOf({ maxPending: 2, maxPendingPerAddress: 1 });
  const dropped: string[] = [];
  const admit = (address: string) =>
    limits.admit(address, 0, { destroy: () => void dropped.push(address) });
  assert(admit("192.0.2.1"));
  assert(admit("192.0.2.2"));
  assertEquals([admit("192.0.2.2"), dropped], [undefined, []]);
});

Deno.test("HandshakeLimits forgets an address with all its tokens, and the oldest of too many", () => {
  const limits = limitsOf({ handshakeBurst: 2, maxIdleAddresses: 3 });
  const visit = (address: string, now: number) =>
    limits.admit(address, now, keep)![Symbol.dispose]();
  for (let i = 1; i <= 5; i++) visit(`192.0.2.${i}`, 0);
  assertEquals(limits.stats.addresses, 3);
  // The second address was forgotten and has all its tokens; the fifth has only one.
  assertEquals(limits.admit("192.0.2.5", 0, keep)?.retryAfterS, 0);
  assertEquals(limits.admit("192.0.2.5", 0, keep)?.retryAfterS, 1);
  visit("192.0.2.9", 5_000);
  assertEquals(limits.stats.addresses, 1);
});

Deno.test("HandshakeLimits keeps no state of an address that is rejected immediately", () => {
  const limits = limitsOf({ maxPending: 1, maxConnections: 1 });
  for (let i = 0; i < 2; i++) limits.admit("192.0.2.1", 0, keep)!.requested();
  for (let i = 2; i < 50; i++) assertEquals(limits.admit(`192.0.2.${i}`, 0, keep), undefined);
  assertEquals(limits.stats.addresses, 1);
});
