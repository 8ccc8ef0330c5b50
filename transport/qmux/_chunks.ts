/**
 * Bytes of a stream that came and were not read yet.
 *
 * @module
 */

/** Below so many bytes a chunk is put together with those that follow. */
const SMALL_BYTES = 4_096;

/** Small chunks are put together up to so many bytes. */
const MAX_JOINED_BYTES = 16_384;

/** The memory of small chunks that are put together, at first. */
const FIRST_CAPACITY = 256;

/**
 * A queue of chunks. Small ones are put together: a peer that sends byte by byte
 * would else make this end hold a hundred times what it sends. So at most about
 * twice the bytes are held.
 */
export class Chunks {
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #head = 0;
  /** The memory of the last chunk, if it has room. */
  #tail: Uint8Array<ArrayBuffer> | undefined = undefined;
  #tailLength = 0;
  #byteLength = 0;

  /** Bytes in it. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /**
   * Adds bytes at the end.
   *
   * @param bytes What came.
   * @param isOwn Whether the bytes have their memory for themselves.
   */
  push(bytes: Uint8Array, isOwn: boolean): void {
    const { byteLength } = bytes;
    this.#byteLength += byteLength;
    if (byteLength < SMALL_BYTES) return this.#join(bytes);
    this.#closeTail();
    this.#chunks.push(isOwn ? bytes as Uint8Array<ArrayBuffer> : bytes.slice());
  }

  /** Takes the first chunk out. */
  shift(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#head === this.#chunks.length) this.#closeTail();
    const chunk = this.#chunks[this.#head];
    if (chunk === undefined) return undefined;
    this.#head++;
    if (this.#head === this.#chunks.length) {
      this.#chunks = [];
      this.#head = 0;
    }
    this.#byteLength -= chunk.byteLength;
    return chunk;
  }

  #join(bytes: Uint8Array): void {
    const needed = this.#tailLength + bytes.byteLength;
    if (needed > MAX_JOINED_BYTES) this.#closeTail();
    const length = this.#tailLength;
    let tail = this.#tail;
    if (tail === undefined) {
      // Most often it is the only one.
      this.#tail = bytes.slice();
      this.#tailLength = bytes.byteLength;
      return;
    }
    if (length + bytes.byteLength > tail.byteLength) {
      const capacity = Math.max(FIRST_CAPACITY, (length + bytes.byteLength) * 2);
      const grown = new Uint8Array(Math.min(MAX_JOINED_BYTES, capacity));
      grown.set(tail.subarray(0, length));
      this.#tail = tail = grown;
    }
    tail.set(bytes, length);
    this.#tailLength = length + bytes.byteLength;
  }

  #closeTail(): void {
    const tail = this.#tail;
    if (tail === undefined) return;
    this.#chunks.push(tail.subarray(0, this.#tailLength));
    this.#tail = undefined;
    this.#tailLength = 0;
  }
}
