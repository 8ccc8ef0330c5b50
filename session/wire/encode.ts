/** Encoding of a message, once for any number of receivers. */
import type { Frame } from "../../transport/connection.ts";
import { encodeBinary } from "./binary.ts";
import type { Entry } from "../queue/packing.ts";
import { encodeEnvelope, type OutgoingEnvelope, type TraceContext } from "./envelope.ts";
import { checkTopic } from "./topic_pattern.ts";
import { utf8Length } from "./utf8.ts";

/** Most bytes of one message by default, in both directions. */
export const MAX_MESSAGE_BYTES = 262_144;

/** A message that was encoded once for all receivers. */
export type EncodedMessage = Pick<Entry, "frame" | "size" | "topic">;

/** Options for {@linkcode encodeMessage}. */
export interface EncodeOptions {
  /**
   * Most bytes of the encoded message.
   *
   * @default {262144}
   */
  readonly maxBytes?: number;
  /** The operation, for errors: `send`, `publish`. */
  readonly verb?: string;
  /** Id of a request; present if an answer is expected. */
  readonly id?: number;
  /** Verified user whose client publishes the message. */
  readonly from?: string | undefined;
  /** Place of the message in a trace; left out if the message would be too large. */
  readonly trace?: TraceContext | undefined;
}

/**
 * Encodes a message. A `Uint8Array` becomes a binary message, any other value JSON.
 *
 * @param topic The topic: a non-empty string of at most 255 bytes.
 * @param data Any value that JSON can hold, a `Uint8Array`, or `undefined` for no data.
 * @param options See {@linkcode EncodeOptions}.
 * @returns The message, ready for any number of sessions.
 * @throws {TypeError} If JSON cannot hold the data, or the topic is not a valid topic.
 * @throws {RangeError} If the message is larger than `maxBytes`.
 *
 * @example Usage
 * ```ts
 * import { encodeMessage } from "@skein/skein/session";
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
  const { maxBytes = MAX_MESSAGE_BYTES, verb = "send", id, from, trace } = options;
  checkTopic(topic, verb);
  return encodeData({ topic, data, id, from, trace }, { maxBytes, verb, topic });
}

/** An envelope with data, which may be a `Uint8Array`. */
type DataEnvelope = Extract<OutgoingEnvelope, { readonly data?: unknown }>;

/**
 * Encodes an envelope with its data. A `Uint8Array` becomes a binary message.
 *
 * @param envelope The envelope, with a checked topic.
 * @param options Most bytes of the envelope; the operation, for errors; the topic for overflow
 * policies, empty by default.
 * @returns The message, ready for any number of sessions.
 * @throws {TypeError} If JSON cannot hold the data.
 * @throws {RangeError} If the message is larger than `maxBytes`.
 */
export function encodeData(
  envelope: DataEnvelope,
  options: { readonly maxBytes: number; readonly verb: string; readonly topic?: string },
): EncodedMessage {
  const { maxBytes, verb, topic = "" } = options;
  const { data } = envelope;
  const frame = data instanceof Uint8Array
    ? encodeBinary(encodeEnvelope({ ...envelope, data: undefined }, verb), data)
    : encodeEnvelope(envelope, verb);
  const message = framed(frame, topic);
  if (message.size <= maxBytes) return message;
  if ("trace" in envelope && envelope.trace) {
    return encodeData({ ...envelope, trace: undefined }, options);
  }
  throw new RangeError(
    `Cannot ${verb}: a message must have at most ${maxBytes} bytes, received ${message.size}`,
  );
}

/**
 * Encodes a control envelope, which has no topic for overflow policies.
 *
 * @param envelope The envelope.
 * @param verb The operation, for errors.
 * @returns The encoded envelope.
 * @throws {TypeError} If JSON cannot hold the data.
 */
export function encodeControl(envelope: OutgoingEnvelope, verb?: string): EncodedMessage {
  return framed(encodeEnvelope(envelope, verb), "");
}

/**
 * Measures an encoded frame.
 *
 * @param frame An envelope as text, or the frame of a binary message.
 * @param topic The topic; empty for control.
 * @returns The message, ready for any number of sessions.
 */
export function framed(frame: Frame, topic: string): EncodedMessage {
  return { frame, size: typeof frame === "string" ? utf8Length(frame) : frame.length, topic };
}
