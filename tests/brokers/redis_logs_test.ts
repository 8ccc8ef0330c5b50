/**
 * Tests logs of the Redis broker, in addition to the suite for every broker: random calls checked
 * against the rules, lost connections and processes, a full Redis, and lost keys.
 */
import { writeWhileKilled } from "./killed_server.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogRecord,
} from "../../streams/logs/log.ts";
import { rowChange } from "../../streams/logs/change_message.ts";
import { CALLER_MARKS, IDLE_MARK_MS } from "../../streams/logs/callers.ts";
import { logTopic, RESPONSE_PREFIX } from "../../streams/logs/log_names.ts";
import { MAX_LOG_PRODUCERS } from "../../streams/logs/rules.ts";
import { StreamLogs, type StreamRead } from "../../streams/logs/stream_logs.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { slotOf } from "../../brokers/redis/format.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { Random } from "../random.ts";
import { answered, Hearing, noTimers, statusIs } from "./receiving.ts";
import { isRedisMissing, RedisServer, type RedisServerOptions } from "./redis_server.ts";
import { until } from "../waiting.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const ignore = isRedisMissing;

const PLENTY = 1_000_000_000;

/** Registers a test that has its own server. */
function test(
  name: string,
  fn: (server: RedisServer) => Promise<void>,
  options: RedisServerOptions = {},
): void {
  Deno.test({
    name: `RedisBroker.logs ${name}`,
    ignore,
    async fn() {
      await using server = await RedisServer.start(options);
      await fn(server);
      await noTimers();
    },
  });
}

for (const seed of [1, 2, 3, 4]) {
  test(`follows the rules for random calls (seed ${seed})`, async ({ url }) => {
    await using redis = new RedisBroker({ url });
    await using memory = new MemoryBroker();
    const random = new Random(seed);
    for (let i = 0; i < 1_500; i++) {
      const call = randomCall(random);
      const [actual, expected] = [await call(redis.logs), await call(logsOf(memory)!)];
      assertEquals(plain(actual), plain(expected), `call ${i}: ${call}`);
    }
  });

  test(`follows the rules for random transactions (seed ${seed})`, async ({ url }) => {
    await using redis = new RedisBroker({ url });
    await using memory = new MemoryBroker();
    const random = new Random(seed);
    for (let i = 0; i < 1_500; i++) {
      const call = randomTransaction(random);
      const [actual, expected] = [await call(redis.logs), await call(logsOf(memory)!)];
      assertEquals(inOrder(actual), inOrder(expected), `call ${i}: ${call}`);
    }
  });

  test(`follows the rules for concurrent transactions (seed ${seed})`, async ({ url }) => {
    await using redis = new RedisBroker({ url });
    await using memory = new MemoryBroker();
    const random = new Random(seed);
    const kinds = new Set<unknown>();
    for (let i = 0; i < 300; i++) {
      if (i % 20 === 0) {
        for (const logs of [redis.logs, logsOf(memory)!]) {
          for (const id of LOGS) await logs.delete(id);
        }
      }
      // A node that has not heard of a deletion yet takes a log with the same identity for a loss.
      const calls = Array.from({ length: 1 + random.below(12) }, () => {
        return randomTransaction(random, { deletes: false });
      });
      const actual = await Promise.all(calls.map((call) => call(redis.logs)));
      for (const [j, call] of calls.entries()) {
        const expected = await call(logsOf(memory)!);
        assertEquals(inOrder(actual[j]), inOrder(expected), `call ${i}, ${j}: ${call}`);
        kinds.add(Object(expected).kind);
      }
    }
    for (const kind of ["appended", "conflict", "repeated", "full", "too-many-rows", "ended"]) {
      assert(kinds.has(kind), kind);
    }
  });
}

/** The streams of a node, and the number of pages that they have read from Redis. */
function countingStreams(url: string, { lateByMs = 0 } = {}) {
  const broker = new RedisBroker({ url });
  const node = {
    reads: 0,
    streams: new StreamLogs({
      runtime: platformRuntime(),
      broker,
      bounds: {
        ...{ maxStreams: 100, maxRetained: 100, maxForks: 100, maxReaders: 100, maxRows: 100 },
        maxStreamBytes: 1_000_000,
      },
      onError: (error) => {
        throw error;
      },
    }),
    async [Symbol.asyncDispose]() {
      await this.streams.close();
      await broker.close();
    },
  };
  const read = broker.logs.read.bind(broker.logs);
  Object.assign(broker.logs, {
    read(...args: Parameters<typeof read>) {
      node.reads++;
      return read(...args);
    },
  });
  if (lateByMs > 0) {
    const random = new Random(lateByMs);
    const subscribe = broker.subscribe.bind(broker);
    broker.subscribe = (topic, listener, options) => {
      let last = Promise.resolve();
      return subscribe(topic, (publication) => {
        // The delays differ, but the order stays.
        const delayed = delay(random.below(lateByMs));
        last = last.then(() => delayed).then(() => listener(publication));
      }, options);
    };
  }
  return node;
}

/** The parts of a page that readers use. */
function essence(page: StreamRead | void) {
  assert(page?.kind === "page");
  const { after, next, isUpToDate, records, positions, info } = page;
  const { identity, contentType, tail, start } = info;
  return { after, next, isUpToDate, records, positions, identity, contentType, tail, start };
}

const APPENDS: Record<string, (value: string) => Pick<AppendLogOptions, "records" | "changes">> = {
  records: (value) => ({ records: [`"${value}"`] }),
  changes: (value) => {
    const change = { type: "cards", key: "a", operation: "upsert", value: `"${value}"` } as const;
    return { records: [], changes: [rowChange(change, 0)] };
  },
};

for (const [kind, appendOf] of Object.entries(APPENDS)) {
  test(`carries ${kind} to a reader on another node, which reads nothing`, async ({ url }) => {
    await using near = countingStreams(url);
    await using far = countingStreams(url);
    const keyed = kind === "changes" ? { records: 10, ms: 0, bytes: 100_000 } : undefined;
    await near.streams.create("log", { contentType: "application/json", keyed });
    await near.streams.append("log", appendOf("0"));
    const options = { after: 1, maxRecords: 10, maxBytes: 100_000 };
    const pages = far.streams.follow("log", options);
    assertEquals(essence((await pages.next()).value).records, []);
    const { reads } = far;
    for (let n = 1; n <= 5; n++) {
      const append = near.streams.append("log", appendOf(`${n}`));
      const [{ value: page }] = await Promise.all([pages.next(), append]);
      const read = await near.streams.read("log", { ...options, after: n });
      assertEquals(essence(page), essence(read));
    }
    assertEquals(far.reads, reads);
    // The reader notices all other changes.
    const end = near.streams.append("log", { records: [], end: {} });
    const [{ value: last }] = await Promise.all([pages.next(), end]);
    assert(last?.kind === "page");
    assertEquals(last.info.end, {});
  });
}

test("gives readers each record once, in order, when announcements are late", async ({ url }) => {
  await using near = countingStreams(url);
  await using far = countingStreams(url, { lateByMs: 10 });
  const random = new Random(1);
  const read = async (id: string) => {
    const records: unknown[] = [];
    const bounds = { maxRecords: 1 + random.below(10), maxBytes: 100_000 };
    for await (const page of far.streams.follow(id, { after: 0, ...bounds })) {
      assert(page.kind === "page");
      records.push(...page.records);
    }
    return records;
  };
  await Promise.all(Array.from({ length: 10 }, async (_, stream) => {
    const id = `log${stream}`;
    await near.streams.create(id, { contentType: "text/plain" });
    const expected: string[] = [];
    const readers = [read(id)];
    for (let i = 0; i < 30; i++) {
      const records = Array.from({ length: 1 + random.below(2) }, (_, j) => `${i} ${j}`);
      if (i === 10) records.push("x".repeat(5_000));
      expected.push(...records);
      const end = i === 29 ? {} : undefined;
      assertEquals((await near.streams.append(id, { records, end })).kind, "appended");
      if (i % 5 === 0) readers.push(read(id));
    }
    for (const reader of readers) assertEquals(await reader, expected);
  }));
});

test("detects the loss of a record that a reader only received with its announcement", async (server) => {
  await using near = new RedisBroker({ url: server.url });
  await using far = countingStreams(server.url);
  await create(near.logs, "log", { records: ["kept"] });
  const pages = far.streams.follow("log", { after: 1, maxRecords: 10, maxBytes: 100_000 });
  await pages.next();
  await server.run("save");
  const [{ value: page }] = await Promise.all([pages.next(), append(near.logs, "log", ["lost"])]);
  assert(page?.kind === "page");
  assertEquals(page.records, ["lost"]);
  await pages.return();
  await server.kill();
  await server.restart();
  const { identity } = page.info;
  const options = { after: 2, maxRecords: 10, maxBytes: 100_000, identity };
  assertEquals(await answered(() => far.streams.read("log", options)), { kind: "missing" });
});

/**
 * Returns a page with the changes of each transaction in the same order, because the contract does
 * not define it, and without times, because each store uses its own clock.
 */
function inOrder(result: unknown): unknown {
  const { positions, expiries = [], records, ...rest } = Object(plain(result)) as {
    readonly positions?: readonly number[];
    readonly expiries?: readonly number[];
    readonly records?: readonly string[];
  };
  const text = (one: string) => one.replace(/"timestamp":"[^"]*"/g, '"timestamp":""');
  const changes = records?.map((record, i) => [
    positions?.[i],
    text(record),
    expiries[i] !== undefined && expiries[i] > 0,
  ]);
  return [rest, positions === undefined ? changes : changes?.sort()];
}

const LOGS = ["a", "é {x}"] as const;

/** Generates a random call on one of two keyed logs. */
function randomTransaction(
  random: Random,
  { deletes = true } = {},
): (logs: BrokerLogs) => Promise<unknown> {
  const one = <T>(...values: readonly T[]): T => random.pick(values);
  const id = one(...LOGS);
  const kind = random.below(40);
  if (kind < 2) {
    const keyed = { records: one(1, 3, 1_000), ms: one(0, 1e12), bytes: one(1, 500, PLENTY) };
    const config = { contentType: "application/json", ...(kind === 0 ? { keyed } : {}) };
    return (logs) =>
      logs.create(id, { config, identity: "identity", records: [], maxLogs: Infinity });
  }
  if (kind === 2 && deletes && random.below(4) === 0) return (logs) => logs.delete(id);
  if (kind < 15) {
    const bounds = { maxRecords: one(0, 1, 3, 100), maxBytes: one(0, 300, PLENTY) };
    const after = one(0, random.below(100), random.below(1_000));
    const tail = one(undefined, undefined, true as const);
    return (logs) => logs.read(id, { ...bounds, after, tail, renews: false });
  }
  const changes = Array.from({ length: one(0, 1, 1, 2, 5) }, () =>
    rowChange({
      type: one("t", 'q\\"'),
      key: one("a", "b", '","', "\u2028", "\ud800", "e/f"),
      operation: one("upsert", "upsert", "insert", "update", "delete"),
      value: JSON.stringify("é".repeat(one(0, 1, 40))),
      ...(random.below(6) === 0 ? { expect: random.below(20) } : {}),
      ...(random.below(6) === 0 ? { ttlMs: one(0, 1e12) } : {}),
    }, 0));
  const options: AppendLogOptions = {
    records: random.below(30) === 0 ? ["{}"] : [],
    changes: random.below(10) === 0 ? undefined : changes,
    expiresRows: random.below(4) === 0 ? true : undefined,
    rowBounds: {
      rows: one(2, 5, Infinity),
      deletions: one(1, 3, Infinity),
      deletionMs: one(0, 1e12, Infinity),
    },
    maxBytes: one(1_000, PLENTY),
    ...(random.below(30) === 0 ? { end: {} } : {}),
    ...(random.below(10) === 0 ? { keep: { records: 1, bytes: 100 } } : {}),
    ...(random.below(30) === 0 ? { writer: { holder: "w", ttlMs: 1e9, takes: true } } : {}),
    ...(random.below(5) === 0 ? { producer: { id: "p", epoch: 0, seq: random.below(4) } } : {}),
  };
  return (logs) => logs.append(id, options);
}

/** Returns a result without its `undefined` members, which count as absent. */
function plain(result: unknown): unknown {
  return result === undefined ? undefined : JSON.parse(JSON.stringify(result));
}

/** Generates a random call on one of a few logs, so that all kinds of results occur. */
function randomCall(random: Random): (logs: BrokerLogs) => Promise<unknown> {
  const one = <T>(...values: readonly T[]): T => random.pick(values);
  const maybe = <T extends object>(share: number, value: T): Partial<T> => {
    return random.below(share) === 0 ? value : {};
  };
  const id = one("a", "é {x}", "\ud800");
  const identity = random.below(20) === 0 ? "another0" : "identity";
  const records = Array.from({ length: one(0, 1, 1, 2, 50, 1_100) }, (): LogRecord => {
    const size = one(0, 1, 10, 10, 100);
    return random.below(2) === 0 ? "é".repeat(size) : new Uint8Array(size).fill(7);
  });
  const end = maybe(60, { end: one({}, { error: "é" }) });
  // A lease of 0 ms expires immediately by every clock.
  const writer = maybe(6, {
    writer: {
      holder: one("", "one", "two"),
      ttlMs: one(0, 1_000_000_000),
      ...maybe(2, { takes: true as const }),
      ...maybe(4, { releases: true as const }),
    },
  });
  const origin = { id: "s", identity, position: one(3, 2 ** 40), fork: "f", lineage: [] };
  const kind = random.below(40);
  if (kind < 5) {
    const ttl = maybe(6, { ttlMs: one(0, 1_000_000_000) });
    const config = { contentType: "text/plain", ...ttl, ...maybe(3, { origin }) };
    const maxLogs = one(1, 3, Infinity);
    return (logs) => logs.create(id, { config, identity, records, maxLogs, ...end, ...writer });
  }
  const deletion = maybe(2, { ifExpired: true });
  if (kind < 6) return (logs) => logs.delete(id, deletion);
  if (kind < 8) {
    const fork = one("f", "g");
    return one<(logs: BrokerLogs) => Promise<unknown>>(
      (logs) => logs.retain(id, fork, { identity, maxForks: 1 }),
      (logs) => logs.release(id, fork),
      (logs) => logs.release(id, fork),
      async (logs) => (await logs.overdue({ limit: 10 })).sort(),
    );
  }
  if (kind < 20) {
    const bounds = { maxRecords: one(1, 100, 100_000), maxBytes: one(0, 100, 10_000, PLENTY) };
    const [share, beside, renews] = [random.below(100) / 100, one(-1, 0, 1), one(true, false)];
    return async (logs) => {
      const page = await logs.read(id, { after: 0, maxRecords: 0, maxBytes: 0, renews });
      if (typeof page !== "object") return page;
      const { start, tail } = page.info;
      const after = start + Math.round(share * (tail - start)) + beside;
      return await logs.read(id, { ...bounds, after, renews });
    };
  }
  const producer = { id: one("p", "\0", "\udfff"), epoch: one(0, 0, 0, 1), seq: one(0, 0, 1, 2) };
  const keep = { records: one(1, 30, 2_000, Infinity), bytes: one(0, 300, 10_000, 100_000) };
  const options: AppendLogOptions = {
    records,
    maxBytes: one(1_000, 200_000, PLENTY),
    ...end,
    ...writer,
    ...maybe(4, { identity }),
    ...maybe(3, { producer }),
    ...maybe(8, { sequence: one("", "a", "b", "ab", "\uffff", "\ud83d\ude00") }),
    ...maybe(40, { ifWriterLost: true as const }),
    ...maybe(10, { cancel: one("one", "two") }),
    ...maybe(5, { keep }),
  };
  return (logs) => logs.append(id, options);
}

for (const seed of [1, 2, 3]) {
  test(
    `stores each append of concurrent producers once while connections are cut (seed ${seed})`,
    async (server) => {
      await using near = new RedisBroker({ url: server.url });
      await using far = new RedisBroker({ url: server.url });
      const nodes = [near, far];
      const random = new Random(seed);
      await create(near.logs, "log");
      let isCutting = true;
      const cuts = (async () => {
        while (isCutting) {
          await delay(random.below(30));
          await server.run("client", "kill", "type", "normal");
        }
      })();
      const producers = Array.from({ length: 8 }, (_, i) => `p${i}`);
      await Promise.all(producers.map((id) => produce(nodes, random, id, 60)));
      isCutting = false;
      await cuts;
      const records = await answered(() => readAll(far, "log"));
      for (const id of producers) {
        const own = records.filter((record) => record.startsWith(`${id} `));
        assertEquals(own, Array.from({ length: 60 }, (_, seq) => `${id} ${seq}`));
      }
      assertEquals(records.length, 8 * 60);
      assert(nodes.some(({ stats }) => stats.interruptions > 0));
    },
  );
}

/** Appends numbers, each through a random node, and retries until Redis confirms the append. */
async function produce(
  nodes: readonly RedisBroker[],
  random: Random,
  id: string,
  count: number,
): Promise<void> {
  for (let seq = 0; seq < count; seq++) {
    const producer = { id, epoch: 0, seq };
    const { kind } = await answered(() => {
      return append(random.pick(nodes).logs, "log", [`${id} ${seq}`], { producer });
    });
    assert(kind === "appended" || kind === "repeated", kind);
  }
}

test(
  "loses no confirmed records when Redis is killed, with appendfsync always",
  async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    await create(broker.logs, "log");
    await create(broker.logs, "ended");
    const count = await writeWhileKilled(server, (seq) => {
      const producer = { id: "p", epoch: 0, seq };
      return broker.logs.append("log", { records: [`${seq}`], producer, maxBytes: PLENTY });
    }, 50);
    const last = { end: { error: "reason" }, cancel: "why" };
    await answered(() => append(broker.logs, "ended", ["last"], last));
    await server.kill();
    await server.restart();
    const whole = await answered(() => broker.logs.read("log", reading()));
    assert(typeof whole === "object");
    assertEquals(whole.records, Array.from({ length: count }, (_, i) => `${i}`));
    assertEquals(whole.info.identity, "identity");
    const page = await broker.logs.read("ended", reading());
    assert(typeof page === "object");
    assertEquals({ records: page.records, end: page.info.end, cancelled: page.info.cancelled }, {
      records: ["last"],
      end: { error: "reason" },
      cancelled: "why",
    });
  },
  { append: "always" },
);

test("gives a log that lost records or its end a new identity", async (server) => {
  await using near = new RedisBroker({ url: server.url });
  await using far = new RedisBroker({ url: server.url });
  const ids = ["shorter", "open", "whole", "unknown"];
  for (const id of ids) await create(near.logs, id, { records: ["kept"] });
  await server.run("save");
  await append(near.logs, "shorter", ["lost", "lost"]);
  await append(near.logs, "open", [], { end: {} });
  const stranger = new RedisBroker({ url: server.url });
  await append(stranger.logs, "unknown", ["lost"]);
  await stranger.close();
  await using hearing = new Hearing(far, logTopic("shorter"));
  await hearing.ready;
  await server.kill();
  await server.restart();
  await hearing.interrupted(1);
  for (const { logs } of [near, far]) await answered(() => logs.overdue({ limit: 1 }));
  // A node that missed everything continues at the end of the shorter log.
  assertEquals((await append(far.logs, "shorter", ["new"])).kind, "appended");
  await hearing.count(1);
  for (const id of ["shorter", "open"]) {
    const late = await append(near.logs, id, ["late"], { identity: "identity" });
    assertEquals(late.kind, "missing", id);
    const pages = await Promise.all([near, far].map(({ logs }) => logs.read(id, reading())));
    const identities = pages.map((page) => typeof page === "object" && page.info.identity);
    assertMatch(`${identities[0]}`, /^[0-9a-z]{8}$/);
    assertEquals([identities[0] === identities[1], identities[0] === "identity"], [true, false]);
  }
  await hearing.count(2);
  assertEquals(await readAll(near, "shorter"), ["kept", "new"]);
  for (const id of ["whole", "unknown"]) {
    const page = await near.logs.read(id, reading());
    assertEquals(typeof page === "object" && page.info.identity, "identity", id);
  }
});

test("keeps a log over a failover, and reports records that the replica lacked", async (server) => {
  await using replica = await RedisServer.start();
  await replica.run("replicaof", "127.0.0.1", `${server.port}`);
  const isSynced = async (one: RedisServer) =>
    (await one.run("info", "replication")).includes("master_link_status:up");
  await until(() => isSynced(replica));
  await using broker = new RedisBroker({ url: server.url });
  for (const id of ["whole", "behind"]) await create(broker.logs, id, { records: ["kept"] });
  const size = await server.run("dbsize");
  await until(async () => await replica.run("dbsize") === size);
  await replica.run("replicaof", "no", "one");
  await append(broker.logs, "behind", ["lost"]);
  // The first server copies the data of the promoted server and becomes the master again.
  await server.run("replicaof", "127.0.0.1", `${replica.port}`);
  await until(() => isSynced(server));
  await server.run("replicaof", "no", "one");
  const send = (id: string) =>
    answered(() => append(broker.logs, id, ["next"], { identity: "identity" }));
  assertEquals([(await send("whole")).kind, (await send("behind")).kind], ["appended", "missing"]);
  assertEquals(await readAll(broker, "whole"), ["kept", "next"]);
  assertEquals(await readAll(broker, "behind"), ["kept"]);
});

test("rejects immediately while Redis is unreachable, and aborts a wait on demand", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log");
  server.freeze();
  const controller = new AbortController();
  const page = logs.read("log", { ...reading(), signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => page, Error, "enough");
  const unanswered = append(logs, "log", ["late"]);
  await assertRejects(() => unanswered, BrokerError, "Cannot append to a log");
  await server.kill();
  await statusIs(broker, "interrupted");
  const calls: readonly (() => Promise<unknown>)[] = [
    () => create(logs, "other"),
    () => append(logs, "log", ["x"]),
    () => logs.read("log", reading()),
    () => logs.delete("log"),
    () => logs.retain("log", "fork", { identity: "identity", maxForks: 1 }),
    () => logs.release("log", "fork"),
    () => logs.overdue({ limit: 1 }),
  ];
  for (const call of calls) await assertRejects(call, BrokerError, "Redis is unreachable");
  await broker.close();
  for (const call of calls) await assertRejects(call, BrokerError, "the broker is closed");
});

test("runs calls of one turn in their order", async ({ url }) => {
  await using broker = new RedisBroker({ url });
  await statusIs(broker, "connected");
  const [, appended] = await Promise.all([
    create(broker.logs, "log"),
    append(broker.logs, "log", ["1"]),
  ]);
  assertEquals(appended.kind, "appended");
});

test("bounds the number and the bytes of waiting calls", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, {
    maxWaiting: 3,
    maxWaitingBytes: 1_000,
  });
  await create(broker.logs, "log");
  await assertRejects(
    () => append(broker.logs, "log", ["x".repeat(1_001)]),
    BrokerError,
    "too many calls wait",
  );
  const results = await Promise.allSettled(
    Array.from({ length: 5 }, (_, i) => append(broker.logs, "log", [`${i}`])),
  );
  assertEquals(results.map(({ status }) => status), [
    ...Array(3).fill("fulfilled"),
    ...Array(2).fill("rejected"),
  ]);
  assertEquals(await readAll(broker, "log"), ["0", "1", "2"]);
});

test("rejects whole appends if Redis is full, while reads and deletions continue", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log", { config: { contentType: "text/plain", ttlMs: 100 }, records: ["a"] });
  await create(logs, "kept", { records: ["b"] });
  await server.run("config", "set", "maxmemory", "1mb");
  for (const call of [() => append(logs, "kept", ["x"]), () => create(logs, "new")]) {
    await assertRejects(call, BrokerError, "raise maxmemory");
  }
  const large = Array.from({ length: 10 }, () => "x".repeat(20_000));
  await assertRejects(() => append(logs, "kept", large), BrokerError, "raise maxmemory");
  // The renewal is also rejected, so the log expires.
  await until(async () => await logs.read("log", { ...reading(), renews: true }) === "expired");
  assertEquals(await logs.delete("log"), { kind: "removed" });
  const page = await logs.read("kept", { ...reading(), renews: true });
  assertEquals(typeof page === "object" && page.records, ["b"]);
  await server.run("config", "set", "maxmemory", "0");
  assertEquals((await append(logs, "kept", large)).kind, "appended");
  assertEquals((await logs.create("new", creation())).kind, "created");
});

test("changes no log without the permission to announce it", async (server) => {
  await server.run("acl", "setuser", "app", "reset", ">one", "on", "~*", "&*", "+@all");
  await using broker = new RedisBroker({ url: server.url.replace("//", "//app:one@") });
  const { logs } = broker;
  await create(logs, "log", { records: ["a"] });
  await server.run("acl", "setuser", "app", "resetchannels");
  const calls = [
    () => append(logs, "log", ["x"]),
    () => create(logs, "other", { records: ["x"] }),
    () => logs.delete("log"),
  ];
  for (const call of calls) await assertRejects(call, BrokerError, "needs the permission");
  assertEquals(await readAll(broker, "log"), ["a"]);
  await server.run("acl", "setuser", "app", "allchannels");
  await append(logs, "log", ["b"]);
  await create(logs, "other", { records: ["c"] });
  assertEquals([await readAll(broker, "log"), await readAll(broker, "other")], [["a", "b"], ["c"]]);
});

test("keeps a log in one slot, without expiry, and leaves no key after its deletion", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { prefix: "app" });
  const { logs } = broker;
  await create(logs, "log", { writer: { holder: "w", ttlMs: 1_000 } });
  const producer = { id: "p", epoch: 0, seq: 0 };
  await append(logs, "log", ["x".repeat(5_000), "y"], { producer });
  await append(logs, "log", ["z"]);
  await logs.retain("log", "fork", { identity: "identity", maxForks: 1 });
  await createKeyed(logs, "keyed");
  await logs.append("keyed", keyedAppend("a", "b"));
  await logs.append("keyed", keyedAppend("-b"));
  const keyed = (await server.run("keys", "*keyed")).split("\n").sort();
  assertEquals(keyed.map((key) => key.replace(/\d+/, "")), [
    "app:log-newest:{logs:}/keyed",
    "app:log-row-due:{logs:}/keyed",
    "app:log-row-gone:{logs:}/keyed",
    "app:log-row-order:{logs:}/keyed",
    "app:log-rows:{logs:}/keyed",
    "app:log-state:{logs:}/keyed",
  ]);
  assertEquals(new Set(keyed.map(slotOf)).size, 1);
  assertEquals((await logs.delete("keyed")).kind, "removed");
  const keys = await server.keys();
  assertEquals(keys.map((key) => key.replace(/\d+/, "")), [
    "app:log-forks:{logs:}/log",
    "app:log-index-stream:{logs:}",
    "app:log-newest:{logs:}/log",
    "app:log-producers:{logs:}/log",
    "app:log-records:{logs:}/log",
    "app:log-state:{logs:}/log",
  ]);
  assertEquals(new Set(keys.map(slotOf)).size, 1);
  for (const key of keys) assertEquals(await server.run("pttl", key), "-1", key);
  assertEquals((await logs.delete("log")).kind, "kept");
  assertEquals(await logs.overdue({ limit: 10 }), []);
  await logs.release("log", "fork");
  assertEquals(await server.keys(), []);
  assertEquals(await logs.read("log", reading()), undefined);
  assertEquals(await server.keys(), []);
});

test("rejects calls on a keyed log that lost rows", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { prefix: "app" });
  const { logs } = broker;
  for (const kind of ["rows", "row-order", "row-gone"]) {
    await createKeyed(logs, "keyed");
    await logs.append("keyed", keyedAppend("a", "b"));
    await logs.append("keyed", keyedAppend("-b"));
    const key = await server.run("keys", `app:log-${kind}:*`);
    await server.run("del", key);
    const calls = [
      () => logs.append("keyed", keyedAppend("a")),
      () => logs.read("keyed", reading()),
    ];
    for (const call of calls) {
      const error = await assertRejects(call, BrokerError);
      assertMatch(error.message, /rows of the log were evicted or deleted/);
    }
    assertEquals((await logs.delete("keyed")).kind, "removed");
  }
});

async function createKeyed(logs: BrokerLogs, id: string): Promise<void> {
  const keyed = { records: 9, ms: 1e12, bytes: PLENTY };
  await create(logs, id, { config: { contentType: "application/json", keyed } });
}

/** Sets rows that expire in a day, or deletes the rows of keys after a minus sign. */
function keyedAppend(...keys: string[]): AppendLogOptions {
  const changes = keys.map((key) =>
    key.startsWith("-")
      ? rowChange({ type: "t", key: key.slice(1), operation: "delete" }, 0)
      : rowChange({ type: "t", key, operation: "upsert", value: "1", ttlMs: 86_400_000 }, 0)
  );
  return { records: [], changes, maxBytes: PLENTY };
}

test("remembers the sequence numbers of a bounded number of producers", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await create(broker.logs, "log");
  const send = (i: number) =>
    append(broker.logs, "log", [], { producer: { id: `p${i}`, epoch: 0, seq: 0 } });
  const all = await Promise.all(Array.from({ length: MAX_LOG_PRODUCERS }, (_, i) => send(i)));
  assertEquals(all.every(({ kind }) => kind === "appended"), true);
  assertEquals((await send(MAX_LOG_PRODUCERS)).kind, "too-many-producers");
  assertEquals((await send(0)).kind, "repeated");
});

test("lets newer producers of a caller take the place of idle ones", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await createKeyed(broker.logs, "keyed");
  const send = async (id: string, seq = 0) => {
    const producer = { id, epoch: 0, seq };
    const options = { ...keyedAppend("a"), producer, caller: { id: "ann", network: "" } };
    return (await broker.logs.append("keyed", options)).kind;
  };
  for (let i = 0; i < CALLER_MARKS; i++) assertEquals(await send(`p${i}`), "appended");
  assertEquals(await send("new"), "too-many-producers");
  const key = (await server.keys()).find((key) => key.includes("log-producers"))!;
  for (const [i, idleMs] of [IDLE_MARK_MS, 2 * IDLE_MARK_MS, IDLE_MARK_MS / 2].entries()) {
    await server.run("hset", key, `p:ann:/p${i}`, `${Date.now() - idleMs}  0 0`);
  }
  assertEquals(await send("new"), "appended");
  assertEquals([await send("p1", 1), await send("p0", 1)], ["skipped", "appended"]);
  // Another one is not idle.
  assertEquals(await send("newer"), "too-many-producers");
});

test("reads a large log in pages from any position", async (server) => {
  // A large append takes a long time on a busy machine; this must not make the connection count as
  // dead.
  await using broker = new RedisBroker({ url: server.url }, { heartbeatMs: 30_000 });
  const { logs } = broker;
  await create(logs, "log");
  const text = (i: number) => `${i}`.padStart(7);
  for (let i = 0; i < 300_000; i += 100_000) {
    await append(logs, "log", Array.from({ length: 100_000 }, (_, n) => text(i + n)));
  }
  await Promise.all(
    Array.from({ length: 5_000 }, (_, i) => append(logs, "log", [text(300_000 + i)])),
  );
  for (const after of [0, 1_023, 1_024, 123_456, 299_999, 300_000, 304_000, 304_999]) {
    const page = await logs.read("log", { ...reading(), after, maxBytes: 700 });
    assert(typeof page === "object");
    const count = Math.min(100, 305_000 - after);
    assertEquals(page.records, Array.from({ length: count }, (_, i) => text(after + i)));
  }
  const large = "x".repeat(logs.maxAppendBytes);
  assertEquals((await append(logs, "log", [large])).kind, "appended");
  const page = await logs.read("log", { ...reading(), after: 305_000, maxBytes: 1 });
  assertEquals(typeof page === "object" && page.records[0] === large, true);
});

test("reports records that Redis has lost", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log", { records: ["x".repeat(5_000)] });
  await append(logs, "log", ["y"]);
  const [newest] = (await server.run("keys", "*log-newest*")).split("\n");
  await server.run("del", newest!);
  assertEquals(await readAll(broker, "log", 1), ["x".repeat(5_000)]);
  await assertRejects(
    () => logs.read("log", { ...reading(), after: 1 }),
    BrokerError,
    "Redis has lost the record at 1",
  );
  await assertRejects(() => append(logs, "log", ["z"]), BrokerError, "were evicted or deleted");
  const [records] = (await server.run("keys", "*log-records*")).split("\n");
  await server.run("del", records!);
  await assertRejects(() => logs.read("log", reading()), BrokerError, "the record at 0");
  // Without its state, the log is missing; a new log with the same id does not adopt its records.
  await create(logs, "other", { records: ["old"], config: { contentType: "a/b", ttlMs: 0 } });
  const [state] = (await server.run("keys", "*log-state*/other")).split("\n");
  await server.run("del", state!);
  assertEquals(await logs.read("other", reading()), undefined);
  assertEquals(await logs.overdue({ limit: 1 }), ["other"]);
  assertEquals((await logs.delete("other", { ifExpired: true })).kind, "missing");
  assertEquals(await logs.overdue({ limit: 1 }), []);
  await create(logs, "other", { records: ["new"] });
  assertEquals(await readAll(broker, "other"), ["new"]);
});

/** The kinds of keys that a log and the index use. */
const KINDS = ["state", "records", "newest", "producers", "forks", "index"] as const;

/**
 * Creates a log with keys of all kinds, and a function that damages the keys like another program
 * would.
 */
async function damaging(server: RedisServer, { logs }: RedisBroker) {
  await create(logs, "log", { config: { contentType: "text/plain", ttlMs: PLENTY } });
  const producer = { id: "p", epoch: 0, seq: 0 };
  await append(logs, "log", ["x".repeat(5_000)], { producer });
  await append(logs, "log", ["y"]);
  await logs.retain("log", "fork", { identity: "identity", maxForks: 1 });
  const keys = await server.keys();
  const keyOf = (kind: string) => keys.find((key) => key.includes(`:log-${kind}:`))!;
  assertEquals(keys.length, KINDS.length);
  return async (line: string) => {
    for (const command of line.split(" | ")) {
      await server.run(
        ...command.split(" ").map((word) => word === "_" ? "" : word).map((word) => {
          return word.startsWith("@") ? keyOf(word.slice(1)) : word;
        }),
      );
    }
  };
}

for (
  const damage of [
    "set @state x",
    "hset @state tail x",
    "hset @state tail 1.5",
    "hset @state size nan",
    "hset @state bytes 1e300",
    "hset @state expiry soon",
    "hset @state config {]",
    "hset @state ended {]",
    "hdel @state config",
    "hdel @state sealed",
  ]
) {
  test(`reports a log with damaged state as missing, and recreates it: ${damage}`, async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    const { logs } = broker;
    const run = await damaging(server, broker);
    await run(damage);
    assertEquals(await logs.read("log", reading()), undefined);
    assertEquals((await append(logs, "log", ["z"])).kind, "missing");
    assertEquals(await logs.retain("log", "g", { identity: "identity", maxForks: 9 }), "missing");
    await create(logs, "log", { identity: "another0", records: ["new"] });
    assertEquals(await readAll(broker, "log"), ["new"]);
    assertEquals((await append(logs, "log", ["next"])).kind, "appended");
    assertEquals(await logs.delete("log"), { kind: "removed" });
    assertEquals(await server.keys(), []);
  });
}

for (
  const [damage, reads, appends] of [
    ["del @records | set @records x", "damaged or lost", "damaged or lost"],
    ["xadd @records 9007199254740991-1 k v", "the record at 1", undefined],
    ["del @records | xadd @records 1-1 r x", "the record at 0", undefined],
    ["del @newest | rpush @newest x", "damaged or lost", "damaged or lost"],
    ["set @newest xxxxx", "the record at 1", undefined],
    ["append @newest more", undefined, "were evicted or deleted"],
    ["del @producers | set @producers x", undefined, "damaged or lost"],
    ["hset @producers /p x", undefined, "damaged or lost"],
  ] as const
) {
  test(`rejects calls that need damaged keys, until the log is deleted: ${damage}`, async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    const { logs } = broker;
    const run = await damaging(server, broker);
    await run(damage);
    const read = () => readAll(broker, "log");
    if (reads === undefined) assertEquals(await read(), ["x".repeat(5_000), "y"]);
    else await assertRejects(read, BrokerError, reads);
    const producer = { id: "p", epoch: 0, seq: 1 };
    const send = () => append(logs, "log", ["z"], { producer });
    if (appends === undefined) assertEquals((await send()).kind, "appended");
    else await assertRejects(send, BrokerError, appends);
    await logs.release("log", "fork");
    assertEquals(await logs.delete("log"), { kind: "removed" });
    await create(logs, "log", { records: ["new"] });
    assertEquals(await readAll(broker, "log"), ["new"]);
  });
}

test("removes the keys of a log without state when it is deleted, not earlier", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  const run = await damaging(server, broker);
  await run("set @state x");
  assertEquals(await logs.delete("log", { ifExpired: true }), { kind: "missing" });
  assertEquals((await server.keys()).length, 5);
  assertEquals(await logs.delete("log"), { kind: "missing" });
  assertEquals(await server.keys(), []);
});

test("removes a deleted log despite damaged forks", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  const run = await damaging(server, broker);
  await run("del @forks | set @forks x");
  assertEquals(await readAll(broker, "log"), ["x".repeat(5_000), "y"]);
  assertEquals(await logs.release("log", "fork"), undefined);
  assertEquals(await logs.delete("log"), { kind: "removed" });
  assertEquals(await server.keys(), []);
});

test("lists the other responses if the state of one is damaged", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  const id = (name: string) => RESPONSE_PREFIX + name;
  for (const name of ["whole", "other-type", "no-json"]) {
    await create(logs, id(name), { config: { contentType: "text/plain", owner: name } });
  }
  const keys = await server.keys();
  const keyOf = (end: string) => keys.find((key) => key.endsWith(end))!;
  await server.run("set", keyOf("other-type"), "x");
  await server.run("hset", keyOf("no-json"), "config", "{]");
  const owners: unknown[] = [];
  let after: string | undefined = "0 0";
  while (after !== undefined) {
    const page: Awaited<ReturnType<BrokerLogs["list"]>> = await logs.list("answer", {
      limit: 100,
      after,
    });
    owners.push(...page.logs.map(({ id, owner }) => [id, owner]));
    after = page.next;
  }
  assertEquals(owners.sort(), [[id("no-json"), undefined], [id("whole"), "whole"]]);
});

test("rebuilds an index that another program damaged, and skips foreign names", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  const run = await damaging(server, broker);
  await run("zadd @index 1 foreign 1 ~[1] 1 ~{ 1 ~1 1 _");
  assertEquals(await logs.overdue({ limit: 10 }), []);
  await run("del @index | set @index x");
  assertEquals((await append(logs, "log", ["z"])).kind, "appended");
  assertEquals((await logs.create("log", creation({ maxLogs: 1 }))).kind, "exists");
  await run("del @index | set @index x");
  assertEquals(await logs.overdue({ limit: 10 }), []);
  await create(logs, "other", { config: { contentType: "text/plain", ttlMs: 0 } });
  assertEquals(await logs.overdue({ limit: 10 }), ["other"]);
  await run("del @index | set @index x");
  await logs.release("log", "fork");
  for (const id of ["log", "other"]) {
    assertEquals(await logs.delete(id), { kind: "removed" });
  }
});

function creation(options: Partial<CreateLogOptions> = {}): CreateLogOptions {
  return {
    config: { contentType: "text/plain" },
    identity: "identity",
    records: [],
    maxLogs: 1_000,
    ...options,
  };
}

async function create(
  logs: BrokerLogs,
  id: string,
  options: Partial<CreateLogOptions> = {},
): Promise<void> {
  const { kind } = await logs.create(id, creation(options));
  assertEquals(kind, "created");
}

function append(
  logs: BrokerLogs,
  id: string,
  records: readonly LogRecord[],
  options: Partial<AppendLogOptions> = {},
): ReturnType<BrokerLogs["append"]> {
  return logs.append(id, { records, maxBytes: PLENTY, ...options });
}

function reading(): Parameters<BrokerLogs["read"]>[1] {
  return { after: 0, maxRecords: 100_000, maxBytes: PLENTY, renews: false };
}

/** Reads all records, or a given number of them, as strings. */
async function readAll(
  { logs }: RedisBroker,
  id: string,
  maxRecords = 100_000,
): Promise<string[]> {
  const page = await logs.read(id, { ...reading(), maxRecords });
  assert(typeof page === "object");
  return page.records as string[];
}
