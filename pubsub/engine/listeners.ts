/** The listeners of topics on this node. */
import type { BrokerSubscription, Publication, PublicationListener } from "../broker.ts";

/** One subscription of a listener. */
export interface Listener {
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
  isActive: boolean;
}

/**
 * The listeners of one topic on this node. A delivery reaches the listeners of its beginning, except
 * those that are removed during the delivery.
 */
export class Listeners {
  /** Replaced on each change, as a delivery under way still iterates over the old array. */
  #all: readonly Listener[] = [];

  /** True without listeners. */
  get isEmpty(): boolean {
    return this.#all.length === 0;
  }

  /** Adds a listener; the same function may be added twice. */
  add(listener: PublicationListener, onInterrupted?: () => void): Listener {
    const added: Listener = { listener, onInterrupted, isActive: true };
    this.#all = [...this.#all, added];
    return added;
  }

  /** Removes a listener; false if the listener was removed before. */
  remove(listener: Listener): boolean {
    if (!listener.isActive) return false;
    listener.isActive = false;
    this.#all = this.#all.filter((other) => other !== listener);
    return true;
  }

  deliver(publication: Publication): void {
    for (const one of this.#all) if (one.isActive) one.listener(publication);
  }

  /** Reports that publications may have been missed. */
  interrupt(): void {
    for (const { isActive, onInterrupted } of this.#all) if (isActive) onInterrupted?.();
  }

  clear(): void {
    for (const one of this.#all) one.isActive = false;
    this.#all = [];
  }
}

/** The listeners of one topic, and publications that listeners made during a delivery. */
interface LocalTopic {
  readonly listeners: Listeners;
  /** Delivered after the current publication, in one order for all listeners. */
  readonly waiting: Publication[];
  isDelivering: boolean;
}

/** The subscriptions of brokers that have all listeners in this process. */
export class LocalListeners {
  readonly #topics = new Map<string, LocalTopic>();
  readonly #onFirst: (topic: string) => void;
  readonly #onLast: (topic: string) => void;

  /**
   * Starts without subscriptions.
   *
   * @param onFirst Called when a topic gets its first listener.
   * @param onLast Called when the last listener of a topic left.
   */
  constructor(onFirst: (topic: string) => void = () => {}, onLast: typeof onFirst = () => {}) {
    this.#onFirst = onFirst;
    this.#onLast = onLast;
  }

  /** Subscribes a listener; the subscription is in force at once. */
  subscribe(topic: string, listener: PublicationListener): BrokerSubscription {
    let local = this.#topics.get(topic);
    if (local === undefined) {
      local = { listeners: new Listeners(), waiting: [], isDelivering: false };
      this.#topics.set(topic, local);
      this.#onFirst(topic);
    }
    const { listeners } = local;
    const added = listeners.add(listener);
    return {
      ready: Promise.resolve(),
      [Symbol.asyncDispose]: () => {
        if (listeners.remove(added) && listeners.isEmpty) {
          this.#topics.delete(topic);
          this.#onLast(topic);
        }
        return Promise.resolve();
      },
    };
  }

  /**
   * Calls the listeners of the topic before returning. A publication that a listener makes on the
   * same topic is delivered after the current one.
   */
  deliver(publication: Publication): void {
    const topic = this.#topics.get(publication.topic);
    if (topic === undefined) return;
    if (topic.isDelivering) {
      topic.waiting.push(publication);
      return;
    }
    topic.isDelivering = true;
    try {
      topic.listeners.deliver(publication);
      for (let next = topic.waiting.shift(); next; next = topic.waiting.shift()) {
        topic.listeners.deliver(next);
      }
    } finally {
      topic.isDelivering = false;
      topic.waiting.length = 0;
    }
  }

  /** Ends all subscriptions, without a call of `onLast`. */
  clear(): void {
    for (const { listeners } of this.#topics.values()) listeners.clear();
    this.#topics.clear();
  }
}
