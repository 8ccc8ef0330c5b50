/** A buffer for frames that arrive before there is a receiver. */
import type { Frame, FrameReceiver } from "./connection.ts";

/**
 * The maximum number of frames held before there is a receiver: a peer may send immediately, and an
 * application needs a few turns, for example to authenticate.
 */
export const MAX_HELD_FRAMES = 1024;

/** The maximum bytes held before there is a receiver: sixteen joined frames of 64 KiB. */
export const MAX_HELD_BYTES = 16 * 64 * 1024;

/**
 * Passes frames from a transport to one receiver. Frames that arrive before the receiver are held,
 * up to {@linkcode MAX_HELD_FRAMES} and {@linkcode MAX_HELD_BYTES}; a single frame of any size is
 * held.
 *
 * - **Order:** first in, first out, even if the receiver triggers deliveries.
 * - **Hot path:** with a receiver set, one field check and one call.
 * - **Close:** held frames stay for the receiver; later frames are lost.
 *
 * @example Usage
 * ```ts ignore
 * const inbox = new FrameInbox();
 * inbox.deliver("early");
 * inbox.receive({ receiveFrame: console.log, framesEnded() {} }); // "early"
 * ```
 */
export class FrameInbox {
  /** The receiver, set once no frame is held; the only field that the hot path reads. */
  #receiver: FrameReceiver | undefined = undefined;
  #held: Frame[] | undefined;
  #heldBytes = 0;
  #taken = false;
  #closed = false;

  /**
   * Sets the only receiver, and passes the held frames on synchronously.
   *
   * @param receiver Receives each frame in order, and the end.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: FrameReceiver): void {
    if (this.#taken) {
      throw new TypeError("Cannot receive frames: there is a receiver already");
    }
    this.#taken = true;
    // The receiver may trigger deliveries: those frames are held after the others, in order.
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
   * @returns `false` if the frame did not fit: the connection MUST close.
   */
  deliver(frame: Frame): boolean {
    if (this.#receiver !== undefined) {
      this.#receiver.receiveFrame(frame);
      return true;
    }
    return this.#hold(frame);
  }

  /** Ends the frames and notifies the receiver. Held frames can still be received. Idempotent. */
  close(): void {
    this.#closed = true;
    const receiver = this.#receiver;
    this.#receiver = undefined;
    receiver?.framesEnded();
  }

  #hold(frame: Frame): boolean {
    if (this.#closed) return true;
    // Length in UTF-16 units for a text: the bound limits memory, not bytes sent.
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
