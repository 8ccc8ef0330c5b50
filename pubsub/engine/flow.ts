/** Publications between this node and an engine: queues, bounds, and the work of one turn. */
import type { Runtime } from "../../base/runtime.ts";
import type { BrokerSubscription, Publication, PublicationListener } from "../broker.ts";

/**
 * First in, first out, with access to every item. Removal of the first item takes constant time on
 * average: removed items are cut off once they are half of all.
 */
export class Fifo<T> {
  #items: T[] = [];
  /** Index of the first item in `#items`. */
  #start = 0;

  /** Number of items. */
  get length(): number {
    return this.#items.length - this.#start;
  }

  /** The first item. */
  get first(): T | undefined {
    return this.#items[this.#start];
  }

  /** Returns the item at an index: from 0 for the first one, or from -1 for the last one. */
  at(index: number): T | undefined {
    if (index < 0) return -index > this.length ? undefined : this.#items.at(index);
    return this.#items[this.#start + index];
  }

  /** Adds an item at the end. */
  push(item: T): void {
    this.#items.push(item);
  }

  /** Adds items in front of all others. */
  unshift(items: readonly T[]): void {
    this.#items = [...items, ...this.#items.slice(this.#start)];
    this.#start = 0;
  }

  /** Removes and returns the first item. */
  shift(): T | undefined {
    const item = this.#items[this.#start];
    if (item === undefined) return undefined;
    this.#start++;
    if (this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
    return item;
  }

  /** Removes and returns all items. */
  clear(): T[] {
    const items = this.#items.slice(this.#start);
    this.#items = [];
    this.#start = 0;
    return items;
  }
}

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

/** Bounds on all publications that wait for the engine. */
export class WaitingBudget {
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  #messages = 0;
  #bytes = 0;

  constructor({ maxWaiting, maxWaitingBytes }: WaitingLimits) {
    this.#maxMessages = maxWaiting;
    this.#maxBytes = maxWaitingBytes;
  }

  /** Number of waiting publications. */
  get messages(): number {
    return this.#messages;
  }

  /** Takes room for one publication; `false` if there is no room. */
  take(bytes: number): boolean {
    if (this.#messages >= this.#maxMessages || this.#bytes + bytes > this.#maxBytes) return false;
    this.#messages++;
    this.#bytes += bytes;
    return true;
  }

  /** Gives back the room of one publication. */
  give(bytes: number): void {
    this.#messages--;
    this.#bytes -= bytes;
  }
}

/** Limits of a {@linkcode WaitingBudget}. */
export interface WaitingLimits {
  /** Most publications. */
  readonly maxWaiting: number;
  /** Most bytes of all together. */
  readonly maxWaitingBytes: number;
}

/** Bytes that are sent at once: gathering more would not be cheaper. */
const MAX_GATHERED_BYTES = 32_768;

/**
 * Calls a function once at the end of a turn, so that the messages of one turn are one write here
 * and one read at the server.
 */
export class TurnBatch {
  readonly #runtime: Runtime;
  readonly #act: () => void;
  #isScheduled = false;
  #bytes = 0;

  /**
   * Creates an idle batch.
   *
   * @param runtime Calls back at the end of a turn.
   * @param act Called at the end of a turn.
   */
  constructor(runtime: Runtime, act: () => void) {
    this.#runtime = runtime;
    this.#act = act;
  }

  /** Schedules the call for the end of the turn; calls at once after many bytes. */
  gather(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= MAX_GATHERED_BYTES) return this.end();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.end();
    });
  }

  /** Calls now. */
  end(): void {
    this.#bytes = 0;
    this.#act();
  }
}

/**
 * Bytes delivered in one turn: half of the bytes that the connection of a session buffers before the
 * send queue fills. After a busy moment a node finds megabytes at once; delivered in one turn, these
 * would overflow the queues of sessions that are not behind at all.
 */
const TURN_BYTES = 32_768;

/** Fixed cost of a message, added to the size in bytes. */
const MESSAGE_BYTES = 64;

/** Most bytes held; beyond that, all messages go on at once, since no message may be lost here. */
const MAX_HELD_BYTES = 67_108_864;

/** Delivers messages from an engine in order, a bounded number of bytes in each turn. */
export class Pace {
  readonly #runtime: Runtime;
  readonly #held = new Fifo<{ readonly cost: number; readonly deliver: () => void }>();
  #heldBytes = 0;
  /** Bytes that may still be delivered in this turn. */
  #room = TURN_BYTES;
  #isScheduled = false;

  /**
   * Starts without held messages.
   *
   * @param runtime Calls back at the end of a turn.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Delivers a message, or holds it for a later turn.
   *
   * @param bytes Size of the message.
   * @param deliver Delivers the message. MUST NOT throw.
   */
  take(bytes: number, deliver: () => void): void {
    this.#wake();
    const cost = bytes + MESSAGE_BYTES;
    if (this.#held.length === 0 && this.#room > 0) {
      this.#room -= cost;
      return deliver();
    }
    this.#held.push({ cost, deliver });
    this.#heldBytes += cost;
    if (this.#heldBytes > MAX_HELD_BYTES) {
      this.#release(Infinity);
      this.#room = 0;
    }
  }

  #wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.#release(TURN_BYTES);
    });
  }

  #release(room: number): void {
    // Messages that come during a delivery wait behind the held ones.
    this.#room = 0;
    let left = room;
    while (left > 0) {
      const next = this.#held.shift();
      if (next === undefined) break;
      left -= next.cost;
      this.#heldBytes -= next.cost;
      next.deliver();
    }
    this.#room = left;
    if (this.#held.length > 0) this.#wake();
  }
}
