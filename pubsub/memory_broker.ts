/**
 * The broker of one process.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Broker, BrokerSubscription, Publication, PublicationListener } from "./broker.ts";

interface Entry {
  readonly listener: PublicationListener;
  isActive: boolean;
}

interface Channel {
  /** Replaced by a change, so that a delivery under way does not see it. */
  listeners: readonly Entry[];
  /** Published by a listener of the topic; heard next, so that all listeners see one order. */
  readonly waiting: Publication[];
  isDelivering: boolean;
}

/**
 * Carries publications within one process, synchronously: the default, and for
 * several servers in one process the engine that connects them.
 *
 * @example Usage
 * ```ts
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * const heard: unknown[] = [];
 * await using subscription = broker.subscribe("news", (publication) => {
 *   heard.push(publication.payload);
 * });
 * await subscription.ready;
 * broker.publish({ topic: "news", payload: '{"topic":"news"}' });
 * assertEquals(heard, ['{"topic":"news"}']);
 * ```
 */
export class MemoryBroker implements Broker {
  /** Always `memory`. */
  readonly name = "memory";
  /** A publication reaches whoever is subscribed, and nobody later. */
  readonly delivery = "at-most-once";
  readonly #channels = new Map<string, Channel>();
  #isClosed = false;

  /**
   * Calls the listeners of the topic before it returns; one that publishes on
   * the same topic itself is heard after the publication that it was told of.
   *
   * @param publication What to publish.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(publication: Publication): void {
    this.#checkOpen("publish");
    const channel = this.#channels.get(publication.topic);
    if (channel === undefined) return;
    if (channel.isDelivering) {
      channel.waiting.push(publication);
      return;
    }
    channel.isDelivering = true;
    try {
      deliver(channel, publication);
      for (let next = channel.waiting.shift(); next; next = channel.waiting.shift()) {
        deliver(channel, next);
      }
    } finally {
      channel.isDelivering = false;
      channel.waiting.length = 0;
    }
  }

  /**
   * Subscribes to a topic.
   *
   * @param topic The topic.
   * @param listener Gets its publications.
   * @returns The subscription, in force at once.
   * @throws {UnsupportedError} If the broker is closed.
   */
  subscribe(topic: string, listener: PublicationListener): BrokerSubscription {
    this.#checkOpen("subscribe");
    let channel = this.#channels.get(topic);
    if (channel === undefined) {
      channel = { listeners: [], waiting: [], isDelivering: false };
      this.#channels.set(topic, channel);
    }
    // An object of its own, so that one listener can subscribe twice.
    const entry: Entry = { listener, isActive: true };
    channel.listeners = [...channel.listeners, entry];
    return {
      ready: Promise.resolve(),
      [Symbol.asyncDispose]: () => {
        this.#remove(topic, entry);
        return Promise.resolve();
      },
    };
  }

  /** Ends all subscriptions. Idempotent. */
  close(): Promise<void> {
    this.#isClosed = true;
    for (const { listeners } of this.#channels.values()) {
      for (const entry of listeners) entry.isActive = false;
    }
    this.#channels.clear();
    return Promise.resolve();
  }

  /** Closes the broker; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #remove(topic: string, entry: Entry): void {
    if (!entry.isActive) return;
    entry.isActive = false;
    const channel = this.#channels.get(topic)!;
    channel.listeners = channel.listeners.filter((other) => other !== entry);
    if (channel.listeners.length === 0) this.#channels.delete(topic);
  }

  #checkOpen(verb: string): void {
    if (this.#isClosed) throw new UnsupportedError(`Cannot ${verb}: the broker is closed`);
  }
}

/** Whoever subscribes meanwhile is not in the list; whoever leaves is not active. */
function deliver({ listeners }: Channel, publication: Publication): void {
  for (const entry of listeners) if (entry.isActive) entry.listener(publication);
}
