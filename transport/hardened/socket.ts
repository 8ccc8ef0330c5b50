/** A socket of `npm:ws` with an end at once, batched pongs, and Skein's close codes. */
import { Buffer } from "node:buffer";
import type { Socket as NodeSocket } from "node:net";
import process from "node:process";
import { CloseCode } from "../../errors.ts";
import type { Frame } from "../connection.ts";
import type { FrameMaker } from "./frames.ts";
import { NodeWebSocket } from "./ws.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";

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
  #frames!: FrameMaker;
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
      readonly frames: FrameMaker;
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
    if (this.readyState === WebSocket.OPEN) this.raw.write(this.#frames.make(frame));
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
      return this.close(POLICY_VIOLATION, "More pings came than answers were read");
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
