import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { CloseCode, TimeoutError } from "../errors.ts";
import { clientByHand, ends, HELLO, PLAIN, serverByHand } from "../tests/sessions.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import type { SessionEventMap, SessionEvents } from "./events.ts";
import { Session } from "./session.ts";
import { sessionSettings } from "./settings/session_settings.ts";
import { soon, turns } from "../tests/waiting.ts";

const NAMES: readonly (keyof SessionEventMap)[] = [
  "ready",
  "draining",
  "goaway",
  "closed",
  "protocolerror",
  "error",
  "streamopened",
  "streamclosed",
  "datagramsent",
  "datagramreceived",
  "datagramdropped",
  "blocked",
  "credit",
];

function logOf(events: SessionEvents): [name: string, detail: unknown][] {
  const log: [string, unknown][] = [];
  for (const name of NAMES) {
    events.addEventListener(name, (event) => void log.push([event.type, event.detail]));
  }
  return log;
}

const namesOf = (log: readonly [string, unknown][]): string[] => log.map(([name]) => name);

Deno.test("Session.events reports the life of a client, from ready to closed", async () => {
  await using hand = clientByHand();
  const { session, peer } = hand;
  const log = logOf(session.events);
  peer.say(HELLO);
  await session.ready;
  peer.say({ goaway: { retryAfterMs: 5, reason: "A new version" } });
  await turns();
  peer.connection.close({ closeCode: 4503, reason: "bye" });
  await session.closed;
  assertEquals(log, [
    ["ready", null],
    ["goaway", { retryAfterMs: 5, reason: "A new version" }],
    ["draining", null],
    ["closed", { code: 4503, reason: "bye", by: "remote" }],
  ]);
});

Deno.test("Session.events reports draining once, by either side", async () => {
  await using both = await ends();
  const near = logOf(both.server.events);
  const far = logOf(both.client.events);
  both.link.drain();
  await turns();
  assertEquals([namesOf(near), namesOf(far)], [["draining"], ["draining"]]);
  await Promise.all([both.server.drain(), both.client.closed]);
  assertEquals([namesOf(near), namesOf(far)], [["draining", "closed"], ["draining", "closed"]]);
});

Deno.test("Session.events reports draining when this side drains or closes", async () => {
  for (const way of ["drain", "close"] as const) {
    await using both = await ends();
    const log = logOf(both.server.events);
    await both.server[way]();
    assertEquals(namesOf(log), ["draining", "closed"], way);
  }
});

Deno.test("Session.events reports faults of the peer", async () => {
  await using hand = serverByHand({ maxMessageBytes: 100 });
  const { session, peer } = hand;
  const log = logOf(session.events);
  peer.say("no envelope");
  peer.say(HELLO);
  peer.say(`{"topic":"a","data":"${"x".repeat(200)}"}`);
  assertEquals(await soon(session.closed).then(({ code }) => code), CloseCode.tooLarge);
  assertEquals(namesOf(log), ["protocolerror", "protocolerror", "protocolerror", "closed"]);
  const [first, second, third] = log.map(([, detail]) => String(detail));
  assertEquals(first!.startsWith("Expected"), true, first);
  assertEquals(second, "Expected no hello");
  assertEquals(third, "A message has at most 100 bytes");
  assertEquals(session.stats.protocolErrors, 3);
});

Deno.test("Session.events reports timeouts", async () => {
  await using hand = serverByHand();
  const { session } = hand;
  const log = logOf(session.events);
  await session.request("question", 1, { timeoutMs: 1 }).catch(() => {});
  await session.ping({ timeoutMs: 1 }).catch(() => {});
  assertEquals(namesOf(log), ["error", "error"]);
  for (const [, detail] of log) assertEquals(detail instanceof TimeoutError, true);
});

Deno.test("Session.events reports a stream that could not be opened in time", async () => {
  await using both = await ends();
  const log = logOf(both.client.events);
  for (let i = 0; i < 100; i++) await both.client.createUnidirectionalStream();
  assertEquals((await both.client.diagnostics()).pendingUniStreams, 0);
  const late = both.client.createUnidirectionalStream({ timeoutMs: 5 }).catch(() => {});
  assertEquals((await both.client.diagnostics()).pendingUniStreams, 1);
  await late;
  assertEquals((await both.client.diagnostics()).pendingUniStreams, 0);
  assertEquals(namesOf(log).filter((name) => name === "error"), ["error"]);
});

Deno.test("Session.events reports a failed handler, a dead peer and a full queue", async () => {
  const failure = new Error("of the application");
  const onError = () => {};
  const onMessage = () => {
    throw failure;
  };
  await using failing = serverByHand({ onMessage, onError });
  const failed = logOf(failing.session.events);
  failing.peer.say({ topic: "a" });
  await turns();
  assertEquals(namesOf(failed), ["error"]);
  assertEquals(failed[0]![1], failure);

  await using full = serverByHand({ sendQueue: { maxMessages: 1 } });
  const filled = logOf(full.session.events);
  full.link.stall();
  full.session.send("a", "x".repeat(100_000));
  try {
    for (let i = 0; i < 5; i++) full.session.send("b", "y".repeat(100_000));
  } catch {
    // The queue is full.
  }
  await soon(full.session.closed);
  assertEquals(namesOf(filled), ["error", "closed"]);

  using time = new FakeTime();
  await using dead = serverByHand();
  const died = logOf(dead.session.events);
  dead.link.disconnect({ silent: true });
  await time.tickAsync(62_000);
  assertEquals(namesOf(died), ["error", "closed"]);
});

Deno.test("Session.events reports streams and datagrams on both sides", async () => {
  await using both = await ends();
  const near = logOf(both.server.events);
  const far = logOf(both.client.events);
  const stream = await both.client.createUnidirectionalStream();
  await both.client.sendDatagram(Uint8Array.of(1, 2));
  const writer = stream.getWriter();
  await writer.close();
  for await (const { readable } of both.server.incomingStreams()) {
    await Array.fromAsync(readable);
    break;
  }
  await turns();
  const uni = { direction: "unidirectional", by: "local" };
  assertEquals(far, [
    ["streamopened", { type: "streamopened", ...uni }],
    ["datagramsent", { type: "datagramsent", datagram: Uint8Array.of(1, 2) }],
    ["streamclosed", { type: "streamclosed", ...uni }],
  ]);
  uni.by = "remote";
  assertEquals(near, [
    ["streamopened", { type: "streamopened", ...uni }],
    ["datagramreceived", { type: "datagramreceived", datagram: Uint8Array.of(1, 2) }],
    ["streamclosed", { type: "streamclosed", ...uni }],
  ]);
});

Deno.test("Session.events reports nothing after closed", async () => {
  await using both = await ends();
  const log = logOf(both.client.events);
  const stream = await both.client.createBidirectionalStream();
  await both.client.close();
  await stream.writable.abort().catch(() => {});
  await turns();
  assertEquals(namesOf(log).at(-1), "closed");
  assertEquals(namesOf(log).filter((name) => name === "closed").length, 1);
  assertEquals(namesOf(logOf(both.client.events)), []);
});

Deno.test("Session.events reports errors of a listener, and continues", async () => {
  const errors: unknown[] = [];
  await using hand = serverByHand({ onError: (error) => void errors.push(error) });
  const { session, peer } = hand;
  const thrown = new Error("thrown");
  const rejected = new Error("rejected");
  const late = new Error("of an object");
  let count = 0;
  session.events.addEventListener("protocolerror", () => {
    throw thrown;
  });
  session.events.addEventListener("protocolerror", () => Promise.reject(rejected));
  session.events.addEventListener("protocolerror", {
    handleEvent() {
      throw late;
    },
  });
  session.events.addEventListener("protocolerror", () => void count++);
  peer.say("no envelope");
  await turns();
  assertEquals([session.isReady, count], [true, 1]);
  assertEquals(new Set(errors), new Set([thrown, late, rejected]));
});

Deno.test("Session.events supports once, signal, capture and removeEventListener", async () => {
  await using hand = serverByHand();
  const { events } = hand.session;
  const got: string[] = [];
  const say = (name: string) => () => void got.push(name);
  const twice = say("twice");
  const removed = say("removed");
  const captured = say("captured");
  const ending = new AbortController();
  events.addEventListener("protocolerror", twice);
  events.addEventListener("protocolerror", twice);
  events.addEventListener("protocolerror", say("once"), { once: true });
  events.addEventListener("protocolerror", say("signal"), { signal: ending.signal });
  events.addEventListener("protocolerror", removed);
  events.removeEventListener("protocolerror", removed);
  events.addEventListener("protocolerror", captured, true);
  events.removeEventListener("protocolerror", captured);
  hand.peer.say("1");
  await turns();
  assertEquals(got.toSorted(), ["captured", "once", "signal", "twice"]);
  got.length = 0;
  ending.abort();
  events.removeEventListener("protocolerror", captured, { capture: true });
  hand.peer.say("2");
  await turns();
  assertEquals(got, ["twice"]);
});

Deno.test("Session.events supports dispatchEvent, and keeps event names apart", async () => {
  await using hand = serverByHand();
  const { events } = hand.session;
  const log = logOf(events);
  events.dispatchEvent(new CustomEvent("protocolerror", { detail: "by hand" }));
  events.dispatchEvent(new Event("of another name"));
  assertEquals(log, [["protocolerror", "by hand"]]);
});

Deno.test("Session.events is one object, and observes nothing before its first use", async () => {
  const { client, server } = memoryPair(PLAIN);
  let observers = 0;
  client.inspect!.observe = (observer) => void (observers += observer === undefined ? -1 : 1);
  const session = new Session(client, sessionSettings({ side: "client" }));
  assertEquals([session.stats.state, observers], ["connected", 0]);
  const { events } = session;
  assertEquals([session.events === events, observers], [true, 1]);
  await session.close();
  assertEquals([session.events === events, observers], [true, 0]);
  server.close();
});
