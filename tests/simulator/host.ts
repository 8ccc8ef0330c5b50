/** A simulated machine with one process: its clock, randomness and life. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { type EventHost, type EventLoop, hashed, type SimulatedEvent } from "./event_loop.ts";

/** Wall clock at the start of every simulation: 1 January 2030. */
const START_MS = Date.UTC(2030, 0, 1);

/** Shortest wait of a timer, in milliseconds, as on platforms. */
const SHORTEST_TIMER_MS = 1;

export interface ClockFaults {
  /**
   * Difference from the true time, in milliseconds.
   *
   * @default {0}
   */
  readonly offsetMs?: number | undefined;
  /**
   * Rate by which the clock and timers run fast; negative means slow. Quartz clocks drift by up to
   * 0.0001.
   *
   * @default {0}
   */
  readonly drift?: number | undefined;
}

/**
 * A simulated machine with one process.
 *
 * - **A life** starts with `start()` and ends with `kill()`. Timers and packets of an ended life
 *   are dropped, so a killed process runs no cleanup.
 * - **While frozen**, a host runs no events: they wait, in order, until `thaw()`. The clock
 *   continues.
 * - **The clock** may be wrong, drift and jump. Timers follow the drift, but not the jumps.
 *
 * @example A timer of a host that is frozen and then killed
 * ```ts
 * import { Simulation } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const host = simulation.host("a");
 * const seen: number[] = [];
 * for (const ms of [1_000, 5_000]) host.after(ms, () => seen.push(simulation.nowMs));
 * host.freeze();
 * simulation.after(3_000, () => host.thaw());
 * simulation.after(4_000, () => host.kill());
 * await simulation.run(10_000);
 * assertEquals(seen, [3_000]);
 * ```
 */
export class Host implements EventHost {
  /** Name of the host. */
  readonly name: string;
  /** Number of the host in digests. */
  readonly tag: number;
  readonly #events: EventLoop;
  readonly #kept: SimulatedEvent[] = [];
  readonly #onEnd = new Set<(isPowerLoss: boolean) => void>();
  #runtime: Runtime;
  #life = 0;
  #isAlive = true;
  #isFrozen = false;
  #drift: number;
  /** True time and displayed time at the last change of the drift. */
  #since: { readonly trueMs: number; readonly elapsedMs: number } = { trueMs: 0, elapsedMs: 0 };
  #offsetMs: number;

  /**
   * Creates a running host, as `Simulation.host()` does.
   *
   * @param events The event loop of the simulation, whose time is virtual.
   * @param name Name of the host.
   */
  constructor(events: EventLoop, name: string, { offsetMs = 0, drift = 0 }: ClockFaults) {
    this.#events = events;
    this.name = name;
    this.tag = hashed(name);
    this.#offsetMs = offsetMs;
    this.#drift = drift;
    this.#runtime = this.#newRuntime();
  }

  /** True between `start()` and `kill()`. */
  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** True between `freeze()` and `thaw()`. */
  get isFrozen(): boolean {
    return this.#isFrozen;
  }

  /** Number of lives that ended. */
  get life(): number {
    return this.#life;
  }

  /** Clocks, timers and randomness of the current life. */
  get runtime(): Runtime {
    return this.#runtime;
  }

  /**
   * Runs a callback on this host. If the host is frozen when the callback is due, it runs after
   * `thaw()`; if the host's current life has ended by then, it never runs.
   *
   * @param waitMs True time from now, in milliseconds.
   * @param run The callback.
   * @returns The event, for `EventLoop.cancel()`.
   */
  after(waitMs: number, run: () => void): SimulatedEvent {
    return this.#events.after(waitMs, run, this);
  }

  /**
   * Decides whether an event may run now; a frozen host keeps the event until `thaw()`.
   *
   * @param event A due event of this host.
   * @returns False for an event of an earlier life, and for an event that is kept.
   */
  admits(event: SimulatedEvent): boolean {
    if (event.life !== this.#life || !this.#isAlive) return false;
    if (this.#isFrozen) this.#kept.push(event);
    return !this.#isFrozen;
  }

  /**
   * Starts a life after `kill()`: a new process on the same machine.
   *
   * @returns The runtime of the new life.
   */
  start(): Runtime {
    if (this.#isAlive) return this.#runtime;
    this.#isAlive = true;
    this.#runtime = this.#newRuntime();
    this.#events.note("starts", this.name, { kind: "life" });
    return this.#runtime;
  }

  /**
   * Ends the process immediately, as SIGKILL does. The system closes or resets its TCP connections,
   * except after a power loss.
   *
   * @param options `power: true` for a power loss, after which peers receive nothing.
   */
  kill(options: { readonly power?: boolean | undefined } = {}): void {
    if (!this.#isAlive) return;
    const { power = false } = options;
    this.#events.note(power ? "loses its power" : "is killed", this.name, { kind: "life" });
    this.#isAlive = false;
    this.#isFrozen = false;
    this.#life++;
    this.#kept.length = 0;
    for (const end of [...this.#onEnd]) end(power);
    this.#onEnd.clear();
  }

  /**
   * Registers a callback for the end of the current life.
   *
   * @param callback Called with `true` after a power loss.
   * @returns A function that removes the callback.
   */
  onEnd(callback: (isPowerLoss: boolean) => void): () => void {
    this.#onEnd.add(callback);
    return () => void this.#onEnd.delete(callback);
  }

  /** Stops the process, as SIGSTOP does; packets wait in its system. */
  freeze(): void {
    if (this.#isFrozen || !this.#isAlive) return;
    this.#events.note("is frozen", this.name, { kind: "life" });
    this.#isFrozen = true;
  }

  /** Continues the process; waiting events run in order. */
  thaw(): void {
    if (!this.#isFrozen) return;
    this.#events.note("thaws", this.name, { kind: "life" });
    this.#isFrozen = false;
    for (const kept of this.#kept.splice(0)) {
      if (!kept.isOver) this.after(0, () => runOnce(kept));
    }
  }

  /**
   * Sets the wall clock forward or back.
   *
   * @param byMs Milliseconds; negative values mean back.
   */
  jumpClock(byMs: number): void {
    this.#events.note(`sets the clock by ${byMs} ms`, this.name, { kind: "life" });
    this.#offsetMs += byMs;
  }

  /**
   * Changes the speed of the clock.
   *
   * @param drift Rate by which the clock runs fast.
   */
  setDrift(drift: number): void {
    this.#since = { trueMs: this.#events.nowMs, elapsedMs: this.#elapsedMs() };
    this.#drift = drift;
  }

  #elapsedMs(): number {
    const { trueMs, elapsedMs } = this.#since;
    return elapsedMs + (this.#events.nowMs - trueMs) * (1 + this.#drift);
  }

  #newRuntime(): Runtime {
    const life = this.#life;
    /** Callback of a timer: code of an ended life has no effect on the next one. */
    const own = (callback: () => void) => life === this.#life ? callback : doNothing;
    const random = this.#events.chanceOf(`${this.name}/${this.#life}`);
    const names = this.#events.chanceOf(`${this.name}/${this.#life}/names`);
    const secrets = this.#events.chanceOf(`${this.name}/${this.#life}/secrets`);
    return {
      now: () => START_MS + this.#offsetMs + Math.floor(this.#elapsedMs()),
      monotonic: () => this.#elapsedMs(),
      setTimeout: (callback, ms) =>
        this.after(
          Math.max(SHORTEST_TIMER_MS, ms) / (1 + this.#drift),
          own(callback),
        ) as unknown as Timer,
      clearTimeout: (timer) => this.#events.cancel(timer),
      schedule: (callback) => void this.after(0, own(callback)),
      random,
      randomUUID: () => uuidOf(names),
      getRandomValues: (array) => {
        const most = 256 ** array.BYTES_PER_ELEMENT;
        for (let i = 0; i < array.length; i++) array[i] = Math.floor(secrets() * most);
        return array;
      },
      hold: (promise) => this.#events.hold(promise, this),
    };
  }
}

function doNothing(): void {}

function runOnce(event: SimulatedEvent): void {
  if (event.isOver) return; // Cancelled in between.
  event.isOver = true;
  event.run();
}

/** Creates a version 4 UUID from random numbers. */
function uuidOf(random: () => number): string {
  let digits = "";
  while (digits.length < 32) {
    digits += Math.floor(random() * 2 ** 32).toString(16).padStart(8, "0");
  }
  return digits.replace(
    /^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/,
    (_all, a, b, c, d, e) => `${a}-${b}-4${c}-8${d}-${e}`,
  );
}
