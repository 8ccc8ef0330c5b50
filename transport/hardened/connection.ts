/** A WebSocket connection on a hardened socket. */
import {
  ServerWebSocketConnection,
  type ServerWebSocketOptions,
} from "../websocket/server_socket.ts";
import type { Socket } from "../websocket/websocket.ts";
import type { ConnectionCloseInfo, ConnectionStats, FrameReceiver } from "../connection.ts";
import { Backlog } from "./backlog.ts";
import type { HardenedSocket } from "./socket.ts";

/**
 * A connection on an open hardened socket. Unlike the sockets of browsers and of the runtime, this
 * one can pause reading, report when the system took all bytes, and end at once.
 */
export class HardenedConnection extends ServerWebSocketConnection {
  readonly #socket: HardenedSocket;
  #backlog: Backlog | undefined = undefined;
  #isClosed = false;
  #flushing: Promise<void> | undefined = undefined;

  /** Wraps an open socket. */
  constructor(socket: HardenedSocket, options: ServerWebSocketOptions) {
    super(socket as Socket, options);
    this.#socket = socket;
    // The socket is open already; `open` is dispatched late so that the caller can listen first.
    queueMicrotask(() => {
      if (!this.#isClosed) this.handleEvent(new Event("open"));
    });
  }

  /** True while reading is paused because the receiver is behind. */
  get isPaused(): boolean {
    return this.#backlog?.isPaused ?? false;
  }

  /** Sets the receiver of frames; reading pauses while a receiver with `backpressure` is behind. */
  override receive(receiver: FrameReceiver): void {
    const backlog = new Backlog(receiver, {
      pause: () => this.#isClosed || this.#socket.pause(),
      resume: () => this.#socket.resume(),
      overflow: () =>
        this.close({ closeCode: 4507, reason: "More frames arrived than can be held" }),
    });
    this.#backlog = receiver.backpressure === undefined ? undefined : backlog;
    super.receive(this.#backlog ?? receiver);
  }

  /**
   * Waits until the socket buffers no more than the low-water mark; `ws` reports this without
   * polling.
   */
  override drained(): Promise<void> {
    if (this.bufferedAmount <= this.lowWaterMark) return Promise.resolve();
    return this.#flushing ??= this.#flush().finally(() => this.#flushing = undefined);
  }

  /** Closes the socket after all frames that were sent before. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#isClosed = true;
  }

  /** Drops the socket at once. */
  terminate(): void {
    this.#socket.terminate();
  }

  /** Adds the byte counts of the socket to the connection's own counters. */
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
