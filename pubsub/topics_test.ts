import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { QueueFullError, UnsupportedError } from "../errors.ts";
import { internals, Session } from "../session/session.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { type Peer, Peers } from "./_peers_test.ts";
import type { Publication } from "./broker.ts";
import { MemoryBroker } from "./memory/broker.ts";
import { Topics } from "./topics.ts";
import { sessionSettings } from "../session/session_settings.ts";

/** Topics, and the messages of some peers; the numbers are the data of all topics. */
function numbers(peer: Peer): unknown[] {
  return peer.take().map((message) => (message as [string, unknown])[1]);
}

Deno.test("Topics.publish() reaches every subscriber once, and no other session", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [one, two, other] = [await peers.connect(), await peers.connect(), await peers.connect()];
  assert(await topics.subscribe(one.session, "news"));
  assert(await topics.subscribe(two.session, "news"));
  assert(await topics.subscribe(other.session, "weather"));
  topics.publish("news", { text: "hello" });
  topics.publish("news");
  await peers.endTurn();
  const expected = [["news", { text: "hello" }], ["news", undefined]];
  assertEquals([one.take(), two.take(), other.take()], [expected, expected, []]);
});

Deno.test("Topics.publish() without subscribers costs nothing, and is no error", async () => {
  await using topics = new Topics();
  topics.publish("news", 1);
  assertEquals([topics.size, topics.subscribers("news")], [0, []]);
});

Deno.test("Topics.publish() makes one frame a turn, for all sources", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const all = [await peers.connect(), await peers.connect(), await peers.connect()];
  for (const { session } of all) {
    topics.subscribe(session, "a");
    topics.subscribe(session, "b");
  }
  topics.publish("a", 1);
  all[0]!.session.send("own", 2);
  topics.publish("b", 3);
  topics.publish("a", 4, { except: all[1]!.session });
  await peers.endTurn();
  assertEquals(all.map(({ frames }) => frames.length), [1, 1, 1]);
  assertEquals(all.map(numbers), [[1, 2, 3, 4], [1, 3], [1, 3, 4]]);
});

Deno.test("Topics.publish() keeps the order across topics that overlap", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [left, both, right] = [
    await peers.connect(),
    await peers.connect(),
    await peers.connect(),
  ];
  for (const { session } of [left, both]) topics.subscribe(session, "left");
  for (const { session } of [right, both]) topics.subscribe(session, "right");
  for (let i = 0; i < 6; i++) topics.publish(i % 2 === 0 ? "left" : "right", i);
  await peers.endTurn();
  assertEquals([left, both, right].map(numbers), [[0, 2, 4], [0, 1, 2, 3, 4, 5], [1, 3, 5]]);
});

Deno.test("Topics.publish() keeps the order with session.send()", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const peer = await peers.connect();
  topics.subscribe(peer.session, "a");
  peer.session.send("own", 1);
  topics.publish("a", 2);
  peer.session.send("own", 3);
  topics.publish("a", 4);
  await peers.endTurn();
  assertEquals(numbers(peer), [1, 2, 3, 4]);
});

Deno.test("Topics.publish() excludes `except` on its own node", async () => {
  await using peers = new Peers();
  await using broker = new MemoryBroker();
  await using near = new Topics({ settings: peers, broker });
  await using far = new Topics({ settings: peers, broker });
  const [one, two, three] = [
    await peers.connect({ id: "one" }),
    await peers.connect({ id: "two" }),
    await peers.connect({ id: "three" }),
  ];
  near.subscribe(one.session, "a");
  far.subscribe(two.session, "a");
  far.subscribe(three.session, "a");
  near.publish("a", 1, { except: two.session });
  near.publish("a", 2, { except: one.session });
  near.publish("a", 3, { except: undefined });
  await peers.endTurn();
  assertEquals([one, two, three].map(numbers), [[1, 3], [2, 3], [1, 2, 3]]);
});

/** Subscribes two sessions of one client, and one of another client. */
async function subscribeTwice(peers: Peers, topics: Topics) {
  const [earlier, later, other] = [
    await peers.connect(),
    await peers.connect(),
    await peers.connect(),
  ];
  for (const { session } of [earlier, later]) session[internals].lineage.client = "client";
  for (const { session } of [earlier, later, other]) topics.subscribe(session, "a");
  return { earlier, later, other };
}

Deno.test("Topics.publish() excludes a client that returned before its earlier session ended", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { earlier, later, other } = await subscribeTwice(peers, topics);
  await earlier.session.close();
  topics.publish("a", 1, { except: later.session });
  await peers.endTurn();
  assertEquals([later, other].map(numbers), [[], [1]]);
});

Deno.test("Topics.publish() excludes a client whose earlier session gets its first topic late", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [earlier, later, other] = [
    await peers.connect(),
    await peers.connect(),
    await peers.connect(),
  ];
  for (const { session } of [earlier, later]) {
    session[internals].lineage.client = "client";
    topics.introduced(session);
  }
  // The permission of the earlier session took longer.
  for (const { session } of [other, later, earlier]) topics.subscribe(session, "a");
  topics.publish("a", 1, { except: later.session });
  await earlier.session.close();
  topics.publish("a", 2, { except: later.session });
  await peers.endTurn();
  assertEquals([later, other].map(numbers), [[], [1, 2]]);
});

Deno.test("Topics.publish() excludes the earlier session of a client whose move failed", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { earlier, later, other } = await subscribeTwice(peers, topics);
  later.session[internals].lineage.predecessor = earlier.session;
  earlier.session[internals].lineage.movedTo = later.session;
  await later.session.close();
  topics.publish("a", 1, { except: earlier.session });
  await peers.endTurn();
  assertEquals([earlier, other].map(numbers), [[], [1]]);
});

Deno.test("Topics.publish() with an `except` that is not subscribed reaches all", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [member, stranger] = [await peers.connect(), await peers.connect()];
  topics.subscribe(member.session, "a");
  topics.subscribe(stranger.session, "b");
  topics.publish("a", 1, { except: stranger.session });
  await peers.endTurn();
  assertEquals(numbers(member), [1]);
});

Deno.test("Topics.publish() sends bytes to capable sessions, and skips plain ones", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [skein, plain] = [await peers.connect(), await peers.connect({ protocol: "" })];
  for (const { session } of [skein, plain]) topics.subscribe(session, "a");
  topics.publish("a", 1);
  topics.publish("a", Uint8Array.of(7, 8));
  topics.publish("a", 2);
  await peers.endTurn();
  const [before, bytes, after] = skein.take();
  assertEquals([before, after], [["a", 1], ["a", 2]]);
  assertEquals((bytes as Uint8Array).slice(-2), Uint8Array.of(7, 8));
  assertEquals(plain.frames, ['{"topic":"a","data":1}', '{"topic":"a","data":2}']);
  assertEquals(plain.session.stats.droppedMessages, 1);
});

Deno.test("Topics.publish() refuses invalid data, and delivers none of it", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers, maxMessageBytes: 100 });
  const peer = await peers.connect();
  topics.subscribe(peer.session, "a");
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  for (const data of [1n, loop, () => {}, Symbol("s")]) {
    assertThrows(() => topics.publish("a", data), TypeError, "Cannot publish: ");
  }
  assertThrows(() => topics.publish("", 1), TypeError, "Cannot publish: a topic must be");
  assertThrows(() => topics.publish("x".repeat(256), 1), RangeError, "received 256 bytes");
  assertThrows(() => topics.publish("a", "x".repeat(100)), RangeError, "at most 100 bytes");
  topics.publish("a", "fits");
  await peers.endTurn();
  assertEquals(peer.take(), [["a", "fits"]]);
});

Deno.test("Topics.publish() splits more than 64 KiB of a turn into several frames", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const peer = await peers.connect();
  topics.subscribe(peer.session, "a");
  for (let i = 0; i < 8; i++) topics.publish("a", "x".repeat(20_000));
  await peers.endTurn();
  assert(peer.frames.length > 1);
  for (const frame of peer.frames) assert(frame.length <= 65_536);
  assertEquals(peer.take().length, 8);
});

Deno.test("Topics.publish() of thousands in a turn does not overflow a healthy session", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const peer = await peers.connect();
  for (const topic of ["a", "b", "c"]) topics.subscribe(peer.session, topic);
  const sent = Array.from({ length: 3_000 }, (_, i) => i);
  for (const i of sent) topics.publish(["a", "b", "c"][i % 3]!, i);
  await peers.endTurn();
  assertEquals(numbers(peer), sent);
  assert(!peer.session.isClosed);
});

Deno.test("Topics.subscribe() delivers no earlier publication, even of the same turn", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [early, late] = [await peers.connect(), await peers.connect()];
  topics.subscribe(early.session, "a");
  topics.publish("a", 1);
  topics.subscribe(late.session, "a");
  topics.publish("a", 2);
  await peers.endTurn();
  assertEquals([early, late].map(numbers), [[1, 2], [2]]);
});

Deno.test("Topics.unsubscribe() still delivers earlier publications, and no later ones", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [stays, goes] = [await peers.connect(), await peers.connect()];
  for (const { session } of [stays, goes]) topics.subscribe(session, "a");
  topics.publish("a", 1);
  assert(topics.unsubscribe(goes.session, "a"));
  topics.publish("a", 2);
  assert(!topics.unsubscribe(goes.session, "a"));
  assert(!topics.unsubscribe(goes.session, "never"));
  await peers.endTurn();
  assertEquals(numbers(stays), [1, 2]);
  assertEquals(goes.take(), [["a", 1], { unsubscribed: "a", code: "removed", reason: "" }]);
});

Deno.test("Topics.unsubscribe() sends the client the reason, in order with all messages, and a plain page nothing", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [skein, plain] = [await peers.connect(), await peers.connect({ protocol: "" })];
  for (const { session } of [skein, plain]) {
    topics.subscribe(session, "a");
    topics.publish("a", 1);
    session.send("own", 2);
    topics.unsubscribe(session, "a", { code: "banned", reason: "Be kind" });
    session.send("own", 3);
  }
  await peers.endTurn();
  assertEquals(skein.take(), [
    ["a", 1],
    ["own", 2],
    { unsubscribed: "a", code: "banned", reason: "Be kind" },
    ["own", 3],
  ]);
  assertEquals(numbers(plain), [1, 2, 3]);
});

Deno.test("Topics.unsubscribe() is sent to a session whose queue drops messages", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const sendQueue = { maxMessages: 2, policy: "drop-oldest" } as const;
  const { session, pair, take } = await peers.connect({ sendQueue });
  topics.subscribe(session, "a");
  pair.link.stall("to-client");
  // The first part, which the wire takes before it is behind.
  session.send("own", "x".repeat(70_000));
  await peers.endTurn();
  topics.unsubscribe(session, "a");
  for (let i = 0; i < 9; i++) session.send("own", i);
  await peers.endTurn();
  pair.link.resume("to-client");
  await peers.endTurn();
  const [, ...got] = take();
  // A notice of drops, which this wire reads as a message without data, and one that was kept.
  assertEquals(got, [
    ["own", undefined],
    { unsubscribed: "a", code: "removed", reason: "" },
    ["own", 8],
  ]);
});

Deno.test("Topics.unsubscribe() answers the client before it reports the end", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { session, take } = await peers.connect();
  const onAnswer = () => void session.send("answer");
  topics.subscribe(session, "a", { onAnswer });
  topics.subscribe(session, "a", { onAnswer });
  topics.unsubscribe(session, "a", { code: "forbidden" });
  await peers.endTurn();
  assertEquals(take(), [
    ["answer", undefined],
    ["answer", undefined],
    { unsubscribed: "a", code: "forbidden", reason: "" },
  ]);
});

Deno.test("Topics.unsubscribe() refuses a code that the wire has no room for, and cuts a reason", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { session, take } = await peers.connect();
  topics.subscribe(session, "a");
  for (const code of ["", "x".repeat(65)]) {
    assertThrows(() => topics.unsubscribe(session, "a", { code }), TypeError, "1 to 64 characters");
  }
  assert(topics.has(session, "a"));
  topics.unsubscribe(session, "a", { code: "x".repeat(64), reason: "ü".repeat(600) });
  await peers.endTurn();
  const [{ reason }] = take() as [{ reason: string }];
  assertEquals(reason, "ü".repeat(512));
});

Deno.test("Topics.requestedBy() lists the client's own subscriptions, without those of the application", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { session } = await peers.connect();
  topics.subscribe(session, "given");
  topics.join(session, "given", { isRequested: true });
  topics.join(session, "asked", { isRequested: true });
  topics.join(session, "both", { isRequested: true });
  topics.subscribe(session, "both");
  assertEquals(topics.requestedBy(session), ["asked"]);
  topics.unsubscribe(session, "given");
  topics.join(session, "given", { isRequested: true });
  assertEquals(topics.requestedBy(session), ["asked", "given"]);
});

Deno.test("Topics.subscribe() is idempotent: one message each", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const peer = await peers.connect();
  assert(await topics.subscribe(peer.session, "a"));
  assert(await topics.subscribe(peer.session, "a"));
  topics.publish("a", 1);
  await peers.endTurn();
  assertEquals(numbers(peer), [1]);
  assertEquals(topics.subscribers("a"), [peer.session]);
});

Deno.test("Topics.subscribe() leaves a closed session out", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { session } = await peers.connect();
  await session.close();
  assert(!await topics.subscribe(session, "a"));
  assertEquals([topics.size, topics.topicsOf(session), topics.has(session, "a")], [0, [], false]);
});

Deno.test("Topics.subscribe() refuses invalid topics, and one too many", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers, maxTopicsPerSession: 2, maxTopicBytes: 4 });
  const { session } = await peers.connect();
  assertThrows(() => topics.subscribe(session, ""), TypeError, "Cannot subscribe: a topic must");
  assertThrows(() => topics.subscribe(session, "éé."), RangeError, "received 5 bytes");
  assert(await topics.subscribe(session, "éé"));
  assert(await topics.subscribe(session, "a"));
  assertThrows(() => topics.subscribe(session, "b"), QueueFullError, "at most 2 topics");
  assert(await topics.subscribe(session, "a"));
  topics.unsubscribe(session, "a");
  assert(await topics.subscribe(session, "b"));
  assertEquals(topics.topicsOf(session), ["éé", "b"]);
});

Deno.test("Topics refuse the topics by which nodes tell each other, with and without a history", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers, history: { "{name}": {} } });
  const { session } = await peers.connect();
  for (const topic of ["$skein:", "$skein:nodes"]) {
    const rule = `a topic must not begin with "$skein:", received "${topic}"`;
    assertThrows(() => topics.subscribe(session, topic), TypeError, `Cannot subscribe: ${rule}`);
    assertThrows(() => topics.publish(topic, 1), TypeError, `Cannot publish: ${rule}`);
    await assertRejects(() => topics.append(topic, 1), TypeError, `Cannot append: ${rule}`);
  }
  assertEquals([topics.size, topics.topicsOf(session)], [0, []]);
});

Deno.test("Topics.subscribe() of a session without messages leaves nothing behind", async () => {
  await using pair = memoryPair({ protocol: "", frames: false });
  await using session = new Session(pair.server, sessionSettings({ side: "server" }));
  await using topics = new Topics();
  assertThrows(() => topics.subscribe(session, "a"), UnsupportedError);
  assertEquals([topics.size, topics.topicsOf(session)], [0, []]);
});

Deno.test("Topics lists the subscribers of each topic", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const [one, two] = [(await peers.connect()).session, (await peers.connect()).session];
  topics.subscribe(one, "a");
  topics.subscribe(two, "a");
  topics.subscribe(one, "b");
  assertEquals(topics.size, 2);
  assertEquals(topics.subscribers("a"), [one, two]);
  assertEquals(topics.topicsOf(one), ["a", "b"]);
  assertEquals([topics.has(two, "a"), topics.has(two, "b")], [true, false]);
  topics.leaveAll(one);
  topics.leaveAll(one);
  assertEquals([topics.size, topics.topicsOf(one), topics.subscribers("a")], [1, [], [two]]);
  assert(await topics.subscribe(one, "a"));
});

Deno.test("Topics removes a session from all topics when it closes, by either end", async () => {
  const ends: [string, (peer: Peer) => unknown][] = [
    ["close()", ({ session }) => session.close()],
    ["the peer", ({ pair }) => pair.client.close()],
    ["the network", ({ pair }) => pair.link.disconnect()],
  ];
  for (const [name, end] of ends) {
    await using peers = new Peers();
    await using topics = new Topics({ settings: peers });
    const [stays, goes] = [await peers.connect(), await peers.connect()];
    for (const topic of ["a", "b"]) topics.subscribe(goes.session, topic);
    topics.subscribe(stays.session, "a");
    end(goes);
    await goes.session.closed;
    assertEquals(topics.topicsOf(goes.session), [], name);
    assertEquals([topics.size, topics.subscribers("a")], [1, [stays.session]], name);
    topics.publish("a", 1);
    await peers.endTurn();
    assertEquals(numbers(stays), [1], name);
  }
});

Deno.test("Topics keeps a new subscriber whose topic loses its last one in the same turn", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const slow = await peers.connect({ sendQueue: { maxMessages: 1 } });
  const late = await peers.connect();
  topics.subscribe(slow.session, "a");
  slow.pair.link.stall("to-client");
  slow.session.send("own", "x".repeat(100_000));
  await peers.endTurn();
  topics.publish("a", 1);
  topics.publish("a", 2);
  topics.subscribe(late.session, "a");
  await peers.endTurn();
  assert(slow.session.isClosed);
  topics.publish("a", 3);
  await peers.endTurn();
  assertEquals(numbers(late), [3]);
  assertEquals(topics.subscribers("a"), [late.session]);
});

Deno.test("Topics drops a session whose queue is full at its own subscription", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const slow = await peers.connect({ sendQueue: { maxMessages: 1 } });
  const other = await peers.connect();
  topics.subscribe(slow.session, "a");
  topics.subscribe(other.session, "b");
  slow.pair.link.stall("to-client");
  slow.session.send("own", "x".repeat(100_000));
  await peers.endTurn();
  topics.publish("a", 1);
  topics.publish("a", 2);
  topics.publish("b", 3);
  topics.subscribe(slow.session, "b");
  await peers.endTurn();
  assert(slow.session.isClosed);
  assertEquals(topics.subscribers("b"), [other.session]);
  assertEquals(topics.topicsOf(slow.session), []);
});

Deno.test("Topics subscribes at its broker once for a topic, and only while there are subscribers", async () => {
  class Counting extends MemoryBroker {
    readonly calls: string[] = [];
    override subscribe(...args: Parameters<MemoryBroker["subscribe"]>) {
      this.calls.push(`+${args[0]}`);
      const subscription = super.subscribe(...args);
      return {
        ready: subscription.ready,
        [Symbol.asyncDispose]: () => {
          this.calls.push(`-${args[0]}`);
          return subscription[Symbol.asyncDispose]();
        },
      };
    }
  }
  await using peers = new Peers();
  await using broker = new Counting();
  await using topics = new Topics({ settings: peers, broker });
  const [one, two] = [(await peers.connect()).session, (await peers.connect()).session];
  topics.subscribe(one, "a");
  topics.subscribe(two, "a");
  topics.unsubscribe(one, "a");
  assertEquals(broker.calls, ["+a"]);
  topics.unsubscribe(two, "a");
  topics.subscribe(two, "a");
  assertEquals(broker.calls, ["+a", "-a", "+a"]);
});

Deno.test("Topics.publish() encodes once, for the broker and for all", async () => {
  await using peers = new Peers();
  await using broker = new MemoryBroker();
  await using topics = new Topics({ settings: peers, broker });
  const published: Publication[] = [];
  await using _listener = broker.subscribe("a", (publication) => void published.push(publication));
  const { session } = await peers.connect({ id: "one" });
  let encodings = 0;
  topics.publish("a", { toJSON: () => ++encodings }, { except: session });
  assertEquals(encodings, 1);
  assertEquals(published, [{
    topic: "a",
    payload: '{"topic":"a","data":1}',
    bytes: 22,
    except: "one",
  }]);
});

Deno.test("Topics[Symbol.asyncDispose]() removes all sessions, and closes its own broker only", async () => {
  await using peers = new Peers();
  const { session } = await peers.connect();
  const own = new Topics({ settings: peers });
  own.subscribe(session, "a");
  await own[Symbol.asyncDispose]();
  assertEquals([own.size, own.topicsOf(session)], [0, []]);
  assertThrows(() => own.publish("a", 1), UnsupportedError, "Cannot publish: the broker is closed");
  assertThrows(() => own.subscribe(session, "a"), UnsupportedError);
  assertEquals([own.size, own.topicsOf(session)], [0, []]);

  await using broker = new MemoryBroker();
  await new Topics({ settings: peers, broker })[Symbol.asyncDispose]();
  broker.publish({ topic: "a", payload: "still open" });
});
