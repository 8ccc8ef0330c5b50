/** A buffer for frames that arrive before there is a receiver. */
import type { Frame, FrameReceiver } from "./connection.ts";

/**
 * The maximum number of frames held before there is a receiver. A peer may send immediately, while
 * an application needs a few turns, for example to authenticate.
 */
export const MAX_HELD_FRAMES = 1024;

/** The maximum number of bytes held before there is a receiver: sixteen joined frames of 64 KiB. */
export const MAX_HELD_BYTES = 16 * 64 * 1024;

/**
 * Passes frames from a transport to one receiver. Frames that arrive before there is a receiver are
 * held, up to {@linkcode MAX_HELD_FRAMES} and {@linkcode MAX_HELD_BYTES}. A single frame is held
 * whatever its size.
 *
 * - **Order:** frames are delivered first in, first out, even if the receiver triggers further
 *   deliveries.
 * - **Hot path:** once a receiver is set, a delivery costs one field check and one call.
 * - **Close:** frames that are already held can still be received. Later frames are lost.
 *
 * @example Usage
 * ```ts ignore
 * const inbox = new FrameInbox();
 * inbox.deliver("early");
 * inbox.receive({ receiveFrame: console.log, framesEnded() {} }); // "early"
 * ```
 */
export class FrameInbox {
  /** The receiver, which is set once no frame is held. The hot path reads only this field. */
  #receiver: FrameReceiver | undefined = undefined;
  #held: Frame[] | undefined;
  #heldBytes = 0;
  #taken = false;
  #closed = false;

  /**
   * Sets the only receiver, and passes the held frames to it synchronously.
   *
   * @param receiver Receives each frame in order, and then the end.
   * @throws {TypeError} If a receiver is already set.
   */
  receive(receiver: FrameReceiver): void {
    if (this.#taken) {
      throw new TypeError("Cannot receive frames: there is a receiver already");
    }
    this.#taken = true;
    // The receiver may trigger further deliveries. Those frames are held after the others, in
    // order.
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
   * @returns `false` if the frame did not fit, in which case the connection MUST close.
   */
  deliver(frame: Frame): boolean {
    if (this.#receiver !== undefined) {
      this.#receiver.receiveFrame(frame);
      return true;
    }
    return this.#hold(frame);
  }

  /**
   * Accepts no more frames, and notifies the receiver. Held frames can still be received.
   * Idempotent.
   */
  close(): void {
    this.#closed = true;
    const receiver = this.#receiver;
    this.#receiver = undefined;
    receiver?.framesEnded();
  }

  #hold(frame: Frame): boolean {
    if (this.#closed) return true;
    // For text, this is the length in UTF-16 units, because the limit is on memory, not on bytes
    // sent.
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
