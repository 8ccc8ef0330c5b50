/**
 * Things that are over a while after they began to end, unless they come back.
 *
 * @module
 */

/**
 * Waits the same time for each of them, with one timer, and none while there is nothing.
 *
 * @typeParam T What ends.
 */
export class Graces<T extends object> {
  readonly #graceMs: number;
  readonly #onOver: (over: T[]) => void;
  /** Since when, in the order in which they will be over. */
  readonly #since = new Map<T, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Creates it; `onOver` gets what was not taken back for `graceMs`. */
  constructor(graceMs: number, onOver: (over: T[]) => void) {
    this.#graceMs = graceMs;
    this.#onOver = onOver;
  }

  /** From now on it may end. */
  add(thing: T): void {
    this.#since.delete(thing);
    this.#since.set(thing, Date.now());
    this.#schedule();
  }

  /** It came back, or is no matter any more. */
  delete(thing: T): void {
    if (this.#since.delete(thing)) this.#schedule();
  }

  /** Forgets everything, and leaves no timer. */
  clear(): void {
    this.#since.clear();
    this.#schedule();
  }

  #schedule(): void {
    if (this.#since.size === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#timer !== undefined) return;
    const [first] = this.#since.values();
    // A clock that was set back must not make the wait longer.
    const leftMs = first! + this.#graceMs - Date.now();
    const waitMs = Math.max(0, Math.min(leftMs, this.#graceMs));
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#expire();
    }, waitMs);
  }

  #expire(): void {
    const now = Date.now();
    const over: T[] = [];
    for (const [thing, since] of this.#since) {
      const isDue = now >= since + this.#graceMs || now < since;
      if (!isDue) break;
      this.#since.delete(thing);
      over.push(thing);
    }
    this.#schedule();
    this.#onOver(over);
  }
}
