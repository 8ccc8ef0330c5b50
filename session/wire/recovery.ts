/** Recovery of a subscription: positions in a history, gaps, and the answers of a server. */
import type { RequestError } from "../../errors.ts";

/** A position in the history of a topic: all publications up to this offset are known. */
export interface HistoryPosition {
  /** Name of one unbroken history. Offsets of different epochs are unrelated. */
  readonly epoch: string;
  /** Offset of the newest known publication; 0 before the first one. */
  readonly offset: number;
  /**
   * Tag of the publication at the offset, by which a history with another publication there is
   * detected. Absent without a publication at the offset, and where the engine gave no tag.
   */
  readonly tag?: string | undefined;
}

/**
 * Reasons why messages are missing or may be missing:
 *
 * - `no-history`: the topic has no history.
 * - `new-epoch`: the history began anew; the engine may have lost the old one.
 * - `too-old`: the messages after the position are no longer kept.
 * - `beyond-head`: the position is newer than the newest message of the engine.
 * - `interrupted`: the engine was away or late, and the topic has no history to catch up from.
 * - `unavailable`: the engine could not be read.
 * - `dropped`: the peer's send queue was full, and its policy dropped the messages.
 * - `too-large`: the message is larger than `maxMessageBytes` of the receiver.
 */
export type RecoveryReason =
  | "no-history"
  | "new-epoch"
  | "too-old"
  | "beyond-head"
  | "interrupted"
  | "unavailable"
  | "dropped"
  | "too-large";

/** Answer to a subscription; all keys are absent for a topic without history. */
export interface SubscribeAnswer {
  /** Epoch of the following messages. */
  readonly epoch?: string | undefined;
  /** Offset before the following messages: the first of them has this offset as `prev`. */
  readonly offset?: number | undefined;
  /** Tag of the publication at `offset`, where known. */
  readonly tag?: string | undefined;
  /** Newest offset at the time of the answer; a client with this offset has caught up. */
  readonly head?: number | undefined;
  /** True if all messages since the requested position follow. */
  readonly recovered?: boolean | undefined;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /**
   * Present, and alone, if the session subscribed to the topic again or left the topic before this
   * answer. The client gets the failure `superseded`.
   */
  readonly isSuperseded?: true | undefined;
  /** Present, and alone, if the topic cannot be subscribed to. The client gets this failure. */
  readonly refusal?: RequestError["failure"] | undefined;
}

/** Notice that messages of a topic are missing here, or may be missing. */
export interface Gap {
  /** The topic. */
  readonly gap: string;
  /** Reason for the gap. */
  readonly reason: RecoveryReason;
  /** Epoch of the following messages, if the topic has a history. */
  readonly epoch?: string | undefined;
  /** Offset before the following messages. */
  readonly offset?: number | undefined;
  /** Tag of the publication at `offset`, where known. */
  readonly tag?: string | undefined;
}

/**
 * Notice that the server removed this session from a topic. No more messages of the topic follow.
 */
export interface Unsubscribed {
  /** The topic. */
  readonly unsubscribed: string;
  /**
   * Stable code to branch on: `removed` by the application, `forbidden` after a change of rights,
   * `too-many` and `unavailable` for temporary refusals, or one of the application's own.
   */
  readonly code: string;
  /** Reason, for people; may be empty. */
  readonly reason: string;
}

/**
 * Code of an `unsubscribed` after a handover: the topic continues in the session to which the
 * client moved.
 */
export const MOVED = "handover";

/**
 * Codes of temporary refusals, after which a client tries again later. All others are final. A client
 * that hears of its move before it uses the next session asks there.
 */
export const CODES_FOR_NOW: ReadonlySet<string> = new Set([
  "too-many",
  "unavailable",
  "superseded",
  "handover", // `MOVED`: the text itself makes pages smaller.
]);

/** Start of a subscription to a topic with a history. */
export interface HistoryOptions {
  /**
   * Known position: the messages after this position follow. By default the subscription starts
   * with the next publication.
   */
  readonly since?: HistoryPosition | undefined;
  /** Most of the newest messages to send if `since` is absent or of no use; 0 by default. */
  readonly last?: number | undefined;
}

/** Result of a resumed subscription after a possible loss of messages. */
export interface Recovery {
  /** True if all missed messages follow. */
  readonly recovered: boolean;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /** Position before the following messages; absent if unknown, as for a topic without history. */
  readonly position?: HistoryPosition | undefined;
}

/** Prefix of the topics of durable streams; the id of the stream follows. */
export const STREAM_PREFIX = "stream:";

/**
 * Epoch of all topics of durable streams. Offsets count the records of the stream, and the tag is the
 * identity of the stream.
 */
export const STREAM_EPOCH = "stream";

/** Code of an `unsubscribed` at the end of a complete durable stream. */
export const STREAM_ENDED = "ended";
