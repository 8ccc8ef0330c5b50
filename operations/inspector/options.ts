/** Options of the inspector. */
import type { RequestInfo } from "../../transport/address.ts";

/**
 * Options of the inspector.
 *
 * @example For operators with a password
 * ```ts
 * import { serve } from "@skein/skein";
 * import { inspector } from "@skein/skein/operations";
 * import { assertEquals } from "@std/assert";
 *
 * const expected = `Basic ${btoa("ops:s3cret")}`;
 * const page = inspector({
 *   path: "/ops",
 *   authorize: ({ headers }) =>
 *     headers.get("authorization") === expected ||
 *     new Response("Sign in", { status: 401, headers: { "www-authenticate": "Basic" } }),
 * });
 * await using server = serve({ port: 0, onListen() {}, features: [page] });
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
   * Path of the page, and of the paths below it.
   *
   * @default {"/inspector"}
   */
  readonly path?: string | undefined;
  /**
   * Returns `true` to allow a request for the page or its data, or a `Response` to send instead,
   * for example a 401 that asks for a password.
   *
   * An open page sends about two requests a second. `false`, `null` and `undefined` deny the request
   * with 403. If you return anything else, or throw an error, it is printed, and the request is
   * denied with 503.
   *
   * Without `authorize`, only programs on this machine may use the inspector: the peer's address
   * must be loopback, the requested host must be `localhost`, `127.0.0.1` or `[::1]`, and there
   * must be no proxy header. A proxy on this machine that sends no such header looks like a local
   * program, so you need `authorize` behind a proxy.
   *
   * @default {programs on this machine}
   */
  readonly authorize?:
    | ((
      request: Request,
      info: RequestInfo,
    ) => boolean | Response | Promise<boolean | Response>)
    | undefined;
  /**
   * Shows message data in the traffic of a session and in histories, and the data of room members.
   * With `false`, only topics and sizes are shown.
   *
   * Each node's setting applies to its own sessions; for histories, the setting of the node that
   * serves the page applies.
   *
   * @default {true}
   */
  readonly payloads?: boolean | undefined;
}
