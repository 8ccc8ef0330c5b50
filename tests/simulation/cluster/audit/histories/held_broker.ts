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
import { Listenings } from "./listenings.ts";

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
  readonly #listenings = new Listenings(({ topic, take, options }) =>
    this.#engine.subscribe(topic, take, options)
  );
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
    this.#listenings.interrupt(topic);
  }

  /**
   * Lets reads of a topic that begin from now on pass; those that are held go on to wait.
   *
   * @param topic The topic.
   * @returns Lets the held reads end.
   */
  passLater(topic: string): () => void {
    const held = this.#held.get(topic);
    this.#held.delete(topic);
    return () => held?.resolve();
  }

  /**
   * Loses all publications; the node learns of that from the next publication, or by `interrupt()`.
   *
   * @param epoch The epoch of the next life; another one by default.
   */
  lose(epoch?: string): void {
    const runtime = this.#runtime;
    void this.#engine.close();
    this.#engine = new MemoryBroker({
      runtime: epoch === undefined ? runtime : { ...runtime, randomUUID: () => epoch },
    });
    this.#listenings.beginAnew();
  }

  publish(publication: Publication): void {
    this.#engine.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const take = (publication: Publication) => {
      if (!this.deaf.has(topic)) listener(publication);
    };
    return this.#listenings.add({ topic, take, options });
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
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
