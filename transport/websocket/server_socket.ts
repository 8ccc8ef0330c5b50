/**
 * A WebSocket as a server has it: it was told which protocol it chose, and counts until its socket
 * is gone. A client does nothing of it, and does not load it.
 *
 * @module
 */
import { CloseCode } from "../../errors.ts";
import type { Multiplexer } from "../qmux/multiplexer.ts";
import { type Socket, WebSocketConnection } from "./websocket.ts";
import { openStreams } from "./streams.ts";
import type { ConnectionCloseInfo, FlowControlOptions } from "../connection.ts";

const CLOSING = 2;

/**
 * What counts for one socket, from its upgrade until it is disposed of: when
 * the socket is really gone, be its connection over before or not.
 */
export interface SocketLease extends Disposable {
  /** This end closed the socket, and the peer has yet to answer. Idempotent. */
  closing(): void;
  /** The socket is gone. Idempotent. */
  [Symbol.dispose](): void;
}

/** What a {@linkcode ServerWebSocketConnection} has beside its socket. */
export interface ServerWebSocketOptions {
  /** The protocol that the server chose: Deno's socket does not know. */
  readonly protocol: string;
  /** Counts for the socket. */
  readonly lease?: SocketLease | undefined;
  /** How much the peer may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Resolves once the peer is admitted: until then it may send no streams and datagrams. At once by default. */
  readonly admitted?: Promise<unknown> | undefined;
}

/** A connection on a WebSocket that was accepted. */
export class ServerWebSocketConnection extends WebSocketConnection {
  readonly #socket: Socket;
  readonly #protocol: string;
  readonly #lease: SocketLease | undefined;
  #isAdmitted: boolean;

  /** Wraps a socket. */
  constructor(socket: Socket, options: ServerWebSocketOptions) {
    const { protocol, lease, flowControl, admitted } = options;
    super(socket, { flowControl });
    this.#isAdmitted = admitted === undefined;
    admitted?.then(() => this.#isAdmitted = true, () => {});
    // The close event tells enough, and there are many of them.
    socket.removeEventListener("error", this);
    this.#socket = socket;
    this.#protocol = protocol;
    this.#lease = lease;
  }

  /** Always `server`. */
  override get side(): "server" {
    return "server";
  }

  /** The subprotocol that the server chose. */
  override get protocol(): string {
    return this.#protocol;
  }

  /** Takes the socket's events. */
  override handleEvent(event: Event): void {
    if (event.type === "close") this.#lease?.[Symbol.dispose]();
    super.handleEvent(event);
    // It may have been closed before it was open.
    if (event.type === "open") this.#tellClosing();
  }

  /** Closes the socket behind what was sent. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#tellClosing();
  }

  /** A stranger may say its token, in a message. */
  protected override refusesRecords(): boolean {
    if (this.#isAdmitted) return false;
    const reason = "Expected a token and nothing else";
    this.close({ closeCode: CloseCode.unauthenticated, reason });
    return true;
  }

  /** Streams are there at once. */
  protected override openStreams(): Multiplexer {
    return openStreams(this);
  }

  /** The runtime still has the socket: it counts, but holds nothing of the session. */
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
