/**
 * The client half of the WebSocket connection. It uses the global `WebSocket` of browsers and Deno.
 */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, HEADERS, RUNTIME, TIME } from "../../base/options/option_checks.ts";
import { platformRuntime } from "../../base/runtime.ts";
import type { Connection } from "../connection.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { type DialWebSocketOptions, openWebSocket } from "./connection.ts";

const DIAL: OptionKinds<DialWebSocketOptions> = {
  flowControl: FLOW_CONTROL,
  headers: HEADERS,
  protocols: "array",
  runtime: RUNTIME,
  signal: "AbortSignal",
  timeoutMs: TIME,
};

/**
 * Opens a WebSocket connection.
 *
 * - **`skein.1`:** the connection has message frames, streams and datagrams.
 * - **QMux:** if the server selected a subprotocol such as `qmux-01` or `qmux-01.chat`, the
 *   connection has streams and datagrams. Its `protocol` is the part after the dot. With
 *   `qmux-01.skein.1`, the first stream carries messages.
 * - **Other subprotocols, or none:** the connection has only message frames.
 *
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL.
 * @param options The subprotocols, headers, flow control, timeout and signal.
 * @returns The open connection.
 * @throws {TypeError} If the URL has another scheme or is invalid, or if headers are set and the
 * runtime does not accept them.
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
