/** Options of the HTTP API. */
import type { AuthorizationContext } from "../../server/http/guard.ts";
import {
  checkGiven,
  checkOptions,
  PATH,
  POSITIVE,
  RATE,
  TTL,
} from "../../base/options/option_checks.ts";
import { type OptionKinds, withDefaults } from "../../base/options/options.ts";
import type { Rate } from "../../base/quotas/token_bucket.ts";

/** An action of the HTTP API, as passed to `authorize`. */
export type ApiAction =
  | "follow"
  | "publish"
  | "publish-batch"
  | "send"
  | "sessions"
  | "disconnect-user"
  | "disconnect-session"
  | "presence"
  | "history"
  | "health"
  | "stats"
  | "describe";

/**
 * Options of the HTTP API.
 *
 * @example A backend with a key
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { httpApi } from "@skein/skein/http-api";
 * import { assertEquals } from "@std/assert";
 *
 * const api = httpApi({
 *   path: "/api",
 *   authorize: ({ request, action }) =>
 *     request.headers.get("authorization") === "Bearer s3cret" && action === "publish",
 * });
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authorize: () => true,
 *   features: [api],
 * });
 * await using client = connect(server.url);
 * const news = client.subscribe("news");
 * await news.ready;
 *
 * const url = server.url.replace("ws:", "http:");
 * const response = await fetch(`${url}api/topics/news/publications`, {
 *   method: "POST",
 *   headers: { authorization: "Bearer s3cret", "content-type": "application/json" },
 *   body: JSON.stringify({ data: "hello" }),
 * });
 * assertEquals(await response.json(), { topic: "news" });
 * for await (const { data } of news) {
 *   assertEquals(data, "hello");
 *   break;
 * }
 * ```
 */
export interface ApiOptions {
  /** Path of the API, such as `/api`, without a trailing slash. */
  readonly path: string;
  /**
   * Allows or denies each action. The id is the topic, the user or the session; it is empty for
   * other actions.
   *
   * For a batch, `authorize` is called with `publish-batch` before the body is read, and then with
   * `publish` for each topic.
   *
   * Return `true` to allow the action, or `{ caller }` to allow it and name the backend; callers do
   * not share values of `Idempotency-Key`. Unnamed callers are distinguished by user, or by the
   * `Authorization` header. `false`, `null` and `undefined` deny the action. If you return anything
   * else, or throw an error, it is printed, and the action is denied with 503, so that clients
   * retry.
   *
   * Without `authorize`, only programs on this machine may use the API: the peer's address must be
   * loopback, the requested host must be one of this machine's names or one of `hosts`, and there
   * must be no proxy header. Pages may then use the API if `origins` lists their origin, or if this
   * server has served them; `*` is not enough. A proxy on this machine that sends no such header
   * looks like a local program, so you need `authorize` behind a proxy.
   *
   * @default {programs on this machine}
   */
  readonly authorize?:
    | ((
      context: AuthorizationContext<ApiAction>,
    ) => boolean | { readonly caller: string } | Promise<boolean | { readonly caller: string }>)
    | undefined;
  /**
   * Rate limit per network address, counted by each node. `{ perSecond: Infinity }` means no limit.
   *
   * @default {{ perSecond: 1000, burst: 2000 }}
   */
  readonly rate?: Rate | undefined;
  /**
   * Maximum number of concurrent requests; beyond it, 429.
   *
   * @default {256}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Maximum size of a request body, in bytes; beyond it, 413.
   *
   * @default {1048576}
   */
  readonly maxBodyBytes?: number | undefined;
  /**
   * Maximum number of publications in a batch.
   *
   * @default {100}
   */
  readonly maxPublications?: number | undefined;
  /**
   * Maximum number of readers on this node that follow topics by server-sent events; beyond it,
   * 429.
   *
   * Once more than half of the limit is used, each network address can have at most 256 readers,
   * and each user 32.
   *
   * @default {10000}
   */
  readonly maxReaders?: number | undefined;
  /**
   * Time for which the broker's store remembers the idempotency key of a request, in milliseconds.
   *
   * @default {600000}
   */
  readonly idempotencyWindowMs?: number | undefined;
}

/**
 * Default rate limit per network address. A backend needs less, but it slows down guessing.
 */
const API_RATE: Required<Rate> = { perSecond: 1_000, burst: 2_000 };

/** Default limits of the API. */
const API_LIMITS = {
  idempotencyWindowMs: 600_000,
  maxBodyBytes: 1_048_576,
  maxPublications: 100,
  maxReaders: 10_000,
  maxRequests: 256,
};

export const API: OptionKinds<ApiOptions> = {
  authorize: "function",
  idempotencyWindowMs: TTL,
  maxBodyBytes: POSITIVE,
  maxPublications: POSITIVE,
  maxReaders: POSITIVE,
  maxRequests: POSITIVE,
  path: PATH,
  rate: RATE,
};

/** The options of the API, with all defaults filled in. */
export interface ApiSettings
  extends Pick<ApiOptions, "authorize" | "path">, Readonly<typeof API_LIMITS> {
  readonly rate: Rate;
}

/**
 * Checks the options of the API, and fills in the defaults.
 *
 * @throws {TypeError} If an option is unknown or missing, or the path is not spelled as in a URL.
 * @throws {RangeError} If a limit is not a positive integer, or the rate is malformed.
 */
export function apiSettings(options: ApiOptions): ApiSettings {
  const verb = "create httpApi()";
  checkOptions(verb, options, API);
  const { path, authorize, rate = API_RATE } = options;
  checkGiven(path, "string", { verb, path: "path" });
  return { ...withDefaults(API_LIMITS, options), path, authorize, rate };
}
