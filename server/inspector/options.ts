/** Options of the inspector. */
import type { RequestInfo } from "../../transport/address.ts";

/**
 * Options of the inspector.
 *
 * @example For operators with a password
 * ```ts
 * import { serve } from "@skein/skein";
 * import type { InspectorOptions } from "@skein/skein/inspector";
 * import { assertEquals } from "@std/assert";
 *
 * const expected = `Basic ${btoa("ops:s3cret")}`;
 * const inspector: InspectorOptions = {
 *   path: "/ops",
 *   authorize: ({ headers }) =>
 *     headers.get("authorization") === expected ||
 *     new Response("Sign in", { status: 401, headers: { "www-authenticate": "Basic" } }),
 * };
 * await using server = serve({ port: 0, onListen() {}, inspector });
 *
 * const url = `${server.url.replace("ws:", "http:")}ops/`;
 * const stranger = await fetch(url);
 * const operator = await fetch(url, { headers: { authorization: expected } });
 * assertEquals([stranger.status, operator.status], [401, 200]);
 * await Promise.all([stranger.body?.cancel(), operator.body?.cancel()]);
 * ```
 */
export interface InspectorOptions {
  /**
   * Path of the page; requests for this path and below go to the inspector.
   *
   * @default {"/inspector"}
   */
  readonly path?: string | undefined;
  /**
   * Decides each request for the page and its data, about two a second while a page is open. `true`
   * allows. A response is sent instead of the page, such as a 401 that makes the browser ask for a
   * password. Anything else denies with 403. An error also denies, is printed, and the response is
   * 503.
   *
   * Without `authorize` only programs on this machine may use the inspector: the peer's address is
   * loopback, the requested host is `localhost`, `127.0.0.1` or `[::1]`, and there is no proxy
   * header. A proxy on this machine without such a header looks like a program, so behind a proxy
   * you need `authorize`.
   */
  readonly authorize?:
    | ((
      request: Request,
      info: RequestInfo,
    ) => boolean | Response | Promise<boolean | Response>)
    | undefined;
  /**
   * Shows data of messages: in the traffic of a session, in histories, and of room members. `false`
   * shows only topics and sizes. Each node decides for its own sessions, and the node that serves
   * the page decides for histories.
   *
   * @default {true}
   */
  readonly payloads?: boolean | undefined;
}
