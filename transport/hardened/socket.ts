/**
 * A socket of `npm:ws` as a connection takes it: with a pause, an end at once,
 * and a close of Skein's for what is too large.
 *
 * @module
 */
import type { Socket as NodeSocket } from "node:net";
import process from "node:process";
import { CloseCode } from "../../errors.ts";
import type { Frame } from "../connection.ts";
import type { FrameMaker } from "./frames.ts";
import { NodeWebSocket } from "./ws.ts";

/** What `ws` closes with when a message is too large. */
const WS_TOO_LARGE = 1009;

/** How long a peer that broke the protocol has to read why, in milliseconds; nothing of it is read. */
const FAREWELL_MS = 1_000;

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
    this.on("message", hear).on("pong", hear).on("ping", hear);
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

  /** The peer broke the protocol, and was told so: what it still sends stays where it is. */
  #farewell(): void {
    // `ws` reads on, for the peer's answer: it has asked for that already, by the same queue.
    process.nextTick(() => this.raw.pause());
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.terminate(), FAREWELL_MS);
  }
}
