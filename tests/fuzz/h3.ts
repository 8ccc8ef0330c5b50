/**
 * Malformed bytes for HTTP/3: varints, frames, capsules, settings, fields, and the message stream.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { toHttp3StreamCode } from "../peers/raw_http3.ts";
import { encodeEnvelope } from "../../session/wire/encode.ts";
import {
  CapsuleParser,
  CapsuleType,
  decodeCloseCapsule,
  decodeVarintCapsule,
  encodeCapsule,
  encodeCloseCapsule,
  encodeVarintCapsule,
} from "../../transport/h3/wire/capsules.ts";
import { fromHttp3StreamCode, H3ProtocolError } from "../../transport/h3/wire/error_codes.ts";
import {
  decodeIdPayload,
  encodeFrame,
  FrameType,
  Http3FrameParser,
} from "../../transport/h3/wire/frames.ts";
import { rejectionStatus } from "../../transport/h3/wire/message_fields.ts";
import { decodeFields, encodeFields, type Field } from "../../transport/h3/wire/qpack.ts";
import {
  decodeSettings,
  encodeSettings,
  flowControlOf,
  MAX_SETTINGS,
  serverSettings,
  supportsWebTransport,
} from "../../transport/h3/wire/settings.ts";
import {
  encodeStringItem,
  encodeStringList,
  parseStringItem,
  parseStringList,
} from "../../transport/h3/wire/structured_fields.ts";
import {
  encodeVarint,
  readVarint,
  varintLength,
  varintLengthAt,
} from "../../transport/quic/varint.ts";
import {
  lengthBytes,
  StreamFrameParser as MessageParser,
  writeHead,
} from "../../transport/message_stream/frames.ts";
import type { Frame } from "../../transport/connection.ts";
import type { Random } from "../random.ts";
import { failsOnlyBy, Steps } from "./expect.ts";
import { joined, mutateBytes, mutateText, pieces } from "./mutate.ts";

/**
 * Reads valid and malformed varints.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzVarints(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const value = random.bits(53);
    const bytes = encodeVarint(value);
    assertEquals(bytes.length, varintLength(value));
    assertEquals(readVarint(bytes, 0), value);
    const noise = random.bytes(8);
    const size = varintLengthAt(noise[0]!);
    const read = readVarint(noise.subarray(0, size), 0);
    assert(read >= 0 && read < 2 ** 62 + 1);
    if (read <= Number.MAX_SAFE_INTEGER) {
      assertEquals(readVarint(encodeVarint(read), 0), read);
    } else failsOnlyBy(() => encodeVarint(read), RangeError);
    const code = random.bits(32) % 2 ** 32;
    assertEquals(fromHttp3StreamCode(toHttp3StreamCode(code)), code);
    const foreign = fromHttp3StreamCode(read);
    assert(foreign === undefined || foreign >= 0 && foreign < 2 ** 32);
  }
}

/** The members of a frame or capsule parser that are used here. */
interface Parser {
  push(chunk: Uint8Array): void;
  next(): { readonly type: number; readonly payload: Uint8Array } | undefined;
}

/** The results of a parser: the whole payloads by type, and how the input ended. */
function readAll(parser: Parser, chunks: readonly Uint8Array[], joinsType: number): string[] {
  const found: string[] = [];
  const size = chunks.reduce((total, { length }) => total + length, 0);
  // Each frame has at least two bytes, and each chunk may split a frame.
  const steps = new Steps(size + 2 * chunks.length + 2, "the parser");
  let pieceOf = -1;
  for (const chunk of chunks) {
    parser.push(chunk);
    while (true) {
      steps.take();
      const read = failsOnlyBy(() => parser.next(), H3ProtocolError);
      if (!read.ok) {
        // Errors are final.
        assert(!failsOnlyBy(() => parser.next(), H3ProtocolError).ok);
        found.push(`error 0x${(read.error as H3ProtocolError).h3Code.toString(16)}`);
        return found;
      }
      if (read.value === undefined) break;
      const { type, payload } = read.value;
      // DATA is emitted in pieces that end at chunk boundaries.
      if (type === joinsType) {
        if (pieceOf === found.length - 1 && payload.length > 0) continue;
        found.push("data");
        pieceOf = found.length - 1;
      } else found.push(`${type} ${payload.toHex()}`);
    }
  }
  return found;
}

const FRAMES: readonly Uint8Array[] = [
  encodeFrame(FrameType.settings, encodeSettings([[0x33, 1], [0x2b60, 1]])),
  encodeFrame(FrameType.headers, encodeFields([[":status", "200"]])),
  encodeFrame(FrameType.goaway, encodeVarint(0)),
  encodeFrame(FrameType.maxPushId, encodeVarint(2 ** 40)),
  encodeFrame(0x21, new Uint8Array(30)),
  encodeFrame(FrameType.headers, new Uint8Array(300)),
];

/**
 * Splits malformed bytes into frames, and checks that the chunking makes no difference.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzFrames(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const bytes = joined(mutateBytes(random, FRAMES), random.pick(FRAMES));
    const whole = readAll(new Http3FrameParser(), [bytes], FrameType.data);
    const cut = readAll(new Http3FrameParser(), pieces(random, bytes), FrameType.data);
    const noData = (found: string[]) => found.filter((one) => one !== "data");
    assertEquals(noData(cut), noData(whole));
    failsOnlyBy(() => decodeIdPayload(bytes.subarray(0, 9)), H3ProtocolError);
  }
}

const CAPSULES: readonly Uint8Array[] = [
  encodeCloseCapsule({ closeCode: 4503, reason: "bye €" }),
  encodeCapsule(CapsuleType.drain, new Uint8Array()),
  encodeCapsule(CapsuleType.datagram, new Uint8Array(50)),
  encodeVarintCapsule(CapsuleType.maxData, 2 ** 20),
  encodeVarintCapsule(CapsuleType.maxStreamsBidi, 100),
  encodeCapsule(0x1234, new Uint8Array(70)),
];

/**
 * Splits malformed bytes into capsules, and reads them.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzCapsules(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const bytes = joined(mutateBytes(random, CAPSULES), random.pick(CAPSULES));
    const whole = readAll(new CapsuleParser(), [bytes], -1);
    assertEquals(readAll(new CapsuleParser(), pieces(random, bytes), -1), whole);
    failsOnlyBy(() => decodeVarintCapsule(bytes), H3ProtocolError);
    const close = failsOnlyBy(() => decodeCloseCapsule(bytes.subarray(2)), H3ProtocolError);
    if (close.ok) assert(close.value.reason.isWellFormed() && close.value.reason.length <= 1_024);
  }
}

const SETTINGS: readonly Uint8Array[] = [
  encodeSettings(
    serverSettings({
      maxSessions: 100,
      initialMaxData: 2 ** 20,
      initialMaxStreamsBidi: 100,
      initialMaxStreamsUni: 100,
    }),
  ),
  encodeSettings([[0x1, 0], [0x7, 0], [0x33, 1], [0x2b60_3742, 1]]),
  encodeSettings(Array.from({ length: 300 }, (_, n) => [0x1000 + n, n])),
];

/**
 * Reads malformed settings.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzSettings(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const payload = mutateBytes(random, SETTINGS);
    const read = failsOnlyBy(() => decodeSettings(payload), H3ProtocolError);
    if (!read.ok) continue;
    let at = 0;
    while (at < payload.length) at += varintLengthAt(payload[at]!);
    assertEquals(at, payload.length);
    assert(read.value.size <= MAX_SETTINGS);
    supportsWebTransport(read.value);
    const limits = flowControlOf(read.value);
    assert(limits === undefined || Object.values(limits).every((limit) => limit >= 0));
  }
}

const REQUEST: readonly Field[] = [
  [":method", "CONNECT"],
  [":protocol", "webtransport"],
  [":scheme", "https"],
  [":authority", "localhost:4433"],
  [":path", "/chat?x=1"],
  ["origin", "https://example.com"],
  ["wt-available-protocols", '"skein.1", "chat"'],
];
const SECTIONS: readonly Uint8Array[] = [
  encodeFields(REQUEST),
  encodeFields([[":status", "200"], ["sec-webtransport-http3-draft", "draft02"]]),
  // A name and a value in Huffman coding: "custom-key", "custom-value".
  Uint8Array.fromHex("00002f0125a849e95ba97d7f8925a849e95bb8e8b4bf"),
  encodeFields(Array.from({ length: 40 }, (_, n): Field => [`x-${n}`, "v".repeat(n)])),
];

/**
 * Reads malformed field sections and the requests in them.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzFields(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const bytes = mutateBytes(random, SECTIONS);
    const read = failsOnlyBy(() => decodeFields(bytes), H3ProtocolError);
    if (!read.ok) continue;
    const fields = read.value;
    const size = fields.reduce((total, [name, value]) => total + name.length + value.length, 0);
    assert(size + 32 * fields.length <= 65_536);
    assertEquals(decodeFields(encodeFields(fields)), fields);
    assert([undefined, 400, 405, 501].includes(rejectionStatus(fields)));
    const headers = fields.filter(([name]) => !name.startsWith(":"));
    failsOnlyBy(() => new Headers(headers.map(([name, value]) => [name, value])), TypeError);
  }
}

const LISTS = ['"skein.1", "chat"', '"a";q=0.5;x="y", "b\\"c"', '"a"', "", '"a",\t"b" ', "?1", "a"];

/**
 * Reads malformed lists of strings.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzStructuredFields(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const text = mutateText(random, LISTS);
    const list = parseStringList(text);
    if (list !== undefined) assertEquals(parseStringList(encodeStringList(list)), list);
    const item = parseStringItem(text);
    if (item !== undefined) assertEquals(parseStringItem(encodeStringItem(item)), item);
    failsOnlyBy(() => encodeStringItem(text), TypeError);
  }
}

const MAX_FRAME_BYTES = 1_024;

/**
 * Writes a frame of the message stream.
 *
 * @param kind 0 text, 1 binary, 2 end.
 * @param body The payload.
 * @returns The bytes of the frame.
 */
export function messageFrame(kind: number, body: Uint8Array): Uint8Array {
  const { length } = body;
  const head = new Uint8Array(lengthBytes(length) + 1);
  writeHead(head, 0, { kind, length });
  return joined(head, body);
}

const encoder = new TextEncoder();
const MESSAGES: readonly Uint8Array[] = [
  messageFrame(0, encoder.encode(encodeEnvelope({ topic: "chat", data: "€" }))),
  messageFrame(0, encoder.encode('{"ping":1}\n{"ping":2}')),
  messageFrame(1, new Uint8Array(70)),
  messageFrame(1, new Uint8Array()),
  messageFrame(2, new Uint8Array()),
  messageFrame(0, new Uint8Array(900).fill(0x61)),
];

/** The results of a message parser, and how the input ended. */
function readMessages(chunks: readonly Uint8Array[]): string[] {
  const found: string[] = [];
  let isDone = false;
  const tell = (what: string, isLast: boolean) => {
    assert(!isDone, "nothing is parsed after the end");
    isDone = isLast;
    found.push(what);
  };
  const parser = new MessageParser({
    onFrame(frame: Frame) {
      const isText = typeof frame === "string";
      assert((isText ? frame.length : frame.length - 2) <= MAX_FRAME_BYTES);
      tell(isText ? `text ${frame}` : `binary ${frame.toHex()}`, false);
    },
    onEnd: () => tell("end", true),
    onRejected: (code) => tell(`rejected ${code}`, true),
  }, MAX_FRAME_BYTES);
  for (const chunk of chunks) parser.push(chunk);
  return found;
}

/**
 * Splits a malformed message stream into frames.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzMessageStream(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const bytes = joined(
      random.pick(MESSAGES),
      mutateBytes(random, MESSAGES),
      random.pick(MESSAGES),
    );
    const whole = readMessages([bytes.slice()]);
    assertEquals(readMessages(pieces(random, bytes)), whole);
    assert(whole.length <= bytes.length / 2);
  }
}
