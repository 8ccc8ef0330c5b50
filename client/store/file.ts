/** A store in a SQLite file, for Deno and Node. */
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { builtin, faultOfPath } from "../../base/builtins.ts";
import { describe, textOf } from "../../base/error_text.ts";
import { checkOptions, POSITIVE } from "../../base/options/option_checks.ts";
import { checkLimits, type OptionKinds } from "../../base/options/options.ts";
import { StoreError } from "../../errors.ts";
import { type ClientStore, keptIn } from "./keeper.ts";
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

/** Maximum bytes of a file, unless the caller sets it. */
export const MAX_FILE_BYTES = 268_435_456;

/** Options of {@linkcode fileStore}. */
export interface FileStoreOptions {
  /** The user whose data the store keeps: the user's id, or `null` for guests. */
  readonly user: string | null;
  /** The SQLite file, which is created if it doesn't exist; its folder must exist. */
  readonly path: string | URL;
  /**
   * The events that a write survives; see {@linkcode Durability}. With `strict`, each write waits for
   * the disk.
   *
   * @default {"relaxed"}
   */
  readonly durability?: "relaxed" | "strict" | undefined;
  /**
   * Maximum size of the file in bytes. The write-ahead log next to it uses up to 4 MiB more.
   *
   * @default {268435456}
   */
  readonly maxBytes?: number | undefined;
}

const KINDS: OptionKinds<FileStoreOptions> = {
  durability: ["relaxed", "strict"],
  maxBytes: POSITIVE,
  path: 0,
  user: "string or null",
};

/**
 * Creates a store in a SQLite file, for Deno and for Node 22.13 and later. Nothing is opened before
 * the client uses it.
 *
 * - **Of one user:** users may share a file, one after another; each sees only their own data.
 * - **Of one process:** while a client uses the file, other clients and processes can't open it.
 * - **Told:** if the file can't be opened, is full or damaged, the client tells `onError` once and
 *   goes on in memory. It leaves a damaged file as it is.
 * - **Private:** a new file can only be read by the user of the machine who runs the process. The
 *   data aren't encrypted.
 *
 * In Deno, it needs `--allow-read` and `--allow-write` for the file.
 *
 * @param options See {@linkcode FileStoreOptions}.
 * @returns The store, for the option `store` of `connect`. The client closes it.
 * @throws {TypeError} If an option has a wrong type, or there is no `user`.
 * @throws {RangeError} If `maxBytes` is not a positive integer.
 *
 * @example Usage
 * ```ts
 * import { connect } from "@skein/skein";
 * import { serve } from "@skein/skein/server";
 * import { fileStore } from "@skein/skein/store";
 * import { assertEquals } from "@std/assert";
 *
 * const path = `${await Deno.makeTempDir()}/sensor.db`;
 * await using server = serve({ port: 0, onListen() {}, onMessage: (message) => message.reply(1) });
 * await using client = connect(server.url, { store: fileStore({ user: null, path }) });
 * assertEquals(await client.request("count"), 1);
 * ```
 */
export function fileStore(options: FileStoreOptions): ClientStore {
  checkOptions("create store", options, KINDS);
  const { user, path, durability = "relaxed" } = options;
  if (!(path instanceof URL) && (typeof path !== "string" || path === "")) {
    throw new TypeError(
      `Cannot create store: path must be a non-empty string or a URL, received ${describe(path)}`,
    );
  }
  const { maxBytes } = checkLimits({ maxBytes: MAX_FILE_BYTES }, options, { of: "store: " });
  const settings = { path, owner: JSON.stringify(user), durability, maxBytes };
  return keptIn(new FileStore(settings), { user });
}

/** Settings of a {@linkcode FileStore}. */
export interface FileSettings {
  /** The file; a relative path is in the current folder. */
  readonly path: string | URL;
  /** The owner of the entries. Other owners' entries in the same file aren't visible. */
  readonly owner: string;
  readonly durability: "relaxed" | "strict";
  /** Maximum bytes of the file. */
  readonly maxBytes: number;
}

type Sqlite = typeof import("node:sqlite");

interface OpenFile {
  readonly db: DatabaseSync;
  readonly statements: Readonly<Record<keyof typeof STATEMENTS, StatementSync>>;
}

/** A store in a SQLite file, which is opened by the first operation, for one process at a time. */
export class FileStore implements Store {
  readonly name = "file";
  readonly isExclusive = true;
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
  const path = pathOf(settings.path);
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

/** Returns an absolute path, so that none has a special meaning to SQLite, such as `:memory:`. */
function pathOf(path: string | URL): string {
  const text = typeof path === "string" ? path : builtin("node:url").fileURLToPath(path);
  return builtin("node:path").resolve(text);
}

function openDatabase({ DatabaseSync }: Sqlite, path: string): DatabaseSync {
  try {
    createPrivate(path);
    return new DatabaseSync(path, { timeout: 0 });
  } catch (cause) {
    const why = faultOfPath(path) ?? textOf(cause);
    throw new StoreError("unavailable", `Cannot open ${path}: ${why}`, { cause });
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
  if (application !== APPLICATION_ID) throw new Error("Another program wrote the file");
  const version = pragma(db, "user_version");
  if (version === SCHEMA_VERSION) return false;
  throw new Error(
    `The file has the version ${version} of another release; this one reads ${SCHEMA_VERSION}`,
  );
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
