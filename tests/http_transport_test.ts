/**
 * Tests sessions over HTTP behind a proxy that blocks WebSocket and that buffers or breaks off
 * responses.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { connectBy, type MakePlatform } from "../client/connect.ts";
import { denoPlatform } from "../client/deno.ts";
import {
  AuthenticationError,
  ConnectionError,
  dial as dialInPage,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../client.ts";
import { connect, dial, platformRuntime, type Runtime } from "../mod.ts";
import { type Connection, dialWebSocket } from "../transport/mod.ts";
import { createServer, type Server, type ServerOptions } from "../server.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { dialHttp, HELD_MS } from "../transport/http/client.ts";
import { CLOSE_TIMEOUT_MS, LOST_MS } from "../transport/http/connection.ts";
import { withLastResort } from "../transport/race/last_resort.ts";
import { checkTransports } from "../transport/race/options.ts";
import { race } from "../transport/race/race.ts";
import { passTime, turns } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { HttpEnds } from "./pairs/http.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const MARK = { "skein-transport": "http" };

/** A proxy in front of a server, which by default answers upgrades with 502. */
class Front implements AsyncDisposable {
  readonly server: Server;
  /** The forwarded requests. */
  readonly requests: {
    readonly method: string;
    readonly headers: Headers;
    readonly url: string;
  }[] = [];
  /** True to forward upgrades. */
  allowsUpgrades = false;
  /** True while the server is unreachable, so that the proxy answers all requests. */
  isDown = false;
  /** The number of requests while the server was unreachable, keyed by kind. */
  readonly unanswered = { upgrade: 0, session: 0 };
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor(options: ServerOptions = {}) {
    this.server = createServer(options);
    this.#http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request, info) => {
      const { method, headers, url } = request;
      if (this.isDown) {
        if (headers.has("upgrade")) this.unanswered.upgrade++;
        if (headers.has("skein-transport")) this.unanswered.session++;
        return new Response(null, { status: 502 });
      }
      if (headers.has("upgrade") && !this.allowsUpgrades) {
        return new Response(null, { status: 502 });
      }
      this.requests.push({ method, headers, url });
      return this.server.fetch(request, info);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#http.shutdown();
  }
}

for (
  const [name, webSocket] of [["the runtime's engine", undefined], [
    "the hardened engine",
    hardenedWebSocket(),
  ]] as const
) {
  Deno.test(`serve() with ${name} serves sessions over HTTP`, async () => {
    await using server = listen({
      ...(webSocket && { webSocket }),
      authorize: () => true,
      onMessage: (message) => message.reply(message.data),
    });
    await using client = connect(server.url, { transports: ["http"] });
    await using news = client.subscribe("news");
    await soon(news.ready);
    assertEquals(client.session?.transport, "http");
    assertEquals(client.session?.connection.capabilities.streams, false);
    await assertRejects(() => client.session!.createBidirectionalStream(), UnsupportedError);
    assertEquals(await soon(client.request("echo", { n: [1] })), { n: [1] });
    server.publish("news", Uint8Array.of(1, 2, 255));
    for await (const { data } of news) {
      assertEquals(data, Uint8Array.of(1, 2, 255));
      break;
    }
    await client.close();
    await until(() => server.manager.count === 0);
  });
}

Deno.test("connect() names the doctor once if WebSocket is blocked where HTTP works", async () => {
  using printed = captureConsole();
  await using front = new Front({ onMessage: (message) => message.reply("pong") });
  await using client = connect(`${front.url}?token=secret`);
  await soon(client.request("ping"));
  await until(() => printed.lines.length > 0);
  await client.session!.close({ code: 3000, reason: "again" });
  await soon(client.request("ping"));
  assertEquals(client.session!.transport, "http");
  await using chosen = connect(front.url, { transports: ["http"] });
  await soon(chosen.request("ping"));
  const [line, ...more] = printed.lines;
  assert(line!.startsWith("Skein: HTTP works, but WebSocket fails: Cannot open WebSocket to "));
  assert(line!.endsWith(`; to find the reason, run skein doctor ${front.url}`), line);
  assertEquals(more, []);

  const errors: unknown[] = [];
  await using handled = connect(front.url, { onError: (error) => void errors.push(error) });
  await until(() => errors.length > 0);
  assert(errors[0] instanceof ConnectionError && errors[0].cause instanceof ConnectionError);
  assertEquals([`Skein: ${errors[0].message}`, errors.length], [line, 1]);
  assertEquals(handled.session!.transport, "http");
});

Deno.test("connect() uses HTTP if WebSocket is blocked, and remembers that for a while", async () => {
  await using front = new Front({ onMessage: (message) => message.reply("pong") });
  await using client = connect(front.url);
  await soon(client.whenConnected());
  const { current } = client.status;
  assert(current.name === "connected");
  assertEquals([current.transport, current.fallback?.transport], ["http", "websocket"]);
  front.allowsUpgrades = true;
  await client.session!.close({ code: 3000, reason: "again" });
  await soon(client.request("ping"));
  assertEquals(client.session!.transport, "http");
});

Deno.test("connect() returns to WebSocket after it forgot that WebSocket was blocked", async () => {
  await using front = new Front();
  const runtime = Object.assign(platformRuntime(), { now: () => now });
  let now = Date.now();
  await using client = connect(front.url, { runtime });
  assertEquals((await soon(client.whenConnected())).transport, "http");
  front.allowsUpgrades = true;
  now += 30_001;
  await client.session!.close({ code: 3000, reason: "again" });
  assertEquals((await soon(client.whenConnected())).transport, "websocket");
});

Deno.test("connect() tries HTTP once per round while the server is unreachable, and reports each reason", async () => {
  await using front = new Front({ onMessage: (message) => message.reply("pong") });
  front.isDown = true;
  await using client = connect(front.url, { backoff: { firstDelayMs: 5, maxDelayMs: 10 } });
  const rounds = 4;
  for await (const status of client.status) {
    if (status.name !== "reconnecting" || status.attempt < rounds) continue;
    assertMatch(status.cause.reason, /Cannot open WebSocket to .*; .*Cannot open HTTP to /);
    assertMatch(status.cause.reason, /the response with status 502 is not from a Skein server$/);
    assert(status.cause.error instanceof ConnectionError);
    break;
  }
  assertEquals(front.unanswered, { upgrade: rounds, session: rounds });
  front.isDown = false;
  assertEquals(await soon(client.request("ping")), "pong");
});

Deno.test("connect() tries HTTP again if its code did not load at first", async () => {
  await using front = new Front({ onMessage: (message) => message.reply("pong") });
  let loads = 0;
  const platform: MakePlatform = (options) => {
    const checked = checkTransports(options);
    const dial = race({ webSocket: dialWebSocket, webTransport: "None" }, checked);
    // A browser throws a TypeError. A TypeError for invalid arguments ends a client.
    const load = () => {
      return ++loads === 1
        ? Promise.reject(new TypeError("Failed to fetch dynamically imported module"))
        : import("../transport/race/http_fallback.ts");
    };
    return denoPlatform(withLastResort(dial, checked, load));
  };
  await using client = connectBy(platform, front.url, {
    backoff: { firstDelayMs: 5, maxDelayMs: 10 },
  });
  assertEquals(await soon(client.request("ping")), "pong");
  assertEquals([client.session!.transport, loads], ["http", 2]);
});

Deno.test("dial() of the browser client uses HTTP if WebSocket is blocked", async () => {
  await using front = new Front({ onMessage: (message) => message.reply("pong") });
  await using session = await soon(dialInPage(front.url));
  assertEquals([session.transport, session.fallback?.transport], ["http", "websocket"]);
  assertEquals(await soon(session.request("ping")), "pong");
});

Deno.test("dial() uses HTTP if the network never answers a WebSocket upgrade", async () => {
  const server = createServer();
  const { promise: never, resolve } = Promise.withResolvers<Response>();
  await using http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    return request.headers.has("upgrade") ? never : server.fetch(request);
  });
  const url = `http://127.0.0.1:${http.addr.port}`;
  const session = await dial(url, { transports: ["websocket", "http"], connectTimeoutMs: 6_000 });
  assertEquals(session.transport, "http");
  assertMatch(String(session.fallback?.error), /Cannot open websocket within 3000 ms/);
  await session.close();
  resolve(new Response());
  await server.close();
});

Deno.test("Client.handOver() moves from HTTP to WebSocket without a gap", async () => {
  await using front = new Front({
    authorize: () => true,
    onMessage: (message) => message.reply("pong"),
  });
  await using client = connect(front.url);
  await using news = client.subscribe("news");
  await soon(news.ready);
  assertEquals(client.session!.transport, "http");
  front.allowsUpgrades = true;
  front.server.publish("news", 1);
  assert(await soon(client.handOver({ transport: "websocket" })));
  assertEquals(client.session!.transport, "websocket");
  front.server.publish("news", 2);
  const got: unknown[] = [];
  for await (const { data } of news) if (got.push(data) === 2) break;
  assertEquals(got, [1, 2]);
  assert(await soon(client.handOver({ transport: "http" })));
  assertEquals(client.session!.transport, "http");
});

Deno.test("A client over HTTP sends its token in band, and receives a rejection", async () => {
  await using front = new Front({
    tokens: { inMessage: true },
    authenticate({ token }) {
      if (token === "s3cret") return "ann";
      throw new AuthenticationError("Wrong token");
    },
  });
  const options = { transports: ["http"] } as const;
  await using _session = await soon(dial(front.url, { ...options, token: "s3cret" }));
  assertEquals(front.server.manager.all()[0]!.user, "ann");
  const wrong = await assertRejects(
    () => soon(dial(front.url, { ...options, token: "wrong" })),
    SessionClosedError,
  );
  assertEquals([wrong.info?.code, wrong.info?.reason], [4401, "Wrong token"]);
  for (const { url } of front.requests) assert(!url.includes("s3cret") && !url.includes("wrong"));
});

Deno.test("A session over HTTP is rejected with a status, a reason and a retry delay", async () => {
  await using front = new Front({
    limits: { maxSessions: 1 },
    authenticate({ token }) {
      if (token === undefined) throw new AuthenticationError("No token");
      return token;
    },
  });
  const url = `${front.url}?protocol=skein.1`;
  const rejected = await fetch(url, { headers: MARK });
  assertEquals([rejected.status, rejected.headers.get("skein-transport")], [401, "http"]);
  assertEquals((await rejected.json()).detail.slice(0, 8), "No token");
  const error = await assertRejects(
    () => soon(dial(front.url, { transports: ["http"] })),
    SessionClosedError,
  );
  assertEquals(error.info?.code, 4401);
  const headers = { authorization: "Bearer ann" };
  await using _session = await soon(dial(front.url, { transports: ["http"], headers }));
  const full = await fetch(url, { headers: { ...MARK, ...headers } });
  assertEquals([full.status, full.headers.get("retry-after")], [429, "5"]);
  assertMatch((await full.json()).detail, /at most 1/);
  const plain = await fetch(front.url, { headers: MARK });
  assertEquals([plain.status, (await plain.json()).code], [400, "malformed"]);
});

Deno.test("serve({ http: false }) leaves requests to the application, and so do other paths", async () => {
  const fetchNothing = () => new Response("application", { status: 418 });
  for (const options of [{ http: false }, { path: "/other" }]) {
    await using front = new Front({ ...options, fetch: fetchNothing });
    const response = await fetch(`${front.url}?protocol=skein.1`, { headers: MARK });
    assertEquals([response.status, await response.text()], [418, "application"]);
    await assertRejects(
      () => soon(dial(front.url, { transports: ["http"] })),
      Error,
      "the response with status 418 is not from a Skein server",
    );
  }
});

Deno.test("Pages of other origins may open a session over HTTP if the origin rules allow it", async () => {
  await using front = new Front({ origins: ["https://good.example"] });
  const url = `${front.url}?protocol=skein.1`;
  const preflight = (origin: string) =>
    fetch(url, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "GET",
        "access-control-request-headers": "skein-transport",
      },
    });
  const bad = await preflight("https://evil.example");
  assertEquals([bad.status, bad.headers.get("access-control-allow-origin")], [403, null]);
  await bad.body?.cancel();
  const rejected = await fetch(url, { headers: { ...MARK, origin: "https://evil.example" } });
  assertEquals([rejected.status, rejected.headers.get("access-control-allow-origin")], [403, null]);
  await rejected.body?.cancel();
  const good = await preflight("https://good.example");
  assertEquals(good.status, 204);
  assertEquals(good.headers.get("access-control-allow-origin"), "https://good.example");
  assertEquals(good.headers.get("access-control-allow-credentials"), "true");
  assertEquals(good.headers.get("access-control-allow-methods"), "GET, POST, DELETE");
  const allowed = good.headers.get("access-control-allow-headers")!.split(", ");
  for (
    const name of [
      "authorization",
      "last-event-id",
      "skein-close",
      "skein-number",
      "skein-poll",
      "skein-secret",
      "skein-session",
      "skein-transport",
    ]
  ) assert(allowed.includes(name), name);
  const opened = await fetch(url, { headers: { ...MARK, origin: "https://good.example" } });
  assertEquals(opened.status, 200);
  assertEquals(opened.headers.get("access-control-allow-origin"), "https://good.example");
  assertEquals(opened.headers.get("timing-allow-origin"), "https://good.example");
  assertEquals(opened.headers.get("cache-control"), "no-store, no-transform");
  assertEquals(opened.headers.get("x-accel-buffering"), "no");
  await opened.body?.cancel();
});

Deno.test("A wrong secret counts as a connection attempt, and gets the same response as an unknown id", async () => {
  const perAddress = { connections: { perSecond: 0.001, burst: 3 } };
  await using front = new Front({ rates: { perAddress } });
  await using session = await soon(dial(front.url, { transports: ["http"] }));
  const [id, secret] = await keysOf(front, session);
  const end = (id: string, secret: string) =>
    fetch(front.url, {
      method: "DELETE",
      headers: { ...MARK, "skein-session": id, "skein-secret": secret },
    });
  const unknown = await end("unknown", secret);
  const told = [unknown.status, await unknown.text()];
  assertEquals(told[0], 410);
  const wrong = secret.replaceAll(/./g, "A");
  for (let i = 0; i < 2; i++) {
    const response = await end(id, wrong);
    assertEquals([response.status, await response.text()], told);
  }
  const tooMany = await end(id, wrong);
  assertEquals([tooMany.status, tooMany.headers.has("retry-after")], [429, true]);
  await tooMany.body?.cancel();
  assertEquals((await end(id, secret)).status, 204);
});

/** Sends a message, and reads the session's keys from the request. */
async function keysOf(
  front: Front,
  session: { send(topic: string): void },
): Promise<readonly [id: string, secret: string]> {
  session.send("wake");
  const find = () => front.requests.find(({ headers }) => headers.has("skein-session"));
  await until(() => find() !== undefined);
  const { headers } = find()!;
  return [headers.get("skein-session")!, headers.get("skein-secret")!];
}

Deno.test("Server rejects requests of the HTTP transport with invalid headers", async () => {
  await using front = new Front();
  await using session = await soon(dial(front.url, { transports: ["http"] }));
  const [id, secret] = await keysOf(front, session);
  const own = { ...MARK, "skein-session": id, "skein-secret": secret };
  const ask = async (method: string, more: Record<string, string>, body?: BodyInit) => {
    const response = await fetch(front.url, {
      method,
      headers: { ...own, ...more },
      ...(body !== undefined && { body }),
    });
    await response.body?.cancel();
    return response.status;
  };
  const posted = { "skein-number": "1", "last-event-id": "0" };
  assertEquals(await ask("PUT", {}), 405);
  assertEquals(await ask("HEAD", {}), 405);
  assertEquals(await ask("GET", { "skein-session": "x".repeat(129) }), 400);
  for (const number of ["", "-1", "1.5", "1e3", "99999999999999999", "x", "0, 0"]) {
    assertEquals(await ask("GET", { "last-event-id": number }), 400, number);
    assertEquals(await ask("POST", { ...posted, "skein-number": number }, ""), 400, number);
  }
  assertEquals(await ask("GET", { "last-event-id": "7000" }), 400);
  for (const poll of ["1;wait=x", "1;wait", "1;every=-1", "1;wait=1.5", "1;every=999999"]) {
    assertEquals(await ask("GET", { "last-event-id": "0", "skein-poll": poll }), 400, poll);
  }
  for (const close of ["12", "1000", "x", "3000 %", "30000", "3000x"]) {
    assertEquals(await ask("DELETE", { "skein-close": close }), 400, close);
  }
  assertEquals(await ask("POST", { ...posted, "skein-number": "900" }, "\x01\x00a"), 409);
  assertEquals(session.isClosed, false);
  assertEquals(await ask("POST", posted, "\x01\x07a"), 400);
  assertEquals((await soon(session.closed)).code, 4400);
});

/** Collects the frames of a connection. */
function received({ frames }: Connection): unknown[] {
  const all: unknown[] = [];
  frames!.receive({ receiveFrame: (frame) => void all.push(frame), framesEnded() {} });
  return all;
}

/**
 * A runtime with which a client waits for the first bytes of an event stream until `stopWaiting()`.
 */
function impatient(): { readonly runtime: Runtime; readonly stopWaiting: () => void } {
  const waits: (() => void)[] = [];
  const runtime = platformRuntime();
  const startTimer = runtime.setTimeout.bind(runtime);
  runtime.setTimeout = (call, ms) => {
    if (ms !== HELD_MS) return startTimer(call, ms);
    waits.push(call);
    return undefined as never;
  };
  return { runtime, stopWaiting: () => waits.at(-1)!() };
}

Deno.test("A connection over HTTP loses and repeats nothing when responses break off", async () => {
  let count = 0;
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      const isPost = request.method === "POST";
      const number = ++count;
      const response = await serve(request);
      // Every third response to a POST request is lost, and each event stream breaks off.
      if (isPost) {
        await response.body?.cancel();
        return number % 3 === 0 ? new Response(null, { status: 502 }) : response;
      }
      if (response.body === null) return response;
      let left = 300 + 50 * (number % 7);
      const cut = new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
          controller.enqueue(chunk.subarray(0, left));
          left -= chunk.length;
          if (left <= 0) controller.terminate();
        },
      });
      return new Response(response.body.pipeThrough(cut), response);
    },
  });
  const { client, server } = await soon(ends.open());
  const sent = Array.from({ length: 100 }, (_, i) => `${i} ${"x".repeat(i % 50)}`);
  const logs = [client, server].map(received);
  for (const frame of sent) {
    client.frames!.send(frame);
    server.frames!.send(frame);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await until(() => logs.every((frames) => frames.length >= sent.length));
  for (const frames of logs) assertEquals(frames, sent);
  client.close({ closeCode: 3000 });
  assertEquals((await soon(server.closed)).closeCode, 3000);
  assert(count > 10, `${count} requests`);
});

Deno.test("A client over HTTP polls if a proxy buffers event streams", async () => {
  let polls = 0;
  let streams = 0;
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      if (request.headers.has("skein-poll")) polls++;
      const response = await serve(request);
      if (request.method !== "GET" || response.headers.has("content-length")) return response;
      if (response.body === null) return response;
      streams++;
      // The proxy waits for bytes that never arrive.
      const held = new ReadableStream<Uint8Array>({ cancel: () => response.body!.cancel() });
      return new Response(held, response);
    },
  });
  const { client, server } = await soon(ends.open());
  assertEquals(streams, 1);
  const frames = received(client);
  for (let i = 0; i < 3; i++) {
    server.frames!.send(`${i}`);
    await until(() => frames.length === i + 1);
  }
  assertEquals([frames, streams], [["0", "1", "2"], 1]);
  assert(polls > 1);
  server.close({ closeCode: 3001, reason: "over" });
  assertEquals(await soon(client.closed), { closeCode: 3001, reason: "over" });
});

Deno.test("A client over HTTP that received an event on a stream polls after three held ones", async () => {
  for (const held of [2, 3]) {
    let [streams, polls] = [0, 0];
    let cut = () => {};
    const { runtime, stopWaiting } = impatient();
    await using ends = new HttpEnds({
      async proxy(request, serve) {
        const response = await serve(request);
        if (request.method !== "GET") return response;
        if (request.headers.has("skein-poll")) polls++;
        else if (++streams > 1 && streams <= held + 1) {
          await response.body!.cancel();
          server.frames!.send(`${streams - 1}`);
          stopWaiting();
          return new Response(new ReadableStream(), response);
        } else if (streams === 1) {
          const first = new TransformStream<Uint8Array, Uint8Array>({
            start: (controller) => cut = () => controller.terminate(),
          });
          return new Response(response.body!.pipeThrough(first), response);
        }
        return response;
      },
    });
    const path = { polls: false };
    const { client, server } = await soon(ends.open({ runtime, path }));
    const frames = received(client);
    server.frames!.send("0");
    await until(() => frames.length === 1);
    cut();
    await until(() => frames.length === held + 1);
    server.frames!.send("last");
    await until(() => frames.length === held + 2);
    assertEquals([path.polls, streams], [held > 2, 4]);
    assert(polls >= held, `${polls} polls`);
    client.close();
    await soon(server.closed);
  }
});

Deno.test("A client over HTTP that has closed leaves no slower request behind", async () => {
  const { runtime, stopWaiting } = impatient();
  const startTimer = runtime.setTimeout;
  runtime.setTimeout = (call, ms) =>
    ms === CLOSE_TIMEOUT_MS ? undefined as never : startTimer(call, ms);
  const stopped = Promise.withResolvers<void>();
  await using ends = new HttpEnds();
  const { client, server } = await soon(ends.open({
    runtime,
    fetch(input, init = {}) {
      const headers = new Headers(init.headers);
      if (headers.has("skein-session") || headers.has("skein-poll")) return fetch(input, init);
      stopWaiting();
      return new Promise((_, reject) => {
        init.signal!.addEventListener("abort", () => {
          stopped.resolve();
          reject(init.signal!.reason);
        });
      });
    },
  }));
  client.close();
  await soon(server.closed);
  await soon(stopped.promise);
});

Deno.test("A client over HTTP that received no response later opens an event stream, and does not poll", async () => {
  const { runtime, stopWaiting } = impatient();
  const asked = Promise.withResolvers<void>();
  const silence = Promise.withResolvers<Response>();
  let isSilent = true;
  await using ends = new HttpEnds({
    proxy(request, serve) {
      if (!isSilent) return serve(request);
      if (request.headers.has("skein-poll")) asked.resolve();
      else stopWaiting();
      return silence.promise;
    },
  });
  const path = { polls: false };
  const stop = new AbortController();
  const opening = ends.open({ runtime, path, signal: stop.signal });
  await asked.promise;
  stop.abort(new Error("enough"));
  await assertRejects(() => opening, Error, "enough");
  isSilent = false;
  silence.resolve(new Response());
  const { client, server } = await soon(ends.open({ runtime, path }));
  assertEquals(path.polls, false);
  client.close();
  await soon(server.closed);
});

Deno.test("A client over HTTP continues after event streams that sometimes break off", async () => {
  let passedMs = 0;
  const runtime = platformRuntime();
  const { monotonic } = runtime;
  runtime.monotonic = () => monotonic.call(runtime) + passedMs;
  let breakOff = () => {};
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      const response = await serve(request);
      if (response.headers.get("content-type") !== "text/event-stream") return response;
      const breaks = new TransformStream<Uint8Array, Uint8Array>({
        start(controller) {
          breakOff = () => controller.error(new Error("The network changed"));
        },
      });
      return new Response(response.body!.pipeThrough(breaks), response);
    },
  });
  const { client, server } = await soon(ends.open({ runtime }));
  const frames = received(client);
  for (let i = 0; i < 3; i++) {
    server.frames!.send(`${i}`);
    await until(() => frames.length === i + 1);
    passedMs += LOST_MS;
    breakOff();
  }
  server.frames!.send("last");
  await until(() => frames.length === 4);
  client.close({ closeCode: 3000 });
  await soon(server.closed);
});

Deno.test("A client over HTTP sends its close while an acknowledgment is in flight", async () => {
  const held = Promise.withResolvers<void>();
  let posts = 0;
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      if (request.method === "POST" && ++posts > 0) await held.promise;
      return await serve(request);
    },
  });
  const { client, server } = await soon(ends.open());
  received(client);
  server.frames!.send("x".repeat(100_000));
  await until(() => posts === 1);
  client.close({ closeCode: 3000, reason: "left" });
  assertEquals(await soon(server.closed), { closeCode: 3000, reason: "left" });
  held.resolve();
  await soon(client.closed);
});

Deno.test("A client over HTTP acknowledges again if an acknowledgment is lost", async () => {
  let posts = 0;
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      if (request.method !== "POST" || ++posts > 1) return await serve(request);
      return new Response(null, { status: 503 });
    },
  });
  const { client, server } = await soon(ends.open());
  const frames = received(client);
  server.frames!.send("x".repeat(200_000));
  await until(() => posts === 1);
  // This is as much as the server may send unacknowledged, but too little to trigger another
  // acknowledgment.
  for (const length of [62_000, 500, 1]) server.frames!.send("x".repeat(length));
  await until(() => frames.length === 4);
  client.close({ closeCode: 3000 });
  await soon(server.closed);
});

Deno.test("A client over HTTP uses the code of a close that arrives after a post was rejected", async () => {
  const isRejected = Promise.withResolvers<void>();
  let isClosing = false;
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      if (request.method === "POST") return new Response(null, { status: 410, headers: MARK });
      const response = await serve(request);
      const late = new TransformStream<Uint8Array, Uint8Array>({
        async transform(chunk, controller) {
          if (isClosing) {
            await isRejected.promise;
            await turns();
          }
          controller.enqueue(chunk);
        },
      });
      return new Response(response.body?.pipeThrough(late), response);
    },
  });
  const ask: typeof fetch = async (...request) => {
    const response = await fetch(...request);
    if (response.status === 410) isRejected.resolve();
    return response;
  };
  const { client, server } = await soon(ends.open({ fetch: ask }));
  received(client);
  isClosing = true;
  server.close({ closeCode: 3000, reason: "over" });
  client.frames!.send("late");
  assertEquals(await soon(client.closed), { closeCode: 3000, reason: "over" });
});

Deno.test("A post over HTTP replaces earlier posts that never finish", async () => {
  const bodies: TransformStream[] = [];
  const answers: Promise<Response>[] = [];
  await using ends = new HttpEnds({
    async proxy(request, serve) {
      if (request.method !== "POST" || bodies.length === 3) return await serve(request);
      // The client's abort is lost on the network, so the server does not notice it.
      const { url, headers } = request;
      await request.body?.cancel();
      const body = new TransformStream();
      bodies.push(body);
      answers.push(serve(new Request(url, { method: "POST", headers, body: body.readable })));
      return new Response(null, { status: 502 });
    },
  });
  const { client, server } = await soon(ends.open());
  const texts = received(server);
  client.frames!.send("late");
  await until(() => texts.length > 0);
  assertEquals([bodies.length, texts], [3, ["late"]]);
  // The bodies of two POST requests are read concurrently.
  for (const answer of answers.slice(0, 2)) assertEquals((await soon(answer)).status, 503);
  await bodies[2]!.writable.abort();
  assertEquals((await soon(answers[2]!)).status, 400);
  client.close({ closeCode: 3000 });
  await soon(server.closed);
});

Deno.test("A session over HTTP whose client never reads closes when its send queue is full", async () => {
  await using front = new Front({
    session: { sendQueue: { maxBytes: 100_000 } },
  });
  const response = await fetch(`${front.url}?protocol=skein.1`, { headers: MARK });
  const reader = response.body!.getReader();
  await reader.read();
  const { server: { manager } } = front;
  await until(() => manager.count === 1);
  const [session] = manager.all();
  const text = "x".repeat(50_000);
  // The client's system receives the bytes, but the client acknowledges nothing.
  let sent = 0;
  try {
    for (; sent < 1_000; sent++) {
      session!.send("much", text);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } catch { /* The session closed. */ }
  assert(sent * text.length < 1_000_000, `${sent} messages`);
  assertEquals((await soon(session!.closed)).code, 4507);
  await reader.cancel();
});

Deno.test("dialHttp() does not read a response that is not from a Skein server", async () => {
  const cancelled = Promise.withResolvers<void>();
  const endless = new ReadableStream({ cancel: () => cancelled.resolve() });
  await assertRejects(
    () =>
      dialHttp("http://a.example/", {
        runtime: platformRuntime(),
        protocols: ["skein.1"],
        fetch: () => Promise.resolve(new Response(endless)),
      }),
    ConnectionError,
    "the response with status 200 is not from a Skein server",
  );
  await cancelled.promise;
});

Deno.test("dialHttp() pauses before it repeats a request whose response broke off immediately", async () => {
  using time = new FakeTime();
  let requests = 0;
  const opening = dialHttp("http://a.example/", {
    runtime: platformRuntime(),
    protocols: ["skein.1"],
    fetch: () => {
      // After a hundred requests, another server answers.
      const headers = new Headers(++requests < 100 ? { "skein-transport": "http" } : {});
      return Promise.resolve(new Response("", { headers }));
    },
  });
  const rejected = assertRejects(() => opening, TimeoutError);
  await passTime(time, 10_000);
  await rejected;
  assert(requests > 2 && requests < 50, `${requests} requests in 10 s`);
});
