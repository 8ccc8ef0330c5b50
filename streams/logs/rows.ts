/**
 * The rows of keyed logs: how a transaction changes them, decided in one place for all brokers.
 *
 * A keyed log keeps the newest change of each row, including deletions, at the position of that
 * change. Its records are transactions, of which the log keeps the newest, its tail.
 */
import { countedBytes, ENTRY_BYTES } from "../../pubsub/broker.ts";
import { deletionOf } from "./change_message.ts";
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogAppended,
  LogPage,
  LogRow,
  LogTail,
  RowBounds,
  RowChange,
  RowStats,
} from "./log.ts";
import { HIDDEN_PREFIX } from "../../session/wire/rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";

/** Start of the names of hidden rows; see {@linkcode LogRow.row}. */
export const HIDDEN_ROW = `["${HIDDEN_PREFIX}`;

/** Number of times in the tail's age at which a position is noted; see `StoredRows.marks`. */
export const MARKS = 16;

/** Number of old deletions that one transaction forgets in addition to those beyond the bound. */
export const FORGOTTEN_AT_ONCE = 16;

/** Number of expired rows that one transaction deletes. */
export const EXPIRED_AT_ONCE = 1_000;

/**
 * Bytes of these deletions beyond which the other rows wait for the next transaction, so that each
 * transaction fits into a message.
 */
export const EXPIRED_BYTES = 32_768;

/** More bytes than a deletion takes in addition to the name of its row. */
export const DELETION_BYTES = 128;

/** The state of the rows that a broker keeps with the state of the log. */
export interface StoredRows extends RowStats {
  /** Positions with the time at which they were written, oldest first; at most 18. */
  readonly marks: readonly (readonly [position: number, atMs: number])[];
  /** Time before which no remembered row was deleted; absent without deletions. */
  readonly deletedAt?: number | undefined;
  /** Time before which no row expires; absent if no row does. */
  readonly dueAt?: number | undefined;
}

/** The rows of a log as decisions see them. */
export interface RowView {
  /** Finds a row, which may be deleted. */
  find(row: string): LogRow | undefined;
  /** Lists deleted rows, the oldest deletion first. */
  deletions(limit: number): readonly LogRow[];
  /** Lists rows that expire, the earliest first. */
  due(limit: number): readonly LogRow[];
}

/** The changes of rows that a broker writes. */
export interface RowWrites {
  /** New states of rows; all have the same position. */
  readonly set: readonly LogRow[];
  /** Deletions to forget. */
  readonly forget: readonly LogRow[];
}

/** A decision on a transaction. */
export interface DecidedRows {
  /** The transaction as a record; `undefined` if no row changes. */
  readonly record: string | undefined;
  /** Bytes of the record in UTF-8. */
  readonly recordBytes: number;
  readonly writes: RowWrites;
  /** The changes in the record; none of hidden rows. */
  readonly texts: readonly string[];
  /** True if some of them delete expired rows. */
  readonly expires: boolean;
  readonly stats: StoredRows;
  /** Retention of the tail. */
  readonly keep: NonNullable<AppendLogOptions["keep"]> & { readonly recentFrom: number };
}

/** The rows of a new log. */
export const NO_ROWS: StoredRows = { count: 0, deletions: 0, bytes: 0, forgotten: 0, marks: [] };

/** The state of the rows of a new log that starts with rows. */
export function rowsStateOf(
  { set, forgotten }: NonNullable<CreateLogOptions["rows"]>,
): StoredRows {
  const deleted = set.filter(({ deletedAt }) => deletedAt !== undefined);
  const hidden = set.filter(({ row }) => isHiddenRow(row)).length;
  return {
    ...NO_ROWS,
    count: set.length - deleted.length - hidden,
    deletions: deleted.length,
    bytes: set.reduce((sum, row) => sum + rowBytes(row), 0),
    forgotten,
    ...(hidden > 0 && { hidden: { count: hidden, forgotten: 0 } }),
    deletedAt: least(...deleted.map(({ deletedAt }) => deletedAt)),
    dueAt: least(...set.map(({ until }) => until)),
  };
}

/** True if readers receive a row only by its name. */
export function isHiddenRow(row: string): boolean {
  return row.startsWith(HIDDEN_ROW);
}

/** True for a hidden row that a transaction has deleted, which is not remembered. */
function isGone({ row, deletedAt }: LogRow): boolean {
  return deletedAt !== undefined && isHiddenRow(row);
}

/**
 * Counts the bytes of a row.
 *
 * @returns The bytes of its name and its text, in UTF-8.
 */
export function rowBytes(row: LogRow): number {
  return utf8Length(row.row) + textBytes(row);
}

/** Returns the size of a row's text in bytes, which is counted only if the row doesn't have it. */
export function textBytes({ bytes, text }: LogRow): number {
  return bytes ?? utf8Length(text);
}

/**
 * Reads rows by name.
 *
 * @param names See {@linkcode ReadLogOptions.rows}.
 * @param maxBytes Maximum size of the page in bytes; a single row may be larger.
 */
export function namedRows(
  view: Pick<RowView, "find">,
  names: readonly string[],
  maxBytes: number,
): Omit<LogPage, "info"> {
  const records: string[] = [];
  const positions: number[] = [];
  const expiries: number[] = [];
  let bytes = 0;
  for (const [next, name] of names.entries()) {
    const row = view.find(name);
    if (row === undefined || row.deletedAt !== undefined) continue;
    bytes += textBytes(row);
    if (bytes > maxBytes && records.length > 0) return { records, positions, expiries, next };
    records.push(row.text);
    positions.push(row.position);
    expiries.push(row.until ?? 0);
  }
  return { records, positions, expiries, next: names.length };
}

/** The version of a row; 0 if it does not exist. */
function versionOf(row: LogRow | undefined): number {
  return row === undefined || row.deletedAt !== undefined ? 0 : row.position + 1;
}

/**
 * Decides on the changes of a transaction. Either all or none take effect.
 *
 * @param options The changes, their bounds, and the maximum number of bytes of all rows.
 * @param at Position of the transaction, the state of the rows and the tail, and the time.
 * @returns The decision, or the reason for a rejection.
 */
export function decideRows(
  view: RowView,
  { changes = [], rowBounds = UNBOUNDED, expiresRows, maxBytes }: Pick<
    AppendLogOptions,
    "changes" | "expiresRows" | "maxBytes" | "rowBounds"
  >,
  { position, stats, tail, now }: {
    readonly position: number;
    readonly stats: StoredRows;
    readonly tail: LogTail;
    readonly now: number;
  },
): DecidedRows | LogAppended {
  const transaction = new Transaction(view, { position, now, stats });
  const expiring = expiresRows ? view.due(EXPIRED_AT_ONCE + 1) : [];
  let expiredBytes = 0;
  for (const row of expiring.slice(0, EXPIRED_AT_ONCE)) {
    if (row.until! > now || expiredBytes > EXPIRED_BYTES) break;
    expiredBytes += utf8Length(row.row) + DELETION_BYTES;
    transaction.expire(row);
  }
  for (const change of changes) {
    const rejection = transaction.apply(change);
    if (rejection !== undefined) return rejection;
  }
  transaction.settle();
  const { rows, texts, textsBytes } = transaction;
  const next = transaction.statsAfter();
  if (changes.length > 0 && next.count > stats.count && next.count > rowBounds.rows) {
    return { kind: "too-many-rows" };
  }
  const isLarger = changes.length > 0 && next.bytes > stats.bytes;
  const excessBytes = isLarger ? Math.max(0, sizeOf(next) - maxBytes) : 0;
  const forget = forgettable(view, rows, { stats: next, bounds: rowBounds, excessBytes, now });
  const left = afterForgetting(next, forget.rows);
  if (isLarger && left.bytes > stats.bytes && sizeOf(left) > maxBytes) return { kind: "full" };
  const marks = texts.length === 0 ? stats.marks : marksAfter(stats.marks, { position, tail, now });
  const dueAt = expiresRows
    ? transaction.dueAfter(expiring)
    : least(stats.dueAt, transaction.dueAfter([]));
  return {
    record: texts.length === 0 ? undefined : `[${texts.join(",")}]`,
    // With brackets, and commas between the texts.
    recordBytes: texts.length === 0 ? 0 : textsBytes + texts.length + 1,
    writes: transaction.writesWith(forget.rows),
    texts,
    expires: expiredBytes > 0,
    stats: { ...left, marks, dueAt, deletedAt: forget.deletedAt },
    keep: { ...tail, recentFrom: recentFrom(marks, now - tail.ms) },
  };
}

/** Bytes of the rows, including deleted ones, as bounds count them. */
export function sizeOf(stats: RowStats): number {
  return countedBytes(stats.bytes, entriesOf(stats));
}

/** Number of rows, including deleted and hidden ones. */
export function entriesOf({ count, deletions, hidden }: RowStats): number {
  return count + deletions + (hidden?.count ?? 0);
}

const UNBOUNDED: RowBounds = { rows: Infinity, deletions: Infinity, deletionMs: Infinity };

/** The changes of one transaction, applied one after another. */
class Transaction {
  readonly #view: RowView;
  readonly #position: number;
  readonly #now: number;
  /** The state of the rows before the transaction. */
  readonly #stats: StoredRows;
  /** The states of changed rows before the transaction, and the bytes of their names. */
  readonly #before = new Map<
    string,
    { readonly row: LogRow | undefined; readonly nameBytes: number }
  >();
  /** The states of changed rows, by name. */
  readonly rows = new Map<string, LogRow>();
  /** True if one of them is hidden. */
  #hasHidden = false;
  /** The deletions of expired rows. */
  readonly #expired: LogRow[] = [];
  readonly texts: string[] = [];
  textsBytes = 0;

  constructor(
    view: RowView,
    { position, now, stats }: {
      readonly position: number;
      readonly now: number;
      readonly stats: StoredRows;
    },
  ) {
    this.#view = view;
    this.#position = position;
    this.#now = now;
    this.#stats = stats;
  }

  /** Applies a change. Returns the reason for a rejection. */
  apply(change: RowChange): LogAppended | undefined {
    const { row, operation, text: [head, end], bytes, expect, since, ttlMs } = change;
    const before = this.#find(change);
    const present = this.rows.get(row) ?? before;
    const exists = present !== undefined && present.deletedAt === undefined;
    const version = versionOf(before);
    const isExpected = (expect ?? version) === version && this.#isUnchanged(row, before, since);
    if (!isExpected || operation === "update" && !exists) {
      return version === 0
        ? { kind: "conflict", row, version, since: this.#position }
        : { kind: "conflict", row, version, text: before!.text };
    }
    if (operation === "check") return undefined;
    if (operation !== "delete") {
      const until = ttlMs === undefined ? undefined : this.#now + ttlMs;
      this.#set({ row, text: `${head}${exists ? "update" : "insert"}${end}`, bytes, until });
    } else if (exists) {
      this.#set({ row, text: `${head}delete${end}`, bytes, deletedAt: this.#now });
    }
    return undefined;
  }

  /** Deletes a row that has expired. */
  expire({ row, position }: LogRow): void {
    const deletion = deletionOf(row, this.#now);
    this.#find(deletion);
    const { text, bytes } = deletion;
    const expired = { row, text: text.join("delete"), bytes, deletedAt: this.#now };
    // A hidden row may expire without a record, whose position it would have.
    this.#set(expired, isHiddenRow(row) ? position : undefined);
    this.#expired.push(this.rows.get(row)!);
  }

  /** Drops the changes of hidden rows if no other row has changed. */
  settle(): void {
    if (!this.#hasHidden || this.texts.length > 0) return;
    this.rows.clear();
    for (const row of this.#expired) this.rows.set(row.row, row);
    this.#hasHidden = this.rows.size > 0;
  }

  /** The state of the rows after the changes, before old deletions are forgotten. */
  statsAfter(): StoredRows {
    let { count, deletions, bytes, hidden } = this.#stats;
    for (const [name, row] of this.rows) {
      const { row: before, nameBytes } = this.#before.get(name)!;
      if (before !== undefined) bytes -= nameBytes + textBytes(before);
      if (this.#hasHidden && isHiddenRow(name)) {
        if (!isGone(row)) bytes += nameBytes + textBytes(row);
        hidden = hiddenAfter(hidden, before, row);
        continue;
      }
      bytes += nameBytes + textBytes(row);
      if (before !== undefined) {
        if (before.deletedAt === undefined) count--;
        else deletions--;
      }
      if (row.deletedAt === undefined) count++;
      else deletions++;
    }
    const stats = { ...this.#stats, count, deletions, bytes };
    return this.#hasHidden ? { ...stats, hidden } : stats;
  }

  /** The changes to write, with deletions to forget. */
  writesWith(forget: readonly LogRow[]): RowWrites {
    const set = [...this.rows.values()];
    if (!this.#hasHidden) return { set, forget };
    const known = set.filter(isGone).flatMap(({ row }) => this.#before.get(row)!.row ?? []);
    return { set: set.filter((row) => !isGone(row)), forget: [...forget, ...known] };
  }

  /** The earliest time at which a changed row, or another one of the given rows, expires. */
  dueAfter(others: readonly LogRow[]): number | undefined {
    const unchanged = others.filter(({ row }) => !this.rows.has(row));
    return least(...[...this.rows.values(), ...unchanged].map(({ until }) => until));
  }

  /** True if a row has not changed after a position of this log. */
  #isUnchanged(
    name: string,
    row: LogRow | undefined,
    since: number = this.#position,
  ): boolean {
    const changed = row === undefined ? this.#forgottenOf(name) : row.position + 1;
    return changed <= since && since <= this.#position;
  }

  #forgottenOf(name: string): number {
    const { forgotten, hidden } = this.#stats;
    return isHiddenRow(name) ? hidden?.forgotten ?? 0 : forgotten;
  }

  #find({ row, nameBytes }: Pick<RowChange, "nameBytes" | "row">): LogRow | undefined {
    let before = this.#before.get(row);
    if (before === undefined) {
      before = { row: this.#view.find(row), nameBytes };
      this.#before.set(row, before);
    }
    return before.row;
  }

  #set(
    row: Omit<LogRow, "position"> & { readonly bytes: number },
    position: number = this.#position,
  ): void {
    this.rows.set(row.row, { ...row, position });
    if (isHiddenRow(row.row)) {
      this.#hasHidden = true;
      return;
    }
    this.texts.push(row.text);
    this.textsBytes += row.bytes;
  }
}

/** The state of the hidden rows after the change of one. */
function hiddenAfter(
  { count, forgotten }: NonNullable<StoredRows["hidden"]> = { count: 0, forgotten: 0 },
  before: LogRow | undefined,
  row: LogRow,
): NonNullable<StoredRows["hidden"]> {
  if (before !== undefined) count--;
  return isGone(row)
    ? { count, forgotten: Math.max(forgotten, row.position + 1) }
    : { count: count + 1, forgotten };
}

/**
 * Finds the deletions to forget, and the time of the oldest one that stays. These are the deletions
 * beyond a bound or an age, and those that take bytes which the rows need.
 */
function forgettable(
  view: RowView,
  changed: ReadonlyMap<string, LogRow>,
  { stats, bounds, excessBytes, now }: {
    readonly stats: StoredRows;
    readonly bounds: RowBounds;
    readonly excessBytes: number;
    readonly now: number;
  },
): { readonly rows: readonly LogRow[]; readonly deletedAt: number | undefined } {
  const excess = Math.max(0, stats.deletions - bounds.deletions);
  const oldest = stats.deletedAt ?? (stats.deletions > 0 ? now : undefined);
  const isAged = oldest !== undefined && oldest + bounds.deletionMs <= now;
  if (excess + excessBytes === 0 && !isAged) return { rows: [], deletedAt: oldest };
  const rows: LogRow[] = [];
  let bytes = 0;
  const needed = excess + Math.ceil(excessBytes / ENTRY_BYTES);
  for (const row of view.deletions(needed + changed.size + FORGOTTEN_AT_ONCE)) {
    if (changed.has(row.row)) continue;
    const { deletedAt } = row;
    const isNeeded = rows.length < excess || bytes < excessBytes;
    if (!isNeeded && deletedAt! + bounds.deletionMs > now) return { rows, deletedAt };
    rows.push(row);
    bytes += countedBytes(rowBytes(row), 1);
  }
  // More may be as old: the next transaction looks again.
  return { rows, deletedAt: stats.deletions > rows.length ? oldest : undefined };
}

function afterForgetting(stats: StoredRows, rows: readonly LogRow[]): StoredRows {
  let { deletions, bytes, forgotten } = stats;
  for (const row of rows) {
    deletions--;
    bytes -= rowBytes(row);
    forgotten = Math.max(forgotten, row.position + 1);
  }
  return { ...stats, deletions, bytes, forgotten };
}

/** Notes a position about sixteen times in the age of the tail. */
function marksAfter(
  marks: StoredRows["marks"],
  { position, tail, now }: {
    readonly position: number;
    readonly tail: LogTail;
    readonly now: number;
  },
): StoredRows["marks"] {
  const last = marks.at(-1);
  if (last !== undefined && now - last[1] < tail.ms / MARKS) return marks;
  const recent = marks.findLastIndex(([, at]) => at <= now - tail.ms);
  return [...marks.slice(Math.max(0, recent)), [position, now]];
}

/** Position from which on all records may be younger than a time. */
function recentFrom(marks: StoredRows["marks"], time: number): number {
  return marks.findLast(([, at]) => at <= time)?.[0] ?? 0;
}

/** The earliest of the times that are given. */
export function least(...times: readonly (number | undefined)[]): number | undefined {
  let found: number | undefined;
  for (const time of times) {
    if (time !== undefined && (found === undefined || time < found)) found = time;
  }
  return found;
}
