/**
 * The contract between topics and the engine that carries publications from
 * node to node.
 *
 * @module
 */
import type { StatusFeed } from "../session/base/status_feed.ts";
import type { BrokerHistory, HistoryBounds, PublicationPosition } from "./history.ts";
import type { BrokerStore } from "./store.ts";

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
