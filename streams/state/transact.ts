/** Transactions that read rows before they change them: a function runs until its rows hold. */
import type { TransactionResult, TransactionRows } from "../../session/mutations/transaction.ts";
import type { LiveRow, Row } from "../../session/rows/row_map.ts";
import { readRowName, rowName } from "../../session/wire/rows.ts";
import type { Change } from "../logs/change_message.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import type { CompleteRows } from "./live_rows.ts";
import { forNow, type Turn } from "./row_queue.ts";
import type { ChangedCollection, Scans } from "./unchanged.ts";

/** Where a transaction reads the rows of a state. */
export interface RowsOfState {
  /**
   * Reads one row.
   *
   * @throws {RequestError} With the code `ephemeral` if the rows of the collection are not stored.
   */
  row(type: string, key: string): SeenRow | Promise<SeenRow>;
  /** Reads all rows, for a collection of them, as {@linkcode RowsOfState.row} does. */
  all(type: string): CompleteRows | Promise<CompleteRows>;
  /** Waits until it reads rows that include a version, or those of another stream. */
  reach(version: number, identity: string | undefined): Promise<void>;
}

/** A row as it was read. */
export interface SeenRow {
  /** Identity of the stream. */
  readonly identity: string | undefined;
  /** The row; `undefined` if it does not exist. */
  readonly row: LiveRow | undefined;
}

/** The changes of a transaction, with the conditions on what it has read. */
export interface GuardedChanges {
  /** The changes, each with the version of the row if it was read, and the checks of other rows. */
  readonly changes: readonly Change[];
  /** The collections that must be as they were. */
  readonly scans: Scans;
  /** Identity of the stream whose rows were read; `undefined` for any. */
  readonly identity: string | undefined;
}

/** Parts of {@linkcode transact}. */
export interface TransactionTask {
  readonly rows: RowsOfState;
  /** Calls the function of the application. */
  run(rows: TransactionRows): TransactionResult | Promise<TransactionResult>;
  /** Enters the lines of rows and collections. */
  enter(names: readonly string[]): Turn | Promise<Turn>;
  /** Appends the changes. */
  append(guarded: GuardedChanges): Promise<StreamAppended | ChangedCollection | Made>;
}

/** The transaction was made before. */
export interface Made {
  /** Distinguishes this result from others. */
  readonly kind: "made";
  /** A version of the state that includes it. */
  readonly version: number;
}

/** Result of {@linkcode transact}: that of the last append, or no changes. */
export type Transacted =
  | Exclude<StreamAppended, { readonly kind: "conflict" | "missing" }>
  | { readonly kind: "missing"; readonly identity: string | undefined }
  | Made
  | {
    readonly kind: "unchanged";
    /** A version of the state whose rows it has read. */
    readonly version: number;
  };

/** Number of runs in a row that read a state which was deleted and created anew in the meantime. */
const MAX_MIXED = 5;

/**
 * Runs a function, and appends its changes if all that it has read still holds. Otherwise, it runs
 * again, on newer rows.
 *
 * Functions that read or change the same rows run one after another on a server: the first run of a
 * function tells which rows these are. If others are before it, it runs again in its turn.
 *
 * @param task The function, its rows, and the append.
 * @returns The result; a conflict is resolved by another run.
 * @throws {RequestError} With the `contendedCode` of the queue if other writers were first all the
 * time.
 * @throws The error that the function throws.
 */
export async function transact(task: TransactionTask): Promise<Transacted> {
  let turn: Turn | undefined;
  let mixed = 0;
  try {
    while (true) {
      const seen = new SeenRows(task.rows);
      let result: TransactionResult;
      try {
        const ran = turn === undefined ? task.run(seen) : turn.during(() => task.run(seen));
        result = ran instanceof Promise ? await ran : ran;
      } catch (error) {
        if (seen.isMixed && ++mixed < MAX_MIXED) continue;
        throw error;
      }
      if (result.changes.size === 0) return { kind: "unchanged", version: seen.version };
      const names = namesOf(result);
      const hasRead = result.reads.size + result.scans.size > 0;
      if (turn === undefined && hasRead) {
        const entered = task.enter(names);
        const isFirst = !(entered instanceof Promise);
        turn = isFirst ? entered : await entered;
        if (!isFirst) {
          await task.rows.reach(leftVersion(turn, seen.identity), seen.identity);
          continue;
        }
      }
      const outcome = await task.append(guarded(result, seen));
      if (outcome.kind === "appended") {
        if (turn !== undefined) hand(turn, result, { outcome, identity: seen.identity });
        return outcome;
      }
      if (outcome.kind === "missing") return { kind: "missing", identity: seen.identity };
      if (outcome.kind !== "conflict" && outcome.kind !== "changed") return outcome;
      const row = outcome.kind === "conflict" ? outcome.row : rowName(outcome.type, "");
      // Without a row, the version is that of the state.
      const version = outcome.kind === "conflict" && outcome.version === 0
        ? outcome.since!
        : outcome.version;
      await task.rows.reach(version, seen.identity);
      await turn?.again(row);
    }
  } finally {
    turn?.[Symbol.dispose]();
  }
}

/** The rows that one run of a function has read. */
class SeenRows implements TransactionRows {
  identity: string | undefined;
  /** The highest version of a row, or of the state, that was read. */
  version = 0;
  /** True if they are rows of two streams. */
  isMixed = false;
  /** Versions of the state from which collections were read. */
  readonly scans = new Map<string, number>();
  readonly #rows: RowsOfState;
  #isEmpty = true;

  constructor(rows: RowsOfState) {
    this.#rows = rows;
  }

  row(type: string, key: string): LiveRow | undefined | Promise<LiveRow | undefined> {
    const seen = this.#rows.row(type, key);
    return seen instanceof Promise ? seen.then((seen) => this.#note(seen)) : this.#note(seen);
  }

  async *rows(type: string): AsyncGenerator<Row> {
    const all = await this.#rows.all(type);
    this.#note({ identity: all.identity, row: undefined });
    this.version = Math.max(this.version, all.version);
    const { view } = all.stored(type);
    if (!this.scans.has(type)) this.scans.set(type, all.version);
    for (const [key, value] of view) yield { key, value, version: 0 };
  }

  #note({ identity, row }: SeenRow): LiveRow | undefined {
    if (this.#isEmpty) this.identity = identity;
    this.#isEmpty = false;
    this.version = Math.max(this.version, row?.version ?? 0);
    if (identity === this.identity) return row;
    this.isMixed = true;
    throw forNow("the state was deleted and created anew");
  }
}

/** The lines of a transaction: its rows, and the collections that it has iterated. */
function namesOf({ reads, changes, scans }: TransactionResult): readonly string[] {
  const collections = Array.from(scans, (type) => rowName(type, ""));
  return [...new Set([...reads.keys(), ...changes.keys(), ...collections])];
}

function guarded(
  { changes, reads }: TransactionResult,
  { identity, scans }: SeenRows,
): GuardedChanges {
  const all: Change[] = [];
  for (const [row, expect] of reads) {
    if (changes.has(row)) continue;
    const [type, key] = readRowName(row);
    all.push({ type, key, row, operation: "check", expect });
  }
  for (const [row, { type, key, value, ttlMs }] of changes) {
    const expect = reads.get(row);
    all.push(
      value === undefined
        ? { type, key, row, operation: "delete", expect }
        : { type, key, row, operation: "upsert", value: JSON.stringify(value), ttlMs, expect },
    );
  }
  return { changes: all, scans, identity };
}

/** The newest version of the rows of a turn, as the turns before left them. */
function leftVersion(turn: Turn, identity: string | undefined): number {
  const left = turn.rows.map((row) => turn.left(row));
  return Math.max(0, ...left.map((row) => row?.identity === identity ? row!.version : 0));
}

function hand(
  turn: Turn,
  { changes, scans }: TransactionResult,
  { outcome: { info }, identity }: {
    readonly outcome: Extract<StreamAppended, { readonly kind: "appended" }>;
    readonly identity: string | undefined;
  },
): void {
  const of = { identity, version: info.tail };
  for (const [row, { value }] of changes) {
    turn.hand(row, { ...of, value: value === undefined ? undefined : JSON.stringify(value) });
  }
  for (const type of scans) turn.hand(rowName(type, ""), { ...of, value: undefined });
}
