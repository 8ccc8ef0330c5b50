/** Options of durable streams over HTTP, with the checks that run before the rest loads. */
import type { AuthorizationContext } from "../http/face.ts";
import type { Broker } from "../../pubsub/broker.ts";
import type { Rate } from "../../manager/token_bucket.ts";
import { checkLimits, type OptionKeys } from "../../base/options.ts";
import type { StreamBounds } from "../../pubsub/logs/stream_logs.ts";

/**
 * An action on a durable stream.
 *
 * - `create`: `PUT`. A fork also needs `read` on its source.
 * - `append`: `POST`, also to close the stream.
 * - `read`: `GET` and `HEAD`.
 * - `delete`: `DELETE`.
 * - `cancel`: `POST` with `?action=cancel`, which asks the writer to stop.
 */
export type DurableStreamAction = "create" | "append" | "read" | "delete" | "cancel";

/** Options of durable streams. */
export interface DurableStreamsOptions {
  /**
   * Path of the streams, such as `/streams`: exact, without a slash at its end. The id of a stream
   * is the rest of the path behind the slash, decoded.
   */
  readonly path: string;
  /** Decides each action by the id of its stream. Without `authorize` all are denied. */
  readonly authorize?: (
    context: AuthorizationContext<DurableStreamAction>,
  ) => boolean | Promise<boolean>;
  /**
   * Most streams of the broker, deleted ones that forks need included. Creating one more is answered
   * with 429.
   *
   * @default {10000}
   */
  readonly maxStreams?: number;
  /**
   * Most bytes of the records of one stream. An append beyond is answered with 413.
   *
   * @default {67108864}
   */
  readonly maxStreamBytes?: number;
  /**
   * Most bytes of the body of one request. The limit of the broker counts if it is lower. A larger
   * body is answered with 413.
   *
   * @default {1048576}
   */
  readonly maxAppendBytes?: number;
  /**
   * Most readers of this node that wait for new records. One more is answered with 429.
   *
   * @default {10000}
   */
  readonly maxReaders?: number;
  /**
   * Most such readers of one network address, where an IPv6 /64 counts as one. One more is answered
   * with 429.
   *
   * @default {1000}
   */
  readonly maxReadersPerAddress?: number;
  /**
   * Most requests that are being answered at once, in addition to those of readers that wait. One
   * more is answered with 429.
   *
   * @default {1024}
   */
  readonly maxRequests?: number;
  /** Rate of requests of one network address, counted by each node; no limit by default. */
  readonly rate?: Rate;
  /**
   * Longest wait of a long-poll, in milliseconds.
   *
   * @default {20000}
   */
  readonly longPollMs?: number;
  /**
   * Retention of each stream: older records are dropped, and a reader that wants these is answered
   * with 410. By default all records stay until the stream is deleted or expires.
   */
  readonly keep?: { readonly records: number; readonly bytes: number };
  /**
   * Caches that may keep pages of a stream: `private` for that of the reader, `public` for shared
   * ones. Shared caches answer without asking `authorize`: only for streams that all may read.
   *
   * @default {"private"}
   */
  readonly cache?: "private" | "public";
}

/** Known keys, of which the compiler requires each. */
export const DURABLE_STREAMS: OptionKeys<DurableStreamsOptions> = {
  authorize: true,
  cache: true,
  keep: true,
  longPollMs: true,
  maxAppendBytes: true,
  maxReaders: true,
  maxReadersPerAddress: true,
  maxRequests: true,
  maxStreamBytes: true,
  maxStreams: true,
  path: true,
  rate: true,
};

/** Known keys of the retention. */
export const KEEP: OptionKeys<NonNullable<DurableStreamsOptions["keep"]>> = {
  bytes: true,
  records: true,
};

const LIMITS = {
  longPollMs: 20_000,
  maxAppendBytes: 1_048_576,
  maxReaders: 10_000,
  maxReadersPerAddress: 1_000,
  maxRequests: 1_024,
  maxStreamBytes: 67_108_864,
  maxStreams: 10_000,
};

/** Numbers of {@linkcode DurableStreamsOptions}, all set. */
export type DurableStreamsLimits = Readonly<typeof LIMITS>;

/**
 * Fills in missing limits, and checks the given ones.
 *
 * @param options Options of the application.
 * @param broker The broker that keeps the streams; that of this process if left out.
 * @returns The limits.
 * @throws {TypeError} If `cache` is not one of its values, or the broker keeps no logs.
 * @throws {RangeError} If a number is not a positive integer.
 */
export function checkDurableStreams(
  options: DurableStreamsOptions,
  broker?: Broker,
): DurableStreamsLimits {
  if (broker !== undefined && broker.logs === undefined) {
    throw new TypeError(
      `Cannot create server: durableStreams must have a broker that keeps logs, received ${broker.name}`,
    );
  }
  const { cache = "private", keep } = options;
  if (cache !== "private" && cache !== "public") {
    throw new TypeError(
      `Cannot create server: durableStreams.cache must be "private" or "public", received ${cache}`,
    );
  }
  if (keep !== undefined) {
    checkLimits({ records: 1, bytes: 1 }, keep, { of: "server: durableStreams.keep." });
  }
  return checkLimits(LIMITS, options, { of: "server: durableStreams." });
}

/** The bounds that the options set for the streams of a broker. */
export function boundsOf(options: DurableStreamsOptions): StreamBounds {
  const { maxStreams, maxStreamBytes, maxReaders } = checkDurableStreams(options);
  return { maxStreams, maxStreamBytes, maxReaders, keep: options.keep };
}
