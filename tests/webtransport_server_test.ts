/**
 * Tests `serve()` over WebTransport on real sockets. Admission is the same as over WebSocket.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { spy } from "@std/testing/mock";
import { AuthenticationError, ConnectionError, dial, Session, SessionClosedError } from "../mod.ts";
import { type ListenInfo, serve, type Server, type SessionRejection } from "../server.ts";
import {
  type Connection,
  devCertificate,
  dialWebTransport,
  type DialWebTransportOptions,
  directStream,
  withMessages,
} from "../transport/mod.ts";
import { sessionSettings } from "../session/mod.ts";
import { lowPort } from "./networks/ports.ts";
import { listen, portOf } from "./servers.ts";
import { HELD_MS, HeldTimers } from "./movable_clock.ts";
import { endOf } from "./sessions.ts";
import { captureConsole } from "./console_lines.ts";
import { soon, turns, until } from "./waiting.ts";
import { headOf, partsOf, TextSocket } from "./peers/text_socket.ts";

/** Data that a client needs to connect to a server. */
type Target = Pick<Server, "webTransportUrl" | "certificateHashes">;

/** The part of an unstable API that frees a port on close, which a QUIC endpoint does not. */
interface Datagrams extends Disposable {
  readonly addr: Deno.NetAddr;
}

/** Binds a UDP port whose TCP port is free. */
function takePort(): Datagrams {
  const { listenDatagram } = Deno as unknown as {
    listenDatagram(options: Deno.TcpListenOptions & { readonly transport: "udp" }): Datagrams & {
      close(): void;
    };
  };
  const socket = listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: lowPort() });
  return { addr: socket.addr, [Symbol.dispose]: () => socket.close() };
}

/** Dials a server with its URL and certificate hashes. */
function dialRaw(
  server: Target,
  options: DialWebTransportOptions & { readonly path?: string } = {},
): Promise<Connection> {
  const { path = "", ...rest } = options;
  return soon(dialWebTransport(server.webTransportUrl + path, {
    serverCertificateHashes: server.certificateHashes,
    ...rest,
  }));
}

/** Subprotocol of all sessions. */
const PROTOCOL = "skein.1";

/** Subprotocols of a client that sends its token in band. */
const ANNOUNCED = [PROTOCOL, "skein.auth"];

/** Opens a session of `skein.1`, without the fallbacks of `dial()`. */
async function open(
  server: Target,
  options: DialWebTransportOptions & { readonly path?: string; readonly token?: string } = {},
): Promise<Session> {
  const { token, ...rest } = options;
  const protocols = token === undefined ? [PROTOCOL] : ANNOUNCED;
  const connection = await dialRaw(server, { protocols, ...rest });
  const session = new Session(
    withMessages(connection, { side: "client" }),
    sessionSettings({ side: "client" }),
    token === undefined ? {} : { token },
  );
  await soon(session.ready);
  return session;
}

async function statusOf(dialing: Promise<unknown>): Promise<number | undefined> {
  return (await assertRejects(() => dialing, ConnectionError)).status;
}

Deno.test("serve() offers WebTransport on the same port number, only to this machine in development", async () => {
  const told: [Deno.NetAddr, ListenInfo][] = [];
  for (const hostname of ["127.0.0.1", "0.0.0.0"]) {
    await using server = listen({ hostname, onListen: (...args) => void told.push(args) });
    const url = `https://127.0.0.1:${portOf(server)}/`;
    assertEquals([server.webTransportUrl, server.certificateHashes.length], [url, 1]);
    assertEquals(told.at(-1), [server.address!, {
      webTransportUrl: url,
      webTransportError: undefined,
    }]);
  }
});

Deno.test("serve() serves a session over WebTransport as over WebSocket", async () => {
  const opened = Promise.withResolvers<Session>();
  await using server = listen({
    onOpen: (session) => opened.resolve(session),
    onMessage: (message) => message.reply([message.topic, message.data]),
    keepHeaders: ["x-test", "host"],
  });
  await using session = await open(server, { path: "rooms/a?x=1", headers: { "x-test": "yes" } });
  const near = await soon(opened.promise);
  assertEquals({ transport: near.transport, protocol: near.protocol, id: near.id }, {
    transport: "webtransport",
    protocol: "skein.1",
    id: session.id,
  });
  assertEquals([near.path, near.address], ["/rooms/a", "127.0.0.1"]);
  assertEquals(near.headers.get("x-test"), "yes");
  assertEquals(near.headers.get("host"), `127.0.0.1:${portOf(server)}`);
  assertEquals(await session.request("ask", 7), ["ask", 7]);
  await session.close({ code: 3001, reason: "Enough" });
  assertEquals(await endOf(near), { code: 3001, reason: "Enough", by: "remote" });
  await until(() => server.manager.count === 0);
});

Deno.test("Server speaks skein.1 with a client that requests it only in its URL", async () => {
  const opened = Promise.withResolvers<Session>();
  await using server = listen({
    onOpen: (session) => opened.resolve(session),
    onMessage: (message) => message.reply("pong"),
  });
  const raw = await dialRaw(server, { path: "?protocol=skein.1" });
  assertEquals(raw.protocol, "");
  const connection = withMessages(raw, { side: "client" });
  Object.defineProperty(connection, "protocol", { value: PROTOCOL });
  await using session = new Session(connection, sessionSettings({ side: "client" }));
  assertEquals(await session.request("ping"), "pong");
  assertEquals((await soon(opened.promise)).protocol, "skein.1");
});

/**
 * Ways in which Deno's own client closes a connection, each with the session's close at the server.
 */
const OWN_CLIENT_ENDS: [what: string, info: WebTransportCloseInfo, code: number, by: string][] = [
  ["closes without a code, like a crash", {}, 1006, "network"],
  ["closes with a code", { closeCode: 4010, reason: "bye" }, 4010, "remote"],
];

for (const [what, info, code, by] of OWN_CLIENT_ENDS) {
  Deno.test(`Server ends a session with ${code} when Deno's own client ${what}`, async () => {
    const opened = Promise.withResolvers<Session>();
    await using server = listen({ onOpen: (session) => opened.resolve(session) });
    const client = new WebTransport(`${server.webTransportUrl}?protocol=skein.1`, {
      serverCertificateHashes: [...server.certificateHashes],
    });
    client.closed.catch(() => {});
    await soon(client.ready);
    const { readable, writable } = await client.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(Uint8Array.of(0, 0)); // The greeting.
    const session = await soon(opened.promise);
    client.close(info);
    const end = await endOf(session);
    assertEquals([end.code, end.by], [code, by]);
    await Promise.allSettled([readable.cancel(), writer.abort()]);
  });
}

Deno.test("Server supports streams but no messages in a raw session", async () => {
  const opened = Promise.withResolvers<Session>();
  await using server = listen({ onOpen: (session) => opened.resolve(session) });
  await using connection = await dialRaw(server, { protocols: ["other.1"] });
  const near = await soon(opened.promise);
  assertEquals({
    transport: near.transport,
    nearProtocol: near.protocol,
    connectionProtocol: connection.protocol,
  }, { transport: "webtransport", nearProtocol: "", connectionProtocol: "" });
  assertThrows(() => near.send("topic", 1));
  const stream = directStream(await connection.createBidirectionalStream());
  await stream.write(new TextEncoder().encode("over a stream"));
  await stream.close();
  for await (const incoming of near.connection.incomingBidirectionalStreams) {
    assertEquals(await new Response(incoming.readable).text(), "over a stream");
    await incoming.writable.close();
    break;
  }
  await near.close({ code: 4400, reason: "Over" });
  assertEquals(await soon(connection.closed), { closeCode: 4400, reason: "Over" });
});

Deno.test("Server rejects over WebTransport with the same status as over WebSocket", async () => {
  const statuses = [400, 401, 403, 404, 429, 503] as const;
  const told: SessionRejection[] = [];
  await using server = listen({
    path: "/live",
    limits: { maxSessions: 2, maxSessionsPerUser: 1 },
    onSessionRejected: (rejection) => void told.push(rejection),
    authenticate: ({ token, request }) => {
      const asked = new URL(request.url).searchParams.get("status");
      const status = statuses.find((one) => `${one}` === asked);
      if (status) throw new AuthenticationError("No", { status });
      if (token === undefined) return Promise.reject(new Error("Unknown"));
      return token;
    },
  });
  const rejected = async (path: string, headers: Record<string, string> = {}) =>
    await statusOf(dialRaw(server, { path, headers }));
  assertEquals(await rejected("nope"), 404);
  assertEquals(await rejected("live", { origin: "https://evil.example" }), 403);
  assertEquals(await rejected("live"), 401);
  for (const status of statuses) {
    assertEquals(await rejected(`live?status=${status}`), status);
  }
  await using _ann = await open(server, { path: "live?token=ann" });
  assertEquals(await rejected("live?token=ann"), 429);
  await using _bob = await open(server, { path: "live", headers: { authorization: "Bearer bob" } });
  assertEquals(await rejected("live?token=eve"), 429);
  assertEquals(told.map(({ status }) => status), [
    404,
    403,
    401,
    ...[400, 401, 403, 404, 429, 503],
    429,
    429,
  ]);
  assertEquals(new Set(told.map(({ address }) => address)), new Set(["127.0.0.1"]));
  assertEquals([server.manager.count, server.manager.stats().reserved], [2, 0]);
});

Deno.test("Server admits its own pages over WebTransport, under each name of this machine", async () => {
  await using server = listen({ origins: ["https://app.example"] });
  const port = portOf(server);
  const cases: [origin: string, isIn: boolean][] = [
    [`http://127.0.0.1:${port}`, true],
    // The page connects to 127.0.0.1, whatever its host name is.
    [`http://localhost:${port}`, true],
    [`http://[::1]:${port}`, true],
    ["https://app.example", true],
    ["https://evil.example", false],
    [`http://evil.example:${port}`, false],
    [`http://localhost.evil.example:${port}`, false],
    [`http://localhost:${port + 1}`, false],
    ["null", false],
    [`file://localhost:${port}`, false],
    ["nonsense", false],
  ];
  for (const [origin, isIn] of cases) {
    const dialing = dialRaw(server, { headers: { origin } });
    if (!isIn) assertEquals(await statusOf(dialing), 403, origin);
    else await (await dialing)[Symbol.asyncDispose]();
  }
});

Deno.test("Server admits its own page if WebTransport has another port", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  const port = lowPort();
  await using server = listen({ tls: certificate, webTransport: { port } });
  assertEquals(server.webTransportUrl, `https://127.0.0.1:${port}/`);
  const own = `https://127.0.0.1:${portOf(server)}`;
  await using connection = await dialRaw(server, { headers: { origin: own } });
  assertEquals(connection.transport, "webtransport");
  // With `tls` every name must match.
  const other = `https://localhost:${portOf(server)}`;
  assertEquals(await statusOf(dialRaw(server, { headers: { origin: other } })), 403);
});

Deno.test("Server reads a token in band over WebTransport before any other message", async () => {
  const timers = new HeldTimers();
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token === "s3cret" ? "ann" : null,
    session: { handshakeTimeoutMs: HELD_MS },
    runtime: timers.runtime,
  });
  await using session = await open(server, { token: "s3cret" });
  assertEquals(server.manager.sessionsOf("ann").map(({ id }) => id), [session.id]);
  const wrong = await assertRejects(() => open(server, { token: "wrong" }), SessionClosedError);
  assertEquals(wrong.info?.code, 4401);
  // If a client cannot send a token in band, it is rejected before there is a session.
  assertEquals(await statusOf(dialRaw(server)), 401);
  // The server does not wait for a client that never opens its stream.
  const silent = await dialRaw(server, { protocols: ANNOUNCED });
  await until(() => server.manager.stats().reserved === 1);
  timers.fire();
  const { closeCode } = await soon(silent.closed);
  assertEquals(closeCode, 4408);
  await until(() => server.manager.stats().reserved === 0);
});

Deno.test("Server aborts authenticate without an error report when a WebTransport client disconnects", async () => {
  const asked = Promise.withResolvers<AbortSignal>();
  const told: SessionRejection[] = [];
  await using server = listen({
    authenticate: ({ signal }) => {
      asked.resolve(signal);
      return new Promise(() => {});
    },
    onSessionRejected: (rejection) => void told.push(rejection),
  });
  const controller = new AbortController();
  const dialing = dialRaw(server, { signal: controller.signal });
  const signal = await soon(asked.promise);
  controller.abort(new Error("Never mind"));
  await assertRejects(() => dialing, Error, "Never mind");
  await until(() => signal.aborted);
  await until(() => server.manager.stats().reserved === 0);
  assertEquals(told, []);
});

Deno.test("Server.drain() notifies WebTransport sessions, including raw sessions, and rejects new ones", async () => {
  const opened: Session[] = [];
  const server = listen({ onOpen: (session) => void opened.push(session) });
  const session = await open(server);
  const raw = await dialRaw(server);
  await until(() => opened.length === 2);
  const ending = new AbortController();
  const { signal } = ending;
  const draining = server.drain({ withinMs: 60_000, reason: "A new version", signal });
  const status = await statusOf(dialRaw(server));
  await soon(raw.draining);
  ending.abort();
  const report = await soon(draining);
  assertEquals(report.closed + report.cut, 2);
  assertEquals(await endOf(session), { code: 4503, reason: "A new version", by: "remote" });
  assertEquals(await soon(raw.closed), { closeCode: 4503, reason: "A new version" });
  assert(status === 503 || status === undefined, `received ${status}`);
});

Deno.test("Server.close() closes WebTransport sessions with 4503, and stops listening", async () => {
  const server = listen();
  const session = await open(server);
  await server.close();
  assertEquals((await endOf(session)).code, 4503);
  await assertRejects(() => dialRaw(server, { timeoutMs: 200 }));
});

Deno.test("serve() uses one certificate for both transports", async () => {
  const tls = devCertificate({ cacheFolder: null });
  await using server = listen({ tls, onMessage: (message) => message.reply("pong") });
  assertEquals(server.url, `wss://127.0.0.1:${portOf(server)}/`);
  assertEquals(server.certificateHashes, tls.hashes);
  await using session = await open(server);
  assertEquals(await session.request("ping"), "pong");
  using client = Deno.createHttpClient({ caCerts: [tls.cert] });
  const response = await fetch(`https://127.0.0.1:${portOf(server)}/`, { client });
  assertEquals([response.status, await response.text()], [426, "Expected a WebSocket upgrade"]);
  // A real certificate needs no hash.
  const url = `https://127.0.0.1:${portOf(server)}/.well-known/skein/webtransport`;
  const wellKnown = await fetch(url, { client });
  assertEquals([wellKnown.status, await wellKnown.text()], [426, "Expected a WebSocket upgrade"]);
});

Deno.test("Server.rotateCertificate() presents another certificate to new clients, and keeps sessions", async () => {
  const [first, second] = [0, 1].map(() => devCertificate({ cacheFolder: null }));
  await using server = listen({
    webTransport: { certificate: first! },
    onMessage: (message) => message.reply("pong"),
  });
  assertEquals(server.certificateHashes, first!.hashes);
  await using before = await open(server);
  server.rotateCertificate(second!);
  assertEquals(server.certificateHashes, second!.hashes);
  await using after = await open(server);
  assertEquals([await before.request("ping"), await after.request("ping")], ["pong", "pong"]);
  await assertRejects(() => dialRaw(server, { serverCertificateHashes: first!.hashes }));
});

Deno.test("serve() continues with WebSocket while the UDP port is in use, and offers WebTransport when it is free", async () => {
  for (const webTransport of [true, { cacheFolder: null }]) {
    using console = captureConsole();
    const taken = takePort();
    const { port } = taken.addr;
    const told: ListenInfo[] = [];
    await using server = listen({
      port,
      webTransport,
      async onListen(_address, info) {
        told.push(info);
        await turns();
        throw new Error("The log is full"); // It is printed, and nothing else happens.
      },
    });
    assertEquals([server.webTransportUrl, server.certificateHashes], ["", []]);
    assertEquals(server.webTransportStats?.isListening, false);
    assertEquals(told[0]?.webTransportUrl, "");
    const { webTransportError } = told[0]!;
    assert(webTransportError instanceof Deno.errors.AddrInUse);
    const text = `Cannot listen on 127.0.0.1:${port} (UDP): the address is in use`;
    assertEquals(webTransportError.message, text);
    const http = server.url.replace("ws", "http");
    const response = await fetch(`${http}.well-known/skein/webtransport`);
    assertEquals(response.status, 204);
    // The certificate for the future listener.
    assertThrows(() => server.rotateCertificate({ cert: "no", key: "no" }), TypeError);
    const certificate = devCertificate({ cacheFolder: null });
    server.rotateCertificate(certificate);
    taken[Symbol.dispose]();
    await until(() => told.length === 2);
    const webTransportUrl = `https://127.0.0.1:${port}/`;
    assertEquals(told[1], { webTransportUrl, webTransportError: undefined });
    assertEquals(server.webTransportStats?.isListening, true);
    assertEquals(server.certificateHashes, certificate.hashes);
    await using session = await open(server);
    assertEquals(session.state, "connected");
    assertEquals(console.lines, Array(2).fill("onListen failed: Error: The log is full"));
  }
});

Deno.test("serve() offers WebTransport on a port that this process used before, in five of five attempts", async () => {
  const port = lowPort();
  for (let round = 0; round < 5; round++) {
    const listening = Promise.withResolvers<void>();
    await using server = listen({
      port,
      webTransport: { cacheFolder: null },
      onListen: (_address, { webTransportUrl }) => webTransportUrl !== "" && listening.resolve(),
      onMessage: (message) => message.reply(round),
    });
    await soon(listening.promise);
    await using session = await open(server);
    assertEquals([session.transport, await session.request("round")], ["webtransport", round]);
  }
});

Deno.test("serve() without WebTransport uses no UDP port", async () => {
  using endpoint = spy(Deno, "QuicEndpoint");
  await using server = listen({ webTransport: false });
  assertEquals([server.webTransportUrl, server.certificateHashes], ["", []]);
  assertEquals(endpoint.calls.length, 0);
});

Deno.test("serve() without WebTransport tells pages so without an error", async () => {
  const cases: [title: string, status: number, expected: number][] = [
    ["a handler without such a path", 404, 204],
    ["a handler with a path of its own", 200, 200],
    ["a handler that refuses", 403, 403],
  ];
  for (const [title, status, expected] of cases) {
    const fetchPage = () => new Response("", { status });
    const origins = ["https://app.example"];
    await using server = listen({ webTransport: false, fetch: fetchPage, origins });
    const url = `${server.url.replace("ws", "http")}.well-known/skein/webtransport`;
    const ask = async (origin: string) => {
      const { status, body } = await fetch(url, { headers: { origin } });
      await body?.cancel();
      return status;
    };
    assertEquals(await ask("https://app.example"), expected, title);
    assertEquals(await ask("https://evil.example"), status, title);
  }
});

Deno.test("serve() reveals the address of its WebTransport only to this machine", async () => {
  await using server = listen({
    path: "/live",
    origins: ["https://app.example"],
    fetch: () => new Response("mine", { status: 418 }),
  });
  const port = portOf(server);
  // A raw request, since `fetch()` overrides the host.
  const ask = async (
    { path = "", method = "GET", headers = {} }: {
      readonly path?: string;
      readonly method?: string;
      readonly headers?: Record<string, string>;
    },
  ) => {
    const line = `${method} /.well-known/skein/webtransport${path}`;
    const all = { host: `127.0.0.1:${port}`, connection: "close", ...headers };
    using socket = await TextSocket.send(port, headOf(line, all));
    return partsOf(await socket.until());
  };
  const cases: [title: string, asked: Parameters<typeof ask>[0], status: number][] = [
    ["a program", {}, 200],
    ["its own page", { headers: { origin: `http://127.0.0.1:${port}` } }, 200],
    ["a page that may connect", { headers: { origin: "https://app.example" } }, 200],
    ["under another name", { headers: { host: `localhost:${port}` } }, 200],
    ["a foreign page", { headers: { origin: "https://evil.example" } }, 418],
    [
      "a foreign name that resolves to this host",
      { headers: { host: `evil.example:${port}` } },
      418,
    ],
    ["a network address", { headers: { host: `192.168.1.7:${port}` } }, 418],
    ["another method", { method: "POST" }, 418],
    ["another path", { path: "/x" }, 418],
  ];
  for (const [title, asked, status] of cases) {
    const { headers, body, ...response } = await ask(asked);
    assertEquals(response.status, status, title);
    if (status !== 200) {
      assertEquals(body, "mine");
      continue;
    }
    assertEquals(headers.get("access-control-allow-origin"), asked.headers?.origin ?? null, title);
    assertEquals(headers.get("cache-control"), "no-store");
    assertEquals(headers.get("vary")?.toLowerCase().includes("origin"), true);
    assertEquals(JSON.parse(body), {
      port,
      hostname: "127.0.0.1",
      serverCertificateHashes: [{
        algorithm: "sha-256",
        value: server.certificateHashes[0]!.value.toBase64(),
      }],
    });
  }
});

Deno.test("serve() rejects invalid WebTransport options", () => {
  assertThrows(() => serve({ port: 0, webTransport: 7 as never }), TypeError, "received 7");
  assertThrows(() => serve({ port: 0, webTransport: null as never }), TypeError, "received null");
  for (const port of [-1, 65_536, 1.5]) {
    assertThrows(() => serve({ port: 0, webTransport: { port } }), RangeError, `received ${port}`);
  }
  assertThrows(() => serve({ port: 0, webTransport: { port: "8000" as never } }), TypeError);
});

/** The configuration of a user who has not enabled any feature. */
const { imports } = JSON.parse(await Deno.readTextFile(new URL("../deno.json", import.meta.url)));
const CONFIG = JSON.stringify({ imports, nodeModulesDir: "none", lock: false });

/** Runs a program in another process, and returns its output. */
async function run(
  script: string,
  ...flags: readonly string[]
): Promise<[out: string, err: string]> {
  const folder = await Deno.makeTempDir();
  try {
    const server = new URL("../server/server.ts", import.meta.url).href;
    const client = new URL("../client.ts", import.meta.url).href;
    await Deno.writeTextFile(`${folder}/deno.json`, CONFIG);
    await Deno.writeTextFile(
      `${folder}/main.ts`,
      `import { serve } from "${server}";\nimport { dial } from "${client}";\n${script}`,
    );
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--no-prompt", "--quiet", ...flags, "main.ts"],
      cwd: folder,
      stdin: "null",
      env: { NO_COLOR: "1" },
      signal: AbortSignal.timeout(60_000),
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return [text(stdout), text(stderr)];
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const TALK = `
  await using server = serve({ port: 0, hostname: "127.0.0.1", onMessage: (m) => m.reply("pong") });
  await using session = await dial(server.url);
  console.log(await session.request("ping"), server.webTransportUrl === "", server.url);
`;

Deno.test("serve() prints one line if the runtime has no QUIC, and serves WebSocket", async () => {
  const [out, err] = await run(TALK, "-N");
  const [pong, isOff, url = ""] = out.trim().split(" ");
  assertEquals([pong, isOff], ["pong", "true"]);
  assertEquals(err.trim().split("\n"), [
    `Listening on ${url.replace("ws", "http")}`,
    "WebTransport is off: Cannot listen for WebTransport: this runtime has no QUIC; start it with " +
    '--unstable-net, or write "unstable": ["net"] in deno.json',
  ]);
  const [, silence] = await run(TALK.replace("port: 0", "port: 0, webTransport: false"), "-N");
  assertEquals(silence, `Listening on ${silence.split(" ")[2]}`);
  const [, failure] = await run(TALK.replace("port: 0", "port: 0, webTransport: {}"), "-N");
  assert(failure.includes("--unstable-net"), failure);
});

Deno.test("serve() offers WebTransport with only the network permission", async () => {
  const [out, err] = await run(TALK, "-N", "--unstable-net");
  const [pong, isOff, url = ""] = out.trim().split(" ");
  assertEquals([pong, isOff], ["pong", "false"]);
  const http = url.replace("ws", "http");
  assertEquals(
    err.trim(),
    `Listening on ${http}, WebTransport on ${http.replace("http", "https")}`,
  );
});

Deno.test("serve() requests no permission that only WebTransport needs", async () => {
  const [out, err] = await run(
    TALK.replace('hostname: "127.0.0.1"', 'hostname: "0.0.0.0"').replace(
      "dial(server.url)",
      "dial(server.url.replace('localhost', '0.0.0.0'))",
    ),
    "--allow-net=0.0.0.0",
    "--unstable-net",
  );
  assertEquals(out.split(" ").slice(0, 2), ["pong", "true"]);
  assert(
    /Cannot listen for WebTransport: the permission --allow-net=127\.0\.0\.1:\d+ must be granted/
      .test(err),
    err,
  );
});

Deno.test("dial() uses WebTransport to a server on the IPv6 loopback address", async () => {
  await using server = listen({ hostname: "::1", webTransport: { cacheFolder: null } });
  await using session = await soon(dial(server.url));
  assertEquals(session.transport, "webtransport");
});
