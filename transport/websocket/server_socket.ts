/** A server's WebSocket, with the chosen subprotocol and a lease. Clients do not load this code. */
import { CloseCode } from "../../errors.ts";
import type { Multiplexer } from "../qmux/multiplexer.ts";
import { type Socket, WebSocketConnection } from "./websocket.ts";
import { openStreams } from "./streams.ts";
import type { ConnectionCloseInfo, FlowControlOptions } from "../connection.ts";
import type { Runtime } from "../../base/runtime.ts";

const CLOSING = 2;

/**
 * Counts one socket from the upgrade until disposal. Disposal follows when the socket is really
 * gone, even if the connection ended before.
 */
export interface SocketLease extends Disposable {
  /**
   * Reports that this end closed the socket, and that the peer has not answered yet. Idempotent.
   */
  closing(): void;
  /** Reports that the socket is gone. Idempotent. */
  [Symbol.dispose](): void;
}

/** Options of a {@linkcode ServerWebSocketConnection}. */
export interface ServerWebSocketOptions {
  /** Clocks and timers of the server. */
  readonly runtime: Runtime;
  /** Subprotocol chosen by the server, which Deno's socket does not report. */
  readonly protocol: string;
  /** Lease of the socket. */
  readonly lease?: SocketLease | undefined;
  /** Amount that the peer may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Resolves once the peer is admitted; until then, streams and datagrams are refused. By default,
   * every peer is admitted at once.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

/** A connection on an accepted WebSocket. */
export class ServerWebSocketConnection extends WebSocketConnection {
  readonly #socket: Socket;
  readonly #protocol: string;
  readonly #lease: SocketLease | undefined;
  #isAdmitted: boolean;

  /** Wraps a socket. */
  constructor(socket: Socket, options: ServerWebSocketOptions) {
    const { runtime, protocol, lease, flowControl, admitted } = options;
    super(socket, { runtime, flowControl });
    this.#isAdmitted = admitted === undefined;
    admitted?.then(() => this.#isAdmitted = true, () => {});
    // The close event has the same information, and servers have many sockets.
    socket.removeEventListener("error", this);
    this.#socket = socket;
    this.#protocol = protocol;
    this.#lease = lease;
  }

  /** Always `server`. */
  override get side(): "server" {
    return "server";
  }

  /** Subprotocol chosen by the server. */
  override get protocol(): string {
    return this.#protocol;
  }

  /** Handles the socket's events. */
  override handleEvent(event: Event): void {
    if (event.type === "close") this.#lease?.[Symbol.dispose]();
    super.handleEvent(event);
    // `close()` may have been called before the socket opened.
    if (event.type === "open") this.#tellClosing();
  }

  /** Closes the socket after all frames that were sent before. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#tellClosing();
  }

  /** Refuses streams and datagrams before admission: only a message with a token is allowed. */
  protected override refusesRecords(): boolean {
    if (this.#isAdmitted) return false;
    const reason = "Expected a token and nothing else";
    this.close({ closeCode: CloseCode.unauthenticated, reason });
    return true;
  }

  /** Opens streams without loading code. */
  protected override openStreams(): Multiplexer {
    return openStreams(this);
  }

  /** Ends the connection, and keeps the lease until the runtime releases the socket. */
  protected override giveUp(): void {
    super.giveUp();
    const lease = this.#lease;
    if (lease === undefined) return;
    this.#socket.addEventListener("close", () => lease[Symbol.dispose](), { once: true });
  }

  #tellClosing(): void {
    if (this.#socket.readyState === CLOSING) this.#lease?.closing();
  }
}
