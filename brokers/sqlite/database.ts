/**
 * The database of a `SqliteBroker`: opening it, its schema, and the record of how the file was
 * closed.
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { faultOfPath } from "../../base/builtins.ts";
import { BrokerError } from "../../errors.ts";
import { checkStoredVersion } from "../stored_version.ts";

/** Marks this broker's files in their header: "SKEI". */
const APPLICATION_ID = 0x534b4549;

/**
 * Version of the schema, which is incremented with each change of the tables. Other versions are
 * rejected.
 */
const SCHEMA_VERSION = 3;

/**
 * The tables. Names of topics, keys and logs are text; payloads are always bytes, because text in
 * SQLite ends at its first zero character. Ids are never reused, so that a backup finds new rows by
 * id.
 */
const SCHEMA = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

CREATE TABLE topics (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  topic TEXT NOT NULL UNIQUE,
  head INTEGER NOT NULL,      -- the newest offset
  oldest INTEGER NOT NULL,    -- the oldest kept offset; head + 1 without publications
  bytes INTEGER NOT NULL,     -- of the kept payloads
  oldest_at INTEGER NOT NULL, -- time of the oldest kept publication
  ttl INTEGER NOT NULL,       -- bound of the history, in milliseconds
  expires INTEGER,            -- time at which the oldest publication expires; NULL without one
  used INTEGER NOT NULL       -- grows with each publication; 0 without publications
) STRICT;
CREATE INDEX topics_expires ON topics (expires) WHERE expires IS NOT NULL;
CREATE INDEX topics_used ON topics (used);

CREATE TABLE publications (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  topic INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  at INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  tag TEXT NOT NULL,
  except_id TEXT,
  is_text INTEGER NOT NULL,
  payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX publications_offset ON publications (topic, offset);

CREATE TABLE numbers (key TEXT PRIMARY KEY, number INTEGER NOT NULL, until INTEGER NOT NULL)
  STRICT, WITHOUT ROWID;
CREATE INDEX numbers_until ON numbers (until);

CREATE TABLE claims (
  scope TEXT NOT NULL,
  member TEXT NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (scope, member)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_until ON claims (until);

CREATE TABLE buckets (
  key TEXT PRIMARY KEY,
  tokens REAL NOT NULL,
  at INTEGER NOT NULL,
  until INTEGER NOT NULL      -- time at which the bucket is full again
) STRICT, WITHOUT ROWID;
CREATE INDEX buckets_until ON buckets (until);

CREATE TABLE logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,         -- answer, request or stream
  name TEXT NOT NULL,
  state TEXT NOT NULL,        -- as JSON, without producers and forks
  due INTEGER,                -- time at which the log or a row expires, or the writer's lease lapses
  UNIQUE (kind, name)
) STRICT;
CREATE INDEX logs_due ON logs (due) WHERE due IS NOT NULL;

CREATE TABLE log_records (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  log INTEGER NOT NULL,
  position INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  is_text INTEGER NOT NULL,
  record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_records_position ON log_records (log, position);

CREATE TABLE log_rows (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  log INTEGER NOT NULL,
  name TEXT NOT NULL,
  position INTEGER NOT NULL,  -- of a hidden row: -1 minus its position
  bytes INTEGER NOT NULL,
  change TEXT NOT NULL,
  deleted INTEGER,            -- time of the deletion
  until INTEGER               -- time at which the row expires
) STRICT;
CREATE UNIQUE INDEX log_rows_name ON log_rows (log, name);
CREATE INDEX log_rows_position ON log_rows (log, position);
CREATE INDEX log_rows_deleted ON log_rows (log, position) WHERE deleted IS NOT NULL;
CREATE INDEX log_rows_until ON log_rows (log, until) WHERE until IS NOT NULL;

CREATE TABLE log_producers (
  log INTEGER NOT NULL,
  producer TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (log, producer)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_forks (
  log INTEGER NOT NULL,
  fork TEXT NOT NULL,
  PRIMARY KEY (log, fork)
) STRICT, WITHOUT ROWID;

-- Topics and logs that are gone, and whose rows are deleted little by little.
CREATE TABLE gone_topics (id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE gone_logs (id INTEGER PRIMARY KEY) STRICT;
`;

/** Tables that older files of this version lack. */
const LATER_TABLES = `
CREATE TABLE IF NOT EXISTS log_marks (
  log INTEGER NOT NULL,
  name TEXT NOT NULL,
  mark TEXT NOT NULL,
  PRIMARY KEY (log, name)
) STRICT, WITHOUT ROWID;

-- By name, because keys outlive a topic that is forgotten. The numbers of a topic are consecutive.
CREATE TABLE IF NOT EXISTS append_keys (
  topic TEXT NOT NULL,
  key TEXT NOT NULL,
  number INTEGER NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (topic, key)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS append_keys_number ON append_keys (topic, number);
CREATE INDEX IF NOT EXISTS append_keys_until ON append_keys (until);

CREATE TABLE IF NOT EXISTS append_producers (
  topic INTEGER NOT NULL,
  producer TEXT NOT NULL,
  numbers TEXT NOT NULL,      -- the last numbers, newest first, separated by spaces
  until INTEGER NOT NULL,
  PRIMARY KEY (topic, producer)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS append_producers_until ON append_producers (until);
`;

/** Maximum difference between two readings of the same machine start, in milliseconds. */
const BOOT_TOLERANCE_MS = 5_000;

/** A compiled statement. */
export type Statement = Pick<StatementSync, "run" | "get" | "all">;

/** A connection to a database: one of `node:sqlite`, or one to the disk of a simulation. */
export type Database =
  & Pick<DatabaseSync, "exec" | "close" | "isOpen" | "isTransaction">
  & { prepare(sql: string): Statement };

export type Statements<T> = Readonly<Record<keyof T, Statement>>;

export function prepareAll<T extends Readonly<Record<string, string>>>(
  db: Database,
  texts: T,
): Statements<T> {
  const prepared = Object.entries(texts).map(([name, text]) => [name, db.prepare(text)]);
  return Object.fromEntries(prepared) as Statements<T>;
}

/** Opens or creates a database. It does not wait if another process is using the database. */
export type Connect = (path: string) => Database;

/** Opens a database of this machine. */
export const connectNative: Connect = (path) => new DatabaseSync(path, { timeout: 0 });

/** Options for {@linkcode openDatabase}. */
export interface DatabaseOptions {
  readonly path: string;
  readonly synchronous: "normal" | "full";
  readonly maxBytes: number;
  /** A random UUID, from which the names of a new epoch and of new identities are derived. */
  readonly uuid: string;
  /** Time at which the machine started, in milliseconds since the Unix epoch, if known. */
  readonly bootedAt: number | undefined;
  /** Time since then, in milliseconds, if known. */
  readonly uptimeMs?: number | undefined;
}

export interface OpenDatabase {
  readonly db: Database;
  /** Epoch of all histories. */
  readonly epoch: string;
}

/**
 * Opens or creates the file. No other process can open it until this one closes it.
 *
 * The epoch comes from the file, unless writes may have been lost. This is possible after a power
 * failure with `normal`, and in a copy. If a process is killed, the operating system still has all
 * its writes, so the epoch stays the same if the machine has not been restarted since. If that is
 * unknown, or in the first seconds after the machine has started, the epoch changes.
 *
 * @param options See {@linkcode DatabaseOptions}.
 * @throws {BrokerError} If the file is in use or damaged, or if it belongs to another program or
 * version.
 */
export function openDatabase(
  options: DatabaseOptions,
  connect: Connect,
): OpenDatabase {
  const { path } = options;
  let db: Database | undefined;
  try {
    db = connect(path);
    return prepareDatabase(db, options);
  } catch (cause) {
    if (db?.isOpen) db.close();
    if (cause instanceof BrokerError) throw cause;
    throw new BrokerError(`Cannot open ${path}: ${whyUnopened(cause, path)}`, { cause });
  }
}

function prepareDatabase(
  db: Database,
  { path, synchronous, maxBytes, uuid, bootedAt, uptimeMs = Infinity }: DatabaseOptions,
): OpenDatabase {
  // The mode is set before the first access, so that no other process can share the file.
  db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF");
  const isNew = checkHeader(db, path);
  if (pragma(db, "journal_mode = WAL") !== "wal") {
    throw new BrokerError(
      `Cannot open ${path}: SQLite has no write-ahead log here; use a file on a local disk`,
    );
  }
  const pageSize = Number(pragma(db, "page_size"));
  db.exec(`
    PRAGMA max_page_count = ${Math.floor(maxBytes / pageSize)};
    PRAGMA journal_size_limit = ${8 * 1_048_576};
    PRAGMA cache_size = -16384;
    PRAGMA temp_store = MEMORY;
    PRAGMA synchronous = FULL;
    BEGIN IMMEDIATE;
  `);
  if (isNew) createTables(db);
  else db.exec(LATER_TABLES);
  // A machine that has just started may have been started twice within the tolerance.
  const knownBoot = uptimeMs < BOOT_TOLERANCE_MS ? undefined : bootedAt;
  const mayHaveLost = !isNew && mayHaveLostWrites(metaOf(db, "state"), knownBoot);
  if (isNew || mayHaveLost) setMeta(db, "epoch", uuid.slice(0, 8));
  if (!isNew) markLogs(db, mayHaveLost ? uuid : undefined);
  setMeta(db, "state", synchronous === "full" ? "full" : `normal ${bootedAt ?? "unknown"}`);
  // The state must be on disk before any write that may be lost.
  db.exec("COMMIT");
  if (synchronous === "normal") db.exec("PRAGMA synchronous = NORMAL");
  return { db, epoch: String(metaOf(db, "epoch")) };
}

/** Checks that the file belongs to this broker. Returns true if it is empty. */
function checkHeader(db: Database, path: string): boolean {
  const application = pragma(db, "application_id");
  const { tables } = db.prepare("SELECT count(*) AS tables FROM sqlite_schema").get()!;
  if (application === 0 && tables === 0) return true;
  if (application !== APPLICATION_ID) {
    throw new BrokerError(`Cannot open ${path}: the database belongs to another program`);
  }
  checkStoredVersion(String(pragma(db, "user_version")), {
    version: SCHEMA_VERSION,
    cannot: `open ${path}`,
    of: "the file",
    otherwise: "open another file",
  });
  return false;
}

/** True if acknowledged writes may have been lost, judging by how the file was closed. */
function mayHaveLostWrites(state: unknown, bootedAt: number | undefined): boolean {
  if (state === "closed" || state === "full") return false;
  const [level, writtenBoot] = String(state).split(" ");
  if (level !== "normal" || bootedAt === undefined) return true;
  return !(Math.abs(Number(writtenBoot) - bootedAt) <= BOOT_TOLERANCE_MS);
}

/** Closes the database. After that, all writes are in the file itself and on disk. */
export function closeDatabase(db: Database): void {
  try {
    db.exec("PRAGMA synchronous = FULL");
    setMeta(db, "state", "closed");
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  } finally {
    db.close();
  }
}

/** Reads or sets a pragma, and returns its value. */
export function pragma(db: Database, text: string): unknown {
  return Object.values(db.prepare(`PRAGMA ${text}`).get() ?? {})[0];
}

/** Reads a property of the whole file. */
export function metaOf(db: Database, name: string): unknown {
  return db.prepare("SELECT value FROM meta WHERE name = ?").get(name)?.value;
}

/** Writes a property of the whole file. */
export function setMeta(db: Database, name: string, value: string | number): void {
  db.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)").run(name, value);
}

/** Name of the mark for logs, which open later than the file. */
const LOGS_MARK = "logs";

/** First word of a mark after writes may have been lost; the UUID of the process follows. */
const LOST = "lost ";

/** Marks that a new process has opened the file. A loss outweighs a restart until logs open. */
function markLogs(db: Database, lostBy: string | undefined): void {
  if (lostBy !== undefined) setMeta(db, LOGS_MARK, LOST + lostBy);
  else if (metaOf(db, LOGS_MARK) === undefined) setMeta(db, LOGS_MARK, "restarted");
}

/**
 * Removes the mark for logs.
 *
 * @param db The file, in a transaction.
 * @returns The UUID of the process that found a loss, if one did; `undefined` if no other process
 * has opened the file since logs were open.
 */
export function takeLogsMark(db: Database): { readonly lostBy: string | undefined } | undefined {
  const mark = metaOf(db, LOGS_MARK);
  if (mark === undefined) return undefined;
  db.prepare("DELETE FROM meta WHERE name = ?").run(LOGS_MARK);
  const text = String(mark);
  return { lostBy: text.startsWith(LOST) ? text.slice(LOST.length) : undefined };
}

/** Creates the tables in an empty database. */
export function createTables(db: Database): void {
  db.exec(SCHEMA + LATER_TABLES);
  db.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${SCHEMA_VERSION}`);
}

const FULL = 13;

/** Result codes of SQLite whose own texts would not help. */
const REASONS: Readonly<Record<number, string>> = {
  5: "another process or broker has the file open",
  8: "the file cannot be written",
  11: "the file is damaged",
  [FULL]: "the disk, or the file with its maxBytes, is full",
  26: "the file is not a SQLite database",
};

/** Codes of SQLite for a damaged file. */
const DAMAGED: ReadonlySet<number> = new Set([11, 26]);

/** True if stored data cannot be read: damaged pages, state that is no JSON, or too large a number. */
export function isDamage(error: unknown): boolean {
  const { code, errcode = 0 } = error as { readonly code?: string; readonly errcode?: number };
  return error instanceof SyntaxError || code === "ERR_OUT_OF_RANGE" || DAMAGED.has(errcode & 0xff);
}

/** Describes an error of SQLite while it opened a file; it doesn't say why it cannot open one. */
function whyUnopened(error: unknown, path: string): string {
  const reason = reasonOf(error);
  return reason.startsWith("unable to open") && faultOfPath(path) || reason;
}

/** True if the disk, or the file with its maximum size, is full. */
export function isFull(error: unknown): boolean {
  return ((error as { readonly errcode?: number }).errcode ?? 0) === FULL;
}

/** Describes an error of SQLite. */
export function reasonOf(error: unknown): string {
  const { errcode, message } = error as { readonly errcode?: number; readonly message?: string };
  // The upper bytes of an extended code add details to the lowest byte.
  return REASONS[(errcode ?? 0) & 0xff] ?? message ?? String(error);
}
