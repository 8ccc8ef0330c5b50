/**
 * A shared store with one broker for each node. The test determines how the brokers fail.
 *
 * - **Calls** to histories, logs and the store may fail, hang, be delayed, lose their reply, or run
 *   twice. {@linkcode FaultyBroker.make} sets this {@linkcode Fate}.
 * - **Deliveries** go through {@linkcode FaultyBroker.onDelivery}, or fail at random with the
 *   probabilities in {@linkcode FaultyStore.faults}.
 * - **Nodes and the store** can be disconnected or interrupted, and the store can lose all data.
 *
 * @example An append whose reply is lost
 * ```ts ignore
 * const store = new FaultyStore();
 * const broker = store.connect();
 * broker.make("history.append", loseReply);
 * await using server = testServer({ broker, history: { news: {} } });
 * ```
 *
 * @module
 */
import { BrokerError } from "../errors.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { StatusFeed } from "../base/status_feed.ts";
import type { Random } from "./random.ts";
import {
  type Broker,
  type BrokerHistory,
  type BrokerStats,
  type BrokerStatus,
  type BrokerStore,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  payloadBytes,
  type Publication,
  type PublicationListener,
} from "../pubsub/broker.ts";
import type { BrokerLogs } from "../streams/logs/log.ts";
import { logsOf } from "../streams/logs/logs_of.ts";
import { MemoryBroker } from "../pubsub/memory/broker.ts";

/** The parts of a broker whose calls have a fate. */
interface Parts {
  readonly history: BrokerHistory;
  readonly logs: BrokerLogs;
  readonly store: BrokerStore;
}

/** Names of the methods of a part. */
type Methods<T> = Extract<
  { [K in keyof T]-?: NonNullable<T[K]> extends (...args: never[]) => unknown ? K : never }[
    keyof T
  ],
  string
>;

/** Name of a call, such as `history.append`. */
export type Operation = {
  [P in keyof Parts]: `${P}.${Methods<Parts[P]>}`;
}[keyof Parts];

/** One operation, all operations of a part, or all operations. */
type Calls = Operation | keyof Parts | "all";

type Method<O extends Operation> = O extends `${infer P extends keyof Parts}.${infer M}`
  ? NonNullable<Parts[P][M & keyof Parts[P]]>
  : never;

/** The arguments of a call. */
export type CallArgs<O extends Operation> = Method<O> extends (...args: infer A) => unknown ? A
  : never;

/** The reply to a call. */
type Reply<O extends Operation> = Method<O> extends (...args: never[]) => Promise<infer R> ? R
  : never;

/** A call of a node. */
export interface Call<O extends Operation = Operation> {
  readonly operation: O;
  /** The arguments; the first one is the publication, topic, id or key. */
  readonly args: CallArgs<O>;
}

/** Decides how a call ends. `run()` calls the store. */
export type Fate = <T>(run: () => Promise<T>, call: Call) => Promise<T>;

/** Decides how a call of one operation ends. */
export type FateOf<O extends Operation> = (
  run: () => Promise<Reply<O>>,
  call: Call<O>,
) => Promise<Reply<O>>;

/** The call reaches the store, and the reply reaches the node. */
export const pass: Fate = (run) => run();

/** The call does not reach the store. */
export const fail: Fate = () => Promise.reject(unreachable());

/** Creates a fate: the call does not reach the store, and fails with an error. */
export function failWith(error: Error): Fate {
  return () => Promise.reject(error);
}

/** The call takes effect, and fails. */
export const loseReply: Fate = async (run) => {
  await run();
  throw unreachable();
};

/** The call does not reach the store, and never settles. */
export const hang: Fate = () => new Promise(() => {});

/** The call takes effect twice. */
export const repeat: Fate = async (run) => {
  await run();
  return await run();
};

/** Creates a fate: the call reaches the store after a promise settles. */
export function waitFor(gate: PromiseLike<unknown>): Fate {
  return async (run) => {
    await gate;
    return await run();
  };
}

/**
 * Creates a fate: the call reaches the store, and the reply reaches the node after a promise
 * settles.
 */
export function replyAfter(gate: PromiseLike<unknown>): Fate {
  return async (run) => {
    const reply = await run();
    await gate;
    return reply;
  };
}

function fateIn(fates: ReadonlyMap<string, Fate>, { operation }: Call): Fate | undefined {
  const [part] = operation.split(".");
  return fates.get(operation) ?? fates.get(part!) ?? fates.get("all");
}

function unreachable(): BrokerError {
  return new BrokerError("Cannot reach the broker");
}

/** Failures of deliveries, each with its probability in a thousand. */
export interface Faults {
  lost?: number;
  repeated?: number;
  late?: number;
  /** Longest delay, in milliseconds. */
  lateMs?: number;
}

/** Options of a {@linkcode FaultyStore}. */
export interface FaultyStoreOptions {
  /** Selects the deliveries that fail. */
  readonly random?: Random | undefined;
  /** Provides the timers of late deliveries; the platform's runtime by default. */
  readonly runtime?: Runtime | undefined;
  /** Creates the broker that keeps all data; an in-memory broker by default. */
  readonly make?: (() => Broker) | undefined;
}

/** The store that nodes share. */
export class FaultyStore {
  /** The brokers of all nodes that are not cut off. */
  readonly brokers = new Set<FaultyBroker>();
  readonly runtime: Runtime;
  faults: Faults = {};
  /** Delay of every delivery, in milliseconds. */
  delayMs = 0;
  /** True while no call and no publication of any node gets through. */
  isAway = false;
  /** The number and the total bytes of publications without a history. */
  publications = 0;
  bytes = 0;
  readonly #random: Random | undefined;
  readonly #make: () => Broker;
  readonly #nodes: FaultyBroker[] = [];
  readonly #fates = new Map<string, Fate>();
  #inner: Broker;

  constructor({ random, runtime = platformRuntime(), make }: FaultyStoreOptions = {}) {
    this.runtime = runtime;
    this.#random = random;
    this.#make = make ?? (() => new MemoryBroker({ runtime }));
    this.#inner = this.#make();
  }

  /** The broker that keeps all data, without faults. */
  get inner(): Broker {
    return this.#inner;
  }

  /**
   * Creates the broker of a node.
   *
   * @param options See {@linkcode FaultyBrokerOptions}.
   */
  connect(options: FaultyBrokerOptions = {}): FaultyBroker {
    return new FaultyBroker(this, options);
  }

  /** Adds the broker of a node; the constructor of the broker calls this method. */
  add(broker: FaultyBroker): void {
    this.#nodes.push(broker);
    this.brokers.add(broker);
  }

  /** Publishes on a topic without a history, as another program would. */
  publish(publication: Publication): void {
    if (this.isAway) return;
    this.publications++;
    this.bytes += payloadBytes(publication);
    this.#inner.publish(publication);
  }

  /**
   * Sets the fate of later calls of all nodes. A fate that a node sets for itself takes precedence.
   */
  make<O extends Operation>(calls: O, fate: FateOf<O>): void;
  make(calls: keyof Parts | "all", fate: Fate): void;
  make(calls: Calls, fate: unknown): void {
    this.#fates.set(calls, fate as Fate);
  }

  fateOf(call: Call): Fate | undefined {
    return fateIn(this.#fates, call);
  }

  /** Makes the store unreachable for all nodes. */
  goAway(): void {
    this.isAway = true;
    for (const { status } of this.brokers) status.set({ name: "interrupted", since: Date.now() });
  }

  /** Makes the store reachable again. */
  comeBack(): void {
    this.isAway = false;
    for (const broker of [...this.brokers]) {
      broker.status.set({ name: "connected" });
      broker.interrupt();
    }
  }

  /** Loses all publications, logs and stored records. Nodes are not notified. */
  lose(): void {
    void this.#inner.close();
    this.#inner = this.#make();
    for (const broker of this.#nodes) broker.subscribeAgain();
  }

  /** Delivers a publication with the failures and the delay that `faults` and `delayMs` set. */
  carry(publication: Publication, deliver: PublicationListener): void {
    const { lost, repeated, late, lateMs = 100 } = this.faults;
    if (this.#strikes(lost)) return;
    const times = this.#strikes(repeated) ? 2 : 1;
    for (let i = 0; i < times; i++) {
      const delayMs = this.#strikes(late) ? this.#random!.below(lateMs) : this.delayMs || undefined;
      if (delayMs === undefined) deliver(publication);
      else this.runtime.setTimeout(() => deliver(publication), delayMs);
    }
  }

  #strikes(perMille: number | undefined): boolean {
    return perMille !== undefined && this.#random!.below(1_000) < perMille;
  }
}

interface Entry {
  readonly topic: string;
  readonly listener: PublicationListener;
  readonly options: BrokerSubscribeOptions;
  /** The subscription to the store. */
  inner: BrokerSubscription | undefined;
}

/** Options of a {@linkcode FaultyBroker}. */
export interface FaultyBrokerOptions {
  /**
   * Parts and operations that the broker lacks, like the broker of a store without the feature.
   */
  readonly without?: readonly (keyof Parts | Operation)[];
}

function partOf(broker: Broker, part: keyof Parts): Parts[keyof Parts] | undefined {
  return part === "logs" ? logsOf(broker) : broker[part];
}

/** The broker of a node. */
export class FaultyBroker implements Broker {
  readonly name: string;
  readonly delivery: Broker["delivery"];
  readonly status = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly history?: BrokerHistory;
  readonly logs?: BrokerLogs;
  readonly store?: BrokerStore;
  /** The result of `issues()`. */
  problems: string[] = [];
  /** The calls so far. */
  readonly calls: Call[] = [];
  /** Delays the confirmation of new subscriptions. */
  ready: Promise<void> | undefined;
  /**
   * Decides whether a publication of the store reaches the node immediately, twice, late or never.
   */
  onDelivery: (publication: Publication, deliver: PublicationListener) => void;
  readonly #store: FaultyStore;
  readonly #entries = new Set<Entry>();
  readonly #fates = new Map<string, Fate>();
  readonly #without: readonly string[];
  /** Rejects calls after the close, like every closed broker. */
  #closed: MemoryBroker | undefined;

  constructor(store: FaultyStore, { without = [] }: FaultyBrokerOptions = {}) {
    this.#store = store;
    this.#without = without;
    store.add(this);
    this.onDelivery = (publication, deliver) => store.carry(publication, deliver);
    const { name, delivery } = store.inner;
    this.name = name;
    this.delivery = delivery;
    for (const part of ["history", "logs", "store"] as const) {
      const of = partOf(store.inner, part);
      if (of === undefined || without.includes(part)) continue;
      Object.assign(this, { [part]: this.#faulty(part, of) });
    }
  }

  get stats(): BrokerStats {
    return this.#store.inner.stats;
  }

  /** The subscribed topics. */
  get topics(): string[] {
    return [...new Set(Array.from(this.#entries, ({ topic }) => topic))];
  }

  issues(): string[] {
    return [...this.problems];
  }

  /**
   * Sets the fate of later calls.
   *
   * @param calls The calls. The fate of an operation overrides the fate of its part, which
   * overrides the fate of all operations.
   */
  make<O extends Operation>(calls: O, fate: FateOf<O>): void;
  make(calls: keyof Parts | "all", fate: Fate): void;
  make(calls: Calls, fate: unknown): void {
    this.#fates.set(calls, fate as Fate);
  }

  /** The arguments of all calls of an operation so far. */
  callsOf<O extends Operation>(operation: O): CallArgs<O>[] {
    const calls = this.calls.filter((call) => call.operation === operation);
    return calls.map(({ args }) => args as CallArgs<O>);
  }

  publish(publication: Publication): void {
    if (this.#closed !== undefined) this.#closed.publish(publication);
    else if (this.#isReachable) this.#store.publish(publication);
  }

  subscribe(
    topic: string,
    listener: PublicationListener,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const entry: Entry = { topic, listener, options, inner: undefined };
    const { ready } = this.#subscribe(entry);
    this.#entries.add(entry);
    return {
      ready: this.ready ?? ready,
      [Symbol.asyncDispose]: async () => {
        this.#entries.delete(entry);
        await entry.inner?.[Symbol.asyncDispose]();
      },
    };
  }

  /** Subscribes again to all topics after the store lost its subscriptions. */
  subscribeAgain(): void {
    for (const entry of this.#entries) this.#subscribe(entry);
  }

  /** Delivers a publication to the node, independent of the store. */
  deliver(publication: Publication): void {
    for (const entry of [...this.#entries]) {
      if (entry.topic === publication.topic) this.#give(entry, publication);
    }
  }

  /** Notifies the node that publications may be missing on one topic or on all topics. */
  interrupt(topic?: string): void {
    for (const entry of [...this.#entries]) {
      if (topic === undefined || entry.topic === topic) entry.options.onInterrupted?.();
    }
  }

  /** Simulates a killed process: the node neither sends nor receives. */
  cut(): void {
    this.#store.brokers.delete(this);
  }

  /** Restores the network of the process. */
  mend(): void {
    this.#store.brokers.add(this);
  }

  async close(): Promise<void> {
    this.cut();
    this.#closed = new MemoryBroker();
    await this.#closed.close();
    const entries = [...this.#entries];
    this.#entries.clear();
    await Promise.all(entries.map(({ inner }) => inner?.[Symbol.asyncDispose]()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #subscribe(entry: Entry): BrokerSubscription {
    const receive = (publication: Publication) => {
      if (this.#isReachable) this.onDelivery(publication, (one) => this.#give(entry, one));
    };
    return entry.inner = this.#inner.subscribe(entry.topic, receive, entry.options);
  }

  #give(entry: Entry, publication: Publication): void {
    if (this.#entries.has(entry) && this.#store.brokers.has(this)) entry.listener(publication);
  }

  /** Wraps a part of the store whose calls have a fate. */
  #faulty(part: keyof Parts, of: object): object {
    return new Proxy(of, {
      get: (_of, name) => {
        const target: object = partOf(this.#inner, part)!;
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== "function") return value;
        const operation = `${part}.${String(name)}` as Operation;
        if (this.#without.includes(operation)) return undefined;
        return (...args: CallArgs<Operation>) =>
          this.#call({ operation, args }, () => Reflect.apply(value, target, args));
      },
    });
  }

  #call<T>(call: Call, run: () => Promise<T>): Promise<T> {
    this.calls.push(call);
    const fate = fateIn(this.#fates, call) ?? this.#store.fateOf(call) ?? pass;
    const reach = () => this.#closed !== undefined || this.#isReachable ? run() : fail(run, call);
    return fate(reach, call);
  }

  get #isReachable(): boolean {
    return !this.#store.isAway && this.#store.brokers.has(this);
  }

  get #inner(): Broker {
    return this.#closed ?? this.#store.inner;
  }
}
