/**
 * The machine that has the file of a `SqliteBroker`: this machine, or a machine in a simulation.
 */
import { BrokerError } from "../../errors.ts";
import type { FileThread } from "./commit_queue.ts";
import { SqliteFile } from "./file.ts";
import type { SqliteSettings } from "./options.ts";
import { WorkerFile } from "./worker_file.ts";

/** A machine's files. */
export interface Machine {
  /**
   * Opens or creates the file of a broker.
   *
   * @param settings The settings of the broker.
   * @throws {BrokerError} If the file cannot be opened.
   */
  open(settings: SqliteSettings): FileThread | Promise<FileThread>;
  /** Rejects with a `BrokerError` if a path exists. */
  checkAbsent(path: string): Promise<void>;
  /** Syncs a file to disk, then renames it. */
  syncAs(path: string, name: string): Promise<void>;
  /** Removes a file, if there is one. */
  remove(path: string): Promise<void>;
}

/** Runs groups in this thread. */
function inThisThread(file: SqliteFile): FileThread {
  return {
    epoch: file.epoch,
    run: (operations, now) => {
      const loading = file.load(operations);
      return loading?.then(() => file.run(operations, now)) ?? file.run(operations, now);
    },
    close: () => file.close(),
  };
}

export const thisMachine: Machine = {
  async open(settings) {
    const { runtime, path, synchronous, maxBytes, maxTopics } = settings;
    const uuid = runtime.randomUUID();
    const uptimeMs = uptime();
    const bootedAt = uptimeMs && runtime.now() - uptimeMs;
    const options = { path, synchronous, maxBytes, maxTopics, uuid, bootedAt, uptimeMs };
    if (synchronous === "normal") return inThisThread(new SqliteFile(options));
    const file = await WorkerFile.open(options);
    if (file !== undefined) return file;
    // deno-lint-ignore no-console
    console.warn(
      'Skein: SQLite with synchronous "full" blocks this thread during each sync to disk, because ' +
        "a bundle in one file cannot start the worker that would wait for it; bundle with " +
        "--code-splitting",
    );
    return inThisThread(new SqliteFile(options));
  },

  async checkAbsent(path) {
    const present = await Deno.lstat(path).then(() => true, (error: unknown) => {
      if (error instanceof Deno.errors.NotFound) return false;
      throw error;
    });
    if (present) throw new BrokerError(`Cannot back up: the file ${path} exists`);
  },

  async syncAs(path, name) {
    using file = await Deno.open(path, { read: true, write: true });
    await file.sync();
    await Deno.rename(path, name);
  },

  async remove(path) {
    await Deno.remove(path).catch((error: unknown) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  },
};

/** Returns the time since the machine started, in milliseconds, if the process may read it. */
function uptime(): number | undefined {
  const { state } = Deno.permissions.querySync({ name: "sys", kind: "osUptime" });
  return state === "granted" ? Deno.osUptime() * 1_000 : undefined;
}
