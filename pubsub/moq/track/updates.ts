/**
 * A value that changes, for loops that want its last state.
 *
 * @module
 */

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** What a loop does beside looping. */
export interface UpdatesLoop {
  /** Called when a loop begins. */
  readonly onBegin?: () => void;
  /** Called once, when a loop is left, or when there is nothing more. */
  readonly onEnd?: () => void;
}

/**
 * Keeps the last state of a value. A loop gets what changes from its beginning on; one that is slow gets
 * the last state only. Leaving a loop never waits, not even behind a `next()` under way.
 *
 * @typeParam T The type of the value.
 */
export class Updates<T> {
  #latest: T;
  #version = 0;
  #isOver = false;
  #waiting: (() => void)[] = [];

  /** Begins with a state that no loop gets. */
  constructor(latest: T) {
    this.#latest = latest;
  }

  /** The last state. */
  get latest(): T {
    return this.#latest;
  }

  /** Changes it. */
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

  /** What changes, for any number of loops. */
  loop(options: UpdatesLoop = {}): AsyncIterable<T> {
    return { [Symbol.asyncIterator]: () => this.#iterate(options) };
  }

  #iterate({ onBegin, onEnd }: UpdatesLoop): AsyncIterableIterator<T> {
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
