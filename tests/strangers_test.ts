/**
 * Tests the limits for a peer whose token has not been accepted yet.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { ServeOptions } from "../server.ts";
import {
  type Connection,
  devCertificate,
  dialWebSocket,
  dialWebTransport,
  directStream,
  listenWebTransport,
  withMessages,
} from "../transport/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const TOKEN = "s3cret-t0ken";
const MARKED = "skein.1, skein.auth";
const REASON = "Expected a token and nothing else";

/** Accepts one token once a gate opens. */
function known(gate: Promise<void> = Promise.resolve()): ServeOptions<string> {
  return {
    tokens: { inMessage: true },
    session: { handshakeTimeoutMs: 60_000 },
    authenticate: async ({ token }) => {
      await gate;
      return token === TOKEN ? "ann" : null;
    },
  };
}

/** QMux parameters that grant no credit, followed by 60,000 bytes of an unfinished stream. */
function streamRecords(): Uint8Array[] {
  const data = new Uint8Array(60_000);
  const frame = new Uint8Array(4 + data.length);
  frame.set([0x0a, 0x00, 0x80, 0x00]);
  new DataView(frame.buffer).setUint32(2, 0x8000_0000 + data.length - 2);
  return [Uint8Array.fromHex("ff5153300d0a0d0a00"), frame];
}

for (const webSocket of [undefined, hardenedWebSocket({ handshakeBurst: Infinity })]) {
  const name = webSocket === undefined ? "the runtime's" : "the hardened";
  Deno.test(`Server buffers and grants nothing for 300 unauthenticated peers with streams, on ${name} WebSocket`, async () => {
    await using server = listen({ ...known(), ...(webSocket && { webSocket }) });
    const records = streamRecords();
    let granted = 0;
    const closes = await Promise.all(Array.from({ length: 300 }, async () => {
      using raw = await RawSocket.open(portOf(server), { protocol: MARKED });
      // The socket may close before the rest of the stream is sent.
      const sending = (async () => {
        for (const record of records) await raw.frame(record, { head: 0x82 });
      })().catch(() => {});
      while (true) {
        const frame = await raw.read();
        if (frame?.opcode === 2) granted += frame.payload.length;
        if (frame === undefined || frame.opcode === 8) {
          await sending;
          const [high = 0, low = 0] = frame?.payload ?? [];
          return frame && high * 256 + low;
        }
      }
    }));
    // The runtime may drop a socket whose peer sends while closing.
    assertEquals(closes.filter((code) => code !== 4401 && code !== undefined), []);
    assertEquals(granted, 0);
    {
      using raw = await RawSocket.open(portOf(server), { protocol: MARKED });
      await raw.frame(records[0]!, { head: 0x82 });
      assertEquals(await raw.closed(), { code: 4401, reason: REASON });
    }
    await until(() => server.manager.stats().reserved === 0);
  });
}

Deno.test("Server grants credit for streams of skein.1 after it accepted the token", async () => {
  await using server = listen(known());
  const connection = await dialWebSocket(server.url, { protocols: ["skein.1", "skein.auth"] });
  const session = connection.frames!;
  const greeted = new Promise((resolve) => {
    session.receive({
      receiveFrame: (frame) => `${frame}`.includes("hello") && resolve(0),
      framesEnded() {},
    });
  });
  session.send(`{"auth":"${TOKEN}","id":1}`);
  await soon(greeted);
  const stream = directStream(await connection.createBidirectionalStream());
  await soon(stream.write(new Uint8Array(200_000)));
  assertEquals(connection.inspect!.credit!.state("data").allowed, 1_048_576);
  await connection[Symbol.asyncDispose]();
});

/** Credit that a server grants its peer. */
function allowedBy(connection: Connection): number[] {
  return (["data", "bidirectional", "unidirectional"] as const)
    .map((kind) => connection.inspect!.credit!.state(kind).allowed);
}

Deno.test("Server allows an unauthenticated peer 20 KiB and few streams over qmux-02.skein.1", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = listen(known(gate.promise));
  const protocols = ["qmux-02.skein.1", "skein.auth"];
  await using connection = await dialWebSocket(server.url, { protocols });
  const greeted = new Promise<void>((resolve) => {
    connection.frames!.receive({
      receiveFrame: (frame) => `${frame}`.includes("hello") && resolve(),
      framesEnded() {},
    });
  });
  // In addition to the message stream.
  assertEquals(allowedBy(connection), [20_480, 8 + 1, 8]);
  connection.frames!.send(`{"auth":"${TOKEN}","id":1}`);
  const stream = directStream(await connection.createBidirectionalStream());
  const writing = stream.write(new Uint8Array(200_000));
  await until(() => connection.inspect!.credit!.state("data").waiting > 0);
  assert(connection.inspect!.credit!.state("data").allowed < 2 * 20_480);
  gate.resolve();
  await soon(greeted);
  await soon(writing);
  const [data = 0, ...streams] = allowedBy(connection);
  assert(data >= 1_048_576);
  assertEquals(streams, [100 + 1, 100]);
});

Deno.test("Server reads 16 KiB of an unauthenticated peer's first stream, and closes with 4401", async () => {
  await using server = listen(known());
  const serverCertificateHashes = server.certificateHashes!;
  const dials: (() => Promise<Connection>)[] = [
    () => dialWebSocket(server.url, { protocols: ["qmux-02.skein.1", "skein.auth"] }),
    async () => {
      const protocols = ["skein.1", "skein.auth"];
      const options = { protocols, serverCertificateHashes };
      return withMessages(await dialWebTransport(server.webTransportUrl!, options), {
        side: "client",
      });
    },
  ];
  for (const dial of dials) {
    const connection = await soon(dial());
    connection.frames!.receive({ receiveFrame() {}, framesEnded() {} });
    // Otherwise, the server would buffer the whole message before it notices that the message has
    // no token.
    connection.frames!.send(" ".repeat(200_000));
    const { closeCode, reason } = await soon(connection.closed);
    assertEquals([closeCode, reason], [4401, REASON]);
  }
});

Deno.test("WebTransport of an unauthenticated peer holds at most 16 unread streams, and no datagrams", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const dialing = dialWebTransport(`https://127.0.0.1:${listener.address.port}/`, {
    protocols: ["skein.1"],
    serverCertificateHashes: certificate.hashes,
  });
  const { value: request } = await requests.next();
  const admitted = Promise.withResolvers<void>();
  const raw = request!.accept({ protocol: "skein.1", admitted: admitted.promise });
  await using server = withMessages(raw, { side: "server", admitted: admitted.promise });
  await using client = withMessages(await dialing, { side: "client" });
  const told = new Promise((resolve) => {
    server.frames!.receive({ receiveFrame: resolve, framesEnded() {} });
  });
  for (let i = 0; i < 20; i++) {
    for (const kind of ["Bidirectional", "Unidirectional"] as const) {
      const stream = await client[`create${kind}Stream`]();
      const writer = ("writable" in stream ? stream.writable : stream).getWriter();
      writer.write(Uint8Array.of(i)).catch(() => {});
    }
  }
  // Without a reader, the runtime keeps datagrams.
  const datagrams = server.datagrams.readable.getReader();
  // One datagram may be lost.
  const sending = setInterval(() => client.datagrams.direct!.send(Uint8Array.of(7)), 5);
  await until(() => {
    const { remoteBidirectionalOpened = 0, remoteUnidirectionalOpened = 0, datagramsDropped = 0 } =
      raw.inspect!.counters ?? {};
    return remoteBidirectionalOpened + remoteUnidirectionalOpened === 40 && datagramsDropped > 0;
  });
  assertEquals(raw.inspect!.unreadStreams, 16);
  client.frames!.send("token");
  assertEquals(await soon(told), "token");
  // After the client is admitted, the application receives the waiting streams and new datagrams.
  admitted.resolve();
  const streams = server.incomingUnidirectionalStreams.getReader();
  assertEquals((await soon(streams.read())).done, false);
  assertEquals((await soon(datagrams.read())).value, Uint8Array.of(7));
  clearInterval(sending);
});
