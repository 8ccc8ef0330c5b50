/** A store in a SQLite file, for Deno and Node. */
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { builtin } from "../../base/builtins.ts";
import { textOf } from "../../base/error_text.ts";
import { StoreError } from "../../errors.ts";
import type {
  Durability,
  Store,
  StoreBatch,
  StoreEntry,
  StorePage,
  StoreRange,
  StoreReadOptions,
} from "./store.ts";
import { checkBatch, checkPageBounds, checkRange, type PageBounds } from "./store_checks.ts";

/** Marks the files of this store in their header: "SKES". */
const APPLICATION_ID = 0x534b4553;

/** Version of the tables. */
const SCHEMA_VERSION = 1;

/** The entries of each user. */
const SCHEMA = `
CREATE TABLE entries (
  owner TEXT NOT NULL,
  key BLOB NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = ${APPLICATION_ID};
PRAGMA user_version = ${SCHEMA_VERSION};
`;

const STATEMENTS = {
  sizes: `SELECT key, length(key) + length(value) AS bytes FROM entries
     WHERE owner = :owner AND key >= :from AND (:to IS NULL OR key < :to) ORDER BY key LIMIT :count`,
  read: `SELECT key, value FROM entries
     WHERE owner = :owner AND key >= :from AND (:to IS NULL OR key < :to) ORDER BY key LIMIT :count`,
  delete:
    `DELETE FROM entries WHERE owner = :owner AND key >= :from AND (:to IS NULL OR key < :to)`,
  put: `INSERT OR REPLACE INTO entries VALUES (:owner, :key, :value)`,
} as const;

/** The meaning of SQLite's results, by the lowest byte of their code. */
const RESULTS: Readonly<Record<number, readonly [StoreError["reason"], string]>> = {
  5: ["unavailable", "another process or store has the file open"],
  8: ["unavailable", "the file cannot be written"],
  11: ["failed", "the file is damaged; move it away to start with an empty one"],
  13: ["full", "the disk, or the file with its maxBytes, is full"],
  26: ["failed", "the file is not a SQLite database"],
};

/** Options of a {@linkcode FileStore}. */
export interface FileSettings {
  /** The file; a relative path is in the current folder. */
  readonly path: string;
  /** The owner of the entries. Other owners' entries in the same file aren't visible. */
  readonly owner: string;
  readonly durability: "relaxed" | "strict";
  /** Maximum bytes of the file. */
  readonly maxBytes: number;
}

type Sqlite = typeof import("node:sqlite");

/** An open file. */
interface OpenFile {
  readonly db: DatabaseSync;
  readonly statements: Readonly<Record<keyof typeof STATEMENTS, StatementSync>>;
}

/** A store in a SQLite file, which is opened by the first operation, for one process at a time. */
export class FileStore implements Store {
  readonly name = "file";
  readonly #settings: FileSettings;
  #file: OpenFile | undefined;
  #isClosed = false;

  /**
   * Creates the store.
   *
   * @param settings See {@linkcode FileSettings}.
   */
  constructor(settings: FileSettings) {
    this.#settings = settings;
  }

  // deno-lint-ignore require-await -- throws as a rejection
  async read(range: StoreRange, options: StoreReadOptions = {}): Promise<StorePage> {
    checkRange(range, "read");
    const bounds = checkPageBounds(options);
    options.signal?.throwIfAborted();
    return this.#run("read", (file) => readPage(file, this.#bind(range), bounds));
  }

  // deno-lint-ignore require-await -- throws as a rejection
  async write(batch: StoreBatch): Promise<Durability> {
    checkBatch(batch);
    return this.#write("write", batch);
  }

  // deno-lint-ignore require-await -- throws as a rejection
  async delete(range: StoreRange): Promise<Durability> {
    checkRange(range, "delete");
    return this.#write("delete", { deletes: [range] });
  }

  // deno-lint-ignore require-await -- throws as a rejection
  async close(): Promise<void> {
    this.#isClosed = true;
    const file = this.#file;
    this.#file = undefined;
    file?.db.close();
  }

  #write(verb: string, { deletes = [], puts = [] }: StoreBatch): Durability {
    const { owner, durability } = this.#settings;
    return this.#run(verb, ({ db, statements }) => {
      db.exec("BEGIN IMMEDIATE");
      try {
        for (const range of deletes) statements.delete.run(this.#bind(range));
        for (const { key, value } of puts) statements.put.run({ owner, key, value });
        db.exec("COMMIT");
      } catch (error) {
        // SQLite has ended the transaction itself after some errors.
        if (db.isTransaction) db.exec("ROLLBACK");
        throw error;
      }
      return durability;
    });
  }

  #bind({ from, to }: StoreRange): Bound {
    return { owner: this.#settings.owner, from, to: to ?? null };
  }

  #run<T>(verb: string, work: (file: OpenFile) => T): T {
    if (this.#isClosed) {
      throw new StoreError("closed", `Cannot ${verb}: the store is closed`);
    }
    const { path } = this.#settings;
    try {
      return work(this.#file ??= openFile(this.#settings));
    } catch (error) {
      throw storeErrorOf(`${verb} ${path}`, error);
    }
  }
}

/** The parameters of a range. */
interface Bound {
  readonly [name: string]: string | Uint8Array | null;
}

function openFile(settings: FileSettings): OpenFile {
  const sqlite = sqliteOrThrow();
  const { path } = settings;
  createPrivate(path);
  const db = openDatabase(sqlite, path);
  try {
    prepareDatabase(db, settings);
    const statements = Object.entries(STATEMENTS).map(([name, sql]) => [name, db.prepare(sql)]);
    return { db, statements: Object.fromEntries(statements) };
  } catch (error) {
    db.close();
    throw error;
  }
}

function openDatabase({ DatabaseSync }: Sqlite, path: string): DatabaseSync {
  try {
    // Resolved, so that no path has a special meaning to SQLite, such as `:memory:`.
    return new DatabaseSync(builtin("node:path").resolve(path), { timeout: 0 });
  } catch (cause) {
    throw new StoreError("unavailable", `Cannot open ${path}: ${textOf(cause)}`, { cause });
  }
}

function sqliteOrThrow(): Sqlite {
  try {
    const sqlite = builtin("node:sqlite");
    if (sqlite !== undefined) return sqlite;
  } catch {
    // A browser has no `process`, and older versions of Node have no such function.
  }
  throw new StoreError(
    "unavailable",
    "Cannot open a file store: this runtime has no node:sqlite; use Deno, or Node 22.13 or newer",
  );
}

/**
 * Creates an empty file that only this user of the machine can read, unless it exists. It doesn't
 * open an existing file: closing that would release the locks of another store in this process.
 */
function createPrivate(path: string): void {
  const { openSync, closeSync } = builtin("node:fs");
  try {
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    if ((error as { readonly code?: string }).code !== "EEXIST") throw error;
  }
}

function prepareDatabase(db: DatabaseSync, { durability, maxBytes }: FileSettings): void {
  // The mode is set before the first access, so that no other process can share the file.
  db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF");
  const isNew = checkHeader(db);
  db.exec("PRAGMA journal_mode = WAL");
  const pages = Math.floor(maxBytes / Number(pragma(db, "page_size")));
  db.exec(`
    PRAGMA max_page_count = ${Math.max(1, pages)};
    PRAGMA journal_size_limit = 4194304;
    PRAGMA synchronous = ${durability === "strict" ? "FULL" : "NORMAL"};
    BEGIN IMMEDIATE;
    ${isNew ? SCHEMA : ""}
    COMMIT;
  `);
}

/** Checks that the file is of this store. Returns true if it is empty. */
function checkHeader(db: DatabaseSync): boolean {
  const application = pragma(db, "application_id");
  const { tables } = db.prepare("SELECT count(*) AS tables FROM sqlite_schema").get()!;
  if (application === 0 && tables === 0) return true;
  if (application !== APPLICATION_ID) throw new Error("the file is of another program");
  const version = pragma(db, "user_version");
  if (version === SCHEMA_VERSION) return false;
  throw new Error(`the file must have version ${SCHEMA_VERSION}, received ${version}`);
}

function pragma(db: DatabaseSync, name: string): unknown {
  return Object.values(db.prepare(`PRAGMA ${name}`).get() ?? {})[0];
}

function readPage(
  { statements: { sizes, read } }: OpenFile,
  range: Bound,
  { maxEntries, maxBytes }: PageBounds,
): StorePage {
  // The sizes first: SQLite reads them without the values.
  const found = sizes.all({ ...range, count: maxEntries + 1 });
  let count = 0;
  for (let bytes = 0; count < Math.min(found.length, maxEntries); count++) {
    bytes += Number(found[count]!.bytes);
    if (count > 0 && bytes > maxBytes) break;
  }
  const entries = read.all({ ...range, count }) as unknown as StoreEntry[];
  return {
    entries: entries.map(({ key, value }) => ({ key, value })),
    isComplete: count === found.length,
  };
}

function storeErrorOf(verb: string, cause: unknown): StoreError {
  if (cause instanceof StoreError) return cause;
  const { errcode, code, name } = cause as Partial<Error & { errcode: number; code: string }>;
  // Errors of the file system have a code, such as `ENOENT`; Deno's about permissions have a name.
  const isOfFiles = errcode === undefined &&
    (/^E[A-Z]+$/.test(code ?? "") || name === "NotCapable");
  // The upper bytes of an extended code add details to the lowest byte.
  const [reason, text] = RESULTS[(errcode ?? 0) & 0xff] ??
    [isOfFiles ? "unavailable" : "failed", textOf(cause)];
  return new StoreError(reason, `Cannot ${verb}: ${text}`, { cause });
}
