/**
 * What waits to be sent: an encoded envelope, shared by all who get it, and
 * how several of them become few frames.
 *
 * @module
 */
import type { Frame } from "../../transport/connection.ts";

/** Several envelopes are joined into frames of at most this many bytes. */
export const MAX_JOINED_BYTES = 65_536;

/** One encoded envelope. Immutable, so that any number of sessions can share it. */
export interface Entry {
  /** The envelope as text, or a binary message's whole frame. */
  readonly frame: Frame;
  /** Its size in bytes. */
  readonly size: number;
  /** The topic, for policies and for telling what was dropped. */
  readonly topic: string;
  /** Position in the order of everything sent in one {@linkcode Turn}. */
  readonly sequence: number;
  /** Answers and control are never dropped. */
  readonly isProtected: boolean;
}

/** A frame made of one or more consecutive entries. */
export interface PackedFrame {
  /** What goes to the wire. */
  readonly frame: Frame;
  /** Its size in bytes. */
  readonly size: number;
  /** Index after its last entry. */
  readonly end: number;
}

/**
 * Packs entries into as few frames as the wire allows.
 *
 * @param entries What to send, in order.
 * @param from Index of the first entry to pack.
 * @param joins Whether several text envelopes may share a frame.
 * @returns The next frame.
 */
export function packNext(entries: readonly Entry[], from: number, joins: boolean): PackedFrame {
  let { frame, size } = entries[from]!;
  let end = from + 1;
  while (joins && typeof frame === "string" && end < entries.length) {
    const next = entries[end]!;
    if (typeof next.frame !== "string" || size + 1 + next.size > MAX_JOINED_BYTES) break;
    frame += "\n" + next.frame;
    size += 1 + next.size;
    end++;
  }
  return { frame, size, end };
}

/**
 * Packs all entries.
 *
 * @param entries What to send, in order.
 * @param joins Whether several text envelopes may share a frame.
 * @returns The frames, in order.
 */
export function packAll(entries: readonly Entry[], joins: boolean): PackedFrame[] {
  const frames: PackedFrame[] = [];
  for (let from = 0; from < entries.length; from = frames[frames.length - 1]!.end) {
    frames.push(packNext(entries, from, joins));
  }
  return frames;
}
