/**
 * Brokers on a store without faults, for longer than the store remembers a history. The epoch
 * must stay the same.
 */
import type {
  Broker,
  BrokerHistory,
  HistoryBounds,
  Publication,
} from "../../../../pubsub/broker.ts";
import type { HistoryPosition } from "../../../../session/wire/recovery.ts";
import type { Host } from "../../../simulator/host.ts";
import type { ClusterStore } from "../store.ts";
import { Examination, type ExaminationParts } from "../examination.ts";
import { GUEST } from "../tour/holds.ts";

/** Time until the store has no faults, and duration of the vigil after that, in milliseconds. */
const [CALM_MS, VIGIL_MS] = [30_000, 128_000] as const;

/** Minimum time for which a store remembers a history, in milliseconds. */
const REMEMBER_MS = { redis: 5_000, nats: 120_000 } as const;

/** Maximum time without a call, in milliseconds. It is shorter than the time above. */
const QUIET_MS = 2_400;

/** Share of reads among the calls. */
const READ_SHARE = 0.2;

/** Maximum number of appends per call, and of microtasks between two appends. */
const [MOST, TURNS] = [4, 12] as const;

/** Time until all calls have an outcome and all subscriptions are live, in milliseconds. */
const [REST_MS, READY_MS] = [2_000, 8_000] as const;

/** Topic of all publications. */
const TOPIC = "vigil";

/** The limits. Publications are kept for a much shorter time than positions. */
const BOUNDS: HistoryBounds = { size: 6, ttlMs: 1_500, bytes: 1 << 20 };

const READ = { bounds: BOUNDS, maxMessages: 100, maxBytes: 1 << 20 } as const;

/** A broker of the vigil. */
interface Watcher {
  readonly host: Host;
  readonly broker: Broker;
  readonly history: BrokerHistory;
  readonly heard: Publication[];
  interruptions: number;
  isReady: boolean;
}

/** Appends to and reads from the cluster's store for a long time. */
export class Vigil extends Examination {
  override readonly name = "brokers";
  readonly #store: ClusterStore;
  readonly #random: () => number;
  /** Positions of the publications, in the order of the replies. */
  readonly #kept: { readonly payload: string; readonly position: HistoryPosition | undefined }[] =
    [];
  readonly #epochs = new Set<string>();
  readonly #wrong: string[] = [];
  #made = 0;

  /**
   * Creates a vigil, which does not start yet.
   *
   * @param parts Parts of the cluster.
   */
  constructor(parts: ExaminationParts, store: ClusterStore) {
    super(parts, GUEST, CALM_MS);
    this.#store = store;
    this.#random = parts.simulation.chanceOf("vigil");
  }

  override pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.simulation.after(ms, resolve));
  }

  /** Runs the vigil. */
  async run(): Promise<void> {
    await this.pause(CALM_MS);
    const watchers = [this.#watcher("vigil-0"), this.#watcher("vigil-1")];
    for (const watcher of watchers) watcher.host.after(0, () => this.#listen(watcher));
    await this.until(() => watchers.every(({ isReady }) => isReady), READY_MS);
    this.#expect("subscriptions in force", [true, true], watchers.map(({ isReady }) => isReady));
    await this.pause(REST_MS);
    const endMs = this.nowMs + VIGIL_MS;
    while (this.nowMs < endMs) {
      const { host, history } = watchers[Math.floor(this.#random() * watchers.length)]!;
      const isRead = this.#random() < READ_SHARE;
      const count = 1 + Math.floor(MOST * this.#random());
      const turns = Array.from({ length: count }, () => Math.floor(TURNS * this.#random()));
      host.after(0, () => void (isRead ? this.#read(history) : this.#append(history, turns)));
      await this.pause(QUIET_MS * this.#random());
    }
    await this.pause(REST_MS);
    for (const watcher of watchers) this.#compare(watcher);
    const newcomer = this.#watcher("vigil-newcomer");
    await this.#readAt(newcomer);
    this.#expect("epochs of all pages and positions", 1, this.#epochs.size);
    this.#expect("calls without the right outcome", [], this.#wrong.slice(0, 3));
    for (const { host, broker } of [...watchers, newcomer]) {
      host.after(0, () => void broker.close());
    }
    await this.pause(REST_MS);
    for (const { host } of [...watchers, newcomer]) host.kill();
  }

  #watcher(name: string): Watcher {
    const host = this.host(name);
    const isRedis = "broker-scripts" in this.#store.faults;
    const rememberMs = REMEMBER_MS[isRedis ? "redis" : "nats"];
    const broker = this.#store.broker(host, { rememberMs })!;
    return { host, broker, history: broker.history!, heard: [], interruptions: 0, isReady: false };
  }

  #listen(watcher: Watcher): void {
    const hear = (publication: Publication) => void watcher.heard.push(publication);
    const { ready } = watcher.broker.subscribe(TOPIC, hear, {
      history: BOUNDS,
      onInterrupted: () => watcher.interruptions++,
    });
    void ready.then(() => watcher.isReady = true);
  }

  /** Appends some publications in one turn, so that replies arrive together with other messages. */
  async #append(history: BrokerHistory, turns: readonly number[]): Promise<void> {
    for (const between of turns) {
      const payload = `${this.#made++}`;
      history.append({ topic: TOPIC, payload }, { bounds: BOUNDS }).then(
        ({ position }) => {
          this.#kept.push({ payload, position });
          if (position === undefined) this.#wrong.push(`append ${payload} has no position`);
          else this.#epochs.add(position.epoch);
        },
        (error) => this.#wrong.push(`append ${payload} failed: ${error}`),
      );
      for (let left = between; left > 0; left--) await Promise.resolve();
    }
  }

  /** Reads a page. Its head must be at least the newest acknowledged offset. */
  async #read(history: BrokerHistory): Promise<void> {
    const newest = this.#newest();
    try {
      const { epoch, head } = await history.read(TOPIC, READ);
      this.#epochs.add(epoch);
      if (head < newest) this.#wrong.push(`a page has the head ${head}, lower than ${newest}`);
    } catch (error) {
      this.#wrong.push(`a read failed: ${error}`);
    }
  }

  #readAt({ host, history }: Watcher): Promise<void> {
    return new Promise((resolve) =>
      void host.after(0, () => void this.#read(history).finally(resolve))
    );
  }

  #newest(): number {
    return this.#kept.reduce((most, { position }) => Math.max(most, position?.offset ?? 0), 0);
  }

  /**
   * Expects that a listener received each publication once and in order, without gaps or
   * interruptions.
   */
  #compare({ heard, interruptions }: Watcher): void {
    this.#expect("interruptions of a listener", 0, interruptions);
    const sorted = this.#kept.toSorted((one, other) =>
      (one.position?.offset ?? 0) - (other.position?.offset ?? 0)
    );
    const payloads = sorted.map(({ payload }) => payload);
    this.#expect(
      "publications that a listener heard",
      `${payloads}`,
      `${heard.map(({ payload }) => payload)}`,
    );
    const gaps = heard.filter(({ position }, i) =>
      i > 0 && position?.prev !== heard[i - 1]!.position?.offset
    );
    this.#expect("publications after a gap", 0, gaps.length);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.examine("brokers", `${what} on a calm broker`, expected, received);
  }
}
