import { assertEquals, assertRejects } from "@std/assert";
import { nextBidirectional } from "../../tests/incoming.ts";
import { directStream } from "../direct.ts";
import { ConnectionError } from "../../errors.ts";
import { RawPeer, TestServer } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import type { Connection } from "../connection.ts";
import { withMessages } from "../message_stream/server.ts";
import type { CertificateHash } from "../webtransport.ts";
import { Http3Dialer } from "./dialer.ts";
import { Http3Pool } from "./pool.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** Opens two sessions on one connection. Returns both sides of each. */
async function twoSessions(): Promise<
  {
    readonly peer: WebTransportPeer;
    readonly near: readonly [Connection, Connection];
    readonly far: readonly [Connection, Connection];
  } & AsyncDisposable
> {
  const peer = new WebTransportPeer();
  const runtime = platformRuntime();
  const pool = new Http3Pool();
  const serverCertificateHashes = peer.trust.serverCertificateHashes as CertificateHash[];
  const dial = () =>
    soon(new Http3Dialer(peer.url, { runtime, serverCertificateHashes, pool }).session());
  const near = [await dial(), await dial()] as const;
  const far = [await peer.session(), await peer.session()] as const;
  assertEquals(peer.listener.connectionCount, 1);
  return {
    peer,
    near,
    far,
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all(near.map((session) => session[Symbol.asyncDispose]()));
      await peer[Symbol.asyncDispose]();
    },
  };
}

/** Sends a request, and waits for the reply. */
async function isAlive(near: Connection, far: Connection): Promise<void> {
  const asked = directStream(await soon(near.createBidirectionalStream()));
  await soon(asked.write(Uint8Array.of(1)));
  const responded = await soon(nextBidirectional(far));
  assertEquals(await soon(responded.read()), Uint8Array.of(1));
  await soon(responded.write(Uint8Array.of(2)));
  assertEquals(await soon(asked.read()), Uint8Array.of(2));
}

const INFO = { closeCode: 4001, reason: "all of it" };

for (const who of ["client", "server"] as const) {
  Deno.test(`Http3Session.close() ends the connection of a ${who} on request`, async () => {
    await using pair = await twoSessions();
    const { near, far, peer } = pair;
    const [first, second] = who === "client" ? near : far;
    const [firstThere, secondThere] = who === "client" ? far : near;
    first.close({ ...INFO, closeConnection: true });
    assertEquals(await soon(first.closed), INFO);
    assertEquals(await soon(firstThere.closed), INFO);
    assertEquals(await soon(second.closed), { closeCode: 0, reason: "" });
    await assertRejects(() => soon(secondThere.closed), ConnectionError, "0x100");
    await until(() => peer.listener.connectionCount === 0);
  });

  Deno.test(`Http3Session.close() of a ${who} keeps the other sessions of the connection`, async () => {
    await using pair = await twoSessions();
    const { near, far, peer } = pair;
    const [first, firstThere] = who === "client" ? [near[0], far[0]] : [far[0], near[0]];
    first.close({ ...INFO, closeConnection: false });
    assertEquals(await soon(first.closed), INFO);
    assertEquals(await soon(firstThere.closed), INFO);
    await isAlive(near[1], far[1]);
    await isAlive(far[1], near[1]);
    assertEquals(peer.listener.connectionCount, 1);
  });
}

Deno.test("withMessages().close() ends the connection on request", async () => {
  await using pair = await twoSessions();
  const { near, far } = pair;
  const client = withMessages(near[0], { side: "client" });
  const server = withMessages(far[0], { side: "server" });
  const came = new Promise((resolve) => {
    server.frames!.receive({ receiveFrame: resolve, framesEnded() {} });
  });
  client.frames!.receive({ receiveFrame() {}, framesEnded() {} });
  client.frames!.send("last");
  client.close({ ...INFO, closeConnection: true });
  assertEquals(await soon(came), "last");
  assertEquals(await soon(Promise.all([client.closed, server.closed])), [INFO, INFO]);
  assertEquals(await soon(near[1].closed), { closeCode: 0, reason: "" });
  await assertRejects(() => soon(far[1].closed), ConnectionError, "0x100");
});

Deno.test("Http3Session.close() ends the connection even when the peer does not confirm", async () => {
  await using server = new TestServer();
  await using peer = await RawPeer.dial(server.port, { hashes: server.hashes });
  await peer.control();
  const { session } = await server.ask(peer);
  session.close({ closeConnection: true });
  assertEquals((await soon(peer.ending)).closeCode, 0x100);
  assertEquals(await soon(session.closed), { closeCode: 0, reason: "" });
});
