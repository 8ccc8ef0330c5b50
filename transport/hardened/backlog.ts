/**
 * Frames that came before a wire stopped reading, for a receiver that is behind.
 *
 * @module
 */
import type { Frame, FrameReceiver } from "../connection.ts";

/** The receiver is full to this share: the wire stops, and what is on its way still finds room. */
const PAUSE_AT = 1 / 2;

/** The receiver is full to this share: the wire goes on. */
const RESUME_AT = 1 / 4;

/**
 * Frames held for a receiver that is behind: what a socket had read, 64 KiB, is more than ten
 * thousand if they are empty.
 */
export const MAX_HELD_FRAMES = 16_384;

/** Bytes held for it, beside the first frame, which is as large as a message may be. */
export const MAX_HELD_BYTES = 1_048_576;

/** What is paused. */
export interface Pausable {
  /** Reads nothing more, until `resume`. */
  pause(): void;
  /** Reads again. */
  resume(): void;
  /** More came than is held: the connection ends. */
  overflow(): void;
}

/**
 * Stands between a wire and a receiver that tells how full it is: stops the wire
 * while the receiver is behind, and keeps in order what was read by then.
 */
export class Backlog implements FrameReceiver {
  readonly #receiver: FrameReceiver;
  readonly #wire: Pausable;
  /** What is held, while the wire is stopped. */
  #held: Frame[] | undefined = undefined;
  /** Bytes of what is held, but for the first frame. */
  #heldBytes = 0;
  #isEnded = false;

  /** Holds nothing yet. */
  constructor(receiver: FrameReceiver, wire: Pausable) {
    this.#receiver = receiver;
    this.#wire = wire;
  }

  /** Whether the wire is stopped. */
  get isPaused(): boolean {
    return this.#held !== undefined;
  }

  /** Hands a frame on, or holds it. */
  receiveFrame(frame: Frame): void {
    if (this.#held !== undefined) return this.#hold(this.#held, frame);
    this.#receiver.receiveFrame(frame);
    if (this.#fill < PAUSE_AT) return;
    this.#held = [];
    this.#wire.pause();
    void this.#catchUp(this.#held);
  }

  /** Hands on what is held, and then that it was the last. */
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

/** A text's length is counted in UTF-16 units: this bounds memory, not the wire. */
function sizeOf(frame: Frame): number {
  return typeof frame === "string" ? frame.length : frame.byteLength;
}
