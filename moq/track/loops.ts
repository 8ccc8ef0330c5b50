/** Loops over incoming values: each value for one reader, or the last state for every loop. */
const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/**
 * Passes each value to one waiting reader, in the order of the calls. A reader that stops waiting
 * leaves no state behind, and loses no value.
 */
export class PendingReads<T> {
  readonly #take: () => T | null | undefined;
  readonly #waiting = new Set<PromiseWithResolvers<T | null>>();

  /**
   * Starts without readers.
   *
   * @param take Takes the next value: `null` at the end, `undefined` if there is none yet. If it
   * throws, one waiting reader receives the error.
   */
  constructor(take: () => T | null | undefined) {
    this.#take = take;
  }

  /**
   * Waits for the next value.
   *
   * @returns The value; `null` at the end.
   */
  next(signal?: AbortSignal): Promise<T | null> {
    try {
      signal?.throwIfAborted();
      const now = this.#take();
      if (now !== undefined) return Promise.resolve(now);
    } catch (error) {
      return Promise.reject(error);
    }
    return signal === undefined ? this.#wait().promise : this.#waitWithin(signal);
  }

  /**
   * Loops over the values until the end. Leaving never waits, not even for a pending `next()`.
   *
   * @param onLeave Called when the loop is left early.
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

  /** Passes new values, or the end, to the waiting readers. */
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

  async #waitWithin(signal: AbortSignal): Promise<T | null> {
    const waiter = this.#wait();
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
}

interface LoopCallbacks {
  /** Called when a loop starts. */
  readonly onBegin?: () => void;
  /** Called once, when a loop is left, or at the end of all updates. */
  readonly onEnd?: () => void;
}

/**
 * Keeps the last state of a value. A loop receives the changes after its start; a slow loop
 * receives only the last state. Leaving a loop never waits, not even for a pending `next()`.
 */
export class LatestValue<T> {
  #latest: T;
  #version = 0;
  #isOver = false;
  #waiting: (() => void)[] = [];

  /** Starts with a state that no loop receives. */
  constructor(latest: T) {
    this.#latest = latest;
  }

  get latest(): T {
    return this.#latest;
  }

  set(value: T): void {
    if (this.#isOver) return;
    this.#latest = value;
    this.#version++;
    this.#wake();
  }

  /** Ends all loops. Idempotent. */
  end(): void {
    this.#isOver = true;
    this.#wake();
  }

  /** The changes, for any number of loops. */
  loop(options: LoopCallbacks = {}): AsyncIterable<T> {
    return { [Symbol.asyncIterator]: () => this.#iterate(options) };
  }

  #iterate({ onBegin, onEnd }: LoopCallbacks): AsyncIterableIterator<T> {
    let seen = this.#version;
    let isLeft = false;
    const leave = () => {
      if (isLeft) return;
      isLeft = true;
      this.#wake();
      onEnd?.();
    };
    onBegin?.();
    const iterator: AsyncIterableIterator<T> = {
      next: async (): Promise<IteratorResult<T, undefined>> => {
        while (!isLeft && !this.#isOver) {
          if (seen !== this.#version) {
            seen = this.#version;
            return { done: false, value: this.#latest };
          }
          await new Promise<void>((resolve) => this.#waiting.push(resolve));
        }
        leave();
        return DONE;
      },
      return: () => {
        leave();
        return Promise.resolve(DONE);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
