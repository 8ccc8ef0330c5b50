/** The client half of the WebSocket connection: the global `WebSocket`, in browsers and in Deno. */
import type { OptionKinds } from "../../base/options.ts";
import { checkOptions, RUNTIME, TIME } from "../../base/option_checks.ts";
import { platformRuntime } from "../../base/runtime.ts";
import type { Connection } from "../connection.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { type DialWebSocketOptions, openWebSocket } from "./connection.ts";

const DIAL: OptionKinds<DialWebSocketOptions> = {
  flowControl: FLOW_CONTROL,
  headers: 0,
  protocols: "array",
  runtime: RUNTIME,
  signal: "AbortSignal",
  timeoutMs: TIME,
};

/**
 * Opens a WebSocket connection.
 *
 * - **`skein.1`:** message frames, plus streams and datagrams.
 * - **QMux:** streams and datagrams, if the server selected a subprotocol such as `qmux-01` or
 *   `qmux-01.chat`. The connection's `protocol` is the part after the dot. With `qmux-01.skein.1`,
 *   the first stream carries the messages.
 * - **Other subprotocols, or none:** message frames only.
 *
 * @param url A `ws:` or `wss:` URL; `http:` and `https:` also work.
 * @param options The subprotocols, headers, flow control, timeout and signal.
 * @returns The open connection.
 * @throws {TypeError} If the URL is not a WebSocket URL, or the runtime does not accept headers.
 * @throws {RangeError} If `timeoutMs` is negative or not a number.
 * @throws {ConnectionError} If the connection cannot be opened.
 * @throws {TimeoutError} If opening takes too long.
 *
 * @example Usage
 * ```ts no-assert
 * import { acceptWebSocket, dialWebSocket } from "@skein/skein/transport";
 *
 * await using server = Deno.serve(
 *   { port: 0, onListen() {} },
 *   (request) => acceptWebSocket(request).response,
 * );
 * await using connection = await dialWebSocket(`ws://localhost:${server.addr.port}`);
 * connection.frames!.send("hello");
 * ```
 */
export async function dialWebSocket(
  url: string | URL,
  options: DialWebSocketOptions = {},
): Promise<Connection> {
  checkOptions("dial WebSocket", options, DIAL);
  const { runtime = platformRuntime() } = options;
  return await openWebSocket(url, { ...options, runtime, load: () => import("./streams.ts") });
}
