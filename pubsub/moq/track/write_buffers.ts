/** Memory for bytes on the way to the wire. */

/** Bytes of a small buffer: small groups fit as a whole. */
export const SMALL_BUFFER_BYTES = 16_384;

/**
 * Bytes of a large buffer: the bytes that a group holds before the writer has to wait, and one
 * frame more.
 */
export const LARGE_BUFFER_BYTES = 98_304;

/** Free small buffers kept for reuse; more are left to the garbage collector. */
export const MAX_FREE_SMALL = 128;

/** Free large buffers kept for reuse. */
export const MAX_FREE_LARGE = 16;

/** Buffers that are reused once the wire took the bytes. */
export class WriteBuffers {
  readonly #small: Uint8Array<ArrayBuffer>[] = [];
  readonly #large: Uint8Array<ArrayBuffer>[] = [];

  /**
   * Takes a buffer.
   *
   * @param minBytes The minimum size.
   * @returns A buffer with arbitrary content.
   */
  take(minBytes: number): Uint8Array<ArrayBuffer> {
    if (minBytes <= SMALL_BUFFER_BYTES) {
      return this.#small.pop() ?? new Uint8Array(SMALL_BUFFER_BYTES);
    }
    if (minBytes > LARGE_BUFFER_BYTES) return new Uint8Array(minBytes);
    return this.#large.pop() ?? new Uint8Array(LARGE_BUFFER_BYTES);
  }

  /**
   * Gives back a buffer without other references.
   *
   * @param buffer A buffer from {@linkcode WriteBuffers.take}.
   */
  give(buffer: Uint8Array<ArrayBuffer>): void {
    const { byteLength } = buffer;
    if (byteLength === SMALL_BUFFER_BYTES) {
      if (this.#small.length < MAX_FREE_SMALL) this.#small.push(buffer);
    } else if (byteLength === LARGE_BUFFER_BYTES) {
      if (this.#large.length < MAX_FREE_LARGE) this.#large.push(buffer);
    }
  }
}
