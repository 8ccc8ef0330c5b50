/**
 * Encoding a message once, for any number of receivers.
 *
 * @module
 */
import type { Frame } from "../../transport/connection.ts";
import { encodeBinary } from "./binary.ts";
import type { Entry } from "../queue/packing.ts";
import { encodeEnvelope, type OutgoingEnvelope, type TraceContext } from "./envelope.ts";
import { checkTopic } from "../base/topic_pattern.ts";
import { utf8Length } from "./utf8.ts";

/** Bytes that one message may have by default, in both directions. */
export const MAX_MESSAGE_BYTES = 262_144;

/** A message as it goes to every receiver, encoded once. */
export type EncodedMessage = Pick<Entry, "frame" | "size" | "topic">;

/** Options for {@linkcode encodeMessage}. */
export interface EncodeOptions {
  /**
   * Most bytes of the encoded message.
   *
   * @default {262144}
   */
  readonly maxBytes?: number;
  /** What is being done, for errors: `send`, `publish`. */
  readonly verb?: string;
  /** Present where an answer is owed. */
  readonly id?: number;
  /** The verified user whose client publishes it. */
  readonly from?: string | undefined;
  /** Where the message belongs in a trace; left out where the message would be too large with it. */
  readonly trace?: TraceContext | undefined;
}

/**
 * Encodes a message. A `Uint8Array` becomes a binary message, everything else JSON.
 *
 * @param topic Its topic: a non-empty string of at most 255 bytes.
 * @param data Any value that JSON can hold, a `Uint8Array`, or `undefined` for none.
 * @param options See {@linkcode EncodeOptions}.
 * @returns The message, ready for any number of sessions.
 * @throws {TypeError} If JSON cannot hold the data, or the topic is no topic.
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

/** An envelope with data, which may be bytes. */
type DataEnvelope = Extract<OutgoingEnvelope, { readonly data?: unknown }>;

/**
 * Encodes an envelope with its data. A `Uint8Array` makes a binary message of it.
 *
 * @param envelope The envelope; its topic was checked.
 * @param options The most bytes that it may have; what is being done, for errors; for policies its topic, none by default.
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
 * Encodes an envelope that is control, and has no topic to go by.
 *
 * @param envelope The envelope.
 * @param verb What is being done, for errors.
 * @returns What goes to the peer.
 * @throws {TypeError} If JSON cannot hold its data.
 */
export function encodeControl(envelope: OutgoingEnvelope, verb?: string): EncodedMessage {
  return framed(encodeEnvelope(envelope, verb), "");
}

/**
 * Measures what was encoded already.
 *
 * @param frame An envelope as text, or a binary message's frame.
 * @param topic The topic; empty for control.
 * @returns The message, ready for any number of sessions.
 */
export function framed(frame: Frame, topic: string): EncodedMessage {
  return { frame, size: typeof frame === "string" ? utf8Length(frame) : frame.length, topic };
}
