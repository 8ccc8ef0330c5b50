/** Options of a `RedisBroker`, and their checks. */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import {
  checkKinds,
  checkOptions,
  POSITIVE,
  RUNTIME,
  TTL,
} from "../../base/options/option_checks.ts";
import { checkLimits, type OptionKinds, withoutUndefined } from "../../base/options/options.ts";

/** A client of ioredis: a `Redis`, for one server or behind Sentinel, or a `Cluster`. */
export interface RedisClient {
  /** True for a `Cluster`. */
  readonly isCluster: boolean;
  /** Creates another client with the same settings. */
  duplicate(): object;
}

/** Address of Redis. */
export type RedisSource =
  | {
    /** One server: `redis://host:port/database`, or `rediss://` for TLS. */
    readonly url: string;
  }
  | {
    /**
     * A client for one server, Sentinel or a cluster, whose settings are used. The broker opens its
     * own connections with `duplicate()`, and neither uses nor closes the client itself.
     */
    readonly client: RedisClient;
  };

/** Options for {@linkcode RedisBroker}. */
export interface RedisBrokerOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Prefix of the names of all keys and channels, which isolates brokers from each other. It must
   * not be empty or contain braces.
   *
   * @default {"skein"}
   */
  readonly prefix?: string | undefined;
  /**
   * Maximum number of publications that wait for Redis or for its reply; further ones are dropped.
   * It also limits waiting calls of logs.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number | undefined;
  /**
   * Maximum total size of waiting publications, in bytes. It also limits waiting records of logs.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number | undefined;
  /**
   * Time for which a publication waits before it is dropped, in milliseconds, or up to a tenth
   * longer.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number | undefined;
  /**
   * Interval between pings on each connection, in milliseconds. If a connection is still silent two
   * intervals later, it is replaced.
   *
   * @default {3000}
   */
  readonly heartbeatMs?: number | undefined;
  /**
   * Time for which the position of a topic's history is remembered after the last write or read, in
   * milliseconds. After that, recovering clients receive `too-old`.
   *
   * @default {86400000}
   */
  readonly rememberMs?: number | undefined;
  /**
   * True if a restart of Redis loses no acknowledged write: one server without replicas, with
   * `appendonly yes` and `appendfsync always`. Epochs then survive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean | undefined;
}

/** The options with all defaults filled in. */
export type RedisSettings = Required<RedisBrokerOptions>;

const OPTIONS: OptionKinds<RedisBrokerOptions> = {
  giveUpMs: POSITIVE,
  heartbeatMs: POSITIVE,
  maxWaiting: POSITIVE,
  maxWaitingBytes: POSITIVE,
  prefix: "string",
  rememberMs: TTL,
  runtime: RUNTIME,
  survivesRestart: "boolean",
};

const LIMITS = {
  giveUpMs: 30_000,
  heartbeatMs: 3_000,
  maxWaiting: 65_536,
  maxWaitingBytes: 67_108_864,
  rememberMs: 86_400_000,
};

export function redisSettings(options: RedisBrokerOptions): RedisSettings {
  checkOptions("create broker", options, OPTIONS);
  const { runtime = platformRuntime(), prefix = "skein", survivesRestart = false } = options;
  if (prefix === "" || /[{}]/.test(prefix)) {
    throw new TypeError(
      `Cannot create broker: prefix must be a string without braces, received "${prefix}"`,
    );
  }
  return { runtime, prefix, survivesRestart, ...checkLimits(LIMITS, options, { of: "broker: " }) };
}

/**
 * Checks the address, because an option in the wrong argument would be ignored.
 *
 * @returns The address without a key that is `undefined`.
 */
export function checkSource(given: RedisSource): RedisSource {
  const source = withoutUndefined(typeof given === "string" ? {} : { ...given }) as RedisSource;
  const misplaced = Object.keys(source).find((key) => Object.hasOwn(OPTIONS, key));
  if (misplaced !== undefined) {
    throw new TypeError(
      `Cannot create broker: ${misplaced} belongs into the second argument: ` +
        `new RedisBroker({ url }, { ${misplaced} })`,
    );
  }
  const kinds = "url" in source ? { url: 0 } : { client: 0 };
  checkKinds(source, kinds, { verb: "create broker", path: "source" });
  return source;
}
