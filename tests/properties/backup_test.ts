/**
 * Backups of a file that is in use. A copy is a consistent snapshot, whatever changes in the
 * meantime.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { HistoryBounds } from "../../pubsub/broker.ts";
import type { AppendLogOptions } from "../../streams/logs/log.ts";
import { diskOf } from "./disks.ts";
import { type Drawn, keyOf, maybe, stepOf } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";

const TOPICS = ["t0", "t1", "t2", "t3"] as const;
const LOGS = ["l0", "l1", "l2"] as const;

/** Contents of the file before the backup. With the last three, a backup needs several steps. */
const CONTENTS = {
  few: { logs: 0, records: 0, length: 1 },
  "many records": { logs: 1, records: 1_300, length: 1 },
  "many logs": { logs: 520, records: 0, length: 1 },
  "large records": { logs: 1, records: 3, length: 1_100_000 },
} as const;

/** Time within which a sweep deletes the rows of removed topics and logs, in milliseconds. */
const SWEPT_MS = 5_300;

const BOUNDS: HistoryBounds = { size: 5, ttlMs: 3_600_000, bytes: 1 << 20 };
const MAX_BYTES = 1 << 26;
const MAX_LOGS = 10_000;

const change = fc.oneof(
  stepOf("publish", { name: fc.constantFrom(...TOPICS) }),
  fc.record({ kind: fc.constantFrom("create", "delete"), name: fc.constantFrom(...LOGS) }),
  stepOf("append", {
    name: fc.constantFrom(...LOGS),
    /** The append may also keep only two records, or end the log. */
    extra: fc.constantFrom("none", "none", "keep", "end"),
  }),
);
type Change = Drawn<typeof change>;

property("a backup is a consistent snapshot, or leaves no file", {
  cases: fc.record({
    content: keyOf(CONTENTS),
    synchronous: fc.constantFrom("full", "full", "normal"),
    maxTopics: fc.constantFrom<number[]>(100, 3),
    before: fc.array(change, { maxLength: 16 }),
    /** Time after which an earlier backup is aborted, in milliseconds. */
    givenUpMs: maybe(fc.nat(12)),
    /** Changes during the backup, each group with the time until the next group in milliseconds. */
    during: fc.array(
      fc.record({ changes: fc.array(change, { maxLength: 4 }), gapMs: fc.constantFrom(0, 1, 2) }),
      { minLength: 1, maxLength: 20 },
    ),
  }),
  async check(world, { content, synchronous, maxTopics, before, givenUpMs, during }) {
    const { disk, open } = await diskOf(world, "node");
    const options = { synchronous, maxTopics } as const;
    const file = new ChangingFile(open("file.db", options));
    const { broker } = file;
    await file.fill(CONTENTS[content]);
    for (const one of before) await file.change(one);
    await broker.store.advance("number", 7, 60_000);
    await broker.store.claim("scope", "member", { max: 1, ttlMs: 60_000 });

    if (givenUpMs !== undefined) {
      const end = new AbortController();
      const outcome = outcomeOf(broker.backup("copy.db", { signal: end.signal }));
      await world.pause(givenUpMs);
      end.abort();
      const isDone = await outcome === "fulfilled";
      if (!isDone) assertEquals(await outcome, "AbortError");
      assertEquals(disk.has("copy.db"), isDone);
      disk.remove("copy.db");
    }

    const states = [await contentOf(broker)];
    let known: number | undefined;
    const outcome = outcomeOf(broker.backup("copy.db")).finally(() => known = states.length);
    assertEquals(await outcomeOf(broker.backup("other.db")), "BrokerError");
    const changes: Promise<unknown>[] = [];
    for (const { changes: group, gapMs } of during) {
      if (known !== undefined) break;
      for (const one of group) changes.push(file.change(one));
      // The file is read after the changes of the same group.
      changes.push(contentOf(broker).then((state) => states.push(state)));
      await world.pause(gapMs);
    }
    assertEquals(await outcome, "fulfilled");
    await Promise.all(changes);
    assertEquals(await outcomeOf(broker.backup("copy.db")), "BrokerError");
    assertEquals(disk.paths.filter((path) => path.endsWith(".part")), []);
    await broker.close();

    const copy = open("copy.db", options);
    const state = await contentOf(copy);
    // The backup may have finished during the last group, before it was read.
    assert(states.slice(known! - 1, known! + 1).includes(state), `${state}\nof ${states.at(-1)}`);
    assertEquals(await copy.store.newest("number", 60_000), -1);
    assertEquals(await copy.store.claims("scope"), []);
    await file.repeatOn(copy, state);
    // New rows survive the sweep of the rows that were removed before.
    await new ChangingFile(copy).fill({ logs: 1, records: 2, length: 1 }, "new");
    await copy.history.append({ topic: TOPICS[0], payload: "last" }, { bounds: BOUNDS });
    const newest = await contentOf(copy);
    await world.pause(SWEPT_MS);
    assertEquals(await contentOf(copy), newest);
    await copy.close();
  },
});

/** A file whose topics and logs change. */
class ChangingFile {
  /** The newest append of each log's producer. A later append may repeat it. */
  readonly #repeatable = new Map<string, AppendLogOptions>();
  #count = 0;

  constructor(readonly broker: SqliteBroker) {}

  async fill(
    { logs, records, length }: typeof CONTENTS[keyof typeof CONTENTS] | {
      readonly logs: number;
      readonly records: number;
      readonly length: number;
    },
    name = "many",
  ): Promise<void> {
    const texts = Array.from({ length: records }, (_, i) => `${i}`.padEnd(length));
    await Promise.all(
      Array.from({ length: logs }, (_, i) => this.#create(`${name} ${i}`, texts)),
    );
  }

  async change({ kind, name, ...rest }: Change): Promise<void> {
    const { history, logs } = this.broker;
    const payload = `${++this.#count}`;
    if (kind === "publish") {
      await history.append({ topic: name, payload, except: "one" }, { bounds: BOUNDS });
      return;
    }
    if (kind === "append") {
      const { extra } = rest as Extract<Change, { kind: "append" }>;
      const options: AppendLogOptions = {
        records: [payload],
        maxBytes: MAX_BYTES,
        producer: { id: "p", epoch: this.#count, seq: 0 },
        ...(extra === "keep" && { keep: { records: 2, bytes: 1_000 } }),
        ...(extra === "end" && { end: {} }),
      };
      const { kind: outcome } = await logs.append(name, options);
      if (outcome === "appended") this.#repeatable.set(name, options);
      return;
    }
    const { kind: outcome } = kind === "create"
      ? await this.#create(name, [payload])
      : await logs.delete(name);
    if (outcome === "created" || outcome === "removed") this.#repeatable.delete(name);
  }

  #create(id: string, records: readonly string[]) {
    const identity = `log${`${++this.#count}`.padStart(5, "0")}`;
    const config = { contentType: "text/plain" };
    return this.broker.logs.create(id, { config, identity, records, maxLogs: MAX_LOGS });
  }

  /**
   * Repeats appends that the copy contains. They must have no effect, because the copy knows the
   * producers.
   */
  async repeatOn(copy: SqliteBroker, state: string): Promise<void> {
    const rows: readonly (readonly unknown[])[] = JSON.parse(state);
    for (const [id, options] of this.#repeatable) {
      // Other logs may contain an equal record.
      const [, , , , records] = rows.find(([name]) => name === id)!;
      if (!(records as readonly unknown[] | undefined)?.includes(options.records[0])) continue;
      assertEquals((await copy.logs.append(id, options)).kind, "repeated");
    }
  }
}

/**
 * Reads all topics and logs at the same time, and returns them as text. The text omits the epoch,
 * which differs in a copy.
 */
async function contentOf({ history, logs }: SqliteBroker): Promise<string> {
  const topics = TOPICS.map(async (topic) => {
    const options = { bounds: BOUNDS, maxMessages: 100, maxBytes: MAX_BYTES };
    const { head, publications } = await history.read(topic, options);
    const rows = publications.map(({ payload, except, position }) => [
      payload,
      except,
      position!.offset,
      position!.tag,
    ]);
    return [topic, head, rows];
  });
  const pages = [...LOGS, "many 0", "many 519", "new 0"].map(async (id) => {
    const options = { after: 0, maxRecords: 1_000, maxBytes: MAX_BYTES, renews: false };
    const page = await logs.read(id, options);
    if (page === undefined || page === "expired") return [id, "none"];
    const { start, tail, bytes, end, identity } = page.info;
    const records = page.records.map((record) => `${record}`.trim());
    // An open log has a different identity in a copy.
    return [id, start, tail, bytes, records, end, end && identity];
  });
  return JSON.stringify(await Promise.all([...topics, ...pages]));
}
