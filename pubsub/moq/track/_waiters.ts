/**
 * Who waits for the next of something.
 *
 * @module
 */

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/**
 * Hands out what comes, one to each who waits, in the order in which they came. Who gives up waiting
 * leaves nothing behind, and loses nothing.
 *
 * @typeParam T The type of what comes.
 */
export class Waiters<T> {
  readonly #take: () => T | null | undefined;
  readonly #waiting = new Set<PromiseWithResolvers<T | null>>();

  /**
   * Begins with nobody.
   *
   * @param take Takes what there is: `null` at the end, `undefined` if there is nothing yet. What it
   * throws is for one who waits.
   */
  constructor(take: () => T | null | undefined) {
    this.#take = take;
  }

  /**
   * Waits for the next one.
   *
   * @param signal Gives up waiting.
   * @returns What came; `null` at the end.
   */
  async next(signal?: AbortSignal): Promise<T | null> {
    signal?.throwIfAborted();
    const now = this.#take();
    if (now !== undefined) return now;
    const waiter = this.#wait();
    if (signal === undefined) return await waiter.promise;
    const onAbort = () => {
      this.#waiting.delete(waiter);
      waiter.reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await waiter.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /**
   * Loops over what comes, until the end. Leaving never waits, not even behind a `next()` under way.
   *
   * @param onLeave Called when the loop is left early.
   * @returns The loop.
   */
  loop(onLeave?: () => void): AsyncIterableIterator<T> {
    const waiting = new Set<PromiseWithResolvers<T | null>>();
    let isLeft = false;
    const iterator: AsyncIterableIterator<T> = {
      next: async (): Promise<IteratorResult<T, undefined>> => {
        if (isLeft) return DONE;
        let value = this.#take();
        if (value === undefined) {
          const waiter = this.#wait();
          waiting.add(waiter);
          value = await waiter.promise.finally(() => waiting.delete(waiter));
        }
        return value === null ? DONE : { done: false, value };
      },
      return: () => {
        isLeft = true;
        for (const waiter of waiting) {
          this.#waiting.delete(waiter);
          waiter.resolve(null);
        }
        onLeave?.();
        return Promise.resolve(DONE);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  /** Something came, or ended: hands it to those who wait. */
  deliver(): void {
    for (const waiter of this.#waiting) {
      try {
        const value = this.#take();
        if (value === undefined) return;
        waiter.resolve(value);
      } catch (error) {
        waiter.reject(error);
      }
      this.#waiting.delete(waiter);
    }
  }

  #wait(): PromiseWithResolvers<T | null> {
    const waiter = Promise.withResolvers<T | null>();
    this.#waiting.add(waiter);
    return waiter;
  }
}
