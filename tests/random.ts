/**
 * Reproducible random numbers, for property tests.
 *
 * @module
 */

/** A source of random numbers that are determined by a seed. */
export class Random {
  #state: number;

  /**
   * Creates a source.
   *
   * @param seed Equal seeds give equal numbers.
   */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /**
   * Returns a random integer.
   *
   * @param end The exclusive upper bound; at most 2^53.
   * @returns An integer of 0 or more, below `end`.
   */
  below(end: number): number {
    const high = this.#next() >>> 5;
    const low = this.#next() >>> 6;
    return Math.floor((high * 2 ** 26 + low) / 2 ** 53 * end);
  }

  /**
   * Returns a random integer with a random number of bits, so that small integers are as common as
   * large ones.
   *
   * @param maxBits Maximum number of bits; at most 53.
   * @returns An integer of 0 or more, below 2 to the power of `maxBits`.
   */
  bits(maxBits: number): number {
    return this.below(2 ** (1 + this.below(maxBits)));
  }

  /**
   * Returns random bytes.
   *
   * @param length Number of bytes.
   */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.below(256));
  }

  /**
   * Returns a random item.
   *
   * @param items The items; not empty.
   * @returns One of the items.
   */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  /** Returns the next 32 bits: a Weyl sequence, mixed with the finalizer of MurmurHash3. */
  #next(): number {
    this.#state = this.#state + 0x9e37_79b9 >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ mixed >>> 16, 0x85eb_ca6b);
    mixed = Math.imul(mixed ^ mixed >>> 13, 0xc2b2_ae35);
    return (mixed ^ mixed >>> 16) >>> 0;
  }
}
