/** Recovery of a subscription: positions in a history, gaps, and the server's replies. */
import type { RequestError } from "../../errors.ts";

/** A position in the history of a topic: all publications up to this offset are known. */
export interface HistoryPosition {
  /** Name of one continuous history. Offsets of different epochs are unrelated. */
  readonly epoch: string;
  /** Offset of the newest known publication; 0 before the first one. */
  readonly offset: number;
  /**
   * Tag of the publication at the offset, which reveals a history with another publication there.
   * Absent if there is no publication at the offset, or the broker provided no tag.
   */
  readonly tag?: string | undefined;
}

/**
 * Reasons why messages are missing or may be missing:
 *
 * - `no-history`: the topic has no history.
 * - `new-epoch`: the history started over; the broker may have lost the old one.
 * - `too-old`: the messages after the position are no longer kept.
 * - `beyond-head`: the position is newer than the broker's newest message.
 * - `interrupted`: the broker was unreachable or slow to respond, and the topic has no history to
 *   catch up from.
 * - `unavailable`: the broker could not be read.
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

/** Reply to a subscription; all keys are absent for a topic without a history. */
export interface SubscribeAnswer {
  /** Epoch of the following messages. */
  readonly epoch?: string | undefined;
  /** Offset before the following messages: the first of them has this offset as `prev`. */
  readonly offset?: number | undefined;
  /** Tag of the publication at `offset`, if known. */
  readonly tag?: string | undefined;
  /** Newest offset at the time of the reply; a client with this offset has caught up. */
  readonly head?: number | undefined;
  /** True if all messages since the requested position follow. */
  readonly recovered?: boolean | undefined;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /**
   * The only key, if the session subscribed to the topic again or unsubscribed before this reply.
   * The client receives the failure `superseded`.
   */
  readonly isSuperseded?: true | undefined;
  /** The only key, if the subscription is rejected. The client receives this failure. */
  readonly refusal?: RequestError["failure"] | undefined;
}

/** Notice that messages of a topic are or may be missing at this position. */
export interface Gap {
  /** The topic. */
  readonly gap: string;
  /** Reason for the gap. */
  readonly reason: RecoveryReason;
  /** Epoch of the following messages, if the topic has a history. */
  readonly epoch?: string | undefined;
  /** Offset before the following messages. */
  readonly offset?: number | undefined;
  /** Tag of the publication at `offset`, if known. */
  readonly tag?: string | undefined;
}

/**
 * Notice that the server removed this session from a topic. No more messages of the topic follow.
 */
export interface Unsubscribed {
  /** The topic. */
  readonly unsubscribed: string;
  /**
   * Stable code to branch on: `removed` by the application, `forbidden` after a change of
   * permissions, `too-many` and `unavailable` for temporary rejections, or a code of the
   * application.
   */
  readonly code: string;
  /** Reason, for humans; may be empty. */
  readonly reason: string;
}

/**
 * Code of an `unsubscribed` after a handover: the topic continues in the session to which the
 * client moved.
 */
export const MOVED = "handover";

/**
 * Codes of temporary rejections, after which a client retries later. All others are final. After
 * `handover`, a client that has not used the next session yet subscribes there.
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
   * Known position: the messages after it follow. By default the subscription starts with the next
   * publication.
   */
  readonly since?: HistoryPosition | undefined;
  /** Maximum number of newest messages to send if `since` is absent or unusable; 0 by default. */
  readonly last?: number | undefined;
}

/** Result of resuming a subscription after a possible loss of messages. */
export interface Recovery {
  /** True if all missed messages follow. */
  readonly recovered: boolean;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /**
   * Position before the following messages; absent if unknown, for example for a topic without a
   * history.
   */
  readonly position?: HistoryPosition | undefined;
}

/** Prefix of the topics of durable streams; the id of the stream follows. */
export const STREAM_PREFIX = "stream:";

/**
 * Epoch of all topics of durable streams. Offsets count the stream's records, and the tag is the
 * stream's identity.
 */
export const STREAM_EPOCH = "stream";

/** Code of an `unsubscribed` at the end of a complete durable stream. */
export const STREAM_ENDED = "ended";
