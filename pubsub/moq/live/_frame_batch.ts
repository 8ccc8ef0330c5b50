/**
 * Frames as they stand on the wire, encoded once for all who get them.
 *
 * @module
 */
import { varintLength, writeVarint } from "../../../transport/quic/varint.ts";

/** A frame, and when it was taken. */
export interface TimedFrame {
  /** The frame. */
  readonly bytes: Uint8Array;
  /** When it was taken, in units of the track's timescale. */
  readonly timestamp: number;
}

/** Frames of one group that were written in one turn of the event loop. */
export class FrameBatch {
  /** Bytes of its first encoding. */
  readonly byteLength: number;

  readonly #lengths: readonly number[];
  readonly #timestamps: readonly number[];
  readonly #before: number;
  #plain: Uint8Array | undefined = undefined;
  #timed: Uint8Array | undefined = undefined;

  /**
   * Encodes frames.
   *
   * @param frames The frames; they are copied.
   * @param before The timestamp of the frame before them; 0 if they are the first of their group.
   * @param timestamps Whether to encode timestamps at once; without, when they are asked for.
   */
  constructor(frames: readonly TimedFrame[], before: number, timestamps: boolean) {
    this.#lengths = frames.map(({ bytes }) => bytes.byteLength);
    this.#timestamps = frames.map(({ timestamp }) => timestamp);
    this.#before = before;
    const encoded = this.#encode(timestamps, (at) => frames[at]!.bytes);
    if (timestamps) this.#timed = encoded;
    else this.#plain = encoded;
    this.byteLength = encoded.byteLength;
  }

  /** Gives the frames as they stand on the wire, with or without timestamps. */
  encoded(timestamps: boolean): Uint8Array {
    if (timestamps) return this.#timed ??= this.#encode(true, this.#framesOf(false));
    return this.#plain ??= this.#encode(false, this.#framesOf(true));
  }

  #encode(timestamps: boolean, frameAt: (at: number) => Uint8Array): Uint8Array {
    const deltas = timestamps ? this.#deltas() : undefined;
    let size = 0;
    for (const [at, length] of this.#lengths.entries()) {
      size += varintLength(length) + length;
      if (deltas !== undefined) size += varintLength(deltas[at]!);
    }
    const bytes = new Uint8Array(size);
    let offset = 0;
    for (const [at, length] of this.#lengths.entries()) {
      if (deltas !== undefined) offset = writeVarint(bytes, offset, deltas[at]!);
      offset = writeVarint(bytes, offset, length);
      bytes.set(frameAt(at), offset);
      offset += length;
    }
    return bytes;
  }

  /** The frames inside of an encoding that is there. */
  #framesOf(timestamps: boolean): (at: number) => Uint8Array {
    const encoded = (timestamps ? this.#timed : this.#plain)!;
    const deltas = timestamps ? this.#deltas() : undefined;
    let offset = 0;
    return (at) => {
      const length = this.#lengths[at]!;
      offset += varintLength(length) + (deltas === undefined ? 0 : varintLength(deltas[at]!));
      offset += length;
      return encoded.subarray(offset - length, offset);
    };
  }

  #deltas(): number[] {
    let last = this.#before;
    return this.#timestamps.map((timestamp) => {
      const delta = timestamp - last;
      last = timestamp;
      return delta >= 0 ? delta * 2 : -delta * 2 - 1;
    });
  }
}
