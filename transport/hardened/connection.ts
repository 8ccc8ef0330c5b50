/**
 * A WebSocket connection that can do what those of browsers, and of the runtime,
 * cannot: stop reading, know when the wire took everything, and end at once.
 *
 * @module
 */
import {
  ServerWebSocketConnection,
  type ServerWebSocketOptions,
} from "../websocket/server_socket.ts";
import type { Socket } from "../websocket/websocket.ts";
import type { ConnectionCloseInfo, ConnectionStats, FrameReceiver } from "../connection.ts";
import { Backlog } from "./backlog.ts";
import type { HardenedSocket } from "./socket.ts";

/** A connection on a hardened socket that is open. */
export class HardenedConnection extends ServerWebSocketConnection {
  readonly #socket: HardenedSocket;
  #backlog: Backlog | undefined = undefined;
  #isClosed = false;
  #flushing: Promise<void> | undefined = undefined;

  /** Wraps a socket. */
  constructor(socket: HardenedSocket, options: ServerWebSocketOptions) {
    super(socket as Socket, options);
    this.#socket = socket;
    // It is open by now, but nobody could listen before.
    queueMicrotask(() => {
      if (!this.#isClosed) this.handleEvent(new Event("open"));
    });
  }

  /** Whether nothing is read, since the receiver is behind. */
  get isPaused(): boolean {
    return this.#backlog?.isPaused ?? false;
  }

  /** Sets who gets the frames; one that tells how full it is holds the peer back. */
  override receive(receiver: FrameReceiver): void {
    const backlog = new Backlog(receiver, {
      pause: () => this.#isClosed || this.#socket.pause(),
      resume: () => this.#socket.resume(),
      overflow: () => this.close({ closeCode: 4507, reason: "More frames came than are held" }),
    });
    this.#backlog = receiver.backpressure === undefined ? undefined : backlog;
    super.receive(this.#backlog ?? receiver);
  }

  /** Waits until the socket holds little: it tells. */
  override drained(): Promise<void> {
    if (this.bufferedAmount <= this.lowWaterMark) return Promise.resolve();
    return this.#flushing ??= this.#flush().finally(() => this.#flushing = undefined);
  }

  /** Closes the socket behind what was sent. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#isClosed = true;
  }

  /** Drops the socket at once. */
  terminate(): void {
    this.#socket.terminate();
  }

  /** What was counted, and what the socket counts. */
  override async getStats(): Promise<ConnectionStats> {
    const { bytesRead, bytesWritten } = this.#socket.raw;
    return { ...await super.getStats(), bytesReceived: bytesRead, bytesSent: bytesWritten };
  }

  async #flush(): Promise<void> {
    do await this.#socket.flushed(); while (
      this.bufferedAmount > this.lowWaterMark && this.#socket.readyState === WebSocket.OPEN
    );
  }
}
