/**
 * Tests the inspector of a server: permissions, the data for the page, data from all nodes, and
 * that the inspector has no effect on the server.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { createServer, dial, type ServeOptions, type Server } from "../mod.ts";
import { type DurableStreamInfo, durableStreams, liveState } from "../streams/mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import type {
  HistoryReply,
  ListReply,
  NodeOverview,
  RoomReply,
  SessionReply,
  SessionRow,
  StreamRow,
  TopicRow,
} from "../operations/inspector/questions.ts";
import type { NodeReply } from "../operations/inspector/cluster.ts";
import type { TrafficEntry, TrafficReply } from "../operations/inspector/traffic.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { internals } from "../session/session.ts";
import { captureConsole } from "./console_lines.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";
import { Inspector, inspector } from "../operations/mod.ts";

/** Creates the request information with a remote address. */
const from = (hostname: string) =>
  ({ remoteAddr: { transport: "tcp", hostname, port: 1 } }) as const;

const LOCAL = from("127.0.0.1");

type Served = Pick<Server, "url">;

/** Requests data from a server's inspector. */
async function ask<T>(
  server: Served,
  name: string,
  params: Record<string, string> = {},
): Promise<T> {
  const url = `${server.url.replace("ws", "http")}inspector/data/${name}`;
  const response = await fetch(`${url}?${new URLSearchParams(params)}`, {
    headers: { "skein-inspector": "1" },
  });
  assertEquals(response.status, 200, await response.clone().text());
  return await response.json();
}

/** Waits for the row of a user. */
async function rowOf(server: Served, user: string): Promise<SessionRow> {
  return await until(async () => {
    const { rows } = await ask<ListReply>(server, "sessions", { query: user });
    return (rows as SessionRow[]).find((row) => row.user === user);
  });
}

/** Follows a session until an envelope arrives. */
async function follow(
  server: Served,
  { node, id }: SessionRow,
  fits: (entry: TrafficEntry) => boolean,
): Promise<TrafficEntry> {
  let after = 0;
  return await until(async () => {
    const { reply } = await ask<{ reply: TrafficReply }>(server, "traffic", {
      node,
      id,
      after: String(after),
    });
    after = reply.next;
    return reply.entries.find(fits);
  });
}

const NAMED: ServeOptions<string> = {
  features: [inspector()],
  authenticate: ({ request }) => new URL(request.url).searchParams.get("name") ?? "nobody",
};

Deno.test("serve() has no inspector by default", async () => {
  await using server = listen();
  const response = await fetch(`${server.url.replace("ws", "http")}inspector/`);
  assertEquals(response.status, 426);
  await response.body?.cancel();
});

Deno.test("serve() rejects invalid inspector options", () => {
  for (
    const [options, message] of [
      [{ path: "inspector" }, "Cannot create inspector(): path must be spelled as in a URL"],
      [{ path: "/inspector/" }, "Cannot create inspector(): path must be spelled as in a URL"],
      [{ authorise: () => true }, 'did you mean "authorize"?'],
      [{ authorize: true }, "Cannot create inspector(): authorize must be a function"],
      [{ payloads: 1 }, "Cannot create inspector(): payloads must be a boolean"],
    ] as const
  ) {
    assertThrows(() => inspector(options as never), Error, message);
  }
});

Deno.test("Inspector without authorize serves only programs on this machine", async () => {
  await using server = createServer({ features: [inspector()] });
  const statusOf = async (info?: typeof LOCAL) => {
    const response = await server.fetch(new Request("http://localhost/inspector/"), info);
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await statusOf(LOCAL), 200);
  assertEquals(await statusOf(from("192.0.2.1")), 403);
  assertEquals(await statusOf(), 403, "without a known address");
});

Deno.test("Inspector calls authorize before everything else, and reveals no errors", async () => {
  const asked: string[] = [];
  using print = captureConsole();
  await using server = createServer({
    features: [inspector({
      path: "/ops",
      authorize: async ({ url, headers }, { remoteAddr }) => {
        asked.push(`${new URL(url).pathname} ${(remoteAddr as Deno.NetAddr).hostname}`);
        await Promise.resolve();
        switch (headers.get("authorization")) {
          case "yes":
            return true;
          case "throws":
            throw new Error("the database has a secret name");
          case "asks":
            return new Response("Who?", {
              status: 401,
              headers: { "www-authenticate": "Basic", "cache-control": "max-age=60" },
            });
          default:
            return false;
        }
      },
    })],
  });
  const get = async (path: string, authorization: string) => {
    const headers = { authorization, "skein-inspector": "1" };
    return await server.fetch(
      new Request(`https://ops.example${path}`, { headers }),
      from("192.0.2.1"),
    );
  };
  const paths = ["/ops", "/ops/", "/ops/main.js", "/ops/inspector.css", "/ops/data/overview"];
  for (const path of paths) {
    const rejected = await get(path, "no");
    assertEquals(rejected.status, 403, path);
    await rejected.body?.cancel();
    const allowed = await get(path, "yes");
    assertEquals(allowed.status, path === "/ops" ? 302 : 200, path);
    await allowed.body?.cancel();
  }
  assertEquals(asked.length, 10);
  assertEquals(asked[0], "/ops 192.0.2.1");

  const failed = await get("/ops/", "throws");
  assertEquals(failed.status, 503);
  assert(!(await failed.text()).includes("secret"));
  assertStringIncludes(print.lines[0]!, "authorize of the inspector threw Error");
  const challenge = await get("/ops/", "asks");
  assertEquals([challenge.status, await challenge.text()], [401, "Who?"]);
  assertEquals(challenge.headers.get("www-authenticate"), "Basic");
  assertEquals(challenge.headers.get("cache-control"), "no-store");
  assertEquals(server.httpStats.inspector?.responses[403], 5);
});

Deno.test("Inspector prevents other pages from reading data, framing the page, or caching anything", async () => {
  await using server = createServer({ features: [inspector()] });
  const get = (path: string, init: RequestInit = {}) =>
    server.fetch(new Request(`http://localhost/inspector${path}`, init), LOCAL);
  for (
    const headers of [
      {},
      { "skein-inspector": "1", "sec-fetch-site": "cross-site" },
      { "skein-inspector": "1", "sec-fetch-site": "same-site" },
    ] as Record<string, string>[]
  ) {
    const response = await get("/data/overview", { headers });
    assertEquals(response.status, 403);
    await response.body?.cancel();
  }
  // The header makes browsers send a preflight request. The response to it allows nothing.
  const preflight = await get("/data/overview", {
    method: "OPTIONS",
    headers: {
      origin: "https://evil.example",
      "access-control-request-method": "GET",
      "access-control-request-headers": "skein-inspector",
    },
  });
  assertEquals(preflight.status, 405);
  assertEquals(preflight.headers.get("access-control-allow-origin"), null);
  await preflight.body?.cancel();
  // The inspector has no WebSocket that a page could abuse.
  const upgrade = await get("/", { headers: { upgrade: "websocket", connection: "upgrade" } });
  assertEquals(upgrade.status, 200);
  await upgrade.body?.cancel();

  for (const path of ["/", "/main.js", "/inspector.css", "/nothing"]) {
    const { headers, body } = await get(path);
    assertEquals(headers.get("cache-control"), "no-store", path);
    assertEquals(headers.get("x-frame-options"), "DENY", path);
    assertStringIncludes(headers.get("content-security-policy")!, "script-src 'self'");
    assert(!headers.get("content-security-policy")!.includes("unsafe"));
    await body?.cancel();
  }
  const html = await (await get("/")).text();
  assert(!/<script(?![^>]*\bsrc=)|\son\w+=|style=/.test(html), "nothing inline");
  const redirect = await get("");
  assertEquals([redirect.status, redirect.headers.get("location")], [302, "inspector/"]);
  for (const method of ["POST", "PUT", "DELETE"]) {
    const response = await get("/data/overview", { method });
    assertEquals(response.status, 405);
    await response.body?.cancel();
  }
  const head = await get("/", { method: "HEAD" });
  assertEquals([head.status, head.body], [200, null]);
});

Deno.test("Inspector handles at most 64 concurrent requests", async () => {
  await using server = createServer();
  const waiting = Promise.withResolvers<boolean>();
  await using inspector = new Inspector(server, { authorize: () => waiting.promise });
  const get = () => inspector.fetch(new Request("http://localhost/inspector/"), LOCAL);
  const first = Array.from({ length: 64 }, get);
  const beyond = await get();
  assertEquals([beyond.status, beyond.headers.get("retry-after")], [429, "1"]);
  await beyond.body?.cancel();
  waiting.resolve(true);
  for (const response of await Promise.all(first)) {
    assertEquals(response.status, 200);
    await response.body?.cancel();
  }
  assertEquals(inspector.stats, { active: 0, responses: { 200: 64, 429: 1 } });
});

Deno.test("Inspector searches, sorts and limits the sessions of a server", async () => {
  await using server = listen({
    ...NAMED,
    keepHeaders: "all",
    limits: { maxSessionsPerAddress: 1_000 },
  });
  // A user has at most 255 bytes, and each byte needs six characters of JSON.
  const name = "\u0001".repeat(250);
  const sessions = await Promise.all(
    Array.from(
      { length: 120 },
      (_, i) =>
        dial(`${server.url}?${new URLSearchParams({ name: `u${i}${name}`, token: "s3cret" })}`, {
          transports: ["websocket"],
          headers: { "x-long": "y".repeat(8_000), cookie: "a=s3cret" },
        }),
    ),
  );
  const all = await ask<ListReply>(server, "sessions");
  assertEquals({ rows: all.rows.length, matched: all.matched, total: all.total }, {
    rows: 100,
    matched: 120,
    total: 120,
  });
  const found = await ask<ListReply>(server, "sessions", { query: "u119 websocket" });
  assertEquals({ rows: found.rows.length, matched: found.matched, total: found.total }, {
    rows: 1,
    matched: 1,
    total: 120,
  });
  const byUser = await ask<ListReply>(server, "sessions", { sort: "user", order: "ascending" });
  const users = (byUser.rows as SessionRow[]).map(({ user }) => user);
  assertEquals(users, users.toSorted());
  const bad = await ask<ListReply>(server, "sessions", { issues: "only" });
  assertEquals([bad.matched, bad.total], [0, 120]);

  const [{ node, id }] = found.rows as [SessionRow];
  const detail = await ask<{ reply: SessionReply }>(server, "session", { node, id });
  assertEquals(detail.reply.row?.user.length, 64);
  assert(detail.reply.state!.diagnostics.headers["x-long"]!.length <= 512);
  assert(!JSON.stringify([detail, all]).includes("s3cret"));
  const gone = await ask<{ reply: SessionReply }>(server, "session", { node, id: "none" });
  assertEquals(gone.reply, {});
  await Promise.all(sessions.map((session) => session.close()));
});

Deno.test("Inspector shows topics, histories, rooms and durable streams", async () => {
  const durable = durableStreams({ path: "/streams" });
  const states = liveState();
  await using server = listen({
    ...NAMED,
    rooms: ["room:{name}"],
    history: { "room:{name}": { size: 3 } },
    features: [inspector(), durable, states],
    onOpen(session) {
      server.subscribe(session, "news");
      server.rooms.join(session, "room:a", { data: { mood: "fine", password: "s3cret" } });
    },
  });
  await using _one = await dial(`${server.url}?name=ann`, { onMessage() {} });
  await using _two = await dial(`${server.url}?name=bob`, { onMessage() {} });
  await rowOf(server, "ann");
  await rowOf(server, "bob");
  for (let n = 1; n <= 5; n++) await server.topics.append("room:a", { n, token: "s3cret" });
  server.publish("news", "hello");

  const topics = await until(async () => {
    const { rows } = await ask<ListReply>(server, "topics", { sort: "topic", order: "ascending" });
    const named = (rows as TopicRow[]).filter(({ topic }) => !topic.startsWith("presence:"));
    return named.every(({ publications }) => publications > 0) ? named : undefined;
  });
  assertEquals(
    topics.map(({ topic, subscribers, publications, offset }) => [
      topic,
      subscribers,
      publications,
      offset,
    ]),
    [["news", 2, 1, undefined], ["room:a", 2, 5, 5]],
  );
  const { history } = await ask<{ history: HistoryReply }>(server, "topic", { id: "room:a" });
  const { messages, oldest, head, isPartial, newest } = history;
  assertEquals({ messages, oldest, head, isPartial }, {
    messages: 3,
    oldest: 3,
    head: 5,
    isPartial: false,
  });
  assertEquals(newest[0], { offset: 5, text: '{"n":5,"token":"[redacted]"}' });
  assertEquals(await ask(server, "topic", { id: "news" }), {});

  const room = await ask<RoomReply>(server, "room", { id: "room:a" });
  assertEquals(room.members.map(({ user, data }) => [user, data]), [
    ["ann", '{"mood":"fine","password":"[redacted]"}'],
    ["bob", '{"mood":"fine","password":"[redacted]"}'],
  ]);

  const writer = await durable.create("story");
  await writer.append("Once");
  await using board = await states.open("board");
  const cards = board.collection("cards");
  for (const key of ["1", "2"]) await cards.set(key, key);
  await cards.delete("1");
  const streams = await ask<ListReply>(server, "streams");
  assertEquals(
    (streams.rows as StreamRow[]).map(({ id, writer, readers }) => [id, writer, readers]),
    [["board", undefined, 1], ["story", "this server", 0]],
  );
  const { info } = await ask<{ info: DurableStreamInfo }>(server, "stream", { id: "story" });
  assertEquals([info.isEnded, info.rows], [false, undefined]);
  const { info: { rows } } = await ask<{ info: DurableStreamInfo }>(server, "stream", {
    id: "board",
  });
  assertEquals([rows?.count, rows?.deletions, rows!.bytes > 0], [1, 1, true]);
  await writer.close();
});

Deno.test("Inspector follows the messages of one session, without secrets", async () => {
  await using server = listen({
    ...NAMED,
    tokens: { inMessage: true },
    authenticate: ({ token }) => token === "s3cret" ? "ann" : null,
    onMessage: (message) => message.reply({ got: message.data, api_key: "s3cret" }),
  });
  await using session = await dial(server.url, { token: "s3cret" });
  const row = await rowOf(server, "ann");
  const core = server.manager.get(row.id)![internals];
  assertEquals(core.tap, undefined);
  await session.request("before", 1);
  const following = follow(server, row, ({ topic }) => topic === "greet");
  await until(() => core.tap);
  assert(core.tap !== undefined);

  await session.request("greet", { name: "ann", password: "s3cret", code: 7 });
  const asked = await following;
  assertEquals([asked.direction, asked.kind], ["in", "topic"]);
  assertStringIncludes(asked.text, '"password":"[redacted]"');
  assertStringIncludes(asked.text, '"code":7');
  const reply = await follow(server, row, ({ kind }) => kind === "reply");
  assertEquals([reply.direction, reply.bytes > 20], ["out", true]);
  assertStringIncludes(reply.text, '"api_key":"[redacted]"');
  await session.authenticate("s3cret");
  const auth = await follow(server, row, ({ kind }) => kind === "auth");
  assertMatch(auth.text, /"auth":"\[redacted\]"/);

  await session.close();
  const state = await until(async () => {
    const { node, id } = row;
    const { reply } = await ask<{ reply: TrafficReply }>(server, "traffic", {
      node,
      id,
      after: "1",
    });
    return reply.state === "closed" ? reply.state : undefined;
  });
  assertEquals(state, "closed");
});

Deno.test("Inspector and its server survive a followed message with 1,500 levels of nesting", async () => {
  await using server = listen({ ...NAMED, onMessage: (message) => message.reply(true) });
  await using session = await dial(`${server.url}?name=ann`);
  const row = await rowOf(server, "ann");
  const following = follow(server, row, ({ topic }) => topic === "deep");
  await until(() => server.manager.get(row.id)![internals].tap);
  let data: unknown[] = [];
  for (let level = 0; level < 1_500; level++) data = [data];
  assertEquals(await session.request("deep", data), true);
  assertStringIncludes((await following).text, "…");
});

Deno.test("Inspector with payloads: false shows only topics and sizes", async () => {
  await using server = listen({
    ...NAMED,
    features: [inspector({ payloads: false })],
    rooms: ["room:{name}"],
    history: { "room:{name}": {} },
    onMessage: (message) => message.reply("fine"),
    onOpen: (session) => void server.rooms.join(session, "room:a", { data: "private" }),
  });
  await using session = await dial(`${server.url}?name=ann`);
  const row = await rowOf(server, "ann");
  await server.topics.append("room:a", "private");
  const following = follow(server, row, ({ topic }) => topic === "greet");
  await until(() => server.manager.get(row.id)![internals].tap);
  await session.request("greet", "private");
  const { text, bytes } = await following;
  assertEquals([text, bytes > 10], ["", true]);
  const shown = [
    await ask(server, "topic", { id: "room:a" }),
    await ask(server, "room", { id: "room:a" }),
  ];
  assert(!JSON.stringify(shown).includes("private"));
});

Deno.test("Inspector shows other nodes and their sessions as long as they exist", async () => {
  await using broker = new MemoryBroker();
  const options: ServeOptions<string> = {
    ...NAMED,
    broker,
    rooms: ["room:{name}"],
    onMessage: (message) => message.reply("fine"),
  };
  const open = (name: string) => {
    const server: Server<string> = listen<string>({
      ...options,
      node: { name, heartbeatMs: 100, goneAfterMs: 60_000 },
      onOpen: (session) => void server.rooms.join(session, "room:a"),
    });
    return server;
  };
  await using north = open("north");
  const south = open("south");
  await using _ann = await dial(`${north.url}?name=ann`, { onMessage() {} });
  await using bob = await dial(`${south.url}?name=bob`, { onMessage() {}, onError() {} });
  type Overview = { nodes: NodeReply<NodeOverview>[] };
  const both = await until(async () => {
    const { nodes } = await ask<Overview>(north, "overview");
    return nodes.length === 2 && nodes.every((one) => "reply" in one) ? nodes : undefined;
  });
  assertEquals(both.map(({ node }) => node.name), ["north", "south"]);
  // The latency to the store is known after the second measurement.
  await until(async () => {
    const { nodes } = await ask<Overview>(north, "overview");
    return nodes.every((one) => "reply" in one && one.reply.broker.latencyMs !== undefined) ||
      undefined;
  });
  const row = await rowOf(north, "bob");
  const { node, id } = row;
  const detail = await ask<{ reply: SessionReply }>(north, "session", { node, id });
  assertEquals(detail.reply.rooms, ["room:a"]);
  const following = follow(north, row, ({ topic }) => topic === "greet");
  await until(() => south.manager.get(id)![internals].tap);
  await bob.request("greet", "hello");
  assertStringIncludes((await following).text, "hello");

  await south.close();
  const gone = await ask<{ failure: string }>(north, "session", { node, id });
  assertEquals(gone.failure, "gone");
  const { nodes } = await ask<Overview>(north, "overview");
  assertEquals(nodes.map(({ node }) => node.name), ["north"]);
});

Deno.test("Inspector names a node that does not respond, and later waits less for it", async () => {
  await using broker = new MemoryBroker();
  await using north = listen({ ...NAMED, broker, node: { name: "north" } });
  // Without the option, the other node does not respond to any request.
  await using south = listen({ broker, node: { name: "south" } });
  await until(() => north.nodes!.has(south.nodes!.id) || undefined);
  type Overview = { nodes: { node: { name: string }; failure?: string }[] };
  const first = await ask<Overview>(north, "overview");
  assertEquals(first.nodes.map(({ node, failure }) => [node.name, failure]), [
    ["north", undefined],
    ["south", "late"],
  ]);
  const list = await ask<{ missing: { name: string }[] }>(north, "sessions");
  assertEquals(list.missing.map(({ name }) => name), ["south"]);
});

Deno.test("Inspector works while the server is full, and counts towards no limit", async () => {
  await using server = listen({
    ...NAMED,
    limits: { maxSessions: 1, maxSessionsPerAddress: 1 },
    rates: { perAddress: { connections: { perSecond: 1, burst: 1 } } },
  });
  await using _session = await dial(`${server.url}?name=ann`, { transports: ["websocket"] });
  await rowOf(server, "ann");
  for (let n = 0; n < 20; n++) await ask(server, "overview");
  assertEquals(server.manager.stats().created, 1);
  assertEquals(server.manager.stats().rates.rejectedConnections.address, 0);
});

Deno.test("Inspector works on the hardened engine, and mounted in another server", async () => {
  await using hardened = listen({ ...NAMED, webSocket: hardenedWebSocket() });
  await using _one = await dial(`${hardened.url}?name=ann`);
  assertEquals((await rowOf(hardened, "ann")).user, "ann");

  await using mounted = createServer({ features: [inspector({ path: "/app/inspector" })] });
  await using http = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    (request, info) => mounted.fetch(request, info),
  );
  const response = await fetch(`http://127.0.0.1:${http.addr.port}/app/inspector`);
  assertEquals(new URL(response.url).pathname, "/app/inspector/");
  assertStringIncludes(await response.text(), "Skein inspector");
});

Deno.test("Inspector measures and keeps nothing when no page requests data", async () => {
  // The test controls the time.
  const timers = new Set<{ readonly at: number; readonly run: () => void }>();
  let now = 0;
  const { platformRuntime } = await import("../base/runtime.ts");
  const runtime = Object.assign(platformRuntime(), {
    monotonic: () => now,
    setTimeout: (run: () => void, ms: number) => {
      const timer = { at: now + ms, run };
      timers.add(timer);
      return timer as never;
    },
    clearTimeout: (timer: never) => void timers.delete(timer),
  });
  const pass = (ms: number) => {
    now += ms;
    for (const timer of [...timers]) {
      if (timer.at > now) continue;
      timers.delete(timer);
      timer.run();
    }
  };
  await using broker = new MemoryBroker();
  await using server = listen({ broker, onMessage() {} });
  await using session = await dial(server.url, { transports: ["websocket"] });
  await using inspector = new Inspector(server, {}, { runtime });
  await inspector.ready;
  const get = async (name: string) => {
    const headers = { "skein-inspector": "1" };
    const request = new Request(`http://localhost/inspector/data/${name}`, { headers });
    return await (await inspector.fetch(request, LOCAL)).json();
  };
  const { rows: [{ node, id }] } = await until(async () => {
    pass(500);
    const list = await get("sessions");
    return list.rows.length > 0 ? list : undefined;
  });
  await get("overview");
  await get(`traffic?${new URLSearchParams({ node, id, after: "0" })}`);
  const core = server.manager.get(id)![internals];
  assert(core.tap !== undefined);
  assert(timers.size > 0);
  for (let n = 0; n < 6; n++) pass(5_000);
  assertEquals(core.tap, undefined);
  assertEquals(timers.size, 0);
  await session.close();
});
