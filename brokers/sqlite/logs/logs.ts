/** Logs of durable streams in a file. */
import { countedBytes } from "../../../pubsub/broker.ts";
import {
  decide,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogView,
  type LogWrite,
  retained,
} from "../../../streams/logs/changes.ts";
import { LogShares, type LogSharesOptions } from "../../../streams/logs/log_shares.ts";
import {
  entriesOf,
  isHiddenRow,
  namedRows,
  rowBytes,
  type RowView,
  type RowWrites,
} from "../../../streams/logs/rows.ts";
import type { MarkView, MarkWrites } from "../../../streams/logs/callers.ts";
import type { LogPage, LogRecord, LogRow, ReadLogOptions } from "../../../streams/logs/log.ts";
import {
  type LogKind,
  logKind,
  type OwnedKind,
  REQUEST_PREFIX,
} from "../../../streams/logs/log_names.ts";
import {
  dueAt,
  expiryOf,
  infoOf,
  isExpired,
  recordBytes,
  type RetainedLog,
  type RetainedLogs,
  retainedOf,
  type StoredLog,
} from "../../../streams/logs/rules.ts";
import { type Database, prepareAll, type Statements, takeLogsMark } from "../database.ts";
import { decodeBlob, encodeBlob } from "../histories.ts";
import type { SqliteTransaction } from "../transaction.ts";

/**
 * Number of sizes of records that the retention reads with the first statement of a transaction. The
 * next statement reads twice as many, up to `MAX_SIZES`.
 */
const FIRST_SIZES = 8;

const MAX_SIZES = 256;

/** Bytes of the row of a mark in addition to its name and text. */
const MARK_BYTES = 64;

/** Bytes of a producer's row in addition to its name. */
const PRODUCER_BYTES = 128;

const SQL = {
  find: "SELECT id, state FROM logs WHERE kind = ? AND name = ?",
  create: "INSERT INTO logs (kind, name, state) VALUES (?, ?, '')",
  update: "UPDATE logs SET state = ?, due = ? WHERE id = ?",
  insert: "INSERT INTO log_records (log, position, bytes, is_text, record) VALUES (?, ?, ?, ?, ?)",
  sizes:
    "SELECT position, bytes FROM log_records WHERE log = ? AND position >= ? ORDER BY position LIMIT ?",
  page:
    "SELECT is_text, record FROM log_records WHERE log = ? AND position BETWEEN ? AND ? ORDER BY position",
  trim: "DELETE FROM log_records WHERE log = ? AND position < ?",
  findRow: "SELECT * FROM log_rows WHERE log = ? AND name = ?",
  deletions:
    "SELECT * FROM log_rows WHERE log = ? AND deleted IS NOT NULL ORDER BY position LIMIT ?",
  dueRows: "SELECT * FROM log_rows WHERE log = ? AND until IS NOT NULL ORDER BY until LIMIT ?",
  dropRow: "DELETE FROM log_rows WHERE log = ? AND name = ?",
  addRow:
    "INSERT INTO log_rows (log, name, position, bytes, change, deleted, until) VALUES (?, ?, ?, ?, ?, ?, ?)",
  rowSizes:
    "SELECT position, bytes FROM log_rows WHERE log = ? AND position >= ? ORDER BY position LIMIT ?",
  nextRow: "SELECT min(position) AS position FROM log_rows WHERE log = ? AND position > ?",
  rowPage:
    "SELECT change, position, until FROM log_rows WHERE log = ? AND position BETWEEN ? AND ? ORDER BY position, id",
  remove: "DELETE FROM logs WHERE id = ?",
  note: "INSERT INTO gone_logs VALUES (?)",
  producer: "SELECT epoch, seq FROM log_producers WHERE log = ? AND producer = ?",
  countProducers: "SELECT count(*) AS count FROM log_producers WHERE log = ?",
  setProducer: "INSERT OR REPLACE INTO log_producers VALUES (?, ?, ?, ?)",
  mark: "SELECT mark FROM log_marks WHERE log = ? AND name = ?",
  marks: "SELECT name, mark FROM log_marks WHERE log = ?",
  setMark: "INSERT OR REPLACE INTO log_marks VALUES (?, ?, ?)",
  dropMark: "DELETE FROM log_marks WHERE log = ? AND name = ?",
  findFork: "SELECT 1 FROM log_forks WHERE log = ? AND fork = ?",
  countForks: "SELECT count(*) AS count FROM log_forks WHERE log = ?",
  addFork: "INSERT INTO log_forks VALUES (?, ?)",
  removeFork: "DELETE FROM log_forks WHERE log = ? AND fork = ?",
  removeForks: "DELETE FROM log_forks WHERE log = ?",
  overdue: "SELECT name FROM logs WHERE due <= ? ORDER BY due LIMIT ?",
  list: "SELECT name FROM logs WHERE kind = ? AND name > ? ORDER BY name LIMIT ?",
};

/** Statements that lower times which do not fit into a number, so that they can be read again. */
const READABLE_TIMES: readonly string[] = [
  "UPDATE logs SET due = ?1 WHERE due > ?1",
  "UPDATE log_rows SET until = ?1 WHERE until > ?1",
];

class SqliteLog implements LogView, MarkView, RowView {
  readonly id: number;
  readonly name: string;
  state: StoredLog;
  /** Position of the oldest kept record before the transaction. */
  readonly oldest: number;
  readonly #sql: Statements<typeof SQL>;
  /** Sizes of the records from a position on, as far as the transaction has read them. */
  #sizes: { readonly from: number; readonly bytes: readonly number[] } = { from: 0, bytes: [] };

  constructor(
    sql: Statements<typeof SQL>,
    { id, name, state }: Pick<SqliteLog, "id" | "name" | "state">,
  ) {
    this.#sql = sql;
    this.id = id;
    this.name = name;
    this.state = state;
    this.oldest = state.start;
  }

  /** Returns the size of a stored record in bytes; `undefined` if the record is missing. */
  sizeAt(position: number): number | undefined {
    const { from, bytes } = this.#sizes;
    const known = bytes[position - from];
    if (known !== undefined) return known;
    const count = Math.min(MAX_SIZES, Math.max(FIRST_SIZES, 2 * bytes.length));
    const read = this.#sql.sizes.all(this.id, position, count);
    this.#sizes = { from: position, bytes: read.map((one) => Number(one.bytes)) };
    return this.#sizes.bytes[0];
  }

  get producerCount(): number {
    return Number(this.#sql.countProducers.get(this.id)!.count);
  }

  get forkCount(): number {
    return Number(this.#sql.countForks.get(this.id)!.count);
  }

  numbersOf(producer: string): readonly [epoch: number, seq: number] | undefined {
    const row = this.#sql.producer.get(this.id, producer);
    return row && [Number(row.epoch), Number(row.seq)];
  }

  mark(name: string): string | undefined {
    const row = this.#sql.mark.get(this.id, name);
    return row && String(row.mark);
  }

  *allMarks(): Generator<readonly [name: string, mark: string]> {
    for (const { name, mark } of this.#sql.marks.all(this.id)) yield [String(name), String(mark)];
  }

  get marks(): MarkView {
    return this;
  }

  hasFork(fork: string): boolean {
    return this.#sql.findFork.get(this.id, fork) !== undefined;
  }

  get rows(): RowView {
    return this;
  }

  find(row: string): LogRow | undefined {
    const found = this.#sql.findRow.get(this.id, row);
    return found && rowOf(found);
  }

  deletions(limit: number): readonly LogRow[] {
    return this.#sql.deletions.all(this.id, limit).map(rowOf);
  }

  due(limit: number): readonly LogRow[] {
    return this.#sql.dueRows.all(this.id, limit).map(rowOf);
  }
}

/** Outcome of a change of a log. */
export interface LogOutcome<R> {
  readonly result: R;
  /** True if readers and writers of the log must be notified of the change. */
  readonly isAnnounced: boolean;
}

/** A page, and the time at which the log expires. */
export type LogReading = LogPage & { readonly until: number | undefined };

/**
 * The logs in a file. Records, producers and forks are rows; everything else is one row per log.
 */
export class Logs {
  readonly #db: Database;
  readonly #sql: Statements<typeof SQL>;
  /** Rows changed by the current transaction, by name. */
  readonly #open = new Map<string, SqliteLog>();
  readonly #counts: Record<LogKind, number> = { answer: 0, request: 0, stream: 0 };
  readonly #shares: LogShares;
  readonly #transaction: SqliteTransaction;

  /**
   * Reads the counts and shares of the logs in a file.
   *
   * @param db The file.
   * @param transaction The file's transactions, one after another.
   * @param shares Shares of clients, to which the file's streams are added. By default, there are
   * no shares.
   */
  constructor(db: Database, transaction: SqliteTransaction, shares?: LogShares) {
    this.#db = db;
    this.#transaction = transaction;
    this.#sql = prepareAll(db, SQL);
    this.#shares = shares ?? new LogShares({ maxBytes: Infinity, usedBytes: () => 0 });
    for (const row of db.prepare("SELECT kind, count(*) AS count FROM logs GROUP BY kind").all()) {
      this.#counts[row.kind as LogKind] = Number(row.count);
    }
    if (shares !== undefined) this.#loadShares();
  }

  changeLog<N extends LogChangeName>(
    name: string,
    change: N,
    options: LogChangeOptions<N>,
    now: number,
  ): LogOutcome<LogChangeResult<N>> {
    if (change === "delete" && this.#dropDamaged(name)) {
      return { result: { kind: "removed" } as LogChangeResult<N>, isAnnounced: true };
    }
    const row = this.#row(name);
    const count = this.#counts[logKind(name)];
    const effect = decide(row, [change, options], { now, count });
    if (effect.kind === "none") return { result: effect.result, isAnnounced: false };
    if (effect.kind === "write") return this.#write(name, row, effect);
    this.#drop(row!);
    return { result: effect.result, isAnnounced: true };
  }

  /** Reads a page. */
  readLog(
    name: string,
    { after, maxRecords, maxBytes, rows: names, tail }: Omit<ReadLogOptions, "signal">,
    now: number,
  ): LogReading | "expired" | undefined {
    const row = this.#row(name);
    if (row === undefined) return undefined;
    const { id, state } = row;
    if (isExpired(state, now) && !state.isDeleted) return "expired";
    const info = infoOf(state);
    const { until } = state;
    if (state.keyed !== undefined && !tail) {
      const page = names === undefined
        ? this.#readRows(row, { after, maxRecords, maxBytes })
        : namedRows(row, names, maxBytes);
      return { info, until, ...page };
    }
    let [to, bytes] = [after - 1, 0];
    if (after >= state.start && after < state.tail && maxRecords > 0) {
      for (const one of this.#sql.sizes.all(id, after, maxRecords)) {
        bytes += Number(one.bytes);
        if (bytes > maxBytes && to >= after) break;
        to = Number(one.position);
      }
    }
    const rows = to < after ? [] : this.#sql.page.all(id, after, to);
    return { info, records: rows.map((kept) => decodeBlob(kept.is_text, kept.record)), until };
  }

  /** Reads the rows that changed at a position or later. A page ends with a transaction. */
  #readRows(
    { id, state: { tail } }: SqliteLog,
    { after, maxRecords, maxBytes }: Pick<ReadLogOptions, "after" | "maxBytes" | "maxRecords">,
  ): Omit<LogPage, "info"> {
    const none = { records: [], positions: [], expiries: [] };
    if (maxRecords === 0) return { ...none, next: Math.min(after, tail) };
    const sizes = this.#sql.rowSizes.all(id, after, maxRecords + 1);
    if (sizes.length === 0) return { ...none, next: Math.max(after, tail) };
    /** Positions of the newest transaction, and of the one before it. */
    let [last, whole] = [after - 1, after - 1];
    let bytes = 0;
    for (const [count, one] of sizes.entries()) {
      const position = Number(one.position);
      if (position !== last) [last, whole] = [position, last];
      bytes += Number(one.bytes);
      if ((count === maxRecords || bytes > maxBytes) && whole >= after) {
        last = whole;
        break;
      }
    }
    const rows = this.#sql.rowPage.all(id, after, last);
    return {
      records: rows.map(({ change }) => String(change)),
      positions: rows.map(({ position }) => Number(position)),
      expiries: rows.map(({ until }) => Number(until)),
      next: Number(this.#sql.nextRow.get(id, last)!.position ?? tail),
    };
  }

  /** Renews the time to live. */
  renewLog(name: string, now: number): void {
    const row = this.#row(name);
    if (row === undefined || isExpired(row.state, now)) return;
    row.state = { ...row.state, until: expiryOf(row.state, now) };
    this.#note(row);
  }

  overdueLogs(limit: number, now: number): string[] {
    return this.#sql.overdue.all(now, limit).map(({ name }) => String(name));
  }

  /** Lists the logs of a kind, ordered by name. */
  listLogs(kind: OwnedKind, limit: number, after: string = ""): RetainedLogs {
    const names = this.#sql.list.all(kind, after, limit).map(({ name }) => String(name));
    const logs: RetainedLog[] = [];
    for (const name of names) {
      const state = this.#soundRow(name)?.state;
      if (state !== undefined && !state.isDeleted) logs.push(retainedOf(name, state));
    }
    return { logs, next: names.length === limit ? names.at(-1) : undefined };
  }

  /**
   * Assigns a new identity to each open log, because its newest records may be lost. Readers at a
   * lost position detect the change, and do not mistake later records for the lost ones.
   *
   * @param identity Generates a unique identity.
   */
  renewIdentities(identity: () => string): void {
    const renewed = new Map<string, string>();
    const names = this.#db.prepare("SELECT name FROM logs").all().map(({ name }) => String(name));
    for (const name of names) {
      const row = this.#soundRow(name);
      if (row === undefined || row.state.end !== undefined) continue;
      const next = identity();
      renewed.set(row.state.identity, next);
      row.state = { ...row.state, identity: next };
      this.#note(row);
    }
    for (const name of names) {
      const row = this.#soundRow(name);
      const origin = row?.state.origin;
      if (row === undefined || origin === undefined) continue;
      const current = (old: string) => renewed.get(old) ?? old;
      const lineage = origin.lineage.map(({ identity, until }) => {
        return { identity: current(identity), until };
      });
      row.state = {
        ...row.state,
        origin: { ...origin, identity: current(origin.identity), lineage },
      };
      this.#note(row);
    }
  }

  /**
   * Ends the leases of writers in logs that another writer can continue. No other process has the
   * file open, so the previous process's writers are gone. Other logs keep their leases, because
   * the application may open them again.
   */
  lapseWriters(): void {
    for (const { name } of this.#db.prepare("SELECT name FROM logs WHERE kind = 'request'").all()) {
      const row = this.#soundRow(String(name).slice(REQUEST_PREFIX.length));
      if (row?.state.writer === undefined || row.state.end !== undefined) continue;
      row.state = { ...row.state, writer: { ...row.state.writer, until: 0 } };
      this.#note(row);
    }
  }

  /** Writes the changed rows and deletes the records that are not kept, before the commit. */
  finish(): void {
    for (const { id, state, oldest } of this.#open.values()) {
      if (state.start > oldest) this.#sql.trim.run(id, state.start);
      const due = dueAt(state);
      this.#sql.update.run(JSON.stringify(state), due === undefined ? null : Math.ceil(due), id);
      this.#transaction.changed.logs.add(id);
    }
    this.#open.clear();
  }

  /** Reads which streams count toward which shares. */
  #loadShares(): void {
    const streams = this.#db.prepare(`
SELECT name, state, (
  SELECT coalesce(sum(length(producer) + ${PRODUCER_BYTES}), 0) FROM log_producers WHERE log = logs.id
) + (
  SELECT coalesce(sum(length(name) + length(mark) + ${MARK_BYTES}), 0) FROM log_marks WHERE log = logs.id
) AS producers
FROM logs WHERE kind = 'stream' AND
  CASE WHEN json_valid(state) THEN json_extract(state, '$.owner') END IS NOT NULL`);
    for (const row of streams.all()) {
      const text = String(row.state);
      const state: StoredLog = JSON.parse(text);
      const name = String(row.name);
      this.#shares.note(name, state.owner);
      this.#shares.count(name, logBytes(state, text.length) + Number(row.producers));
    }
  }

  #row(name: string): SqliteLog | undefined {
    const open = this.#open.get(name);
    if (open !== undefined) return open;
    const row = this.#sql.find.get(logKind(name), name);
    if (row === undefined) return undefined;
    const state: StoredLog = JSON.parse(String(row.state));
    return new SqliteLog(this.#sql, { id: Number(row.id), name, state });
  }

  /** Finds a log whose state is not damaged. */
  #soundRow(name: string): SqliteLog | undefined {
    try {
      return this.#row(name);
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** Deletes a log if its state is damaged. */
  #dropDamaged(name: string): boolean {
    if (this.#open.has(name) || this.#soundRow(name) !== undefined) return false;
    const row = this.#sql.find.get(logKind(name), name);
    if (row === undefined) return false;
    this.#remove(Number(row.id), name);
    return true;
  }

  /** Marks a row as changed, for `finish` to write. */
  #note(row: SqliteLog): void {
    if (this.#open.size === 0) this.#transaction.onRollback(() => this.#open.clear());
    this.#open.set(row.name, row);
  }

  /** Applies a write. */
  #write<R>(
    name: string,
    present: SqliteLog | undefined,
    write: LogWrite<R>,
  ): LogOutcome<R> {
    const { records, rows, producer, isNewProducer, marks, fork, isQuiet, result, rejected } =
      write;
    if (present === undefined) this.#own(name, write.next);
    const next = present === undefined ? write.next : retained(write, (index) => {
      const { start, tail } = present.state;
      const stored = tail - start;
      return index < stored
        ? present.sizeAt(start + index)
        : recordBytes([records[index - stored]!]);
    });
    const growth = growthOf(present?.state, next) +
      (isNewProducer && producer ? producer.id.length + PRODUCER_BYTES : 0) +
      (isNewProducer && marks ? markBytes(marks) : 0);
    const isLarger = present === undefined || records.length > 0;
    const overShare = isLarger ? this.#shares.exceeded(name, growth) : undefined;
    if (rejected !== undefined && overShare !== undefined) {
      if (present === undefined) this.#shares.forget(name);
      return { result: rejected(overShare), isAnnounced: false };
    }
    this.#grow(name, growth);
    const row = present ?? this.#newRow(name, next);
    this.#add(row, next.tail - records.length, records);
    if (rows !== undefined) this.#writeRows(row, rows);
    if (producer !== undefined) {
      this.#sql.setProducer.run(row.id, producer.id, producer.epoch, producer.seq);
    }
    for (const name of marks?.drop ?? []) this.#sql.dropMark.run(row.id, name);
    for (const [name, mark] of marks?.set ?? []) this.#sql.setMark.run(row.id, name, mark);
    const forkChange = fork?.isGone ? this.#sql.removeFork : this.#sql.addFork;
    if (fork !== undefined) forkChange.run(row.id, fork.name);
    row.state = next;
    this.#note(row);
    return { result: result(next), isAnnounced: !isQuiet };
  }

  #add({ id }: SqliteLog, position: number, records: readonly LogRecord[]): void {
    for (const record of records) {
      const isText = typeof record === "string" ? 1 : 0;
      this.#sql.insert.run(id, position++, recordBytes([record]), isText, encodeBlob(record));
    }
  }

  #writeRows({ id }: SqliteLog, { set, forget }: RowWrites): void {
    for (const { row } of forget) this.#sql.dropRow.run(id, row);
    for (const row of set) {
      // A changed row gets a new id, so that a copy in progress finds it.
      this.#sql.dropRow.run(id, row.row);
      const { text, deletedAt = null, until = null } = row;
      const position = isHiddenRow(row.row) ? hiddenPosition(row.position) : row.position;
      this.#sql.addRow.run(id, row.row, position, rowBytes(row), text, deletedAt, until);
    }
  }

  /** Adds the row of a log. */
  #newRow(name: string, state: StoredLog): SqliteLog {
    this.#countLog(name, 1);
    const id = Number(this.#sql.create.run(logKind(name), name).lastInsertRowid);
    return new SqliteLog(this.#sql, { id, name, state });
  }

  /** Adds a new stream, without bytes, to the shares. */
  #own(name: string, { owner }: StoredLog): void {
    this.#transaction.onRollback(() => this.#shares.forget(name));
    if (logKind(name) === "stream") this.#shares.note(name, owner);
  }

  /** Adds the bytes of a stream to the shares. */
  #grow(name: string, growth: number): void {
    if (growth === 0) return;
    const bytes = this.#shares.bytesOf(name);
    this.#transaction.onRollback(() => this.#shares.count(name, bytes));
    this.#shares.count(name, bytes + growth);
  }

  #drop({ id, name, state: { owner } }: SqliteLog): void {
    const bytes = this.#shares.bytesOf(name);
    if (logKind(name) === "stream") {
      this.#transaction.onRollback(() => {
        this.#shares.note(name, owner);
        this.#shares.count(name, bytes);
      });
      this.#shares.forget(name);
    }
    this.#remove(id, name);
  }

  #remove(id: number, name: string): void {
    this.#open.delete(name);
    this.#sql.remove.run(id);
    this.#sql.removeForks.run(id);
    this.#sql.note.run(id);
    this.#transaction.changed.logs.add(id);
    this.#countLog(name, -1);
  }

  #countLog(name: string, growth: 1 | -1): void {
    const kind = logKind(name);
    this.#counts[kind] += growth;
    this.#transaction.onRollback(() => this.#counts[kind] -= growth);
  }
}

/** Bytes charged to a log's owner, including the bytes of its state if given. */
function logBytes({ bytes, start, tail, rows }: StoredLog, stateBytes: number = 0): number {
  const ofRows = rows === undefined ? 0 : countedBytes(rows.bytes, entriesOf(rows));
  return countedBytes(bytes, tail - start) + ofRows + stateBytes;
}

/**
 * Converts the position of a hidden row to the negative number in the file, and back. Pages contain
 * the positions from 0.
 */
function hiddenPosition(position: number): number {
  return -1 - position;
}

/** Parses a row of a keyed log. */
function rowOf(stored: Readonly<Record<string, unknown>>): LogRow {
  const { name, position, change, deleted, until } = stored;
  return {
    row: String(name),
    position: Number(position) < 0 ? hiddenPosition(Number(position)) : Number(position),
    text: String(change),
    deletedAt: deleted === null ? undefined : Number(deleted),
    until: until === null ? undefined : Number(until),
  };
}

/** Number of bytes by which a change makes a log larger. The state counts only for a new log. */
function growthOf(before: StoredLog | undefined, next: StoredLog): number {
  return before === undefined
    ? logBytes(next, JSON.stringify(next).length)
    : logBytes(next) - logBytes(before);
}

/** Number of distinct log identities. */
const IDENTITIES = 36 ** 8;

/**
 * Opens the logs in a file, within a transaction. First continues the logs of earlier processes: if
 * the file may have lost writes since logs were last open, each open log gets a new identity.
 *
 * @param db The file.
 * @param transaction The file's transactions, one after another.
 * @param shares The bound of which clients have shares.
 */
export function openLogs(
  db: Database,
  transaction: SqliteTransaction,
  shares: LogSharesOptions,
): Logs {
  const mark = takeLogsMark(db);
  if (mark !== undefined) {
    for (const sql of READABLE_TIMES) db.prepare(sql).run(Number.MAX_SAFE_INTEGER);
    const logs = new Logs(db, transaction);
    if (mark.lostBy !== undefined) {
      let next = parseInt(mark.lostBy.replaceAll("-", "").slice(0, 12), 16);
      logs.renewIdentities(() => (next++ % IDENTITIES).toString(36).padStart(8, "0"));
    }
    logs.lapseWriters();
    logs.finish();
  }
  return new Logs(db, transaction, new LogShares(shares));
}

/** Bytes by which a change of marks makes a log grow. */
function markBytes({ set, drop }: MarkWrites): number {
  const added = set.reduce((sum, [name, mark]) => sum + name.length + mark.length + MARK_BYTES, 0);
  return Math.max(0, added - drop.length * MARK_BYTES);
}
