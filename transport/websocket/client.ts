/**
 * The client half of the WebSocket connection: the global `WebSocket`, in
 * browsers and in Deno.
 *
 * @module
 */
import { type DialWebSocketOptions, openWebSocket } from "./dial.ts";
import type { Connection } from "../connection.ts";

/**
 * Opens a WebSocket connection.
 *
 * - **`skein.1`:** it has message frames, and streams and datagrams beside them.
 * - **QMux:** where the server chose `qmux-01`, `qmux-01.chat` or the like, it has streams and
 *   datagrams; its `protocol` is what stands behind the point. Messages of `qmux-01.skein.1` travel
 *   on its first stream.
 * - **Other subprotocols, and none:** message frames alone.
 *
 * @param url `ws:` or `wss:`; `http:` and `https:` stand for them.
 * @param options See {@linkcode DialWebSocketOptions}.
 * @returns The connection, open.
 * @throws {TypeError} If the URL is none of a WebSocket, or the runtime does not take the headers.
 * @throws {RangeError} If `timeoutMs` is negative, or no number.
 * @throws {ConnectionError} If it cannot be opened.
 * @throws {TimeoutError} If it takes too long.
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
export function dialWebSocket(
  url: string | URL,
  options: DialWebSocketOptions = {},
): Promise<Connection> {
  return openWebSocket(url, { ...options, load: () => import("./streams.ts") });
}
