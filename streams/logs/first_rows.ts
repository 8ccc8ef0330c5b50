/** The first rows of a new keyed log: what it would have after its first transactions. */
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogAppended,
  LogRow,
  LogTail,
  RowChange,
} from "./log.ts";
import { MemoryRows } from "./memory_rows.ts";
import { decideRows, NO_ROWS } from "./rows.ts";

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
