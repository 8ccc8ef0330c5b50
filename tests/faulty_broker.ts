/**
 * An engine in memory with delivery failures by script or by seed, and one broker for each node.
 *
 * @module
 */
import { BrokerError } from "../errors.ts";
import { platformRuntime } from "../base/runtime.ts";
import { StatusFeed } from "../base/status_feed.ts";
import type { Random } from "./random.ts";
import type {
  Broker,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
  PublicationListener,
} from "../pubsub/broker.ts";
import { MemoryStore } from "../pubsub/memory/broker.ts";

/** Failures of deliveries; each value is a chance in a thousand. */
export interface Faults {
  lost?: number;
  repeated?: number;
  late?: number;
  /** Longest delay, in milliseconds. */
  lateMs?: number;
}

/** The engine. */
export class FaultyEngine {
  readonly brokers = new Set<FaultyBroker>();
  readonly store = new MemoryStore(platformRuntime());
  faults: Faults = {};
  /** Travel time of every publication, in milliseconds. */
  delayMs = 0;
  isAway = false;
  /** Number of publications, and their bytes. */
  publications = 0;
  bytes = 0;
  readonly #random: Random | undefined;

  constructor(random?: Random) {
    this.#random = random;
  }

  connect(): FaultyBroker {
    const broker = new FaultyBroker(this);
    this.brokers.add(broker);
    return broker;
  }

  publish(publication: Publication): void {
    if (this.isAway) return;
    this.publications++;
    this.bytes += publication.payload.length;
    for (const broker of [...this.brokers]) {
      const { lost, repeated, late, lateMs = 100 } = this.faults;
      if (this.#strikes(lost)) continue;
      const times = this.#strikes(repeated) ? 2 : 1;
      for (let i = 0; i < times; i++) {
        if (this.#strikes(late)) {
          setTimeout(() => broker.deliver(publication), this.#random!.below(lateMs));
        } else if (this.delayMs > 0) {
          setTimeout(() => broker.deliver(publication), this.delayMs);
        } else broker.deliver(publication);
      }
    }
  }

  /** Makes the engine unreachable for all nodes. */
  goAway(): void {
    this.isAway = true;
    for (const { status } of this.brokers) status.set({ name: "interrupted", since: Date.now() });
  }

  /** Makes the engine reachable again. */
  comeBack(): void {
    this.isAway = false;
    for (const broker of [...this.brokers]) broker.restored();
  }

  #strikes(perMille: number | undefined): boolean {
    return perMille !== undefined && this.#random!.below(1_000) < perMille;
  }
}

interface Entry {
  readonly topic: string;
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
}

/** The broker of a node. */
export class FaultyBroker implements Broker {
  readonly name = "faulty";
  readonly delivery = "at-most-once";
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly stats = {} as BrokerStats;
  readonly store: BrokerStore;
  readonly #engine: FaultyEngine;
  readonly #entries = new Set<Entry>();

  constructor(engine: FaultyEngine) {
    this.#engine = engine;
    const { store } = engine;
    this.store = {
      advance: (...args) => this.#reach(() => store.advance(...args)),
      newest: (key) => this.#reach(() => store.newest(key)),
      claim: (...args) => this.#reach(() => store.claim(...args)),
      release: (...args) => this.#reach(() => store.release(...args)),
      claims: (...args) => this.#reach(() => store.claims(...args)),
    };
  }

  /** The subscribed topics. */
  get topics(): string[] {
    return [...new Set(Array.from(this.#entries, ({ topic }) => topic))];
  }

  issues(): string[] {
    return [];
  }

  publish(publication: Publication): void {
    if (this.#engine.brokers.has(this)) this.#engine.publish(publication);
  }

  subscribe(
    topic: string,
    listener: PublicationListener,
    { onInterrupted }: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const entry = { topic, listener, onInterrupted };
    this.#entries.add(entry);
    return {
      ready: Promise.resolve(),
      [Symbol.asyncDispose]: () => {
        this.#entries.delete(entry);
        return Promise.resolve();
      },
    };
  }

  #reach<T>(ask: () => Promise<T>): Promise<T> {
    if (!this.#engine.isAway && this.#engine.brokers.has(this)) return ask();
    return Promise.reject(new BrokerError("Cannot reach the engine"));
  }

  deliver(publication: Publication): void {
    if (!this.#engine.brokers.has(this)) return;
    for (const entry of [...this.#entries]) {
      if (entry.topic === publication.topic && this.#entries.has(entry)) {
        entry.listener(publication);
      }
    }
  }

  restored(): void {
    this.status.set({ name: "connected" });
    for (const { onInterrupted } of [...this.#entries]) onInterrupted?.();
  }

  /** Simulates a killed process: no message leaves or reaches the node. */
  cut(): void {
    this.#engine.brokers.delete(this);
  }

  /** Restores the network of the process. */
  mend(): void {
    this.#engine.brokers.add(this);
  }

  close(): Promise<void> {
    this.cut();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
