/** Responses that outlive their callers' connections, and their servers. */
import { checkOptions } from "../base/options/option_checks.ts";
import type { Feature } from "../server/feature.ts";
import { checkKeepsLogs, responseLimits, RESUMABLE, type ResumableOptions } from "./options.ts";
import { ResumableRequests } from "./responses/resumable_requests.ts";
import { SharedStreams } from "./shared_streams.ts";

/**
 * Stores the responses to some requests, so that they outlive the callers' connections: a caller
 * that returns continues after the last item that it has, another device can read the same
 * response, and if the server is lost, another one continues with `resume`.
 *
 * A handler of `requests` names this function to be resumable, which mounts the feature with the
 * default limits. To set limits, also pass the feature to `features`.
 *
 * @param options The limits.
 * @returns A feature for the option `features`.
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
  checkOptions("create resumable()", options, RESUMABLE);
  const limits = responseLimits(options);
  return {
    name: "resumable",
    mount(host) {
      checkKeepsLogs("mount resumable()", host.topics.broker);
      const shared = SharedStreams.of(host);
      shared.responses = limits;
      return { ...shared.mount(), responses: new ResumableRequests(shared) };
    },
  };
}
