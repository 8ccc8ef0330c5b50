import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Account, NOBODY } from "../../base/quotas/accounts.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { LimitError } from "../../errors.ts";
import { type Fate, FaultyStore, pass } from "../../tests/faulty_broker.ts";
import { type Change, readChange, rowChange } from "./change_message.ts";
import { Copies } from "./copies.ts";
import type { LogInfo, LogPage } from "./log.ts";
import { type CreateStreamOptions, StreamLogs } from "./stream_logs.ts";

const runtime = platformRuntime();
const TAIL = { records: 9, bytes: 9_999, ms: 1_000 };
const JSON_TYPE = "application/json";
const ANN: Account = { ...NOBODY, user: "ann" };

/** Size of each row in bytes; five of them exceed the page of a copy. */
const ROW_BYTES = 16_000;

/** A node whose reads of logs are counted. */
class Bench implements AsyncDisposable {
  readonly #store = new FaultyStore();
  readonly #broker = this.#store.connect();
  readonly logs: StreamLogs;
  /** Number of reads that asked for rows. */
  reads = 0;
  /** Decides how they end. */
  fate: Fate = pass;

  constructor(maxStreams: number = 9) {
    this.#broker.make("logs.read", (run, call) => {
      const [, { maxRecords, maxBytes }] = call.args as readonly [string, LogPageBounds];
      if (maxRecords + maxBytes === 0) return run();
      this.reads++;
      return this.fate(run, call);
    });
    const bounds = { maxStreams, maxRetained: 1, maxStreamBytes: 2 ** 26, maxForks: 1 };
    this.logs = new StreamLogs({
      runtime,
      broker: this.#broker,
      bounds: { ...bounds, maxReaders: 1, maxRows: 99_999 },
      onError() {},
    });
  }

  async change(...changes: readonly Partial<Change>[]): Promise<void> {
    const whole = changes.map((one) =>
      rowChange({ type: "t", key: "a", operation: "upsert", value: "1", ...one }, 0)
    );
    const { kind } = await this.logs.append("source", { records: [], changes: whole });
    assertEquals(kind, "appended");
  }

  /** Creates a source with rows `0`, `1` and so on. */
  async fill(rows: number): Promise<void> {
    await this.logs.create("source", { contentType: JSON_TYPE, keyed: TAIL });
    const value = JSON.stringify("x".repeat(ROW_BYTES));
    for (let i = 0; i < rows; i++) await this.change({ key: `${i}`, value });
  }

  async fork(id: string, options: CreateStreamOptions = {}) {
    return await this.logs.create(id, { keyed: TAIL, fork: { source: "source" }, ...options });
  }

  /** The rows of a stream, with the length of the values. */
  async rows(id: string): Promise<string[]> {
    const page = await this.logs.rows(id, { after: 0, maxRecords: 99, maxBytes: 2 ** 26 });
    return page!.records.map((record) => {
      const { key, value = "", headers } = JSON.parse(String(record));
      return `${headers.operation} ${key} ${String(value).length}`;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.logs.close();
    await this.#broker.close();
  }
}

type LogPageBounds = { readonly maxRecords: number; readonly maxBytes: number };

Deno.test("StreamLogs.create() copies the rows of a keyed stream page by page", async () => {
  await using bench = new Bench();
  await bench.fill(12);
  assertEquals((await bench.fork("fork", { account: ANN })).kind, "created");
  assert(bench.reads >= 3, `${bench.reads} reads`);
  assertEquals(await bench.rows("fork"), await bench.rows("source"));
});

Deno.test("StreamLogs.create() copies rows as they are at the end of a copy", async () => {
  await using bench = new Bench();
  await bench.fill(12);
  let pages = 0;
  bench.fate = async (run) => {
    const page = await run();
    if (++pages === 2) {
      await bench.change({ key: "0" }, { key: "11", operation: "delete" }, { key: "new" });
      await bench.change({ key: "1", operation: "delete" });
    }
    return page;
  };
  const { kind, info } = await bench.fork("fork") as { kind: string; info: LogInfo };
  assertEquals(kind, "created");
  const rows = await bench.rows("fork");
  assertEquals(rows, await bench.rows("source"));
  assertEquals(rows.slice(-4), ["update 0 1", "delete 11 0", "insert new 1", "delete 1 0"]);
  assertEquals([info.tail, info.rows?.count], [14, 11]);
});

Deno.test("StreamLogs.create() reads no rows for a fork that cannot be created", async (t) => {
  await using bench = new Bench();
  await bench.fill(12);
  const cases: Record<string, [expected: string, id: string, options: CreateStreamOptions]> = {
    "an id in use": ["exists", "source", {}],
    "another media type": ["other-type", "fork", { contentType: "text/plain" }],
    "an old offset": ["gone", "fork", { fork: { source: "source", offset: "-1" } }],
    "a part of a record": ["bad-offset", "fork", { fork: { source: "source", subOffset: 1 } }],
    "a missing source": ["source-missing", "fork", { fork: { source: "none" } }],
  };
  for (const [name, [kind, id, options]] of Object.entries(cases)) {
    await t.step(name, async () => {
      assertEquals((await bench.fork(id, options)).kind, kind);
      assertEquals(bench.reads, 0);
    });
  }
  await t.step("rows that are too large", async () => {
    const value = JSON.stringify("x".repeat(250_000));
    for (let i = 0; i < 35; i++) await bench.change({ key: `${i}`, value });
    assertEquals((await bench.fork("fork")).kind, "full");
    assertEquals(bench.reads, 0);
  });
});

Deno.test("StreamLogs.create() copies one large state at a time for a user", async () => {
  await using bench = new Bench();
  await bench.fill(12);
  const first = bench.fork("first", { account: ANN });
  const error = await assertRejects(() => bench.fork("second", { account: ANN }), LimitError);
  assertEquals([error.level, error.limit], ["user", "states.copies"]);
  const others = [bench.fork("of bob", { account: { ...NOBODY, user: "bob" } }), bench.fork("own")];
  for (const made of [first, ...others]) assertEquals((await made).kind, "created");
  assertEquals((await bench.fork("second", { account: ANN })).kind, "created");
});

Deno.test("StreamLogs.create() counts no copies of small states", async () => {
  await using bench = new Bench();
  await bench.fill(2);
  const ids = ["one", "two", "three"];
  for (const made of ids.map((id) => bench.fork(id, { account: ANN }))) {
    assertEquals((await made).kind, "created");
  }
});

Deno.test("StreamLogs.create() counts a copy for 5 s that the broker has no room for", async () => {
  using time = new FakeTime();
  await using bench = new Bench(1);
  await bench.fill(12);
  assertEquals((await bench.fork("fork", { account: ANN })).kind, "too-many");
  const { reads } = bench;
  await assertRejects(() => bench.fork("fork", { account: ANN }), LimitError);
  await time.tickAsync(4_999);
  await assertRejects(() => bench.fork("fork", { account: ANN }), LimitError);
  assertEquals(bench.reads, reads);
  await time.tickAsync(1);
  assertEquals((await bench.fork("fork", { account: ANN })).kind, "too-many");
  assert(bench.reads > reads);
});

Deno.test("StreamLogs.create() calls `check` between a copy and the fork", async () => {
  await using bench = new Bench();
  await bench.fill(12);
  const check = () => {
    throw new Error(`after ${bench.reads} reads`);
  };
  await assertRejects(() => bench.fork("fork", { account: ANN, check }), Error, "after 3 reads");
  assertEquals((await bench.logs.info("fork")).kind, "missing");
  // The copy no longer counts.
  assertEquals((await bench.fork("fork", { account: ANN })).kind, "created");
});

Deno.test("Copies starts again if deletions were forgotten, or the stream was replaced", async () => {
  const copies = new Copies(runtime, new Quotas(runtime));
  const pages = [
    page({ keys: ["a"], next: 1, tail: 3 }),
    page({ keys: ["b"], next: 2, tail: 4, forgotten: 3 }),
    page({ keys: ["c"], next: 1, tail: 4, forgotten: 3 }),
    page({ keys: [], next: 1, tail: 1, identity: "other" }),
    page({ keys: ["d"], next: 1, tail: 2, identity: "other" }),
    page({ keys: ["e"], next: 2, tail: 2, identity: "other" }),
  ];
  const asked: number[] = [];
  using copy = copies.begin(pages[0]!.info, undefined);
  const copied = await copy.rows(({ after }) => {
    asked.push(after);
    return Promise.resolve(pages[asked.length - 1]);
  }, 99);
  assertEquals(asked, [0, 1, 0, 1, 0, 1]);
  const { set } = copied as { set: readonly { row: string }[] };
  assertEquals(set.map(({ row }) => row), ['["t","d"]', '["t","e"]']);
});

Deno.test("Copies reads a state in one step if it has to start again too often", async () => {
  const copies = new Copies(runtime, new Quotas(runtime));
  let reads = 0;
  using copy = copies.begin(page({ keys: [], next: 0, tail: 9 }).info, undefined);
  const copied = await copy.rows(({ after, maxBytes }) => {
    const isWhole = maxBytes === 99;
    const next = isWhole ? 9 : 1;
    return Promise.resolve(page({ keys: [`${++reads}`], next, tail: 9, forgotten: 8 + after }));
  }, 99);
  const { set } = copied as { set: readonly { row: string }[] };
  assertEquals([reads, set.map(({ row }) => row)], [7, ['["t","7"]']]);
});

/** A page of rows at ascending positions. */
function page({ keys, next, tail, forgotten = 0, identity = "one" }: {
  readonly keys: readonly string[];
  readonly next: number;
  readonly tail: number;
  readonly forgotten?: number;
  readonly identity?: string;
}): LogPage {
  const rows = { count: keys.length, deletions: 0, bytes: 9, forgotten };
  const records = keys.map((key) =>
    JSON.stringify({ type: "t", key, value: 1, headers: { operation: "insert" } })
  );
  for (const record of records) assertEquals(readChange(record).deletedAt, undefined);
  const config = { contentType: JSON_TYPE, keyed: TAIL, identity, rows };
  const info = { ...config, first: 0, start: 0, tail, bytes: 9 };
  return { info, records, positions: keys.map(() => next - 1), next };
}
