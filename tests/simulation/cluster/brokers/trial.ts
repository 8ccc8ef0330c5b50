/**
 * Trials of brokers. Each trial has brokers on separate machines and a spare store that fails in
 * each round. After each round, the trial examines everything that the broker contract guarantees.
 */
import type { Broker, BrokerSubscription, HistoryBounds } from "../../../../pubsub/broker.ts";
import type { Host } from "../../../simulator/host.ts";
import { between, oneOf, shuffled } from "../chance.ts";
import { Examination, type ExaminationParts } from "../examination.ts";
import { GUEST } from "../tour/holds.ts";
import { Ledger, type Listening, type Producer, type Sent } from "./ledger.ts";
import { mishapsOf, type TrialParts } from "./mishaps.ts";
import { TrialLogs } from "./logs.ts";
import { Rows } from "./rows.ts";
import type { Hiccup, SpareSettings, SpareStore } from "./spare.ts";
import { logsOf } from "../../../../streams/logs/logs_of.ts";

/** Limits of all histories. They are so large that no publication of a trial is removed. */
const BOUNDS: HistoryBounds = { size: 10_000, ttlMs: 3_600_000, bytes: 1 << 27 };

/** Topics that are used throughout, and topics that programs leave immediately. */
const TOPICS = ["plain:0", "plain:1", "kept:0", "kept:1"] as const;
const BRIEF = ["plain:2", "plain:3", "kept:2"] as const;

/**
 * Topics to which programs subscribe in a round after a publication, and which they leave
 * afterwards.
 */
const VISITED: readonly string[] = [
  ...["plain:visited-0", "plain:visited-1", "plain:visited-2"],
  ...["kept:visited-0", "kept:visited-1"],
  ...TOPICS,
];

/**
 * Number of visits per round, and the maximum time until the next topic in milliseconds, which is
 * the time that a reply takes.
 */
const [VISITS, NEXT_MS] = [3, 1_200] as const;

/** Share of the visits that end once the topic is live and start again in the same turn. */
const AGAIN_SHARE = 0.4;

/** Maximum time from a ready subscription to a publication of another broker. */
const PROMPT_MS = 20;

/** Topic that has listeners but no publications during a mishap. */
const QUIET = "kept:quiet";

/** Topics with listeners at each broker. */
const FOLLOWED = [...TOPICS, QUIET];

/**
 * Time during which mishaps start, in milliseconds. The last mishap is over before the cluster
 * closes.
 */
const TRIAL_MS = 110_000;

/** Share of the mishaps that happen to the same broker twice in a row. */
const TWICE_SHARE = 0.25;

/** Maximum waits of a publication in milliseconds, one of which is chosen at random. */
const GIVE_UP_MS = [30_000, 30_000, 4_000, 2_500] as const;

/** Limit of waiting publications. The programs make fewer. */
const MANY = 65_536;

/** Number of operations around the start of a mishap, during it, and after its end. */
const [EARLY, LATER, BEHIND] = [6, 8, 5] as const;

/** Time after a mishap during which programs work, in milliseconds. */
const BEHIND_MS = 1_500;

/** Number of reads and store calls around the start of a mishap, and during it. */
const [EARLY_CALLS, LATER_CALLS] = [4, 4] as const;

/** Number of log calls at the start of a mishap, and during it. */
const LOG_CALLS = 5;

/** Time around the start of a mishap, in milliseconds. */
const EARLY_MS = 60;

/** Maximum number of publications per operation. */
const MAX_BURST = 4;

/**
 * Share of the rounds with large publications, their size in characters, and how many of them a
 * broker makes.
 */
const LONG = { share: 0.1, characters: 600_000, plain: 8, kept: 4 } as const;

/** Maximum time between two publications of an operation, in milliseconds. A reply takes longer. */
const MAX_GAP_MS = 8;

/** Maximum time that programs stay if they leave soon, in milliseconds. */
const MAX_STAY_MS = 400;

/** Maximum number of subscriptions per broker. */
const MAX_LISTENINGS = 7;

/** Maximum time until everything has recovered, and the interval of the checks, in milliseconds. */
const [CALM_MS, LOOK_MS] = [30_000, 250] as const;

/** Time after which all timers of publications have ended, in milliseconds. */
const REST_MS = 6_000;

/** Time for a publication to reach all nodes, in milliseconds. */
const PASSAGE_MS = 800;

/** Number of publications per page. */
const PAGE = 7;

/** A broker of a trial, with its programs. */
class Seat implements Producer {
  readonly index: number;
  readonly host: Host;
  readonly broker: Broker;
  readonly awayMs: number[] = [];
  /** Subscriptions that the programs hold. */
  readonly held: { readonly listening: Listening; readonly subscription: BrokerSubscription }[] =
    [];
  /** Time of the last loss of all connections. */
  brokenMs = -1;
  /** Number of pending reads. */
  reads = 0;

  constructor(index: number, host: Host, broker: Broker) {
    this.index = index;
    this.host = host;
    this.broker = broker;
  }

  /** Number of publications that count as dropped. */
  get dropped(): number {
    return this.broker.stats.dropped;
  }

  /** Topics with a subscription. */
  get topics(): Set<string> {
    return new Set(this.held.map(({ listening }) => listening.topic));
  }
}

/** A random operation of a program. */
interface Act {
  /** Random number in [0, 1) that selects the kind of the operation. */
  readonly kind: number;
  /** Random number in [0, 1) that selects the topic of the operation. */
  readonly which: number;
  /** Time between two publications, in milliseconds. */
  readonly gapMs: number;
}

/** A running trial. */
export class Trial extends Examination implements TrialParts {
  override readonly name = "brokers";
  /** Random numbers of the trial. */
  readonly random: () => number;
  readonly store: SpareStore;
  /** Limits and times of the brokers. */
  readonly spare: SpareSettings;
  readonly #seats: readonly Seat[];
  readonly #ledger: Ledger;
  readonly #rows = new Rows();
  readonly #logs = new TrialLogs();
  /** Subscriptions that end with the round. */
  readonly #visits = new Set<Listening>();
  /** Epoch of each topic at the last check. */
  readonly #epochs = new Map<string, string>();
  /** Subscriptions of the store without any listener. */
  #own = 0;
  #hasEnded = false;

  private constructor(
    parts: ExaminationParts,
    random: () => number,
    store: SpareStore,
    number: number,
  ) {
    super(parts, GUEST, CALM_MS);
    this.random = random;
    this.store = store;
    this.spare = {
      giveUpMs: oneOf(random, GIVE_UP_MS),
      maxWaiting: random() < 0.8 ? MANY : 12,
      pingMs: random() < 0.5 ? 1_000 : 3_000,
    };
    const { giveUpMs, maxWaiting } = this.spare;
    this.#ledger = new Ledger({
      giveUpMs,
      isNarrow: maxWaiting < 100,
      countsLosses: !store.hasOneConnection,
    });
    this.#seats = Array.from({ length: random() < 0.7 ? 2 : 3 }, (_, i) => {
      const host = this.host(`broker-${number}-${i}`);
      return new Seat(i, host, store.broker(host, this.spare));
    });
    for (const { broker, awayMs } of this.#seats) {
      broker.status.observe(({ name }) => {
        if (name === "interrupted") awayMs.push(this.nowMs);
      });
    }
  }

  /**
   * Tests the brokers of some stores of one kind concurrently. The mishaps are divided among the
   * trials. A trial that has finished its own mishaps continues with the next trial's mishaps.
   *
   * @param parts Parts of the cluster.
   */
  static async runAll(parts: ExaminationParts, stores: readonly SpareStore[]): Promise<void> {
    const { simulation } = parts;
    const trials = stores.map((store, i) =>
      new Trial(parts, simulation.chanceOf(`brokers/${i}`), store, i)
    );
    const [first] = trials;
    if (first === undefined) return;
    const kinds = mishapsOf(first.store, 0).map((_, i) => i);
    const deck = shuffled(simulation.chanceOf("mishaps"), kinds);
    await Promise.all(trials.map((trial, i) => {
      const all = trials.map((_, k) => (i + k) % trials.length);
      return trial.#run(all.flatMap((k) => deck.filter((_, at) => at % trials.length === k)));
    }));
  }

  override pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.simulation.after(ms, resolve));
  }

  /**
   * Breaks connections between brokers and the store.
   *
   * @param host The machine of a broker.
   * @param isSilent True if the broker does not notice the break.
   */
  cut(host: Host, isSilent: boolean): void {
    for (const link of this.network.links) {
      if (link.client === host && link.server === this.store.host) {
        // The store notices that the connections have ended, as it does when a process ends. No
        // subscription is left.
        link.disconnect({ silent: isSilent && "client" });
      }
    }
    this.breaks(host);
  }

  /**
   * Records that a broker has lost all connections.
   *
   * @param host The machine of the broker.
   */
  breaks(host: Host): void {
    const seat = this.#seats.find((seat) => seat.host === host);
    if (seat !== undefined) seat.brokenMs = this.nowMs;
  }

  /**
   * Checks that a broker has noticed that the store is unreachable.
   *
   * @param host The machine of the broker.
   * @param what The cause.
   */
  expectAway(host: Host, what: string): void {
    const { current } = this.#seats.find((seat) => seat.host === host)!.broker.status;
    this.examine("brokers", `status of a broker after ${what}`, "interrupted", current.name);
  }

  /** Records that a fault of the store starts now. */
  hasHiccup({ lastsMs, loses, rejects = false, keepsConnections = false }: Hiccup): void {
    if (rejects) this.#ledger.reject(this.nowMs + lastsMs);
    if (!keepsConnections) return;
    this.#ledger.disturb({ fromMs: this.nowMs, toMs: this.nowMs + lastsMs, loses });
  }

  /** Kills the store's process for a time. */
  async endBroker(lastsMs: number): Promise<void> {
    this.#hasEnded = true;
    this.store.host.kill();
    if (!this.store.keepsRows) {
      this.#rows.forget();
      this.#logs.forget();
    }
    for (const { host } of this.#seats) this.breaks(host);
    await this.pause(lastsMs);
    this.store.restart();
  }

  /** Machines of the brokers. */
  get #hosts(): readonly Host[] {
    return this.#seats.map(({ host }) => host);
  }

  #pick<T>(from: readonly T[]): T {
    return oneOf(this.random, from);
  }

  /** Runs mishaps, given as indexes into the list of all mishaps, while there is time. */
  async #run(deck: readonly number[]): Promise<void> {
    const endMs = this.nowMs + TRIAL_MS;
    await this.#begin();
    const mishaps = mishapsOf(this.store, this.spare.pingMs);
    const kinds = deck.flatMap((kind) => this.random() < TWICE_SHARE ? [kind, kind] : [kind]);
    for (const [round, kind] of kinds.entries()) {
      if (this.nowMs > endMs) break;
      const mishap = mishaps[kind]!;
      const host = this.#hosts[Math.floor(this.random() * (1 + round % 2)) % this.#hosts.length]!;
      const seat = this.#seats.find((seat) => seat.host === host)!;
      this.simulation.note(`trial: ${mishap.name}`, host.name, { kind: "fault" });
      this.#workAround(seat, mishap.lastsMs);
      await this.pause(EARLY_MS / 2);
      await mishap.run(this, host);
      await this.#examineCalm(mishap.name);
    }
    await this.#end();
  }

  /** Opens all streams and connections, so that they are counted before the first subscription. */
  async #begin(): Promise<void> {
    for (const seat of this.#seats) {
      seat.host.after(0, () => {
        this.#publish(seat, TOPICS[0]);
        this.#publish(seat, TOPICS[2]);
        this.#read(seat, TOPICS[2]);
        this.#callLogs(seat, 0);
      });
    }
    await this.#untilCalm("the start");
    await this.pause(REST_MS);
    this.#own = this.store.subscriptions;
    for (const seat of this.#seats) {
      for (const topic of FOLLOWED) seat.host.after(0, () => this.#listen(seat, topic));
    }
    await this.pause(PASSAGE_MS);
    for (const { broker, held } of this.#seats) {
      const told = held.filter(({ listening }) => listening.interruptedMs.length > 0).length;
      this.examine("brokers", "interruptions of an undisturbed broker", 0, told);
      this.examine("brokers", "outages that its statistics count", 0, broker.stats.interruptions);
    }
  }

  /** Makes programs work around the start of a mishap, during it, and after its end. */
  #workAround(target: Seat, lastsMs: number): void {
    for (let i = 0; i < EARLY + LATER + BEHIND; i++) {
      const atMs = i < EARLY
        ? this.random() * EARLY_MS
        : i < EARLY + LATER
        ? this.random() * (lastsMs + 2 * EARLY_MS)
        : lastsMs + EARLY_MS + this.random() * BEHIND_MS;
      const seat = this.#near(target);
      const act: Act = { kind: this.random(), which: this.random(), gapMs: this.#gapMs };
      this.#later(seat, atMs, () => this.#act(seat, act));
    }
    if (this.store.hasWindow && this.random() < LONG.share) {
      const atMs = this.random() * EARLY_MS;
      this.#later(target, atMs, () => this.#publishLong(target));
    }
    for (let i = 0; i < EARLY_CALLS + LATER_CALLS; i++) {
      const atMs = this.random() * (i < EARLY_CALLS ? EARLY_MS : lastsMs + 2 * EARLY_MS);
      const seat = this.#near(target);
      const kind = this.random();
      this.#later(seat, atMs, () => this.#call(seat, kind));
    }
    for (let i = 0; i < LOG_CALLS; i++) {
      const atMs = this.random() * (i === 0 ? EARLY_MS : lastsMs + 2 * EARLY_MS);
      const seat = this.#near(target);
      const kind = this.random();
      this.#later(seat, atMs, () => this.#callLogs(seat, kind));
    }
    for (let i = 0; i < VISITS; i++) {
      const atMs = this.random() * (i === 0 ? EARLY_MS : lastsMs + 2 * EARLY_MS);
      const seat = this.#near(target);
      const first = Math.floor(this.random() * VISITED.length);
      for (let i = 0; i < 2; i++) {
        const topic = VISITED[(first + i) % VISITED.length]!;
        const isBehind = this.random() < 0.5;
        const isAgain = this.random() < AGAIN_SHARE;
        const visitMs = atMs + i * NEXT_MS * this.random();
        this.#later(seat, visitMs, () => this.#visit(seat, topic, { isBehind, isAgain }));
      }
    }
  }

  /** Picks the broker of the mishap or any broker at random. */
  #near(target: Seat): Seat {
    return this.random() < 0.6 ? target : this.#pick(this.#seats);
  }

  /** Makes a broker's program act after a time. */
  #later({ host }: Seat, ms: number, act: () => void): void {
    this.simulation.after(ms, () => host.after(0, act));
  }

  /**
   * Publishes more bytes than a broker sends to the store before it receives an acknowledgment.
   */
  #publishLong(seat: Seat): void {
    for (let i = 0; i < LONG.plain; i++) this.#publish(seat, TOPICS[0], LONG.characters);
    for (let i = 0; i < LONG.kept; i++) this.#publish(seat, TOPICS[2], LONG.characters);
  }

  /** Subscribes, and makes another broker publish once the subscription is ready. */
  #visit(
    seat: Seat,
    topic: string,
    { isBehind, isAgain }: { readonly isBehind: boolean; readonly isAgain: boolean },
  ): void {
    if (isBehind) this.#publish(seat, topic);
    const other = this.#pick(this.#seats.filter((one) => one !== seat));
    const promptMs = this.random() * PROMPT_MS;
    const publish = () => void this.#publish(other, topic);
    const { subscription, listening } = this.#listen(seat, topic);
    this.#visits.add(listening);
    void subscription.ready.then(() => {
      const isLeft = !seat.held.some((one) => one.listening === listening);
      if (!isAgain || isLeft) return void other.host.after(promptMs, publish);
      this.#leave(seat, listening);
      this.#visit(seat, topic, { isBehind: false, isAgain: false });
    });
  }

  /**
   * Picks the random time between the publications of one operation. In half of all operations it
   * is 0.
   */
  get #gapMs(): number {
    return Math.max(0, 2 * this.random() - 1) * MAX_GAP_MS;
  }

  /** Reads a history, or calls the store. */
  #call(seat: Seat, kind: number): void {
    const isRead = kind < 0.3;
    if (isRead) this.#read(seat, TOPICS[2]);
    else this.#rows.call(seat.index, seat.broker.store!, (kind - 0.3) / 0.7);
  }

  #callLogs({ index, broker }: Seat, kind: number): void {
    this.#logs.call(index, logsOf(broker)!, kind);
  }

  #act(seat: Seat, { kind, which, gapMs }: Act): void {
    const topic = TOPICS[Math.floor(which * TOPICS.length)]!;
    const known = BRIEF[Math.floor(which * BRIEF.length)]!;
    const brief = kind < 0.9 ? known : `plain:new-${this.#ledger.sent.length}`;
    if (kind < 0.6) {
      for (let i = Math.floor(kind / 0.6 * MAX_BURST); i >= 0; i--) {
        if (gapMs === 0) this.#publish(seat, topic);
        else seat.host.after(i * gapMs, () => this.#publish(seat, topic));
      }
    } else if (kind < 0.7) {
      if (seat.held.length < MAX_LISTENINGS) this.#listen(seat, topic);
    } else if (kind < 0.78) {
      this.#leave(seat, seat.held[Math.floor(which * seat.held.length)]?.listening);
    } else if (kind < 0.95) {
      // The subscription may overtake a publication in flight.
      this.#publish(seat, brief);
      const stay = () => {
        const { listening } = this.#listen(seat, brief);
        const leave = () => this.#leave(seat, listening);
        if (kind < 0.86) leave();
        else seat.host.after((kind - 0.86) * MAX_STAY_MS, leave);
      };
      if (which < 0.5) stay();
      else seat.host.after((which - 0.5) * MAX_STAY_MS / 20, stay);
    } else this.#read(seat, TOPICS[2]);
  }

  #publish({ index: by, broker }: Seat, topic: string, characters = 0): Sent {
    const isKept = topic.startsWith("kept");
    const sent = this.#ledger.note({ by, topic, isKept, atMs: this.nowMs }, characters);
    const { payload, except } = sent;
    const publication = { topic, payload, ...(except !== undefined && { except }) };
    if (isKept) {
      broker.history!.append(publication, { bounds: BOUNDS }).then(
        ({ position }) => sent.settled = { atMs: this.nowMs, ...(position && { position }) },
        (error) => sent.settled = { atMs: this.nowMs, error },
      );
    } else broker.publish(publication);
    return sent;
  }

  #listen({ index, broker, held }: Seat, topic: string): Seat["held"][number] {
    const isKept = topic.startsWith("kept");
    const listening = this.#ledger.listen({ at: index, topic, isKept });
    const subscription = broker.subscribe(
      topic,
      (publication) => this.#ledger.hear(listening, publication, this.nowMs),
      {
        onInterrupted: () => void listening.interruptedMs.push(this.nowMs),
        ...(isKept && { history: BOUNDS }),
      },
    );
    void subscription.ready.then(() => listening.readyMs = this.nowMs);
    const one = { listening, subscription };
    held.push(one);
    return one;
  }

  #leave({ held }: Seat, listening: Listening | undefined): void {
    const place = held.findIndex((one) => one.listening === listening);
    if (place < 0) return;
    const [left] = held.splice(place, 1);
    void left!.subscription[Symbol.asyncDispose]();
    left!.listening.leftMs = this.nowMs;
  }

  #read(seat: Seat, topic: string): void {
    seat.reads++;
    const page = { bounds: BOUNDS, maxMessages: PAGE, maxBytes: 1 << 20 };
    // A read may fail while the store is unreachable.
    seat.broker.history!.read(topic, page).then(
      (read) => this.#ledger.read(topic, read),
      () => {},
    ).then(() => seat.reads--);
  }

  /** Waits until all brokers are connected, and no work is pending. */
  async #untilCalm(what: string): Promise<void> {
    const left = () =>
      this.#seats.flatMap(({ index, broker, held, reads }) =>
        [
          ...(broker.status.current.name === "connected" ? [] : [broker.status.current.name]),
          ...(broker.stats.waiting === 0 ? [] : [`${broker.stats.waiting} publications wait`]),
          ...(reads === 0 ? [] : [`${reads} reads are pending`]),
          ...broker.issues(),
          ...held.flatMap(({ listening: { readyMs, topic } }) =>
            readyMs === undefined ? [`a subscription to ${topic} is not ready`] : []
          ),
        ].map((text) => `${text} (${index})`)
      );
    const endMs = this.nowMs + CALM_MS;
    const underWay = () => this.#rows.underWay + this.#logs.underWay;
    const isCalm = () => left().length === 0 && underWay() === 0;
    while (this.nowMs < endMs && !isCalm()) {
      // Logs stay unavailable until the next call opens them.
      for (const seat of this.#seats) {
        const issues = seat.broker.issues();
        if (issues.length > 0) seat.host.after(0, () => this.#callLogs(seat, 0));
        // Only another write shows that a store accepts writes again.
        const isRefusing = issues.some((issue) => issue.includes("has rejected writes"));
        if (isRefusing) seat.host.after(0, () => void this.#publish(seat, QUIET));
      }
      await this.pause(LOOK_MS);
    }
    this.examine("brokers", `calls of store and logs pending after ${what}`, 0, underWay());
    this.examine("brokers", `state of the brokers after ${what}`, "", left().join("; "));
  }

  /** Examines all guarantees, once no work is pending. */
  async #examineCalm(what: string): Promise<void> {
    await this.#untilCalm(what);
    await this.pause(REST_MS);
    this.#examineInterruptions(what);
    for (const seat of this.#seats) seat.host.after(0, () => this.#read(seat, QUIET));
    await this.pause(PASSAGE_MS);
    await this.#examinePassage(what);
    this.#examineCounts(what);
    for (const [rule, text] of Object.entries(this.#ledger.complaints(this.#seats))) {
      this.examine("brokers", `${rule} after ${what}`, "", text);
    }
    for (const topic of [...FOLLOWED, ...BRIEF]) {
      if (topic.startsWith("kept")) await this.#examineHistory(topic, what);
    }
    await this.#examineRows(what);
    const logs = this.#seats.map(({ broker }) => logsOf(broker)!);
    this.examine("brokers", `logs after ${what}`, "", await this.#logs.compare(logs));
    this.#hasEnded = false;
    await this.pause(PASSAGE_MS);
    const topics = this.#seats.reduce((sum, { topics }) => sum + topics.size, 0);
    this.examine(
      "brokers",
      `subscriptions at the broker after ${what}`,
      this.#own + topics,
      this.store.subscriptions,
    );
    for (const seat of this.#seats) {
      const visits = seat.held.filter(({ listening }) => this.#visits.has(listening));
      for (const { listening } of visits) this.#leave(seat, listening);
    }
  }

  /** Expects that the store reflects the outcomes of all calls, and that it works. */
  async #examineRows(what: string): Promise<void> {
    const stores = this.#seats.map(({ broker }) => broker.store!);
    const before = await this.#rows.compare(stores);
    for (const { index } of this.#seats) {
      this.#rows.call(index, stores[index]!, 0);
      this.#rows.call(index, stores[index]!, between(this.random, 0.4, 0.8));
    }
    await this.until(() => this.#rows.underWay === 0);
    await this.#rows.handOver(stores);
    const later = before || await this.#rows.compare(stores);
    this.examine("brokers", `numbers and claims after ${what}`, "", later);
  }

  /**
   * Expects that the statistics count all outages and publications, and that they count each
   * rejected append as dropped.
   */
  #examineCounts(what: string): void {
    for (const { index, broker: { stats }, awayMs, dropped } of this.#seats) {
      const own = this.#ledger.sent.filter(({ by }) => by === index);
      const rejected = own.filter(({ settled }) => settled?.error !== undefined).length;
      const at = `of broker ${index} after ${what}`;
      this.examine("brokers", `outages ${at}`, awayMs.length, stats.interruptions);
      this.examine(
        "brokers",
        `dropped ones ${at}, fewer than rejected appends`,
        false,
        dropped < rejected,
      );
      if (this.spare.maxWaiting < MANY) continue;
      this.examine("brokers", `publications ${at}`, own.length, stats.published);
    }
  }

  /** If a broker lost all connections, expects that each of its listeners was notified. */
  #examineInterruptions(what: string): void {
    for (const { brokenMs, held, index } of this.#seats) {
      const untold = held.flatMap(({ listening: { topic, readyMs, interruptedMs } }) =>
        brokenMs >= 0 && (readyMs ?? Infinity) < brokenMs &&
          !((interruptedMs.at(-1) ?? -1) >= brokenMs)
          ? [topic]
          : []
      );
      this.examine(
        "brokers",
        `listeners of broker ${index} that were not told of ${what}`,
        [],
        untold,
      );
    }
  }

  /**
   * Makes each broker publish on each topic, and expects each listener to receive everything in
   * time.
   */
  async #examinePassage(what: string): Promise<void> {
    const probes: Sent[] = [];
    for (const seat of this.#seats) {
      seat.host.after(0, () => {
        for (const topic of FOLLOWED) probes.push(this.#publish(seat, topic));
      });
    }
    await this.pause(PASSAGE_MS);
    const missed: string[] = [];
    for (const { held, index } of this.#seats) {
      for (const { listening: { topic, got } } of held) {
        for (const sent of probes) {
          if (sent.topic === topic && !got.has(sent)) {
            missed.push(`one of broker ${sent.by} on ${topic} at broker ${index}`);
          }
        }
      }
    }
    this.examine("brokers", `publications that did not pass after ${what}`, [], missed);
    const failed = probes.filter(({ isKept, settled }) =>
      isKept && settled?.position === undefined
    );
    this.examine("brokers", `appends without a position after ${what}`, 0, failed.length);
  }

  /** Expects the history to contain the appends of the current epoch exactly once and in order. */
  async #examineHistory(topic: string, what: string): Promise<void> {
    const { history } = this.#pick(this.#seats).broker;
    const kept = [];
    let epoch: string | undefined;
    for (let after: number | undefined, isOver = false; !isOver;) {
      const page = await history!.read(topic, {
        bounds: BOUNDS,
        maxMessages: PAGE,
        maxBytes: 1 << 20,
        ...(after !== undefined && { after }),
      });
      kept.push(...page.publications);
      after = page.publications.at(-1)?.position?.offset;
      epoch = page.epoch;
      isOver = after === undefined || after === page.head;
    }
    const wrong = this.#ledger.compare(topic, epoch!, kept);
    this.examine("brokers", `history of ${topic} after ${what}`, "", wrong);
    const known = this.#epochs.get(topic);
    if (kept.length > 0) this.#epochs.set(topic, epoch!);
    else this.#epochs.delete(topic);
    if (known === undefined) return;
    const isOther = this.#hasEnded && !this.store.keepsEpochs;
    this.examine("brokers", `other epoch of ${topic} after ${what}`, isOther, epoch !== known);
  }

  /**
   * Leaves all topics, then closes the brokers. Some of them close while the store is unreachable.
   */
  async #end(): Promise<void> {
    for (const seat of this.#seats) {
      seat.host.after(0, () => {
        for (const { listening } of [...seat.held]) this.#leave(seat, listening);
      });
    }
    await this.pause(PASSAGE_MS);
    const { subscriptions } = this.store;
    this.examine(
      "brokers",
      "subscriptions at the broker without listeners",
      this.#own,
      subscriptions,
    );
    if (this.random() < 0.5) {
      this.store.host.kill();
      await this.pause(this.random() * PASSAGE_MS);
    }
    const late = this.#seats.map((seat) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      seat.host.after(0, () => {
        for (const topic of TOPICS) this.#publish(seat, topic);
        void seat.broker.close().then(resolve);
      });
      return promise;
    });
    let isClosed = false;
    void Promise.all(late).then(() => isClosed = true);
    await this.pause(REST_MS);
    this.examine("brokers", "brokers that closed", true, isClosed);
    this.examine(
      "brokers",
      "appends that have no outcome once the broker is closed",
      0,
      this.#ledger.sent.filter(({ isKept, settled }) => isKept && settled === undefined).length,
    );
    for (const { host } of this.#seats) {
      const left = await this.timersOf(host);
      this.examine("brokers", "timers of a closed broker", 0, left);
    }
    const links = this.network.links.filter(({ client }) => this.#hosts.includes(client)).length;
    this.examine("brokers", "connections of closed brokers", 0, links);
  }
}
