/** Options of durable streams and resumable responses, their kinds and their defaults. */
import type { AuthorizationContext } from "../server/http/guard.ts";
import type { RequestedMutation } from "../server/requests/mutations.ts";
import { outside, type Runtime } from "../base/runtime.ts";
import type { Broker } from "../pubsub/broker.ts";
import type { Rate } from "../base/quotas/token_bucket.ts";
import {
  checkGiven,
  checkKinds,
  PATH,
  POSITIVE,
  RATE,
  TTL,
} from "../base/options/option_checks.ts";
import { type OptionKinds, withDefaults } from "../base/options/options.ts";
import type { LogTail } from "./logs/log.ts";
import { RESPONSE_PREFIX } from "./logs/log_names.ts";
import { logsOf } from "./logs/logs_of.ts";
import { type QuotaShares, sharesOf } from "../base/quotas/shares.ts";
import type { StreamBounds } from "./logs/stream_logs.ts";

/**
 * An action on a durable stream.
 *
 * - `create`: `PUT`. To create a fork, you also need `read` on its source.
 * - `append`: `POST`, also to close a stream that is not keyed.
 * - `close`: to close a keyed stream, in addition to `append` or `create`. `true` does not allow it:
 *   return `{ close: true }`.
 * - `read`: `GET` and `HEAD`.
 * - `delete`: `DELETE`. To create a keyed stream that expires, you need it too.
 * - `cancel`: `POST` with `?action=cancel`, which asks the writer to stop.
 * - `mutate`: `POST` with `?action=mutate`, which calls a mutation of a live state.
 */
export type DurableStreamAction =
  | "create"
  | "append"
  | "close"
  | "read"
  | "delete"
  | "cancel"
  | "mutate";

/** An action on a durable stream over HTTP, which `authorize` decides about. */
export interface DurableStreamRequest extends AuthorizationContext<DurableStreamAction> {
  /** The mutation, for the action `mutate`. */
  readonly mutation?: RequestedMutation | undefined;
}

/** Options of durable streams. */
export interface DurableStreamsOptions {
  /**
   * Path of the streams over HTTP, such as `/streams`.
   *
   * It has no trailing slash. The id of a stream is the URL path after this prefix and a slash,
   * percent-decoded.
   *
   * @default {not served over HTTP}
   */
  readonly path?: string | undefined;
  /**
   * Allows or denies each action on a stream over HTTP.
   *
   * Return an object instead of `true` to allow the action and name the caller, who gets a share of
   * `maxStreams` and a rate of changes; by default, the caller is the user. Only an object with
   * `close: true` allows `close`. For `mutate`, the context has the `mutation` with its name and
   * its input. A result that is no such object, `true`, `false`, `null` or `undefined` is an error:
   * the client receives 503.
   *
   * @default {denies all}
   */
  readonly authorize?:
    | ((
      context: DurableStreamRequest,
    ) =>
      | boolean
      | { readonly caller?: string; readonly close?: boolean | undefined }
      | Promise<boolean | { readonly caller?: string; readonly close?: boolean | undefined }>)
    | undefined;
  /**
   * Maximum number of streams in the broker, not counting responses; beyond it, 429.
   *
   * Deleted streams that forks still need count, too.
   *
   * @default {10000}
   */
  readonly maxStreams?: number | undefined;
  /**
   * Maximum number of streams that clients at one network address create, in contention; beyond it,
   * 429, or `full` for the first write of a state.
   *
   * An IPv6 /64 counts as one address. The default applies only while more than half of
   * `maxStreams` is used.
   *
   * @default {1000}
   */
  readonly maxStreamsPerAddress?: number | undefined;
  /**
   * Maximum number of streams that one user or guest creates, in contention; beyond it, 429, or
   * `full` for the first write of a state.
   *
   * If `authorize` names a caller, the limit applies to the caller instead of the user. The default
   * applies only while more than half of `maxStreams` is used.
   *
   * @default {256}
   */
  readonly maxStreamsPerUser?: number | undefined;
  /**
   * Maximum size of one stream, in bytes. Each record counts as its content plus 64 bytes; an
   * append beyond the limit receives 413.
   *
   * @default {67108864}
   */
  readonly maxStreamBytes?: number | undefined;
  /**
   * Maximum number of forks of one stream that are not deleted; beyond it, 409.
   *
   * @default {256}
   */
  readonly maxForks?: number | undefined;
  /**
   * Maximum size of a request body, in bytes; beyond it, 413. A JSON record may have at most
   * `session.maxMessageBytes`.
   *
   * If the broker has a lower limit, that limit applies.
   *
   * @default {1048576}
   */
  readonly maxAppendBytes?: number | undefined;
  /**
   * Maximum number of readers on this node that wait for new records; beyond it, 429.
   *
   * @default {10000}
   */
  readonly maxReaders?: number | undefined;
  /**
   * Maximum number of waiting readers per network address, in contention; beyond it, 429.
   *
   * An IPv6 /64 counts as one address. The default applies only while more than half of
   * `maxReaders` is used.
   *
   * @default {1024}
   */
  readonly maxReadersPerAddress?: number | undefined;
  /**
   * Maximum number of waiting readers per user or guest, in contention; beyond it, 429.
   *
   * The default applies only while more than half of `maxReaders` is used.
   *
   * @default {128}
   */
  readonly maxReadersPerUser?: number | undefined;
  /**
   * Maximum number of concurrent requests, not including waiting readers, and of mutations whose
   * right is not known yet; beyond it, 429.
   *
   * A mutation waits for its input and for `authorize`, because both are needed to decide about it.
   *
   * @default {1024}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Rate limit of requests per network address, counted by each node.
   *
   * @default {no limit}
   */
  readonly rate?: Rate | undefined;
  /**
   * Longest wait of a long-poll, in milliseconds.
   *
   * @default {20000}
   */
  readonly longPollMs?: number | undefined;
  /**
   * Maximum number of rows of a keyed stream; a transaction that would add more receives 413.
   *
   * @default {100000}
   */
  readonly maxRows?: number | undefined;
  /**
   * The replaced transactions that a keyed stream keeps: the newest `records`, and all of the last
   * `ms` milliseconds, up to `bytes`.
   *
   * A stream keeps the tail with which it was created.
   *
   * @default {{ records: 1000, ms: 300000, bytes: 8388608 }}
   */
  readonly tail?:
    | { readonly records: number; readonly ms: number; readonly bytes: number }
    | undefined;
  /**
   * The newest `records` and `bytes` that a stream keeps if it is neither keyed nor a response.
   * Reading dropped records receives 410.
   *
   * Each record counts as its content plus 64 bytes. By default, all records are kept until the
   * stream is deleted or expires.
   *
   * @default {keeps all}
   */
  readonly keep?: { readonly records: number; readonly bytes: number } | undefined;
  /**
   * The caches that may store pages of a stream: `"private"` for the reader's own cache, or
   * `"public"` for shared caches, which respond without `authorize`.
   *
   * Use `public` only if everyone may read the streams.
   *
   * @default {"private"}
   */
  readonly cache?: "private" | "public" | undefined;
}

export const DURABLE_STREAMS: OptionKinds<DurableStreamsOptions> = {
  authorize: "function",
  cache: ["private", "public"],
  keep: (value, place) => {
    checkKinds(value, { bytes: POSITIVE, records: POSITIVE }, place);
    const { bytes, records } = value as NonNullable<DurableStreamsOptions["keep"]>;
    checkGiven(bytes, "number", { ...place, path: `${place.path}.bytes` });
    checkGiven(records, "number", { ...place, path: `${place.path}.records` });
  },
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
  path: PATH,
  rate: RATE,
  tail: { bytes: POSITIVE, ms: TTL, records: POSITIVE },
};

/** Limits of resumable responses. */
export interface ResumableOptions {
  /**
   * Time after the last item or read at which a response is deleted, in milliseconds.
   *
   * Its name cannot be reused for another week.
   *
   * @default {86400000}
   */
  readonly retainMs?: number | undefined;
  /**
   * Maximum number of responses in the broker. Beyond it, the address with the most responses loses
   * its oldest finished one.
   *
   * Running responses count, too. They don't count as durable streams.
   *
   * Responses that finished within the last ten minutes and were not read to the end are dropped
   * last. Readers of a dropped response receive the code `gone`, and its name cannot be reused for
   * a week. If all responses are running, a new one is rejected with the code `too-many`.
   *
   * @default {100000}
   */
  readonly maxRetained?: number | undefined;
  /**
   * Maximum number of retained responses per user or guest, in contention.
   *
   * Beyond the limit, the user's oldest finished response is dropped. The default applies only
   * while more than half of `maxRetained` is used.
   *
   * @default {100}
   */
  readonly maxRetainedPerUser?: number | undefined;
  /**
   * Maximum number of retained responses for all guests and new users at one network address, in
   * contention.
   *
   * An IPv6 /64 counts as one address. Beyond the limit, their oldest finished response is dropped.
   * Users first seen at the address more than an hour ago together get ten times this limit. The
   * default applies only while more than half of `maxRetained` is used.
   *
   * @default {1000}
   */
  readonly maxRetainedPerAddress?: number | undefined;
  /**
   * Maximum number of responses that run on this server at the same time; beyond it, `too-many`.
   *
   * @default {10000}
   */
  readonly maxRunning?: number | undefined;
  /**
   * Maximum number of running responses per user or guest; it always applies.
   *
   * Further responses are rejected with the code `too-many`. Skein's client waits for up to 30 s
   * while it reads a response, and for 2 s otherwise, for example in a page that requests a new id
   * each time it loads, although its earlier responses still run.
   *
   * @default {8}
   */
  readonly maxRunningPerUser?: number | undefined;
  /**
   * Maximum number of running responses for all guests and new users at one network address; it
   * always applies.
   *
   * An IPv6 /64 counts as one address. Further responses are rejected with the code `too-many`, and
   * Skein's client waits for up to 30 s. Users first seen at the address more than an hour ago
   * together get ten times this limit. All clients at private or unknown addresses together get
   * half of `maxRunning` instead, because `clientAddress` may be missing; a limit that you set
   * applies to each private address.
   *
   * @default {32}
   */
  readonly maxRunningPerAddress?: number | undefined;
}

/** Kinds of the options of responses. */
export const RESUMABLE: OptionKinds<ResumableOptions> = {
  maxRetained: POSITIVE,
  maxRetainedPerAddress: POSITIVE,
  maxRetainedPerUser: POSITIVE,
  maxRunning: POSITIVE,
  maxRunningPerAddress: POSITIVE,
  maxRunningPerUser: POSITIVE,
  retainMs: TTL,
};

const LIMITS = {
  longPollMs: 20_000,
  maxAppendBytes: 1_048_576,
  maxForks: 256,
  maxReaders: 10_000,
  maxRequests: 1_024,
  maxRows: 100_000,
  maxStreamBytes: 67_108_864,
  maxStreams: 10_000,
};

/** Default shares of `maxStreams` and `maxReaders`. */
const STREAM_SHARES = { address: 1_000, user: 256 };
const READER_SHARES = { address: 1_024, user: 128 };

/** The tail of a keyed stream: 1,000 transactions and 5 minutes, up to 8 MiB. */
const TAIL = { records: 1_000, ms: 300_000, bytes: 8_388_608 };

/** The options of durable streams, with all defaults filled in. */
export interface StreamSettings
  extends
    Readonly<typeof LIMITS>,
    Pick<DurableStreamsOptions, "authorize" | "keep" | "path" | "rate"> {
  readonly cache: "private" | "public";
  /** The tail of new keyed streams. */
  readonly tail: LogTail;
  /** Shares of the streams that clients create. */
  readonly streamShares: QuotaShares;
  /** Shares of waiting readers. */
  readonly readerShares: QuotaShares;
}

/** Fills in the defaults of options, which are already checked. */
export function streamSettings(options: DurableStreamsOptions = {}): StreamSettings {
  const { authorize, cache = "private", keep, path, rate, tail = {} } = options;
  return {
    ...withDefaults(LIMITS, options),
    authorize,
    cache,
    keep,
    path,
    rate,
    tail: withDefaults(TAIL, tail),
    streamShares: sharesOf(
      { address: options.maxStreamsPerAddress, user: options.maxStreamsPerUser },
      STREAM_SHARES,
    ),
    readerShares: sharesOf(
      { address: options.maxReadersPerAddress, user: options.maxReadersPerUser },
      READER_SHARES,
    ),
  };
}

/** The limits of a broker's streams, and of the responses among them. */
export function boundsOf(
  settings: StreamSettings,
  { maxRetained }: Pick<ResponseLimits, "maxRetained"> = RESPONSES,
): StreamBounds {
  const { maxStreams, maxStreamBytes, maxForks, maxReaders, readerShares, keep, maxRows } =
    settings;
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

const RESPONSES = { retainMs: 86_400_000, maxRetained: 100_000, maxRunning: 10_000 };

/** Default shares of `maxRetained` and `maxRunning`. */
const RETAINED_SHARES = { address: 1_000, user: 100 };
const RUNNING_SHARES = { address: 32, user: 8 };

/** Limits and times of responses that outlive their connections, with all defaults filled in. */
export interface ResponseLimits extends Readonly<typeof RESPONSES> {
  /** Shares of retained responses. */
  readonly retainedShares: QuotaShares;
  readonly runningShares: QuotaShares;
}

/** Fills in the defaults of options, which are already checked. */
export function responseLimits(options: ResumableOptions = {}): ResponseLimits {
  return {
    ...withDefaults(RESPONSES, options),
    retainedShares: sharesOf(
      { address: options.maxRetainedPerAddress, user: options.maxRetainedPerUser },
      RETAINED_SHARES,
    ),
    runningShares: sharesOf(
      { address: options.maxRunningPerAddress, user: options.maxRunningPerUser },
      RUNNING_SHARES,
    ),
  };
}

/**
 * Checks that a broker can keep durable streams.
 *
 * @param verb The user's call, for the error message.
 * @throws {TypeError} If the broker keeps no logs.
 */
export function checkKeepsLogs(verb: string, broker: Broker): void {
  if (logsOf(broker) !== undefined) return;
  throw new TypeError(
    `Cannot ${verb}: the broker ${broker.name} stores no durable streams; Skein's own brokers do`,
  );
}

/** Replaces the digest of a user in responses of guests. */
const GUEST = "guest";

/** A random UUID, which no one can guess: the form of `newId()`. */
const RANDOM_NAME = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Bytes of a digest: 128 bits. */
const DIGEST_BYTES = 16;

/**
 * Creates the stream id of a response. The same name identifies a different response for each topic,
 * and for each user or guest; only a random UUID identifies the same response for all guests.
 *
 * @param response Topic of the request, the verified user or the name of the guest, and the name
 * that the caller chose.
 */
export async function responseId(
  runtime: Runtime,
  { topic, user, guest, name }: {
    readonly topic: string;
    readonly user?: string | undefined;
    readonly guest?: string | undefined;
    readonly name: string;
  },
): Promise<string> {
  const caller = user ?? (RANDOM_NAME.test(name) ? undefined : guest);
  const owner = caller === undefined ? GUEST : await digest(runtime, caller);
  return `${RESPONSE_PREFIX}${owner}:${await digest(runtime, topic)}:${name}`;
}

/**
 * Checks whether a caller has access to a stream as to its own response. Everyone who knows a random
 * UUID has access to the response of a guest.
 *
 * @param stream Id of the stream, and the verified user or the name of the guest. No guest has the
 * name of a user.
 * @returns True for a response of the caller, or of a guest that named it by a random UUID.
 */
export async function isOwnResponse(
  runtime: Runtime,
  { id, caller }: { readonly id: string; readonly caller: string },
): Promise<boolean> {
  if (!id.startsWith(RESPONSE_PREFIX)) return false;
  const [owner, , name = ""] = id.slice(RESPONSE_PREFIX.length).split(":");
  if (owner === GUEST) return RANDOM_NAME.test(name);
  return owner === await digest(runtime, caller);
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
