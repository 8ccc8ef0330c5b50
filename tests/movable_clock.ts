/** A real clock that tests move ahead. */
import { platformRuntime, type Runtime } from "../base/runtime.ts";

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
