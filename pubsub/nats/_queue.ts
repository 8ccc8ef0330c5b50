/**
 * What waits, in order, and how much of it there may be.
 *
 * @module
 */

/** First in, first out; taking the first costs nothing, however many there are. */
export class Queue<T> {
  #items: T[] = [];
  #start = 0;

  /** How many there are. */
  get length(): number {
    return this.#items.length - this.#start;
  }

  /** The first one. */
  get first(): T | undefined {
    return this.#items[this.#start];
  }

  /** Adds a last one. */
  push(item: T): void {
    this.#items.push(item);
  }

  /** Adds some in front of all others. */
  unshift(items: readonly T[]): void {
    this.#items = [...items, ...this.#items.slice(this.#start)];
    this.#start = 0;
  }

  /** Takes the first one. */
  shift(): T | undefined {
    const item = this.#items[this.#start];
    if (item === undefined) return undefined;
    this.#start++;
    if (this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
    return item;
  }

  /** Takes all. */
  clear(): T[] {
    const items = this.#items.slice(this.#start);
    this.#items = [];
    this.#start = 0;
    return items;
  }
}

/** How much may wait for the engine, over everything that does. */
export class Budget {
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  #messages = 0;
  #bytes = 0;

  constructor(maxMessages: number, maxBytes: number) {
    this.#maxMessages = maxMessages;
    this.#maxBytes = maxBytes;
  }

  /** How many wait. */
  get messages(): number {
    return this.#messages;
  }

  /** Takes room for one; false if there is none. */
  take(bytes: number): boolean {
    if (this.#messages >= this.#maxMessages || this.#bytes + bytes > this.#maxBytes) return false;
    this.#messages++;
    this.#bytes += bytes;
    return true;
  }

  /** Gives room back. */
  give(bytes: number): void {
    this.#messages--;
    this.#bytes -= bytes;
  }
}
