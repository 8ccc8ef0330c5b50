/**
 * Tests `serve()` on the runtime's own WebTransport engine.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  AuthenticationError,
  type CloseInfo,
  connect,
  dial,
  type DialOptions,
  type Session,
  SessionClosedError,
  UnsupportedError,
} from "../mod.ts";
import {
  devCertificate,
  dialWebTransport,
  directDatagrams,
  directStream,
  nativeServerDefects,
} from "../transport/mod.ts";
import { MoqServer } from "../moq/mod.ts";
import type { ServeOptions, Server, SessionRejection } from "../server.ts";
import { listenNativeWebTransport } from "../transport/native/server.ts";
import { H3Error } from "../transport/h3/wire/error_codes.ts";
import { toHttp3StreamCode } from "./peers/raw_http3.ts";
import { bytesOf, RawPeer, type RawStream, REQUEST_FIELDS } from "./peers/raw_http3.ts";
import { listen } from "./servers.ts";
import { endOf } from "./sessions.ts";
import { soon, until } from "./waiting.ts";

function listenBuiltin<V = unknown>(options: ServeOptions<V> = {}): Server<V> {
  const { webTransport = {} } = options;
  return listen<V>({
    origins: ["*"],
    ...options,
    webTransport: { cacheFolder: null, ...Object(webTransport), engine: "builtin" },
  });
}

/** Dials a session over WebTransport only. */
function dialBuiltin(
  server: Pick<Server, "webTransportUrl" | "certificateHashes">,
  options: DialOptions = {},
): Promise<Session> {
  return soon(dial(server.webTransportUrl, {
    transports: ["webtransport"],
    serverCertificateHashes: server.certificateHashes,
    ...options,
  }));
}

/** Connects a raw HTTP/3 peer. */
function dialPeer(server: Server): Promise<RawPeer> {
  const { port } = new URL(server.webTransportUrl);
  return RawPeer.dial(Number(port), { hashes: server.certificateHashes });
}

/**
 * Opens a session with raw bytes: sends the request, opens the message stream, and sends the
 * greeting on it.
 */
async function openMessages(peer: RawPeer): Promise<RawStream> {
  await peer.control();
  const fields = REQUEST_FIELDS.map(([name, value]): [string, string] => [
    name,
    name === ":path" ? "/?protocol=skein.1" : value,
  ]);
  const request = await peer.request({ fields });
  assertEquals(await request.status(), 200);
  return await peer.bidi(0x41, 0, Uint8Array.of(0, 0));
}

Deno.test("serve() carries messages, publications, streams and datagrams on the built-in engine", async () => {
  await using server = listenBuiltin({
    authorize: () => true,
    onMessage: (message) => void message.reply({ back: message.data }),
    onOpen(session) {
      const { datagrams } = session.connection;
      const own = directDatagrams(datagrams);
      own.receive((datagram) => own.send(datagram));
    },
    async onStream(stream) {
      if (stream.direction === "unidirectional") return;
      const { readable, writable } = stream;
      const writer = writable.getWriter();
      await writer.write(await new Response(readable).bytes());
    },
  });
  assertEquals(new URL(server.webTransportUrl).search, "?protocol=skein.1");
  await using client = connect(`${server.url}?protocol=skein.1`, { transports: ["webtransport"] });
  const session = await soon(client.whenConnected());
  assertEquals([session.transport, session.connection.protocol], ["webtransport", "skein.1"]);
  assertEquals(await soon(client.request("echo", [1])), { back: [1] });

  const news = client.subscribe("news");
  await soon(news.ready);
  server.publish("news", "hello");
  for await (const { data } of news) {
    assertEquals(data, "hello");
    break;
  }

  const stream = directStream(await session.connection.createBidirectionalStream());
  await stream.write(Uint8Array.of(1, 2, 3));
  await stream.close();
  assertEquals(await soon(stream.read()), Uint8Array.of(1, 2, 3));

  const datagrams = directDatagrams(session.connection.datagrams);
  const { promise, resolve } = Promise.withResolvers<Uint8Array>();
  datagrams.receive(resolve);
  datagrams.send(Uint8Array.of(4, 5));
  assertEquals(await soon(promise), Uint8Array.of(4, 5));
});

Deno.test("serve() rejects options that the built-in engine cannot enforce", () => {
  const certificate = devCertificate({ cacheFolder: null });
  const authenticate = () => "ann";
  const base = { origins: ["*"], webTransport: { engine: "builtin", cacheFolder: null } } as const;
  const cases: [ServeOptions<string>, text: string][] = [
    [{ origins: [] }, 'origins must contain "*", because requests have no Origin, with'],
    [{ origins: ["https://a.test"] }, 'received ["https://a.test"]'],
    [
      { authenticate },
      "tokens.inMessage must be true with authenticate, because requests have no headers",
    ],
    [{ authenticate, tokens: { inMessage: false } }, "received false"],
    [
      { features: [new MoqServer({ authorize: () => true })] },
      "features must not accept raw QUIC with the engine",
    ],
    [
      { webTransport: { ...base.webTransport, flowControl: { maxData: 1 } } },
      'webTransport.flowControl must be left out with the engine "builtin" of webTransport, received {"maxData":1}',
    ],
    [
      { webTransport: { ...base.webTransport, maxSessionsPerConnection: 2 } },
      "webTransport.maxSessionsPerConnection must be left out",
    ],
    [{ webTransport: { certificate, maxStreams: 0, ...base.webTransport } }, "maxStreams must be"],
    [
      { webTransport: { engine: "native" as "builtin" } },
      'Cannot serve: engine of webTransport must be "builtin" or a function, received "native"',
    ],
  ];
  for (const [options, text] of cases) {
    const error = assertThrows(() => listen<string>({ ...base, ...options }), Error, text);
    assert(error instanceof TypeError || error instanceof RangeError, String(error));
  }
});

Deno.test("serve() authenticates in band on the built-in engine, and rejects by a close", async () => {
  const rejections: SessionRejection[] = [];
  const closes: CloseInfo[] = [];
  await using server = listenBuiltin<string>({
    onClose: (_session, info) => void closes.push(info),
    tokens: { inMessage: true },
    authenticate({ token }) {
      if (token !== "s3cret") throw new AuthenticationError("Not a token");
      return "ann";
    },
    onSessionRejected: (rejection) => void rejections.push(rejection),
    onMessage: (message, session) => void message.reply(session.value),
  });
  const session = await dialBuiltin(server, { token: "s3cret" });
  assertEquals(await soon(session.request("who")), "ann");
  await session.close({ code: 4321, reason: "moved" });
  await until(() => closes.length === 1);
  const unseen = { code: 0, reason: "", by: "remote" } as const;
  const isSeen = !nativeServerDefects().includes("close-unseen");
  assertEquals(closes, [isSeen ? { code: 4321, reason: "moved", by: "remote" } : unseen]);
  for (const options of [{ token: "wrong" }, {}]) {
    const error = await assertRejects(() => dialBuiltin(server, options), SessionClosedError);
    assertEquals(error.info?.code, 4401);
    await until(() => rejections.length === 1);
    assertEquals(rejections.pop()?.status, 401);
  }
});

Deno.test("serve() rejects a client on the built-in engine if its URL names no protocol", async () => {
  const rejections: SessionRejection[] = [];
  let sessions = 0;
  await using server = listenBuiltin({
    onSessionRejected: (rejection) => void rejections.push(rejection),
    onOpen: () => void sessions++,
  });
  // The client then connects over WebSocket. There was no session before.
  const transports = ["webtransport", "websocket"] as const;
  const session = await soon(dial(server.url, { transports }));
  assertEquals([session.transport, sessions], ["websocket", 1]);
  await until(() => rejections.length === 1);
  assertEquals(rejections[0]!.status, 400);
  assertStringIncludes(rejections[0]!.reason, "Add ?protocol=skein.1 to the URL");
  await session.close();
});

Deno.test("serve() enforces path and limits on the built-in engine by close codes", async () => {
  await using server = listenBuiltin({
    path: "/live",
    limits: { maxSessions: 1 },
    onSessionRejected() {},
    webTransport: { engine: "builtin", maxConnections: 2 },
  });
  const url = new URL(server.webTransportUrl);
  const ask = (pathname: string) =>
    dialBuiltin({
      webTransportUrl: new URL(pathname + url.search, url).href,
      certificateHashes: server.certificateHashes,
    });
  const error = await assertRejects(() => ask("/nope"), SessionClosedError);
  assertEquals([error.info?.code, error.info?.reason], [
    4404,
    "No session is served at this path",
  ]);
  const first = await ask("/live");
  const second = await assertRejects(() => ask("/live"), SessionClosedError);
  assertEquals(second.info?.code, 4429);
  await first.close();
});

Deno.test("serve() drains and closes sessions of the built-in engine with 4503", async () => {
  const server = listenBuiltin();
  const session = await dialBuiltin(server);
  const report = await soon(server.drain({ withinMs: 100 }));
  assertEquals(report.closed + report.cut, 1);
  assertEquals(await endOf(session), { code: 4503, reason: "", by: "remote" });
  const other = listenBuiltin();
  const late = await dialBuiltin(other);
  await soon(other.close());
  assertEquals((await endOf(late)).code, 4503);
});

const CRASH = { code: 1006, by: "network" } as const;
const CLOSE = { code: 0, by: "remote" } as const;

/**
 * The close that the server sees when a client closes its QUIC connection, before and after the end
 * mark of the client's messages. The engine hides the close capsule, so only the end mark
 * distinguishes a close with 0 or H3_NO_ERROR from a crash.
 */
const CLIENT_ENDS: [title: string, closeCode: number, unmarked: object, marked: object][] = [
  ["0", 0, CRASH, CLOSE],
  ["H3_NO_ERROR", H3Error.noError, CRASH, CLOSE],
  ["another HTTP/3 code", H3Error.internalError, CRASH, CLOSE],
  ["an application code", 4321, { ...CLOSE, code: 4321 }, { ...CLOSE, code: 4321 }],
  ["a WT_APPLICATION_ERROR", toHttp3StreamCode(4321), { ...CLOSE, code: 4321 }, {
    ...CLOSE,
    code: 4321,
  }],
];

Deno.test({
  name: "serve() distinguishes a client's close from its crash on the built-in engine",
  sanitizeResources: false, // The defect "request-leak" of the runtime.
  async fn() {
    const closes: CloseInfo[] = [];
    await using server = listenBuiltin({ onClose: (_session, info) => void closes.push(info) });
    for (const [title, closeCode, unmarked, marked] of CLIENT_ENDS) {
      for (const [hasMark, expected] of [[false, unmarked], [true, marked]] as const) {
        await using peer = await dialPeer(server);
        const messages = await openMessages(peer);
        await until(() => server.manager.count === 1);
        if (hasMark) {
          await messages.send.write(Uint8Array.of(0, 2));
          // The server replies with its own end mark.
          while ((await messages.receive.read())!.at(-1) !== 2);
        }
        peer.close(closeCode);
        await until(() => closes.length === 1);
        const { code, by } = closes.pop()!;
        assertEquals({ code, by }, expected, `${title}, ${hasMark ? "after" : "without"} the mark`);
        await until(() => server.manager.count === 0);
      }
    }
  },
});

Deno.test("serve() closes a session of the built-in engine after its client ended its messages", async () => {
  let ended = 0;
  await using server = listenBuiltin({ onClose: () => void ended++ });
  await using peer = await dialPeer(server);
  // Sends a greeting and the end mark. A browser sends nothing else before its close capsule.
  const messages = await openMessages(peer);
  await until(() => server.manager.all().length === 1);
  await messages.send.write(Uint8Array.of(0, 2));
  await messages.send.end();
  assertEquals((await soon(peer.ending)).closeCode, 0);
  await until(() => ended === 1);
});

Deno.test("serve() names the address if the port of the built-in engine is in use, and still serves", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using taken = listenNativeWebTransport({ hostname: "127.0.0.1", ...certificate });
  const { port } = taken.address;
  const text = `Cannot listen on 127.0.0.1:${port} (UDP): the address is in use`;
  assertThrows(
    () => listenNativeWebTransport({ hostname: "127.0.0.1", port, ...certificate }),
    Deno.errors.AddrInUse,
    text,
  );
  const told: (Error | undefined)[] = [];
  await using server = listenBuiltin({
    webTransport: { engine: "builtin", port },
    onListen: (_address, { webTransportError }) => void told.push(webTransportError),
    onMessage: (message) => message.reply("pong"),
  });
  assertEquals([told.map(String), server.webTransportUrl], [[`AddrInUse: ${text}`], ""]);
  await using session = await soon(dial(server.url));
  assertEquals(await soon(session.request("ping")), "pong");
});

Deno.test("serve() names the flag for the built-in engine if the runtime lacks the API", () => {
  const { upgradeWebTransport } = Deno;
  const certificate = devCertificate({ cacheFolder: null });
  Object.defineProperty(Deno, "upgradeWebTransport", { value: undefined, configurable: true });
  try {
    assertThrows(
      () => listenNativeWebTransport({ ...certificate }),
      UnsupportedError,
      "--unstable-net",
    );
  } finally {
    Object.defineProperty(Deno, "upgradeWebTransport", {
      value: upgradeWebTransport,
      configurable: true,
    });
  }
});

Deno.test("serve() survives an empty datagram on the built-in engine", async () => {
  const received: Uint8Array[] = [];
  await using server = listenBuiltin({
    onOpen: ({ connection }) =>
      directDatagrams(connection.datagrams).receive((datagram) => void received.push(datagram)),
  });
  const session = await dialBuiltin(server);
  const datagrams = directDatagrams(session.connection.datagrams);
  for (const payload of [[], [1]]) datagrams.send(Uint8Array.from(payload));
  await until(() => received.length === 2);
  assertEquals(received.map(({ length }) => length), [0, 1]);
  await session.close();
});

Deno.test({
  name: "serve() survives peers of the built-in engine that send bad requests",
  sanitizeResources: false, // The defect "request-leak" of the runtime.
  async fn() {
    await using server = listenBuiltin({ onMessage: (message) => message.reply(1) });
    const requests = [
      (peer: RawPeer) => peer.bidi(Uint8Array.of(1, 2, 0xff, 0xff)),
      (peer: RawPeer) => peer.request({ fields: [[":method", "GET"], [":path", "/"]] }),
      (peer: RawPeer) => peer.uni(0x54, 0, 1),
    ];
    for (const ask of requests) {
      await using peer = await dialPeer(server);
      await peer.control();
      await ask(peer);
      // Opens a stream without a session, and a stream that ends before its type is complete.
      await (await peer.uni()).end();
      await peer.uni(bytesOf(0x2222_2222));
    }
    const session = await dialBuiltin(server);
    assertEquals(await soon(session.request("there")), 1);
    await session.close();
  },
});

Deno.test({
  name:
    "NativeWebTransportListener closes a connection that requests no session within ten seconds",
  sanitizeResources: false, // The defect "request-leak" of the runtime.
  async fn() {
    const certificate = devCertificate({ cacheFolder: null });
    await using listener = listenNativeWebTransport({ hostname: "127.0.0.1", ...certificate });
    {
      using time = new FakeTime();
      await using peer = await RawPeer.dial(listener.address.port, { hashes: certificate.hashes });
      await peer.control();
      await peer.nextUni(); // The listener has received the request.
      await time.tickAsync(9_000);
      assertEquals(listener.connectionCount, 1);
      await time.tickAsync(1_001);
      assertEquals((await peer.ending).closeCode, 0x100);
    }
    await until(() => listener.connectionCount === 0);
  },
});

Deno.test("NativeWebTransportListener answers a request only once, and rejects pending requests when it stops", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using listener = listenNativeWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const ask = (path: string) =>
    dialWebTransport(`https://127.0.0.1:${listener.address.port}${path}`, {
      serverCertificateHashes: certificate.hashes,
    });
  const [near, next] = await soon(Promise.all([ask("/a?b=1"), requests.next()]));
  const request = next.value!;
  assertEquals(new URL(request.url).pathname, "/a");
  assertEquals(
    [request.headers.get("host"), request.protocols],
    [`127.0.0.1:${listener.address.port}`, []],
  );
  assertThrows(() => request.accept({ protocol: "skein.1" }), TypeError, 'received "skein.1"');
  assertThrows(() => request.reject(200), RangeError, "received 200");
  request.reject(404);
  assertThrows(() => request.accept(), TypeError, "already has a response");
  assertEquals((await soon(near.closed)).closeCode, 4404);
  assertEquals(request.signal.aborted, false);

  const waiting = await soon(ask("/c"));
  await using late = await RawPeer.dial(listener.address.port, { hashes: certificate.hashes });
  await until(() => listener.connectionCount === 2);
  listener.stop();
  assertEquals((await soon(waiting.closed)).closeCode, 4503);
  await late.control();
  await late.request();
  assertEquals((await soon(late.ending)).closeCode, 4503);
  assertEquals((await soon(requests.next())).done, true);
});
