/**
 * Tests that this version reads and continues what an earlier version of Skein has stored, and that
 * nodes reject what a newer version has stored.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { jetstreamManager } from "@nats-io/jetstream";
import { Cluster } from "ioredis";
import { BrokerError } from "../../errors.ts";
import { type Broker, createServer } from "../../mod.ts";
import { liveState } from "../../streams/mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { BOUNDS, FOREVER_MS, loadNats, loadRedis, loadSqlite, type Written } from "./fixtures.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisCluster, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

/** The options with which the fixtures were written. */
const REDIS = { rememberMs: FOREVER_MS, survivesRestart: true };
const NATS = { ...REDIS, storeTtlMs: FOREVER_MS };

/** Opens a broker with the data of the earlier version. */
type Open = (stack: AsyncDisposableStack) => Promise<{ broker: Broker; written: Written }>;

const OPENINGS: readonly { name: string; ignore: boolean; open: Open }[] = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    open: async (stack) => {
      const { url } = stack.use(await RedisServer.start());
      const written = await loadRedis(url);
      return { written, broker: stack.use(new RedisBroker({ url }, REDIS)) };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    open: async (stack) => {
      const { servers } = stack.use(await NatsServer.start());
      const written = await loadNats(servers);
      return { written, broker: stack.use(new NatsBroker({ servers }, NATS)) };
    },
  },
  {
    name: "SQLite",
    ignore: false,
    open: async (stack) => {
      const folder = await Deno.makeTempDir();
      stack.defer(() => Deno.remove(folder, { recursive: true }));
      const written = await loadSqlite(`${folder}/data.db`);
      return { written, broker: stack.use(await SqliteBroker.open(`${folder}/data.db`)) };
    },
  },
];

const READ = { after: 0, maxRecords: 10, maxBytes: 1_000_000, renews: false };

for (const { name, ignore, open } of OPENINGS) {
  const test = (what: string, fn: (broker: Required<Broker>, written: Written) => Promise<void>) =>
    Deno.test({
      name: `Data of the first version in ${name}: ${what}`,
      ignore,
      fn: async () => {
        await using stack = new AsyncDisposableStack();
        const { broker, written } = await open(stack);
        await fn(broker as Required<Broker>, written);
      },
    });

  test("a history is read, and continues in its epoch", async ({ history }, written) => {
    const options = { bounds: BOUNDS, maxMessages: 10, maxBytes: 1_000_000 };
    const page = await history.read("news", options);
    const { epoch, offset, tag } = written;
    assertEquals({ epoch: page.epoch, head: page.head }, { epoch, head: offset });
    const payloads = page.publications.map(({ payload, except }) => ({ payload, except }));
    assertEquals(payloads, [
      { payload: "one", except: "session" },
      { payload: new Uint8Array([1, 2, 3]), except: "session" },
      { payload: "three", except: "session" },
    ]);
    assertEquals(page.publications.at(-1)?.position?.tag, tag);
    const next = await history.append({ topic: "news", payload: "four" }, { bounds: BOUNDS });
    assertEquals(next.position?.epoch, epoch);
    const rest = await history.read("news", { ...options, after: offset });
    const prevs = rest.publications.map(({ payload, position }) => [payload, position?.prev]);
    assertEquals({ prevs, anchor: rest.anchor }, { prevs: [["four", offset]], anchor: tag });
  });

  test("sequence numbers and claims are in force", async ({ store }) => {
    assertEquals(await store.newest("seq:client", FOREVER_MS), 7);
    assertEquals(await store.advance("seq:client", 7, FOREVER_MS), false);
    assertEquals(await store.advance("seq:client", 8, FOREVER_MS), true);
    assertEquals(await store.claims("user:ann"), ["session-1"]);
    const most = { max: 2, ttlMs: 60_000 };
    assertEquals(await store.claim("user:ann", "session-2", most), true);
    assertEquals(await store.claim("user:ann", "session-3", most), false);
  });

  test("durable streams are read, continue, and are listed", async (broker) => {
    const logs = logsOf(broker)!;
    const read = async (id: string) => {
      const page = await logs.read(id, READ);
      assert(typeof page === "object", id);
      const { info: { identity, tail, end }, records } = page;
      return { identity, tail, end, records };
    };
    const texts = ['"a"', '"b"', '"c"'];
    const state = { identity: "id-open", end: undefined };
    assertEquals(await read("open"), { ...state, tail: 3, records: texts });
    const append = (seq: number) =>
      logs.append("open", {
        records: [`"${seq}"`],
        producer: { id: "p", epoch: 1, seq },
        maxBytes: 1_000_000,
      });
    assertEquals((await append(0)).kind, "repeated");
    assertEquals((await append(1)).kind, "appended");
    assertEquals(await read("open"), { ...state, tail: 4, records: [...texts, '"1"'] });
    const bytes = { identity: "id-bytes", tail: 1, end: {}, records: [new Uint8Array([0, 255])] };
    assertEquals(await read("bytes"), bytes);
    const fork = await logs.read("fork", READ);
    assertEquals(typeof fork === "object" && fork.info.origin?.id, "open");
    // The fork keeps the stream.
    assertEquals((await logs.delete("open")).kind, "kept");
    const list = async (kind: "answer" | "stream") => {
      const found = new Map<string, string | undefined>();
      let after: string | undefined;
      do {
        const page = await logs.list(kind, { limit: 100, after });
        for (const { id, owner } of page.logs) found.set(id, owner);
        after = page.next;
      } while (after !== undefined);
      return found;
    };
    assertEquals((await list("stream")).get("bytes"), "uann");
    assertEquals([...await list("answer")], [["answer:q", undefined]]);
  });

  test("a live state is read, and its versions continue", async (broker, { version }) => {
    const states = liveState();
    await using _server = createServer({ broker, features: [states] });
    await using board = await states.open("board:1");
    const cards = board.collection<{ readonly title: string }>("cards");
    assertEquals([...cards], [["1", { title: "Keep" }], ["3", { title: "Changed" }]]);
    assertEquals(await cards.set("3", { title: "Changed again" }), version + 1);
  });
}

/** Ways to read and write the mark of a store that this test started. */
interface Marked extends AsyncDisposable {
  /** The source of brokers, as code. */
  readonly source: string;
  open(options?: { readonly prefix?: string; readonly heartbeatMs?: number }): Broker;
  mark(prefix?: string): Promise<string | undefined>;
  setMark(value: string): Promise<void>;
  /** Removes everything, as an operator does. */
  clear(): Promise<void>;
}

async function markedRedis(): Promise<Marked> {
  const server = await RedisServer.start();
  const { url } = server;
  return {
    source: `new RedisBroker({ url: ${JSON.stringify(url)} })`,
    open: (options) => new RedisBroker({ url }, options),
    mark: async (prefix = "skein") => await server.run("get", `${prefix}:version`) || undefined,
    setMark: async (value) => void await server.run("set", "skein:version", value),
    clear: async () => void await server.run("flushall"),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function markedNats(): Promise<Marked> {
  const server = await NatsServer.start();
  const { servers } = server;
  const connection = await connectNats({ servers });
  const { streams } = await jetstreamManager(connection);
  const config = { name: "skein_version", subjects: ["skein.version"] };
  return {
    source: `new NatsBroker({ servers: ${JSON.stringify(servers)} })`,
    open: ({ prefix } = {}) => new NatsBroker({ servers }, { prefix }),
    mark: async (prefix = "skein") => {
      const info = await streams.info(`${prefix}_version`).catch(() => undefined);
      return info?.config.description;
    },
    setMark: async (description) => {
      await streams.delete(config.name).catch(() => {});
      await streams.add({ ...config, description });
    },
    clear: async () => {
      for await (const { config: { name } } of streams.list()) await streams.delete(name);
    },
    [Symbol.asyncDispose]: async () => {
      await connection.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

const NEWER =
  /the version of the data with prefix "skein" must be 1, received 2; a newer version of Skein wrote it: start that, or use another prefix/;

for (
  const { name, ignore, start } of [
    { name: "Redis", ignore: isRedisMissing, start: markedRedis },
    { name: "NATS", ignore: isNatsMissing, start: markedNats },
  ]
) {
  const test = (what: string, fn: (store: Marked) => Promise<void>) =>
    Deno.test({
      name: `The version mark in ${name} ${what}`,
      ignore,
      fn: async () => {
        await using store = await start();
        await fn(store);
      },
    });
  const newMark = name === "NATS" ? "1 histories=1 logs=8 buckets=8" : "1";
  const use = (broker: Broker) => broker.store!.advance("key", 1, 60_000);

  test("is set for each prefix, by one of many nodes that start at once", async (store) => {
    const prefixes = ["one", "two"];
    await using stack = new AsyncDisposableStack();
    const nodes = Array.from({ length: 10 }, (_, i) => {
      return stack.use(store.open({ prefix: prefixes[i % 2]! }));
    });
    const results = await Promise.all(nodes.map(use));
    assertEquals(results.filter((isFirst) => isFirst).length, 2);
    assertEquals(await Promise.all(prefixes.map(store.mark)), [newMark, newMark]);
    assertEquals(await store.mark(), undefined);
  });

  test("of a newer version keeps a node from using the data", async (store) => {
    await store.setMark("2");
    await using broker = store.open();
    // An application that follows the status decides itself, so the server does not fail.
    using _following = broker.status.subscribe(() => {});
    await using _server = createServer({ broker });
    await until(() => broker.status.current.name === "interrupted");
    const { current } = broker.status;
    assert(current.name === "interrupted" && current.cannotStart);
    assertMatch((current.error as Error).message, NEWER);
    assertMatch(broker.issues().join(), NEWER);
    await assertRejects(() => use(broker), BrokerError);
    await assertRejects(() => logsOf(broker)!.overdue({ limit: 1 }), BrokerError);
    assertEquals(await store.mark(), "2");
    // After a rollback of the data, the node starts without a restart.
    await store.setMark("1");
    await until(() => use(broker).then(() => true, () => false));
    assertEquals({ ...broker.status.current }, { name: "connected" });
  });

  test("of another program keeps a node from using the data", async (store) => {
    await store.setMark("hello");
    await using broker = store.open();
    await until(() => broker.status.current.name === "interrupted");
    const rest =
      'must be 1, received "hello"; another program wrote it: repair it, or use another prefix';
    assert(broker.issues().join().endsWith(rest), broker.issues().join());
  });

  test("of a newer version ends a server that starts", async (store) => {
    await store.setMark("2");
    const program = `
      import { serve } from "./mod.ts";
      import { ${
      name === "Redis" ? "RedisBroker" : "NatsBroker"
    } } from "./brokers/${name.toLowerCase()}/mod.ts";
      serve({ port: 0, broker: ${store.source}, onListen() {} });`;
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-check", "--unstable-net", program],
      cwd: new URL("../../", import.meta.url),
      stderr: "piped",
    }).output();
    assertMatch(new TextDecoder().decode(stderr), NEWER);
    assertEquals(code, 1);
  });

  test("is set again by the next node after an operator removed everything", async (store) => {
    {
      await using broker = store.open();
      await use(broker);
    }
    await store.clear();
    assertEquals(await store.mark(), undefined);
    await using broker = store.open();
    assertEquals(await use(broker), true);
    assertEquals(await store.mark(), newMark);
  });
}

Deno.test({
  name: "The version mark in Redis is set again with a heartbeat, and a newer one is noticed",
  ignore: isRedisMissing,
  fn: async () => {
    await using store = await markedRedis();
    await using broker = store.open({ heartbeatMs: 1_500 });
    const received: unknown[] = [];
    let interruptions = 0;
    await using subscription = broker.subscribe("news", ({ payload }) => received.push(payload), {
      onInterrupted: () => interruptions++,
    });
    await subscription.ready;
    await store.clear();
    await until(async () => await store.mark() === "1");
    assertEquals(broker.status.current.name, "connected");
    // A node of a newer version takes over while this one is running.
    await store.setMark("2");
    await until(() => broker.status.current.name === "interrupted");
    const { current } = broker.status;
    assertEquals(current.name === "interrupted" && current.cannotStart, undefined);
    assertMatch(broker.issues().join(), NEWER);
    await assertRejects(() => broker.store!.newest("key", 1), BrokerError, "another version");
    broker.publish({ topic: "news", payload: "waits" });
    await store.setMark("1");
    await until(() => received.length === 1);
    assertEquals({ received, interruptions }, { received: ["waits"], interruptions: 1 });
  },
});

Deno.test({
  name: "The version mark in Redis is one for all masters of a cluster",
  ignore: isRedisMissing,
  fn: async () => {
    await using cluster = await RedisCluster.start();
    const client = new Cluster(cluster.startupNodes);
    try {
      await using one = new RedisBroker({ client });
      await using two = new RedisBroker({ client });
      await one.history.append({ topic: "a", payload: "1" }, { bounds: BOUNDS });
      await two.history.append({ topic: "b", payload: "2" }, { bounds: BOUNDS });
      assertEquals(await client.get("skein:version"), "1");
    } finally {
      client.disconnect();
    }
  },
});

Deno.test({
  name:
    "The version mark in Redis waits for a server that is not a replica, with or without a mark",
  ignore: isRedisMissing,
  fn: async () => {
    await using primary = await RedisServer.start();
    const settings = { replicaof: `127.0.0.1 ${primary.port}` };
    await using replica = await RedisServer.start({ settings });
    await until(async () => (await replica.run("role")).includes("connected"));
    await using broker = new RedisBroker({ url: replica.url });
    await until(() => broker.issues().join().includes("READONLY"));
    assertEquals(await primary.keys(), []);
    await using other = new RedisBroker({ url: primary.url });
    await until(() => other.status.current.name === "connected");
    await until(async () => await replica.run("get", "skein:version") === "1");
    await using late = new RedisBroker({ url: replica.url });
    for (const node of [broker, late]) {
      await until(() => node.issues().join().includes("READONLY"));
      assertEquals(node.status.current.name, "interrupted");
    }
    await replica.run("replicaof", "no", "one");
    await until(() => broker.status.current.name === "connected");
    assertEquals(await replica.run("get", "skein:version"), "1");
  },
});

Deno.test({
  name:
    "The version mark in NATS is not set for topics without a history, and needs JetStream only then",
  ignore: isNatsMissing,
  fn: async () => {
    await using store = await markedNats();
    await using broker = store.open();
    await using plain = await NatsServer.start({ jetstream: false });
    await using without = new NatsBroker({ servers: plain.servers });
    for (const one of [broker, without]) {
      const received: unknown[] = [];
      await using subscription = one.subscribe("news", ({ payload }) => received.push(payload));
      await subscription.ready;
      one.publish({ topic: "news", payload: "one" });
      await until(() => received.length === 1);
      assertEquals(one.status.current.name, "connected");
    }
    assertEquals(await store.mark(), undefined);
  },
});

Deno.test({
  name: "The version mark in NATS is named by the error of a user without permission to read it",
  ignore: isNatsMissing,
  fn: async () => {
    const settings = `authorization { users: [{
      user: a, password: a, permissions: { publish: { allow: [">"], deny: ["$JS.API.STREAM.INFO.skein_version"] } }
    }] }`;
    await using server = await NatsServer.start({ settings });
    const { servers } = server;
    await using broker = new NatsBroker({ servers, user: "a", pass: "a" });
    const error = await assertRejects(() => broker.store!.newest("key", 1), BrokerError);
    assertMatch(error.message, /skein_version/);
    assertEquals(broker.status.current.name, "connected");
  },
});
