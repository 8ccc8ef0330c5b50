import { assertEquals } from "@std/assert";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { Line } from "./semaphore.ts";

/** A runtime whose turns end by hand. */
function runtimeOf(turns: (() => void)[]): Runtime {
  return Object.assign(platformRuntime(), {
    schedule: (callback: () => void) => void turns.push(callback),
  });
}

Deno.test("Line lets so many in at the end of a turn, in order, and the next as others leave", async () => {
  const turns: (() => void)[] = [];
  const line = new Line(runtimeOf(turns), 2);
  const inside: number[] = [];
  for (let i = 0; i < 5; i++) line.enter().then(() => void inside.push(i));
  const endTurn = async () => {
    turns.shift()!();
    for (let i = 0; i < 3; i++) await Promise.resolve();
  };
  assertEquals([line.waiting, turns.length, inside], [5, 1, []]);
  await endTurn();
  assertEquals([line.waiting, turns.length, inside], [3, 0, [0, 1]]);
  line.leave();
  line.leave();
  assertEquals(turns.length, 1);
  await endTurn();
  assertEquals([line.waiting, inside], [1, [0, 1, 2, 3]]);
  line.leave();
  await endTurn();
  assertEquals([line.waiting, turns.length, inside], [0, 0, [0, 1, 2, 3, 4]]);
  line.leave();
  assertEquals(turns.length, 0);
});

Deno.test("Line.enter() is given up by its signal, and takes no room then", async () => {
  const turns: (() => void)[] = [];
  const line = new Line(runtimeOf(turns), 1);
  const abort = new AbortController();
  const [first, second, third] = [line.enter(), line.enter(abort.signal), line.enter()];
  abort.abort();
  assertEquals([await second, line.waiting], [false, 2]);
  assertEquals(await line.enter(abort.signal), false);
  turns.shift()!();
  assertEquals(await first, true);
  line.leave();
  turns.shift()!();
  assertEquals([await third, line.waiting], [true, 0]);
});
