/** A copy of a database in use, made step by step. */
import type { SQLInputValue } from "node:sqlite";
import {
  type Connect,
  createTables,
  type Database,
  isFull,
  setMeta,
  type Statement,
} from "./database.ts";
import type { ChangingTable, SqliteTransaction } from "./transaction.ts";

/**
 * Maximum number of rows in one step. It is more than one group of operations adds, so that a copy
 * eventually completes.
 */
const STEP_ROWS = 640;

/**
 * Maximum number of payload bytes in one step, unless a single row is larger. It is more than one
 * group adds.
 */
const STEP_BYTES = 2_097_152;

/** Maximum number of topics or logs in one step. */
const STEP_OWNERS = 256;

/** Tables that grow by id. A row is never changed, but it may be deleted. */
const GROWING = ["publications", "log_records", "log_rows"] as const;

/**
 * Tables with rows that change, each with the table that contains the ids of its deleted rows.
 */
const CHANGING = { topics: "gone_topics", logs: "gone_logs" } as const;

/**
 * Copies a database in steps, between which its only connection continues to write. In Deno,
 * `backup()` of `node:sqlite` copies the whole file in one step, which would block the event loop
 * for seconds.
 *
 * - **Publications, records and rows of logs** never change, and ids are never reused. The steps
 *   copy them by id, and the last step copies those that were written in the meantime. A row of a
 *   log replaces the copied row of the same name.
 * - **Topics and logs** are copied after their rows, and again in the last step if they changed
 *   since the start.
 * - **The store's claims and numbers, and the producers of histories,** are not copied, because
 *   most of them expire within minutes and would be wrong in a copy.
 *
 * The copy counts as a file that may have lost writes, so opening it for the first time starts a
 * new epoch.
 */
export class FileCopy {
  readonly #source: Database;
  readonly #path: string;
  readonly #target: Database;
  /** Statements by text, a few for each table. */
  readonly #statements = new Map<string, Statement>();
  /** Newest copied id of each table. */
  readonly #copied = new Map<string, number>();
  /**
   * Newest id of the topics and logs at the start. Topics and logs with later ids count as changed.
   */
  #first: Readonly<Record<ChangingTable, number>> = { topics: 0, logs: 0 };
  /**
   * Topics and logs that changed since the start; bounded by the topics and logs in use during the
   * copy.
   */
  readonly #changed: Readonly<Record<ChangingTable, Set<number>>> = {
    topics: new Set(),
    logs: new Set(),
  };

  /**
   * Creates the file of the copy.
   *
   * @param path Path of a file that does not exist.
   * @param connect Opens the file.
   * @throws If the file cannot be created. Parts of it may be left.
   */
  constructor(source: Database, path: string, connect: Connect) {
    this.#source = source;
    this.#path = path;
    const target = this.#target = connect(path);
    try {
      this.#writing(() => {
        // The caller syncs the copy as a whole.
        target.exec("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF");
        createTables(target);
      });
      const newest = (table: ChangingTable) =>
        Number(source.prepare(`SELECT max(id) AS id FROM ${table}`).get()!.id ?? 0);
      this.#first = { topics: newest("topics"), logs: newest("logs") };
    } catch (error) {
      target.close();
      throw error;
    }
  }

  /** Records the topics and logs that a transaction changed. */
  note({ changed }: SqliteTransaction): void {
    for (const id of changed.topics) this.#changed.topics.add(id);
    for (const id of changed.logs) this.#changed.logs.add(id);
  }

  /** Copies some rows. Returns true while many rows are left. */
  continue(): boolean {
    return this.#writing(() => {
      this.#target.exec("BEGIN");
      const isMore = GROWING.some((table) => this.#copyNext(table)) ||
        this.#copyOwners("topics") || this.#copyOwners("logs");
      this.#target.exec("COMMIT");
      return isMore;
    });
  }

  /** Copies the rest if `isComplete`, and closes the copy. */
  end(isComplete: boolean): void {
    try {
      if (isComplete) this.#writing(() => this.#finish());
    } finally {
      this.#target.close();
    }
  }

  #finish(): void {
    while (this.continue());
    const target = this.#target;
    target.exec("BEGIN");
    for (const table of ["topics", "logs"] as const) {
      const ids = [...this.#changed[table]];
      for (const id of ids) target.prepare(`DELETE FROM ${table} WHERE id = ?`).run(id);
      for (const id of ids) {
        if (this.#copyOwner(table, id)) {
          if (table === "logs") this.#dropGoneRows(id);
          continue;
        }
        target.prepare(`INSERT OR IGNORE INTO ${CHANGING[table]} VALUES (?)`).run(id);
      }
      this.#copyRows(CHANGING[table], `SELECT * FROM ${CHANGING[table]}`);
    }
    target.exec("DELETE FROM sqlite_sequence");
    this.#copyRows("sqlite_sequence", "SELECT * FROM sqlite_sequence");
    this.#copyRows("meta", "SELECT * FROM meta");
    setMeta(target, "state", "copy");
    target.exec("COMMIT");
  }

  /** Names the copy if its disk is full, because the broker's own file accepts writes. */
  #writing<T>(write: () => T): T {
    try {
      return write();
    } catch (error) {
      if (!isFull(error)) throw error;
      throw new Error(`the disk of ${this.#path} is full`, { cause: error });
    }
  }

  /** Copies the next topics or logs. Returns true if the step was full. */
  #copyOwners(table: ChangingTable): boolean {
    const after = this.#copied.get(table) ?? 0;
    const ids = this.#source.prepare(
      `SELECT id FROM ${table} WHERE id > ? AND id <= ? ORDER BY id LIMIT ${STEP_OWNERS}`,
    ).all(after, this.#first[table]).map(({ id }) => Number(id));
    for (const id of ids) this.#copyOwner(table, id);
    this.#copied.set(table, ids.at(-1) ?? after);
    return ids.length === STEP_OWNERS;
  }

  /** Copies a topic, or a log with its producers and forks. Returns false if there is none. */
  #copyOwner(table: ChangingTable, id: number): boolean {
    const isThere = this.#copyRows(table, `SELECT * FROM ${table} WHERE id = ?`, id) > 0;
    if (table === "logs") {
      this.#copyRows("log_producers", "SELECT * FROM log_producers WHERE log = ?", id);
      this.#statement(this.#target, "DELETE FROM log_marks WHERE log = ?").run(id);
      this.#copyRows("log_marks", "SELECT * FROM log_marks WHERE log = ?", id);
      // Forks are copied, unlike producers.
      this.#statement(this.#target, "DELETE FROM log_forks WHERE log = ?").run(id);
      this.#copyRows("log_forks", "SELECT * FROM log_forks WHERE log = ?", id);
    }
    return isThere;
  }

  /**
   * Removes the rows that a log has deleted and forgotten since they were copied. A changed row has
   * a new id.
   */
  #dropGoneRows(id: number): void {
    const select = "SELECT id FROM log_rows WHERE log = ?";
    const idsIn = (db: Database) => db.prepare(select).all(id).map((row) => Number(row.id));
    const kept = new Set(idsIn(this.#source));
    const drop = this.#statement(this.#target, "DELETE FROM log_rows WHERE id = ?");
    for (const row of idsIn(this.#target)) if (!kept.has(row)) drop.run(row);
  }

  /** Copies the next rows of a growing table. Returns true if the step was full. */
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

  /** Copies rows, replacing rows with the same keys. Returns their number. */
  #copyRows(table: string, select: string, ...values: readonly number[]): number {
    const rows = this.#statement(this.#source, select).all(...values);
    for (const row of rows) {
      const columns: SQLInputValue[] = Object.values(row);
      const marks = columns.map(() => "?").join();
      this.#statement(this.#target, `INSERT OR REPLACE INTO ${table} VALUES (${marks})`)
        .run(...columns);
    }
    return rows.length;
  }

  #statement(db: Database, sql: string): Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) this.#statements.set(sql, statement = db.prepare(sql));
    return statement;
  }
}
