/** Pool of buffers for reads from streams. */

/**
 * Size of the first read of a stream, which fits the head and a small message. A pending read pins
 * the buffer.
 */
export const FIRST_READ_BYTES = 1_024;

/** Size of the read after one that filled the first buffer. */
const NEXT_READ_BYTES = 16_384;

/** Size of the largest read, used after all further full reads. */
const MAX_READ_BYTES = 65_536;

/** Most idle buffers by size: 8.25 MiB in all. */
const MAX_POOLED_BUFFERS: ReadonlyMap<number, number> = new Map([
  [FIRST_READ_BYTES, 256],
  [NEXT_READ_BYTES, 256],
  [MAX_READ_BYTES, 64],
]);

/** Share of a large buffer up to which received bytes are copied out. */
const MAX_COPIED_PART = 1 / 4;

/**
 * Computes the read size after a read that filled the buffer.
 *
 * @param size Size of the full buffer.
 */
export function nextReadBytes(size: number): number {
  return size < NEXT_READ_BYTES ? NEXT_READ_BYTES : MAX_READ_BYTES;
}

/**
 * Pool of read buffers. Memory outside the heap is slow to allocate, clear and collect: a stream of
 * 12 KB costs twice as much with new buffers.
 */
export class ReadBuffers {
  // State of the module, because memory belongs to the process: one pool serves all connections.
  static readonly #pools: ReadonlyMap<number, ArrayBuffer[]> = new Map(
    MAX_POOLED_BUFFERS.keys().map((size) => [size, []]),
  );

  /**
   * Takes a buffer from the pool, or creates one.
   *
   * @param size Size in bytes.
   * @returns A view of the whole buffer, with arbitrary content.
   */
  static take(size: number): Uint8Array<ArrayBuffer> {
    const buffer = this.#pools.get(size)?.pop();
    return buffer === undefined ? new Uint8Array(size) : new Uint8Array(buffer);
  }

  /**
   * Returns an unused buffer.
   *
   * @param buffer The buffer; ignored unless of a pooled size.
   */
  static giveBack(buffer: ArrayBuffer): void {
    const size = buffer.byteLength;
    const pool = this.#pools.get(size);
    if (pool !== undefined && pool.length < MAX_POOLED_BUFFERS.get(size)!) pool.push(buffer);
  }

  /**
   * Copies bytes out of a large buffer that is mostly empty, and returns the buffer to the pool.
   *
   * @param bytes Received bytes.
   * @returns The same bytes, owned by the reader.
   */
  static settle(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const { buffer, byteLength } = bytes;
    const size = buffer.byteLength;
    if (size < NEXT_READ_BYTES || byteLength > size * MAX_COPIED_PART) return bytes;
    const copy = bytes.slice();
    this.giveBack(buffer);
    return copy;
  }
}
