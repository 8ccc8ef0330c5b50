/**
 * Tests how long both sides take to notice that the network between them is gone. Packets are lost
 * without an error.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { CloseCode, dial, type Session } from "../mod.ts";
import { dialQuic, dialWebTransport } from "../transport/mod.ts";
import { certificate, PROTOCOL, QuicServer } from "./peers/quic_peer.ts";
import { TestServer } from "./peers/raw_http3.ts";
import { listen, portOf } from "./servers.ts";
import { soon } from "./waiting.ts";
import { TcpPath } from "./networks/tcp_path.ts";
import { UdpPath } from "./networks/udp_path.ts";

/** Short times for QUIC; it notices a vanished network within their sum. */
const SHORT = { idleTimeoutMs: 600, keepAliveIntervalMs: 200 };

/** Both sides of a session. */
function arrivals(): {
  readonly onOpen: (session: Session) => void;
  readonly first: Promise<Session>;
} {
  const { promise, resolve } = Promise.withResolvers<Session>();
  return { onOpen: resolve, first: promise };
}

Deno.test("Both sides of a WebSocket notice a vanished network after a minute of silence", async () => {
  const { onOpen, first } = arrivals();
  await using server = listen({ webTransport: false, onOpen });
  await using path = new TcpPath(portOf(server));
  using time = new FakeTime();
  await using near = await dial(`ws://127.0.0.1:${path.port}/`);
  const far = await first;
  path.cut();
  await time.tickAsync(59_000);
  assertEquals([near.isClosed, far.isClosed], [false, false]);
  // The heartbeat checks once a second.
  await time.tickAsync(2_000);
  for (const { closed } of [near, far]) {
    const { code, by } = await closed;
    assertEquals([code, by], [CloseCode.timedOut, "network"]);
  }
});

Deno.test("Both sides of a session over WebTransport notice a vanished network", async () => {
  const { onOpen, first } = arrivals();
  await using server = listen({ webTransport: { cacheFolder: null, ...SHORT }, onOpen });
  await using path = new UdpPath(Number(new URL(server.webTransportUrl!).port));
  await using near = await soon(dial(`https://127.0.0.1:${path.port}/`, {
    transports: ["webtransport"],
    serverCertificateHashes: server.certificateHashes!,
  }));
  const far = await soon(first);
  path.cut();
  for (const { closed } of [near, far]) assertEquals((await soon(closed)).by, "network");
});

Deno.test("Both sides of WebTransport and raw QUIC notice a vanished network", async () => {
  await using webTransport = new TestServer(SHORT);
  await using quic = new QuicServer(SHORT);
  await using webTransportPath = new UdpPath(webTransport.port);
  await using quicPath = new UdpPath(quic.port);
  const dialing = [
    dialWebTransport(`https://127.0.0.1:${webTransportPath.port}/`, {
      serverCertificateHashes: webTransport.hashes,
    }),
    dialQuic(`moqt://127.0.0.1:${quicPath.port}/`, {
      protocols: [PROTOCOL],
      serverCertificateHashes: certificate.hashes,
    }),
  ];
  const ends = await soon(Promise.all([webTransport.accept(), quic.next(), ...dialing]));
  webTransportPath.cut();
  quicPath.cut();
  for (const { closed } of ends) await soon(closed.then(() => {}, () => {}));
});
