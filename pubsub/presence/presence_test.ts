import { captureConsole } from "../../tests/console_lines.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import { Peers } from "../peers_fixture.ts";
import { Presence, type PresenceEvent } from "./presence.ts";

/** All events of a presence, as text; the time in milliseconds since `start`. */
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

Deno.test("Presence has one timer for all grace periods, and none without an absent user", async () => {
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

Deno.test("Presence.enter() rejects invalid topics", async () => {
  await using peers = new Peers();
  using presence = new Presence();
  const [ada] = await connect(peers, "ada");
  assertThrows(() => presence.enter(ada!, ""), TypeError, "Cannot enter: a topic must be");
  assertThrows(() => presence.enter(ada!, "x".repeat(256)), RangeError, "received 256 bytes");
  assertEquals(presence.online(), []);
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

Deno.test("Presence[Symbol.dispose]() forgets all users without events", async () => {
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
  assertEquals({ events, online: presence.online(), membersA: presence.members("a") }, {
    events: [],
    online: [],
    membersA: [],
  });
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
