/** WebSocket as a transport that applications pass to `connect`. */
import { platformRuntime } from "../../base/runtime.ts";
import type { Transport } from "../race/options.ts";
import { type LoadStreams, openWebSocket, type WebSocketLike } from "./connection.ts";

/** The options of `webSocket()`. */
export interface WebSocketTransportOptions {
  /**
   * The name of the transport.
   *
   * @default {"websocket"}
   */
  readonly name?: string | undefined;
  /**
   * The host that the sockets connect to, if that isn't the origin of the server's URL; see
   * {@linkcode Transport.host}. Requires `socket`.
   */
  readonly host?: string | URL | undefined;
  /**
   * Creates an object that behaves as a `WebSocket`, for example over a worker's port. By default,
   * it is the platform's `WebSocket`.
   *
   * - **Members:** `send`, `close`, `addEventListener`, `removeEventListener`, `readyState`,
   *   `protocol`, and the events `open`, `message`, `close` and `error` with their members.
   * - **Bytes** arrive as an `ArrayBuffer`, because the client sets `binaryType`.
   * - **Queue:** `bufferedAmount` says how many bytes wait. Without it, the client sends without
   *   waiting.
   */
  readonly socket?: ((url: URL, protocols: readonly string[]) => WebSocketLike) | undefined;
}

/** Creates the transport of a platform, which loads the code for streams in its own way. */
export function webSocketBy(load: LoadStreams, options: WebSocketTransportOptions): Transport {
  const { name = "websocket", host, socket } = options;
  if (host !== undefined && !socket) {
    throw new TypeError("Cannot create webSocket: host needs the option socket");
  }
  return {
    name,
    host,
    isBuiltIn: !socket,
    dial: (url, { runtime = platformRuntime(), ...options }) =>
      openWebSocket(url, { ...options, runtime, load, socket, name }),
  };
}
