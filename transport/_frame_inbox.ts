/**
 * Holds the frames that came before anybody listened.
 *
 * @module
 */
import type { Frame } from "./connection.ts";

/**
 * Frames held before there is a receiver: a peer may speak at once, and the
 * application takes a few turns (authentication, say) to get ready.
 */
export const MAX_HELD_FRAMES = 1024;

/** Bytes held before there is a receiver: sixteen joined frames of 64 KiB. */
export const MAX_HELD_BYTES = 16 * 64 * 1024;

/**
 * Stands between a wire and its one receiver of frames. Frames that came
 * before the receiver are held, up to {@linkcode MAX_HELD_FRAMES} and
 * {@linkcode MAX_HELD_BYTES}; a single frame is held whatever its size.
 *
 * - **Order:** first in, first out, also where a receiver causes deliveries.
 * - **Hot path:** once there is a receiver, one field check and one call.
 * - **Close:** frames that are held stay for the receiver; later ones are lost.
 *
 * @example Usage
 * ```ts ignore
 * const inbox = new FrameInbox();
 * inbox.deliver("early");
 * inbox.receive((frame) => console.log(frame)); // "early"
 * ```
 */
export class FrameInbox {
  /** The receiver once nothing is held; the only field that the hot path reads. */
  #receiver: ((frame: Frame) => void) | undefined = undefined;
  #held: Frame[] = [];
  #heldBytes = 0;
  #taken = false;
  #closed = false;

  /**
   * Sets the one receiver and hands it what is held, synchronously.
   *
   * @param receiver Called with each frame, in order. MUST NOT throw.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: (frame: Frame) => void): void {
    if (this.#taken) {
      throw new TypeError("Cannot receive frames: there is a receiver already");
    }
    this.#taken = true;
    // Frames delivered meanwhile are held behind the others, so order is kept.
    for (let i = 0; i < this.#held.length; i++) receiver(this.#held[i]!);
    this.#held = [];
    this.#heldBytes = 0;
    if (!this.#closed) this.#receiver = receiver;
  }

  /**
   * Passes a frame to the receiver, or holds it until there is one.
   *
   * @param frame The frame that came.
   * @returns `false` if the frame did not fit: the connection MUST close.
   */
  deliver(frame: Frame): boolean {
    if (this.#receiver !== undefined) {
      this.#receiver(frame);
      return true;
    }
    return this.#hold(frame);
  }

  /** Takes no further frames. What is held can still be received. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#receiver = undefined;
  }

  #hold(frame: Frame): boolean {
    if (this.#closed) return true;
    // A text's length is counted in UTF-16 units: this bounds memory, not the wire.
    const bytes = typeof frame === "string" ? frame.length : frame.byteLength;
    const full = this.#held.length >= MAX_HELD_FRAMES ||
      this.#held.length > 0 && this.#heldBytes + bytes > MAX_HELD_BYTES;
    if (full) return false;
    this.#held.push(frame);
    this.#heldBytes += bytes;
    return true;
  }
}
