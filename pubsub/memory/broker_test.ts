import { assertEquals, assertThrows } from "@std/assert";
import { StatusFeed } from "../../base/status_feed.ts";
import type {
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscription,
  Publication,
} from "../broker.ts";
import type { BrokerLogs } from "../logs/log.ts";
import { testBroker } from "../conformance/suite.ts";
import { MemoryBroker } from "./broker.ts";

testBroker("MemoryBroker", () => new MemoryBroker(), {
  makePair: () => {
    const engine = new MemoryBroker();
    return [new Node(engine), new Node(engine)];
  },
});

/** A node of its own on a shared engine, as `Topics` of several servers have. */
class Node implements Broker {
  readonly name = "memory";
  readonly delivery = "at-most-once";
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly history: BrokerHistory;
  readonly logs: BrokerLogs;
  readonly store: BrokerStore;
  readonly #engine: MemoryBroker;
  readonly #subscriptions = new AsyncDisposableStack();
  /** Refuses calls after the close, as every closed broker does. */
  #open: Broker;

  constructor(engine: MemoryBroker) {
    this.#engine = this.#open = engine;
    this.logs = engine.logs;
    this.store = engine.store;
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

Deno.test("MemoryBroker.publish() delivers before it returns", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, ["1"]);
});

Deno.test("MemoryBroker.publish() skips members that come or go during the delivery", () => {
  const broker = new MemoryBroker();
  const heard: string[] = [];
  broker.subscribe("news", () => {
    void second[Symbol.asyncDispose]();
    broker.subscribe("news", ({ payload }) => heard.push(`late ${payload}`));
  });
  const second = broker.subscribe("news", ({ payload }) => heard.push(`gone ${payload}`));
  broker.publish({ topic: "news", payload: "1" });
  assertEquals(heard, []);
});

Deno.test("MemoryBroker.publish() works on after a listener that threw", () => {
  const broker = new MemoryBroker();
  const heard: unknown[] = [];
  const subscription = broker.subscribe("news", () => {
    throw new Error("must not");
  });
  assertThrows(() => broker.publish({ topic: "news", payload: "1" }), Error, "must not");
  void subscription[Symbol.asyncDispose]();
  broker.subscribe("news", ({ payload }) => heard.push(payload));
  broker.publish({ topic: "news", payload: "2" });
  assertEquals(heard, ["2"]);
});
