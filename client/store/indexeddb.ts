/** A store in a browser's IndexedDB. */
import { StoreError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { checkOptions, RUNTIME } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import type {
  IdbDatabase,
  IdbGlobals,
  IdbKeyRange,
  IdbObjectStore,
  IdbOpenRequest,
  IdbRequest,
  IdbTransaction,
} from "./indexeddb_types.ts";
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
import {
  checkBatch,
  checkPageBounds,
  checkRange,
  isEmptyRange,
  type PageBounds,
} from "./store_checks.ts";

/**
 * Maximum duration of one operation, in milliseconds. A browser may leave a request without any
 * event, for example while its storage process restarts.
 */
export const OPERATION_MS = 30_000;

/** Entries that a read requests at first, before it knows how large they are. */
const FIRST_STEP = 8;

/** Factor by which the requests of a read may grow. */
const STEP_GROWTH = 8;

/** The beginning of the name of the object store; random characters follow. */
const ENTRIES = "entries ";

/** Errors of a browser that doesn't allow the storage, for example in a sandboxed frame. */
const FORBIDDEN: ReadonlySet<string> = new Set([
  "InvalidStateError",
  "NotAllowedError",
  "SecurityError",
]);

/** Options of {@linkcode indexedDbStore}. */
export interface IndexedDbStoreOptions {
  /** The user whose data the store keeps: the user's id, or `null` for the guests of this device. */
  readonly user: string | null;
  /**
   * Name of the application's part of the store, if several use this origin. Each name and user has
   * a database of its own.
   *
   * @default {"default"}
   */
  readonly name?: string | undefined;
  /**
   * The events that a write survives; see {@linkcode Durability}. With `strict`, each write waits for
   * the device.
   *
   * @default {"relaxed"}
   */
  readonly durability?: "relaxed" | "strict" | undefined;
  /**
   * Clocks, timers and randomness.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

const KINDS: OptionKinds<IndexedDbStoreOptions> = {
  durability: ["relaxed", "strict"],
  name: "string",
  runtime: RUNTIME,
  user: "string or null",
};

/**
 * Creates a store in the browser's IndexedDB. Nothing is opened before the client uses it.
 *
 * - **Of one user:** each user has a database of their own, which `null` shares among the guests of
 *   this device. This guards against mix-ups, not against someone who has the device: the data
 *   aren't encrypted.
 * - **Told:** if the browser has no IndexedDB or doesn't allow it, if its quota is used up, or if the
 *   user deletes the data, the client tells `onError` once and goes on in memory.
 * - **Deleted by the browser:** a browser with little room may delete the data of an origin, unless
 *   `navigator.storage.persist()` was granted; Safari deletes them after seven days without a visit.
 *
 * @param options See {@linkcode IndexedDbStoreOptions}.
 * @returns The store, for the option `store` of `connect`. The client closes it.
 * @throws {TypeError} If an option has a wrong type, or there is no `user`.
 *
 * @example Usage
 * ```ts ignore
 * import { connect } from "@skein/skein/client";
 * import { indexedDbStore } from "@skein/skein/store";
 *
 * const client = connect("/chat", { store: indexedDbStore({ user: "ann" }) });
 * ```
 */
export function indexedDbStore(options: IndexedDbStoreOptions): ClientStore {
  checkOptions("create store", options, KINDS);
  const { user, name = "default", durability = "relaxed", runtime = platformRuntime() } = options;
  const database = `skein ${JSON.stringify([name, user])}`;
  return keptIn(new IndexedDbStore(database, { durability, runtime }), { user });
}

/** Settings of an {@linkcode IndexedDbStore}. */
export interface IndexedDbSettings {
  readonly durability: "relaxed" | "strict";
  readonly runtime: Runtime;
}

/** An open connection. */
interface Connection {
  readonly db: IdbDatabase;
  /** Name of the object store. */
  readonly entries: string;
  /** Aborts when the browser closes the connection. */
  readonly lost: AbortController;
}

type Work<T> = (entries: IdbObjectStore, transaction: IdbTransaction) => T | Promise<T>;

/**
 * A store in one database of IndexedDB, which is opened by the first operation.
 *
 * The object store has a random name. So if the browser closes the connection, which happens for
 * example to pages in the background, the store can tell the same database from one that was
 * deleted meanwhile. It continues with the same one only.
 */
export class IndexedDbStore implements Store {
  readonly name = "IndexedDB";
  readonly #database: string;
  readonly #settings: IndexedDbSettings;
  readonly #running = new Set<Promise<unknown>>();
  #connection: Promise<Connection> | undefined;
  /** Name of the object store, once it is known. */
  #entries: string | undefined;
  /** The reason why all further operations fail. */
  #end: string | undefined;
  #isClosed = false;

  /**
   * Creates the store.
   *
   * @param database Name of the database.
   * @param settings See {@linkcode IndexedDbSettings}.
   */
  constructor(database: string, settings: IndexedDbSettings) {
    this.#database = database;
    this.#settings = settings;
  }

  async read(range: StoreRange, options: StoreReadOptions = {}): Promise<StorePage> {
    checkRange(range, "read");
    const bounds = checkPageBounds(options);
    const { signal } = options;
    signal?.throwIfAborted();
    const work: Work<StorePage> = (entries) =>
      isEmptyRange(range) ? { entries: [], isComplete: true } : readPage(entries, range, bounds);
    return await this.#run("read", "readonly", work, signal);
  }

  async write(batch: StoreBatch): Promise<Durability> {
    checkBatch(batch);
    return await this.#write("write", batch);
  }

  async delete(range: StoreRange): Promise<Durability> {
    checkRange(range, "delete");
    return await this.#write("delete", { deletes: [range] });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled(this.#running);
    const connection = await this.#connection?.catch(() => undefined);
    connection?.db.close();
    this.#connection = undefined;
  }

  async #write(verb: string, { deletes = [], puts = [] }: StoreBatch): Promise<Durability> {
    return await this.#run(verb, "readwrite", (entries, transaction) => {
      for (const range of deletes) {
        if (!isEmptyRange(range)) entries.delete(keyRange(range));
      }
      // A copy: the browser would store the whole buffer of which the value is a part.
      for (const { key, value } of puts) entries.put(value.slice().buffer, key);
      transaction.commit?.();
      return transaction.durability === "strict" ? "strict" : "relaxed";
    });
  }

  async #run<T>(
    verb: string,
    mode: "readonly" | "readwrite",
    work: Work<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    if (this.#isClosed) {
      throw new StoreError("closed", `Cannot ${verb}: the store is closed`);
    }
    const running = this.#transact(mode, work, signal);
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      if (signal?.aborted && error === signal.reason) throw error;
      throw storeErrorOf(verb, error);
    } finally {
      this.#running.delete(running);
    }
  }

  /** Runs a transaction; its outcome is known even if the browser leaves it without an event. */
  async #transact<T>(
    mode: "readonly" | "readwrite",
    work: Work<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const { runtime } = this.#settings;
    const { transaction, connection } = await this.#begin(mode);
    const settled = settlementOf(transaction);
    const working = (async () =>
      await work(
        transaction.objectStore(connection.entries),
        transaction,
      ))();
    // The first to fail tells why: work that fails aborts the transaction, and vice versa.
    const outcome = Promise.all([working, settled]).then(([result]) => result);
    try {
      const watched = within(runtime, outcome, { signal: connection.lost.signal });
      return await within(runtime, watched, {
        timeoutMs: OPERATION_MS,
        late: "IndexedDB didn't respond within",
        signal,
      });
    } catch (error) {
      abort(transaction);
      throw error;
    }
  }

  /** Begins a transaction, on a new connection if the browser has closed the last one. */
  async #begin(mode: "readonly" | "readwrite"): Promise<{
    readonly transaction: IdbTransaction;
    readonly connection: Connection;
  }> {
    const { durability } = this.#settings;
    for (let isRetry = false;; isRetry = true) {
      const connecting = this.#connect();
      const connection = await connecting;
      try {
        const { db, entries } = connection;
        return { transaction: db.transaction(entries, mode, { durability }), connection };
      } catch (error) {
        // Browsers also lose connections without an event.
        if (this.#connection === connecting) this.#connection = undefined;
        if (isRetry) throw error;
      }
    }
  }

  #connect(): Promise<Connection> {
    if (this.#connection !== undefined) return this.#connection;
    const connecting = this.#open().catch((error) => {
      if (this.#connection === connecting) this.#connection = undefined;
      throw error;
    });
    return this.#connection = connecting;
  }

  async #open(): Promise<Connection> {
    try {
      return await this.#openOnce();
    } catch (error) {
      // Chromium does so while it clears the site's data.
      if (nameOf(error) !== "AbortError") throw error;
      return await this.#openOnce();
    }
  }

  async #openOnce(): Promise<Connection> {
    this.#throwIfEnded();
    const { runtime } = this.#settings;
    const request = openDatabase(this.#database);
    const entries = `${ENTRIES}${runtime.randomUUID()}`;
    request.onupgradeneeded = () => {
      if (this.#entries === undefined) return void request.result.createObjectStore(entries);
      this.#end = DELETED;
      request.transaction?.abort();
    };
    const opening = resultOf(request).catch((cause) => {
      this.#throwIfEnded();
      throw FORBIDDEN.has(nameOf(cause)) ? unavailable(cause) : cause;
    });
    const db = await within(runtime, opening, {
      timeoutMs: OPERATION_MS,
      late: "IndexedDB didn't open within",
      discard: (db) => db.close(),
    });
    return this.#adopt(db);
  }

  /** Checks a database, and watches its connection. */
  #adopt(db: IdbDatabase): Connection {
    const [entries = "", ...others] = db.objectStoreNames;
    if (!entries.startsWith(ENTRIES) || others.length > 0) {
      db.close();
      throw new Error(`Another program owns the database ${JSON.stringify(this.#database)}`);
    }
    if (entries !== (this.#entries ?? entries)) {
      db.close();
      this.#end = DELETED;
      this.#throwIfEnded();
    }
    this.#entries = entries;
    const lost = new AbortController();
    db.onclose = () => {
      this.#connection = undefined;
      lost.abort(new Error("The browser closed the database"));
    };
    db.onversionchange = ({ newVersion }) => {
      // A deletion or an upgrade waits until all connections are closed.
      this.#end = newVersion === null
        ? DELETED
        : "another version of the program changes the database";
      this.#connection = undefined;
      db.close();
    };
    return { db, entries, lost };
  }

  #throwIfEnded(): void {
    if (this.#end !== undefined) throw new Error(this.#end);
  }
}

const DELETED = "the database was deleted";

function openDatabase(name: string): IdbOpenRequest {
  try {
    const { indexedDB } = globals();
    if (indexedDB !== undefined && indexedDB !== null) return indexedDB.open(name);
  } catch (cause) {
    throw unavailable(cause);
  }
  throw new StoreError(
    "unavailable",
    "Cannot open IndexedDB: this platform has none; use fileStore in Deno and Node",
  );
}

function unavailable(cause: unknown): StoreError {
  return new StoreError("unavailable", `Cannot open IndexedDB: ${textOf(cause)}`, { cause });
}

/** Reads a page with few requests, and without loading much more than its bytes. */
async function readPage(
  store: IdbObjectStore,
  { from, to }: StoreRange,
  { maxEntries, maxBytes }: PageBounds,
): Promise<StorePage> {
  const entries: StoreEntry[] = [];
  let bytes = 0;
  let first = from;
  for (let step = FIRST_STEP;;) {
    const count = Math.min(step, maxEntries - entries.length);
    const range = keyRange({ from: first, to });
    const [keys, values] = await Promise.all([
      resultOf(store.getAllKeys(range, count + 1)),
      resultOf(store.getAll(range, count)),
    ]);
    for (const [i, stored] of values.entries()) {
      const entry = { key: new Uint8Array(keys[i]!), value: bytesOf(stored) };
      bytes += entry.key.byteLength + entry.value.byteLength;
      if (entries.length > 0 && bytes > maxBytes) return { entries, isComplete: false };
      entries.push(entry);
    }
    const next = keys[count];
    if (next === undefined) return { entries, isComplete: true };
    if (entries.length === maxEntries) return { entries, isComplete: false };
    first = new Uint8Array(next);
    const fitting = Math.floor((maxBytes - bytes) * entries.length / bytes);
    step = Math.max(1, Math.min(fitting, step * STEP_GROWTH));
  }
}

/** A value that another program stored may be anything; it is read as empty. */
function bytesOf(stored: unknown): Uint8Array {
  return stored instanceof ArrayBuffer ? new Uint8Array(stored) : new Uint8Array();
}

/** Arrays come after all binary keys, so an empty array ends a range of binary keys. */
function keyRange({ from, to }: StoreRange): IdbKeyRange {
  return globals().IDBKeyRange.bound(from, to ?? [], false, true);
}

function globals(): IdbGlobals {
  return globalThis as unknown as IdbGlobals;
}

function resultOf<T>(request: IdbRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = (event) => {
      // Firefox reports an error that no one prevents to the page.
      event.preventDefault();
      reject(request.error);
    };
  });
}

function settlementOf(transaction: IdbTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () =>
      reject(transaction.error ?? new Error("The transaction was aborted"));
  });
}

function abort(transaction: IdbTransaction): void {
  try {
    transaction.abort();
  } catch {
    // It is over.
  }
}

function nameOf(error: unknown): string {
  return (error as { readonly name?: string } | null)?.name ?? "";
}

function storeErrorOf(verb: string, cause: unknown): StoreError {
  if (cause instanceof StoreError) return cause;
  const name = nameOf(cause);
  if (name === "QuotaExceededError") {
    return new StoreError("full", `Cannot ${verb}: the browser's quota is used up`, { cause });
  }
  return new StoreError("failed", `Cannot ${verb} in IndexedDB: ${textOf(cause) || name}`, {
    cause,
  });
}
