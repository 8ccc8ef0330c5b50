/** Types for the part of `npm:ws` that the engine uses; the package has no types of its own. */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocket as UntypedWebSocket, WebSocketServer as UntypedServer } from "ws";

/** A socket of `ws`: the events of the web platform's WebSocket, and methods that only `ws` has. */
export interface NodeWebSocket {
  readonly bufferedAmount: number;
  readonly protocol: string;
  readonly readyState: number;
  readonly isPaused: boolean;
  binaryType: BinaryType;
  addEventListener: WebSocket["addEventListener"];
  removeEventListener: WebSocket["removeEventListener"];
  on(event: "message" | "pong", listener: () => void): this;
  on(event: "ping", listener: (data: Uint8Array) => void): this;
  on(event: "error", listener: (error: Error) => void): this;
  on(event: "close", listener: () => void): this;
  close(code?: number, reason?: string): void;
  pause(): void;
  ping(): void;
  resume(): void;
  send(data: string | Uint8Array): void;
  terminate(): void;
}

/** Options of {@linkcode NodeWebSocketServer}. */
export interface NodeWebSocketServerOptions {
  readonly noServer: true;
  readonly autoPong: false;
  readonly clientTracking: false;
  readonly perMessageDeflate: false;
  readonly skipUTF8Validation: false;
  readonly maxPayload: number;
  readonly maxBufferedChunks: number;
  readonly maxFragments: number;
  readonly closeTimeout: number;
  readonly handleProtocols: (protocols: Set<string>, request: IncomingMessage) => string | false;
  readonly WebSocket: typeof NodeWebSocket;
}

/** Server that upgrades sockets. */
export interface NodeWebSocketServer {
  handleUpgrade(
    request: IncomingMessage,
    socket: Duplex,
    head: Uint8Array,
    callback: (socket: NodeWebSocket) => void,
  ): void;
  on(event: "wsClientError", listener: (error: Error) => void): this;
}

/** Class of sockets, to be extended. Only the server creates instances. */
export const NodeWebSocket: new (...args: never) => NodeWebSocket = UntypedWebSocket;

/** Class of servers. */
export const NodeWebSocketServer: new (options: NodeWebSocketServerOptions) => NodeWebSocketServer =
  UntypedServer;
