/** The changes of a state, at servers and clients: transactions, and the loop over changed rows. */
import type { Signal } from "../base/signal.ts";
import type { StateChange, StateTransaction } from "./state_types.ts";
import { rowName } from "./wire/rows.ts";

/** A row of a server and its version. */
export interface LiveRow {
  readonly value: unknown;
  readonly version: number;
}

/** A changed row, as listeners receive it. */
export interface RowChanged {
  readonly collection: string;
  readonly key: string;
  /** The value before the change; `undefined` if the row did not exist. */
  readonly before: unknown;
}

/** Rows that report their changes. */
export interface RowSource extends Pick<Signal, "changed"> {
  /** Called with the changes that take effect together. */
  readonly listeners: Set<(changes: readonly RowChanged[]) => void>;
  /** Reason why the rows are no longer kept up to date. */
  readonly failure: unknown;
  /** The present value of a row; `undefined` if it does not exist. */
  valueAt(collection: string, key: string): unknown;
}

/**
 * Yields each row that changes, in no particular order. Memory is bounded by the number of rows: if
 * a row changes several times while the loop is busy, only its newest value is yielded.
 *
 * @param rows The rows.
 * @param options `closed` ends the loop; `signal` ends it with its reason.
 * @returns The changes.
 * @throws The failure of the rows.
 */
export async function* newestChanges<T>(
  rows: RowSource,
  { signal, closed }: {
    readonly signal?: AbortSignal | undefined;
    readonly closed: AbortSignal;
  },
): AsyncGenerator<StateChange<T>, void, undefined> {
  /** The changed rows that were not yielded yet; at most one entry for each row. */
  const pending = new Map<string, RowChanged>();
  let wake = () => {};
  const listen = (changes: readonly RowChanged[]) => {
    for (const change of changes) {
      const { collection, key } = change;
      const name = rowName(collection, key);
      const first = pending.get(name) ?? change;
      // A row that came and went is no change.
      const isNothing = first.before === undefined && rows.valueAt(collection, key) === undefined;
      if (isNothing) pending.delete(name);
      else pending.set(name, first);
    }
    wake();
  };
  const onEnd = () => wake();
  rows.listeners.add(listen);
  for (const one of [signal, closed]) one?.addEventListener("abort", onEnd);
  try {
    while (!closed.aborted) {
      signal?.throwIfAborted();
      for (const [name, { collection, key, before }] of pending) {
        pending.delete(name);
        const value = rows.valueAt(collection, key) as T | undefined;
        yield { collection, key, value, before: before as T | undefined };
        signal?.throwIfAborted();
        if (closed.aborted) return;
      }
      if (rows.failure !== undefined) throw rows.failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (pending.size > 0 || signal?.aborted || closed.aborted) return resolve();
        rows.changed().then(resolve);
      });
    }
  } finally {
    rows.listeners.delete(listen);
    for (const one of [signal, closed]) one?.removeEventListener("abort", onEnd);
  }
}

/**
 * Lets an application make the changes of a transaction.
 *
 * @param change The application's function.
 * @param transaction Collects the changes.
 * @throws {TypeError} If the function is asynchronous, whose later changes would be lost.
 */
export function runTransaction(
  change: (transaction: StateTransaction) => void,
  transaction: StateTransaction,
): void {
  const returned: unknown = change(transaction);
  if (!(returned instanceof Promise)) return;
  returned.catch(() => {});
  throw new TypeError("Cannot write state: the transaction must not be asynchronous");
}
