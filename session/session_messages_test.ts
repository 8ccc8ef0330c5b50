import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, RequestError, UnsupportedError } from "../errors.ts";
import { captureConsole } from "../tests/console_lines.ts";
import { clientByHand, endOf, ends, HELLO, PLAIN, serverByHand } from "../tests/sessions.ts";
import type { Session } from "./session.ts";
import { encodeBinary } from "./wire/encode.ts";
import { ConsoleReport } from "../base/console_report.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import { turns } from "../tests/waiting.ts";

const bytes = (...values: number[]) => new Uint8Array(values);

Deno.test("Session.send() joins the messages of one turn into one frame, in order", async () => {
  await using hand = serverByHand();
  const { session, peer } = hand;
  await peer.reach(1);
  for (let i = 0; i < 3; i++) session.send("t", i);
  await peer.reach(2);
  assertEquals(peer.frames[1], [0, 1, 2].map((i) => `{"topic":"t","data":${i}}`).join("\n"));
  session.send("later");
  await peer.reach(3);
  assertEquals(peer.frames[2], '{"topic":"later"}');
});

Deno.test("Session.send() on a plain WebSocket sends one envelope per frame, and nothing unrequested", async () => {
  await using hand = serverByHand({}, { wire: PLAIN });
  const { session, peer } = hand;
  session.goAway({ retryAfterMs: 1, reason: "soon" });
  await turns();
  assertEquals(peer.frames, []);
  session.send("a", 1);
  session.send("b");
  await peer.reach(2);
  assertEquals(peer.frames, ['{"topic":"a","data":1}', '{"topic":"b"}']);
});

Deno.test("Session.send() throws for invalid data, and sends none of it", async () => {
  await using hand = serverByHand({ maxMessageBytes: 100 });
  const { session, peer } = hand;
  assertThrows(() => session.send("a", 1n), TypeError, "data must be a value that JSON can hold");
  assertThrows(() => session.send("", 1), TypeError, "a topic must be");
  assertThrows(() => session.send("x".repeat(256)), RangeError, "256 bytes");
  assertThrows(() => session.send("a", "x".repeat(100)), RangeError, "at most 100 bytes");
  assertThrows(() => session.send("a", "é".repeat(45)), RangeError, "received 113");
  session.send("fits", "x".repeat(74));
  await peer.reach(1);
  assertEquals(peer.envelopes.slice(1).map(({ topic }) => topic), ["fits"]);
});

Deno.test("Session carries bytes on skein.1, in order with text", async () => {
  await using both = await ends();
  const { server, client } = both;
  client.send("a", 1);
  client.send("b", bytes(1, 2, 3));
  client.send("c", bytes());
  client.send("d", 4);
  const got: unknown[] = [];
  for await (const { topic, data } of server) {
    got.push([topic, data]);
    if (topic === "d") break;
  }
  assertEquals(got, [["a", 1], ["b", bytes(1, 2, 3)], ["c", bytes()], ["d", 4]]);
});

Deno.test("Session rejects bytes on a plain WebSocket in every call", async () => {
  const errors: unknown[] = [];
  await using hand = serverByHand({
    onMessage: (message) => {
      try {
        message.reply(bytes(1));
      } catch (error) {
        errors.push(error);
        message.reply("text");
      }
    },
  }, { wire: PLAIN });
  const { session, peer } = hand;
  assertThrows(() => session.send("a", bytes(1)), UnsupportedError, "JSON only");
  await assertRejects(() => session.request("a", bytes(1)), UnsupportedError, "JSON only");
  await assertRejects(() => session.publish("a", bytes(1)), UnsupportedError, "JSON only");
  peer.say({ topic: "ask", id: 1 });
  await peer.reach(1);
  assertEquals(peer.frames, ['{"reply":1,"data":"text"}']);
  assert(errors[0] instanceof UnsupportedError);
});

Deno.test("Session replies to a binary frame on a plain WebSocket with an error, and continues", async () => {
  await using hand = serverByHand({}, { wire: PLAIN });
  hand.peer.say(encodeBinary('{"topic":"a"}', bytes(1)));
  await hand.peer.reach(1);
  assertEquals(hand.peer.envelopes, [{
    reply: null,
    error: { code: "malformed", message: "Expected a text frame, received a binary frame" },
  }]);
  assertEquals(hand.session.isReady, true);
});

Deno.test("Session reads joined frames with blank lines", async () => {
  const topics: string[] = [];
  await using hand = serverByHand({ onMessage: ({ topic }) => void topics.push(topic) });
  hand.peer.say('{"topic":"a"}\n\n{"topic":"b"}\n');
  hand.peer.say('{"topic":"c"}');
  await turns();
  assertEquals([topics, hand.session.stats.invalidMessages], [["a", "b", "c"], 0]);
});

Deno.test("Session replies to malformed envelopes, and closes with 4400 after too many", async () => {
  await using hand = serverByHand({ maxInvalidMessages: 3 });
  const { session, peer } = hand;
  await peer.reach(1);
  peer.say('nonsense\n{"topic":1,"id":7}\n[]\n{"topic":"never"}');
  assertEquals(await endOf(session), { code: 4400, reason: "3 invalid messages", by: "local" });
  assertEquals(await peer.closed, { closeCode: 4400, reason: "3 invalid messages" });
  assertEquals(peer.envelopes.slice(1).map(({ reply }) => reply), [null, 7, null]);
  assertEquals(session.stats.receivedMessages, 0);
});

Deno.test("Session closes with 4413 on one message that is too large", async () => {
  const texts: (string | Uint8Array)[] = [
    JSON.stringify({ topic: "a", data: "x".repeat(100) }),
    JSON.stringify({ topic: "a", data: "é".repeat(45) }),
    `{"topic":"ok"}\n${JSON.stringify({ topic: "a", data: "x".repeat(100) })}`,
    encodeBinary('{"topic":"a"}', new Uint8Array(100)),
    "[".repeat(101),
  ];
  for (const frame of texts) {
    await using hand = serverByHand({ maxMessageBytes: 100, onMessage: () => {} });
    hand.peer.say(frame);
    await turns();
    assertEquals(hand.session.isReady, false);
    assertEquals(await endOf(hand.session), {
      code: 4413,
      reason: "A message has at most 100 bytes",
      by: "local",
    });
  }
});

Deno.test("Session closes with 4413 on a joined frame above the size limit", async () => {
  for (const frame of ["\n".repeat(300_000), '{"topic":"a"}\n'.repeat(30_000)]) {
    await using hand = serverByHand({ onMessage: () => {} });
    hand.peer.say(frame);
    assertEquals((await endOf(hand.session)).code, 4413);
  }
});

Deno.test("Session accepts a message of exactly the maximum size, alone or joined", async () => {
  const topics: string[] = [];
  const settings = {
    maxMessageBytes: 100,
    onMessage: ({ topic }: { topic: string }) => void topics.push(topic),
  };
  await using hand = serverByHand(settings);
  const empty = JSON.stringify({ topic: "a", data: "" }).length;
  hand.peer.say(JSON.stringify({ topic: "a", data: "x".repeat(100 - empty) }));
  hand.peer.say(Array.from({ length: 100 }, () => '{"topic":"b"}').join("\n"));
  await turns();
  assertEquals([topics.length, hand.session.isReady], [101, true]);
});

Deno.test("Session counts unknown envelopes, and ignores them", async () => {
  await using hand = serverByHand({ maxInvalidMessages: 1 });
  for (let i = 0; i < 20; i++) hand.peer.say({ later: i });
  await turns();
  assertEquals([hand.session.stats.unknownEnvelopes, hand.session.isReady], [20, true]);
});

Deno.test("Session iteration yields messages, and ends normally on a close", async () => {
  await using both = await ends();
  both.client.send("a", 1);
  both.client.send("b", 2);
  const closing = both.client.close({ code: 4000, reason: "Enough" });
  const got = await Array.fromAsync(both.server, ({ topic, data }) => [topic, data]);
  assertEquals(got, [["a", 1], ["b", 2]]);
  await closing;
  assertEquals(String(both.server.closeError).includes("4000 Enough, by remote"), true);
});

Deno.test("Session iteration allows one loop at a time, and can be resumed", async () => {
  await using both = await ends();
  both.client.send("a");
  both.client.send("b");
  const loop = both.server[Symbol.asyncIterator]();
  assertEquals((await loop.next()).value?.topic, "a");
  await assertRejects(() => Array.fromAsync(both.server), TypeError, "another loop");
  await loop.return?.();
  for await (const { topic } of both.server) {
    assertEquals(topic, "b");
    break;
  }
});

Deno.test("Session iteration throws if messages go to onMessage", async () => {
  await using hand = serverByHand({ onMessage: () => {} });
  await assertRejects(() => Array.fromAsync(hand.session), TypeError, "the onMessage handler");
});

Deno.test("Session continues after any return value of its handler", async () => {
  const returned = [null, false, 7, "text", {}];
  const handled: unknown[] = [];
  await using hand = serverByHand({
    onMessage({ data }) {
      handled.push(data);
      return returned[handled.length - 1] as never; // As an untyped program may.
    },
  });
  for (let i = 0; i < returned.length; i++) hand.peer.say({ topic: "t", data: i });
  await turns();
  assertEquals([handled, hand.session.state], [[0, 1, 2, 3, 4], "connected"]);
});

Deno.test("Session closes with 4507 when its handler, or its loop, is too slow", async () => {
  const receiveQueue = { maxMessages: 3 };
  await using looped = serverByHand({ receiveQueue });
  const loop = looped.session[Symbol.asyncIterator]();
  const first = loop.next();
  const never = new Promise<void>(() => {});
  await using stuck = serverByHand({
    receiveQueue,
    closeTimeoutMs: 1,
    onMessage: () => never,
  });
  for (
    const [hand, reason] of [
      [looped, "The message loop is too slow"],
      [stuck, "The message handler is too slow"],
    ] as const
  ) {
    for (let i = 0; i < 4; i++) {
      hand.peer.say({ topic: "a" });
      await turns();
    }
    assertEquals(hand.session.isReady, true);
    hand.peer.say({ topic: "a" });
    await turns();
    assertEquals(hand.session.isReady, false);
    assertEquals(await endOf(hand.session), { code: 4507, reason, by: "local" });
  }
  assertEquals((await first).done, false);
});

Deno.test("Session closes with 4507 on too many bytes for its loop", async () => {
  await using hand = serverByHand({ receiveQueue: { maxBytes: 1_000 } });
  const loop = hand.session[Symbol.asyncIterator]();
  void loop.next();
  for (let i = 0; i < 4; i++) hand.peer.say({ topic: "a", data: "x".repeat(400) });
  assertEquals((await endOf(hand.session)).code, 4507);
});

Deno.test("Session without a reader keeps the newest messages, and counts the others", async () => {
  await using hand = serverByHand({ receiveQueue: { maxMessages: 2 } });
  await hand.peer.reach(1);
  hand.peer.say({ topic: "asked", id: 7 });
  for (const topic of ["a", "b", "c"]) hand.peer.say({ topic });
  await turns();
  assertEquals([hand.session.isReady, hand.session.stats.unreadMessages], [true, 2]);
  assertEquals(hand.peer.envelopes.at(-1), {
    reply: 7,
    error: {
      code: "unanswered",
      message: 'No request handler for "asked": add it to the option requests of the server',
    },
  });
  const read: string[] = [];
  for await (const { topic } of hand.session) {
    read.push(topic);
    if (read.length === 2) break;
  }
  assertEquals(read, ["b", "c"]);
});

Deno.test("Session restarts the count of invalid messages after a minute", async () => {
  using time = new FakeTime();
  // A plain WebSocket, whose peer has no heartbeat to reply meanwhile.
  const wire = PLAIN;
  await using hand = serverByHand({ maxInvalidMessages: 2, onMessage: () => {} }, { wire });
  hand.peer.say([]);
  await turns();
  await time.tickAsync(60_001);
  hand.peer.say([]);
  await turns();
  assertEquals([hand.session.isReady, hand.session.stats.invalidMessages], [true, 2]);
  hand.peer.say([]);
  assertEquals((await endOf(hand.session)).code, 4400);
});

Deno.test("Session counts the invalid messages of a minute, however the clock is set", async () => {
  for (const [setMs, count] of [[-3_600_000, 15], [-30_000, 15], [3_600_000, 1]] as const) {
    using time = new FakeTime();
    const wire = PLAIN;
    await using hand = serverByHand({ maxInvalidMessages: 20, onMessage: () => {} }, { wire });
    for (let i = 0; i < count; i++) hand.peer.say([]);
    await turns();
    using _set = clockAhead(setMs);
    for (let i = 0; i < 20; i++) {
      await time.tickAsync(61_000);
      hand.peer.say([]);
      await turns();
    }
    assertEquals([hand.session.isReady, hand.session.stats.invalidMessages], [true, count + 20]);
  }
});

Deno.test("Session handles messages only after onOpen's promise resolves", async () => {
  const log: string[] = [];
  const gate = Promise.withResolvers<void>();
  await using hand = serverByHand({
    onOpen: async () => {
      log.push("opening");
      await gate.promise;
      log.push("open");
    },
    onMessage: ({ topic }) => void log.push(topic),
  });
  hand.peer.say({ topic: "a" });
  await turns();
  assertEquals(log, ["opening"]);
  hand.peer.say({ topic: "b" });
  gate.resolve();
  await turns();
  assertEquals(log, ["opening", "open", "a", "b"]);
});

Deno.test("Session reports dropped messages to the client, as a notice and not as a message", async () => {
  const dropped: unknown[] = [];
  const topics: string[] = [];
  await using hand = clientByHand({
    onDropped: (count, topic) => void dropped.push([count, topic]),
    onMessage: ({ topic }) => void topics.push(topic),
  });
  hand.peer.say(HELLO);
  hand.peer.say({ dropped: 3, topic: "prices" });
  hand.peer.say({ dropped: 2 });
  await turns();
  assertEquals([dropped, topics], [[[3, "prices"], [2, undefined]], []]);
  assertEquals(hand.session.stats.droppedByPeer, 5);
});

Deno.test("Session.flushed() resolves once the connection has accepted all frames, also after a stall", async () => {
  await using hand = serverByHand();
  const { session, peer, link } = hand;
  session.send("a");
  await session.flushed();
  await turns();
  assertEquals(peer.envelopes.length, 2);
  link.stall("to-client");
  for (let i = 0; i < 10; i++) session.send("b", "x".repeat(20_000));
  let isFlushed = false;
  const flushed = session.flushed().then(() => isFlushed = true);
  await turns();
  assertEquals(isFlushed, false);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  assertEquals(await assertRejects(() => session.flushed({ signal })), reason);
  link.resume("to-client");
  await flushed;
  await peer.reach(5);
  assertEquals(session.stats.queuedMessages, 0);
});

Deno.test("Session.send() throws when the queue is full, and the session closes", async () => {
  await using hand = serverByHand({ sendQueue: { maxMessages: 2 } });
  const { session, link } = hand;
  link.stall("to-client");
  session.send("a", "x".repeat(70_000));
  await session.flushed({ timeoutMs: 1 }).catch(() => {});
  session.send("b");
  session.send("c");
  assertThrows(() => session.send("d"), QueueFullError, "the send queue is full");
  assertEquals(await endOf(session), {
    code: 4507,
    reason: "The send queue is full",
    by: "local",
  });
  assert(session.closeError instanceof QueueFullError);
});

Deno.test("Session warns once for all senders that messages have no reader", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  await using pair = await ends();
  pair.client.send("say", 1);
  pair.client.send("say", 2);
  pair.server.send("tell", 1);
  await turns();
  await time.tickAsync(4_999);
  assertEquals(printed.lines, []);
  await time.tickAsync(1);
  pair.client.send("say", 3);
  await turns();
  await time.tickAsync(10_000);
  assertEquals(printed.lines.sort(), [
    'Skein: Messages on "say" have no reader: set onMessage, or loop over the session',
    'Skein: Messages on "tell" have no reader: set onMessage, or loop over the client, or subscribe to ' +
    "it",
  ]);
});

Deno.test("Session rejects requests if no loop has started within 5 s, and keeps messages", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  await using pair = await ends();
  const { client, server } = pair;
  for (let i = 0; i < 2; i++) {
    const asking = client.request("ask", 1);
    client.send("tell", i);
    const abort = new AbortController();
    const cancelled = client.request("ask", 2, { signal: abort.signal });
    await turns();
    abort.abort();
    await assertRejects(() => cancelled, DOMException);
    await time.tickAsync(4_999);
    assertEquals(client.stats.pendingReplies, 1);
    await time.tickAsync(1);
    const { message, failure } = await assertRejects(() => asking, RequestError);
    assertEquals(
      message,
      'No request handler for "ask": add it to the option requests of the server',
    );
    assertEquals([failure.code, server.stats.waitingMessages], ["unanswered", i + 1]);
  }
  const loop = server[Symbol.asyncIterator]();
  for (const data of [0, 1]) assertEquals((await loop.next()).value?.data, data);
  const asking = client.request("ask", 3);
  (await loop.next()).value?.reply("late");
  assertEquals([await asking, client.stats.lateReplies, printed.lines], ["late", 0, []]);
});

Deno.test("Session keeps requests while onOpen prepares the loop that reads them", async () => {
  using time = new FakeTime();
  const onOpen = async (session: Session) => {
    await new Promise((resolve) => setTimeout(resolve, 12_000));
    (async () => {
      for await (const message of session) message.reply("read");
    })();
  };
  await using pair = await ends({ onOpen });
  const asking = pair.client.request("ask");
  await time.tickAsync(12_000);
  assertEquals(await asking, "read");
});

Deno.test("Session rejects requests without a reader once a hanging onOpen is late", async () => {
  using time = new FakeTime();
  using _printed = captureConsole();
  await using pair = await ends({
    requestTimeoutMs: 7_000,
    onOpen: () => new Promise<void>(() => {}),
  });
  const asking = pair.client.request("ask");
  await time.tickAsync(9_999);
  assertEquals(pair.client.stats.pendingReplies, 1);
  await time.tickAsync(1);
  assertEquals((await assertRejects(() => asking, RequestError)).failure.code, "unanswered");
});

Deno.test("Session prints no warning for presence, after it has closed, or if a loop reads messages in time", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  await using read = await ends();
  read.client.send("say", 1);
  read.server.send("presence:room", { type: "leave" });
  await turns();
  const reading = read.server[Symbol.asyncIterator]();
  assertEquals((await reading.next()).value?.data, 1);
  const ended = await ends();
  ended.client.send("say", 1);
  await turns();
  await ended.client.close();
  await time.tickAsync(10_000);
  assertEquals(printed.lines, []);
  await reading.return();
});

Deno.test("Sessions without onError together print 16 handler errors per minute", async () => {
  using printed = captureConsole();
  const settings = {
    console: new ConsoleReport(platformRuntime()),
    onMessage: () => {
      throw new Error("broken");
    },
  };
  for (let sessions = 0; sessions < 3; sessions++) {
    await using hand = serverByHand(settings);
    for (let i = 0; i < 10; i++) hand.peer.say({ topic: "a" });
    await turns();
    assertEquals([hand.session.isReady, hand.session.stats.receivedMessages], [true, 10]);
  }
  assertEquals(printed.lines.length, 16);
  for (const line of printed.lines) {
    assertMatch(line, /^A handler of session \S+ failed: Error: broken$/);
  }
});
