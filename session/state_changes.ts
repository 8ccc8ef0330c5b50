/** The loop over the changed rows of a state, at servers and clients. */
import type { Runtime } from "../base/runtime.ts";
import type { Signal } from "../base/signal.ts";
import type { RowChanges, Rows } from "./rows/row_map.ts";
import type { StateChange } from "./state_types.ts";

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

/** Number of changed rows that are noted in one turn. The first rows of a state may be more. */
const ROWS_PER_TURN = 5_000;

/** A row that changed, and its value before. */
interface Changed {
  readonly collection: string;
  readonly key: string;
  readonly before: unknown;
}

/**
 * The changed rows that a loop has not yielded yet, with the values that it knew before; at most
 * one entry for each row.
 */
class PendingChanges {
  readonly #source: RowSource;
  readonly #rows = new Map<string, Map<string, unknown>>();
  /** The newest changes, which are not among these rows yet, oldest first. */
  readonly #unnoted: (readonly [collection: string, rows: Iterator<[string, unknown]>])[] = [];

  constructor(source: RowSource) {
    this.#source = source;
  }

  get isEmpty(): boolean {
    return this.#rows.size === 0 && this.isComplete;
  }

  /** True if all changes are among the rows. */
  get isComplete(): boolean {
    return this.#unnoted.length === 0;
  }

  add(changes: RowChanges): void {
    for (const [collection, rows] of changes) {
      this.#unnoted.push([collection, rows[Symbol.iterator]()]);
    }
    this.note();
  }

  /** Notes a part of the changes. The first rows of a state may be many. */
  note(): void {
    for (let noted = 0; noted < ROWS_PER_TURN && this.#unnoted.length > 0; noted++) {
      const [collection, rows] = this.#unnoted[0]!;
      const { value: row } = rows.next();
      if (row === undefined) {
        this.#unnoted.shift();
        continue;
      }
      const [key, before] = row;
      const of = this.#rows.get(collection) ?? new Map<string, unknown>();
      this.#rows.set(collection, of);
      if (!of.has(key)) of.set(key, before);
      // A row that came and went is no change.
      else if (of.get(key) === undefined && !this.#source.collection(collection).has(key)) {
        of.delete(key);
      }
    }
  }

  /** Removes the rows while it yields them. */
  *take(): Generator<Changed, undefined> {
    for (const [collection, of] of this.#rows) {
      for (const [key, before] of of) {
        of.delete(key);
        yield { collection, key, before };
      }
      this.#rows.delete(collection);
    }
  }
}

/**
 * Yields each row that changes, in no particular order. Memory is bounded by the number of rows: if
 * a row changes several times while the loop is busy, only its newest value is yielded.
 *
 * @param options `closed` ends the loop; `signal` ends it with its reason.
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
  const pending = new PendingChanges(rows);
  let wake = () => {};
  const listen = (changes: RowChanges) => {
    pending.add(changes);
    wake();
  };
  const onEnd = () => wake();
  rows.listeners.add(listen);
  for (const one of [signal, closed]) one?.addEventListener("abort", onEnd);
  try {
    let turnMs = runtime.monotonic();
    let yielded = 0;
    const nextTurn = async () => {
      await new Promise<void>((resolve) => runtime.schedule(resolve));
      turnMs = runtime.monotonic();
    };
    while (!closed.aborted) {
      signal?.throwIfAborted();
      if (!pending.isComplete) {
        pending.note();
        await nextTurn();
        continue;
      }
      for (const { collection, key, before } of pending.take()) {
        const value = rows.collection(collection).get(key)?.value as Readonly<T> | undefined;
        yield { collection, key, value, before: before as Readonly<T> | undefined };
        signal?.throwIfAborted();
        if (closed.aborted) return;
        if (!pending.isComplete) break;
        if (++yielded % ROWS_PER_LOOK > 0 || runtime.monotonic() - turnMs < MAX_TURN_MS) continue;
        await nextTurn();
      }
      if (rows.failure !== undefined) throw rows.failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (!pending.isEmpty || signal?.aborted || closed.aborted) return resolve();
        rows.changed().then(resolve);
      });
    }
  } finally {
    rows.listeners.delete(listen);
    for (const one of [signal, closed]) one?.removeEventListener("abort", onEnd);
  }
}
