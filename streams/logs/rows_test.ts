/** The rows of keyed logs, compared with a map of values. */
import { assert, assertEquals } from "@std/assert";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import fc from "fast-check";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { rowChange, rowCheck } from "./change_message.ts";
import type { BrokerLogs, LogInfo, RowBounds } from "./log.ts";
import { rowBytes } from "./rows.ts";
import type { Drawn } from "../../tests/properties/draw.ts";
import { property } from "../../tests/properties/property.ts";
import { logsOf } from "./logs_of.ts";

const KEYS = ["a", "b", "c", "ü\u2028"];

const BOUNDS: RowBounds = { rows: 3, deletions: 2, deletionMs: 3_600_000 };

const TAIL = { records: 4, ms: 3_600_000, bytes: 1_000 };

/** Transactions, each followed by the reads of some readers. */
const cases = fc.record({
  transactions: fc.array(
    fc.record({
      changes: fc.array(
        fc.record({
          key: fc.constantFrom(...KEYS),
          operation: fc.constantFrom(
            "upsert" as const,
            "upsert" as const,
            "update" as const,
            "delete" as const,
            "check" as const,
          ),
          value: fc.string({ maxLength: 40 }),
        }),
        { minLength: 1, maxLength: 4 },
      ),
      reads: fc.subarray([0, 1]),
    }),
    { maxLength: 30 },
  ),
  maxRecords: fc.integer({ min: 1, max: 3 }),
});

type Transaction = Drawn<typeof cases>["transactions"][number];

/** A reader that applies every change since its position. */
class Reader {
  readonly values = new Map<string, string>();
  position = 0;

  /** Reads to the end. Returns false if deletions that the reader may have missed are forgotten. */
  async catchUp(logs: BrokerLogs, maxRecords: number): Promise<boolean> {
    const begin = this.position;
    for (;;) {
      const options = { after: this.position, maxRecords, maxBytes: 1e6, renews: false };
      const page = await logs.read("log", options);
      assert(typeof page === "object" && page.next !== undefined);
      if (begin > 0 && begin < page.info.rows!.forgotten) return false;
      for (const record of page.records) {
        const { key, value, headers: { operation } } = JSON.parse(String(record));
        if (operation === "delete") this.values.delete(key);
        else this.values.set(key, value);
      }
      this.position = page.next;
      if (page.next >= page.info.tail) return true;
    }
  }
}

/** Checks that the counts in a log's state match its rows. */
async function checkStats(logs: BrokerLogs, info: LogInfo): Promise<void> {
  const page = await logs.read("log", { after: 0, maxRecords: 99, maxBytes: 1e6, renews: false });
  assert(typeof page === "object");
  const rows = page.records.map((record) => {
    const { type, key, headers } = JSON.parse(String(record));
    return { row: JSON.stringify([type, key]), text: String(record), position: 0, ...headers };
  });
  const deletions = rows.filter(({ operation }) => operation === "delete").length;
  const bytes = rows.reduce((sum, row) => sum + rowBytes(row), 0);
  const { forgotten: _forgotten, ...stats } = info.rows!;
  assertEquals(stats, { count: rows.length - deletions, deletions, bytes });
}

/** Makes transactions and reads at random, and compares the rows with a map. */
async function compare(
  logs: BrokerLogs,
  { transactions, maxRecords }: { transactions: readonly Transaction[]; maxRecords: number },
): Promise<void> {
  const config = { contentType: "application/json", keyed: TAIL };
  await logs.create("log", { config, identity: "identity0", records: [], maxLogs: 1 });
  let values = new Map<string, string>();
  const readers = [new Reader(), new Reader()];
  for (const { changes, reads } of transactions) {
    const result = await logs.append("log", {
      records: [],
      changes: changes.map(({ value, operation, key }) =>
        operation === "check"
          ? rowCheck({ type: "t", key, expect: 0 })
          : rowChange({ type: "t", key, operation, value: JSON.stringify(value) }, 0)
      ),
      rowBounds: BOUNDS,
      maxBytes: 1e6,
    });
    const next = applied(values, changes);
    assertEquals(result.kind, typeof next === "string" ? next : "appended");
    if (typeof next !== "string") values = next;
    if (result.kind === "appended") await checkStats(logs, result.info);
    for (const [i, reader] of readers.entries()) {
      if (!reads.includes(i) || await reader.catchUp(logs, maxRecords)) continue;
      assert(reader.position > 0);
      readers[i] = new Reader();
    }
  }
  const late = new Reader();
  for (const reader of [...readers, late]) {
    if (await reader.catchUp(logs, maxRecords)) assertEquals(reader.values, values);
  }
  assertEquals(late.values, values);
}

/** The values after a transaction, or the reason for a rejection. */
function applied(before: ReadonlyMap<string, string>, changes: Transaction["changes"]) {
  const values = new Map(before);
  for (const { key, operation, value } of changes) {
    if (operation === "update" && !values.has(key)) return "conflict";
    if (operation === "check" && before.has(key)) return "conflict";
    if (operation === "check") continue;
    if (operation === "delete") values.delete(key);
    else values.set(key, value);
  }
  return values.size > before.size && values.size > BOUNDS.rows ? "too-many-rows" : values;
}

property("MemoryBroker brings readers of a keyed log to the values of its writers", {
  cases,
  runs: 100,
  async check(_world, all) {
    await using broker = new MemoryBroker();
    await compare(logsOf(broker)!, all);
  },
});

property("SqliteBroker brings readers of a keyed log to the values of its writers", {
  cases,
  runs: 20,
  async check(_world, all) {
    const folder = await Deno.makeTempDir();
    try {
      await using broker = await SqliteBroker.open(`${folder}/test.db`);
      await compare(broker.logs, all);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
