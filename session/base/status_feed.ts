/**
 * A value that changes, told to whoever asks.
 *
 * @module
 */
import { attempt } from "./call_safely.ts";
import { Changing } from "./signal.ts";

/** Ends a subscription to a value; also by `using`. Idempotent. */
export type Unsubscribe = (() => void) & Disposable;

/**
 * The latest value, and each change of it: for a loop, or for a callback as view libraries have it.
 * A loop that is slow misses values in between, never the latest: nothing is kept for anybody.
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
  /** Made for the first callback: most feeds have none. */
  #callbacks: Set<{ readonly call: (value: T) => unknown }> | undefined;
  #isObserved = false;

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
   * True once a loop or a callback of the application was told.
   *
   * @ignore
   */
  get isObserved(): boolean {
    return this.#isObserved;
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
    for (const callback of [...this.#callbacks ?? []]) this.#tell(callback.call);
  }

  /**
   * Changes the value for the last time.
   *
   * @param value The last value.
   */
  end(value: T): void {
    this.set(value);
    this.#isEnded = true;
    this.#callbacks = undefined;
  }

  /**
   * Has a callback told the value as it is, at once, and then each change, up to the last one.
   *
   * - **Stores:** this is the contract of a store of Svelte; React's `useSyncExternalStore` takes it
   *   with {@linkcode StatusFeed.current}.
   * - **Failure:** an error that the callback throws is printed, and ends nothing.
   *
   * @param callback Told the value.
   * @returns Ends the subscription.
   *
   * @example Usage
   * ```ts
   * import { StatusFeed } from "@skein/skein/session";
   * import { assertEquals } from "@std/assert";
   *
   * const status = new StatusFeed("connecting");
   * const seen: string[] = [];
   * const unsubscribe = status.subscribe((value) => seen.push(value));
   * status.set("connected");
   * unsubscribe();
   * status.end("closed");
   * assertEquals(seen, ["connecting", "connected"]);
   * ```
   */
  subscribe(callback: (value: T) => unknown): Unsubscribe {
    this.#isObserved = true;
    return this.observe(callback);
  }

  /**
   * Has a callback of the library told the same, which does not count as one of the application.
   *
   * @ignore
   */
  observe(callback: (value: T) => unknown): Unsubscribe {
    // The same function may subscribe twice.
    const entry = { call: callback };
    if (!this.#isEnded) (this.#callbacks ??= new Set()).add(entry);
    this.#tell(callback);
    const unsubscribe = () => void this.#callbacks?.delete(entry);
    return Object.assign(unsubscribe, { [Symbol.dispose]: unsubscribe });
  }

  /**
   * Yields the value as it is, then each change, up to the last one.
   *
   * @returns The values.
   */
  [Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    this.#isObserved = true;
    return this.follow();
  }

  /**
   * Yields the same to the library's own loops, which do not count as the application's.
   *
   * @ignore
   */
  async *follow(): AsyncGenerator<T, void, undefined> {
    let seen = -1;
    while (true) {
      if (seen !== this.#version) {
        seen = this.#version;
        yield this.#current;
      } else if (this.#isEnded) return;
      else await this.#changes.changed();
    }
  }

  #tell(callback: (value: T) => unknown): void {
    const value = this.#current;
    attempt(() => callback(value), (error) => {
      // deno-lint-ignore no-console
      console.error("A callback that is subscribed to a status failed:", error);
    });
  }
}
