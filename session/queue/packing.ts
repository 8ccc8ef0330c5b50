/**
 * Queue entries, each an encoded envelope shared by all receivers, and their packing into few
 * frames.
 */
import type { Frame } from "../../transport/connection.ts";

/** Most bytes of a frame that joins several envelopes. */
export const MAX_JOINED_BYTES = 65_536;

/** One encoded envelope. Immutable, so that any number of sessions can share it. */
export interface Entry {
  /** The envelope as text, or a binary message's whole frame. */
  readonly frame: Frame;
  /** Size in bytes. */
  readonly size: number;
  /** The topic, for overflow policies and for reports of dropped messages. */
  readonly topic: string;
  /** Position in the order of everything sent in one {@linkcode Turn}. */
  readonly sequence: number;
  /** True for answers and control, which are never dropped. */
  readonly isProtected: boolean;
}

/** A frame made of one or more consecutive entries. */
export interface PackedFrame {
  /** The frame to send. */
  readonly frame: Frame;
  /** Size in bytes. */
  readonly size: number;
  /** Index after the last packed entry. */
  readonly end: number;
}

/**
 * Packs entries into one frame, as many as the connection allows.
 *
 * @param entries The entries to send, in order.
 * @param from Index of the first entry to pack.
 * @param joins True if several text envelopes may share a frame.
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
 * @param entries The entries to send, in order.
 * @param joins True if several text envelopes may share a frame.
 * @returns The frames, in order.
 */
export function packAll(entries: readonly Entry[], joins: boolean): PackedFrame[] {
  const frames: PackedFrame[] = [];
  for (let from = 0; from < entries.length; from = frames[frames.length - 1]!.end) {
    frames.push(packNext(entries, from, joins));
  }
  return frames;
}
