/** Reading a collection of rows, on servers and in clients. */
import { disposable, subscriber } from "../../base/call_safely.ts";
import type { RowSource } from "../state_changes.ts";
import type { RowChanges } from "./row_map.ts";

/** The parts of a collection that reads use. */
export interface RowReaderParts {
  readonly rows: RowSource;
  /** Aborts when the state ends. */
  readonly closed: AbortSignal;
}

/**
 * The rows of one type, which servers and clients read like a `Map` from keys to values. User
 * interfaces show `current`, a snapshot of the rows, and show it again when `subscribe` calls back.
 *
 * - **Rows are values:** a row is frozen, with everything in it, and a change replaces it. `update`
 *   gives its callback a copy, which the callback may change in place.
 * - **Order:** rows are in the order in which they were first written or received.
 *
 * @typeParam T The type of a row.
 */
export abstract class RowReader<T = unknown> implements Iterable<[key: string, row: Readonly<T>]> {
  /** The name. */
  readonly name: string;
  readonly #rows: RowSource;
  readonly #closed: AbortSignal;

  /** @ignore */
  constructor(name: string, { rows, closed }: RowReaderParts) {
    this.name = name;
    this.#rows = rows;
    this.#closed = closed;
  }

  /** The number of rows. */
  get size(): number {
    return this.#rows.collection(this.name).size;
  }

  /**
   * The rows as they are now, as a map that does not change. It is the same map until a row
   * changes. Taking it costs the same for any number of rows.
   */
  get current(): ReadonlyMap<string, Readonly<T>> {
    return this.#rows.collection(this.name).view as ReadonlyMap<string, Readonly<T>>;
  }

  /**
   * Returns a row, which is frozen.
   *
   * @param key The key with which the row was written.
   * @returns The value; `undefined` if there is no such row.
   */
  get(key: string): Readonly<T> | undefined {
    return this.#rows.collection(this.name).get(key)?.value as Readonly<T> | undefined;
  }

  /**
   * Returns whether a row exists.
   *
   * @param key The key with which a row was written.
   */
  has(key: string): boolean {
    return this.#rows.collection(this.name).has(key);
  }

  /** Yields the keys of the present rows. */
  keys(): IterableIterator<string> {
    return this.current.keys();
  }

  /** Yields the present rows, in the order of `keys`. */
  values(): IterableIterator<Readonly<T>> {
    return this.current.values();
  }

  /** Yields the key and the value of each present row, in the order of `keys`. */
  entries(): IterableIterator<[key: string, row: Readonly<T>]> {
    return this.current.entries();
  }

  /** Yields the key and the value of each present row, in the order of `keys`. */
  [Symbol.iterator](): IterableIterator<[key: string, row: Readonly<T>]> {
    return this.current.entries();
  }

  /**
   * Calls a callback with each present row, in the order of `keys`.
   *
   * @param callback Receives the value, the key, and the rows.
   * @param thisArg The value of `this` in the callback.
   */
  forEach(
    callback: (row: Readonly<T>, key: string, rows: ReadonlyMap<string, Readonly<T>>) => void,
    thisArg?: unknown,
  ): void {
    this.current.forEach(callback, thisArg);
  }

  /**
   * Calls a callback with the rows immediately and after each change, until the state is closed. It
   * follows the contract of a Svelte store.
   *
   * @param callback Receives the rows as a map that does not change, and the keys of the rows that
   * changed since its last call: at first, all keys. If it throws an error, the error is printed (up
   * to 16 errors), and the subscription continues.
   * @returns A function that ends the subscription. Idempotent.
   * @throws {TypeError} If the callback is not a function.
   */
  subscribe(
    callback: (rows: ReadonlyMap<string, Readonly<T>>, changed: Iterable<string>) => unknown,
  ): (() => void) & Disposable {
    const rows = this.#rows;
    const tell = subscriber(`A callback of the collection "${this.name}"`, callback);
    const listen = (changes: RowChanges) => {
      const before = changes.get(this.name);
      // An earlier callback may have ended this subscription.
      if (before !== undefined && rows.listeners.has(listen)) {
        tell(this.current, before.keys());
      }
    };
    const end = () => {
      rows.listeners.delete(listen);
      this.#closed.removeEventListener("abort", end);
    };
    if (!this.#closed.aborted) {
      rows.listeners.add(listen);
      this.#closed.addEventListener("abort", end);
    }
    tell(this.current, this.current.keys());
    return disposable(end);
  }

  /**
   * Yields the rows as a map that does not change, and then yields them again after each change. A
   * slow loop may miss intermediate states, but never the newest. The loop ends when the state is
   * closed, after at most one more map, even if others go on changing the rows.
   *
   * @returns The rows.
   * @throws {RequestError} If the state cannot be read any more.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<
    ReadonlyMap<string, Readonly<T>>,
    void,
    undefined
  > {
    const rows = this.#rows;
    const closed = this.#closed;
    let { failure } = rows;
    let wake = () => {};
    const onEnd = () => {
      // Later, the rows may fail because no handle uses them any more.
      ({ failure } = rows);
      wake();
    };
    closed.addEventListener("abort", onEnd);
    try {
      let seen: ReadonlyMap<string, Readonly<T>> | undefined;
      while (true) {
        const isOver = closed.aborted;
        const { current } = this;
        if (current !== seen) {
          yield seen = current;
          // Others may go on changing the rows after the end.
          if (!isOver) continue;
        }
        if (!isOver) ({ failure } = rows);
        if (failure !== undefined) throw failure;
        if (isOver) return;
        await new Promise<void>((resolve) => {
          wake = resolve;
          void rows.changed().then(resolve);
        });
      }
    } finally {
      closed.removeEventListener("abort", onEnd);
    }
  }
}
