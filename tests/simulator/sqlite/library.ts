/** SQLite itself, compiled to WebAssembly, on the disks of simulated machines. */
import type { SQLInputValue } from "node:sqlite";
import type { Database, Statement } from "../../../brokers/sqlite/database.ts";
import { DiskError, type DiskFault, type DiskFile, type SimulatedDisk } from "./disk.ts";

/** Result codes of SQLite. */
const OK = 0, BUSY = 5, NO_MEMORY = 7, IO_ERROR = 10, NOT_FOUND = 12, FULL = 13, CANNOT_OPEN = 14;

/** Extended result codes of SQLite. */
const READ_ERROR = 266, SHORT_READ = 522, WRITE_ERROR = 778, SYNC_ERROR = 1034;
const DELETE_NO_ENTRY = 5898;

/** The error code of a disk failure, by operation. */
const ERRORS = { read: READ_ERROR, write: WRITE_ERROR, sync: SYNC_ERROR } as const;

/** A power loss during a write does not damage the bytes around it, as SQLite assumes on Unix. */
const POWERSAFE_OVERWRITE = 0x1000;

/** Size of a page and of a sector, as in the SQLite of the runtime. */
const PAGE_BYTES = 4_096;

/** Name of the virtual file system for the disks. */
const VFS = "skein-simulation";

/** An address in the memory of WebAssembly. */
type Pointer = number;

/** The part of the package that is used here. */
interface Wasm {
  /** Functions that log; errors are also thrown. */
  readonly config: Record<"warn" | "error", () => void>;
  readonly capi: {
    readonly sqlite3_io_methods: new () => Struct & { $iVersion: number };
    readonly sqlite3_vfs: new () => Struct & {
      $iVersion: number;
      $szOsFile: number;
      $mxPathname: number;
    };
    readonly sqlite3_file: {
      new (pointer: Pointer): Struct & { $pMethods: Pointer };
      readonly structInfo: { readonly sizeof: number };
    };
    sqlite3_randomness(bytes: number, into: number): void;
    sqlite3_get_autocommit(db: Pointer): number;
    sqlite3_last_insert_rowid(db: Pointer): bigint;
    sqlite3_libversion(): string;
  };
  readonly wasm: {
    heap8u(): Uint8Array;
    poke(pointer: Pointer, value: number | bigint, type: "i32" | "i64" | "double"): void;
    cstrToJs(pointer: Pointer): string | null;
  };
  readonly vfs: {
    installVfs(options: {
      readonly io: { readonly struct: Struct; readonly methods: Record<string, Method> };
      readonly vfs: {
        readonly struct: Struct;
        readonly methods: Record<string, Method>;
        readonly name: string;
        readonly asDefault: boolean;
      };
    }): void;
  };
  readonly oo1: { readonly DB: new (options: Record<string, string>) => WasmDatabase };
}

// deno-lint-ignore no-explicit-any -- Each SQLite method has its own parameters.
type Method = (...args: any[]) => number;

interface Struct {
  readonly pointer: Pointer;
  dispose(): void;
}

interface WasmDatabase {
  readonly pointer: Pointer;
  isOpen(): boolean;
  exec(sql: string): void;
  prepare(sql: string): WasmStatement;
  changes(): number;
  close(): void;
}

interface WasmStatement {
  readonly parameterCount: number;
  bind(values: readonly unknown[] | Record<string, unknown>): void;
  step(): boolean;
  get(into: Record<string, unknown>): Record<string, unknown>;
  reset(alsoClear?: boolean): void;
  finalize(): void;
}

/** An open file of a connection. */
interface OpenFile {
  readonly connection: SimulatedConnection;
  readonly path: string;
  readonly file: DiskFile;
  readonly isDeletedAtClose: boolean;
}

/**
 * SQLite, loaded once for all simulations of a process.
 *
 * The same C code as in the runtime runs here as WebAssembly, and all of its reads, writes, syncs
 * and locks go to the disk of a simulated machine. No real file is touched.
 */
export class SqliteLibrary {
  static #loaded: Promise<SqliteLibrary> | undefined;
  readonly #wasm: Wasm;
  readonly #connections = new Map<string, SimulatedConnection>();
  readonly #files = new Map<Pointer, OpenFile>();
  #connected = 0;
  /** Random numbers of the last opened disk, from which SQLite draws the salts of its logs. */
  #random: () => number = () => 0;

  private constructor(wasm: Wasm) {
    this.#wasm = wasm;
    wasm.config.warn = wasm.config.error = () => {};
    this.#install();
  }

  /** Loads SQLite once per process. This is real work, so do it before a simulation. */
  static load(): Promise<SqliteLibrary> {
    return this.#loaded ??= (async () => {
      const { default: load } = await import("@sqlite.org/sqlite-wasm");
      return new SqliteLibrary(await load() as unknown as Wasm);
    })();
  }

  get version(): string {
    return this.#wasm.capi.sqlite3_libversion();
  }

  /** Number of open connections, including those of ended processes until they are closed. */
  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Opens or creates a database.
   *
   * @returns The connection, which ends with the host's current life.
   */
  connect(disk: SimulatedDisk, path: string): SimulatedConnection {
    const id = `${++this.#connected}`;
    this.#random = () => disk.random();
    // Draws the salts of the next write-ahead log from the disk's random numbers, the same in each
    // run.
    this.#wasm.capi.sqlite3_randomness(0, 0);
    const connection = new SimulatedConnection(this.#wasm, disk, {
      name: `/${id}/${path}`,
      onMount: (connection) => this.#connections.set(id, connection),
      onClose: () => void this.#connections.delete(id),
    });
    return connection;
  }

  #install(): void {
    const { capi, wasm, vfs } = this.#wasm;
    const io = new capi.sqlite3_io_methods();
    io.$iVersion = 1;
    const struct = new capi.sqlite3_vfs();
    struct.$iVersion = 1;
    struct.$szOsFile = capi.sqlite3_file.structInfo.sizeof;
    struct.$mxPathname = 1_024;
    vfs.installVfs({
      io: { struct: io, methods: this.#fileMethods() },
      vfs: {
        struct,
        name: VFS,
        asDefault: true,
        methods: {
          xOpen: (_vfs, name: Pointer, pointer: Pointer, flags: number, out: Pointer) =>
            this.#open(io.pointer, { name, pointer, flags, out }),
          xDelete: (_vfs, name: Pointer) => {
            const { connection, path } = this.#find(name)!;
            return connection.attempt("write", ({ disk }) => {
              if (!disk.has(path)) return DELETE_NO_ENTRY;
              disk.remove(path);
              return OK;
            });
          },
          xAccess: (_vfs, name: Pointer, _flags, out: Pointer) => {
            const { connection, path } = this.#find(name)!;
            const { disk } = connection;
            wasm.poke(out, disk.has(path) && disk.file(path).size > 0 ? 1 : 0, "i32");
            return OK;
          },
          xFullPathname: (_vfs, name: Pointer, length: number, out: Pointer) => {
            const bytes = new TextEncoder().encode(`${wasm.cstrToJs(name)}\0`);
            if (bytes.length > length) return CANNOT_OPEN;
            wasm.heap8u().set(bytes, out);
            return OK;
          },
          xRandomness: (_vfs, length: number, out: Pointer) => {
            const heap = wasm.heap8u();
            for (let i = 0; i < length; i++) heap[out + i] = Math.floor(this.#random() * 256);
            return length;
          },
          xSleep: () => OK,
          // No statement reads SQLite's clock.
          xCurrentTime: (_vfs, out: Pointer) => {
            wasm.poke(out, 0, "double");
            return OK;
          },
          xGetLastError: () => OK,
        },
      },
    });
  }

  #open(
    methods: Pointer,
    { name, pointer, flags, out }: Record<"name" | "pointer" | "flags" | "out", number>,
  ): number {
    const { capi, wasm } = this.#wasm;
    const found = this.#find(name);
    if (found === undefined) return CANNOT_OPEN; // Temporary files are in memory.
    const { connection, path } = found;
    if (connection.isDead) return CANNOT_OPEN;
    const file = connection.disk.file(path);
    this.#files.set(pointer, { connection, path, file, isDeletedAtClose: (flags & 8) !== 0 });
    const struct = new capi.sqlite3_file(pointer);
    struct.$pMethods = methods;
    struct.dispose();
    wasm.poke(out, flags, "i32");
    return OK;
  }

  #fileMethods(): Record<string, Method> {
    const { wasm } = this.#wasm;
    const files = this.#files;
    const at = (pointer: Pointer) => files.get(pointer)!;
    return {
      xClose: (pointer: Pointer) => {
        const { connection, path, file, isDeletedAtClose } = at(pointer);
        files.delete(pointer);
        if (!connection.isDead) {
          file.unlock(connection, 0);
          if (isDeletedAtClose) connection.disk.remove(path);
        }
        return OK;
      },
      xRead: (pointer: Pointer, into: Pointer, length: number, offset: bigint) => {
        const { connection, file } = at(pointer);
        return connection.attempt("read", () => {
          const bytes = wasm.heap8u().subarray(into, into + length);
          const read = file.read(Number(offset), bytes);
          bytes.fill(0, read);
          return read < length ? SHORT_READ : OK;
        });
      },
      xWrite: (pointer: Pointer, from: Pointer, length: number, offset: bigint) => {
        const { connection, file } = at(pointer);
        const bytes = wasm.heap8u().subarray(from, from + length);
        const torn = (share: number) => file.tear(Number(offset), bytes, share);
        return connection.attempt("write", () => {
          file.write(Number(offset), bytes);
          return OK;
        }, torn);
      },
      xTruncate: (pointer: Pointer, size: bigint) => {
        const { connection, file } = at(pointer);
        return connection.attempt("write", () => {
          file.truncate(Number(size));
          return OK;
        });
      },
      xSync: (pointer: Pointer) => {
        const { connection, file } = at(pointer);
        return connection.attempt("sync", () => {
          file.sync();
          return OK;
        });
      },
      xFileSize: (pointer: Pointer, out: Pointer) => {
        wasm.poke(out, BigInt(at(pointer).file.size), "i64");
        return OK;
      },
      xLock: (pointer: Pointer, level: number) => {
        const { connection, file } = at(pointer);
        if (connection.isDead) return IO_ERROR;
        return file.lock(connection, level) ? OK : BUSY;
      },
      xUnlock: (pointer: Pointer, level: number) => {
        const { connection, file } = at(pointer);
        if (!connection.isDead) file.unlock(connection, level);
        return OK;
      },
      xCheckReservedLock: (pointer: Pointer, out: Pointer) => {
        wasm.poke(out, at(pointer).file.isReserved ? 1 : 0, "i32");
        return OK;
      },
      xFileControl: () => NOT_FOUND,
      xSectorSize: () => PAGE_BYTES,
      xDeviceCharacteristics: () => POWERSAFE_OVERWRITE,
    };
  }

  /** Finds the connection for a name, and the path on its disk. */
  #find(
    name: Pointer,
  ): { readonly connection: SimulatedConnection; readonly path: string } | undefined {
    const [, id, path] = /^\/(\d+)\/(.*)$/s.exec(this.#wasm.wasm.cstrToJs(name) ?? "") ?? [];
    const connection = this.#connections.get(id ?? "");
    return connection && path !== undefined ? { connection, path } : undefined;
  }
}

/** A connection to a database on the disk of a simulated machine. */
export class SimulatedConnection implements Database {
  readonly disk: SimulatedDisk;
  readonly #wasm: Wasm;
  readonly #db: WasmDatabase;
  readonly #statements = new Map<string, SimulatedStatement>();
  readonly #life: number;
  readonly #onClose: () => void;

  /** Opens the database; as `SqliteLibrary.connect()` does. */
  constructor(wasm: Wasm, disk: SimulatedDisk, options: {
    readonly name: string;
    readonly onMount: (connection: SimulatedConnection) => void;
    readonly onClose: () => void;
  }) {
    this.#wasm = wasm;
    this.disk = disk;
    this.#life = disk.host.life;
    this.#onClose = options.onClose;
    options.onMount(this);
    try {
      this.#db = calling(() => new wasm.oo1.DB({ filename: options.name, flags: "c", vfs: VFS }));
      this.exec(`PRAGMA page_size = ${PAGE_BYTES}`);
    } catch (error) {
      options.onClose();
      throw error;
    }
  }

  /**
   * True after the end of the process that opened the database; its writes no longer take effect.
   */
  get isDead(): boolean {
    return this.disk.host.life !== this.#life || !this.disk.host.isAlive;
  }

  /** True until it is closed. */
  get isOpen(): boolean {
    return this.#db.isOpen();
  }

  /** True between a BEGIN and the end of the transaction. */
  get isTransaction(): boolean {
    return this.#wasm.capi.sqlite3_get_autocommit(this.#db.pointer) === 0;
  }

  /** Runs statements without results. */
  exec(sql: string): void {
    calling(() => this.#db.exec(sql));
  }

  /** Compiles a statement, once per text. */
  prepare(sql: string): Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      const compiled = calling(() => this.#db.prepare(sql));
      statement = new SimulatedStatement(this.#wasm, this.#db, compiled);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** Closes the database. */
  close(): void {
    for (const statement of this.#statements.values()) statement.finalize();
    this.#statements.clear();
    this.#db.close();
    this.#onClose();
  }

  /** Performs an operation on the disk, unless the process has ended or a fault happens first. */
  attempt(
    operation: NonNullable<DiskFault["operation"]>,
    run: (connection: this) => number,
    torn?: (share: number) => void,
  ): number {
    if (this.isDead) return IO_ERROR;
    try {
      this.disk.begin(operation, torn);
      return run(this);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      return error.isFull ? FULL : ERRORS[operation];
    }
  }
}

/** A compiled statement. */
class SimulatedStatement implements Statement {
  readonly #wasm: Wasm;
  readonly #db: WasmDatabase;
  readonly #statement: WasmStatement;

  constructor(wasm: Wasm, db: WasmDatabase, statement: WasmStatement) {
    this.#wasm = wasm;
    this.#db = db;
    this.#statement = statement;
  }

  run(...values: SQLInputValue[] | [Record<string, SQLInputValue>, ...SQLInputValue[]]) {
    this.#step(values, () => false);
    const lastInsertRowid = this.#wasm.capi.sqlite3_last_insert_rowid(this.#db.pointer);
    return { changes: this.#db.changes(), lastInsertRowid };
  }

  get(...values: SQLInputValue[] | [Record<string, SQLInputValue>, ...SQLInputValue[]]) {
    let row: Row | undefined;
    this.#step(values, (one) => {
      row = one;
      return false;
    });
    return row;
  }

  all(...values: SQLInputValue[] | [Record<string, SQLInputValue>, ...SQLInputValue[]]) {
    const rows: Row[] = [];
    this.#step(values, (row) => rows.push(row) > 0);
    return rows;
  }

  finalize(): void {
    this.#statement.finalize();
  }

  #step(values: readonly unknown[], onRow: (row: Row) => boolean): void {
    const statement = this.#statement;
    calling(() => {
      try {
        if (values.length > 0) statement.bind(bindable(values));
        while (statement.step() && onRow(statement.get({}) as Row));
      } finally {
        try {
          statement.reset();
        } catch {
          // A reset repeats the error of the last step, which was already thrown.
        }
      }
    });
  }
}

/** A row by column. */
type Row = NonNullable<ReturnType<Statement["get"]>>;

/** Values by position, or by name with SQLite's prefix. */
function bindable(values: readonly unknown[]): readonly unknown[] | Record<string, unknown> {
  const [first] = values;
  if (typeof first !== "object" || first === null || ArrayBuffer.isView(first)) return values;
  return Object.fromEntries(Object.entries(first).map(([name, value]) => [`:${name}`, value]));
}

/** Converts SQLite errors to the form of `node:sqlite`. */
function calling<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    const { resultCode, message } = cause as { readonly resultCode?: number; message: string };
    // A lack of memory here is not a fault of the simulated machine.
    if (resultCode === undefined || resultCode === NO_MEMORY) throw cause;
    const text = message.replace(/^.*: sqlite3 result code \d+: /, "");
    throw Object.assign(new Error(text, { cause }), { errcode: resultCode });
  }
}
