/** A node of its own on an engine that several nodes of one process share. */
import { StatusFeed } from "../base/status_feed.ts";
import type {
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscription,
  Publication,
} from "./broker.ts";
import type { BrokerLogs } from "./logs/log.ts";
import { MemoryBroker } from "./memory/broker.ts";

/** A node of its own on a shared engine, as `Topics` of several servers have. */
export class EngineNode implements Broker {
  readonly name: string;
  readonly delivery: Broker["delivery"];
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly history?: BrokerHistory;
  readonly logs?: BrokerLogs;
  readonly store?: BrokerStore;
  readonly #engine: Broker;
  readonly #subscriptions = new AsyncDisposableStack();
  /** Refuses calls after the close, as every closed broker does. */
  #open: Broker;

  constructor(engine: Broker) {
    this.#engine = this.#open = engine;
    this.name = engine.name;
    this.delivery = engine.delivery;
    if (engine.logs !== undefined) this.logs = engine.logs;
    if (engine.store !== undefined) this.store = engine.store;
    if (engine.history === undefined) return;
    this.history = {
      append: (...args) => this.#open.history!.append(...args),
      read: (...args) => this.#open.history!.read(...args),
    };
  }

  get stats(): BrokerStats {
    return this.#engine.stats;
  }

  issues(): string[] {
    return [];
  }

  publish(publication: Publication): void {
    this.#open.publish(publication);
  }

  subscribe(...args: Parameters<Broker["subscribe"]>): BrokerSubscription {
    return this.#subscriptions.use(this.#open.subscribe(...args));
  }

  async close(): Promise<void> {
    const closed = new MemoryBroker();
    await closed.close();
    this.#open = closed;
    await this.#subscriptions.disposeAsync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
