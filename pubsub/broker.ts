/** The contract between topics and the broker that carries publications between nodes. */
import { exceedsBytes, utf8Length } from "../session/wire/utf8.ts";
import type { StatusFeed } from "../base/status_feed.ts";
import type { HistoryPosition } from "../session/wire/recovery.ts";

/**
 * Prefix of the topics that nodes use internally. Sessions and applications cannot use these
 * topics.
 */
export const INTERNAL_PREFIX = "$skein:";

/** One publication, encoded once: the same bytes are sent to the broker and to the sockets. */
export interface Publication {
  /** The topic. */
  readonly topic: string;
  /** The whole message, encoded: an envelope as text, or a binary message's frame. */
  readonly payload: string | Uint8Array;
  /**
   * Size of the payload in bytes (UTF-8 if it is text); left out if it has not been counted yet.
   */
  readonly bytes?: number | undefined;
  /** Id of a session or of a client that does not receive the publication. */
  readonly except?: string | undefined;
  /**
   * Position in the history of the topic; assigned by the broker, never by the publisher. `prev` is
   * the offset of the previous publication on the topic, 0 for the first one.
   */
  readonly position?: HistoryPosition & { readonly prev: number } | undefined;
}

/** Position of a publication in the history of the topic. */
export type PublicationPosition = NonNullable<Publication["position"]>;

/**
 * Returns the size of a payload, and counts its bytes unless the publisher has already counted
 * them.
 *
 * @returns The size in bytes, in UTF-8 for a text.
 */
export function payloadBytes({ payload, bytes }: Publication): number {
  return bytes ?? (typeof payload === "string" ? utf8Length(payload) : payload.length);
}

/**
 * Bytes that each kept publication or record counts in addition to its payload: about the size of
 * an object in memory, a row in a file or an entry in a broker. Otherwise, payloads of one byte
 * could use thirty times as much space as a bound allows.
 */
export const ENTRY_BYTES = 64;

/**
 * Computes how many bytes kept publications or records count toward byte bounds.
 *
 * @param bytes Bytes of all payloads.
 * @param entries Number of publications or records.
 * @returns The bytes, including {@linkcode ENTRY_BYTES} for each entry.
 */
export function countedBytes(bytes: number, entries: number): number {
  return bytes + ENTRY_BYTES * entries;
}

/**
 * Rejects a topic or key that is too long for the broker, before the call has any effect.
 *
 * @param name The topic or key.
 * @param maxBytes Maximum number of bytes that the broker accepts.
 * @throws {RangeError} If the name has more bytes.
 */
export function checkNameBytes(name: string, maxBytes: number): void {
  if (!exceedsBytes(name, maxBytes)) return;
  throw new RangeError(
    `The topic or key is too long: it must have at most ${maxBytes} bytes, received ${
      utf8Length(name)
    }`,
  );
}

/** Receives the publications of a topic. MUST NOT throw. */
export type PublicationListener = (publication: Publication) => void;

/** Bounds of the history of a topic. Whichever bound is reached first applies. */
export interface HistoryBounds {
  /**
   * Maximum number of publications.
   *
   * @default {1000}
   */
  readonly size: number;
  /**
   * Longest time that a publication is kept, in milliseconds; at most 100 years.
   *
   * @default {300000}
   */
  readonly ttlMs: number;
  /**
   * Maximum number of bytes of all publications together; each counts its payload and 64 bytes.
   *
   * @default {1048576}
   */
  readonly bytes: number;
}

/** The history of a topic, as servers pass it to brokers. */
export interface TopicHistory extends HistoryBounds {
  /**
   * The pattern of topics whose histories have the same bounds. A broker may keep these together,
   * and must then keep the topics of each pattern separate; see {@linkcode BrokerHistory.separates}.
   */
  readonly pattern?: string | undefined;
  /**
   * The widest bounds of any node, if other nodes currently have wider ones, as during a rolling
   * deploy. The broker MUST keep publications within these, and return only publications within the
   * node's own bounds.
   */
  readonly widest?: HistoryBounds | undefined;
  /**
   * True if all nodes are known and have these bounds. A broker may then narrow a storage that was
   * created with the wider bounds of earlier nodes.
   */
  readonly isAgreed?: true | undefined;
}

/**
 * Returns the bounds within which a broker keeps a topic's publications.
 *
 * @returns The widest bounds of any node.
 */
export function keptBounds(history: TopicHistory): HistoryBounds {
  return history.widest ?? history;
}

/**
 * A key by which a broker recognizes a repeated publication, so that it is stored once. A key
 * belongs to one topic. Keys and numbers have no order: one that was not stored before is stored,
 * even if it is lower than others.
 *
 * - **A text** of 1 to 128 bytes without zero characters, such as `order-7`: each one is remembered
 *   for two minutes or longer after it was stored.
 * - **A producer and a number,** for a producer that repeats only what it has just published: of
 *   each producer, the last 64 numbers that were stored on the topic are remembered, for the same
 *   time.
 */
export type PublicationKey = string | {
  /** Name of the producer: 1 to 128 bytes. */
  readonly producer: string;
  /** An integer of 0 or more. */
  readonly number: number;
};

/** Minimum time for which a broker remembers a key, in milliseconds. */
export const KEY_WINDOW_MS = 120_000;

/** Maximum size of a key, or of a producer's name, in bytes. */
export const MAX_KEY_BYTES = 128;

/** Number of a producer's publications on a topic whose numbers are remembered: the last ones. */
export const PRODUCER_NUMBERS = 64;

/** Options for {@linkcode Broker.subscribe}. */
export interface BrokerSubscribeOptions {
  /**
   * Bounds of the history, for a topic with a history. Only subscriptions with `history` receive
   * appended publications.
   */
  readonly history?: TopicHistory | undefined;
  /**
   * Called when publications may have been missed, once the broker is reachable and delivers new
   * publications. MUST NOT throw.
   */
  readonly onInterrupted?: (() => void) | undefined;
}

/** A node's subscription to a topic. Disposing of it never rejects. */
export interface BrokerSubscription extends AsyncDisposable {
  /** Resolves once publications of other nodes reach this node. Never rejects. */
  readonly ready: Promise<void>;
}

/** State of a broker; branch on `name`. */
export type BrokerStatus =
  | {
    /** The broker is connecting to the store for the first time, or is connected. */
    readonly name: "connecting" | "connected";
  }
  | {
    /** The store is unreachable, or rejects writes; the broker keeps trying. */
    readonly name: "interrupted";
    /** Start of the outage, in milliseconds since the Unix epoch. */
    readonly since: number;
    /** Error of the client library. */
    readonly error?: unknown;
    /** True if appends are rejected in the meantime; otherwise, publications wait. */
    readonly rejects?: true | undefined;
    /**
     * True if the broker can't start because another version of Skein has stored the data, which
     * `error` describes. A server that finds this fails, unless the application observes `status`.
     */
    readonly cannotStart?: true | undefined;
  }
  | {
    /** The broker was closed. */
    readonly name: "closed";
  };

/** Counters of a broker since its creation. */
export interface BrokerStats {
  /** Publications that the broker accepted, on topics with and without a history. */
  readonly published: number;
  /** Publications that came from the broker. */
  readonly received: number;
  /** Publications that wait to be sent to the broker. */
  readonly waiting: number;
  /** Publications dropped because the broker was unreachable for too long, or too many waited. */
  readonly dropped: number;
  /** Outages of the broker. */
  readonly interruptions: number;
  /** Pages of histories read from the broker. */
  readonly reads: number;
  /** Histories whose publications were forgotten because of too many topics or bytes. */
  readonly forgotten?: number | undefined;
  /** Messages from other programs that were not publications and were ignored. */
  readonly ignored?: number | undefined;
}

/** Options for {@linkcode BrokerHistory.read}. */
export interface ReadHistoryOptions {
  /** Bounds of the history. */
  readonly bounds: TopicHistory;
  /** Offset after which to read; if left out, the page starts with the oldest publication. */
  readonly after?: number | undefined;
  /** Number of newest publications to read, if `after` is left out. */
  readonly last?: number | undefined;
  /** Maximum number of publications in the page. */
  readonly maxMessages: number;
  /** Maximum number of payload bytes in the page; a single publication may be larger. */
  readonly maxBytes: number;
  /** Ends the wait for the broker. */
  readonly signal?: AbortSignal | undefined;
}

/** One page of a history. */
export interface HistoryPage {
  /** The epoch at the time of reading. */
  readonly epoch: string;
  /** The newest offset of the topic; 0 if no publication is known. */
  readonly head: number;
  /**
   * Tag of the publication at `after`, if it is still kept and has a tag; `null` if the broker
   * knows that no publication has this offset.
   */
  readonly anchor?: string | null | undefined;
  /**
   * The publications with positions, oldest first. A page that reaches the head, or is empty, is
   * the last one.
   */
  readonly publications: readonly Publication[];
}

/**
 * Keeps publications. The offsets of a topic grow but need not be consecutive, because each
 * publication names the previous offset.
 *
 * - `append` MUST keep the publication and publish it, with its position, to all subscriptions with
 *   `history`. It MUST do either both or neither.
 * - `append` MUST keep the order of one node's calls on a topic, even across an outage of the
 *   broker. It MUST send an unacknowledged publication again, in such a way that it is stored once.
 * - The epoch MUST change whenever the broker may have lost acknowledged publications.
 * - Each position MUST have a `tag` of 6 to 8 characters (letters, digits, `-` and `_`), derived
 *   from at least 32 bits of an id that is unique to the publication, never from the payload. Every
 *   delivery and every read of a publication MUST return the same tag. A page MUST include the tag
 *   of the publication at `after`, if it is still kept; this is how a returning client detects
 *   another copy of the history.
 * - `read` MUST NOT create state in the broker: a topic without publications uses no resources
 *   there.
 */
export interface BrokerHistory {
  /**
   * Time for which the broker can distinguish an empty history from an earlier history of the
   * topic, in milliseconds. A position before the first publication is trusted for this time at
   * most. If left out, there is no limit.
   */
  readonly remembersMs?: number | undefined;
  /**
   * Maximum number of texts that a topic remembers as keys. If left out, there is no limit. A broker
   * whose store counts no keys may apply the limit to each node's own appends.
   */
  readonly maxKeys?: number | undefined;
  /**
   * True if a topic has a separate history for each pattern, so that nodes with different patterns
   * for the topic don't receive each other's publications. The names of a pattern's parameters don't
   * count.
   */
  readonly separates?: boolean | undefined;
  /**
   * Publishes on a topic with a history.
   *
   * @param publication The publication. MUST NOT be changed afterwards.
   * @param options Bounds of the history, and the key by which the broker recognizes a repetition.
   * It MUST remember a key for as long as {@linkcode PublicationKey} says, also if the history has
   * already dropped the publication, and whichever node appends. It MUST reject a further text
   * rather than forget one early.
   * @returns Resolves when the broker has stored the publication. The result has no position if the
   * publication was a repetition, or if the broker became unreachable before the epoch was known
   * again.
   * @throws {BrokerError} If the publication was dropped because too many were waiting, the broker
   * was unreachable for too long, or the broker was closed.
   * @throws {LimitError} If the topic already remembers `maxKeys` texts.
   * @throws {RangeError} If the broker does not support the topic or the producer.
   */
  append(
    publication: Publication,
    options: {
      readonly bounds: TopicHistory;
      readonly key?: PublicationKey | undefined;
      /**
       * The client that publishes; left out for the application. If a broker has to forget topics,
       * it starts with the topics of the client that created the most within the last hour.
       */
      readonly publisher?: string | undefined;
    },
  ): Promise<{ readonly position?: HistoryPosition | undefined }>;
  /**
   * Reads a page.
   *
   * @param topic A topic with a history.
   * @param options See {@linkcode ReadHistoryOptions}.
   * @returns Publications after the offset, with the history's epoch and newest offset.
   * @throws {BrokerError} If the broker is unreachable.
   * @throws {RangeError} If the broker does not support the topic.
   */
  read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage>;
}

/** Options for {@linkcode BrokerHistory.append}. */
export type AppendOptions = Parameters<BrokerHistory["append"]>[1];

/** Result of {@linkcode BrokerHistory.append}. */
export type Appended = Awaited<ReturnType<BrokerHistory["append"]>>;

/**
 * State that all nodes share. Every operation MUST be atomic in the broker, MUST reject with a
 * `BrokerError` while the broker is unreachable, and MUST reject with a `RangeError` for a key or
 * scope that the broker does not support.
 */
export interface BrokerStore {
  /**
   * Records the newest number of a row, such as that of a client's last message.
   *
   * @param key The row.
   * @param number The number, an integer of 0 or more.
   * @param windowMs Minimum time for which the number is remembered, in milliseconds; at most a
   * week.
   * @param options The client that the row is for; left out for the application. If a broker has to
   * forget rows early, it starts with the rows of the client that created the most within the last
   * hour.
   * @returns True if the number is above the previous one, and is now recorded.
   */
  advance(
    key: string,
    number: number,
    windowMs: number,
    options?: { readonly owner?: string | undefined },
  ): Promise<boolean>;
  /**
   * Reads the newest number of a row.
   *
   * @param key The row.
   * @param windowMs The time passed to `advance` for the row: a broker may store rows for hours
   * and rows for days separately.
   * @returns The number; -1 if no number is remembered.
   */
  newest(key: string, windowMs: number): Promise<number>;
  /**
   * Claims a slot in a scope, or renews the claim.
   *
   * @param scope The scope, such as a user.
   * @param member The claimant, such as a session; unique across all nodes.
   * @param options Maximum number of members of the scope, and the time for which a claim holds
   * without renewal, in milliseconds.
   * @returns True if the slot is claimed; false if the scope is full.
   */
  claim(
    scope: string,
    member: string,
    options: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean>;
  /**
   * Releases a claim. Idempotent.
   *
   * @param scope The scope, as passed to `claim`.
   * @param member The claimant.
   */
  release(scope: string, member: string): Promise<void>;
  /**
   * Lists the members that hold a claim.
   *
   * @param scope The scope, as passed to `claim`.
   * @returns The members.
   */
  claims(scope: string): Promise<string[]>;
  /**
   * Takes tokens from a bucket. A bucket starts full. Brokers leave this method out if their store
   * is too slow for it.
   *
   * @param key The bucket.
   * @param amount Number of tokens.
   * @param rate Tokens added each second, and the bucket's capacity.
   * @returns If `granted` is false, the bucket is unchanged. `retryAfterMs` is the time until the
   * bucket will have enough tokens; it is 0 if they were granted.
   */
  take?(
    key: string,
    amount: number,
    rate: { readonly perSecond: number; readonly burst: number },
  ): Promise<{ readonly granted: boolean; readonly retryAfterMs: number }>;
}

/** Tokens added each second, and a bucket's capacity. */
export type TokenRate = Parameters<NonNullable<BrokerStore["take"]>>[2];

/** Result of {@linkcode BrokerStore.take}. */
export type TakenTokens = Awaited<ReturnType<NonNullable<BrokerStore["take"]>>>;

/**
 * Carries publications to every node that is subscribed to the topic.
 *
 * - `publish` MUST also reach this node's listeners, exactly as it reaches listeners on other
 *   nodes.
 * - `publish` MUST keep the order of the publications that one node publishes on a topic.
 * - `publish` MUST NOT throw because of an outage of the broker: `status` and `stats` report
 *   outages, and the number of waiting publications is bounded.
 * - A listener MUST receive each publication at most once per subscription, and no publication
 *   after the subscription was disposed of. After an outage of the broker, `onInterrupted` MUST be
 *   called.
 * - `publish` and `subscribe` MUST throw a `SkeinError` with code `unsupported` after `close`.
 * - A topic or key that the broker does not support MUST be rejected with a `RangeError`, for that
 *   call only and before it is sent. Other topics MUST NOT be affected. Topics of 255 bytes of
 *   UTF-8 after a prefix of 32 bytes MUST be supported.
 * - A broker MUST NOT close a client library that the application passed in.
 * - A broker MUST NOT queue publications without a bound.
 * - `history` and `store` are for brokers that can keep data. Without them, topics have no history
 *   across nodes, and limits apply to each node separately.
 *
 * {@linkcode testBroker} is the test suite that every implementation must pass.
 */
export interface Broker extends AsyncDisposable {
  /** Name of the broker, for humans. */
  readonly name: string;
  /** Guarantee of delivery on a topic without a history. */
  readonly delivery: "at-most-once" | "at-least-once";
  /** State of the broker: `current`, and each change as an async iterable. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Counters. */
  readonly stats: BrokerStats;
  /** Current problems, in words; empty if the broker is healthy. */
  issues(): string[];
  /**
   * Options of the broker that all nodes should share, by name, such as the time for which it
   * remembers positions. Nodes compare them.
   */
  readonly shared?: Readonly<Record<string, string>> | undefined;
  /** Histories of topics; absent for brokers that cannot keep publications. */
  readonly history?: BrokerHistory | undefined;
  /** State that nodes share in addition to publications; absent for brokers that cannot keep it. */
  readonly store?: BrokerStore | undefined;
  /**
   * Publishes to every node, on a topic without history.
   *
   * @param publication The publication. MUST NOT be changed afterwards.
   */
  publish(publication: Publication): void;
  /**
   * Subscribes this node to a topic.
   *
   * @param topic The name of the topic, compared byte by byte: it is never a pattern.
   * @param listener Receives the publications of the topic. MUST NOT throw.
   * @param options See {@linkcode BrokerSubscribeOptions}.
   * @returns The subscription, which ends immediately when it is disposed of.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription;
  /** Ends all subscriptions, and releases the resources that the broker created. Idempotent. */
  close(): Promise<void>;
}
