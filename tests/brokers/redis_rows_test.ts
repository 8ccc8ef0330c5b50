/**
 * Tests keyed logs of the Redis broker, in addition to the suite for every broker: killed
 * processes, a full Redis, large transactions, and lost or damaged keys.
 */
import { writeWhileKilled } from "./killed_server.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { BrokerError } from "../../errors.ts";
import { type Change, rowChange } from "../../streams/logs/change_message.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  LogAppended,
  LogPage,
  LogTail,
  ReadLogOptions,
} from "../../streams/logs/log.ts";
import { until } from "../waiting.ts";
import { noTimers } from "./receiving.ts";
import { isRedisMissing, RedisServer, type RedisServerOptions } from "./redis_server.ts";

const ignore = isRedisMissing;

const PLENTY = 1_000_000_000;

const HOUR_MS = 3_600_000;

const TAIL: LogTail = { records: 1_000, ms: HOUR_MS, bytes: PLENTY };

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

test(
  "keeps transactions whole when Redis is killed, with appendfsync always",
  async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    const { logs } = broker;
    await create(logs, "log");
    const confirmed = await writeWhileKilled(server, (seq) => {
      const producer = { id: "p", epoch: 0, seq };
      // One row changes, one is new, and one is gone.
      const changes = [set("a", seq), set(`n${seq}`, seq), remove(`n${seq - 3}`)];
      return change(logs, "log", changes, { producer });
    }, 30);
    const rows = shown(await read(logs, "log")).sort();
    const tail = await read(logs, "log", { tail: true });
    assertEquals(tail.info.tail, confirmed);
    const replayed = new Map<string, unknown>();
    for (const record of tail.records) {
      for (const { key, value } of JSON.parse(String(record))) {
        replayed.delete(key);
        replayed.set(key, value);
      }
    }
    assertEquals(rows, [...replayed].sort());
    assertEquals(tail.info.rows?.count, 4);
  },
  { append: "always" },
);

test("rejects whole transactions if Redis is full, while reads continue", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log");
  await change(logs, "log", [set("a", 1), { ...set("b", 1), ttlMs: 0 }, set("c", 1)]);
  await server.run("config", "set", "maxmemory", "1mb");
  const calls: readonly (() => Promise<unknown>)[] = [
    () => change(logs, "log", [set("a", 2), set("d", 1)]),
    () => change(logs, "log", [set("a", "x".repeat(20_000))]),
    () => change(logs, "log", [remove("a")]),
    () => change(logs, "log", [], { expiresRows: true }),
  ];
  for (const call of calls) await assertRejects(call, BrokerError, "raise maxmemory");
  const page = await read(logs, "log");
  assertEquals(shown(page), [["a", 1], ["b", 1], ["c", 1]]);
  assertEquals([page.info.tail, page.info.rows?.count], [1, 3]);
  await server.run("config", "set", "maxmemory", "0");
  for (const call of calls) assertEquals((await call() as LogAppended).kind, "appended");
  await server.run("config", "set", "maxmemory", "1mb");
  assertEquals(await logs.delete("log"), { kind: "removed" });
  assertEquals(await server.keys(), []);
});

test("changes and expires thousands of rows in one call", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { heartbeatMs: 30_000 });
  const { logs } = broker;
  await create(logs, "log");
  const count = 12_000;
  const all = Array.from({ length: count }, (_, i) => ({ ...set(`${i}`, i), ttlMs: i % 10 }));
  assertEquals((await change(logs, "log", all)).kind, "appended");
  const half = all.slice(0, count / 2).map(({ key }) => remove(key));
  const rowBounds = { rows: count, deletions: 10, deletionMs: HOUR_MS };
  assertEquals((await change(logs, "log", half, { rowBounds })).kind, "appended");
  const page = await read(logs, "log", { maxBytes: 1_000 });
  assertEquals(page.records.length, count / 2);
  assertEquals([page.next, page.info.rows?.deletions, page.info.rows?.count], [
    ...[1, count / 2, count / 2],
  ]);
  await change(logs, "log", [], { rowBounds });
  assertEquals((await read(logs, "log")).info.rows?.deletions, 10);
  await until(async () => {
    await change(logs, "log", [], { expiresRows: true, rowBounds });
    return (await read(logs, "log")).info.rows?.count === 0;
  });
  const { info } = await read(logs, "log", { maxRecords: 1 });
  assertEquals(info.tail >= 2 + count / 2_000, true);
  assertEquals(await logs.overdue({ limit: 1 }), []);
});

test("sends concurrent changes of a log together, of which one may fail alone", async (server) => {
  // A heartbeat runs a script, and so would count as a call.
  await using broker = new RedisBroker({ url: server.url }, { heartbeatMs: 600_000 });
  const { logs } = broker;
  for (const log of ["log", "other"]) await create(logs, log);
  await change(logs, "log", [set("damaged", 0)]);
  const key = (await server.keys()).find((key) => key.includes(":log-rows:"))!;
  await server.run("hset", key, '["t","damaged"]', "x");
  const calls = async () => {
    const stats = await server.run("info", "commandstats");
    return [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)]
      .reduce((sum, [, count]) => sum + Number(count), 0);
  };
  const before = await calls();
  const results = await Promise.allSettled(Array.from({ length: 100 }, (_, i) => {
    if (i === 20) return change(logs, "log", [{ ...set("0", i), expect: 99 }]);
    if (i === 30) return change(logs, "log", [set("damaged", i)]);
    // A part of the second call.
    const value = i < 90 ? i : "x".repeat(50_000);
    return change(logs, i === 40 ? "other" : "log", [set(`${i % 10}`, value)]);
  }));
  // The first change, 64 more, those that fit into 262,144 bytes, and the others; and that of "other".
  assertEquals(await calls() - before, 5);
  const tails = results.map((one) => one.status === "rejected" ? one.reason.message : one.value);
  let tail = 1;
  for (const [i, result] of tails.entries()) {
    if (i === 20) {
      assertEquals([result.kind, result.row, result.version], ["conflict", '["t","0"]', 12]);
    } else if (i === 30) {
      assertMatch(result, /^Cannot append to a log: keys of the log in Redis are/);
    } else {
      const expected = i === 40 ? 1 : ++tail;
      assertEquals([result.kind, result.info.tail], ["appended", expected], `${i}`);
    }
  }
  const { records } = await read(logs, "log", { tail: true });
  const values = records.map((record) => JSON.parse(String(record))[0].value);
  const expected = results.flatMap((_, i) => [20, 30, 40].includes(i) ? [] : i);
  assertEquals(values.slice(1, 88), expected.slice(0, 87));
  assertEquals(values.length, 98);
});

test("sends changes that wait before it closes", async (server) => {
  const broker = new RedisBroker({ url: server.url });
  await create(broker.logs, "log");
  const changes = Array.from({ length: 9 }, (_, i) => change(broker.logs, "log", [set("a", i)]));
  await new Promise((resolve) => setTimeout(resolve));
  await broker.close();
  const kinds = (await Promise.all(changes)).map(({ kind }) => kind);
  assertEquals(kinds, Array(9).fill("appended"));
});

test("reads a bounded number of rows for a page", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log");
  for (let i = 0; i < 600; i++) await change(logs, "log", [set(`${i}`, "x".repeat(1_000))]);
  const gets = async () => {
    const [, calls = "0"] = /cmdstat_hget:calls=(\d+)/.exec(
      await server.run("info", "commandstats"),
    )!;
    return Number(calls);
  };
  const before = await gets();
  const page = await read(logs, "log", { after: 100, maxBytes: 20_000 });
  assertEquals(await gets() - before, page.records.length + 1);
  assertEquals([page.next, page.records.length > 10], [100 + page.records.length, true]);
  const rest = await read(logs, "log", { after: page.next! });
  assertEquals([rest.next, rest.records.length], [600, 500 - page.records.length]);
});

test("replaces lone surrogates in changes, as in records", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { logs } = broker;
  await create(logs, "log");
  const value = '"\ud800"';
  await change(logs, "log", [{ type: "t", key: "\ud800", operation: "upsert", value }]);
  assertEquals(shown(await read(logs, "log")), [["\ud800", "\ufffd"]]);
});

/** Creates a keyed log, and a function that damages its keys like another program would. */
async function damaging(server: RedisServer, { logs }: RedisBroker) {
  await create(logs, "log");
  await change(logs, "log", [set("a", 1), { ...set("b", 1), ttlMs: HOUR_MS }, set("c", 1)]);
  await change(logs, "log", [remove("a")]);
  const keys = await server.keys();
  const keyOf = (kind: string) => keys.find((key) => key.includes(`:log-${kind}:`))!;
  return async (...words: string[]) => {
    await server.run(...words.map((word) => {
      return word.startsWith("@") ? keyOf(word.slice(1)) : word;
    }));
  };
}

for (
  const damage of [
    ["hset", "@state", "rowCount", "x"],
    ["hset", "@state", "rowBytes", "1e300"],
    ["hset", "@state", "rowForgotten", "0.5"],
    ["hset", "@state", "rowDue", "nan"],
    ["hset", "@state", "rowDeletedAt", "soon"],
    ["hdel", "@state", "rowCount"],
    ["hset", "@state", "config", "5"],
    ["hset", "@state", "config", '{"keyed":true}'],
    ["hset", "@state", "config", '{"keyed":{"records":"x","ms":1,"bytes":1}}'],
  ]
) {
  test(`reports a keyed log with damaged state as missing: ${damage.join(" ")}`, async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    const { logs } = broker;
    const run = await damaging(server, broker);
    await run(...damage);
    assertEquals(await logs.read("log", reading()), undefined);
    assertEquals((await change(logs, "log", [set("a", 2)])).kind, "missing");
    await create(logs, "log");
    assertEquals(shown(await read(logs, "log")), []);
    await change(logs, "log", [set("a", 2)]);
    assertEquals(shown(await read(logs, "log")), [["a", 2]]);
    assertEquals(await logs.delete("log"), { kind: "removed" });
    assertEquals(await server.keys(), []);
  });
}

for (
  const [damage, reads, changes] of [
    [["del", "@rows"], "were evicted or deleted", "were evicted or deleted"],
    [["del", "@row-order"], "were evicted or deleted", "were evicted or deleted"],
    [["del", "@row-gone"], "were evicted or deleted", "were evicted or deleted"],
    [["set", "@row-due", "x"], "damaged or lost", "damaged or lost"],
    [["set", "@rows", "x"], "damaged or lost", "damaged or lost"],
    [["hset", "@rows", '["t","b"]', "x"], "damaged or lost", "damaged or lost"],
    [
      ["hset", "@rows", '["t","d"]', "0 - - x"],
      "were evicted or deleted",
      "were evicted or deleted",
    ],
    [["hset", "@state", "rowCount", "3"], "were evicted or deleted", "were evicted or deleted"],
    [["zadd", "@row-due", "1", "x"], undefined, "damaged or lost"],
  ] as const
) {
  test(`rejects calls that need damaged rows, until the log is deleted: ${damage.join(" ")}`, async (server) => {
    await using broker = new RedisBroker({ url: server.url });
    const { logs } = broker;
    const run = await damaging(server, broker);
    await run(...damage);
    if (reads === undefined) assertEquals((await read(logs, "log")).records.length, 3);
    else await assertRejects(() => read(logs, "log"), BrokerError, reads);
    const size = await server.run("dbsize");
    const send = () => change(logs, "log", [set("b", 2)], { expiresRows: true });
    await assertRejects(send, BrokerError, changes);
    assertEquals((await read(logs, "log", { tail: true })).records.length, 2);
    assertEquals(await server.run("dbsize"), size);
    assertEquals(await logs.delete("log"), { kind: "removed" });
    assertEquals(await server.keys(), []);
    await create(logs, "log");
    assertEquals(shown(await read(logs, "log")), []);
  });
}

async function create(logs: BrokerLogs, id: string): Promise<void> {
  const config = { contentType: "application/json", keyed: TAIL };
  const options = { config, identity: "identity", records: [], maxLogs: 1_000 };
  assertEquals((await logs.create(id, options)).kind, "created");
}

function set(key: string, value: unknown): Change {
  return { type: "t", key, operation: "upsert", value: JSON.stringify(value) };
}

function remove(key: string): Change {
  return { type: "t", key, operation: "delete" };
}

async function change(
  logs: BrokerLogs,
  id: string,
  changes: readonly Change[],
  options: Partial<AppendLogOptions> = {},
): Promise<LogAppended> {
  return await logs.append(id, {
    records: [],
    changes: changes.map((one) => rowChange(one, 0)),
    maxBytes: PLENTY,
    rowBounds: { rows: PLENTY, deletions: PLENTY, deletionMs: HOUR_MS },
    ...options,
  });
}

function reading(): ReadLogOptions {
  return { after: 0, maxRecords: 100_000, maxBytes: PLENTY, renews: false };
}

async function read(
  logs: BrokerLogs,
  id: string,
  options: Partial<ReadLogOptions> = {},
): Promise<LogPage> {
  const page = await logs.read(id, { ...reading(), ...options });
  assert(typeof page === "object");
  return page;
}

/** Returns the key and the value of each row of a page; the value of a deleted row is absent. */
function shown({ records }: LogPage): [key: string, value: unknown][] {
  return records.map((record) => {
    const { key, value } = JSON.parse(String(record));
    return [key, value];
  });
}
