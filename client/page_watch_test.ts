import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "./recovery.ts";
import { ConnectionError, TimeoutError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import { Network, settled } from "../tests/clients.ts";
import { platformRuntime } from "../base/runtime.ts";
import { internals } from "../session/core.ts";
import { type PageClient, PageWatch } from "./page_watch.ts";
import { testServer } from "../testing/test_server.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import { HELLO, type Peer } from "../tests/sessions.ts";
import type { Client } from "./client.ts";
import { turns } from "../tests/waiting.ts";

const URL_OF_NETWORK = "memory://server/";

/** The globals of a page that the tests' platform lacks. */
const page = globalThis as {
  document?: EventTarget & { hidden: boolean };
};

/** Provides a document until it is disposed. */
function withDocument(hidden = false) {
  const document = Object.assign(new EventTarget(), { hidden });
  page.document = document;
  return Object.assign(document, { [Symbol.dispose]: () => delete page.document });
}

/** Sets the network state of `navigator` until it is disposed. */
function withNavigator(own: Record<string, unknown>): Disposable {
  for (const [name, value] of Object.entries(own)) {
    Object.defineProperty(navigator, name, { configurable: true, value });
  }
  return {
    [Symbol.dispose]() {
      for (const name of Object.keys(own)) Reflect.deleteProperty(navigator, name);
    },
  };
}

/** A connected client with its watches loaded. */
async function connected(network: Network, options: Parameters<Network["client"]>[0] = {}) {
  const client = network.client(options);
  assertEquals(await settled(client), "connected");
  return client;
}

async function heard(client: Client): Promise<[name: string, reason: string | undefined]> {
  const name = await settled(client);
  const { current } = client.status;
  return [name, "cause" in current ? current.cause.reason : undefined];
}

for (
  const [what, wake] of [
    ["is back online", () => dispatchEvent(new Event("online"))],
    ["becomes visible again", () => dispatchEvent(new Event("visibilitychange"))],
    ["thaws", () => page.document!.dispatchEvent(new Event("resume"))],
    [
      "comes back from the browser's cache",
      () => dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true })),
    ],
  ] as const
) {
  Deno.test(`PageWatch aborts a silent session when its page ${what}, and the client reconnects immediately`, async () => {
    using time = new FakeTime();
    using _document = withDocument();
    const network = new Network();
    await using client = await connected(network);
    const { session } = client;
    network.pairs[0]!.link.disconnect({ silent: true });
    wake();
    await turns();
    await time.tickAsync(4_999);
    assertEquals(await settled(client), "connected");
    assertEquals(client.session, session);
    await time.tickAsync(1);
    assertEquals(await settled(client), "connected");
    assertEquals(network.dials.length, 2, "without a delay");
    assert(client.session !== session);
    const { code, reason, by, error } = await session!.closed;
    assertEquals({ code, reason, by }, { code: 4408, reason: "No sign of life", by: "network" });
    assert(error instanceof TimeoutError && error.timeoutMs === 5_000);
  });

  Deno.test(`PageWatch keeps a session that replies to its ping when its page ${what}`, async () => {
    using time = new FakeTime();
    using _document = withDocument();
    const network = new Network();
    await using client = await connected(network);
    const { session } = client;
    wake();
    await turns();
    assert(session!.roundTripMs !== undefined, "It was pinged");
    await time.tickAsync(30_000);
    assertEquals(client.session, session);
    assertEquals(network.dials.length, 1);
  });

  Deno.test(`PageWatch makes a waiting client retry immediately when its page ${what}`, async () => {
    using _time = new FakeTime();
    using _document = withDocument();
    const network = new Network();
    network.outcomes.push(network.nobody);
    await using client = network.client();
    assertEquals(await settled(client), "reconnecting");
    wake();
    assertEquals(await settled(client), "connected");
    assertEquals(network.dials.length, 2);
  });
}

Deno.test("PageWatch pings after the network changes, if the platform reports it", async () => {
  using time = new FakeTime();
  const connection = new EventTarget();
  using _navigator = withNavigator({ connection });
  const network = new Network();
  await using client = await connected(network);
  network.cut = () => network.pairs.at(-1)!.link.disconnect({ silent: true });
  network.cut();
  connection.dispatchEvent(new Event("change"));
  await turns();
  await time.tickAsync(5_000);
  assertEquals(await settled(client), "connected");
  assertEquals(network.dials.length, 2);
});

Deno.test("PageWatch sends no ping when its page is hidden, or shown for the first time", async () => {
  using _time = new FakeTime();
  using _document = withDocument(true);
  const network = new Network();
  await using client = await connected(network);
  dispatchEvent(new Event("visibilitychange"));
  dispatchEvent(new Event("pageshow"));
  await turns();
  assertEquals(client.session!.roundTripMs, undefined);
});

/** Lets time pass and handles all events that occur meanwhile. */
async function pass(time: FakeTime, seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) {
    await time.tickAsync(1_000);
    await turns();
  }
}

/**
 * A client that has received this many bytes of messages, and whose clock has been read since then.
 */
async function flowing(time: FakeTime, network: Network, bytes: number) {
  const client = await connected(network, { onMessage() {} });
  network.last.send("news", "x".repeat(bytes));
  await pass(time, 5);
  assert(client.session!.stats.receivedBytes >= bytes);
  return client;
}

Deno.test("PageWatch aborts the session of a server whose messages stopped, within one heartbeat", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = await flowing(time, network, 4_096);
  const { session } = client;
  network.pairs[0]!.link.disconnect({ silent: true });
  await pass(time, 16);
  assertEquals(client.session, session);
  await pass(time, 1);
  assertEquals(await settled(client), "connected");
  assertEquals(network.dials.length, 2);
  assertEquals((await session!.closed).by, "network");
});

Deno.test("PageWatch aborts a silent session 5 s after its page wakes, although its messages had stopped before", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = await flowing(time, network, 4_096);
  const { session } = client;
  network.pairs[0]!.link.disconnect({ silent: true });
  await pass(time, 6); // It was pinged because its messages stopped, with a longer time limit.
  for (const type of ["online", "visibilitychange"]) dispatchEvent(new Event(type));
  await pass(time, 4);
  assertEquals(client.session, session);
  await pass(time, 1);
  assertEquals(await settled(client), "connected");
  assertEquals(network.dials.length, 2);
});

Deno.test("PageWatch keeps the session of a server whose messages stopped, if it gives a sign of life", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = await flowing(time, network, 4_096);
  await pass(time, 30);
  assert(client.session!.roundTripMs !== undefined, "It was pinged");
  assertEquals(network.dials.length, 1);
});

Deno.test("PageWatch leaves a server that sends few messages to the heartbeat", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using _client = await flowing(time, network, 100);
  network.pairs[0]!.link.disconnect({ silent: true });
  await pass(time, 54);
  assertEquals(network.dials.length, 1);
  await pass(time, 10);
  assertEquals(network.dials.length, 2);
});

Deno.test("PageWatch sends a ping after the machine slept, and aborts the session of a silent peer", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = await connected(network);
  const { session } = client;
  await time.tickAsync(20_000);
  assertEquals(session!.roundTripMs, undefined, "Timers that are on time are no reason");
  network.pairs[0]!.link.disconnect({ silent: true });
  {
    using _ = clockAhead(3_600_000);
    await time.tickAsync(5_000);
    await turns();
    await time.tickAsync(5_000);
    assertEquals(await settled(client), "connected");
  }
  assertEquals(network.dials.length, 2);
  assert(client.session !== session);
});

Deno.test("PageWatch sends a second ping if its own timer was late, and aborts no session after the first", async () => {
  using time = new FakeTime();
  const network = new Network();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made));
  await using client = network.client();
  await turns();
  peer!.say(HELLO);
  const session = await client.whenConnected();
  await turns();
  const asked = () => peer!.envelopes.flatMap(({ ping }) => ping === undefined ? [] : [ping]);
  dispatchEvent(new Event("online"));
  await turns();
  assertEquals(asked().length, 1);
  // The page is frozen before the pong arrives, and its timer runs when it thaws.
  using _ = clockAhead(600_000);
  await time.tickAsync(5_000);
  await turns();
  assertEquals(client.session, session);
  const pings = asked();
  peer!.say({ pong: pings.at(-1) });
  await turns();
  await time.tickAsync(9_000);
  assertEquals([session.isClosed, network.dials.length], [false, 1]);
});

Deno.test("PageWatch skips the delay after an attempt that fails right after waking", async () => {
  using _time = new FakeTime();
  const network = new Network();
  const attempt = Promise.withResolvers<never>();
  network.outcomes.push(network.nobody, () => attempt.promise);
  await using client = network.client();
  assertEquals(await settled(client), "reconnecting");
  client.retryNow();
  assertEquals(await settled(client), "connecting");
  dispatchEvent(new Event("online"));
  assertEquals(network.dials.length, 2);
  attempt.reject(new Error("The network is gone"));
  assertEquals(await settled(client), "connected");
  assertEquals(network.dials.length, 3);
});

Deno.test("PageWatch makes the client reconnect immediately if the server closed while the page was frozen", async () => {
  using _time = new FakeTime();
  const network = new Network();
  await using client = await connected(network);
  // Both events are unread when the page thaws.
  dispatchEvent(new Event("online"));
  network.pairs[0]!.server.close({ closeCode: 4408, reason: "No sign of life" });
  assertEquals(await settled(client), "connected");
  assertEquals(network.dials.length, 2);
});

Deno.test("PageWatch pings once for a burst of events", async () => {
  using _time = new FakeTime();
  using document = withDocument();
  const network = new Network();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made));
  await using client = network.client();
  await turns();
  peer!.say(HELLO);
  await client.whenConnected();
  await turns();
  for (const type of ["online", "visibilitychange"]) dispatchEvent(new Event(type));
  document.dispatchEvent(new Event("resume"));
  await turns();
  assertEquals(peer!.envelopes.filter(({ ping }) => ping !== undefined).length, 1);
});

Deno.test("PageWatch retries the preferred transport every 10 minutes, however the clock is set", async () => {
  using time = new FakeTime();
  const tries: unknown[] = [];
  const session = {
    transport: "websocket",
    fallback: { transport: "webtransport", error: undefined },
    [internals]: { receiving: { stats: { receivedBytes: 0 } } },
  };
  const client = {
    session,
    status: undefined,
    handOver: ({ transport }: { transport: string }) => Promise.resolve(!!tries.push(transport)),
    wake() {},
  } as unknown as PageClient;
  using _watch = new PageWatch(client, { runtime: platformRuntime(), upgrades: true });
  await time.tickAsync(605_000);
  assertEquals(tries, ["webtransport"]);
  using _set = clockAhead(-3_600_000);
  await time.tickAsync(10_000);
  assertEquals(tries.length, 2);
  await time.tickAsync(590_000);
  assertEquals(tries.length, 2);
  await time.tickAsync(300_000);
  assertEquals(tries.length, 3);
});

Deno.test("Client makes fewer attempts while its page is offline, one per longest delay", async () => {
  using time = new FakeTime(0);
  const network = new Network();
  network.outcomes.push(network.nobody, network.nobody);
  {
    using _offline = withNavigator({ onLine: false });
    await using client = network.client({ backoff: { maxDelayMs: 8_000, maxAttempts: 1 } });
    for (const dials of [1, 2]) {
      const [name] = await heard(client);
      assertEquals([name, network.dials.length], ["reconnecting", dials]);
      await time.tickAsync(8_000);
    }
    assertEquals(await settled(client), "connected");
    assertEquals(network.dials.map(({ at }) => at), [0, 8_000, 16_000]);
  }
});

Deno.test("PageWatch leaves no timer running", async () => {
  const network = new Network();
  const client = await connected(network);
  dispatchEvent(new Event("online"));
  await turns();
  assert(client.session!.roundTripMs !== undefined, "It is watched");
  await client.close();
});

Deno.test("PageWatch releases page and clock when its client closes", async () => {
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.nobody);
  const client = network.client();
  assertEquals(await settled(client), "reconnecting");
  await client.close();
  dispatchEvent(new Event("online"));
  await time.tickAsync(60_000);
  assertEquals(network.dials.length, 1);
});

/** Replaces the end of a connection. */
function withClosed(connection: Connection, closed: Promise<never>): Connection {
  closed.catch(() => {});
  return new Proxy(connection, {
    get(target, name) {
      if (name === "closed") return closed;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** A session that is silent from now on. */
async function silenced(network: Network) {
  const client = await connected(network);
  network.pairs.at(-1)!.link.disconnect({ silent: true });
  return client;
}

for (
  const [what, counts, act] of [
    ["its heartbeat ends it", true, async (time: FakeTime) => await pass(time, 75)],
    ["its page is visible again", true, async (time: FakeTime) => {
      await pass(time, 3);
      dispatchEvent(new Event("visibilitychange"));
      await pass(time, 6);
    }],
    ["its page is back online", false, async (time: FakeTime) => {
      await pass(time, 3);
      dispatchEvent(new Event("online"));
      await pass(time, 6);
    }],
    ["its network changed before the heartbeat ends it", false, async (time: FakeTime) => {
      await pass(time, 54);
      dispatchEvent(new Event("online"));
      await pass(time, 5);
    }],
    ["its machine slept", false, async (time: FakeTime) => {
      using _ = clockAhead(3_600_000);
      await pass(time, 15);
    }],
    ["its page says that it is offline", false, async (time: FakeTime) => {
      using _navigator = withNavigator({ onLine: false });
      await pass(time, 120);
    }],
  ] as const
) {
  Deno.test(`Client ${counts ? "counts" : "does not count"} a session that fell silent as a loss of its transport if ${what}`, async () => {
    using time = new FakeTime();
    const network = new Network();
    await using client = await silenced(network);
    await act(time);
    await settled(client);
    assertEquals(network.dials.length, 2);
    const { silent } = network.dials[1]!;
    assertEquals(
      [silent?.url, silent?.transport],
      counts ? [URL_OF_NETWORK, "memory"] : [
        undefined,
        undefined,
      ],
    );
    assertEquals(silent?.error instanceof TimeoutError, counts);
    // The loss must be reported only once.
    network.pairs.at(-1)!.link.disconnect();
    await pass(time, 2);
    await settled(client);
    assertEquals([network.dials.length, network.dials[2]?.silent], [3, undefined]);
  });
}

for (const isTimeout of [true, false]) {
  Deno.test(`Client ${isTimeout ? "counts" : "does not count"} a broken connection as silent, as its transport says and not as its text does`, async () => {
    using time = new FakeTime();
    const network = new Network();
    const broken = Promise.withResolvers<never>();
    network.outcomes.push(() => withClosed(network.accept(), broken.promise));
    await using client = await connected(network);
    const text = isTimeout ? "The connection broke: silent" : "The connection broke: timed out";
    const error = new ConnectionError(text, { isTimeout });
    broken.reject(error);
    network.cut();
    await pass(time, 2);
    await settled(client);
    assertEquals(network.dials.map(({ silent }) => silent?.error), [
      undefined,
      isTimeout ? error : undefined,
    ]);
  });
}

for (const limit of ["connectTimeoutMs", "handshakeTimeoutMs"] as const) {
  Deno.test(`Client counts a connection without a hello within ${limit} as a loss of its transport`, async () => {
    using time = new FakeTime();
    const network = new Network();
    network.outcomes.push(network.byHand(() => {}));
    await using client = network.client({ [limit]: 3_000 });
    await pass(time, 5);
    await settled(client);
    assertEquals(network.dials.map(({ silent }) => silent?.transport), [undefined, "memory"]);
  });
}

Deno.test("Client does not count an attempt that never opened as a session that fell silent", async () => {
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.never);
  await using client = network.client({ connectTimeoutMs: 3_000 });
  await pass(time, 5);
  await settled(client);
  assertEquals([network.dials.length, network.dials[1]?.silent], [2, undefined]);
});

Deno.test("A page that is left or reloaded counts as a loss: its user stays in the room for the grace period", async () => {
  using time = new FakeTime();
  await using server = testServer({
    authenticate: ({ token }) => token ?? null,
    tokens: { inMessage: true },
    authorize: () => true,
    rooms: ["room:{name}"],
    presence: { graceMs: 5_000 },
  });
  const members = () => server.rooms.members("room:a").map(({ user }) => user);
  const enter = async () => {
    const client = server.connect({ token: "ann" });
    await client.whenConnected();
    await client.subscribe("room:a").ready;
    await turns();
    return client;
  };
  await using before = await enter();
  dispatchEvent(new Event("pagehide"));
  await before.close(); // A reloaded page loses its former client.
  assertEquals(members(), ["ann"]);
  await time.tickAsync(4_000);
  await using after = await enter();
  await time.tickAsync(4_000);
  await time.tickAsync(4_000);
  assertEquals([after.isConnected, members()], [true, ["ann"]]);
  dispatchEvent(new Event("pagehide"));
  await after.close();
  await time.tickAsync(4_900);
  assertEquals(members(), ["ann"]);
  await time.tickAsync(200);
  assertEquals(members(), []);
});
