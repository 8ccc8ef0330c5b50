/**
 * Tests the limits for malicious peers with `serve()` on the hardened WebSocket engine.
 *
 * @module
 */
import { assert, assertEquals, assertLess, assertMatch, assertRejects } from "@std/assert";
import { once } from "node:events";
import type { Socket } from "node:net";
import { dial, type Session, SessionClosedError } from "../mod.ts";
import { devCertificate } from "../transport/mod.ts";
import { dialMoq, MoqServer, TrackMux } from "../moq/mod.ts";
import { connectFrom, HOST, listenHardened, UPGRADE } from "./hardened.ts";
import { frameOf, portOf, RawSocket } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { TextSocket } from "./peers/text_socket.ts";
import { metrics } from "../operations/mod.ts";

const websocket = { transports: ["websocket"] } as const;

/** Bytes that the kernel and the runtime read from a socket before any reader asks for them. */
const READ_AHEAD_BYTES = 256 * 1024;

async function bytesReceived({ connection }: Session): Promise<number> {
  return (await connection.getStats()).bytesReceived!;
}

/**
 * Writes bytes repeatedly until the peer stops reading or a maximum is reached; returns the number
 * of written bytes.
 */
async function flood(conn: Deno.Conn, bytes: Uint8Array, maxBytes: number): Promise<number> {
  let sent = 0;
  let since = sent;
  const writing = (async () => {
    while (sent < maxBytes) {
      for (let at = 0; at < bytes.length;) {
        const count = await conn.write(bytes.subarray(at));
        at += count;
        sent += count;
      }
    }
  })().catch(() => {});
  const isOver = writing.then(() => true);
  while (!await Promise.race([isOver, new Promise((resolve) => setTimeout(resolve, 300))])) {
    if (since === sent) break;
    since = sent;
  }
  return sent;
}

Deno.test("serve() on the hardened engine answers HTTP like the runtime's server", async () => {
  const { server } = listenHardened({
    features: [metrics()],
    webTransport: true,
    path: "/session",
    async fetch(request, info) {
      const { pathname, search } = new URL(request.url);
      if (pathname === "/fails") throw new Error("A handler that throws");
      const headers = new Headers({ "x-address": (info.remoteAddr as Deno.NetAddr).hostname });
      headers.append("set-cookie", "a=1");
      headers.append("set-cookie", "b=2");
      const text = request.method + search + await request.text();
      return new Response(ReadableStream.from([new TextEncoder().encode(text)]), { headers });
    },
  });
  await using _server = server;
  const url = `http://127.0.0.1:${portOf(server)}`;
  const posted = await fetch(`${url}/form?q=1`, { method: "POST", body: "x".repeat(100_000) });
  assertEquals(await posted.text(), "POST?q=1" + "x".repeat(100_000));
  assertEquals(posted.headers.getSetCookie(), ["a=1", "b=2"]);
  assertEquals(posted.headers.get("x-address"), "127.0.0.1");
  const head = await fetch(`${url}/form`, { method: "HEAD" });
  assertEquals([head.status, await head.text()], [200, ""]);
  assertMatch(await (await fetch(`${url}/metrics`)).text(), /skein_sessions/);
  assertEquals(await (await fetch(`${url}/healthz`)).body?.cancel(), undefined);
  const wellKnown = await fetch(`${url}/.well-known/skein/webtransport`);
  assertEquals(typeof (await wellKnown.json()).port, "number");

  const { error } = console;
  const errors: unknown[][] = [];
  console.error = (...printed) => void errors.push(printed);
  const failed = await fetch(`${url}/fails`);
  console.error = error;
  assertEquals([failed.status, await failed.text()], [500, "Internal Server Error"]);
  assertEquals(errors.map((printed) => String(printed.at(-1))), ["Error: A handler that throws"]);

  await using session = await dial(`ws://127.0.0.1:${portOf(server)}/session`, websocket);
  assert(session.isReady);
});

Deno.test("serve() on the hardened engine answers an upgrade at the metrics path with metrics", async () => {
  const { server } = listenHardened({ features: [metrics()] });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server), { path: "/metrics" });
  assertEquals(raw.status, 200);
  await using session = await dial(`${server.url}metrics-no-more`, websocket);
  await session.ready;
});

Deno.test("serve() on the hardened engine rejects like on the runtime's: by status, and by close", async () => {
  const { server } = listenHardened({
    path: "/session",
    authenticate: ({ token }) => token ?? null,
  });
  await using _server = server;
  const statusOf = async (options: Parameters<typeof RawSocket.open>[1]) => {
    using raw = await RawSocket.open(portOf(server), options);
    return raw.status;
  };
  assertEquals(await statusOf({ path: "/elsewhere" }), 404);
  assertEquals(await statusOf({ path: "/session" }), 401);
  assertEquals(await statusOf({ path: "/session", headers: { origin: "http://evil.test" } }), 403);
  assertEquals(
    await statusOf({ path: "/session?token=ann", headers: { "sec-websocket-key": "short" } }),
    400,
  );
  for (const host of ["a b", "localhost:99999", "evil.test/session?token=ann#"]) {
    assertEquals(await statusOf({ path: "/session?token=ann", headers: { host } }), 400, host);
  }
  // A client that offers HTTP/2 receives an HTTP/1.1 response.
  assertEquals(await statusOf({ path: "/session", headers: { upgrade: "h2c" } }), 426);
  const error = await assertRejects(
    () => dial(`${server.url}session`, websocket),
    SessionClosedError,
  );
  assertEquals(error.info?.code, 4401);
  await until(() => server.manager.stats().sockets.open === 0);
});

Deno.test("serve() on the hardened engine speaks TLS", async () => {
  const { cert, key } = devCertificate({ cacheFolder: null });
  const { server } = listenHardened({
    tls: { cert, key },
    fetch: () => new Response("secure"),
  });
  await using _server = server;
  using client = Deno.createHttpClient({ caCerts: [cert] });
  const response = await fetch(`https://127.0.0.1:${portOf(server)}/`, { client });
  assertEquals(await response.text(), "secure");
  using raw = await TextSocket.open(portOf(server), { cert });
  await raw.write(`GET / HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`);
  assertMatch(await raw.until("\r\n\r\n"), /^HTTP\/1.1 101 /);
  await until(() => server.manager.count === 1);
  const [session] = server.manager.all();
  session!.connection.terminate!();
  await until(() => server.manager.stats().sockets.open === 0);
  assertEquals(await raw.until(), "");
});

Deno.test("hardened engine aborts a message that is too large while it arrives", async () => {
  const { engine, server } = listenHardened({ session: { maxMessageBytes: 100_000 } });
  await using _server = server;
  for (const isFragmented of [false, true]) {
    const opened = Promise.withResolvers<void>();
    using raw = await RawSocket.open(portOf(server));
    await until(() => server.manager.count === 1);
    opened.resolve();
    const [session] = server.manager.all();
    const chunk = isFragmented
      ? frameOf(new Uint8Array(1_000), { head: 0x00 })
      : new Uint8Array(65_536);
    if (isFragmented) await raw.frame("", { head: 0x01 });
    // The declared length is too large: the server does not wait for the rest.
    else await raw.write(frameOf(new Uint8Array(50_000_000)).subarray(0, 14));
    const flooding = flood(raw.conn, chunk, 50_000_000);
    assertEquals(await raw.closed(), { code: 4413, reason: "A message has at most 100000 bytes" });
    await until(() => server.manager.stats().sockets.open === 0);
    const { code, by } = await session!.closed;
    assertEquals({ code, by }, { code: 4413, by: "local" });
    assertLess(await bytesReceived(session!), 100_000 + READ_AHEAD_BYTES);
    assertLess(await flooding, 50_000_000);
    await until(() => engine.stats().connections === 0);
  }
});

Deno.test("hardened engine limits the fragments of a message", async () => {
  const { server } = listenHardened();
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  await raw.frame("", { head: 0x01 });
  const pieces = Array.from({ length: 2_000 }, () => [...frameOf("", { head: 0x00 })]).flat();
  await raw.write(new Uint8Array(pieces));
  assertEquals((await raw.closed())?.code, 1008);
  await until(() => server.manager.stats().sockets.open === 0);
});

Deno.test("hardened engine stops reading a peer that sends faster than messages are handled", async () => {
  const gate = Promise.withResolvers<void>();
  const got: number[] = [];
  const { server } = listenHardened({
    session: { receiveQueue: { maxMessages: 100, maxBytes: 1_000_000 } },
    onMessage: async (message) => {
      got.push((message.data as { n: number }).n);
      await gate.promise;
    },
  });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  const [session] = server.manager.all();
  const count = 20_000;
  const pad = "x".repeat(1_000);
  const writing = (async () => {
    for (let n = 0; n < count; n++) {
      await raw.frame(JSON.stringify({ topic: "t", data: { n, pad } }));
    }
  })();
  await until(() => session!.stats.waitingMessages >= 50);
  // The system buffers some bytes and then stops.
  let taken = -1;
  while (taken !== await bytesReceived(session!)) {
    taken = await bytesReceived(session!);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assertLess(taken, 50 * 1_100 + READ_AHEAD_BYTES);
  assertLess(session!.stats.waitingMessages, 100);
  assertEquals([session!.state, got], ["connected", [0]]);
  gate.resolve();
  await writing;
  await until(() => got.length === count);
  assertEquals(got, Array.from({ length: count }, (_, n) => n));
  assertEquals(session!.state, "connected");
});

Deno.test("hardened engine drops a peer that does not read, and its queued messages", async () => {
  const { engine, server } = listenHardened({
    session: { sendQueue: { maxMessages: 16, maxBytes: 1_000_000 }, closeTimeoutMs: 100 },
  }, { closeTimeoutMs: 300 });
  await using _server = server;
  using raw = await RawSocket.open(portOf(server));
  await until(() => server.manager.count === 1);
  const [session] = server.manager.all();
  const data = "x".repeat(60_000);
  const over = session!.closed;
  // Messages are sent one by one, so that the system's buffers fill up before the queue.
  while (session!.isReady) {
    try {
      session!.send("t", data);
    } catch {
      break;
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  assertEquals((await over).code, 4507);
  await until(() => server.manager.stats().sockets.open === 0);
  await until(() => engine.stats().connections === 0);
  assertEquals([session!.connection.frames!.bufferedAmount, session!.stats.queuedBytes], [0, 0]);
  // The system's buffer is discarded too: the socket was reset, not only closed.
  await assertRejects(async () => {
    for (const buffer = new Uint8Array(65_536); await soon(raw.conn.read(buffer)) !== null;);
  }, Deno.errors.ConnectionReset);
});

Deno.test("Connection.terminate() drops a peer immediately on the hardened engine", async () => {
  const { engine, server } = listenHardened();
  await using _server = server;
  for (const protocol of ["", "skein.1", "qmux-01", "qmux-01.skein.1"]) {
    using raw = await RawSocket.open(portOf(server), { protocol });
    await until(() => server.manager.stats().sockets.open === 1);
    if (protocol === "" || protocol === "skein.1") {
      await until(() => server.manager.count === 1);
      const [session] = server.manager.all();
      session!.connection.terminate!();
      assertEquals((await soon(session!.closed)).by, "network");
    }
    raw[Symbol.dispose]();
    await until(() => engine.stats().connections === 0);
  }
});

Deno.test("hardened engine ends a TLS handshake that takes too long", async () => {
  const { cert, key } = devCertificate({ cacheFolder: null });
  const { engine, server } = listenHardened({ tls: { cert, key } }, { handshakeTimeoutMs: 300 });
  await using _server = server;
  using socket = await TextSocket.open(portOf(server));
  await until(() => engine.stats().pending === 1);
  assertEquals(await socket.until(), "");
  await until(() => engine.stats().connections === 0);
  assertEquals(engine.stats().tooSlow, 1);
});

/**
 * Requests an upgrade, and returns the head of the response, or an empty text for a closed
 * connection.
 */
async function ask(socket: Socket): Promise<string> {
  socket.write(`GET / HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`);
  const [answer] = await Promise.race([
    soon(once(socket, "data")),
    soon(once(socket, "close")).then(() => [""]),
  ]);
  return String(answer);
}

const hasLoopbackNet = Deno.build.os === "linux";

Deno.test({
  name: "hardened engine limits the handshakes of one address, and admits another address",
  ignore: !hasLoopbackNet,
  async fn() {
    const { engine, server } = listenHardened({}, { handshakeBurst: 5, handshakesPerSecond: 0.1 });
    await using _server = server;
    using sockets = new DisposableStack();
    const from = async (address: string) =>
      await ask(sockets.use(await connectFrom(address, portOf(server))));
    for (let i = 0; i < 5; i++) assertMatch(await from("127.0.0.1"), /^HTTP\/1.1 101 /);
    const rejected = await from("127.0.0.1");
    assertMatch(rejected, /^HTTP\/1.1 429 /);
    assertMatch(rejected, /retry-after: 10\r\n/i);
    assertMatch(await from("127.0.0.2"), /^HTTP\/1.1 101 /);
    assertEquals([server.manager.count, engine.stats().tooFrequent], [6, 1]);
  },
});

Deno.test({
  name: "hardened engine drops connections of one address without a request",
  ignore: !hasLoopbackNet,
  async fn() {
    const { engine, server } = listenHardened({}, { maxPendingPerAddress: 3 });
    await using _server = server;
    using sockets = new DisposableStack();
    for (let i = 0; i < 3; i++) sockets.use(await connectFrom("127.0.0.1", portOf(server)));
    await until(() => engine.stats().pending === 3);
    const dropped = sockets.use(await connectFrom("127.0.0.1", portOf(server)));
    await soon(once(dropped, "close"));
    const other = sockets.use(await connectFrom("127.0.0.2", portOf(server)));
    assertMatch(await ask(other), /^HTTP\/1.1 101 /);
    assertEquals([engine.stats().tooManyPending, engine.stats().pending], [1, 3]);
  },
});

Deno.test("hardened engine limits the connections of one address, for all kinds of requests", async () => {
  const { engine, server } = listenHardened({
    limits: { maxSessionsPerAddress: 1 },
    fetch: () => new Response("hello"),
  }, { maxPendingPerAddress: 1 });
  await using _server = server;
  using sockets = new DisposableStack();
  const connect = async () => sockets.use(await connectFrom("127.0.0.1", portOf(server)));
  // Twice the number of sessions, plus one for the response that says that the limit has been
  // reached.
  for (let i = 0; i < 3; i++) {
    const socket = await connect();
    socket.write(`GET / HTTP/1.1\r\n${HOST}\r\n`);
    assertMatch(String(await soon(once(socket, "data"))), /^HTTP\/1.1 200 /);
  }
  await soon(once(await connect(), "close"));
  assertEquals([engine.stats().tooMany, engine.stats().connections], [1, 3]);
});

Deno.test("hardened engine tells an address that it has too many sockets", async () => {
  const { server } = listenHardened({ limits: { maxSessionsPerAddress: 1 } });
  await using _server = server;
  await using session = await dial(server.url, websocket);
  for (const [protocol, status] of [["skein.1", 101], ["", 429]] as const) {
    using raw = await RawSocket.open(portOf(server), { protocol });
    assertEquals(raw.status, status);
    // A session that was closed with the status's code stays until the client answers.
    if (status === 101) {
      assertEquals((await raw.closed())?.code, 4429);
      using rejected = await RawSocket.open(portOf(server), { protocol });
      assertEquals(rejected.status, 429);
    }
  }
  assert(session.isReady);
});

Deno.test("hardened engine releases a peer that vanishes during its request", async () => {
  const asked = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const { engine, server } = listenHardened({
    authenticate: async ({ request }) => {
      asked.resolve();
      await gate.promise;
      return request.url;
    },
  });
  await using _server = server;
  const raw = await RawSocket.ask(portOf(server), { protocol: "skein.1" });
  await asked.promise;
  raw[Symbol.dispose]();
  gate.resolve();
  await until(() => engine.stats().connections === 0);
  await until(() => server.manager.stats().sockets.open === 0);
  assertEquals([server.manager.count, server.manager.stats().reserved], [0, 0]);
});

Deno.test("Server.close() ends lingering connections of the hardened engine, and waits for responses", async () => {
  const [asked, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const { engine, server } = listenHardened({
    session: { closeTimeoutMs: 50 },
    fetch: async () => {
      asked.resolve();
      await gate.promise;
      return new Response("late");
    },
  });
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  await until(() => server.manager.count === 1);
  const answer = fetch(`http://127.0.0.1:${portOf(server)}/`);
  await asked.promise; // A mere connection has sent no request yet, and a closing server would reject it.
  const closing = server.close();
  await until(() => engine.stats().connections === 1);
  gate.resolve();
  assertEquals(await (await answer).text(), "late");
  await closing;
  await until(() => engine.stats().connections === 0);
  while (await raw.read() !== undefined);
});

Deno.test("serve() throws immediately if a port is in use on the hardened engine", async () => {
  const { server } = listenHardened();
  await using _server = server;
  const error = await assertRejects(
    async () => await listenHardened({ port: portOf(server) }).server.close(),
    Deno.errors.AddrInUse,
  );
  assertEquals(
    error.message,
    `Cannot listen on 127.0.0.1:${portOf(server)} (TCP): the address is in use`,
  );
});

Deno.test("serve() also serves Media over QUIC on the hardened engine", async () => {
  const mux = new TrackMux();
  mux.publish("/greeting", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(new TextEncoder().encode("hello"));
    await group.close();
  });
  const moq = new MoqServer({ mux });
  const { engine, server } = listenHardened({ features: [moq] });
  await using _server = server;
  await using media = await dialMoq(moq.webSocketUrl);
  const track = await media.subscribe("/greeting", "text");
  for await (const group of track) {
    for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "hello");
  }
  assertEquals(engine.stats().connections, 1);
});
