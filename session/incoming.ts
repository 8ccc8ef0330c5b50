/**
 * Messages and notes as they come from the peer, read and not yet checked.
 *
 * @module
 */
import type { Envelope, TraceContext } from "./wire/envelope.ts";

/** A message that was read, but not checked. */
export interface Incoming {
  /** What it is among all that comes of a topic. */
  readonly kind: "message";
  /** Its topic. */
  readonly topic: string;
  /** Its data, as it came. */
  readonly data: unknown;
  /** The verified user whose client published it, as a server says. */
  readonly from?: string | undefined;
  /** Present where an answer is owed. */
  readonly id?: number | undefined;
  /** Its number, where it is to be handled in its turn. */
  readonly seq?: number | undefined;
  /** Where it stands in the history of its topic, if that has one; never without `prev`. */
  readonly offset?: number | undefined;
  /** The offset before it. */
  readonly prev?: number | undefined;
  /** Names the publication. */
  readonly tag?: string | undefined;
  /** Where it belongs in a trace of its sender. */
  readonly trace?: TraceContext | undefined;
  /** Why nobody waits for the answer any more; written while the message waits. */
  cancelled?: unknown;
}

/**
 * Notes on a topic beside its messages: some are missing, one is not for this end, or the server
 * took this end off the topic.
 */
export type TopicNote = Extract<Envelope, { kind: "gap" | "skip" | "dropped" | "unsubscribed" }>;

/** Takes what comes of one topic off the session's own queue. */
export interface TopicSink {
  /** Takes a message, or what is told in between. */
  offer(event: Incoming | TopicNote, size: number): void;
}

/** Counts what the peer sends, and refuses what is too much. */
export interface Meter {
  /** Counts an envelope of a size; true if it is not to be handled, and the peer was told. */
  refuses(envelope: Envelope, size: number): boolean;
}

/** Envelopes that are not messages. */
export type Control = Exclude<Envelope, { kind: "message" | "malformed" | "unknown" | "cancel" }>;

/** Counters of the receiving half. */
export interface InboundStats {
  /** Messages that came. */
  readonly receivedMessages: number;
  /** Bytes of what came; of text, its length in UTF-16 units, which is less beyond ASCII. */
  readonly receivedBytes: number;
  /** Messages that wait to be handled. */
  readonly waitingMessages: number;
  /** Their bytes. */
  readonly waitingBytes: number;
  /** Messages that were discarded because nobody ever read any. */
  readonly unreadMessages: number;
  /** Malformed or invalid messages. */
  readonly invalidMessages: number;
  /** Envelopes with no known key. */
  readonly unknownEnvelopes: number;
  /** What the peer may not send: invalid messages, and those that are too large. */
  readonly protocolErrors: number;
}
