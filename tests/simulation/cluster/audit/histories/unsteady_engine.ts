/** Histories in memory that some nodes share, and that an engine may lose, with the truth about all. */
import type {
  Appended,
  AppendOptions,
  BrokerSubscription,
  HistoryBounds,
  Publication,
} from "../../../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import type { Runtime } from "../../../../../base/runtime.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";

/** A publication that the engine has. */
interface Kept {
  readonly offset: number;
  readonly atMs: number;
}

/** A publication at the time of the append. */
export interface Taken {
  /** Number of lives of the engine before. */
  readonly life: number;
  readonly text: string;
}

/** The publications of one topic in one life. */
interface TopicTruth {
  readonly bounds: HistoryBounds;
  readonly all: Kept[];
}

/**
 * An engine that never fails by itself: the ways to the nodes do, see `UnsteadyBroker`.
 *
 * A lost engine begins anew, with another epoch and without publications.
 */
export class UnsteadyEngine {
  /** Each publication with a history, in the order of the engine, over all lives. */
  readonly taken: Taken[] = [];
  /** The machine of the engine. */
  readonly host: Host;
  readonly #runtime: Runtime;
  readonly #truth = new Map<string, TopicTruth>();
  readonly #ledgers: BrokerSubscription[] = [];
  #broker: MemoryBroker;
  #epoch = "";
  #lives = 0;

  /**
   * Starts the first life.
   *
   * @param host The machine of the engine.
   */
  constructor(host: Host) {
    this.host = host;
    this.#runtime = host.runtime;
    this.#broker = this.#start();
  }

  /** The epoch of the present life. */
  get epoch(): string {
    return this.#epoch;
  }

  /** The engine in the present life. */
  get broker(): MemoryBroker {
    return this.#broker;
  }

  /** Number of lives before. */
  get lives(): number {
    return this.#lives;
  }

  /** Loses all publications; the owner tells the nodes. */
  lose(): void {
    this.#lives++;
    this.#truth.clear();
    void this.#broker.close();
    this.#broker = this.#start();
  }

  /**
   * Appends a publication.
   *
   * @param publication The publication.
   * @param options Bounds and key.
   * @returns The position; none for a repetition.
   */
  append(publication: Publication, options: AppendOptions): Promise<Appended> {
    const { topic } = publication;
    if (!this.#truth.has(topic)) this.#follow(topic, options.bounds);
    return this.#broker.history.append(publication, options);
  }

  /**
   * Tells the newest offset of a topic.
   *
   * @param topic The topic.
   * @returns The offset; 0 without publications.
   */
  headOf(topic: string): number {
    return this.#truth.get(topic)?.all.at(-1)?.offset ?? 0;
  }

  /**
   * Tells the newest offset that is no longer within the size and the time of the history.
   *
   * @param topic The topic.
   * @returns The offset; 0 if all publications are kept.
   */
  forgottenOf(topic: string): number {
    const truth = this.#truth.get(topic);
    if (truth === undefined) return 0;
    const { bounds: { size, ttlMs }, all } = truth;
    const now = this.#runtime.now();
    const isGone = ({ atMs }: Kept, i: number) => all.length - i > size || now - atMs >= ttlMs;
    return all.findLast(isGone)?.offset ?? 0;
  }

  /** Ends the engine. */
  async close(): Promise<void> {
    await Promise.all(this.#ledgers.map((ledger) => ledger[Symbol.asyncDispose]()));
    await this.#broker.close();
  }

  #start(): MemoryBroker {
    const broker = new MemoryBroker({ runtime: this.#runtime });
    const bounds = { size: 1, ttlMs: 1, bytes: 1 };
    void broker.history.read("any", { bounds, maxMessages: 1, maxBytes: 1 })
      .then(({ epoch }) => this.#epoch = epoch);
    return broker;
  }

  /** Notes each publication of a topic as the engine takes it. */
  #follow(topic: string, bounds: HistoryBounds): void {
    const all: Kept[] = [];
    this.#truth.set(topic, { bounds, all });
    this.#ledgers.push(
      this.#broker.subscribe(topic, ({ payload, position }) => {
        this.taken.push({ life: this.#lives, text: `${payload}` });
        all.push({ offset: position!.offset, atMs: this.#runtime.now() });
      }, { history: bounds }),
    );
  }
}
