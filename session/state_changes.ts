/** The changes of a state, at servers and clients: transactions, and the loop over changed rows. */
import type { Runtime } from "../base/runtime.ts";
import type { Signal } from "../base/signal.ts";
import type { RowChanges, Rows } from "./rows/row_map.ts";
import type { StateChange, StateTransaction } from "./state_types.ts";

/** Rows that report their changes. */
export interface RowSource extends Pick<Signal, "changed"> {
  /** Called with the changes that take effect together. MUST NOT throw. */
  readonly listeners: Set<(changes: RowChanges) => void>;
  /** Reason why the rows are no longer kept up to date. */
  readonly failure: unknown;
  /** Returns the present rows of a collection. */
  collection(name: string): Rows;
}

/**
 * Time after which a loop lets other events be handled, in milliseconds. A page then still renders
 * each frame.
 */
const MAX_TURN_MS = 8;

/** Number of rows between two looks at the clock. */
const ROWS_PER_LOOK = 64;

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
  { signal, closed, runtime }: {
    readonly signal?: AbortSignal | undefined;
    readonly closed: AbortSignal;
    readonly runtime: Pick<Runtime, "monotonic" | "schedule">;
  },
): AsyncGenerator<StateChange<T>, void, undefined> {
  const valueAt = (collection: string, key: string) => rows.collection(collection).get(key)?.value;
  /**
   * The changed rows that were not yielded yet, with the values that the loop knew before; at most
   * one entry for each row.
   */
  const pending = new Map<string, Map<string, unknown>>();
  let wake = () => {};
  const listen = (changes: RowChanges) => {
    for (const [collection, before] of changes) {
      const of = pending.get(collection) ?? new Map<string, unknown>();
      pending.set(collection, of);
      for (const [key, value] of before) {
        const first = of.has(key) ? of.get(key) : value;
        // A row that came and went is no change.
        const isNothing = first === undefined && valueAt(collection, key) === undefined;
        if (isNothing) of.delete(key);
        else of.set(key, first);
      }
    }
    wake();
  };
  const onEnd = () => wake();
  rows.listeners.add(listen);
  for (const one of [signal, closed]) one?.addEventListener("abort", onEnd);
  try {
    let turnMs = runtime.monotonic();
    let yielded = 0;
    while (!closed.aborted) {
      signal?.throwIfAborted();
      for (const [collection, of] of pending) {
        for (const [key, before] of of) {
          of.delete(key);
          const value = valueAt(collection, key) as T | undefined;
          yield { collection, key, value, before: before as T | undefined };
          signal?.throwIfAborted();
          if (closed.aborted) return;
          if (++yielded % ROWS_PER_LOOK > 0 || runtime.monotonic() - turnMs < MAX_TURN_MS) continue;
          await new Promise<void>((resolve) => runtime.schedule(resolve));
          turnMs = runtime.monotonic();
        }
        pending.delete(collection);
      }
      if (rows.failure !== undefined) throw rows.failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (pending.size > 0 || signal?.aborted || closed.aborted) return resolve();
        rows.changed().then(resolve);
      });
      turnMs = runtime.monotonic();
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
