/** Tests that lost sessions of a user give way to new ones, and that no other session does. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { pause, settlesWithin } from "../../base/wait.ts";
import { AuthenticationError, SessionClosedError } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { internals } from "../../session/session.ts";
import { type TestServer, testServer, type TestServerOptions } from "../../testing/mod.ts";
import { clockAhead } from "../../tests/globals/clock.ts";
import { turns, until } from "../../tests/waiting.ts";
import { GivingWay } from "./giving_way.ts";

type Options = TestServerOptions<string>;

/** A server that admits one session of each user, whose name is the token. */
function serverOf(options: Options = {}): TestServer<string> {
  return testServer<string>({
    authenticate: ({ token }) => {
      if (token === undefined) throw new AuthenticationError("Who?");
      return token;
    },
    tokens: { inMessage: true },
    limits: { maxSessionsPerUser: 1 },
    onSessionRejected() {},
    onError() {},
    ...options,
  });
}

/** The ways to present a token, which is the name of the user. */
const WAYS = {
  "in the request": (user: string) => ({ headers: { authorization: `Bearer ${user}` } }),
  "in band": (user: string) => ({ token: user }),
};

/** Dials as a user, and records how that ends: `in`, or the close code. */
function come(server: TestServer<string>, options: object = WAYS["in the request"]("ann")) {
  const coming = { outcome: "waiting" as string | undefined, session: server.dial(options) };
  coming.session.then(() => coming.outcome = "in", (error) => {
    assert(error instanceof SessionClosedError, String(error));
    coming.outcome = String(error.info?.code);
  });
  return coming;
}

/** Waits for an outcome that needs no time. */
async function outcomeOf(coming: ReturnType<typeof come>): Promise<string | undefined> {
  await until(() => coming.outcome !== "waiting");
  return coming.outcome;
}

async function pass(time: FakeTime, ms: number): Promise<void> {
  await time.tickAsync(ms);
  await turns(20);
}

for (const [way, as] of Object.entries(WAYS)) {
  Deno.test(`A lost session gives way to a new session of its user, whose token comes ${way}`, async () => {
    using time = new FakeTime();
    await using server = serverOf();
    const lost = await server.dial(as("ann"));
    const [there] = server.manager.sessionsOf("ann");
    server.network.disconnect({ silent: true });
    const early = come(server, as("ann"));
    assertEquals(await outcomeOf(early), "4429", "It was heard just now");
    await pass(time, 2_000);
    const next = come(server, as("ann"));
    await turns(20);
    await pass(time, 2_900);
    assertEquals(next.outcome, "waiting");
    await pass(time, 200);
    assertEquals(await outcomeOf(next), "in");
    const { code, reason, by } = await there!.closed;
    assertEquals({ code, reason, by }, { code: 4408, reason: "No sign of life", by: "network" });
    assertEquals(server.manager.sessionsOf("ann").length, 1);
    await (await next.session).close();
    void lost.close();
  });

  Deno.test(`A session that replies never gives way, whose token comes ${way}`, async () => {
    using time = new FakeTime();
    await using server = serverOf();
    await using ann = await server.dial(as("ann"));
    const [there] = server.manager.sessionsOf("ann");
    for (let i = 0; i < 20; i++) {
      await pass(time, 1_000);
      const next = come(server, as("ann"));
      assertEquals(await outcomeOf(next), "4429", "The reply is immediate");
    }
    assert(ann.isReady && there!.isReady);
  });
}

Deno.test("A user has one round of pings in 10 s", async () => {
  using time = new FakeTime();
  await using server = serverOf();
  await using ann = await server.dial(WAYS["in band"]("ann"));
  const { sending } = server.manager.sessionsOf("ann")[0]![internals];
  const { roundTripMs } = sending;
  await pass(time, 2_000);
  for (const [ms, isPinged] of [[0, true], [0, false], [9_900, false], [200, true]] as const) {
    await pass(time, ms);
    // Any round sets it.
    sending.roundTripMs = undefined;
    const next = come(server);
    assertEquals([await outcomeOf(next), sending.roundTripMs !== undefined], ["4429", isPinged]);
  }
  assert(ann.isReady && roundTripMs === undefined);
});

Deno.test("Neither strangers nor other users cause a session to be pinged", async () => {
  using time = new FakeTime();
  await using server = serverOf();
  await using _ann = await server.dial(WAYS["in band"]("ann"));
  const [there] = server.manager.sessionsOf("ann");
  server.network.disconnect({ silent: true });
  await pass(time, 5_000);
  const stranger = come(server, {});
  const bob = come(server, WAYS["in band"]("bob"));
  assertEquals([await outcomeOf(stranger), await outcomeOf(bob)], ["4401", "in"]);
  const second = come(server, WAYS["in band"]("bob"));
  assertEquals(await outcomeOf(second), "4429");
  await pass(time, 5_000);
  assertEquals(there!.isReady, true);
  await (await bob.session).close();
});

Deno.test("At most 16 new sessions wait, and as many enter as sessions gave way", async () => {
  using time = new FakeTime();
  await using server = serverOf({ limits: { maxSessionsPerUser: 3 } });
  const lost = await Promise.all([1, 2].map(() => server.dial(WAYS["in band"]("ann"))));
  server.network.disconnect({ silent: true });
  await using alive = await server.dial(WAYS["in band"]("ann"));
  await pass(time, 5_000);
  const all = Array.from({ length: 20 }, () => come(server));
  await turns(20);
  const count = (outcome: string) => all.filter((one) => one.outcome === outcome).length;
  await until(() => count("4429") === 4);
  await turns(20);
  assertEquals(count("waiting"), 16);
  await pass(time, 3_000);
  await until(() => count("waiting") === 0);
  assertEquals([count("in"), count("4429")], [2, 18]);
  assert(alive.isReady);
  assertEquals(server.manager.stats().reserved, 0);
  for (const { session } of all) await session.then((one) => one.close(), () => {});
  for (const one of lost) void one.close();
});

Deno.test("A new session that leaves while it waits frees its slot", async () => {
  using time = new FakeTime();
  let asked = 0;
  await using server = serverOf({
    limits: { maxSessionsPerUser: 1, maxSessions: 2 },
    authenticate: ({ token = "" }) => {
      asked++;
      return token;
    },
  });
  const lost = await server.dial(WAYS["in band"]("ann"));
  server.network.disconnect({ silent: true });
  await pass(time, 2_000);
  const stop = new AbortController();
  const leaving = server.dial({ ...WAYS["in band"]("ann"), signal: stop.signal });
  const left = assertRejects(() => leaving);
  await until(() => asked === 2);
  await turns(20);
  assertEquals(server.manager.stats().reserved, 1);
  stop.abort();
  await left;
  await until(() => server.manager.stats().reserved === 0);
  await pass(time, 3_000);
  assertEquals(server.manager.count, 0);
  void lost.close();
});

Deno.test("A server that was suspended during the wait closes no session", async () => {
  using time = new FakeTime();
  await using server = serverOf();
  const ann = await server.dial(WAYS["in band"]("ann"));
  const [there] = server.manager.sessionsOf("ann");
  await pass(time, 2_000);
  server.network.stall();
  const next = come(server);
  await turns(20);
  {
    using _ = clockAhead(60_000);
    await pass(time, 3_000);
    assertEquals([await outcomeOf(next), there!.isReady], ["4429", true]);
  }
  server.network.resume();
  await ann.close();
});

Deno.test("Server.close() ends the wait of new sessions, and leaves no timer", async () => {
  using time = new FakeTime();
  const server = serverOf();
  const lost = await server.dial(WAYS["in band"]("ann"));
  server.network.disconnect({ silent: true });
  await pass(time, 2_000);
  const next = come(server);
  await turns(20);
  assertEquals(next.outcome, "waiting");
  const closing = server.close();
  await pass(time, 10_000);
  await closing;
  assert(next.outcome === "4503" || next.outcome === "4429", next.outcome);
  void lost.close();
});

Deno.test("A client that reconnects replaces its lost sessions immediately", async () => {
  using time = new FakeTime();
  await using server = serverOf();
  const lost = await server.dial(WAYS["in band"]("ann"));
  const [there] = server.manager.sessionsOf("ann");
  const secret = lost[internals].lineage.ticket!.split(".")[1];
  const path = `/?ticket=.${secret}`;
  // A session of another user cannot be replaced, whatever its ticket.
  await using bob = await server.dial({ path, ...WAYS["in band"]("bob") });
  assert(there!.isReady && bob.isReady);
  // Two attempts at a time, of which the first may hang.
  const first = await server.dial({ path, ...WAYS["in band"]("ann") });
  assertEquals((await there!.closed).reason, "The client has connected again");
  await using second = await server.dial({ path, ...WAYS["in band"]("ann") });
  assertEquals((await first.closed).code, 4408);
  await turns(20);
  assertEquals([server.manager.sessionsOf("ann").length, second.isReady], [1, true]);
  await pass(time, 0);
});

Deno.test("A lost session on another node gives way, and a live one does not", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const start = () => serverOf({ broker });
  await using a = start();
  await using b = start();
  await pass(time, 300);
  const ann = await a.dial(WAYS["in band"]("ann"));
  const [there] = a.manager.sessionsOf("ann");
  await pass(time, 2_000);
  const rejected = come(b);
  for (let i = 0; i < 10; i++) await pass(time, 50);
  assertEquals([await outcomeOf(rejected), there!.isReady], ["4429", true]);
  await pass(time, 10_000);
  a.network.disconnect({ silent: true });
  await pass(time, 2_000);
  const next = come(b, WAYS["in band"]("ann"));
  for (let i = 0; i < 40; i++) await pass(time, 100);
  assertEquals(await outcomeOf(next), "in");
  assertEquals({ code: (await there!.closed).code, onA: a.manager.count, onB: b.manager.count }, {
    code: 4408,
    onA: 0,
    onB: 1,
  });
  await (await next.session).close();
  void ann.close();
});

Deno.test("Two nodes that ask each other for room at once don't wait for each other", async () => {
  using time = new FakeTime();
  await using a = serverOf();
  await using b = serverOf();
  const lost = await a.dial(WAYS["in band"]("ann"));
  a.network.disconnect({ silent: true });
  await pass(time, 2_000);
  const handlers: ((user: string) => unknown)[] = [];
  const runtime = platformRuntime();
  const [one, two] = [a, b].map(({ manager }, node) => {
    const nodes = {
      handle: (_kind: string, handler: (user: string) => unknown) => {
        handlers[node] = handler;
        return { [Symbol.dispose]() {} };
      },
      async ask(_kind: string, user: string, { timeoutMs }: { readonly timeoutMs: number }) {
        await pause(runtime, 10);
        const reply = Promise.resolve(handlers[1 - node]!(user));
        const isInTime = await settlesWithin(runtime, reply, timeoutMs - 10);
        return { replies: isInTime ? [{ node: "other", data: await reply }] : [] };
      },
    };
    const released = () => Promise.resolve();
    return new GivingWay({ runtime, manager, released, nodes: nodes as unknown as Nodes });
  });
  using _one = one!;
  using _two = two!;
  const newcomer = { secret: undefined, signal: undefined, isHttp: false };
  const rooms = Promise.all([one!, two!].map((node) => node.makeRoom("ann", newcomer)));
  for (let i = 0; i < 40; i++) await pass(time, 100);
  assertEquals(await rooms, [true, true]);
  void lost.close();
});

Deno.test("The end of a user's earlier round does not end the limits of the running one", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const start = () => serverOf({ broker });
  await using a = start();
  await using b = start();
  await pass(time, 300);
  const lost = await a.dial(WAYS["in band"]("ann"));
  const early = come(b);
  for (let i = 0; i < 10; i++) await pass(time, 50);
  assertEquals(early.outcome, "4429");
  a.network.disconnect({ silent: true });
  await pass(time, 8_500);
  const waiting = Array.from({ length: 16 }, () => come(b));
  for (let i = 0; i < 12; i++) await pass(time, 100);
  const late = come(b);
  for (let i = 0; i < 6; i++) await pass(time, 100);
  assertEquals([waiting[0]!.outcome, late.outcome], ["waiting", "4429"]);
  for (let i = 0; i < 60; i++) await pass(time, 100);
  for (const { session } of waiting) await session.then((one) => one.close(), () => {});
  void lost.close();
});

Deno.test("A client whose hanging attempt is counted already gets in, on its first connection and later", async () => {
  using time = new FakeTime();
  let isLost = true;
  await using server = serverOf({
    authenticate: ({ token = "" }) => {
      // The server counts the attempt, but its hello does not arrive.
      if (isLost) server.network.stall("to-client");
      isLost = false;
      return token;
    },
  });
  await using client = server.connect({ token: "ann", connectTimeoutMs: Infinity });
  client.status.subscribe(() => {});
  for (const isFirst of [true, false]) {
    if (!isFirst) {
      isLost = true;
      client.session![internals].abort(4408, "Lost", undefined, "network");
      await until(() => client.status.current.name === "reconnecting");
      client.retryNow();
    }
    await until(() => !isLost && server.manager.count === 1);
    const [hanging] = server.manager.sessionsOf("ann");
    assert(!client.isConnected);
    client.retryNow();
    for (let i = 0; i < 40 && !client.isConnected; i++) await pass(time, 50);
    assertEquals([client.isConnected, server.manager.count], [true, 1], `${isFirst}`);
    assertEquals(hanging!.isClosed, true);
  }
});
