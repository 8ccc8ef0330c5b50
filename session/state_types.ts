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
   * Time after which the row is deleted unless it has changed, in milliseconds. By default, the row
   * stays, even if an earlier write had a time. It also stays if the stream of the state is closed.
   * The maximum is 100 years.
   */
  readonly ttlMs?: number | undefined;
  /**
   * Version that the row must have; 0 if it must not exist. If the row has another version when the
   * server handles the write, the write rejects with the code `conflict`. Calls that write return
   * versions, and so does `versionOf`. By default, the row may have any version.
   */
  readonly expect?: number | undefined;
  /**
   * Rejects the write with its reason. A write that was not sent yet is taken back; one that was
   * sent may take effect.
   */
  readonly signal?: AbortSignal | undefined;
}

/** Collects the changes of a transaction. */
export interface StateTransaction {
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
  ): void;
  /**
   * Deletes a row, if it exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   */
  delete(collection: string, key: string): void;
}

/** A {@linkcode StateTransaction} whose collections a contract defines. */
export interface TypedTransaction<R> extends Omit<StateTransaction, "set" | "delete"> {
  /** Writes a row. See {@linkcode StateTransaction.set}. */
  set<N extends keyof R & string>(
    collection: N,
    key: string,
    value: StateInput<R, N>,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): void;
  /** Deletes a row. See {@linkcode StateTransaction.delete}. */
  delete(collection: keyof R & string, key: string): void;
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
   * @param change Collects the changes. It is called once, and must not be asynchronous.
   * @param options A signal; see {@linkcode StateWriteOptions}.
   * @returns The version of the changed rows, once the state includes them.
   */
  transaction(
    change: (transaction: TypedTransaction<R>) => void,
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
