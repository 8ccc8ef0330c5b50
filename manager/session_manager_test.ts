import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { CloseCode, LimitError } from "../errors.ts";
import { defineContract } from "../session/contract.ts";
import { internals, Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/types.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { SessionManager } from "./session_manager.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";

const settings = sessionSettings({ side: "server" });

function open(identity: SessionIdentity<unknown, Session> = {}): Session {
  return new Session(memoryPair().server, settings, identity);
}

Deno.test("SessionManager() rejects options that are out of range", () => {
  const cases = ["maxSessions", "maxSessionsPerUser", "maxSessionsPerAddress", "cleanupIntervalMs"];
  for (const name of cases) {
    for (const value of [0, -1, 1.5, NaN]) {
      assertThrows(
        () => SessionManager.create({ [name]: value }),
        RangeError,
        `Cannot create manager: ${name} must be `,
      );
    }
  }
});

Deno.test("SessionManager.add() makes a session findable until it closes", async () => {
  await using manager = SessionManager.create();
  const ann = open({ user: "ann", id: "1" });
  const bob = open({ user: "bob", id: "2" });
  const alsoAnn = open({ user: "ann", id: "3" });
  for (const session of [ann, bob, alsoAnn]) assertEquals(manager.add(session), session.id);

  assertEquals(manager.count, 3);
  assertStrictEquals(manager.get("2"), bob);
  assertEquals(manager.get("4"), undefined);
  assertEquals(manager.all(), [ann, bob, alsoAnn]);
  assertEquals(manager.sessionsOf("ann"), [ann, alsoAnn]);
  assertEquals(manager.byState("connected"), [ann, bob, alsoAnn]);
  assertEquals(manager.byState("draining"), []);

  await ann.close();
  assertEquals(manager.all(), [bob, alsoAnn]);
  assertEquals(manager.sessionsOf("ann"), [alsoAnn]);
  await alsoAnn.close();
  assertEquals(manager.sessionsOf("ann"), []);
  assertEquals(manager.get("3"), undefined);
});

Deno.test("SessionManager lists copies", async () => {
  await using manager = new SessionManager();
  manager.add(open({ user: "ann" }));
  for (const list of [manager.all(), manager.sessionsOf("ann"), manager.byState("connected")]) {
    list.length = 0;
  }
  assertEquals({
    count: manager.count,
    all: manager.all().length,
    sessionsOf: manager.sessionsOf("ann").length,
  }, { count: 1, all: 1, sessionsOf: 1 });
});

Deno.test("SessionManager.sessionsOf() finds a session without a user by its name", async () => {
  await using manager = new SessionManager();
  const anonymous = open({ id: "7" });
  const named = open({ id: "8", user: "ann" });
  manager.add(anonymous);
  manager.add(named);
  assertEquals(manager.sessionsOf("7"), [anonymous]);
  assertEquals(manager.sessionsOf("8"), []);
  assertEquals(manager.stats().users, 1);
});

Deno.test("SessionManager.add() accepts sessions of every contract", async () => {
  await using manager = new SessionManager();
  const contract = defineContract({ toServer: {}, toClient: {} });
  const typed = new Session(
    memoryPair().server,
    sessionSettings({ side: "server", contract }),
    { value: { name: "ann" } },
  );
  manager.add(typed as Session);
  assertEquals(manager.count, 1);
});

Deno.test("SessionManager.add() rejects an id that is already in use", async () => {
  await using manager = new SessionManager();
  manager.add(open({ id: "1" }));
  await using second = open({ id: "1" });
  using reservation = manager.admit();
  for (const options of [{}, { reservation }]) {
    assertThrows(
      () => manager.add(second, options),
      TypeError,
      "Cannot add session: its id must be new, received 1",
    );
  }
  assertEquals({
    count: manager.count,
    created: manager.stats().created,
    isHeld: reservation.isHeld,
  }, { count: 1, created: 1, isHeld: true });
});

Deno.test("SessionManager.add() removes a closed session immediately", async () => {
  await using manager = new SessionManager({ maxSessions: 1 });
  const session = open({ user: "ann", address: "192.0.2.1" });
  await session.close();
  assertEquals(manager.add(session), session.id);
  const { count, created, closed, users, addresses } = manager.stats();
  assertEquals({ count, created, closed, users, addresses }, {
    count: 0,
    created: 1,
    closed: 1,
    users: 0,
    addresses: 0,
  });
});

Deno.test("SessionManager.add() rejects sessions beyond a limit, and accepts them when there is room", async () => {
  const cases = [
    ["maxSessions", {}],
    ["maxSessionsPerUser", { user: "ann" }],
    ["maxSessionsPerAddress", { address: "2001:db8::1" }],
  ] as const;
  for (const [limit, identity] of cases) {
    await using manager = new SessionManager({ [limit]: 2 });
    const first = open(identity);
    manager.add(first);
    manager.add(open(identity));
    await using third = open(identity);
    assertEquals(assertThrows(() => manager.add(third), LimitError).limit, limit);
    assertEquals([manager.count, manager.get(third.id)], [2, undefined]);
    await first.close();
    manager.add(third);
    assertEquals(manager.count, 2);
  }
});

Deno.test("SessionManager counts an IPv6 /64 as one address", async () => {
  await using manager = new SessionManager({ maxSessionsPerAddress: 2 });
  manager.add(open({ address: "2001:db8::1" }));
  using reservation = manager.admit({ address: "2001:db8:0:0:ffff::2" });
  assertThrows(() => manager.admit({ address: "2001:db8::3" }), LimitError);
  await using third = open({ address: "2001:db8::3" });
  assertThrows(() => manager.add(third), LimitError);
  manager.admit({ address: "2001:db8:0:1::1" })[Symbol.dispose]();
  assertEquals(reservation.isHeld, true);
});

Deno.test("SessionManager.admit() keeps a thousand handshakes below the limit", async () => {
  await using manager = new SessionManager({ maxSessions: 100 });
  let rejected = 0;
  const handshake = async (): Promise<void> => {
    try {
      using reservation = manager.admit();
      await Promise.resolve(); // The handshake.
      manager.add(open(), { reservation });
    } catch (error) {
      assert(error instanceof LimitError);
      rejected++;
    }
  };
  await Promise.all(Array.from({ length: 1_000 }, handshake));
  assertEquals([manager.count, rejected], [100, 900]);
  const stats = manager.stats();
  assertEquals({
    reserved: stats.reserved,
    maxSessions: stats.rejected.maxSessions,
    peak: stats.peak,
  }, { reserved: 0, maxSessions: 900, peak: 100 });
});

Deno.test("SessionManager.admit() counts until the handshake succeeds or fails", async () => {
  await using manager = new SessionManager({ maxSessions: 1 });
  {
    using reservation = manager.admit({ user: "ann" });
    assertEquals([manager.count, manager.stats().reserved], [0, 1]);
    await using other = open();
    assertThrows(() => manager.add(other), LimitError);
    assert(reservation.isHeld);
  }
  const session = open({ user: "ann" });
  {
    using reservation = manager.admit({ user: "ann" });
    manager.add(session, { reservation });
  }
  assertEquals({
    count: manager.count,
    reserved: manager.stats().reserved,
    users: manager.stats().users,
  }, { count: 1, reserved: 0, users: 1 });
  assertThrows(() => manager.admit(), LimitError);
  await session.close();
  manager.admit()[Symbol.dispose]();
});

Deno.test("SessionManager.admit() counts nothing without a user and an address", async () => {
  await using manager = new SessionManager({ maxSessionsPerUser: 1, maxSessionsPerAddress: 1 });
  for (let i = 0; i < 3; i++) {
    using _kept = manager.admit({ user: undefined, address: "" });
    manager.add(open());
  }
  assertEquals({
    count: manager.count,
    users: manager.stats().users,
    addresses: manager.stats().addresses,
  }, { count: 3, users: 0, addresses: 0 });
});

Deno.test("SessionManager.remove() removes a session and leaves it open", async () => {
  await using manager = new SessionManager({ maxSessions: 1 });
  await using session = open({ user: "ann" });
  const id = manager.add(session);
  assertStrictEquals(manager.remove(id), session);
  assertEquals(manager.remove(id), undefined);
  assertEquals({
    state: session.state,
    count: manager.count,
    sessionsOfAnn: manager.sessionsOf("ann"),
  }, { state: "connected", count: 0, sessionsOfAnn: [] });
  const { removed, closed, users } = manager.stats();
  assertEquals({ removed, closed, users }, { removed: 1, closed: 0, users: 0 });
  manager.admit()[Symbol.dispose]();
});

Deno.test("SessionManager.add() accepts a session that was removed before", async () => {
  await using manager = new SessionManager();
  const session = open();
  for (let i = 0; i < 3; i++) manager.remove(manager.add(session));
  manager.add(session);
  await session.close();
  const { count, created, removed, closed } = manager.stats();
  assertEquals({ count, created, removed, closed }, {
    count: 0,
    created: 4,
    removed: 3,
    closed: 1,
  });
  manager.add(session);
  assertEquals([manager.count, manager.stats().closed], [0, 2]);
});

Deno.test("SessionManager does not mistake a removed session for a new one with its id", async () => {
  await using manager = new SessionManager();
  const first = open({ id: "1" });
  manager.add(first);
  manager.remove("1");
  const second = open({ id: "1" });
  manager.add(second);
  await first.close();
  assertStrictEquals(manager.get("1"), second);
});

Deno.test("SessionManager.cleanup() removes closed sessions", async () => {
  await using manager = new SessionManager();
  const session = open();
  let found = -1;
  session[internals].whenEnded(() => found = manager.cleanup());
  manager.add(session);
  manager.add(open());
  assertEquals(manager.cleanup(), 0);
  await session.close();
  assertEquals({ found, count: manager.count, closed: manager.stats().closed }, {
    found: 1,
    count: 1,
    closed: 1,
  });
});

Deno.test("SessionManager cleans up every cleanupIntervalMs, once a minute by default", async () => {
  for (const cleanupIntervalMs of [undefined, 60_000, 1_500]) {
    const everyMs = cleanupIntervalMs ?? 60_000;
    using time = new FakeTime();
    await using manager = SessionManager.create({ cleanupIntervalMs });
    // Plain connections, because the heartbeat of `skein.1` would close sessions.
    const plain = () => new Session(memoryPair({ protocol: "" }).server, settings);
    manager.add(plain());
    for (let round = 0; round < 3; round++) {
      const session = plain();
      manager.add(session);
      // A session that cannot be found under its id when it closes.
      Object.defineProperty(session, "id", { value: "other" });
      await session.close();
      await time.tickAsync(everyMs - 1);
      assertEquals([manager.count, manager.byState("closed").length], [2, 1]);
      await time.tickAsync(1);
      assertEquals([manager.count, manager.stats().closed], [1, round + 1]);
    }
  }
});

Deno.test("SessionManager has a timer only while it has sessions", async () => {
  using time = new FakeTime();
  // A plain connection, because the heartbeat of `skein.1` has its own timer.
  const plain = () => new Session(memoryPair({ protocol: "" }).server, settings);
  const manager = new SessionManager();
  assertEquals(time.next(), false);
  const first = plain();
  const second = plain();
  manager.add(first);
  manager.add(second);
  assertEquals(time.next(), true);
  await first.close();
  assertEquals(time.next(), true);
  await second.close();
  assertEquals(time.next(), false);
  const third = plain();
  manager.add(third);
  assertEquals(time.next(), true);
  manager.remove(third.id);
  assertEquals(time.next(), false);
  await third.close();
});

Deno.test("SessionManager.closeAll() closes all sessions and accepts new ones", async () => {
  await using manager = new SessionManager();
  const pairs = Array.from({ length: 3 }, () => memoryPair());
  for (const { server } of pairs) manager.add(new Session(server, settings));
  assertEquals(await manager.closeAll({ code: 4999, reason: "over" }), 3);
  for (const { client } of pairs) {
    assertEquals(await client.closed, { closeCode: 4999, reason: "over" });
  }
  assertEquals([manager.count, manager.isDraining], [0, false]);
  manager.add(open());
  assertEquals(await manager.closeAll(), 1);
  assertEquals(await manager.closeAll(), 0);
});

Deno.test("SessionManager.shutdown() closes all sessions, rejects new ones, and leaves no timer running", async () => {
  using time = new FakeTime();
  const manager = new SessionManager();
  const { client, server } = memoryPair();
  manager.add(new Session(server, settings));
  using reservation = manager.admit();
  await manager.shutdown({ reason: "bye" });
  await manager.shutdown();
  assertEquals(await client.closed, { closeCode: CloseCode.draining, reason: "bye" });
  assertEquals({ count: manager.count, isDraining: manager.isDraining, next: time.next() }, {
    count: 0,
    isDraining: true,
    next: false,
  });
  await using late = open();
  for (
    const attempt of [
      () => manager.admit(),
      () => manager.add(late),
      () => manager.add(late, { reservation }),
    ]
  ) {
    assertEquals(assertThrows(attempt, LimitError).limit, "draining");
  }
  assertEquals(reservation.isHeld, true);
});

Deno.test("SessionManager[Symbol.asyncDispose]() shuts down", async () => {
  const session = open();
  {
    await using manager = new SessionManager();
    manager.add(session);
  }
  assertEquals(session.isClosed, true);
});
