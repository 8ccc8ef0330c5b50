import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { CloseCode, LimitError } from "../errors.ts";
import { Session } from "../session/session.ts";
import type { Connection, ConnectionCloseInfo } from "../transport/connection.ts";
import { type MemoryPair, memoryPair, type MemoryPairOptions } from "../transport/memory/memory.ts";
import { spreadDelays } from "./drain.ts";
import type { ManagerLimits } from "./limits.ts";
import { SessionManager } from "./session_manager.ts";
import {
  sessionSettings,
  type SessionSettingsOptions,
} from "../session/settings/session_settings.ts";

/** Creates a manager whose runtime always draws the same number. */
function managerDrawing(
  draw: number,
  limits: ManagerLimits = {},
  clocks: Partial<Runtime> = {},
): SessionManager {
  // A `FakeTime` leaves `performance.now()` as it is.
  const runtime = Object.assign(platformRuntime(), {
    random: () => draw,
    monotonic: () => Date.now(),
    ...clocks,
  });
  return new SessionManager({ ...limits, runtime });
}

/** The peer of a managed session: notices it received, and the time of its close. */
interface Peer {
  readonly session: Session;
  readonly pair: MemoryPair;
  readonly lines: string[];
  closed: (ConnectionCloseInfo & { atMs: number }) | undefined;
}

/** Joins `count` sessions; times are relative to this call. */
function join(
  manager: SessionManager,
  count: number,
  options: {
    wire?: MemoryPairOptions;
    settings?: Partial<SessionSettingsOptions>;
  } = {},
): Peer[] {
  const settings = sessionSettings({ ...options.settings, side: "server" });
  const startedAt = Date.now();
  return Array.from({ length: count }, () => {
    const pair = memoryPair(options.wire);
    const session = new Session(pair.server, settings);
    const peer: Peer = { session, pair, lines: [], closed: undefined };
    pair.client.frames?.receive({
      receiveFrame: (frame) => peer.lines.push(...`${frame}`.split("\n")),
      framesEnded() {},
    });
    pair.client.closed.then((info) => peer.closed = { ...info, atMs: Date.now() - startedAt });
    manager.add(session);
    return peer;
  });
}

/** Lets time pass, and then its events. */
async function pass(time: FakeTime, ms: number): Promise<void> {
  await time.tickAsync(ms);
  await time.runMicrotasks();
}

/** Delays that the peer received, in order. */
function toldDelays({ lines }: Peer): number[] {
  return lines.map((line) => JSON.parse(line).goaway?.retryAfterMs)
    .filter((delay) => delay !== undefined);
}

Deno.test("spreadDelays() picks one moment in each slot", () => {
  const cases: [number, number, () => number, number[]][] = [
    [0, 1_000, () => 0.5, []],
    [1, 1_000, () => 0, [0]],
    [1, 1_000, () => 0.999, [999]],
    [4, 800, () => 0.5, [100, 300, 500, 700]],
    [4, 800, () => 0, [0, 200, 400, 600]],
    [4, 2, () => 0.5, [0, 0, 1, 1]],
  ];
  for (const [count, overMs, random, delays] of cases) {
    assertEquals(spreadDelays(count, overMs, random), delays);
  }
});

Deno.test("spreadDelays() bunches no closes, for any jitter", () => {
  const delays = spreadDelays(10_000, 8_000, Math.random);
  assertEquals(delays, delays.toSorted((a, b) => a - b));
  assert(delays[0]! >= 0 && delays.at(-1)! < 8_000);
  const perTenth = Map.groupBy(delays, (delay) => Math.floor(delay / 100));
  assertEquals(perTenth.size, 80);
  for (const { length } of perTenth.values()) assert(length >= 123 && length <= 127, `${length}`);
});

Deno.test("SessionManager.drain() rejects a time beyond the range of timers", async () => {
  await using manager = new SessionManager();
  for (const withinMs of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
    assertThrows(() => manager.drain({ withinMs }), RangeError, `received ${withinMs}`);
  }
  assertThrows(() => manager.drain({ reason: 3 as never }), TypeError, "received 3");
  assertEquals(manager.isDraining, false);
});

Deno.test("SessionManager.drain() immediately sends each session its own delay, and closes it then", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const peers = join(manager, 4);
  const report = manager.drain({ withinMs: 1_000, reason: "A new version" });
  await pass(time, 0);
  assertEquals(peers.map(toldDelays), [[2], [7], [12], [17]]);
  assertEquals(peers.map(({ session }) => session.state), new Array(4).fill("connected"));

  await pass(time, 1);
  assertEquals(manager.count, 4);
  await pass(time, 1);
  assertEquals(manager.count, 3);
  for (let i = 0; i < 3; i++) await pass(time, 5);
  assertEquals(await report, { closed: 4, cut: 0, tookMs: 17 });
  for (const [i, { closed }] of peers.entries()) {
    const atMs = 2 + i * 5;
    assertEquals(closed, { closeCode: CloseCode.draining, reason: "A new version", atMs });
  }
  // The goaway was sent once.
  assertEquals(peers.map(toldDelays), [[2], [7], [12], [17]]);
  assertEquals([manager.count, time.next()], [0, false]);
});

Deno.test("SessionManager.drain() closes all sessions in time although the clock is set back or ahead", async () => {
  for (const jumpMs of [-3_600_000, 3_600_000]) {
    using time = new FakeTime();
    let setByMs = 0;
    const manager = managerDrawing(0.5, {}, { now: () => Date.now() + setByMs });
    join(manager, 200);
    const report = manager.drain({ withinMs: 1_000 });
    await pass(time, 100);
    setByMs = jumpMs;
    const before = manager.count;
    await pass(time, 100);
    assert(manager.count > 0 && manager.count < before, `${manager.count} sessions`);
    await pass(time, 700);
    const { closed, cut } = await report;
    assertEquals([closed, cut], [200, 0]);
  }
});

Deno.test("SessionManager.drain() serves messages until a session's time", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0);
  const peers = join(manager, 2, {
    settings: { onMessage: (message, session) => session.send("echo", message.data) },
  });
  const [, second] = peers;
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 4);
  second!.pair.client.frames?.send(`{"topic":"say","data":"late"}`);
  await pass(time, 1);
  assertEquals(await report, { closed: 2, cut: 0, tookMs: 5 });
  assertEquals(second!.lines.at(-1), `{"topic":"echo","data":"late"}`);
});

Deno.test("SessionManager.drain() flushes sent messages", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0);
  const [peer] = join(manager, 1);
  const { session, pair, lines } = peer!;
  pair.link.stall("to-client");
  session.send("big", "x".repeat(200_000));
  await pass(time, 0);
  session.send("last", 1);
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 500);
  assertEquals(manager.count, 1);
  pair.link.resume("to-client");
  await pass(time, 0);
  assertEquals(await report, { closed: 1, cut: 0, tookMs: 500 });
  assertEquals(lines.includes(`{"topic":"last","data":1}`), true);
});

Deno.test("SessionManager.drain() waits for handlers and their responses", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0);
  const [peer] = join(manager, 1, {
    settings: {
      onMessage: async (message) => {
        await new Promise((resolve) => setTimeout(resolve, 300));
        message.reply("done");
      },
    },
  });
  peer!.pair.client.frames?.send(`{"topic":"work","id":1}`);
  await pass(time, 0);
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 299);
  assertEquals(manager.count, 1);
  await pass(time, 1);
  assertEquals(await report, { closed: 1, cut: 0, tookMs: 300 });
  assertEquals(peer!.lines.at(-1), `{"reply":1,"data":"done"}`);
});

Deno.test("SessionManager.drain() closes unfinished sessions at its time limit", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const stuck = Promise.withResolvers<void>();
  const [hung] = join(manager, 1, { settings: { onMessage: () => stuck.promise } });
  const [deaf] = join(manager, 1);
  const [good] = join(manager, 1);
  hung!.pair.client.frames?.send(`{"topic":"work"}`);
  deaf!.pair.link.stall("to-client");
  deaf!.session.send("big", "x".repeat(200_000));
  await pass(time, 0);
  deaf!.session.send("lost", 1);
  const report = manager.drain({ withinMs: 2_000, reason: "bye" });
  await pass(time, 1_999);
  assertEquals([good!.session.isClosed, manager.count], [true, 2]);
  await pass(time, 1);
  assertEquals(await report, { closed: 1, cut: 2, tookMs: 2_000 });
  for (const { session } of [hung!, deaf!]) {
    assertEquals(await session.closed, { code: CloseCode.draining, reason: "bye", by: "local" });
  }
  stuck.resolve();
  await time.runMicrotasks();
  assertEquals([manager.count, time.next()], [0, false]);
});

Deno.test("SessionManager.drain() does not wait for a connection whose close lingers", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const pair = memoryPair();
  // Like a WebSocket whose peer is gone, and never replies to the close.
  const lingering: Connection = Object.assign(Object.create(null), pair.server, {
    close: () => {},
  });
  const session = new Session(lingering, sessionSettings({ side: "server" }));
  manager.add(session);
  const report = manager.drain({ withinMs: 300 });
  await pass(time, 299);
  assertEquals(session.state, "draining");
  await pass(time, 1);
  assertEquals(await report, { closed: 0, cut: 1, tookMs: 300 });
  assertEquals({ state: session.state, count: manager.count, next: time.next() }, {
    state: "closed",
    count: 0,
    next: false,
  });
});

Deno.test("SessionManager.drain() closes all sessions immediately when its signal aborts", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  join(manager, 10);
  const abort = new AbortController();
  const report = manager.drain({ withinMs: 1_000, signal: abort.signal });
  await pass(time, 12);
  abort.abort();
  assertEquals(await report, { closed: 3, cut: 7, tookMs: 12 });
  assertEquals([manager.count, time.next()], [0, false]);
});

Deno.test("SessionManager.drain() does not wait when its signal was aborted before", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  join(manager, 3);
  const { closed, cut } = await manager.drain({ signal: AbortSignal.abort() });
  assertEquals({ closed, cut, count: manager.count, next: time.next() }, {
    closed: 0,
    cut: 3,
    count: 0,
    next: false,
  });
});

Deno.test("SessionManager.drain() ends when all peers have left", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const peers = join(manager, 3);
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 1);
  for (const { pair } of peers) pair.client.close();
  await pass(time, 0);
  assertEquals(await report, { closed: 3, cut: 0, tookMs: 1 });
  assertEquals(time.next(), false);
});

Deno.test("SessionManager.drain() without sessions resolves immediately", async () => {
  using time = new FakeTime();
  const manager = new SessionManager();
  assertEquals(await manager.drain(), { closed: 0, cut: 0, tookMs: 0 });
  assertEquals([manager.isDraining, time.next()], [true, false]);
});

Deno.test("SessionManager.drain() takes at most 5 ms per session, whatever its time limit", async () => {
  using time = new FakeTime();
  for (const [count, withinMs, tookMs] of [[1, 10_000, 2], [100, 30_000, 497], [100, 100, 79]]) {
    const manager = managerDrawing(0.5, { maxSessionsPerAddress: Infinity });
    join(manager, count!, { wire: { protocol: "" } });
    const report = manager.drain({ withinMs: withinMs! });
    await pass(time, tookMs!);
    assertEquals(await report, { closed: count!, cut: 0, tookMs: tookMs! });
  }
  assertEquals(time.next(), false);
});

Deno.test("SessionManager.drain() drains once, for any number of calls", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const [peer] = join(manager, 1);
  const first = manager.drain({ withinMs: 100 });
  assertStrictEquals(manager.drain({ withinMs: 1 }), first);
  await pass(time, 2);
  assertEquals((await first).tookMs, 2);
  assertStrictEquals(manager.drain(), first);
  assertEquals(toldDelays(peer!), [2]);
});

Deno.test("SessionManager.drain() rejects new sessions, including reserved ones", async () => {
  using time = new FakeTime();
  const manager = new SessionManager();
  join(manager, 1);
  using reservation = manager.admit();
  const report = manager.drain({ withinMs: 100 });
  await using late = new Session(memoryPair().server, sessionSettings({ side: "server" }));
  for (
    const attempt of [
      () => manager.admit(),
      () => manager.add(late),
      () => manager.add(late, { reservation }),
    ]
  ) {
    const error = assertThrows(attempt, LimitError, "the server is draining");
    assertEquals(error.limit, "draining");
  }
  await pass(time, 100);
  await report;
  assertEquals(manager.stats().rejected.draining, 3);
});

Deno.test("SessionManager.drain() sends a plain peer no notice, but closes it too", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const [page] = join(manager, 1, { wire: { protocol: "" } });
  const [raw] = join(manager, 1, { wire: { protocol: "", frames: false } });
  const report = manager.drain({ withinMs: 100 });
  await pass(time, 80);
  assertEquals((await report).closed, 2);
  assertEquals(page!.lines, []);
  assertEquals(raw!.closed?.closeCode, CloseCode.draining);
});

Deno.test("SessionManager.drain() continues when a session fails to send or to drain", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  const [broken, good] = join(manager, 2);
  const fail = () => {
    throw new Error("broken");
  };
  Object.defineProperty(broken!.session, "goAway", { value: fail });
  Object.defineProperty(broken!.session, "drain", { value: () => Promise.try(fail) });
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 2);
  assertEquals(manager.count, 1);
  await pass(time, 5);
  assertEquals(await report, { closed: 2, cut: 0, tookMs: 7 });
  assertEquals(toldDelays(good!), [7]);
  assertEquals(broken!.closed?.closeCode, CloseCode.draining);
});

Deno.test("SessionManager.shutdown() ends a drain in progress", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5);
  join(manager, 3);
  const report = manager.drain({ withinMs: 1_000 });
  await pass(time, 1);
  await manager.shutdown();
  assertEquals([manager.count, time.next()], [0, false]);
  assertEquals(await report, { closed: 3, cut: 0, tookMs: 1 });
});

Deno.test("SessionManager.drain() closes thousands of sessions in time, evenly", async () => {
  using time = new FakeTime();
  const manager = managerDrawing(0.5, { maxSessionsPerAddress: Infinity });
  const peers = join(manager, 2_000, { wire: { protocol: "" } });
  const report = manager.drain({ withinMs: 1_000 });
  for (let atMs = 100; atMs <= 800; atMs += 100) {
    await pass(time, 100);
    const share = 2_000 * (1 - atMs / 800);
    assert(Math.abs(manager.count - share) <= 3, `${manager.count} after ${atMs} ms`);
  }
  assertEquals(await report, { closed: 2_000, cut: 0, tookMs: 800 });
  assertEquals(peers.every(({ session }) => session.isClosed), true);
});
