import { assert, assertEquals, assertThrows } from "@std/assert";
import { platformRuntime } from "../base/runtime.ts";
import { LimitError } from "../errors.ts";
import type { Sockets } from "./sockets.ts";
import { type Claim, type ManagerLimits, type Reservation, SessionLimiter } from "./limits.ts";

const NOBODY: Claim = { user: undefined, address: undefined };

function user(name: string): Claim {
  return { user: name, address: undefined };
}

function address(key: string): Claim {
  return { user: undefined, address: key };
}

/** How many of `count` attempts succeed. */
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

Deno.test("SessionLimiter() takes Infinity where another limit bounds the memory", () => {
  new SessionLimiter(platformRuntime(), {
    maxSessionsPerUser: Infinity,
    maxSessionsPerAddress: Infinity,
  });
});

Deno.test("SessionLimiter.reserve() lets as many handshakes in as there is room", () => {
  const cases: [ManagerLimits, Claim, number][] = [
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

Deno.test("SessionLimiter.reserve() counts default shares only once half of the bound is taken", () => {
  for (const [claim, share] of [[user("ann"), 100], [address("192.0.2.1"), 1_000]] as const) {
    const limiter = new SessionLimiter(platformRuntime(), {});
    assertEquals(attempts(4_999, () => limiter.reserve(NOBODY)), 4_999);
    assertEquals(attempts(5_000, () => limiter.reserve(claim)), share);
    assertEquals(attempts(10_000, () => limiter.reserve(NOBODY)), 5_001 - share);
  }
});

Deno.test("Sockets.take() counts the default share of an address only once half of the bound is taken", () => {
  const { sockets } = new SessionLimiter(platformRuntime(), { maxSessions: 2_000 });
  const strict = new SessionLimiter(platformRuntime(), { maxSessionsPerAddress: 7 }).sockets;
  const take = (from: Sockets, key: string) => attempts(5_000, () => from.take(key, false));
  assertEquals([take(sockets, "192.0.2.1"), take(sockets, "192.0.2.2")], [2_000, 2_000]);
  assertEquals([take(strict, "192.0.2.1"), take(strict, "192.0.2.1")], [14, 0]);
});

Deno.test("SessionLimiter.reserve() names the limit that was reached, and neither user nor address", () => {
  const cases: [ManagerLimits, Claim, string, string][] = [
    [{ maxSessions: 1 }, user("ann"), "maxSessions", "at most 1 sessions at once"],
    [{ maxSessionsPerUser: 1 }, user("ann"), "maxSessionsPerUser", "at most 1 sessions per user"],
    [
      { maxSessionsPerAddress: 1 },
      address("192.0.2.1"),
      "maxSessionsPerAddress",
      "at most 1 sessions per network address",
    ],
  ];
  for (const [limits, claim, limit, rule] of cases) {
    const limiter = new SessionLimiter(platformRuntime(), limits);
    limiter.reserve(claim);
    const error = assertThrows(() => limiter.reserve(claim), LimitError);
    assertEquals(error.limit, limit);
    assertEquals(error.message, `Cannot admit session: ${rule}, received one more`);
    assertEquals(limiter.refused[limit as keyof ManagerLimits], 1);
  }
});

Deno.test("SessionLimiter.reserve() counts users and addresses apart", () => {
  const limiter = new SessionLimiter(platformRuntime(), {
    maxSessionsPerUser: 1,
    maxSessionsPerAddress: 1,
  });
  limiter.reserve({ user: "ann", address: "192.0.2.1" });
  limiter.reserve({ user: "192.0.2.1", address: "ann" });
  limiter.reserve(NOBODY);
  limiter.reserve(NOBODY);
  assertEquals([limiter.users, limiter.addresses, limiter.reserved], [2, 2, 4]);
});

Deno.test("SessionLimiter.reserve() takes nothing when it refuses", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessionsPerAddress: 1 });
  limiter.reserve(address("192.0.2.1"));
  for (let i = 0; i < 3; i++) {
    assertThrows(() => limiter.reserve({ user: "ann", address: "192.0.2.1" }), LimitError);
  }
  assertEquals([limiter.users, limiter.addresses, limiter.reserved], [0, 1, 1]);
});

Deno.test("Reservation releases its place once", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessions: 1 });
  const reservation = limiter.reserve(user("ann"));
  assertEquals(reservation.isHeld, true);
  reservation[Symbol.dispose]();
  reservation[Symbol.dispose]();
  assertEquals(reservation.isHeld, false);
  assertEquals([limiter.users, limiter.reserved], [0, 0]);
  assertEquals(attempts(3, () => limiter.reserve(NOBODY)), 1);
});

Deno.test("SessionLimiter.redeem() turns a place into a session when all are taken", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessions: 1, maxSessionsPerUser: 1 });
  const reservation = limiter.reserve(user("ann"));
  const claim = limiter.redeem(reservation, user("ann"));
  assertEquals(claim, user("ann"));
  assertEquals([reservation.isHeld, limiter.reserved, limiter.users], [false, 0, 1]);
  reservation[Symbol.dispose]();
  assertThrows(() => limiter.take(NOBODY), LimitError);
  limiter.release(claim);
  assertEquals(limiter.users, 0);
  limiter.take(NOBODY);
});

Deno.test("SessionLimiter.redeem() counts a user that came later", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessionsPerUser: 1 });
  const claim = limiter.redeem(limiter.reserve(address("192.0.2.1")), user("ann"));
  assertEquals(claim, { user: "ann", address: "192.0.2.1" });

  const second = limiter.reserve(address("192.0.2.1"));
  const error = assertThrows(() => limiter.redeem(second, user("ann")), LimitError);
  assertEquals(error.limit, "maxSessionsPerUser");
  assertEquals(second.isHeld, true);
  second[Symbol.dispose]();
  limiter.release(claim);
  assertEquals([limiter.users, limiter.addresses, limiter.reserved], [0, 0, 0]);
});

Deno.test("SessionLimiter.redeem() releases a reservation for another user", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessionsPerUser: 1 });
  limiter.redeem(limiter.reserve(user("guest")), user("ann"));
  limiter.reserve(user("guest"));
  assertThrows(() => limiter.reserve(user("ann")), LimitError);
});

Deno.test("SessionLimiter.redeem() rejects a place that is not held here", () => {
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
      "Cannot add session: its reservation must be held by this manager",
    );
  }
});

Deno.test("SessionLimiter.refuseAll() refuses sessions, places, and places that are held", () => {
  const limiter = new SessionLimiter(platformRuntime(), { maxSessions: 1 });
  const reservation = limiter.reserve(NOBODY);
  limiter.refuseAll();
  assertEquals(limiter.isDraining, true);
  for (
    const attempt of [
      () => limiter.take(NOBODY),
      () => limiter.reserve(NOBODY),
      () => limiter.redeem(reservation, NOBODY),
    ]
  ) {
    const error = assertThrows(attempt, LimitError, "session: none may begin while draining");
    assertEquals(error.limit, "draining");
  }
  assertEquals(limiter.refused, {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 3,
  });
});

Deno.test("SessionLimiter is exact after any order of operations", () => {
  const limits = { maxSessions: 40, maxSessionsPerUser: 6, maxSessionsPerAddress: 9 };
  const limiter = new SessionLimiter(platformRuntime(), limits);
  let state = 7;
  const random = (below: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor(state / 65_536) % below;
  };
  const held: [Reservation, Claim][] = [];
  const sessions: Claim[] = [];
  const pick = <T>(from: T[]): T | undefined => from.splice(random(from.length || 1), 1)[0];
  for (let step = 0; step < 20_000; step++) {
    const who: Claim = {
      user: random(4) === 0 ? undefined : `user${random(8)}`,
      address: random(4) === 0 ? undefined : `address${random(5)}`,
    };
    attempts(1, () => {
      switch (random(5)) {
        case 0:
          limiter.take(who);
          return sessions.push(who);
        case 1:
          return held.push([limiter.reserve(who), who]);
        case 2: {
          const place = pick(held);
          if (place === undefined) return;
          try {
            return sessions.push(limiter.redeem(place[0], { ...who, address: place[1].address }));
          } catch (error) {
            held.push(place);
            throw error;
          }
        }
        case 3:
          return pick(held)?.[0][Symbol.dispose]();
        default: {
          const session = pick(sessions);
          return session && limiter.release(session);
        }
      }
    });
    const claims = [...held.map(([, claim]) => claim), ...sessions];
    const users = Map.groupBy(claims, (claim) => claim.user);
    const addresses = Map.groupBy(claims, (claim) => claim.address);
    users.delete(undefined);
    addresses.delete(undefined);
    assertEquals(
      [limiter.reserved, limiter.users, limiter.addresses],
      [held.length, users.size, addresses.size],
    );
    assert(claims.length <= limits.maxSessions);
    for (const { length } of users.values()) assert(length <= limits.maxSessionsPerUser);
    for (const { length } of addresses.values()) assert(length <= limits.maxSessionsPerAddress);
  }
  for (const [reservation] of held) reservation[Symbol.dispose]();
  for (const claim of sessions) limiter.release(claim);
  assertEquals([limiter.reserved, limiter.users, limiter.addresses], [0, 0, 0]);
  assertEquals(attempts(100, () => limiter.take(NOBODY)), limits.maxSessions);
});

Deno.test("SessionLimiter counts both sessions of one client once in all limits, and never three", () => {
  const limiter = new SessionLimiter(platformRuntime(), {
    maxSessions: 1,
    maxSessionsPerUser: 1,
    maxSessionsPerAddress: 1,
  });
  const first = { user: "ann", address: "192.0.2.1" };
  limiter.take(first);
  // The user is not known before `authenticate`, the address is.
  const early = limiter.reserve(address("192.0.2.1"), first);
  const second = limiter.redeem(early, { user: "ann", address: undefined }, first);
  for (const beside of [undefined, first, second]) {
    assertThrows(() => limiter.take({ user: "bob", address: "192.0.2.9" }, beside), LimitError);
  }
  limiter.release(first);
  assertThrows(() => limiter.take(NOBODY), LimitError);
  limiter.release(second);
  limiter.take({ user: "ann", address: "192.0.2.1" });
});

Deno.test("SessionLimiter counts both sessions of one client apart where user or address differ", () => {
  const limiter = new SessionLimiter(platformRuntime(), {
    maxSessions: 9,
    maxSessionsPerAddress: 1,
  });
  const first = { user: "ann", address: "192.0.2.1" };
  limiter.take(first);
  limiter.take({ user: "ann", address: "192.0.2.2" }, first);
  assertEquals([limiter.users, limiter.addresses], [1, 2]);
  limiter.release(first);
  assertEquals([limiter.users, limiter.addresses], [1, 1]);
  limiter.take(address("192.0.2.1"));
});
