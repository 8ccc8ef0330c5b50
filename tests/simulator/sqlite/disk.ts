/** The disk of a simulated machine: files that lose unsynced writes at a power loss. */
import type { Host } from "../host.ts";
import type { Simulation } from "../simulation.ts";

/** Bytes that a disk writes atomically. */
const SECTOR_BYTES = 512;

/** A fault of a disk, or of its machine in the middle of an operation. */
export interface DiskFault {
  /**
   * The fault:
   *
   * - `full`: a write fails because the disk is full.
   * - `error`: an operation fails, as on a broken disk.
   * - `kill`: the process is killed in the middle of the operation; the operating system keeps all
   *   writes.
   * - `power`: the machine loses power in the middle of the operation.
   */
  readonly kind: "full" | "error" | "kill" | "power";
  /**
   * Kind of the operations that are counted and fail; `full` applies only to writes.
   *
   * @default {"write"}
   */
  readonly operation?: "read" | "write" | "sync" | undefined;
  /**
   * Number of operations of this kind that succeed first.
   *
   * @default {0}
   */
  readonly after?: number | undefined;
  /**
   * Number of consecutive operations that fail; `Infinity` until `heal()`.
   *
   * @default {1}
   */
  readonly times?: number | undefined;
}

/** Kind of an operation on a file. */
type DiskOperation = NonNullable<DiskFault["operation"]>;

interface PlannedFault {
  readonly kind: DiskFault["kind"];
  readonly operation: DiskOperation;
  after: number;
  times: number;
}

/** A change of a file that may not be on the disk yet. */
type Change =
  | { readonly at: number; readonly bytes: Uint8Array }
  | { readonly size: number };

/** A failed operation, without SQLite codes, so that a disk does not depend on SQLite. */
export class DiskError extends Error {
  /** True if the disk is full. */
  readonly isFull: boolean;

  /**
   * Creates the error of an operation.
   *
   * @param isFull True if the disk is full.
   */
  constructor(message: string, isFull = false) {
    super(message);
    this.name = "DiskError";
    this.isFull = isFull;
  }
}

/**
 * The disk of a simulated machine.
 *
 * - **When a process is killed**, the operating system keeps all its writes.
 * - **After a power loss**, a random part of the writes since the file's last sync is lost: all,
 *   none, those after some point, or any sectors of 512 bytes. Synced bytes remain.
 * - **Faults** happen at a chosen operation: the disk is full, an error occurs, or a kill or power
 *   loss interrupts a write after its first sectors.
 *
 * @example A full disk
 * ```ts
 * import { SimulatedDisk, SimulatedSqlite, Simulation } from "../mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const disk = new SimulatedDisk(simulation, simulation.host("server"));
 * const sqlite = await SimulatedSqlite.load(simulation);
 * const broker = sqlite.open(disk, "chat.db");
 * disk.fail({ kind: "full", times: Infinity });
 * const bounds = { size: 100, ttlMs: 3_600_000, bytes: 1_048_576 };
 * void broker.history.append({ topic: "news", payload: "1" }, { bounds }).catch(() => {});
 * await simulation.run(100);
 * assertEquals(broker.status.current.name, "interrupted");
 * disk.heal();
 * ```
 */
export class SimulatedDisk {
  /** The machine. */
  readonly host: Host;
  readonly #simulation: Simulation;
  readonly #files = new Map<string, DiskFile>();
  readonly #faults: PlannedFault[] = [];
  readonly #random: () => number;
  #bootedAtMs: number | undefined;
  #watched: number | undefined;

  /**
   * Creates an empty disk.
   *
   * @param host The machine.
   */
  constructor(simulation: Simulation, host: Host) {
    this.#simulation = simulation;
    this.host = host;
    this.#random = simulation.chanceOf(`${host.name}/disk`);
    this.#watch();
  }

  /** Names of the files, in the order of their creation. */
  get paths(): readonly string[] {
    return [...this.#files.keys()];
  }

  /** Time since the machine started, in milliseconds; it first starts with the simulation. */
  get uptimeMs(): number {
    this.#watch();
    return this.#simulation.nowMs - this.#bootedAtMs!;
  }

  /**
   * Returns a random number of this disk in [0, 1).
   *
   * @ignore
   */
  random(): number {
    return this.#random();
  }

  /**
   * Plans a fault.
   *
   * @param fault See {@linkcode DiskFault}.
   */
  fail(fault: DiskFault): void {
    const { kind, operation = "write", after = 0, times = 1 } = fault;
    this.#faults.push({ kind, operation, after, times });
  }

  /** Removes all planned and continuing faults. */
  heal(): void {
    this.#faults.length = 0;
  }

  /**
   * Lets another process use a file, so that no program on the host can open it.
   *
   * @param path The file.
   * @returns A function that ends the use.
   */
  occupy(path: string): () => void {
    const file = this.file(path);
    const other = {};
    file.lock(other, EXCLUSIVE);
    return () => file.unlock(other, 0);
  }

  /**
   * Reads the current content of a file, including unsynced writes.
   *
   * @param path The file.
   * @returns A copy of the content; empty if there is no such file.
   */
  read(path: string): Uint8Array {
    return this.#files.get(path)?.content() ?? new Uint8Array();
  }

  /**
   * Replaces a file, as if it was damaged or restored from a backup. The new content is synced.
   *
   * @param path The file.
   */
  replace(path: string, content: Uint8Array): void {
    const file = new DiskFile();
    file.write(0, content);
    file.sync();
    this.#files.set(path, file);
  }

  /**
   * Renames a file.
   *
   * @param path The file.
   * @param name The new name.
   * @throws {DiskError} If there is no such file.
   */
  rename(path: string, name: string): void {
    const file = this.#files.get(path);
    if (file === undefined) throw new DiskError(`Cannot rename: no such file, received ${path}`);
    this.#files.delete(path);
    this.#files.set(name, file);
  }

  /**
   * Checks whether a file exists.
   *
   * @param path The file.
   * @returns True if the file exists.
   */
  has(path: string): boolean {
    return this.#files.has(path);
  }

  /**
   * Removes a file, if it exists.
   *
   * @param path The file.
   */
  remove(path: string): void {
    this.#files.delete(path);
  }

  /**
   * Returns a file, created if missing.
   *
   * @ignore
   */
  file(path: string): DiskFile {
    this.#watch();
    let file = this.#files.get(path);
    if (file === undefined) this.#files.set(path, file = new DiskFile());
    return file;
  }

  /**
   * Starts an operation on a file, unless a fault happens first.
   *
   * @param operation Kind of the operation.
   * @param torn Writes the given share of the data, from 0 to 1, before the process ends.
   * @throws {DiskError} If the operation fails.
   * @ignore
   */
  begin(operation: DiskOperation, torn?: (share: number) => void): void {
    for (const fault of this.#faults) {
      if (fault.operation !== operation) continue;
      if (fault.after > 0) {
        fault.after--;
        continue;
      }
      if (--fault.times <= 0) this.#faults.splice(this.#faults.indexOf(fault), 1);
      this.#note(`${fault.kind} at a ${operation}`);
      if (fault.kind === "full") throw new DiskError("Cannot write: the disk is full", true);
      if (fault.kind === "error") throw new DiskError(`Cannot ${operation}: the disk failed`);
      torn?.(this.#random());
      this.host.kill({ power: fault.kind === "power" });
      throw new DiskError(`Cannot ${operation}: the process ended`);
    }
  }

  /** Watches the current life, whose end may be a power loss. */
  #watch(): void {
    this.#bootedAtMs ??= this.#simulation.nowMs;
    const { life } = this.host;
    if (this.#watched === life) return;
    this.#watched = life;
    this.host.onEnd((isPowerLoss) => {
      for (const file of this.#files.values()) file.unlockAll();
      if (isPowerLoss) this.#losePower();
    });
  }

  #losePower(): void {
    this.#bootedAtMs = undefined;
    for (const [path, file] of this.#files) {
      const how = LOSSES[Math.floor(this.#random() * LOSSES.length)]!;
      const lost = file.losePower(how, this.#random);
      if (lost > 0) this.#note(`${lost} writes of ${path} were not on the disk (${how})`);
    }
  }

  #note(text: string): void {
    this.#simulation.note(text, this.host.name, { kind: "fault" });
  }
}

/** Ways in which unsynced writes survive a power loss. */
const LOSSES = ["none stays", "all stay", "the first stay", "any sectors stay"] as const;

/** Level of an exclusive lock; the levels are SQLite's. */
const EXCLUSIVE = 4;

/** Level of a lock that is shared by readers. */
const SHARED = 1;

/** A file, with its content in the operating system and on the disk. */
export class DiskFile {
  readonly #present = new Content();
  #synced = new Content();
  #changes: Change[] = [];
  readonly #locks = new Map<object, number>();

  /** Size in bytes. */
  get size(): number {
    return this.#present.size;
  }

  /** Copies the content. */
  content(): Uint8Array {
    return this.#present.slice();
  }

  /** Reads bytes; returns their number, fewer than requested at the end of the file. */
  read(at: number, into: Uint8Array): number {
    return this.#present.read(at, into);
  }

  /** Writes bytes, which are copied. */
  write(at: number, bytes: Uint8Array): void {
    this.#change({ at, bytes: bytes.slice() });
  }

  /** Writes the first sectors of an incomplete write. */
  tear(at: number, bytes: Uint8Array, share: number): void {
    const end = Math.floor((at + bytes.length * share) / SECTOR_BYTES) * SECTOR_BYTES;
    if (end > at) this.write(at, bytes.subarray(0, end - at));
  }

  /** Changes the size. */
  truncate(size: number): void {
    this.#change({ size });
  }

  /** Writes all changes to the disk. */
  sync(): void {
    for (const change of this.#changes) this.#synced.apply(change);
    this.#changes = [];
  }

  /** Loses unsynced changes; returns the number of changes that were lost, at least in part. */
  losePower(how: (typeof LOSSES)[number], random: () => number): number {
    const changes = this.#changes;
    this.#changes = [];
    const content = this.#synced;
    let lost = 0;
    if (how === "all stay") { for (const change of changes) content.apply(change); }
    else if (how === "none stays") lost = changes.length;
    else if (how === "the first stay") {
      const kept = Math.floor(random() * (changes.length + 1));
      for (const change of changes.slice(0, kept)) content.apply(change);
      const torn = changes[kept];
      if (torn !== undefined && "bytes" in torn) content.applySectors(torn, firstOnes(random()));
      lost = changes.length - kept;
    } else {
      for (const change of changes) {
        if ("bytes" in change) lost += content.applySectors(change, () => random() < 0.5) ? 0 : 1;
        else if (random() < 0.5) content.apply(change);
        else lost++;
      }
    }
    this.#present.copy(content);
    return lost;
  }

  /** Takes or raises a lock; false while another user has a conflicting one. */
  lock(user: object, level: number): boolean {
    for (const [other, held] of this.#locks) {
      if (other === user) continue;
      // A reader conflicts with a committing writer, and a writer with another writer.
      const conflicts = level === SHARED ? held > 2 : level === EXCLUSIVE || held > SHARED;
      if (conflicts) return false;
    }
    this.#locks.set(user, Math.max(level, this.#locks.get(user) ?? 0));
    return true;
  }

  /** Lowers a lock. */
  unlock(user: object, level: number): void {
    if (level > 0) this.#locks.set(user, level);
    else this.#locks.delete(user);
  }

  /** Releases all locks, as the end of their processes does. */
  unlockAll(): void {
    this.#locks.clear();
  }

  /** True if a user has a write lock. */
  get isReserved(): boolean {
    return [...this.#locks.values()].some((level) => level > SHARED);
  }

  #change(change: Change): void {
    this.#present.apply(change);
    this.#changes.push(change);
  }
}

/** Bytes of a file, in a growing buffer. */
class Content {
  #buffer = new Uint8Array(8_192);
  size = 0;

  slice(): Uint8Array {
    return this.#buffer.slice(0, this.size);
  }

  read(at: number, into: Uint8Array): number {
    const bytes = this.#buffer.subarray(Math.min(at, this.size), this.size).subarray(
      0,
      into.length,
    );
    into.set(bytes);
    return bytes.length;
  }

  copy(other: Content): void {
    this.#buffer = other.#buffer.slice();
    this.size = other.size;
  }

  apply(change: Change): void {
    if ("size" in change) return this.#resize(change.size);
    const { at, bytes } = change;
    if (at + bytes.length > this.size) this.#resize(at + bytes.length);
    this.#buffer.set(bytes, at);
  }

  /**
   * Applies some sectors of a write; true if it applied all. Sectors start at multiples of 512.
   */
  applySectors(
    { at, bytes }: { readonly at: number; readonly bytes: Uint8Array },
    isKept: (share: number) => boolean,
  ): boolean {
    let isWhole = true;
    for (let from = 0; from < bytes.length;) {
      const end = Math.min(bytes.length, from + SECTOR_BYTES - (at + from) % SECTOR_BYTES);
      if (isKept(end / bytes.length)) {
        this.apply({ at: at + from, bytes: bytes.subarray(from, end) });
      } else isWhole = false;
      from = end;
    }
    return isWhole;
  }

  #resize(size: number): void {
    if (size > this.#buffer.length) {
      const buffer = new Uint8Array(Math.max(size, 2 * this.#buffer.length));
      buffer.set(this.#buffer.subarray(0, this.size));
      this.#buffer = buffer;
    }
    if (size < this.size) this.#buffer.fill(0, size, this.size);
    this.size = size;
  }
}

/** Keeps the sectors up to a share of the write. */
function firstOnes(share: number): (at: number) => boolean {
  return (at) => at <= share;
}
