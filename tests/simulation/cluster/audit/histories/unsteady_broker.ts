/** A broker in memory whose reads and deliveries are those of a bad day, with the truth about all. */
import { BrokerError } from "../../../../../errors.ts";
import type {
  Appended,
  AppendOptions,
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryBounds,
  HistoryPage,
  Publication,
  ReadHistoryOptions,
} from "../../../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import { pause } from "../../../../../base/wait.ts";
import { oneOf } from "../../chance.ts";

/** Longest time of a delivery, in milliseconds. */
const SLOW_MS = 40;

/** Longest time of each half of a read, of which one is drawn, in milliseconds. */
const READS_MS = [40, 160] as const;

/** Share of subscriptions that lose deliveries, of these deliveries, and of reads that fail. */
const [LOSSY, LOST, FAILED] = [0.5, 0.08, 0.08];

/** A publication that the engine has. */
interface Kept {
  readonly offset: number;
  readonly atMs: number;
}

/**
 * Carries publications within one process, as a node receives these from an engine far away.
 *
 * - Deliveries on topics with a history take time, overtake each other, and some are lost.
 * - Reads take time, and some fail.
 * - While the broker is mute, all reads fail.
 * - While the engine is away, nothing is delivered and all reads fail; subscriptions learn of that
 *   once the engine is back.
 * - A steady broker does none of this.
 */
export class UnsteadyBroker implements Broker {
  readonly name = "unsteady";
  readonly delivery = "at-most-once";
  readonly history: BrokerHistory;
  /** False while reads and deliveries fail by chance. */
  isSteady = false;
  /** True while all reads fail, and publications come. */
  isMute = false;
  /** True while no read fails by chance; reads take time nevertheless. */
  isReadable = false;
  /** Reads that failed. */
  failures = 0;
  readonly #inner: MemoryBroker;
  readonly #runtime: Runtime;
  readonly #random: () => number;
  readonly #readMs: number;
  readonly #onInterrupted = new Set<() => void>();
  /** Newest offset that reached a listener, by topic. */
  readonly #reached = new Map<string, number>();
  readonly #kept = new Map<string, { readonly bounds: HistoryBounds; readonly all: Kept[] }>();
  /** Number of deliveries that were lost, by topic. */
  readonly #lost = new Map<string, number>();
  #isAway = false;

  /**
   * Creates a broker.
   *
   * @param runtime Clocks and timers.
   * @param random Chance.
   */
  constructor(runtime: Runtime, random: () => number) {
    this.#inner = new MemoryBroker({ runtime });
    this.#runtime = runtime;
    this.#random = random;
    this.#readMs = oneOf(random, READS_MS);
    this.history = {
      append: (publication, options) => this.#append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
  }

  get status(): Broker["status"] {
    return this.#inner.status;
  }

  get stats(): BrokerStats {
    return this.#inner.stats;
  }

  get store(): BrokerStore {
    return this.#inner.store;
  }

  /** True between `goAway()` and `comeBack()`. */
  get isAway(): boolean {
    return this.#isAway;
  }

  issues(): string[] {
    return [];
  }

  /** Ends reads and deliveries. */
  goAway(): void {
    this.#isAway = true;
  }

  /** Begins reads and deliveries again, and tells all subscriptions of the interruption. */
  comeBack(): void {
    this.#isAway = false;
    for (const tell of [...this.#onInterrupted]) tell();
  }

  /**
   * Tells the newest offset of a topic.
   *
   * @param topic The topic.
   * @returns The offset; 0 without publications.
   */
  headOf(topic: string): number {
    return this.#kept.get(topic)?.all.at(-1)?.offset ?? 0;
  }

  /**
   * Counts the deliveries on a topic that were lost.
   *
   * @param topic The topic.
   * @returns The number.
   */
  lostOf(topic: string): number {
    return this.#lost.get(topic) ?? 0;
  }

  /**
   * Tells the newest offset that a delivery brought to the node.
   *
   * @param topic The topic.
   * @returns The offset; 0 without deliveries.
   */
  reachedOf(topic: string): number {
    return this.#reached.get(topic) ?? 0;
  }

  /**
   * Tells the newest offset that is no longer within the size and the time of the history.
   *
   * @param topic The topic.
   * @returns The offset; 0 if all publications are kept.
   */
  forgottenOf(topic: string): number {
    const { bounds: { size, ttlMs }, all } = this.#kept.get(topic) ??
      { bounds: { size: 1, ttlMs: 1 }, all: [] };
    const now = this.#runtime.now();
    const isGone = ({ atMs }: Kept, i: number) => all.length - i > size || now - atMs >= ttlMs;
    return all.findLast(isGone)?.offset ?? 0;
  }

  publish(publication: Publication): void {
    if (!this.#isAway) this.#inner.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const { history, onInterrupted = () => {} } = options;
    const lost = history !== undefined && this.#random() < LOSSY ? LOST : 0;
    let isOver = false;
    const lose = () => void this.#lost.set(topic, this.lostOf(topic) + 1);
    const deliver = (publication: Publication) => {
      if (this.#isAway) return lose();
      if (isOver) return;
      const { offset = 0 } = publication.position ?? {};
      this.#reached.set(topic, Math.max(offset, this.reachedOf(topic)));
      listener(publication);
    };
    const take = (publication: Publication) => {
      if (this.isSteady || history === undefined) return deliver(publication);
      if (this.#isAway || this.#random() < lost) return lose();
      this.#runtime.setTimeout(() => deliver(publication), SLOW_MS * this.#random());
    };
    const subscription = this.#inner.subscribe(topic, take, options);
    this.#onInterrupted.add(onInterrupted);
    return {
      ready: subscription.ready,
      [Symbol.asyncDispose]: () => {
        isOver = true;
        this.#onInterrupted.delete(onInterrupted);
        return subscription[Symbol.asyncDispose]();
      },
    };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    const { topic } = publication;
    const atMs = this.#runtime.now();
    let kept = this.#kept.get(topic);
    if (kept === undefined) this.#kept.set(topic, kept = { bounds: options.bounds, all: [] });
    // Within one process, an append takes effect at once.
    kept.all.push({ offset: this.headOf(topic) + 1, atMs });
    return await this.#inner.history.append(publication, options);
  }

  async #read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    await this.#pass();
    const page = await this.#inner.history.read(topic, options);
    await this.#pass();
    return page;
  }

  /** Half of the way of a read. */
  async #pass(): Promise<void> {
    if (!this.isSteady) await pause(this.#runtime, this.#readMs * this.#random());
    const isLucky = this.isSteady || this.isReadable || this.#random() >= FAILED;
    if (!this.#isAway && !this.isMute && isLucky) return;
    this.failures++;
    throw new BrokerError("Cannot read history: the engine is away");
  }
}
