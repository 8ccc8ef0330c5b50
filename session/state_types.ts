/** Types of live state that servers and clients share. */
import type { StateInput, StateRow } from "./contract.ts";

/** A change of a row, as `changes` yields it. */
export interface StateChange<T = unknown> {
  /** Name of the collection. */
  readonly collection: string;
  /** Key of the row. */
  readonly key: string;
  /** The present value, which is frozen; `undefined` if the row was deleted. */
  readonly value: Readonly<T> | undefined;
  /** The value that the loop knew before, frozen; `undefined` if the row did not exist. */
  readonly before: Readonly<T> | undefined;
}

/** Options of a write to a row. */
export interface StateWriteOptions {
  /**
   * Time after which the row is deleted, within about 5 s, unless it has changed, in milliseconds;
   * at most 100 years.
   *
   * By default, the row stays even if an earlier write had a time. It also stays if the stream of
   * the state is closed.
   *
   * @default {the row stays}
   */
  readonly ttlMs?: number | undefined;
  /**
   * Version that the row must have; 0 if it must not exist. With another version, the write rejects
   * with the code `conflict`.
   *
   * The server compares the version when it handles the write. Calls that write return versions,
   * and so does `versionOf`.
   *
   * @default {any version}
   */
  readonly expect?: number | undefined;
  /**
   * Rejects the write with its reason. A write that was not sent yet is taken back; one that was
   * sent may take effect.
   */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Rows as a function of `transaction`, or a mutation, reads and changes them.
 *
 * - **Own changes:** it reads the rows with the changes that it has made itself. They take effect
 *   together, once the function has returned, or not at all.
 * - **Guards:** a row that it has read must not change before they take effect, nor a collection
 *   that it has iterated. If one does, the function is called again with the newer rows.
 * - **Calls:** `await` each of them. `set` and `delete` also count if the function is not
 *   asynchronous. An `insert` or `update` that rejects makes the transaction fail, even if the
 *   function catches the error.
 */
export interface StateTransaction {
  /**
   * Returns a row, which is frozen.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @returns The value; `undefined` if there is no such row.
   * @throws {RequestError} With the code `too-large` if the function reads more than 10,000 rows.
   */
  get(collection: string, key: string): Promise<unknown>;
  /**
   * Returns whether a row exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @throws {RequestError} As {@linkcode StateTransaction.get}.
   */
  has(collection: string, key: string): Promise<boolean>;
  /**
   * Yields the rows of a collection. Rows that the function changes in the meantime may be yielded
   * as they were.
   *
   * @param collection Name of the collection.
   * @throws {RequestError} As {@linkcode StateTransaction.get}.
   */
  entries(collection: string): AsyncIterable<readonly [key: string, row: unknown]>;
  /**
   * Writes a row, whether or not it exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @param value Plain JSON; see `set` of a collection.
   * @param options See {@linkcode StateWriteOptions}.
   */
  set(
    collection: string,
    key: string,
    value: unknown,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): Promise<void>;
  /**
   * Writes a row that must not exist yet.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @param value Plain JSON; see `set` of a collection.
   * @param options See {@linkcode StateWriteOptions}.
   * @throws {RequestError} With the code `conflict` if the row exists.
   */
  insert(
    collection: string,
    key: string,
    value: unknown,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): Promise<void>;
  /**
   * Changes a row, which must exist.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @param change Returns the new value. It receives a copy of the present one, which it may change.
   * @throws {RequestError} With the code `conflict` if there is no such row.
   */
  update(
    collection: string,
    key: string,
    change: (row: unknown) => unknown,
  ): Promise<void>;
  /**
   * Deletes a row, if it exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   */
  delete(collection: string, key: string): Promise<void>;
}

/**
 * A {@linkcode StateTransaction} whose collections a contract defines.
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 */
export interface TypedTransaction<R> extends Omit<StateTransaction, keyof StateTransaction> {
  /** Returns a row. See {@linkcode StateTransaction.get}. */
  get<N extends keyof R & string>(
    collection: N,
    key: string,
  ): Promise<Readonly<StateRow<R, N>> | undefined>;
  /** Returns whether a row exists. See {@linkcode StateTransaction.has}. */
  has(collection: keyof R & string, key: string): Promise<boolean>;
  /** Yields the rows of a collection. See {@linkcode StateTransaction.entries}. */
  entries<N extends keyof R & string>(
    collection: N,
  ): AsyncIterable<readonly [key: string, row: Readonly<StateRow<R, N>>]>;
  /** Writes a row. See {@linkcode StateTransaction.set}. */
  set<N extends keyof R & string>(
    collection: N,
    key: string,
    value: StateInput<R, N>,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): Promise<void>;
  /** Writes a row that must not exist yet. See {@linkcode StateTransaction.insert}. */
  insert<N extends keyof R & string>(
    collection: N,
    key: string,
    value: StateInput<R, N>,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): Promise<void>;
  /** Changes a row, which must exist. See {@linkcode StateTransaction.update}. */
  update<N extends keyof R & string>(
    collection: N,
    key: string,
    change: (row: StateRow<R, N>) => StateInput<R, N>,
  ): Promise<void>;
  /** Deletes a row. See {@linkcode StateTransaction.delete}. */
  delete(collection: keyof R & string, key: string): Promise<void>;
}

/** A {@linkcode StateChange} of a collection that a contract defines, to distinguish by its name. */
export type TypedChange<R> = {
  [N in keyof R & string]: StateChange<StateRow<R, N>> & { readonly collection: N };
}[keyof R & string];

/**
 * The methods of a state whose types depend on the contract.
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 */
export interface TypedStateMethods<R> {
  /**
   * Changes several rows at once.
   *
   * @param change Reads and changes rows. It may be called several times.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the changed rows, once the state includes them.
   */
  transaction(
    change: (transaction: TypedTransaction<R>) => void | Promise<void>,
    options?: Pick<StateWriteOptions, "signal">,
  ): Promise<number>;
  /**
   * Yields each row that changes.
   *
   * @param options A signal that ends the loop with its reason.
   * @returns The changes, until the state is closed.
   */
  changes(
    options?: { readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<TypedChange<R>, void, undefined>;
}
