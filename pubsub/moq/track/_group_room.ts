/**
 * How many groups of a subscription may be on their way, and who waits for room.
 *
 * @module
 */

/**
 * Groups of a subscription that may wait for a stream, and that may be closed and on their way to the
 * wire; a writer of more has to wait. A thousand at once would cost more than they weigh.
 */
export const MAX_OPENING_GROUPS = 64;

/** Counts the groups of one subscription. */
export class GroupRoom {
  #opening = 0;
  /** Groups that were closed, and that the wire did not take yet. */
  #unsent = 0;
  /** In the order in which they came. */
  readonly #waiters = new Set<() => void>();

  /** Whether another group has to wait. */
  get isFull(): boolean {
    return this.#opening >= MAX_OPENING_GROUPS || this.#unsent >= MAX_OPENING_GROUPS;
  }

  /** A group asks for its stream. */
  opening(): void {
    this.#opening++;
  }

  /** It has its stream, or gets none. */
  opened(): void {
    this.#opening--;
    this.#wakeOne();
  }

  /** A group was closed. */
  closing(): void {
    this.#unsent++;
  }

  /** The wire took all of a group that was closed, or it was given up. */
  sent(): void {
    this.#unsent--;
    this.#wakeOne();
  }

  /**
   * Waits until something changes.
   *
   * @param signal Gives up.
   * @throws What the signal was aborted with.
   */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      // Whoever is woken next shall be one who still waits.
      this.#waiters.delete(resolve);
      reject(signal!.reason);
    };
    this.#waiters.add(resolve);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Wakes all who wait. */
  wakeAll(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  #wakeOne(): void {
    for (const wake of this.#waiters) {
      this.#waiters.delete(wake);
      return wake();
    }
  }
}
