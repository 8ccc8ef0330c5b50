/** Copies of a file in use: a copy has the state of one moment, whatever changed meanwhile. */
import type { HistoryBounds, HistoryPage } from "../../../../../pubsub/broker.ts";
import type { LogPage } from "../../../../../pubsub/logs/log.ts";
import type { SqliteBroker } from "../../../../../brokers/sqlite/mod.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { callOf, read, shown } from "../logs/calls.ts";
import { PLENTY } from "../logs/machine.ts";
import type { LogOperation } from "../logs/model.ts";

/** Topics and logs. */
const [TOPICS, LOGS] = [["t1", "t2", "t3", "t4"], ["l1", "l2", "l3", "l4", "l5"]] as const;

/** Most topics of a small file. */
const FEW_TOPICS = 3;

/** Changes before a copy, most groups of changes beside a copy, and changes of one group. */
const [BEFORE, BESIDE, GROUP] = [16, 30, 4] as const;

/** Longest time between two groups of changes, in milliseconds: one step of a copy takes 2 ms. */
const GAP_MS = 2.5;

/** Share of changes of topics; the others are those of logs. */
const TOPIC_SHARE = 0.3;

/** Contents of which one makes a copy take several steps, or none. */
const CONTENTS = ["few", "many records", "many logs", "large records"] as const;

/** Numbers of rows and of logs of more than two steps, and characters of a large record. */
const [MANY_RECORDS, MANY_LOGS, LARGE] = [1_300, 520, 1_100_000] as const;

/** Share of copies that are given up, at most so many milliseconds behind the beginning. */
const [GIVEN_UP_SHARE, GIVEN_UP_MS] = [0.4, 12] as const;

/** Time in which a sweep deletes the rows of removed topics and logs, in milliseconds. */
const SWEPT_MS = 5_300;

/** Paths of the file, of the copy, and of a copy that is refused. */
const [PATH, COPY, OTHER] = ["copied.db", "copied-copy.db", "copied-other.db"] as const;

const BOUNDS: HistoryBounds = { size: 5, ttlMs: 3_600_000, bytes: 1 << 20 };
const PAGE = { maxMessages: 100, maxBytes: 1 << 20, bounds: BOUNDS } as const;

/** The content of a file, as text by topic and by log. */
type Content = Readonly<Record<string, string>>;

/**
 * Copies a file while topics and logs change, and compares what a broker of the copy reads.
 *
 * @param audit The audit.
 */
export async function auditCopies(audit: Audit): Promise<void> {
  if (audit.engine.openFile === undefined) return;
  await new Copies(audit, audit.engine.openFile).run();
}

/** The file and the copy. */
class Copies {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #disk: SimulatedDisk;
  readonly #open: (path: string) => SqliteBroker;
  #count = 0;
  /** The newest append of the producer of each log, which a later one may repeat. */
  readonly #repeatable = new Map<string, LogOperation>();

  constructor(audit: Audit, open: NonNullable<Audit["engine"]["openFile"]>) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf("copies");
    this.#disk = new SimulatedDisk(audit.simulation, audit.host("copied-file"));
    const options = {
      synchronous: random() < 0.9 ? "full" : "normal",
      maxTopics: random() < 0.4 ? FEW_TOPICS : 100,
    } as const;
    this.#open = (path) => open(this.#disk, path, options);
  }

  async run(): Promise<void> {
    const broker = this.#open(PATH);
    await this.#fill(broker, oneOf(this.#random, CONTENTS));
    for (let i = 0; i < BEFORE; i++) await this.#change(broker);
    await broker.store.advance("number", 7, 60_000);
    await broker.store.claim("scope", "member", { max: 1, ttlMs: 60_000 });
    if (this.#random() < GIVEN_UP_SHARE) await this.#giveUp(broker);
    const contents = await this.#copy(broker);
    const refused = await outcomeOf(broker.backup(COPY));
    this.#expect("outcome of a copy over another one", "BrokerError", refused);
    await broker.close();
    await this.#compare(contents);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `copy of a file in use: ${what}`, expected, received);
  }

  /** Adds content that takes several steps. */
  async #fill({ logs }: SqliteBroker, content: typeof CONTENTS[number]): Promise<void> {
    const create = (id: string, records: readonly string[]) =>
      callOf(logs, id, this.#creation(records));
    if (content === "many records") {
      await create("many", Array.from({ length: MANY_RECORDS }, (_, i) => `${i}`));
    } else if (content === "many logs") {
      await Promise.all(Array.from({ length: MANY_LOGS }, (_, i) => create(`many ${i}`, [])));
    } else if (content === "large records") {
      await create("many", Array.from({ length: 3 }, (_, i) => `${i}`.padEnd(LARGE)));
    }
  }

  /** Gives up a copy: no file is left. */
  async #giveUp(broker: SqliteBroker): Promise<void> {
    const end = new AbortController();
    const copying = outcomeOf(broker.backup(COPY, { signal: end.signal }));
    await this.#audit.pause(GIVEN_UP_MS * this.#random());
    end.abort();
    const outcome = await copying;
    const isDone = outcome === "fulfilled";
    if (!isDone) this.#expect("outcome of a copy given up", true, outcome.startsWith("AbortError"));
    this.#expect(`presence of a copy given up, ${outcome}`, isDone, this.#disk.has(COPY));
    this.#expectNoPart();
    this.#disk.remove(COPY);
  }

  #expectNoPart(): void {
    this.#expect("presence of a part", false, this.#disk.has(`${COPY}.part`));
  }

  /** Copies the file, with changes beside; returns the contents of which one is that of the copy. */
  async #copy(broker: SqliteBroker): Promise<readonly Content[]> {
    const contents = [await this.#contentOf(broker)];
    /** Number of contents at the end of the copy. */
    let known: number | undefined;
    const copying = outcomeOf(broker.backup(COPY)).finally(() => known = contents.length);
    const other = outcomeOf(broker.backup(OTHER));
    const changes: Promise<unknown>[] = [];
    for (let left = BESIDE; left > 0 && known === undefined; left--) {
      for (let i = 0; i < GROUP; i++) changes.push(this.#change(broker));
      // The file reads behind the changes of the same group.
      changes.push(this.#contentOf(broker).then((content) => contents.push(content)));
      await this.#audit.pause(GAP_MS * this.#random());
    }
    this.#expect("outcome", "fulfilled", await copying);
    this.#expect("outcome of a second copy at once", "BrokerError", await other);
    this.#expectNoPart();
    await Promise.all(changes);
    // The last group of the copy may have answered the copy before the reads, or have no changes.
    return contents.slice(known! - 1, known! + 1);
  }

  /** Reads the copy, before and behind a sweep and changes of other topics and logs. */
  async #compare(contents: readonly Content[]): Promise<void> {
    const copy = this.#open(COPY);
    const content = await this.#contentOf(copy);
    const places = contents.map((one) => shown(one));
    if (!places.includes(shown(content))) {
      this.#expect("content", places.at(-1), shown(content));
    }
    this.#expect("number", -1, await copy.store.newest("number", 60_000));
    this.#expect("claims", [], await copy.store.claims("scope"));
    // Later rows are no rows of what was removed before.
    await callOf(copy.logs, "new", this.#creation(["first", "second"]));
    const before = shown(await this.#pageOf(copy, "new"));
    await copy.history.append({ topic: TOPICS[0], payload: "behind" }, { bounds: BOUNDS });
    const newest = shown(await this.#contentOf(copy));
    await this.#audit.pause(SWEPT_MS);
    this.#expect("new log behind a sweep", before, shown(await this.#pageOf(copy, "new")));
    this.#expect("content behind a sweep", newest, shown(await this.#contentOf(copy)));
    await this.#repeat(copy, content);
    await copy.close();
  }

  /** Repeats appends of producers of logs, which a copy knows. */
  async #repeat({ logs }: SqliteBroker, content: Content): Promise<void> {
    for (const [id, operation] of this.#repeatable) {
      const record = operation.kind === "append" ? `${operation.options.records[0]}` : "";
      if (!content[id]!.includes(`"${record}"`)) continue;
      const { kind } = await callOf(logs, id, operation) as { readonly kind: string };
      this.#expect(`repetition of ${record} on ${id}, ${content[id]}`, "repeated", kind);
    }
  }

  /** Makes a drawn change. */
  async #change(broker: SqliteBroker): Promise<void> {
    const random = this.#random;
    if (random() < TOPIC_SHARE) {
      const topic = oneOf(random, TOPICS);
      const payload = `${++this.#count}`;
      await broker.history.append({ topic, payload, except: "one" }, { bounds: BOUNDS });
      return;
    }
    const id = oneOf(random, LOGS);
    const operation = this.#draw();
    const { kind } = Object(await callOf(broker.logs, id, operation));
    if (kind === "created" || kind === "removed" || kind === "kept") this.#repeatable.delete(id);
    if (kind === "appended") this.#repeatable.set(id, operation);
  }

  #draw(): LogOperation {
    const random = this.#random;
    const draw = random();
    const number = ++this.#count;
    if (draw < 0.3) return this.#creation([`${number}`]);
    if (draw < 0.65) return { kind: "delete", ifExpired: false };
    return {
      kind: "append",
      options: {
        records: [`${number}`],
        maxBytes: PLENTY.maxStreamBytes,
        producer: { id: "p", epoch: number, seq: 0 },
        ...(random() < 0.3 && { keep: { records: 2, bytes: 1_000 } }),
        ...(random() < 0.15 && { end: {} }),
      },
    };
  }

  #creation(records: readonly string[]): LogOperation {
    return {
      kind: "create",
      options: {
        config: { contentType: "text/plain" },
        identity: `log${`${++this.#count}`.padStart(5, "0")}`,
        records,
        maxLogs: PLENTY.maxStreams,
      },
    };
  }

  /** Reads all topics and logs at once. */
  async #contentOf(broker: SqliteBroker): Promise<Content> {
    const topics = TOPICS.map(async (topic) => {
      return [topic, shownHistory(await broker.history.read(topic, PAGE))] as const;
    });
    const logs = [...LOGS, "many", `many ${MANY_LOGS - 1}`].map(async (id) => {
      return [id, await this.#pageOf(broker, id)] as const;
    });
    return Object.fromEntries(await Promise.all([...topics, ...logs]));
  }

  /** Reads a log. An open one has another identity in a copy. */
  async #pageOf({ logs }: SqliteBroker, id: string): Promise<string> {
    const page = await callOf(logs, id, read(0)) as LogPage | undefined;
    if (page === undefined) return "none";
    const { info: { identity, start, tail, bytes, end }, records } = page;
    const shownRecords = records.map((record) => `${record}`.trim());
    return shown({ start, tail, bytes, records: shownRecords, ...(end && { end, identity }) });
  }
}

/** Writes a page without the epoch, which is another one in a copy. */
function shownHistory({ head, publications }: HistoryPage): string {
  const rows = publications.map(({ payload, except, position }) =>
    `${payload} (${except}) at ${position!.offset} ${position!.tag}`
  );
  return `head ${head}: ${rows.join()}`;
}
