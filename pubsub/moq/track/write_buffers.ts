/**
 * Memory for what is on its way to the wire.
 *
 * @module
 */

/** Bytes of a small buffer: small groups fit as a whole. */
export const SMALL_BUFFER_BYTES = 16_384;

/** Bytes of a large one: what a group holds before its writer has to wait, and one frame more. */
export const LARGE_BUFFER_BYTES = 98_304;

/** Small buffers that wait for their next use, at most; more are left to the garbage. */
export const MAX_FREE_SMALL = 128;

/** The same for large ones. */
export const MAX_FREE_LARGE = 16;

/** Buffers that are used again once the wire took what was in them. */
export class WriteBuffers {
  readonly #small: Uint8Array<ArrayBuffer>[] = [];
  readonly #large: Uint8Array<ArrayBuffer>[] = [];

  /**
   * Takes a buffer.
   *
   * @param minBytes What has to fit.
   * @returns A buffer with anything in it.
   */
  take(minBytes: number): Uint8Array<ArrayBuffer> {
    if (minBytes <= SMALL_BUFFER_BYTES) {
      return this.#small.pop() ?? new Uint8Array(SMALL_BUFFER_BYTES);
    }
    if (minBytes > LARGE_BUFFER_BYTES) return new Uint8Array(minBytes);
    return this.#large.pop() ?? new Uint8Array(LARGE_BUFFER_BYTES);
  }

  /**
   * Gives back a buffer that nobody refers to any more.
   *
   * @param buffer One that was taken.
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
