import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { addressKey, networksOf } from "../base/network_address.ts";
import { NOBODY } from "../base/quotas/accounts.ts";
import { platformRuntime } from "../base/runtime.ts";
import { LimitError, RequestError, type RequestFailure } from "../errors.ts";
import { Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/types.ts";
import { passTime, turns } from "../tests/waiting.ts";
import { Peer } from "../tests/sessions.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { MAX_IDLE_RATE_ACCOUNTS, RateAccounts } from "./rate_accounts.ts";
import type { RateLimitsOptions } from "./rate_limits.ts";
import { SessionManager } from "./session_manager.ts";
import { SessionLimiter } from "./limits.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";
import { slowTest } from "../tools/run_tests/slow.ts";

/** Adds a session to a manager, whose peer the test scripts; records handled messages. */
function join(manager: SessionManager, identity: SessionIdentity<unknown, Session> = {}) {
  const pair = memoryPair();
  const handled: unknown[] = [];
  const settings = sessionSettings({
    side: "server",
    onMessage: (message) => {
      handled.push(message.data);
      if (message.isRequest) message.reply("done");
    },
  });
  const session = new Session(pair.server, settings, identity);
  manager.add(session);
  return { session, peer: new Peer(pair.client), handled };
}

/** Sends numbered messages. */
function flood(peer: Peer, count: number, topic = "a"): void {
  for (let data = 0; data < count; data++) peer.say({ topic, data });
}

/** Envelopes at the peer, except the server's first one. */
function told(peer: Peer): Record<string, unknown>[] {
  return peer.envelopes.filter(({ hello }) => hello === undefined);
}

const HELD: Pick<RateLimitsOptions, "perSession"> = {
  perSession: { messages: { perSecond: 0.5, burst: 3 } },
};

Deno.test("SessionManager rejects messages beyond the rate, reports them, and continues later", async () => {
  using time = new FakeTime();
  await using manager = new SessionManager({ rates: HELD });
  const { peer, handled, session } = join(manager);
  flood(peer, 5);
  await turns();
  assertEquals(handled, [0, 1, 2]);
  const rate = "at most 0.5 messages a second per session";
  const message = `1 rejected: ${rate}`;
  const error = { code: "too-many", message, retryAfterMs: 2_000, level: "session" };
  assertEquals(told(peer), [{ reply: null, error }]);
  await passTime(time, 2_000);
  flood(peer, 1);
  await turns();
  assertEquals(handled, [0, 1, 2, 0]);
  assertEquals([session.isReady, manager.stats().rates.rejected.session], [true, 2]);
});

Deno.test("SessionManager replies to each rejected request with the time to retry", async () => {
  using _time = new FakeTime();
  await using manager = new SessionManager({ rates: HELD });
  const { peer } = join(manager);
  for (let id = 1; id <= 5; id++) peer.say({ topic: "a", id });
  await turns();
  const message = "Rejected: at most 0.5 messages a second per session";
  const error = { code: "too-many", message, retryAfterMs: 2_000, level: "session" };
  const replies = told(peer).sort((a, b) => Number(a.reply) - Number(b.reply));
  assertEquals(replies.map(({ reply, data }) => [reply, data]), [
    ...[1, 2, 3].map((id) => [id, "done"]),
    ...[4, 5].map((id) => [id, undefined]),
  ]);
  assertEquals(replies.slice(3).map((reply) => reply.error), [error, error]);
});

Deno.test("SessionManager reports all rejected messages, at most once a second", async () => {
  using time = new FakeTime();
  await using manager = new SessionManager({ rates: HELD });
  const { peer } = join(manager);
  flood(peer, 53);
  await turns();
  const counts = () => told(peer).map(({ error }) => parseInt((error as Error).message));
  assertEquals(counts(), [1]);
  await passTime(time, 999);
  assertEquals(counts(), [1]);
  await passTime(time, 10);
  assertEquals(counts(), [1, 49]);
  flood(peer, 7);
  await passTime(time, 1_010);
  assertEquals(counts(), [1, 49, 7]);
  await passTime(time, 5_000);
  assertEquals(counts(), [1, 49, 7], "Nothing more to report");
});

Deno.test("SessionManager closes a session with 4429 if it keeps flooding", async () => {
  using _time = new FakeTime();
  await using manager = new SessionManager({ rates: { ...HELD, maxRejections: 10 } });
  const { peer, session, handled } = join(manager);
  flood(peer, 13);
  await turns();
  assert(session.isReady, "Ten rejections are allowed");
  flood(peer, 1);
  const { closeCode, reason } = await peer.closed;
  assertEquals(closeCode, 4429);
  assertEquals(
    reason,
    "More than 10 rejections in 10 s: at most 0.5 messages a second per session",
  );
  assertEquals({
    handled: handled.length,
    count: manager.count,
    closed: manager.stats().rates.closed,
  }, { handled: 3, count: 0, closed: 1 });
});

Deno.test("SessionManager closes a session that publishes without reading the rejections", async () => {
  using _time = new FakeTime();
  const publications = { perSecond: 1, burst: 10 };
  await using manager = new SessionManager({ rates: { perSession: { publications } } });
  const { peer, session } = join(manager);
  // A client has at most 64 requests in flight.
  for (let id = 0; id < 10 + 64 + 100; id++) peer.say({ publish: "a", id });
  await turns();
  assert(session.isReady, "A hundred more are allowed");
  peer.say({ publish: "a", id: 1_000 });
  assertEquals((await peer.closed).closeCode, 4429);
});

Deno.test("SessionManager sends the wait for all rejected publications together, by count and by bytes", async () => {
  const frame = JSON.stringify({ publish: "a", id: 1 });
  for (const [unit, each] of [["publications", 1], ["bytes", frame.length]] as const) {
    using _time = new FakeTime();
    const rate = { perSecond: each, burst: 5 * each };
    await using manager = new SessionManager({ rates: { perSession: { [unit]: rate } } });
    const { peer } = join(manager);
    for (let id = 0; id < 8; id++) peer.say({ publish: "a", id });
    await turns();
    const waits = told(peer).flatMap(({ error }) => (error as RequestFailure)?.retryAfterMs ?? []);
    assertEquals(waits, [1_000, 2_000, 3_000], unit);
  }
});

Deno.test("SessionManager keeps a session with occasional rejections", async () => {
  using time = new FakeTime();
  await using manager = new SessionManager({ rates: { ...HELD, maxRejections: 10 } });
  const { peer, session } = join(manager);
  for (let i = 0; i < 5; i++) {
    flood(peer, 10);
    await passTime(time, 10_100);
  }
  assert(session.isReady);
  assert(manager.stats().rates.rejected.session > 10);
});

Deno.test("SessionManager counts the bytes of everything received, including replies", async () => {
  using _time = new FakeTime();
  const rates = { perSession: { bytes: { perSecond: 1, burst: 1_000 } }, maxRejections: 5 };
  await using manager = new SessionManager({ rates });
  const { peer, handled, session } = join(manager);
  peer.say({ topic: "a", data: "x".repeat(600) });
  peer.say({ topic: "a", data: "y".repeat(600) });
  peer.say({ topic: "a", data: "z" });
  await turns();
  assertEquals(handled, ["x".repeat(600), "z"]);
  for (let i = 0; i < 30; i++) peer.say({ reply: 1, data: "x".repeat(100) });
  assertEquals((await peer.closed).closeCode, 4429);
  assertEquals(session.isClosed, true);
});

Deno.test("SessionManager handles messages that end work, even beyond the rate", async () => {
  using _time = new FakeTime();
  const rates = { perSession: { bytes: { perSecond: 1, burst: 200 } } };
  await using manager = new SessionManager({ rates });
  const { peer, session } = join(manager);
  const reply = session.request("question");
  flood(peer, 20);
  await turns();
  const [{ id } = {}] = peer.envelopes.filter(({ topic }) => topic === "question");
  peer.say({ reply: id, data: "replied" });
  assertEquals(await reply, "replied");
});

Deno.test("SessionManager counts subscriptions separately from messages", async () => {
  using _time = new FakeTime();
  const once = { perSecond: 0.1, burst: 1 };
  await using manager = new SessionManager({ rates: { perSession: { subscriptions: once } } });
  const { peer, handled } = join(manager);
  peer.say({ subscribe: "news", id: 1 });
  peer.say({ subscribe: "more", id: 2 });
  peer.say({ unsubscribe: "news", id: 3 });
  flood(peer, 5);
  await turns();
  // This manager has no topics, so requests within the rate are rejected for that reason.
  const codes = told(peer).map(({ reply, error }) => `${reply} ${(error as RequestFailure).code}`);
  assertEquals(codes.sort(), ["1 forbidden", "2 too-many", "3 forbidden"]);
  assertEquals(handled.length, 5);
});

Deno.test("SessionManager counts the sessions of a user together, and other users separately", async () => {
  using _time = new FakeTime();
  const messages = { perSecond: 0.1, burst: 4 };
  await using manager = new SessionManager({ rates: { perUser: { messages } } });
  const [desk, phone] = [join(manager, { user: "ann" }), join(manager, { user: "ann" })];
  const [bob, nobody] = [join(manager, { user: "bob" }), join(manager)];
  for (const { peer } of [desk, phone, bob]) {
    flood(peer, 3);
    await turns();
  }
  flood(nobody.peer, 50);
  await turns();
  assertEquals([desk, phone, bob, nobody].map(({ handled }) => handled.length), [3, 1, 3, 50]);
  assertEquals(manager.stats().rates.rejected, { session: 0, user: 2, address: 0 });
});

Deno.test("SessionManager counts the sessions of a network address together, an IPv6 /64 as one", async () => {
  using _time = new FakeTime();
  const messages = { perSecond: 0.1, burst: 4 };
  await using manager = new SessionManager({ rates: { perAddress: { messages } } });
  const near = [
    join(manager, { address: "2001:db8::1" }),
    join(manager, { address: "2001:db8::2" }),
  ];
  const far = join(manager, { address: "2001:db8:0:1::1" });
  for (const { peer } of [...near, far]) {
    flood(peer, 3);
    await turns();
  }
  assertEquals([...near, far].map(({ handled }) => handled.length), [3, 1, 3]);
});

Deno.test("SessionManager checks the session's rate first, and takes no tokens if another rate rejects", async () => {
  using _time = new FakeTime();
  const rates: RateLimitsOptions = {
    perSession: { messages: { perSecond: 0.1, burst: 5 } },
    perUser: { messages: { perSecond: 0.1, burst: 6 } },
  };
  await using manager = new SessionManager({ rates });
  const [first, second] = [join(manager, { user: "ann" }), join(manager, { user: "ann" })];
  flood(first.peer, 20);
  await turns();
  flood(second.peer, 20);
  await turns();
  assertEquals([first.handled.length, second.handled.length], [5, 1]);
  assertEquals(manager.stats().rates.rejected, { session: 15, user: 19, address: 0 });
});

Deno.test("SessionManager remembers the used rate of a user after its last session", async () => {
  using time = new FakeTime();
  const messages = { perSecond: 1, burst: 10 };
  await using manager = new SessionManager({ rates: { perUser: { messages } } });
  const ann = join(manager, { user: "ann" });
  flood(ann.peer, 10);
  await turns();
  await ann.session.close();
  assertEquals(manager.stats().rates.remembered, 1);
  const back = join(manager, { user: "ann" });
  flood(back.peer, 2);
  await turns();
  assertEquals(back.handled.length, 0);
  await back.session.close();
  await passTime(time, 10_000);
  const bob = join(manager, { user: "bob" });
  await bob.session.close();
  assertEquals(manager.stats().rates.remembered, 0, "Full buckets are forgotten");
});

Deno.test("SessionManager counts the sessions of a user who came back together, when others leave", async () => {
  using time = new FakeTime();
  const messages = { perSecond: 1, burst: 10 };
  await using manager = new SessionManager({ rates: { perUser: { messages } } });
  const first = join(manager, { user: "ann" });
  flood(first.peer, 10);
  await turns();
  await first.session.close();
  const back = join(manager, { user: "ann" });
  await passTime(time, 10_000);
  await join(manager, { user: "bob" }).session.close();
  const beside = join(manager, { user: "ann" });
  flood(back.peer, 10);
  await turns();
  flood(beside.peer, 1);
  await turns();
  assertEquals([back.handled.length, beside.handled.length], [10, 0]);
  await back.session.close();
  await beside.session.close();
});

Deno.test("RateAccounts remembers a user without sessions until the buckets of all units are full", () => {
  for (const unit of ["messages", "bytes", "publications", "subscriptions"] as const) {
    const rates = { [unit]: { perSecond: 1, burst: 10 } };
    const accounts = new RateAccounts("user", rates, () => undefined);
    accounts.hold("ann", 0)[unit]!.take(10, 0);
    accounts.release("ann", 0);
    assertEquals(accounts.hold("ann", 4_000)[unit]!.waitMs(10, 4_000), 6_000, unit);
  }
});

Deno.test("SessionManager forgets the rate of an address after its last session", async () => {
  using time = new FakeTime();
  const messages = { perSecond: 1, burst: 10 };
  await using manager = new SessionManager({ rates: { perAddress: { messages } } });
  for (const address of ["192.0.2.1", "192.0.2.2"]) {
    const { session } = join(manager, { address });
    await session.close();
    await passTime(time, 10_000);
  }
  assertEquals(manager.stats().rates.remembered, 0);
});

Deno.test("SessionManager.remove() stops counting a session, and stops its timer", async () => {
  using _time = new FakeTime();
  await using manager = new SessionManager({ rates: { ...HELD, perUser: HELD.perSession! } });
  const { peer, session, handled } = join(manager, { user: "ann" });
  flood(peer, 10);
  await turns();
  manager.remove(session.id);
  flood(peer, 10);
  await turns();
  assertEquals(handled.length, 13);
  await session.close();
});

Deno.test("SessionManager.admitConnection() rejects too many attempts from an address, and says when to retry", () => {
  using time = new FakeTime();
  const connections = { perSecond: 2, burst: 3 };
  const manager = new SessionManager({ rates: { perAddress: { connections } } });
  const who = { address: "192.0.2.1" };
  for (let i = 0; i < 3; i++) manager.admitConnection(who);
  const error = assertThrows(() => manager.admitConnection(who), LimitError);
  assertEquals([error.limit, error.retryAfterMs], ["perAddress.connections", 500]);
  assertEquals(error.message, "Cannot connect: at most 2 connections a second per network address");
  manager.admitConnection({ address: "192.0.2.2" });
  manager.admitConnection({});
  time.tick(500);
  manager.admitConnection(who);
  assertThrows(() => manager.admitConnection(who), LimitError);
  assertEquals(manager.stats().rates.rejectedConnections, { user: 0, address: 2 });
});

Deno.test("SessionManager.admitConnection() follows maxSessionsPerAddress by default", () => {
  using time = new FakeTime();
  const who = { address: "192.0.2.1" };
  const admitted = (manager: SessionManager) => {
    for (let count = 0; count < 10_000; count++) {
      try {
        manager.admitConnection(who);
      } catch {
        return count;
      }
    }
    return Infinity;
  };
  const manager = new SessionManager();
  assertEquals(admitted(manager), 1_000);
  time.tick(1_000);
  assertEquals(admitted(manager), 100);
  assertEquals(admitted(new SessionManager({ maxSessionsPerAddress: 1 })), 100);
  assertEquals(admitted(new SessionManager({ maxSessionsPerAddress: Infinity })), Infinity);
  const none = { connections: { perSecond: Infinity } };
  assertEquals(admitted(new SessionManager({ rates: { perAddress: none } })), Infinity);
});

Deno.test("SessionManager remembers a bounded number of addresses, the most recent ones", () => {
  using _time = new FakeTime();
  const connections = { perSecond: 0.001, burst: 1 };
  const manager = new SessionManager({ rates: { perAddress: { connections } } });
  const addressOf = (i: number) => `10.${i >> 16}.${i >> 8 & 255}.${i & 255}`;
  const count = MAX_IDLE_RATE_ACCOUNTS * 2;
  for (let i = 0; i < count; i++) manager.admitConnection({ address: addressOf(i) });
  assertEquals(manager.stats().rates.remembered, MAX_IDLE_RATE_ACCOUNTS);
  assertThrows(() => manager.admitConnection({ address: addressOf(count - 1) }), LimitError);
  manager.admitConnection({ address: addressOf(0) });
});

Deno.test("SessionManager forgets addresses whose buckets are full, in any order", () => {
  using time = new FakeTime();
  const connections = { perSecond: 1, burst: 5 };
  const manager = new SessionManager({ rates: { perAddress: { connections } } });
  for (let i = 0; i < 200; i++) manager.admitConnection({ address: `10.0.0.${i}` });
  assertEquals(manager.stats().rates.remembered, 200);
  time.tick(1_000);
  manager.admitConnection({ address: "10.0.1.1" });
  assertEquals(manager.stats().rates.remembered, 1);
});

/** Publishes over HTTP; false if a rate rejects it. */
function publishes(manager: SessionManager, caller?: string, address = "192.0.2.1"): boolean {
  const account = { ...NOBODY, networks: networksOf(addressKey(address)), user: caller };
  try {
    manager.publish(account, { user: caller, count: 1, size: 10, verb: "append" });
    return true;
  } catch (error) {
    if (error instanceof RequestError) return false;
    throw error;
  }
}

slowTest(
  "SessionManager.publish() remembers a bounded number of callers, the most recent ones",
  () => {
    using time = new FakeTime();
    const publications = { perSecond: 0.001, burst: 2 };
    const manager = new SessionManager({ rates: { perSession: { publications } } });
    const count = MAX_IDLE_RATE_ACCOUNTS * 2;
    for (let i = 0; i < count; i++) {
      assertEquals(publishes(manager, `u${i}`), true);
      // A caller that goes on is not forgotten for the others.
      assertEquals(publishes(manager, "eve"), i < 2);
      const at = `2001:db8:${i.toString(16)}::1`;
      if (i % 100 === 0) assertEquals(publishes(manager, undefined, at), true);
    }
    assertEquals(manager.stats().rates.remembered, MAX_IDLE_RATE_ACCOUNTS);
    assertEquals(publishes(manager, `u${count - 1}`), true);
    assertEquals(publishes(manager, `u${count - 1}`), false);
    assertEquals([publishes(manager, "u0"), publishes(manager, "u0")], [true, true]);
    time.tick(2_000_000);
    assertEquals(publishes(manager, "eve"), true);
    assertEquals(manager.stats().rates.remembered, 1);
  },
);

Deno.test("SessionManager.publish() counts nothing without a rate of publications", () => {
  const rates = {
    perSession: { subscriptions: { perSecond: 1 } },
    perUser: { cost: { perSecond: 1 } },
  };
  const manager = new SessionManager({ rates });
  for (let i = 0; i < 100; i++) assertEquals(publishes(manager, "eve"), true);
  assertEquals(manager.stats().rates.remembered, 0);
});

Deno.test("SessionManager creates no meter without a rate for messages", async () => {
  const rates = { perUser: { messages: { perSecond: 1 } } };
  await using manager = new SessionManager({ rates });
  const limiter = new SessionLimiter(platformRuntime());
  const { session } = join(manager);
  const account = limiter.accounts.of({ address: "192.0.2.1" });
  assertEquals(limiter.rates.meter(session, { user: "ann", account }), undefined);
  assertEquals(manager.stats().rates.remembered, 0, "This session has no user");
});

Deno.test("SessionManager() rejects invalid rates", () => {
  const cases: readonly [RateLimitsOptions, string][] = [
    [{ perSession: { messages: { perSecond: 0 } } }, "perSession.messages.perSecond"],
    [{ perUser: { bytes: { perSecond: -1 } } }, "perUser.bytes.perSecond"],
    [{ perAddress: { connections: { perSecond: 1, burst: 0 } } }, "perAddress.connections.burst"],
    [{ maxRejections: 0 }, "maxRejections"],
  ];
  for (const [rates, name] of cases) {
    const { message } = assertThrows(() => new SessionManager({ rates }), RangeError);
    assert(message.startsWith(`Cannot create manager: rates.${name} must be`), message);
  }
});
