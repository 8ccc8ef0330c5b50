/** Transactions that read rows before they change them: a function runs until its rows hold. */
import type { AsyncLocalStorage } from "node:async_hooks";
import { builtin } from "../../base/builtins.ts";
import type { TransactionResult, TransactionRows } from "../../session/mutations/transaction.ts";
import type { LiveRow, Row } from "../../session/rows/row_map.ts";
import { readRowName, rowName } from "../../session/wire/rows.ts";
import type { Change } from "../logs/change_message.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import { type CompleteRows, describeRow } from "./live_rows.ts";
import { forNow } from "./rejections.ts";
import { isNewer, type LeftRow, rowLeft, type Turn } from "./row_queue.ts";
import type { ChangedCollection, Scans } from "./unchanged.ts";

/** Where a transaction reads the rows of a state. */
export interface RowsOfState {
  /**
   * Reads one row.
   *
   * @param left The row as the turn before left it. If the rows are not at hand, none is read, and the
   * version of the result is lower than that of `left`.
   * @throws {RequestError} With the code `ephemeral` if the rows of the collection are not stored.
   */
  row(type: string, key: string, left: LeftRow | undefined): SeenRow | Promise<SeenRow>;
  /**
   * Reads all rows, for a collection of them, as {@linkcode RowsOfState.row} does. The rows change as
   * the copy does.
   */
  all(type: string): CompleteRows | Promise<CompleteRows>;
  /** Waits until it reads rows that include a version, or those of another stream. */
  reach(version: number, identity: string | undefined): Promise<void>;
}

/** A row as it was read. */
export interface SeenRow {
  /** Identity of the stream. */
  readonly identity: string | undefined;
  /** Version of the state for which it was read. */
  readonly version: number;
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

/** The rows that one run of a function reads. */
export interface CountedRows extends TransactionRows {
  /** Number of rows that it has read so far. */
  readonly count: number;
}

/** Parts of {@linkcode transact}. */
export interface TransactionTask {
  readonly rows: RowsOfState;
  /** Calls the function of the application. */
  run(rows: CountedRows): TransactionResult | Promise<TransactionResult>;
  /** Enters the lines of rows and collections. */
  enter(names: readonly string[]): Turn | Promise<Turn>;
  /** Checks the changes, and appends them. */
  append(guarded: GuardedChanges): Promise<AppendOutcome>;
}

/** Result of the append of a transaction. */
export interface AppendOutcome {
  readonly result: StreamAppended | ChangedCollection | Made;
  /** The changes as the schemas returned them. */
  readonly checked: readonly Change[];
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

/** Number of runs that may throw because they have read rows which were never there together. */
const MAX_MIXED = 5;

/**
 * Runs a function, and appends its changes if all that it has read still holds. Otherwise, it runs
 * again, on newer rows.
 *
 * - **In turn:** functions that read or change the same rows run one after another on a server: the
 *   first run of a function tells which rows these are. If others are before it, it runs again in its
 *   turn, on the rows that the turn before has left, even if the copy of the rows lacks them yet.
 * - **Errors:** what the function throws counts if all rows that it has read were there at the same
 *   time. Otherwise, it runs again.
 *
 * @param task The function, its rows, and the append.
 * @returns The result; a conflict is resolved by another run.
 * @throws {RequestError} With the `contendedCode` of the queue if other writers were first all the
 * time.
 * @throws The error that the function throws.
 */
export async function transact(task: TransactionTask): Promise<Transacted> {
  let turn: Turn | undefined;
  /** The turn, until its function has run once: from then on, the copy has all that was left. */
  let before: Turn | undefined;
  let mixed = 0;
  try {
    while (true) {
      const seen = new SeenRows(task.rows, before);
      const reach = async (version: number) => {
        const { identity } = seen;
        const leftVersion = before === undefined ? 0 : versionLeft(before, identity);
        before = undefined;
        await task.rows.reach(Math.max(version, leftVersion), identity);
      };
      let made: TransactionResult;
      try {
        const run = () => seen.during(() => task.run(seen));
        const ran = turn === undefined ? run() : turn.during(run);
        made = ran instanceof Promise ? await ran : ran;
      } catch (error) {
        if (!seen.isMixed || ++mixed === MAX_MIXED) throw error;
        await reach(seen.version);
        continue;
      } finally {
        seen.isOver = true;
      }
      if (made.changes.size === 0) return { kind: "unchanged", version: seen.version };
      const hasRead = made.reads.size + made.scans.size > 0;
      if (turn === undefined && hasRead) {
        const entered = task.enter(namesOf(made));
        const isFirst = !(entered instanceof Promise);
        turn = isFirst ? entered : await entered;
        if (!isFirst) {
          before = turn;
          continue;
        }
      }
      const { result, checked } = await task.append(guarded(made, seen));
      const { identity } = seen;
      if (result.kind === "appended") {
        if (turn !== undefined) {
          hand(turn, made, { checked, of: { identity, version: result.info.tail } });
        }
        return result;
      }
      if (result.kind === "missing") return { kind: "missing", identity };
      if (result.kind !== "conflict" && result.kind !== "changed") return result;
      const row = result.kind === "conflict" ? result.row : rowName(result.type, "");
      // Without a row, the version is that of the state.
      const isGone = result.kind === "conflict" && result.version === 0;
      await reach(isGone ? result.since! : result.version);
      await turn?.again(row);
    }
  } finally {
    turn?.[Symbol.dispose]();
  }
}

/** The run in whose function code runs, which others may surround. */
let inside: AsyncLocalStorage<SeenRows> | undefined;

/**
 * Checks that no function writes, by a handle, rows that it has read in its transaction: then its own
 * changes could never take effect.
 *
 * @param identity Identity of the stream that is written.
 * @param changes The changes, which are not part of the transaction.
 * @throws {TypeError} If this code runs in such a function.
 */
export function checkUnread(identity: string | undefined, changes: readonly Change[]): void {
  for (let seen = inside?.getStore(); seen !== undefined; seen = seen.outer) {
    if (!seen.isOver && seen.identity === identity) seen.checkUnread(changes);
  }
}

/** The rows that one run of a function has read. */
class SeenRows implements CountedRows {
  count = 0;
  identity: string | undefined;
  /** The lowest version of the state that can have all of the rows. */
  version = 0;
  /** The highest version of the state that is known to have all of them. */
  #until = Infinity;
  #isMixed = false;
  /** Versions of the state from which collections were read. */
  readonly scans = new Map<string, number>();
  readonly #rows: RowsOfState;
  /** The turn before has left rows that may be newer than the copy. */
  readonly #turn: Turn | undefined;
  readonly #names = new Set<string>();
  #isEmpty = true;
  /** True once the function has returned. */
  isOver = false;
  /** The run in whose function this one was begun. */
  readonly outer: SeenRows | undefined;

  constructor(rows: RowsOfState, turn: Turn | undefined) {
    this.#rows = rows;
    this.#turn = turn;
    this.outer = inside?.getStore();
  }

  /** Calls the function. */
  during<T>(call: () => T): T {
    inside ??= new (builtin("node:async_hooks").AsyncLocalStorage)();
    return inside.run(this, call);
  }

  /** Checks that a handle writes none of the rows. */
  checkUnread(changes: readonly Change[]): void {
    for (const { type, key, row = rowName(type, key) } of changes) {
      const isRead = this.#names.has(row);
      if (!isRead && !this.scans.has(type)) continue;
      const what = isRead ? `the row ${describeRow(row)}` : `the collection "${type}"`;
      throw new TypeError(
        `Cannot write state: the function has read ${what} in its transaction, and must change it ` +
          "by the same transaction (tx.set)",
      );
    }
  }

  /** True if they are rows of two streams, or no version of the state is known to have them all. */
  get isMixed(): boolean {
    return this.#isMixed || this.version > this.#until;
  }

  row(type: string, key: string): LiveRow | undefined | Promise<LiveRow | undefined> {
    const name = rowName(type, key);
    this.#names.add(name);
    this.count++;
    const left = this.#turn?.left(name);
    const seen = this.#rows.row(type, key, left);
    return seen instanceof Promise
      ? seen.then((seen) => this.#newest(seen, left))
      : this.#newest(seen, left);
  }

  async *rows(type: string): AsyncGenerator<Row> {
    const all = await this.#rows.all(type);
    if (this.#turn !== undefined) {
      await this.#rows.reach(versionLeft(this.#turn, all.identity), all.identity);
    }
    const { identity, version } = all;
    this.#note(identity, version, version);
    const { view } = all.stored(type);
    if (!this.scans.has(type)) this.scans.set(type, version);
    for (const [key, value] of view) {
      this.count++;
      yield { key, value, version: 0 };
    }
  }

  #newest(seen: SeenRow, left: LeftRow | undefined): LiveRow | undefined {
    const { identity, version, row } = seen;
    if (isNewer(left, seen)) {
      this.#note(identity, left.version, left.version);
      return rowLeft(left);
    }
    this.#note(identity, row?.version ?? 0, version);
    return row;
  }

  /** Notes that a stream had the rows from one version of the state to another. */
  #note(identity: string | undefined, from: number, until: number): void {
    if (this.#isEmpty) this.identity = identity;
    this.#isEmpty = false;
    this.version = Math.max(this.version, from);
    this.#until = Math.min(this.#until, until);
    if (identity === this.identity) return;
    this.#isMixed = true;
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
function versionLeft(turn: Turn, identity: string | undefined): number {
  const left = turn.rows.map((row) => turn.left(row));
  return Math.max(0, ...left.map((row) => row?.identity === identity ? row!.version : 0));
}

/** Leaves rows and collections to the turns after this one. */
function hand(
  turn: Turn,
  { scans }: TransactionResult,
  { checked, of }: { readonly checked: readonly Change[]; readonly of: Omit<LeftRow, "value"> },
): void {
  for (const { type, key, row = rowName(type, key), operation, value } of checked) {
    if (operation === "check") continue;
    turn.hand(row, { ...of, value: operation === "delete" ? undefined : value });
  }
  for (const type of scans) turn.hand(rowName(type, ""), { ...of, value: undefined });
}
