import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { nextUnidirectional } from "../../tests/incoming.ts";
import { PROTOCOL, QuicServer } from "../../tests/peers/quic_peer.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError, StreamError, TimeoutError } from "../../errors.ts";
import type { DirectReadable } from "../connection.ts";
import { directStream, openUnidirectional, receiveUnidirectional } from "../direct.ts";
import { RawQuicConnection } from "./connection.ts";
import { platformRuntime } from "../../base/runtime.ts";

const TEXT = new TextEncoder().encode("hello");

/** Sends bytes on a unidirectional stream of a peer that uses the runtime directly. */
async function sendBare(peer: Deno.QuicConn, bytes: Uint8Array): Promise<void> {
  const writer = (await peer.createUnidirectionalStream()).getWriter();
  await writer.write(bytes);
  await writer.close();
}

/** Reads a stream until it ends. */
async function readAll(stream: DirectReadable): Promise<number[]> {
  const bytes: number[] = [];
  for (let part; (part = await soon(stream.read())) !== null;) bytes.push(...part);
  return bytes;
}

/** Wraps a runtime connection whose methods the test defines. */
function fakeConnection(conn: Partial<Record<keyof Deno.QuicConn, unknown>>): RawQuicConnection {
  return new RawQuicConnection(platformRuntime(), {
    closed: new Promise(() => {}),
    close() {},
    ...conn,
  } as unknown as Deno.QuicConn);
}

Deno.test("QuicConnection reports the negotiated protocol, and the address of the peer", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  await connection.ready;
  assertEquals(connection.transport, "quic");
  assertEquals(connection.protocol, PROTOCOL);
  assertEquals(connection.remoteAddress.hostname, "127.0.0.1");
  assertEquals(connection.remoteAddress.transport, "udp");
  assertEquals(connection.serverName, undefined);
  peer.close({ closeCode: 0, reason: "" });
});

Deno.test("QuicConnection delivers exactly the bytes of a stream", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  await sendBare(peer, TEXT);
  assertEquals(await readAll(await soon(nextUnidirectional(connection))), [...TEXT]);

  const stream = await openUnidirectional(connection);
  await stream.write(TEXT);
  await stream.close();
  const { value } = await soon(peer.incomingUnidirectionalStreams.getReader().read());
  assertEquals(await soon(new Response(value!).bytes()), TEXT);
});

Deno.test("QuicConnection reads a stream that is larger than every buffer", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  const bytes = new Uint8Array(300_000).map((_, i) => i % 251);
  const sending = sendBare(peer, bytes);
  const received: Uint8Array[] = [];
  const stream = await soon(nextUnidirectional(connection));
  for (let part; (part = await soon(stream.read())) !== null;) received.push(part);
  await soon(sending);
  const all = new Uint8Array(await new Blob(received as Uint8Array<ArrayBuffer>[]).arrayBuffer());
  assertEquals(all, bytes);
});

Deno.test("QuicConnection closes with any code, which the peer receives unchanged", async () => {
  await using server = new QuicServer();
  for (const closeCode of [0, 1, 0x10, 0x100, 1000, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    const { connection, peer } = await server.open();
    connection.close({ closeCode, reason: "grüße" });
    const info = { closeCode, reason: "grüße" };
    assertEquals(await soon(connection.closed), info);
    assertEquals({ ...await soon(peer.closed) }, info);
  }
});

Deno.test("QuicConnection.closed resolves with the peer's code and reason unchanged", async () => {
  await using server = new QuicServer();
  for (const closeCode of [0, 3, 0x10, 0x100, 65_536, Number.MAX_SAFE_INTEGER]) {
    const { connection, peer } = await server.open();
    const reading = assertRejects(
      async () => await directStream(await connection.createBidirectionalStream()).read(),
      ConnectionError,
    );
    peer.close({ closeCode, reason: "enough" });
    assertEquals(await soon(connection.closed), { closeCode, reason: "enough" });
    await soon(reading);
    const error = await assertRejects(() => connection.createBidirectionalStream());
    assertEquals(
      (error as Error).message,
      `The peer closed the connection with code ${closeCode}: enough`,
    );
  }
});

Deno.test("QuicConnection.closed rejects when the peer falls silent", async () => {
  await using server = new QuicServer({ idleTimeoutMs: 100 });
  const { connection } = await server.open();
  const reading = assertRejects(
    async () => await directStream(await connection.createBidirectionalStream()).read(),
    ConnectionError,
  );
  const incoming = assertRejects(
    () => Array.fromAsync(connection.incomingUnidirectionalStreams),
    ConnectionError,
  );
  const error = await assertRejects(() => soon(connection.closed), ConnectionError);
  assertEquals(error.message, "The connection broke: timed out");
  assertEquals(error.isTimeout, true);
  await soon(Promise.all([reading, incoming]));
});

Deno.test("QuicConnection does not change the codes of streams that the peer ended", async () => {
  // The runtime cannot send these codes, so the test cannot use a real peer.
  for (const [text, code] of [["0", 0], ["77", 77], ["9007199254740991", 2 ** 53 - 1]] as const) {
    const stream = new ReadableStream({
      type: "bytes",
      pull: (controller) => controller.error(new Error(`stream reset by peer: error ${text}`)),
    });
    const connection = fakeConnection({
      incomingUnidirectionalStreams: ReadableStream.from([stream]),
    });
    const reading = (await soon(nextUnidirectional(connection))).read();
    const error = await assertRejects(() => soon(reading), StreamError);
    assertEquals([error.streamErrorCode, error.by], [code, "remote"]);
    assertEquals(error.message, `The peer reset the stream with code ${code}`);
    assertEquals(connection.counters?.streamErrors, 1);
  }
});

Deno.test("QuicConnection reports to the writer that the peer stopped reading, with its code", async () => {
  const sink = new WritableStream({
    write: () => Promise.reject(new Error("sending stopped by peer: error 5")),
  });
  const connection = fakeConnection({ createUnidirectionalStream: () => Promise.resolve(sink) });
  const stream = await openUnidirectional(connection);
  const error = await assertRejects(() => soon(stream.write(TEXT)), StreamError);
  assertEquals([error.streamErrorCode, error.by], [5, "remote"]);
  assertEquals(connection.halves.size, 0);
});

Deno.test("QuicConnection leaves streams to the runtime until the first call for one", async () => {
  await using server = new QuicServer({ maxUnidirectionalStreams: 4 });
  const { connection, peer } = await server.open();
  for (let i = 0; i < 4; i++) await sendBare(peer, Uint8Array.of(i));
  await assertRejects(() => peer.createUnidirectionalStream());
  assertEquals([connection.inspect.unreadStreams, connection.inspect.counters], [0, undefined]);
  for (let i = 0; i < 4; i++) {
    assertEquals(await readAll(await soon(nextUnidirectional(connection))), [i]);
  }
  // Streams that have been read free up credit for others.
  for (let i = 4; i < 20; i++) {
    const stream = await soon(peer.createUnidirectionalStream({ waitUntilAvailable: true }));
    const writer = stream.getWriter();
    await writer.write(Uint8Array.of(i));
    await writer.close();
    assertEquals(await readAll(await soon(nextUnidirectional(connection))), [i]);
  }
});

Deno.test("QuicConnection.direct delivers earlier and later streams", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  const streams = connection.incomingUnidirectionalStreams;
  await sendBare(peer, Uint8Array.of(1));
  await until(() => connection.inspect.unreadStreams === 1);
  assert(!streams.locked);

  const got: number[][] = [];
  receiveUnidirectional(connection, async (stream) => void got.push(await readAll(stream)));
  assertThrows(
    () => receiveUnidirectional(connection, () => {}),
    TypeError,
    "Cannot receive streams: there is a receiver already",
  );
  for (let i = 2; i < 10; i++) await sendBare(peer, Uint8Array.of(i));
  await until(() => got.length === 9);
  assertEquals(got.map(([first]) => first), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assertEquals(connection.inspect.counters?.streamsClosed, 9);
});

Deno.test("QuicConnection waits for a free stream until a timeout or its signal", async () => {
  await using server = new QuicServer();
  const { connection } = await server.open({ maxConcurrentUnidirectionalStreams: 1 });
  const first = await openUnidirectional(connection, { timeoutMs: 10_000 });
  await first.write(TEXT);
  const error = await assertRejects(
    () => openUnidirectional(connection, { timeoutMs: 10 }),
    TimeoutError,
    "Cannot open stream: the peer allowed no unidirectional stream within 10 ms",
  );
  assertEquals(error.timeoutMs, 10);
  const aborting = new AbortController();
  const reason = new Error("enough");
  const opening = connection.createUnidirectionalStream({ signal: aborting.signal });
  aborting.abort(reason);
  assertStrictEquals(await opening.catch((cause) => cause), reason);
  const waiting = openUnidirectional(connection);
  connection.close();
  await assertRejects(() => soon(waiting), ConnectionError);
});

Deno.test("QuicConnection orders streams, in all their forms", async () => {
  await using server = new QuicServer();
  const { connection } = await server.open();
  const stream = await connection.createUnidirectionalStream({ sendOrder: 7 });
  const direct = stream.direct!;
  assertEquals([stream.sendOrder, direct.sendOrder], [7, 7]);
  for (const order of [0, -3, 2 ** 40, -(2 ** 40)]) {
    stream.sendOrder = order;
    assertEquals([stream.sendOrder, direct.sendOrder], [order, order]);
  }
  await direct.write(TEXT);
  await direct.close();
  direct.sendOrder = 1; // The client has no streams to order.
  assertEquals(stream.sendOrder, 1);
  const both = await connection.createBidirectionalStream({ sendOrder: 2 });
  const forms = [directStream(both), directStream(both.writable)];
  assertEquals(forms.map(({ sendOrder }) => sendOrder), [2, 2]);
  assertEquals((await openUnidirectional(connection)).sendOrder, 0);
});

Deno.test("QuicConnection carries datagrams unchanged in both directions", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  assert(connection.datagrams.maxDatagramSize >= 1_100);
  const reader = connection.datagrams.readable.getReader();
  await peer.sendDatagram(TEXT);
  assertEquals((await soon(reader.read())).value, TEXT);
  connection.datagrams.direct!.send(TEXT);
  assertEquals(await soon(peer.readDatagram()), TEXT);
  connection.datagrams.direct!.send(new Uint8Array());
  assertEquals((await soon(peer.readDatagram())).byteLength, 0);
});
