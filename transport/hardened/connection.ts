/** WebSocket connections on hardened sockets. They pause while their receiver is too slow. */
import type { ConnectionCloseInfo, ConnectionStats, Frame, FrameReceiver } from "../connection.ts";
import type { WebSocketLike } from "../websocket/connection.ts";
import { ServerWebSocketConnection, type ServerWebSocketOptions } from "../websocket/server.ts";
import type { HardenedSocket } from "./socket.ts";

/**
 * A connection on an open hardened socket. Unlike the sockets of browsers and of the runtime, it
 * can pause reading, report when the system has accepted all bytes, and end immediately.
 */
export class HardenedConnection extends ServerWebSocketConnection implements Pausable {
  readonly #socket: HardenedSocket;
  #buffer: BackpressureBuffer | undefined = undefined;
  #isClosed = false;
  #flushing: Promise<void> | undefined = undefined;

  constructor(socket: HardenedSocket, options: ServerWebSocketOptions) {
    super(socket as unknown as WebSocketLike, options);
    this.#socket = socket;
    socket.connection = this;
  }

  /** True while reading is paused because the receiver is too slow. */
  get isPaused(): boolean {
    return this.#buffer?.isPaused ?? false;
  }

  /** Resolves immediately, because the socket is open from the start. */
  override get ready(): Promise<void> {
    return Promise.resolve();
  }

  /**
   * Sets the receiver of frames. If the receiver has `backpressure`, reading pauses while it is too
   * slow.
   */
  override receive(receiver: FrameReceiver): void {
    if (receiver.backpressure !== undefined) {
      this.#buffer = new BackpressureBuffer(receiver, this);
    }
    super.receive(this.#buffer ?? receiver);
  }

  /**
   * Stops reading, unless the connection is closing, because the reply to the close must still be
   * read.
   */
  pause(): void {
    if (!this.#isClosed) this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Closes a connection that sent too many frames. */
  overflow(): void {
    const reason = "Too many frames arrived while the receiver was too slow";
    this.close({ closeCode: 4507, reason });
  }

  /**
   * Waits until the socket buffers no more than the low-water mark. The socket reports this without
   * polling.
   */
  override drained(): Promise<void> {
    if (this.bufferedAmount <= this.lowWaterMark) return Promise.resolve();
    return this.#flushing ??= this.#flush().finally(() => this.#flushing = undefined);
  }

  /** Closes the socket after sending all earlier frames. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#isClosed = true;
  }

  /** Drops the socket immediately. */
  terminate(): void {
    this.#socket.terminate();
  }

  /** Adds the byte counts of the socket to the connection's own counters. */
  override async getStats(): Promise<ConnectionStats> {
    const { bytesRead, bytesWritten } = this.#socket.raw;
    return { ...await super.getStats(), bytesReceived: bytesRead, bytesSent: bytesWritten };
  }

  /** Ends the connection, and accepts no more messages from the socket. */
  protected override giveUp(): void {
    this.#socket.connection = undefined;
    super.giveUp();
  }

  async #flush(): Promise<void> {
    do await this.#socket.flushed(); while (
      this.bufferedAmount > this.lowWaterMark && this.#socket.readyState === WebSocket.OPEN
    );
  }
}

/**
 * The fill level of the receiver at which the connection pauses. The remaining capacity is for
 * frames in flight.
 */
const PAUSE_AT = 1 / 2;

/** The fill level of the receiver at which the connection resumes. */
const RESUME_AT = 1 / 4;

/**
 * The maximum number of frames held while the receiver is too slow. A socket may already have read
 * 64 KiB, which can contain more than ten thousand empty frames.
 */
export const MAX_HELD_FRAMES = 16_384;

/**
 * The maximum number of bytes held while the receiver is too slow. The first frame is not counted,
 * because a single message may be larger than this limit.
 */
export const MAX_HELD_BYTES = 1_048_576;

/** A connection that can pause. */
interface Pausable {
  /** Stops reading until `resume`. */
  pause(): void;
  resume(): void;
  /**
   * Ends the connection, because more frames arrived than a {@linkcode BackpressureBuffer} can
   * hold.
   */
  overflow(): void;
}

/**
 * Pauses a connection while its receiver is too slow. Holds the frames that the connection has
 * already read, in order.
 */
export class BackpressureBuffer implements FrameReceiver {
  readonly #receiver: FrameReceiver;
  readonly #wire: Pausable;
  /** The frames held while the connection is paused; `undefined` while it reads. */
  #held: Frame[] | undefined = undefined;
  /** The bytes of the held frames, except the first. */
  #heldBytes = 0;
  #isEnded = false;

  constructor(receiver: FrameReceiver, wire: Pausable) {
    this.#receiver = receiver;
    this.#wire = wire;
  }

  /** True while the connection is paused. */
  get isPaused(): boolean {
    return this.#held !== undefined;
  }

  /** Passes a frame on, or holds it while the connection is paused. */
  receiveFrame(frame: Frame): void {
    if (this.#held !== undefined) return this.#hold(this.#held, frame);
    this.#receiver.receiveFrame(frame);
    if (this.#fill < PAUSE_AT) return;
    this.#held = [];
    this.#wire.pause();
    void this.#catchUp(this.#held);
  }

  /** Passes on all held frames, and then the end. */
  framesEnded(): void {
    this.#isEnded = true;
    for (const frame of this.#held ?? []) this.#receiver.receiveFrame(frame);
    this.#held = undefined;
    this.#receiver.framesEnded();
  }

  get #fill(): number {
    return this.#receiver.backpressure?.fill ?? 0;
  }

  #hold(held: Frame[], frame: Frame): void {
    const bytes = held.length === 0 ? 0 : sizeOf(frame);
    if (held.length >= MAX_HELD_FRAMES || this.#heldBytes + bytes > MAX_HELD_BYTES) {
      return this.#wire.overflow();
    }
    held.push(frame);
    this.#heldBytes += bytes;
  }

  async #catchUp(held: Frame[]): Promise<void> {
    do {
      while (this.#fill > RESUME_AT && !this.#isEnded) await this.#receiver.backpressure!.changed();
      let count = 0;
      while (count < held.length && this.#fill < PAUSE_AT && !this.#isEnded) {
        this.#receiver.receiveFrame(held[count++]!);
      }
      held.splice(0, count);
      this.#heldBytes = held.slice(1).reduce((sum, frame) => sum + sizeOf(frame), 0);
    } while (!this.#isEnded && (held.length > 0 || this.#fill >= PAUSE_AT));
    if (this.#isEnded) return;
    this.#held = undefined;
    this.#wire.resume();
  }
}

/**
 * Returns the size of a frame. For text, this is the length in UTF-16 units, because the limit is
 * on memory, not on bytes sent.
 */
function sizeOf(frame: Frame): number {
  return typeof frame === "string" ? frame.length : frame.byteLength;
}
