/** Responses that outlive their callers' connections, and their servers. */
import { checkOptions, POSITIVE } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import type { Feature } from "../server/feature.ts";
import { checkResponses } from "./options.ts";
import { ResumableRequests } from "./responses/resumable_requests.ts";
import { SharedStreams } from "./shared_streams.ts";

/** Limits of resumable responses. */
export interface ResumableOptions {
  /**
   * Time after the last item or read at which a response is deleted, in milliseconds. Its name
   * cannot be reused for another week.
   *
   * @default {86400000}
   */
  readonly retainMs?: number | undefined;
  /**
   * Maximum number of responses that the broker keeps, including running responses. They don't
   * count as durable streams.
   *
   * Beyond the limit, the oldest finished response of the network address with the most responses
   * is dropped. Responses that finished within the last ten minutes and were not read to the end
   * are dropped last. Readers of a dropped response receive the code `gone`, and its name cannot
   * be reused for a week. If all responses are running, a new one is rejected with the code
   * `too-many`.
   *
   * @default {100000}
   */
  readonly maxRetained?: number | undefined;
  /**
   * Maximum number of retained responses per user or guest. Beyond the limit, the user's oldest
   * finished response is dropped. The default applies only while more than half of `maxRetained` is
   * used.
   *
   * @default {100}
   */
  readonly maxRetainedPerUser?: number | undefined;
  /**
   * Maximum number of retained responses for all guests and new users at one network address; an IPv6
   * /64 counts as one address. Beyond the limit, their oldest finished response is dropped. Users
   * first seen at the address more than an hour ago together get ten times this limit. The
   * default applies only while more than half of `maxRetained` is used.
   *
   * @default {1000}
   */
  readonly maxRetainedPerAddress?: number | undefined;
  /**
   * Maximum number of responses that run on this server at the same time. Further responses are
   * rejected with the code `too-many`.
   *
   * @default {10000}
   */
  readonly maxRunning?: number | undefined;
  /**
   * Maximum number of running responses per user or guest on this server. Further responses are
   * rejected with the code `too-many`. The default applies only while more than half of
   * `maxRunning` is used.
   *
   * @default {32}
   */
  readonly maxRunningPerUser?: number | undefined;
  /**
   * Maximum number of running responses on this server for all guests and new users at one
   * network address; an IPv6 /64 counts as one address. Further responses are rejected with the
   * code `too-many`. Users first seen at the address more than an hour ago together get ten times
   * this limit. The default applies only while more than half of `maxRunning` is used.
   *
   * @default {128}
   */
  readonly maxRunningPerAddress?: number | undefined;
}

const OPTIONS: OptionKinds<ResumableOptions> = {
  maxRetained: POSITIVE,
  maxRetainedPerAddress: POSITIVE,
  maxRetainedPerUser: POSITIVE,
  maxRunning: POSITIVE,
  maxRunningPerAddress: POSITIVE,
  maxRunningPerUser: POSITIVE,
  retainMs: POSITIVE,
};

/**
 * Stores the responses to some requests, so that they outlive the callers' connections: a caller
 * that returns continues behind the last item that it has, another device can read the same
 * response, and if the server is lost, another one continues with `resume`.
 *
 * A handler of `requests` names this function to be resumable, which mounts the feature with the
 * default limits. To set limits, also pass the feature to `features`.
 *
 * @param options The limits.
 * @returns The feature, for one server.
 * @throws {TypeError} If an option is unknown or has the wrong type.
 * @throws {RangeError} If a number is out of range.
 *
 * @example A response that a page can ask for again
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { resumable } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   requests: {
 *     count: {
 *       resumable,
 *       async *handle({ data }) {
 *         for (let n = 1; n <= Number(data); n++) yield n;
 *       },
 *     },
 *   },
 *   features: [resumable({ maxRunningPerUser: 2 })],
 * });
 * await using client = connect(server.url);
 * const ask = () => client.requestStream("count", 3, { id: "0123456789abcdef" });
 * assertEquals(await Array.fromAsync(ask()), [1, 2, 3]);
 * assertEquals(await Array.fromAsync(ask()), [1, 2, 3]);
 * ```
 */
export function resumable(options: ResumableOptions = {}): Feature {
  checkOptions("create resumable", options, OPTIONS);
  const limits = checkResponses(options);
  return {
    name: "resumable",
    mount(host) {
      const shared = SharedStreams.of(host, "resumable");
      shared.responses = limits;
      return { ...shared.mount(), responses: new ResumableRequests(shared) };
    },
  };
}
