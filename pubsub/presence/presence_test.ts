import { captureConsole } from "../../tests/console_lines.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import { Peers } from "../_peers_test.ts";
import { Presence, type PresenceEvent } from "./presence.ts";

/** All reports of a presence, as text; the time as milliseconds from `start`. */
function record(presence: Presence, start = Date.now()): string[] {
  const events: string[] = [];
  presence.subscribe((event) => {
    const { type, topic = "online", user, at } = event;
    const seen = event.type === "leave" ? ` seen ${event.lastSeenAt - start}` : "";
    events.push(`${at - start} ${user} ${type} ${topic}${seen}`);
  });
  return events;
}

async function connect(peers: Peers, ...users: string[]) {
  return await Promise.all(users.map(async (user) => (await peers.connect({ user })).session));
}

Deno.test("Presence counts users, not connections", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const events = record(presence);
  const [tab1, tab2, bob] = await connect(peers, "ada", "ada", "bob");
  const start = Date.now();
  assert(presence.enter(tab1!, "a"));
  time.tick(10);
  assert(!presence.enter(tab2!, "a"));
  assert(presence.enter(bob!, "a"));
  assertEquals(presence.members("a"), [
    { user: "ada", connections: 2, joinedAt: start },
    { user: "bob", connections: 1, joinedAt: start + 10 },
  ]);
  assert(presence.leave(tab1!, "a"));
  assertEquals([presence.has("ada", "a"), presence.connections("ada", "a")], [true, 1]);
  assert(presence.leave(tab2!, "a"));
  assertEquals([presence.has("ada", "a"), presence.connections("ada", "a")], [false, 0]);
  assertEquals(events, [
    "0 ada join online",
    "0 ada join a",
    "10 bob join online",
    "10 bob join a",
    "10 ada leave a seen 10",
  ]);
});

Deno.test("Presence.enter() without a topic makes a user online, a topic does so too", async () => {
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const [ada, bob] = await connect(peers, "ada", "bob");
  assert(presence.enter(ada!));
  assert(presence.enter(ada!, "a"));
  assert(presence.enter(bob!, "a"));
  assert(presence.enter(bob!, "b"));
  assert(!presence.enter(bob!));
  assertEquals(presence.online(), ["ada", "bob"]);
  assertEquals([presence.topicsOf("ada"), presence.topicsOf("bob")], [["a"], ["a", "b"]]);
  presence.leave(bob!, "a");
  presence.leave(bob!, "b");
  assertEquals([presence.isOnline("bob"), presence.topicsOf("bob")], [true, []]);
  presence.leave(bob!);
  assertEquals([presence.isOnline("bob"), presence.online()], [false, ["ada"]]);
  assertEquals([presence.has(ada!, "a"), presence.has(bob!, "a")], [true, false]);
});

Deno.test("Presence.enter() and leave() are idempotent for a session", async () => {
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const events = record(presence);
  const [ada] = await connect(peers, "ada");
  presence.enter(ada!, "a");
  assert(!presence.enter(ada!, "a"));
  assertEquals(presence.connections("ada", "a"), 1);
  assert(presence.leave(ada!, "a"));
  assert(!presence.leave(ada!, "a"));
  assert(presence.leave(ada!));
  assert(!presence.leave(ada!));
  assertEquals(events.length, 4);
});

Deno.test("Presence keeps a user who returns within the grace", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 1_000 });
  const [before, after] = await connect(peers, "ada", "ada");
  presence.enter(before!, "a");
  const events = record(presence);
  const start = Date.now();
  void before!.close();
  await peers.endTurn();
  assertEquals(presence.members("a"), [{ user: "ada", connections: 0, joinedAt: start }]);
  assertEquals([presence.isOnline("ada"), presence.lastSeenAt("ada")], [true, start]);
  time.tick(999);
  assert(!presence.enter(after!, "a"));
  assertEquals(presence.members("a"), [{ user: "ada", connections: 1, joinedAt: start }]);
  assertEquals(presence.lastSeenAt("ada"), undefined);
  time.tick(10_000);
  assertEquals(events, []);
});

Deno.test("Presence declares a user absent when the grace is over, topics first", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 1_000 });
  const events = record(presence);
  const start = Date.now();
  const [ada, bob] = await connect(peers, "ada", "bob");
  presence.enter(ada!, "a");
  presence.enter(bob!, "a");
  events.length = 0;
  void ada!.close();
  await peers.endTurn();
  time.tick(400);
  presence.leave(bob!, "a");
  time.tick(599);
  assertEquals(events, []);
  time.tick(1);
  assertEquals(events, ["1000 ada leave a seen 0", "1000 ada leave online seen 0"]);
  assertEquals(presence.lastSeenAt("ada"), start);
  time.tick(400);
  assertEquals(events.slice(2), ["1400 bob leave a seen 400"]);
  assertEquals([presence.members("a"), presence.online()], [[], ["bob"]]);
});

Deno.test("Presence keeps a user online who returns without the topic", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 1_000 });
  const events = record(presence);
  const [before, after] = await connect(peers, "ada", "ada");
  presence.enter(before!, "a");
  events.length = 0;
  presence.leave(before!);
  time.tick(500);
  presence.enter(after!);
  time.tick(5_000);
  assertEquals(events, ["1000 ada leave a seen 0"]);
  assertEquals([presence.isOnline("ada"), presence.topicsOf("ada")], [true, []]);
});

Deno.test("Presence has one timer for all graces, and none without an absent user", async () => {
  using time = new FakeTime();
  const timers = new Set<unknown>();
  let most = 0;
  const platform = platformRuntime();
  const runtime: Runtime = Object.assign(platformRuntime(), {
    setTimeout(callback: () => void, ms: number) {
      const timer: Timer = platform.setTimeout(() => (timers.delete(timer), callback()), ms);
      most = Math.max(most, timers.add(timer).size);
      return timer;
    },
    clearTimeout(timer: Timer) {
      timers.delete(timer);
      platform.clearTimeout(timer);
    },
  });
  await using peers = new Peers();
  using presence = new Presence({ runtime, graceMs: 1_000 });
  const sessions = await connect(peers, "a", "b", "c", "d");
  const names = ["a", "b", "c", "d"];
  for (const session of sessions) presence.enter(session, "room");
  for (const session of sessions) {
    presence.leave(session);
    time.tick(100);
  }
  presence.enter(sessions[0]!);
  presence.enter(sessions[1]!, "room");
  assertEquals([most, timers.size], [1, 1]);
  time.tick(5_000);
  assertEquals(presence.online(), names.slice(0, 2));
  assertEquals([most, timers.size], [1, 0]);
  presence.leave(sessions[0]!);
  assertEquals(timers.size, 1);
  presence.enter(sessions[0]!);
  assertEquals(timers.size, 0);
  presence.leave(sessions[0]!);
  presence[Symbol.dispose]();
  assertEquals(timers.size, 0);
});

Deno.test("Presence does not wait longer when the clock is set back", async () => {
  using time = new FakeTime(1_000_000);
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 1_000 });
  const [ada, bob] = await connect(peers, "ada", "bob");
  for (const session of [ada!, bob!]) presence.enter(session);
  presence.leave(ada!);
  const { Date } = globalThis;
  globalThis.Date = { now: () => Date.now() - 500_000 } as DateConstructor;
  try {
    presence.leave(bob!);
    time.tick(1_000);
  } finally {
    globalThis.Date = Date;
  }
  assertEquals(presence.online(), []);
});

Deno.test("Presence leaves all topics, in order, when a session closes", async () => {
  using _time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const [ada] = await connect(peers, "ada");
  presence.enter(ada!, "a");
  presence.enter(ada!, "b");
  const events = record(presence);
  void ada!.close();
  await peers.endTurn();
  assertEquals(events, [
    "0 ada leave a seen 0",
    "0 ada leave b seen 0",
    "0 ada leave online seen 0",
  ]);
  assertEquals([presence.members("a"), presence.online(), presence.topicsOf("ada")], [[], [], []]);
});

Deno.test("Presence.enter() leaves a closed session out", async () => {
  await using peers = new Peers();
  using presence = new Presence();
  const [ada] = await connect(peers, "ada");
  await ada!.close();
  assert(!presence.enter(ada!, "a"));
  assertEquals([presence.isOnline("ada"), presence.members("a")], [false, []]);
});

Deno.test("Presence.enter() refuses invalid topics", async () => {
  await using peers = new Peers();
  using presence = new Presence();
  const [ada] = await connect(peers, "ada");
  assertThrows(() => presence.enter(ada!, ""), TypeError, "Cannot enter: a topic must be");
  assertThrows(() => presence.enter(ada!, "x".repeat(256)), RangeError, "received 256 bytes");
  assertEquals(presence.online(), []);
});

Deno.test("Presence.lastSeenAt() remembers a bounded number of users, the latest", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0, maxLastSeen: 2 });
  const users = ["a", "b", "c", "b", "a"];
  const start = Date.now();
  for (const session of await connect(peers, ...users)) {
    presence.enter(session);
    assertEquals(presence.lastSeenAt(session.user), undefined);
    presence.leave(session);
    time.tick(10);
  }
  const seen = ["a", "b", "c", "d"].map((user) => presence.lastSeenAt(user));
  assertEquals(seen, [start + 40, start + 30, undefined, undefined]);
  using forgetful = new Presence({ graceMs: 0, maxLastSeen: 0 });
  const [ada] = await connect(peers, "ada");
  forgetful.enter(ada!);
  forgetful.leave(ada!);
  assertEquals(forgetful.lastSeenAt("ada"), undefined);
});

Deno.test("Presence.subscribe() reports every change to each listener, until it is disposed of", async () => {
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const [ada, bob] = await connect(peers, "ada", "bob");
  const events: PresenceEvent[] = [];
  const listener = (event: PresenceEvent) => void events.push(event);
  const [first, second] = [presence.subscribe(listener), presence.subscribe(listener)];
  presence.enter(ada!);
  assertEquals(events.length, 2);
  const [event] = events;
  assert(event?.type === "join" && event.session === ada && event.topic === undefined);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  presence.enter(bob!);
  assertEquals(events.length, 3);
  second[Symbol.dispose]();
  presence.leave(bob!);
  assertEquals(events.length, 3);
});

Deno.test("Presence reports one order to all listeners, also where one of them makes a change", async () => {
  using _time = new FakeTime();
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  const [ada] = await connect(peers, "ada");
  presence.subscribe(({ type, topic }) => {
    if (type === "join" && topic === "a") presence.leave(ada!, "a");
  });
  const events = record(presence);
  presence.enter(ada!, "a");
  assertEquals(events, ["0 ada join online", "0 ada join a", "0 ada leave a seen 0"]);
});

Deno.test("Presence continues when a listener throws, and reports the error", async () => {
  await using peers = new Peers();
  const errors: unknown[] = [];
  using presence = new Presence({ graceMs: 0, onError: (error) => errors.push(error) });
  const [ada] = await connect(peers, "ada");
  presence.subscribe(() => {
    throw "listener";
  });
  const events = record(presence);
  presence.enter(ada!);
  await ada!.close();
  assertEquals([events.length, errors], [2, ["listener", "listener"]]);
});

Deno.test("Presence[Symbol.dispose]() forgets all users in silence", async () => {
  using time = new FakeTime();
  await using peers = new Peers();
  const presence = new Presence({ graceMs: 1_000 });
  const events = record(presence);
  const [ada, bob] = await connect(peers, "ada", "bob");
  presence.enter(ada!, "a");
  presence.enter(bob!, "a");
  presence.leave(bob!);
  events.length = 0;
  presence[Symbol.dispose]();
  presence[Symbol.dispose]();
  time.tick(5_000);
  assert(!presence.enter(bob!, "a"));
  void ada!.close();
  await peers.endTurn();
  assertEquals([events, presence.online(), presence.members("a")], [[], [], []]);
});

Deno.test("Presence prints a bounded number of errors of its listeners", async () => {
  await using peers = new Peers();
  using presence = new Presence({ graceMs: 0 });
  using printed = captureConsole();
  presence.subscribe(() => {
    throw new Error("listener");
  });
  const [session] = await connect(peers, "ada");
  for (let i = 0; i < 100; i++) {
    presence.enter(session!, "room");
    presence.leave(session!, "room");
  }
  assertEquals(printed.lines.length, 16);
});
