import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { nextBidirectional } from "../../tests/incoming.ts";
import {
  bytesOf,
  capsuleFrame,
  headersFrame,
  PLAIN_SETTINGS,
  RawPeer,
  type RawSend,
  RawServer,
  type RawSession,
  rawSession,
  settingsFrame,
  TestServer,
  toHttp3StreamCode,
} from "../../tests/peers/raw_http3.ts";
import { HELD_MS, HeldTimers } from "../../tests/movable_clock.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { UdpPath } from "../../tests/networks/udp_path.ts";
import { ConnectionError } from "../../errors.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import type { DirectReadable } from "../connection.ts";
import { directStream } from "../direct.ts";
import { dialWebTransport } from "./client.ts";
import { CapsuleType } from "./wire/capsules.ts";
import { H3Error } from "./wire/error_codes.ts";
import { SettingId } from "./wire/settings.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";

const GREASE = 0x1f * 9 + 0x21;
const NOTHING = new Uint8Array();
const TEXT = new TextEncoder().encode("hello");

/** The payload of a close capsule. */
function closePayload(code: number, reason: string | Uint8Array = ""): Uint8Array {
  const text = typeof reason === "string" ? new TextEncoder().encode(reason) : reason;
  return bytesOf(Uint8Array.of(code >>> 24, code >>> 16, code >>> 8, code), text);
}

function closeFrame(code: number, reason: string | Uint8Array = ""): Uint8Array {
  return capsuleFrame(CapsuleType.close, closePayload(code, reason));
}

/** Checks that the peer no longer reads a stream. A write notices this at the latest. */
async function isStopped(send: RawSend, bytes: Uint8Array = TEXT): Promise<void> {
  await soon(assertRejects(async () => {
    while (true) {
      await send.write(bytes);
      await turns(1);
    }
  }));
}

/** Checks that a session still works. */
async function isAlive({ peer, connect, session }: RawSession): Promise<void> {
  const stream = await peer.bidi(0x41, connect.id, TEXT);
  await stream.send.end();
  const reader = session.incomingBidirectionalStreams.getReader();
  const { value } = await soon(reader.read());
  reader.releaseLock();
  const direct = directStream(value!);
  assertEquals(await soon(direct.read()), TEXT);
  await direct.close();
  await soon(stream.receive.readAll());
}

/** The bytes that a peer sends on the CONNECT stream, with the resulting close of the session. */
const CLOSES: Record<string, [bytes: Uint8Array, code: number, reason: string]> = {
  "closes with code and reason": [closeFrame(4009, "bye — ✓"), 4009, "bye — ✓"],
  "closes without a reason": [closeFrame(7), 7, ""],
  "closes with the largest code": [closeFrame(0xffff_ffff), 0xffff_ffff, ""],
  "closes with the longest reason": [closeFrame(1, "x".repeat(1_024)), 1, "x".repeat(1_024)],
  "sends the capsule in two frames": [
    bytesOf(
      encodeFrame(FrameType.data, closeFrame(5, "ab").subarray(2, 5)),
      encodeFrame(FrameType.data, closeFrame(5, "ab").subarray(5)),
    ),
    5,
    "ab",
  ],
  "sends grease before the capsule": [
    bytesOf(
      encodeFrame(GREASE, TEXT),
      capsuleFrame(GREASE, TEXT),
      capsuleFrame(2 ** 50, new Uint8Array(100_000)),
      closeFrame(5, "ab"),
    ),
    5,
    "ab",
  ],
  "sends trailers before the capsule": [
    bytesOf(headersFrame([["x-trailer", "1"]]), closeFrame(9)),
    9,
    "",
  ],
  "ends its stream": [NOTHING, 0, ""],
};

for (const [what, [bytes, closeCode, reason]] of Object.entries(CLOSES)) {
  Deno.test(`Http3Session.closed resolves when the peer ${what}`, async () => {
    await using raw = await rawSession();
    await raw.connect.send.write(bytes);
    if (bytes === NOTHING) await raw.connect.send.end();
    assertEquals(await soon(raw.session.closed), { closeCode, reason });
    // This side also ends its direction, and sends no further byte.
    assertEquals(await soon(raw.connect.receive.readAll()), NOTHING);
  });
}

Deno.test("Http3Session reads capsules byte by byte", async () => {
  await using raw = await rawSession();
  const bytes = bytesOf(capsuleFrame(GREASE, TEXT), capsuleFrame(0, TEXT), closeFrame(77, "é"));
  const reader = raw.session.datagrams.readable.getReader();
  await raw.connect.send.trickle(bytes);
  assertEquals((await soon(reader.read())).value, TEXT);
  assertEquals(await soon(raw.session.closed), { closeCode: 77, reason: "é" });
});

/** Faults that end the session with MESSAGE_ERROR or the given code, but not the connection. */
const FAULTS: Record<string, [bytes: Uint8Array, code?: number]> = {
  "sends a close without a code": [capsuleFrame(CapsuleType.close, Uint8Array.of(0, 0, 1))],
  "sends a close with a reason of 1,025 bytes": [closeFrame(1, "x".repeat(1_025))],
  "sends a close that is not UTF-8": [closeFrame(1, Uint8Array.of(0xc3, 0x28))],
  "sends a close of 2^40 bytes": [
    encodeFrame(FrameType.data, bytesOf(CapsuleType.close, 2 ** 40)),
  ],
  "sends a drain with content": [capsuleFrame(CapsuleType.drain, TEXT)],
  "grants credit for a single stream": [capsuleFrame(CapsuleType.maxStreamData, bytesOf(0, 9))],
  "waits for credit for a single stream": [
    capsuleFrame(CapsuleType.streamDataBlocked, bytesOf(0, 9)),
  ],
  "grants credit without a number": [capsuleFrame(CapsuleType.maxData, NOTHING)],
  "grants credit with more than a number": [capsuleFrame(CapsuleType.maxData, Uint8Array.of(1, 1))],
  "sends HEADERS that are too large": [bytesOf(FrameType.headers, 2 ** 40), H3Error.excessiveLoad],
  "ends its stream inside a capsule": [
    encodeFrame(FrameType.data, closeFrame(5, "ab").subarray(2, 7)),
  ],
};

for (const [fault, [bytes, code = H3Error.messageError]] of Object.entries(FAULTS)) {
  Deno.test(`Http3Session fails, but not the next session, when the peer ${fault}`, async () => {
    await using raw = await rawSession();
    const { peer, session, connect } = raw;
    const open = await session.createBidirectionalStream();
    await connect.send.write(bytes);
    if (fault.startsWith("ends")) await connect.send.end();
    const error = await assertRejects(() => soon(session.closed), ConnectionError);
    assertEquals((error.cause as { h3Code: number }).h3Code, code);
    await assertRejects(() => directStream(open).read(), ConnectionError);
    await soon(connect.receive.readAll());
    await isAlive(await raw.server.ask(peer));
  });
}

/** Faults that end the connection. */
const FATAL: Record<string, [code: number, bytes: Uint8Array]> = {
  "carries SETTINGS": [H3Error.frameUnexpected, settingsFrame()],
  "carries GOAWAY": [H3Error.frameUnexpected, encodeFrame(FrameType.goaway, Uint8Array.of(0))],
  "carries a frame of HTTP/2": [H3Error.frameUnexpected, encodeFrame(0x2, TEXT)],
  "carries a stream head": [H3Error.frameError, bytesOf(0x41, 0)],
  "carries PUSH_PROMISE": [H3Error.frameUnexpected, encodeFrame(FrameType.pushPromise, TEXT)],
  "ends inside a frame": [H3Error.frameError, capsuleFrame(GREASE, TEXT).subarray(0, -1)],
};

for (const [fault, [code, bytes]] of Object.entries(FATAL)) {
  Deno.test(`Http3Session ends the connection when the CONNECT stream ${fault}`, async () => {
    await using raw = await rawSession();
    await raw.connect.send.write(bytes);
    if (fault.startsWith("ends")) await raw.connect.send.end();
    assertEquals((await soon(raw.peer.ending)).closeCode, code);
    await assertRejects(() => soon(raw.session.closed), ConnectionError, "broke the protocol");
  });
}

const AFTER_CLOSE = { "an unknown frame": encodeFrame(GREASE, TEXT), "a close": closeFrame(6) };

for (const [what, bytes] of Object.entries(AFTER_CLOSE)) {
  Deno.test(`Http3Session reads nothing after a close, even if ${what} follows`, async () => {
    await using raw = await rawSession();
    const { connect, session } = raw;
    await connect.send.write(closeFrame(5), bytes);
    assertEquals(await soon(session.closed), { closeCode: 5, reason: "" });
    await isStopped(connect.send, bytes);
    assertEquals(raw.server.listener.connectionCount, 1);
  });
}

Deno.test("Http3Session.closed resolves after a second when the peer does not confirm", async () => {
  await using raw = await rawSession();
  const { connect, session } = raw;
  const start = performance.now();
  session.close({ closeCode: 4001, reason: "bye" });
  assertEquals(await soon(connect.receive.readAll()), closeFrame(4001, "bye"));
  assertEquals(await soon(session.closed), { closeCode: 4001, reason: "bye" });
  assert(performance.now() - start > 900);
  // The stream no longer has a reader.
  await isStopped(connect.send, capsuleFrame(GREASE, TEXT));
});

Deno.test("Http3Session.closed resolves immediately when the peer confirms in the middle of a frame", async () => {
  await using raw = await rawSession();
  raw.session.close({ closeCode: 4001 });
  await soon(raw.connect.receive.readAll());
  await raw.connect.send.write(capsuleFrame(GREASE, TEXT).subarray(0, 3));
  await raw.connect.send.end();
  assertEquals(await soon(raw.session.closed), { closeCode: 4001, reason: "" });
  await isAlive(await raw.server.ask(raw.peer));
});

Deno.test("Http3Session.draining resolves on a drain capsule", async () => {
  await using raw = await rawSession();
  await raw.connect.send.write(capsuleFrame(CapsuleType.drain, NOTHING));
  await soon(raw.session.draining);
  await isAlive(raw);
});

Deno.test("Http3Session.draining resolves on GOAWAY", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  const control = await peer.control();
  const raw = await server.ask(peer);
  await control.write(encodeFrame(FrameType.goaway, Uint8Array.of(0)));
  await soon(raw.session.draining);
  await isAlive(raw);
});

Deno.test("Http3Session ends its streams on both sides when it is closed", async () => {
  await using raw = await rawSession();
  const { peer, connect, session } = raw;
  const mine = directStream(await session.createBidirectionalStream());
  await mine.write(TEXT);
  const theirs = await peer.bidi(0x41, connect.id, TEXT);
  const taken = await soon(nextBidirectional(session));
  await taken.read();
  const reads = [mine.read(), taken.read()];
  session.close();
  for (const read of reads) await soon(assertRejects(() => read, ConnectionError));
  await soon(assertRejects(() => taken.write(TEXT), ConnectionError));
  const came = await soon(peer.nextBidi());
  await connect.send.end();
  await soon(session.closed);
  assertEquals(await soon(came.receive.readAll()), bytesOf(0x41, connect.id, TEXT));
  assertEquals(await soon(theirs.receive.readAll()), NOTHING);
  await isStopped(theirs.send);
});

Deno.test("Http3Session ends a stream that opens after the session was closed", async () => {
  await using server = new TestServer();
  await using peer = await server.dial({ maxConcurrentBidirectionalStreams: 1 });
  await peer.control();
  const { session } = await server.ask(peer);
  // The connection goes on with another session.
  const { session: other } = await server.ask(peer);
  const first = directStream(await session.createBidirectionalStream());
  await first.write(TEXT);
  const came = await soon(peer.nextBidi());
  const waiting = session.createBidirectionalStream();
  session.close();
  // The end of the first stream makes room for the second one.
  await soon(came.receive.readAll());
  await came.send.end().catch(() => {});
  await soon(assertRejects(() => waiting, ConnectionError));
  const late = await soon(peer.nextBidi());
  assertEquals(await soon(late.receive.readAll()), NOTHING);
  await isStopped(late.send);
  assert(await soon(other.createBidirectionalStream()));
});

Deno.test("Http3Session.close() rejects writes that wait for the peer to read, without delay", async () => {
  await using raw = await rawSession();
  const { session } = raw;
  // Nothing is read, so each write waits after 1.25 MB.
  const large = new Uint8Array(2_000_000);
  const written = directStream(await session.createBidirectionalStream());
  const write = written.write(large).catch((error) => error);
  const closed = directStream(await session.createBidirectionalStream());
  closed.write(large).catch(() => {});
  const close = closed.close().catch((error) => error);
  const writer = (await session.createUnidirectionalStream()).getWriter();
  const webWrite = writer.write(large).catch((error) => error);
  const webWriter = (await session.createUnidirectionalStream()).getWriter();
  webWriter.write(large).catch(() => {});
  const webClose = webWriter.close().catch((error) => error);
  await new Promise((resolve) => setTimeout(resolve, 50));
  let isConfirmed = false;
  session.closed.then(() => isConfirmed = true);
  session.close({ closeCode: 4000 });
  for (const end of await soon(Promise.all([write, close, webWrite, webClose]))) {
    assert(end instanceof ConnectionError, String(end));
  }
  // The writes were rejected immediately, and not only after the second in which the peer can
  // confirm the close.
  assert(!isConfirmed);
});

Deno.test("Http3Session.closed rejects when the peer ends its stream, if closes require a code", async () => {
  await using ended = await rawSession();
  assert(ended.session.inspect?.requireClose?.());
  await ended.connect.send.end();
  await assertRejects(() => soon(ended.session.closed), ConnectionError, "without a close");
  await using early = await ended.server.open();
  await early.connect.send.end();
  assertEquals(await soon(early.session.closed), { closeCode: 0, reason: "" });
  assertEquals(early.session.inspect?.requireClose?.(), false);
  await using closed = await ended.server.open();
  closed.session.inspect?.requireClose?.();
  await closed.connect.send.write(closeFrame(0));
  assertEquals(await soon(closed.session.closed), { closeCode: 0, reason: "" });
});

Deno.test("Http3Session reports code and reason when the connection ends with them", async () => {
  await using server = new TestServer();
  for (const reason of ["all at once", "x".repeat(246), "x".repeat(1_024)]) {
    await using relay = new UdpPath(server.port);
    await using peer = await RawPeer.dial(relay.port, { hashes: server.hashes });
    await peer.control();
    const { connect, session } = await server.ask(peer);
    relay.hold();
    await connect.send.write(closeFrame(4100, reason));
    await until(() => relay.heldCount > 0);
    const before = relay.heldCount;
    peer.close(0x100);
    await until(() => relay.heldCount > before);
    await relay.release();
    assertEquals(await soon(session.closed), { closeCode: 4100, reason });
  }
});

/** The outcomes of a session whose connection is closed. */
const ENDINGS: Record<string, [code: number, outcome: unknown]> = {
  "no error": [0x100, "0x100: why"],
  "0": [0, "0x0: why"],
  "a code of the session": [4009, { closeCode: 4009, reason: "why" }],
  "the largest code of a session": [0xffff_ffff, { closeCode: 0xffff_ffff, reason: "why" }],
  "a code above 32 bits": [2 ** 32, "0x100000000: why"],
  "the mapped code of quiche": [0x52e4_a40f_b90a, { closeCode: 4010, reason: "why" }],
  "the mapped code 0 of quiche": [toHttp3StreamCode(0), { closeCode: 0, reason: "why" }],
  "a reserved code of the mapping": [0x52e4_a40f_a8f9, "0x52e4a40fa8f9: why"],
  "an error of HTTP/3": [0x102, "0x102: why"],
  "an error of QPACK": [0x200, "0x200: why"],
  "an error of WebTransport": [0x170d_7b68, "0x170d7b68: why"],
};

for (const [what, [code, outcome]] of Object.entries(ENDINGS)) {
  Deno.test(`Http3Session.closed settles when the connection is closed with ${what}`, async () => {
    await using raw = await rawSession();
    raw.peer.close(code, "why");
    if (typeof outcome === "string") {
      const error = await assertRejects(() => soon(raw.session.closed), ConnectionError);
      assertStringIncludes(error.message, outcome);
    } else assertEquals(await soon(raw.session.closed), outcome);
  });
}

Deno.test("Http3Session.closed rejects when the connection is closed inside a capsule", async () => {
  await using raw = await rawSession();
  await raw.connect.send.write(closeFrame(5, "ab").subarray(0, 7));
  // Once the reply to a later stream has arrived, this part has arrived too.
  await isAlive(raw);
  raw.peer.close(4009, "why");
  await assertRejects(() => soon(raw.session.closed), ConnectionError, "0xfa9: why");
});

Deno.test("Http3Session.closed rejects when the peer is silent", async () => {
  await using server = new TestServer({ idleTimeoutMs: 300, keepAliveIntervalMs: 100 });
  await using relay = new UdpPath(server.port);
  await using peer = await RawPeer.dial(relay.port, { hashes: server.hashes });
  await peer.control();
  const { session } = await server.ask(peer);
  const stream = directStream(await session.createBidirectionalStream());
  const read = stream.read();
  relay.cut();
  const error = await assertRejects(() => soon(session.closed), ConnectionError, "timed out");
  assertEquals(error.isTimeout, true);
  await assertRejects(() => read, ConnectionError);
  await until(() => server.listener.connectionCount === 0);
});

const certificate = devCertificate({ cacheFolder: null });

/** Responses to a client, with the result of the dial. */
const RESPONSES: Record<string, [response: Uint8Array, message: string | undefined]> = {
  "200": [headersFrame([[":status", "200"]]), undefined],
  "103 ahead of 200": [
    bytesOf(headersFrame([[":status", "103"]]), headersFrame([[":status", "200"]])),
    undefined,
  ],
  "grease before 200": [
    bytesOf(encodeFrame(GREASE, TEXT), headersFrame([[":status", "200"]])),
    undefined,
  ],
  "403 with a page": [
    bytesOf(headersFrame([[":status", "403"]]), encodeFrame(FrameType.data, TEXT)),
    "rejected the session with 403",
  ],
  "no status": [headersFrame([["x-status", "200"]]), "broke the protocol"],
  "an invalid status": [headersFrame([[":status", "abc"]]), "broke the protocol"],
  "a subprotocol that was not offered": [
    headersFrame([[":status", "200"], ["wt-protocol", '"other"']]),
    "not offered",
  ],
  "a malformed subprotocol": [
    headersFrame([[":status", "200"], ["wt-protocol", "other"]]),
    undefined,
  ],
};

for (const [what, [response, message]] of Object.entries(RESPONSES)) {
  Deno.test(`Http3Session of a client ${message ? "fails" : "opens"} for ${what}`, async () => {
    await using server = new RawServer(certificate);
    const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
      serverCertificateHashes: certificate.hashes,
      protocols: ["one"],
    });
    dialing.catch(() => {});
    const peer = await server.accept();
    await peer.uni(0, settingsFrame(PLAIN_SETTINGS));
    const connect = await soon(peer.nextBidi());
    const fields = await soon(connect.receive.fields());
    assertEquals(fields.get("wt-available-protocols"), '"one"');
    await connect.send.trickle(response);
    if (message === undefined) {
      const session = await soon(dialing);
      assertEquals(session.protocol, "");
      session.close({ closeCode: 4001 });
      await soon(connect.receive.readAll());
      await connect.send.end();
      await soon(session.closed);
    } else await assertRejects(() => soon(dialing), ConnectionError, message);
    // A fault of the only session is reported by the connection, because no stream can be reset
    // with a code.
    const isMalformed = message === "broke the protocol";
    const code = isMalformed ? H3Error.messageError : H3Error.noError;
    assertEquals((await soon(peer.ending)).closeCode, code);
  });
}

/**
 * The server's settings, the values of `:protocol` that a client requests, and the server's
 * responses.
 */
const TOKENS: [what: string, settings: [number, number][], asked: string[], statuses: string[]][] =
  [
    ["early drafts", [[SettingId.enableWebTransport, 1]], ["webtransport"], ["200"]],
    ["late drafts", [[SettingId.webTransportEnabled, 1]], ["webtransport-h3"], ["200"]],
    ["an early draft that only knows the late name", [[SettingId.webTransportMaxSessions, 1]], [
      "webtransport",
      "webtransport-h3",
    ], ["501", "200"]],
    ["late drafts that only know the early name", [[SettingId.webTransportEnabled, 1]], [
      "webtransport-h3",
      "webtransport",
    ], ["400", "200"]],
    ["late drafts without the path", [[SettingId.webTransportEnabled, 1]], [
      "webtransport-h3",
      "webtransport",
    ], ["404", "403"]],
    [
      "all drafts, without the path",
      [
        [SettingId.enableWebTransport, 1],
        [SettingId.webTransportEnabled, 1],
      ],
      ["webtransport"],
      ["404"],
    ],
    ["early drafts that forbid it", [[SettingId.enableWebTransport, 1]], ["webtransport"], ["403"]],
  ];

for (const [what, settings, asked, statuses] of TOKENS) {
  Deno.test(`dialWebTransport() requests ${asked.join(", then ")} at a server of ${what}`, async () => {
    await using server = new RawServer(certificate);
    const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
      serverCertificateHashes: certificate.hashes,
    });
    dialing.catch(() => {});
    for (const [at, token] of asked.entries()) {
      const peer = await server.accept();
      await peer.uni(0, settingsFrame([[SettingId.h3Datagram, 1], ...settings]));
      const connect = await soon(peer.nextBidi());
      assertEquals((await soon(connect.receive.fields())).get(":protocol"), token);
      await connect.send.write(headersFrame([[":status", statuses[at]!]]));
    }
    if (statuses.at(-1) === "200") (await soon(dialing)).close();
    else {
      // The first response counts.
      const message = `rejected the session with ${statuses[0]}`;
      await assertRejects(() => soon(dialing), ConnectionError, message);
    }
  });
}

Deno.test("dialWebTransport() rejects with the first response if the second attempt gets none in time", async () => {
  await using server = new RawServer(certificate);
  const timers = new HeldTimers();
  const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
    serverCertificateHashes: certificate.hashes,
    timeoutMs: HELD_MS,
    runtime: timers.runtime,
  });
  dialing.catch(() => {});
  for (const status of ["404", undefined]) {
    const peer = await server.accept();
    await peer.uni(0, settingsFrame(PLAIN_SETTINGS));
    const connect = await soon(peer.nextBidi());
    if (status !== undefined) await connect.send.write(headersFrame([[":status", status]]));
  }
  timers.fire();
  const error = await assertRejects(() => soon(dialing), ConnectionError);
  assertEquals(error.status, 404);
});

Deno.test("Http3Session of a client ends when the server ends the stream without a response", async () => {
  await using server = new RawServer(certificate);
  const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
    serverCertificateHashes: certificate.hashes,
  });
  dialing.catch(() => {});
  const peer = await server.accept();
  await peer.control();
  await (await soon(peer.nextBidi())).send.end();
  await assertRejects(() => soon(dialing), ConnectionError);
});

/** The number of streams of one kind that are held while the application reads none. */
const MAX_UNREAD_STREAMS = 16;

for (const kind of ["bidirectional", "unidirectional"] as const) {
  const isBidi = kind === "bidirectional";
  const open = async ({ peer, connect }: RawSession, byte: number) => {
    if (!isBidi) return { send: await peer.uni(0x54, connect.id, byte), receive: undefined };
    return await peer.bidi(0x41, connect.id, byte);
  };
  const incoming = ({ session }: RawSession): ReadableStream<DirectReadable> =>
    isBidi
      ? session.incomingBidirectionalStreams.pipeThrough(
        new TransformStream({ transform: (stream, to) => to.enqueue(directStream(stream)) }),
      )
      : session.incomingUnidirectionalStreams.pipeThrough(
        new TransformStream({ transform: (stream, to) => to.enqueue(directStream(stream)) }),
      );
  const readBytes = async (streams: ReadableStream<DirectReadable>, count: number) => {
    const reader = streams.getReader();
    const bytes: number[] = [];
    for (let i = 0; i < count; i++) {
      const { value } = await soon(reader.read());
      bytes.push((await soon(value!.read()))![0]!);
    }
    return bytes.toSorted((a, b) => a - b);
  };

  Deno.test(`Http3Session holds 16 unread ${kind} streams, and rejects the newest`, async () => {
    await using raw = await rawSession();
    for (let i = 0; i < MAX_UNREAD_STREAMS; i++) await open(raw, i);
    // The replies follow everything that arrived before.
    for (let i = 0; i < 3; i++) {
      const empty = await raw.peer.bidi();
      await empty.send.end();
      await soon(empty.receive.readAll());
    }
    for (let i = 0; i < 4; i++) {
      const { send, receive } = await open(raw, 50 + i);
      if (receive !== undefined) assertEquals(await soon(receive.readAll()), NOTHING);
      await isStopped(send);
    }
    const held = Array.from({ length: MAX_UNREAD_STREAMS }, (_, i) => i);
    const streams = incoming(raw);
    assertEquals(await readBytes(streams, MAX_UNREAD_STREAMS), held);
  });

  Deno.test(`Http3Session accepts more than 16 ${kind} streams after a reader was added`, async () => {
    await using raw = await rawSession();
    const streams = incoming(raw); // This locks the stream, and takes at most one stream ahead.
    const count = 5 * MAX_UNREAD_STREAMS;
    for (let i = 0; i < count; i++) await open(raw, i % 64);
    const sent = Array.from({ length: count }, (_, i) => i % 64).toSorted((a, b) => a - b);
    assertEquals(await readBytes(streams, count), sent);
  });
}

Deno.test("Http3Session delivers held datagrams to a receiver, and then later ones", async () => {
  await using raw = await rawSession();
  const { connect, session } = raw;
  const datagram = (byte: number) => capsuleFrame(CapsuleType.datagram, Uint8Array.of(byte));
  await connect.send.write(datagram(1), datagram(2), capsuleFrame(CapsuleType.drain, NOTHING));
  await soon(session.draining); // The datagrams arrived before the reader.
  const came: number[] = [];
  session.datagrams.direct!.receive((bytes) => void came.push(...bytes));
  assertEquals(came, [1, 2]);
  await connect.send.write(datagram(3));
  await until(() => came.length > 2);
  assertEquals(came, [1, 2, 3]);
});
