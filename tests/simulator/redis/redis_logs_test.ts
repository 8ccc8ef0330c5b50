import { assert, assertEquals } from "@std/assert";
import { RedisBroker } from "../../../brokers/redis/mod.ts";
import { deletionOf, rowChange, rowCheck } from "../../../streams/logs/change_message.ts";
import { HIDDEN_PREFIX, rowName } from "../../../session/wire/rows.ts";
import type { BrokerLogs, LogPage } from "../../../streams/logs/log.ts";
import { MemoryBroker } from "../../../pubsub/mod.ts";
import { Random } from "../../random.ts";
import { installGlobals } from "../globals.ts";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import { SimulatedRedis } from "./redis.ts";
import { logsOf } from "../../../streams/logs/logs_of.ts";
import { slowTest } from "../../../tools/run_tests/slow.ts";

/** Calls of one sequence. */
const CALLS = 400;

/** Time between two calls, in milliseconds; each deadline is half of it away from the calls. */
const STEP_MS = 1_000;

/** Time to live of a log, and of a lease, in milliseconds. */
const TTL_MS = 8.5 * STEP_MS;

const IDS = ["a", "b"] as const;
const FORKS = ["x", "y", "z"] as const;
const ENDS = [{}, { error: "broken", code: "failed" }] as const;

/** A collection whose rows readers receive by name alone. */
const HIDDEN = `${HIDDEN_PREFIX}:t`;

const HIDDEN_ROWS = Array.from({ length: 8 }, (_, i) => rowName(HIDDEN, `${i}`));

/** A tail that keeps all transactions of a test. */
const LONG_TAIL = { records: 1_000, ms: 1_000_000, bytes: 1_000_000 };

/** A result without undefined members. */
function plain(result: unknown): unknown {
  return result === undefined ? undefined : JSON.parse(JSON.stringify(result));
}

type Call = (logs: BrokerLogs) => Promise<unknown>;

/** Uses an option in one of several calls. */
function perhaps<T extends object>(random: Random, option: T, oneIn = 4): T | object {
  return random.below(oneIn) === 0 ? option : {};
}

/** A call, determined by the random numbers. */
function randomCall(random: Random): Call {
  const id = random.pick(IDS);
  const identity = random.pick(["identity", "another0"]);
  const holder = random.pick(["one", "two"]);
  const records = Array.from({ length: random.below(4) }, () => "x".repeat(random.below(40)));
  const fork = random.pick(FORKS);
  const kinds: readonly (() => Call)[] = [
    () => {
      const config = { contentType: "text/plain", ...perhaps(random, { ttlMs: TTL_MS }) };
      const writer = perhaps(random, { writer: { holder, ttlMs: TTL_MS } });
      const end = perhaps(random, { end: {} }, 20);
      const options = { config, identity, records, maxLogs: 2, ...writer, ...end };
      return (logs) => logs.create(id, options);
    },
    () => {
      const flag = random.pick([{}, {}, { takes: true as const }, { releases: true as const }]);
      const producer = {
        id: random.pick(["p", "q"]),
        epoch: random.below(2),
        seq: random.below(3),
      };
      const options = {
        records,
        maxBytes: 800,
        ...perhaps(random, { identity }, 8),
        ...perhaps(random, { end: random.pick(ENDS) }, 20),
        ...perhaps(random, { producer }, 2),
        ...perhaps(random, { sequence: `${random.below(20)}` }),
        ...perhaps(random, { writer: { holder, ttlMs: TTL_MS, ...flag } }),
        ...perhaps(random, { ifWriterLost: true as const }, 12),
        ...perhaps(random, { cancel: holder }),
        ...perhaps(random, { keep: { records: 5, bytes: 1_000 } }),
      };
      return (logs) => logs.append(id, options);
    },
    () => {
      const ifExpired = random.below(2) === 0;
      return (logs) => logs.delete(id, { ifExpired });
    },
    () => (logs) => logs.retain(id, fork, { identity, maxForks: 2 }),
    () => (logs) => logs.release(id, fork),
  ];
  // Logs live for some appends before they are deleted.
  return random.pick([0, 1, 1, 1, 1, 1, 1, 2, 3, 4].map((kind) => kinds[kind]!))();
}

/**
 * A call on keyed logs. At most one row is deleted at once where the order of deletions matters,
 * because it is undefined within a transaction: in the log without a bound, rows also expire.
 */
function randomTransaction(random: Random): Call {
  const id = random.pick(IDS);
  const isBounded = id === IDS[0];
  if (random.below(40) === 0) return (logs) => logs.delete(id, { ifExpired: false });
  if (random.below(8) === 0) {
    const keyed = { records: random.pick([1, 4]), ms: random.pick([0, TTL_MS]), bytes: 4_000 };
    const config = {
      contentType: "application/json",
      keyed,
      ...perhaps(random, { ttlMs: TTL_MS }),
    };
    const writer = perhaps(random, { writer: { holder: "one", ttlMs: TTL_MS } });
    const options = { config, identity: "identity", records: [], maxLogs: 2, ...writer };
    return (logs) => logs.create(id, options);
  }
  if (random.below(2) === 0) {
    const bounds = {
      maxRecords: random.pick([0, 1, 3, 100]),
      maxBytes: random.pick([1, 500, 9_999]),
    };
    const tail = random.below(3) === 0 ? true as const : undefined;
    const options = {
      ...bounds,
      after: random.below(30),
      tail,
      renews: random.below(4) === 0,
      ...perhaps(random, { rows: HIDDEN_ROWS, tail: undefined }, 3),
    };
    return async (logs) => ordered(await logs.read(id, options));
  }
  const deleted = random.below(4);
  const changes = Array.from({ length: random.below(4) }, (_, i) => {
    const key = `${random.below(8)}`;
    const type = random.below(4) === 0 ? HIDDEN : "t";
    const operation = i === deleted
      ? "delete"
      : random.pick(["upsert", "upsert", "update"] as const);
    // Different rows expire at different times.
    const ttl = isBounded ? {} : perhaps(random, {
      ttlMs: 2.5 * STEP_MS + 20 * Number(key) + random.below(3) * STEP_MS,
    });
    const value = `${random.below(1_000)}`;
    const since = perhaps(random, { since: random.below(80) });
    if (i > 0 && random.below(8) === 0) {
      const expect = perhaps(random, { expect: random.pick([0, 0, random.below(80)]) });
      return rowCheck({ type, key, ...expect, ...since });
    }
    return rowChange({ type, key, operation, value, ...ttl, ...since }, 0);
  });
  const rowBounds = {
    rows: random.pick([4, 100]),
    deletions: isBounded ? random.pick([1, 3]) : 100,
    deletionMs: random.pick([3.5, 9.5, 1_000.5]) * STEP_MS,
  };
  const options = {
    records: [],
    changes,
    ...perhaps(random, { changes: undefined, expiresRows: true as const }, 8),
    rowBounds,
    maxBytes: isBounded ? random.pick([600, 1_000, 9_999]) : 9_999,
    ...perhaps(random, { expiresRows: true as const }),
    ...perhaps(random, { ifTail: random.below(40) }, 12),
    ...perhaps(random, { keep: { records: 2, bytes: 10 } }, 12),
    ...perhaps(random, { end: {} }, 60),
    ...perhaps(random, {
      caller: { id: random.pick(["ann", "eve", ""]), network: random.pick(["one", "two", ""]) },
    }, 2),
    ...perhaps(random, {
      producer: {
        // Often one more producer than a caller may have.
        id: random.pick(["p", "q", `${random.below(400)}`]),
        epoch: random.below(2),
        seq: random.pick([0, 0, 0, 1, 2]),
      },
    }, 2),
    ...perhaps(random, { sequence: `${random.below(20)} "é` }),
  };
  return (logs) => logs.append(id, options);
}

/**
 * A page with the rows of each transaction in the same order, and without times, because the
 * contract does not define them.
 */
function ordered(page: LogPage | "expired" | undefined): unknown {
  if (typeof page !== "object") return { kind: page };
  const { positions = [], expiries = [], records, ...rest } = page;
  const texts = records.map((record, i) => {
    const text = String(record).replace(/"timestamp":"[^"]*"/g, "");
    const expiry = expiries[i] ? "expires" : "";
    return `${`${positions[i] ?? i}`.padStart(9)} ${text} ${expiry}`;
  });
  return { kind: "page", ...rest, texts: texts.sort() };
}

slowTest("RedisBroker decides log changes as MemoryBroker does, for random calls", async () => {
  const seen = await compare(randomCall);
  const kinds =
    "created exists expired too-many appended repeated missing deleted ended stale unstarted " +
    "skipped out-of-sequence fenced held full removed kept alive retained";
  assertEquals(kinds.split(" ").filter((kind) => !seen.has(kind)), []);
  assert(seen.size >= 20);
});

slowTest("RedisBroker decides transactions as MemoryBroker does, for random calls", async () => {
  const seen = await compare(randomTransaction);
  const kinds =
    "created exists expired appended missing conflict moved too-many-rows full removed page " +
    "repeated stale unstarted skipped out-of-sequence ended";
  assertEquals(kinds.split(" ").filter((kind) => !seen.has(kind)), []);
});

/** Makes the same random calls on both brokers. Returns the kinds of results. */
async function compare(callOf: (random: Random) => Call): Promise<ReadonlySet<string>> {
  const seen = new Set<string>();
  for (let seed = 1; seed <= 8; seed++) {
    const simulation = new Simulation({ seed });
    const network = new SimulatedNetwork(simulation);
    const redis = await SimulatedRedis.create({
      simulation,
      network,
      hosts: [simulation.host("redis")],
    });
    using _globals = installGlobals(simulation);
    const host = simulation.host("node");
    const { runtime } = host;
    const memory = new MemoryBroker({ runtime });
    const broker = new RedisBroker({ client: redis.client(host) }, { runtime });
    const random = new Random(seed);
    for (let i = 0; i < CALLS; i++) {
      const call = callOf(random);
      const results: unknown[] = [];
      simulation.after(0, () => {
        for (const [j, logs] of [logsOf(memory), broker.logs].entries()) {
          void call(logs!).then((result) => results[j] = plain(result));
        }
      });
      await simulation.run(STEP_MS * (random.below(20) === 0 ? 10 : 1));
      assertEquals(results[1], results[0], `seed ${seed}, call ${i}`);
      seen.add(typeof results[0] === "string" ? results[0] : `${Object(results[0]).kind}`);
    }
  }
  return seen;
}

Deno.test("RedisBroker deletes expired rows with the time of Redis, not of the node", async () => {
  const dates = [
    ..."1970-03-01T00:00:00.007Z 1999-12-31T23:59:59.999Z 2000-02-29T12:00:00.000Z".split(" "),
    ..."2026-11-27T01:02:03.045Z 2028-02-29T00:00:00.000Z 2028-03-01T00:00:00.000Z".split(" "),
    ..."2099-12-31T23:59:59.000Z 2100-02-28T23:00:00.000Z 2100-03-01T00:00:00.000Z".split(" "),
  ];
  for (const date of dates) {
    const simulation = new Simulation({ seed: 1 });
    const network = new SimulatedNetwork(simulation, { delayMs: 0.1, jitterMs: 0 });
    const server = simulation.host("redis");
    const redis = await SimulatedRedis.create({ simulation, network, hosts: [server] });
    using _globals = installGlobals(simulation);
    const host = simulation.host("node");
    const broker = new RedisBroker({ client: redis.client(host) }, { runtime: host.runtime });
    await simulation.run(STEP_MS);
    const { logs } = broker;
    const [type, key] = ['q"\\', '"],"\u2028\ud800\\'];
    const config = { contentType: "application/json", keyed: LONG_TAIL };
    const created = logs.create("a", { config, identity: "identity", records: [], maxLogs: 1 });
    // The row has expired by every clock.
    const change = { type, key, operation: "upsert", value: "1", ttlMs: -1e13 } as const;
    const options = { records: [], maxBytes: 10_000 };
    const set = logs.append("a", { ...options, changes: [rowChange(change, 0)] });
    await simulation.run(STEP_MS);
    server.jumpClock(Date.parse(date) - server.runtime.now());
    const expired = logs.append("a", { ...options, expiresRows: true });
    await simulation.run(10);
    const reading = logs.read("a", { after: 0, maxRecords: 9, maxBytes: 9_999, renews: false });
    await simulation.run(10);
    const [, , { kind }, page] = await Promise.all([created, set, expired, reading]);
    assertEquals(kind, "appended");
    assert(typeof page === "object");
    const [text] = page.records as string[];
    const { headers: { timestamp } } = JSON.parse(text!);
    assertEquals(text, deletionOf(rowName(type, key), Date.parse(timestamp)).text.join("delete"));
    const lateMs = Date.parse(timestamp) - Date.parse(date);
    assert(lateMs >= 0 && lateMs <= 2, `${timestamp} for ${date}`);
    const closed = broker.close();
    await simulation.run(STEP_MS);
    await closed;
  }
});
