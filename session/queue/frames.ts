/** Envelopes that wait to be sent, and the frames made of them. */
import type { Frame } from "../../transport/connection.ts";
import { type EncodedMessage, encodeEnvelope } from "../wire/encode.ts";
import { utf8Length } from "../wire/utf8.ts";

/** Observes the frames of one session, for an inspector. MUST NOT throw. */
export interface FrameTap {
  /** Called with a frame of the peer, before the session handles it. */
  received(frame: Frame): void;
  /** Called with a frame that this side passes to the connection. */
  sent(frame: Frame): void;
}

/** Maximum size of a frame that joins several envelopes, in bytes. */
export const MAX_JOINED_BYTES = 65_536;

/**
 * One encoded envelope that waits to be sent. It is immutable, so that any number of sessions can
 * share it.
 */
export interface QueuedMessage extends EncodedMessage {
  /** Position in the order of everything that one `Flusher` sends. */
  readonly sequence: number;
  /** True for replies and control envelopes, which are never dropped. */
  readonly isProtected: boolean;
  /** Number of messages in the frame; 1 by default. */
  readonly messages?: number | undefined;
  /** True for a notice of dropped messages, which doesn't count towards the bounds. */
  readonly isNotice?: boolean | undefined;
  /** True for a message to many sessions. Such a message contains no secret of a single session. */
  readonly isShared?: boolean | undefined;
}

/** A frame made of one or more consecutive entries. */
export interface PackedFrame {
  /** The frame to send. */
  readonly frame: Frame;
  /** Size in bytes. */
  readonly size: number;
  /** Index after the last packed entry. */
  readonly end: number;
  /** Number of messages in the frame. */
  readonly messages: number;
  /** The packed entries, if all of them are for many sessions. */
  readonly parts: readonly QueuedMessage[] | undefined;
}

/**
 * Packs as many entries into one frame as the connection allows.
 *
 * @param entries The entries to send, in order.
 * @param from Index of the first entry to pack.
 * @param joins True if several text envelopes may share a frame.
 */
export function packNext(
  entries: readonly QueuedMessage[],
  from: number,
  joins: boolean,
): PackedFrame {
  let { frame, size, messages = 1, isShared } = entries[from]!;
  let end = from + 1;
  while (joins && typeof frame === "string" && end < entries.length) {
    const next = entries[end]!;
    if (typeof next.frame !== "string" || size + 1 + next.size > MAX_JOINED_BYTES) break;
    frame += "\n" + next.frame;
    size += 1 + next.size;
    messages += next.messages ?? 1;
    isShared &&= next.isShared;
    end++;
  }
  return { frame, size, end, messages, parts: isShared ? entries.slice(from, end) : undefined };
}

/**
 * Packs all entries.
 *
 * @param entries The entries to send, in order.
 * @param joins True if several text envelopes may share a frame.
 * @returns The frames, in order.
 */
export function packAll(entries: readonly QueuedMessage[], joins: boolean): PackedFrame[] {
  const frames: PackedFrame[] = [];
  for (let from = 0; from < entries.length; from = frames[frames.length - 1]!.end) {
    frames.push(packNext(entries, from, joins));
  }
  return frames;
}

/** Merges two ordered lists into one. */
export function mergeEntries(
  a: readonly QueuedMessage[],
  b: readonly QueuedMessage[],
): readonly QueuedMessage[] {
  if (a.length === 0) return b;
  return [...a, ...b].sort((one, other) => one.sequence - other.sequence);
}

/** Creates the notice that replaces a message that is too large for the peer. */
export function gapOf({ topic, position, sequence }: QueuedMessage): QueuedMessage {
  const { epoch, offset, tag } = position ?? {};
  const frame = encodeEnvelope({ gap: topic, reason: "too-large", epoch, offset, tag });
  return { frame, size: utf8Length(frame), topic, sequence, isProtected: true };
}
