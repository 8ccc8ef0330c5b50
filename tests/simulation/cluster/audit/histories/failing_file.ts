/** A file on a disk that fails within transactions, beside models of all histories and logs in the file. */
import type {
  Broker,
  BrokerSubscription,
  HistoryBounds,
  Publication,
} from "../../../../../pubsub/broker.ts";
import type { SqliteBroker } from "../../../../../brokers/sqlite/mod.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { FailingLogs } from "../logs/failing_logs.ts";
import { type Acknowledged, HistoryModel } from "../../../../../pubsub/history/history_model.ts";

/** Rounds of appends, and topics of the file. */
const [ROUNDS, TOPICS] = [9, 4];

/** Most topics of a small file. */
const FEW_TOPICS = 2;

/** Most appends of one round, and the share of these beside which a log changes. */
const [MAX_APPENDS, LOGS_SHARE] = [5, 0.7];

/** Changes of logs behind a round, one after the other. */
const LOG_CALLS = 3;

/** Share of rounds in which the disk fails, and of files with few topics. */
const [FAILED_SHARE, FEW_SHARE] = [0.6, 0.3];

/** Most operations of the disk before a failure, and most failures in a row. */
const [MAX_BEFORE, MAX_FAILURES] = [6, 4];

/** Longest time between the appends of one round, and between two rounds, in milliseconds. */
const [GAP_MS, PAUSE_MS] = [3, 700];

/** Longest time between the outcome of an append and the delivery, in milliseconds. */
const TURN_MS = 100;

/** Characters of a short and of a long publication: the rows of a long one take several pages. */
const SIZES = [10, 9_000] as const;

/** Bounds of which one is that of all histories. */
const BOUNDS: readonly HistoryBounds[] = [
  { size: 3, ttlMs: 3_600_000, bytes: 1 << 20 },
  { size: 1_000, ttlMs: 3_600_000, bytes: 1 << 20 },
  { size: 1_000, ttlMs: 3_600_000, bytes: 9_100 },
  { size: 1_000, ttlMs: 1_500, bytes: 1 << 20 },
];

/** Most operations, and bytes, that wait for a file: one append has always room. */
const [MAX_WAITING, MAX_WAITING_BYTES] = [[4, 12, 65_536], [20_000, 67_108_864]] as const;

/** Path of the file, and of the copy. */
const [PATH, COPY] = ["failing.db", "failing-copy.db"];

/** One topic, as the programs know. */
interface Topic {
  readonly name: string;
  readonly model: HistoryModel;
  /** The newest number of the producer. */
  newest: number;
  /** Number of accepted publications that the file may have forgotten, with the whole topic. */
  forgotten: number;
  subscription: BrokerSubscription | undefined;
  /** Number of publications before the subscription. */
  from: number;
  heard: Publication[];
}

/** Outcome of one append: a position, a repetition, or a failure. */
type AppendOutcome = Acknowledged | "repetition" | "failed";

/**
 * Appends to some histories of one file while the disk fails now and then: an append has an
 * effect exactly if the broker says so, also for all that comes later, in a copy, and in the next life.
 *
 * @param audit The audit.
 */
export async function auditFailingFile(audit: Audit): Promise<void> {
  if (audit.engine.openFile === undefined) return;
  await new FailingFile(audit, audit.engine.openFile).run();
}

/** The file, and the model of each topic. */
class FailingFile {
  readonly #audit: Audit;
  readonly #open: NonNullable<Audit["engine"]["openFile"]>;
  readonly #random: () => number;
  readonly #host: Host;
  readonly #disk: SimulatedDisk;
  readonly #bounds: HistoryBounds;
  readonly #topics: readonly Topic[];
  readonly #maxTopics: number;
  readonly #synchronous: "full" | "normal";
  readonly #room: { readonly maxWaiting: number; readonly maxWaitingBytes: number };
  /** Newest accepted numbers of rows by key. */
  readonly #rows = new Map<string, number>();
  /** All positions so far: none stands for two publications. */
  readonly #places = new Set<string>();
  readonly #logs: FailingLogs;
  /** Chance of changes of logs. */
  readonly #logChance: () => number;
  #count = 0;

  constructor(audit: Audit, open: NonNullable<Audit["engine"]["openFile"]>) {
    this.#audit = audit;
    this.#open = open;
    const random = this.#random = audit.random;
    this.#host = audit.host("failing-file");
    this.#disk = new SimulatedDisk(audit.simulation, this.#host);
    const isFew = random() < FEW_SHARE;
    this.#maxTopics = isFew ? FEW_TOPICS : 100;
    this.#bounds = isFew ? BOUNDS[0]! : oneOf(random, BOUNDS);
    this.#synchronous = random() < 0.5 ? "full" : "normal";
    const chance = audit.chanceOf("room");
    this.#room = {
      maxWaiting: oneOf(chance, MAX_WAITING),
      maxWaitingBytes: oneOf(chance, MAX_WAITING_BYTES),
    };
    this.#logChance = audit.chanceOf("changes of logs");
    this.#logs = new FailingLogs(audit, (what, expected, received) => {
      audit.examine("durable", `a file on a failing disk: ${what}`, expected, received);
    });
    this.#topics = Array.from({ length: TOPICS }, (_, i): Topic => ({
      name: `t${i}`,
      model: new HistoryModel(this.#bounds),
      newest: -1,
      forgotten: 0,
      subscription: undefined,
      from: 0,
      heard: [],
    }));
  }

  async run(): Promise<void> {
    let broker = this.#openFile(PATH);
    for (let round = 0; round < ROUNDS; round++) {
      for (const topic of this.#topics) {
        if (this.#random() < 0.3) await this.#comeOrGo(broker, topic);
      }
      if (this.#random() < FAILED_SHARE) this.#failDisk();
      await this.#append(broker);
      this.#disk.heal();
      await this.#logs.callAll(broker, LOG_CALLS);
      if (this.#random() < 0.4) await this.#appendOne(broker);
      await this.#compare(broker);
      if (round === ROUNDS >> 1 && this.#random() < 0.5) await this.#copy(broker);
      await this.#audit.pause(PAUSE_MS * this.#random());
    }
    // The last transaction before the end of a process is one that took effect.
    await this.#appendOne(broker);
    for (const topic of this.#topics) topic.subscription = undefined;
    if (this.#random() < 0.6) {
      // A close commits all operations that wait.
      const isUnderWay = this.#random() < 0.5;
      const appending = isUnderWay ? this.#append(broker) : undefined;
      if (this.#random() < 0.5) await this.#audit.pause(this.#random());
      await broker.close();
      await appending;
    } else {
      this.#host.kill();
      this.#host.start();
    }
    broker = this.#openFile(PATH);
    await this.#compare(broker);
    await this.#logs.callAll(broker, LOG_CALLS);
    await this.#appendOne(broker);
    await this.#compare(broker);
    await broker.close();
  }

  #openFile(path: string): SqliteBroker {
    // A machine that runs for less than this has a new epoch after each end.
    const synchronous = this.#disk.uptimeMs < 6_000 ? "full" : this.#synchronous;
    return this.#open(this.#disk, path, {
      synchronous,
      maxTopics: this.#maxTopics,
      ...this.#room,
    });
  }

  /** Draws a whole number below a bound. */
  #draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `a file on a failing disk: ${what}`, expected, received);
  }

  /** Lets operations of the disk fail, from one within the next transactions on. */
  #failDisk(): void {
    const isFull = this.#random() < 0.3;
    this.#disk.fail({
      kind: isFull ? "full" : "error",
      operation: isFull || this.#random() < 0.7 ? "write" : "sync",
      after: this.#draw(MAX_BEFORE),
      times: isFull ? Infinity : 1 + this.#draw(MAX_FAILURES),
    });
  }

  /** Subscribes to a topic, or ends the subscription. */
  async #comeOrGo(broker: Broker, topic: Topic): Promise<void> {
    const { subscription, model, name } = topic;
    if (subscription !== undefined) {
      topic.subscription = undefined;
      return await subscription[Symbol.asyncDispose]();
    }
    topic.from = model.all.length;
    const heard: Publication[] = topic.heard = [];
    topic.subscription = broker.subscribe(name, (one) => void heard.push(one), {
      history: this.#bounds,
    });
    await topic.subscription.ready;
  }

  /** Appends some publications, and changes rows and logs, at once or one shortly behind the other. */
  async #append(broker: Broker): Promise<void> {
    const isApart = this.#random() < 0.4;
    const calls: { readonly topic: Topic; readonly number: number | undefined }[] = [];
    const outcomes: Promise<AppendOutcome>[] = [];
    const rows: Promise<void>[] = [];
    const logs: ReturnType<FailingLogs["call"]>[] = [];
    for (let left = 1 + this.#draw(MAX_APPENDS); left > 0; left--) {
      const topic = oneOf(this.#random, this.#topics);
      const number = this.#keyOf(topic);
      calls.push({ topic, number });
      outcomes.push(this.#call(broker, topic, number));
      if (this.#random() < 0.2) rows.push(this.#advance(broker));
      if (this.#logChance() < LOGS_SHARE) logs.push(this.#logs.call(broker));
      if (isApart) await this.#audit.pause(GAP_MS * this.#random());
    }
    const settled = await Promise.all(outcomes);
    for (const [i, outcome] of settled.entries()) this.#note(calls[i]!, outcome);
    await Promise.all(rows);
    for (const made of await Promise.all(logs)) this.#logs.note(made);
    this.#examineStatus(broker);
  }

  /** Appends one publication while the disk is well. */
  async #appendOne(broker: Broker): Promise<void> {
    const topic = oneOf(this.#random, this.#topics);
    const number = this.#keyOf(topic);
    const outcome = await this.#call(broker, topic, number);
    this.#expect("outcome of an append on a disk that works again", false, outcome === "failed");
    this.#note({ topic, number }, outcome);
    this.#expect("status after a write", "connected", broker.status.current.name);
  }

  /** Draws the number of a key: the next one, or one that may be a repetition; often none. */
  #keyOf(topic: Topic): number | undefined {
    // A file that forgets a topic forgets the numbers of its producers.
    if (this.#maxTopics === FEW_TOPICS || this.#random() < 0.4) return undefined;
    return Math.max(0, topic.newest + 1 - this.#draw(2));
  }

  async #call(broker: Broker, { name }: Topic, number: number | undefined): Promise<AppendOutcome> {
    const payload = `${++this.#count}`.padEnd(oneOf(this.#random, SIZES));
    const fromMs = this.#audit.nowMs;
    try {
      const { position } = await broker.history!.append({ topic: name, payload }, {
        bounds: this.#bounds,
        ...(number !== undefined && { key: { producer: "p", number } }),
      });
      if (position === undefined) return "repetition";
      return { payload, position, taken: { fromMs, toMs: this.#audit.nowMs } };
    } catch {
      return "failed";
    }
  }

  /** Notes an outcome, in the order of the calls. */
  #note(
    { topic, number }: { readonly topic: Topic; readonly number: number | undefined },
    outcome: AppendOutcome,
  ): void {
    if (outcome === "failed") return;
    const isNew = number === undefined || number > topic.newest;
    this.#expect(
      `repetition of ${number}, behind ${topic.newest}`,
      !isNew,
      outcome === "repetition",
    );
    if (outcome === "repetition") return;
    if (number !== undefined) topic.newest = Math.max(topic.newest, number);
    const { epoch, offset } = outcome.position;
    const { head } = topic.model;
    this.#expect(`offset ${offset} behind ${head} on ${topic.name}`, true, offset > head);
    const place = `${topic.name} ${epoch} ${offset}`;
    this.#expect(`second publication at ${place}`, false, this.#places.has(place));
    this.#places.add(place);
    topic.model.add([outcome]);
  }

  /** Advances the number of a row; a failure leaves the number as before. */
  async #advance(broker: Broker): Promise<void> {
    const key = `row ${this.#count}`;
    const isNew = await broker.store!.advance(key, 7, 60_000).catch(() => undefined);
    if (isNew === false) this.#expect(`first number of ${key}`, true, isNew);
    this.#rows.set(key, isNew === undefined ? -1 : 7);
  }

  #examineStatus({ status: { current } }: Broker): void {
    if (current.name === "interrupted") {
      this.#expect("appends while the file takes no writes", true, current.rejects);
    }
  }

  /** Compares pages, deliveries and rows with the calls so far. */
  async #compare(broker: Broker): Promise<void> {
    const isFew = this.#maxTopics === FEW_TOPICS;
    // A sweep may be under way.
    await this.#audit.until(() => broker.stats.waiting === 0, TURN_MS);
    this.#expect("operations that wait behind all outcomes", 0, broker.stats.waiting);
    let kept = 0;
    for (const topic of this.#topics) {
      await this.#compareHeard(topic);
      const { model, name } = topic;
      const query = isFew || this.#random() < 0.5
        ? { maxMessages: 1_000, maxBytes: 1 << 20 }
        : { after: this.#draw(model.head + 2), maxMessages: 1 + this.#draw(4), maxBytes: 1 << 20 };
      const fromMs = this.#audit.nowMs;
      const page = await broker.history!.read(name, { ...query, bounds: this.#bounds });
      const read = { fromMs, toMs: this.#audit.nowMs };
      if (page.publications.length > 0) kept++;
      // docs/deploy/sqlite.md, Options: a file with too many topics forgets the quietest.
      const isForgotten = isFew && page.publications.length === 0;
      if (isForgotten) {
        topic.forgotten = model.all.length;
        this.#expect(`head of the forgotten ${name}`, true, page.head >= model.head);
        continue;
      }
      if (isFew) {
        const received = page.publications.map(shortOf);
        const newest = model.all.slice(-received.length).map(shortOf);
        this.#expect(`newest publications of ${name}`, newest, received);
        continue;
      }
      const { expected, received } = model.differenceOf(query, page, read) ?? {};
      this.#expect(`page of ${name}`, expected ?? "", received ?? "");
    }
    if (isFew) {
      const published = this.#topics.filter(({ model }) => model.head > 0).length;
      this.#expect("topics of a file with few topics", Math.min(FEW_TOPICS, published), kept);
    }
    for (const [key, number] of this.#rows) {
      this.#expect(`number of ${key}`, number, await broker.store!.newest(key, 60_000));
    }
    this.#rows.clear();
    await this.#logs.compare(broker);
  }

  async #compareHeard({ name, subscription, model, from, heard }: Topic): Promise<void> {
    if (subscription === undefined) return;
    // Of many bytes at once, some are delivered in a later turn.
    await this.#audit.until(() => heard.length >= model.all.length - from, TURN_MS);
    const shown = (payload: Publication["payload"], offset: number, prev: number) =>
      `${`${payload}`.trim()} at ${offset} behind ${prev}`;
    const { all } = model;
    const expected = all.slice(from).map(({ payload, position: { offset } }, i) => {
      // A topic that was forgotten before the subscription begins at a higher offset.
      const isAnew = i === 0 && this.#maxTopics === FEW_TOPICS;
      const before = isAnew ? undefined : all[from + i - 1]?.position.offset;
      return shown(payload, offset, before ?? heard[i]?.position?.prev ?? 0);
    });
    const received = heard.map(({ payload, position }) =>
      shown(payload, position!.offset, position!.prev)
    );
    this.#expect(`deliveries on ${name}`, expected.join(), received.join());
  }

  /** Copies the file while publications come, on a disk that may fail; then reads the copy. */
  async #copy(broker: SqliteBroker): Promise<void> {
    const before = this.#topics.map(({ model }) => model.all.length);
    const copying = broker.backup(COPY).then(() => true, () => false);
    if (this.#random() < 0.4) this.#failDisk();
    await this.#append(broker);
    const isDone = await copying;
    this.#disk.heal();
    this.#expect("presence of a copy", isDone, this.#disk.has(COPY));
    if (!isDone) return;
    const copy = this.#openFile(COPY);
    for (const [i, { name, model, forgotten }] of this.#topics.entries()) {
      const page = await copy.history!.read(name, {
        bounds: this.#bounds,
        maxMessages: 1_000,
        maxBytes: 1 << 24,
      });
      const received = page.publications.map(shortOf);
      const { all } = model;
      this.#expect(`epoch of a copy of ${name}`, false, page.epoch === all[0]?.position.epoch);
      // Publications may be too old, or the topic forgotten: the rest is the end of what came.
      const states = all.map((_, end) => all.slice(0, end + 1)).slice(Math.max(0, before[i]! - 1));
      const isState = received.length === 0
        ? before[i] === 0 || forgotten > 0 || this.#mayBeEmpty
        : states.some((state) => {
          const end = state.slice(-received.length).map(shortOf);
          return end.join() === received.join();
        });
      this.#expect(`copy of ${name}`, true, isState);
    }
    await copy.close();
    for (const suffix of ["", "-wal", "-shm"]) this.#disk.remove(COPY + suffix);
  }

  /** True if a read may find nothing although publications were accepted. */
  get #mayBeEmpty(): boolean {
    const { ttlMs, bytes } = this.#bounds;
    return this.#maxTopics === FEW_TOPICS || ttlMs < 10_000 || bytes < 10_000;
  }
}

/** Returns the payload of a publication, without the spaces that make some long. */
function shortOf({ payload }: Pick<Publication, "payload">): string {
  return `${payload}`.trim();
}
