/** The rows of a keyed log in memory, in the order of their last changes. */
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogAppended,
  LogPage,
  LogRow,
  LogTail,
  ReadLogOptions,
  RowChange,
} from "./log.ts";
import {
  decideRows,
  isHiddenRow,
  NO_ROWS,
  type RowView,
  type RowWrites,
  textBytes,
} from "./rows.ts";

/** Maximum number of characters of replaced changes that stay in memory. */
const MAX_REPLACED_CHARACTERS = 1_048_576;

/** Rows by name, by position, and by the time of their deletion. */
export class MemoryRows implements RowView {
  readonly #rows = new Map<string, LogRow>();
  /** Rows that pages show, by position; a row that changed again stays until the next sweep. */
  readonly #order = new Ordered(this.#rows);
  readonly #deletions = new Ordered(this.#rows);
  /** Rows that expire, by name. Most states have none, and a sweep then costs nothing. */
  readonly #expiring = new Map<string, LogRow>();
  /** Characters of replaced changes since all of them were last removed, at most. */
  #replaced = 0;

  find(row: string): LogRow | undefined {
    return this.#rows.get(row);
  }

  deletions(limit: number): readonly LogRow[] {
    const found: LogRow[] = [];
    for (const row of this.#deletions.from(0)) {
      if (found.length === limit) break;
      found.push(row);
    }
    return found;
  }

  due(limit: number): readonly LogRow[] {
    return [...this.#expiring.values()].sort((a, b) => a.until! - b.until!).slice(0, limit);
  }

  write({ set, forget }: RowWrites): void {
    for (const { row, text } of forget) {
      this.#rows.delete(row);
      this.#expiring.delete(row);
      this.#replaced += text.length;
    }
    for (const row of set) {
      this.#replaced += this.#rows.get(row.row)?.text.length ?? 0;
      this.#rows.set(row.row, row);
      if (row.until === undefined) this.#expiring.delete(row.row);
      else this.#expiring.set(row.row, row);
      if (!isHiddenRow(row.row)) this.#order.push(row);
      if (row.deletedAt !== undefined) this.#deletions.push(row);
    }
    const isLarge = this.#replaced > MAX_REPLACED_CHARACTERS;
    if (isLarge) this.#replaced = 0;
    this.#order.sweep(isLarge ? 0 : this.#rows.size);
    this.#deletions.sweep(isLarge ? 0 : this.#rows.size);
  }

  /**
   * Reads a page of rows that changed at `after` or later.
   *
   * @param options See {@linkcode ReadLogOptions}.
   * @param tail Position after the newest record.
   * @returns The texts of the rows, their positions and expiries, and the position after the page.
   */
  read(
    { after, maxRecords, maxBytes }: Pick<ReadLogOptions, "after" | "maxBytes" | "maxRecords">,
    tail: number,
  ): Omit<LogPage, "info"> {
    const records: string[] = [];
    const positions: number[] = [];
    const expiries: number[] = [];
    if (maxRecords === 0) return { records, positions, expiries, next: Math.min(after, tail) };
    let bytes = 0;
    /** Position of the newest transaction, and the number of records before it. */
    let [last, whole] = [after, 0];
    for (const row of this.#order.from(after)) {
      const { position, text, until = 0 } = row;
      if (position !== last) [last, whole] = [position, records.length];
      bytes += textBytes(row);
      const isOver = records.length >= maxRecords || bytes > maxBytes;
      if (isOver && whole > 0) {
        return {
          records: records.slice(0, whole),
          positions: positions.slice(0, whole),
          expiries: expiries.slice(0, whole),
          next: position,
        };
      }
      records.push(text);
      positions.push(position);
      expiries.push(until);
    }
    return { records, positions, expiries, next: Math.max(after, tail) };
  }
}

/** Rows after changes that are not stored yet. */
export class ChangedView implements RowView {
  readonly #before: RowView;
  /** The changed rows, ordered by position; `undefined` for a forgotten one. */
  readonly #changed = new Map<string, LogRow | undefined>();

  /**
   * Starts without changes.
   *
   * @param before The rows before the changes.
   */
  constructor(before: RowView) {
    this.#before = before;
  }

  find(row: string): LogRow | undefined {
    return this.#changed.has(row) ? this.#changed.get(row) : this.#before.find(row);
  }

  deletions(limit: number): readonly LogRow[] {
    const before = this.#unchanged(this.#before.deletions(limit + this.#changed.size));
    const later = this.#present().filter(({ deletedAt }) => deletedAt !== undefined);
    return [...before, ...later].slice(0, limit);
  }

  due(limit: number): readonly LogRow[] {
    const before = this.#unchanged(this.#before.due(limit + this.#changed.size));
    const later = this.#present().filter(({ until }) => until !== undefined);
    return [...before, ...later].sort((a, b) => a.until! - b.until!).slice(0, limit);
  }

  /** Adds changes. */
  write({ set, forget }: RowWrites): void {
    for (const { row } of forget) this.#changed.set(row, undefined);
    for (const row of set) {
      this.#changed.delete(row.row);
      this.#changed.set(row.row, row);
    }
  }

  #unchanged(rows: readonly LogRow[]): LogRow[] {
    return rows.filter(({ row }) => !this.#changed.has(row));
  }

  #present(): LogRow[] {
    return [...this.#changed.values()].filter((row) => row !== undefined);
  }
}

/** Rows by position. Rows that the map no longer contains are skipped, and removed in bulk. */
class Ordered {
  readonly #current: ReadonlyMap<string, LogRow>;
  #rows: LogRow[] = [];

  constructor(current: ReadonlyMap<string, LogRow>) {
    this.#current = current;
  }

  push(row: LogRow): void {
    this.#rows.push(row);
  }

  /** Removes replaced rows once they outnumber the given number of rows. */
  sweep(current: number): void {
    if (this.#rows.length > 2 * current + (current === 0 ? 0 : 16)) this.#rows = [...this.from(0)];
  }

  *from(position: number): Generator<LogRow> {
    for (let i = this.#indexOf(position); i < this.#rows.length; i++) {
      const row = this.#rows[i]!;
      if (this.#current.get(row.row) === row) yield row;
    }
  }

  /** Index of the first row at a position or later. */
  #indexOf(position: number): number {
    let [low, high] = [0, this.#rows.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#rows[middle]!.position < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Records and rows of a new log. */
export type FirstRows = Required<Pick<CreateLogOptions, "records" | "rows">>;

/**
 * Applies the first transactions of a log that does not exist yet, so that it can be created with
 * them in one step. The log is then the same as if each transaction had been appended.
 *
 * @param transactions The transactions. One that changes no row becomes no record.
 * @param options Bounds of the rows and of their bytes, the tail of the log, and the time.
 * @returns The first records and rows, or the rejection of a transaction.
 */
export function firstRows(
  transactions: readonly (readonly RowChange[])[],
  { tail, now, ...bounds }: Pick<AppendLogOptions, "maxBytes" | "rowBounds"> & {
    readonly tail: LogTail;
    readonly now: number;
  },
): FirstRows | LogAppended {
  const view = new MemoryRows();
  const set = new Map<string, LogRow>();
  const records: string[] = [];
  let stats = NO_ROWS;
  for (const changes of transactions) {
    const at = { position: records.length, stats, tail, now };
    const decided = decideRows(view, { ...bounds, changes }, at);
    if ("kind" in decided) return decided;
    if (decided.record === undefined) continue;
    const { writes } = decided;
    view.write(writes);
    for (const { row } of writes.forget) set.delete(row);
    for (const row of writes.set) {
      set.delete(row.row); // A row that changes again moves to the end.
      set.set(row.row, row);
    }
    stats = decided.stats;
    records.push(decided.record);
  }
  return { records, rows: { set: [...set.values()], forgotten: stats.forgotten } };
}
