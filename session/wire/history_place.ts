/** Messages with a place in the history of their topic. */
import type { Frame } from "../../transport/connection.ts";
import { decodeBinary, encodeBinary } from "./binary.ts";
import { type EncodedMessage, framed } from "./encode.ts";

/** Most characters of a tag. */
export const MAX_TAG_LENGTH = 8;

/** Most bytes that a place adds to a message: three keys, numbers of 16 digits, and a tag. */
export const MAX_PLACE_BYTES = 69;

/** Place of a message in the history of its topic. */
export interface MessagePlace {
  /** Offset of the message. */
  readonly offset: number;
  /** Offset of the message before. */
  readonly prev: number;
  /**
   * Tag of the publication: at most {@linkcode MAX_TAG_LENGTH} characters that JSON does not
   * escape.
   */
  readonly tag?: string | undefined;
}

/**
 * Adds the place to a message that was encoded before the place was known.
 *
 * @param frame An envelope as text, or the frame of a binary message.
 * @param topic The topic.
 * @param place The place of the message.
 * @returns The message, ready for any number of sessions.
 */
export function placed(frame: Frame, topic: string, place: MessagePlace): EncodedMessage {
  if (typeof frame === "string") return framed(withPlace(frame, place), topic);
  const parts = decodeBinary(frame);
  if (parts === undefined) return framed(frame, topic);
  return framed(encodeBinary(withPlace(parts.head, place), parts.data), topic);
}

/** Adds the keys of a place. An envelope has at least a topic, so the leading comma is correct. */
function withPlace(envelope: string, { offset, prev, tag }: MessagePlace): string {
  const end = tag === undefined ? "}" : `,"tag":"${tag}"}`;
  return `${envelope.slice(0, -1)},"offset":${offset},"prev":${prev}${end}`;
}
