/**
 * Tests a peer's faults. Some close the connection, some make this side reject a request, and some
 * are tolerated.
 */
import { assert, assertEquals } from "@std/assert";
import { nextBidirectional } from "../../tests/incoming.ts";
import {
  bytesOf,
  capsuleFrame,
  headersFrame,
  PLAIN_SETTINGS,
  type RawPeer,
  RawServer,
  REQUEST_FIELDS,
  requestFields,
  settingsFrame,
  TestServer,
} from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { dialWebTransport } from "./client.ts";
import { Http3Connection } from "./connection.ts";
import { H3Error } from "./wire/error_codes.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";
import { encodeFields, type Field } from "./wire/qpack.ts";
import { SettingId } from "./wire/settings.ts";

/** A reserved type of frames, streams, settings and capsules. Every end must tolerate it. */
const GREASE = 0x1f * 7 + 0x21;

const NOTHING = new Uint8Array();
const TEXT = new TextEncoder().encode("hello");
const DATA = encodeFrame(FrameType.data, TEXT);
const PUSH_PROMISE = encodeFrame(FrameType.pushPromise, TEXT);
const GARBAGE = encodeFrame(FrameType.headers, new Uint8Array(40).fill(0xff));

/** The bytes after a full prefix for the largest QPACK integer. */
const LONGEST_INTEGER = new Uint8Array(9).fill(0xff, 0, 8).fill(0x7f, 8);

/**
 * A section that is too large, because each of its bytes stands for a field of the static table.
 */
const LARGE_SECTION = encodeFrame(
  FrameType.headers,
  bytesOf(0, 0, new Uint8Array(3_000).fill(0xd6)),
);

type Act = (peer: RawPeer) => Promise<unknown>;

/** The faults of a peer, each with the resulting code. */
type Faults = Readonly<Record<string, readonly [code: number, act: Act]>>;

const uni = (...parts: (Uint8Array | number)[]): Act => (peer) => peer.uni(...parts);
const bidi = (...parts: (Uint8Array | number)[]): Act => (peer) => peer.bidi(...parts);

/** Sends frames after the settings on the control stream. */
const control = (...frames: Uint8Array[]): Act => uni(0, settingsFrame(), ...frames);

const settings = (...settings: [number, number][]): Act => (peer) => peer.control(settings);

/**
 * Sends instructions on a QPACK stream. Type 2 is the encoder stream, type 3 the decoder stream.
 */
const qpack = (type: 2 | 3, ...bytes: number[]): Act => uni(type, Uint8Array.from(bytes));

/** Opens a unidirectional stream and ends it. */
const ended = (...parts: (Uint8Array | number)[]): Act => async (peer) =>
  await (await peer.uni(...parts)).end();

/** Opens two streams, and sends the same bytes on both. */
const twice = (...parts: (Uint8Array | number)[]): Act => async (peer) => {
  await peer.uni(...parts);
  await peer.uni(...parts);
};

/** Encodes a frame that contains one ID. */
function frameOfId(type: "goaway" | "cancelPush" | "maxPushId", id: bigint): Uint8Array {
  const payload = new Uint8Array(8);
  new DataView(payload.buffer).setBigUint64(0, 0b11n << 62n | id);
  return encodeFrame(FrameType[type], payload);
}

const goaway = (id: bigint) => frameOfId("goaway", id);
const maxPushId = (id: bigint) => frameOfId("maxPushId", id);

/** Faults of either side that close the connection. */
const FAULTS_OF_BOTH: Faults = {
  "opens two control streams": [H3Error.streamCreationError, twice(0, settingsFrame())],
  "starts its control stream with GOAWAY": [
    H3Error.missingSettings,
    uni(0, encodeFrame(FrameType.goaway, Uint8Array.of(0)), settingsFrame()),
  ],
  "starts its control stream with a reserved frame": [
    H3Error.missingSettings,
    uni(0, encodeFrame(GREASE, TEXT), settingsFrame()),
  ],
  "starts its control stream with DATA": [H3Error.missingSettings, uni(0, DATA)],
  "sends SETTINGS twice": [H3Error.frameUnexpected, control(settingsFrame())],
  "ends its control stream": [H3Error.closedCriticalStream, ended(0, settingsFrame())],
  "ends its control stream before the settings": [H3Error.closedCriticalStream, ended(0)],
  "sends DATA on the control stream": [H3Error.frameUnexpected, control(DATA)],
  "sends HEADERS on the control stream": [
    H3Error.frameUnexpected,
    control(headersFrame(REQUEST_FIELDS)),
  ],
  "sends PUSH_PROMISE on the control stream": [H3Error.frameUnexpected, control(PUSH_PROMISE)],
  "sends a frame of HTTP/2 on the control stream": [
    H3Error.frameUnexpected,
    control(encodeFrame(0x8, TEXT)),
  ],
  "sends a stream head on the control stream": [
    H3Error.frameError,
    uni(0, settingsFrame(), 0x41, 0),
  ],
  "sends SETTINGS of 2^40 bytes": [
    H3Error.excessiveLoad,
    uni(0, FrameType.settings, 2 ** 40, TEXT),
  ],
  "sends truncated settings": [
    H3Error.frameError,
    uni(0, encodeFrame(FrameType.settings, Uint8Array.of(0x33))),
  ],
  "sends a setting twice": [
    H3Error.settingsError,
    settings([SettingId.h3Datagram, 1], [SettingId.h3Datagram, 1]),
  ],
  "sends a setting of HTTP/2": [H3Error.settingsError, settings([0x4, 1])],
  "sends a flag that is neither 0 nor 1": [
    H3Error.settingsError,
    settings([SettingId.h3Datagram, 2]),
  ],
  "sends GOAWAY without an ID": [
    H3Error.frameError,
    control(encodeFrame(FrameType.goaway, NOTHING)),
  ],
  "raises GOAWAY": [H3Error.idError, control(goaway(4n), goaway(8n))],
  "raises GOAWAY within the rounding of doubles": [
    H3Error.idError,
    control(goaway(2n ** 62n - 8n), goaway(2n ** 62n - 4n)),
  ],
  "cancels a push that was never promised": [H3Error.idError, control(frameOfId("cancelPush", 0n))],
  "ends its QPACK encoder stream": [H3Error.closedCriticalStream, ended(2)],
  "ends its QPACK decoder stream": [H3Error.closedCriticalStream, ended(3)],
  "sets the capacity of a dynamic table": [H3Error.qpackEncoderStreamError, qpack(2, 0x21)],
  "sets a large capacity of a dynamic table": [
    H3Error.qpackEncoderStreamError,
    qpack(2, 0x20, 0x3f, 0xe1, 0x1f),
  ],
  "inserts by the name of a static field": [
    H3Error.qpackEncoderStreamError,
    qpack(2, 0xc0, 1, 0x61),
  ],
  "inserts a field into the dynamic table": [
    H3Error.qpackEncoderStreamError,
    qpack(2, 0x41, 0x61, 1, 0x62),
  ],
  "duplicates a field of the dynamic table": [H3Error.qpackEncoderStreamError, qpack(2, 0x00)],
  "inserts a field long after its stream began": [
    H3Error.qpackEncoderStreamError,
    async (peer) => {
      await peer.control();
      const encoder = await peer.uni(2, Uint8Array.of(0x20));
      await encoder.trickle(Uint8Array.of(0x20, 0x41, 0x61, 1, 0x62));
    },
  ],
  "acknowledges a section without a dynamic field": [
    H3Error.qpackDecoderStreamError,
    qpack(3, 0x80),
  ],
  "acknowledges an insertion that never happened": [
    H3Error.qpackDecoderStreamError,
    qpack(3, 0x44, 1),
  ],
  "acknowledges nothing": [H3Error.qpackDecoderStreamError, qpack(3, 0x00)],
  "cancels a stream with an endless ID": [
    H3Error.qpackDecoderStreamError,
    uni(3, new Uint8Array(12).fill(0xff, 1).fill(0x7f, 0, 1)),
  ],
  "opens a second QPACK encoder stream": [H3Error.streamCreationError, twice(2)],
  "opens a second QPACK decoder stream": [H3Error.streamCreationError, twice(3)],
  "opens a stream for the session 1": [H3Error.idError, uni(0x54, 1)],
  "opens a bidirectional stream for the session 6": [H3Error.idError, bidi(0x41, 6)],
};

/** Faults of a client that close the connection. */
const FAULTS_OF_CLIENT: Faults = {
  "lowers MAX_PUSH_ID": [H3Error.idError, control(maxPushId(8n), maxPushId(7n))],
  "sends PUSH_PROMISE on a request": [H3Error.frameUnexpected, bidi(PUSH_PROMISE)],
  "sends GOAWAY on a request": [H3Error.frameUnexpected, bidi(goaway(0n))],
  "sends SETTINGS of 2^40 bytes on a request": [
    H3Error.frameUnexpected,
    bidi(FrameType.settings, 2 ** 40),
  ],
  "opens a push stream": [H3Error.streamCreationError, uni(1, 0)],
  "sends DATA before HEADERS": [H3Error.frameUnexpected, bidi(DATA)],
  "sends SETTINGS on a request": [H3Error.frameUnexpected, bidi(settingsFrame())],
  "sends garbage instead of QPACK": [H3Error.qpackDecompressionFailed, bidi(GARBAGE)],
  "refers to the dynamic table": [
    H3Error.qpackDecompressionFailed,
    bidi(encodeFrame(FrameType.headers, Uint8Array.of(0, 0, 0x80))),
  ],
  "sends no QPACK at all": [
    H3Error.qpackDecompressionFailed,
    bidi(encodeFrame(FrameType.headers, NOTHING)),
  ],
  "ends a request inside its HEADERS": [H3Error.frameError, async (peer) => {
    const request = await peer.bidi(headersFrame(REQUEST_FIELDS).subarray(0, -1));
    await request.send.end();
  }],
  "sends a frame of HTTP/2 on a request": [H3Error.frameUnexpected, bidi(encodeFrame(0x6, TEXT))],
  "sends a stream head inside a stream": [
    H3Error.frameError,
    bidi(encodeFrame(GREASE, TEXT), 0x41, 0),
  ],
};

for (const [fault, [code, act]] of Object.entries({ ...FAULTS_OF_BOTH, ...FAULTS_OF_CLIENT })) {
  Deno.test(`Http3Connection closes with 0x${code.toString(16)} when a client ${fault}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await act(peer);
    const { closeCode } = await soon(peer.ending);
    assertEquals(closeCode, code);
    await until(() => server.listener.connectionCount === 0);
    // No other session is affected.
    await using other = await server.open();
    assertEquals(other.session.protocol, "");
  });
}

/** Faults of a server that close the connection, after the client has requested a session. */
const FAULTS_OF_SERVER: Faults = {
  "opens a push stream": [H3Error.idError, uni(1, 0)],
  "opens a request": [H3Error.streamCreationError, bidi(headersFrame(REQUEST_FIELDS))],
  "lacks WebTransport": [
    H3Error.requirementsNotMet,
    settings([SettingId.enableConnectProtocol, 1], [SettingId.h3Datagram, 1]),
  ],
  "lacks datagrams": [
    H3Error.requirementsNotMet,
    settings([SettingId.webTransportEnabled, 1]),
  ],
  "sends GOAWAY with the ID of a stream that is not a request": [
    H3Error.idError,
    control(goaway(2n)),
  ],
  "sends GOAWAY with an ID that doubles round to a request": [
    H3Error.idError,
    control(goaway(2n ** 62n - 1n)),
  ],
  "sends MAX_PUSH_ID": [H3Error.frameUnexpected, control(maxPushId(8n))],
  "promises a push": responding(H3Error.idError, PUSH_PROMISE),
  "responds with SETTINGS": responding(H3Error.frameUnexpected, settingsFrame()),
  "responds with DATA first": responding(H3Error.frameUnexpected, DATA),
  "responds with garbage instead of QPACK": responding(H3Error.qpackDecompressionFailed, GARBAGE),
  // The other responses are malformed or too large, which is a fault of the connection's only
  // session.
  "responds with HEADERS of 2^40 bytes": responding(
    H3Error.excessiveLoad,
    bytesOf(FrameType.headers, 2 ** 40),
  ),
  "responds with fields that are too large": responding(H3Error.excessiveLoad, LARGE_SECTION),
  "responds without a status": respondingWith(["server", "raw"]),
  "responds with two statuses": respondingWith([":status", "200"], [":status", "200"]),
  "responds with a status after a header": respondingWith(["server", "raw"], [":status", "200"]),
  "responds with the pseudo-headers of a request": respondingWith([":status", "200"], [
    ":path",
    "/",
  ]),
  "responds with an unknown pseudo-header": respondingWith([":status", "200"], [":secret", "1"]),
  "responds with a header of HTTP/1.1": respondingWith([":status", "200"], ["connection", "close"]),
  "responds in chunks of HTTP/1.1": respondingWith(
    [":status", "200"],
    ["transfer-encoding", "chunked"],
  ),
  "responds with te": respondingWith([":status", "200"], ["te", "trailers"]),
  "responds with 101": respondingWith([":status", "101"]),
  "responds with the status 2e2": respondingWith([":status", "2e2"]),
  "responds with the status 0200": respondingWith([":status", "0200"]),
  "responds with the status 600": respondingWith([":status", "600"]),
  "responds with a name in upper case": responding(
    H3Error.messageError,
    encodeFrame(
      FrameType.headers,
      bytesOf(encodeFields([[":status", "200"]]), Uint8Array.of(0x22, 0x58, 0x59, 1, 0x31)),
    ),
  ),
};

/** The fault of a server that responds to a request for a session with these bytes. */
function responding(code: number, response: Uint8Array): Faults[string] {
  return [code, async (peer) => {
    await peer.control();
    await (await peer.nextBidi()).send.write(response);
  }];
}

/** The fault of a server that responds with malformed fields. */
function respondingWith(...fields: readonly Field[]): Faults[string] {
  return responding(H3Error.messageError, headersFrame(fields));
}

const certificate = devCertificate({ cacheFolder: null });

for (const [fault, [code, act]] of Object.entries({ ...FAULTS_OF_BOTH, ...FAULTS_OF_SERVER })) {
  Deno.test(`Http3Connection closes with 0x${code.toString(16)} when a server ${fault}`, async () => {
    await using server = new RawServer(certificate);
    const dialing = dialWebTransport(`https://127.0.0.1:${server.port}/`, {
      serverCertificateHashes: certificate.hashes,
    }).then(() => undefined, (error) => error);
    const peer = await server.accept();
    await act(peer);
    const { closeCode } = await soon(peer.ending);
    assertEquals(closeCode, code);
    const error = await soon(dialing);
    assert(error === undefined || error.name === "ConnectionError", String(error));
  });
}

/** The critical streams, with their first bytes. */
const CRITICAL_STREAMS: Readonly<Record<string, Uint8Array>> = {
  "the control stream": bytesOf(0, settingsFrame()),
  "QPACK's encoder stream": bytesOf(2),
  "QPACK's decoder stream": bytesOf(3),
};

for (const [name, head] of Object.entries(CRITICAL_STREAMS)) {
  Deno.test(`Http3Connection closes with 0x104 when ${name} is reset`, async () => {
    const { promise: closed, resolve } = Promise.withResolvers<Deno.QuicCloseInfo>();
    let pulls = 0;
    const stream = new ReadableStream({
      type: "bytes",
      pull(controller) {
        if (pulls++ > 0) return controller.error(new Error("stream reset by peer: error 256"));
        (controller.byobRequest!.view as Uint8Array).set(head);
        controller.byobRequest!.respond(head.length);
      },
    });
    // The runtime cannot reset a stream, so the test cannot use a real peer.
    const conn = {
      closed,
      close: resolve,
      createUnidirectionalStream: () => Promise.resolve(new WritableStream()),
      incomingUnidirectionalStreams: ReadableStream.from([stream]),
      incomingBidirectionalStreams: new ReadableStream(),
    };
    const connection = new Http3Connection(conn as unknown as Deno.QuicConn, {
      runtime: platformRuntime(),
      side: "server",
    });
    assertEquals((await soon(connection.ending)).closeCode, H3Error.closedCriticalStream);
    assertEquals(connection.fault?.h3Code, H3Error.closedCriticalStream);
  });
}

/** Datagrams that cannot belong to any session. */
const BAD_DATAGRAMS: Readonly<Record<string, Uint8Array>> = {
  "is empty": NOTHING,
  "has half of an ID": Uint8Array.of(0x40),
  "has an ID that no stream can have": new Uint8Array(9).fill(0xff),
};

for (const [fault, datagram] of Object.entries(BAD_DATAGRAMS)) {
  Deno.test(`Http3Connection closes with 0x33 when a datagram ${fault}`, async () => {
    await using server = new TestServer();
    await using raw = await server.open();
    const reading = raw.session.datagrams.readable.getReader().read().catch(({ name }) => name);
    await raw.peer.conn.sendDatagram(datagram);
    // A datagram of the session follows, to show that nothing after the fault is read.
    await raw.peer.conn.sendDatagram(bytesOf(raw.connect.id / 4, TEXT)).catch(() => {});
    assertEquals(await soon(reading), "ConnectionError");
    assertEquals((await soon(raw.peer.ending)).closeCode, H3Error.datagramError);
  });
}

/** Unusual behavior of a peer that is not a fault. */
const ODDITIES: Readonly<Record<string, Act>> = {
  "unknown frames, settings and streams": async (peer) => {
    await peer.uni(
      0,
      settingsFrame([...PLAIN_SETTINGS, [GREASE, 5], [2 ** 50, 2 ** 50]]),
      encodeFrame(GREASE, TEXT),
      encodeFrame(2 ** 40, TEXT),
    );
    await peer.uni(GREASE, TEXT);
    await peer.uni(2 ** 50, TEXT);
  },
  "MAX_PUSH_ID that rises, and GOAWAY that falls": control(
    ...[maxPushId(8n), maxPushId(8n), maxPushId(9n)],
    ...[goaway(3n), goaway(3n), goaway(0n)],
  ),
  "a control stream byte by byte": async (peer) => {
    const stream = await peer.uni();
    await stream.trickle(bytesOf(0, settingsFrame(), encodeFrame(GREASE, TEXT)));
  },
  "settings after the request": async (peer) => {
    queueMicrotask(() => peer.control().catch(() => {}));
    await Promise.resolve();
  },
  "QPACK streams": async (peer) => {
    await peer.control();
    await peer.uni(2, Uint8Array.of(0x20, 0x20));
    // The cancelled streams have IDs of one byte, of two bytes, and of all ten bytes.
    const decoder = await peer.uni(3, Uint8Array.of(0x44));
    await decoder.trickle(bytesOf(Uint8Array.of(0x7f, 0x81, 0x01, 0x7f), LONGEST_INTEGER));
  },
  "streams that end before their head": async (peer) => {
    await peer.control();
    for (const parts of [[], [Uint8Array.of(0x40)], [0x54]]) await ended(...parts)(peer);
    const empty = await peer.bidi();
    await empty.send.end();
    assertEquals(await empty.status(), 400);
    const half = await peer.bidi(0x41);
    await half.send.end();
    assertEquals(await half.receive.readAll(), NOTHING);
  },
  "streams of sessions that have ended": async (peer) => {
    await peer.control();
    const rejected = await peer.request({
      fields: [...REQUEST_FIELDS.slice(1), [":method", "GET"]],
    });
    assertEquals(await rejected.status(), 405);
    const late = await peer.bidi(0x41, rejected.id, TEXT);
    assertEquals(await late.receive.readAll(), NOTHING);
  },
  "datagrams of unknown sessions": async (peer) => {
    await peer.control();
    await peer.conn.sendDatagram(bytesOf(5_000, TEXT));
  },
};

for (const [oddity, act] of Object.entries(ODDITIES)) {
  Deno.test(`Http3Connection accepts ${oddity}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await act(peer);
    const { session, connect } = await soon(server.ask(peer));
    // Datagrams of unknown sessions arrive while datagrams are read.
    await peer.conn.sendDatagram(bytesOf(4_000, TEXT));
    const stream = await peer.bidi(0x41, connect.id, TEXT);
    await stream.send.end();
    const direct = await soon(nextBidirectional(session));
    assertEquals(await direct.read(), TEXT);
    await direct.write(TEXT);
    await direct.close();
    assertEquals(await soon(stream.receive.readAll()), TEXT);
  });
}

/**
 * Encodes the fields of a request, and an additional field that QPACK can carry but HTTP does not
 * allow.
 */
const malformed = (...field: number[]) =>
  encodeFrame(FrameType.headers, bytesOf(encodeFields(REQUEST_FIELDS), Uint8Array.from(field)));

const extended = (...more: Field[]) => headersFrame([...REQUEST_FIELDS, ...more]);
const changed = (changes: Record<string, string | undefined>) =>
  headersFrame(requestFields(changes));

/** Requests that are rejected, each with the status of the response. */
const REJECTED: Readonly<Record<string, readonly [status: number, request: Uint8Array]>> = {
  "has the method GET": [405, changed({ ":method": "GET", ":protocol": undefined })],
  "has the method POST": [405, changed({ ":method": "POST", ":protocol": undefined })],
  "is CONNECT without a protocol": [501, changed({ ":protocol": undefined })],
  "has an unknown protocol": [501, changed({ ":protocol": "websocket" })],
  "has no scheme": [400, changed({ ":scheme": undefined })],
  "has the scheme http": [400, changed({ ":scheme": "http" })],
  "has no authority": [400, changed({ ":authority": undefined })],
  "has an empty authority": [400, changed({ ":authority": "" })],
  "has an authority with a user": [400, changed({ ":authority": "me@localhost" })],
  "has an invalid authority": [400, changed({ ":authority": "[::" })],
  "has no path": [400, changed({ ":path": undefined })],
  "has a path without a slash": [400, changed({ ":path": "*" })],
  "has no method": [400, changed({ ":method": undefined })],
  "has two paths": [400, extended([":path", "/admin"])],
  "has two methods": [400, headersFrame([[":method", "GET"], ...REQUEST_FIELDS])],
  "has an unknown pseudo-header": [400, extended([":secret", "1"])],
  "has a status": [400, extended([":status", "200"])],
  "has a pseudo-header after a header": [400, headersFrame([["accept", "*/*"], ...REQUEST_FIELDS])],
  "has a header of HTTP/1.1": [400, extended(["connection", "upgrade"])],
  "has chunks of HTTP/1.1": [400, extended(["transfer-encoding", "chunked"])],
  "has a te that is not trailers": [400, extended(["te", "gzip"])],
  "has a te with trailers and more": [400, extended(["te", "trailers, gzip"])],
  "has a host that is not the authority": [400, extended(["host", "elsewhere"])],
  "has an empty host": [400, extended(["host", ""])],
  "has two hosts": [400, extended(["host", "localhost"], ["host", "elsewhere"])],
  "has a name in upper case": [400, malformed(0x22, 0x58, 0x59, 1, 0x31)],
  "has an empty name": [400, malformed(0x20, 1, 0x31)],
  "has a space in a name": [400, malformed(0x22, 0x20, 0x59, 1, 0x31)],
  "has a line break in a value": [400, malformed(0x22, 0x78, 0x79, 1, 0x0a)],
  "ends immediately": [400, NOTHING],
  "ends before its head": [400, encodeFrame(GREASE, TEXT)],
  "has HEADERS of 2^40 bytes": [431, bytesOf(FrameType.headers, 2 ** 40, TEXT)],
  "has fields that are too large": [431, LARGE_SECTION],
};

for (const [fault, [status, bytes]] of Object.entries(REJECTED)) {
  Deno.test(`Http3Connection responds with ${status} to a request that ${fault}`, async () => {
    await using server = new TestServer();
    await using first = await server.open();
    const request = await first.peer.bidi(bytes);
    if (fault.startsWith("ends")) await request.send.end();
    assertEquals(await soon(request.status()), status);
    assertEquals(await soon(request.receive.read()), undefined);
    assertEquals(server.listener.sessionCount, 1);
    // The connection's other sessions stay open, and new sessions are accepted.
    await first.connect.send.write(capsuleFrame(GREASE, TEXT));
    await soon(server.ask(first.peer));
  });
}

/** Requests that are unusual, but allowed. */
const ACCEPTED: Readonly<Record<string, Uint8Array>> = {
  "te: trailers, and a host that is the authority": extended(
    ["te", "trailers"],
    ["host", "LocalHost"],
  ),
  "the protocol webtransport-h3": changed({ ":protocol": "webtransport-h3" }),
};

for (const [what, bytes] of Object.entries(ACCEPTED)) {
  Deno.test(`Http3Connection accepts a request with ${what}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await peer.control();
    const request = await peer.bidi(bytes);
    (await soon(server.request())).accept();
    assertEquals(await soon(request.status()), 200);
  });
}
