/**
 * Messages that have a place in the history of their topic.
 *
 * @module
 */
import type { Frame } from "../../transport/connection.ts";
import { decodeBinary, encodeBinary } from "./binary.ts";
import { type EncodedMessage, framed } from "./encode.ts";

/** Characters that a tag may have. */
export const MAX_TAG_LENGTH = 8;

/** Bytes that its place adds to a message at most: the three keys, numbers of 16 digits, and a tag. */
export const MAX_PLACE_BYTES = 69;

/** Where a message stands in the history of its topic. */
export interface MessagePlace {
  /** Its number. */
  readonly offset: number;
  /** The number of the one before it. */
  readonly prev: number;
  /** Names the publication; at most {@linkcode MAX_TAG_LENGTH} characters that JSON does not escape. */
  readonly tag?: string | undefined;
}

/**
 * Writes its place into a message that was encoded before it was known.
 *
 * @param frame An envelope as text, or a binary message's frame.
 * @param topic The topic.
 * @param place Where it stands.
 * @returns The message, ready for any number of sessions.
 */
export function placed(frame: Frame, topic: string, place: MessagePlace): EncodedMessage {
  if (typeof frame === "string") return framed(withPlace(frame, place), topic);
  const parts = decodeBinary(frame);
  if (parts === undefined) return framed(frame, topic);
  return framed(encodeBinary(withPlace(parts.head, place), parts.data), topic);
}

/** An envelope has a topic at least, so that a comma is in place. */
function withPlace(envelope: string, { offset, prev, tag }: MessagePlace): string {
  const end = tag === undefined ? "}" : `,"tag":"${tag}"}`;
  return `${envelope.slice(0, -1)},"offset":${offset},"prev":${prev}${end}`;
}
