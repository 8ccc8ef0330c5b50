/**
 * Full SQLite files. Expired and removed rows must free all their space, even after failed sweeps.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { HistoryBounds } from "../../pubsub/broker.ts";
import { diskOf } from "./disks.ts";
import { keyOf, maybe } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Maximum size of the file in bytes, and maximum number of topics. */
const [MAX_BYTES, MAX_TOPICS] = [393_216, 120] as const;

/** Numbers of rows that are close to the maximum that one step deletes. */
const COUNTS = [100, 1_000, 1_001, 1_700] as const;

/** Bytes of a small row and of a large row. */
const [NARROW, WIDE] = [60, 5_000] as const;

/** TTL of rows that expire, in milliseconds. */
const USED_MS = 2_000;

/**
 * Maximum time of a sweep with all its steps, in milliseconds. See docs/deploy/sqlite.md, A full
 * disk.
 */
const SWEPT_MS = 5_300;

const LONG: HistoryBounds = { size: 10_000, ttlMs: 3_600_000, bytes: MAX_BYTES };
const SHORT: HistoryBounds = { ...LONG, size: 7 };
const TOPIC = "narrow";

/** Adds many small rows, and then removes them or lets them expire. */
const REMOVALS = {
  async "deleted log"({ broker: { logs }, createLog }: FullFile, count: number) {
    await createLog(TOPIC, count);
    await logs.delete(TOPIC);
  },
  async "log with less retention"({ broker: { logs }, createLog }: FullFile, count: number) {
    await createLog(TOPIC, count);
    const keep = { records: 2, bytes: MAX_BYTES };
    await logs.append(TOPIC, { records: ["next"], maxBytes: MAX_BYTES, keep });
    const page = await logs.read(TOPIC, {
      after: count - 1,
      maxRecords: 10,
      maxBytes: MAX_BYTES,
      renews: false,
    });
    assert(page !== undefined && page !== "expired");
    assertEquals(page.records, [narrow(count - 1), "next"]);
    await logs.delete(TOPIC);
  },
  async "forgotten topic"(file: FullFile, count: number) {
    const before = file.broker.stats.forgotten!;
    await file.publish(TOPIC, count, LONG);
    await Promise.all(range(1, MAX_TOPICS).map((i) => file.publish(`other ${i}`, 1, LONG)));
    await file.world.pause(SWEPT_MS);
    assert(file.broker.stats.forgotten! > before);
  },
  async "shorter history"(file: FullFile, count: number) {
    await file.publish(TOPIC, count, LONG);
    // Each append deletes one step of rows. After the second append, none of these rows is left.
    for (let more = 0; more < 3; more++) {
      await file.publish(TOPIC, 1, SHORT);
      const { head, publications } = await file.broker.history.read(TOPIC, {
        bounds: SHORT,
        maxMessages: 100,
        maxBytes: MAX_BYTES,
      });
      const offsets = publications.map(({ position }) => position!.offset);
      assertEquals(offsets, range(head - Math.min(SHORT.size, count + more + 1) + 1, head));
    }
  },
  async "expired history"(file: FullFile, count: number) {
    await file.publish(TOPIC, count, { ...LONG, ttlMs: USED_MS });
    // A sweep deletes one step of rows, and the next sweep deletes the rest.
    await file.world.pause(USED_MS + SWEPT_MS);
  },
  async numbers({ broker: { store } }: FullFile, count: number) {
    await Promise.all(range(1, count).map((i) => store.advance(`${i}`, 1, USED_MS)));
  },
  async claims({ broker: { store } }: FullFile, count: number) {
    const options = { max: count, ttlMs: USED_MS };
    await Promise.all(range(1, count).map((i) => store.claim("scope", `${i}`, options)));
  },
} as const;

property("a full file regains all its space once its rows are gone", {
  cases: fc.record({
    synchronous: fc.constantFrom("full", "normal"),
    removals: fc.array(
      fc.record({
        kind: keyOf(REMOVALS),
        count: fc.constantFrom<number[]>(...COUNTS),
        /**
         * Disk operations that fail while the rows are removed, and how long they fail in
         * milliseconds.
         */
        fault: maybe(
          fc.record({ operation: fc.constantFrom("write", "sync"), lastsMs: fc.nat(8_000) }),
        ),
      }),
      { minLength: 1, maxLength: 2 },
    ),
  }),
  runs: 3,
  async check(world, { synchronous, removals }) {
    const { disk, open } = await diskOf(world, "node");
    const options = { synchronous, maxBytes: MAX_BYTES, maxTopics: MAX_TOPICS } as const;
    const file = new FullFile(world, open("file.db", options));
    const before = await file.fill();
    for (const [i, { kind, count, fault }] of removals.entries()) {
      await REMOVALS[kind](file, count);
      if (fault !== undefined) {
        disk.fail({ kind: "error", operation: fault.operation, times: Infinity });
        await world.pause(USED_MS + fault.lastsMs);
        disk.heal();
      } else await world.pause(USED_MS);
      await world.pause(SWEPT_MS);
      // Rows that stay, such as topics without publications, use some pages.
      const hasTopics = removals.slice(0, i + 1).some((one) => one.kind === "forgotten topic");
      const after = await file.fill();
      assert(after >= before - i - (hasTopics ? 8 : 1), `${after} wide rows, ${before} before`);
    }
    await file.broker.close();
  },
});

class FullFile {
  #count = 0;

  constructor(readonly world: World, readonly broker: SqliteBroker) {}

  /** Creates a log with some small records. */
  createLog = async (id: string, count: number): Promise<void> => {
    const config = { contentType: "text/plain" };
    const identity = `log${`${++this.#count}`.padStart(5, "0")}`;
    const records = Array.from({ length: count }, (_, i) => narrow(i));
    await this.broker.logs.create(id, { config, identity, records, maxLogs: 100 });
  };

  async publish(topic: string, count: number, bounds: HistoryBounds): Promise<void> {
    const { history } = this.broker;
    await Promise.all(
      range(1, count).map(() => history.append({ topic, payload: narrow(count) }, { bounds })),
    );
  }

  /**
   * Publishes on a topic and returns the offset. A full file may reject the publication at first.
   */
  async #publishNext(): Promise<number> {
    const { history } = this.broker;
    const next = { topic: "next", payload: "next" };
    return (await history.append(next, { bounds: SHORT })).position!.offset;
  }

  /** Adds large records until the file rejects one, deletes them, and returns their number. */
  async fill(): Promise<number> {
    const { world, broker } = this;
    const offset = await this.#publishNext();
    const id = `wide ${this.#count}`;
    await this.createLog(id, 0);
    const isFull = () => broker.issues().some((issue) => issue.includes("nearly full"));
    let count = 0;
    const record = "x".repeat(WIDE);
    const append = () => broker.logs.append(id, { records: [record], maxBytes: MAX_BYTES });
    while (await outcomeOf(append()) === "fulfilled") assert(++count < 100);
    const rejected = { topic: "next", payload: "x".repeat(2 * WIDE) };
    assertEquals(await outcomeOf(broker.history.append(rejected, { bounds: LONG })), "BrokerError");
    assertEquals(broker.status.current.name, "interrupted");
    await world.until("an issue of a full file", isFull, SWEPT_MS);
    await broker.logs.delete(id);
    await world.until("no issue", () => broker.issues().length === 0, SWEPT_MS + 300);
    assertEquals(broker.status.current.name, "connected");
    await world.until("no waiting operation", () => broker.stats.waiting === 0);
    // A rejected publication uses no offset.
    assertEquals(await this.#publishNext(), offset + 1);
    return count;
  }
}

function narrow(number: number): string {
  return `${number}`.padEnd(NARROW);
}
