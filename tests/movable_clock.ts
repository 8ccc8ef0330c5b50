/** A real clock that tests move ahead, and timers that they fire. */
import { platformRuntime, type Runtime, type Timer } from "../base/runtime.ts";

/**
 * Clocks of this platform that a test moves ahead, in place of waiting. Timers stay as they are.
 *
 * ```ts ignore
 * const clock = new MovableClock();
 * const broker = new MemoryBroker({ runtime: clock.runtime });
 * clock.pass(120_000);
 * ```
 */
export class MovableClock {
  readonly runtime: Runtime;
  #aheadMs = 0;

  constructor() {
    const platform = platformRuntime();
    const { now, monotonic } = platform;
    this.runtime = Object.assign(platform, {
      now: () => now.call(platform) + this.#aheadMs,
      monotonic: () => monotonic.call(platform) + this.#aheadMs,
    });
  }

  /** Moves both clocks ahead. */
  pass(ms: number): void {
    this.#aheadMs += Math.ceil(ms); // The wall clock has whole milliseconds.
  }

  /** Returns to the time of the platform. */
  reset(): void {
    this.#aheadMs = 0;
  }
}

/** Time limits of this length are reached only by {@linkcode HeldTimers.fire}. */
export const HELD_MS = 543_210;

/**
 * A runtime for the options of a server or client. Its timers of {@linkcode HELD_MS} wait for the
 * test; all others run in real time.
 */
export class HeldTimers {
  readonly #waiting = new Map<Timer, () => void>();
  readonly runtime: Runtime;

  constructor() {
    const platform = platformRuntime();
    this.runtime = Object.assign(platformRuntime(), {
      setTimeout: (callback: () => void, ms: number) => {
        const timer = platform.setTimeout(callback, ms);
        if (ms === HELD_MS) this.#waiting.set(timer, callback);
        return timer;
      },
      clearTimeout: (timer: Timer | undefined) => {
        if (timer !== undefined) this.#waiting.delete(timer);
        platform.clearTimeout(timer);
      },
    });
  }

  /** Fires the timers that wait. */
  fire(): void {
    for (const [timer, callback] of [...this.#waiting]) {
      this.runtime.clearTimeout(timer);
      callback();
    }
  }
}
