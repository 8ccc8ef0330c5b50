/** The file of a `SqliteBroker`, and groups of operations, each of which is one transaction. */
import { BrokerError } from "../../errors.ts";
import { FileCopy } from "./copy.ts";
import {
  closeDatabase,
  type Connect,
  connectNative,
  type Database,
  type DatabaseOptions,
  isDamage,
  openDatabase,
  pragma,
  reasonOf,
  type Statement,
} from "./database.ts";
import { Facts } from "./facts.ts";
import { KEY_WINDOW_MS } from "../../pubsub/broker.ts";
import { Histories, MAX_DELETED } from "./histories.ts";
import type { Logs, openLogs } from "./logs/logs.ts";
import { SqliteTransaction } from "./transaction.ts";

/** Options for {@linkcode SqliteFile}. */
export interface SqliteFileOptions extends DatabaseOptions {
  readonly maxTopics: number;
}

/** Operations of the file's parts, which {@linkcode SqliteFile.run} runs by name. */
export type FileCalls =
  & Pick<Histories, "append" | "read" | "follow" | "unfollow">
  & Pick<Facts, "advance" | "newest" | "claim" | "release" | "claims" | "take">
  & Pick<
    Logs,
    "changeLog" | "readLog" | "renewLog" | "overdueLogs" | "listLogs"
  >
  & Pick<SqliteFile, "openLogs" | "sweep" | "beginCopy" | "continueCopy" | "endCopy">;

export type FileCallName = keyof FileCalls;

/** One operation, with the arguments of its method. */
export type FileOperation = readonly [name: FileCallName, ...args: readonly unknown[]];

/** The result of an operation, or the reason why it had no effect: the data may be damaged. */
export type OperationOutcome =
  | readonly [kind: "done", value: unknown]
  | readonly [kind: "failed" | "damaged", reason: string];

/** Key in the `workerData` of a worker that owns a file. */
export const OPTIONS_KEY = "skeinSqlite";

/** A message to such a worker, which replies to each one with an {@linkcode OperationOutcome}. */
export type WorkerRequest =
  | readonly [kind: "run", operations: readonly FileOperation[], now: number]
  | readonly [kind: "close"];

/** One row of the table of operations. */
interface OperationKind {
  /** The part of the file with the method of this name. */
  readonly part: "histories" | "facts" | "logs" | "file";
  /** `note` records a listener, which the same group's publications already reach. */
  readonly effect: "write" | "read" | "note";
  /** Description of the operation, for errors. */
  readonly verb: string;
}

export const CALLS: Readonly<Record<FileCallName, OperationKind>> = {
  append: { part: "histories", effect: "write", verb: "append" },
  read: { part: "histories", effect: "read", verb: "read history" },
  follow: { part: "histories", effect: "note", verb: "follow a topic" },
  unfollow: { part: "histories", effect: "note", verb: "unfollow a topic" },
  advance: { part: "facts", effect: "write", verb: "note a number" },
  newest: { part: "facts", effect: "read", verb: "read a number" },
  claim: { part: "facts", effect: "write", verb: "claim" },
  release: { part: "facts", effect: "write", verb: "release a claim" },
  claims: { part: "facts", effect: "read", verb: "list claims" },
  take: { part: "facts", effect: "write", verb: "take tokens" },
  changeLog: { part: "logs", effect: "write", verb: "change a log" },
  readLog: { part: "logs", effect: "read", verb: "read a log" },
  renewLog: { part: "logs", effect: "write", verb: "renew a log" },
  overdueLogs: { part: "logs", effect: "read", verb: "list logs" },
  listLogs: { part: "logs", effect: "read", verb: "list logs" },
  openLogs: { part: "file", effect: "write", verb: "open logs" },
  sweep: { part: "file", effect: "write", verb: "sweep" },
  beginCopy: { part: "file", effect: "read", verb: "back up" },
  continueCopy: { part: "file", effect: "read", verb: "back up" },
  endCopy: { part: "file", effect: "read", verb: "back up" },
};

/** Statements that delete a bounded number of unused rows. */
const SWEEPS: readonly string[] = [
  "DELETE FROM append_producers WHERE (topic, producer) IN (SELECT topic, producer FROM append_producers WHERE until <= :now LIMIT :limit)",
  "DELETE FROM append_keys WHERE (topic, key) IN (SELECT topic, key FROM append_keys WHERE until <= :now LIMIT :limit)",
  // After the clock was set back, no key is remembered for longer than it would be from now on.
  `UPDATE append_keys SET until = :now + ${KEY_WINDOW_MS} WHERE (topic, key) IN (SELECT topic, key FROM append_keys WHERE until > :now + ${KEY_WINDOW_MS} LIMIT :limit)`,
  "DELETE FROM numbers WHERE key IN (SELECT key FROM numbers WHERE until <= :now LIMIT :limit)",
  "DELETE FROM claims WHERE (scope, member) IN (SELECT scope, member FROM claims WHERE until <= :now LIMIT :limit)",
  "DELETE FROM buckets WHERE key IN (SELECT key FROM buckets WHERE until <= :now LIMIT :limit)",
];

/** Deleted topics and logs, the tables with their rows, and the tables with few rows of each. */
const GONE = [
  { owners: "gone_topics", column: "topic", tables: ["publications"], small: ["append_producers"] },
  {
    owners: "gone_logs",
    column: "log",
    tables: ["log_records", "log_rows"],
    small: ["log_producers", "log_marks"],
  },
] as const;

/** Used fraction of the file up to which no histories are forgotten. */
const ROOMY_PART = 7 / 8;

/** Size of the file, and the remaining work. */
export interface Swept {
  /** True if more rows wait to be deleted. */
  readonly isMore: boolean;
  /** Bytes in use, out of `maxBytes`. */
  readonly usedBytes: number;
  /** Topics with publications that were forgotten since the file was opened. */
  readonly forgotten: number;
}

function failed([name]: FileOperation, error: unknown): OperationOutcome {
  const isDamaged = CALLS[name].part === "logs" && isDamage(error);
  return [isDamaged ? "damaged" : "failed", reasonOf(error)];
}

/** An open file. All methods are synchronous and handle a bounded number of rows. */
export class SqliteFile {
  /** Epoch of all histories. */
  readonly epoch: string;
  readonly #db: Database;
  readonly #connect: Connect;
  readonly #parts: Readonly<{
    histories: Histories;
    facts: Facts;
    file: SqliteFile;
  }>;
  /** Present once logs were opened. */
  #logs: Logs | undefined;
  /** Opens the logs; `undefined` while the code has not loaded. */
  #openLogs: typeof openLogs | undefined;
  /** The reason why the code did not load. */
  #loadError: unknown;
  readonly #begin: Statement;
  readonly #commit: Statement;
  readonly #pages: Statement;
  readonly #freePages: Statement;
  readonly #pageSize: number;
  readonly #maxBytes: number;
  readonly #transaction = new SqliteTransaction();
  #copy: FileCopy | undefined;

  /**
   * Opens or creates the file.
   *
   * @param options See {@linkcode SqliteFileOptions}.
   * @param connect Opens a database; by default, a database on this machine.
   * @param code The code of logs; by default, {@linkcode load} loads it.
   * @throws {BrokerError} If the file cannot be opened.
   */
  constructor(
    options: SqliteFileOptions,
    connect: Connect = connectNative,
    code?: typeof openLogs,
  ) {
    const { db, epoch } = openDatabase(options, connect);
    this.epoch = epoch;
    this.#openLogs = code;
    this.#connect = connect;
    this.#db = db;
    try {
      this.#begin = db.prepare("BEGIN IMMEDIATE");
      this.#commit = db.prepare("COMMIT");
      this.#pages = db.prepare("PRAGMA page_count");
      this.#freePages = db.prepare("PRAGMA freelist_count");
      this.#pageSize = Number(pragma(db, "page_size"));
      this.#maxBytes = options.maxBytes;
      const [transaction, { maxTopics }] = [this.#transaction, options];
      const histories = new Histories(db, { epoch, maxTopics, transaction });
      this.#parts = { histories, facts: new Facts(db), file: this };
    } catch (cause) {
      db.close();
      throw new BrokerError(`Cannot open ${options.path}: ${reasonOf(cause)}`, { cause });
    }
  }

  /**
   * Loads the code that a group needs. Call this before {@linkcode run}.
   *
   * @returns Resolves when the code was loaded, or could not be; `undefined` if there is nothing to
   * load.
   */
  load(operations: readonly FileOperation[]): Promise<void> | undefined {
    if (this.#openLogs !== undefined || !operations.some(([name]) => name === "openLogs")) return;
    return import("./logs/logs.ts").then(
      ({ openLogs }) => void (this.#openLogs = openLogs),
      (error) => void (this.#loadError = error),
    );
  }

  /** Opens the logs, which all operations on logs require. */
  openLogs(): void {
    if (this.#logs !== undefined) return;
    if (this.#openLogs === undefined) {
      throw new Error("The code of durable streams did not load", { cause: this.#loadError });
    }
    const shares = { maxBytes: this.#maxBytes, usedBytes: () => this.#usedBytes };
    this.#logs = this.#openLogs(this.#db, this.#transaction, shares);
    this.#transaction.onRollback(() => this.#logs = undefined);
  }

  /**
   * Runs a group of operations. Listeners are recorded first, because the group's publications
   * reach them. The writes follow in one transaction. If it fails, each write is repeated in its
   * own transaction, so that it cannot fail because of another write. No write takes effect before
   * its commit.
   *
   * @param now Time in milliseconds since the Unix epoch.
   */
  run(operations: readonly FileOperation[], now: number): OperationOutcome[] {
    const outcomes: OperationOutcome[] = [];
    const writes: number[] = [];
    const reads: number[] = [];
    operations.forEach((operation, i) => {
      const { effect } = CALLS[operation[0]];
      if (effect === "write") writes.push(i);
      else if (effect === "read") reads.push(i);
      else outcomes[i] = this.#reply(operation);
    });
    if (!this.#transact(operations, writes, outcomes, now) && writes.length > 1) {
      for (const i of writes) this.#transact(operations, [i], outcomes, now);
    }
    for (const i of reads) outcomes[i] = this.#reply(operations[i]!);
    return outcomes;
  }

  /** Deletes a bounded number of unused rows. */
  sweep(now: number): Swept {
    const { histories } = this.#parts;
    let isMore = histories.sweep(now);
    for (const sql of SWEEPS) {
      const { changes } = this.#db.prepare(sql).run({ now, limit: MAX_DELETED });
      isMore ||= Number(changes) === MAX_DELETED;
    }
    for (const gone of GONE) isMore = this.#deleteGone(gone) !== undefined || isMore;
    return { isMore, usedBytes: this.#usedBytes, forgotten: histories.forgotten };
  }

  /** Starts a copy of the file. */
  beginCopy(path: string): void {
    this.#copy = new FileCopy(this.#db, path, this.#connect);
  }

  /** Copies a bounded number of rows. Returns true if rows are left. */
  continueCopy(): boolean {
    return this.#copy!.continue();
  }

  /** Ends the copy, which is then complete or discarded. */
  endCopy(isComplete: boolean): void {
    const copy = this.#copy;
    this.#copy = undefined;
    copy?.end(isComplete);
  }

  /** Closes the file. */
  close(): void {
    this.endCopy(false);
    closeDatabase(this.#db);
  }

  #transact(
    operations: readonly FileOperation[],
    indices: readonly number[],
    outcomes: OperationOutcome[],
    now: number,
  ): boolean {
    if (indices.length === 0) return true;
    const { histories } = this.#parts;
    try {
      this.#begin.run();
      for (const i of indices) outcomes[i] = ["done", this.#call(operations[i]!)];
      histories.finish(now);
      this.#logs?.finish();
      this.#makeRoom();
      this.#commit.run();
      this.#copy?.note(this.#transaction);
      this.#transaction.committed();
      return true;
    } catch (error) {
      // Memory is rolled back first, because if the disk is failing, the rollback and any later
      // read may also fail.
      this.#transaction.rolledBack();
      // Some errors have already ended the transaction.
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      for (const i of indices) outcomes[i] = failed(operations[i]!, error);
      return false;
    }
  }

  /** Runs an operation that does not change the file. */
  #reply(operation: FileOperation): OperationOutcome {
    try {
      return ["done", this.#call(operation)];
    } catch (error) {
      return failed(operation, error);
    }
  }

  #call([name, ...args]: FileOperation): unknown {
    const { part } = CALLS[name];
    const target = part === "logs" ? this.#logs : this.#parts[part];
    if (target === undefined) throw new Error("Durable streams are not open");
    const methods = target as unknown as Record<
      FileCallName,
      (...args: readonly unknown[]) => unknown
    >;
    return methods[name](...args);
  }

  get #usedBytes(): number {
    const used = Number(this.#pages.get()!.page_count) -
      Number(this.#freePages.get()!.freelist_count);
    return used * this.#pageSize;
  }

  /**
   * Deletes unused rows from a nearly full file, then histories of clients that use a large part of
   * it. After the rows of one topic, at most {@linkcode MAX_DELETED} more are deleted, because more
   * would block all other operations.
   */
  #makeRoom(): void {
    const { histories } = this.#parts;
    for (let deleted = 0; deleted < MAX_DELETED;) {
      const used = this.#usedBytes;
      if (used <= this.#maxBytes * ROOMY_PART) return;
      const rows = this.#deleteGone(GONE[0]) ?? this.#deleteGone(GONE[1]);
      if (rows !== undefined) deleted += rows + 1;
      else if (!histories.giveWay(used)) return;
    }
  }

  /**
   * Deletes rows of a deleted owner. Returns their number, or `undefined` if there is no such
   * owner.
   */
  #deleteGone({ owners, column, tables, small }: typeof GONE[number]): number | undefined {
    const first = this.#db.prepare(`SELECT id FROM ${owners} LIMIT 1`).get();
    if (first === undefined) return undefined;
    const id = Number(first.id);
    let deleted = 0;
    for (const table of tables) {
      const { changes } = this.#db.prepare(
        `DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table} WHERE ${column} = ? LIMIT ?)`,
      ).run(id, MAX_DELETED - deleted);
      deleted += Number(changes);
      if (deleted === MAX_DELETED) return deleted;
    }
    for (const table of small) {
      this.#db.prepare(`DELETE FROM ${table} WHERE ${column} = ?`).run(id);
    }
    this.#db.prepare(`DELETE FROM ${owners} WHERE id = ?`).run(id);
    return deleted;
  }
}
