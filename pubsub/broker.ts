/** The contract between topics and the engine that carries publications from node to node. */
import { exceedsBytes, utf8Length } from "../session/wire/utf8.ts";
import type { StatusFeed } from "../base/status_feed.ts";
import type { HistoryPosition } from "../session/wire/recovery.ts";
import type { BrokerLogs } from "./logs/log.ts";

/** Prefix of the topics that nodes use among themselves; closed to sessions and applications. */
export const INTERNAL_PREFIX = "$skein:";

/** One publication, encoded once: the same bytes go to the engine and to the sockets. */
export interface Publication {
  /** The topic. */
  readonly topic: string;
  /** The whole message, encoded: an envelope as text, or a binary message's frame. */
  readonly payload: string | Uint8Array;
  /** Bytes of the payload, in UTF-8 for a text; left out if not counted yet. */
  readonly bytes?: number | undefined;
  /** Id of a session, or of a client, that does not get the publication. */
  readonly except?: string | undefined;
  /**
   * Position in the history of the topic; given by the engine, never by the publisher. `prev` is the
   * offset of the previous publication on the topic, 0 for the first one.
   */
  readonly position?: HistoryPosition & { readonly prev: number } | undefined;
}

/** Position of a publication in the history of the topic. */
export type PublicationPosition = NonNullable<Publication["position"]>;

/**
 * Counts the bytes of a payload, unless the publisher has.
 *
 * @param publication The publication.
 * @returns The bytes, in UTF-8 for a text.
 */
export function payloadBytes({ payload, bytes }: Publication): number {
  return bytes ?? (typeof payload === "string" ? utf8Length(payload) : payload.length);
}

/**
 * Bytes that each kept publication or record counts in addition to its payload: about what an object
 * in memory, a row in a file or an entry in an engine takes. Without these, payloads of one byte would
 * take thirty times as much space as a bound says.
 */
export const ENTRY_BYTES = 64;

/**
 * Counts what kept publications or records take, as bounds of bytes do.
 *
 * @param bytes Bytes of all payloads.
 * @param entries Number of publications or records.
 * @returns The bytes, with {@linkcode ENTRY_BYTES} for each entry.
 */
export function countedBytes(bytes: number, entries: number): number {
  return bytes + ENTRY_BYTES * entries;
}

/**
 * Rejects a topic or key that is too long for the engine, before the call has any effect.
 *
 * @param name The topic or key.
 * @param maxBytes Most bytes that the engine takes.
 * @throws {RangeError} If the name has more bytes.
 */
export function checkNameBytes(name: string, maxBytes: number): void {
  if (!exceedsBytes(name, maxBytes)) return;
  throw new RangeError(
    `Cannot name a topic: a topic or key must have at most ${maxBytes} bytes, received ${
      utf8Length(name)
    }`,
  );
}

/** Takes the publications of a topic. MUST NOT throw. */
export type PublicationListener = (publication: Publication) => void;

/** Bounds of the history of a topic. The bound that is reached first counts. */
export interface HistoryBounds {
  /** Most publications. */
  readonly size: number;
  /** Longest time that a publication is kept, in milliseconds. */
  readonly ttlMs: number;
  /** Most bytes of all publications together; each counts {@linkcode ENTRY_BYTES} and its payload. */
  readonly bytes: number;
}

/** Producer and number of a publication, so that the same publication made twice counts once. */
export interface PublicationKey {
  /** Name of the producer. The numbers of a producer grow, on each topic. */
  readonly producer: string;
  /** A whole number from 0. A number not above the producer's last on the topic is a repetition. */
  readonly number: number;
}

/** Options for {@linkcode Broker.subscribe}. */
export interface BrokerSubscribeOptions {
  /**
   * Bounds of the history, for a topic with a history; the same on every node. Appended publications
   * go to subscriptions with `history`, and to no others.
   */
  readonly history?: HistoryBounds | undefined;
  /**
   * Called when publications may have been missed, once the engine is back and delivers new ones. MUST
   * NOT throw.
   */
  readonly onInterrupted?: (() => void) | undefined;
}

/** The subscription of a node to a topic. Disposing of a subscription never rejects. */
export interface BrokerSubscription extends AsyncDisposable {
  /** Resolves once publications of other nodes reach this one; never rejects. */
  readonly ready: Promise<void>;
}

/** State of a broker; branch on `name`. */
export type BrokerStatus =
  | {
    /** The broker tries to reach the engine for the first time, or is connected. */
    readonly name: "connecting" | "connected";
  }
  | {
    /** The engine is away; the broker tries to reconnect. */
    readonly name: "interrupted";
    /** Start of the outage, in milliseconds since the Unix epoch. */
    readonly since: number;
    /** Error of the client library. */
    readonly error?: unknown;
    /** True if appends are rejected meanwhile; otherwise publications wait. */
    readonly rejects?: true | undefined;
  }
  | {
    /** The broker was closed. */
    readonly name: "closed";
  };

/** Counters of a broker, since the broker was created. */
export interface BrokerStats {
  /** Publications that the broker accepted, on topics with and without a history. */
  readonly published: number;
  /** Publications that came from the engine. */
  readonly received: number;
  /** Publications that wait for the engine. */
  readonly waiting: number;
  /** Publications given up because the engine was away for too long, or too many waited. */
  readonly dropped: number;
  /** Outages of the engine. */
  readonly interruptions: number;
  /** Pages of histories read from the engine. */
  readonly reads: number;
  /** Histories with publications that were forgotten because of too many topics or bytes. */
  readonly forgotten?: number | undefined;
  /** Messages that other programs published in the place of publications, and that were ignored. */
  readonly ignored?: number | undefined;
}

/** Options for {@linkcode BrokerHistory.read}. */
export interface ReadHistoryOptions {
  /** Bounds of the history. */
  readonly bounds: HistoryBounds;
  /** Offset after which to read; left out, the page begins with the oldest publication. */
  readonly after?: number | undefined;
  /** Number of newest publications to read, if `after` is left out. */
  readonly last?: number | undefined;
  /** Most publications of the page. */
  readonly maxMessages: number;
  /** Most bytes of the payloads in the page; a single publication may be larger. */
  readonly maxBytes: number;
  /** Ends the wait for the engine. */
  readonly signal?: AbortSignal | undefined;
}

/** A part of a history. */
export interface HistoryPage {
  /** The epoch at the time of reading. */
  readonly epoch: string;
  /** The newest offset of the topic; 0 if no publication is known. */
  readonly head: number;
  /**
   * Tag of the publication at `after`, if still kept and tagged; `null` if the engine is sure that no
   * publication has this offset.
   */
  readonly anchor?: string | null | undefined;
  /**
   * The publications with positions, oldest first. A page that ends with the head, or is empty, is the
   * last one.
   */
  readonly publications: readonly Publication[];
}

/**
 * Keeps publications. Offsets of one topic grow, and need not be consecutive, since each publication
 * names the previous offset.
 *
 * - `append` MUST publish the kept publication, with the position, to all subscriptions with
 *   `history`. It MUST either keep and publish, or do neither.
 * - `append` MUST keep the order of the calls of one node on one topic, also across an outage of the
 *   engine. It MUST send again a publication that the engine did not acknowledge, in a way that
 *   counts once.
 * - The epoch MUST change whenever the engine may have lost acknowledged publications.
 * - Each position MUST have a `tag` of 6 to 8 characters (letters, digits, `-` and `_`), made of at
 *   least 32 bits of an id that no other publication has, never of the payload. Every delivery and
 *   every read of a publication MUST give the same tag. A page MUST have the tag of the publication at
 *   `after`, if still kept: so a client that comes back to another copy of the history learns of that.
 * - `read` MUST NOT create state in the engine: a topic without publications costs the engine nothing.
 */
export interface BrokerHistory {
  /**
   * Time for which the engine can tell an empty history from an earlier history of the topic, in
   * milliseconds. A position before the first publication is not trusted for longer. Left out, there
   * is no limit.
   */
  readonly remembersMs?: number | undefined;
  /**
   * Publishes on a topic with a history.
   *
   * @param publication The publication. MUST NOT be changed afterwards.
   * @param options Bounds of the history, the same on every node, and the key by which the engine
   * recognizes a repetition, for at least two minutes.
   * @returns Resolves when the engine has the publication; without a position for a repetition, and
   * where the engine went away before the epoch was known again.
   * @throws {BrokerError} If the publication was given up: too many waited, or the engine was away for
   * too long, or the broker was closed.
   * @throws {RangeError} If the engine cannot take the topic or the producer.
   */
  append(
    publication: Publication,
    options: {
      readonly bounds: HistoryBounds;
      readonly key?: PublicationKey | undefined;
      /**
       * The party that publishes, left out for the application. An engine that forgets topics starts
       * with the party that created the most of them within the last hour.
       */
      readonly maker?: string | undefined;
    },
  ): Promise<{ readonly position?: HistoryPosition | undefined }>;
  /**
   * Reads a page.
   *
   * @param topic The topic.
   * @param options See {@linkcode ReadHistoryOptions}.
   * @returns The page.
   * @throws {BrokerError} If the engine is away.
   * @throws {RangeError} If the engine cannot take the topic.
   */
  read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage>;
}

/** Options for {@linkcode BrokerHistory.append}. */
export type AppendOptions = Parameters<BrokerHistory["append"]>[1];

/** Result of {@linkcode BrokerHistory.append}. */
export type Appended = Awaited<ReturnType<BrokerHistory["append"]>>;

/**
 * Facts that hold on all nodes. Every operation MUST be atomic in the engine, MUST reject with a
 * `BrokerError` while the engine is away, and MUST reject with a `RangeError` for a key or scope that
 * the engine cannot take.
 */
export interface BrokerStore {
  /**
   * Notes the newest number of a row, such as that of the last message of a client.
   *
   * @param key The row.
   * @param number The number, a whole one from 0.
   * @param windowMs Least time for which the number is remembered, in milliseconds: at most a week.
   * @returns True if the number is above the previous one, and is noted now.
   */
  advance(key: string, number: number, windowMs: number): Promise<boolean>;
  /**
   * Reads the newest number of a row.
   *
   * @param key The row.
   * @param windowMs The time that `advance` was given for the row: an engine may keep rows of hours
   * and rows of days apart.
   * @returns The number; -1 if no number is remembered.
   */
  newest(key: string, windowMs: number): Promise<number>;
  /**
   * Claims a place in a scope, or renews the claim.
   *
   * @param scope The scope, such as a user.
   * @param member The claimant, such as a session; unique over all nodes.
   * @param options Most members of the scope, and the time in milliseconds for which a claim holds
   * without renewal.
   * @returns True if the place is claimed; false if the scope is full.
   */
  claim(
    scope: string,
    member: string,
    options: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean>;
  /**
   * Gives up a claim. Idempotent.
   *
   * @param scope The scope.
   * @param member The claimant.
   */
  release(scope: string, member: string): Promise<void>;
  /**
   * Lists the members that hold a claim.
   *
   * @param scope The scope.
   * @returns The members.
   */
  claims(scope: string): Promise<string[]>;
  /**
   * Takes tokens from a bucket, which begins full. Left out by brokers of engines that are too slow
   * for this.
   *
   * @param key The bucket.
   * @param amount Number of tokens.
   * @param rate Tokens added each second, and most tokens in the bucket.
   * @returns `granted` is false if the bucket stays as before; `retryAfterMs` is the time until the
   * bucket will have enough tokens, 0 if granted.
   */
  take?(
    key: string,
    amount: number,
    rate: { readonly perSecond: number; readonly burst: number },
  ): Promise<{ readonly granted: boolean; readonly retryAfterMs: number }>;
}

/** Tokens added each second, and most tokens in a bucket. */
export type TokenRate = Parameters<NonNullable<BrokerStore["take"]>>[2];

/** Result of {@linkcode BrokerStore.take}. */
export type TakenTokens = Awaited<ReturnType<NonNullable<BrokerStore["take"]>>>;

/**
 * Carries publications to every node that subscribed to the topic.
 *
 * - `publish` MUST reach the listeners of this node too, exactly as those of other nodes.
 * - `publish` MUST keep the order of the publications that one node makes on one topic.
 * - `publish` MUST NOT throw because of an outage of the engine: `status` and `stats` show an outage,
 *   and the number of waiting publications is bounded.
 * - A listener MUST get each publication at most once per subscription, and MUST NOT get publications
 *   after the subscription was disposed. After an outage of the engine, `onInterrupted` MUST be called.
 * - `publish` and `subscribe` MUST throw a `SkeinError` with code `unsupported` after `close`.
 * - A topic or key that the engine cannot take MUST be refused with a `RangeError`, for that one call
 *   and before it reaches the connection: other topics MUST NOT notice. Topics of 255 bytes of UTF-8
 *   behind a prefix of 32 MUST be taken.
 * - A broker MUST NOT end a client library that was handed in by the application.
 * - A broker MUST NOT hold publications without a bound.
 * - `history`, `logs` and `store` are for engines that can keep data; without these, topics have no
 *   history across nodes, there are no durable streams, and limits count by node.
 *
 * {@linkcode testBroker} is the suite that every implementation passes.
 */
export interface Broker extends AsyncDisposable {
  /** Name of the engine, for people. */
  readonly name: string;
  /** Guarantee of delivery on a topic without a history. */
  readonly delivery: "at-most-once" | "at-least-once";
  /** State of the broker: `current`, and each change as an async iterable. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Counters. */
  readonly stats: BrokerStats;
  /** Current problems, in words; empty for a healthy broker. */
  issues(): string[];
  /** Histories of topics; absent for engines that cannot keep publications. */
  readonly history?: BrokerHistory | undefined;
  /** Logs of durable streams; absent for engines that cannot keep logs. */
  readonly logs?: BrokerLogs | undefined;
  /** Facts that nodes share besides publications; absent for engines that cannot keep facts. */
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
   * @param topic The topic.
   * @param listener Gets the publications of the topic. MUST NOT throw.
   * @param options See {@linkcode BrokerSubscribeOptions}.
   * @returns The subscription; ends at once when disposed.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription;
  /** Ends all subscriptions, and frees the resources that the broker created. Idempotent. */
  close(): Promise<void>;
}
