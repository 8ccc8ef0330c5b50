/**
 * The contract between topics and the engine that carries publications from
 * node to node.
 *
 * @module
 */

/** One publication, encoded once: the same bytes go to the engine and to the sockets. */
export interface Publication {
  /** The topic. */
  readonly topic: string;
  /** The whole message, encoded: an envelope as text, or a binary message's frame. */
  readonly payload: string | Uint8Array;
  /** Id of a session that does not get it. */
  readonly except?: string;
}

/** Takes the publications of a topic. MUST NOT throw. */
export type PublicationListener = (publication: Publication) => void;

/** A node's subscription to a topic at its broker. */
export interface BrokerSubscription extends AsyncDisposable {
  /** Resolves once publications of other nodes reach this one; never rejects. */
  readonly ready: Promise<void>;
}

/** How sure a publication is to arrive. */
export type DeliveryClass = "at-most-once" | "at-least-once";

/**
 * Carries publications to every node that subscribed to their topic.
 *
 * - `publish` MUST reach the listeners of this node too, exactly as those of others.
 * - `publish` MUST keep the order of the publications that one node makes on one topic.
 * - `publish` MUST NOT throw because of an outage of the engine: that is told elsewhere.
 * - A listener MUST get each publication once per subscription, and none after its
 *   subscription was disposed.
 * - `publish` and `subscribe` MUST throw a `SkeinError` with code `unsupported` after `close`.
 * - A broker MUST NOT end a client library that was handed in by its user.
 * - A broker MUST NOT hold publications without a bound.
 *
 * {@linkcode testBroker} is the suite that every implementation passes.
 */
export interface Broker extends AsyncDisposable {
  /** The engine's name, for people. */
  readonly name: string;
  /** How sure a publication is to arrive. */
  readonly delivery: DeliveryClass;
  /**
   * Publishes to every node.
   *
   * @param publication What to publish. MUST NOT be changed afterwards.
   */
  publish(publication: Publication): void;
  /**
   * Subscribes this node to a topic.
   *
   * @param topic The topic.
   * @param listener Gets its publications.
   * @returns The subscription; disposing of it ends it at once.
   */
  subscribe(topic: string, listener: PublicationListener): BrokerSubscription;
  /** Ends all subscriptions and frees what the broker made itself. Idempotent. */
  close(): Promise<void>;
}
