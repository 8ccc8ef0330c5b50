/**
 * The client half of the WebSocket connection: the global `WebSocket`, in
 * browsers and in Deno.
 *
 * @module
 */
import { ConnectionError, TimeoutError } from "../errors.ts";
import { WebSocketConnection } from "./_websocket.ts";
import type { Connection } from "./connection.ts";

/** A timer holds 31 bits; what is longer, `Infinity` included, is for ever. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Options for {@linkcode dialWebSocket}. */
export interface DialWebSocketOptions {
  /** Subprotocols to offer, the best first. */
  readonly protocols?: readonly string[];
  /** Request headers; Deno only, a browser sends none of its own. */
  readonly headers?: HeadersInit;
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
 * @param url `ws:` or `wss:`; `http:` and `https:` stand for them.
 * @param options See {@linkcode DialWebSocketOptions}.
 * @returns The connection, open.
 * @throws {TypeError} If the URL is none of a WebSocket, or headers are given in a browser.
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
export async function dialWebSocket(
  url: string | URL,
  options: DialWebSocketOptions = {},
): Promise<Connection> {
  const { protocols = [], headers, signal, timeoutMs = 10_000 } = options;
  if (!(timeoutMs >= 0)) {
    throw new RangeError(
      `Cannot open a WebSocket: timeoutMs must be from 0, received ${timeoutMs}`,
    );
  }
  signal?.throwIfAborted();
  const connection = new WebSocketConnection(openSocket(toWebSocketUrl(url), protocols, headers));
  const { promise: ended, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal!.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = timeoutMs > MAX_TIMER_MS ? undefined : setTimeout(
    () => reject(new TimeoutError(`Cannot open a WebSocket within ${timeoutMs} ms`, timeoutMs)),
    timeoutMs,
  );
  try {
    await Promise.race([connection.ready, ended]);
    return connection;
  } catch (error) {
    connection.abandon();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function toWebSocketUrl(url: string | URL): URL {
  const base = (globalThis as { location?: { href: string } }).location?.href;
  const parsed = URL.parse(String(url), base);
  const protocol = parsed?.protocol.replace("http", "ws");
  if (parsed === null || (protocol !== "ws:" && protocol !== "wss:")) {
    throw new TypeError(
      // Without the query, where tokens are.
      `Cannot open a WebSocket: url must begin with ws:, wss:, http: or https:, received ${
        String(url).split("?")[0]
      }`,
    );
  }
  parsed.protocol = protocol;
  parsed.hash = "";
  return parsed;
}

function openSocket(
  url: URL,
  protocols: readonly string[],
  headers: HeadersInit | undefined,
): WebSocket {
  if (headers === undefined) return new WebSocket(url, [...protocols]);
  if ("document" in globalThis) {
    throw new TypeError("Cannot open a WebSocket: a browser sends no headers of its own");
  }
  // Deno's constructor takes an object, which the types of the web do not know.
  const Socket = WebSocket as unknown as new (
    url: URL,
    options: { protocols: string[]; headers: HeadersInit },
  ) => WebSocket;
  try {
    return new Socket(url, { protocols: [...protocols], headers });
  } catch (error) {
    throw new ConnectionError("Cannot open a WebSocket with headers in this runtime", {
      cause: error,
    });
  }
}
