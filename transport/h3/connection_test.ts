/**
 * Tests requests and streams that arrive early, late or in pieces, and the lifetime of a
 * connection.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { nextBidirectional } from "../../tests/incoming.ts";
import {
  bytesOf,
  capsuleFrame,
  headersFrame,
  type RawPeer,
  RawServer,
  REQUEST_FIELDS,
  requestFields,
  settingsFrame,
  TestServer,
} from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError } from "../../errors.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { directStream } from "../direct.ts";
import { STREAM_WINDOW_BYTES, UnreadStreams } from "../quic/unread_streams.ts";
import { dialWebTransport } from "./client.ts";
import { Http3Connection } from "./connection.ts";
import { H3Error } from "./wire/error_codes.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";
import type { Field } from "./wire/qpack.ts";

/** A reserved frame type, which every end must tolerate. */
const GREASE = 0x1f * 7 + 0x21;

const NOTHING = new Uint8Array();
const TEXT = new TextEncoder().encode("hello");

const certificate = devCertificate({ cacheFolder: null });

Deno.test("Http3Request.protocols is empty when the header is malformed", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  for (const value of ['"a", b', "a", '"a', "(", "", '"a",', '"a";x=']) {
    const request = await peer.request({ more: [["wt-available-protocols", value]] });
    const asked = await soon(server.request());
    assertEquals(asked.protocols, [], value);
    asked.reject(404);
    assertEquals(await soon(request.status()), 404);
  }
});

Deno.test("Http3Connection reads a request byte by byte, and waits for the settings", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  const request = await peer.bidi();
  await request.send.trickle(bytesOf(encodeFrame(GREASE, TEXT), headersFrame(REQUEST_FIELDS)));
  const settings = await peer.uni();
  await settings.trickle(bytesOf(0, settingsFrame()));
  const asked = await soon(server.request());
  assertEquals(asked.url, "https://localhost/");
  asked.accept();
  assertEquals(await soon(request.status()), 200);
});

Deno.test("Http3Connection reads the heads of streams byte by byte", async () => {
  await using server = new TestServer();
  await using raw = await server.open();
  const { peer, connect, session } = raw;
  const bidi = await peer.bidi();
  await bidi.send.trickle(bytesOf(0x41, connect.id, TEXT));
  await bidi.send.end();
  const uni = await peer.uni();
  // One number has four bytes although it needs two. The other has eight bytes although it needs
  // one.
  await uni.trickle(
    bytesOf(Uint8Array.of(0x80, 0, 0, 0x54, 0xc0, 0, 0, 0, 0, 0, 0, connect.id), TEXT),
  );
  await uni.end();
  const one = await soon(session.incomingBidirectionalStreams.getReader().read());
  const other = await soon(session.incomingUnidirectionalStreams.getReader().read());
  for (const readable of [one.value!.readable, other.value!]) {
    assertEquals(await new Response(readable).bytes(), TEXT);
  }
});

Deno.test("Http3Connection holds streams that arrive before their session", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  // The request has the ID 0 and arrives last.
  const request = await peer.bidi();
  const bidi = await peer.bidi(0x41, request.id, TEXT);
  await bidi.send.end();
  const uni = await peer.uni(0x54, request.id, TEXT);
  await uni.end();
  await request.send.write(headersFrame(REQUEST_FIELDS));
  const session = await soon(server.accept());
  const one = await soon(session.incomingBidirectionalStreams.getReader().read());
  const other = await soon(session.incomingUnidirectionalStreams.getReader().read());
  for (const readable of [one.value!.readable, other.value!]) {
    assertEquals(await new Response(readable).bytes(), TEXT);
  }
});

Deno.test("Http3Connection holds at most 16 streams, and ends the oldest", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const request = await peer.bidi();
  const streams = [];
  for (let i = 0; i < 22; i++) streams.push(await peer.bidi(0x41, request.id, i));
  // These six have ended by now.
  for (const { receive } of streams.slice(0, 6)) {
    assertEquals(await soon(receive.readAll()), NOTHING);
  }
  await request.send.write(headersFrame(REQUEST_FIELDS));
  const session = await soon(server.accept());
  const reader = session.incomingBidirectionalStreams.getReader();
  const came = [];
  for (let i = 0; i < 16; i++) {
    const { value } = await soon(reader.read());
    came.push((await directStream(value!).read())!.at(-1)!);
  }
  assertEquals(came.toSorted((a, b) => a - b), Array.from({ length: 16 }, (_, i) => i + 6));
});

/** A peer that connected while the clock stood still. */
interface Frozen {
  readonly time: FakeTime;
  readonly server: TestServer;
  readonly peer: RawPeer;
}

async function frozen(act: (frozen: Frozen) => Promise<void>): Promise<void> {
  await using server = new TestServer();
  using time = new FakeTime();
  {
    await using peer = await server.dial();
    await until(() => server.listener.connectionCount === 1);
    await act({ time, server, peer });
  }
  await until(() => server.listener.connectionCount === 0);
}

/** Waits until a server has read everything that has arrived so far. */
async function isRead(peer: RawPeer): Promise<void> {
  for (let i = 0; i < 3; i++) {
    const empty = await peer.bidi();
    await empty.send.end();
    await empty.receive.readAll();
  }
}

Deno.test("Http3Connection ends held streams when no session arrives within five seconds", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.control();
    const request = await peer.bidi();
    const early = await peer.bidi(0x41, request.id, TEXT);
    await isRead(peer);
    await time.tickAsync(4_900);
    const late = await peer.bidi(0x41, request.id, TEXT);
    await isRead(peer);
    await time.tickAsync(200);
    assertEquals(await early.receive.readAll(), NOTHING);
    await request.send.write(headersFrame(REQUEST_FIELDS));
    const session = await server.accept();
    // The later stream is still held.
    const stream = await nextBidirectional(session);
    assertEquals(await stream.read(), TEXT);
    await stream.close();
    assertEquals(await late.receive.readAll(), NOTHING);
  });
});

Deno.test("Http3Connection ends held streams when their session is rejected", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const request = await peer.bidi();
  const early = await peer.bidi(0x41, request.id, TEXT);
  await request.send.write(headersFrame(requestFields({ ":protocol": "websocket" })));
  assertEquals(await soon(request.status()), 501);
  assertEquals(await soon(early.receive.readAll()), NOTHING);
  // A session with that ID can no longer arrive, so later streams are not held at all.
  const late = await peer.bidi(0x41, request.id, TEXT);
  let isEnded = false;
  const ending = late.receive.readAll().then(() => isEnded = true, () => {});
  for (let round = 0; round < 20 && !isEnded; round++) await isRead(peer);
  assertEquals(isEnded, true);
  await ending;
});

Deno.test("Http3Connection closes when the client sends no settings within five seconds", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.request();
    await isRead(peer);
    await time.tickAsync(4_900);
    assertEquals(server.listener.connectionCount, 1);
    await time.tickAsync(200);
    assertEquals((await peer.ending).closeCode, H3Error.missingSettings);
  });
});

Deno.test("Http3Connection closes when no request is complete within ten seconds", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.control();
    await peer.bidi(headersFrame(REQUEST_FIELDS).subarray(0, 10));
    await isRead(peer);
    await time.tickAsync(9_900);
    assertEquals(server.listener.connectionCount, 1);
    await time.tickAsync(200);
    assertEquals((await peer.ending).closeCode, H3Error.noError);
  });
});

Deno.test("Http3Connection rejects requests whose heads stay unfinished for five seconds, or are many", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.control();
    const { session } = await server.ask(peer);
    const head = headersFrame(REQUEST_FIELDS);
    const begun = [];
    for (let i = 0; i < 20; i++) begun.push(await peer.bidi(head.subarray(0, 10)));
    // Only 16 may wait, as many as a connection may have sessions.
    for (const request of begun.splice(0, 4)) assertEquals(await soon(request.status()), 503);
    await begun[0]!.send.write(head.subarray(10));
    await server.accept();
    assertEquals(await soon(begun.shift()!.status()), 200);
    await time.tickAsync(5_000);
    await time.tickAsync(0);
    for (const request of begun) assertEquals(await soon(request.status()), 503);
    await server.ask(peer);
    assertEquals(server.listener.sessionCount, 3);
    await session.close();
  });
});

Deno.test("Http3Connection counts requests with unfinished heads as unread streams", async () => {
  const unreadStreams = new UnreadStreams({ maxBytesPerConnection: 2 * STREAM_WINDOW_BYTES });
  await using server = new TestServer({ unreadStreams });
  await using raw = await server.open();
  const head = headersFrame(REQUEST_FIELDS);
  const begin = () => raw.peer.bidi(head.subarray(0, 10));
  const begun = [await begin(), await begin()];
  await until(() => unreadStreams.stats.count === 2);
  assertEquals(await soon((await begin()).status()), 503);
  for (const request of begun) {
    await request.send.write(head.subarray(10));
    await soon(server.accept());
    assertEquals(await soon(request.status()), 200);
  }
  assertEquals(unreadStreams.stats.count, 0);
});

Deno.test("Http3Connection stays open for two seconds after its last session", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.control();
    const { session, connect } = await server.ask(peer);
    await time.tickAsync(60_000);
    await connect.send.end();
    await session.closed;
    await time.tickAsync(1_900);
    // There is another session, so the connection stays open.
    const other = await server.ask(peer);
    await time.tickAsync(60_000);
    await other.connect.send.end();
    await other.session.closed;
    await time.tickAsync(1_900);
    assertEquals(server.listener.connectionCount, 1);
    await time.tickAsync(200);
    assertEquals((await peer.ending).closeCode, H3Error.noError);
  });
});

Deno.test("Http3Connection closes after five seconds if the server sends no settings", async () => {
  await using server = new RawServer(certificate);
  using time = new FakeTime();
  const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
    serverCertificateHashes: certificate.hashes,
  }).then(() => undefined, (error) => error);
  const peer = await server.accept();
  await (await peer.nextUni()).read();
  await time.tickAsync(5_001);
  assertEquals((await peer.ending).closeCode, H3Error.missingSettings);
  assertEquals((await dialing).name, "ConnectionError");
});

Deno.test("Http3Connection rejects sessions beyond its limit with 429", async () => {
  await using server = new TestServer({ maxSessionsPerConnection: 2 });
  await using first = await server.open();
  const { peer } = first;
  const second = await server.ask(peer);
  const third = await peer.request();
  const next = server.request();
  const fields = await soon(Promise.race([third.receive.fields(), next.then(() => undefined)]));
  assertEquals([fields?.get(":status"), fields?.get("retry-after")], ["429", "5"]);
  // Once a session has ended, there is room again.
  second.session.close();
  await second.connect.send.end();
  await soon(second.session.closed);
  const fourth = await peer.request();
  (await soon(next)).accept();
  assertEquals(await soon(fourth.status()), 200);
  assertEquals(server.listener.sessionCount, 2);
});

Deno.test("Http3Connection separates 43 sessions in sequence, and four concurrent ones", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  for (let round = 0; round < 43; round++) {
    const { session, connect } = await server.ask(peer);
    assertEquals(connect.id, round * 4 + round * 4);
    await talk(peer, connect.id, session);
    session.close({ closeCode: 4000 + round });
    assertEquals(await soon(connect.receive.readAll()), capsuleOfClose(4000 + round));
    await connect.send.end();
    assertEquals(await soon(session.closed), { closeCode: 4000 + round, reason: "" });
  }
  const several = [];
  for (let i = 0; i < 4; i++) several.push(await server.ask(peer));
  assert(several.every(({ connect }) => connect.id > 64));
  await Promise.all(several.map(({ session, connect }) => talk(peer, connect.id, session)));
});

/** Sends the ID of a session on each kind of stream, and in a datagram. */
async function talk(
  peer: RawPeer,
  id: number,
  session: Awaited<ReturnType<TestServer["accept"]>>,
): Promise<void> {
  const text = new TextEncoder().encode(`session ${id}`);
  const bidi = await peer.bidi(0x41, id, text);
  await bidi.send.end();
  const stream = await soon(nextBidirectional(session));
  assertEquals(await stream.read(), text);
  await stream.write(text);
  await stream.close();
  assertEquals(await soon(bidi.receive.readAll()), text);
  if (id % 3 !== 0) return;
  const uni = await peer.uni(0x54, id, text);
  await uni.end();
  const receive = await soon(session.incomingUnidirectionalStreams.getReader().read());
  assertEquals(await directStream(receive.value!).read(), text);
  await peer.conn.sendDatagram(bytesOf(id / 4, text));
  const datagram = await soon(session.datagrams.readable.getReader().read());
  assertEquals(datagram.value, text);
}

function capsuleOfClose(code: number): Uint8Array {
  return capsuleFrame(0x2843, Uint8Array.of(0, 0, code >> 8, code & 0xff));
}

Deno.test("Http3Connection.connect() sends no request after GOAWAY", async () => {
  await using server = new RawServer(certificate);
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1" });
  const options = {
    hostname: "127.0.0.1",
    port: server.port,
    alpnProtocols: ["h3"],
    endpoint,
    serverCertificateHashes: [...certificate.hashes],
  };
  const [conn, peer] = await Promise.all([Deno.connectQuic(options), server.accept()]);
  const connection = new Http3Connection(conn, { runtime: platformRuntime(), side: "client" });
  const control = await peer.control();
  assertEquals(connection.isOver, false);
  await control.write(encodeFrame(FrameType.goaway, Uint8Array.of(0)));
  await until(() => connection.isOver);
  const url = new URL(`https://127.0.0.1:${server.port}/`);
  await assertRejects(
    () => soon(connection.connect({ url, protocolOf: () => undefined })),
    ConnectionError,
    "accepts no more on this connection",
  );
  conn.close({ closeCode: H3Error.noError, reason: "" });
  await soon(peer.ending);
  await assertRejects(() => peer.nextBidi()); // No stream ever arrived.
  await soon(connection.ending);
  endpoint.close();
});

Deno.test("Http3Request.headers joins a cookie that arrives in pieces", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const more: Field[] = [["cookie", "a=1"], ["x-list", "1"], ["cookie", "b=2"], ["x-list", "2"]];
  const cases: [more: Field[], cookie: string | null][] = [
    [more, "a=1; b=2"],
    [[["cookie", "a=1; b=2"]], "a=1; b=2"],
    [[], null],
  ];
  for (const [more, cookie] of cases) {
    const request = await peer.request({ more });
    const asked = await soon(server.request());
    assertEquals(asked.headers.get("cookie"), cookie);
    if (more.length > 1) assertEquals(asked.headers.get("x-list"), "1, 2");
    asked.reject(404);
    assertEquals(await soon(request.status()), 404);
  }
});
