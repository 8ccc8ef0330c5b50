/** Histories in memory of one node, whose reads wait for a word and whose deliveries may be lost. */
import { BrokerError } from "../../../../../errors.ts";
import type {
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryPage,
  Publication,
  ReadHistoryOptions,
} from "../../../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import { StatusFeed } from "../../../../../base/status_feed.ts";
import { pause } from "../../../../../base/wait.ts";

/** A subscription, over all lives of the engine. */
interface Listening {
  readonly topic: string;
  readonly listener: (publication: Publication) => void;
  readonly options: BrokerSubscribeOptions;
  inner: BrokerSubscription;
}

/**
 * A broker whose reads see the history as of their begin, like those of an engine with a slow way back.
 *
 * Topics in `deaf` get no publication live. Reads of topics in `held` end once the topic is left out.
 * A lost engine begins anew, with another epoch and without publications.
 */
export class HeldBroker implements Broker {
  readonly name = "held";
  readonly delivery = "at-most-once";
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly history: BrokerHistory;
  readonly store: BrokerStore;
  /** Topics whose publications are lost on the way to the node. */
  readonly deaf: Set<string> = new Set();
  /** Number of reads to come that fail, once they end, by topic. */
  readonly failing: Map<string, number> = new Map();
  /** Time of each read, in milliseconds. */
  readMs = 0;
  /** Most reads under way at once, without aborted ones. */
  peak = 0;
  readonly #runtime: Runtime;
  #engine: MemoryBroker;
  readonly #held = new Map<string, PromiseWithResolvers<void>>();
  readonly #listenings = new Set<Listening>();
  readonly #reads = new Map<string, number>();
  #underWay = 0;

  /**
   * Starts without publications.
   *
   * @param runtime The runtime of the node.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#engine = new MemoryBroker({ runtime });
    this.store = this.#engine.store;
    this.history = {
      append: (publication, options) => this.#engine.history.append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
  }

  get stats(): BrokerStats {
    return this.#engine.stats;
  }

  /** Number of reads under way, without aborted ones. */
  get underWay(): number {
    return this.#underWay;
  }

  issues(): string[] {
    return [];
  }

  /**
   * Counts the reads of a topic that began.
   *
   * @param topic The topic.
   * @returns The number.
   */
  readsOf(topic: string): number {
    return this.#reads.get(topic) ?? 0;
  }

  /**
   * Holds the ends of the reads of a topic.
   *
   * @param topic The topic.
   */
  hold(topic: string): void {
    this.#held.set(topic, Promise.withResolvers());
  }

  /**
   * Lets all held reads of a topic end.
   *
   * @param topic The topic.
   */
  release(topic: string): void {
    this.#held.get(topic)?.resolve();
    this.#held.delete(topic);
  }

  /**
   * Tells the node that publications of a topic may be missing.
   *
   * @param topic The topic.
   */
  interrupt(topic: string): void {
    for (const { topic: of, options } of [...this.#listenings]) {
      if (of === topic) options.onInterrupted?.();
    }
  }

  /** Loses all publications; the node learns of that from the next publication, or by `interrupt()`. */
  lose(): void {
    void this.#engine.close();
    this.#engine = new MemoryBroker({ runtime: this.#runtime });
    for (const listening of this.#listenings) listening.inner = this.#listen(listening);
  }

  publish(publication: Publication): void {
    this.#engine.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const parts = { topic, listener, options };
    const listening: Listening = { ...parts, inner: this.#listen(parts) };
    this.#listenings.add(listening);
    return {
      ready: listening.inner.ready,
      [Symbol.asyncDispose]: () => {
        this.#listenings.delete(listening);
        return listening.inner[Symbol.asyncDispose]();
      },
    };
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #listen({ topic, listener, options }: Omit<Listening, "inner">): BrokerSubscription {
    return this.#engine.subscribe(topic, (publication) => {
      if (!this.deaf.has(topic)) listener(publication);
    }, options);
  }

  async #read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    this.#reads.set(topic, this.readsOf(topic) + 1);
    this.#underWay++;
    this.peak = Math.max(this.peak, this.#underWay);
    let isOver = false;
    const end = () => {
      if (!isOver) this.#underWay--;
      isOver = true;
    };
    options.signal?.addEventListener("abort", end);
    try {
      const page = await this.#engine.history.read(topic, options);
      if (this.readMs > 0) await pause(this.#runtime, this.readMs);
      await this.#held.get(topic)?.promise;
      const failing = this.failing.get(topic) ?? 0;
      if (failing === 0) return page;
      this.failing.set(topic, failing - 1);
      throw new BrokerError("Cannot read: the answer was lost");
    } finally {
      options.signal?.removeEventListener("abort", end);
      end();
    }
  }
}
