/**
 * A socket of `npm:ws` as a connection takes it: with a pause, an end at once,
 * answers to many pings, and closes of Skein's for what is too large or too much.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import type { Socket as NodeSocket } from "node:net";
import process from "node:process";
import { CloseCode } from "../../errors.ts";
import type { Frame } from "../connection.ts";
import type { FrameMaker } from "./frames.ts";
import { NodeWebSocket } from "./ws.ts";

/** What `ws` closes with when a message is too large. */
const WS_TOO_LARGE = 1009;

/** RFC 6455's code for a peer that does what is not allowed to it. */
const POLICY_VIOLATION = 1008;

/** How long a peer that broke the protocol has to read why, in milliseconds; nothing of it is read. */
const FAREWELL_MS = 1_000;

/** FIN, and that it is a pong. */
const PONG = 0x8a;

/**
 * Bytes of pongs that may wait for the system: the answers to four reads of pings, of 64 KiB each.
 * A peer that reads its pongs does not come near.
 */
export const MAX_UNSENT_PONG_BYTES = 262_144;

/** A socket that was upgraded. */
export class HardenedSocket extends NodeWebSocket {
  /** Whether the peer gave a sign of life since somebody last looked. */
  isHeard = true;
  /** Closes the connection on this socket, where the peer's message is too large. */
  onTooLarge: (closeCode: number) => void = () => {};
  // Set once it is upgraded: `ws` creates it before.
  declare raw: NodeSocket;
  #frames!: FrameMaker;
  #closeTimeoutMs!: number;
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;
  /** Pongs of this turn: all are written at once. */
  readonly #pongs: Buffer[] = [];
  #unsentPongBytes = 0;

  /** Begins to listen; called once it is upgraded. */
  attach(
    raw: NodeSocket,
    { frames, closeTimeoutMs }: { readonly frames: FrameMaker; readonly closeTimeoutMs: number },
  ): void {
    this.raw = raw;
    this.#frames = frames;
    this.#closeTimeoutMs = closeTimeoutMs;
    const hear = () => {
      this.isHeard = true;
    };
    this.on("message", hear).on("pong", hear).on("ping", (data) => {
      hear();
      this.#answer(data);
    });
    this.on("error", () => this.#farewell());
    this.on("close", () => clearTimeout(this.#timer));
  }

  /**
   * Sends a frame. `ws` would encode it anew for each socket, and write its head apart.
   *
   * @param frame What is sent.
   */
  override send(frame: Frame): void {
    if (this.readyState === WebSocket.OPEN) this.raw.write(this.#frames.make(frame));
  }

  /**
   * Closes, and drops a peer that takes too long to answer. Where `ws` closes since a message is
   * too large, that has the code that Skein has for it.
   */
  override close(code?: number, reason?: string): void {
    // With a reason it is the peer's own close, which `ws` answers with the same.
    if (code === WS_TOO_LARGE && reason === undefined) return this.onTooLarge(CloseCode.tooLarge);
    // Behind a close frame nothing may follow.
    this.#sendPongs();
    super.close(code, reason);
    if (this.readyState === WebSocket.CLOSED) return;
    this.#timer ??= setTimeout(() => this.terminate(), this.#closeTimeoutMs);
    // The peer's answer stands behind what it sent before.
    this.resume();
  }

  /** Drops the connection with what the system still holds of it, not only with what waits here. */
  override terminate(): void {
    if ("resetAndDestroy" in this.raw && !("encrypted" in this.raw)) this.raw.resetAndDestroy();
    else super.terminate();
  }

  /** Resolves when everything sent before was taken by the system, or never will be. */
  flushed(): Promise<void> {
    const { raw } = this;
    if (raw.closed || raw.writableLength === 0) return Promise.resolve();
    return new Promise((resolve) => {
      if (raw.writable) raw.write("", () => resolve());
      else raw.once("close", () => resolve());
    });
  }

  /** Answers a ping; `ws` would write each pong apart, and cut a peer with ten of them under way. */
  #answer(ping: Uint8Array): void {
    if (this.readyState !== WebSocket.OPEN) return;
    // A copy: the ping is a part of all that was read with it.
    const pong = Buffer.concat([Uint8Array.of(PONG, ping.length), ping]);
    if (this.#unsentPongBytes + pong.length > MAX_UNSENT_PONG_BYTES) {
      // What follows is read and left unanswered: a peer that writes first gets to read why.
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

  /** The peer broke the protocol, and was told so: what it still sends stays where it is. */
  #farewell(): void {
    // `ws` reads on, for the peer's answer: it has asked for that already, by the same queue.
    process.nextTick(() => this.raw.pause());
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.terminate(), FAREWELL_MS);
  }
}
