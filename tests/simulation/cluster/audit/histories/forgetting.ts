/** Histories beyond the most topics: one topic after the other is forgotten, and published on again. */
import { BrokerError } from "../../../../../errors.ts";
import type {
  Appended,
  Broker,
  BrokerSubscription,
  HistoryPage,
  Publication,
  PublicationKey,
} from "../../../../../pubsub/broker.ts";
import { appended, MemoryHistories } from "../../../../../pubsub/memory/history.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { type BoundedTopics, BOUNDS, BRIEF, ForgettingModel, TOPICS } from "./forgetting_model.ts";

/** Rounds, and the operations of one round, which take no time or little. */
const [ROUNDS, OPERATIONS] = [5, 22];

/** Fewest and most topics with a history. */
const MAX_TOPICS = [2, 5] as const;

/** Share of operations that begin or end a subscription, and of publications that repeat one. */
const [FOLLOWS, REPEATS] = [0.25, 0.15] as const;

/** Share of publications in {@linkcode BRIEF}, and of those without space in their own history. */
const [BRIEFS, LARGE] = [0.2, 0.3] as const;

/** Time behind which brief publications expired and a later sweep of a file is over, in milliseconds. */
const SWEPT_MS = 6_500;

/** Share of publications into a file whose disk fails, most operations before, and failures in a row. */
const [FAILS, MAX_BEFORE, MAX_FAILURES] = [0.2, 6, 3] as const;

/** Share of rounds behind which publications expire, and of files that another process opens then. */
const [EXPIRES, REOPENS] = [0.7, 0.2] as const;

/** Time for a delivery, in milliseconds. */
const TURN_MS = 100;

/** Largest page. */
const PAGE = { maxMessages: 100, maxBytes: 1 << 20 };

/** Histories with few topics, in memory or in a file. */
interface Subject {
  readonly name: BoundedTopics["engine"];
  append(publication: Publication, key: PublicationKey | undefined): Promise<Appended>;
  read(topic: string, after: number | undefined): Promise<HistoryPage>;
  follow(topic: string, hear: (publication: Publication) => void): Promise<void>;
  unfollow(topic: string): Promise<void>;
  /** Number of topics that were forgotten with publications, as of the last sweep. */
  readonly forgotten: number;
  /** Lets the disk fail, perhaps within the next transaction, until the end of the fault. */
  fail?(random: () => number): Disposable;
  /** Ends the process, which has no listeners, and begins another one. */
  reopen?(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Publishes on more topics than the histories in memory and in a file may have, beside a model that
 * tells exactly which topics are forgotten, and at which offsets these continue.
 *
 * @param audit The audit.
 */
export async function auditForgetting(audit: Audit): Promise<void> {
  const max = () => {
    const [least, most] = MAX_TOPICS;
    return least + Math.floor((most - least + 1) * audit.random());
  };
  const inMemory = max();
  const scenes = [new Scene(audit, inMemory, memorySubject(audit, inMemory))];
  const { openFile } = audit.engine;
  if (openFile !== undefined) {
    const inFile = max();
    const disk = new SimulatedDisk(audit.simulation, audit.host("forgetting-file"));
    const open = () => openFile(disk, "forgetting.db", { maxTopics: inFile });
    scenes.push(new Scene(audit, inFile, fileSubject(disk, open)));
  }
  await Promise.all(scenes.map((scene) => scene.run()));
}

/** Histories in memory: a broker has the same ones, with very many topics. */
function memorySubject(audit: Audit, maxTopics: number): Subject {
  const histories = new MemoryHistories(audit.host("forgetting").runtime, { maxTopics });
  const listeners = new Map<string, (publication: Publication) => void>();
  return {
    name: "memory",
    append: (publication, key) => {
      const bounds = BOUNDS[publication.topic]!;
      const placed = histories.append(publication, { bounds, ...(key && { key }) });
      if (placed !== undefined) listeners.get(publication.topic)?.(placed);
      return Promise.resolve(appended(placed));
    },
    read: (topic, after) => {
      const bounds = BOUNDS[topic]!;
      const query = { ...PAGE, bounds, ...(after !== undefined && { after }) };
      return Promise.resolve(histories.read(topic, query));
    },
    follow: (topic, hear) => {
      listeners.set(topic, hear);
      return Promise.resolve(histories.follow(topic));
    },
    unfollow: (topic) => {
      listeners.delete(topic);
      return Promise.resolve(histories.unfollow(topic));
    },
    get forgotten() {
      return histories.forgotten;
    },
    close: () => Promise.resolve(histories.clear()),
  };
}

/** Histories in a file. */
function fileSubject(disk: SimulatedDisk, open: () => Broker): Subject {
  let broker = open();
  let before = 0;
  const subscriptions = new Map<string, BrokerSubscription>();
  return {
    name: "sqlite",
    append: (publication, key) => {
      const bounds = BOUNDS[publication.topic]!;
      return broker.history!.append(publication, { bounds, ...(key && { key }) });
    },
    read: (topic, after) => {
      const bounds = BOUNDS[topic]!;
      return broker.history!.read(topic, {
        ...PAGE,
        bounds,
        ...(after !== undefined && { after }),
      });
    },
    follow: async (topic, hear) => {
      const subscription = broker.subscribe(topic, hear, { history: BOUNDS[topic]! });
      subscriptions.set(topic, subscription);
      await subscription.ready;
    },
    unfollow: async (topic) => await subscriptions.get(topic)?.[Symbol.asyncDispose](),
    get forgotten() {
      return before + broker.stats.forgotten!;
    },
    fail: (random) => {
      disk.fail({
        kind: "error",
        operation: random() < 0.7 ? "write" : "sync",
        after: Math.floor(MAX_BEFORE * random()),
        times: 1 + Math.floor(MAX_FAILURES * random()),
      });
      return { [Symbol.dispose]: () => disk.heal() };
    },
    reopen: async () => {
      before += broker.stats.forgotten!;
      subscriptions.clear();
      await broker.close();
      broker = open();
    },
    close: () => broker.close(),
  };
}

/** Histories beside the model. */
class Scene {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #subject: Subject;
  readonly #model: ForgettingModel;
  readonly #maxTopics: number;
  /** Publications that the listener of a topic got. */
  readonly #heard = new Map<string, string[]>();
  /** Publications that the listener of a topic has to get. */
  readonly #sent = new Map<string, string[]>();
  #epoch: string | undefined;
  #count = 0;

  constructor(audit: Audit, maxTopics: number, subject: Subject) {
    this.#audit = audit;
    this.#random = audit.chanceOf(subject.name);
    this.#subject = subject;
    this.#maxTopics = maxTopics;
    this.#model = new ForgettingModel({ engine: subject.name, maxTopics });
  }

  async run(): Promise<void> {
    const random = this.#random;
    for (let round = 0; round < ROUNDS; round++) {
      for (let left = OPERATIONS; left > 0; left--) {
        const topic = random() < BRIEFS ? BRIEF : oneOf(random, TOPICS);
        await (random() < FOLLOWS ? this.#comeOrGo(topic) : this.#append(topic));
        await this.#compare(topic);
      }
      await this.#compareAll();
      if (round === ROUNDS - 1 || random() >= EXPIRES) continue;
      await this.#audit.pause(SWEPT_MS);
      this.#model.sweep();
      await this.#compareAll();
      const { forgotten } = this.#subject;
      this.#expect("topics forgotten with publications", this.#model.forgotten, forgotten);
      if (random() < REOPENS) await this.#reopen();
    }
    await this.#subject.close();
  }

  async #reopen(): Promise<void> {
    const { reopen } = this.#subject;
    if (reopen === undefined) return;
    for (const topic of this.#sent.keys()) await this.#compareHeard(topic);
    this.#sent.clear();
    this.#model.unfollowAll();
    await reopen();
    await this.#compareAll();
  }

  async #comeOrGo(topic: string): Promise<void> {
    if (this.#model.isFollowed(topic)) {
      await this.#compareHeard(topic);
      this.#sent.delete(topic);
      this.#model.unfollow(topic);
      return await this.#subject.unfollow(topic);
    }
    const heard: string[] = [];
    this.#heard.set(topic, heard);
    this.#sent.set(topic, []);
    this.#model.follow(topic);
    await this.#subject.follow(topic, ({ payload, position }) => {
      heard.push(`${payload} at ${position?.offset} behind ${position?.prev}`.replace(/x+/, ""));
    });
  }

  async #append(topic: string): Promise<void> {
    const random = this.#random;
    const newest = this.#model.newestKeyOf(topic);
    const repeats = newest !== undefined && random() < REPEATS;
    const number = repeats ? newest : ++this.#count;
    const hasKey = repeats || random() < 0.5;
    const isLarge = topic === BRIEF && random() < LARGE;
    const payload = `${number}${isLarge ? "x".repeat(BOUNDS[topic]!.bytes) : ""}`;
    const key = hasKey ? { producer: "p", number } : undefined;
    const appended = await this.#tryAppend({ topic, payload }, key);
    // A failed transaction forgets no topic, and moves no offset.
    if (appended === undefined) return;
    const { position } = appended;
    const expected = this.#model.append(topic, { text: `${number}`, isLarge, key: key?.number });
    const what = `offset of ${number} on ${topic}`;
    this.#expect(what, expected ?? "none", position?.offset ?? "none");
    if (expected === undefined) return;
    this.#sent.get(topic)?.push(`${number} at ${expected} behind ${expected - 1}`);
    this.#epoch ??= position?.epoch;
    this.#expect(`epoch of ${topic}`, this.#epoch, position?.epoch);
  }

  /** Appends, at times on a disk that fails; `undefined` for a failure. */
  async #tryAppend(
    publication: Publication,
    key: PublicationKey | undefined,
  ): Promise<Appended | undefined> {
    const { fail } = this.#subject;
    if (fail === undefined || this.#random() >= FAILS) {
      return await this.#subject.append(publication, key);
    }
    using _fault = fail(this.#random);
    return await this.#subject.append(publication, key).catch((error) => {
      if (!(error instanceof BrokerError)) throw error;
      return undefined;
    });
  }

  /** Compares a read of one topic. */
  async #compare(topic: string): Promise<void> {
    const { head, kept } = this.#model.of(topic);
    const after = this.#random() < 0.5 ? undefined : Math.floor((head + 2) * this.#random());
    const page = await this.#subject.read(topic, after);
    const shown = (texts: readonly string[]) => `${texts.join(" ")} up to ${head}`;
    const wanted = kept.filter(({ offset }) => after === undefined || offset > after);
    const received = page.publications.map(({ payload, position: { offset, prev } = {} }) =>
      `${payload} at ${offset} behind ${prev}`
    );
    this.#expect(
      `page of ${topic} behind ${after}`,
      shown(wanted.map(({ text, offset }) => `${text} at ${offset} behind ${offset - 1}`)),
      `${received.join(" ")} up to ${page.head}`,
    );
    const hasAnchor = kept.some(({ offset }) => offset === after);
    this.#expect(`anchor of ${topic} at ${after}`, hasAnchor, page.anchor !== undefined);
  }

  async #compareAll(): Promise<void> {
    for (const topic of [BRIEF, ...TOPICS]) await this.#compare(topic);
    for (const topic of this.#sent.keys()) await this.#compareHeard(topic);
  }

  async #compareHeard(topic: string): Promise<void> {
    const [sent, heard] = [this.#sent.get(topic)!, this.#heard.get(topic)!];
    await this.#audit.until(() => heard.length >= sent.length, TURN_MS);
    this.#expect(`deliveries on ${topic}`, sent.join(), heard.join());
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    const about = `${this.#subject.name} with ${this.#maxTopics} topics: ${what}`;
    this.#audit.examine("history", about, expected, received);
  }
}
