/** A value that changes, for loops that want the last state. */

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** Callbacks of a loop. */
export interface UpdatesLoop {
  /** Called when a loop begins. */
  readonly onBegin?: () => void;
  /** Called once, when a loop is left, or at the end of all updates. */
  readonly onEnd?: () => void;
}

/**
 * Keeps the last state of a value. A loop gets the changes after the start of the loop; a slow loop
 * gets only the last state. Leaving a loop never waits, not even for a pending `next()`.
 *
 * @typeParam T The type of the value.
 */
export class Updates<T> {
  #latest: T;
  #version = 0;
  #isOver = false;
  #waiting: (() => void)[] = [];

  /** Starts with a state that no loop gets. */
  constructor(latest: T) {
    this.#latest = latest;
  }

  /** The last state. */
  get latest(): T {
    return this.#latest;
  }

  /** Changes the value. */
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
