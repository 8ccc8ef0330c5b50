/**
 * The skeleton of a broker, for the page "Write a broker". It connects the threads of a process
 * through a `BroadcastChannel`; for another broker, replace the lines that use the channel.
 *
 * @module
 */
import { UnsupportedError } from "../../mod.ts"; // jsr:@skein/skein
import type { Broker, BrokerStatus, BrokerSubscription, Publication } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import { StatusFeed } from "../../session/mod.ts"; // jsr:@skein/skein/session

/** One subscription. */
interface Listener {
  readonly deliver: (publication: Publication) => void;
  /** Resolves `ready`. */
  readonly confirm: () => void;
  /** False until the broker confirms: publications before that are older than the subscription. */
  isConfirmed: boolean;
}

/** A broker without histories, logs or a store; its store has no outages. */
export class ChannelBroker implements Broker {
  readonly name = "channel";
  readonly delivery = "at-most-once";
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly stats = {
    published: 0,
    received: 0,
    waiting: 0,
    dropped: 0,
    interruptions: 0,
    reads: 0,
  };
  readonly #topics = new Map<string, Set<Listener>>();
  readonly #unconfirmed = new Map<string, Listener>();
  // A channel does not receive its own messages, but a node must receive its own publications.
  readonly #out = new BroadcastChannel("skein");
  readonly #in = new BroadcastChannel("skein");

  constructor() {
    this.#in.onmessage = ({ data }) => this.#receive(data);
  }

  publish(publication: Publication): void {
    this.#checkOpen("publish");
    this.stats.published++;
    this.#out.postMessage(publication);
  }

  subscribe(topic: string, deliver: Listener["deliver"]): BrokerSubscription {
    this.#checkOpen("subscribe");
    const { promise: ready, resolve: confirm } = Promise.withResolvers<void>();
    const listener = { deliver, confirm, isConfirmed: false };
    const listeners = this.#topics.get(topic) ?? new Set();
    this.#topics.set(topic, listeners.add(listener));
    // The channel keeps the order, so the echo arrives after all earlier publications.
    const id = crypto.randomUUID();
    this.#unconfirmed.set(id, listener);
    this.#out.postMessage(id);
    return {
      ready,
      [Symbol.asyncDispose]: () => {
        if (listeners.delete(listener) && listeners.size === 0) this.#topics.delete(topic);
        return Promise.resolve();
      },
    };
  }

  issues(): string[] {
    return [];
  }

  close(): Promise<void> {
    this.status.end({ name: "closed" });
    this.#topics.clear();
    for (const { confirm } of this.#unconfirmed.values()) confirm();
    for (const channel of [this.#out, this.#in]) channel.close();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #receive(message: Publication | string): void {
    if (typeof message === "string") return this.#confirm(message);
    this.stats.received++;
    for (const listener of this.#topics.get(message.topic) ?? []) {
      if (listener.isConfirmed) listener.deliver(message);
    }
  }

  #confirm(id: string): void {
    const listener = this.#unconfirmed.get(id);
    if (listener === undefined) return; // A subscription of another node.
    this.#unconfirmed.delete(id);
    listener.isConfirmed = true;
    listener.confirm();
  }

  #checkOpen(verb: string): void {
    if (this.status.isEnded) throw new UnsupportedError(`Cannot ${verb}: the broker is closed`);
  }
}
