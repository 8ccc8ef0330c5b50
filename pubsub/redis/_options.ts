/**
 * Options of a {@linkcode RedisBroker}, checked.
 *
 * @module
 */
import { checkKeys } from "../../session/base/option_keys.ts";

/** A client of ioredis: a `Redis`, for one server or behind Sentinel, or a `Cluster`. */
export interface RedisClient {
  /** Whether it is a `Cluster`. */
  readonly isCluster: boolean;
  /** Makes another one with the same settings. */
  duplicate(): object;
}

/** Where Redis is. */
export type RedisSource =
  | {
    /** One server: `redis://host:port/database`, or `rediss://` for TLS. */
    readonly url: string;
  }
  | {
    /**
     * A client whose settings are taken, for one server, Sentinel or a cluster. The broker makes
     * connections of its own by its `duplicate()`, and neither uses nor ends it.
     */
    readonly client: RedisClient;
  };

/** Options for {@linkcode RedisBroker}. */
export interface RedisBrokerOptions {
  /**
   * What the names of all keys and channels begin with; brokers with different ones do not meet.
   * Not empty, and without braces.
   *
   * @default {"skein"}
   */
  readonly prefix?: string;
  /**
   * Most publications that wait for Redis or for its answer; further ones are given up.
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
   * How long a publication waits at most, in milliseconds; then it is given up.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number;
  /**
   * How often each connection is asked whether it is alive, in milliseconds; one that has not
   * answered two times later is replaced.
   *
   * @default {3000}
   */
  readonly heartbeatMs?: number;
  /**
   * How long the place in a topic's history is remembered after it was last written or read, in
   * milliseconds; then its epoch changes.
   *
   * @default {86400000}
   */
  readonly rememberMs?: number;
  /**
   * Whether a restart of Redis loses nothing that it acknowledged: one server without replicas, with
   * `appendonly yes` and `appendfsync always`. Then epochs outlive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean;
}

/** The options, each with its value. */
export type RedisSettings = Required<RedisBrokerOptions>;

/** Checks the options. */
export function redisSettings(options: RedisBrokerOptions): RedisSettings {
  const {
    prefix = "skein",
    maxWaiting = 65_536,
    maxWaitingBytes = 67_108_864,
    giveUpMs = 30_000,
    heartbeatMs = 3_000,
    rememberMs = 86_400_000,
    survivesRestart = false,
  } = options;
  if (typeof prefix !== "string" || prefix === "" || /[{}]/.test(prefix)) {
    throw new TypeError(
      `Cannot create broker: prefix must be a text without braces, received ${
        JSON.stringify(prefix)
      }`,
    );
  }
  const numbers = { maxWaiting, maxWaitingBytes, giveUpMs, heartbeatMs, rememberMs };
  for (const [name, value] of Object.entries(numbers)) {
    if (Number.isSafeInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot create broker: ${name} must be a positive whole number, received ${value}`,
    );
  }
  const settings = { prefix, survivesRestart, ...numbers };
  checkKeys(options, settings, "create broker: options");
  return settings;
}

/** Checks where Redis is: a key that belongs elsewhere would be ignored. */
export function checkSource(source: RedisSource): void {
  const options = redisSettings({});
  const misplaced = Object.keys(source).find((key) => key in options);
  if (misplaced !== undefined) {
    throw new TypeError(
      `Cannot create broker: ${misplaced} must stand in the second argument, received it in the first`,
    );
  }
  checkKeys(source, "url" in source ? { url: true } : { client: true }, "create broker: source");
}
