/** The interface of stores, in which a client keeps data that outlives its page or process. */

/**
 * An entry of a store.
 *
 * A key has 1 to 2,048 bytes. A value has any number of bytes; a store may reject one that is larger
 * than 64 MiB.
 */
export interface StoreEntry {
  /** The key, by whose bytes entries are ordered. */
  readonly key: Uint8Array;
  /** The value. */
  readonly value: Uint8Array;
}

/**
 * The keys from `from` up to, but without, `to`, in byte order. A key that is the beginning of
 * another one comes first. If `to` isn't greater than `from`, the range is empty.
 */
export interface StoreRange {
  /** The first key; an empty array for the beginning of the store. */
  readonly from: Uint8Array;
  /**
   * The first key after the range.
   *
   * @default {undefined} The range extends to the end of the store.
   */
  readonly to?: Uint8Array | undefined;
}

/** Options of {@linkcode Store.read}. */
export interface StoreReadOptions {
  /**
   * Maximum number of entries in the page.
   *
   * @default {1000}
   */
  readonly maxEntries?: number | undefined;
  /**
   * Maximum number of bytes of keys and values in the page. The first entry is returned even if it
   * is larger.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number | undefined;
  /** Stops waiting for the page. */
  readonly signal?: AbortSignal | undefined;
}

/** The result of a read: the first entries of a range, in byte order of their keys. */
export interface StorePage {
  /** The entries; there is at least one if the range has any. The arrays belong to the caller. */
  readonly entries: readonly StoreEntry[];
  /** True if the range has no further entries. */
  readonly isComplete: boolean;
}

/** Changes that take effect together, or not at all. */
export interface StoreBatch {
  /** The ranges to delete, before anything is put. */
  readonly deletes?: readonly StoreRange[] | undefined;
  /** The entries to add or replace, in this order. */
  readonly puts?: readonly StoreEntry[] | undefined;
}

/**
 * The events that a completed write survives:
 *
 * - `memory`: nothing; the data is lost with the process.
 * - `relaxed`: the end of the page or process, also by a crash. The last writes may be lost if the
 *   machine loses power.
 * - `strict`: also a loss of power.
 */
export type Durability = "memory" | "relaxed" | "strict";

/**
 * A transactional map of byte keys to byte values.
 *
 * An implementation MUST keep these rules; `testStore` of `@skein/skein/store/testing` checks them.
 *
 * - **Atomic:** a batch is stored completely or not at all, also if the process is killed meanwhile.
 * - **Ordered:** operations take effect in the order of the calls, also if the caller doesn't wait
 *   for them. A read sees all earlier writes.
 * - **Settled:** each call settles, also if the storage breaks or disappears. It rejects with a
 *   `StoreError`, or with a `TypeError` or `RangeError` if an argument breaks a rule.
 * - **Untouched:** the store doesn't change the arrays that it receives. The caller leaves them
 *   unchanged until the call settles.
 *
 * There are no events and no queries. Whoever reads a store validates what is in it, because other
 * versions of the program, or another program, may have written it.
 *
 * @example Read all entries of a range
 * ```ts
 * import type { Store, StoreEntry, StoreRange } from "@skein/skein/store";
 *
 * async function* entriesOf(store: Store, range: StoreRange): AsyncGenerator<StoreEntry> {
 *   for (let from = range.from;;) {
 *     const { entries, isComplete } = await store.read({ ...range, from });
 *     yield* entries;
 *     if (isComplete) return;
 *     // The next key: the last one with a zero byte.
 *     from = Uint8Array.of(...entries.at(-1)!.key, 0);
 *   }
 * }
 * ```
 */
export interface Store {
  /** The kind of store, for messages: for example `IndexedDB` or `file`. */
  readonly name: string;
  /**
   * True if no other page or process can have the same data open. Otherwise, pages use
   * `navigator.locks` to find out which of them are closed.
   *
   * @default {false}
   */
  readonly isExclusive?: boolean | undefined;
  /**
   * Reads the first entries of a range.
   *
   * @param range The first key, and the first key after the range.
   * @param options See {@linkcode StoreReadOptions}.
   * @returns The entries in the order of their keys, and whether these are all.
   * @throws {StoreError} If the store fails or is closed.
   */
  read(range: StoreRange, options?: StoreReadOptions): Promise<StorePage>;
  /**
   * Stores a batch.
   *
   * @param batch The changes. An empty batch is allowed.
   * @returns What the batch survives.
   * @throws {StoreError} If there is no room, or if the store fails or is closed. Nothing of the
   * batch is stored then, except if the reason is `failed`, after which only a read tells.
   */
  write(batch: StoreBatch): Promise<Durability>;
  /**
   * Deletes a range, as a batch does.
   *
   * @param range The first key, and the first key after the range.
   * @returns What the deletion survives.
   * @throws {StoreError} As {@linkcode Store.write} does.
   */
  delete(range: StoreRange): Promise<Durability>;
  /**
   * Completes the operations that were called before, then releases the storage. Later calls reject
   * with a `StoreError` whose reason is `closed`. Closing again has no effect.
   */
  close(): Promise<void>;
}
