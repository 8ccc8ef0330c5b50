/** A copy of a database that is in use, made step by step. */
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { createTables, setMeta } from "./database.ts";

/** Most rows of one step: more than one group of operations adds, so that a copy comes to its end. */
const STEP_ROWS = 1_024;

/** Most bytes of payloads in one step, unless one row alone has more; more than one group adds. */
const STEP_BYTES = 2_097_152;

/** Tables that only grow, by ids, and lose their oldest rows. */
const GROWING = ["publications", "log_records"] as const;

/**
 * Tables that change, copied whole at the end. Claims, numbers and producers end within minutes, and
 * would be wrong in a copy.
 */
const CHANGING = ["topics", "logs", "log_producers", "gone_topics", "gone_logs"] as const;

/** Owners of copied rows, of which the topic or the log was deleted in the meantime. */
const ORPHANS = ([owners, rows, column, gone]: readonly [string, string, string, string]) => `
  WITH RECURSIVE owner (id) AS (
    SELECT min(${column}) FROM ${rows}
    UNION ALL
    SELECT (SELECT min(${column}) FROM ${rows} WHERE ${column} > owner.id) FROM owner
    WHERE owner.id IS NOT NULL
  )
  INSERT OR IGNORE INTO ${gone} SELECT id FROM owner
  WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM ${owners})`;

/**
 * A copy of a database whose only connection goes on writing between the steps.
 *
 * The rows of publications and records never change, and ids are never used twice: so the steps copy
 * the rows by id, up to those that were written during the copy. The last step copies the tables that
 * change. The copy counts as one that may have lost writes: its first opening begins a new epoch.
 */
export class FileCopy {
  readonly #source: DatabaseSync;
  readonly #target: DatabaseSync;
  readonly #begin: StatementSync;
  readonly #commit: StatementSync;
  /** Newest copied id of each growing table. */
  readonly #copied = new Map<string, number>();

  /**
   * Creates the file of the copy.
   *
   * @param source The database.
   * @param path Path of a file that does not exist.
   */
  constructor(source: DatabaseSync, path: string) {
    this.#source = source;
    this.#target = new DatabaseSync(path);
    // The copy is synced as a whole, by the caller.
    this.#target.exec("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF");
    createTables(this.#target);
    this.#begin = this.#target.prepare("BEGIN");
    this.#commit = this.#target.prepare("COMMIT");
  }

  /** Copies some rows; returns true while many rows are left. */
  continue(): boolean {
    this.#begin.run();
    const isMore = GROWING.some((table) => this.#copyNext(table));
    this.#commit.run();
    return isMore;
  }

  /** Copies what is left, if `isComplete`, and closes the copy. */
  end(isComplete: boolean): void {
    try {
      if (isComplete) this.#finish();
    } finally {
      this.#target.close();
    }
  }

  #finish(): void {
    while (this.continue());
    const target = this.#target;
    this.#begin.run();
    for (const table of CHANGING) this.#copyRows(table, `SELECT * FROM ${table}`);
    target.exec("DELETE FROM sqlite_sequence");
    this.#copyRows("sqlite_sequence", "SELECT * FROM sqlite_sequence");
    target.exec(ORPHANS(["topics", "publications", "topic", "gone_topics"]));
    target.exec(ORPHANS(["logs", "log_records", "log", "gone_logs"]));
    this.#copyRows("meta", "SELECT * FROM meta");
    setMeta(target, "state", "copy");
    this.#commit.run();
  }

  /** Copies the next rows of a growing table; returns true if the step was full. */
  #copyNext(table: string): boolean {
    const after = this.#copied.get(table) ?? 0;
    let [to, bytes] = [after, 0];
    const sizes = this.#source.prepare(
      `SELECT id, bytes FROM ${table} WHERE id > ? ORDER BY id LIMIT ${STEP_ROWS}`,
    ).all(after);
    for (const row of sizes) {
      bytes += Number(row.bytes);
      if (bytes > STEP_BYTES && to > after) break;
      to = Number(row.id);
    }
    if (to > after) {
      this.#copyRows(table, `SELECT * FROM ${table} WHERE id > ? AND id <= ?`, after, to);
      this.#copied.set(table, to);
    }
    return sizes.length === STEP_ROWS || bytes > STEP_BYTES;
  }

  #copyRows(table: string, select: string, ...values: readonly number[]): void {
    let insert: StatementSync | undefined;
    for (const row of this.#source.prepare(select).all(...values)) {
      const columns: SQLInputValue[] = Object.values(row);
      insert ??= this.#target.prepare(
        `INSERT INTO ${table} VALUES (${columns.map(() => "?").join()})`,
      );
      insert.run(...columns);
    }
  }
}
