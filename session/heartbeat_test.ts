import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { clockAhead } from "../tests/globals/clock.ts";
import { sessionSettings } from "./settings/session_settings.ts";
import { Heartbeat, type WatchedPeer } from "./heartbeat.ts";

interface TestHeart extends WatchedPeer {
  readonly pings: number[];
  readonly deaths: number[];
}

/** Records pings and its death; replies while `lives` is true. */
function heart(heartbeat: Heartbeat, lives: () => boolean = () => false): TestHeart {
  const self: TestHeart = {
    lastReceivedAt: 0,
    pings: [],
    deaths: [],
    ping() {
      self.pings.push(heartbeat.now);
      if (lives()) self.lastReceivedAt = heartbeat.now;
    },
    tick() {},
    dead: (silentMs) => void self.deaths.push(silentMs),
  };
  return self;
}

Deno.test("sessionSettings() rejects impossible heartbeat times", () => {
  for (const intervalMs of [0, -1_000, 1_500, NaN, Infinity]) {
    assertThrows(
      () => sessionSettings({ side: "server", heartbeat: { intervalMs } }),
      RangeError,
      "intervalMs must be",
    );
  }
  for (const timeoutMs of [25_000, 1, NaN]) {
    assertThrows(
      () => sessionSettings({ side: "server", heartbeat: { timeoutMs } }),
      RangeError,
      "timeoutMs must be above",
    );
  }
  const { intervalMs, timeoutMs } = new Heartbeat(platformRuntime());
  assertEquals([intervalMs, timeoutMs], [25_000, 60_000]);
});

Deno.test("Heartbeat pings once per interval, first after a whole interval", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime(), { intervalMs: 3_000, timeoutMs: 4_000 });
  const alive = heart(heartbeat, () => true);
  heartbeat.add(alive);
  time.tick(2_999);
  assertEquals(alive.pings, []);
  time.tick(9_001);
  assertEquals(alive.pings, [3_000, 6_000, 9_000, 12_000]);
  assertEquals(alive.deaths, []);
});

Deno.test("Heartbeat reports a silent peer dead once, after its timeout", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime());
  const silent = heart(heartbeat);
  heartbeat.add(silent);
  time.tick(59_000);
  assertEquals([silent.deaths, heartbeat.size], [[], 1]);
  time.tick(1_000);
  assertEquals([silent.deaths, heartbeat.size], [[60_000], 0]);
  time.tick(120_000);
  assertEquals(silent.deaths, [60_000]);
});

Deno.test("Heartbeat gives a peer the whole timeout after an hour without peers", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime());
  const earlier = heart(heartbeat);
  heartbeat.add(earlier);
  heartbeat.delete(earlier);
  time.tick(3_600_000);
  const silent = heart(heartbeat);
  heartbeat.add(silent);
  time.tick(59_000);
  assertEquals([silent.pings.length, silent.deaths], [2, []]);
  time.tick(1_000);
  assertEquals(silent.deaths, [60_000]);
});

Deno.test("Heartbeat accepts every kind of sign of life", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime());
  const chatty = heart(heartbeat);
  heartbeat.add(chatty);
  time.tick(59_000);
  chatty.lastReceivedAt = heartbeat.now;
  time.tick(59_000);
  assertEquals(chatty.deaths, []);
  time.tick(1_000);
  assertEquals(chatty.deaths, [60_000]);
});

Deno.test("Heartbeat spreads the pings of sessions that started one after another", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime(), { intervalMs: 5_000, timeoutMs: 60_000 });
  const hearts = Array.from({ length: 5 }, () => heart(heartbeat, () => true));
  for (const one of hearts) {
    heartbeat.add(one);
    time.tick(1_000);
  }
  time.tick(5_000);
  assertEquals(new Set(hearts.map(({ pings }) => pings[0])).size, 5);
});

Deno.test("Heartbeat keeps no timer without a session", () => {
  const heartbeat = new Heartbeat(platformRuntime());
  const one = heart(heartbeat);
  const other = heart(heartbeat);
  heartbeat.add(one);
  heartbeat.add(one);
  heartbeat.add(other);
  assertEquals(heartbeat.size, 2);
  heartbeat.delete(one);
  heartbeat.delete(one);
  heartbeat.delete(heart(heartbeat));
  assertEquals(heartbeat.size, 1);
  heartbeat.delete(other);
  assertEquals(heartbeat.size, 0);
  heartbeat.add(one);
  heartbeat[Symbol.dispose]();
  heartbeat[Symbol.dispose]();
  assertEquals(heartbeat.size, 0);
});

Deno.test("Heartbeat continues when peers are removed or added during a tick", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime(), { intervalMs: 1_000, timeoutMs: 2_000 });
  const other = heart(heartbeat, () => true);
  const leaving: WatchedPeer = {
    lastReceivedAt: 0,
    ping: () => {
      heartbeat.delete(leaving);
      heartbeat.add(other);
    },
    tick() {},
    dead: () => assert(false),
  };
  heartbeat.add(leaving);
  time.tick(3_000);
  assert(other.pings.length >= 2);
  assertEquals(heartbeat.size, 1);
});

Deno.test("Heartbeat gives all sessions ten seconds after a pause of the process", () => {
  using time = new FakeTime(0);
  using heartbeat = new Heartbeat(platformRuntime());
  const dead = heart(heartbeat);
  const alive = heart(heartbeat, () => true);
  heartbeat.add(dead);
  heartbeat.add(alive);
  time.tick(1_000);
  // Fake time runs every timer on the way; a sleeping laptop runs none.
  using _asleep = clockAhead(3_600_000);
  time.tick(1_000);
  assertEquals([alive.pings.length > 0, dead.pings.length > 0], [true, true]);
  assertEquals([alive.deaths, dead.deaths], [[], []]);
  time.tick(8_000);
  assertEquals(dead.deaths, []);
  time.tick(3_000);
  assertEquals([alive.deaths.length, dead.deaths.length], [0, 1]);
});

Deno.test("Heartbeat reports a silent peer dead in time after the clock was set back by an hour", () => {
  using time = new FakeTime(7_200_000);
  using heartbeat = new Heartbeat(platformRuntime(), { intervalMs: 3_000, timeoutMs: 10_000 });
  const dead = heart(heartbeat);
  const alive = heart(heartbeat, () => true);
  heartbeat.add(dead);
  heartbeat.add(alive);
  time.tick(4_000);
  using _back = clockAhead(-3_600_000);
  time.tick(5_000);
  assertEquals(dead.deaths, []);
  time.tick(3_000);
  assertEquals([alive.deaths.length, dead.deaths.length], [0, 1]);
});
