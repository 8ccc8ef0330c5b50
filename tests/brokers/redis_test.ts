/**
 * Tests the Redis broker on one server: the suite for every broker, and tests specific to Redis.
 */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { Redis } from "ioredis";
import { Buffer } from "node:buffer";
import { BrokerError } from "../../errors.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import { RedisBroker, type RedisBrokerOptions } from "../../brokers/redis/mod.ts";
import {
  answered,
  append,
  BOUNDS,
  clockOff,
  Hearing,
  noTimers,
  recover,
  statusIs,
  untagged,
} from "./receiving.ts";
import { isRedisMissing, RedisServer, type RedisServerOptions } from "./redis_server.ts";
import { until } from "../waiting.ts";

const ignore = isRedisMissing;

/**
 * With these options, no connection counts as dead and no publication is dropped, even on a busy
 * machine.
 */
const PATIENT: RedisBrokerOptions = { heartbeatMs: 30_000, giveUpMs: 120_000 };

const PAGE = { bounds: BOUNDS, maxMessages: 100, maxBytes: 100_000 };

let shared: RedisServer;

Deno.test.beforeAll(async () => {
  if (!ignore) shared = await RedisServer.start();
});

Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

for (const suite of [testBroker, testBrokerLogs]) {
  suite("RedisBroker", () => new RedisBroker({ url: shared.url }), {
    makePair: () => [
      new RedisBroker({ url: shared.url }),
      // Leases and expiry follow the store's clock, whatever a node's clock says.
      new RedisBroker({ url: shared.url }, { runtime: clockOff(20_000) }),
    ],
    teardown: noTimers,
    ignore,
  });
}

/** Registers a test that has its own server. */
function test(
  name: string,
  fn: (server: RedisServer) => Promise<void>,
  options: RedisServerOptions = {},
): void {
  Deno.test({
    name: `RedisBroker ${name}`,
    ignore,
    async fn() {
      await using server = await RedisServer.start(options);
      await fn(server);
      await noTimers();
    },
  });
}

test("leaves a given client unchanged", async ({ url }) => {
  const client = new Redis(url);
  const broker = new RedisBroker({ client });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  broker.publish({ topic: "news", payload: "1" });
  await hearing.count(1);
  await broker.close();
  assertEquals([client.status, await client.ping()], ["ready", "PONG"]);
  await client.quit();
});

test("ignores brokers with another prefix", async ({ url }) => {
  await using one = new RedisBroker({ url }, { prefix: "one" });
  await using other = new RedisBroker({ url }, { prefix: "other" });
  await using heard = new Hearing(one, "news");
  await using elsewhere = new Hearing(other, "news");
  await heard.ready;
  await elsewhere.ready;
  one.publish({ topic: "news", payload: "one" });
  other.publish({ topic: "news", payload: "other" });
  await heard.count(1);
  await elsewhere.count(1);
  assertEquals([heard.payloads, elsewhere.payloads], [["one"], ["other"]]);
  await append(one, "news", 3);
  const page = { bounds: BOUNDS, maxMessages: 10, maxBytes: 1_000 };
  assertEquals((await other.history.read("news", page)).head, 0);
  assertEquals(await one.store.advance("row", 1, 60_000), true);
  assertEquals(await other.store.newest("row", 60_000), -1);
});

test("sends many subscriptions in few commands", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const all = Array.from({ length: 5_000 }, (_, i) => broker.subscribe(`topic ${i}`, () => {}));
  await Promise.all(all.map(({ ready }) => ready));
  await Promise.all(all.map((each) => each[Symbol.asyncDispose]()));
  await until(async () => (await server.run("pubsub", "channels")) === "");
  const stats = await server.run("info", "commandstats");
  const calls = [...stats.matchAll(/cmdstat_(?:un)?subscribe:calls=(\d+)/g)].map(([, n]) =>
    Number(n)
  );
  assertEquals(calls, [5, 5]);
});

test("keeps no more in Redis than its bounds, and no key permanently", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const bounds = { size: 50, ttlMs: 60_000, bytes: 1_000_000 };
  await append(broker, "chat", 500, { bounds });
  assertEquals(await server.run("xlen", "skein:stream:{/chat}"), "50");
  const page = await broker.history.read("chat", { bounds, maxMessages: 100, maxBytes: 100_000 });
  assertEquals(page.publications.map(({ payload }) => payload), numbers(450, 500));
  assertEquals(page.head, page.publications.at(-1)!.position!.offset);
  await broker.store.advance("row", 1, 60_000);
  await broker.store.claim("user", "session", { max: 1, ttlMs: 60_000 });
  await broker.store.take!("bucket", 1, { perSecond: 1, burst: 5 });
  const keys = await server.keys();
  assertEquals(keys.length, 6);
  for (const key of keys) assert(Number(await server.run("pttl", key)) > 0, key);
});

test("reads a history many times larger than a page", async ({ url }) => {
  await using broker = new RedisBroker({ url });
  await append(broker, "chat", 1_100);
  const seen: unknown[] = [];
  let pages = 0;
  for (let after = 0, head = 1; after < head; pages++) {
    const page = await broker.history.read("chat", {
      bounds: BOUNDS,
      after,
      maxMessages: 100,
      maxBytes: 100_000,
    });
    for (const { payload, position } of page.publications) {
      assertEquals(position!.prev, after);
      after = position!.offset;
      seen.push(payload);
    }
    head = page.head;
  }
  assertEquals([pages, seen], [11, numbers(0, 1_100)]);
});

test("reports a read while Redis is unreachable, and stops reading on demand", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await append(broker, "chat", 1);
  const page = { bounds: BOUNDS, maxMessages: 1, maxBytes: 1_000 };
  server.freeze();
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => broker.history.read("chat", { ...page, signal }), Error, "enough");
  const controller = new AbortController();
  const reading = broker.history.read("chat", { ...page, signal: controller.signal });
  controller.abort(new Error("too late"));
  await assertRejects(() => reading, Error, "too late");
  server.thaw();
  await server.kill();
  await statusIs(broker, "interrupted");
  await assertRejects(() => broker.history.read("chat", page), BrokerError);
  await assertRejects(() => broker.store.newest("row", 60_000), BrokerError);
});

for (const append of ["no", "everysec", "always"] as const) {
  test(
    `continues in order and starts a new epoch when Redis is killed (append-only file: ${append})`,
    (server) => survivesKill(server),
    { append },
  );
}

async function survivesKill(server: RedisServer): Promise<void> {
  await using near = new RedisBroker({ url: server.url }, PATIENT);
  await using far = new RedisBroker({ url: server.url }, PATIENT);
  await using plain = new Hearing(far, "plain");
  await using kept = new Hearing(far, "kept", BOUNDS);
  await plain.ready;
  await kept.ready;

  const appends: Promise<unknown>[] = [];
  let sent = 0;
  const timer = setInterval(() => {
    // The new process may take a long time to start. In the meantime, the queue stays within its
    // bounds.
    if (near.stats.waiting > 1_000) return;
    for (let i = 0; i < 5; i++, sent++) {
      const payload = `${sent}`;
      near.publish({ topic: "plain", payload });
      appends.push(near.history.append({ topic: "kept", payload }, { bounds: BOUNDS }));
    }
  }, 2);
  await kept.count(200);
  await server.kill();
  await until(() => near.stats.waiting > 100);
  await server.restart();
  await kept.interrupted(1);
  await plain.interrupted(1);
  await kept.until(() => kept.publications.at(-1)?.position?.epoch !== kept.epochs[0]);
  await kept.count(kept.publications.length + 200);
  clearInterval(timer);
  await Promise.all(appends);
  near.publish({ topic: "plain", payload: "end" });
  await plain.until(() => plain.payloads.at(-1) === "end");

  assertEquals(kept.epochs.length, 2);
  const isInOrder = (payloads: readonly unknown[]) =>
    payloads.every((payload, i) => i === 0 || Number(payload) > Number(payloads[i - 1]));
  assert(isInOrder(plain.payloads.filter((payload) => payload !== "end")));
  for (const epoch of kept.epochs) {
    const own = kept.publications.filter(({ position }) => position!.epoch === epoch);
    assert(isInOrder(own.map(({ payload }) => payload)));
    const [first, ...rest] = own.map(({ position }) => position!);
    // The first publication of an epoch has no predecessor, even if its offset is not 1. This
    // subscription may also have missed an earlier publication.
    assert([0, first!.offset - 1].includes(first!.prev));
    assert(rest.every(({ offset, prev }) => offset === prev + 1));
  }
  await statusIs(near, "connected");
  await statusIs(far, "connected");
  const page = await far.history.read("kept", {
    bounds: BOUNDS,
    maxMessages: 5_000,
    maxBytes: 1_000_000,
  });
  assertEquals(page.epoch, kept.epochs[1]);
  assertEquals(page.publications.at(-1)?.payload, `${sent - 1}`);
  assertEquals(near.stats.dropped < 200, true, `${near.stats.dropped} were dropped`);
  assertEquals([near.stats.waiting, near.stats.interruptions], [0, 1]);
}

test("delivers repeated publications once, in order, when its connections are cut", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await using hearing = new Hearing(broker, "chat", BOUNDS);
  await hearing.ready;
  const cuts = (async () => {
    for (let i = 0; i < 20; i++) await server.run("client", "kill", "type", "normal");
  })();
  const appends: Promise<unknown>[] = [];
  let isCutting = true;
  cuts.then(() => isCutting = false);
  while (isCutting) {
    for (let i = 0; i < 20; i++) {
      const payload = `${appends.length}`;
      appends.push(broker.history.append({ topic: "chat", payload }, { bounds: BOUNDS }));
    }
    await delay(1);
  }
  const total = (await Promise.all(appends)).length;
  const bounds = { ...BOUNDS, size: total };
  const all = { bounds, maxMessages: total, maxBytes: 1e9 };
  const page = await answered(() => broker.history.read("chat", all));
  const [first] = page.publications;
  assertEquals([page.publications.length, page.head], [total, first!.position!.offset + total - 1]);
  await hearing.count(total);
  assertEquals(hearing.payloads, numbers(0, total));
  assert(broker.stats.interruptions > 0);
});

test("drops a publication that waits too long, reports the failure, and recovers", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { giveUpMs: 500 });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  await server.kill();
  await statusIs(broker, "interrupted");
  broker.publish({ topic: "news", payload: "lost" });
  await assertRejects(
    () => broker.history.append({ topic: "kept", payload: "lost" }, { bounds: BOUNDS }),
    BrokerError,
    "did not acknowledge the publication",
  );
  assertEquals([broker.stats.dropped, broker.stats.waiting], [2, 0]);
  assertEquals(broker.issues().length, 1);
  await server.restart();
  await hearing.interrupted(1);
  await statusIs(broker, "connected");
  broker.publish({ topic: "news", payload: "found" });
  await hearing.count(1);
  assertEquals(hearing.payloads, ["found"]);
  assertEquals(broker.issues(), []);
});

test("rejects the newest publication if too many wait", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { maxWaiting: 3 });
  const [before] = await append(broker, "chat", 1);
  await server.kill();
  await statusIs(broker, "interrupted");
  const kept = range(3).map((i) =>
    broker.history.append({ topic: "chat", payload: `kept ${i}` }, { bounds: BOUNDS })
  );
  broker.publish({ topic: "news", payload: "rejected" });
  await assertRejects(
    () => broker.history.append({ topic: "chat", payload: "rejected" }, { bounds: BOUNDS }),
    BrokerError,
    "too many",
  );
  assertEquals([broker.stats.waiting, broker.stats.dropped], [3, 2]);
  assertEquals(broker.issues().length, 2);
  await server.restart();
  const places = (await Promise.all(kept)).map((one) => untagged(one).position!);
  const [{ epoch, offset }] = places as [HistoryPosition];
  assertNotEquals(epoch, before!.position!.epoch);
  assertEquals(places, range(3).map((i) => ({ epoch, offset: offset + i })));
});

test("detects that Redis is connected but silent", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, { heartbeatMs: 200 });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  server.freeze();
  await statusIs(broker, "interrupted");
  const appended = broker.history.append({ topic: "kept", payload: "1" }, { bounds: BOUNDS });
  server.thaw();
  assert((await appended).position!.offset > 0);
  await hearing.interrupted(1);
  await statusIs(broker, "connected");
});

test("reports a subscription that Redis closed because it was too slow", async (server) => {
  await server.run("config", "set", "client-output-buffer-limit", "pubsub 1mb 0 0");
  await using broker = new RedisBroker({ url: server.url });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  // The command reads no socket, and waiting for its exit does not run the event loop.
  const script = "for i = 1, 3000 do redis.call('PUBLISH', ARGV[1], string.rep('x', 10000)) end";
  new Deno.Command("redis-cli", {
    args: ["-p", `${server.port}`, "eval", script, "0", "skein:pub:{/news}"],
  }).outputSync();
  await hearing.interrupted(1);
  broker.publish({ topic: "news", payload: "after" });
  await hearing.until(() => hearing.payloads.at(-1) === "after");
});

test("delivers publications from a busy time in several turns", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  let inTurn = 0;
  let most = 0;
  let count = 0;
  const all = Promise.withResolvers<void>();
  await using subscription = broker.subscribe("news", () => {
    if (inTurn++ === 0) setImmediate(() => inTurn = 0);
    most = Math.max(most, inTurn);
    if (++count === 5_000) all.resolve();
  });
  await subscription.ready;
  const script = `local text = string.rep('x', 100)
    local frame = struct.pack('>I4BH', 3 + #text, 0, 0) .. text
    for i = 1, 5000 do redis.call('PUBLISH', ARGV[1], frame) end`;
  // The command reads no socket, and waiting for its exit does not run the event loop.
  new Deno.Command("redis-cli", {
    args: ["-p", `${server.port}`, "eval", script, "0", "skein:pub:{/news}"],
  }).outputSync();
  await all.promise;
  assert(most < 512, `${most} in one turn`);
});

test("waits while Redis allows no writes, and continues after that", async (server) => {
  await using master = await RedisServer.start();
  await using broker = new RedisBroker({ url: server.url });
  const [before] = await append(broker, "chat", 1);
  await server.run("replicaof", "127.0.0.1", `${master.port}`);
  const appended = broker.history.append({ topic: "chat", payload: "1" }, { bounds: BOUNDS });
  await statusIs(broker, "interrupted");
  await server.run("replicaof", "no", "one");
  // The first server copies the data of its master, which is empty.
  assertNotEquals((await appended).position!.epoch, before!.position!.epoch);
  await statusIs(broker, "connected");
});

test("waits while Redis is full", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const [before] = await append(broker, "chat", 1);
  await server.run("config", "set", "maxmemory", "1mb");
  const appended = broker.history.append({ topic: "chat", payload: "1" }, { bounds: BOUNDS });
  await statusIs(broker, "interrupted");
  assertEquals(broker.issues()[0]!.includes("OOM"), true);
  await server.run("config", "set", "maxmemory", "0");
  const { epoch, offset } = before!.position!;
  assertEquals(untagged(await appended).position, { epoch, offset: offset + 1 });
});

test("fails immediately if Redis rejects permanently", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await append(broker, "other", 1);
  await server.run("acl", "setuser", "default", "-xadd");
  await assertRejects(
    () => broker.history.append({ topic: "chat", payload: "1" }, { bounds: BOUNDS }),
    BrokerError,
    "rejected",
  );
  assertEquals(broker.status.current.name, "connected");
});

test("starts a new epoch when an older snapshot is restored", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await append(broker, "chat", 5);
  await server.run("save");
  const [last] = (await append(broker, "chat", 5)).slice(-1);
  const page = { bounds: BOUNDS, after: 0, maxMessages: 100, maxBytes: 100_000 };
  const before = await broker.history.read("chat", page);
  assertEquals(last!.position, { epoch: before.epoch, offset: before.head });
  await server.kill();
  await server.restart();
  await statusIs(broker, "connected");
  assertEquals(await server.run("hget", "skein:meta:{/chat}", "head"), `${before.head - 5}`);
  const after = await broker.history.read("chat", page);
  assertEquals([after.head, after.publications], [0, []]);
  assertNotEquals(after.epoch, before.epoch);
});

const SURVIVES: RedisBrokerOptions = { survivesRestart: true };

test(
  "keeps its epoch when Redis restarts if its operator declares that no data is lost",
  async (server) => {
    await using near = new RedisBroker({ url: server.url }, SURVIVES);
    await using far = new RedisBroker({ url: server.url }, SURVIVES);
    await using hearing = new Hearing(far, "chat", BOUNDS);
    await hearing.ready;
    const appends: Promise<unknown>[] = [];
    for (let i = 0; i < 3; i++) {
      const under = range(500).map((n) =>
        near.history.append({ topic: "chat", payload: `${500 * i + n}` }, { bounds: BOUNDS })
      );
      appends.push(...under);
      await under[0];
      // The other batches are in flight.
      await server.kill();
      await server.restart();
      await hearing.interrupted(i + 1);
    }
    await Promise.all(appends);
    await statusIs(far, "connected");
    const page = { bounds: BOUNDS, after: 0, maxMessages: 2_000, maxBytes: 1_000_000 };
    const { head, publications, epoch } = await far.history.read("chat", page);
    assertEquals(publications.map(({ payload }) => payload), numbers(0, 1_500));
    assertEquals([head, hearing.epochs], [publications.at(-1)!.position!.offset, [epoch]]);
  },
  { append: "always" },
);

test("detects lost data anyway if a node knows of the loss", async (server) => {
  await using broker = new RedisBroker({ url: server.url }, SURVIVES);
  await using hearing = new Hearing(broker, "chat", BOUNDS);
  await using other = new RedisBroker({ url: server.url }, SURVIVES);
  await hearing.ready;
  const saved = await append(broker, "chat", 5);
  await server.run("save");
  await append(broker, "chat", 5);
  await hearing.count(10);
  const { epoch, offset } = saved.at(-1)!.position!;
  await server.kill();
  await server.restart();
  await hearing.interrupted(1);
  // This node does not know an earlier offset, so it continues after the remaining data.
  const [appended] = await append(other, "chat", 1);
  assertEquals(appended!.position, { epoch, offset: offset + 1 });
  await hearing.interrupted(2);
  await statusIs(broker, "connected");
  const page = { bounds: BOUNDS, maxMessages: 10, maxBytes: 1_000 };
  const read = await broker.history.read("chat", page);
  assertNotEquals(read.epoch, epoch);
  assertEquals(read.head, 0);
});

test(
  "starts a new epoch after a restart during which other nodes may have continued",
  async (server) => {
    await using replica = await RedisServer.start();
    await replica.run("replicaof", "127.0.0.1", `${server.port}`);
    await until(async () => (await server.run("info", "replication")).includes("state=online"));
    await using broker = new RedisBroker({ url: server.url }, SURVIVES);
    const [before] = await append(broker, "chat", 1);
    await server.run("wait", "1", "5000");
    await replica.run("replicaof", "no", "one");
    await using promoted = new RedisBroker({ url: replica.url }, SURVIVES);
    const [after] = await append(promoted, "chat", 1);
    assertNotEquals(after!.position!.epoch, before!.position!.epoch);
  },
  { append: "always" },
);

test("warns of an eviction policy that may delete histories", async (server) => {
  await server.run("config", "set", "maxmemory-policy", "allkeys-lru");
  await using unbounded = new RedisBroker({ url: server.url });
  await append(unbounded, "chat", 1);
  assertEquals(unbounded.issues(), []);
  await server.run("config", "set", "maxmemory", "100mb");
  await using broker = new RedisBroker({ url: server.url });
  await until(() => broker.issues().some((issue) => issue.includes("allkeys-lru")));
});

test("ignores and counts foreign publications", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await using plain = new Hearing(broker, "news");
  await using kept = new Hearing(broker, "chat", BOUNDS);
  await Promise.all([plain.ready, kept.ready]);
  const noise = ["", "noise", "x 1\n", "x 0.5\nnoise", "\0\0\0\0", "\xff\xff\xff\xff\0\xff\xff"];
  const client = new Redis(server.url);
  for (const one of noise) {
    const bytes = Buffer.from(one, "latin1");
    await client.publish("skein:pub:{/news}", bytes);
    await client.publish("skein:log:{/chat}", bytes);
  }
  broker.publish({ topic: "news", payload: "after" });
  await append(broker, "chat", 1);
  await Promise.all([plain.count(1), kept.count(1)]);
  assertEquals([plain.payloads, kept.payloads], [["after"], ["0"]]);
  assertEquals(broker.stats.ignored, 2 * noise.length);
  assertEquals(broker.issues().length, 1);
  await client.quit();
});

test("starts a new epoch when a replica takes over, and when the first server returns", async (server) => {
  await using replica = await RedisServer.start();
  await replica.run("replicaof", "127.0.0.1", `${server.port}`);
  await until(async () => (await server.run("info", "replication")).includes("state=online"));
  await using broker = new RedisBroker({ url: server.url });
  await append(broker, "chat", 3);
  await server.run("wait", "1", "5000");
  const page = { bounds: BOUNDS, maxMessages: 100, maxBytes: 100_000 };
  const first = await broker.history.read("chat", page);
  const [fourth] = await append(broker, "chat", 1);
  assertEquals(fourth!.position, { epoch: first.epoch, offset: first.head + 1 });
  await replica.run("replicaof", "no", "one");
  await using other = new RedisBroker({ url: replica.url });
  await until(() => other.status.current.name === "connected");
  // The topic has not changed on the replica. What was published on the first server in the
  // meantime is lost.
  await server.run("replicaof", "127.0.0.1", `${replica.port}`);
  await until(async () => (await replica.run("info", "replication")).includes("state=online"));
  await server.run("replicaof", "no", "one");
  await statusIs(broker, "connected");
  const third = await broker.history.read("chat", page);
  const second = await other.history.read("chat", page);
  assertEquals(new Set([first.epoch, second.epoch, third.epoch]).size, 3);
  assertEquals([second.head, third.head], [0, 0]);
});

test("starts a new epoch when Redis evicted the stream", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const [before] = await append(broker, "chat", 1);
  await server.run("del", "skein:stream:{/chat}");
  const [after] = await append(broker, "chat", 1);
  assertNotEquals(after!.position!.epoch, before!.position!.epoch);
  assertEquals(after!.position!.offset, 1);
});

test("reuses no offset when Redis evicted the hash, and reports the gap", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  for (let i = 0; i < 3; i++) {
    const before = (await append(broker, "chat", 5)).map(({ position }) => position!);
    await server.run("del", "skein:meta:{/chat}");
    const [after] = await append(broker, "chat", 1);
    assert(after!.position!.offset > before.at(-1)!.offset);
    for (const { epoch, offset } of before) {
      const page = await broker.history.read("chat", { ...PAGE, after: offset });
      // The next publications are missing, and the page shows the gap.
      assert(page.epoch !== epoch || page.publications[0]!.position!.prev > offset);
    }
  }
});

const META = "skein:meta:{/chat}";
const STREAM = "skein:stream:{/chat}";

/** Commands with which another program damages the keys of a history of five publications. */
const DAMAGES: Readonly<Record<string, (newest: string) => readonly (readonly string[])[]>> = {
  "a hash of another type": () => [["set", META, "x"]],
  "a stream of another type": () => [["set", STREAM, "x"]],
  "both keys of another type": () => [["set", META, "x"], ["set", STREAM, "x"]],
  "a head that is not a number": () => [["hset", META, "head", "x"]],
  "an impossible head": () => [["hset", META, "head", "1e300"]],
  "an invalid byte count": () => [["hset", META, "bytes", "nan"]],
  "a lost field": () => [["hdel", META, "oldest"]],
  "an epoch with a space": () => [["hset", META, "epoch", "a b"]],
  "a lost hash and a stream with a later entry": () => [
    ["del", META],
    ["xadd", STREAM, "9007199254740991-1", "f", "x"],
  ],
  "a further entry": () => [["xadd", STREAM, "9007199254740991-1", "key", "value"]],
  "a further entry that was removed": () => [
    ["xadd", STREAM, "9007199254740991-1", "key", "value"],
    ["xdel", STREAM, "9007199254740991-1"],
  ],
  "entries without frames": (newest) => [
    ["del", STREAM],
    ...[4, 3, 2, 1, 0].map((back) => {
      return ["xadd", STREAM, `${BigInt(newest) - BigInt(back)}-9007199254740991`, "k", '{"a":1}'];
    }),
  ],
  "an entry at the wrong position": (newest) => [
    ["xdel", STREAM, `${BigInt(newest) - 1n}`],
    ["xadd", STREAM, `${BigInt(newest) + 1n}-1`, "f", "x"],
  ],
};

for (const [damage, commands] of Object.entries(DAMAGES)) {
  for (const first of ["publishing", "reading"]) {
    test(`starts a new epoch when ${first} after another program left ${damage}`, async (server) => {
      await using near = new RedisBroker({ url: server.url });
      await using far = new RedisBroker({ url: server.url });
      const [since] = (await append(near, "chat", 5)).slice(-1).map(({ position }) => position!);
      for (const command of commands(`${since!.offset}`)) await server.run(...command);
      await using hearing = new Hearing(far, "chat", BOUNDS);
      await hearing.ready;
      if (first === "reading") await recover(far, "chat", since!);
      const publish = (payload: string) => append(near, "chat", 1, { payloadOf: () => payload });
      for (const payload of ["a", "b"]) await publish(payload);
      assertEquals((await recover(far, "chat", since!)).recovered, false);
      const [epoch] = (await publish("c")).map(({ position }) => position!.epoch);
      const page = await far.history.read("chat", PAGE);
      assertEquals(page.publications.map(({ payload }) => payload).slice(-1), ["c"]);
      assertEquals([page.epoch, near.stats.dropped], [epoch!, 0]);
      await hearing.count(3);
      assertEquals(hearing.payloads, ["a", "b", "c"]);
    });
  }
}

test("treats shared facts that another program damaged as absent", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const { store } = broker;
  for (const value of ["x", "1e300", undefined]) {
    const key = `${value}`;
    if (value === undefined) await server.run("rpush", `skein:row:{/${key}}`, "x");
    else await server.run("set", `skein:row:{/${key}}`, value);
    assertEquals([await store.newest(key, 60_000), await store.advance(key, 1, 60_000)], [
      -1,
      true,
    ]);
    assertEquals([await store.newest(key, 60_000), await store.advance(key, 1, 60_000)], [
      1,
      false,
    ]);
    // The sequence numbers of producers are stored under separate keys.
    const producer = `skein:producer:{/chat}${key}`;
    if (value === undefined) await server.run("rpush", producer, "x");
    else await server.run("set", producer, value);
    const options = { bounds: BOUNDS, key: { producer: key, number: 1 } };
    const { position } = await broker.history.append({ topic: "chat", payload: "1" }, options);
    assertEquals(typeof position?.offset, "number", value);
  }
  await server.run("set", "skein:keys:{/chat}", "x");
  for (const expected of [true, false]) {
    // A damaged history starts over, and does not take the key for a repetition.
    if (expected) {
      await server.run("del", "skein:stream:{/chat}");
      await server.run("set", "skein:stream:{/chat}", "x");
    }
    const options = { bounds: BOUNDS, key: "order-7" };
    const { position } = await broker.history.append({ topic: "chat", payload: "1" }, options);
    assertEquals(position !== undefined, expected);
  }
  await server.run("set", "skein:claims:{/scope}", "x");
  assertEquals(await store.claims("scope"), []);
  assertEquals(await store.claim("scope", "session", { max: 1, ttlMs: 60_000 }), true);
  assertEquals(await store.claims("scope"), ["session"]);
  const rate = { perSecond: 1, burst: 5 };
  const tokens = "skein:tokens:{/bucket}";
  for (
    const command of [
      ["set", tokens, "x"],
      ["hset", tokens, "tokens", "nan", "at", "nan"],
      ["hset", tokens, "tokens", "-1e300", "at", "1e300"],
      ["hset", tokens, "tokens", "x", "at", "x"],
    ]
  ) {
    await server.run("del", tokens);
    await server.run(...command);
    assertEquals((await store.take!("bucket", 5, rate)).granted, true, command.join(" "));
    assertEquals((await store.take!("bucket", 5, rate)).granted, false);
  }
});

test("starts a new epoch when Redis evicted data that a node knows", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await using hearing = new Hearing(broker, "chat", BOUNDS);
  await hearing.ready;
  const [before] = await append(broker, "chat", 5);
  await hearing.count(5);
  await server.run("del", "skein:meta:{/chat}");
  const page = await broker.history.read("chat", PAGE);
  assertNotEquals(page.epoch, before!.position!.epoch);
  const [after] = await append(broker, "chat", 1);
  assertEquals(after!.position, { epoch: page.epoch, offset: 1 });
});

test("writes no key when reading topics without a publication", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const read = (name: string) => broker.history.read(name, PAGE);
  const { head, epoch } = await read("room:0");
  await Promise.all(range(2_000).map((i) => read(`room:${i}`)));
  // When each read wrote a hash that lived for a day, there were 2,000 keys here.
  assertEquals({ keys: await server.keys(), head }, { keys: [], head: 0 });
  // A reader that subscribed before the first publication has a position before it.
  const [first] = await append(broker, "room:0", 3);
  const page = await broker.history.read("room:0", { ...PAGE, after: 0 });
  assertEquals(page.publications.map(({ payload }) => payload), numbers(0, 3));
  const { tag, ...place } = page.publications[0]!.position!;
  assertEquals([place, typeof tag], [{ ...first!.position!, prev: 0 }, "string"]);
  assertEquals(page.epoch, epoch);
  assertEquals((await server.keys()).length, 3);
});

test("never reports a client as recovered if its publication was rewritten", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const payload = '{"topic":"chat","data":"the same"}';
  await append(broker, "chat", 20, { payloadOf: () => payload });
  const client = new Redis(server.url);
  const key = "skein:stream:{/chat}";
  for (let i = 0; i < 20; i++) {
    const { publications } = await broker.history.read("chat", PAGE);
    const since = publications[i]!.position!;
    // Simulates a failover that cannot be detected: the same offsets and data, but another
    // publication.
    const entries = await client.xrangeBuffer(key, "-", "+");
    await client.del(key);
    for (const [at, [id, [, frame]]] of entries.entries()) {
      // The tag precedes the data.
      if (at === i) frame!.write("other-", frame!.length - payload.length - 6, "latin1");
      await client.xadd(key, id, "f", frame!);
    }
    await using node = new RedisBroker({ url: server.url });
    const { recovered, reason } = await recover(node, "chat", since);
    assertEquals([recovered, reason], [false, "new-epoch"], `publication ${i}`);
    const { tag: _tag, ...untagged } = since;
    assertEquals((await recover(node, "chat", untagged)).recovered, true);
    const kept = (await node.history.read("chat", PAGE)).publications[i]!;
    assertEquals([kept.payload, kept.position!.tag], [payload, "other-"]);
    assertEquals((await recover(node, "chat", kept.position!)).recovered, true);
  }
  await client.quit();
});

test("reports the first publication without a gap, or with a gap if Redis evicts keys", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  await using heard = new Hearing(broker, "chat", BOUNDS);
  await heard.ready;
  await append(broker, "chat", 2);
  await heard.count(2);
  const [first, second] = heard.publications.map(({ position }) => position!);
  assertEquals([first!.prev, second!.prev], [0, first!.offset]);
  await server.run("config", "set", "maxmemory-policy", "allkeys-random");
  await server.run("set", "other", "x");
  await server.run("config", "set", "maxmemory", "1");
  await until(async () => !(await server.run("info", "stats")).includes("evicted_keys:0"));
  await server.run("config", "set", "maxmemory", "0");
  const [position] = (await append(broker, "new", 1)).map(({ position }) => position!);
  const page = await broker.history.read("new", { ...PAGE, after: 0 });
  assertEquals(page.publications[0]!.position!.prev, position!.offset - 1);
});

test("keeps its epoch when all of its data has expired", async (server) => {
  await using broker = new RedisBroker({ url: server.url });
  const bounds = { ...BOUNDS, ttlMs: 50 };
  const [before] = await append(broker, "chat", 1, { bounds });
  await until(async () => await server.run("exists", "skein:stream:{/chat}") === "0");
  const page = await broker.history.read("chat", { bounds, maxMessages: 1, maxBytes: 1_000 });
  const { epoch, offset } = before!.position!;
  assertEquals(page, { epoch, head: offset, publications: [] });
  const [after] = await append(broker, "chat", 1, { bounds });
  assertEquals(after!.position, { epoch, offset: offset + 1 });
});

test("leaves no call waiting when it closes while Redis is unreachable", async (server) => {
  await server.kill();
  const broker = new RedisBroker({ url: server.url });
  broker.publish({ topic: "news", payload: "1" });
  const { ready } = broker.subscribe("news", () => {});
  const appended = broker.history.append({ topic: "chat", payload: "1" }, { bounds: BOUNDS });
  const rejected = assertRejects(() => appended, BrokerError, "closed");
  await assertRejects(() => broker.store.newest("row", 60_000), BrokerError, "unreachable");
  assertEquals(broker.status.current.name, "interrupted");
  await broker.close();
  await rejected;
  await ready;
  assertEquals(broker.stats.dropped, 2);
});

test("sends publications made right before its close", async ({ url }) => {
  await using far = new RedisBroker({ url });
  await using hearing = new Hearing(far, "news");
  await hearing.ready;
  const near = new RedisBroker({ url });
  await statusIs(near, "connected");
  near.publish({ topic: "news", payload: "farewell" });
  const statuses = Array.fromAsync(near.status, ({ name }) => name);
  await near.close();
  await hearing.count(1);
  assertEquals(hearing.payloads, ["farewell"]);
  assertEquals([await statuses, near.stats.interruptions], [["connected", "closed"], 0]);
});

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

function numbers(from: number, to: number): string[] {
  return range(to - from).map((i) => `${from + i}`);
}
