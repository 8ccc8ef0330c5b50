/**
 * Messages that have a place in the history of their topic.
 *
 * @module
 */
import type { Frame } from "../transport/connection.ts";
import { decodeBinary, encodeBinary } from "./_binary.ts";
import { type EncodedMessage, framed } from "./encoded.ts";

/** Bytes that its place adds to a message at most: both keys, and numbers of 16 digits. */
export const MAX_PLACE_BYTES = 52;

/** Where a message stands in the history of its topic. */
export interface MessagePlace {
  /** Its number. */
  readonly offset: number;
  /** The number of the one before it. */
  readonly prev: number;
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
function withPlace(envelope: string, { offset, prev }: MessagePlace): string {
  return `${envelope.slice(0, -1)},"offset":${offset},"prev":${prev}}`;
}
