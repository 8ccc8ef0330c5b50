import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  QueueFullError,
  SessionClosedError,
  TimeoutError,
  UnsupportedError,
} from "../../errors.ts";
import { NO_COUNTERS } from "../../tests/counters.ts";
import { clientByHand, ends, HELLO, PLAIN, serverByHand } from "../../tests/sessions.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import type { Connection, CreditState } from "../../transport/connection.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import type { SessionHealth, SessionIssue } from "./health.ts";
import { internals, Session } from "../session.ts";
import { sessionSettings } from "../settings/session_settings.ts";
import { soon, turns } from "../../tests/waiting.ts";

const HOUR_MS = 3_600_000;

/** Checks that there is only this issue. Its message has a number and a remedy. */
async function assertIssue(
  session: Session,
  what: `${SessionIssue["severity"]}: ${SessionIssue["code"]}`,
  text: string,
): Promise<void> {
  const issues = await session.issues();
  assertEquals(issues.map(({ code, severity }) => `${severity}: ${code}`), [what]);
  const [{ message }] = issues as [SessionIssue];
  assert(/\d/.test(message) && /[:;]/.test(message), message);
  assertStringIncludes(message, text);
}

async function codes(session: Session): Promise<string[]> {
  return (await session.issues()).map(({ code }) => code);
}

/** Overrides the counters of a connection. */
function pretend(connection: Connection, what: object): void {
  for (const [name, value] of Object.entries(what)) {
    Object.defineProperty(connection.inspect!, name, { value, configurable: true });
  }
}

/** A healthy session, except for the given credit. */
function creditOf(state: Partial<CreditState>): object {
  const fine = { granted: 100, received: 0, allowed: 100, sent: 0, waiting: 0 };
  return {
    credit: {
      state: (kind: string) => (kind === "data" ? { ...fine, ...state } : fine),
      grant() {},
    },
  };
}

Deno.test("Session.issues() is empty for a healthy session", async () => {
  await using both = await ends();
  both.client.send("a");
  await both.client.createBidirectionalStream();
  await turns();
  for await (const stream of both.server.incomingStreams()) {
    assertEquals(stream.direction, "bidirectional");
    break;
  }
  for await (const { topic } of both.server) {
    assertEquals(topic, "a");
    break;
  }
  assertEquals([await both.server.issues(), await both.client.issues()], [[], []]);
});

Deno.test("Session.issues() finds a session that is stuck connecting", async () => {
  using time = new FakeTime();
  await using hand = clientByHand({ handshakeTimeoutMs: 60_000 });
  await time.tickAsync(10_000);
  assertEquals(await codes(hand.session), []);
  await time.tickAsync(2_000);
  await assertIssue(hand.session, "error: stuck-connecting", "has been connecting for 12 s");
});

Deno.test("Session.issues() finds a session that is stuck draining, and its slow handler", async () => {
  using time = new FakeTime();
  const { promise, resolve } = Promise.withResolvers<void>();
  await using hand = serverByHand({ onMessage: () => promise });
  hand.peer.say({ topic: "a" });
  hand.peer.say({ topic: "b" });
  await time.tickAsync(0);
  const drained = hand.session.drain({ withinMs: 100_000 });
  assertEquals(await codes(hand.session), []);
  // The peer is alive.
  for (let i = 0; i < 4; i++) {
    await time.tickAsync(10_000);
    hand.peer.say({ pong: 0 });
  }
  await time.tickAsync(0);
  const issues = await hand.session.issues();
  assertEquals(issues.map(({ code }) => code), ["stuck-draining", "slow-handler"]);
  const [draining, handler] = issues.map(({ message }) => message);
  assert(draining!.startsWith("The session has been draining for 40 s"), draining);
  assert(
    handler!.startsWith('The handler of "a" has been running for 40 s, and 1 message'),
    handler,
  );
  resolve();
  await time.tickAsync(0);
  hand.peer.connection.close();
  await drained;
});

Deno.test("Session prints once per topic that messages wait for a handler", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const { promise, resolve } = Promise.withResolvers<void>();
  const onMessage = () => promise;
  await using both = await ends({ onMessage }, { onMessage });
  both.client.send("stuck");
  both.server.send("stuck");
  await turns();
  const later = async (ms: number) => {
    await time.tickAsync(ms);
    await Promise.all([both.client.issues(), both.server.issues()]);
  };
  await later(30_000);
  assertEquals(printed.lines, []);
  both.client.send("b");
  both.client.send("c");
  both.server.send("b");
  await turns();
  await later(1_000);
  await later(5_000);
  assertEquals(printed.lines.sort(), [
    'Skein: The handler of "stuck" has been running for 31 s, and 1 message of its session waits: ' +
    "pass the message's signal to what it awaits, or raise concurrency",
    'Skein: The handler of "stuck" has been running for 31 s, and 2 messages of its session wait: ' +
    "pass the message's signal to what it awaits, or raise session.concurrency",
  ]);
  resolve();
  await turns();
});

Deno.test("Session prints nothing about a handler that others overtake", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const stuck = Promise.withResolvers<void>();
  let next = Promise.withResolvers<void>();
  await using both = await ends({
    concurrency: 2,
    onMessage: ({ topic }) => (topic === "stuck" ? stuck : next).promise,
  });
  for (const topic of ["stuck", "a", "b", "c", "d"]) both.client.send(topic);
  for (let i = 0; i < 3; i++) {
    await time.tickAsync(9_000);
    next.resolve();
    next = Promise.withResolvers();
    await turns();
  }
  await both.server.issues();
  assertEquals(printed.lines, []);
  await time.tickAsync(10_000);
  await both.server.issues();
  assertEquals(printed.lines, []);
  both.client.send("e");
  await time.tickAsync(2_000);
  await both.server.issues();
  assertEquals(printed.lines.length, 1);
  stuck.resolve();
  next.resolve();
  await turns();
});

Deno.test("Session.issues() finds a missing heartbeat", async () => {
  using time = new FakeTime();
  await using hand = serverByHand();
  hand.link.disconnect({ silent: true });
  await time.tickAsync(37_000);
  assertEquals(await codes(hand.session), []);
  await time.tickAsync(2_000);
  await assertIssue(
    hand.session,
    "error: missing-heartbeat",
    "silent for 39 s, with a heartbeat of 25 s",
  );
});

Deno.test("Session.issues() finds queues that are nearly full", async () => {
  await using hand = serverByHand({
    sendQueue: { maxMessages: 10 },
    receiveQueue: { maxMessages: 5 },
    onOpen: () => new Promise<void>(() => {}),
    onMessage() {},
  });
  const { session, peer, link } = hand;
  link.stall("to-client");
  session.send("big", "x".repeat(100_000));
  await turns();
  for (let i = 0; i < 8; i++) session.send("a", i);
  for (let i = 0; i < 4; i++) peer.say({ topic: "b" });
  await turns();
  assertEquals(await codes(session), []);
  session.send("a", 9);
  peer.say({ topic: "b" });
  await turns();
  const issues = await session.issues();
  assertEquals(issues.map(({ code }) => code), [
    "send-queue-nearly-full",
    "receive-queue-nearly-full",
  ]);
  assert(issues[0]!.message.startsWith("9 of 10 messages and "), issues[0]!.message);
  assert(issues[1]!.message.startsWith("5 of 5 messages and "), issues[1]!.message);
});

Deno.test("Session.issues() finds messages that wait for an onOpen that does not return", async () => {
  using time = new FakeTime();
  const { promise, resolve } = Promise.withResolvers<void>();
  await using hand = serverByHand({ onOpen: () => promise, onMessage: () => {} });
  await time.tickAsync(0);
  hand.peer.say({ topic: "a" });
  await time.tickAsync(10_000);
  assertEquals(await codes(hand.session), []);
  await time.tickAsync(1_000);
  await assertIssue(hand.session, "warning: slow-handler", "1 message waits until onOpen returns");
  resolve();
  await time.tickAsync(0);
  assertEquals(await codes(hand.session), []);
});

Deno.test("Session.issues() finds streams that wait to be accepted", async () => {
  await using both = await ends();
  await both.client.createBidirectionalStream();
  await both.client.createUnidirectionalStream();
  await turns();
  await assertIssue(both.server, "warning: unread-streams", "2 streams of the peer wait");
});

Deno.test("Session.issues() finds a session without a reader", async () => {
  await using hand = serverByHand({ receiveQueue: { maxMessages: 5 } });
  for (let i = 0; i < 5; i++) hand.peer.say({ topic: "a" });
  await turns();
  await assertIssue(hand.session, "error: receive-queue-nearly-full", "no loop reads the messages");
});

Deno.test("Session.issues() finds streams that leak", async () => {
  using time = new FakeTime();
  await using hand = serverByHand({}, { wire: PLAIN });
  const { connection } = hand.session;
  pretend(connection, { counters: { ...NO_COUNTERS, localUnidirectionalOpened: 70 } });
  await time.tickAsync(600_000);
  assertEquals(await codes(hand.session), []);
  await time.tickAsync(1_000);
  await assertIssue(
    hand.session,
    "warning: leaking-streams",
    "70 of 70 streams are open after 601 s",
  );
  const counters = { ...NO_COUNTERS, localUnidirectionalOpened: 500, streamsClosed: 430 };
  pretend(connection, { counters });
  assertEquals(await codes(hand.session), [], "They open and close");
});

Deno.test("Session.issues() reports that this side waits for credit", async () => {
  await using both = await ends();
  for (let i = 0; i < 100; i++) await both.client.createUnidirectionalStream();
  const giveUp = new AbortController();
  const waiting = both.client.createUnidirectionalStream({ signal: giveUp.signal });
  await assertIssue(
    both.client,
    "warning: waiting-for-credit",
    "1 call waits until the peer allows more unidirectional",
  );
  giveUp.abort();
  await waiting.catch(() => {});
  assertEquals(await codes(both.client), []);
  pretend(both.client.connection, creditOf({ sent: 100, waiting: 3 }));
  await assertIssue(
    both.client,
    "warning: waiting-for-credit",
    "bytes of streams: 100 of 100 are used",
  );
});

Deno.test("Session.issues() finds a peer without remaining credit", async () => {
  await using both = await ends();
  pretend(both.client.connection, creditOf({ granted: 65_536, received: 65_536 }));
  await assertIssue(both.client, "warning: peer-without-credit", "all 65536 bytes of streams");
  await assertIssue(both.client, "warning: peer-without-credit", "grantDataCredit()");
});

Deno.test("Session.issues() finds many errors among many operations", async () => {
  await using hand = serverByHand({}, { wire: PLAIN });
  const { connection } = hand.session;
  const counters = { ...NO_COUNTERS, remoteUnidirectionalOpened: 49, streamsClosed: 49 };
  pretend(connection, { counters: { ...counters, streamErrors: 49 } });
  assertEquals(await codes(hand.session), [], "Too few to tell");
  counters.remoteUnidirectionalOpened = counters.streamsClosed = 60;
  pretend(connection, { counters: { ...counters, streamErrors: 6 } });
  assertEquals(await codes(hand.session), [], "A tenth is fine");
  pretend(connection, { counters: { ...counters, streamErrors: 7 } });
  await assertIssue(hand.session, "error: error-rate", "7 errors in 60 ");
});

Deno.test("Session.issues() finds invalid and unread messages, drops and lost datagrams", async () => {
  await using hand = serverByHand({
    receiveQueue: { maxMessages: 1 },
    sendQueue: { maxMessages: 2, policy: "drop-oldest" },
  });
  const { session, peer, link } = hand;
  for (let i = 0; i < 7; i++) peer.say("no envelope");
  await turns();
  assertEquals(await codes(session), []);
  peer.say("no envelope");
  for (let i = 0; i < 3; i++) peer.say({ topic: "a" });
  peer.say({ dropped: 4 });
  link.stall("to-client");
  session.send("big", "x".repeat(100_000));
  await turns();
  for (let i = 0; i < 5; i++) session.send("a", i);
  pretend(session.connection, { counters: { ...NO_COUNTERS, datagramsDropped: 2 } });
  await turns();
  const issues = (await session.issues()).filter(({ code }) => !code.includes("full"));
  assertEquals(issues.map(({ code }) => code), [
    "invalid-messages",
    "unread-messages",
    "messages-dropped",
    "messages-dropped",
    "datagrams-dropped",
  ]);
  const beginnings = [
    "8 messages were invalid",
    "2 messages were discarded",
    "4 messages were dropped here: send less",
    "4 messages were dropped by the peer: read faster",
    "2 datag",
  ];
  for (const [i, beginning] of beginnings.entries()) {
    assert(issues[i]!.message.startsWith(beginning), issues[i]!.message);
  }
});

Deno.test("Session.issues() finds an hour without a message", async () => {
  using time = new FakeTime();
  await using hand = serverByHand();
  for (let i = 0; i < 250; i++) {
    await time.tickAsync(15_000);
    hand.peer.say({ pong: 0 });
    if (i === 239) assertEquals(await codes(hand.session), []);
  }
  await assertIssue(hand.session, "warning: idle", "");
  hand.session.send("a");
  await hand.session.flushed();
  assertEquals(await codes(hand.session), []);
});

Deno.test("Session.issues() of a closed session only reports its counters", async () => {
  using time = new FakeTime();
  await using both = await ends();
  await both.client.createUnidirectionalStream();
  await Promise.all([both.client.close(), both.server.closed]);
  await time.tickAsync(2 * HOUR_MS);
  assertEquals([await codes(both.client), await codes(both.server)], [[], []]);
});

Deno.test("Session.summary() is a small plain object", async () => {
  const identity = { id: "s-1", user: "ann", url: "https://example.com/rooms/a?x=1" };
  await using both = await ends({}, {}, { identity });
  both.client.send("a", 1);
  await both.client.sendDatagram(new Uint8Array(5));
  await turns();
  const { uptimeMs, sentBytes, ...summary } = await both.server.summary();
  assert(uptimeMs >= 0 && sentBytes > 0);
  assertEquals(summary, {
    id: "s-1",
    user: "ann",
    state: "connected",
    transport: "memory",
    protocol: "skein.1",
    path: "/rooms/a",
    roundTripMs: undefined,
    sentMessages: 1,
    receivedMessages: 1,
    receivedBytes: `{"topic":"a","data":1}`.length + 5,
    activeStreams: 0,
    datagramsSent: 0,
    datagramsReceived: 1,
    issues: [],
  });
});

Deno.test("Session.ping() measures the round trip, on both sides", async () => {
  await using both = await ends();
  both.link.setFaults({ delayMs: 20 });
  for (const end of [both.client, both.server]) {
    assertEquals(end.roundTripMs, undefined);
    const ms = await end.ping();
    assert(ms >= 39 && ms < 2_000, `${ms}`);
    assertEquals(end.roundTripMs, ms);
  }
});

Deno.test("Session.ping() distinguishes concurrent pings, at most 64", async () => {
  await using hand = serverByHand();
  const pings = Array.from({ length: 64 }, () => hand.session.ping());
  await turns();
  await assertRejects(() => hand.session.ping(), QueueFullError, "64");
  const numbers = hand.peer.envelopes.flatMap(({ ping }) => typeof ping === "number" ? [ping] : []);
  assertEquals([numbers.length, new Set(numbers).size], [64, 64]);
  hand.peer.say({ pong: numbers[63] });
  assert(await soon(pings[63]!) >= 0);
  for (const n of numbers.slice(0, 63)) hand.peer.say({ pong: n });
  await soon(Promise.all(pings));
  assertEquals(hand.session.stats.pendingReplies, 0);
});

Deno.test("Session.ping() rejects by timeout and by signal, and ignores a late pong", async () => {
  await using hand = serverByHand();
  const { session, peer } = hand;
  await assertRejects(() => session.ping({ timeoutMs: 1 }), TimeoutError, "No pong");
  const giveUp = new AbortController();
  const reason = new Error("enough");
  const waiting = session.ping({ signal: giveUp.signal });
  await turns();
  giveUp.abort(reason);
  assertEquals(await waiting.catch((error) => error), reason);
  for (const { ping } of peer.envelopes) if (ping !== undefined) peer.say({ pong: ping });
  for (const pong of [0, 1, 7, 2 ** 32, 2 ** 32 + 50, Number.MAX_SAFE_INTEGER]) peer.say({ pong });
  await turns();
  assertEquals([session.roundTripMs, session.isReady], [undefined, true]);
  assertEquals(session.stats.invalidMessages, 0);
});

Deno.test("Session.ping() needs skein.1 and an open session", async () => {
  await using plain = serverByHand({}, { wire: PLAIN });
  await assertRejects(() => plain.session.ping(), UnsupportedError, "no pings without skein.1");
  await using raw = serverRaw();
  await assertRejects(() => raw.ping(), UnsupportedError);
  await using hand = serverByHand();
  const waiting = hand.session.ping();
  await turns();
  hand.peer.connection.close();
  await assertRejects(() => waiting, SessionClosedError);
  await assertRejects(() => hand.session.ping(), SessionClosedError, "Cannot ping");
});

/** A session of streams and datagrams only. */
function serverRaw(): Session {
  return new Session(memoryPair({ frames: false }).server, sessionSettings({ side: "server" }));
}

Deno.test("Session.roundTripMs comes from the heartbeat of a server, once for each ping", async () => {
  using time = new FakeTime();
  await using hand = serverByHand();
  const { session, peer } = hand;
  peer.say({ pong: 1 });
  await time.tickAsync(25_000);
  assertEquals(session.roundTripMs, undefined, "No ping was pending then");
  await turns();
  const { ping } = peer.envelopes.at(-1)!;
  peer.say({ pong: Number(ping) + 1 });
  await turns();
  assertEquals(session.roundTripMs, undefined);
  peer.say({ pong: ping });
  await turns();
  const { roundTripMs } = session;
  assert(roundTripMs !== undefined && roundTripMs >= 0 && roundTripMs < 10_000, `${roundTripMs}`);
  peer.say({ pong: ping });
  await turns();
  assertEquals(session.roundTripMs, roundTripMs, "A second pong has no effect");
  peer.connection.close();
});

/** Lets running work settle without advancing the time. */
async function settle(time: FakeTime): Promise<void> {
  for (let i = 0; i < 10; i++) await time.tickAsync(0);
}

Deno.test("Session.monitorHealth() yields immediately, then at each interval, and ends with the session", async () => {
  using time = new FakeTime();
  await using hand = serverByHand({}, { wire: PLAIN });
  const { session, peer } = hand;
  const seen: SessionHealth[] = [];
  const watching = (async () => {
    for await (const health of session.monitorHealth()) seen.push(health);
  })();
  await settle(time);
  assertEquals(seen.length, 1);
  await time.tickAsync(59_999);
  await settle(time);
  assertEquals(seen.length, 1);
  for (let i = 0; i < 10; i++) peer.say("no envelope");
  await time.tickAsync(1);
  await settle(time);
  assertEquals(seen.map(({ isHealthy }) => isHealthy), [true, false]);
  assertEquals(seen[1]!.at - seen[0]!.at, 60_000);
  assertEquals(seen[1]!.issues.map(({ code }) => code), ["invalid-messages"]);
  assertEquals([seen[1]!.stats.invalidMessages, seen[1]!.roundTripMs], [10, undefined]);
  await time.tickAsync(60_000);
  await settle(time);
  assertEquals(seen[2]!.issues, [], "Nothing is new");
  await time.tickAsync(30_000);
  peer.connection.close();
  await settle(time);
  await watching;
  assertEquals(seen.length, 3);
  assertEquals((await Array.fromAsync(session.monitorHealth())).length, 0);
});

Deno.test("Session.monitorHealth() leaves no timer after its loop, or its signal", async () => {
  using time = new FakeTime();
  await using hand = serverByHand({}, { wire: PLAIN });
  const { session } = hand;
  for await (const { isHealthy } of session.monitorHealth({ intervalMs: 5 })) {
    assert(isHealthy);
    break;
  }
  const giveUp = new AbortController();
  let count = 0;
  const watching = (async () => {
    for await (const _ of session.monitorHealth({ intervalMs: 10, signal: giveUp.signal })) count++;
  })();
  for (let i = 0; i < 5; i++) {
    await settle(time);
    await time.tickAsync(5);
  }
  assertEquals(count, 3);
  giveUp.abort();
  await watching;
  await time.tickAsync(100);
  assertEquals(count, 3);
  const over = session.monitorHealth({ signal: AbortSignal.abort() });
  assertEquals(await Array.fromAsync(over), []);
});

Deno.test("Session.monitorHealth() leaves nothing behind in the session after its loop", async () => {
  await using hand = serverByHand({}, { wire: PLAIN });
  const { session } = hand;
  const giveUp = new AbortController();
  for (let i = 0; i < 10; i++) {
    for await (const _ of session.monitorHealth({ signal: giveUp.signal })) break;
  }
  assertEquals(session[internals].monitors?.size, 0);
});

Deno.test("Session.monitorHealth() rejects an invalid interval", async () => {
  await using hand = clientByHand();
  hand.peer.say(HELLO);
  for (const intervalMs of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
    await assertRejects(
      () => hand.session.monitorHealth({ intervalMs }).next(),
      RangeError,
      `received ${intervalMs}`,
    );
  }
});
