/**
 * Options of durable streams and resumable responses, with the checks that run before the rest
 * loads.
 */
import type { AuthorizationContext } from "../server/http/guard.ts";
import { outside, type Runtime } from "../base/runtime.ts";
import type { Broker } from "../pubsub/broker.ts";
import type { Rate } from "../base/quotas/token_bucket.ts";
import { POSITIVE, RATE } from "../base/options/option_checks.ts";
import { checkLimits, type OptionKinds } from "../base/options/options.ts";
import type { LogTail } from "./logs/log.ts";
import { RESPONSE_PREFIX } from "./logs/log_names.ts";
import { type QuotaShares, sharesOf } from "../base/quotas/shares.ts";
import type { StreamBounds } from "./logs/stream_logs.ts";

/**
 * An action on a durable stream.
 *
 * - `create`: `PUT`. To create a fork, you also need `read` on its source.
 * - `append`: `POST`, also to close the stream.
 * - `read`: `GET` and `HEAD`.
 * - `delete`: `DELETE`.
 * - `cancel`: `POST` with `?action=cancel`, which asks the writer to stop.
 */
export type DurableStreamAction = "create" | "append" | "read" | "delete" | "cancel";

/** Options of durable streams. */
export interface DurableStreamsOptions {
  /**
   * Path of the streams over HTTP, such as `/streams`, without a trailing slash. The id of a stream
   * is the URL path after this prefix and a slash, percent-decoded. Without a path, the streams are
   * not served over HTTP.
   */
  readonly path?: string | undefined;
  /**
   * Decides whether an action is allowed on the stream with the given id. Without `authorize`, all
   * actions are denied. Return an object instead of `true` to allow the action and name the caller,
   * who gets a share of `maxStreams`; by default, the caller is the user.
   */
  readonly authorize?:
    | ((
      context: AuthorizationContext<DurableStreamAction>,
    ) => boolean | { readonly caller: string } | Promise<boolean | { readonly caller: string }>)
    | undefined;
  /**
   * Maximum number of streams in the broker, including deleted streams that forks still need.
   * Responses don't count. Requests to create another stream are rejected with 429.
   *
   * @default {10000}
   */
  readonly maxStreams?: number | undefined;
  /**
   * Maximum number of streams that clients at one network address may create over HTTP; an IPv6 /64
   * counts as one address. Requests to create another stream are rejected with 429. The default
   * applies only while more than half of `maxStreams` is used.
   *
   * @default {1000}
   */
  readonly maxStreamsPerAddress?: number | undefined;
  /**
   * Maximum number of streams that one user may create over HTTP. If `authorize` names a caller,
   * the limit applies to the caller instead of the user. The default applies only while more than
   * half of `maxStreams` is used.
   *
   * @default {256}
   */
  readonly maxStreamsPerUser?: number | undefined;
  /**
   * Maximum total size of the records of one stream, in bytes. Each record counts as its content
   * plus 64 bytes. An append beyond the limit is rejected with 413.
   *
   * @default {67108864}
   */
  readonly maxStreamBytes?: number | undefined;
  /**
   * Maximum number of forks of one stream. A fork counts until it is deleted. Requests to create
   * another fork are rejected with 409.
   *
   * @default {256}
   */
  readonly maxForks?: number | undefined;
  /**
   * Maximum size of a request body, in bytes. If the broker has a lower limit, that limit applies.
   * A larger body is rejected with 413.
   *
   * @default {1048576}
   */
  readonly maxAppendBytes?: number | undefined;
  /**
   * Maximum number of readers on this node that wait for new records. Further readers are rejected
   * with 429.
   *
   * @default {10000}
   */
  readonly maxReaders?: number | undefined;
  /**
   * Maximum number of waiting readers per network address; an IPv6 /64 counts as one address.
   * Further readers are rejected with 429. The default applies only while more than half of
   * `maxReaders` is used.
   *
   * @default {1024}
   */
  readonly maxReadersPerAddress?: number | undefined;
  /**
   * Maximum number of waiting readers per user or guest. The default applies only while more than
   * half of `maxReaders` is used.
   *
   * @default {128}
   */
  readonly maxReadersPerUser?: number | undefined;
  /**
   * Maximum number of concurrent requests, not including waiting readers. Further requests are
   * rejected with 429.
   *
   * @default {1024}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Rate limit of requests per network address, counted by each node. There is no limit by default.
   */
  readonly rate?: Rate | undefined;
  /**
   * Longest wait of a long-poll, in milliseconds.
   *
   * @default {20000}
   */
  readonly longPollMs?: number | undefined;
  /**
   * Maximum number of rows of a keyed stream. A transaction that would add more is rejected with
   * 413.
   *
   * @default {100000}
   */
  readonly maxRows?: number | undefined;
  /**
   * The transactions that a keyed stream keeps although later ones replaced their rows: at least
   * the newest `records`, and all of the last `ms` milliseconds, up to `bytes`. A stream keeps the
   * tail with which it was created.
   *
   * @default {{ records: 1000, ms: 300000, bytes: 8388608 }}
   */
  readonly tail?:
    | { readonly records: number; readonly ms: number; readonly bytes: number }
    | undefined;
  /**
   * Retention of each stream that is not keyed. Records beyond it are dropped, and reading them
   * returns 410. Each record counts as its content plus 64 bytes. By default, all records are kept
   * until the stream is deleted or expires.
   */
  readonly keep?: { readonly records: number; readonly bytes: number } | undefined;
  /**
   * The caches that may store pages of a stream: `private` for the reader's own cache, `public` for
   * shared caches. Shared caches respond without calling `authorize`, so use `public` only if
   * everyone may read the streams.
   *
   * @default {"private"}
   */
  readonly cache?: "private" | "public" | undefined;
}

/** Kinds of all options. */
export const DURABLE_STREAMS: OptionKinds<DurableStreamsOptions> = {
  authorize: "function",
  cache: ["private", "public"],
  keep: { bytes: POSITIVE, records: POSITIVE },
  longPollMs: POSITIVE,
  maxAppendBytes: POSITIVE,
  maxForks: POSITIVE,
  maxReaders: POSITIVE,
  maxReadersPerAddress: POSITIVE,
  maxReadersPerUser: POSITIVE,
  maxRequests: POSITIVE,
  maxRows: POSITIVE,
  maxStreamBytes: POSITIVE,
  maxStreams: POSITIVE,
  maxStreamsPerAddress: POSITIVE,
  maxStreamsPerUser: POSITIVE,
  path: "string",
  rate: RATE,
  tail: { bytes: POSITIVE, ms: POSITIVE, records: POSITIVE },
};

const LIMITS = {
  longPollMs: 20_000,
  maxAppendBytes: 1_048_576,
  maxForks: 256,
  maxReaders: 10_000,
  maxReadersPerAddress: 1_024,
  maxReadersPerUser: 128,
  maxRequests: 1_024,
  maxRows: 100_000,
  maxStreamBytes: 67_108_864,
  maxStreams: 10_000,
  maxStreamsPerAddress: 1_000,
  maxStreamsPerUser: 256,
};

/** The tail of a keyed stream: 1,000 transactions and 5 minutes, up to 8 MiB. */
const TAIL = { records: 1_000, ms: 300_000, bytes: 8_388_608 };

/** The limits of {@linkcode DurableStreamsOptions}, all set. */
export type DurableStreamsLimits = Readonly<typeof LIMITS>;

/**
 * Checks that a broker can keep durable streams.
 *
 * @param what The option that needs durable streams, for the error message.
 * @param broker The broker; by default, a broker of this process only.
 * @throws {TypeError} If the broker keeps no logs.
 */
export function checkKeepsLogs(what: string, broker: Broker | undefined): void {
  if (broker === undefined || broker.logs !== undefined) return;
  throw new TypeError(
    `Cannot create server: ${what} must have a broker that keeps logs, received ${broker.name}`,
  );
}

/**
 * Fills in missing limits, and checks the given ones.
 *
 * @param broker The broker that stores the streams; by default, a broker of this process only.
 * @throws {TypeError} If `cache` is not one of the allowed values, or the broker keeps no logs.
 * @throws {RangeError} If a number is not a positive integer.
 */
export function checkDurableStreams(
  options: DurableStreamsOptions,
  broker?: Broker,
): DurableStreamsLimits {
  checkKeepsLogs("durableStreams", broker);
  const { cache = "private", keep } = options;
  if (cache !== "private" && cache !== "public") {
    throw new TypeError(
      `Cannot create server: durableStreams.cache must be "private" or "public", received ${cache}`,
    );
  }
  if (keep !== undefined) {
    checkLimits({ records: 1, bytes: 1 }, keep, { of: "server: durableStreams.keep." });
  }
  tailOf(options);
  return checkLimits(LIMITS, options, { of: "server: durableStreams." });
}

/** The tail of new keyed streams. */
export function tailOf({ tail }: Pick<DurableStreamsOptions, "tail">): LogTail {
  return checkLimits(TAIL, { ...tail }, { of: "server: durableStreams.tail." });
}

/** The shares of streams that clients create. */
export function streamShares(
  { maxStreamsPerAddress: address, maxStreamsPerUser: user }: DurableStreamsOptions,
): QuotaShares {
  return sharesOf(
    { address, user },
    { address: LIMITS.maxStreamsPerAddress, user: LIMITS.maxStreamsPerUser },
  );
}

/** The limits that the options set for a broker's streams. */
export function boundsOf(
  options: DurableStreamsOptions = {},
  maxRetained: number = RESPONSES.maxRetained,
): StreamBounds {
  const { maxStreams, maxStreamBytes, maxForks, maxReaders, maxRows } = checkDurableStreams(
    options,
  );
  const readerShares = sharesOf(
    { address: options.maxReadersPerAddress, user: options.maxReadersPerUser },
    { address: LIMITS.maxReadersPerAddress, user: LIMITS.maxReadersPerUser },
  );
  const { keep } = options;
  return {
    maxStreams,
    maxRetained,
    maxStreamBytes,
    maxForks,
    maxReaders,
    readerShares,
    keep,
    maxRows,
  };
}

const RESPONSES = {
  retainMs: 86_400_000,
  maxRetained: 100_000,
  maxRetainedPerAddress: 1_000,
  maxRetainedPerUser: 100,
  maxRunning: 10_000,
  maxRunningPerAddress: 128,
  maxRunningPerUser: 32,
};

/** Limits and times of responses that outlive their connections, with all defaults filled in. */
export interface ResponseLimits
  extends Readonly<Pick<typeof RESPONSES, "retainMs" | "maxRetained" | "maxRunning">> {
  /** Shares of retained responses. */
  readonly retainedShares: QuotaShares;
  readonly runningShares: QuotaShares;
}

/** Fills in missing limits of responses, and checks the given ones. */
export function checkResponses(
  options: { readonly [K in keyof typeof RESPONSES]?: number } = {},
): ResponseLimits {
  const { retainMs, maxRetained, maxRunning } = checkLimits(RESPONSES, options, {
    of: "server: responses.",
  });
  const retainedShares = sharesOf(
    { address: options.maxRetainedPerAddress, user: options.maxRetainedPerUser },
    { address: RESPONSES.maxRetainedPerAddress, user: RESPONSES.maxRetainedPerUser },
  );
  const runningShares = sharesOf(
    { address: options.maxRunningPerAddress, user: options.maxRunningPerUser },
    { address: RESPONSES.maxRunningPerAddress, user: RESPONSES.maxRunningPerUser },
  );
  return { retainMs, maxRetained, retainedShares, maxRunning, runningShares };
}

/** Replaces the digest of a user in responses of guests. */
const GUEST = "guest";

/** Bytes of a digest: 128 bits. */
const DIGEST_BYTES = 16;

/**
 * Creates the stream id of a response. The same name identifies a different response for each user
 * and topic.
 *
 * @param response Topic of the request, the verified user (absent for a guest), and the name that the
 * caller chose.
 */
export async function responseId(
  runtime: Runtime,
  { topic, user, name }: {
    readonly topic: string;
    readonly user?: string | undefined;
    readonly name: string;
  },
): Promise<string> {
  const owner = user === undefined ? GUEST : await digest(runtime, user);
  return `${RESPONSE_PREFIX}${owner}:${await digest(runtime, topic)}:${name}`;
}

/**
 * Checks whether a stream contains a response of a user. Everyone who knows the id of a guest's
 * response has access to it.
 *
 * @param stream Id of the stream, and the verified user, which is `undefined` for a guest.
 * @returns True for a response of the user, or of a guest.
 */
export async function isOwnResponse(
  runtime: Runtime,
  { id, user }: { readonly id: string; readonly user: string | undefined },
): Promise<boolean> {
  if (!id.startsWith(RESPONSE_PREFIX)) return false;
  const owner = id.slice(RESPONSE_PREFIX.length).split(":", 1)[0];
  return owner === GUEST || user !== undefined && owner === await digest(runtime, user);
}

/** Computes the digest of a text: 22 characters of `A-Z a-z 0-9 - _`. */
export async function digest(runtime: Runtime, text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text);
  const hash = await outside(runtime, crypto.subtle.digest("SHA-256", bytes));
  return new Uint8Array(hash, 0, DIGEST_BYTES).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
}
