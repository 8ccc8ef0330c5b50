/**
 * Measures the delay of timers on a busy machine.
 *
 * @module
 */

/** Interval between measurements, in milliseconds. */
const EVERY_MS = 10;

/** Measures the delay of timers in a process that does other work. */
export class Lateness {
  #due = performance.now() + EVERY_MS;
  #worstMs = 0;

  /** Measures until the process exits. */
  constructor() {
    setInterval(() => this.#look(), EVERY_MS);
  }

  /** Returns the longest delay since the last call, in milliseconds. */
  take(): number {
    this.#look();
    const worstMs = this.#worstMs;
    this.#worstMs = 0;
    return Math.ceil(worstMs);
  }

  #look(): void {
    const now = performance.now();
    this.#worstMs = Math.max(this.#worstMs, now - this.#due);
    this.#due = now + EVERY_MS;
  }
}
