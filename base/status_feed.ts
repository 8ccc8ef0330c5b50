/** A changing value, for loops and callbacks. */
import { disposable, subscriber } from "./call_safely.ts";
import { Signal } from "./signal.ts";

/**
 * A current value that reports its changes. Read it in a loop, or with a callback in the form that
 * UI libraries expect. A slow loop may miss intermediate values, but never the latest, because the
 * feed keeps only the latest value. In texts and on the console, the feed shows its latest value.
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
  readonly #changes = new Signal();
  /** Created for the first callback: most feeds have no callback. */
  #callbacks: Set<(value: T) => void> | undefined;
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

  /** True if the value no longer changes. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * True once the application has used a loop or a callback.
   *
   * @ignore
   */
  get isObserved(): boolean {
    return this.#isObserved;
  }

  /**
   * Returns the latest value as text: the value itself, or its `name` if it has one, such as
   * `connected`.
   *
   * @returns Text for logs.
   */
  toString(): string {
    return String(Object(this.#current).name ?? this.#current);
  }

  /**
   * Shows the latest value in `console.log` of Deno and Node.
   *
   * @ignore
   */
  [Symbol.for("nodejs.util.inspect.custom")](
    _depth: number,
    options: object,
    inspect: (value: unknown, options: object) => string,
  ): string {
    return `StatusFeed ${inspect(this.#current, options)}`;
  }

  /**
   * Changes the value.
   *
   * @param value The new value; ignored once the feed has ended.
   */
  set(value: T): void {
    if (!this.#isEnded) this.#change(value);
  }

  /**
   * Changes the value for the last time.
   *
   * @param value The final value.
   */
  end(value: T): void {
    if (this.#isEnded) return;
    // Callbacks may ask whether the feed has ended.
    this.#isEnded = true;
    this.#change(value);
    this.#callbacks = undefined;
  }

  /**
   * Calls a callback immediately with the current value, and then on every change.
   *
   * - **Stores:** this method follows the contract of a Svelte store. React's
   *   `useSyncExternalStore` accepts it together with {@linkcode StatusFeed.current}.
   * - **Errors:** if the callback throws, the error is printed (up to 16 errors), and the subscription
   *   continues.
   *
   * @param callback Receives each value.
   * @returns A function that ends the subscription.
   * @throws {TypeError} If the callback is not a function.
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
  subscribe(callback: (value: T) => unknown): (() => void) & Disposable {
    this.#isObserved = true;
    return this.observe(callback);
  }

  /**
   * Subscribes a callback of the library, which doesn't count as the application's.
   *
   * @ignore
   */
  observe(callback: (value: T) => unknown): (() => void) & Disposable {
    // The same function may subscribe twice.
    const call = subscriber("A status callback", callback);
    if (!this.#isEnded) (this.#callbacks ??= new Set()).add(call);
    call(this.#current);
    return disposable(() => void this.#callbacks?.delete(call));
  }

  /**
   * Yields the current value, and then each change, until the feed ends.
   *
   * @returns The values.
   */
  [Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    this.#isObserved = true;
    return this.follow();
  }

  /**
   * Yields the same values to a loop of the library, which doesn't count as the application's.
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

  #change(value: T): void {
    this.#current = value;
    this.#version++;
    this.#changes.notify();
    for (const call of [...this.#callbacks ?? []]) {
      // An earlier callback may have ended the subscription of a later one.
      if (this.#callbacks?.has(call)) call(this.#current);
    }
  }
}
