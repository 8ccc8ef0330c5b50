import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { ConnectionError } from "../../errors.ts";
import { headersFrame, PLAIN_SETTINGS, RawServer } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { acceptFirst, WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import type { CertificateHash } from "../webtransport.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { Http3Dialer } from "./dialer.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";
import { Http3Pool } from "./pool.ts";
import type { Http3Session } from "./session.ts";
import { SettingId } from "./wire/settings.ts";
import { platformRuntime } from "../../base/runtime.ts";

const runtime = platformRuntime();

/** Dials a server through a pool. */
function dial(
  peer: WebTransportPeer,
  pool: Http3Pool,
  options: { readonly congestionControl?: "throughput" } = {},
): Promise<Http3Session> {
  const serverCertificateHashes = peer.trust.serverCertificateHashes as CertificateHash[];
  return soon(
    new Http3Dialer(peer.url, { runtime, serverCertificateHashes, pool, ...options }).session(),
  );
}

Deno.test("Http3Pool shares a connection, and removes it when it has ended", async () => {
  await using peer = new WebTransportPeer();
  const pool = new Http3Pool();
  const sessions = await Promise.all([dial(peer, pool), dial(peer, pool), dial(peer, pool)]);
  sessions.push(await dial(peer, pool));
  assertEquals([pool.size, peer.listener.connectionCount], [1, 1]);
  assertEquals(new Set(sessions.map(({ id }) => id)).size, 4);
  for (const session of sessions) session.close();
  await until(() => pool.size === 0);
  await using session = await dial(peer, pool);
  assertEquals(pool.size, 1);
  await session[Symbol.asyncDispose]();
});

Deno.test("Http3Pool opens another connection if the server accepts no more sessions on one", async () => {
  await using peer = new WebTransportPeer({ maxSessionsPerConnection: 2 });
  const pool = new Http3Pool();
  const sessions = await Promise.all(Array.from({ length: 5 }, () => dial(peer, pool)));
  assertEquals([pool.size, peer.listener.connectionCount], [3, 3]);
  // A session that has ended frees its slot.
  await sessions[0]![Symbol.asyncDispose]();
  sessions.push(await dial(peer, pool), await dial(peer, pool));
  assertEquals(pool.size, 3);
  await Promise.all(sessions.map((session) => session[Symbol.asyncDispose]()));
});

Deno.test("Http3Pool shares no connection between different options, and removes connections that the server closed", async () => {
  await using peer = new WebTransportPeer();
  const pool = new Http3Pool();
  const one = await dial(peer, pool);
  const two = await dial(peer, pool, { congestionControl: "throughput" });
  assertEquals(pool.size, 2);
  await peer[Symbol.asyncDispose]();
  for (const { closed } of [one, two]) await assertRejects(() => soon(closed), ConnectionError);
  await until(() => pool.size === 0);
});

Deno.test("Http3Pool continues after a rejected session, and after an abandoned one", async () => {
  let count = 0;
  await using peer = new WebTransportPeer({
    respond: (request) => ++count % 2 === 1 ? void request.reject(403) : acceptFirst(request),
  });
  const pool = new Http3Pool();
  const rejected = await assertRejects(() => dial(peer, pool));
  assertEquals((rejected as { status?: number }).status, 403);
  const session = await dial(peer, pool);
  assertEquals(pool.size, 1);
  const dialer = new Http3Dialer(peer.url, { runtime, pool });
  const dialing = dialer.session();
  dialer.abort();
  await assertRejects(() => soon(dialing));
  assertStrictEquals(session.isOver, false);
  assert(pool.size === 1);
  await session[Symbol.asyncDispose]();
});

Deno.test("Http3Pool opens another connection after the server sent GOAWAY", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using server = new RawServer(certificate);
  const pool = new Http3Pool();
  const open = async () => {
    const url = `https://127.0.0.1:${server.port}/`;
    const serverCertificateHashes = certificate.hashes;
    const dialing = new Http3Dialer(url, { runtime, serverCertificateHashes, pool }).session();
    dialing.catch(() => {}); // The first failure is reported below.
    const peer = await soon(server.accept());
    const control = await peer.control([
      ...PLAIN_SETTINGS,
      [SettingId.webTransportMaxSessions, 9], // There is room, so the rejection has another reason.
    ]);
    const connect = await soon(peer.nextBidi());
    await connect.send.write(headersFrame([[":status", "200"]]));
    return { session: await soon(dialing), control, peer };
  };
  const one = await open();
  await one.control.write(encodeFrame(FrameType.goaway, Uint8Array.of(4)));
  await soon(one.session.draining);
  const two = await open();
  assertEquals([pool.size, one.session.isOver, two.session.isOver], [2, false, false]);
  for (const { session, peer } of [one, two]) {
    peer.close();
    await assertRejects(() => soon(session.closed), ConnectionError);
  }
  await until(() => pool.size === 0);
});
