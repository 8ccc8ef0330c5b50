import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  AuthenticationError,
  Client,
  CloseCode,
  ConnectionError,
  platformRuntime,
  type PresenceNotice,
  RequestError,
  type Session,
  SessionClosedError,
} from "../mod.ts";
import { dialWebSocket, dialWebTransport } from "../transport/mod.ts";
import { internals } from "../session/session.ts";
import {
  memoryPair,
  passTime,
  receiveOne,
  type TestServer,
  testServer,
  turns,
} from "../testing/mod.ts";
import { raceTransports } from "../transport/race/race.ts";
import { webTransportLeg } from "../transport/race/webtransport_leg.ts";
import type { Dialer } from "../client/client_options.ts";
import { denoPlatform } from "../client/deno.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { listen } from "./servers.ts";
import { Peer } from "./sessions.ts";
import { underWithheldCredit } from "./withheld_credit.ts";
import { soon, until } from "./waiting.ts";

Deno.test("Client.handOver() continues in another session, and closes the first one", async () => {
  const opened: Session[] = [];
  const closed: string[] = [];
  await using server = testServer({
    onOpen: (session) => void opened.push(session),
    onClose: ({ id }, { code, by }) => void closed.push(`${id} ${code} ${by}`),
  });
  await using client = server.connect();
  const first = await client.whenConnected();
  assert(await client.handOver());
  assertNotEquals(client.session, first);
  await first.closed;
  await turns();
  assertEquals(opened.map(({ id }) => id), [first.id, client.session!.id]);
  assertEquals(closed, [`${first.id} 0 remote`]);
  assertEquals(client.status.current.name, "connected");
  assertEquals(server.manager.count, 1);
});

Deno.test("Client.handOver() keeps a subscription to a topic to which the application subscribes too", async () => {
  await using server = testServer({
    authorize: () => true,
    history: { "log:{name}": {} },
    onOpen(session) {
      for (const topic of ["news", "log:a"]) server.subscribe(session, topic);
    },
  });
  await using client = server.connect();
  for (const topic of ["news", "log:a"]) {
    const subscription = client.subscribe(topic);
    await subscription.ready;
    assert(await client.handOver());
    await until(() => subscription.status.current !== "lost");
    server.publish(topic, 1);
    assertEquals((await soon(receiveOne(subscription))).data, 1);
  }
});

Deno.test("Client.handOver() lets a request finish in its original session", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = testServer({
    async onMessage(message, session) {
      if (message.topic === "slow") await gate.promise;
      message.reply(session.id);
    },
    session: { concurrency: 4 },
  });
  await using client = server.connect();
  const first = await client.whenConnected();
  const slow = client.request("slow");
  await turns();
  assert(await client.handOver());
  assertEquals(await client.request("fast"), client.session!.id);
  assert(!first.isClosed);
  gate.resolve();
  assertEquals(await slow, first.id);
  await first.closed;
});

Deno.test("Client.handOver() fails a request that does not finish within 30 s", async () => {
  using time = new FakeTime();
  await using server = testServer({ onMessage: () => new Promise(() => {}) });
  await using client = server.connect();
  const first = await client.whenConnected();
  const hanging = client.request("hang", 1, { timeoutMs: 60_000 }).catch((error: Error) =>
    error.name
  );
  await turns();
  const moving = client.handOver();
  await passTime(time, 0);
  assert(await moving);
  await passTime(time, 29_000);
  assert(!first.isClosed);
  await passTime(time, 7_000);
  assertEquals(await hanging, "SessionClosedError");
  assertEquals([first.isClosed, client.isConnected], [true, true]);
});

Deno.test("Client that loses its second session reconnects next to the first, and counts as one client", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  await using server = testServer({
    authenticate: () => "ann",
    limits: { maxSessionsPerUser: 1 },
    onMessage: async (message) => {
      await gate.promise;
      message.reply("late");
    },
  });
  await using client = server.connect({ onMessage: ({ data }) => void seen.push(data) });
  const first = await client.whenConnected();
  const slow = client.request("slow");
  await turns();
  const moving = client.handOver();
  await passTime(time, 0);
  assert(await moving);
  const second = client.session!;
  server.network.linkOf(client).disconnect();
  await passTime(time, 1_000);
  assertEquals({
    firstIsReady: first.isReady,
    secondIsReady: second.isReady,
    isConnected: client.isConnected,
  }, { firstIsReady: true, secondIsReady: false, isConnected: true });
  server.to("ann").send("direct", 1);
  await turns();
  assertEquals(seen, [1]);
  gate.resolve();
  assertEquals(await slow, "late");
  await passTime(time, 2_000);
  assertEquals([first.isClosed, client.isConnected], [true, true]);
  server.to("ann").send("direct", 2);
  await turns();
  assertEquals(seen, [1, 2]);
});

/** Opens the second session of a client, controlled by the test. */
async function openSecond(
  server: Pick<TestServer, "open">,
  ticket: string | undefined,
  path = "/?",
): Promise<Peer> {
  return new Peer(await server.open({ path: `${path}ticket=${ticket}` }));
}

const ticketOf = (session: Session | undefined) => session![internals].lineage.ticket;

Deno.test("Server holds no state of a second session that stays silent, and closes it after 5 s", async () => {
  using time = new FakeTime();
  const opened: string[] = [];
  const seen: unknown[] = [];
  await using server = testServer({
    authenticate: ({ token = "ann" }) => token,
    onOpen: ({ id }) => void opened.push(id),
    rooms: ["room"],
    authorize: () => true,
  });
  await using ann = await server.dial();
  await ann.subscribe("news");
  server.presence.subscribe((event) => void seen.push(event.type));
  await turns();
  const before = [opened.length, server.manager.count];
  const second = await openSecond(server, ticketOf(ann));
  await turns();
  assertEquals(second.envelopes.map((envelope) => Object.keys(envelope)), [["hello"]]);
  assertEquals([opened.length, server.manager.count], before);
  server.publish("news", 1);
  server.to("ann").send("direct", 2);
  await passTime(time, 5_000);
  assertEquals((await second.connection.closed).closeCode, 4408);
  assertEquals([opened.length, server.manager.count, seen], [...before, []]);
  assertEquals([(await receiveOne(ann)).data, (await receiveOne(ann)).data], [1, 2]);
});

Deno.test("Server ignores a ticket of another user, and an invalid ticket", async () => {
  await using broker = new MemoryBroker();
  const options = {
    broker,
    authenticate: ({ token }: { readonly token?: string | undefined }) => token ?? null,
    authorize: () => true,
    limits: { maxSessionsPerUser: 1 },
  };
  await using server = testServer(options);
  await using other = testServer(options);
  await using ann = await server.dial({ path: "/?token=ann" });
  await ann.subscribe("news");
  const ticket = ticketOf(ann)!;
  // A well-formed but invalid ticket. The session is rejected because it exceeds the limit.
  const wrong = await openSecond(server, `${ann.id}.${"A".repeat(22)}`, "/?token=ann&");
  assertEquals((await wrong.connection.closed).closeCode, 4429);
  const mallory = await openSecond(server, ticket, "/?token=mallory&");
  mallory.say('{"subscribe":"news","id":1}');
  await turns();
  assertEquals(server.manager.sessionsOf("mallory").length, 1);
  assertEquals(ann.state, "connected");
  assertEquals(server.manager.get(ann.id)?.state, "connected");
  server.publish("news", "hers");
  assertEquals((await receiveOne(ann)).data, "hers");
  // The session counts towards its own user, on all nodes.
  await assertRejects(
    () => other.dial({ path: "/?token=mallory" }),
    SessionClosedError,
    "at most 1",
  );
  mallory.connection.close();
});

Deno.test("Server lets two sessions of a moving client share one slot, but never three", async () => {
  await using server = testServer({
    authenticate: () => "ann",
    limits: { maxSessionsPerUser: 1 },
  });
  await using ann = await server.dial();
  const ticket = ticketOf(ann);
  const second = await openSecond(server, ticket);
  second.say('{"ping":1}');
  await turns();
  assertEquals(server.manager.sessionsOf("ann").length, 2);
  const third = await openSecond(server, ticket);
  assertEquals((await third.connection.closed).closeCode, 4429);
  const { hello } = second.envelopes[0] as { hello: { ticket: string } };
  const other = await openSecond(server, hello.ticket);
  assertEquals((await other.connection.closed).closeCode, 4429);
  // The remaining session keeps the slot.
  await ann.close();
  await turns();
  const full = await openSecond(server, undefined);
  assertEquals((await full.connection.closed).closeCode, 4429);
  const next = await openSecond(server, hello.ticket);
  next.say('{"ping":1}');
  await turns();
  assertEquals(server.manager.sessionsOf("ann").length, 2);
  second.connection.close();
  next.connection.close();
});

Deno.test("Client.handOver() works with a token in band, and with a slow onOpen", async () => {
  await using server = testServer({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token === "t" ? "ann" : null,
    authorize: () => true,
    onOpen: () => turns(),
    history: { log: {} },
    limits: { maxSessionsPerUser: 1 },
  });
  await using client = server.connect({ token: "t" });
  const log = client.subscribe("log");
  await log.ready;
  const first = client.session!;
  assert(await client.handOver());
  server.publish("log", 1);
  assertEquals((await receiveOne(log)).data, 1);
  await first.closed;
  assertEquals(server.manager.sessionsOf("ann").length, 1);
});

Deno.test("Client.handOver() changes nothing if the server lacks the feature, or rejects", async () => {
  let attempts = 0;
  await using server = testServer({
    authenticate() {
      if (++attempts === 1) return "ann";
      throw new AuthenticationError("One is enough");
    },
    onSessionRejected() {},
  });
  await using client = server.connect();
  const first = await client.whenConnected();
  assertEquals(await client.handOver(), false);
  assertEquals([client.session, client.isConnected], [first, true]);
  // A server that does not support handover.
  const old = memoryPair();
  const peer = new Peer(old.server);
  await using other = new Client("memory://old/", denoPlatform(() => Promise.resolve(old.client)));
  await turns();
  peer.say('{"hello":{"session":"s","heartbeatMs":25000,"maxMessageBytes":9999,"features":[]}}');
  await other.whenConnected();
  assertEquals(await other.handOver(), false);
  assertEquals(other.session?.id, "s");
  await old[Symbol.asyncDispose]();
});

Deno.test("Client.handOver() does not move to a session that delivers nothing after its hello", async () => {
  using time = new FakeTime();
  const opened: Session[] = [];
  const seen: unknown[] = [];
  await using server = testServer({
    authenticate: () => "ann",
    onOpen(session) {
      // The client's first envelope has arrived, and nothing that follows it will.
      if (opened.push(session) === 2) server.network.linkOf(session).disconnect({ silent: true });
    },
    onMessage: (message) => message.reply(message.data),
  });
  await using client = server.connect({ onMessage: ({ data }) => void seen.push(data) });
  const first = await client.whenConnected();
  const moving = client.handOver();
  await passTime(time, 9_000);
  assertEquals([await client.request("echo", 1), opened.length], [1, 2]);
  await passTime(time, 2_000);
  assertEquals([await moving, client.session === first], [false, true]);
  await passTime(time, 60_000);
  server.to("ann").send("direct", 1);
  await turns();
  assertEquals([seen, client.session === first], [[1], true]);
});

Deno.test("Client.handOver() does not use a session that opens after the first one breaks", async () => {
  using time = new FakeTime();
  const opened: Session[] = [];
  const seen: unknown[] = [];
  await using server = testServer({
    authenticate: () => "ann",
    onOpen(session) {
      // The first message follows the session's hello immediately.
      if (opened.push(session) === 3) server.to("ann").send("direct", 0);
    },
  });
  const gate = Promise.withResolvers<void>();
  const dial: Dialer = async (url) => {
    const { pathname, search } = new URL(url);
    // A reconnect does not name a session; it sends only the client's secret.
    if (/ticket=[^.]/.test(search)) await gate.promise;
    return await server.open({ path: pathname + search });
  };
  const onMessage = ({ data }: { data: unknown }) => void seen.push(data);
  await using client = new Client("http://localhost/", denoPlatform(dial), { onMessage });
  const connecting = client.whenConnected();
  await passTime(time, 100);
  const first = await connecting;
  const moving = client.handOver();
  await passTime(time, 100);
  server.network.linkOf(server.manager.get(first.id)!).disconnect();
  await passTime(time, 1_000);
  assertEquals(client.status.current.name, "connected");
  gate.resolve();
  await passTime(time, 100);
  server.to("ann").send("direct", 1);
  await passTime(time, 100);
  assertEquals(await moving, false);
  assertEquals(seen, [0, 1]);
  assertEquals(opened.map(({ id }) => id), [first.id, client.session!.id, opened[2]!.id]);
  assertEquals(opened[2]!.stats.receivedBytes, 0);
  assertEquals(server.manager.count, 1);
});

Deno.test("Client moves automatically on an engine that returns no credit, without losing or repeating a message", async () => {
  const { lost, doubled, sessions, messages } = await underWithheldCredit({
    bytes: 6 * 1_048_576,
    messageBytes: 8_192,
    streams: 2_000,
    // A sixteenth of WebKit's credit.
    credit: { bytes: 1_048_576, streams: 475 },
  });
  assertEquals({ lost, doubled, messages }, { lost: 0, doubled: 0, messages: 768 });
  assert(sessions >= 8, `${sessions} sessions`);
});

Deno.test("Client closes a session with little credit left if the server has no handover, and reconnects", async () => {
  using time = new FakeTime();
  const peers: Peer[] = [];
  const worn: (() => void)[] = [];
  await using client = new Client(
    "memory://old/",
    denoPlatform((_url, { onWorn }) => {
      const { client, server } = memoryPair();
      peers.push(new Peer(server));
      worn.push(onWorn!);
      return Promise.resolve(client);
    }),
  );
  const hello = (session: string) =>
    JSON.stringify({ hello: { session, heartbeatMs: 25_000, maxMessageBytes: 999, features: [] } });
  await turns();
  peers[0]!.say(hello("first"));
  await turns();
  const asked = client.request("slow");
  await turns();
  worn[0]!();
  await passTime(time, 1_000);
  // Gives pending requests some time to finish.
  assertEquals(client.session?.id, "first");
  peers[0]!.say('{"reply":1,"data":"done"}');
  assertEquals(await asked, "done");
  await passTime(time, 1_000);
  assertEquals((await peers[0]!.connection.closed).closeCode, 0);
  assertEquals(peers.length, 2);
  peers[1]!.say(hello("second"));
  await turns();
  assertEquals(client.session?.id, "second");
});

Deno.test("raceTransports() passes onWorn to the dialing function", async () => {
  const onWorn = () => {};
  const told: unknown[] = [];
  await using pair = memoryPair();
  const dial: Dialer = raceTransports({
    webSocket: () => Promise.reject(new Error("Not asked")),
    webTransport: (_url, options) => {
      told.push(options.onWorn);
      return Promise.resolve(pair.client);
    },
  });
  const { signal } = new AbortController();
  const runtime = platformRuntime();
  await dial("https://example.com/", { runtime, protocols: [], timeoutMs: 1_000, signal, onWorn });
  assertEquals(told, [onWorn]);
});

Deno.test("Client with upgrade tries its preferred transport within 35 s after a network change", async () => {
  using time = new FakeTime();
  let attempts = 0;
  await using server = testServer({
    // Prevents the session from ever moving.
    authenticate() {
      if (++attempts === 1) return "ann";
      throw new AuthenticationError("One is enough");
    },
    onSessionRejected() {},
  });
  const asked: (string | undefined)[] = [];
  const dial: Dialer = (url, { only, onFallback }) => {
    asked.push(only);
    if (!only) onFallback!({ transport: "webtransport", error: new ConnectionError("Late") });
    const { pathname, search } = new URL(url);
    return server.open({ path: pathname + search });
  };
  await using client = new Client("http://localhost/", denoPlatform(dial), { upgrade: true });
  await client.whenConnected();
  await passTime(time, 60_000);
  for (let i = 0; i < 10; i++) globalThis.dispatchEvent(new Event("online"));
  await passTime(time, 5_000);
  assertEquals(asked, [undefined, "webtransport"]);
  globalThis.dispatchEvent(new Event("online"));
  await passTime(time, 20_000);
  assertEquals(asked.length, 2);
  await passTime(time, 15_000);
  assertEquals(asked, [undefined, "webtransport", "webtransport"]);
  assertEquals(client.isConnected, true);
});

Deno.test("Client moves from WebSocket to WebTransport on a real server, with a history and a pending request", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = listen({
    webTransport: { cacheFolder: null },
    authorize: () => true,
    history: { log: {} },
    async onMessage(message, session) {
      if (message.topic === "slow") await gate.promise;
      message.reply(session.transport);
    },
    session: { concurrency: 2 },
  });
  let isBlocked = true;
  const leg = webTransportLeg(dialWebTransport);
  const dial = raceTransports({
    webSocket: dialWebSocket,
    webTransport: (url, options) =>
      isBlocked ? Promise.reject(new ConnectionError("UDP is blocked")) : leg(url, options),
  });
  await using client = new Client(server.url, denoPlatform(dial));
  const log = client.subscribe("log");
  await soon(log.ready);
  const first = client.session!;
  assertEquals([first.transport, first.fallback?.transport], ["websocket", "webtransport"]);
  const seen: unknown[] = [];
  const reading = (async () => {
    for await (const { data } of log) if (seen.push(data) === 300) return;
  })();
  const slow = client.request("slow");
  // The recorded failure of the transport must have no effect.
  isBlocked = false;
  const publishing = (async () => {
    for (let i = 0; i < 300; i++) {
      server.publish("log", i);
      if (i % 3 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  })();
  assert(await soon(client.handOver({ transport: "webtransport" })));
  assertEquals(client.session!.transport, "webtransport");
  assertEquals(await soon(client.request("fast")), "webtransport");
  await soon(Promise.all([publishing, reading]));
  assertEquals(seen, Array.from({ length: 300 }, (_, i) => i));
  assertEquals(first.isClosed, false);
  gate.resolve();
  assertEquals(await soon(slow), "websocket");
  await soon(first.closed);
  assertEquals(server.manager.count, 1);
});

Deno.test("Client.handOver() keeps the order of a topic whose old session is slow, with and without a history", async () => {
  using time = new FakeTime();
  await using server = testServer({ authorize: () => true, history: { log: {} } });
  await using client = server.connect();
  const seen: Record<string, unknown[]> = { log: [], news: [] };
  for (const topic of ["log", "news"]) {
    const subscription = client.subscribe(topic);
    await subscription.ready;
    void (async () => {
      for await (const { data } of subscription) seen[topic]!.push(data);
    })();
  }
  const first = client.session!;
  server.network.linkOf(client).setFaults({ delayMs: 2_000 }, "to-client");
  const moving = client.handOver();
  for (let i = 0; i < 40; i++) {
    for (const topic of ["log", "news"]) server.publish(topic, i);
    await turns(1);
  }
  await passTime(time, 0);
  assert(await moving);
  await turns();
  // Topics with a history don't wait for the old session; other topics keep their order.
  const all = Array.from({ length: 40 }, (_, i) => i);
  assertEquals(seen, { log: all, news: [] });
  await passTime(time, 2_500);
  assertEquals(seen, { log: all, news: all });
  await passTime(time, 3_000);
  assertEquals(first.isClosed, true);
});

Deno.test("Client.handOver() to another node repeats no publication after the subscription's reply there", async () => {
  using time = new FakeTime();
  await using broker = new MemoryBroker();
  const nodes = ["one", "two"].map(() => testServer({ authorize: () => true, broker }));
  await using one = nodes[0]!;
  await using two = nodes[1]!;
  await passTime(time, 300); // The nodes compare their options.
  let count = 0;
  const dial: Dialer = async (url) => {
    const { pathname, search } = new URL(url);
    return await nodes[Math.min(count++, 1)]!.open({ path: pathname + search });
  };
  await using client = new Client("http://localhost/", denoPlatform(dial));
  const first = await client.whenConnected();
  const topics = Array.from({ length: 100 }, (_, i) => `news:${i}`);
  const seen: string[] = [];
  await Promise.all(topics.map(async (topic) => {
    const subscription = client.subscribe(topic);
    await subscription.ready;
    void (async () => {
      for await (const { topic, data } of subscription) seen.push(`${topic} ${data}`);
    })();
  }));
  one.network.linkOf(one.manager.get(first.id)!).setFaults({ delayMs: 50 }, "to-client");
  const moving = client.handOver();
  for (let i = 0; i < 4; i++) await passTime(time, 50);
  assert(await moving);
  for (const [n, node] of [one, two].entries()) {
    for (const topic of topics) node.publish(topic, n);
    await passTime(time, 200);
  }
  assertEquals(seen.length, 200);
  assertEquals(new Set(seen).size, 200);
  await passTime(time, 5_000);
  assertEquals({ isClosed: first.isClosed, isConnected: client.isConnected, seen: seen.length }, {
    isClosed: true,
    isConnected: true,
    seen: 200,
  });
});

Deno.test("Client.handOver() does not wait for the rest of a topic that the server rejects or the client leaves", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  await using server = testServer({
    authorize: async (_, topic) => {
      if (topic === "late") await gate.promise;
      return topic === "news";
    },
  });
  await using client = server.connect();
  const news = client.subscribe("news");
  await news.ready;
  const first = client.session!;
  const late = assertRejects(() => client.subscribe("late").ready, RequestError);
  await turns();
  // This happens before the client subscribes to the topic in the new session.
  const left = client.handOver().then(() => news.unsubscribe());
  await passTime(time, 0);
  gate.resolve();
  await passTime(time, 3_000);
  assert(first.isClosed);
  await Promise.all([left, late]);
});

Deno.test("Client.handOver() ignores notices of a room from the first session after the list in the second", async () => {
  using time = new FakeTime();
  await using server = testServer({
    authenticate: ({ token }) => token ?? null,
    authorize: () => true,
    rooms: ["room:{name}"],
    presence: { graceMs: 0 },
  });
  const notices: string[] = [];
  await using ann = server.connect({
    path: "/?token=ann",
    onMessage: ({ data }) => {
      const { type, ...notice } = data as PresenceNotice;
      const users = "members" in notice ? notice.members.map(({ user }) => user) : [];
      notices.push([type, ...users].join(" "));
    },
  });
  await ann.subscribe("room:a").ready;
  server.network.linkOf(ann).setFaults({ delayMs: 6_000 }, "to-client");
  const bob = server.connect({ path: "/?token=bob" });
  await bob.subscribe("room:a").ready;
  const moving = ann.handOver();
  await passTime(time, 0);
  assert(await moving);
  await turns();
  await bob.close();
  await passTime(time, 6_000);
  assertEquals(notices, ["members ann", "members ann bob", "connections", "leave"]);
});

Deno.test("Client.handOver() drops messages from the first session for a topic that the client has left", async () => {
  using time = new FakeTime();
  await using server = testServer({ authorize: () => true });
  const errors: unknown[] = [];
  const seen: unknown[] = [];
  await using client = server.connect({
    onMessage: ({ data }) => void seen.push(data),
    onError: (error) => void errors.push(error),
  });
  const news = client.subscribe("news");
  await news.ready;
  const first = server.network.linkOf(client);
  first.stall("to-client");
  const moving = client.handOver();
  await passTime(time, 0);
  assert(await moving);
  await turns();
  server.network.linkOf(client).setFaults({ delayMs: 1_000 }, "to-server");
  const left = news.unsubscribe();
  first.disconnect();
  await turns();
  server.publish("news", 1);
  await turns();
  await passTime(time, 2_000);
  await left;
  assertEquals({ isConnected: client.isConnected, seen, errors }, {
    isConnected: true,
    seen: [],
    errors: [],
  });
});

for (
  const [bound, text, count] of [["bytes", "x".repeat(200_000), 3], [
    "messages",
    "",
    1_024,
  ]] as const
) {
  Deno.test(`Client.handOver() holds a limited number of ${bound} of the new session until the old one closes`, async () => {
    using time = new FakeTime();
    await using server = testServer({ authorize: () => true });
    await using client = server.connect();
    const news = client.subscribe("news");
    await news.ready;
    const seen: unknown[] = [];
    void (async () => {
      for await (const { data } of news) seen.push((data as { n: number }).n);
    })();
    // From here on the old session stays silent.
    server.network.linkOf(client).stall("to-client");
    const moving = client.handOver();
    await passTime(time, 0);
    assert(await moving);
    await turns();
    const expected: number[] = [];
    for (let n = 1; n <= count; n++) {
      assertEquals(seen, []);
      server.publish("news", { n, text: n === 1 ? "" : text });
      await turns();
      expected.push(n);
    }
    assertEquals(seen, expected);
    server.publish("news", { n: count + 1 });
    await turns();
    assertEquals(seen.at(-1), count + 1);
    await passTime(time, 16_000);
  });
}

Deno.test("Client.handOver() uses one slot of a user across all nodes", async () => {
  await using broker = new MemoryBroker();
  const options = {
    broker,
    authenticate: () => "ann",
    authorize: () => true,
    limits: { maxSessionsPerUser: 1 },
  };
  await using one = testServer(options);
  await using two = testServer(options);
  await Promise.all([one.nodes!.ready, two.nodes!.ready]);
  await using client = one.connect();
  await client.whenConnected();
  for (let i = 0; i < 3; i++) {
    const first = client.session!;
    assert(await client.handOver());
    await first.closed;
  }
  const claims = await broker.store.claims("sessions:ann");
  assertEquals([claims.length, one.manager.count], [1, 1]);
  const error = await assertRejects(() => two.dial(), SessionClosedError);
  assertEquals(error.info?.code, 4429);
  // The slot is free after the last session has closed.
  await client.close();
  await turns();
  await using other = await two.dial();
  assertEquals(other.isReady, true);
});

Deno.test("Server excludes a moving client from its own publication, in either session", async () => {
  await using server = testServer({ authenticate: () => "ann", authorize: () => true });
  const first = new Peer(await server.open());
  await turns();
  const { hello } = first.envelopes[0] as { hello: { ticket: string } };
  first.say('{"subscribe":"news","id":1,"client":"c"}\n{"subscribe":"other","id":2}');
  await turns();
  const second = await openSecond(server, hello.ticket);
  await turns();
  second.say('{"subscribe":"other","id":1,"client":"c"}');
  await turns();
  second.say('{"publish":"news","data":1,"id":2,"echo":false}');
  second.say('{"publish":"other","data":2,"id":3,"echo":false}');
  second.say('{"publish":"other","data":3,"id":4}');
  await turns();
  const topics = (peer: Peer) =>
    peer.envelopes.filter((envelope) => "topic" in envelope || "unsubscribed" in envelope);
  assertEquals(topics(first), [{ unsubscribed: "other", code: "handover", reason: "" }]);
  assertEquals(topics(second), [{ topic: "other", data: 3 }]);
  first.connection.close();
  second.connection.close();
});

Deno.test("Server.drain() closes a session that its client has left, and cuts no other", async () => {
  using time = new FakeTime();
  await using server = testServer({ authenticate: () => "ann" });
  await using client = server.connect();
  const first = await client.whenConnected();
  await first.createBidirectionalStream(); // Keeps the first session open.
  assert(await client.handOver());
  const draining = server.drain({ withinMs: 2_000 });
  await passTime(time, 1_500);
  assertEquals((await first.closed).code, CloseCode.draining);
  const { closed, cut } = await draining;
  assertEquals([closed, cut], [2, 0]);
});
