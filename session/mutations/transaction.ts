/** A transaction that reads rows before it changes them, on servers and in clients. */
import { RequestError } from "../../errors.ts";
import type { LiveRow, Row } from "../rows/row_map.ts";
import { checkType } from "../../base/error_text.ts";
import { rowOf, updatedRow } from "../rows/row_values.ts";
import type { StateTransaction, StateWriteOptions } from "../state_types.ts";
import {
  checkCollectionName,
  checkRow,
  checkTtl,
  noRow,
  rowName,
  unexpected,
} from "../wire/rows.ts";

/** Maximum number of rows that a function may read in one transaction. */
export const MAX_READS = 10_000;

/** The rows that a transaction reads. */
export interface TransactionRows {
  /** Returns a row; `undefined` if it does not exist. */
  row(type: string, key: string): LiveRow | undefined | Promise<LiveRow | undefined>;
  /** Yields the rows of a collection. */
  rows(type: string): Iterable<Row> | AsyncIterable<Row>;
}

/** A change that a transaction makes; it deletes the row by the value `undefined`. */
export interface TransactionChange {
  readonly type: string;
  readonly key: string;
  /** The new value, frozen. */
  readonly value: unknown;
  readonly ttlMs: number | undefined;
}

/** The changes of one run of a function, and what it has read. */
export interface TransactionResult {
  /** The newest change of each row by the row's name, in the order of the first ones. */
  readonly changes: ReadonlyMap<string, TransactionChange>;
  /** The rows that were read, with their versions; 0 for a row that does not exist. */
  readonly reads: ReadonlyMap<string, number>;
  /** The collections that were iterated. */
  readonly scans: ReadonlySet<string>;
}

/**
 * Runs a function of the application once.
 *
 * @param rows The present rows.
 * @param call Calls the function with the transaction.
 * @param checkOptions Checks the options of its writes.
 * @returns What it has changed and read; a promise if the function returned one.
 * @throws {RequestError} With the code `conflict` if an `insert` or `update` was not possible, and
 * `too-large` if the function has read too many rows.
 * @throws The error that the function throws.
 */
export function runTransaction(
  rows: TransactionRows,
  call: (transaction: StateTransaction) => unknown,
  checkOptions?: (options: object) => void,
): TransactionResult | Promise<TransactionResult> {
  checkType("run transaction", "change", call);
  const transaction = new RowTransaction(rows, checkOptions);
  let returned: unknown;
  try {
    returned = call(transaction);
    if (!isThenable(returned)) return transaction.end();
  } catch (error) {
    transaction.fail(error);
    throw error;
  }
  return Promise.resolve(returned).then(() => transaction.end(), (error) => {
    transaction.fail(error);
    throw error;
  });
}

/** Returns whether a function has returned a promise, also that of another library or realm. */
export function isThenable(returned: unknown): returned is PromiseLike<unknown> {
  return typeof (Object(returned) as Partial<PromiseLike<unknown>>).then === "function";
}

/** The error for a transaction that reads rows of an ephemeral collection. */
export function ephemeralRead(type: string): RequestError {
  return new RequestError(
    "ephemeral",
    `Cannot read rows in a transaction: those of "${type}" are ephemeral, and have no versions`,
  );
}

class RowTransaction implements StateTransaction {
  readonly #rows: TransactionRows;
  readonly #checkOptions: ((options: object) => void) | undefined;
  readonly #changes = new Map<string, TransactionChange>();
  readonly #reads = new Map<string, number>();
  readonly #scans = new Set<string>();
  #count = 0;
  /** Number of calls that have not settled. */
  #pending = 0;
  #isOver = false;
  /** Why the transaction can't take effect. */
  #failure: { readonly error: unknown } | undefined;

  constructor(rows: TransactionRows, checkOptions?: (options: object) => void) {
    this.#rows = rows;
    this.#checkOptions = checkOptions;
  }

  get(collection: string, key: string): Promise<unknown> {
    return this.#attempt(() => this.#get(collection, key));
  }

  has(collection: string, key: string): Promise<boolean> {
    return this.#attempt(async () => await this.#get(collection, key) !== undefined);
  }

  async *entries(collection: string): AsyncGenerator<readonly [key: string, row: unknown]> {
    this.#check();
    checkCollectionName("read rows", "collection", collection);
    this.#scans.add(collection);
    const changes = new Map(this.#changes);
    for await (const { key, value } of this.#rows.rows(collection)) {
      this.#check();
      this.#countRead();
      const name = rowName(collection, key);
      const own = changes.get(name);
      changes.delete(name);
      const shown = own === undefined ? value : own.value;
      if (shown !== undefined) yield [key, shown];
    }
    for (const { type, key, value } of changes.values()) {
      if (type === collection && value !== undefined) yield [key, value];
    }
  }

  set(
    collection: string,
    key: string,
    value: unknown,
    options: Pick<StateWriteOptions, "ttlMs"> = {},
  ): Promise<void> {
    this.#put(collection, key, rowOf(value), options);
    return DONE;
  }

  insert(
    collection: string,
    key: string,
    value: unknown,
    options: Pick<StateWriteOptions, "ttlMs"> = {},
  ): Promise<void> {
    return this.#attempt(async () => {
      const row = rowOf(value);
      const read = this.#get(collection, key);
      if ((read instanceof Promise ? await read : read) !== undefined) {
        throw unexpected({ type: collection, key }, 0);
      }
      this.#put(collection, key, row, options);
    });
  }

  update(
    collection: string,
    key: string,
    change: (row: unknown) => unknown,
  ): Promise<void> {
    return this.#attempt(async () => {
      const read = this.#get(collection, key);
      const present = read instanceof Promise ? await read : read;
      if (present === undefined) throw noRow({ type: collection, key });
      this.#put(collection, key, updatedRow(key, change, present), {});
    });
  }

  delete(collection: string, key: string): Promise<void> {
    this.#put(collection, key, undefined, {});
    return DONE;
  }

  /** Ends the transaction, and returns its result. */
  end(): TransactionResult {
    this.#isOver = true;
    if (this.#failure !== undefined) throw this.#failure.error;
    if (this.#pending > 0) {
      throw new TypeError(
        "Cannot write state: the function must await each call of its transaction",
      );
    }
    return { changes: this.#changes, reads: this.#reads, scans: this.#scans };
  }

  /** Ends the transaction without effect. */
  fail(error: unknown): void {
    this.#isOver = true;
    this.#failure ??= { error };
  }

  #get(type: string, key: string): unknown {
    this.#check();
    checkRow(type, key);
    const name = rowName(type, key);
    const own = this.#changes.get(name);
    if (own !== undefined) return own.value;
    this.#countRead();
    const row = this.#rows.row(type, key);
    if (!(row instanceof Promise)) return this.#note(name, row);
    return row.then((row) => {
      this.#check();
      return this.#note(name, row);
    });
  }

  #note(name: string, row: LiveRow | undefined): unknown {
    if (!this.#reads.has(name)) this.#reads.set(name, row?.version ?? 0);
    return row?.value;
  }

  #put(
    type: string,
    key: string,
    value: unknown,
    options: Pick<StateWriteOptions, "ttlMs">,
  ): void {
    this.#check();
    checkRow(type, key);
    this.#checkOptions?.(options);
    const { ttlMs } = options;
    checkTtl(ttlMs);
    const name = rowName(type, key);
    this.#changes.set(name, { type, key, value, ttlMs });
  }

  /** Makes the transaction fail if a call does, whether or not the function awaits it. */
  #attempt<T>(call: () => T | Promise<T>): Promise<T> {
    const run = async () => {
      this.#pending++;
      try {
        return await call();
      } catch (error) {
        this.#failure ??= { error };
        throw error;
      } finally {
        this.#pending--;
      }
    };
    const result = run();
    // The transaction tells.
    result.catch(() => {});
    return result;
  }

  #countRead(): void {
    if (++this.#count <= MAX_READS) return;
    const rule = `a transaction must read at most ${MAX_READS} rows`;
    const error = new RequestError("too-large", `Cannot write state: ${rule}`);
    this.#failure ??= { error };
    throw error;
  }

  #check(): void {
    if (!this.#isOver) return;
    throw new TypeError(
      "Cannot use the transaction: its function has returned; await each call within it",
    );
  }
}

const DONE = /* @__PURE__ */ Promise.resolve();
