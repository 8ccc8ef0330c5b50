import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import {
  certificate,
  connectBare,
  firstPackets,
  PROTOCOL,
  QuicServer,
} from "../../tests/peers/quic_peer.ts";
import { bindUdp } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { CloseCode } from "../../errors.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { listenQuic, type ListenQuicOptions } from "./server.ts";

/** Returns the close code of a runtime connection; `undefined` if it was lost. */
async function ending(conn: Deno.QuicConn): Promise<number | undefined> {
  return (await soon(conn.closed)).closeCode;
}

Deno.test("listenQuic() throws when a limit is not a positive integer", () => {
  const limits: (keyof ListenQuicOptions)[] = [
    "idleTimeoutMs",
    "keepAliveIntervalMs",
    "maxConnections",
    "maxConnectionsPerAddress",
    "maxHandshakes",
    "maxBidirectionalStreams",
    "maxUnidirectionalStreams",
  ];
  for (const name of limits) {
    for (const value of [0, -1, 1.5, NaN]) {
      assertThrows(
        () => listenQuic({ ...certificate, protocols: [PROTOCOL], [name]: value }),
        RangeError,
        `Cannot listen: ${name} must be a positive integer, received ${value}`,
      );
    }
  }
});

Deno.test("listenQuic() throws when protocols, certificate or signal are invalid", () => {
  assertThrows(() => listenQuic({ ...certificate, protocols: [] }), TypeError, "protocols");
  assertThrows(
    () => listenQuic({ cert: "no", key: "no", protocols: [PROTOCOL] }),
    TypeError,
    "in PEM",
  );
  const signal = AbortSignal.abort(new Error("enough"));
  assertThrows(
    () => listenQuic({ ...certificate, protocols: [PROTOCOL], signal }),
    Error,
    "enough",
  );
});

Deno.test("listenQuic() throws when the port is in use", async () => {
  await using server = new QuicServer();
  assertThrows(
    () => new QuicServer({ port: server.port }),
    Deno.errors.AddrInUse,
    `:${server.port} (UDP): the address is in use`,
  );
});

Deno.test("QuicListener selects its first protocol that the client offers", async () => {
  await using server = new QuicServer({ protocols: ["three", "two", "one"] });
  const { connection, peer } = await server.open({ alpnProtocols: ["one", "two"] });
  assertEquals([connection.protocol, peer.protocol], ["two", "two"]);
});

Deno.test("QuicListener rejects a client without one of its protocols, and continues", async () => {
  await using server = new QuicServer();
  for (const alpn of ["h3", "another"]) {
    await assertRejects(() => soon(connectBare(server.port, { alpnProtocols: [alpn] })));
  }
  const { connection } = await server.open();
  assertEquals([connection.protocol, server.listener.connectionCount], [PROTOCOL, 1]);
});

Deno.test("QuicListener rejects connections beyond its limit", async () => {
  await using server = new QuicServer({ maxConnections: 1 });
  const { peer } = await server.open();
  await assertRejects(() => soon(connectBare(server.port)));
  peer.close({ closeCode: 0, reason: "" });
  await until(() => server.listener.connectionCount === 0);
  await server.open();
});

Deno.test("QuicListener accepts honest peers during a flood of unfinished handshakes", async () => {
  const maxHandshakes = 8;
  await using server = new QuicServer({ maxHandshakes });
  const { listener } = server;
  const attacker = bindUdp();
  for (const packet of await firstPackets(maxHandshakes + 4)) {
    await attacker.send(packet, listener.address);
  }
  attacker.close();
  await until(() => listener.handshakes.ignored === 4);
  // The handshake is ignored at first, and the runtime sends it again.
  const opening = server.open();
  await until(() => listener.handshakes.ignored > 4);
  const now = Date.now() + 2_000;
  using _later = stub(Date, "now", () => now);
  const { connection } = await opening;
  assertEquals(connection.protocol, PROTOCOL);
  const { pending, replaced, tooSlow } = listener.handshakes;
  assertEquals({ pending, replaced, tooSlow }, { pending: 7, replaced: 1, tooSlow: 0 });
});

Deno.test("QuicListener closes connections of one address beyond its limit", async () => {
  await using server = new QuicServer({ maxConnectionsPerAddress: 1 });
  await server.open();
  assertEquals(await ending(await connectBare(server.port)), CloseCode.tooMany);
  assertEquals(server.listener.connectionCount, 1);
});

Deno.test("QuicListener lets a peer open as many streams as its options allow", async () => {
  await using server = new QuicServer({ maxBidirectionalStreams: 2, maxUnidirectionalStreams: 3 });
  const { peer } = await server.open();
  for (let i = 0; i < 2; i++) await peer.createBidirectionalStream();
  for (let i = 0; i < 3; i++) await peer.createUnidirectionalStream();
  await assertRejects(() => peer.createBidirectionalStream());
  await assertRejects(() => peer.createUnidirectionalStream());
});

Deno.test("QuicListener lets a peer open 1024 unidirectional streams by default", async () => {
  await using server = new QuicServer();
  const { peer } = await server.open();
  for (let i = 0; i < 1_024; i++) await peer.createUnidirectionalStream();
  await assertRejects(() => peer.createUnidirectionalStream());
});

Deno.test("QuicListener.rotate() gives new handshakes the new certificate, and keeps connections", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  const next = devCertificate({ cacheFolder: null });
  server.listener.rotate(next);
  await assertRejects(() => soon(connectBare(server.port)));
  await server.open({ serverCertificateHashes: [...next.hashes] });
  await peer.sendDatagram(Uint8Array.of(1));
  const { value } = await soon(connection.datagrams.readable.getReader().read());
  assertEquals(value, Uint8Array.of(1));
  assertThrows(() => server.listener.rotate({ cert: "no", key: "no" }), TypeError);
  await server.listener.close();
  assertThrows(() => server.listener.rotate(next), TypeError, "the listener is closed");
});

Deno.test("QuicListener.stop() rejects new connections, and keeps accepted ones", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  const waiting = await connectBare(server.port);
  await until(() => server.listener.connectionCount === 2);
  server.listener.stop();
  assertEquals(await ending(waiting), CloseCode.draining);
  await assertRejects(() => soon(connectBare(server.port)));
  await assertRejects(() => server.next(), Error, "no connection");
  const stream = await connection.direct.openUnidirectional();
  await stream.write(Uint8Array.of(1));
  await stream.close();
  assert((await soon(peer.incomingUnidirectionalStreams.getReader().read())).value !== undefined);
});

Deno.test("QuicListener.close() closes every connection with 0, and can be called twice", async () => {
  const server = new QuicServer();
  const { connection, peer } = await server.open();
  const waiting = server.next();
  const closed = assertRejects(() => waiting, Error, "no connection");
  await soon(Promise.all([server.listener.close(), server.listener.close()]));
  assertEquals(await ending(peer), 0);
  assertEquals(await soon(connection.closed), { closeCode: 0, reason: "" });
  await closed;
});

Deno.test("QuicListener closes when its signal aborts", async () => {
  const aborting = new AbortController();
  await using server = new QuicServer({ signal: aborting.signal });
  const { peer } = await server.open();
  aborting.abort();
  assertEquals(await ending(peer), 0);
});
