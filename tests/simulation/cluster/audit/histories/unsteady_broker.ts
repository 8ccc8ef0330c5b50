/** The broker of one node, whose way to the engine is that of a bad day. */
import { BrokerError } from "../../../../../errors.ts";
import type {
  Appended,
  AppendOptions,
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
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import { StatusFeed } from "../../../../../base/status_feed.ts";
import { pause } from "../../../../../base/wait.ts";
import { oneOf } from "../../chance.ts";
import { type Listening, Listenings } from "./listenings.ts";
import type { UnsteadyEngine } from "./unsteady_engine.ts";

/** Longest time of a delivery, of which one is drawn, and of an append, in milliseconds. */
const [DELIVERIES_MS, APPEND_MS] = [[40, 40, 400], 15] as const;

/** Longest time of each half of a read or a call of the store, of which one is drawn, in milliseconds. */
const CALLS_MS = [40, 160] as const;

/** Share of subscriptions that lose deliveries, of these deliveries, and of calls that fail. */
const [LOSSY, LOST, FAILED] = [0.5, 0.08, 0.08];

/**
 * Carries publications as a node receives these from an engine far away.
 *
 * - Appends and deliveries on topics with a history take time; deliveries overtake each other, and some
 *   are lost.
 * - Reads and calls of the store take time, and some fail, or have an effect without an answer.
 * - While the broker is mute, all reads fail; a share of the deliveries can be set that are lost.
 * - While the engine is away, nothing is delivered, and all reads and calls of the store fail;
 *   subscriptions learn of that once the engine is back.
 * - A steady broker does none of this.
 */
export class UnsteadyBroker implements Broker {
  readonly name = "unsteady";
  readonly delivery = "at-most-once";
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly history: BrokerHistory;
  readonly store: BrokerStore;
  /** False while calls and deliveries fail by chance. */
  isSteady = false;
  /** True while all reads fail, and publications come. */
  isMute = false;
  /** True while no read fails by chance; reads take time nevertheless. */
  isReadable = false;
  /** Share of deliveries on topics with a history that are lost, in place of the drawn one. */
  lossShare: number | undefined;
  /** Reads that failed. */
  failures = 0;
  readonly #engine: UnsteadyEngine;
  readonly #runtime: Runtime;
  readonly #random: () => number;
  readonly #callMs: number;
  readonly #deliveryMs: number;
  readonly #listenings = new Listenings(({ topic, take, options }) =>
    this.#engine.broker.subscribe(topic, take, options)
  );
  /** Newest offset that reached a listener, by topic. */
  readonly #reached = new Map<string, number>();
  /** Number of deliveries that were lost, by topic. */
  readonly #lost = new Map<string, number>();
  /** Number of reads that began, by topic. */
  readonly #reads = new Map<string, number>();
  /** The appends under way, which arrive in order. */
  #line: Promise<void> = Promise.resolve();
  #isAway = false;

  /**
   * Creates a broker for the present life of a node.
   *
   * @param engine The engine.
   * @param host The machine of the node.
   * @param random Chance.
   */
  constructor(engine: UnsteadyEngine, { host, random }: {
    readonly host: Host;
    readonly random: () => number;
  }) {
    this.#engine = engine;
    this.#runtime = host.runtime;
    this.#random = random;
    this.#callMs = oneOf(random, CALLS_MS);
    this.#deliveryMs = oneOf(random, DELIVERIES_MS);
    this.history = {
      append: (publication, options) => this.#append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
    this.store = {
      advance: (...parts) => this.#call((store) => store.advance(...parts)),
      newest: (...parts) => this.#call((store) => store.newest(...parts)),
      claim: (...parts) => this.#call((store) => store.claim(...parts)),
      release: (...parts) => this.#call((store) => store.release(...parts)),
      claims: (...parts) => this.#call((store) => store.claims(...parts)),
      take: (...parts) => this.#call((store) => store.take!(...parts)),
    };
    host.onEnd(() => this.#listenings.end());
  }

  get stats(): BrokerStats {
    return this.#engine.broker.stats;
  }

  /** True between `goAway()` and `comeBack()`. */
  get isAway(): boolean {
    return this.#isAway;
  }

  issues(): string[] {
    return [];
  }

  /** Ends calls and deliveries. */
  goAway(): void {
    this.#isAway = true;
  }

  /** Begins calls and deliveries again, and tells all subscriptions of the interruption. */
  comeBack(): void {
    this.#isAway = false;
    this.#listenings.interrupt();
  }

  /** Subscribes to all topics at an engine that began anew; the reach of deliveries begins anew, too. */
  subscribeAnew(): void {
    this.#reached.clear();
    this.#line = Promise.resolve();
    this.#listenings.beginAnew();
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
   * Counts the reads of a topic that began.
   *
   * @param topic The topic.
   * @returns The number.
   */
  readsOf(topic: string): number {
    return this.#reads.get(topic) ?? 0;
  }

  publish(publication: Publication): void {
    if (!this.#isAway) this.#engine.broker.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const { history } = options;
    const lost = history !== undefined && this.#random() < LOSSY ? LOST : 0;
    const lose = () => void this.#lost.set(topic, this.lostOf(topic) + 1);
    const deliver = (publication: Publication, life: number) => {
      if (this.#isAway) return lose();
      // A connection that broke with the engine brings nothing of the life before.
      if (!this.#listenings.has(listening) || life !== this.#engine.lives) return;
      const { offset = 0 } = publication.position ?? {};
      this.#reached.set(topic, Math.max(offset, this.reachedOf(topic)));
      listener(publication);
    };
    const take = (publication: Publication) => {
      const { lives } = this.#engine;
      const isLossy = history !== undefined && this.lossShare !== undefined;
      if (isLossy && this.#random() < this.lossShare!) return lose();
      if (this.isSteady || history === undefined) return deliver(publication, lives);
      if (this.#isAway || this.#random() < lost) return lose();
      const lateMs = this.#deliveryMs * this.#random();
      this.#runtime.setTimeout(() => deliver(publication, lives), lateMs);
    };
    const listening: Listening = { topic, take, options };
    return this.#listenings.add(listening);
  }

  /** Leaves all topics; the engine goes on for the other nodes. */
  close(): Promise<void> {
    this.#listenings.end();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    await (this.#line = this.#line.then(() => this.#wait(APPEND_MS)));
    const appended = await this.#engine.append(publication, options);
    await this.#wait(APPEND_MS);
    return appended;
  }

  async #read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    this.#reads.set(topic, this.readsOf(topic) + 1);
    await this.#passRead();
    const page = await this.#engine.broker.history.read(topic, options);
    await this.#passRead();
    return page;
  }

  /** Half of the way of a read. */
  async #passRead(): Promise<void> {
    try {
      await this.#pass({ fails: this.isMute, neverFails: this.isReadable });
    } catch (error) {
      this.failures++;
      throw error;
    }
  }

  async #call<T>(act: (store: BrokerStore) => Promise<T>): Promise<T> {
    await this.#pass();
    const result = await act(this.#engine.broker.store);
    await this.#pass();
    return result;
  }

  /** Half of the way of a call. */
  async #pass({ fails = false, neverFails = false } = {}): Promise<void> {
    await this.#wait(this.#callMs);
    const isLucky = this.isSteady || neverFails || this.#random() >= FAILED;
    if (!this.#isAway && !fails && isLucky) return;
    throw new BrokerError("Cannot call the engine: the engine is away");
  }

  async #wait(mostMs: number): Promise<void> {
    if (!this.isSteady) await pause(this.#runtime, mostMs * this.#random());
  }
}
