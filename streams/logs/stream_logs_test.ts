import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { rowChange, rowCheck } from "./change_message.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { UnsupportedError } from "../../errors.ts";
import type { LogInfo } from "./log.ts";
import { formatOffset, parseOffset } from "./offset.ts";
import {
  type CreateStreamOptions,
  type StreamBounds,
  StreamLogs,
  type StreamRead,
} from "./stream_logs.ts";
import {
  failWith,
  type FaultyBroker,
  FaultyStore,
  pass,
  replyAfter,
} from "../../tests/faulty_broker.ts";
import { turns } from "../../testing/mod.ts";

const JSON_TYPE = "application/json";

/** Streams of one node on a memory broker, with everything to close after the test. */
class Bench implements AsyncDisposable {
  readonly broker: FaultyBroker = new FaultyStore().connect();
  readonly errors: unknown[] = [];
  /** Each notification of a read: the stream, and if it had readers at that time. */
  readonly told: (readonly [id: string, isFollowed: boolean])[] = [];
  readonly streams: StreamLogs;

  constructor(bounds: Partial<StreamBounds> = {}) {
    this.streams = new StreamLogs({
      runtime: platformRuntime(),
      broker: this.broker,
      bounds: {
        maxStreams: 1_000,
        maxRetained: 1_000,
        maxStreamBytes: 65_536,
        maxForks: 100,
        maxReaders: 100,
        maxRows: 100,
        ...bounds,
      },
      onError: (error) => this.errors.push(error),
      onRead: (id) => this.told.push([id, this.streams.isFollowed(id)]),
    });
  }

  async create(id: string, options: CreateStreamOptions = {}): Promise<LogInfo> {
    const result = await this.streams.create(id, { contentType: JSON_TYPE, ...options });
    assertEquals(result.kind, "created");
    return (result as { readonly info: LogInfo }).info;
  }

  async info(id: string): Promise<LogInfo> {
    const result = await this.streams.info(id);
    assertEquals(result.kind, "page");
    return (result as { readonly info: LogInfo }).info;
  }

  async append(id: string, ...records: string[]): Promise<string> {
    return (await this.streams.append(id, { records })).kind;
  }

  async read(id: string, after = 0): Promise<readonly unknown[] | string> {
    const page = await this.streams.read(id, { after, maxRecords: 100, maxBytes: 65_536 });
    return page.kind === "page" ? page.records : page.kind;
  }

  /** Reads all pages, also those that only say that the reader has caught up. */
  follow(id: string, after = 0, signal?: AbortSignal): AsyncGenerator<StreamRead> {
    return this.streams.follow(id, { after, maxRecords: 2, maxBytes: 65_536, signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.streams.close();
    await this.broker.close();
    assertEquals(this.errors, []);
  }
}

async function next(pages: AsyncGenerator<StreamRead>): Promise<unknown> {
  const { done, value } = await pages.next();
  if (done) return "done";
  if (value.kind !== "page") return value.kind;
  const { records, isUpToDate, info: { end } } = value;
  return [...records, ...(isUpToDate ? ["up to date"] : []), ...(end ? [end] : [])];
}

Deno.test("StreamLogs rejects a broker without logs", () => {
  const broker = new FaultyStore().connect({ without: ["logs"] });
  const bounds = {
    maxStreams: 1,
    maxRetained: 1,
    maxStreamBytes: 1,
    maxForks: 1,
    maxReaders: 1,
    maxRows: 1,
  };
  assertThrows(
    () => new StreamLogs({ runtime: platformRuntime(), broker, bounds, onError() {} }),
    UnsupportedError,
    "Cannot create server: the memory broker stores no durable streams",
  );
});

Deno.test("StreamLogs.create() compares the settings of an existing stream", async () => {
  await using bench = new Bench();
  await bench.create("a", { ttlMs: 60_000 });
  const again = async (options: CreateStreamOptions) => {
    const result = await bench.streams.create("a", options);
    return result.kind === "exists" && result.isSame;
  };
  assertEquals(
    await again({ contentType: "Application/JSON; charset=utf-8", ttlMs: 60_000 }),
    true,
  );
  assertEquals(await again({ contentType: "text/plain", ttlMs: 60_000 }), false);
  assertEquals(await again({ contentType: JSON_TYPE }), false);
  assertEquals(await again({ contentType: JSON_TYPE, ttlMs: 60_000, end: {} }), false);
  await assertRejects(
    () => bench.streams.create("x".repeat(241), {}),
    RangeError,
    "the id must have 1 to 240 bytes, be well-formed and have no zero characters, received 241",
  );
});

Deno.test("StreamLogs sends no invalid stream id to the broker", async () => {
  await using bench = new Bench();
  bench.broker.make("logs", failWith(new RangeError("Cannot name a log")));
  for (const id of ["", "x".repeat(241), "a\0", "\ud800"]) {
    assertEquals((await bench.streams.info(id)).kind, "missing");
    assertEquals(await bench.append(id, "1"), "missing");
    assertEquals(await bench.read(id), "missing");
    assertEquals(await next(bench.follow(id)), "missing");
    assertEquals(await bench.streams.delete(id), "missing");
    await assertRejects(() => bench.streams.create(id, {}), RangeError, "Cannot use stream");
  }
});

Deno.test("StreamLogs.create() creates at most the given number of streams", async () => {
  await using bench = new Bench({ maxStreams: 1 });
  await bench.create("a");
  assertEquals((await bench.streams.create("b", {})).kind, "too-many");
});

Deno.test("StreamLogs.append() rejects more than the broker accepts in one append", async () => {
  await using bench = new Bench({ maxStreamBytes: Infinity });
  await bench.create("a");
  const { maxAppendBytes } = bench.streams;
  assertEquals(await bench.append("a", "x".repeat(maxAppendBytes + 1)), "full");
  assertEquals(await bench.append("a", "x".repeat(maxAppendBytes)), "appended");
});

Deno.test("StreamLogs forks a stream, whose records stay after its deletion", async () => {
  await using bench = new Bench();
  const source = await bench.create("source", { records: ["1", "2", "3", "4"] });
  const fork = await bench.create("fork", {
    fork: { source: "source", offset: formatOffset(source, 2), subOffset: 1 },
  });
  assertEquals([fork.first, fork.tail], [3, 3]);
  assertEquals(await bench.append("fork", "own"), "appended");
  const deep = await bench.create("deep", { fork: { source: "fork" }, records: ["deep"] });
  assertEquals(await bench.read("deep"), ["1", "2", "3"]);
  assertEquals(await bench.read("deep", 3), ["own"]);
  assertEquals(await bench.read("deep", 4), ["deep"]);

  const offsets = [0, 3, 4, 5].map((position) => formatOffset(deep, position).slice(-8));
  assertEquals(offsets, [source.identity, source.identity, fork.identity, deep.identity]);
  assertEquals(parseOffset(deep, formatOffset(source, 3)), 3);
  assertEquals(parseOffset(deep, formatOffset(source, 4)), "gone");

  assertEquals(await bench.streams.delete("source"), "removed");
  assertEquals(await bench.streams.delete("fork"), "removed");
  assertEquals([await bench.read("source"), await bench.read("fork")], ["deleted", "deleted"]);
  assertEquals(await bench.read("deep", 1), ["2", "3"]);
  assertEquals(await bench.streams.delete("deep"), "removed");
  assertEquals([await bench.read("source"), await bench.read("fork")], ["missing", "missing"]);
});

Deno.test("StreamLogs repeats a part of a record at the start of a fork", async () => {
  await using bench = new Bench();
  const contentType = "text/plain";
  const source = await bench.create("source", {
    contentType,
    records: ["one", "zwölf", "\uFEFFthree"],
  });
  const forkAt = async (id: string, position: number, subOffset: number) =>
    (await bench.streams.create(id, {
      fork: { source: "source", offset: formatOffset(source, position), subOffset },
    })).kind;
  assertEquals(await forkAt("a", 1, 2), "created");
  assertEquals([await bench.read("a"), await bench.read("a", 1)], [["one"], ["zw"]]);
  assertEquals(await forkAt("b", 1, 3), "created");
  assertEquals(await bench.read("b", 1), [new TextEncoder().encode("zwö").slice(0, 3)]);
  assertEquals(await forkAt("c", 0, 3), "created");
  assertEquals([await bench.read("c"), await bench.read("c", 1)], [["one"], []]);
  // A fork at the exact end of a record starts after the record, and repeats no part.
  const { origin } = await bench.info("c");
  assertEquals([origin!.position, origin!.subOffset], [1, undefined]);
  const fork = { source: "source", offset: formatOffset(source, 1) };
  assertEquals((await bench.streams.create("c", { fork }) as { isSame: boolean }).isSame, true);
  assertEquals(await forkAt("d", 0, 4), "bad-offset");
  assertEquals(await forkAt("e", 3, 1), "bad-offset");
  assertEquals(await forkAt("f", 2, 4), "created");
  assertEquals(await bench.read("f", 2), ["\uFEFFt"]);
  assertEquals(await forkAt("a", 1, 2), "exists");
});

Deno.test("StreamLogs.create() rejects impossible forks", async () => {
  await using bench = new Bench();
  await bench.create("source", { records: ["1"] });
  const other = await bench.create("other", { records: ["1", "2"] });
  const kindOf = async (options: CreateStreamOptions) =>
    (await bench.streams.create("fork", options)).kind;
  assertEquals(await kindOf({ fork: { source: "nothing" } }), "source-missing");
  const offset = formatOffset(other, 1);
  assertEquals(await kindOf({ fork: { source: "source", offset } }), "gone");
  assertEquals(await kindOf({ fork: { source: "source", offset: "1" } }), "bad-offset");
  assertEquals(await kindOf({ fork: { source: "source", subOffset: 1 } }), "bad-offset");
  assertEquals(
    await kindOf({ contentType: "text/plain", fork: { source: "source" } }),
    "other-type",
  );
  await bench.streams.create("fork", { fork: { source: "source" } });
  await bench.streams.delete("source");
  assertEquals((await bench.streams.create("source", {})).kind, "deleted");
  const late = await bench.streams.create("late", { fork: { source: "source" } });
  assertEquals(late.kind, "source-deleted");
});

Deno.test("StreamLogs.create() bounds the forks of a source, and releases their slots", async () => {
  await using bench = new Bench({ maxForks: 2, maxStreams: 4 });
  await bench.create("source", { records: ["1"] });
  const fork = async (id: string, options: CreateStreamOptions = {}) => {
    const result = await bench.streams.create(id, { fork: { source: "source" }, ...options });
    return result.kind === "exists" ? { isSame: result.isSame } : result.kind;
  };
  // A creation without effect keeps no slot.
  for (let i = 0; i < 3; i++) {
    assertEquals(await fork("large", { records: ["x".repeat(99_999)] }), "full");
    await assertRejects(() => fork("x".repeat(241)), RangeError);
  }
  assertEquals(await fork("a"), "created");
  for (let i = 0; i < 3; i++) assertEquals(await fork("a"), { isSame: true });
  assertEquals(await fork("b"), "created");
  assertEquals(await fork("c"), "too-many-forks");
  assertEquals(await fork("a"), { isSame: true }, "A repetition needs no slot");
  assertEquals(await fork("a", { ttlMs: 1_000 }), { isSame: false });
  for (let i = 0; i < 3; i++) {
    await bench.streams.delete("b");
    assertEquals(await fork("b"), "created");
  }
  await bench.streams.delete("b");
  await bench.create("other");
  await bench.create("another");
  for (let i = 0; i < 3; i++) assertEquals(await fork("b"), "too-many", "Of all streams");
  await bench.streams.delete("other");
  assertEquals(await fork("b"), "created");
});

Deno.test("StreamLogs.create() releases the slot of a fork if the broker rejects the stream", async () => {
  await using bench = new Bench({ maxForks: 1 });
  await bench.create("source");
  const fork = () => bench.streams.create("fork", { fork: { source: "source" } });
  bench.broker.make("logs.create", failWith(new RangeError("Cannot create a log")));
  for (let i = 0; i < 2; i++) await assertRejects(fork, RangeError, "Cannot create a log");
  bench.broker.make("logs.create", pass);
  assertEquals((await fork()).kind, "created");
});

Deno.test("StreamLogs.follow() waits for records, and ends with the stream", async () => {
  await using bench = new Bench();
  await bench.create("a", { records: ["1", "2", "3"] });
  const pages = bench.follow("a");
  assertEquals(await next(pages), ["1", "2"]);
  assertEquals(await next(pages), ["3", "up to date"]);
  const waiting = next(pages);
  await bench.append("a", "4");
  assertEquals(await waiting, ["4", "up to date"]);
  const ending = next(pages);
  await bench.streams.append("a", { records: ["5"], end: { error: "stopped" } });
  assertEquals(await ending, ["5", "up to date", { error: "stopped" }]);
  assertEquals(await next(pages), "done");
  assertEquals(bench.streams.readers, 0);
  assertEquals(await next(bench.follow("a", 5)), ["up to date", { error: "stopped" }]);
});

Deno.test("StreamLogs.follow() begins with all records, even if their announcements are late", async () => {
  await using bench = new Bench();
  const { identity } = await bench.create("a");
  const bounds = { after: 0, identity, maxRecords: 2, maxBytes: 65_536 };
  const early = bench.streams.follow("a", bounds);
  assertEquals(await next(early), ["up to date"]);
  // The announcement carries the record, so that readers need not read it.
  const carried = new TextEncoder().encode(`${identity} 0 1\n....1`);
  new DataView(carried.buffer).setUint32(carried.length - 5, 2);
  bench.broker.onDelivery = (publication, deliver) => deliver({ ...publication, payload: carried });
  const waiting = next(early);
  await bench.append("a", "1");
  assertEquals(await waiting, ["1", "up to date"]);
  assertEquals(bench.broker.callsOf("logs.read").length, 1);
  bench.broker.onDelivery = () => {};
  await bench.append("a", "2");
  const late = bench.streams.follow("a", bounds);
  assertEquals(await next(late), ["1", "2", "up to date"]);
  for (const pages of [early, late]) await pages.return();
});

Deno.test("StreamLogs.follow() shares the read of readers that come at the same time", async () => {
  await using bench = new Bench();
  await bench.create("a", { records: ["1"] });
  const gate = Promise.withResolvers<void>();
  bench.broker.make("logs.read", replyAfter(gate.promise));
  const readers = Array.from({ length: 10 }, () => bench.follow("a"));
  const first = readers.map(next);
  await turns();
  gate.resolve();
  for (const page of await Promise.all(first)) assertEquals(page, ["1", "up to date"]);
  // The first reader's read, and the one that began once all others had come.
  assertEquals(bench.broker.callsOf("logs.read").length, 2);
  for (const pages of readers) await pages.return(undefined);
});

Deno.test("StreamLogs reports the first and the last reader of a stream, and single reads", async () => {
  await using bench = new Bench();
  await bench.create("a", { records: ["1"] });
  const [one, two] = [bench.follow("a"), bench.follow("a")];
  for (const pages of [one, two]) await next(pages);
  await one.return(undefined);
  assertEquals(bench.told, [["a", true]]);
  await two.return(undefined);
  await bench.read("a");
  assertEquals(bench.told, [["a", true], ["a", false], ["a", false]]);
});

Deno.test("StreamLogs.follow() reports a stream that is gone", async () => {
  await using bench = new Bench();
  assertEquals(await next(bench.follow("a")), "missing");
  await bench.create("a");
  const pages = bench.follow("a");
  assertEquals(await next(pages), ["up to date"]);
  const waiting = next(pages);
  await bench.streams.delete("a");
  await bench.create("a", { records: ["another"] });
  assertEquals(await waiting, "missing");
  assertEquals(await next(pages), "done");
});

Deno.test("StreamLogs.follow() ends when the signal aborts, and on close()", async () => {
  await using bench = new Bench({ maxReaders: 2 });
  await bench.create("a");
  const controller = new AbortController();
  const [one, two] = [bench.follow("a", 0, controller.signal), bench.follow("a")];
  assertEquals([await next(one), await next(two)], [["up to date"], ["up to date"]]);
  assertEquals(await next(bench.follow("a")), "too-many");
  const waiting = [next(one), next(two)];
  controller.abort();
  assertEquals(await waiting[0], "done");
  await bench.streams.close();
  assertEquals(await waiting[1], "done");
  assertEquals(bench.streams.readers, 0);
});

Deno.test("StreamLogs deletes expired streams, but none that are being read", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("source", { ttlMs: 10_000, records: ["1"] });
  await bench.create("fork", { fork: { source: "source" } });
  await bench.create("read", { ttlMs: 10_000 });
  const pages = bench.follow("read");
  assertEquals(await next(pages), ["up to date"]);
  const waiting = next(pages);
  for (let i = 0; i < 30; i++) await time.tickAsync(1_000);
  assertEquals([await bench.read("source"), await bench.read("fork")], ["missing", "missing"]);
  assertEquals((await bench.broker.logs!.overdue({ limit: 10 })).length, 0);
  assertEquals(await bench.append("read", "late"), "appended");
  assertEquals(await waiting, ["late", "up to date"]);
  await pages.return(undefined);
});

Deno.test("StreamLogs deletes any number of expired streams within one search", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  for (let i = 0; i < 1_000; i++) await bench.create(`${i}`, { ttlMs: 1_000 });
  assertEquals((await bench.streams.create("more", {})).kind, "too-many");
  for (let i = 0; i < 6; i++) await time.tickAsync(1_000);
  await time.runMicrotasks();
  for (let i = 0; i < 20; i++) await time.tickAsync(1);
  assertEquals(await bench.broker.logs!.overdue({ limit: 1_000 }), []);
  assertEquals((await bench.streams.create("more", {})).kind, "created");
});

Deno.test("StreamLogs searches at its usual pace when no overdue stream goes away", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  const overdue = Array.from({ length: 100 }, (_, i) => `${i}`);
  bench.broker.make("logs.overdue", () => Promise.resolve(overdue));
  for (let i = 0; i < 60; i++) await time.tickAsync(1_000);
  const searches = bench.broker.callsOf("logs.overdue").length;
  assert(searches > 10 && searches < 26, `${searches}`);
});

Deno.test("StreamLogs deletes the expired rows of a keyed stream", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("a", { keyed: { records: 9, ms: 1_000, bytes: 9_999 } });
  const pages = bench.follow("a");
  assertEquals(await next(pages), ["up to date"]);
  const set = (key: string, ttlMs?: number) =>
    rowChange({ type: "t", key, operation: "upsert", value: "1", ttlMs }, 0);
  const changes = [set("short", 2_000), set("long", 60_000), set("ever"), set("renewed", 2_000)];
  await bench.streams.append("a", { records: [], changes });
  await next(pages);
  await bench.streams.append("a", { records: [], changes: [set("renewed")] });
  await next(pages);
  const waiting = next(pages);
  for (let i = 0; i < 10; i++) await time.tickAsync(1_000);
  const [deletion, ...rest] = await waiting as unknown[];
  const { key, headers } = JSON.parse(String(deletion));
  assertEquals({ key, operation: headers.operation, rest }, {
    key: "short",
    operation: "delete",
    rest: ["up to date"],
  });
  const { rows, tail } = await bench.info("a");
  assertEquals({ count: rows?.count, deletions: rows?.deletions, tail }, {
    count: 3,
    deletions: 1,
    tail: 3,
  });
  assertEquals(bench.errors, []);
  await pages.return(undefined);
});

Deno.test("StreamLogs.append() changes rows only if other rows, and the tail, are as expected", async () => {
  await using bench = new Bench();
  await bench.create("a", { keyed: { records: 9, ms: 1_000, bytes: 9_999 } });
  const append = async (expect: number, ifTail?: number) => {
    const check = rowCheck({ type: "t", key: "checked", expect });
    const changes = [rowChange({ type: "t", key: "k", operation: "upsert" }, 0), check];
    const result = await bench.streams.append("a", { records: [], changes, ifTail });
    const { tail } = await bench.info("a");
    return [result.kind, tail];
  };
  assertEquals(await append(0, 0), ["appended", 1]);
  assertEquals(await append(0, 0), ["moved", 1]);
  assertEquals(await append(1, 1), ["conflict", 1]);
  assertEquals(await append(0), ["appended", 2]);
});

Deno.test("StreamLogs keeps the rows of a closed keyed stream", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("a", { keyed: { records: 9, ms: 1_000, bytes: 9_999 } });
  const change = { type: "t", key: "k", operation: "upsert", value: "1", ttlMs: 2_000 } as const;
  await bench.streams.append("a", { records: [], changes: [rowChange(change, 0)], end: {} });
  for (let i = 0; i < 10; i++) await time.tickAsync(1_000);
  const { rows, tail } = await bench.info("a");
  assertEquals({ count: rows?.count, deletions: rows?.deletions, tail }, {
    count: 1,
    deletions: 0,
    tail: 1,
  });
  assertEquals((await bench.read("a")).length, 1);
});

Deno.test("StreamLogs ends a stream that lost its writer", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("a", { writer: { holder: "w", ttlMs: 15_000 } });
  const pages = bench.follow("a");
  assertEquals(await next(pages), ["up to date"]);
  const waiting = next(pages);
  for (let i = 0; i < 25; i++) await time.tickAsync(1_000);
  assertEquals(await waiting, ["up to date", { error: "writer-lost" }]);
});

Deno.test("StreamLogs.read() starts at the oldest kept record with startsAtOldest", async () => {
  await using bench = new Bench({ keep: { records: 2, bytes: 65_536 } });
  const source = await bench.create("a", { records: ["1", "2"] });
  await bench.append("a", "3");
  const read = (id: string, after: number) =>
    bench.streams.read(id, { after, startsAtOldest: true, maxRecords: 10, maxBytes: 65_536 });
  const trimmed = await bench.streams.read("a", { after: 0, maxRecords: 10, maxBytes: 65_536 });
  assertEquals(trimmed, { kind: "trimmed", oldest: 1 });
  const page = await read("a", 0);
  assertEquals(page.kind === "page" && [page.records, page.next], [["2", "3"], 3]);
  // A fork only has the records that the source had when the fork was created.
  assertEquals(await bench.append("a", "4"), "appended");
  const fork = await bench.create("fork", { fork: { source: "a", offset: "-1", subOffset: 1 } });
  assertEquals([fork.first, source.identity], [3, (await bench.info("a")).identity]);
  await bench.append("a", "5");
  const inherited = await read("fork", 0);
  assertEquals(inherited.kind === "page" && inherited.next, 3);
});

Deno.test("StreamLogs.follow() reports records that were dropped while the reader was away", async () => {
  await using bench = new Bench({ keep: { records: 2, bytes: 65_536 } });
  await bench.create("a", { records: ["1"] });
  const options = { after: 0, startsAtOldest: true, maxRecords: 10, maxBytes: 65_536 };
  const pages = bench.streams.follow("a", options);
  assertEquals(await next(pages), ["1", "up to date"]);
  await bench.append("a", "2", "3", "4");
  assertEquals(await next(pages), "trimmed");
  assertEquals(await next(pages), "done");
});

Deno.test("StreamLogs keeps an expired stream that is not deleted yet for its forks", async () => {
  using time = new FakeTime();
  await using bench = new Bench();
  await bench.create("source", { records: ["1"], ttlMs: 1_000 });
  await bench.create("fork", { fork: { source: "source" }, ttlMs: 60_000 });
  time.tick(1_000);
  assertEquals(await bench.read("fork"), ["1"]);
  assertEquals(await bench.read("source"), "deleted");
});
