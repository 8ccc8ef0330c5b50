/**
 * Many waits of the same length with one timer.
 *
 * @module
 */

/**
 * Things that have to happen within the same time. Since all have that time,
 * they are due in the order in which they were added, and one timer serves all.
 *
 * @typeParam T What is waited for; compared by identity.
 *
 * @example Usage
 * ```ts
 * import { Deadlines } from "./deadlines.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const late: string[] = [];
 * const deadlines = new Deadlines<string>(5, (name) => late.push(name));
 * deadlines.add("ann");
 * deadlines.add("bob");
 * deadlines.delete("ann");
 * await new Promise((resolve) => setTimeout(resolve, 50));
 * assertEquals(late, ["bob"]);
 * ```
 */
export class Deadlines<T> {
  readonly #timeoutMs: number;
  readonly #onLate: (item: T) => void;
  // Bounded by what is waited for.
  readonly #waiting = new Map<T, number>();
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;
  #isClearing = false;

  /**
   * Creates deadlines that nothing has yet.
   *
   * @param timeoutMs How long each thing may take, in milliseconds.
   * @param onLate Called with what took longer; it is not waited for any more.
   */
  constructor(timeoutMs: number, onLate: (item: T) => void) {
    this.#timeoutMs = timeoutMs;
    this.#onLate = onLate;
  }

  /**
   * Begins to wait.
   *
   * @param item What for; its time begins anew if it is waited for already.
   */
  add(item: T): void {
    this.#waiting.delete(item);
    this.#waiting.set(item, Date.now() + this.#timeoutMs);
    this.#timer ??= setTimeout(() => this.#sweep(), this.#timeoutMs);
  }

  /**
   * Waits no more. The timer goes on, for others come soon; but not after `clear`.
   *
   * @param item What is not waited for any more; nothing happens if it is not waited for.
   * @returns Whether it was waited for.
   */
  delete(item: T): boolean {
    const wasWaiting = this.#waiting.delete(item);
    if (this.#isClearing && this.#waiting.size === 0) this.#stop();
    return wasWaiting;
  }

  /** Waits for nothing any more, and holds no timer that nothing waits for. */
  clear(): void {
    this.#isClearing = true;
    this.#waiting.clear();
    this.#stop();
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #sweep(): void {
    this.#timer = undefined;
    const now = Date.now();
    for (const [item, dueAt] of this.#waiting) {
      if (dueAt > now) {
        this.#timer = setTimeout(() => this.#sweep(), dueAt - now);
        return;
      }
      this.#waiting.delete(item);
      this.#onLate(item);
    }
  }
}
