import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { QueueFullError, UnsupportedError } from "../errors.ts";
import { internals, Session } from "../session/session.ts";
import { property } from "../tests/properties/property.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { type Peer, Peers } from "./peers_fixture.ts";
import type { Publication } from "./broker.ts";
import { MemoryBroker } from "./memory/broker.ts";
import { Topics } from "./topics.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";

/** Topics, and the messages of some peers; the data of all topics are numbers. */
function numbers(peer: Peer): unknown[] {
  return peer.take().map((message) => (message as [string, unknown])[1]);
}

/**
 * Steps of an application on two nodes: members 0 and 2 are on the first node, 1 and 3 on the
 * second. At first they all subscribe to both topics.
 */
const steps = fc.array(
  fc.record({
    kind: fc.constantFrom(
      ...["publish", "publish", "publish", "subscribe", "send", "unsubscribe"] as const,
      ...["end of turn", "leave all", "close", "close by the peer", "cut"] as const,
    ),
    at: fc.nat(3),
    topic: fc.constantFrom("a", "b"),
    except: fc.option(fc.nat(3), { nil: undefined }),
    hasData: fc.boolean(),
  }),
  { maxLength: 40 },
);

property("members receive each publication once, in order, in one frame a turn", {
  cases: steps,
  runs: 60,
  async check(_world, steps) {
    await using peers = new Peers();
    await using broker = new MemoryBroker();
    await using near = new Topics({ settings: peers, broker });
    await using far = new Topics({ settings: peers, broker });
    const members: { peer: Peer; node: Topics; expected: unknown[] }[] = [];
    for (const node of [near, far, near, far]) {
      const peer = await peers.connect({ id: `peer-${members.length}` });
      members.push({ peer, node, expected: [] });
    }
    /** All subscriptions, in their order. */
    let joined: { readonly member: typeof members[number]; readonly topic: string }[] = [];
    const topicsOf = (member: typeof members[number]) =>
      joined.filter((one) => one.member === member).map(({ topic }) => topic);
    const join = (member: typeof members[number], topic: string) => {
      if (!topicsOf(member).includes(topic)) joined.push({ member, topic });
      return member.node.subscribe(member.peer.session, topic);
    };
    const leave = (member: typeof members[number], topics: readonly string[]) => {
      joined = joined.filter((one) => one.member !== member || !topics.includes(one.topic));
      for (const topic of topics) {
        member.expected.push({ unsubscribed: topic, code: "removed", reason: "" });
      }
    };
    for (const member of members) for (const topic of ["a", "b"]) await join(member, topic);
    let isWhole = true;
    const endTurn = async () => {
      await peers.endTurn();
      for (const { peer, expected } of members) {
        if (peer.session.isClosed) continue;
        const frames = expected.length > 0 ? 1 : 0;
        if (isWhole) assertEquals(peer.frames.length, frames, "frames of a turn");
        assertEquals(peer.take(), expected.splice(0));
      }
      isWhole = true;
    };
    for (const [n, { kind, at, topic, except, hasData }] of steps.entries()) {
      const member = members[at]!;
      const { peer: { session, pair }, node, expected } = member;
      const data = hasData ? { n } : undefined;
      if (kind === "publish") {
        const excepted = except === undefined ? undefined : members[except];
        node.publish(topic, data, { except: excepted?.peer.session });
        for (const one of members) {
          if (one !== excepted && topicsOf(one).includes(topic)) one.expected.push([topic, data]);
        }
      } else if (kind === "send") {
        if (session.isClosed) continue;
        session.send("own", data);
        expected.push(["own", data]);
      } else if (kind === "end of turn") await endTurn();
      else {
        // Waiting messages are sent before a session is added or removed, and before it ends.
        isWhole = false;
        const topics = topicsOf(member);
        if (kind === "subscribe") {
          if (session.isClosed) assertEquals(await node.subscribe(session, topic), false);
          else assertEquals(await join(member, topic), true);
        } else if (kind === "unsubscribe") {
          assertEquals(node.unsubscribe(session, topic), topics.includes(topic));
          if (topics.includes(topic)) leave(member, [topic]);
        } else {
          if (kind === "leave all") node.leaveAll(session);
          else if (kind === "close") await session.close();
          else if (kind === "cut") pair.link.disconnect();
          else pair.client.close();
          if (kind !== "leave all") await session.closed;
          leave(member, topics);
        }
      }
      for (const member of members) {
        const { node, peer: { session } } = member;
        assertEquals(node.topicsOf(session), topicsOf(member));
        for (const topic of ["a", "b"]) {
          assertEquals(node.has(session, topic), topicsOf(member).includes(topic));
        }
      }
      for (const node of [near, far]) {
        const own = joined.filter(({ member }) => member.node === node);
        for (const topic of ["a", "b"]) {
          const subscribers = own.filter((one) => one.topic === topic);
          assertEquals(
            node.subscribers(topic),
            subscribers.map(({ member }) => member.peer.session),
          );
        }
        assertEquals(node.size, new Set(own.map(({ topic }) => topic)).size);
      }
    }
    await endTurn();
  },
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
  // Checking the earlier session's permission took longer.
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

Deno.test("Topics.publish() rejects invalid data, and delivers none of it", async () => {
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
  // The first part, which is sent before the connection is congested.
  session.send("own", "x".repeat(70_000));
  await peers.endTurn();
  topics.unsubscribe(session, "a");
  for (let i = 0; i < 9; i++) session.send("own", i);
  await peers.endTurn();
  pair.link.resume("to-client");
  await peers.endTurn();
  const [, ...got] = take();
  // A notice of drops, which this test reads as a message without data, and a message that was
  // kept.
  assertEquals(got, [
    ["own", undefined],
    { unsubscribed: "a", code: "removed", reason: "" },
    ["own", 8],
  ]);
});

Deno.test("Topics.unsubscribe() replies to the client before it reports the end", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers });
  const { session, take } = await peers.connect();
  const onReply = () => void session.send("reply");
  topics.subscribe(session, "a", { onReply });
  topics.subscribe(session, "a", { onReply });
  topics.unsubscribe(session, "a", { code: "forbidden" });
  await peers.endTurn();
  assertEquals(take(), [
    ["reply", undefined],
    ["reply", undefined],
    { unsubscribed: "a", code: "forbidden", reason: "" },
  ]);
});

Deno.test("Topics.unsubscribe() rejects a code that is too long, and cuts a reason", async () => {
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

Deno.test("Topics.requestedBy() lists the client's own subscriptions, and not the application's", async () => {
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

Deno.test("Topics.subscribe() rejects invalid topics, and one topic too many", async () => {
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

Deno.test("Topics reject the internal topics of nodes, with and without a history", async () => {
  await using peers = new Peers();
  await using topics = new Topics({ settings: peers, history: { "{name}": {} } });
  const { session } = await peers.connect();
  for (const topic of ["$skein:", "$skein:nodes"]) {
    const rule = `a topic must not start with "$skein:", received "${topic}"`;
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

Deno.test("Topics drops a session whose queue is full when it subscribes", async () => {
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

Deno.test("Topics subscribes once per topic at its broker, and only while there are subscribers", async () => {
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
