/**
 * Tests the logs of durable streams on NATS, in addition to the suite for every broker: random
 * calls, outages, storage space, and time.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { jetstreamManager } from "@nats-io/jetstream";
import type { ConnectionOptions } from "@nats-io/nats-core";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogConfig,
  LogPage,
  LogRecord,
} from "../../streams/logs/log.ts";
import { logTopic } from "../../streams/logs/log_names.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import type { NatsServers } from "../../brokers/nats/options.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { Random } from "../random.ts";
import { answered, Hearing, statusIs } from "./receiving.ts";
import { assertProduced, produce } from "./producers.ts";
import { isNatsMissing, NatsServer, type NatsServerOptions } from "./nats_server.ts";
import { readCarried } from "../../streams/logs/announcement.ts";
import { until } from "../waiting.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const PLENTY = 1_000_000_000;
const TEXT: LogConfig = { contentType: "text/plain" };

/** Registers a test that has its own server. */
function test(
  name: string,
  fn: (server: NatsServer) => Promise<void>,
  options: NatsServerOptions = {},
): void {
  Deno.test({
    name: `Logs on NATS ${name}`,
    ignore: isNatsMissing,
    async fn() {
      await using server = await NatsServer.start(options);
      await fn(server);
    },
  });
}

function creation(options: Partial<CreateLogOptions> = {}): CreateLogOptions {
  return { config: TEXT, identity: "identity", records: [], maxLogs: PLENTY, ...options };
}

async function created(logs: BrokerLogs, id: string, options: Partial<CreateLogOptions> = {}) {
  assertEquals((await logs.create(id, creation(options))).kind, "created");
}

async function append(
  logs: BrokerLogs,
  id: string,
  records: readonly LogRecord[],
  options: Partial<AppendLogOptions> = {},
) {
  return await logs.append(id, { records, maxBytes: PLENTY, ...options });
}

async function read(logs: BrokerLogs, id: string, after = 0, maxRecords = 1_000) {
  const options = { after, maxRecords, maxBytes: PLENTY, renews: false };
  const page = await logs.read(id, options);
  assert(typeof page === "object", `Expected a page, received ${page}`);
  return page;
}

/** Reads all records, page by page. */
async function readAll(logs: BrokerLogs, id: string, maxRecords = 1_000): Promise<LogRecord[]> {
  const all: LogRecord[] = [];
  while (true) {
    const { info, records }: LogPage = await read(logs, id, all.length, maxRecords);
    all.push(...records);
    if (all.length === info.tail) return all;
    assert(records.length > 0, "an empty page before the tail");
  }
}

/** Returns the number of messages and subjects in a stream. */
async function stateOf({ servers }: NatsServer, kind: string) {
  const connection = await connectNats({ servers });
  const { streams } = await jetstreamManager(connection);
  const all = { messages: 0, subjects: 0 };
  for await (const { config, state } of streams.list()) {
    if (!config.name.startsWith(kind)) continue;
    all.messages += state.messages;
    all.subjects += state.num_subjects ?? 0;
  }
  await connection.close();
  return all;
}

/**
 * Connects to a server whose clock differs. Brokers read that clock from the creation times of
 * consumers.
 */
function connectAt(now: () => number): NonNullable<NatsServers["connect"]> {
  return async (options) => {
    const connection = await connectNats(options as ConnectionOptions);
    const request = connection.request.bind(connection);
    connection.request = async (subject, ...rest) => {
      const reply = await request(subject, ...rest);
      if (!subject.startsWith("$JS.API.CONSUMER.CREATE.")) return reply;
      const created = new Date(now()).toISOString();
      const data = new TextEncoder().encode(JSON.stringify({ ...reply.json<object>(), created }));
      return Object.create(reply, { data: { value: data } });
    };
    return connection;
  };
}

/** Returns a runtime whose clock, like the server's, only moves when the test moves it. */
function clock() {
  const start = Date.now();
  let ahead = 0;
  const now = () => start + ahead;
  const monotonic = () => ahead;
  const runtime = Object.assign(platformRuntime(), { now, monotonic });
  return { runtime, connect: connectAt(now), pass: (ms: number) => void (ahead += ms) };
}

test("stores each append of producers on two nodes exactly once, in order", async ({ servers }) => {
  for (const seed of [1, 2, 3, 4, 5]) {
    await using near = new NatsBroker({ servers });
    await using far = new NatsBroker({ servers });
    const id = `log ${seed}`;
    await created(near.logs, id);
    const random = new Random(seed);
    const names = ["a", "b", "c", "d", "e", "f"];
    const more = (count: number) => count < 60;
    await Promise.all(names.map((name) => produce([near, far], id, name, random, more)));
    const all = await readAll(far.logs, id);
    for (const name of names) assertProduced(all, name, 60);
    assertEquals(await readAll(near.logs, id, 7), all);
    await using cold = new NatsBroker({ servers });
    for (let i = 0; i < 50; i++) {
      const after = random.below(all.length);
      const page = await read(cold.logs, id, after, 1 + random.below(20));
      assert(page.records.length > 0);
      assertEquals(page.records, all.slice(after, after + page.records.length));
    }
  }
});

test("keeps acknowledged appends while the server is killed repeatedly", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await created(near.logs, "log");
  const random = new Random(6);
  const names = ["a", "b", "c"];
  let isDone = false;
  const producing = Promise.all(
    names.map((name) => produce([near, far], "log", name, random, () => !isDone)),
  );
  const tail = async () => (await answered(() => read(far.logs, "log", 0, 0))).info.tail;
  for (let round = 0; round < 3; round++) {
    const before = await tail();
    await until(async () => await tail() > before + 100);
    await server.kill();
    await Promise.all([near, far].map((node) => statusIs(node, "interrupted")));
    await assertRejects(() => append(near.logs, "log", ["away"]), BrokerError);
    await assertRejects(() => read(far.logs, "log"), BrokerError);
    await assertRejects(() => near.logs.overdue({ limit: 1 }), BrokerError);
    await server.restart();
    await Promise.all([near, far].map((node) => statusIs(node, "connected")));
  }
  isDone = true;
  const counts = await producing;
  const all = await answered(() => readAll(near.logs, "log"));
  for (const [i, name] of names.entries()) assertProduced(all, name, counts[i]!);
});

test("returns the same results as the memory broker for random operations on two nodes", async ({ servers }) => {
  for (const seed of [11, 12, 13, 14, 15, 16]) {
    const random = new Random(seed);
    const { runtime, connect, pass } = clock();
    await using model = new MemoryBroker({ runtime });
    await using near = new NatsBroker({ servers, connect }, { runtime, prefix: `seed${seed}` });
    await using far = new NatsBroker({ servers, connect }, { runtime, prefix: `seed${seed}` });
    for (let step = 0; step < 300; step++) {
      const id = random.pick(["one", "two"]);
      const state = { after: 0, maxRecords: 0, maxBytes: 0, renews: false };
      const present = await logsOf(model)!.read(id, state);
      const known = typeof present === "object" ? present.info.identity : "none";
      const act = operation(random, id, { now: runtime.now(), known, next: `life${step}` });
      const { logs } = random.pick([near, far]);
      const [is, should] = [await act(logs), await act(logsOf(model)!)];
      // NATS keeps counting removed logs for a while.
      for (const one of [is, should]) Reflect.deleteProperty(Object(one), "count");
      assertEquals(is, should, `step ${step} of seed ${seed}`);
      if (random.below(10) === 0) pass(random.below(200));
    }
  }
});

/**
 * Generates a random operation to run on both stores. `known` is the identity of the log, and `next`
 * that of a new one: no two logs have the same.
 */
function operation(
  random: Random,
  id: string,
  { now, known, next }: { readonly now: number; readonly known: string; readonly next: string },
): (logs: BrokerLogs) => Promise<unknown> {
  const records = Array.from(
    { length: random.below(4) },
    () => random.below(2) === 0 ? "x".repeat(random.below(40)) : random.bytes(random.below(40)),
  );
  const writer = { holder: random.pick(["v", "w"]), ttlMs: 300 };
  const fork = random.pick(["f", "g"]);
  const keep = { records: 5 + random.below(20), bytes: 500 + random.below(1_000) };
  const producer = { id: random.pick(["p", "q"]), epoch: random.below(2), seq: random.below(4) };
  const options: AppendLogOptions = {
    records,
    maxBytes: 5_000,
    ...(random.below(3) === 0 && { keep }),
    ...(random.below(4) === 0 && { producer }),
    ...(random.below(8) === 0 && { sequence: `${random.below(100)}` }),
    ...(random.below(8) === 0 &&
      { writer: { ...writer, ...(random.below(2) && { takes: true }) } }),
    ...(random.below(20) === 0 && { cancel: fork }),
    ...(random.below(60) === 0 && { end: { error: "stopped" } }),
  };
  const config = random.below(4) === 0 ? { ...TEXT, expiresAt: now + random.below(2_000) } : TEXT;
  const after = random.below(40);
  const page = { maxRecords: 1 + random.below(30), maxBytes: random.below(500) };
  switch (random.below(20)) {
    case 0:
      return (logs) => logs.delete(id);
    case 1:
      return (logs) => logs.retain(id, fork, { identity: known, maxForks: 1 });
    case 2:
      return (logs) => logs.release(id, fork);
    case 3:
    case 4:
      return (logs) => logs.create(id, creation({ records, config, identity: next }));
    case 5:
    case 6:
    case 7:
    case 8:
      return async (logs) => {
        const records: LogRecord[] = [];
        while (true) {
          const from = after + records.length;
          const read = await logs.read(id, { after: from, ...page, renews: false });
          if (typeof read !== "object") return read;
          records.push(...read.records);
          if (read.records.length === 0) return { records, info: read.info };
        }
      };
    default:
      return (logs) => logs.append(id, options);
  }
}

test("does not revive a log whose deletion races with an append", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  for (let round = 0; round < 30; round++) {
    const identity = `life${round}`;
    await created(round % 2 === 0 ? near.logs : far.logs, "log", { identity });
    const appends = Array.from(
      { length: 10 },
      (_, i) => append(i % 2 === 0 ? near.logs : far.logs, "log", [`${i}`], { identity }),
    );
    const [deleted, ...results] = await Promise.all([near.logs.delete("log"), ...appends]);
    assertEquals(deleted, { kind: "removed" });
    for (const { kind } of results) assert(kind === "appended" || kind === "missing", kind);
    assertEquals((await append(far.logs, "log", ["late"], { identity })).kind, "missing");
  }
  await until(async () => (await stateOf(server, "skein_logs")).messages === 0);
});

test("stores one message per log when it is read, renewed, or changed without records", async (server) => {
  const { servers } = server;
  const { runtime, connect, pass } = clock();
  await using near = new NatsBroker({ servers, connect }, { runtime });
  await using far = new NatsBroker({ servers, connect }, { runtime });
  const config = { ...TEXT, ttlMs: 800 };
  await created(near.logs, "log", { config, records: ["a"] });
  for (let i = 0; i < 40; i++) {
    pass(50);
    for (const { logs } of [near, far]) {
      const page = await logs.read("log", { after: 0, maxRecords: 9, maxBytes: 9, renews: true });
      assertEquals(typeof page, "object");
    }
  }
  for (let i = 0; i < 20; i++) {
    const writer = { holder: "w", ttlMs: 60_000 };
    assertEquals((await append(near.logs, "log", [], { writer })).kind, "appended");
    await far.logs.retain("log", `${i}`, { identity: "identity", maxForks: 1_000 });
  }
  // One message has the record, and one has the newest state.
  await until(async () => (await stateOf(server, "skein_logs")).messages === 2);
  assertEquals((await append(far.logs, "log", ["b"])).kind, "appended");
  await until(async () => (await stateOf(server, "skein_logs")).messages === 2);
  assertEquals(await readAll(near.logs, "log"), ["a", "b"]);
});

test("announces no renewal", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await using hearing = new Hearing(far, logTopic("log"));
  await hearing.ready;
  await created(near.logs, "log", { config: { ...TEXT, ttlMs: 60_000 } });
  await near.logs.retain("log", "fork", { identity: "identity", maxForks: 1 });
  await append(near.logs, "log", ["a"]);
  await hearing.count(2);
  const carried = hearing.payloads.map((payload) => readCarried(payload)?.records);
  assertEquals(carried, [undefined, ["a"]]);
});

test("deletes the messages before the kept records", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await created(near.logs, "log");
  const keep = { records: 50, bytes: PLENTY };
  for (let i = 0; i < 2_000; i++) {
    // One node first deletes many messages at a time, then one per append, until the other node
    // takes over.
    await append(i < 1_800 ? near.logs : far.logs, "log", [`${i}`], i < 1_600 ? {} : { keep });
  }
  const { info, records } = await read(far.logs, "log", 1_950);
  assertEquals([info.start, info.tail], [1_950, 2_000]);
  assertEquals(records.map(Number), Array.from({ length: 50 }, (_, i) => 1_950 + i));
  await until(async () => (await stateOf(server, "skein_logs")).messages === 50);
});

test("finds every position of many interleaved logs", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  const random = new Random(21);
  const logs = new Map<string, LogRecord[]>();
  for (let i = 0; i < 5; i++) {
    await created(near.logs, `log ${i}`);
    logs.set(`log ${i}`, []);
  }
  for (let i = 0; i < 1_500; i++) {
    const id = `log ${random.below(5)}`;
    const kept = logs.get(id)!;
    const records = Array.from({ length: random.below(4) }, (_, j) => `${kept.length + j}`);
    await append(near.logs, id, records);
    kept.push(...records);
  }
  await using cold = new NatsBroker({ servers });
  for (const [id, kept] of logs) {
    for (let after = 0; after < kept.length; after += 1 + random.below(9)) {
      const { records } = await read(cold.logs, id, after, 3);
      assertEquals(records, kept.slice(after, after + records.length));
      assert(records.length > 0);
    }
    assertEquals(await readAll(cold.logs, id, 40), kept);
  }
});

test("lists logs when they are due, and deletes scheduled checks of other logs", async (server) => {
  const { servers } = server;
  const { runtime, connect, pass } = clock();
  await using near = new NatsBroker({ servers, connect }, { runtime });
  await using far = new NatsBroker({ servers, connect }, { runtime });
  const hour = 3_600_000;
  const overdue = async () => (await far.logs.overdue({ limit: 1_000 })).sort();
  await created(near.logs, "short", { config: { ...TEXT, ttlMs: 1_000 } });
  await created(near.logs, "long", { config: { ...TEXT, ttlMs: hour } });
  await created(near.logs, "used", { config: { ...TEXT, ttlMs: hour } });
  await created(near.logs, "ended", { writer: { holder: "w", ttlMs: 60_000 } });
  await created(near.logs, "gone", { config: { ...TEXT, ttlMs: hour } });
  await created(near.logs, "written", { writer: { holder: "w", ttlMs: 60_000 } });
  await append(near.logs, "ended", [], { end: {} });
  await near.logs.delete("gone");
  const lease = { writer: { holder: "w", ttlMs: 60_000 } };
  for (let minute = 0; minute < 60; minute++) {
    pass(59_000);
    const { logs } = minute % 2 === 0 ? near : far;
    assertEquals((await append(logs, "written", [], lease)).kind, "appended");
    if (minute === 50) await append(far.logs, "used", ["a"]);
    assertEquals(await overdue(), ["short"]);
  }
  pass(hour / 8 + 120_000);
  assertEquals(await overdue(), ["long", "short", "written"]);
  await append(near.logs, "written", [], { end: {}, ifWriterLost: true });
  for (const id of ["short", "long"]) await near.logs.delete(id, { ifExpired: true });
  assertEquals(await overdue(), []);
  pass(hour);
  assertEquals(await overdue(), ["used"]);
  await near.logs.delete("used");
  // Check messages stay a little longer than their lifetime, because a change may be in progress.
  for (let i = 0; i < 4; i++) {
    pass(60_000);
    assertEquals(await overdue(), []);
  }
  assertEquals((await stateOf(server, "skein_due")).messages, 0);
});

test("lists the logs that are due among thousands that are not", async ({ servers }) => {
  const { runtime, connect, pass } = clock();
  await using near = new NatsBroker({ servers, connect }, { runtime });
  // More at a time may take a busy server longer than the time limit of a request.
  for (let from = 0; from < 3_000; from += 200) {
    await Promise.all(Array.from({ length: 200 }, (_, n) => {
      const ttlMs = n % 100 === 0 ? 60_000 : 600_000;
      return created(near.logs, `${from + n}`, { config: { ...TEXT, ttlMs } });
    }));
  }
  pass(60_000 * 9 / 8 + 5_000);
  const found = new Set<string>();
  await until(async () => {
    for (const id of await near.logs.overdue({ limit: 20 })) {
      found.add(id);
      assertEquals(await near.logs.delete(id, { ifExpired: true }), { kind: "removed" });
    }
    return found.size >= 30;
  });
  assertEquals(
    [...found].map(Number).sort((a, b) => a - b),
    [...Array(30).keys()].map((i) => i * 100),
  );
});

test("reports messages of other programs, and still lists other logs", async ({ servers }) => {
  await using broker = new NatsBroker({ servers }, { shards: { logs: 1 } });
  const config = { ...TEXT, ttlMs: 300 };
  await created(broker.logs, "spoiled", { config });
  await created(broker.logs, "whole", { config });
  const other = await connectNats({ servers });
  await other.request("skein.logs.spoiled", "noise");
  await other.request("skein.due.0.noise", "noise");
  await assertRejects(
    () => read(broker.logs, "spoiled"),
    BrokerError,
    "does not start with a state",
  );
  await assertRejects(() => append(broker.logs, "spoiled", ["a"]), BrokerError, "does not start");
  await until(async () => (await broker.logs.overdue({ limit: 9 })).includes("whole"));
  await using hearing = new Hearing(broker, logTopic("whole"));
  await hearing.ready;
  other.publish("skein.changes.whole", "noise");
  await other.flush();
  await other.close();
  await broker.logs.delete("whole");
  await hearing.count(1);
  assertEquals(broker.stats.ignored, 1);
});

test("bounds an append and the state by the server's largest message", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  await statusIs(broker, "connected");
  const { logs } = broker;
  assertEquals(logs.maxAppendBytes, 32_768);
  const large = "x".repeat(logs.maxAppendBytes);
  await created(logs, "log", { records: [large] });
  assertEquals((await append(logs, "log", [large])).kind, "appended");
  assertEquals((await append(logs, "log", [large, large])).kind, "full");
  await assertRejects(
    () => logs.create("other", creation({ records: [large, large] })),
    RangeError,
    "at most 49152 bytes",
  );
  let kind: string = "appended";
  let count = 0;
  for (; kind === "appended" && count < 100; count++) {
    const producer = { id: `${count}`.padEnd(300, "p"), epoch: 0, seq: 0 };
    ({ kind } = await append(logs, "log", [large], { producer }));
  }
  assertEquals([kind, count > 30], ["too-many-producers", true]);
  assertEquals((await append(logs, "log", [large])).kind, "appended");
  const contentType = "x".repeat(20_000);
  await assertRejects(
    () => logs.create("other", creation({ config: { contentType } })),
    RangeError,
    "the state of the log must take at most",
  );
  assertEquals(broker.stats.waiting, 0);
}, { settings: "max_payload: 65536" });

test("counts towards the bound of waiting calls, and ends calls in progress on close", async ({ servers }) => {
  const broker = new NatsBroker({ servers }, { maxWaiting: 10 });
  await created(broker.logs, "log");
  const appends = Array.from({ length: 12 }, () => append(broker.logs, "log", ["a"]));
  assertEquals(broker.stats.waiting, 10);
  const results = Promise.allSettled(appends);
  await broker.close();
  const rejected = (await results).flatMap((one) => one.status === "rejected" ? [one.reason] : []);
  assertEquals(rejected.length, 2);
  for (const error of rejected) assertMatch(error.message, /too many publications wait/);
  assertEquals(broker.stats.waiting, 0);
  await assertRejects(() => read(broker.logs, "log"), BrokerError, "the broker is closed");
  await assertRejects(() => broker.logs.overdue({ limit: 1 }), BrokerError, "closed");
  await using other = new NatsBroker({ servers });
  assertEquals((await read(other.logs, "log")).info.tail, 10);
});

test("recreates its streams after an operator deleted them", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  await created(broker.logs, "log", { records: ["a"] });
  const connection = await connectNats({ servers });
  const { streams } = await jetstreamManager(connection);
  for await (const { config } of streams.list()) await streams.delete(config.name);
  await connection.close();
  await assertRejects(() => append(broker.logs, "log", ["b"]), BrokerError);
  assertEquals((await append(broker.logs, "log", ["b"])).kind, "missing");
  // Near its limit, the broker counts the logs in all shards, of which one exists again.
  await created(broker.logs, "log", { records: ["new"], maxLogs: 1 });
  assertEquals((await broker.logs.create("other", creation({ maxLogs: 1 }))).kind, "too-many");
  assertEquals(await readAll(broker.logs, "log"), ["new"]);
});

test("reports a server without JetStream", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  await assertRejects(() => broker.logs.create("log", creation()), BrokerError, "jetstream");
  assert(broker.issues().some((issue) => /Logs are not available/.test(issue)));
}, { jetstream: false });

test("aborts a read by its signal", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers });
  await created(broker.logs, "log");
  server.freeze();
  const controller = new AbortController();
  const options = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };
  const reading = broker.logs.read("log", { ...options, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => reading, Error, "enough");
  server.thaw();
});

test("can be searched by several nodes that delete the same checks", async ({ servers }) => {
  await using one = new NatsBroker({ servers });
  await using two = new NatsBroker({ servers });
  await using three = new NatsBroker({ servers });
  const nodes = [one, two, three];
  const ids = Array.from({ length: 200 }, (_, i) => `log ${i}`);
  // The logs end long before the lease expires, even on a busy machine.
  const writer = { holder: "w", ttlMs: 4_000 };
  // This log's check message comes before the others, and the store then removes those
  // differently.
  await created(one.logs, "first", { config: { ...TEXT, ttlMs: 600_000 } });
  await Promise.all(ids.map((id) => created(one.logs, id, { writer })));
  await Promise.all(ids.map((id) => append(one.logs, id, [], { end: {} })));
  const end = Date.now() + 8_000;
  while (Date.now() < end) {
    const found = await Promise.all(nodes.map(({ logs }) => logs.overdue({ limit: 100 })));
    assertEquals(found, [[], [], []]);
  }
});
