import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Deadlines } from "./deadlines.ts";
import { platformRuntime, type Runtime, type Timer } from "./runtime.ts";

/** Deadlines of one second, on a clock that can be set back. */
function onSettableClock() {
  let offsetMs = 0;
  const runtime = Object.assign(platformRuntime(), { now: () => Date.now() + offsetMs });
  const late: string[] = [];
  const deadlines = new Deadlines<string>(runtime, 1_000, (name) => late.push(name));
  return { deadlines, late, setBack: (ms: number) => void (offsetMs = -ms) };
}

Deno.test("Deadlines reports exactly the late items, in order", async () => {
  using time = new FakeTime();
  const late: string[] = [];
  const deadlines = new Deadlines<string>(platformRuntime(), 1_000, (name) => late.push(name));
  deadlines.add("a");
  await time.tickAsync(400);
  deadlines.add("b");
  deadlines.add("c");
  await time.tickAsync(300);
  deadlines.add("d");
  assertEquals([deadlines.delete("c"), deadlines.delete("c")], [true, false]);
  await time.tickAsync(299);
  assertEquals(late, []);
  await time.tickAsync(1);
  assertEquals(late, ["a"]);
  await time.tickAsync(400);
  assertEquals(late, ["a", "b"]);
  await time.tickAsync(300);
  assertEquals(late, ["a", "b", "d"]);
  deadlines.add("e");
  await time.tickAsync(1_000);
  assertEquals(late.at(-1), "e");
});

Deno.test("Deadlines restarts the timeout of an item that is added again", async () => {
  using time = new FakeTime();
  const late: string[] = [];
  const deadlines = new Deadlines<string>(platformRuntime(), 1_000, (name) => late.push(name));
  deadlines.add("a");
  await time.tickAsync(600);
  deadlines.add("a");
  await time.tickAsync(600);
  assertEquals(late, []);
  await time.tickAsync(400);
  assertEquals(late, ["a"]);
});

Deno.test("Deadlines waits at most one more timeout when the clock is set back", async () => {
  using time = new FakeTime();
  const { deadlines, late, setBack } = onSettableClock();
  deadlines.add("a");
  await time.tickAsync(600);
  setBack(3_600_000);
  deadlines.add("b");
  await time.tickAsync(1_400);
  assertEquals(late, ["a", "b"]);
  deadlines.add("c");
  await time.tickAsync(1_000);
  assertEquals(late, ["a", "b", "c"]);
});

Deno.test("Deadlines reports an item in time when the clock is set back by less than the timeout", async () => {
  using time = new FakeTime();
  const { deadlines, late, setBack } = onSettableClock();
  deadlines.add("a");
  await time.tickAsync(600);
  setBack(400);
  await time.tickAsync(399);
  assertEquals(late, []);
  await time.tickAsync(1);
  assertEquals(late, ["a"]);
});

Deno.test("Deadlines keeps the first item's time when the clock is set back, unless that item restarts", async () => {
  using time = new FakeTime();
  const { deadlines, late, setBack } = onSettableClock();
  deadlines.add("a");
  await time.tickAsync(600);
  setBack(3_600_000);
  await time.tickAsync(400);
  assertEquals(late, ["a"]);
  deadlines.add("b");
  await time.tickAsync(600);
  deadlines.add("b");
  await time.tickAsync(999);
  assertEquals(late, ["a"]);
  await time.tickAsync(1);
  assertEquals(late, ["a", "b"]);
});

Deno.test("Deadlines keeps the times of all items when the clock is set back far", async () => {
  using time = new FakeTime();
  const { deadlines, late, setBack } = onSettableClock();
  deadlines.add("a");
  await time.tickAsync(300);
  deadlines.add("b");
  await time.tickAsync(300);
  setBack(3_600_000);
  deadlines.add("c");
  await time.tickAsync(400);
  assertEquals(late, ["a"]);
  await time.tickAsync(299);
  assertEquals(late, ["a"]);
  await time.tickAsync(1);
  assertEquals(late, ["a", "b"]);
  await time.tickAsync(299);
  assertEquals(late, ["a", "b"]);
  await time.tickAsync(1);
  assertEquals(late, ["a", "b", "c"]);
});

Deno.test("Deadlines gives an item added while others are late its full timeout, with one timer", async () => {
  using time = new FakeTime();
  const timers = new Set<unknown>();
  const platform = platformRuntime();
  const runtime: Runtime = Object.assign(platformRuntime(), {
    setTimeout(callback: () => void, ms: number) {
      const timer: Timer = platform.setTimeout(() => (timers.delete(timer), callback()), ms);
      timers.add(timer);
      return timer;
    },
    clearTimeout(timer: Timer) {
      timers.delete(timer);
      platform.clearTimeout(timer);
    },
  });
  const late: string[] = [];
  const deadlines: Deadlines<string> = new Deadlines<string>(runtime, 1_000, (name) => {
    if (late.push(name) === 1) deadlines.add(name);
  });
  deadlines.add("a");
  await time.tickAsync(500);
  deadlines.add("b");
  await time.tickAsync(500);
  assertEquals([late, timers.size], [["a"], 1]);
  await time.tickAsync(500);
  assertEquals([late, timers.size], [["a", "b"], 1]);
  await time.tickAsync(499);
  assertEquals(late, ["a", "b"]);
  await time.tickAsync(1);
  assertEquals([late, timers.size], [["a", "b", "a"], 0]);
});

Deno.test("Deadlines.clear() removes all items and the timer", async () => {
  using time = new FakeTime();
  const late: string[] = [];
  const deadlines = new Deadlines<string>(platformRuntime(), 1_000, (name) => late.push(name));
  deadlines.add("a");
  deadlines.clear();
  await time.tickAsync(2_000);
  assertEquals(late, []);
});
