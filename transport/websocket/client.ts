/**
 * The client half of the WebSocket connection: the global `WebSocket`, in
 * browsers and in Deno.
 *
 * @module
 */
import { openWebSocket } from "./dial.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";

/** Options for {@linkcode dialWebSocket}. */
export interface DialWebSocketOptions {
  /** Subprotocols to offer, the best first. */
  readonly protocols?: readonly string[];
  /** Request headers; Deno only, a browser sends none of its own. */
  readonly headers?: HeadersInit;
  /** How much the server may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Gives up. */
  readonly signal?: AbortSignal;
  /**
   * Gives up after this many milliseconds; `Infinity` never does.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number;
}

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
 * @throws {ConnectionError} If it can not be opened.
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
