import { assertEquals } from "@std/assert";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { Semaphore } from "./semaphore.ts";

/** A runtime whose turns the test ends. */
function runtimeOf(turns: (() => void)[]): Runtime {
  return Object.assign(platformRuntime(), {
    schedule: (callback: () => void) => void turns.push(callback),
  });
}

Deno.test("Semaphore admits up to its maximum at the end of a turn, in order, and the next ones as others leave", async () => {
  const turns: (() => void)[] = [];
  const semaphore = new Semaphore(runtimeOf(turns), 2);
  const inside: number[] = [];
  for (let i = 0; i < 5; i++) semaphore.enter().then(() => void inside.push(i));
  const endTurn = async () => {
    turns.shift()!();
    for (let i = 0; i < 3; i++) await Promise.resolve();
  };
  assertEquals({ waiting: semaphore.waiting, turns: turns.length, inside }, {
    waiting: 5,
    turns: 1,
    inside: [],
  });
  await endTurn();
  assertEquals({ waiting: semaphore.waiting, turns: turns.length, inside }, {
    waiting: 3,
    turns: 0,
    inside: [0, 1],
  });
  semaphore.leave();
  semaphore.leave();
  assertEquals(turns.length, 1);
  await endTurn();
  assertEquals([semaphore.waiting, inside], [1, [0, 1, 2, 3]]);
  semaphore.leave();
  await endTurn();
  assertEquals({ waiting: semaphore.waiting, turns: turns.length, inside }, {
    waiting: 0,
    turns: 0,
    inside: [0, 1, 2, 3, 4],
  });
  semaphore.leave();
  assertEquals(turns.length, 0);
});

Deno.test("Semaphore.enter() resolves with false when its signal aborts, and uses no room then", async () => {
  const turns: (() => void)[] = [];
  const semaphore = new Semaphore(runtimeOf(turns), 1);
  const abort = new AbortController();
  const [first, second, third] = [
    semaphore.enter(),
    semaphore.enter(abort.signal),
    semaphore.enter(),
  ];
  abort.abort();
  assertEquals([await second, semaphore.waiting], [false, 2]);
  assertEquals(await semaphore.enter(abort.signal), false);
  turns.shift()!();
  assertEquals(await first, true);
  semaphore.leave();
  turns.shift()!();
  assertEquals([await third, semaphore.waiting], [true, 0]);
});
