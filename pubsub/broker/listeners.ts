/** The listeners for topics on this node. */
import type {
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
  PublicationListener,
} from "../broker.ts";

interface ListenerSubscription {
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
  readonly ready: PromiseWithResolvers<void>;
  isActive: boolean;
  /** True once publications of other nodes reach the listener. */
  isLive: boolean;
  /** True if publications may have been missed since then. */
  isInterrupted: boolean;
}

/**
 * The listeners for one topic on this node, with one subscription at the broker for all of them. A
 * delivery reaches the listeners that were present when it started, except those removed meanwhile.
 */
export class Listeners {
  /**
   * The array is replaced on each change, because a running delivery still iterates over the old
   * array.
   */
  #all: readonly ListenerSubscription[] = [];
  #isLive = false;

  /** True without listeners. */
  get isEmpty(): boolean {
    return this.#all.length === 0;
  }

  /** True while publications of other nodes arrive. */
  get isLive(): boolean {
    return this.#isLive;
  }

  /** Adds a listener; the same function may be added twice. */
  add(listener: PublicationListener, onInterrupted?: () => void): ListenerSubscription {
    const added: ListenerSubscription = {
      listener,
      onInterrupted,
      ready: Promise.withResolvers(),
      isActive: true,
      isLive: false,
      isInterrupted: false,
    };
    this.#all = [...this.#all, added];
    if (this.#isLive) goLive(added);
    return added;
  }

  /** Removes a listener; false if the listener was removed before. */
  remove(listener: ListenerSubscription): boolean {
    if (!end(listener)) return false;
    this.#all = this.#all.filter((other) => other !== listener);
    return true;
  }

  deliver(publication: Publication): void {
    for (const one of this.#all) if (one.isActive) one.listener(publication);
  }

  /** Called when publications of other nodes start to arrive. */
  live(): void {
    this.#isLive = true;
    for (const one of this.#all) if (one.isActive) goLive(one);
  }

  /** Called when publications may be missed until the next call of `live`. */
  lose(): void {
    this.#isLive = false;
    for (const one of this.#all) one.isInterrupted = one.isLive;
  }

  /**
   * Reports that publications may have been missed. Listeners that do not receive publications yet
   * are notified later.
   */
  interrupt(): void {
    if (!this.#isLive) return;
    this.lose();
    this.live();
  }

  /** Ends all subscriptions. */
  clear(): void {
    for (const one of this.#all) end(one);
    this.#all = [];
  }
}

function goLive(one: ListenerSubscription): void {
  if (!one.isLive) {
    one.isLive = true;
    one.ready.resolve();
  } else if (one.isInterrupted) {
    one.isInterrupted = false;
    one.onInterrupted?.();
  }
}

/** Ends a subscription and resolves `ready`. Returns false if it had ended before. */
function end(one: ListenerSubscription): boolean {
  const { isActive } = one;
  one.isActive = false;
  one.ready.resolve();
  return isActive;
}

interface ListenerTableOptions<C extends Listeners> {
  /** Called when a topic has its first listener. */
  readonly onFirst?: (channel: C) => void;
  /** Called when a topic's last listener has left. */
  readonly onLast?: (channel: C) => void;
}

/** The topics that have listeners, by key; bounded by the caller's subscriptions. */
export class ListenerTable<C extends Listeners> {
  readonly #channels = new Map<string, C>();
  readonly #options: ListenerTableOptions<C>;

  /** @param options See {@linkcode ListenerTableOptions}. */
  constructor(options: ListenerTableOptions<C> = {}) {
    this.#options = options;
  }

  get(key: string): C | undefined {
    return this.#channels.get(key);
  }

  /** The topics that have listeners at the time of the call. */
  all(): readonly C[] {
    return [...this.#channels.values()];
  }

  /**
   * Subscribes a listener.
   *
   * @param key Key of the topic.
   * @param listener Called with each publication.
   * @param options `make` creates the topic for its first listener. `onInterrupted` comes from the
   * broker's caller.
   */
  subscribe(
    key: string,
    listener: PublicationListener,
    { make, onInterrupted }:
      & { readonly make: () => C }
      & Pick<BrokerSubscribeOptions, "onInterrupted">,
  ): BrokerSubscription {
    const known = this.#channels.get(key);
    const channel = known ?? make();
    const added = channel.add(listener, onInterrupted);
    if (known === undefined) {
      this.#channels.set(key, channel);
      this.#options.onFirst?.(channel);
    }
    return {
      ready: added.ready.promise,
      [Symbol.asyncDispose]: () => {
        if (channel.remove(added) && channel.isEmpty) {
          this.#channels.delete(key);
          this.#options.onLast?.(channel);
        }
        return Promise.resolve();
      },
    };
  }

  /** Ends all subscriptions, without a call of `onLast`. */
  clear(): void {
    for (const channel of this.#channels.values()) channel.clear();
    this.#channels.clear();
  }
}

/** The listeners for one topic, and publications that listeners made during a delivery. */
class LocalTopic extends Listeners {
  readonly topic: string;
  /** Delivered after the current publication, in one order for all listeners. */
  readonly waiting: Publication[] = [];
  isDelivering = false;

  constructor(topic: string) {
    super();
    this.topic = topic;
    this.live();
  }
}

/** The subscriptions of a broker whose listeners are all in this process. */
export class LocalListeners {
  readonly #topics: ListenerTable<LocalTopic>;

  /**
   * @param onFirst Called when a topic gets its first listener.
   * @param onLast Called when a topic's last listener has left.
   */
  constructor(onFirst?: (topic: string) => void, onLast?: (topic: string) => void) {
    this.#topics = new ListenerTable({
      onFirst: ({ topic }) => onFirst?.(topic),
      onLast: ({ topic }) => onLast?.(topic),
    });
  }

  /** Subscribes a listener. The subscription is in force immediately. */
  subscribe(topic: string, listener: PublicationListener): BrokerSubscription {
    return this.#topics.subscribe(topic, listener, { make: () => new LocalTopic(topic) });
  }

  /**
   * Calls the topic's listeners before returning. If a listener publishes on the same topic, that
   * publication is delivered after the current one.
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
      topic.deliver(publication);
      for (let next = topic.waiting.shift(); next; next = topic.waiting.shift()) {
        topic.deliver(next);
      }
    } finally {
      topic.isDelivering = false;
      topic.waiting.length = 0;
    }
  }

  /** Ends all subscriptions, without a call of `onLast`. */
  clear(): void {
    this.#topics.clear();
  }
}
