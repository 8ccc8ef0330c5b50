/**
 * Dialing a WebSocket, wherever what its streams take comes from.
 *
 * @module
 */
import { ConnectionError } from "../../errors.ts";
import type { LoadStreams } from "./lazy_streams.ts";
import { WebSocketConnection } from "./websocket.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";
import { parseServerUrl, publicUrl } from "../url.ts";
import { within } from "../within.ts";

/** Options for {@linkcode openWebSocket}. */
export interface OpenWebSocketOptions extends DialWebSocketOptions {
  /** Loads what streams and datagrams take. */
  readonly load: LoadStreams;
}

/** See `dialWebSocket`. */
export async function openWebSocket(
  url: string | URL,
  options: OpenWebSocketOptions,
): Promise<Connection> {
  const { protocols = [], headers, flowControl, signal, timeoutMs = 10_000, load } = options;
  signal?.throwIfAborted();
  const target = parseServerUrl(url);
  target.protocol = target.protocol.replace("http", "ws");
  const loadStreams: LoadStreams = () =>
    load().catch((cause) => {
      throw new ConnectionError("Cannot load streams", { cause });
    });
  const connection = new WebSocketConnection(openSocket(target, protocols, headers), {
    flowControl,
    loadStreams,
  });
  const open = async () => {
    await connection.ready;
    if (!/^(qmux-|webtransport$)/.test(connection.protocol)) return connection;
    const { withStreams } = await loadStreams();
    return withStreams(connection, { side: "client", flowControl });
  };
  try {
    const late = `Cannot open WebSocket to ${publicUrl(target)} within`;
    return await within(open(), { late, signal, timeoutMs });
  } catch (error) {
    connection.abandon();
    throw error;
  }
}

function openSocket(
  url: URL,
  protocols: readonly string[],
  headers: HeadersInit | undefined,
): WebSocket {
  const offered = [...protocols];
  // Deno's constructor takes an object, which the types of the web do not know.
  const Socket = WebSocket as unknown as new (
    url: URL,
    options: string[] | { protocols: string[]; headers: HeadersInit },
  ) => WebSocket;
  try {
    return new Socket(url, headers ? { protocols: offered, headers } : offered);
  } catch (cause) {
    throw headers ? new TypeError("Cannot open WebSocket with headers", { cause }) : cause;
  }
}

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
