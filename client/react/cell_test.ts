import { assert, assertEquals } from "@std/assert";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import { Cell, errorOf, Rounds } from "./cell.ts";

/** A runtime whose time the test advances. */
class Clock {
  now = 0;
  readonly runtime: Runtime;
  #next: { readonly at: number; readonly call: () => void } | undefined;

  constructor() {
    this.runtime = Object.assign(platformRuntime(), {
      monotonic: () => this.now,
      schedule: (call: () => void) => void (this.#next = { at: this.now, call }),
      setTimeout: (call: () => void, ms: number) => {
        this.#next = { at: this.now + ms, call };
        return this.#next as unknown as Timer;
      },
      clearTimeout: () => void (this.#next = undefined),
    });
  }

  get isIdle(): boolean {
    return this.#next === undefined;
  }

  pass(ms: number): void {
    this.now += ms;
    const next = this.#next;
    if (next === undefined || next.at > this.now) return;
    this.#next = undefined;
    next.call();
  }
}

class Counter extends Cell<number> {
  #count = 0;

  add(): void {
    this.#count++;
    this.changed();
  }

  protected override take(): number {
    return this.#count;
  }
}

Deno.test("Cell notifies of the first change at the end of the turn, and of later ones once a frame", () => {
  const clock = new Clock();
  const cell = new Counter(new Rounds(clock.runtime), 0);
  let told = 0;
  const unwatch = cell.watch(() => told++);
  for (let i = 0; i < 100; i++) cell.add();
  assertEquals([told, cell.snapshot], [0, 0]); // A snapshot stays the same between rounds.
  clock.pass(0);
  assertEquals([told, cell.snapshot], [1, 100]);

  for (let ms = 0; ms < 1_000; ms++) {
    cell.add();
    clock.pass(1);
  }
  assert(told <= 1 + 1_000 / 16, `${told} rounds in a second`);
  clock.pass(16);
  assertEquals(cell.snapshot, 1_100);
  unwatch();
  const before = told;
  cell.add();
  clock.pass(16);
  assertEquals([told, cell.snapshot], [before, 1_101]);
});

Deno.test("Rounds.stop() leaves no timer running, and start() accepts changes again", () => {
  const clock = new Clock();
  const rounds = new Rounds(clock.runtime);
  const cell = new Counter(rounds, 0);
  cell.add();
  clock.pass(0);
  cell.add(); // This waits for the next frame.
  rounds.stop();
  cell.add();
  assert(clock.isIdle);
  assertEquals(cell.snapshot, 1);
  rounds.start();
  cell.add();
  clock.pass(16);
  assertEquals(cell.snapshot, 4);
});

Deno.test("errorOf() keeps errors, and wraps all other values", () => {
  const error = new TypeError("x");
  assertEquals(errorOf(error), error);
  assertEquals([errorOf("why").message, errorOf("why").cause], ["why", "why"]);
});
