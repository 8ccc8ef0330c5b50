/** Timeouts of equal length that share one timer. */
import type { Runtime, Timer } from "./runtime.ts";

/**
 * Items that all have the same timeout. They time out in the order in which they were added, so a
 * single timer is enough.
 *
 * @typeParam T Type of the items, compared by identity.
 *
 * @example Usage
 * ```ts
 * import { Deadlines } from "./deadlines.ts";
 * import { platformRuntime } from "./runtime.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const late: string[] = [];
 * const deadlines = new Deadlines<string>(platformRuntime(), 5, (name) => late.push(name));
 * deadlines.add("ann");
 * deadlines.add("bob");
 * deadlines.delete("ann");
 * await new Promise((resolve) => setTimeout(resolve, 50));
 * assertEquals(late, ["bob"]);
 * ```
 */
export class Deadlines<T> {
  readonly #runtime: Runtime;
  readonly #timeoutMs: number;
  readonly #onLate: (item: T) => void;
  // Bounded by the items that the caller waits for.
  readonly #waiting = new Map<T, number>();
  #timer: Timer | undefined = undefined;
  /** The clock time for which the timer was set. */
  #timerAt = 0;
  #isClearing = false;

  /**
   * Creates an empty list of items.
   *
   * @param runtime The runtime with the clock and the timers.
   * @param timeoutMs The timeout of each item, in milliseconds.
   * @param onLate Receives each item that timed out and was removed.
   */
  constructor(runtime: Runtime, timeoutMs: number, onLate: (item: T) => void) {
    this.#runtime = runtime;
    this.#timeoutMs = timeoutMs;
    this.#onLate = onLate;
  }

  /**
   * Starts waiting for an item.
   *
   * @param item The item to wait for; adding a known item restarts its timeout.
   */
  add(item: T): void {
    this.#waiting.delete(item);
    const dueAt = this.#runtime.now() + this.#timeoutMs;
    this.#waiting.set(item, dueAt);
    if (this.#timer === undefined) this.#wait(dueAt, this.#timeoutMs);
  }

  /** Returns `true` if the item is being waited for. */
  has(item: T): boolean {
    return this.#waiting.has(item);
  }

  /**
   * Stops waiting for an item. The timer keeps running until `clear` is called, because new items
   * usually follow soon.
   *
   * @param item The item to remove; ignored if unknown.
   * @returns `true` if the item was being waited for.
   */
  delete(item: T): boolean {
    const wasWaiting = this.#waiting.delete(item);
    if (this.#isClearing && this.#waiting.size === 0) this.#stop();
    return wasWaiting;
  }

  /**
   * Removes all items and stops the timer. After this call, removing the last item also stops the
   * timer.
   *
   * @returns The removed items.
   */
  clear(): T[] {
    this.#isClearing = true;
    const items = [...this.#waiting.keys()];
    this.#waiting.clear();
    this.#stop();
    return items;
  }

  #wait(dueAt: number, waitMs: number): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timerAt = dueAt;
    this.#timer = this.#runtime.setTimeout(() => this.#sweep(), waitMs);
  }

  #stop(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /**
   * Moves the deadlines of all items that were added before the clock was set back, so that they
   * don't wait longer. If the new clock could also have produced an item's time, the item keeps it.
   */
  #setBack(now: number, backMs: number): void {
    const latest = now + this.#timeoutMs;
    for (const [item, dueAt] of this.#waiting) {
      if (dueAt !== this.#timerAt && dueAt <= latest) continue;
      this.#waiting.set(item, Math.min(Math.max(dueAt - backMs, now), latest));
    }
  }

  #sweep(): void {
    this.#timer = undefined;
    const now = this.#runtime.now();
    if (now < this.#timerAt) this.#setBack(now, this.#timerAt - now);
    for (const [item, dueAt] of this.#waiting) {
      if (dueAt > now) return this.#wait(dueAt, dueAt - now);
      this.#waiting.delete(item);
      this.#onLate(item);
    }
  }
}
