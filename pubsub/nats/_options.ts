/**
 * What a {@linkcode NatsBroker} can be told, checked.
 *
 * @module
 */
import type { NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";

/** Repetitions are recognized for two minutes, and nothing may be sent again after that. */
const MAX_GIVE_UP_MS = 110_000;

/** A stream keeps its messages at least as long as it recognizes repetitions. */
const MIN_REMEMBER_MS = 120_000;

/** Where NATS is. */
export type NatsSource =
  | NodeConnectionOptions & {
    /** One server or several of a cluster, each as `host:port`. */
    readonly servers: string | string[];
  }
  | {
    /**
     * A connection that was made elsewhere, by any transport of the client library. The broker does
     * not close it. It must hear its own publications, and should reconnect for ever.
     */
    readonly connection: NatsConnection;
  };

/** Options for {@linkcode NatsBroker}. */
export interface NatsBrokerOptions {
  /**
   * What the names of all subjects, streams and buckets begin with; brokers with different ones do
   * not meet. At most 32 letters and digits of ASCII, `-` and `_`.
   *
   * @default {"skein"}
   */
  readonly prefix?: string;
  /**
   * Most publications that wait for NATS or for its answer; further ones are given up.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number;
  /**
   * Most bytes of the publications that wait.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number;
  /**
   * How long a publication waits at most, in milliseconds; then it is given up. At most 110,000:
   * what is sent again must be recognized.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number;
  /**
   * Where JetStream keeps histories and the store.
   *
   * @default {"file"}
   */
  readonly storage?: "file" | "memory";
  /**
   * On how many servers of a cluster JetStream keeps them. From 3 on, they and their epochs outlive
   * the process of one server.
   *
   * @default {1}
   */
  readonly replicas?: number;
  /**
   * How long the place in a topic's history is remembered after its last publication, in
   * milliseconds; publications stay in the stream as long, up to their number. At least 120,000.
   *
   * @default {3600000}
   */
  readonly rememberMs?: number;
  /**
   * Most bytes of each stream, over all topics; without it, the server's own limits count.
   *
   * @default {undefined}
   */
  readonly maxStreamBytes?: number;
  /**
   * Whether a restart of the server loses nothing that it acknowledged, since it syncs every write
   * to its disk (`sync_interval: always`, from NATS 2.10 on). Then epochs outlive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean;
  /**
   * How long rows of the store are kept after they were last written, in milliseconds; no window and
   * no claim can be longer.
   *
   * @default {3600000}
   */
  readonly storeTtlMs?: number;
}

/** The options, each with its value; -1 for no limit, as JetStream has it. */
export type NatsSettings = Required<NatsBrokerOptions>;

/** Checks the options. */
export function natsSettings(options: NatsBrokerOptions): NatsSettings {
  const settings: NatsSettings = {
    prefix: options.prefix ?? "skein",
    maxWaiting: options.maxWaiting ?? 65_536,
    maxWaitingBytes: options.maxWaitingBytes ?? 67_108_864,
    giveUpMs: options.giveUpMs ?? 30_000,
    storage: options.storage ?? "file",
    replicas: options.replicas ?? 1,
    rememberMs: options.rememberMs ?? 3_600_000,
    maxStreamBytes: options.maxStreamBytes ?? -1,
    survivesRestart: options.survivesRestart ?? false,
    storeTtlMs: options.storeTtlMs ?? 3_600_000,
  };
  const { maxWaiting, maxWaitingBytes, giveUpMs, replicas, rememberMs, storeTtlMs } = settings;
  check("maxWaiting", maxWaiting, 1);
  check("maxWaitingBytes", maxWaitingBytes, 1);
  check("giveUpMs", giveUpMs, 1, MAX_GIVE_UP_MS);
  check("replicas", replicas, 1, 5);
  check("rememberMs", rememberMs, MIN_REMEMBER_MS);
  check("storeTtlMs", storeTtlMs, 1_000);
  if (options.maxStreamBytes !== undefined) check("maxStreamBytes", options.maxStreamBytes, 1);
  if (settings.storage !== "file" && settings.storage !== "memory") {
    throw new TypeError(
      `Cannot create broker: storage must be "file" or "memory", received ${settings.storage}`,
    );
  }
  return settings;
}

function check(name: string, value: number, from: number, to = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= from && value <= to) return;
  const rule = to === Number.MAX_SAFE_INTEGER ? `from ${from}` : `from ${from} to ${to}`;
  throw new RangeError(
    `Cannot create broker: ${name} must be a whole number ${rule}, received ${value}`,
  );
}
