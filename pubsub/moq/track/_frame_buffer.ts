/**
 * The frames of a group that wait for the wire, as they stand on it.
 *
 * @module
 */
import { varintLength, writeVarint } from "../../../transport/quic/varint.ts";
import type { WriteBuffers } from "./write_buffers.ts";

/** Frames that are encoded already, for many subscribers at once; a group pulls them as the wire takes them. */
export interface EncodedSource {
  /** Whether all was pulled, and no more will come. */
  readonly isAtEnd: boolean;
  /**
   * Takes what follows.
   *
   * @param into Gets the frames as they stand on the wire, behind what it has.
   * @param timestamps Whether the frames carry timestamps there.
   * @returns How many bytes that is; 0 if there is nothing yet.
   */
  pull(into: Uint8Array[], timestamps: boolean): number;
  /** Called once: the wire holds nothing of the group any more. */
  released(): void;
}

/** What goes out in one write. */
export interface TakenBytes {
  /** The bytes. */
  readonly bytes: Uint8Array;
  /** Whose memory they are in; to be given back once the wire took them. */
  readonly buffer: Uint8Array<ArrayBuffer> | undefined;
}

/** How frames are encoded, and where. */
export interface FrameBufferOptions {
  /** Frames carry timestamps. */
  readonly timestamps: boolean;
  /** Memory for what waits. */
  readonly buffers: WriteBuffers;
}

/** Collects what goes out together: the head of the stream with the first frames, and later frames. */
export class FrameBuffer {
  readonly #head: Uint8Array;
  readonly #options: FrameBufferOptions;
  /** The head and what a source gave, or nothing while there is a buffer. */
  readonly #chunks: Uint8Array[];
  #buffer: Uint8Array<ArrayBuffer> | undefined = undefined;
  #byteLength: number;
  #isBegun = false;
  #lastTimestamp = 0;

  /** Begins with the head. */
  constructor(head: Uint8Array, options: FrameBufferOptions) {
    this.#head = head;
    this.#options = options;
    this.#chunks = [head];
    this.#byteLength = head.byteLength;
  }

  /** Bytes that wait. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** Whether nothing but the head waits. */
  get isBare(): boolean {
    return !this.#isBegun && this.#byteLength === this.#head.byteLength;
  }

  /** Copies a frame behind what waits. */
  append(frame: Uint8Array, timestamp: number | undefined): void {
    const { byteLength } = frame;
    const delta = this.#options.timestamps ? this.#deltaOf(timestamp ?? Date.now()) : undefined;
    const headBytes = varintLength(byteLength) + (delta === undefined ? 0 : varintLength(delta));
    const buffer = this.#room(headBytes + byteLength);
    const start = this.#byteLength;
    const at = delta === undefined ? start : writeVarint(buffer, start, delta);
    buffer.set(frame, writeVarint(buffer, at, byteLength));
    this.#byteLength += headBytes + byteLength;
  }

  /** Adds what a source has. */
  pull(source: EncodedSource): void {
    this.#byteLength += source.pull(this.#chunks, this.#options.timestamps);
  }

  /** Takes all that waits. */
  take(): TakenBytes {
    const buffer = this.#buffer;
    const length = this.#byteLength;
    const bytes = buffer?.subarray(0, length) ?? joined(this.#chunks.splice(0), length);
    this.#buffer = undefined;
    this.#byteLength = 0;
    this.#isBegun = true;
    return { bytes, buffer };
  }

  /** What has to stand in front of anything that goes out in place of what waits. */
  behindHead(bytes: Uint8Array): Uint8Array {
    if (this.#isBegun) return bytes;
    return joined([this.#head, bytes], this.#head.byteLength + bytes.byteLength);
  }

  /** The distance to the frame before, as it stands on the wire. */
  #deltaOf(timestamp: number): number {
    const delta = timestamp - this.#lastTimestamp;
    this.#lastTimestamp = timestamp;
    return delta >= 0 ? delta * 2 : -delta * 2 - 1;
  }

  /** A buffer with all that waits, and room for more behind it. */
  #room(byteLength: number): Uint8Array<ArrayBuffer> {
    const { buffers } = this.#options;
    const held = this.#buffer;
    const needed = this.#byteLength + byteLength;
    if (held !== undefined && held.byteLength >= needed) return held;
    const buffer = buffers.take(Math.max(needed, 2 * (held?.byteLength ?? 0)));
    if (held === undefined) copyInto(buffer, this.#chunks.splice(0));
    else {
      buffer.set(held.subarray(0, this.#byteLength));
      buffers.give(held);
    }
    return this.#buffer = buffer;
  }
}

function joined(chunks: readonly Uint8Array[], byteLength: number): Uint8Array {
  if (chunks.length === 1) return chunks[0]!;
  const bytes = new Uint8Array(byteLength);
  copyInto(bytes, chunks);
  return bytes;
}

function copyInto(bytes: Uint8Array, chunks: readonly Uint8Array[]): void {
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
}
