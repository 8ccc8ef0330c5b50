/**
 * The contract between topics and the engine that carries publications from
 * node to node.
 *
 * @module
 */
import type { StatusFeed } from "../session/base/status_feed.ts";
import type { HistoryPosition } from "../session/wire/recovery.ts";

/** Topics that begin with it are those of the nodes themselves; nobody else can use them. */
export const INTERNAL_PREFIX = "$skein:";

/** One publication, encoded once: the same bytes go to the engine and to the sockets. */
export interface Publication {
  /** The topic. */
  readonly topic: string;
  /** The whole message, encoded: an envelope as text, or a binary message's frame. */
  readonly payload: string | Uint8Array;
  /** Id of a session that does not get it. */
  readonly except?: string;
  /** Where it stands in the topic's history; given by the engine, never by who publishes. */
  readonly position?: PublicationPosition;
}

/** Takes the publications of a topic. MUST NOT throw. */
export type PublicationListener = (publication: Publication) => void;

/** How much of a topic is kept. Whichever bound is reached first counts. */
export interface HistoryBounds {
  /** Most publications. */
  readonly size: number;
  /** Longest time that a publication is kept, in milliseconds. */
  readonly ttlMs: number;
  /** Most bytes of all their payloads. */
  readonly bytes: number;
}

/** Where a publication stands in the history of its topic. */
export interface PublicationPosition extends HistoryPosition {
  /** The offset of the publication before it on the same topic; 0 for the first one. */
  readonly prev: number;
}

/** Who publishes and with which number, so that the same publication made twice counts once. */
export interface PublicationKey {
  /** The producer; its numbers grow, on each topic. */
  readonly producer: string;
  /** A whole number from 0. One that is not above the producer's last on the topic is a repetition. */
  readonly number: number;
}

/** Options for {@linkcode Broker.subscribe}. */
export interface BrokerSubscribeOptions {
  /**
   * Bounds of the topic's history, if it has one; the same on every node. Publications that
   * were appended come to subscriptions that say so, and to no others.
   */
  readonly history?: HistoryBounds;
  /**
   * Called when publications may have been missed, once the engine is there again and new ones
   * come. MUST NOT throw.
   */
  readonly onInterrupted?: () => void;
}

/** A node's subscription to a topic at its broker; disposing of it never rejects. */
export interface BrokerSubscription extends AsyncDisposable {
  /** Resolves once publications of other nodes reach this one; never rejects. */
  readonly ready: Promise<void>;
}

/** How sure a publication is to arrive. */
export type DeliveryClass = "at-most-once" | "at-least-once";

/** How a broker is doing; branch on `name`. */
export type BrokerStatus =
  | {
    /** The engine is being reached for the first time, or it is there. */
    readonly name: "connecting" | "connected";
  }
  | {
    /** The engine is away; the broker tries to reach it. */
    readonly name: "interrupted";
    /** Since when, in milliseconds since the Unix epoch. */
    readonly since: number;
    /** What the client library said. */
    readonly error?: unknown;
  }
  | {
    /** The broker was closed. */
    readonly name: "closed";
  };

/** Counters of a broker, since it was made. */
export interface BrokerStats {
  /** Publications that were taken, those with a history too. */
  readonly published: number;
  /** Publications that came from the engine. */
  readonly received: number;
  /** Publications that wait for the engine. */
  readonly waiting: number;
  /** Publications that were given up, because the engine was away for too long or too many waited. */
  readonly dropped: number;
  /** How often the engine went away. */
  readonly interruptions: number;
  /** Pages of histories that were read from the engine. */
  readonly reads: number;
  /** Histories with publications that were forgotten, since there were too many topics. */
  readonly forgotten?: number;
  /** Messages that something else published where publications are, and that were ignored. */
  readonly ignored?: number;
}

/** Options for {@linkcode BrokerHistory.append}. */
export interface AppendOptions {
  /** What is kept; the same on every node. */
  readonly bounds: HistoryBounds;
  /** Recognizes a repetition, for at least two minutes. */
  readonly key?: PublicationKey;
}

/** What became of an append. */
export interface Appended {
  /** Where the publication stands; `undefined` for a repetition. */
  readonly position?: HistoryPosition;
}

/** Options for {@linkcode BrokerHistory.read}. */
export interface ReadHistoryOptions {
  /** What is kept. */
  readonly bounds: HistoryBounds;
  /** Reads what came after this offset; from the oldest that is kept if left out. */
  readonly after?: number;
  /** Reads the newest so many, if `after` is left out. */
  readonly last?: number;
  /** Most publications of the page. */
  readonly maxMessages: number;
  /** Most bytes of the page's payloads; one publication always goes. */
  readonly maxBytes: number;
  /** Gives up. */
  readonly signal?: AbortSignal;
}

/** A part of a history. */
export interface HistoryPage {
  /** The epoch at the time of reading. */
  readonly epoch: string;
  /** The newest offset of the topic; 0 if nothing is known of any. */
  readonly head: number;
  /**
   * The tag of the publication at `after`, if that is still kept and has one; `null` if the engine is
   * sure that none stands there.
   */
  readonly anchor?: string | null | undefined;
  /** Oldest first, each with its position. The page is the last one if it ends with the head, or is empty. */
  readonly publications: readonly Publication[];
}

/**
 * Keeps publications. Offsets of one topic grow; they need not be without holes, since each
 * publication names the offset before it.
 *
 * - `append` MUST publish what it keeps to all subscriptions with `history`, with its position,
 *   and MUST do both or none.
 * - `append` MUST keep the order in which one node called it on one topic, also while the engine
 *   was away; it MUST send again what the engine did not acknowledge, in a way that counts once.
 * - The epoch MUST change whenever the engine may have lost what it acknowledged.
 * - Each position MUST have a `tag` of 6 to 8 characters (letters, digits, `-` and `_`), made of at
 *   least 32 bits of an id that no other publication has, never of the payload. It is the same
 *   wherever the publication is heard or read, and a page MUST tell that of the publication at
 *   `after`, if that is kept: so a client that comes back to another copy of the history is told.
 * - `read` MUST make nothing: a topic that nobody published on costs the engine nothing.
 */
export interface BrokerHistory {
  /**
   * For how long a history without publications is told from an earlier one of the topic, in
   * milliseconds: a place before the first publication is not trusted for longer. For ever, if it is
   * left out.
   */
  readonly remembersMs?: number;
  /**
   * Publishes on a topic with a history.
   *
   * @param publication What to publish. MUST NOT be changed afterwards.
   * @param options See {@linkcode AppendOptions}.
   * @returns Resolves once the engine has it.
   * @throws {BrokerError} If it was given up: too many waited, or the engine was away for too long,
   * or the broker was closed.
   * @throws {RangeError} If the engine cannot take the topic or the producer.
   */
  append(publication: Publication, options: AppendOptions): Promise<Appended>;
  /**
   * Reads a page.
   *
   * @param topic The topic.
   * @param options See {@linkcode ReadHistoryOptions}.
   * @returns What is kept.
   * @throws {BrokerError} If the engine is away.
   * @throws {RangeError} If the engine cannot take the topic.
   */
  read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage>;
}

/** How fast tokens come, and how many can be saved up. */
export interface TokenRate {
  /** Tokens that come each second. */
  readonly perSecond: number;
  /** Tokens that can be saved up. */
  readonly burst: number;
}

/** What {@linkcode BrokerStore.take} answers. */
export interface TakenTokens {
  /** Whether the tokens were taken: all of them or none. */
  readonly granted: boolean;
  /** When there will be enough, in milliseconds; 0 if they were granted. */
  readonly retryAfterMs: number;
}

/**
 * Facts that hold on all nodes. Every operation MUST be atomic in the engine, MUST reject with a
 * `BrokerError` while that is away, and MUST reject with a `RangeError` for a key or scope that the
 * engine cannot take.
 */
export interface BrokerStore {
  /**
   * Notes the newest number of a row, such as what a client said last.
   *
   * @param key The row.
   * @param number The number, a whole one from 0.
   * @param windowMs How long it is remembered at least.
   * @returns Whether it is above the number that was noted, and noted now.
   */
  advance(key: string, number: number, windowMs: number): Promise<boolean>;
  /**
   * Reads the newest number of a row.
   *
   * @param key The row.
   * @returns The number; -1 if none is remembered.
   */
  newest(key: string): Promise<number>;
  /**
   * Claims a place in a scope, or renews the claim.
   *
   * @param scope The scope, such as a user.
   * @param member Who claims, such as a session; unique over all nodes.
   * @param options Most members of the scope, and how long the claim holds without being renewed.
   * @returns Whether the place is claimed; `false` if there were as many members already.
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
   * @param member Who claimed.
   */
  release(scope: string, member: string): Promise<void>;
  /**
   * Lists who holds a claim.
   *
   * @param scope The scope.
   * @returns The members.
   */
  claims(scope: string): Promise<string[]>;
  /**
   * Takes tokens from a bucket, which begins full; engines that cannot do that fast leave it out.
   *
   * @param key The bucket.
   * @param amount How many.
   * @param rate How fast they come.
   * @returns Whether there were enough.
   */
  take?(key: string, amount: number, rate: TokenRate): Promise<TakenTokens>;
}

/**
 * Carries publications to every node that subscribed to their topic.
 *
 * - `publish` MUST reach the listeners of this node too, exactly as those of others.
 * - `publish` MUST keep the order of the publications that one node makes on one topic.
 * - `publish` MUST NOT throw because of an outage of the engine: that is told by `status` and
 *   `stats`, and what waits meanwhile has a bound.
 * - A listener MUST get each publication at most once per subscription, and none after its
 *   subscription was disposed. Where the engine was away, `onInterrupted` MUST be called.
 * - `publish` and `subscribe` MUST throw a `SkeinError` with code `unsupported` after `close`.
 * - A topic or key that the engine cannot take MUST be refused with a `RangeError`, for that one call
 *   and before it reaches the connection: other topics MUST NOT notice. Topics of 255 bytes of UTF-8
 *   behind a prefix of 32 MUST be taken.
 * - A broker MUST NOT end a client library that was handed in by its user.
 * - A broker MUST NOT hold publications without a bound.
 * - `history` and `store` are for engines that can keep things; without them topics have no
 *   history across nodes, and limits count by node.
 *
 * {@linkcode testBroker} is the suite that every implementation passes.
 */
export interface Broker extends AsyncDisposable {
  /** The engine's name, for people. */
  readonly name: string;
  /** How sure a publication is to arrive, where its topic has no history. */
  readonly delivery: DeliveryClass;
  /** How the broker is doing: `current`, and each change as an async iterable. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Counters. */
  readonly stats: BrokerStats;
  /** What is wrong at the moment, in words; empty if nothing is. */
  issues(): string[];
  /** Keeps publications and gives them again, if the engine can. */
  readonly history?: BrokerHistory;
  /** What nodes share beside publications, if the engine can keep it. */
  readonly store?: BrokerStore;
  /**
   * Publishes to every node, on a topic without history.
   *
   * @param publication What to publish. MUST NOT be changed afterwards.
   */
  publish(publication: Publication): void;
  /**
   * Subscribes this node to a topic.
   *
   * @param topic The topic.
   * @param listener Gets its publications.
   * @param options Whether the topic has a history, and who is told of interruptions.
   * @returns The subscription; disposing of it ends it at once.
   */
  subscribe(
    topic: string,
    listener: PublicationListener,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription;
  /** Ends all subscriptions and frees what the broker made itself. Idempotent. */
  close(): Promise<void>;
}
