/** The file broker on a simulated machine. */
import { BrokerError } from "../../../errors.ts";
import type { FileThread } from "../../../brokers/sqlite/commit_queue.ts";
import {
  type FileOperation,
  type OperationOutcome,
  SqliteFile,
} from "../../../brokers/sqlite/file.ts";
import { openLogs } from "../../../brokers/sqlite/logs/logs.ts";
import type { Machine } from "../../../brokers/sqlite/machine.ts";
import { type SqliteBrokerOptions, sqliteSettings } from "../../../brokers/sqlite/options.ts";
import { onMachine, SqliteBroker } from "../../../brokers/sqlite/sqlite_broker.ts";
import type { Simulation } from "../simulation.ts";
import type { SimulatedDisk } from "./disk.ts";
import { SqliteLibrary } from "./library.ts";

/** Mean duration of a group of writes with syncs, in milliseconds, as on a server disk. */
const SYNC_MS = 2;

/**
 * Options of {@linkcode SimulatedSqlite.open}: the options of `SqliteBroker.open()`, and `syncMs`.
 */
export interface SimulatedSqliteOptions extends Omit<SqliteBrokerOptions, "runtime"> {
  /**
   * Mean duration of a group of operations with `synchronous: "full"`, in milliseconds; each
   * duration is random. With `normal`, groups take no time, because they do not wait for the disk.
   *
   * @default {2}
   */
  readonly syncMs?: number | undefined;
}

/**
 * Brokers with files on the disks of simulated machines.
 *
 * SQLite runs from the same C code as in the runtime, compiled to WebAssembly, and uses no real
 * files. The simulated disk can therefore tear each write, and commits have SQLite's guarantees.
 *
 * @example A machine that loses power during a write
 * ```ts
 * import {
 *   simulatedClient,
 *   SimulatedDisk,
 *   SimulatedNetwork,
 *   SimulatedServer,
 *   SimulatedSqlite,
 *   Simulation,
 * } from "../mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation);
 * const sqlite = await SimulatedSqlite.load(simulation);
 * const host = simulation.host("server");
 * const disk = new SimulatedDisk(simulation, host);
 * const program = new SimulatedServer(network, host, () => ({
 *   broker: sqlite.open(disk, "chat.db", { synchronous: "full" }),
 *   authorize: () => true,
 *   history: { news: { size: 100 } },
 * }));
 * const client = simulatedClient(network, simulation.host("client"), [host]);
 * const seen: unknown[] = [];
 * const read = async () => {
 *   for await (const { data } of client.subscribe("news")) seen.push(data);
 * };
 * void read();
 * await simulation.run(1_000);
 *
 * program.server.publish("news", "kept");
 * await simulation.run(1_000);
 * disk.fail({ kind: "power" });
 * program.server.publish("news", "torn");
 * await simulation.run(1_000);
 * program.restart();
 * await simulation.run(60_000);
 * program.server.publish("news", "next");
 * await simulation.run(1_000);
 * assertEquals(seen, ["kept", "next"]);
 * ```
 */
export class SimulatedSqlite {
  readonly #library: SqliteLibrary;
  readonly #simulation: Simulation;

  private constructor(simulation: Simulation, library: SqliteLibrary) {
    this.#simulation = simulation;
    this.#library = library;
  }

  /**
   * Loads SQLite once per process; call this before the simulation runs.
   *
   * @returns An object that opens brokers.
   */
  static async load(simulation: Simulation): Promise<SimulatedSqlite> {
    return new SimulatedSqlite(simulation, await SqliteLibrary.load());
  }

  /**
   * Opens or creates the file of a broker, for the host's current life.
   *
   * @param disk The disk of the host.
   * @param path Path on the disk.
   * @param options See {@linkcode SimulatedSqliteOptions}.
   * @throws {BrokerError} If the file cannot be opened, or the process ends first.
   */
  open(disk: SimulatedDisk, path: string, options: SimulatedSqliteOptions = {}): SqliteBroker {
    const { syncMs = SYNC_MS, ...rest } = options;
    const settings = sqliteSettings(path, { ...rest, runtime: disk.host.runtime });
    const machine = new SimulatedMachine(this.#library, this.#simulation, disk, syncMs);
    return SqliteBroker[onMachine](settings, machine, machine.open(settings));
  }
}

/** The machine of a disk. */
class SimulatedMachine implements Machine {
  readonly #library: SqliteLibrary;
  readonly #simulation: Simulation;
  readonly #disk: SimulatedDisk;
  readonly #syncMs: number;

  constructor(
    library: SqliteLibrary,
    simulation: Simulation,
    disk: SimulatedDisk,
    syncMs: number,
  ) {
    this.#library = library;
    this.#simulation = simulation;
    this.#disk = disk;
    this.#syncMs = syncMs;
  }

  open(
    { runtime, path, synchronous, maxBytes, maxTopics }: Parameters<Machine["open"]>[0],
  ): FileThread {
    const disk = this.#disk;
    const { uptimeMs } = disk;
    const bootedAt = runtime.now() - uptimeMs;
    const uuid = runtime.randomUUID();
    const options = { path, synchronous, maxBytes, maxTopics, uuid, bootedAt, uptimeMs };
    const file = new SqliteFile(options, (path) => {
      const connection = this.#library.connect(disk, path);
      // Frees the memory of an ended process, whose writes no longer take effect.
      disk.host.onEnd(() =>
        this.#simulation.after(0, () => connection.isOpen && connection.close())
      );
      return connection;
    }, openLogs);
    return new SimulatedThread(file, disk, synchronous === "full" ? this.#syncMs : undefined);
  }

  async checkAbsent(path: string): Promise<void> {
    if (!this.#disk.has(path)) return;
    await Promise.reject(
      new BrokerError(`Cannot back up: the file ${path} exists`),
    );
  }

  syncAs(path: string, name: string): Promise<void> {
    this.#disk.file(path).sync();
    this.#disk.rename(path, name);
    return Promise.resolve();
  }

  remove(path: string): Promise<void> {
    this.#disk.remove(path);
    return Promise.resolve();
  }
}

/**
 * The thread that uses a file: the broker's own thread, or a worker, in which each group of
 * operations takes time.
 *
 * As in `WorkerFile`, a worker handles one request at a time. A second request before the first
 * response fails, and the first request then never receives a response.
 */
class SimulatedThread implements FileThread {
  readonly epoch: string;
  readonly #file: SqliteFile;
  readonly #disk: SimulatedDisk;
  readonly #life: number;
  readonly #meanMs: number | undefined;
  /** Number of requests to the worker. */
  #requests = 0;
  #isAsked = false;

  constructor(file: SqliteFile, disk: SimulatedDisk, meanMs: number | undefined) {
    this.epoch = file.epoch;
    this.#file = file;
    this.#disk = disk;
    this.#life = disk.host.life;
    this.#meanMs = meanMs;
  }

  run(
    operations: readonly FileOperation[],
    now: number,
  ): OperationOutcome[] | Promise<OperationOutcome[]> {
    return this.#do(() => this.#file.run(operations, now));
  }

  close(): void | Promise<void> {
    return this.#do(() => this.#file.close());
  }

  /**
   * Does work immediately, or after a delay; a process that ends first never receives the result.
   */
  #do<T>(work: () => T): T | Promise<T> {
    const { host } = this.#disk;
    if (this.#meanMs === undefined) return this.#alive(work);
    const half = () => -this.#meanMs! / 2 * Math.log(1 - this.#disk.random());
    const request = ++this.#requests;
    if (this.#isAsked) return Promise.reject(new TypeError("Cannot ask: a request is under way"));
    this.#isAsked = true;
    return new Promise((resolve, reject) => {
      const answer = (settle: () => void) => {
        this.#isAsked = false;
        if (request === this.#requests) settle();
      };
      host.after(half(), () => {
        try {
          const result = this.#alive(work);
          host.after(half(), () => answer(() => resolve(result)));
        } catch (error) {
          answer(() => reject(error));
        }
      });
    });
  }

  #alive<T>(work: () => T): T | Promise<T> {
    const { host } = this.#disk;
    const isOver = () => !host.isAlive || host.life !== this.#life;
    const never = () => new Promise<T>(() => {});
    try {
      const result = work();
      return isOver() ? never() : result;
    } catch (error) {
      if (isOver()) return never();
      throw error;
    }
  }
}
