/**
 * Tests which missed publications and notices clients receive when they reconnect after a broken
 * connection.
 *
 * @module
 */
import { type HistoryPosition, platformRuntime, type Runtime } from "../mod.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  type Client,
  connect,
  dial,
  type Recovery,
  RequestError,
  type Subscription,
} from "../client.ts";
import { MemoryBroker, Topics } from "../pubsub/mod.ts";
import type { ServeOptions, Server } from "../server.ts";
import { RequestService } from "../session/serving/requests.ts";
import { Flusher } from "../session/queue/flusher.ts";
import { Cable } from "./networks/cable.ts";
import { Network } from "./clients.ts";
import { Random } from "./random.ts";
import { listen, portOf } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";

const backoff = { firstDelayMs: 4, maxDelayMs: 8 };
const authorize = () => true;
const options = { backoff, transports: ["websocket"] as const };
const history = { "room:{name}": { size: 10_000, ttlMs: 60_000, bytes: 10_000_000 } };

/** Servers that share a broker. */
function nodes(count: number, serving: ServeOptions = {}): {
  servers: Server[];
  broker: MemoryBroker;
  [Symbol.asyncDispose](): Promise<void>;
} {
  const broker = new MemoryBroker();
  const servers = Array.from(
    { length: count },
    () => listen({ broker, authorize, history, webTransport: false, ...serving }),
  );
  return {
    servers,
    broker,
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map((server) => server.close()));
      await broker.close();
    },
  };
}

/**
 * Collects the results of a subscription: the data, and a `Recovery` after each lost connection.
 */
function reading(client: Client, topic: string, since?: HistoryPosition) {
  const got: unknown[] = [];
  const subscription: Subscription = client.subscribe(topic, {
    since,
    onRecovery: (recovery) => void got.push(recovery),
  });
  const done = (async () => {
    for await (const { data } of subscription) got.push(data);
  })();
  return { got, subscription, done };
}

const isRecovery = (item: unknown): item is Recovery => typeof item === "object";

Deno.test("Subscription resumes with exactly the missed publications, also on another server", async () => {
  await using cluster = nodes(2);
  const [first, second] = cluster.servers as [Server, Server];
  await using cable = new Cable(portOf(first));
  await using client = connect(cable.url, options);
  const { got, subscription, done } = reading(client, "room:a");
  await soon(subscription.ready);
  assertEquals([subscription.head, subscription.position?.offset], [0, 0]);
  second.publish("room:a", 1);
  await until(() => got.length === 1);
  const { position } = subscription;
  assertEquals([position?.offset, typeof position?.tag], [1, "string"]);

  cable.port = portOf(second);
  cable.cut();
  await until(() => subscription.status.current === "lost");
  for (const data of [2, 3]) first.publish("room:a", data);
  await until(() => got.length === 4);
  second.publish("room:a", 4);
  await until(() => got.length === 5);
  assertEquals(got, [1, { recovered: true, position }, 2, 3, 4]);
  assertEquals([subscription.head, subscription.position?.offset], [3, 4]);
  assertEquals(subscription.recovery?.recovered, true);
  await client.close();
  await done;
});

Deno.test("Subscription continues from a stored position, or starts with the newest publications", async () => {
  await using server = listen({ authorize, history: { "room:{name}": { size: 3 } } });
  let stored: HistoryPosition | undefined;
  {
    await using client = connect(server.url, options);
    const { got, subscription } = reading(client, "room:a");
    await soon(subscription.ready);
    for (const data of [1, 2]) server.publish("room:a", data);
    await until(() => got.length === 2);
    stored = JSON.parse(JSON.stringify(subscription.position));
  }
  server.publish("room:a", 3);
  {
    await using client = connect(server.url, options);
    const { got } = reading(client, "room:a", stored);
    await until(() => got.length === 2);
    assertEquals(got, [{ recovered: true, position: stored }, 3]);
  }
  for (const data of [4, 5, 6]) server.publish("room:a", data);
  {
    await using client = connect(server.url, options);
    const { got } = reading(client, "room:a", stored);
    await until(() => got.length === 1);
    assertEquals((got[0] as Recovery).reason, "too-old");
    assertEquals((got[0] as Recovery).position?.offset, 6);
    const newest = client.subscribe("room:b", { last: 2 });
    await soon(newest.ready);
    assertEquals(newest.head, 0);
  }
  await using client = connect(server.url, options);
  const newest = client.subscribe("room:a", { last: 2 });
  const got: unknown[] = [];
  for await (const { data } of newest) if (got.push(data) === 2) break;
  assertEquals({ got, head: newest.head, offset: newest.position?.offset }, {
    got: [5, 6],
    head: 6,
    offset: 6,
  });
  await using session = await dial(server.url, { transports: ["websocket"] });
  const reply = await session.subscribe("room:a", { since: stored, last: 1 });
  assertEquals({ recovered: reply.recovered, reason: reply.reason, offset: reply.offset }, {
    recovered: false,
    reason: "too-old",
    offset: 5,
  });
});

Deno.test("Subscription to a topic without history reports a possible gap", async () => {
  await using server = listen({ authorize });
  await using cable = new Cable(portOf(server));
  await using client = connect(cable.url, options);
  const { got, subscription } = reading(client, "news");
  const plain = client.subscribe("other");
  await Promise.all([soon(subscription.ready), soon(plain.ready)]);
  server.publish("news", 1);
  await until(() => got.length === 1);
  cable.cut();
  await until(() => got.length === 2);
  server.publish("news", 2);
  await until(() => got.length === 3);
  assertEquals(got, [1, { recovered: false, reason: "no-history" }, 2]);
  assertEquals({ recovery: plain.recovery, position: plain.position, head: plain.head }, {
    recovery: undefined,
    position: undefined,
    head: undefined,
  });
});

Deno.test("Subscription waits for onRecovery between the messages before and after it", async () => {
  await using cluster = nodes(1);
  const [server] = cluster.servers as [Server];
  await using cable = new Cable(portOf(server));
  await using client = connect(cable.url, options);
  const log: string[] = [];
  const gate = Promise.withResolvers<void>();
  const room = client.subscribe("room:a", {
    onRecovery: async ({ recovered }) => {
      log.push(`recovered ${recovered}`);
      await gate.promise;
      log.push("loaded");
    },
  });
  const done = (async () => {
    for await (const { data } of room) log.push(`${data}`);
  })();
  await soon(room.ready);
  cable.cut();
  await until(() => room.status.current === "lost");
  server.publish("room:a", 1);
  await until(() => log.length === 1);
  await until(() => server.topics.subscribers("room:a").length === 1);
  server.publish("room:a", 2);
  gate.resolve();
  await until(() => log.length === 4);
  assertEquals(log, ["recovered true", "loaded", "1", "2"]);
  await client.close();
  await done;
});

Deno.test("Subscription whose onRecovery throws passes the error to its loop, and continues in the next loop", async () => {
  await using cluster = nodes(1);
  const [server] = cluster.servers as [Server];
  await using cable = new Cable(portOf(server));
  await using client = connect(cable.url, options);
  let failures = 1;
  const room = client.subscribe("room:a", {
    onRecovery() {
      if (failures-- > 0) throw new Error("Cannot load the state");
    },
  });
  await soon(room.ready);
  cable.cut();
  await until(() => room.status.current === "lost");
  for (const data of [1, 2]) server.publish("room:a", data);
  await assertRejects(() => soon(Array.fromAsync(room)), Error, "Cannot load the state");
  assertEquals([room.isEnded, room.recovery?.recovered], [false, true]);
  const got: unknown[] = [];
  for await (const { data } of room) if (got.push(data) === 2) break;
  assertEquals(got, [1, 2]);
});

Deno.test("Subscription to a history yields every message to a loop that is slow, or starts late", async () => {
  await using cluster = nodes(1);
  const [server] = cluster.servers as [Server];
  await using client = connect(server.url, options);
  const first = client.subscribe("room:a");
  await soon(first.ready);
  const count = 10_000;
  const since = first.position;
  for (let i = 0; i < count; i++) server.publish("room:a", i);
  for (const room of [first, client.subscribe("room:a", { since })]) {
    const got: unknown[] = [];
    // The loop pauses at its start and in between until the queue is full.
    const isFull = () => room.isBehind || room.head === count && got.length + 4_096 >= count;
    await until(isFull);
    for await (const { data } of room) {
      if (got.push(data) === count) break;
      if (got.length % 3_000 === 0) await until(isFull);
    }
    assertEquals(got, Array.from({ length: count }, (_, i) => i));
    assertEquals([room.isEnded, room.recovery?.reason], [false, undefined]);
  }
});

Deno.test("Subscription to a topic receives no publication in flight for an earlier subscription", async () => {
  const flusher = new Flusher(platformRuntime());
  await using topics = new Topics({ settings: { flusher }, history });
  const network = new Network({
    flusher,
    sendQueue: { maxMessages: 20 },
    services: new RequestService(platformRuntime(), {
      hasHistory: true,
      subscribe: (session, topic, request) => void topics.subscribe(session, topic, request),
      unsubscribe: (session, topic) => {
        topics.unsubscribe(session, topic);
        return {};
      },
    }),
  });
  for (let i = 1; i <= 200; i++) topics.publish("room:a", i);
  await using client = network.client();
  const old = client.subscribe("room:a", { last: 200 });
  await old.ready;
  network.pairs[0]!.link.stall("to-client");
  await turns(20);
  const leaving = old.unsubscribe();
  const fresh = client.subscribe("room:a");
  await turns(20);
  network.pairs[0]!.link.resume("to-client");
  await leaving;
  await fresh.ready;
  topics.publish("room:a", 201);
  for await (const { data } of fresh) {
    assertEquals(data, 201);
    break;
  }
});

Deno.test("Subscriptions to 128 topics resume together, after other requests of the client", async () => {
  await using server = listen({
    authorize,
    history,
    webTransport: false,
    onMessage: (message) => message.reply(message.data),
  });
  await using cable = new Cable(portOf(server));
  await using client = connect(cable.url, options);
  const topics = Array.from({ length: 128 }, (_, i) => `room:${i}`);
  const readers = topics.map((topic) => reading(client, topic));
  await Promise.all(readers.map(({ subscription }) => soon(subscription.ready)));
  cable.cut();
  await until(() => readers[0]!.subscription.status.current === "lost");
  for (const topic of topics) server.publish(topic, topic);
  const asked = Array.from({ length: 64 }, (_, i) => client.request("echo", i));
  await until(() => readers.every(({ got }) => got.length === 2));
  for (const { got, subscription } of readers) {
    assertEquals([(got[0] as Recovery).recovered, got[1]], [true, subscription.topic]);
  }
  assertEquals(await soon(Promise.all(asked)), asked.map((_, i) => i));
  assertEquals(server.manager.all()[0]!.stats.invalidMessages, 0);
  await client.close();
  for (const { done } of readers) await done;
});

Deno.test("Subscriptions resume on a server that temporarily rejects most of them, and end on a permanent rejection", async () => {
  await using broker = new MemoryBroker();
  const common = { broker, history, webTransport: false } as const;
  await using first = listen({ ...common, authorize });
  // The clock of the rate limit stands still until every topic has been requested once.
  let heldAt: number | undefined = Date.now();
  const real = platformRuntime();
  const runtime: Runtime = Object.assign(platformRuntime(), { now: () => heldAt ?? real.now() });
  await using second = listen({
    ...common,
    runtime,
    authorize: (_session, topic) => topic !== "room:secret",
    rates: { maxRejections: 40, perSession: { subscriptions: { perSecond: 100, burst: 4 } } },
  });
  await using cable = new Cable(portOf(first));
  await using client = connect(cable.url, options);
  const secret = client.subscribe("room:secret");
  const readers = Array.from({ length: 30 }, (_, i) => reading(client, `room:${i}`));
  await Promise.all([secret, ...readers.map(({ subscription }) => subscription)]
    .map(({ ready }) => soon(ready)));
  cable.port = portOf(second);
  cable.cut();
  await until(() => secret.status.current === "lost");
  for (const { subscription } of readers) first.publish(subscription.topic, 1);
  const rejections = () => second.manager.stats().rates.rejected.session;
  // There are 31 topics, and the burst allows four.
  await until(() => rejections() >= 27);
  heldAt = undefined;
  await until(() => readers.every(({ got }) => got.length === 2));
  for (const { got, subscription } of readers) {
    assertEquals([(got[0] as Recovery).recovered, got[1]], [true, 1]);
    assertEquals(subscription.status.current, "subscribed");
  }
  const error = await assertRejects(() => Array.fromAsync(secret), RequestError);
  assertEquals(error.failure.code, "forbidden");
  // After one round for all topics, there are few rejections.
  assert(rejections() < 40, `${rejections()} rejections`);
  assertEquals(second.manager.stats().rates.closed, 0);
  await client.close();
  for (const { done } of readers) await done;
});

Deno.test("Client with at-least-once delivers each message exactly once over a connection that breaks repeatedly", async () => {
  const random = new Random(4);
  const seen: unknown[] = [];
  await using cluster = nodes(2, {
    async onMessage({ data }) {
      if (random.below(4) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      seen.push(data);
    },
    session: { closeTimeoutMs: 50 },
  });
  const { servers } = cluster;
  await using cable = new Cable(portOf(servers[0]!));
  await using client = connect(cable.url, { ...options, delivery: "at-least-once" });
  const { got, subscription, done } = reading(client, "room:a");
  await soon(subscription.ready);
  const published: Promise<void>[] = [];
  for (let i = 0; i < 400; i++) {
    if (client.outbox.messages === 100) {
      cable.cut();
      await until(() => client.outbox.messages < 100);
    }
    if (i % 2 === 0) client.send("say", i);
    else published.push(client.publish("room:a", i));
    published.at(-1)?.catch(() => {});
    if (random.below(20) === 0) cable.freeze();
    if (random.below(20) === 0) cable.cut();
    if (random.below(4) === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  cable.cut();
  await soon(client.flushed());
  await soon(Promise.all(published));
  const numbers = (from: number) => Array.from({ length: 200 }, (_, i) => from + 2 * i);
  assertEquals(seen, numbers(0));
  // The client may recover once more after the last one.
  const received = () => got.filter((item) => !isRecovery(item));
  await until(() => received().at(-1) === 399);
  assertEquals(received(), numbers(1));
  assert(got.filter(isRecovery).every(({ recovered }) => recovered));
  await client.close();
  await done;
});

Deno.test("Client with at-least-once moves to another server, which handles no message again", async () => {
  const seen: string[] = [];
  const gate = Promise.withResolvers<void>();
  await using broker = new MemoryBroker();
  const node = (name: string) =>
    listen({
      broker,
      webTransport: false,
      session: { closeTimeoutMs: 60_000 },
      async onMessage({ data }) {
        if (data === 2) await gate.promise;
        seen.push(`${name} ${data}`);
      },
    });
  const first = node("a");
  await using second = node("b");
  await using cable = new Cable(portOf(first));
  await using client = connect(cable.url, { ...options, delivery: "at-least-once" });
  for (const data of [1, 2, 3]) client.send("say", data);
  await until(() => client.outbox.messages === 2);
  cable.port = portOf(second);
  cable.cut();
  await until(() => second.manager.count === 1);
  gate.resolve();
  await soon(client.flushed());
  assertEquals(seen, ["a 1", "a 2", "b 3"]);
  await first.close();
});

Deno.test("Server.unsubscribe() with a temporary code loses no publication of a history", async () => {
  await using cluster = nodes(1);
  const [server] = cluster.servers;
  await using client = connect(server!.url, options);
  const { got, subscription } = reading(client, "room:a");
  await subscription.ready;
  server!.publish("room:a", 1);
  const [session] = server!.topics.subscribers("room:a");
  assert(server!.unsubscribe(session!, "room:a", { code: "unavailable" }));
  server!.publish("room:a", 2);
  await until(() => server!.topics.subscribers("room:a").length === 1);
  server!.publish("room:a", 3);
  await until(() => got.includes(3));
  assertEquals(got.filter((item) => !isRecovery(item)), [1, 2, 3]);
  assertEquals(got.filter(isRecovery).map(({ recovered }) => recovered), [true]);
});
