import { assert, assertEquals, assertThrows } from "@std/assert";
import { platformRuntime } from "../base/runtime.ts";
import { LimitError } from "../errors.ts";
import type { Sockets } from "./sockets.ts";
import { Quotas, type Slot } from "../base/quotas/shares.ts";
import { type ManagerLimits, type Reservation, SessionLimiter } from "./limits.ts";
import type { CountedPeer } from "./rate_limits.ts";

const NOBODY: CountedPeer = { user: undefined, address: undefined };

function user(name: string): CountedPeer {
  return { user: name, address: undefined };
}

function address(key: string): CountedPeer {
  return { user: undefined, address: key };
}

/** Creates a limiter, and a count of its sessions and of their users and addresses. */
function limiterOf(limits: ManagerLimits = {}) {
  const runtime = platformRuntime();
  const quotas = new Quotas(runtime);
  const limiter = new SessionLimiter(runtime, limits, {}, { quotas });
  return {
    limiter,
    counts: () => [limiter.reserved, limiter.sessions.taken, limiter.sessions.accounts],
  };
}

/** Counts how many of `count` attempts succeed. */
function attempts(count: number, attempt: () => unknown): number {
  let taken = 0;
  for (let i = 0; i < count; i++) {
    try {
      attempt();
      taken++;
    } catch (error) {
      assert(error instanceof LimitError);
    }
  }
  return taken;
}

Deno.test("SessionLimiter() accepts Infinity if another limit bounds the memory", () => {
  new SessionLimiter(platformRuntime(), {
    maxSessionsPerUser: Infinity,
    maxSessionsPerAddress: Infinity,
  });
});

Deno.test("SessionLimiter.reserve() admits as many handshakes as there is room for", () => {
  const cases: [ManagerLimits, CountedPeer, number][] = [
    [{}, NOBODY, 10_000],
    [{}, user("ann"), 5_000],
    [{}, address("192.0.2.1"), 5_000],
    [{ maxSessions: 7 }, NOBODY, 7],
    [{ maxSessionsPerUser: 7 }, user("ann"), 7],
    [{ maxSessionsPerAddress: 7 }, address("192.0.2.1"), 7],
  ];
  for (const [limits, claim, expected] of cases) {
    const limiter = new SessionLimiter(platformRuntime(), limits);
    assertEquals(attempts(11_000, () => limiter.reserve(claim)), expected);
    assertEquals(limiter.reserved, expected);
  }
});

Deno.test("SessionLimiter.reserve() applies default shares only once half of the bound is in use", () => {
  for (const [claim, share] of [[user("ann"), 100], [address("192.0.2.1"), 1_000]] as const) {
    const limiter = new SessionLimiter(platformRuntime(), {});
    assertEquals(attempts(4_999, () => limiter.reserve(NOBODY)), 4_999);
    assertEquals(attempts(5_000, () => limiter.reserve(claim)), share);
    assertEquals(attempts(10_000, () => limiter.reserve(NOBODY)), 5_001 - share);
  }
});

Deno.test("Sockets.take() applies the default share of an address only once half of the bound is in use", () => {
  const { sockets } = new SessionLimiter(platformRuntime(), { maxSessions: 2_000 });
  const strict = new SessionLimiter(platformRuntime(), { maxSessionsPerAddress: 7 }).sockets;
  const { accounts } = new Quotas(platformRuntime());
  const take = (from: Sockets, key: string) =>
    attempts(5_000, () => from.take(accounts.of({ address: key }), false));
  assertEquals([take(sockets, "192.0.2.1"), take(sockets, "192.0.2.2")], [2_000, 2_000]);
  assertEquals([take(strict, "192.0.2.1"), take(strict, "192.0.2.1")], [14, 0]);
});

Deno.test("SessionLimiter.reserve() names the limit that was reached, and neither user nor address", () => {
  const cases: [ManagerLimits, CountedPeer, string, string][] = [
    [{ maxSessions: 1 }, user("ann"), "maxSessions", "this server"],
    [{ maxSessionsPerUser: 1 }, user("ann"), "maxSessionsPerUser", "your user"],
    [{ maxSessionsPerAddress: 1 }, address("192.0.2.1"), "maxSessionsPerAddress", "your address"],
  ];
  for (const [limits, peer, limit, account] of cases) {
    const limiter = new SessionLimiter(platformRuntime(), limits);
    limiter.reserve(peer);
    const error = assertThrows(() => limiter.reserve(peer), LimitError);
    assertEquals(error.limit, limit);
    assertEquals(
      error.message,
      `Cannot admit session: ${account} may have at most 1 sessions at once`,
    );
    assertEquals(limiter.rejected[limit as keyof ManagerLimits], 1);
  }
});

Deno.test("SessionLimiter.reserve() counts users and addresses separately", () => {
  const { limiter, counts } = limiterOf({ maxSessionsPerUser: 1, maxSessionsPerAddress: 1 });
  limiter.reserve({ user: "ann", address: "192.0.2.1" });
  limiter.reserve({ user: "192.0.2.1", address: "ann" });
  limiter.reserve(NOBODY);
  limiter.reserve(NOBODY);
  assertEquals(counts(), [4, 4, 4]);
});

Deno.test("SessionLimiter.reserve() counts an IPv6 /64 as one, and a /56 four times", () => {
  const { limiter } = limiterOf({ maxSessionsPerAddress: 2 });
  const takes = (subnet: number) =>
    attempts(5, () => limiter.reserve(address(`2001:db8:1:${subnet.toString(16)}::${subnet}`)));
  assertEquals(Array.from({ length: 6 }, (_, subnet) => takes(subnet)), [2, 2, 2, 2, 0, 0]);
});

Deno.test("SessionLimiter.reserve() uses no slot when it throws", () => {
  const { limiter, counts } = limiterOf({ maxSessionsPerAddress: 1 });
  limiter.reserve(address("192.0.2.1"));
  for (let i = 0; i < 3; i++) {
    assertThrows(() => limiter.reserve({ user: "ann", address: "192.0.2.1" }), LimitError);
  }
  assertEquals(counts(), [1, 1, 1]);
});

Deno.test("Reservation releases its slot once", () => {
  const { limiter, counts } = limiterOf({ maxSessions: 1 });
  const reservation = limiter.reserve(user("ann"));
  assertEquals(reservation.isHeld, true);
  reservation[Symbol.dispose]();
  reservation[Symbol.dispose]();
  assertEquals(reservation.isHeld, false);
  assertEquals(counts(), [0, 0, 0]);
  assertEquals(attempts(3, () => limiter.reserve(NOBODY)), 1);
});

Deno.test("SessionLimiter.redeem() turns a reservation into a session even if all slots are in use", () => {
  const { limiter, counts } = limiterOf({ maxSessions: 1, maxSessionsPerUser: 1 });
  const reservation = limiter.reserve(user("ann"));
  const slot = limiter.redeem(reservation, user("ann"));
  assertEquals([reservation.isHeld, ...counts()], [false, 0, 1, 1]);
  reservation[Symbol.dispose]();
  assertThrows(() => limiter.take(NOBODY), LimitError);
  slot[Symbol.dispose]();
  assertEquals(counts(), [0, 0, 0]);
  limiter.take(NOBODY);
});

Deno.test("SessionLimiter.redeem() counts a user that became known later", () => {
  const { limiter, counts } = limiterOf({ maxSessionsPerUser: 1 });
  const slot = limiter.redeem(limiter.reserve(address("192.0.2.1")), user("ann"));
  assertEquals(counts(), [0, 1, 2]);

  const second = limiter.reserve(address("192.0.2.1"));
  const error = assertThrows(() => limiter.redeem(second, user("ann")), LimitError);
  assertEquals(error.limit, "maxSessionsPerUser");
  assertEquals(second.isHeld, true);
  second[Symbol.dispose]();
  slot[Symbol.dispose]();
  assertEquals(counts(), [0, 0, 0]);
});

Deno.test("SessionLimiter.redeem() releases a reservation for another user", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessionsPerUser: 1 });
  limiter.redeem(limiter.reserve(user("guest")), user("ann"));
  limiter.reserve(user("guest"));
  assertThrows(() => limiter.reserve(user("ann")), LimitError);
});

Deno.test("SessionLimiter.redeem() rejects a reservation that is not held here", () => {
  const limiter = new SessionLimiter(platformRuntime());
  const used = limiter.reserve(NOBODY);
  limiter.redeem(used, NOBODY);
  const disposed = limiter.reserve(NOBODY);
  disposed[Symbol.dispose]();
  const foreign = new SessionLimiter(platformRuntime()).reserve(NOBODY);
  for (const reservation of [used, disposed, foreign]) {
    assertThrows(
      () => limiter.redeem(reservation, NOBODY),
      TypeError,
      "Cannot add session: this manager does not hold the reservation",
    );
  }
});

Deno.test("SessionLimiter.rejectAll() rejects sessions and reservations, including held ones", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessions: 1 });
  const reservation = limiter.reserve(NOBODY);
  limiter.rejectAll();
  assertEquals(limiter.isDraining, true);
  for (
    const attempt of [
      () => limiter.take(NOBODY),
      () => limiter.reserve(NOBODY),
      () => limiter.redeem(reservation, NOBODY),
    ]
  ) {
    const error = assertThrows(attempt, LimitError, "session: the server is draining");
    assertEquals(error.limit, "draining");
  }
  assertEquals(limiter.rejected, {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 3,
  });
});

Deno.test("SessionLimiter is exact after any order of operations", () => {
  const limits = { maxSessions: 40, maxSessionsPerUser: 6, maxSessionsPerAddress: 9 };
  const { limiter, counts } = limiterOf(limits);
  let state = 7;
  const random = (below: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor(state / 65_536) % below;
  };
  const held: [Reservation, CountedPeer][] = [];
  const sessions: [Slot, CountedPeer][] = [];
  const pick = <T>(from: T[]): T | undefined => from.splice(random(from.length || 1), 1)[0];
  for (let step = 0; step < 20_000; step++) {
    const who: CountedPeer = {
      user: random(4) === 0 ? undefined : `user${random(8)}`,
      address: random(4) === 0 ? undefined : `address${random(5)}`,
    };
    attempts(1, () => {
      switch (random(5)) {
        case 0:
          return sessions.push([limiter.take(who), who]);
        case 1:
          return held.push([limiter.reserve(who), who]);
        case 2: {
          const slot = pick(held);
          if (slot === undefined) return;
          const final = { ...who, address: slot[1].address };
          try {
            return sessions.push([limiter.redeem(slot[0], final), final]);
          } catch (error) {
            held.push(slot);
            throw error;
          }
        }
        case 3:
          return pick(held)?.[0][Symbol.dispose]();
        default:
          return pick(sessions)?.[0][Symbol.dispose]();
      }
    });
    const peers = [...held, ...sessions].map(([, peer]) => peer);
    const users = Map.groupBy(peers, (peer) => peer.user);
    const addresses = Map.groupBy(peers, (peer) => peer.address);
    users.delete(undefined);
    addresses.delete(undefined);
    assertEquals(counts(), [held.length, peers.length, users.size + addresses.size]);
    assert(peers.length <= limits.maxSessions);
    for (const { length } of users.values()) assert(length <= limits.maxSessionsPerUser);
    for (const { length } of addresses.values()) assert(length <= limits.maxSessionsPerAddress);
  }
  for (const [slot] of [...held, ...sessions]) slot[Symbol.dispose]();
  assertEquals(counts(), [0, 0, 0]);
  assertEquals(attempts(100, () => limiter.take(NOBODY)), limits.maxSessions);
});

Deno.test("SessionLimiter counts two sessions of one client once in all limits, but a third separately", () => {
  const { limiter } = limiterOf({
    maxSessions: 1,
    maxSessionsPerUser: 1,
    maxSessionsPerAddress: 1,
  });
  const first = limiter.take({ user: "ann", address: "192.0.2.1" });
  // Before `authenticate`, only the address is known.
  const early = limiter.reserve(address("192.0.2.1"), first);
  const second = limiter.redeem(early, { user: "ann", address: undefined }, first);
  for (const beside of [undefined, first, second]) {
    assertThrows(() => limiter.take({ user: "bob", address: "192.0.2.9" }, beside), LimitError);
  }
  first[Symbol.dispose]();
  assertThrows(() => limiter.take(NOBODY), LimitError);
  second[Symbol.dispose]();
  limiter.take({ user: "ann", address: "192.0.2.1" });
});

Deno.test("SessionLimiter counts two sessions of one client separately if user or address differ", () => {
  const { limiter, counts } = limiterOf({ maxSessions: 9, maxSessionsPerAddress: 1 });
  const first = limiter.take({ user: "ann", address: "192.0.2.1" });
  limiter.take({ user: "ann", address: "192.0.2.2" }, first);
  assertEquals(counts(), [0, 1, 3]);
  first[Symbol.dispose]();
  assertEquals(counts(), [0, 1, 2]);
  limiter.take(address("192.0.2.1"));
});
