/**
 * Holds the frames that came before anybody listened.
 *
 * @module
 */
import type { Frame, FrameReceiver } from "../connection.ts";

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
 * inbox.receive({ receiveFrame: console.log, framesEnded() {} }); // "early"
 * ```
 */
export class FrameInbox {
  /** The receiver once nothing is held; the only field that the hot path reads. */
  #receiver: FrameReceiver | undefined = undefined;
  #held: Frame[] | undefined;
  #heldBytes = 0;
  #taken = false;
  #closed = false;

  /**
   * Sets the one receiver and hands it what is held, synchronously.
   *
   * @param receiver Gets each frame, in order, and is told of the end.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: FrameReceiver): void {
    if (this.#taken) {
      throw new TypeError("Cannot receive frames: there is a receiver already");
    }
    this.#taken = true;
    // Frames delivered meanwhile are held behind the others, so order is kept.
    const held = this.#held ?? [];
    for (let i = 0; i < held.length; i++) receiver.receiveFrame(held[i]!);
    this.#held = undefined;
    this.#heldBytes = 0;
    if (this.#closed) receiver.framesEnded();
    else this.#receiver = receiver;
  }

  /**
   * Passes a frame to the receiver, or holds it until there is one.
   *
   * @param frame The frame that came.
   * @returns `false` if the frame did not fit: the connection MUST close.
   */
  deliver(frame: Frame): boolean {
    if (this.#receiver !== undefined) {
      this.#receiver.receiveFrame(frame);
      return true;
    }
    return this.#hold(frame);
  }

  /** Takes no further frames, and tells the receiver. What is held can still be received. Idempotent. */
  close(): void {
    this.#closed = true;
    const receiver = this.#receiver;
    this.#receiver = undefined;
    receiver?.framesEnded();
  }

  #hold(frame: Frame): boolean {
    if (this.#closed) return true;
    // A text's length is counted in UTF-16 units: this bounds memory, not the wire.
    const bytes = typeof frame === "string" ? frame.length : frame.byteLength;
    const held = this.#held ??= [];
    const full = held.length >= MAX_HELD_FRAMES ||
      held.length > 0 && this.#heldBytes + bytes > MAX_HELD_BYTES;
    if (full) return false;
    held.push(frame);
    this.#heldBytes += bytes;
    return true;
  }
}
