import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../base/runtime.ts";
import { decodeBinary } from "../session/wire/encode.ts";
import { BrokerError, QueueFullError, UnsupportedError } from "../errors.ts";
import { internals } from "../session/session.ts";
import { turns, until } from "../tests/waiting.ts";
import { assertRun, Client, Clients } from "./clients_fixture.ts";
import { ScriptedStore } from "./scripted_broker_fixture.ts";
import { type FaultyBroker, FaultyStore, hang } from "../tests/faulty_broker.ts";
import { MemoryBroker } from "./memory/broker.ts";
import type { SubscribeOptions } from "./topic_options.ts";
import { Topics } from "./topics.ts";

const HISTORY = { t: {}, "chat:{room}": { size: 10 } };

function publishRun(topics: Topics, first: number, last: number, topic = "t"): void {
  for (let i = first; i <= last; i++) topics.publish(topic, i);
}

Deno.test("Topics({ history }) returns the bounds of a topic, by pattern", async () => {
  await using topics = new Topics({ history: HISTORY });
  const bounds = { size: 1_000, ttlMs: 300_000, bytes: 1_048_576 };
  assertEquals(topics.historyOf("t"), { ...bounds, pattern: "t" });
  assertEquals(topics.historyOf("chat:a:b"), { ...bounds, size: 10, pattern: "chat:{room}" });
  assertEquals(topics.historyOf("other"), undefined);
  await using all = new Topics({ history: { "{any}": {} } });
  for (const topic of ["presence:room", "$skein:nodes"]) {
    assertEquals(all.historyOf(topic), undefined, topic);
  }
});

Deno.test("Topics({ history }) rejects patterns that overlap, invalid bounds, and brokers without histories", async () => {
  assertThrows(
    () => new Topics({ history: { "chat:{room}": {}, "chat:lobby": {} } }),
    TypeError,
    'Cannot create server: patterns "chat:{room}" and "chat:lobby" overlap',
  );
  const positive = "a positive integer";
  for (
    const [bounds, rule] of [
      [{ size: 0 }, positive],
      [{ size: 1.5 }, positive],
      [{ ttlMs: -1 }, "an integer from 1 to 3153600000000"],
      [{ bytes: NaN }, positive],
    ] as const
  ) {
    const [name, value] = Object.entries(bounds)[0]!;
    assertThrows(
      () => new Topics({ history: { "a:{b}": bounds } }),
      RangeError,
      `Cannot create server: history["a:{b}"].${name} must be ${rule}, received ${value}`,
    );
  }
  const broker = new FaultyStore().connect({ without: ["history"] });
  assertThrows(
    () => new Topics({ broker, history: HISTORY }),
    UnsupportedError,
    "Cannot create server: the memory broker keeps no history",
  );
  await new Topics({ broker })[Symbol.asyncDispose]();
});

Deno.test("Topics.subscribe() follows a topic with a history from the call on", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using one = new Client(topics.flusher);
  topics.publish("t", 1);
  assert(one.subscribe(topics));
  await turns();
  topics.publish("t", 2);
  await turns();
  const [reply, ...rest] = one.take();
  const { epoch } = reply as { epoch: string };
  assertEquals(reply, { epoch, offset: 1, head: 1 });
  assertEquals(rest, [[2, 2, 1]]);
});

Deno.test("Topics.subscribe() delivers the next publications, also before the topic was read", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using one = new Client(topics.flusher);
  topics.publish("t", 0);
  assert(await topics.subscribe(one.session, "t"));
  assert(await topics.subscribe(one.session, "t"));
  publishRun(topics, 1, 2);
  await turns();
  topics.publish("t", 3);
  await turns();
  assertEquals(one.take(), [[1, 2, 1], [2, 3, 2], [3, 4, 3]]);
});

Deno.test("Topics.subscribe() with `last` starts with the newest, in order, then continues live", async () => {
  for (const [last, first] of [[0, 21], [1, 20], [7, 14], [20, 1], [500, 1]] as const) {
    await using topics = new Topics({ history: HISTORY });
    await using client = new Client(topics.flusher);
    publishRun(topics, 1, 20);
    client.subscribe(topics, "t", { last });
    await turns();
    publishRun(topics, 21, 22);
    await turns();
    const [reply, ...rest] = client.take();
    const { offset, head } = reply as { offset: number; head: number };
    assertEquals([offset, head], [first - 1, 20]);
    assertRun(rest.map((line) => (line as unknown[])[0]), first, 22);
  }
});

Deno.test("Topics.subscribe() with `last` misses no publication during the read", async () => {
  const { store, broker, topics } = scripted();
  await using _topics = topics;
  await using client = new Client(topics.flusher);
  let isRead = false;
  // The second read, which the session makes itself, finds nothing yet.
  broker.make("history.read", async (run) => {
    const page = await run();
    if (broker.callsOf("history.read").length === 2 && !isRead) {
      isRead = true;
      store.publish(1);
    }
    return page;
  });
  client.subscribe(topics, "t", { last: 10 });
  await turns();
  assertEquals(isRead, true);
  assertRun(client.takeData(), 1, 1);
});

Deno.test("Topics.subscribe() with `since` sends missed publications, or the reason of a gap", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using keeper = new Client(topics.flusher);
  keeper.subscribe(topics);
  publishRun(topics, 1, 20);
  await turns();
  const { epoch } = keeper.take()[0] as { epoch: string };
  const beyond = { offset: 20, recovered: false, reason: "beyond-head" };
  const renewed = { recovered: false, reason: "new-epoch" };
  const cases: [options: SubscribeOptions, reply: object, first: number][] = [
    [{ since: { epoch, offset: 17 } }, { offset: 17, recovered: true }, 18],
    [{ since: { epoch, offset: 20 } }, { offset: 20, recovered: true }, 21],
    [{ since: { epoch, offset: 19 }, last: 5 }, { offset: 19, recovered: true }, 20],
    [{ since: { epoch, offset: 0 } }, { offset: 0, recovered: true }, 1],
    [{ since: { epoch, offset: 21 } }, beyond, 21],
    [{ since: { epoch: "old", offset: 3 } }, { offset: 20, ...renewed }, 21],
    [{ since: { epoch: "old", offset: 3 }, last: 2 }, { offset: 18, ...renewed }, 19],
  ];
  for (const [options, expected, first] of cases) {
    await using client = new Client(topics.flusher);
    client.subscribe(topics, "t", options);
    await turns();
    const [reply, ...messages] = client.take() as [object, ...unknown[][]];
    assertEquals(reply, { epoch, head: 20, ...expected });
    assertRun(messages.map(([data]) => data), first, 20);
  }
});

Deno.test("Topics.subscribe() reports a `since` that is no longer kept", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  publishRun(topics, 1, 30, "chat:a");
  await using first = new Client(topics.flusher);
  first.subscribe(topics, "chat:a");
  await turns();
  const { epoch } = first.take()[0] as { epoch: string };
  client.subscribe(topics, "chat:a", { since: { epoch, offset: 19 } });
  await turns();
  assertEquals(client.take(), [
    { epoch, offset: 30, head: 30, recovered: false, reason: "too-old" },
  ]);
  client.subscribe(topics, "chat:a", { since: { epoch, offset: 20 } });
  await turns();
  const [reply, ...rest] = client.take();
  assertEquals(reply, { epoch, offset: 20, head: 30, recovered: true });
  assertRun(rest.map((line) => (line as unknown[])[0]), 21, 30);
});

Deno.test("Topics.subscribe() reports an expired `since`", async () => {
  using time = new FakeTime();
  await using topics = new Topics({ history: { t: { ttlMs: 1_000 } } });
  await using client = new Client(topics.flusher);
  publishRun(topics, 1, 2);
  client.subscribe(topics);
  await turns();
  const { epoch } = client.take()[0] as { epoch: string };
  topics.unsubscribe(client.session, "t");
  await time.tickAsync(1_000);
  client.take();
  client.subscribe(topics, "t", { since: { epoch, offset: 1 } });
  await turns();
  assertEquals(client.take(), [
    { epoch, offset: 2, head: 2, recovered: false, reason: "too-old" },
  ]);
});

Deno.test("Topics.subscribe() again returns the position, and with `since` starts there again", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  client.subscribe(topics);
  await turns();
  publishRun(topics, 1, 3);
  await turns();
  const { epoch } = client.take()[0] as { epoch: string };
  client.subscribe(topics);
  await turns();
  assertEquals(client.take(), [{ epoch, offset: 3, head: 3 }]);
  client.subscribe(topics, "t", { since: { epoch, offset: 1 } });
  publishRun(topics, 4, 4);
  await turns();
  assertEquals(client.take(), [
    { epoch, offset: 1, head: 4, recovered: true },
    [2, 2, 1],
    [3, 3, 2],
    [4, 4, 3],
  ]);
  assertEquals(topics.subscribers("t"), [client.session]);
});

Deno.test("Topics.subscribe() replies for a topic without history, with any options", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  client.subscribe(topics, "other");
  client.subscribe(topics, "other", { since: { epoch: "e", offset: 1 }, last: 3 });
  await turns();
  assertEquals(client.take(), [{}, { recovered: false, reason: "no-history" }]);
});

Deno.test("Topics.subscribe() rejects an invalid `last`", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  for (const last of [-1, 1.5, NaN]) {
    assertThrows(
      () => topics.subscribe(client.session, "t", { last }),
      RangeError,
      `Cannot subscribe: last must be an integer of 0 or more, received ${last}`,
    );
  }
  assertEquals(topics.size, 0);
});

Deno.test("Topics.subscribe() replays ten times the send queue, page by page, over a slow connection", async () => {
  await using topics = new Topics({ history: { t: { size: 5_000, bytes: 100_000_000 } } });
  const text = "x".repeat(3_000);
  for (let i = 0; i < 320; i++) topics.publish("t", { i, text });
  await using client = new Client(topics.flusher, { sendQueue: { maxMessages: 32 } });
  client.pair.link.stall("to-client");
  client.subscribe(topics, "t", { last: 1_000 });
  const { queuedMessages: most } = await mostOf(client, async () => {
    for (let round = 0; round < 400 && client.lines.length < 325; round++) {
      client.pair.link.resume("to-client");
      await turns(2);
      client.pair.link.stall("to-client");
      if (round < 4) topics.publish("t", { i: 320 + round, text });
    }
  });
  const [, ...messages] = client.take() as { i: number }[][];
  assertRun(messages.map(([data]) => data!.i), 0, 323);
  assert(most <= 17, `a page must fill at most half of the queue, received ${most}`);
  assert(most > 8, "the connection was slow");
  assertEquals(client.session.state, "connected");
});

/** Largest queue of a session during a function. */
async function mostOf(
  { session }: Client,
  run: () => Promise<void>,
): Promise<{ queuedMessages: number }> {
  let queuedMessages = 0;
  const { flusher } = session[internals].settings;
  const look = () => queuedMessages = Math.max(queuedMessages, session.stats.queuedMessages);
  const flush = flusher.flush.bind(flusher);
  flusher.flush = () => {
    look();
    flush();
    look();
  };
  await run();
  return { queuedMessages };
}

Deno.test("Topics.subscribe() to many topics at the same time keeps all their pages below the queue", async () => {
  await using topics = new Topics({ history: { "chat:{room}": {} } });
  for (let room = 0; room < 20; room++) publishRun(topics, 1, 60, `chat:${room}`);
  await using client = new Client(topics.flusher, { sendQueue: { maxMessages: 40 } });
  for (let room = 0; room < 20; room++) client.subscribe(topics, `chat:${room}`, { last: 60 });
  await until(() => client.lines.length >= 20 * 61);
  assertEquals(client.session.state, "connected");
  for (let room = 0; room < 20; room++) {
    const own = client.lines.filter(({ topic }) => topic === `chat:${room}`);
    assertRun(own.map(({ data }) => data), 1, 60);
  }
});

Deno.test("Topics.subscribe() joins live without a gap or a duplicate during constant publications", async () => {
  await using topics = new Topics({ history: { t: { size: 5_000 } } });
  publishRun(topics, 1, 500);
  await using client = new Client(topics.flusher, { sendQueue: { maxMessages: 50 } });
  client.subscribe(topics, "t", { last: 500 });
  let next = 501;
  for (let i = 0; i < 200; i++) {
    publishRun(topics, next, next + 2);
    next += 3;
    await turns(1);
  }
  await turns(50);
  const data = client.takeData();
  assert(data.length > 1_000);
  assertRun(data, data[0] as number, next - 1);
});

const REMOVED = { unsubscribed: "t", code: "removed", reason: "" };

Deno.test("Topics.unsubscribe() ends a replay, whose reply says superseded", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  publishRun(topics, 1, 200);
  client.subscribe(topics, "t", { last: 5 });
  assert(topics.unsubscribe(client.session, "t"));
  await turns();
  assertEquals(client.take(), [{ isSuperseded: true }, REMOVED]);
  client.subscribe(topics, "t", { since: { epoch: "e", offset: 1 } });
  topics.unsubscribe(client.session, "t");
  await turns();
  assertEquals(client.take(), [{ isSuperseded: true }, REMOVED]);
  assertEquals([topics.size, topics.stats.waitingPages], [0, 0]);
});

Deno.test("Topics releases a session that closes during its replay", async () => {
  await using topics = new Topics({ history: { t: {} } });
  publishRun(topics, 1, 500);
  await using client = new Client(topics.flusher);
  client.pair.link.stall("to-client");
  client.subscribe(topics, "t", { last: 500 });
  await turns();
  assertEquals(topics.subscribers("t"), [client.session]);
  client.pair.link.disconnect();
  await client.session.closed;
  await turns();
  assertEquals([topics.size, topics.stats.tailBytes], [0, 0]);
});

Deno.test("Topics.publish() with `except` moves the position of the excluded session, also in a replay", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using both = Clients.on(topics.flusher, { id: "one" }, { id: "two" });
  const [one, two] = both as unknown as [Client, Client];
  one.subscribe(topics);
  two.subscribe(topics);
  await turns();
  [one, two].forEach((client) => client.take());
  topics.publish("t", 1, { except: one.session });
  topics.publish("t", 2, { except: two.session });
  await turns();
  assertEquals(one.take(), [{ skip: "t", offset: 1, prev: 0 }, [2, 2, 1]]);
  assertEquals(two.take(), [[1, 1, 0], { skip: "t", offset: 2, prev: 1 }]);
  one.subscribe(topics, "t", { last: 2 });
  await turns();
  assertEquals(one.take().slice(1), [{ skip: "t", offset: 1, prev: 0 }, [2, 2, 1]]);
  one.subscribe(topics, "t", { last: 2 });
  topics.publish("t", 3, { except: one.session });
  await turns();
  assertEquals(one.take().slice(1), [[2, 2, 1], { skip: "t", offset: 3, prev: 2 }]);
});

Deno.test("Topics.publish() sends plain sessions messages, and nothing else", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using plain = new Client(topics.flusher, { protocol: "", id: "plain" });
  publishRun(topics, 1, 3);
  topics.subscribe(plain.session, "t", { last: 2 });
  await turns();
  topics.publish("t", 4, { except: plain.session });
  topics.publish("t", 5);
  await turns();
  assertEquals(plain.take(), [[2, 2, 1], [3, 3, 2], [5, 5, 4]]);
});

Deno.test("Topics.publish() keeps bytes too, with their offset in the head", async () => {
  await using topics = new Topics({ history: HISTORY });
  await using client = new Client(topics.flusher);
  topics.publish("t", Uint8Array.of(1, 2, 3));
  topics.subscribe(client.session, "t", { last: 1 });
  await turns();
  const [frame, ...rest] = client.binary;
  const { head, data } = decodeBinary(frame!)!;
  const { tag, ...place } = JSON.parse(head);
  assertEquals([place, typeof tag], [{ topic: "t", offset: 1, prev: 0 }, "string"]);
  assertEquals([data, rest], [Uint8Array.of(1, 2, 3), []]);
});

Deno.test("Topics.publish() leaves room for the position of a message", async () => {
  await using topics = new Topics({ maxMessageBytes: 200, history: HISTORY });
  topics.publish("other", "x".repeat(173));
  topics.publish("t", "x".repeat(108));
  assertThrows(
    () => topics.publish("t", "x".repeat(113)),
    RangeError,
    "at most 131 bytes, received 136",
  );
});

Deno.test("Topics.publish() counts publications that the broker does not accept, and does not throw", async () => {
  const { broker, topics } = scripted();
  await using _topics = topics;
  const error = new BrokerError("Cannot append: too many wait");
  broker.make("history.append", () => Promise.reject(error));
  for (const data of [1, 2]) topics.publish("t", data);
  await turns();
  assertEquals([topics.stats.failedPublications, topics.stats.lastFailure], [2, error]);
  assertEquals(await assertRejects(() => topics.append("t", 1), BrokerError), error);
});

Deno.test("Topics.publish() throws on a closed broker, with and without a history", async () => {
  const broker = new MemoryBroker();
  await using topics = new Topics({ broker, history: HISTORY });
  await broker.close();
  for (const topic of ["t", "other"]) {
    assertThrows(() => topics.publish(topic, 1), UnsupportedError, "Cannot publish: the broker");
  }
  await assertRejects(() => topics.append("t", 1), BrokerError, "the broker is closed");
});

Deno.test("Topics.append() stores keys and numbers in any order, and each of them once", async () => {
  await using topics = new Topics({ history: HISTORY });
  const numbered = (number: number) => ({ producer: "till-1", number });
  const keys = ["2", "1", "3", numbered(2), numbered(1), numbered(3), "é".repeat(64), "till-1:1"];
  for (const [i, key] of keys.entries()) {
    assertEquals((await topics.append("t", i, { key })).position?.offset, i + 1);
  }
  for (const key of keys) assertEquals(await topics.append("t", -1, { key }), {});
});

Deno.test("Topics.append() rejects a key of a wrong shape, and appends nothing", async () => {
  await using topics = new Topics({ history: HISTORY });
  const ofShape = "key must be a string or { producer, number }, received";
  const ofText = "must be a well-formed string of 1 to 128 bytes without zero characters, received";
  const wrong: [key: unknown, type: typeof TypeError | typeof RangeError, text: string][] = [
    [7, TypeError, `${ofShape} 7`],
    [null, TypeError, `${ofShape} null`],
    [["order-7"], TypeError, `${ofShape} an array`],
    ["", RangeError, `key ${ofText} 0 bytes`],
    ["é".repeat(65), RangeError, `key ${ofText} 130 bytes`],
    ["a\0b", TypeError, `key ${ofText} a string`],
    ["\ud800", TypeError, `key ${ofText} a string`],
    [{}, TypeError, "key must have producer and number, received no producer"],
    [{ producer: "p" }, TypeError, "key must have producer and number"],
    [{ number: 1 }, TypeError, "key must have producer and number"],
    [{ producer: "", number: 1 }, RangeError, `key.producer ${ofText} 0 bytes`],
    [{ producer: 1, number: 1 }, TypeError, `key.producer ${ofText} 1`],
    [{ producer: "p", number: -1 }, RangeError, "key.number must be"],
    [{ producer: "p", number: 1.5 }, RangeError, "key.number must be"],
    [{ producer: "p", number: "1" }, TypeError, "key.number must be"],
    [
      { producer: "p", number: 1, epoch: 2 },
      TypeError,
      'unknown option "epoch" in key',
    ],
  ];
  for (const [key, type, text] of wrong) {
    const options = { key } as { key: string };
    const error = await assertRejects(() => topics.append("t", 1, options), type);
    assertStringIncludes(error.message, `Cannot append: ${text}`);
  }
  assertEquals((await topics.append("t", 1, { key: "a" })).position?.offset, 1);
});

Deno.test("Topics.append() resolves with the position, stores a repetition once, and stops waiting by signal", async () => {
  await using topics = new Topics({ history: HISTORY });
  const key = { producer: "p", number: 4 };
  const { position } = await topics.append("t", 1, { key });
  assertEquals(position!.offset, 1);
  assertEquals(await topics.append("t", 1, { key }), {});
  assertEquals((await topics.append("t", 2)).position!.offset, 2);
  await assertRejects(
    () => topics.append("other", 1),
    UnsupportedError,
    'Cannot append: the topic "other" has no history',
  );
  await assertRejects(() => topics.append("", 1), TypeError, "Cannot append: a topic must be");
  await assertRejects(() => topics.append("t", 1, { signal: AbortSignal.abort() }), DOMException);

  const { broker, topics: waiting } = scripted();
  await using _waiting = waiting;
  broker.make("history.append", hang);
  const abort = new AbortController();
  const appending = waiting.append("t", 1, { signal: abort.signal });
  abort.abort(new Error("enough"));
  await assertRejects(() => appending, Error, "enough");
});

Deno.test("Topics without a history notify subscribers that the broker was late with the subscription", async () => {
  for (const lateMs of [999, 1_000]) {
    let nowMs = 5_000;
    const ready = Promise.withResolvers<void>();
    const broker = new ScriptedStore().node();
    broker.ready = ready.promise;
    const runtime = Object.assign(platformRuntime(), { monotonic: () => nowMs });
    await using topics = new Topics({ broker, runtime });
    await using client = new Client(topics.flusher);
    topics.subscribe(client.session, "other");
    nowMs += lateMs;
    ready.resolve();
    await turns();
    const notice = { gap: "other", reason: "interrupted" };
    assertEquals(client.take(), lateMs < 1_000 ? [] : [notice]);
  }
});

Deno.test("Topics without a history report an interrupted broker to their subscribers", async () => {
  const { broker, topics } = scripted();
  await using _topics = topics;
  await using clients = Clients.on(topics.flusher, {}, { protocol: "" });
  for (const { session } of clients) topics.subscribe(session, "other");
  broker.interrupt();
  await turns();
  assertEquals(Array.from(clients, (client) => client.take()), [
    [{ gap: "other", reason: "interrupted" }],
    [],
  ]);
});

Deno.test("Topics of several nodes have one history", async () => {
  await using broker = new MemoryBroker();
  await using near = new Topics({ broker, history: HISTORY });
  await using far = new Topics({ broker, history: HISTORY });
  await using one = new Client(near.flusher);
  one.subscribe(near);
  await turns();
  near.publish("t", 1);
  far.publish("t", 2);
  await turns();
  const [reply, ...rest] = one.take() as [{ epoch: string }, ...unknown[]];
  assertEquals(rest, [[1, 1, 0], [2, 2, 1]]);
  await using back = new Client(far.flusher);
  back.subscribe(far, "t", { since: { epoch: reply.epoch, offset: 1 } });
  await turns();
  assertEquals(back.take(), [
    { epoch: reply.epoch, offset: 1, head: 2, recovered: true },
    [2, 2, 1],
  ]);
});

Deno.test("Topics read a topic from the broker once, for any number of subscribers", async () => {
  const { store, broker, topics } = scripted();
  await using _topics = topics;
  for (let i = 1; i <= 100; i++) store.publish(i);
  await using clients = Clients.on(topics.flusher, {}, {}, {}, {}, {});
  for (const client of clients) client.subscribe(topics, "t", { last: 100 });
  await turns();
  for (const client of clients) assertRun(client.takeData(), 1, 100);
  await using late = new Client(topics.flusher);
  late.subscribe(topics, "t", { since: { epoch: "e1", offset: 40 } });
  await turns();
  assertRun(late.takeData(), 41, 100);
  assertEquals(broker.callsOf("history.read").length, 1);
});

Deno.test("Topics read a page once for all readers", async () => {
  const { store, broker, topics } = scripted();
  await using _topics = topics;
  for (let i = 1; i <= 300; i++) store.publish(i);
  await using clients = Clients.on(topics.flusher, {}, {}, {}, {}, {});
  for (const client of clients) {
    client.subscribe(topics, "t", { since: { epoch: "e1", offset: 10 } });
  }
  await turns(60);
  for (const client of clients) assertRun(client.takeData(), 11, 300);
  const after = broker.callsOf("history.read").map(([, read]) => read.after ?? `last ${read.last}`);
  assertEquals(after, ["last 128", 10, 138]);
});

Deno.test("Topics[Symbol.asyncDispose]() ends replays and reads in progress", async () => {
  const { store, broker, topics } = scripted();
  store.publish(1);
  broker.make("history.read", hang);
  await using client = new Client(topics.flusher);
  client.subscribe(topics, "t", { last: 1 });
  await turns();
  await topics[Symbol.asyncDispose]();
  await turns();
  assertEquals(client.take(), [{ isSuperseded: true }]);
  assertEquals(broker.topics.length, 0);
});

Deno.test("Topics bound the restarts of a session while the broker does not respond", async () => {
  const { broker, topics } = scripted();
  await using _topics = topics;
  await using client = new Client(topics.flusher);
  await using other = new Client(topics.flusher);
  other.subscribe(topics);
  await turns();
  broker.make("history.read", hang);
  const since = { epoch: "other", offset: 1 };
  const begin = (i: number) => {
    if (i % 3 === 0) topics.unsubscribe(client.session, "t");
    topics.subscribe(client.session, "t", { since });
  };
  assertThrows(
    () => {
      for (let i = 1; i <= 10_000; i++) begin(i);
    },
    QueueFullError,
    "Cannot subscribe: at most 512 subscriptions of a session may be pending",
  );
  other.subscribe(topics, "t", { last: 1 });
  assert(topics.stats.replays < 520);
});

Deno.test("Topics let a session leave during its reply", async () => {
  const { broker, topics } = scripted();
  await using _topics = topics;
  await using client = new Client(topics.flusher);
  await using other = new Client(topics.flusher);
  other.subscribe(topics);
  await turns();
  broker.make("history.read", hang);
  const since = { epoch: "other", offset: 1 };
  const { session } = client;
  topics.subscribe(session, "t", {
    since,
    onReply: () => void topics.unsubscribe(session, "t"),
  });
  await turns();
  // The first subscription has ended, with a reply; its application has left the topic.
  topics.subscribe(session, "t", { since });
  assertEquals([topics.has(session, "t"), topics.subscribers("t")], [false, [other.session]]);
  // A session that subscribes again during its reply is subscribed.
  topics.subscribe(session, "t", {
    since,
    onReply: () => void topics.subscribe(session, "t"),
  });
  await turns();
  topics.leaveAll(session);
  assertEquals(topics.has(session, "t"), true);
  client.pair.link.disconnect();
  await session.closed;
  assertEquals(topics.subscribers("t"), [other.session]);
});

function scripted(): { store: ScriptedStore; broker: FaultyBroker; topics: Topics } {
  const store = new ScriptedStore();
  const broker = store.node();
  const topics = new Topics({ broker, history: { t: { size: 1_000_000 } } });
  return { store, broker, topics };
}

Deno.test("Topics.read() yields what a topic keeps up to the call, over several pages", async () => {
  await using topics = new Topics({ history: HISTORY });
  publishRun(topics, 1, 600);
  await topics.append("t", new Uint8Array([7]), { from: "ann" });
  const offsets: number[] = [];
  let last: { readonly data: unknown; readonly from?: string } | undefined;
  for await (const publication of topics.read("t", { after: 10 })) {
    topics.publish("t", "later");
    offsets.push(publication.position.offset);
    last = publication;
  }
  assertEquals(offsets, Array.from({ length: 591 }, (_, i) => i + 11));
  assertEquals([last?.data, last?.from], [new Uint8Array([7]), "ann"]);

  const newest = await Array.fromAsync(topics.read("t", { after: 1_100 }));
  assertEquals(newest.map(({ data }) => data), Array(92).fill("later"));
  assertEquals(await Array.fromAsync(topics.read("chat:empty")), []);
  assertEquals((await Array.fromAsync(topics.read("t"))).length, 1_000, "the bound of the history");
});

Deno.test("Topics.read() and position() leave out an unknown publisher and an unknown tag", async () => {
  const { store, topics } = scripted();
  await using _topics = topics;
  store.publish(1);
  const [publication] = await Array.fromAsync(topics.read("t"));
  assertEquals(Object.keys(publication!), ["data", "position"]);
  assertEquals(Object.keys(publication!.position), ["epoch", "offset"]);
  assertEquals(Object.keys(await topics.position("t")), ["epoch", "offset"]);
});

Deno.test("Topics.read() needs a history, and stops when its signal aborts", async () => {
  await using topics = new Topics({ history: HISTORY });
  const none = topics.read("other");
  await assertRejects(() => none.next(), UnsupportedError, 'the topic "other" has no history');
  topics.publish("t", 1);
  const stopped = topics.read("t", { signal: AbortSignal.abort(new Error("Enough")) });
  await assertRejects(() => stopped.next(), Error, "Enough");
});
