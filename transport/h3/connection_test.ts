import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  bytesOf,
  capsuleFrame,
  headersFrame,
  PLAIN_SETTINGS,
  type RawPeer,
  RawServer,
  REQUEST_FIELDS,
  settingsFrame,
  TestServer,
} from "../../tests/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError } from "../../errors.ts";
import { directStream } from "../direct.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { dialWebTransport } from "./client.ts";
import { Http3Connection } from "./connection.ts";
import { H3Error } from "./wire/error_codes.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";
import { encodeFields, type Field } from "./wire/qpack.ts";
import { SettingId } from "./wire/settings.ts";
import { platformRuntime } from "../../base/runtime.ts";

/**
 * Reserved types of frames, streams, settings and capsules, for which every end must be prepared.
 */
const GREASE = 0x1f * 7 + 0x21;

const NOTHING = new Uint8Array();

/** Bytes behind a full prefix, for the largest integer of QPACK. */
const LONGEST_INTEGER = new Uint8Array(9).fill(0xff, 0, 8).fill(0x7f, 8);

/** A static field of more than a thousand bytes takes one. */
const LARGE_SECTION = encodeFrame(
  FrameType.headers,
  bytesOf(0, 0, new Uint8Array(3_000).fill(0xd6)),
);
const TEXT = new TextEncoder().encode("hello");

/** A fault of a peer, and the resulting code. */
type Faults = Record<string, [code: number, act: (peer: RawPeer) => Promise<unknown>]>;

/** Faults that end the connection, from either end. */
const FAULTS_OF_BOTH: Faults = {
  "opens two control streams": [H3Error.streamCreationError, async (peer) => {
    await peer.control();
    await peer.control();
  }],
  "begins its control stream with GOAWAY": [
    H3Error.missingSettings,
    (peer) => peer.uni(0, encodeFrame(FrameType.goaway, Uint8Array.of(0)), settingsFrame()),
  ],
  "begins its control stream with a reserved frame": [
    H3Error.missingSettings,
    (peer) => peer.uni(0, encodeFrame(GREASE, TEXT), settingsFrame()),
  ],
  "begins its control stream with DATA": [
    H3Error.missingSettings,
    (peer) => peer.uni(0, encodeFrame(FrameType.data, TEXT)),
  ],
  "sends SETTINGS twice": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), settingsFrame()),
  ],
  "ends its control stream": [H3Error.closedCriticalStream, async (peer) => {
    await (await peer.control()).end();
  }],
  "ends its control stream before the settings": [
    H3Error.closedCriticalStream,
    async (peer) => await (await peer.uni(0)).end(),
  ],
  "sends DATA on the control stream": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), encodeFrame(FrameType.data, TEXT)),
  ],
  "sends HEADERS on the control stream": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), headersFrame(REQUEST_FIELDS)),
  ],
  "sends PUSH_PROMISE on the control stream": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), encodeFrame(FrameType.pushPromise, TEXT)),
  ],
  "sends a frame of HTTP/2 on the control stream": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), encodeFrame(0x8, TEXT)),
  ],
  "sends the head of a stream on the control stream": [
    H3Error.frameError,
    (peer) => peer.uni(0, settingsFrame(), 0x41, 0),
  ],
  "sends SETTINGS of 2^40 bytes": [
    H3Error.excessiveLoad,
    (peer) => peer.uni(0, FrameType.settings, 2 ** 40, TEXT),
  ],
  "sends truncated settings": [
    H3Error.frameError,
    (peer) => peer.uni(0, encodeFrame(FrameType.settings, Uint8Array.of(0x33))),
  ],
  "sends a setting twice": [
    H3Error.settingsError,
    (peer) => peer.control([...PLAIN_SETTINGS, [SettingId.h3Datagram, 1]]),
  ],
  "sends a setting of HTTP/2": [
    H3Error.settingsError,
    (peer) => peer.control([...PLAIN_SETTINGS, [0x4, 1]]),
  ],
  "sends a switch that is neither on nor off": [
    H3Error.settingsError,
    (peer) => peer.control([[SettingId.h3Datagram, 2]]),
  ],
  "sends GOAWAY that is no number": [
    H3Error.frameError,
    (peer) => peer.uni(0, settingsFrame(), encodeFrame(FrameType.goaway, NOTHING)),
  ],
  "raises GOAWAY": [
    H3Error.idError,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("goaway", 4n), frameOfId("goaway", 8n)),
  ],
  "raises GOAWAY where doubles are equal": [
    H3Error.idError,
    (peer) =>
      peer.uni(
        0,
        settingsFrame(),
        frameOfId("goaway", 2n ** 62n - 8n),
        frameOfId("goaway", 2n ** 62n - 4n),
      ),
  ],
  "cancels a push that was never promised": [
    H3Error.idError,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("cancelPush", 0n)),
  ],
  "ends its QPACK encoder stream": [H3Error.closedCriticalStream, async (peer) => {
    await (await peer.uni(2)).end();
  }],
  "ends its QPACK decoder stream": [H3Error.closedCriticalStream, async (peer) => {
    await (await peer.uni(3)).end();
  }],
  "sets the capacity of a dynamic table": [
    H3Error.qpackEncoderStreamError,
    (peer) => peer.uni(2, Uint8Array.of(0x21)),
  ],
  "sets a large capacity of a dynamic table": [
    H3Error.qpackEncoderStreamError,
    (peer) => peer.uni(2, Uint8Array.of(0x20, 0x3f, 0xe1, 0x1f)),
  ],
  "inserts by the name of a static field": [
    H3Error.qpackEncoderStreamError,
    (peer) => peer.uni(2, Uint8Array.of(0xc0, 1, 0x61)),
  ],
  "inserts a field into the dynamic table": [
    H3Error.qpackEncoderStreamError,
    (peer) => peer.uni(2, Uint8Array.of(0x41, 0x61, 1, 0x62)),
  ],
  "duplicates a field of the dynamic table": [
    H3Error.qpackEncoderStreamError,
    (peer) => peer.uni(2, Uint8Array.of(0x00)),
  ],
  "inserts a field long after its stream began": [
    H3Error.qpackEncoderStreamError,
    async (peer) => {
      await peer.control();
      const encoder = await peer.uni(2, Uint8Array.of(0x20));
      await encoder.trickle(Uint8Array.of(0x20, 0x41, 0x61, 1, 0x62));
    },
  ],
  "acknowledges a section that has no dynamic field": [
    H3Error.qpackDecoderStreamError,
    (peer) => peer.uni(3, Uint8Array.of(0x80)),
  ],
  "acknowledges an insertion that never was": [
    H3Error.qpackDecoderStreamError,
    (peer) => peer.uni(3, Uint8Array.of(0x44, 0x01)),
  ],
  "acknowledges nothing": [
    H3Error.qpackDecoderStreamError,
    (peer) => peer.uni(3, Uint8Array.of(0x00)),
  ],
  "cancels a stream whose number has no end": [
    H3Error.qpackDecoderStreamError,
    (peer) => peer.uni(3, new Uint8Array(12).fill(0xff, 1).fill(0x7f, 0, 1)),
  ],
  "opens a second QPACK encoder stream": [H3Error.streamCreationError, async (peer) => {
    await peer.uni(2);
    await peer.uni(2);
  }],
  "opens a second QPACK decoder stream": [H3Error.streamCreationError, async (peer) => {
    await peer.uni(3);
    await peer.uni(3);
  }],
  "opens a stream for the session 1": [H3Error.idError, (peer) => peer.uni(0x54, 1)],
  "opens a bidirectional stream for the session 6": [H3Error.idError, (peer) => peer.bidi(0x41, 6)],
};

/** A frame that carries one id. */
function frameOfId(type: "goaway" | "cancelPush" | "maxPushId", id: bigint): Uint8Array {
  const payload = new Uint8Array(8);
  new DataView(payload.buffer).setBigUint64(0, 0b11n << 62n | id);
  return encodeFrame(FrameType[type], payload);
}

/** Faults of a client. */
const FAULTS_OF_CLIENT: Faults = {
  "lowers MAX_PUSH_ID": [
    H3Error.idError,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("maxPushId", 8n), frameOfId("maxPushId", 7n)),
  ],
  "sends PUSH_PROMISE on a request": [
    H3Error.frameUnexpected,
    (peer) => peer.bidi(encodeFrame(FrameType.pushPromise, TEXT)),
  ],
  "sends GOAWAY on a request": [
    H3Error.frameUnexpected,
    (peer) => peer.bidi(frameOfId("goaway", 0n)),
  ],
  "sends SETTINGS of 2^40 bytes on a request": [
    H3Error.frameUnexpected,
    (peer) => peer.bidi(FrameType.settings, 2 ** 40),
  ],
  "opens a push stream": [H3Error.streamCreationError, (peer) => peer.uni(1, 0)],
  "sends DATA before HEADERS": [
    H3Error.frameUnexpected,
    (peer) => peer.bidi(encodeFrame(FrameType.data, TEXT)),
  ],
  "sends SETTINGS on a request": [H3Error.frameUnexpected, (peer) => peer.bidi(settingsFrame())],
  "sends garbage in place of QPACK": [
    H3Error.qpackDecompressionFailed,
    (peer) => peer.bidi(encodeFrame(FrameType.headers, new Uint8Array(40).fill(0xff))),
  ],
  "refers to the dynamic table": [
    H3Error.qpackDecompressionFailed,
    (peer) => peer.bidi(encodeFrame(FrameType.headers, Uint8Array.of(0, 0, 0x80))),
  ],
  "sends no QPACK at all": [
    H3Error.qpackDecompressionFailed,
    (peer) => peer.bidi(encodeFrame(FrameType.headers, NOTHING)),
  ],
  "ends a request inside its HEADERS": [H3Error.frameError, async (peer) => {
    const request = await peer.bidi(headersFrame(REQUEST_FIELDS).subarray(0, -1));
    await request.send.end();
  }],
  "sends a frame of HTTP/2 on a request": [
    H3Error.frameUnexpected,
    (peer) => peer.bidi(encodeFrame(0x6, TEXT)),
  ],
  "sends the head of a stream inside of one": [
    H3Error.frameError,
    (peer) => peer.bidi(encodeFrame(GREASE, TEXT), 0x41, 0),
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
    // No other session noticed.
    await using other = await server.open();
    assertEquals(other.session.protocol, "");
  });
}

for (
  const [name, head] of Object.entries({
    "the control stream": bytesOf(0, settingsFrame()),
    "QPACK's encoder stream": bytesOf(2),
    "QPACK's decoder stream": bytesOf(3),
  })
) {
  Deno.test(`Http3Connection closes with 0x104 when ${name} is reset`, () => isReset(head));
}

/** Resets a stream of the peer behind its head. */
async function isReset(head: Uint8Array): Promise<void> {
  const { promise: closed, resolve } = Promise.withResolvers<Deno.QuicCloseInfo>();
  let pulls = 0;
  const control = new ReadableStream({
    type: "bytes",
    pull(controller) {
      if (pulls++ > 0) return controller.error(new Error("stream reset by peer: error 256"));
      (controller.byobRequest!.view as Uint8Array).set(head);
      controller.byobRequest!.respond(head.length);
    },
  });
  // The runtime cannot reset a stream, so that this test cannot play such a peer.
  const conn = {
    closed,
    close: resolve,
    createUnidirectionalStream: () => Promise.resolve(new WritableStream()),
    incomingUnidirectionalStreams: ReadableStream.from([control]),
    incomingBidirectionalStreams: new ReadableStream(),
  };
  const connection = new Http3Connection(conn as unknown as Deno.QuicConn, {
    runtime: platformRuntime(),
    side: "server",
  });
  assertEquals((await soon(connection.ending)).closeCode, H3Error.closedCriticalStream);
  assertEquals(connection.fault?.h3Code, H3Error.closedCriticalStream);
}

/** Datagrams that belong to no session that could be. */
const BAD_DATAGRAMS: Record<string, Uint8Array> = {
  "nothing": NOTHING,
  "half of a number": Uint8Array.of(0x40),
  "a number that no stream has": new Uint8Array(9).fill(0xff),
};

for (const [what, datagram] of Object.entries(BAD_DATAGRAMS)) {
  Deno.test(`Http3Connection closes with 0x33 when a datagram is ${what}`, async () => {
    await using server = new TestServer();
    await using raw = await server.open();
    const reading = raw.session.datagrams.readable.getReader().read().catch(({ name }) => name);
    await raw.peer.conn.sendDatagram(datagram);
    // A frame of the session follows: nothing behind the fault is read.
    await raw.peer.conn.sendDatagram(bytesOf(raw.connect.id / 4, TEXT)).catch(() => {});
    assertEquals(await soon(reading), "ConnectionError");
    assertEquals((await soon(raw.peer.ending)).closeCode, H3Error.datagramError);
  });
}

/** Faults of a server; the client has asked for a session by then. */
const FAULTS_OF_SERVER: Faults = {
  "opens a push stream": [H3Error.idError, (peer) => peer.uni(1, 0)],
  "opens a request": [
    H3Error.streamCreationError,
    (peer) => peer.bidi(headersFrame(REQUEST_FIELDS)),
  ],
  "lacks WebTransport": [
    H3Error.requirementsNotMet,
    (peer) => peer.control([[SettingId.enableConnectProtocol, 1], [SettingId.h3Datagram, 1]]),
  ],
  "lacks datagrams": [
    H3Error.requirementsNotMet,
    (peer) => peer.control([[SettingId.webTransportEnabled, 1]]),
  ],
  "sends GOAWAY of a stream that is no request": [
    H3Error.idError,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("goaway", 2n)),
  ],
  "sends GOAWAY of a number that doubles round to a request": [
    H3Error.idError,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("goaway", 2n ** 62n - 1n)),
  ],
  "sends MAX_PUSH_ID": [
    H3Error.frameUnexpected,
    (peer) => peer.uni(0, settingsFrame(), frameOfId("maxPushId", 8n)),
  ],
  "promises a push": answering(H3Error.idError, encodeFrame(FrameType.pushPromise, TEXT)),
  "answers with SETTINGS": answering(H3Error.frameUnexpected, settingsFrame()),
  "answers with DATA first": answering(
    H3Error.frameUnexpected,
    encodeFrame(FrameType.data, TEXT),
  ),
  "answers with garbage in place of QPACK": answering(
    H3Error.qpackDecompressionFailed,
    encodeFrame(FrameType.headers, new Uint8Array(40).fill(0xff)),
  ),
  // The rest is malformed or too large: a fault of the session, which is the only one.
  "answers with HEADERS of 2^40 bytes": answering(
    H3Error.excessiveLoad,
    bytesOf(FrameType.headers, 2 ** 40),
  ),
  "answers with fields that are too large": answering(H3Error.excessiveLoad, LARGE_SECTION),
  "answers without a status": answeringWith([["server", "raw"]]),
  "answers with two statuses": answeringWith([[":status", "200"], [":status", "200"]]),
  "answers with a status behind a header": answeringWith([["server", "raw"], [":status", "200"]]),
  "answers with the pseudo-headers of a request": answeringWith([
    [":status", "200"],
    [":path", "/"],
  ]),
  "answers with an unknown pseudo-header": answeringWith([[":status", "200"], [":secret", "1"]]),
  "answers with a header of HTTP/1.1": answeringWith([[":status", "200"], ["connection", "close"]]),
  "answers in chunks of HTTP/1.1": answeringWith([
    [":status", "200"],
    ["transfer-encoding", "chunked"],
  ]),
  "answers with te": answeringWith([[":status", "200"], ["te", "trailers"]]),
  "answers with 101": answeringWith([[":status", "101"]]),
  "answers with the status 2e2": answeringWith([[":status", "2e2"]]),
  "answers with the status 0200": answeringWith([[":status", "0200"]]),
  "answers with the status 600": answeringWith([[":status", "600"]]),
  "answers with a name in upper case": answering(
    H3Error.messageError,
    encodeFrame(
      FrameType.headers,
      bytesOf(encodeFields([[":status", "200"]]), Uint8Array.of(0x22, 0x58, 0x59, 1, 0x31)),
    ),
  ),
};

/** A server that answers the request of a session with these bytes. */
function answering(code: number, answer: Uint8Array): Faults[string] {
  return [code, async (peer) => {
    await peer.control();
    await (await peer.nextBidi()).send.write(answer);
  }];
}

/** A server that answers with malformed fields. */
function answeringWith(fields: readonly Field[]): Faults[string] {
  return answering(H3Error.messageError, headersFrame(fields));
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

/** Oddities without a fault. */
const ODDITIES: Record<string, (peer: RawPeer) => Promise<unknown>> = {
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
  "MAX_PUSH_ID that rises, and GOAWAY that falls": (peer) =>
    peer.uni(
      0,
      settingsFrame(),
      frameOfId("maxPushId", 8n),
      frameOfId("maxPushId", 8n),
      frameOfId("maxPushId", 9n),
      frameOfId("goaway", 3n),
      frameOfId("goaway", 3n),
      frameOfId("goaway", 0n),
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
    // Streams are cancelled by numbers of one byte, of two, and of all ten.
    const decoder = await peer.uni(3, Uint8Array.of(0x44));
    await decoder.trickle(bytesOf(Uint8Array.of(0x7f, 0x81, 0x01, 0x7f), LONGEST_INTEGER));
  },
  "streams that end before their head": async (peer) => {
    await peer.control();
    await (await peer.uni()).end();
    await (await peer.uni(Uint8Array.of(0x40))).end();
    await (await peer.uni(0x54)).end();
    const empty = await peer.bidi();
    await empty.send.end();
    assertEquals(await empty.status(), 400);
    const half = await peer.bidi(0x41);
    await half.send.end();
    assertEquals(await half.receive.readAll(), NOTHING);
  },
  "streams of sessions that are over": async (peer) => {
    await peer.control();
    const refused = await peer.request({
      fields: [...REQUEST_FIELDS.slice(1), [":method", "GET"]],
    });
    assertEquals(await refused.status(), 405);
    const late = await peer.bidi(0x41, refused.id, TEXT);
    assertEquals(await late.receive.readAll(), NOTHING);
  },
  "datagrams for nobody": async (peer) => {
    await peer.control();
    await peer.conn.sendDatagram(bytesOf(5_000, TEXT));
  },
};

for (const [oddity, act] of Object.entries(ODDITIES)) {
  Deno.test(`Http3Connection does not mind ${oddity}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await act(peer);
    const { session, connect } = await soon(server.ask(peer));
    // Datagrams of unknown sessions, during reads.
    await peer.conn.sendDatagram(bytesOf(4_000, TEXT));
    const stream = await peer.bidi(0x41, connect.id, TEXT);
    await stream.send.end();
    const { value } = await soon(session.incomingBidirectionalStreams.getReader().read());
    const direct = directStream(value!);
    assertEquals(await direct.read(), TEXT);
    await direct.write(TEXT);
    await direct.close();
    assertEquals(await soon(stream.receive.readAll()), TEXT);
  });
}

/** Answers to requests that are no sessions. */
const REFUSALS: Record<string, [status: number, fields: readonly Field[]]> = {
  "GET": [405, with_({ ":method": "GET", ":protocol": undefined })],
  "POST": [405, with_({ ":method": "POST", ":protocol": undefined })],
  "CONNECT without a protocol": [501, with_({ ":protocol": undefined })],
  "an unknown protocol": [501, with_({ ":protocol": "websocket" })],
  "no scheme": [400, with_({ ":scheme": undefined })],
  "the scheme http": [400, with_({ ":scheme": "http" })],
  "no authority": [400, with_({ ":authority": undefined })],
  "an empty authority": [400, with_({ ":authority": "" })],
  "an authority with a user": [400, with_({ ":authority": "me@localhost" })],
  "an authority that is none": [400, with_({ ":authority": "[::" })],
  "no path": [400, with_({ ":path": undefined })],
  "a path without a slash": [400, with_({ ":path": "*" })],
  "no method": [400, with_({ ":method": undefined })],
  "two paths": [400, [...REQUEST_FIELDS, [":path", "/admin"]]],
  "two methods": [400, [[":method", "GET"], ...REQUEST_FIELDS]],
  "an unknown pseudo-header": [400, [...REQUEST_FIELDS, [":secret", "1"]]],
  "a status": [400, [...REQUEST_FIELDS, [":status", "200"]]],
  "a pseudo-header behind a header": [400, [["accept", "*/*"], ...REQUEST_FIELDS]],
  "a header of HTTP/1.1": [400, [...REQUEST_FIELDS, ["connection", "upgrade"]]],
  "chunks of HTTP/1.1": [400, [...REQUEST_FIELDS, ["transfer-encoding", "chunked"]]],
  "te that is not trailers": [400, [...REQUEST_FIELDS, ["te", "gzip"]]],
  "te with trailers and more": [400, [...REQUEST_FIELDS, ["te", "trailers, gzip"]]],
  "a host that is not the authority": [400, [...REQUEST_FIELDS, ["host", "elsewhere"]]],
  "an empty host": [400, [...REQUEST_FIELDS, ["host", ""]]],
  "two hosts": [400, [...REQUEST_FIELDS, ["host", "localhost"], ["host", "elsewhere"]]],
};

function with_(changes: Record<string, string | undefined>): Field[] {
  const fields = new Map<string, string>(REQUEST_FIELDS);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) fields.delete(name);
    else fields.set(name, value);
  }
  return [...fields];
}

for (const [what, [status, fields]] of Object.entries(REFUSALS)) {
  Deno.test(`Http3Connection refuses a request with ${status} for ${what}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await peer.control();
    const request = await peer.request({ fields });
    assertEquals(await soon(request.status()), status);
    assertEquals(await soon(request.receive.read()), undefined);
    assertEquals(server.listener.sessionCount, 0);
    // A fault of the request alone.
    const { session } = await soon(server.ask(peer));
    assertEquals(session.protocol, "");
  });
}

/** Names and values that QPACK can carry, and HTTP does not allow. */
const MALFORMED_FIELDS: Record<string, Uint8Array> = {
  "a name in upper case": bytesOf(Uint8Array.of(0x22, 0x58, 0x59, 1, 0x31)),
  "an empty name": bytesOf(Uint8Array.of(0x20, 1, 0x31)),
  "a space in a name": bytesOf(Uint8Array.of(0x22, 0x20, 0x59, 1, 0x31)),
  "a line break in a value": bytesOf(Uint8Array.of(0x22, 0x78, 0x79, 1, 0x0a)),
};

for (const [what, field] of Object.entries(MALFORMED_FIELDS)) {
  Deno.test(`Http3Connection refuses a request with 400 for ${what}`, async () => {
    await using server = new TestServer();
    await using peer = await server.dial();
    await peer.control();
    const section = bytesOf(encodeFields(REQUEST_FIELDS), field);
    const request = await peer.bidi(encodeFrame(FrameType.headers, section));
    assertEquals(await soon(request.status()), 400);
    assertEquals(peer.conn.protocol, "h3");
    await soon(server.ask(peer));
  });
}

/** Requests that end before their head, or have one that is too large. */
const UNREADABLE: Record<string, [status: number, request: Uint8Array, ends?: boolean]> = {
  "that ends at once": [400, NOTHING, true],
  "that ends before its head": [400, encodeFrame(GREASE, TEXT), true],
  "whose HEADERS have 2^40 bytes": [431, bytesOf(FrameType.headers, 2 ** 40, TEXT)],
  "whose fields are too large": [431, LARGE_SECTION],
};

for (const [what, [status, bytes, ends = false]] of Object.entries(UNREADABLE)) {
  Deno.test(`Http3Connection refuses a request with ${status} ${what}`, async () => {
    await using server = new TestServer();
    await using first = await server.open();
    const request = await first.peer.bidi(bytes);
    if (ends) await request.send.end();
    assertEquals(await soon(request.status()), status);
    assertEquals(await soon(request.receive.read()), undefined);
    // The sessions beside this one stay.
    await first.connect.send.write(capsuleFrame(GREASE, TEXT));
    await soon(server.ask(first.peer));
  });
}

Deno.test("Http3Connection accepts te: trailers, and a host that is the authority", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const request = await peer.request({ more: [["te", "trailers"], ["host", "LocalHost"]] });
  (await soon(server.request())).accept();
  assertEquals(await soon(request.status()), 200);
});

Deno.test("Http3Connection accepts the protocol webtransport-h3", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const request = await peer.request({ fields: with_({ ":protocol": "webtransport-h3" }) });
  (await soon(server.request())).accept();
  assertEquals(await soon(request.status()), 200);
});

Deno.test("Http3Request.protocols is empty when the header is malformed", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  for (const value of ['"a", b', "a", '"a', "(", "", '"a",', '"a";x=']) {
    const request = await peer.request({ more: [["wt-available-protocols", value]] });
    const asked = await soon(server.request());
    assertEquals(asked.protocols, [], value);
    asked.refuse(404);
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
  // Four bytes for a number of two, and eight for a number of one.
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
  // The request has the number 0, and comes last.
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
  // These six are over by now.
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

/** Time that stands still, and a peer that connected in that time. */
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

/** Has a server read all that came before. */
async function isRead(peer: RawPeer): Promise<void> {
  for (let i = 0; i < 3; i++) {
    const empty = await peer.bidi();
    await empty.send.end();
    await empty.receive.readAll();
  }
}

Deno.test("Http3Connection ends held streams when no session came within five seconds", async () => {
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
    // The later one is still there.
    const { value } = await session.incomingBidirectionalStreams.getReader().read();
    const stream = directStream(value!);
    assertEquals(await stream.read(), TEXT);
    await stream.close();
    assertEquals(await late.receive.readAll(), NOTHING);
  });
});

Deno.test("Http3Connection ends held streams when their session is refused", async () => {
  await using server = new TestServer();
  await using peer = await server.dial();
  await peer.control();
  const request = await peer.bidi();
  const early = await peer.bidi(0x41, request.id, TEXT);
  await request.send.write(headersFrame(with_({ ":protocol": "websocket" })));
  assertEquals(await soon(request.status()), 501);
  assertEquals(await soon(early.receive.readAll()), NOTHING);
  // No session of that number can come any more: later ones are not held at all.
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

Deno.test("Http3Connection stays for two seconds after its last session", async () => {
  await frozen(async ({ time, server, peer }) => {
    await peer.control();
    const { session, connect } = await server.ask(peer);
    await time.tickAsync(60_000);
    await connect.send.end();
    await session.closed;
    await time.tickAsync(1_900);
    // Another session: the connection stays.
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

Deno.test("Http3Connection gives up on a server without settings after five seconds", async () => {
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

Deno.test("Http3Connection refuses sessions beyond its bound with 429", async () => {
  await using server = new TestServer({ maxSessionsPerConnection: 2 });
  await using first = await server.open();
  const { peer } = first;
  const second = await server.ask(peer);
  const third = await peer.request();
  const next = server.request();
  const fields = await soon(Promise.race([third.receive.fields(), next.then(() => undefined)]));
  assertEquals([fields?.get(":status"), fields?.get("retry-after")], ["429", "5"]);
  // Once one is over there is room again.
  second.session.close();
  await second.connect.send.end();
  await soon(second.session.closed);
  const fourth = await peer.request();
  (await soon(next)).accept();
  assertEquals(await soon(fourth.status()), 200);
  assertEquals(server.listener.sessionCount, 2);
});

Deno.test("Http3Connection keeps 43 sessions in sequence apart, and four at once", async () => {
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

/** Sends the number of a session on each kind of stream, and in a datagram. */
async function talk(
  peer: RawPeer,
  id: number,
  session: Awaited<ReturnType<TestServer["accept"]>>,
): Promise<void> {
  const text = new TextEncoder().encode(`session ${id}`);
  const bidi = await peer.bidi(0x41, id, text);
  await bidi.send.end();
  const { value } = await soon(session.incomingBidirectionalStreams.getReader().read());
  const stream = directStream(value!);
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
  await assertRejects(() => peer.nextBidi()); // No stream ever came.
  await soon(connection.ending);
  endpoint.close();
});

Deno.test("Http3Request.headers joins a cookie that comes in pieces", async () => {
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
    asked.refuse(404);
    assertEquals(await soon(request.status()), 404);
  }
});
