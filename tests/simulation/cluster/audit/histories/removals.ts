/** Removals of more rows than one step of a sweep deletes: the file has all of its room again. */
import type { HistoryBounds, Publication } from "../../../../../pubsub/broker.ts";
import type { SqliteBroker } from "../../../../../brokers/sqlite/mod.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Bytes of the file, and most topics. */
const [MAX_BYTES, MAX_TOPICS] = [393_216, 120] as const;

/** Characters of a wide record, and most of these. */
const [WIDE, MAX_WIDE] = [5_000, 100] as const;

/** Numbers of narrow rows, around the bounds of a step. */
const COUNTS = [1_000, 1_001, 1_400, 1_600, 1_700] as const;

/** Bytes of a narrow row. */
const NARROW = 60;

/** Longest time of one sweep and all of its steps, in milliseconds: docs/deploy/sqlite.md, Bounds. */
const SWEPT_MS = 5_000 + 300;

/** Time of rows that end by themselves, in milliseconds. */
const USED_MS = 2_000;

/** Bounds of the long history, and of a shorter one with the same publications. */
const [LONG, SHORT]: readonly [HistoryBounds, HistoryBounds] = [
  { size: 10_000, ttlMs: 3_600_000, bytes: MAX_BYTES },
  { size: 7, ttlMs: 3_600_000, bytes: MAX_BYTES },
];

/** Topic, or log, of the narrow rows. */
const NAME = "narrow";

/** Removals of all rows of one owner, and the share of these beyond that of the others. */
const [GONE, GONE_SHARE] = [["deleted log", "forgotten topic"], 0.4] as const;

/** A way to make many rows, and to have these removed; the promise ends with the last row. */
type Removal = (file: NarrowRows, count: number) => Promise<void>;

const REMOVALS: Readonly<Record<string, Removal>> = {
  "deleted log": async (file, count) => {
    await file.createLog(NAME, Array.from({ length: count }, (_, i) => narrow(i)));
    await file.broker.logs.delete(NAME);
    await file.pause(SWEPT_MS);
  },
  "log with less retention": async (file, count) => {
    await file.createLog(NAME, Array.from({ length: count }, (_, i) => narrow(i)));
    const keep = { records: 2, bytes: MAX_BYTES };
    await file.broker.logs.append(NAME, { records: ["next"], maxBytes: MAX_BYTES, keep });
    const page = await file.broker.logs.read(NAME, {
      after: count - 1,
      maxRecords: 10,
      maxBytes: MAX_BYTES,
      renews: false,
    });
    const records = page === "expired" ? page : page?.records;
    file.expect(`records behind a retention of ${count}`, [narrow(count - 1), "next"], records);
  },
  "forgotten topic": async (file, count) => {
    await file.append(NAME, count, LONG);
    for (let i = 0; i < MAX_TOPICS; i++) void file.append(`other ${i}`, 1, LONG);
    await file.pause(SWEPT_MS);
    await file.expectForgotten(1);
  },
  "shorter history": async (file, count) => {
    await file.append(NAME, count, LONG);
    // An append deletes a step of rows; the second one leaves none of these numbers.
    for (let more = 1; more <= 3; more++) {
      await file.append(NAME, 1, SHORT);
      await file.expectNewest(NAME, count + more);
    }
  },
  "expired history": async (file, count) => {
    await file.append(NAME, count, { ...LONG, ttlMs: USED_MS });
    // A sweep deletes a step of rows, and the next one the rest.
    await file.pause(USED_MS + 2 * SWEPT_MS);
  },
  numbers: async (file, count) => {
    const { store } = file.broker;
    const keys = Array.from({ length: count }, (_, i) => `${i}`);
    await Promise.all(keys.map((key) => store.advance(key, 1, USED_MS)));
    await file.pause(USED_MS + SWEPT_MS);
  },
  claims: async (file, count) => {
    const { store } = file.broker;
    const members = Array.from({ length: count }, (_, i) => `${i}`);
    const options = { max: count, ttlMs: USED_MS };
    await Promise.all(members.map((member) => store.claim(NAME, member, options)));
    await file.pause(USED_MS + SWEPT_MS);
  },
};

/**
 * Fills a small file with wide rows, before and behind the removal of many narrow ones.
 *
 * @param audit The audit.
 */
export async function auditRemovals(audit: Audit): Promise<void> {
  const { engine: { openFile } } = audit;
  if (openFile === undefined) return;
  const random = audit.chanceOf("removals");
  const disk = new SimulatedDisk(audit.simulation, audit.host("removals"));
  const synchronous = random() < 0.5 ? "full" : "normal";
  const options = { synchronous, maxBytes: MAX_BYTES, maxTopics: MAX_TOPICS } as const;
  const broker = openFile(disk, "removals.db", options);
  const kind = oneOf(random, random() < GONE_SHARE ? GONE : Object.keys(REMOVALS));
  const count = oneOf(random, COUNTS);
  const file = new NarrowRows(audit, broker, `${count} rows, ${kind}`);
  const before = await file.fill();
  await REMOVALS[kind]!(file, count);
  const after = await file.fill();
  // Rows that stay, such as those of topics without publications, take some pages.
  file.expect(`wide rows behind, ${before} before`, true, after >= before - SPARE[kind]!);
  await broker.close();
}

/** Wide rows for which the rows that stay may take the room. */
const SPARE: Readonly<Record<string, number>> = {
  ...Object.fromEntries(Object.keys(REMOVALS).map((kind) => [kind, 1])),
  "forgotten topic": 8,
};

/** Makes the text of a narrow row. */
function narrow(number: number): string {
  return `${number}`.padEnd(NARROW);
}

/** A small file. */
class NarrowRows {
  readonly broker: SqliteBroker;
  readonly #audit: Audit;
  readonly #what: string;
  #count = 0;

  constructor(audit: Audit, broker: SqliteBroker, what: string) {
    this.#audit = audit;
    this.broker = broker;
    this.#what = what;
  }

  expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `removal of ${this.#what}: ${what}`, expected, received);
  }

  pause(ms: number): Promise<void> {
    return this.#audit.pause(ms);
  }

  async createLog(id: string, records: readonly string[]): Promise<void> {
    const config = { contentType: "text/plain" };
    const identity = `log${`${++this.#count}`.padStart(5, "0")}`;
    await this.broker.logs.create(id, { config, identity, records, maxLogs: 100 });
  }

  /** Publishes numbers, from that of the newest publication on. */
  async append(topic: string, count: number, bounds: HistoryBounds): Promise<void> {
    const { history } = this.broker;
    const call = () => history.append({ topic, payload: narrow(count) }, { bounds });
    await Promise.all(Array.from({ length: count }, call));
  }

  /** Compares the publications in the short bounds. */
  async expectNewest(topic: string, head: number): Promise<void> {
    const page = await this.broker.history.read(topic, {
      bounds: SHORT,
      maxMessages: 100,
      maxBytes: MAX_BYTES,
    });
    const offsetOf = ({ position }: Publication) => position!.offset;
    const expected = Array.from({ length: SHORT.size }, (_, i) => head - SHORT.size + 1 + i);
    this.expect(`offsets in a history of ${head}`, expected, page.publications.map(offsetOf));
  }

  expectForgotten(count: number): void {
    this.expect("forgotten topics", count, this.broker.stats.forgotten);
  }

  /** Adds wide records until the file refuses one, and deletes all of these; returns their number. */
  async fill(): Promise<number> {
    const { logs } = this.broker;
    const id = `wide ${this.#count}`;
    await this.createLog(id, []);
    let count = 0;
    const record = "x".repeat(WIDE);
    const append = () => logs.append(id, { records: [record], maxBytes: MAX_BYTES });
    while (count < MAX_WIDE && await append().then(() => true, () => false)) count++;
    await logs.delete(id);
    await this.pause(SWEPT_MS);
    return count;
  }
}
