/**
 * Tests `serve()` over WebTransport on a fake engine, for events that real sockets do not produce
 * on demand.
 *
 * @module
 */
import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../mod.ts";
import { captureConsole } from "./console_lines.ts";
import {
  type ListenInfo,
  serve,
  type WebTransportServeOptions,
  type WebTransportSource,
} from "../server.ts";
import {
  type Connection,
  devCertificate,
  type ListenWebTransportOptions,
  memoryPair,
  type WebTransportRequest,
} from "../transport/mod.ts";
import { listen, portOf, untilFree } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const DAY_MS = 86_400_000;

/** A listener without a socket. */
class FakeListener implements WebTransportSource {
  readonly address: Deno.NetAddr;
  readonly rotations: { readonly cert: string; readonly key: string }[] = [];
  readonly steps: string[] = [];
  readonly #requests = new TransformStream<WebTransportRequest>();
  readonly #writer = this.#requests.writable.getWriter();

  constructor(readonly options: ListenWebTransportOptions) {
    const { hostname = "", port = 0 } = options;
    this.address = { transport: "udp", hostname, port };
  }

  request(request: WebTransportRequest): void {
    void this.#writer.write(request);
  }

  rotate(certificate: { readonly cert: string; readonly key: string }): void {
    this.rotations.push(certificate);
  }

  stop(): void {
    this.steps.push("stop");
  }

  async close(): Promise<void> {
    if (this.steps.at(-1) === "close") return;
    this.steps.push("close");
    await this.#writer.close();
  }

  [Symbol.asyncIterator](): AsyncIterator<WebTransportRequest> {
    return this.#requests.readable[Symbol.asyncIterator]();
  }
}

/** An engine that records its listeners. */
function engine(
  listeners: FakeListener[],
): (options: ListenWebTransportOptions) => FakeListener {
  return (options) => {
    const listener = new FakeListener(options);
    listeners.push(listener);
    return listener;
  };
}

/** A request, and its outcome. */
class FakeRequest implements WebTransportRequest {
  readonly headers: Headers;
  readonly remoteAddress: Deno.NetAddr = { transport: "udp", hostname: "192.0.2.1", port: 7 };
  readonly controller = new AbortController();
  readonly signal = this.controller.signal;
  readonly answered = Promise.withResolvers<
    { readonly status: number; readonly headers: Record<string, string> }
  >();

  constructor(
    readonly url: string,
    readonly protocols: readonly string[] = [],
    headers: HeadersInit = {},
    readonly connection?: Connection,
  ) {
    this.headers = new Headers(headers);
  }

  accept({ protocol = "" }: { readonly protocol?: string } = {}): Connection {
    if (this.connection === undefined) throw new TypeError("It cannot be accepted");
    this.answered.resolve({ status: 200, headers: { protocol } });
    return this.connection;
  }

  reject(status: number, { headers = {} }: { readonly headers?: HeadersInit } = {}): void {
    this.answered.resolve({ status, headers: Object.fromEntries(new Headers(headers)) });
  }
}

Deno.test("serve() passes the certificate, the address and the limits to its engine", async () => {
  const tls = devCertificate({ cacheFolder: null });
  const own = devCertificate({ cacheFolder: null });
  // The maximum number of sockets, which is two for each session.
  const base = { hostname: "127.0.0.1", maxConnections: 20_000 };
  const cases: [Parameters<typeof listen>[0], WebTransportServeOptions, Record<string, unknown>][] =
    [
      [{}, {}, { ...base }],
      [{ hostname: "0.0.0.0" }, {}, { ...base }],
      [{ hostname: "0.0.0.0", tls }, {}, {
        ...base,
        hostname: "0.0.0.0",
        cert: tls.cert,
        key: tls.key,
      }],
      [{ hostname: "0.0.0.0" }, { hostname: "0.0.0.0" }, { ...base, hostname: "0.0.0.0" }],
      [{ tls }, { certificate: own, port: 9 }, { ...base, port: 9, cert: own.cert, key: own.key }],
      [{ limits: { maxSessions: 5 } }, { idleTimeoutMs: 7 }, {
        ...base,
        idleTimeoutMs: 7,
        maxConnections: 10,
      }],
      [{ limits: { maxSessions: 5, maxSessionsPerAddress: Infinity } }, { maxConnections: 3 }, {
        ...base,
        maxConnections: 3,
        maxConnectionsPerAddress: 10,
      }],
    ];
  const runtime = platformRuntime();
  for (const [options, webTransport, expected] of cases) {
    const listeners: FakeListener[] = [];
    await using server = listen({
      runtime,
      ...options,
      webTransport: { cacheFolder: null, ...webTransport, engine: engine(listeners) },
    });
    const { unreadStreams, isSuccessor, quic, quotas, ...all } = listeners[0]!.options;
    assertEquals([unreadStreams?.timeoutMs, typeof isSuccessor, quic], [
      5_000,
      "function",
      undefined,
    ]);
    assertEquals(quotas?.stats.maxSessions?.taken, 0);
    const { cert: _cert, key: _key, ...rest } = all;
    const seen = "cert" in expected ? all : rest;
    assertEquals(seen, { port: portOf(server), runtime, ...expected } as typeof seen);
  }
});

Deno.test("serve() keeps its development certificate in cacheFolder", async () => {
  const cacheFolder = await Deno.makeTempDir();
  const hashes = [];
  for (let start = 0; start < 2; start++) {
    await using server = listen({ webTransport: { cacheFolder, engine: engine([]) } });
    hashes.push(server.certificateHashes);
  }
  assertEquals(hashes, [devCertificate({ cacheFolder }).hashes, hashes[0]]);
  await Deno.remove(cacheFolder, { recursive: true });
});

Deno.test("serve() looks for another port if the UDP port is in use and any port will do", async () => {
  const tried: number[] = [];
  const failing = (failures: number) => (options: ListenWebTransportOptions) => {
    tried.push(options.port!);
    if (tried.length <= failures) throw new Deno.errors.AddrInUse("taken");
    return new FakeListener(options);
  };
  {
    await using server = listen({ webTransport: { engine: failing(3), cacheFolder: null } });
    assertEquals([tried.length, new Set(tried).size, tried[3]], [4, 4, portOf(server)]);
    const response = await fetch(server.url.replace("ws", "http"));
    assertEquals([response.status, await response.text()], [426, "Expected a WebSocket upgrade"]);
  }
  tried.length = 0;
  const webTransport = { engine: failing(Infinity), cacheFolder: null };
  assertThrows(() => listen({ webTransport }), Deno.errors.AddrInUse);
  assertEquals(tried.length, 10);
  const ports = [...tried];
  tried.length = 0;
  {
    await using _server = listen({ webTransport: { ...webTransport, port: 9 } });
    assertEquals(tried, [9]);
  }
  for (const port of ports) await untilFree(port);
});

/** An engine whose port is in use for a number of attempts. */
class TakenPort {
  readonly listeners: FakeListener[] = [];
  attempts = 0;
  error: Error = new Deno.errors.AddrInUse("taken");

  constructor(public failures = Infinity) {}

  readonly engine = (options: ListenWebTransportOptions): WebTransportSource => {
    if (++this.attempts <= this.failures) throw this.error;
    const listener = new FakeListener(options);
    this.listeners.push(listener);
    return listener;
  };

  /** Options of a server whose UDP port another program uses. */
  get options() {
    return { webTransport: { engine: this.engine, port: 9, cacheFolder: null } };
  }
}

Deno.test("serve() retries a UDP port that is in use, finally every 5 s, until it closes", async () => {
  const taken = new TakenPort();
  let closing: Promise<void>;
  {
    using time = new FakeTime();
    const printed = stub(console, "error", () => {});
    using _printed = printed;
    const server = listen({ ...taken.options, onListen: undefined as never });
    const delays: number[] = [];
    const lines = () => printed.calls.map(({ args }) => args[0]).slice(1);
    for (let count = 0; count < 19; count++) {
      // A restart is over sooner.
      if (delays.reduce((sum, ms) => sum + ms, 0) < 3_000) assertEquals(lines(), []);
      const { attempts } = taken;
      let ms = 0;
      for (; taken.attempts === attempts; ms += 50) await time.tickAsync(50);
      delays.push(ms);
    }
    // There are no pauses between the first ten attempts. Each takes at most ten steps of fake
    // time, because it only waits for the garbage collector. Later attempts follow after pauses.
    assert(delays.slice(0, 10).every((ms) => ms <= 550), `${delays}`);
    for (const [i, ms] of [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000].entries()) {
      assert(ms <= delays[10 + i]! && delays[10 + i]! <= ms + 600, `${delays}`);
    }
    assertEquals(server.webTransportUrl, "");
    taken.failures = 0;
    await time.tickAsync(5_000);
    assertEquals([server.webTransportUrl, taken.listeners.length], ["https://127.0.0.1:9/", 1]);
    assertEquals(lines(), [
      "WebTransport is off: taken; retrying until the port is free",
      "WebTransport on https://127.0.0.1:9/",
    ]);
    closing = server.close();
    await time.tickAsync(1_000);
  }
  await closing;
});

Deno.test("Server.drain() and Server.close() stop retrying a UDP port", async () => {
  for (const end of ["drain", "close"] as const) {
    const taken = new TakenPort();
    const server = listen(taken.options);
    await server[end]();
    taken.failures = 0;
    await server.close();
    assertEquals(taken.listeners, [], end);
  }
});

Deno.test("serve() disables WebTransport if retrying its port fails with another error, and reports it", async () => {
  const taken = new TakenPort();
  using printed = stub(console, "error", () => {});
  await using server = listen(taken.options);
  taken.error = new Deno.errors.PermissionDenied("no more");
  await until(() => server.webTransportStats === undefined);
  assertEquals(printed.calls[0]?.args, ["Listening for WebTransport failed:", taken.error]);
  assertThrows(
    () => server.rotateCertificate({ cert: "", key: "" }),
    TypeError,
    "WebTransport is off",
  );
});

Deno.test("Server renews its development certificate at run time, and rotates to the new one", async () => {
  const listeners: FakeListener[] = [];
  const webTransport = { engine: engine(listeners), cacheFolder: null };
  let closing: Promise<void>;
  {
    using time = new FakeTime();
    const server = listen({ webTransport });
    const { rotations } = listeners[0]!;
    const hash = () => server.certificateHashes[0]!.value.toHex();
    const hashes = [hash()];
    for (const [days, count] of [[10, 0], [2, 1], [11, 2]] as const) {
      await time.tickAsync(days * DAY_MS);
      assertEquals(rotations.length, count);
      hashes.push(hash());
    }
    assertEquals(new Set(hashes).size, 3);
    // Only the application can renew its own certificate.
    server.rotateCertificate(devCertificate({ cacheFolder: null }));
    await time.tickAsync(20 * DAY_MS);
    assertEquals(rotations.length, 3);
    closing = server.close();
  }
  await soon(closing);
  assertEquals(listeners[0]!.steps, ["stop", "close"]);
});

Deno.test("serve() never renews a given certificate", async () => {
  const listeners: FakeListener[] = [];
  const certificate = devCertificate({ cacheFolder: null });
  let closing: Promise<void>;
  {
    using time = new FakeTime();
    const server = listen({ webTransport: { engine: engine(listeners), certificate } });
    await time.tickAsync(20 * DAY_MS);
    assertEquals([listeners[0]!.rotations, server.certificateHashes], [[], certificate.hashes]);
    closing = server.close();
  }
  await soon(closing);
});

Deno.test("Server sends a retry delay in its rejections", async () => {
  const listeners: FakeListener[] = [];
  const server = listen({
    path: "/live",
    limits: { maxSessions: 1 },
    webTransport: { engine: engine(listeners), cacheFolder: null },
  });
  const { client, server: far } = memoryPair({ frames: false });
  const cases: [FakeRequest, status: number, headers: Record<string, string>][] = [
    [new FakeRequest("https://a.test/nope"), 404, {}],
    [new FakeRequest("https://a.test/live", [], { origin: "https://b.test" }), 403, {}],
    [new FakeRequest("https://user@a.test/live"), 400, {}],
    [new FakeRequest("https://"), 400, {}],
    [new FakeRequest("https://a.test/live"), 400, {}],
    [new FakeRequest("https://a.test/live", ["x", "skein.1"], {}, far), 200, {
      protocol: "skein.1",
    }],
    [new FakeRequest("https://a.test/live"), 429, { "retry-after": "5" }],
  ];
  for (const [request, status, headers] of cases) {
    listeners[0]!.request(request);
    assertEquals(await soon(request.answered.promise), { status, headers }, request.url);
  }
  client.close();
  await client.closed;
  await until(() => server.manager.stats().reserved === 0);
  const draining = server.drain();
  const late = new FakeRequest("https://a.test/live");
  listeners[0]!.request(late);
  const { status, headers } = await soon(late.answered.promise);
  assertEquals([status, headers], [503, { "retry-after": "5" }]);
  await draining;
  assertEquals(listeners[0]!.steps, ["stop", "stop", "close"]);
});

Deno.test("Server answers 401 while clientAddress throws, and prints the error once for many requests", async () => {
  using print = captureConsole();
  const listeners: FakeListener[] = [];
  let failures = 20;
  await using _server = listen({
    path: "/live",
    clientAddress: () => {
      if (failures-- > 0) throw new Error("Broken");
      return "192.0.2.7";
    },
    webTransport: { engine: engine(listeners), cacheFolder: null },
  });
  const statusOf = async (path: string) => {
    const request = new FakeRequest(`https://a.test/${path}`);
    listeners[0]!.request(request);
    return (await soon(request.answered.promise)).status;
  };
  for (let i = 0; i < 20; i++) assertEquals(await statusOf("live"), 401);
  assertEquals(await statusOf("nope"), 404);
  const faults = print.lines.filter((line) => line.includes("clientAddress threw Error: Broken"));
  assertEquals(faults.length, 1);
});

Deno.test("serve() prints its URL, and why WebTransport is off, unless onListen is set", async () => {
  using print = stub(console, "error");
  const told: ListenInfo[] = [];
  {
    await using server = serve({ port: 0, hostname: "127.0.0.1" });
    const http = `http://127.0.0.1:${portOf(server)}/`;
    const line = `Listening on ${http}, WebTransport on ${http.replace("http", "https")}`;
    assertEquals(print.calls.map(({ args }) => args), [[line]]);
    await using all = serve({ port: 0, webTransport: false });
    const { port } = all.address!;
    assertEquals(print.calls[1]!.args, [
      `Listening on http://0.0.0.0:${port}/ (http://localhost:${port}/)`,
    ]);
  }
  {
    await using _server = listen({ onListen: (_address, info) => void told.push(info) });
    assertEquals(print.calls.length, 2);
    assertNotEquals(told[0]?.webTransportUrl, "");
  }
});
