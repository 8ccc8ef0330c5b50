/**
 * A value that changes, told to whoever asks.
 *
 * @module
 */
import { Changing } from "./changing.ts";

/**
 * The latest value, and each change of it. A reader who is slow misses values
 * in between, never the latest: nothing is kept for anybody.
 *
 * @example Usage
 * ```ts
 * import { StatusFeed } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 *
 * const status = new StatusFeed("connecting");
 * status.set("connected");
 * assertEquals(status.current, "connected");
 * status.end("closed");
 * assertEquals(await Array.fromAsync(status), ["closed"]);
 * ```
 *
 * @typeParam T The type of the value.
 */
export class StatusFeed<T> implements AsyncIterable<T> {
  #current: T;
  #version = 0;
  #isEnded = false;
  readonly #changes = new Changing();

  /**
   * Creates a feed.
   *
   * @param current The first value.
   */
  constructor(current: T) {
    this.#current = current;
  }

  /** The latest value. */
  get current(): T {
    return this.#current;
  }

  /** Whether the value changes no more. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * Changes the value.
   *
   * @param value The new value; ignored once the feed ended.
   */
  set(value: T): void {
    if (this.#isEnded) return;
    this.#current = value;
    this.#version++;
    this.#changes.notify();
  }

  /**
   * Changes the value for the last time.
   *
   * @param value The last value.
   */
  end(value: T): void {
    this.set(value);
    this.#isEnded = true;
  }

  /**
   * Yields the value as it is, then each change, up to the last one.
   *
   * @returns The values.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    let seen = -1;
    while (true) {
      if (seen !== this.#version) {
        seen = this.#version;
        yield this.#current;
      } else if (this.#isEnded) return;
      else await this.#changes.changed();
    }
  }
}
