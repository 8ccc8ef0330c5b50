/**
 * A histogram of times with cells of one microsecond.
 *
 * @module
 */

/** Maximum time, in microseconds; longer times count as this one. */
const MOST_US = 4_000_000;

/** Collects times and computes quantiles. */
export class Histogram {
  readonly #cells = new Uint32Array(MOST_US + 1);
  #count = 0;

  /** The number of added times. */
  get count(): number {
    return this.#count;
  }

  /**
   * Adds a time.
   *
   * @param us The time, in microseconds.
   */
  add(us: number): void {
    this.#cells[Math.min(Math.max(us | 0, 0), MOST_US)]!++;
    this.#count++;
  }

  /**
   * Computes a quantile.
   *
   * @param part A fraction from 0 to 1: 0.5 is the median.
   * @returns The time, in milliseconds, that this fraction of all times does not exceed.
   */
  quantileMs(part: number): number {
    const wanted = part * this.#count;
    let seen = 0;
    for (let us = 0; us <= MOST_US; us++) {
      seen += this.#cells[us]!;
      if (seen > 0 && seen >= wanted) return us / 1_000;
    }
    return 0;
  }
}
