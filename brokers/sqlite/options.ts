/** Options of a `SqliteBroker`, and their checks. */
import { fileURLToPath } from "node:url";
import { checkOptions, integer, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import { checkLimits, type OptionKinds } from "../../base/options/options.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";

/** Options for {@linkcode SqliteBroker.open}. */
export interface SqliteBrokerOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Durability of an acknowledged write: `"normal"` may lose the most recent writes if the machine
   * loses power; `"full"` syncs each commit to disk, in a worker thread.
   *
   * With both values, nothing is lost if the process is killed. In detail:
   *
   * - `normal`: the most recent writes may be lost if the machine loses power. Commits run in the
   *   broker's thread.
   * - `full`: each commit is synced to disk, in a worker thread.
   *
   * @default {"normal"}
   */
  readonly synchronous?: "normal" | "full" | undefined;
  /**
   * Maximum size of the file in bytes. Appends that would exceed it are rejected. The write-ahead
   * log next to the file uses about 4 MiB more.
   *
   * When the file is nearly full and the histories of one client use more than an eighth of all
   * bytes, the broker forgets the histories that this client has created since the file was opened,
   * starting with the quietest. Once the file is half full, the durable streams that one user or
   * address created over HTTP may grow to at most an eighth of the bytes.
   *
   * @default {1073741824}
   */
  readonly maxBytes?: number | undefined;
  /**
   * Maximum number of topics with a remembered history or position. Beyond that, topics without
   * publications are forgotten first, and then the oldest.
   *
   * In detail, topics are forgotten in this order: topics without publications; topics of the
   * client that created the most within the last hour, if it created more than 256; the topic with
   * the oldest last publication.
   *
   * @default {100000}
   */
  readonly maxTopics?: number | undefined;
  /**
   * Maximum number of operations that wait for a commit; further operations are rejected.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number | undefined;
  /**
   * Maximum number of bytes of waiting publications and records.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number | undefined;
}

/** Minimum `maxBytes`. The empty tables and their indexes fit in fewer bytes. */
const MIN_BYTES = 262_144;

const OPTIONS: OptionKinds<SqliteBrokerOptions> = {
  maxBytes: integer(MIN_BYTES),
  maxTopics: POSITIVE,
  maxWaiting: POSITIVE,
  maxWaitingBytes: POSITIVE,
  runtime: RUNTIME,
  synchronous: ["normal", "full"],
};

const LIMITS = {
  maxBytes: 1_073_741_824,
  maxTopics: 100_000,
  maxWaiting: 65_536,
  maxWaitingBytes: 67_108_864,
};

/** The options with all defaults filled in. */
export type SqliteSettings = Required<SqliteBrokerOptions> & { readonly path: string };

export function sqliteSettings(
  path: string | URL,
  options: SqliteBrokerOptions,
): SqliteSettings {
  checkOptions("create broker", options, OPTIONS);
  const { runtime = platformRuntime(), synchronous = "normal" } = options;
  const limits = checkLimits(LIMITS, options, { of: "broker: " });
  return { path: pathOf(path), runtime, synchronous, ...limits };
}

/** Returns the path of the file. SQLite would keep a database without a name in memory. */
export function pathOf(path: string | URL): string {
  const text = path instanceof URL ? fileURLToPath(path) : path;
  if (
    typeof text === "string" && text !== "" && !text.startsWith(":") && !text.startsWith("file:")
  ) {
    return text;
  }
  throw new TypeError(
    `Cannot create broker: path must be a file or its URL, received "${text}"; for a broker in memory, use MemoryBroker`,
  );
}
