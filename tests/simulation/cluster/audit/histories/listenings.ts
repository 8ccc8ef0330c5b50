/** The subscriptions of a broker whose engine may begin anew. */
import type {
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
} from "../../../../../pubsub/broker.ts";

/** A subscription as the engine has it. */
export interface Listening {
  readonly topic: string;
  readonly take: (publication: Publication) => void;
  readonly options: BrokerSubscribeOptions;
}

/** Keeps subscriptions over all lives of an engine. */
export class Listenings {
  readonly #begin: (listening: Listening) => BrokerSubscription;
  readonly #all = new Map<Listening, BrokerSubscription>();

  /**
   * Keeps no subscription yet.
   *
   * @param begin Subscribes at the present engine.
   */
  constructor(begin: (listening: Listening) => BrokerSubscription) {
    this.#begin = begin;
  }

  /** Tells whether a subscription goes on. */
  has(listening: Listening): boolean {
    return this.#all.has(listening);
  }

  /**
   * Adds a subscription.
   *
   * @param listening The subscription.
   * @returns The subscription for the node.
   */
  add(listening: Listening): BrokerSubscription {
    const first = this.#begin(listening);
    this.#all.set(listening, first);
    return {
      ready: first.ready,
      [Symbol.asyncDispose]: () => {
        const present = this.#all.get(listening);
        this.#all.delete(listening);
        return present?.[Symbol.asyncDispose]() ?? Promise.resolve();
      },
    };
  }

  /** Subscribes to all topics at an engine that began anew. */
  beginAnew(): void {
    for (const listening of this.#all.keys()) this.#all.set(listening, this.#begin(listening));
  }

  /**
   * Tells the node that publications may be missing.
   *
   * @param topic The topic; all by default.
   */
  interrupt(topic?: string): void {
    for (const { topic: of, options } of [...this.#all.keys()]) {
      if (topic === undefined || of === topic) options.onInterrupted?.();
    }
  }

  /** Ends all subscriptions. */
  end(): void {
    for (const present of this.#all.values()) void present[Symbol.asyncDispose]();
    this.#all.clear();
  }
}
