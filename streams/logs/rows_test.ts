/** The rows of keyed logs, compared with a map of values. */
import { assert, assertEquals } from "@std/assert";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import fc from "fast-check";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { rowChange, rowCheck } from "./change_message.ts";
import { HIDDEN_PREFIX, readRowName, rowName } from "../../session/wire/rows.ts";
import type { BrokerLogs, LogInfo, RowBounds } from "./log.ts";
import { rowBytes } from "./rows.ts";
import type { Drawn } from "../../tests/properties/draw.ts";
import { property } from "../../tests/properties/property.ts";
import { logsOf } from "./logs_of.ts";

const KEYS = ["a", "b", "c", "ü\u2028"];

/** A collection whose rows readers receive by name alone. */
const HIDDEN = `${HIDDEN_PREFIX}:t`;

const HIDDEN_ROWS = KEYS.map((key) => rowName(HIDDEN, key));

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
          isHidden: fc.boolean(),
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
  const rowsIn = async (rows?: readonly string[]) => {
    const bounds = { after: 0, maxRecords: 99, maxBytes: 1e6, renews: false };
    const page = await logs.read("log", { ...bounds, rows });
    assert(typeof page === "object");
    return page.records.map((record) => {
      const { type, key, headers } = JSON.parse(String(record));
      return { row: rowName(type, key), text: String(record), position: 0, ...headers };
    });
  };
  const [rows, hidden] = [await rowsIn(), await rowsIn(HIDDEN_ROWS)];
  assertEquals(rows.filter(({ row }) => readRowName(row)[0] === HIDDEN), []);
  const deletions = rows.filter(({ operation }) => operation === "delete").length;
  const bytes = [...rows, ...hidden].reduce((sum, row) => sum + rowBytes(row), 0);
  const { forgotten: _forgotten, hidden: stored, ...stats } = info.rows!;
  assertEquals(stats, { count: rows.length - deletions, deletions, bytes });
  assertEquals(stored?.count ?? 0, hidden.length);
}

/** Reads the values of the hidden rows. */
async function hiddenValues(logs: BrokerLogs): Promise<Map<string, string>> {
  const options = { after: 0, maxRecords: 1, maxBytes: 1e6, renews: false, rows: HIDDEN_ROWS };
  const page = await logs.read("log", options);
  assert(typeof page === "object");
  return new Map(page.records.map((record) => {
    const { key, value } = JSON.parse(String(record));
    return [key, value];
  }));
}

/** Makes transactions and reads at random, and compares the rows with a map. */
async function compare(
  logs: BrokerLogs,
  { transactions, maxRecords }: { transactions: readonly Transaction[]; maxRecords: number },
): Promise<void> {
  const config = { contentType: "application/json", keyed: TAIL };
  await logs.create("log", { config, identity: "identity0", records: [], maxLogs: 1 });
  let values = { shown: new Map<string, string>(), hidden: new Map<string, string>() };
  const readers = [new Reader(), new Reader()];
  for (const { changes, reads } of transactions) {
    const result = await logs.append("log", {
      records: [],
      changes: changes.map(({ value, operation, key, isHidden }) => {
        const type = isHidden ? HIDDEN : "t";
        return operation === "check"
          ? rowCheck({ type, key, expect: 0 })
          : rowChange({ type, key, operation, value: JSON.stringify(value) }, 0);
      }),
      rowBounds: BOUNDS,
      maxBytes: 1e6,
    });
    const next = applied(values, changes);
    assertEquals(result.kind, typeof next === "string" ? next : "appended");
    if (typeof next !== "string") values = next;
    if (result.kind === "appended") await checkStats(logs, result.info);
    assertEquals(await hiddenValues(logs), new Map([...values.hidden].sort(byKey)));
    for (const [i, reader] of readers.entries()) {
      if (!reads.includes(i) || await reader.catchUp(logs, maxRecords)) continue;
      assert(reader.position > 0);
      readers[i] = new Reader();
    }
  }
  const late = new Reader();
  for (const reader of [...readers, late]) {
    if (await reader.catchUp(logs, maxRecords)) assertEquals(reader.values, values.shown);
  }
  assertEquals(late.values, values.shown);
}

/** The values after a transaction, or the reason for a rejection. */
function applied(
  before: Readonly<Record<"hidden" | "shown", ReadonlyMap<string, string>>>,
  changes: Transaction["changes"],
) {
  const after = { shown: new Map(before.shown), hidden: new Map(before.hidden) };
  let isChanged = false;
  for (const { key, operation, value, isHidden } of changes) {
    const part = isHidden ? "hidden" : "shown";
    const values = after[part];
    if (operation === "update" && !values.has(key)) return "conflict";
    if (operation === "check" && before[part].has(key)) return "conflict";
    if (operation === "check") continue;
    const isEffective = operation === "delete" ? values.delete(key) : values.set(key, value);
    isChanged ||= !isHidden && Boolean(isEffective);
  }
  const { size } = after.shown;
  if (size > before.shown.size && size > BOUNDS.rows) return "too-many-rows";
  return isChanged ? after : { ...after, hidden: new Map(before.hidden) };
}

function byKey([one]: readonly [string, string], [other]: readonly [string, string]): number {
  return KEYS.indexOf(one) - KEYS.indexOf(other);
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
