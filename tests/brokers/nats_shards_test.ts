/** Tests the NATS broker with several shards of histories, logs and buckets. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { jetstreamManager } from "@nats-io/jetstream";
import { createServer } from "../../mod.ts";
import { BrokerError } from "../../errors.ts";
import { NatsBroker, type NatsBrokerOptions } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import { durableStreams } from "../../streams/mod.ts";
import { BOUNDS, noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { until } from "../waiting.ts";

const ignore = isNatsMissing;

let shared: NatsServer;

Deno.test.beforeAll(async () => {
  if (!ignore) shared = await NatsServer.start();
});

Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

// Conformance with other numbers is tested on modeled servers, because the suite waits for minutes.
const MANY = { histories: 16, logs: 16, buckets: 16 };
const openMany = () => new NatsBroker({ servers: shared.servers }, { shards: MANY });
for (const suite of [testBroker, testBrokerLogs]) {
  suite("NatsBroker with 16 shards", openMany, {
    makePair: () => [openMany(), openMany()],
    ignore,
  });
}

/** Registers a test that has its own server. */
function test(name: string, fn: (server: NatsServer) => Promise<void>): void {
  Deno.test({
    name: `NatsBroker ${name}`,
    ignore,
    fn: async () => {
      {
        await using server = await NatsServer.start();
        await fn(server);
      }
      await noTimers();
    },
  });
}

const CREATION = { config: { contentType: "text/plain" }, identity: "identity", records: [] };
const IDS = Array.from({ length: 64 }, (_, i) => `id:${i}`);

/** Uses the store and a log with each id, and a history. */
async function use(broker: NatsBroker): Promise<void> {
  await Promise.all(IDS.map(async (id) => {
    await broker.store.advance(id, 1, 60_000);
    await broker.logs.create(id, { ...CREATION, maxLogs: 100 });
    await broker.history.append({ topic: id, payload: id }, { bounds: BOUNDS });
  }));
}

/** Names of all streams, and how many messages each has. */
async function streamsOf({ servers }: NatsServer): Promise<Map<string, number>> {
  const connection = await connectNats({ servers });
  const { streams } = await jetstreamManager(connection);
  const found = new Map<string, number>();
  for await (const { config, state } of streams.list()) found.set(config.name, state.messages);
  await connection.close();
  return found;
}

test("spreads histories, logs and rows over their shards", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers }, { shards: { histories: 4 } });
  await use(broker);
  const counts = [...await streamsOf(server)].filter(([, messages]) => messages > 0);
  const kinds = Map.groupBy(counts, ([name]) => name.replace(/_\d$/, ""));
  const numbers = [...kinds].map(([kind, streams]) => [kind, streams.length] as const);
  const history = `skein_${BOUNDS.size}_${BOUNDS.ttlMs}_${BOUNDS.bytes}`;
  assertEquals(Object.fromEntries(numbers), { KV_skein_store: 8, skein_logs: 8, [history]: 4 });
  assertEquals((await broker.logs.list("stream", { limit: 100 })).logs, []);
  assertEquals(await broker.logs.overdue({ limit: 10 }), []);
});

test("lists the logs of all shards page by page, and finds those overdue", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  const config = { contentType: "text/plain", owner: "ann", ttlMs: 500 };
  for (const id of IDS) await broker.logs.create(id, { ...CREATION, config, maxLogs: 100 });
  const found: string[] = [];
  let after: string | undefined;
  do {
    const page = await broker.logs.list("stream", { limit: 10, after });
    assert(page.logs.length <= 10);
    found.push(...page.logs.map(({ id }) => id));
    after = page.next;
  } while (after !== undefined);
  assertEquals(found.sort(), IDS.toSorted());
  await until(async () => (await broker.logs.overdue({ limit: 100 })).length === IDS.length);
  assertEquals((await broker.logs.overdue({ limit: 10 })).length, 10);
});

const WRONG =
  'shards of the data with prefix "skein" must be { histories: 1, logs: 8, buckets: 8 }, received';

test("rejects a node with other numbers of shards, and names both", async (server) => {
  const { servers } = server;
  await using first = new NatsBroker({ servers });
  await use(first);
  const others: [NatsBrokerOptions, string][] = [
    [{ shards: { logs: 16 } }, "{ histories: 1, logs: 16, buckets: 8 }"],
    [{ shards: { histories: 2 } }, "{ histories: 2, logs: 8, buckets: 8 }"],
    [{ shards: { buckets: 1, logs: 1 } }, "{ histories: 1, logs: 1, buckets: 1 }"],
  ];
  for (const [options, received] of others) {
    await using broker = new NatsBroker({ servers }, options);
    using _following = broker.status.subscribe(() => {});
    const text = `${WRONG} ${received}; set them to the stored numbers, or use another prefix`;
    await assertRejects(() => broker.store.newest("id:1", 60_000), BrokerError, text);
    await assertRejects(
      () => broker.logs.create("new", { ...CREATION, maxLogs: 100 }),
      BrokerError,
    );
    await assertRejects(
      () => broker.history.append({ topic: "id:1", payload: "" }, { bounds: BOUNDS }),
      BrokerError,
    );
    const { current } = broker.status;
    assertEquals(current.name === "interrupted" && current.cannotStart, true);
    assert(broker.issues().join().includes(text), broker.issues().join());
  }
  const names = [...(await streamsOf(server)).keys()];
  assert(!names.some((name) => name.endsWith("_15")), names.join());
});

test("uses the stored numbers of logs and buckets without an option", async (server) => {
  const { servers } = server;
  await using first = new NatsBroker({ servers }, { shards: { logs: 3, buckets: 2 } });
  await use(first);
  await using second = new NatsBroker({ servers });
  assertEquals(await second.store.newest("id:1", 60_000), 1);
  const page = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };
  assertEquals(typeof await second.logs.read("id:1", page), "object");
  const names = [...(await streamsOf(server)).keys()].filter((name) =>
    name.startsWith("skein_logs")
  );
  assertEquals(names.sort(), ["skein_logs_0", "skein_logs_1", "skein_logs_2"]);
});

test("lets one of several nodes with different numbers decide", async ({ servers }) => {
  await using stack = new AsyncDisposableStack();
  const results = await Promise.allSettled([2, 3, 4, 5].map((logs) => {
    const broker = stack.use(new NatsBroker({ servers }, { shards: { logs } }));
    broker.status.subscribe(() => {});
    return broker.store.advance("key", 1, 60_000);
  }));
  assertEquals(results.filter(({ status }) => status === "fulfilled").length, 1);
});

test("moves to a prefix with more shards as its page says", async ({ servers }) => {
  const history = { "chat:{room}": { size: 100 } };
  const serverOf = (options: NatsBrokerOptions) => {
    const streams = durableStreams();
    const broker = new NatsBroker({ servers }, options);
    return { server: createServer({ broker, history, features: [streams] }), streams, broker };
  };
  const old = serverOf({});
  const next = serverOf({ prefix: "skein2", shards: { histories: 4, logs: 16, buckets: 16 } });
  await using _servers = new AsyncDisposableStack();
  for (const one of [old, next]) _servers.use(one.broker), _servers.use(one.server);
  await old.server.topics.append("chat:1", "before");
  await using writer = await old.streams.create<string>("notes");
  await writer.append("a");
  // The program of docs/deploy/nats.md.
  const publish = (topic: string, data: unknown, key: string) =>
    Promise.all([old, next].map(({ server }) => server.topics.append(topic, data, { key })));
  for (let i = 0; i < 10; i++) await publish("chat:1", i, `order-${i}`);
  await using copy = await next.streams.create<string>("notes");
  for await (const { data } of old.streams.read<string>("notes")) await copy.append(data);
  const read = (topics: typeof next.server.topics) => Array.fromAsync(topics.read("chat:1"));
  const moved = (await read(next.server.topics)).map(({ data }) => data);
  assertEquals(moved, Array.from({ length: 10 }, (_, i) => i));
  assertEquals((await read(old.server.topics)).map(({ data }) => data), ["before", ...moved]);
  for await (const { data } of next.streams.read<string>("notes")) {
    assertEquals(data, "a");
    break;
  }
});
