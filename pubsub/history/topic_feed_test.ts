import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { internals } from "../../session/session.ts";
import { passTime, turns, until } from "../../tests/waiting.ts";
import { assertRun, Client, Clients } from "../clients_fixture.ts";
import { ScriptedStore } from "../scripted_broker_fixture.ts";
import {
  fail,
  type FaultyBroker,
  hang,
  pass,
  replyAfter,
  waitFor,
} from "../../tests/faulty_broker.ts";
import type { Publication } from "../broker.ts";
import { Topics } from "../topics.ts";

/** A node with one client that follows the topic `t`. */
interface Bench extends AsyncDisposable {
  readonly store: ScriptedStore;
  readonly broker: FaultyBroker;
  readonly topics: Topics;
  readonly client: Client;
}

async function bench(before = 0): Promise<Bench> {
  const store = new ScriptedStore();
  for (let i = 1; i <= before; i++) store.publish(i);
  const broker = store.node();
  const topics = new Topics({ broker, history: { t: { size: 1_000_000 } } });
  const client = new Client(topics.flusher);
  client.subscribe(topics);
  await turns();
  assertEquals(client.take(), [{ epoch: "e1", offset: before, head: before }]);
  return {
    store,
    broker,
    topics,
    client,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      await topics[Symbol.asyncDispose]();
      await turns();
    },
  };
}

/** Loses the deliveries of these publications. */
function lose(broker: FaultyBroker, ...offsets: readonly number[]): void {
  broker.onDelivery = (one, deliver) => !offsets.includes(one.position!.offset) && deliver(one);
}

/** The numbers in the messages since the last call. */
function numbersOf(client: Client): number[] {
  return client.takeData().map((data) => (data as { readonly i: number }).i);
}

Deno.test("TopicFeed reads missing publications before later ones", async () => {
  await using node = await bench(3);
  const { store, broker, topics, client } = node;
  broker.onDelivery = (one, deliver) => one.position!.offset % 3 === 0 && deliver(one);
  for (let i = 4; i <= 9; i++) store.publish(i);
  await turns();
  assertRun(client.takeData(), 4, 9);
  const { recovered, gaps } = topics.stats;
  assertEquals([recovered, gaps], [6, 0]);
});

Deno.test("TopicFeed follows offsets with holes by each previous offset", async () => {
  await using node = await bench();
  const { store, broker, client } = node;
  store.step = 7;
  lose(broker, 14);
  for (let i = 1; i <= 4; i++) store.publish(i);
  await turns();
  assertEquals(client.take(), [[1, 7, 0], [2, 14, 7], [3, 21, 14], [4, 28, 21]]);
  assertEquals(broker.callsOf("history.read").map(([, { after }]) => after), [undefined, 7]);
});

Deno.test("TopicFeed drops duplicate publications, and sorts late ones", async () => {
  await using node = await bench();
  const { store, broker, topics, client } = node;
  const late: Publication[] = [];
  broker.onDelivery = (one) => void late.push(one);
  for (let i = 1; i <= 6; i++) store.publish(i);
  // The store's reads are empty, as on a replica that lags.
  const read = store.read.bind(store);
  store.read = (options) => ({ ...read(options), head: 0, publications: [] });
  for (const at of [1, 0, 0, 2, 5, 4, 3, 5, 1]) broker.deliver(late[at]!);
  await turns();
  assertRun(client.takeData(), 1, 6);
  assertEquals(topics.stats.duplicates, 3);
});

Deno.test("TopicFeed reads publications missed by an interrupted broker", async () => {
  await using node = await bench();
  const { store, broker, client } = node;
  broker.onDelivery = () => {};
  for (let i = 1; i <= 300; i++) store.publish(i);
  await turns();
  assertEquals(client.take(), []);
  broker.interrupt();
  await turns(50);
  assertRun(client.takeData(), 1, 300);
});

Deno.test("TopicFeed detects the loss of the last publication by periodic checks", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, broker, client } = node;
  broker.onDelivery = (one, deliver) => one.position!.offset === 1 && deliver(one);
  store.publish(1);
  store.publish(2);
  const reads = broker.callsOf("history.read").length;
  await passTime(time, 9_000);
  assertRun(client.takeData(), 1, 1);
  assertEquals(broker.callsOf("history.read").length, reads);
  await passTime(time, 31_500);
  assertRun(client.takeData(), 2, 2);
});

Deno.test("TopicFeed reports a gap if missing publications have expired", async () => {
  await using node = await bench(2);
  const { store, broker, topics, client } = node;
  broker.onDelivery = (one, deliver) => one.position!.offset === 9 && deliver(one);
  for (let i = 3; i <= 8; i++) store.publish(i);
  store.trim(2);
  store.publish(9);
  await turns();
  assertEquals(client.take(), [
    { gap: "t", reason: "too-old", epoch: "e1", offset: 6 },
    [7, 7, 6],
    [8, 8, 7],
    [9, 9, 8],
  ]);
  assertEquals(topics.stats.gaps, 1);
});

Deno.test("Replay reports a gap up to the end of an expired history, but not for later publications", async () => {
  // More than the node itself remembers.
  await using node = await bench(300);
  const { store, topics } = node;
  await using late = new Client(topics.flusher);
  const read = store.read.bind(store);
  store.read = (options) => {
    const page = read(options);
    if (options.after === 1) return { ...page, publications: page.publications.slice(0, 1) };
    store.publish(301);
    return { ...page, publications: [] };
  };
  late.subscribe(topics, "t", { since: { epoch: "e1", offset: 1 } });
  await turns();
  assertEquals(late.take(), [
    { epoch: "e1", offset: 1, head: 300, recovered: true },
    [2, 2, 1],
    { gap: "t", reason: "too-old", epoch: "e1", offset: 300 },
    [301, 301, 300],
  ]);
});

Deno.test("TopicFeed reports a gap if the whole history has expired", async () => {
  await using node = await bench(2);
  const { store, broker, client } = node;
  broker.onDelivery = () => {};
  store.publish(3);
  store.trim(0);
  broker.interrupt();
  await turns();
  assertEquals(client.take(), [{ gap: "t", reason: "too-old", epoch: "e1", offset: 3 }]);
  broker.onDelivery = (one, deliver) => deliver(one);
  store.publish(4);
  await turns();
  assertEquals(client.take(), [[4, 4, 3]]);
});

Deno.test("TopicFeed reports a new epoch, then all known publications of it", async () => {
  await using node = await bench(5);
  const { store, broker, client } = node;
  store.trim(3);
  store.beginEpoch("e2", 1);
  store.publish("new");
  await turns();
  assertEquals(client.take(), [
    { gap: "t", reason: "new-epoch", epoch: "e2", offset: 2 },
    [3, 3, 2],
    [4, 4, 3],
    ["new", 5, 4],
  ]);
  store.publish("next");
  await turns();
  assertEquals(client.take(), [["next", 6, 5]]);
  // Also after an interruption, without a publication.
  store.kept = [];
  store.beginEpoch("e3");
  broker.interrupt();
  await turns();
  assertEquals(client.take(), [{ gap: "t", reason: "new-epoch", epoch: "e3", offset: 0 }]);
});

Deno.test("TopicFeed ignores late publications of an earlier epoch", async () => {
  await using node = await bench();
  const { store, broker, client } = node;
  const old = store.publish(1);
  store.beginEpoch("e2");
  store.publish(2);
  await turns();
  client.take();
  broker.deliver({ ...old, position: { epoch: "e1", offset: 2, prev: 1 } });
  await turns();
  store.publish(3);
  await turns();
  assertEquals(client.take(), [[3, 3, 2]]);
});

Deno.test("TopicFeed forgets the oldest of many past epochs first", async () => {
  await using node = await bench();
  const { store, broker, client } = node;
  const late: Publication[] = [];
  // 21 epochs, of which 16 are remembered.
  for (let epoch = 1; epoch <= 21; epoch++) {
    if (epoch > 1) store.beginEpoch(`e${epoch}`);
    late.push(store.publish(epoch));
    await turns();
  }
  client.take();
  const reads = broker.callsOf("history.read").length;
  for (const one of late.slice(5, 20)) broker.deliver(one);
  await turns();
  assertEquals([client.take(), broker.callsOf("history.read").length], [[], reads]);
});

Deno.test("TopicFeed follows a broker that returns to a past epoch", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, client } = node;
  store.publish(1);
  store.beginEpoch("e2", 1);
  store.publish("other");
  await turns();
  client.take();
  store.beginEpoch("e1");
  for (let i = 2; i <= 4; i++) {
    store.publish(i);
    await passTime(time, 14_000);
  }
  assertEquals(client.takeData(), ["other", 2, 3, 4]);
});

Deno.test("TopicFeed stops requesting publications that the broker does not return", async () => {
  await using node = await bench(3);
  const { store, broker, client } = node;
  const read = store.read.bind(store);
  store.read = (options) => ({ ...read({ ...options, after: 0 }), head: 9 });
  broker.interrupt();
  await turns();
  assert(
    broker.callsOf("history.read").length < 10,
    `${broker.callsOf("history.read").length} reads`,
  );
  assertEquals(client.take(), [{ gap: "t", reason: "too-old", epoch: "e1", offset: 9 }]);
});

Deno.test("TopicFeed waits for an unreachable broker, and holds publications meanwhile", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, broker, topics, client } = node;
  broker.make("history.read", fail);
  lose(broker, 2);
  for (let i = 1; i <= 5; i++) store.publish(i);
  await passTime(time, 1_000);
  assertRun(client.takeData(), 1, 1);
  const { reads } = topics.stats;
  assert(reads > 2 && reads < 8, `${reads} reads`);
  broker.make("history.read", pass);
  await passTime(time, 2_000);
  assertRun(client.takeData(), 2, 5);
});

Deno.test("TopicFeed continues after a gap if reading from the broker fails for long", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, broker, client } = node;
  broker.make("history.read", fail);
  lose(broker, 2, 5);
  for (let i = 1; i <= 6; i++) store.publish(i);
  await passTime(time, 30_000);
  assertEquals(client.take(), [
    [1, 1, 0],
    { gap: "t", reason: "unavailable", epoch: "e1", offset: 2 },
    [3, 3, 2],
    [4, 4, 3],
    { gap: "t", reason: "unavailable", epoch: "e1", offset: 5 },
    [6, 6, 5],
  ]);
});

Deno.test("TopicFeed cancels a read that does not end", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, broker, client } = node;
  let isHanging = true;
  broker.make("history.read", (run, call) => (isHanging ? hang : pass)(run, call));
  lose(broker, 1);
  store.publish(1);
  store.publish(2);
  await passTime(time, 1_000);
  assertEquals(client.take(), []);
  isHanging = false;
  await passTime(time, 6_000);
  assertRun(client.takeData(), 1, 2);
});

Deno.test("TopicFeed holds a bounded number of publications and bytes, and reads the rest again", async () => {
  using time = new FakeTime();
  // The third text has 200,000 bytes in 66,667 UTF-16 units.
  for (
    const [count, text, mostHeld] of [
      [1_000, "", 256],
      [20, "x".repeat(200_000), 5],
      [15, "€".repeat(66_667), 5],
    ] as const
  ) {
    await using node = await bench();
    const { store, broker, topics, client } = node;
    broker.make("history.read", fail);
    lose(broker, 1);
    for (let i = 1; i <= count; i++) store.publish({ i, text });
    await passTime(time, 50);
    broker.make("history.read", pass);
    await passTime(time, 5_000);
    assertRun(numbersOf(client), 1, count);
    // Held publications also arrive in the pages, as duplicates.
    const { duplicates } = topics.stats;
    assert(duplicates <= mostHeld, `${duplicates} of ${count} were held`);
  }
});

Deno.test("TopicFeed lets a slow member catch up at its own pace", async () => {
  await using node = await bench();
  const { store, broker, topics, client } = node;
  const limits = { sendQueue: { maxMessages: 64 } };
  await using others = Clients.on(topics.flusher, limits, limits);
  const [slow, fast] = others as unknown as [Client, Client];
  slow.subscribe(topics);
  fast.subscribe(topics);
  await turns();
  const text = "x".repeat(20_000);
  slow.pair.link.stall("to-client");
  for (let i = 1; i <= 8; i++) store.publish({ i, text });
  await turns();
  assert(slow.session.stats.queuedMessages > 0);
  broker.onDelivery = () => {};
  for (let i = 9; i <= 500; i++) store.publish({ i, text });
  broker.interrupt();
  await turns(100);
  const of = (one: Client) =>
    one.take().filter(Array.isArray).map(([data]) => (data as { i: number }).i);
  for (const one of [fast, client]) assertRun(of(one), 1, 500);
  assertEquals(slow.session.state, "connected");
  slow.pair.link.resume("to-client");
  await turns(200);
  assertRun(of(slow), 1, 500);
});

Deno.test("TopicFeed lets members with small queues receive held publications at their own pace", async () => {
  using time = new FakeTime();
  await using node = await bench();
  const { store, broker, topics } = node;
  await using others = Clients.on(topics.flusher, { sendQueue: { maxMessages: 8 } });
  const [small] = others as unknown as [Client];
  small.subscribe(topics);
  await turns();
  small.take();
  const read = store.read.bind(store);
  broker.make("history.read", fail);
  lose(broker, 1);
  const text = "x".repeat(45_000);
  for (let i = 1; i <= 14; i++) store.publish({ i, text });
  await turns();
  // A reply from before the second publication.
  store.read = (options) => {
    store.read = read;
    const page = read(options);
    const publications = page.publications.filter(({ position }) => position!.offset === 1);
    return { ...page, head: 1, publications };
  };
  broker.make("history.read", pass);
  await passTime(time, 1_000);
  assertEquals(small.session.state, "connected");
  assertRun(numbersOf(small), 1, 14);
});

Deno.test("TopicFeed replies `unavailable` if the broker is unreachable, and reports its position later", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  store.publish(1);
  const broker = store.node();
  await using topics = new Topics({ broker, history: { t: {} } });
  broker.make("history.read", fail);
  await using clients = Clients.on(topics.flusher, {}, {}, {});
  const [one, two, three] = clients as unknown as [Client, Client, Client];
  one.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  two.subscribe(topics);
  // The server subscribes the third session, which then requests the topic without `since`.
  topics.subscribe(three.session, "t");
  three.subscribe(topics);
  await passTime(time, 20_000);
  assertEquals(one.take(), [{ recovered: false, reason: "unavailable" }]);
  // Without a reason, the reply would say that the topic has no history.
  assertEquals(two.take(), [{ reason: "unavailable" }]);
  assertEquals(three.take(), [{ reason: "unavailable" }]);
  two.subscribe(topics);
  await turns();
  assertEquals(two.take(), [{ reason: "unavailable" }]);
  broker.make("history.read", pass);
  broker.interrupt();
  await passTime(time, 100);
  store.publish(2);
  await turns();
  const rest = [{ gap: "t", reason: "unavailable", epoch: "e1", offset: 1 }, [2, 2, 1]];
  assertEquals({ oneTake: one.take(), twoTake: two.take(), threeTake: three.take() }, {
    oneTake: rest,
    twoTake: rest,
    threeTake: rest,
  });
});

Deno.test("TopicFeed replies `unavailable` to two calls of a session if the broker is unreachable", async () => {
  using time = new FakeTime();
  const broker = new ScriptedStore().node();
  await using topics = new Topics({ broker, history: { t: {} } });
  broker.make("history.read", fail);
  await using client = new Client(topics.flusher);
  client.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  client.subscribe(topics);
  await passTime(time, 20_000);
  assertEquals(client.take(), [
    { recovered: false, reason: "unavailable" },
    { reason: "unavailable" },
  ]);
});

Deno.test("TopicFeed replies to a member with the position as soon as there is one", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  store.publish(1);
  const broker = store.node();
  const ready = Promise.withResolvers<void>();
  broker.ready = ready.promise;
  await using topics = new Topics({ broker, history: { t: {} } });
  await using client = new Client(topics.flusher);
  topics.subscribe(client.session, "t");
  client.subscribe(topics);
  await passTime(time, 1_000);
  assertEquals(client.take(), []);
  ready.resolve();
  await turns();
  store.publish(2);
  await turns();
  assertEquals(client.take(), [{ epoch: "e1", offset: 1, head: 1 }, [2, 2, 1]]);
});

Deno.test("TopicFeed replies `unavailable` if the broker does not confirm its subscription in time", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  const broker = store.node();
  broker.ready = new Promise(() => {});
  await using topics = new Topics({ broker, history: { t: {} } });
  await using client = new Client(topics.flusher);
  client.subscribe(topics, "t", { last: 3 });
  await passTime(time, 9_000);
  assertEquals(client.take(), []);
  await passTime(time, 1_500);
  // A periodic read of the feed may have found the position by now, which is reported next.
  assertEquals(client.take()[0], { reason: "unavailable" });
});

Deno.test("TopicFeed checks with the broker if a client is ahead of the feed", async () => {
  await using node = await bench(1);
  const { store, broker, topics } = node;
  broker.onDelivery = () => {};
  store.publish(2);
  store.publish(3);
  await using back = new Client(topics.flusher);
  back.subscribe(topics, "t", { since: { epoch: "e1", offset: 2 } });
  await turns();
  assertEquals(back.take(), [{ epoch: "e1", offset: 2, head: 3, recovered: true }, [3, 3, 2]]);
  store.beginEpoch("e2");
  back.subscribe(topics, "t", { since: { epoch: "e2", offset: 2 } });
  await turns();
  assertEquals(back.take(), [{ epoch: "e2", offset: 2, head: 3, recovered: true }, [3, 3, 2]]);
});

Deno.test("TopicFeed repeats nothing to a client ahead of it while the broker is unreachable", async () => {
  using time = new FakeTime();
  await using node = await bench(1);
  const { store, broker, topics, client } = node;
  const late: Publication[] = [];
  broker.onDelivery = (one) => void late.push(one);
  broker.make("history.read", fail);
  for (let i = 2; i <= 4; i++) store.publish(i);
  await using back = new Client(topics.flusher);
  back.subscribe(topics, "t", { since: { epoch: "e1", offset: 3 } });
  await passTime(time, 10_000);
  assertEquals(back.take(), [
    { epoch: "e1", offset: 3, head: 3, recovered: false, reason: "unavailable" },
  ]);
  for (const one of late) broker.deliver(one);
  await turns();
  assertRun(client.takeData(), 2, 4);
  assertEquals(back.take(), [[4, 4, 3]]);
});

Deno.test("TopicFeed moves members with a running replay to a new epoch too", async () => {
  await using node = await bench(400);
  const { store, topics } = node;
  await using client = new Client(topics.flusher, { sendQueue: { maxMessages: 20 } });
  client.pair.link.stall("to-client");
  const sizes = store.kept.length;
  client.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  await turns(40);
  store.beginEpoch("e2", 50);
  store.publish("new");
  await turns(40);
  client.pair.link.resume("to-client");
  await turns(400);
  const lines = client.take() as unknown[];
  const at = lines.findIndex((semaphore) => (semaphore as { gap?: string }).gap === "t");
  assertEquals(lines[at], { gap: "t", reason: "new-epoch", epoch: "e2", offset: 0 });
  const data = lines.slice(at + 1).map((semaphore) => (semaphore as unknown[])[0]);
  assertEquals(data.pop(), "new");
  assertRun(data, 1, sizes - 50);
});

Deno.test("TopicFeed replies to a member with a running replay with a position in one epoch", async () => {
  await using node = await bench(400);
  const { store, broker, topics } = node;
  const gate = Promise.withResolvers<void>();
  let reads = 0;
  const late = replyAfter(gate.promise);
  broker.make("history.read", (run, call) => (++reads === 2 ? late : pass)(run, call));
  await using client = new Client(topics.flusher);
  client.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  await turns(40);
  const sent = client.take().length - 1;
  store.beginEpoch("e2", 400);
  store.publish("new");
  await turns();
  client.subscribe(topics);
  await turns();
  gate.resolve();
  await turns(40);
  assertEquals(client.take(), [
    { epoch: "e1", offset: sent, head: sent },
    { gap: "t", reason: "new-epoch", epoch: "e2", offset: 0 },
    ["new", 1, 0],
  ]);
});

Deno.test("TopicFeed releases everything when its last session leaves, also during a read", async () => {
  using time = new FakeTime();
  await using node = await bench(10);
  const { store, broker, topics, client } = node;
  const gate = Promise.withResolvers<void>();
  broker.make("history.read", waitFor(gate.promise));
  broker.interrupt();
  await turns();
  topics.unsubscribe(client.session, "t");
  assertEquals({
    brokerTopics: broker.topics.length,
    tailBytes: topics.stats.tailBytes,
    topics: topics.size,
  }, { brokerTopics: 0, tailBytes: 0, topics: 0 });
  gate.resolve();
  store.publish(11);
  await passTime(time, 60_000);
  assertEquals(client.take(), [{ unsubscribed: "t", code: "removed", reason: "" }]);
  assertEquals(broker.callsOf("history.read").length, 2);
});

Deno.test("TopicFeed ignores publications without a position", async () => {
  await using node = await bench();
  const { store, broker, client } = node;
  broker.deliver({ topic: "t", payload: '{"topic":"t","data":0}' });
  store.publish(1);
  await turns();
  assertEquals(client.take(), [[1, 1, 0]]);
});

Deno.test("TopicFeed recovers nothing from a page of a history that has started over meanwhile", async () => {
  await using node = await bench(400);
  const { store, broker, topics } = node;
  const gate = Promise.withResolvers<void>();
  let reads = 0;
  const late = replyAfter(gate.promise);
  broker.make("history.read", (run, call) => (++reads === 1 ? late : pass)(run, call));
  await using back = new Client(topics.flusher);
  back.subscribe(topics, "t", { since: { epoch: "e1", offset: 10 } });
  await turns();
  store.beginEpoch("e2", 400);
  store.publish("new");
  await turns();
  gate.resolve();
  await turns(40);
  assertEquals(back.take(), [
    { epoch: "e2", offset: 1, head: 1, recovered: false, reason: "new-epoch" },
  ]);
});

Deno.test("TopicFeed replies in time if the broker accepts a read and never responds", async () => {
  using time = new FakeTime();
  await using node = await bench(3);
  const { broker, topics } = node;
  broker.make("history.read", hang);
  await using clients = Clients.on(topics.flusher, {}, {});
  const [ahead, behind] = clients as unknown as [Client, Client];
  ahead.subscribe(topics, "t", { since: { epoch: "e1", offset: 9 } });
  behind.subscribe(topics, "t", { since: { epoch: "e0", offset: 1 } });
  await passTime(time, 20_500);
  assertEquals(ahead.take(), [
    { epoch: "e1", offset: 9, head: 9, recovered: false, reason: "unavailable" },
  ]);
  assertEquals(behind.take(), [
    { epoch: "e1", offset: 3, head: 3, recovered: false, reason: "new-epoch" },
  ]);
});

Deno.test("TopicFeed keeps nothing of a page that arrives as its last session leaves", async () => {
  for (let steps = 0; steps < 30; steps++) {
    await using node = await bench();
    const { store, broker, topics, client } = node;
    broker.onDelivery = () => {};
    store.publish(1);
    const gate = Promise.withResolvers<void>();
    broker.make("history.read", replyAfter(gate.promise));
    broker.interrupt();
    await turns();
    gate.resolve();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    topics.unsubscribe(client.session, "t");
    await turns();
    assertEquals(topics.stats.tailBytes, 0, `after ${steps} steps`);
  }
});

Deno.test("TopicFeed reports a gap of a session before the publications after it", async () => {
  await using node = await bench();
  const { store, topics, client } = node;
  let isArmed = false;
  const policy = () => {
    if (isArmed) store.publish("after");
    isArmed = false;
    return "drop-oldest" as const;
  };
  await using stalled = new Client(topics.flusher, { sendQueue: { policy } });
  topics.subscribe(stalled.session, "t");
  stalled.pair.link.stall("to-client");
  for (let i = 0; i < 2; i++) store.publish("x".repeat(60_000));
  await turns();
  isArmed = true;
  client.take();
  // The last of them causes a flush, because the batch is full.
  for (let i = 0; i < 255; i++) store.publish(i);
  store.publish("left out", client.session.id);
  await turns();
  assert(!isArmed);
  let known = 2;
  for (const { offset, prev } of client.lines as { offset: number; prev: number }[]) {
    assertEquals(prev, known);
    known = offset;
  }
  assertEquals(known, 259);
});

Deno.test("TopicFeed's sessions get earlier publications before they are closed, in order", async () => {
  await using node = await bench();
  const { store, client } = node;
  store.publish(1);
  store.publish(2, client.session.id);
  client.session[internals].abort(4000, "over");
  await turns();
  assertEquals(client.take(), [[1, 1, 0], { skip: "t", offset: 2, prev: 1 }]);
});

Deno.test("TopicFeed makes members ahead of it wait, and reports no gap to them before that", async () => {
  using time = new FakeTime();
  await using node = await bench(1);
  const { store, broker, topics, client } = node;
  const live: Publication[] = [];
  broker.onDelivery = (one) => void live.push(one);
  for (let i = 2; i <= 6; i++) store.publish(i);
  broker.make("history.read", fail);
  await using clients = Clients.on(topics.flusher, {}, {});
  const [ahead, beyond] = clients as unknown as [Client, Client];
  ahead.subscribe(topics, "t", { since: { epoch: "e1", offset: 5 } });
  beyond.subscribe(topics, "t", { since: { epoch: "e1", offset: 99 } });
  await passTime(time, 10_500);
  for (const one of [ahead, beyond]) {
    const [{ reason, offset }] = one.take() as [{ reason: string; offset: number }];
    assertEquals([reason, offset], ["unavailable", one === ahead ? 5 : 99]);
  }
  for (const one of live.slice(2)) broker.deliver(one);
  await passTime(time, 15_000);
  assertEquals(client.take(), [
    { gap: "t", reason: "unavailable", epoch: "e1", offset: 3 },
    [4, 4, 3],
    [5, 5, 4],
    [6, 6, 5],
  ]);
  assertEquals([ahead.take(), beyond.take()], [[[6, 6, 5]], []]);
  // Once the store responds, no publication can be beyond its head.
  broker.make("history.read", pass);
  broker.onDelivery = (one, deliver) => deliver(one);
  broker.interrupt();
  await passTime(time, 3_000);
  store.publish(7);
  await turns();
  assertEquals(beyond.take(), [
    { gap: "t", reason: "beyond-head", epoch: "e1", offset: 6 },
    [7, 7, 6],
  ]);
  assertEquals(ahead.take(), [[7, 7, 6]]);
});

Deno.test("TopicFeed without a position starts no member before its first page", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  for (let i = 1; i <= 3; i++) store.publish(i);
  const broker = store.node();
  await using topics = new Topics({ broker, history: { t: {} } });
  await using client = new Client(topics.flusher);
  broker.make("history.read", fail);
  client.subscribe(topics, "t", { since: { epoch: "e1", offset: 2 } });
  await passTime(time, 10_500);
  assertEquals(client.take(), [{ recovered: false, reason: "unavailable" }]);
  broker.deliver(store.kept[1]!);
  broker.deliver(store.kept[2]!);
  await turns();
  assertEquals(client.take(), [
    { gap: "t", reason: "unavailable", epoch: "e1", offset: 2 },
    [3, 3, 2],
  ]);
});

Deno.test("Replay repeats a page read that the broker failed", async () => {
  using time = new FakeTime();
  await using node = await bench(300);
  const { broker, topics } = node;
  let reads = 0;
  broker.make("history.read", (run, call) => (++reads <= 2 ? fail : pass)(run, call));
  await using back = new Client(topics.flusher);
  back.subscribe(topics, "t", { since: { epoch: "e1", offset: 10 } });
  await passTime(time, 3_000);
  assertRun(back.takeData(), 11, 300);
  assert(reads > 2);
});

Deno.test("Replay reports a gap if publications expire while it runs", async () => {
  await using node = await bench();
  const { store, topics } = node;
  for (let i = 1; i <= 400; i++) store.publish({ i, text: "x".repeat(2_000) });
  await turns();
  await using slow = new Client(topics.flusher, { sendQueue: { maxMessages: 20 } });
  slow.pair.link.stall("to-client");
  slow.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  await turns(40);
  store.trim(50);
  slow.pair.link.resume("to-client");
  await turns(400);
  const { reason, offset } = slow.lines.find(({ gap }) => gap === "t") as {
    readonly reason: string;
    readonly offset: number;
  };
  const data = numbersOf(slow);
  const before = data.indexOf(offset + 1);
  assertEquals(reason, "too-old");
  assertRun(data.slice(0, before), 1, before);
  assertRun(data.slice(before), offset + 1, 400);
  assert(before < offset);
});

Deno.test("TopicFeed ignores an opening page of an epoch that is over by then", async () => {
  const store = new ScriptedStore();
  for (let i = 1; i <= 3; i++) store.publish(i);
  const broker = store.node();
  await using topics = new Topics({ broker, history: { t: {} } });
  await using client = new Client(topics.flusher);
  const gate = Promise.withResolvers<void>();
  let reads = 0;
  const late = replyAfter(gate.promise);
  broker.make("history.read", (run, call) => (++reads === 1 ? late : pass)(run, call));
  client.subscribe(topics);
  await turns();
  store.beginEpoch("e2");
  store.publish("new");
  await turns();
  gate.resolve();
  await turns();
  store.publish("next");
  await turns();
  assertEquals(client.take(), [{ epoch: "e2", offset: 4, head: 4 }, ["next", 5, 4]]);
});

Deno.test("TopicFeed keeps a bounded number of bytes for slow sessions", async () => {
  await using node = await bench();
  const { store, topics } = node;
  const text = "x".repeat(100_000);
  for (let i = 1; i <= 20; i++) store.publish({ i, text });
  await using slow = Clients.on(topics.flusher, ...Array.from({ length: 200 }, () => ({})));
  for (const { pair, session } of slow) {
    pair.link.stall("to-client");
    session.send("filler", text);
  }
  await turns();
  for (const one of slow) one.subscribe(topics, "t", { since: { epoch: "e1", offset: 0 } });
  await turns(100);
  const { waitingBytes } = topics.stats;
  assert(waitingBytes > 60_000_000 && waitingBytes <= 67_108_864, `${waitingBytes} bytes`);
  for (const { pair } of slow) pair.link.resume("to-client");
  await until(() => topics.stats.replayed >= 4_000);
  await turns();
  for (const one of slow) {
    const data = one.takeData() as { i: number }[];
    assertRun(data.map(({ i }) => i).filter((i) => i !== undefined), 1, 20);
  }
  assertEquals(topics.stats.waitingBytes, 0);
});
