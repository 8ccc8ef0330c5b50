/**
 * How late a busy machine is.
 *
 * @module
 */

/** How often it looks. */
const EVERY_MS = 10;

/** Measures how late timers come, in a process that does other work. */
export class Lateness {
  #due = performance.now() + EVERY_MS;
  #worstMs = 0;

  /** Looks from now on, until the process ends. */
  constructor() {
    setInterval(() => this.#look(), EVERY_MS);
  }

  /** The worst since this was asked last, in milliseconds. */
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
