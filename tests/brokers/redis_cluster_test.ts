/**
 * Tests the Redis broker on a cluster: the suite for every broker, and the loss of a node.
 */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Cluster } from "ioredis";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { slotOf } from "../../brokers/redis/format.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { answered, append, BOUNDS, Hearing, noTimers, statusIs } from "./receiving.ts";
import { isRedisMissing, RedisCluster } from "./redis_server.ts";
import { until } from "../waiting.ts";

const ignore = isRedisMissing;

let shared: RedisCluster;
let client: Cluster | undefined;

Deno.test.beforeAll(async () => {
  if (!ignore) shared = await RedisCluster.start();
});

Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

/**
 * Creates a broker that borrows the options of a client. The client must live as long as the
 * broker.
 */
function makeBroker(cluster: RedisCluster = shared): RedisBroker {
  client ??= new Cluster(cluster.startupNodes, { lazyConnect: true });
  return new RedisBroker({ client });
}

async function endClient(): Promise<void> {
  client?.disconnect();
  client = undefined;
  await noTimers();
}

/** Registers a test that closes its brokers before the check for leaks. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name: `RedisBroker on a cluster ${name}`,
    ignore,
    async fn() {
      try {
        await fn();
      } finally {
        await endClient();
      }
    },
  });
}

for (const suite of [testBroker, testBrokerLogs]) {
  suite("RedisBroker on a cluster", () => makeBroker(), {
    makePair: () => [makeBroker(), makeBroker()],
    teardown: endClient,
    skipSlow: true,
    ignore,
  });
}

test("subscribes to each channel in its own shard", async () => {
  await using broker = makeBroker();
  const topics = Array.from({ length: 30 }, (_, i) => `topic ${i}`);
  const all = topics.map((topic) => new Hearing(broker, topic));
  await Promise.all(all.map(({ ready }) => ready));
  const channels = async (kind: string) => {
    const lists = await Promise.all(shared.nodes.map((node) => node.run("pubsub", kind)));
    return lists.map((list) => list.split("\n").filter((line) => line !== "").length);
  };
  const sharded = await channels("shardchannels");
  assertEquals(sharded.reduce((sum, count) => sum + count), topics.length);
  assertEquals(sharded.filter((count) => count > 0).length, 3);
  assertEquals(await channels("channels"), [0, 0, 0]);
  for (const topic of topics) broker.publish({ topic, payload: topic });
  for (const hearing of all) await hearing.count(1);
  assertEquals(all.flatMap(({ payloads }) => payloads), topics);
});

test("continues in a new epoch when a master is lost", async () => {
  await using cluster = await RedisCluster.start({ replicas: 1 });
  await using near = makeBroker(cluster);
  await using far = makeBroker(cluster);
  await using plain = new Hearing(far, "chat");
  await using kept = new Hearing(far, "chat", BOUNDS);
  await plain.ready;
  await kept.ready;
  await append(near, "chat", 10);
  await kept.count(10);

  const slot = await cluster.nodes[0]!.run("cluster", "keyslot", "skein:meta:{/chat}");
  const port = await cluster.masterOf(Number(slot));
  await cluster.nodes.find((node) => node.port === port)!.kill();
  const appended = append(near, "chat", 10);
  await statusIs(far, "interrupted");
  const [first] = await appended;
  assertNotEquals(first!.position!.epoch, kept.epochs[0]);
  await kept.interrupted(1);
  await plain.interrupted(1);
  const page = { bounds: BOUNDS, maxMessages: 100, maxBytes: 100_000 };
  const { head } = await answered(() => far.history.read("chat", page));
  assertEquals(head, first!.position!.offset + 9);

  near.publish({ topic: "chat", payload: "after" });
  await plain.until(() => plain.payloads.at(-1) === "after");
  const [last] = await append(near, "chat", 1);
  await kept.until(() => kept.publications.at(-1)?.position?.offset === last!.position!.offset);
  await until(() => far.status.current.name === "connected");
});

test("follows a slot that moves to another node", async () => {
  await using near = makeBroker();
  await using far = makeBroker();
  await using hearing = new Hearing(far, "moving", BOUNDS);
  await hearing.ready;
  const [before] = await append(near, "moving", 1);
  await hearing.count(1);

  const slot = Number(await shared.nodes[0]!.run("cluster", "keyslot", "skein:meta:{/moving}"));
  await shared.moveSlot(slot);
  const [after] = await append(near, "moving", 1);
  assertNotEquals(after!.position!.epoch, before!.position!.epoch);
  await hearing.interrupted(1);
  const [last] = await append(near, "moving", 1);
  await hearing.until(() => {
    return hearing.publications.at(-1)?.position?.offset === last!.position!.offset;
  });
});

test("interrupts no other topic when a topic's slot moved before the subscription", async () => {
  await using broker = makeBroker();
  const slot = (topic: string) => slotOf(`{/${topic}}`);
  const masterOf = (topic: string) => shared.masterOf(slot(topic));
  const beside = "beside";
  const master = await masterOf(beside);
  let moved = "0";
  for (let i = 1; await masterOf(moved) !== master; i++) moved = `${i}`;
  await using stays = new Hearing(broker, beside);
  await stays.ready;
  await shared.moveSlot(slot(moved));
  await using comes = new Hearing(broker, moved);
  await comes.ready;
  for (const topic of [beside, moved]) broker.publish({ topic, payload: topic });
  await Promise.all([stays.count(1), comes.count(1)]);
  assertEquals(broker.stats.interruptions, 0);
});

test("distributes logs over all masters, and counts all of them", async () => {
  await using cluster = await RedisCluster.start();
  await using near = makeBroker(cluster);
  await using far = makeBroker(cluster);
  const ids = Array.from({ length: 40 }, (_, i) => `log ${i}`);
  const create = (broker: RedisBroker, id: string, maxLogs: number) => {
    const config = { contentType: "text/plain", ttlMs: 1 };
    return broker.logs.create(id, { config, identity: "identity", records: [id], maxLogs });
  };
  for (const [i, id] of ids.entries()) {
    assertEquals((await create(i % 2 === 0 ? near : far, id, 40)).kind, "created");
  }
  assertEquals((await create(near, "beyond", 40)).kind, "too-many");
  const keys = () => Promise.all(cluster.nodes.map((node) => node.keys()));
  for (const names of await keys()) assert(names.length > 0);
  await until(async () => (await far.logs.overdue({ limit: 100 })).length === 40);
  assertEquals((await far.logs.overdue({ limit: 100 })).sort(), ids.toSorted());
  assertEquals((await far.logs.overdue({ limit: 7 })).length, 7);
  for (const id of ids) assertEquals((await near.logs.delete(id)).kind, "removed");
  assertEquals(await keys(), [[], [], []]);
});

test("keeps the records of a log whose slot moves to another node", async () => {
  await using broker = makeBroker();
  const options = { identity: "identity", records: ["a"], maxLogs: 1_000_000 };
  await broker.logs.create("moving", { config: { contentType: "text/plain" }, ...options });
  const lists = await Promise.all(
    shared.nodes.map((node) => node.run("keys", "*log-state*/moving")),
  );
  const state = lists.find((list) => list !== "")!;
  const slot = Number(await shared.nodes[0]!.run("cluster", "keyslot", state));
  await shared.moveSlot(slot);
  const appended = await broker.logs.append("moving", { records: ["b"], maxBytes: 1_000 });
  assertEquals(appended.kind, "appended");
  const reading = { after: 0, maxRecords: 10, maxBytes: 1_000, renews: false };
  const page = await broker.logs.read("moving", reading);
  assertEquals(typeof page === "object" && page.records, ["a", "b"]);
});
