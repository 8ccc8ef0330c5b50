/** Encoded frames of a group that wait to be sent, and the memory for them. */
import type { Runtime } from "../../base/runtime.ts";
import type { FrameCodec } from "../wire/frames.ts";

/** The size of a small buffer, in bytes: small groups fit completely. */
export const SMALL_BUFFER_BYTES = 16_384;

/**
 * The size of a large buffer, in bytes: the amount that a group holds before its writer must wait,
 * plus one frame.
 */
export const LARGE_BUFFER_BYTES = 98_304;

/** Free small buffers kept for reuse; more are left to the garbage collector. */
export const MAX_FREE_SMALL = 128;

/** Free large buffers kept for reuse. */
export const MAX_FREE_LARGE = 16;

/** Buffers that are reused once the connection has accepted the bytes. */
export class WriteBuffers {
  readonly #small: Uint8Array<ArrayBuffer>[] = [];
  readonly #large: Uint8Array<ArrayBuffer>[] = [];

  /**
   * Takes a buffer.
   *
   * @returns A buffer with arbitrary content.
   */
  take(minBytes: number): Uint8Array<ArrayBuffer> {
    if (minBytes <= SMALL_BUFFER_BYTES) {
      return this.#small.pop() ?? new Uint8Array(SMALL_BUFFER_BYTES);
    }
    if (minBytes > LARGE_BUFFER_BYTES) return new Uint8Array(minBytes);
    return this.#large.pop() ?? new Uint8Array(LARGE_BUFFER_BYTES);
  }

  /** Returns a buffer that has no other references. */
  give(buffer: Uint8Array<ArrayBuffer>): void {
    const { byteLength } = buffer;
    if (byteLength === SMALL_BUFFER_BYTES) {
      if (this.#small.length < MAX_FREE_SMALL) this.#small.push(buffer);
    } else if (byteLength === LARGE_BUFFER_BYTES) {
      if (this.#large.length < MAX_FREE_LARGE) this.#large.push(buffer);
    }
  }
}

/**
 * The frames encoded once for many subscribers; a group pulls more frames as the connection accepts
 * bytes.
 */
export interface EncodedSource {
  /** True once all frames were pulled and no more will follow. */
  readonly isAtEnd: boolean;
  /**
   * Takes the next frames.
   *
   * @param into Receives the encoded frames, after the chunks already in the array.
   * @param frames The encoding.
   * @returns The number of bytes; 0 if no frame is ready.
   */
  pull(into: Uint8Array[], frames: FrameCodec): number;
  /** Called once, when the connection no longer holds bytes of the group. */
  released(): void;
}

/** The bytes of one write. */
export interface TakenBytes {
  readonly bytes: Uint8Array;
  /** The underlying buffer, to return once the connection has accepted the bytes. */
  readonly buffer: Uint8Array<ArrayBuffer> | undefined;
}

/** Encoding and memory of frames. */
export interface FrameBufferOptions {
  /** The clock for frames without a timestamp. */
  readonly runtime: Runtime;
  /** The encoding of the group. */
  readonly frames: FrameCodec;
  /** Memory for waiting frames. */
  readonly buffers: WriteBuffers;
}

/**
 * Collects the bytes of one write: the head of the stream with the first frames, or later frames.
 */
export class FrameBuffer {
  readonly #head: Uint8Array;
  readonly #options: FrameBufferOptions;
  /** The head and the chunks of a source; empty while there is a buffer. */
  readonly #chunks: Uint8Array[];
  #buffer: Uint8Array<ArrayBuffer> | undefined = undefined;
  #byteLength: number;
  #isBegun = false;
  #lastTimestamp = 0;

  constructor(head: Uint8Array, options: FrameBufferOptions) {
    this.#head = head;
    this.#options = options;
    this.#chunks = [head];
    this.#byteLength = head.byteLength;
  }

  /** The number of waiting bytes. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** True if only the head waits. */
  get hasOnlyHead(): boolean {
    return !this.#isBegun && this.#byteLength === this.#head.byteLength;
  }

  /** Copies a frame after the waiting bytes. */
  append(frame: Uint8Array, timestamp: number | undefined): void {
    const { byteLength } = frame;
    const { frames, runtime } = this.#options;
    const delta = frames.isTimed ? this.#deltaOf(timestamp ?? runtime.now()) : 0;
    const headBytes = frames.headLength(byteLength, delta);
    const buffer = this.#room(headBytes + byteLength);
    buffer.set(frame, frames.writeHead(buffer, this.#byteLength, byteLength, delta));
    this.#byteLength += headBytes + byteLength;
  }

  /** Adds the frames that a source has ready. */
  pull(source: EncodedSource): void {
    this.#byteLength += source.pull(this.#chunks, this.#options.frames);
  }

  /** Adds the mark of a complete group, if the encoding has one. */
  appendEnd(): void {
    const { end } = this.#options.frames;
    if (end.byteLength === 0) return;
    if (this.#buffer === undefined) this.#chunks.push(end);
    else this.#room(end.byteLength).set(end, this.#byteLength);
    this.#byteLength += end.byteLength;
  }

  /** Takes all waiting bytes. */
  take(): TakenBytes {
    const buffer = this.#buffer;
    const length = this.#byteLength;
    const bytes = buffer?.subarray(0, length) ?? joined(this.#chunks.splice(0), length);
    this.#buffer = undefined;
    this.#byteLength = 0;
    this.#isBegun = true;
    return { bytes, buffer };
  }

  /** Prepends the head to bytes that replace the waiting ones, unless the head was already sent. */
  withHead(bytes: Uint8Array): Uint8Array {
    if (this.#isBegun) return bytes;
    return joined([this.#head, bytes], this.#head.byteLength + bytes.byteLength);
  }

  /** Encodes the distance to the previous timestamp; the lowest bit is the sign. */
  #deltaOf(timestamp: number): number {
    const delta = timestamp - this.#lastTimestamp;
    this.#lastTimestamp = timestamp;
    return delta >= 0 ? delta * 2 : -delta * 2 - 1;
  }

  /** Creates a buffer that holds all waiting bytes, and has room for more. */
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
