/**
 * Tests what nodes do while their store rejects writes because it is full: every operation is
 * rejected immediately with the reason and a remedy, or waits as documented, and `issues()` says why.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { BrokerError } from "../../errors.ts";
import type { Appended } from "../../pubsub/broker.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { append, BOUNDS, Hearing, statusIs } from "./receiving.ts";
import { until } from "../waiting.ts";

const PAGE = { bounds: BOUNDS, maxMessages: 128, maxBytes: 524_288 };

const CREATION = {
  config: { contentType: "text/plain" },
  identity: "identity",
  records: [],
  maxLogs: 10,
};

/** Settings of a server whose only account has limits. */
function accountWith(jetstream: string): string {
  return `accounts { A { ${jetstream}, users: [{ user: a, password: a }] } }
    no_auth_user: a`;
}

/** Fails a call that is rejected only once the broker gives up. */
const SOON_MS = 15_000;

/** Rejects with a reason, long before the broker gives up. */
async function rejectedSoon(call: () => Promise<unknown>, reason: RegExp): Promise<void> {
  const startMs = performance.now();
  const error = await assertRejects(call, BrokerError);
  assertMatch(error.message, reason);
  assert(performance.now() - startMs < SOON_MS, error.message);
}

const LIMITS = [
  {
    name: "the account has no storage",
    settings: accountWith("jetstream: { max_file: 1, max_mem: 1 }"),
    reason: /resource limits exceeded for account; raise the JetStream limits of the account/,
  },
  {
    name: "the account may have no more streams",
    settings: accountWith("jetstream: { max_streams: 1 }"),
    reason: /maximum number of streams reached; raise the JetStream limits of the account/,
  },
  {
    name: "the account has no JetStream",
    settings: accountWith("exports: []"),
    reason: /JetStream not enabled for account; enable JetStream for the account/,
  },
  {
    name: "the account requires bounds of streams",
    settings: accountWith("jetstream: { max_bytes_required: true }"),
    reason: /to have max bytes set; set maxStreamBytes/,
  },
] as const;

for (const { name, settings, reason } of LIMITS) {
  Deno.test({
    name: `NatsBroker rejects every write immediately, with the remedy, if ${name}`,
    ignore: isNatsMissing,
    async fn() {
      await using server = await NatsServer.start({ settings });
      await using broker = new NatsBroker({ servers: server.servers }, { giveUpMs: 60_000 });
      const writes = [
        () => append(broker, "news", 1),
        () => append(broker, "news", 1),
        () => broker.logs.create("log", CREATION),
        () => broker.store.claim("scope", "member", { max: 1, ttlMs: 1_000 }),
        () => broker.store.advance("key", 1, 1_000),
      ];
      for (const write of writes) await rejectedSoon(write, reason);
      assertMatch(broker.issues()[0]!, /^NATS has rejected writes(?: for \d+ s)?: /);
      assertMatch(broker.issues()[0]!, reason);
      assertEquals(broker.issues().length, 1);
      assertEquals(broker.stats.dropped, 2);
      const { current } = broker.status;
      assert(current.name === "interrupted" && current.rejects);
      // Topics without a history work.
      await using hearing = new Hearing(broker, "plain");
      await hearing.ready;
      broker.publish({ topic: "plain", payload: "1" });
      await hearing.count(1);
    },
  });
}

Deno.test({
  name: "NatsBroker rejects appends to a full server, reads on, and continues once there is room",
  ignore: isNatsMissing,
  async fn() {
    const settings = (bytes: number) => ({
      jetstream: false,
      settings: `jetstream { store_dir: "${folder}", max_file_store: ${bytes} }`,
    });
    const folder = await Deno.makeTempDir();
    try {
      await using server = await NatsServer.start(settings(400_000));
      await using broker = new NatsBroker({ servers: server.servers }, { giveUpMs: 60_000 });
      const payload = "x".repeat(50_000);
      const appendOne = () => broker.history.append({ topic: "news", payload }, { bounds: BOUNDS });
      const kept: Appended[] = [];
      const filling = async () => {
        while (true) kept.push(await appendOne());
      };
      const full = /insufficient resources; raise max_file_store/;
      await rejectedSoon(filling, full);
      assert(kept.length > 0);
      await rejectedSoon(appendOne, full);
      await rejectedSoon(() => broker.logs.create("log", CREATION), full);
      assertMatch(broker.issues().join(), full);
      const page = await broker.history.read("news", PAGE);
      assertEquals(page.head, kept.at(-1)!.position!.offset);
      await statusIs(broker, "interrupted");

      await server.kill();
      await server.restart(settings(4_000_000));
      await appendOne();
      await statusIs(broker, "connected");
      assertEquals(broker.issues(), []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

for (
  const { name, refuse, accept, reason } of [
    {
      name: "is full",
      refuse: ["config", "set", "maxmemory", "1mb"],
      accept: ["config", "set", "maxmemory", "0"],
      reason: /OOM command not allowed when .*; raise maxmemory/,
    },
    {
      name: "lacks replicas",
      refuse: ["config", "set", "min-replicas-to-write", "1"],
      accept: ["config", "set", "min-replicas-to-write", "0"],
      reason: /NOREPLICAS .*; start more replicas/,
    },
  ]
) {
  Deno.test({
    name: `RedisBroker names the reason and the remedy at once if Redis ${name}, and continues`,
    ignore: isRedisMissing,
    async fn() {
      await using server = await RedisServer.start();
      await using broker = new RedisBroker({ url: server.url }, { giveUpMs: 2_000 });
      await append(broker, "news", 1);
      await broker.logs.create("log", CREATION);
      await server.run(...refuse);

      // Only durable streams and the store are used.
      const writes = [
        () => broker.logs.append("log", { records: ["one"], maxBytes: 1_000 }),
        () => broker.logs.create("other", CREATION),
        () => broker.store.advance("key", 1, 1_000),
      ];
      for (const write of writes) await rejectedSoon(write, reason);
      await statusIs(broker, "interrupted");
      assertMatch(broker.issues()[0]!, /^Redis has rejected writes(?: for \d+ s)?: /);
      assertMatch(broker.issues()[0]!, reason);
      // An append waits, and is rejected with the reason.
      await rejectedSoon(() => append(broker, "news", 1), reason);
      const { current } = broker.status;
      assertEquals(current.name === "interrupted" && current.rejects, undefined);

      await server.run(...accept);
      await append(broker, "news", 1);
      for (const write of writes) await write();
      await statusIs(broker, "connected");
      assertEquals(broker.issues(), []);
    },
  });
}

Deno.test({
  name:
    "RedisBroker sends nothing to a Redis that became a replica, names the remedy, and continues",
  ignore: isRedisMissing,
  async fn() {
    await using primary = await RedisServer.start();
    await using server = await RedisServer.start();
    const options = { giveUpMs: 60_000, heartbeatMs: 200 };
    await using broker = new RedisBroker({ url: server.url }, options);
    await using impatient = new RedisBroker({ url: server.url }, { ...options, giveUpMs: 1_000 });
    const brokers = [broker, impatient];
    await using hearing = new Hearing(impatient, "news");
    await hearing.ready;
    await append(broker, "kept", 1);
    // No node writes in the meantime.
    await server.run("replicaof", "127.0.0.1", `${primary.port}`);
    for (const node of brokers) await statusIs(node, "interrupted");
    const states: string[] = [];
    using _watch = broker.status.observe(({ name }) => states.push(name));

    const reason = /READONLY You can't write against a read only replica; connect to the primary/;
    broker.publish({ topic: "news", payload: "waits" });
    await rejectedSoon(() => append(impatient, "kept", 1), reason);
    for (const node of brokers) {
      await rejectedSoon(() => node.store.advance("key", 1, 1_000), reason);
      assertMatch(node.issues()[0]!, /^Redis has rejected writes(?: for \d+ s)?: /);
      assertMatch(node.issues()[0]!, reason);
    }
    assertEquals([hearing.payloads, broker.stats.waiting], [[], 1]);
    // It is not healthy in between, although it connects again and again.
    assertEquals(states, ["interrupted"]);

    await server.run("replicaof", "no", "one");
    await until(() => broker.stats.waiting === 0);
    assertEquals(broker.stats.dropped, 0);
    await append(broker, "kept", 1);
    for (const node of brokers) {
      await statusIs(node, "connected");
      assertEquals(node.issues(), []);
    }
    // The message that waited may have come before the other node subscribed again.
    broker.publish({ topic: "news", payload: "next" });
    await until(() => hearing.payloads.at(-1) === "next");
  },
});
