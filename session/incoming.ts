/**
 * Messages and notes from the peer, parsed and not yet checked.
 *
 * @module
 */
import type { Envelope, TraceContext } from "./wire/envelope.ts";

/** A message that was parsed, but not checked. */
export interface Incoming {
  /** Kind of the event, among all events of a topic. */
  readonly kind: "message";
  /** The topic. */
  readonly topic: string;
  /** The data, unchecked. */
  readonly data: unknown;
  /** The verified user whose client published the message, according to the server. */
  readonly from?: string | undefined;
  /** Id of a request, which needs a reply; absent for other messages. */
  readonly id?: number | undefined;
  /** Number of the message, if numbered messages are handled in turn. */
  readonly seq?: number | undefined;
  /**
   * Offset in the history of the topic, if the topic has a history; always together with `prev`.
   */
  readonly offset?: number | undefined;
  /** Offset of the message before. */
  readonly prev?: number | undefined;
  /** Tag that identifies the publication. */
  readonly tag?: string | undefined;
  /** Trace context of the sender. */
  readonly trace?: TraceContext | undefined;
  /** The reason why the reply is no longer needed; set while the message waits. */
  cancelled?: unknown;
}

/**
 * Notes on a topic beside its messages: messages are missing, a message is not for this end, or the
 * server ended the subscription.
 */
export type TopicNote = Extract<Envelope, { kind: "gap" | "skip" | "dropped" | "unsubscribed" }>;

/** Receives the messages of one topic in place of the session's own queue. */
export interface TopicSink {
  /** Offers a message, or a note between messages. */
  offer(event: Incoming | TopicNote, size: number): void;
}

/** Counts envelopes of the peer, and refuses those above a limit. */
export interface Meter {
  /**
   * Counts an envelope; true if the envelope must not be handled, and the peer was told of the
   * refusal.
   */
  refuses(envelope: Envelope, size: number): boolean;
}

/** Envelopes that are not messages. */
export type Control = Exclude<Envelope, { kind: "message" | "malformed" | "unknown" | "cancel" }>;

/** Counters of the receiving half. */
export interface InboundStats {
  /** Messages received. */
  readonly receivedMessages: number;
  /**
   * Bytes received. Text counts its length in UTF-16 units, which is less than its bytes beyond
   * ASCII.
   */
  readonly receivedBytes: number;
  /** Messages that wait to be handled. */
  readonly waitingMessages: number;
  /** Bytes of the messages that wait. */
  readonly waitingBytes: number;
  /** Messages discarded because the application never read any. */
  readonly unreadMessages: number;
  /** Malformed or invalid messages. */
  readonly invalidMessages: number;
  /** Envelopes with no known key. */
  readonly unknownEnvelopes: number;
  /** Violations of the protocol: invalid messages, and too large ones. */
  readonly protocolErrors: number;
}
