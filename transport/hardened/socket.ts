/** Sockets of `npm:ws` with an end at once, batched pongs, and Skein's close codes. */
import { Buffer } from "node:buffer";
import type { IncomingMessage } from "node:http";
import type { Socket as NodeSocket } from "node:net";
import process from "node:process";
import type { Duplex } from "node:stream";
import { WebSocket as UntypedWebSocket, WebSocketServer as UntypedServer } from "ws";
import { CloseCode } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Frame } from "../connection.ts";

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

/** Class of sockets, to be extended. Only the server creates instances. */
export const NodeWebSocket: new (...args: never) => NodeWebSocket = UntypedWebSocket;

/** Options of {@linkcode NodeWebSocketServer}. */
interface NodeWebSocketServerOptions {
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

/** Class of servers. */
export const NodeWebSocketServer: new (options: NodeWebSocketServerOptions) => NodeWebSocketServer =
  UntypedServer;

/** Close code that `ws` sends for a message that is too large. */
const WS_TOO_LARGE = 1009;

/** Close code of RFC 6455 for a peer that violates the server's policy. */
const POLICY_VIOLATION = 1008;

/**
 * Time for a peer that broke the protocol to read the close frame, in milliseconds. Nothing more is
 * read from that peer.
 */
const FAREWELL_MS = 1_000;

/** FIN bit and the opcode of a pong. */
const PONG = 0x8a;

/**
 * Most bytes of pongs that wait for the system: the answers to four reads of pings, of 64 KiB each.
 * A peer that reads its pongs stays far below.
 */
export const MAX_UNSENT_PONG_BYTES = 262_144;

/** An upgraded socket. */
export class HardenedSocket extends NodeWebSocket {
  /** True if the peer sent a message, ping or pong since the last check. */
  isHeard = true;
  /** Closes the connection on this socket after a message that is too large. */
  onTooLarge: (closeCode: number) => void = () => {};
  // Set by `attach()`: `ws` creates the socket before the upgrade.
  declare raw: NodeSocket;
  #runtime!: Runtime;
  #frames!: FrameEncoder;
  #closeTimeoutMs!: number;
  #timer: Timer | undefined = undefined;
  /** Pongs of the current turn, written together. */
  readonly #pongs: Buffer[] = [];
  #unsentPongBytes = 0;

  /** Starts listening to an upgraded socket. */
  attach(
    raw: NodeSocket,
    options: {
      readonly runtime: Runtime;
      readonly frames: FrameEncoder;
      readonly closeTimeoutMs: number;
    },
  ): void {
    this.raw = raw;
    this.#runtime = options.runtime;
    this.#frames = options.frames;
    this.#closeTimeoutMs = options.closeTimeoutMs;
    const hear = () => {
      this.isHeard = true;
    };
    this.on("message", hear).on("pong", hear).on("ping", (data) => {
      hear();
      this.#answer(data);
    });
    this.on("error", () => this.#farewell());
    this.on("close", () => this.#runtime.clearTimeout(this.#timer));
  }

  /**
   * Sends a frame. The method of `ws` would encode the frame for each socket, and write the header
   * apart.
   *
   * @param frame Message to send.
   */
  override send(frame: Frame): void {
    if (this.readyState === WebSocket.OPEN) this.raw.write(this.#frames.encode(frame));
  }

  /**
   * Closes the socket, and drops a peer that takes too long to answer. A close of `ws` for a
   * message that is too large gets Skein's close code instead.
   */
  override close(code?: number, reason?: string): void {
    // A 1009 with a reason is the peer's own close, which `ws` echoes.
    if (code === WS_TOO_LARGE && reason === undefined) return this.onTooLarge(CloseCode.tooLarge);
    // Nothing may follow a close frame.
    this.#sendPongs();
    super.close(code, reason);
    if (this.readyState === WebSocket.CLOSED) return;
    this.#timer ??= this.#runtime.setTimeout(() => this.terminate(), this.#closeTimeoutMs);
    // The peer's close frame arrives behind everything that the peer sent before.
    this.resume();
  }

  /**
   * Drops the connection together with the bytes that the system buffers, not only those of this
   * process.
   */
  override terminate(): void {
    if ("resetAndDestroy" in this.raw && !("encrypted" in this.raw)) this.raw.resetAndDestroy();
    else super.terminate();
  }

  /** Resolves once the system took everything sent before, or the socket closed. */
  flushed(): Promise<void> {
    const { raw } = this;
    if (raw.closed || raw.writableLength === 0) return Promise.resolve();
    return new Promise((resolve) => {
      if (raw.writable) raw.write("", () => resolve());
      else raw.once("close", () => resolve());
    });
  }

  /**
   * Answers a ping. The method of `ws` would write each pong apart, and drop a peer with ten pongs
   * under way.
   */
  #answer(ping: Uint8Array): void {
    if (this.readyState !== WebSocket.OPEN) return;
    // A copy, because the ping shares the buffer of the whole read.
    const pong = Buffer.concat([Uint8Array.of(PONG, ping.length), ping]);
    if (this.#unsentPongBytes + pong.length > MAX_UNSENT_PONG_BYTES) {
      // Later pings are read but not answered, so that a peer that writes first can still read the
      // close reason.
      return this.close(POLICY_VIOLATION, "Too many answers to pings are unread");
    }
    this.#unsentPongBytes += pong.length;
    if (this.#pongs.push(pong) === 1) queueMicrotask(() => this.#sendPongs());
  }

  #sendPongs(): void {
    if (this.#pongs.length === 0 || this.readyState !== WebSocket.OPEN) return;
    const bytes = Buffer.concat(this.#pongs.splice(0));
    this.raw.write(bytes, () => {
      this.#unsentPongBytes -= bytes.length;
    });
  }

  /** Stops reading from a peer that broke the protocol: `ws` has sent the close frame by now. */
  #farewell(): void {
    // `ws` has already scheduled a resume, to read the peer's answer, by the same queue.
    process.nextTick(() => this.raw.pause());
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = this.#runtime.setTimeout(() => this.terminate(), FAREWELL_MS);
  }
}

/**
 * Pings each socket that was silent for a third of the idle timeout, and ends each that stays
 * silent for another third. One timer checks all sockets every third of the timeout, so that no
 * socket stays silent for longer than the timeout.
 */
export class Liveness {
  readonly #runtime: Runtime;
  readonly #idleTimeoutMs: number;
  /** Sockets, each with `true` while a ping is unanswered. Bounded by the open sockets. */
  readonly #sockets = new Map<HardenedSocket, boolean>();
  #timer: Timer | undefined = undefined;

  /** Takes the idle timeout of each socket, in milliseconds. */
  constructor(runtime: Runtime, idleTimeoutMs: number) {
    this.#runtime = runtime;
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  /** Watches a socket until either end closes the connection. */
  add(socket: HardenedSocket): void {
    this.#sockets.set(socket, false);
    if (this.#timer === undefined) this.#wait();
    socket.on("close", () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size > 0) return;
      this.#runtime.clearTimeout(this.#timer);
      this.#timer = undefined;
    });
  }

  #wait(): void {
    this.#timer = this.#runtime.setTimeout(() => {
      this.#wait();
      this.#sweep();
    }, this.#idleTimeoutMs / 3);
  }

  #sweep(): void {
    for (const [socket, isPinged] of this.#sockets) {
      // A paused socket reads nothing, and a closing socket has a timeout of its own.
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

/** FIN bit and the opcode of text. */
const TEXT = 0x81;

/** FIN bit and the opcode of binary data. */
const BINARY = 0x82;

/**
 * Encodes frames, neither masked nor fragmented, and keeps the last text: a publication goes to one
 * socket after the other, and only the first one pays for the encoding.
 */
export class FrameEncoder {
  #text = "";
  #encoded: Uint8Array = encode("");

  /**
   * Encodes a WebSocket frame.
   *
   * @param frame Message to send.
   * @returns Encoded frame. All sockets that send the same message share these bytes, which MUST
   * NOT be changed.
   */
  encode(frame: Frame): Uint8Array {
    if (typeof frame !== "string") return encode(frame);
    if (this.#text !== frame) {
      this.#encoded = encode(frame);
      this.#text = frame;
    }
    return this.#encoded;
  }
}

function encode(frame: Frame): Uint8Array {
  const isText = typeof frame === "string";
  const length = isText ? Buffer.byteLength(frame) : frame.length;
  const start = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const bytes = Buffer.allocUnsafe(start + length);
  bytes[0] = isText ? TEXT : BINARY;
  bytes[1] = start === 2 ? length : start === 4 ? 126 : 127;
  if (start === 4) bytes.writeUInt16BE(length, 2);
  if (start === 10) bytes.writeBigUInt64BE(BigInt(length), 2);
  if (isText) bytes.write(frame, start);
  else bytes.set(frame, start);
  return bytes;
}
