import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import type { SimulatedRedisClient } from "./client.ts";
import type { RedisLoss } from "./effects.ts";
import { SimulatedRedis, type SimulatedRedisOptions } from "./redis.ts";

/** A Redis, and a program with a client. */
interface Stage {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly redis: SimulatedRedis;
  readonly client: SimulatedRedisClient;
  readonly losses: RedisLoss[];
  /** Sends a command, and advances time until the reply arrives. */
  run(...command: [name: string, ...args: string[]]): Promise<unknown>;
}

async function stage(
  { replicas = 0, ...options }:
    & Omit<Partial<SimulatedRedisOptions>, "simulation" | "network" | "hosts">
    & { readonly replicas?: number } = {},
): Promise<Stage> {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const hosts = Array.from({ length: 1 + replicas }, (_, i) => simulation.host(`redis${i}`));
  const losses: RedisLoss[] = [];
  const redis = await SimulatedRedis.create({
    simulation,
    network,
    hosts: [hosts[0]!, ...hosts.slice(1)],
    onLost: (loss) => losses.push(loss),
    ...options,
  });
  const client = redis.client(simulation.host("program")) as SimulatedRedisClient;
  client.on("error", () => {});
  const run = async (...[name, ...args]: [name: string, ...args: string[]]) => {
    const reply = client.call(name, ...args);
    reply.catch(() => {});
    await simulation.run(100);
    return await reply;
  };
  return { simulation, network, redis, client, losses, run };
}

for (
  const [persistence, power, left] of [
    ["none", false, []],
    ["snapshot", false, ["old"]],
    ["snapshot", true, ["old"]],
    ["everysec", false, ["old", "newer", "newest"]],
    ["everysec", true, ["old", "newer"]],
    ["always", true, ["old", "newer", "newest"]],
  ] as const
) {
  const how = power ? "a loss of power" : "a kill";
  Deno.test(`SimulatedRedis keeps ${left.length} of 3 writes with ${persistence} after ${how}`, async () => {
    const { simulation, redis, client, run, losses } = await stage({
      persistence,
      snapshotMs: 5_000,
    });
    await run("SET", "old", "1");
    await simulation.run(6_000);
    await run("SET", "newer", "1");
    await simulation.run(1_500);
    await run("SET", "newest", "1");
    redis.primary.host.kill({ power });
    await simulation.run(500);
    redis.restart();
    // The client was not notified of the power loss.
    client.disconnect(true);
    assertEquals(redis.primary.keys, left);
    const lost = ["old", "newer", "newest"].slice(left.length);
    const { nowMs } = simulation;
    assertEquals<unknown>(
      losses.map(({ keys, writes, why }) => ({ keys, writes, why })),
      [
        { keys: lost, writes: lost.length, why: "restart" },
      ].filter(() => lost.length > 0),
    );
    assert(losses.every(({ fromMs, toMs }) => fromMs > 0 && fromMs <= toMs && toMs < nowMs));
    // The next loss does not count these writes again.
    losses.length = 0;
    await simulation.run(15_000);
    await run("SET", "after", "1");
    redis.primary.host.kill({ power: true });
    redis.restart();
    assertEquals(losses.length, persistence === "always" ? 0 : 1);
    for (const { writes, keys } of losses) assertEquals([writes, keys], [1, ["after"]]);
  });
}

Deno.test("SimulatedRedis renames its history at a restart and a failover", async () => {
  const { simulation, redis, run } = await stage({ replicas: 1 });
  const ids = async () => {
    const info = `${await run("INFO", "replication")}`;
    return [/master_replid:(\w+)/.exec(info)![1]!, /master_replid2:(\w+)/.exec(info)![1]!];
  };
  await simulation.run(5_000);
  const [first] = await ids();
  assertMatch(`${await run("INFO", "replication")}`, /connected_slaves:1/);
  redis.failOver();
  await simulation.run(5_000);
  const [second, before] = await ids();
  assertEquals(before, first);
  assert(second !== first);
  redis.primary.host.kill();
  redis.restart();
  await simulation.run(15_000);
  const [third, none] = await ids();
  assertEquals(none, "0".repeat(40));
  assert(third !== second);
});

Deno.test("SimulatedRedis.failOver() loses the writes that reached no replica, and reports them", async () => {
  const { simulation, redis, run, losses } = await stage({ replicas: 2 });
  await simulation.run(1_000);
  await run("SET", "replicated", "1");
  const [primary, ...replicas] = redis.servers;
  for (const replica of replicas) replica.lag(1_000);
  await run("SET", "lost", "1");
  assert(redis.failOver({ demoteAfterMs: 2_000 }));
  assert(redis.primary !== primary);
  // The client still uses the old primary: there are two.
  await run("SET", "split", "1");
  assertEquals([...primary!.keys], ["replicated", "lost", "split"]);
  assertEquals(losses, []);
  await simulation.run(10_000);
  assertEquals(losses.map(({ server, why, keys }) => ({ server, why, keys })), [
    { server: "redis0", why: "failover", keys: ["lost", "split"] },
  ]);
  for (const server of redis.servers) assertEquals(server.keys, ["replicated"]);
  assertEquals(await run("GET", "replicated"), "1");
  assertEquals([primary!.isReplica, redis.primary.isReplica], [true, false]);
});

Deno.test("SimulatedRedis reports all writes of a restarted primary as lost if an older replica leads", async () => {
  const { simulation, redis, client, run, losses } = await stage({ replicas: 1 });
  await simulation.run(1_000);
  for (const key of ["a", "b", "c"]) await run("SET", key, "1");
  const [primary, replica] = redis.servers;
  replica!.host.freeze();
  primary!.host.kill({ power: true });
  redis.restart();
  void client.call("PING"); // Without a reply: the client detects the power loss.
  await simulation.run(1_000);
  await run("SET", "anew", "1");
  replica!.host.thaw();
  assert(redis.failOver({ demoteAfterMs: 1_000 }));
  losses.length = 0;
  await simulation.run(10_000);
  assertEquals(losses.map(({ why, keys }) => ({ why, keys })), [
    { why: "failover", keys: ["anew"] },
  ]);
  for (const server of redis.servers) assertEquals([...server.keys].sort(), ["a", "b", "c"]);
});

Deno.test("SimulatedRedis sends a reconnecting replica only the writes that it lacks", async () => {
  const { simulation, network, redis, run } = await stage({ replicas: 1 });
  const [primary, replica] = redis.servers.map(({ host }) => host);
  await simulation.run(1_000);
  await run("SET", "a", "1");
  network.change(primary!, replica!, { isBlocked: true });
  await run("SET", "b", "1");
  assertEquals(redis.servers[1]!.keys, ["a"]);
  network.change(primary!, replica!, { isBlocked: false });
  await simulation.run(5_000);
  assertEquals(redis.servers[1]!.keys, ["a", "b"]);
  replica!.kill();
  await run("SET", "c", "1");
  redis.restart();
  await simulation.run(5_000);
  assertEquals(redis.servers[1]!.keys, ["a", "b", "c"]);
});

Deno.test("RedisServer.limitMemory() rejects writes, or evicts keys by the policy", async () => {
  for (
    const [policy, gone] of [
      ["noeviction", undefined],
      ["allkeys-lru", "oldest"],
      ["volatile-ttl", "soon"],
    ] as const
  ) {
    const { redis, run } = await stage();
    await run("SET", "oldest", "1");
    await run("SET", "late", "1", "PX", "90000");
    await run("SET", "soon", "1", "PX", "60000");
    // With few keys, each is among the samples sooner or later.
    redis.primary.limitMemory(redis.primary.bytes - 1, policy);
    if (gone === undefined) {
      await assertRejects(
        () => run("SET", "more", "1"),
        Error,
        "OOM command not allowed when used",
      );
      const script = "redis.call('DEL', 'late') redis.call('SET', 'more', '1') return 1";
      assertEquals(await run("EVAL", script, "0"), 1);
      await assertRejects(
        () => run("EVAL", "return redis.call('SET', 'x', string.rep('x', 999))", "0"),
        Error,
        "OOM",
      );
      assertEquals(await run("GET", "oldest"), "1");
      assertMatch(await run("INFO", "stats") as string, /evicted_keys:0\s/);
    } else {
      assertEquals(redis.primary.keys.length, 2, policy);
      if (policy === "volatile-ttl") assert(redis.primary.keys.includes("oldest"));
      assertMatch(await run("INFO", "stats") as string, /evicted_keys:1\s/);
    }
  }
});

Deno.test("RedisServer replies with LOADING, BUSY and READONLY, and clients recover", async () => {
  const { simulation, redis, client, run } = await stage({ replicas: 1, loadingMs: 3_000 });
  await run("SET", "a", "1");
  redis.primary.busy(8_000);
  await simulation.run(5_100);
  await assertRejects(() => run("GET", "a"), Error, "BUSY Redis is busy running a script");
  await simulation.run(3_000);
  assertEquals(await run("GET", "a"), "1");

  redis.primary.host.kill();
  redis.restart();
  await simulation.run(1_500);
  assertEquals(client.status, "connect");
  await simulation.run(5_000);
  assertEquals([client.status, await run("GET", "a")], ["ready", null]);

  // Clients that are not notified of the failover: writes are rejected, publications still arrive.
  const heard: string[] = [];
  const subscriber = client.duplicate();
  subscriber.on("message", (channel, message) => heard.push(`${channel} ${message}`));
  const writer = client.duplicate({
    lazyConnect: false,
    reconnectOnError: ({ message }) => message.startsWith("READONLY"),
  });
  for (const each of [subscriber, writer]) each.on("error", () => {});
  await simulation.run(1_000);
  void subscriber.subscribe("news");
  redis.failOver({ demoteAfterMs: 100, keepClients: true });
  await simulation.run(5_000);
  const rejected = writer.call("SET", "b", "1");
  rejected.catch(() => {});
  await simulation.run(1_000);
  await assertRejects(
    () => rejected,
    Error,
    "READONLY You can't write against a read only replica.",
  );
  const written = writer.call("SET", "b", "2");
  const published = writer.publish("news", "from the new primary");
  await simulation.run(1_000);
  assertEquals([await written, await published], ["OK", 0]);
  assertEquals(heard, ["news from the new primary"]);
});

Deno.test("RedisServer disconnects subscribers that read too slowly, and removes scripts on demand", async () => {
  const { simulation, network, redis, client, run } = await stage();
  const slow = client.duplicate();
  slow.on("error", () => {});
  await simulation.run(1_000);
  const subscribed = slow.subscribe("news");
  await simulation.run(100);
  assertEquals(await subscribed, 1);
  assertEquals(redis.primary.subscribers, 1);
  const { host } = redis.primary;
  network.change(host, simulation.hosts.get("program")!, { isBlocked: true });
  const other = redis.client(simulation.host("other")) as SimulatedRedisClient;
  const big = "x".repeat(8 << 20);
  const sent = Array.from({ length: 5 }, () => other.publish("news", big));
  await simulation.run(1_000);
  assertEquals(await Promise.all(sent), [1, 1, 1, 1, 0]);
  assertEquals(redis.primary.subscribers, 0);
  network.heal();

  const closed = new Promise((resolve) => slow.once("close", resolve));
  await simulation.run(5_000);
  await closed;
  await run("EVAL", "return 7", "0");
  const hash = "8bc2c2f4f9f4d6a3";
  await assertRejects(() => run("EVALSHA", hash, "0"), Error, "NOSCRIPT No matching script");
  client.defineCommand("seven", { lua: "return 7", numberOfKeys: 0 });
  const { seven } = client as unknown as { readonly seven: () => Promise<number> };
  for (const act of [() => {}, () => redis.primary.flushScripts()]) {
    act();
    const result = seven.call(client);
    await simulation.run(100);
    assertEquals(await result, 7);
  }
});

Deno.test("RedisServer.slow() makes commands take time, in order", async () => {
  const { simulation, redis, client } = await stage();
  await simulation.run(10);
  redis.primary.slow(100);
  const order: string[] = [];
  for (const key of ["a", "b", "c"]) {
    void client.call("SET", key, "1").then(() => order.push(`${key} ${simulation.nowMs > 300}`));
  }
  await simulation.run(2_000);
  assertEquals(order.map((text) => text[0]), ["a", "b", "c"]);
});

Deno.test("SimulatedRedis expires keys by its host's clock, and rejects unknown commands by name", async () => {
  const { simulation, redis, run } = await stage();
  await run("SET", "a", "1", "PX", "5000");
  redis.primary.host.jumpClock(6_000);
  assertEquals(await run("GET", "a"), null);
  await assertRejects(() => run("DEBUG", "SLEEP"), Error, "does not have the command 'debug'");
  await assertRejects(
    () => run("EVAL", "return cmsgpack.pack(1)", "0"),
    Error,
    "Script attempted to access nonexistent global variable 'cmsgpack'",
  );
  await assertRejects(
    () => run("EVAL", "return cjson.encode({})", "0"),
    Error,
    "the model of Redis does not have cjson.encode",
  );
  assertEquals(await run("EVAL", "return { 1.9, 'a', false, 'after' }", "0"), [
    1,
    "a",
    null,
    "after",
  ]);
  await simulation.run(1);
});
