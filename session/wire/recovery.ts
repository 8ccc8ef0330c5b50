/** Recovery of a subscription: positions in a history, gaps, and the server's replies. */
import type { RequestError } from "../../errors.ts";

/** A position in the history of a topic. All publications up to this offset are known. */
export interface HistoryPosition {
  /** Name of one continuous history. Offsets of different epochs are unrelated. */
  readonly epoch: string;
  /** Offset of the newest known publication; 0 before the first one. */
  readonly offset: number;
  /**
   * The tag of the publication at the offset. If the history has another publication at that
   * offset, the other one has a different tag. Absent if there is no publication at the offset, or
   * if the broker provided no tag.
   */
  readonly tag?: string | undefined;
}

/**
 * The reasons why messages are, or may be, missing:
 *
 * - `no-history`: the topic has no history.
 * - `new-epoch`: the history started over; the broker may have lost the old one.
 * - `too-old`: the messages after the position are no longer kept.
 * - `beyond-head`: the position is newer than the broker's newest message.
 * - `interrupted`: the broker was unreachable or slow to respond, and the topic has no history to
 *   catch up from; or nodes on which the topic has no history may have published in the meantime, as
 *   in a rolling deploy that adds or removes a history.
 * - `unavailable`: the broker could not be read.
 * - `dropped`: the peer's send queue was full, and its policy dropped the messages; or no loop read
 *   the subscription, and its queue was full.
 * - `too-large`: the message is larger than the receiver's `maxMessageBytes`.
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

/** The reply to a subscription. For a topic without a history, all keys are absent. */
export interface SubscribeReply {
  /** Epoch of the following messages. */
  readonly epoch?: string | undefined;
  /** Offset before the following messages: the first of them has this offset as `prev`. */
  readonly offset?: number | undefined;
  /** Tag of the publication at `offset`, if known. */
  readonly tag?: string | undefined;
  /**
   * The newest offset at the time of the reply. A client that has reached this offset has caught
   * up.
   */
  readonly head?: number | undefined;
  /** The collections of a state whose rows are not in its stream. */
  readonly ephemeral?: readonly string[] | undefined;
  /** The other collections of a state that the server's contract defines. */
  readonly stored?: readonly string[] | undefined;
  /** True if all messages since the requested position follow. */
  readonly recovered?: boolean | undefined;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /**
   * If the session subscribed to the topic again or unsubscribed before this reply, this is the
   * only key. The client receives the failure `superseded`.
   */
  readonly isSuperseded?: true | undefined;
  /** If the subscription is rejected, this is the only key. The client receives this failure. */
  readonly rejection?: RequestError["failure"] | undefined;
}

/** A notice that messages of a topic are, or may be, missing at this position. */
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
 * A notice that the server removed this session from a topic. No more messages of the topic follow.
 */
export interface Unsubscribed {
  /** The topic. */
  readonly unsubscribed: string;
  /**
   * A stable code to branch on. It is `removed` if the application removed the session, `forbidden`
   * after a change of permissions, `too-many` or `unavailable` for temporary rejections, or an
   * application-defined code.
   */
  readonly code: string;
  /** Reason, for humans; may be empty. */
  readonly reason: string;
}

/**
 * The code of an `unsubscribed` after a handover. The topic continues in the session to which the
 * client moved.
 */
export const MOVED = "handover";

/**
 * The codes of temporary rejections, after which a client retries later. All other codes are final.
 * After `handover`, a client that has not moved to the next session yet subscribes in that session.
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
   * The last known position, on topics with a history. The subscription starts with the messages
   * after it.
   *
   * @default {the next publication}
   */
  readonly since?: HistoryPosition | undefined;
  /**
   * The maximum number of newest messages to send from the history if `since` is absent or cannot
   * be used.
   *
   * @default {0}
   */
  readonly last?: number | undefined;
}

/** Result of resuming a subscription after a possible loss of messages. */
export interface Recovery {
  /** True if all missed messages follow. */
  readonly recovered: boolean;
  /** Reason why messages are missing. */
  readonly reason?: RecoveryReason | undefined;
  /**
   * The position before the following messages; absent if it is unknown, for example for a topic
   * without a history.
   */
  readonly position?: HistoryPosition | undefined;
}

/** Prefix of the topics of durable streams. The id of the stream follows. */
export const STREAM_PREFIX = "stream:";

/**
 * The epoch of all topics of durable streams. Offsets count the stream's records, and the tag
 * identifies the stream.
 */
export const STREAM_EPOCH = "stream";

/** Code of an `unsubscribed` at the end of a complete durable stream. */
export const STREAM_ENDED = "ended";
