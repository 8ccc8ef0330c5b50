/** Encodes messages and envelopes, once for any number of receivers. */
import type { Frame } from "../../transport/connection.ts";
import { encodeJson } from "../../base/json.ts";
import { MAX_TOPIC_BYTES, type OutgoingEnvelope, type TraceContext } from "./envelope.ts";
import type { HistoryPosition } from "./recovery.ts";
import { exceedsBytes, utf8Length } from "./utf8.ts";

/** The default size limit of one message, in both directions, in bytes. */
export const MAX_MESSAGE_BYTES = 262_144;

/** The error for data that is larger than a message may be. */
export class OversizeError extends RangeError {
  /** Size limit of the message, in bytes. */
  readonly maxBytes: number;

  constructor(message: string, maxBytes: number) {
    super(message);
    this.maxBytes = maxBytes;
  }
}

/** A message that was encoded once for all receivers. */
export interface EncodedMessage {
  /** The envelope as text, or a binary message's whole frame. */
  readonly frame: Frame;
  /** Size in bytes. */
  readonly size: number;
  /** The topic, for overflow policies and for reports of dropped messages. */
  readonly topic: string;
  /** The position after the message, if it is a publication on a topic with a history. */
  readonly position?: HistoryPosition | undefined;
}

/** Options for {@linkcode encodeMessage}. */
export interface EncodeOptions {
  /**
   * Size limit of the encoded message, in bytes.
   *
   * @default {262144}
   */
  readonly maxBytes?: number | undefined;
  /** The operation, for errors: `send`, `publish`. */
  readonly verb?: string | undefined;
  /** Id of a request. Present if a reply is expected. */
  readonly id?: number | undefined;
  /** Initial credit of a streaming response, if it differs from the default. */
  readonly items?: number | undefined;
  /** Name of a resumable response. */
  readonly stream?: string | undefined;
  /**
   * True if the request must not start a new response, because the requester has already received a
   * part of it.
   */
  readonly begun?: true | undefined;
  /** Verified user whose client publishes the message. */
  readonly from?: string | undefined;
  /** Trace context of the message. It is omitted if the message would be too large with it. */
  readonly trace?: TraceContext | undefined;
}

/**
 * Encodes a message. A `Uint8Array` becomes a binary message; any other value is encoded as JSON.
 *
 * @param topic The topic: a non-empty string of at most 255 bytes.
 * @param data Any value that JSON can hold, a `Uint8Array`, or `undefined` if there is no data.
 * @param options See {@linkcode EncodeOptions}.
 * @returns The message, ready for any number of sessions.
 * @throws {TypeError} If JSON cannot hold the data, or the topic is not valid.
 * @throws {RangeError} If the message is larger than `maxBytes`.
 *
 * @example Usage
 * ```ts
 * import { encodeMessage } from "./encode.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encodeMessage("chat", { text: "hi" }).frame, '{"topic":"chat","data":{"text":"hi"}}');
 * ```
 */
export function encodeMessage(
  topic: string,
  data: unknown,
  options: EncodeOptions = {},
): EncodedMessage {
  const { maxBytes = MAX_MESSAGE_BYTES, verb = "send" } = options;
  checkTopic(topic, verb);
  const { id, from, trace, items, stream, begun } = options;
  const envelope = { topic, data, id, from, trace, items, stream, begun };
  return encodeData(envelope, { maxBytes, verb, topic });
}

/** An envelope with data, which may be a `Uint8Array`. */
export type DataEnvelope = Extract<OutgoingEnvelope, { readonly data?: unknown }>;

/**
 * Encodes an envelope with its data. A `Uint8Array` becomes a binary message.
 *
 * @param envelope The envelope, with a checked topic.
 * @param options The size limit of the envelope in bytes; the operation, for error messages; and
 * the topic for overflow policies, which is empty by default.
 * @returns The message, ready for any number of sessions.
 * @throws {TypeError} If JSON cannot hold the data.
 * @throws {RangeError} If the message is larger than `maxBytes`.
 */
export function encodeData(
  envelope: DataEnvelope,
  options: {
    readonly maxBytes: number;
    readonly verb: string;
    readonly topic?: string | undefined;
  },
): EncodedMessage {
  const { maxBytes, verb, topic = "" } = options;
  const { data } = envelope;
  const frame = data instanceof Uint8Array
    ? encodeBinary(encodeEnvelope({ ...envelope, data: undefined }, verb), data)
    : encodeEnvelope(envelope, verb);
  const message = framed(frame, topic);
  const { size } = message;
  if (size <= maxBytes) return message;
  if ("trace" in envelope && envelope.trace) {
    return encodeData({ ...envelope, trace: undefined }, options);
  }
  throw new OversizeError(oversize(verb, message, maxBytes), maxBytes);
}

/** The text of an error for a message that is too large. */
export function oversize(verb: string, { size }: EncodedMessage, maxBytes: number): string {
  return `Cannot ${verb}: a message must have at most ${maxBytes} bytes, received ${size}`;
}

/** Maximum length of a failure's text that is truncated to fit a message, in characters. */
const MAX_CUT_LENGTH = 128;

/**
 * Encodes a control envelope that may include a failure. If the envelope is too large, the
 * failure's text is truncated and its path omitted, because the peer MUST receive a reply.
 *
 * @param maxBytes Size limit of an envelope with a failure, in bytes.
 * @returns The encoded envelope.
 */
export function encodeFailure(envelope: OutgoingEnvelope, maxBytes: number): EncodedMessage {
  const whole = encodeControl(envelope);
  const error = "error" in envelope ? envelope.error : undefined;
  if (error === undefined || whole.size <= maxBytes) return whole;
  const { path: _path, ...failure } = error;
  const message = failure.message.slice(0, MAX_CUT_LENGTH);
  return encodeControl({ ...envelope, error: { ...failure, message } } as OutgoingEnvelope);
}

/**
 * Encodes a control envelope. It has no topic for overflow policies.
 *
 * @param verb The operation, for error messages.
 * @returns The encoded envelope.
 * @throws {TypeError} If JSON cannot hold the data.
 */
export function encodeControl(envelope: OutgoingEnvelope, verb?: string): EncodedMessage {
  return framed(encodeEnvelope(envelope, verb), "");
}

/**
 * Turns an encoded frame into a message with its size.
 *
 * @param frame An envelope as text, or the frame of a binary message.
 * @param topic The topic; empty for a control envelope.
 * @returns The message, ready for any number of sessions.
 */
export function framed(frame: Frame, topic: string): EncodedMessage {
  return { frame, size: typeof frame === "string" ? utf8Length(frame) : frame.length, topic };
}

/** First two bytes of a binary message's frame: the varint 0x53. */
const MARK_0 = 0x40;
const MARK_1 = 0x53;
/**
 * Created on first use, because a React Native app may add the classes after this module has
 * loaded, and because `connect` reports a missing class.
 */
let encoder: TextEncoder | undefined;
let decoder: TextDecoder | undefined;

/**
 * Writes a binary message as one frame: the bytes `40 53`, the length of the head as a varint, the
 * envelope without its data, and then the data.
 */
export function encodeBinary(head: string, data: Uint8Array): Uint8Array {
  const headBytes = (encoder ??= new TextEncoder()).encode(head);
  const prefix = [MARK_0, MARK_1, ...varint(headBytes.length)];
  const frame = new Uint8Array(prefix.length + headBytes.length + data.length);
  frame.set(prefix);
  frame.set(headBytes, prefix.length);
  frame.set(data, prefix.length + headBytes.length);
  return frame;
}

/**
 * Encodes a length in as few bytes as possible. The byte array stores only the lowest eight bits of
 * each number.
 */
function varint(n: number): number[] {
  if (n < 64) return [n];
  return n < 16_384 ? [n >> 8 | 0x40, n] : [n >> 24 | 0x80, n >> 16, n >> 8, n];
}

/** Returns true for the frame of a binary message. All other binary frames belong to streams. */
export function isBinaryMessage(frame: Uint8Array): boolean {
  return frame.length >= 3 && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/**
 * Splits a binary message into its head and its data. Returns `undefined` for a truncated or
 * malformed frame.
 */
export function decodeBinary(frame: Uint8Array): { head: string; data: Uint8Array } | undefined {
  const lengthSize = 1 << (frame[2]! >> 6);
  if (lengthSize === 8 || frame.length < 2 + lengthSize) return undefined;
  let length = frame[2]! & 0x3f;
  for (let i = 1; i < lengthSize; i++) length = length * 256 + frame[2 + i]!;
  const start = 2 + lengthSize;
  if (frame.length < start + length) return undefined;
  try {
    const head = (decoder ??= new TextDecoder("utf-8", { fatal: true })).decode(
      frame.subarray(start, start + length),
    );
    return { head, data: frame.subarray(start + length) };
  } catch {
    return undefined;
  }
}

/** Maximum length of a tag, in characters. */
export const MAX_TAG_LENGTH = 8;

/**
 * Maximum number of bytes that a place adds to a message: three keys, 16-digit numbers, and a tag.
 */
export const MAX_PLACE_BYTES = 69;

interface MessagePlace {
  /** Offset of the message. */
  readonly offset: number;
  /** Offset of the previous message. */
  readonly prev: number;
  /**
   * The tag of the publication. It has at most {@linkcode MAX_TAG_LENGTH} characters, which JSON
   * does not escape.
   */
  readonly tag?: string | undefined;
  /** Bytes of the message without its place, if they were counted. */
  readonly bytes?: number | undefined;
}

/**
 * Adds the place in the history to an encoded message.
 *
 * @param frame An envelope as text, or the frame of a binary message.
 * @returns The message, ready for any number of sessions.
 */
export function placed(frame: Frame, topic: string, place: MessagePlace): EncodedMessage {
  if (typeof frame === "string") {
    const whole = withPlace(frame, place);
    if (place.bytes === undefined) return framed(whole, topic);
    // A place is ASCII.
    return { frame: whole, size: place.bytes + whole.length - frame.length, topic };
  }
  const parts = decodeBinary(frame);
  if (parts === undefined) return framed(frame, topic);
  return framed(encodeBinary(withPlace(parts.head, place), parts.data), topic);
}

/** Adds the keys of a place. An envelope has at least a topic, so the leading comma is correct. */
function withPlace(envelope: string, { offset, prev, tag }: MessagePlace): string {
  const end = tag === undefined ? "}" : `,"tag":"${tag}"}`;
  return `${envelope.slice(0, -1)},"offset":${offset},"prev":${prev}${end}`;
}

/**
 * Writes an envelope.
 *
 * @param envelope The envelope; `data` may be any value that JSON can hold.
 * @param verb The operation, for error messages.
 * @returns JSON text without raw line feeds.
 * @throws {TypeError} If JSON cannot hold the data.
 */
export function encodeEnvelope(envelope: OutgoingEnvelope, verb = "send"): string {
  const data = "data" in envelope ? envelope.data : undefined;
  return data === undefined ? JSON.stringify(envelope) : encodeJson(data, verb, envelope);
}

/**
 * Throws if the topic is not valid. For a short topic, the check costs one comparison.
 *
 * @example Usage
 * ```ts
 * import { checkTopic } from "./encode.ts";
 * import { assertThrows } from "@std/assert";
 *
 * checkTopic("chat:lobby", "send");
 * assertThrows(() => checkTopic("", "send"), TypeError, "Cannot send: a topic must be");
 * ```
 *
 * @param topic The value that was passed as a topic.
 * @param verb The caller's operation, for the error message.
 * @param maxBytes Size limit of the topic in UTF-8, in bytes.
 * @throws {TypeError} If the topic is empty or not a string.
 * @throws {RangeError} If the topic is longer than `maxBytes`.
 */
export function checkTopic(
  topic: unknown,
  verb: string,
  maxBytes: number = MAX_TOPIC_BYTES,
): asserts topic is string {
  if (typeof topic !== "string" || !topic) {
    throw new TypeError(rejection(verb, maxBytes, topic === "" ? '""' : typeof topic));
  }
  if (exceedsBytes(topic, maxBytes)) {
    throw new RangeError(rejection(verb, maxBytes, `${utf8Length(topic)} bytes`));
  }
}

function rejection(verb: string, maxBytes: number, received: string): string {
  return `Cannot ${verb}: a topic must be a non-empty string of at most ${maxBytes} bytes, ` +
    `received ${received}`;
}
