/**
 * Memory that streams are read into.
 *
 * @module
 */

/** The first read of a stream: its head and a small message fit. A pending read pins its buffer. */
export const FIRST_READ_BYTES = 1_024;

/** What follows a read that filled its buffer. */
const NEXT_READ_BYTES = 16_384;

/** The largest read, and what follows one that filled even that. */
const MAX_READ_BYTES = 65_536;

/** Buffers that wait for their next read, by their size: 8.25 MiB in all. */
const MAX_POOLED_BUFFERS: ReadonlyMap<number, number> = new Map([
  [FIRST_READ_BYTES, 256],
  [NEXT_READ_BYTES, 256],
  [MAX_READ_BYTES, 64],
]);

/** What came is copied if it fills no more of a large buffer than this part of it. */
const MAX_COPIED_PART = 1 / 4;

/**
 * Tells how large a read is after one that filled its buffer.
 *
 * @param size Of that buffer.
 * @returns The next size.
 */
export function nextReadBytes(size: number): number {
  return size < NEXT_READ_BYTES ? NEXT_READ_BYTES : MAX_READ_BYTES;
}

/**
 * Buffers for reads. Memory outside of the heap is dear to make, to clear and
 * to collect: a stream of 12 KB costs twice as much with new buffers.
 */
export class ReadBuffers {
  // State of the module, as memory is the process's: one pool serves all connections.
  static readonly #pools: ReadonlyMap<number, ArrayBuffer[]> = new Map(
    MAX_POOLED_BUFFERS.keys().map((size) => [size, []]),
  );

  /**
   * Takes a buffer.
   *
   * @param size Its size in bytes.
   * @returns A view of all of it; what is in it is of no meaning.
   */
  static take(size: number): Uint8Array<ArrayBuffer> {
    const buffer = this.#pools.get(size)?.pop();
    return buffer === undefined ? new Uint8Array(size) : new Uint8Array(buffer);
  }

  /**
   * Gives back a buffer that nobody reads.
   *
   * @param buffer The buffer; of other sizes than the pooled ones it is left to the collector.
   */
  static giveBack(buffer: ArrayBuffer): void {
    const size = buffer.byteLength;
    const pool = this.#pools.get(size);
    if (pool !== undefined && pool.length < MAX_POOLED_BUFFERS.get(size)!) pool.push(buffer);
  }

  /**
   * Takes what came out of a large buffer that it fills little of, and gives back the buffer.
   *
   * @param bytes What came.
   * @returns The same bytes, which are the reader's to keep.
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
