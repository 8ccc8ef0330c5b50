/** Dialing of a WebSocket, independent of how the code for streams is loaded. */
import { ConnectionError } from "../../errors.ts";
import type { LoadStreams } from "./lazy_streams.ts";
import { WebSocketConnection } from "./websocket.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";
import { parseServerUrl, publicUrl } from "../url.ts";
import { within } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";

/** Options for {@linkcode openWebSocket}. */
export interface OpenWebSocketOptions extends DialWebSocketOptions {
  /** Clocks and timers of the client. */
  readonly runtime: Runtime;
  /** Loads the code for streams and datagrams. */
  readonly load: LoadStreams;
}

/** Opens a WebSocket connection, as `dialWebSocket` documents. */
export async function openWebSocket(
  url: string | URL,
  options: OpenWebSocketOptions,
): Promise<Connection> {
  const { runtime, protocols = [], headers, flowControl, signal, timeoutMs = 10_000, load } =
    options;
  signal?.throwIfAborted();
  const target = parseServerUrl(url);
  target.protocol = target.protocol.replace("http", "ws");
  const loadStreams: LoadStreams = () =>
    load().catch((cause) => {
      throw new ConnectionError("Cannot load streams", { cause });
    });
  const connection = new WebSocketConnection(openSocket(target, protocols, headers), {
    runtime,
    flowControl,
    loadStreams,
  });
  const open = async () => {
    await connection.ready;
    if (!/^(qmux-|webtransport$)/.test(connection.protocol)) return connection;
    const { withStreams } = await loadStreams();
    return withStreams(connection, { runtime, side: "client", flowControl });
  };
  try {
    const late = `Cannot open WebSocket to ${publicUrl(target)} within`;
    return await within(runtime, open(), { late, signal, timeoutMs });
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
  // Deno's constructor takes an object, which the web's types do not declare.
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
  /** Subprotocols to offer, in order of preference. */
  readonly protocols?: readonly string[];
  /** Request headers; Deno only, because browsers do not allow them. */
  readonly headers?: HeadersInit;
  /** Amount that the server may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime;
  /** Cancels the attempt. */
  readonly signal?: AbortSignal;
  /**
   * Timeout in milliseconds; `Infinity` waits without limit.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number;
}
