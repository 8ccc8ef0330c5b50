/**
 * WebSockets of a server (RFC 6455) on raw TCP or TLS, with immediate termination and batched
 * pongs.
 */
import { type Buffer, isUtf8 } from "node:buffer";
import type { Socket as RawSocket } from "node:net";
import { CloseCode } from "../../errors.ts";
import { outside, type Runtime, type Timer } from "../../base/runtime.ts";
import { TokenBucket } from "../../base/quotas/token_bucket.ts";
import type { Connection, Frame, FramePart } from "../connection.ts";
import {
  inflate,
  type Inflated,
  inflateSync,
  MAX_SYNC_INFLATE_BYTES,
  MAX_SYNC_INFLATED_BYTES,
  type SharedDeflater,
} from "./compression.ts";
import {
  FaultCode,
  type FrameEvents,
  type FrameLimits,
  NO_CLOSE_CODE,
  Opcode,
  WebSocketFrameReader,
} from "./frame_reader.ts";
import { encodeClose, encodeFrame, type FrameSource, type WriteTurn } from "./frame_writer.ts";

/** The states of a socket, as on the web platform. */
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/** The close code of a connection that ended without a close frame from the peer. */
const ABNORMAL_CLOSE = 1006;

/**
 * How long a peer that broke the protocol may take to read the close frame, in milliseconds.
 * Nothing more is read from that peer.
 */
const FAREWELL_MS = 1_000;

/**
 * The maximum bytes of pongs that the system has not accepted yet. This is enough to reply to four
 * reads of 64 KiB of pings. A peer that reads its pongs stays far below this.
 */
export const MAX_UNSENT_PONG_BYTES = 262_144;

/**
 * The rate at which a socket reads inflated bytes: 8 MiB per second, after a burst of 16 MiB. Above
 * this rate, the socket waits. A peer that sends a megabyte that inflates to a gigabyte therefore
 * costs little CPU time per second, and no more memory than one message.
 */
export const INFLATE_RATE = { perSecond: 8 * 1_048_576, burst: 16 * 1_048_576 };

/**
 * The minimum number of bytes that a compressed message counts towards that rate, because even an
 * empty message has to start zlib.
 */
const MIN_INFLATED_BYTES = 512;

/**
 * The maximum bytes of frames that are joined into one write. If there are more, a socket writes
 * early.
 */
const MAX_JOINED_BYTES = 65_536;

const PING = encodeFrame(Opcode.ping, "");

/**
 * The types of the events that a socket emits. There is no `open`, because a socket is open from
 * the start.
 */
const EMITTED: ReadonlySet<string> = new Set(["message", "close"]);

/** The lists of an idle socket, which all sockets share. */
const NO_LISTENERS: readonly RegisteredListener[] = [];
const NO_FRAMES: readonly Buffer[] = [];

/** A listener as on the web platform. */
interface RegisteredListener {
  readonly type: string;
  readonly listener: EventListenerOrEventListenerObject;
}

/** An event of a socket, with those members of the web platform's event that a connection reads. */
type SocketEvent =
  | { readonly type: "message"; readonly data: string | ArrayBuffer }
  | ({ readonly type: "close" } & Pick<CloseEvent, "code" | "reason" | "wasClean">);

/** The options of a {@linkcode HardenedSocket}. */
export interface HardenedSocketOptions {
  readonly runtime: Runtime;
  readonly turn: WriteTurn;
  /** The limits on incoming messages. */
  readonly limits: FrameLimits;
  /** The time for a peer to reply to a close, in milliseconds. */
  readonly closeTimeoutMs: number;
  readonly protocol: string;
  /** Compression of outgoing messages, if the handshake agreed on it. */
  readonly deflater?: SharedDeflater | undefined;
}

/**
 * The server's end of an open WebSocket. It has the members of the web platform's class that a
 * connection uses, and others that only a raw socket can offer.
 *
 * The frames of one turn become one write. Events are plain objects with the members that the
 * connection reads, because an `Event` for each message would cost more than the message.
 */
export class HardenedSocket implements FrameEvents, FrameSource {
  /** The TCP or TLS socket. */
  readonly raw: RawSocket;
  readonly protocol: string;
  binaryType: BinaryType = "arraybuffer";
  /** The state of the socket, as on the web platform. */
  readyState = OPEN;
  /** True if the peer sent a message, ping or pong since the last check. */
  isHeard = true;
  /** The connection on this socket. It receives each event before all listeners. */
  connection: (Pick<Connection, "close"> & EventListenerObject) | undefined = undefined;
  /** The liveness check of this socket, which is notified when the socket ends. */
  liveness: SocketLiveness | undefined = undefined;
  readonly #runtime: Runtime;
  readonly #turn: WriteTurn;
  readonly #deflater: SharedDeflater | undefined;
  readonly #closeTimeoutMs: number;
  readonly #reader: WebSocketFrameReader;
  readonly #limits: FrameLimits;
  /** The listeners in the order in which they were added. A list is never modified. */
  #listeners = NO_LISTENERS;
  /** The frames of the current turn. Bounded by `MAX_JOINED_BYTES`. */
  #waiting: readonly Buffer[] = NO_FRAMES;
  #waitingBytes = 0;
  /** True from the first frame of a turn until the flush. */
  #isMarked = false;
  #waitingPongBytes = 0;
  #unsentPongBytes = 0;
  #timer: Timer | undefined = undefined;
  #isCloseSent = false;
  /** True between `pause` and `resume` of the connection. */
  #isHeld = false;
  /**
   * True while another thread inflates a message. Nothing is read during that time, to keep the
   * order.
   */
  #isInflating = false;
  /** The budget for inflated bytes, created with the first compressed message. */
  #inflatedBytes: TokenBucket | undefined = undefined;
  /** The timer of a socket that has inflated too much. Nothing is read until it fires. */
  #pacing: Timer | undefined = undefined;
  /** True after the raw socket closed. */
  #isGone = false;
  #received: { readonly code: number; readonly reason: string } | undefined = undefined;

  /**
   * Opens a WebSocket. The caller must report the bytes and the end of the raw socket to it.
   *
   * @param raw The socket, after the request of the handshake was read.
   * @param greeting The response to the handshake, which is sent with the first frames of the turn.
   */
  constructor(raw: RawSocket, greeting: Buffer, options: HardenedSocketOptions) {
    const { runtime, turn, limits, closeTimeoutMs, protocol, deflater } = options;
    this.raw = raw;
    this.protocol = protocol;
    this.#runtime = runtime;
    this.#turn = turn;
    this.#deflater = deflater;
    this.#closeTimeoutMs = closeTimeoutMs;
    this.#limits = limits;
    this.#reader = new WebSocketFrameReader(this, limits);
    // Otherwise a frame that follows another one would wait for the peer's acknowledgment, for up
    // to 40 ms.
    raw.setNoDelay(true);
    this.#waiting = [greeting];
    this.#waitingBytes = greeting.length;
    turn.greet(this, runtime);
  }

  /** Reads the peer's bytes, which belong to this socket from now on. */
  receiveBytes(chunk: Buffer): void {
    this.#reader.read(chunk);
  }

  /** Ends the connection of a peer that will send no more bytes. */
  bytesEnded(): void {
    // Messages and a close that wait for `resume` arrived before the end.
    if (!this.#isBusy) this.#reader.resume();
    this.flush();
    this.#leave();
    this.raw.end();
  }

  /** Handles the end of the raw socket, after which no other call follows. */
  socketClosed(): void {
    this.readyState = CLOSING;
    this.#isGone = true;
    // This is called again after the remaining compressed messages.
    if (this.#isBusy) return;
    // Messages that wait for `resume` arrived before the end.
    this.#reader.resume();
    if (this.#isBusy) return;
    this.#reader.end();
    this.readyState = CLOSED;
    this.#runtime.clearTimeout(this.#timer);
    this.liveness?.delete(this);
    const { code, reason } = this.#received ?? { code: ABNORMAL_CLOSE, reason: "" };
    const wasClean = this.#isCloseSent && this.#received !== undefined;
    this.#emit({ type: "close", code, reason, wasClean });
  }

  /** The bytes that the system has not accepted yet. */
  get bufferedAmount(): number {
    return this.raw.writableLength + this.#waitingBytes;
  }

  /** True between `pause` and `resume`. */
  get isPaused(): boolean {
    return this.#reader.isPaused;
  }

  /** Adds a listener for `message` or `close`. */
  addEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    // Create a new list of the exact size, because an empty list that grows by one element gets
    // room for 17.
    if (EMITTED.has(type)) this.#listeners = this.#listeners.concat({ type, listener });
  }

  removeEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    if (this.#listeners === NO_LISTENERS) return;
    this.#listeners = this.#listeners.filter((known) =>
      known.type !== type || known.listener !== listener
    );
  }

  /**
   * Sends a message, unless the socket is closing.
   *
   * @param frame The message to send. Bytes MUST NOT be changed afterwards.
   * @param parts The messages of the frame, if the frame may be compressed.
   */
  send(frame: Frame, parts?: readonly FramePart[]): void {
    if (this.readyState !== OPEN) return;
    const compressed = parts && this.#deflater?.encode(parts);
    this.#write(compressed ?? this.#turn.encoder.encode(frame, parts));
  }

  /** Sends a ping, unless the socket is closing. */
  ping(): void {
    if (this.readyState === OPEN) this.#write(PING);
  }

  /** Reads nothing until `resume`. Messages in a chunk that was already read also wait. */
  pause(): void {
    this.#isHeld = true;
    this.#stop();
  }

  #stop(): void {
    this.#reader.pause();
    this.raw.pause();
  }

  /** True while a compressed message keeps this socket from reading the next one. */
  get #isBusy(): boolean {
    return this.#isInflating || this.#pacing !== undefined;
  }

  resume(): void {
    this.#isHeld = false;
    this.#continue();
  }

  #continue(): void {
    if (this.#isHeld || this.#isBusy) return;
    this.#reader.resume();
    // A message that was held may have paused the socket again.
    if (!this.#reader.isPaused) this.raw.resume();
  }

  /**
   * Closes the socket after sending all earlier frames, and drops a peer that takes too long to
   * reply.
   *
   * @param code The close code; `undefined` for a close without a code.
   */
  close(code?: number, reason = ""): void {
    if (this.readyState !== OPEN) return;
    this.#sendClose(code, reason);
    // The peer's close frame arrives after everything that the peer sent before.
    this.resume();
  }

  /**
   * Drops the connection, together with the bytes that this process and the system have buffered.
   */
  terminate(): void {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSING;
    this.#reader.end();
    this.#runtime.clearTimeout(this.#pacing);
    this.#pacing = undefined;
    const { raw } = this;
    if ("resetAndDestroy" in raw && !("encrypted" in raw)) raw.resetAndDestroy();
    else raw.destroy();
  }

  /**
   * Returns a promise that resolves after the system has accepted everything sent before, or after
   * the socket has closed.
   */
  flushed(): Promise<void> {
    this.flush();
    const { raw } = this;
    // `raw.closed` may be true before the `close` event; this socket stays open until that event.
    if (this.#isGone || raw.writableLength === 0) return Promise.resolve();
    return new Promise((resolve) => {
      if (raw.writable) raw.write("", () => resolve());
      else raw.once("close", () => resolve());
    });
  }

  /** Writes the frames of this turn. */
  flush(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    const pongBytes = this.#waitingPongBytes;
    // A broken socket accepts nothing, and will report its end with an event.
    if (this.raw.writable) {
      const bytes = this.#turn.join(waiting);
      if (pongBytes === 0) this.raw.write(bytes);
      else this.raw.write(bytes, () => this.#unsentPongBytes -= pongBytes);
    }
    this.#waiting = NO_FRAMES;
    this.#isMarked = false;
    this.#waitingBytes = 0;
    this.#waitingPongBytes = 0;
  }

  onMessage(data: string | ArrayBuffer): void {
    this.isHeard = true;
    this.#emit({ type: "message", data });
  }

  /** Inflates a message, and passes it on. */
  onCompressed(isText: boolean, payload: Buffer): void {
    const { maxPayloadBytes } = this.#limits;
    if (payload.length <= MAX_SYNC_INFLATE_BYTES) {
      const maxBytes = Math.min(maxPayloadBytes, MAX_SYNC_INFLATED_BYTES);
      const inflated = inflateSync(payload, maxBytes);
      const isLarger = "fault" in inflated && inflated.fault === "too large";
      if (!isLarger || maxBytes === maxPayloadBytes) return this.#inflated(isText, inflated);
    }
    this.#isInflating = true;
    this.#stop();
    const { promise, resolve } = Promise.withResolvers<Inflated>();
    inflate(payload, maxPayloadBytes, resolve);
    void outside(this.#runtime, promise).then((inflated) => {
      this.#isInflating = false;
      if (!this.#reader.isOver) this.#inflated(isText, inflated);
      this.#readOn();
    });
  }

  /** Continues to read after a compressed message, or completes the end of the raw socket. */
  #readOn(): void {
    if (this.#isGone) this.socketClosed();
    else this.#continue();
  }

  /** Counts inflated bytes, and reads nothing while the socket is above its rate. */
  #pace(inflatedBytes: number): void {
    const now = this.#runtime.monotonic();
    const bucket = this.#inflatedBytes ??= new TokenBucket(INFLATE_RATE, now);
    bucket.take(Math.max(MIN_INFLATED_BYTES, inflatedBytes), now);
    const waitMs = bucket.waitMs(0, now);
    if (waitMs === 0) return;
    this.#stop();
    this.#pacing = this.#runtime.setTimeout(() => {
      this.#pacing = undefined;
      this.#readOn();
    }, waitMs);
  }

  /** Replies to a ping, unless the socket is closing. */
  onPing(payload: Uint8Array): void {
    this.isHeard = true;
    if (this.readyState !== OPEN) return;
    const pong = encodeFrame(Opcode.pong, payload);
    if (this.#unsentPongBytes + pong.length > MAX_UNSENT_PONG_BYTES) {
      // Later pings are read but get no reply, so that a peer that writes before it reads can still
      // read the close reason.
      return this.close(FaultCode.policy, "Too many pongs are unread");
    }
    this.#unsentPongBytes += pong.length;
    this.#write(pong);
    this.#waitingPongBytes += pong.length;
  }

  onPong(): void {
    this.isHeard = true;
  }

  /**
   * Replies to the peer's close, and ends the connection after sending everything that was sent
   * before.
   */
  onClose(code: number, reason: string): void {
    this.#received = { code, reason };
    if (this.readyState === OPEN) {
      this.#sendClose(code === NO_CLOSE_CODE ? undefined : code, reason);
    }
    this.raw.end();
  }

  /** Closes the socket of a peer that broke the protocol, and reads no more from it. */
  onFault(closeCode: number, reason: string): void {
    if (closeCode === FaultCode.tooLarge) this.#rejectSize();
    else this.close(closeCode, reason);
    this.raw.end();
    this.raw.pause();
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = this.#runtime.setTimeout(() => this.terminate(), FAREWELL_MS);
  }

  #rejectSize(): void {
    const closeCode = CloseCode.tooLarge;
    const reason = `A message has at most ${this.#limits.maxPayloadBytes} bytes`;
    if (this.connection === undefined) this.close(closeCode, reason);
    else this.connection.close({ closeCode, reason });
  }

  #write(bytes: Buffer): void {
    if (this.#waitingBytes + bytes.length > MAX_JOINED_BYTES) this.flush();
    if (this.#waiting === NO_FRAMES) this.#waiting = [bytes];
    else (this.#waiting as Buffer[]).push(bytes);
    if (!this.#isMarked) {
      this.#isMarked = true;
      this.#turn.mark(this);
    }
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes >= MAX_JOINED_BYTES) this.flush();
  }

  #sendClose(code: number | undefined, reason: string): void {
    this.#write(encodeClose(code, reason));
    this.flush();
    this.#isCloseSent = true;
    this.#leave();
  }

  /** Starts to end the connection. The peer cannot delay the end for long. */
  #leave(): void {
    this.readyState = CLOSING;
    this.#timer ??= this.#runtime.setTimeout(() => this.terminate(), this.#closeTimeoutMs);
  }

  #inflated(isText: boolean, inflated: Inflated): void {
    if ("bytes" in inflated) {
      const { bytes } = inflated;
      this.#pace(bytes.length);
      if (!isText) return this.onMessage(new Uint8Array(bytes).buffer);
      if (isUtf8(bytes)) return this.onMessage(bytes.toString());
    }
    this.#reader.end();
    if ("fault" in inflated && inflated.fault === "too large") {
      this.onFault(FaultCode.tooLarge, "The message is too large");
    } else this.onFault(FaultCode.noUtf8, "The message is not compressed text or bytes");
  }

  #emit(event: SocketEvent): void {
    this.connection?.handleEvent(event as unknown as Event);
    for (const { type, listener } of this.#listeners) {
      if (type !== event.type) continue;
      if (typeof listener === "function") listener(event as unknown as Event);
      else listener.handleEvent(event as unknown as Event);
    }
  }
}

/**
 * Pings each socket that has been silent for a third of the idle timeout, and ends each socket that
 * stays silent for another third. One timer checks all sockets every third of the timeout, so that
 * no socket is silent for longer than the timeout.
 */
export class SocketLiveness {
  readonly #runtime: Runtime;
  readonly #idleTimeoutMs: number;
  /**
   * The sockets, each with `true` while a ping is unanswered. Bounded by the number of open
   * sockets.
   */
  readonly #sockets = new Map<HardenedSocket, boolean>();
  #timer: Timer | undefined = undefined;

  /** Expects the idle timeout of each socket, in milliseconds. */
  constructor(runtime: Runtime, idleTimeoutMs: number) {
    this.#runtime = runtime;
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  /** Watches a socket until either side closes the connection. */
  add(socket: HardenedSocket): void {
    this.#sockets.set(socket, false);
    if (this.#timer === undefined) this.#wait();
    socket.liveness = this;
  }

  /** Stops watching a closed socket. */
  delete(socket: HardenedSocket): void {
    this.#sockets.delete(socket);
    if (this.#sockets.size > 0) return;
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #wait(): void {
    this.#timer = this.#runtime.setTimeout(() => {
      this.#wait();
      this.#sweep();
    }, this.#idleTimeoutMs / 3);
  }

  #sweep(): void {
    for (const [socket, isPinged] of this.#sockets) {
      // A paused socket reads nothing, and a closing socket has its own timeout.
      const isSilent = !socket.isHeard && !socket.isPaused && socket.readyState === 1;
      if (isSilent && isPinged) {
        socket.terminate();
        continue;
      }
      if (isSilent || socket.isPaused) socket.ping();
      this.#sockets.set(socket, isSilent);
      socket.isHeard = false;
    }
  }
}
