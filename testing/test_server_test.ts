import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  AuthenticationError,
  ConnectionError,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import type { Session } from "../session/session.ts";
import { memorySessions } from "./memory_sessions.ts";
import { receive, receiveOne } from "./receive.ts";
import { guest } from "../server/admission/guest.ts";
import { type TestServer, testServer } from "./test_server.ts";
import { passTime, turns } from "./turns.ts";

/** Close code of a rejected session. */
async function rejection(dialing: Promise<unknown>): Promise<number | undefined> {
  const error = await assertRejects(() => dialing, SessionClosedError);
  return error.info?.code;
}

Deno.test("TestServer.dial() passes the whole admission", async () => {
  await using server = testServer({
    path: "/rooms/:id",
    hosts: ["localhost"],
    limits: { maxSessionsPerAddress: 1 },
    keepHeaders: ["user-agent"],
    onSessionRejected() {},
    authenticate: ({ request, token }) => {
      const name = token ?? request.headers.get("cookie");
      if (name === null) throw new AuthenticationError("Who are you?");
      return name;
    },
  });
  const cookie = { cookie: "ann" };
  const cases: [options: Parameters<TestServer["dial"]>[0], code: number][] = [
    [{ path: "/elsewhere", headers: cookie }, 4404],
    [{ path: "/rooms/a", headers: { ...cookie, origin: "https://evil.example" } }, 4403],
    [{ path: "/rooms/a" }, 4401],
  ];
  for (const [options, code] of cases) assertEquals(await rejection(server.dial(options)), code);
  await using session = await server.dial({
    path: "/rooms/a?token=bob",
    headers: { "user-agent": "test" },
    address: "192.0.2.1",
  });
  const [own] = server.manager.sessionsOf("bob");
  assertEquals(own!.id, session.id);
  assertEquals(own!.url, "http://localhost/rooms/a");
  assertEquals([own!.address, own!.headers.get("user-agent")], ["192.0.2.1", "test"]);
  const again = server.dial({ path: "/rooms/a", headers: cookie, address: "192.0.2.1" });
  assertEquals(await rejection(again), 4429);
});

Deno.test("TestServer.dial() sends a token message", async () => {
  await using server = testServer({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token === "s3cret" ? "ann" : null,
  });
  await using session = await server.dial({ token: "s3cret" });
  assertEquals(server.manager.sessionsOf("ann").map(({ id }) => id), [session.id]);
  assertEquals(await rejection(server.dial({ token: "wrong" })), 4401);
});

Deno.test("TestServer.dial() is a plain page without protocols", async () => {
  await using server = testServer({
    authenticate: ({ token }) => token ?? null,
    onMessage: (message, session) => session.send("echo", message.data),
  });
  await using page = await server.dial({ protocols: [], path: "/?token=ann" });
  page.send("say", "hello");
  assertEquals((await receiveOne(page)).data, "hello");
  assertEquals([page.protocol, page.connection.capabilities.streams], ["", false]);
  // The error contains the status, which browsers do not show.
  const error = await assertRejects(() => server.dial({ protocols: [] }), SessionClosedError);
  assertEquals((error.cause as ConnectionError).status, 401);
});

Deno.test("TestServer.dial() has streams and no messages if it offers only QMux", async () => {
  const come: unknown[] = [];
  await using server = testServer({
    onOpen: async (session) => {
      const reader = session.connection.incomingUnidirectionalStreams.getReader();
      const { value: stream } = await reader.read();
      come.push(...await receive(stream!, 1));
    },
  });
  await using bare = await server.dial({ protocols: ["qmux-01"] });
  const writer = (await bare.createUnidirectionalStream()).getWriter();
  await writer.write(Uint8Array.of(7));
  await turns();
  assertEquals([bare.protocol, come], ["", [Uint8Array.of(7)]]);
  assertThrows(() => bare.send("news"), UnsupportedError);
  await using whole = await server.dial({ protocols: ["qmux-01.skein.1"] });
  whole.send("news");
  assertEquals(whole.protocol, "skein.1");
});

Deno.test("TestServer supports rooms, presence and publications", async () => {
  using time = new FakeTime();
  await using server = testServer({
    authenticate: ({ token }) => token!,
    authorize: () => true,
    rooms: ["room:{name}"],
  });
  await using ann = await server.dial({ path: "/?token=ann" });
  await ann.subscribe("room:a");
  await using bob = await server.dial({ path: "/?token=bob" });
  await bob.subscribe("room:a");
  await bob.publish("room:a", "hi");
  await bob.close();
  await passTime(time, 5_000);
  const heard = (await receive(ann, 4)).map(({ topic, data }) => [
    topic,
    typeof data === "object" ? (data as { type: string }).type : data,
  ]);
  assertEquals(heard, [
    ["presence:room:a", "members"],
    ["presence:room:a", "join"],
    ["room:a", "hi"],
    ["presence:room:a", "leave"],
  ]);
});

Deno.test("TestServer.connect() creates a client that reconnects, with its outbox", async () => {
  using time = new FakeTime();
  const heard: unknown[] = [];
  await using server = testServer({
    authorize: () => true,
    onMessage: ({ data }) => void heard.push(data),
  });
  await using client = server.connect();
  const news = client.subscribe("news");
  await news.ready;
  assertEquals(server.clients.size, 1);

  server.network.down();
  await turns();
  assertEquals([client.status.current.name, server.manager.count], ["reconnecting", 0]);
  client.send("say", "meanwhile");
  await passTime(time, 10_000);
  assertEquals([client.isConnected, client.outbox.messages], [false, 1]);

  server.network.up();
  await passTime(time, 30_000);
  assertEquals([client.isConnected, heard], [true, ["meanwhile"]]);
  server.publish("news", "again");
  assertEquals((await receiveOne(news)).data, "again");
  await client.close();
  await turns();
  assertEquals(server.clients.size, 0);
});

Deno.test("TestServer.connect() waits its delay before each attempt", async () => {
  using time = new FakeTime();
  await using server = testServer();
  server.network.down();
  await using client = server.connect({ backoff: { firstDelayMs: 100, maxDelayMs: 300 } });
  const delays: number[] = [];
  for (let i = 0; i < 4; i++) {
    await turns();
    const { current } = client.status;
    if (current.name !== "reconnecting") continue;
    delays.push(current.delayMs);
    await passTime(time, current.delayMs);
  }
  assertEquals(delays, [100, 200, 300, 300]);
});

Deno.test("TestServer.drain() tells clients when to reconnect", async () => {
  using time = new FakeTime();
  const server = testServer();
  await using client = server.connect();
  await client.whenConnected();
  const draining = server.drain({ withinMs: 1_000 });
  await passTime(time, 1_000);
  assertEquals((await draining).closed, 1);
  await turns();
  assertEquals(client.status.current.name, "reconnecting");
});

Deno.test("TestNetwork.setFaults() rejects wrong faults before they apply to later connections", async () => {
  await using server = testServer();
  const { network } = server;
  assertThrows(
    () => network.setFaults({ lossRate: 5 }),
    RangeError,
    "Cannot set faults: lossRate must be from 0 to 1, received 5",
  );
  const wrong: [faults: object, direction: string | undefined, message: string][] = [
    [{ lossrate: 1 }, undefined, 'unknown option "lossrate"; did you mean "lossRate"?'],
    [
      { delayMs: 1 },
      "to-servers",
      'direction must be "to-server" or "to-client", received "to-servers"',
    ],
  ];
  for (const [faults, direction, message] of wrong) {
    assertThrows(() => network.setFaults(faults, direction as "to-server"), TypeError, message);
  }
  network.setFaults({ delayMs: undefined });
  assertEquals((await server.dial()).isReady, true);
});

Deno.test("TestServer rejects a path without a slash, and a wrong transport", async () => {
  await using server = testServer();
  const text = 'path must start with "/" or "?", received "chat"';
  await assertRejects(() => server.dial({ path: "chat" }), TypeError, `Cannot dial: ${text}`);
  assertThrows(() => server.connect({ path: "chat" }), TypeError, `Cannot connect: ${text}`);
  assertThrows(() => server.open({ path: "chat" }), TypeError, `Cannot open: ${text}`);
  await using session = await server.dial({ path: "?room=tea" });
  assertEquals(session.url, "http://localhost/?room=tea");
  const late = { latencyMs: 5 };
  assertThrows(() => testServer({ wire: { faults: late as never } }), TypeError, "wire.faults");
});

Deno.test("TestNetwork slows, stalls and cuts all connections, or one", async () => {
  using time = new FakeTime();
  await using server = testServer();
  server.network.setFaults({ delayMs: 100 }, "to-client");
  const dialing = server.dial();
  await passTime(time, 100);
  const ann = await dialing;
  server.network.setFaults({ delayMs: 0 });
  const bob = await server.dial();
  assertEquals(server.network.size, 2);

  server.network.linkOf(ann).stall("to-client");
  for (const { user } of server.manager.all()) server.to(user).send("n", 1);
  await turns();
  assertEquals([ann.stats.receivedMessages, bob.stats.receivedMessages], [0, 1]);
  server.network.resume();
  await turns();
  assertEquals(ann.stats.receivedMessages, 1);

  const [own] = server.manager.all().filter(({ id }) => id === ann.id);
  server.network.linkOf(own!).disconnect();
  await turns();
  assertEquals({
    annIsClosed: ann.isClosed,
    bobIsClosed: bob.isClosed,
    network: server.network.size,
  }, { annIsClosed: true, bobIsClosed: false, network: 1 });
  server.network.drain();
  await bob.connection.draining;
  server.network.disconnect({ silent: true });
  await passTime(time, 62_000);
  assertEquals([(await bob.closed).code, server.manager.count], [4408, 0]);
});

Deno.test("TestNetwork.linkOf() rejects sessions of other servers", async () => {
  await using server = testServer();
  await using pair = memorySessions();
  assertThrows(() => server.network.linkOf(pair.client), TypeError, "of this server");
  await using client = server.connect();
  assertThrows(() => server.network.linkOf(client), TypeError);
  await client.whenConnected();
  server.network.linkOf(client).resume();
});

Deno.test("TestServer.dial() rejects while the network is down", async () => {
  await using server = testServer();
  server.network.down();
  assertEquals(server.network.isDown, true);
  await assertRejects(() => server.dial(), ConnectionError, "the network is down");
});

Deno.test("TestServer stops waiting for authenticate when the client does", async () => {
  using time = new FakeTime();
  const answers: (() => void)[] = [];
  await using server = testServer({
    authenticate: () => new Promise<string>((resolve) => answers.push(() => resolve("ann"))),
  });
  const leaving = new AbortController();
  const late = server.dial({ connectTimeoutMs: 50 });
  const left = server.dial({ signal: leaving.signal });
  const rejections = [
    assertRejects(() => late, TimeoutError, "within 50 ms"),
    assertRejects(() => left, Error, "left"),
  ];
  await passTime(time, 50);
  leaving.abort(new Error("left"));
  await Promise.all(rejections);
  for (const answer of answers) answer();
  await turns();
  assertEquals([answers.length, server.manager.count, server.network.size], [2, 0, 0]);

  // The last attempt is still waiting when the test ends.
  await using client = server.connect();
  await turns();
  assertEquals([answers.length, client.status.current.name], [3, "connecting"]);
});

Deno.test("a client reconnects if the network goes down during authenticate", async () => {
  using time = new FakeTime();
  const first = Promise.withResolvers<string>();
  const users = [first.promise, "ann"];
  await using server = testServer({ authenticate: () => users.shift() ?? null });
  await using client = server.connect();
  await turns();
  server.network.down();
  first.resolve("ann");
  await turns();
  assertEquals(client.status.current.name, "reconnecting");
  server.network.up();
  await passTime(time, 1_000);
  assertEquals([client.isConnected, server.manager.count], [true, 1]);
});

Deno.test("TestServer does not keep a request's token in the session", async () => {
  const seen: (string | undefined)[] = [];
  const urls: string[] = [];
  await using server = testServer({
    authenticate({ token }) {
      seen.push(token);
      return guest;
    },
    onOpen: (session) => void urls.push(session.url),
  });
  // Another spelling of the parameter is not a token; its value would stay in the session's URL.
  for (const path of ["/?token=a%20b&x=1", "/?%74oken=s3cret&atoken=1", "/?x=1&token="]) {
    await using _session = await server.dial({ path });
  }
  assertEquals(seen, ["a b", undefined, ""]);
  assertEquals(urls.map((url) => new URL(url).searchParams.get("token")), [null, "s3cret", null]);
});

Deno.test("TestServer closes immediately in fake time, with any network", async () => {
  using _time = new FakeTime();
  const sessions: Session[] = [];
  const server = testServer({ onOpen: (session) => void sessions.push(session as Session) });
  await using _client = await server.dial();
  server.network.stall();
  for (let i = 0; i < 4; i++) sessions[0]!.send("much", "x".repeat(100_000));
  await turns();
  await server[Symbol.asyncDispose]();
  assertEquals(sessions[0]!.isClosed, true);
});
