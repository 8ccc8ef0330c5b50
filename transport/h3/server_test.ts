import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { nextBidirectional } from "../../tests/incoming.ts";
import {
  bindUdp,
  capsuleFrame,
  RawPeer,
  REQUEST_FIELDS,
  TestServer,
} from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { UdpPath } from "../../tests/networks/udp_path.ts";
import { ConnectionError } from "../../errors.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { directStream } from "../direct.ts";
import { CapsuleType } from "./wire/capsules.ts";
import { H3Error } from "./wire/error_codes.ts";
import { dialWebTransport } from "./client.ts";
import { listenWebTransport, type ListenWebTransportOptions } from "./server.ts";

const NOTHING = new Uint8Array();
const TEXT = new TextEncoder().encode("hello");

Deno.test("listenWebTransport() throws when a limit is not a positive integer", () => {
  const certificate = devCertificate({ cacheFolder: null });
  const limits: (keyof ListenWebTransportOptions)[] = [
    "idleTimeoutMs",
    "keepAliveIntervalMs",
    "maxConnections",
    "maxConnectionsPerAddress",
    "maxHandshakes",
    "maxSessionsPerConnection",
    "maxStreams",
  ];
  for (const name of limits) {
    for (const value of [0, -1, 1.5, NaN]) {
      assertThrows(() => listenWebTransport({ ...certificate, [name]: value }), RangeError, name);
    }
  }
});

Deno.test("listenWebTransport() throws for an invalid certificate, and leaves no resources", () => {
  assertThrows(() => listenWebTransport({ hostname: "127.0.0.1", cert: "no", key: "no" }));
});

Deno.test("listenWebTransport() throws when the port is in use", async () => {
  await using server = new TestServer();
  const certificate = devCertificate({ cacheFolder: null });
  assertThrows(
    () => listenWebTransport({ hostname: "127.0.0.1", port: server.port, ...certificate }),
    Deno.errors.AddrInUse,
  );
});

Deno.test("listenWebTransport() throws with an aborted signal", () => {
  const certificate = devCertificate({ cacheFolder: null });
  const signal = AbortSignal.abort(new Error("enough"));
  assertThrows(() => listenWebTransport({ ...certificate, signal }), Error, "enough");
});

Deno.test("WebTransportListener closes when its signal aborts", async () => {
  const aborting = new AbortController();
  await using server = new TestServer({ signal: aborting.signal });
  await using raw = await server.open();
  const next = assertRejects(() => soon(server.request()), Error, "no request");
  aborting.abort();
  assertEquals((await soon(raw.peer.ending)).closeCode, H3Error.noError);
  await next;
});

Deno.test("WebTransportListener survives garbage packets", async () => {
  await using server = new TestServer();
  await using healthy = await server.open();
  const socket = bindUdp();
  const kinds: ((size: number) => Uint8Array)[] = [
    (size) => crypto.getRandomValues(new Uint8Array(size)),
    (size) => new Uint8Array(size),
    (size) => new Uint8Array(size).fill(0xff),
    // The start of a connection's first packet, followed by garbage.
    (size) => {
      const packet = crypto.getRandomValues(new Uint8Array(size));
      packet.set([0xc3, 0, 0, 0, 1, 8].slice(0, size));
      return packet;
    },
    // A packet with an unknown version.
    (size) => {
      const packet = crypto.getRandomValues(new Uint8Array(size));
      packet.set([0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8].slice(0, size));
      return packet;
    },
  ];
  for (const size of [1, 20, 1_200, 1_400]) {
    for (const kind of kinds) await socket.send(kind(size), server.listener.address);
  }
  socket.close();
  await using other = await server.open();
  await other.connect.send.end();
  await soon(other.session.closed);
  assertEquals(server.listener.sessionCount, 1);
  await soon(server.ask(healthy.peer));
});

Deno.test("WebTransportListener survives failed handshakes", async () => {
  await using server = new TestServer();
  const wrong = [{ algorithm: "sha-256", value: new Uint8Array(32) }] as const;
  for (let i = 0; i < 3; i++) {
    await assertRejects(() => soon(server.dial({ alpn: "h2" })));
    await assertRejects(() => soon(server.dial({ hashes: wrong })));
  }
  await using raw = await soon(server.open());
  await until(() => server.listener.connectionCount === 1);
  assertEquals(raw.session.protocol, "");
});

Deno.test("WebTransportListener rejects connections beyond its limit", async () => {
  await using server = new TestServer({ maxConnections: 2 });
  await using first = await server.open();
  {
    await using _second = await server.open();
    await assertRejects(() => soon(server.dial()));
    assertEquals(server.listener.connectionCount, 2);
  }
  await until(() => server.listener.connectionCount === 1);
  await using _third = await soon(server.open());
  assertEquals(first.session.protocol, "");
});

Deno.test("WebTransportListener rejects connections of one address beyond its limit", async () => {
  await using server = new TestServer({ maxConnectionsPerAddress: 1 });
  {
    await using _first = await server.open();
    await using second = await server.dial();
    assertEquals((await soon(second.ending)).closeCode, H3Error.excessiveLoad);
  }
  await until(() => server.listener.connectionCount === 0);
  await using _third = await soon(server.open());
});

for (const bounds of [{ maxConnections: 1 }, { maxConnectionsPerAddress: 1 }]) {
  Deno.test(`WebTransportListener lets clients that hand over exceed ${Object.keys(bounds)}`, async () => {
    const isSuccessor = ({ url }: { readonly url: string }) => url.includes("ticket");
    await using server = new TestServer({ ...bounds, isSuccessor });
    await using _first = await server.open();
    const connect = async (path: string) => {
      const peer = await server.dial();
      await peer.control();
      const fields = REQUEST_FIELDS.filter(([name]) => name !== ":path");
      return [peer, await peer.request({ fields: [...fields, [":path", path]] })] as const;
    };
    const [stranger] = await connect("/");
    assertEquals((await soon(stranger.ending)).closeCode, H3Error.excessiveLoad);
    const [mover, request] = await connect("/?ticket");
    await using _second = await soon(server.accept());
    assertEquals(await request.status(), 200);
    // There are as many spare connections as the limit allows connections.
    assertEquals(server.listener.connectionCount, 2);
    mover.close();
    await until(() => server.listener.connectionCount === 1);
    const [other] = await connect("/?ticket");
    await using _third = await soon(server.accept());
    other.close();
  });

  Deno.test(`WebTransportListener lets no client exceed ${Object.keys(bounds)} whose isSuccessor is asynchronous`, async () => {
    const isSuccessor = (() => Promise.resolve(true)) as never;
    await using server = new TestServer({ ...bounds, isSuccessor });
    await using _first = await server.open();
    const mover = await server.dial();
    await mover.control();
    await mover.request();
    assertEquals((await soon(mover.ending)).closeCode, H3Error.excessiveLoad);
  });

  Deno.test(`WebTransportListener closes a connection beyond ${Object.keys(bounds)} without a request after 2 s`, async () => {
    await using server = new TestServer({ ...bounds, isSuccessor: () => true });
    await using _first = await server.open();
    const startedAt = Date.now();
    await using idle = await server.dial();
    await idle.control();
    await soon(idle.ending);
    assert(Date.now() - startedAt > 1_500);
    assertEquals(server.listener.connectionCount, 1);
  });
}

Deno.test("WebTransportListener.rotate() gives new handshakes the new certificate, and keeps sessions", async () => {
  await using server = new TestServer();
  const { port, listener } = server;
  const raws = [await server.open()];
  const certificates = [
    devCertificate({ cacheFolder: null }),
    devCertificate({ cacheFolder: null }),
  ];
  let old = server.hashes;
  for (const certificate of certificates) {
    listener.rotate(certificate);
    await assertRejects(() => soon(RawPeer.dial(port, { hashes: old })));
    old = certificate.hashes;
    const peer = await soon(RawPeer.dial(port, { hashes: certificate.hashes }));
    await peer.control();
    raws.push(await server.ask(peer));
  }
  assertThrows(() => listener.rotate({ cert: "no", key: "no" }));
  for (const { peer, connect, session } of raws) {
    const stream = await peer.bidi(0x41, connect.id, TEXT);
    await stream.send.end();
    const { value } = await soon(session.incomingBidirectionalStreams.getReader().read());
    assertEquals(await directStream(value!).read(), TEXT);
    await server.ask(peer);
  }
  for (const raw of raws) await raw[Symbol.asyncDispose]();
});

Deno.test("WebTransportListener.stop() drains sessions, and rejects new ones", async () => {
  await using server = new TestServer();
  await using raw = await server.open();
  const { peer, connect, session } = raw;
  const waiting = await peer.request();
  await until(() => server.listener.sessionCount === 2);
  server.listener.stop();
  server.listener.stop();
  assertEquals(await soon(waiting.status()), 503);
  assertEquals(
    (await soon(connect.receive.frame()))?.payload,
    capsuleFrame(CapsuleType.drain, NOTHING).subarray(2),
  );
  assertEquals(await soon((await peer.request()).status()), 503);
  await assertRejects(() => soon(server.dial()));
  await assertRejects(() => soon(server.request()), Error, "no request");
  // The session stays open.
  const stream = await peer.bidi(0x41, connect.id, TEXT);
  const direct = await soon(nextBidirectional(session));
  assertEquals(await direct.read(), TEXT);
  await direct.write(TEXT);
  assertEquals(await soon(stream.receive.readAtLeast(5)), TEXT);
});

Deno.test("WebTransportListener.close() ends sessions, requests and connections, and can be called twice", async () => {
  await using server = new TestServer();
  await using raw = await server.open();
  await raw.peer.request();
  const asked = await soon(server.request());
  await using idle = await server.dial();
  await until(() => server.listener.connectionCount === 2);
  const { listener } = server;
  await Promise.all([listener.close(), listener.close()]);
  assertEquals([listener.connectionCount, listener.sessionCount], [0, 0]);
  assertEquals(await soon(raw.session.closed), { closeCode: 0, reason: "" });
  for (const { ending } of [raw.peer, idle]) {
    assertEquals((await soon(ending)).closeCode, H3Error.noError);
  }
  const late = asked.accept();
  await soon(late.closed.catch(() => {}));
});

Deno.test("WebTransportListener closes connections to silent peers", async () => {
  await using server = new TestServer({ idleTimeoutMs: 300, keepAliveIntervalMs: 100_000 });
  await using peer = await server.dial();
  await until(() => server.listener.connectionCount === 1);
  await until(() => server.listener.connectionCount === 0);
  assertEquals((await soon(peer.ending)).closeCode, undefined);
});

Deno.test("WebTransportListener sends the settings with the handshake, and reads after the handshake", async () => {
  await using server = new TestServer();
  await using path = new UdpPath(server.port);
  // From the first reply on, the rest of the client's handshake is held back.
  path.loses = ({ from }) => {
    if (from === "server") path.hold();
    return false;
  };
  await using peer = await soon(RawPeer.dial(path.port, { hashes: server.hashes }));
  const control = await soon(peer.nextUni());
  assertEquals((await soon(control.readAtLeast(2))).subarray(0, 2), Uint8Array.of(0, 4));
  await peer.control();
  const connect = await peer.request();
  await until(() => path.heldCount > 0);
  const { listener } = server;
  assertEquals([listener.handshakes.pending, listener.connectionCount], [1, 0]);
  await path.release();
  path.loses = () => false;
  (await soon(server.request())).accept();
  assertEquals(await soon(connect.status()), 200);
  assertEquals([listener.handshakes.pending, listener.sessionCount], [0, 1]);
});

Deno.test("WebTransportListener sends the settings to a client whose first message takes two packets", async () => {
  await using server = new TestServer();
  await using path = new UdpPath(server.port);
  // The second packet arrives late, because it is lost until the client sends it again.
  path.loses = ({ from, placeOfSide }) => from === "client" && placeOfSide === 2;
  const alpn = ["h3", ...Array.from({ length: 10 }, (_, i) => `${i}`.repeat(200))];
  await using peer = await soon(RawPeer.dial(path.port, { hashes: server.hashes, alpn }));
  assertEquals(path.counts.client.lost, 1);
  const control = await soon(peer.nextUni());
  assertEquals((await soon(control.readAtLeast(2))).subarray(0, 2), Uint8Array.of(0, 4));
});

Deno.test("WebTransportRequest contains the URL, the headers and the address", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  await peer.request({
    fields: REQUEST_FIELDS.map(([name, value]) => [name, name === ":path" ? "/a?b=c" : value]),
    more: [["origin", "https://example.com"], ["wt-available-protocols", '"one", "two"']],
  });
  const request = await soon(server.request());
  assertEquals(request.url, "https://localhost/a?b=c");
  assertEquals(Object.fromEntries(request.headers), {
    host: "localhost",
    origin: "https://example.com",
    "wt-available-protocols": '"one", "two"',
  });
  assertEquals(request.protocols, ["one", "two"]);
  assertEquals(
    [request.remoteAddress.transport, request.remoteAddress.hostname],
    ["udp", "127.0.0.1"],
  );
});

Deno.test("WebTransportRequest.accept() responds with protocol and headers, once", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const connect = await peer.request({
    more: [["wt-available-protocols", '"one"'], ["sec-webtransport-http3-draft02", "1"]],
  });
  const request = await soon(server.request());
  assertThrows(() => request.accept({ protocol: "two" }), TypeError, "two");
  assertEquals(request.accept({ protocol: "one", headers: { "x-a": "1" } }).protocol, "one");
  assertThrows(() => request.accept(), TypeError, "already has a response");
  assertThrows(() => request.reject(404), TypeError, "already has a response");
  assertEquals(Object.fromEntries(await soon(connect.receive.fields())), {
    ":status": "200",
    "sec-webtransport-http3-draft": "draft02",
    "wt-protocol": '"one"',
    "x-a": "1",
  });
});

Deno.test("WebTransportRequest.reject() responds with status and headers", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const connect = await peer.request();
  const request = await soon(server.request());
  for (const status of [200, 299, 600, 404.5]) {
    assertThrows(() => request.reject(status), RangeError, `${status}`);
  }
  request.reject(401, { headers: { "www-authenticate": "Bearer" } });
  const fields = await soon(connect.receive.fields());
  assertEquals([...fields], [[":status", "401"], ["www-authenticate", "Bearer"]]);
  assertEquals(await soon(connect.receive.read()), undefined);
  await until(() => server.listener.sessionCount === 0);
});

Deno.test("WebTransportRequest.signal is aborted when the client cancels", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const ways: ((connect: Awaited<ReturnType<RawPeer["request"]>>) => Promise<void> | void)[] = [
    ({ send }) => send.end(),
    ({ send }) => send.write(capsuleFrame(CapsuleType.close, new Uint8Array(4))),
    () => peer.close(),
  ];
  for (const giveUp of ways) {
    const connect = await peer.request();
    const request = await soon(server.request());
    const { promise, resolve } = Promise.withResolvers<void>();
    request.signal.addEventListener("abort", () => resolve());
    await giveUp(connect);
    await soon(promise);
    // The session has already ended.
    const session = request.accept();
    await assertRejects(() => soon(session.createBidirectionalStream()), ConnectionError);
  }
});

Deno.test("WebTransportListener separates forty clients that connect at the same time", async () => {
  await using server = new TestServer();
  void (async () => {
    while (true) {
      const session = await server.accept();
      void session.incomingBidirectionalStreams.pipeTo(
        new WritableStream({
          write: ({ readable, writable }) => readable.pipeTo(writable),
        }),
      ).catch(() => {});
    }
  })().catch(() => {});
  await Promise.all(Array.from({ length: 40 }, async (_, i) => {
    await using session = await soon(
      dialWebTransport(server.url, { serverCertificateHashes: server.hashes }),
    );
    const stream = directStream(await session.createBidirectionalStream());
    await stream.write(Uint8Array.of(i));
    await stream.close();
    assertEquals(await soon(stream.read()), Uint8Array.of(i));
  }));
  await until(() => server.listener.connectionCount === 0);
});
