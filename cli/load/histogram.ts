/** A histogram with cells of a fixed relative width, for quantiles of millions of times. */

/** Cells for each power of two: a quantile is at most 1/128, or 0.8 %, above the exact value. */
const CELLS_PER_OCTAVE = 128;

/** Base-2 logarithm of {@linkcode CELLS_PER_OCTAVE}. */
const BITS = 7;

/** Longest time in microseconds, about an hour. Longer times count as this time. */
export const MAX_US: number = 2 ** 32 - 1;

const CELLS = (32 - BITS + 1) * CELLS_PER_OCTAVE;

/** The non-empty cells of a histogram, to send to another thread: index, count, index, count… */
export interface HistogramCells {
  /** Pairs of an index and a count. */
  readonly cells: readonly number[];
  /** Sum of all times, in microseconds. */
  readonly sumUs: number;
  /** Longest time, in microseconds. */
  readonly maxUs: number;
  /** Shortest time, in microseconds; 0 if there are no times. */
  readonly minUs: number;
}

/** Quantiles of a histogram, in milliseconds. */
export interface Quantiles {
  /** Number of times. */
  readonly count: number;
  /** Shortest time. */
  readonly min: number;
  /** Mean of all times. */
  readonly mean: number;
  /** Median. */
  readonly p50: number;
  /** 90th percentile. */
  readonly p90: number;
  /** 99th percentile. */
  readonly p99: number;
  /** 99.9th percentile. */
  readonly p999: number;
  /** Longest time. */
  readonly max: number;
}

/**
 * Collects times between 1 µs and an hour in 26 KiB, with a relative precision of 0.8 %. Times
 * below 128 µs, the minimum, the maximum and the mean are exact to the microsecond.
 *
 * @example Usage
 * ```ts
 * import { Histogram } from "./histogram.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const times = new Histogram();
 * for (const ms of [1, 2, 3, 100]) times.add(ms * 1_000);
 * const { count, max } = times.quantiles();
 * assertEquals([count, max], [4, 100]);
 * ```
 */
export class Histogram {
  readonly #cells = new Float64Array(CELLS);
  #count = 0;
  #sumUs = 0;
  #maxUs = 0;
  #minUs = MAX_US;

  /** Number of times. */
  get count(): number {
    return this.#count;
  }

  /**
   * Adds a time.
   *
   * @param us The time, in microseconds; a negative time counts as 0.
   */
  add(us: number): void {
    const time = Math.min(Math.max(Math.round(us), 0), MAX_US);
    this.#cells[cellOf(time)]!++;
    this.#count++;
    this.#sumUs += time;
    if (time > this.#maxUs) this.#maxUs = time;
    if (time < this.#minUs) this.#minUs = time;
  }

  /** Adds the times of another histogram. */
  merge({ cells, sumUs, maxUs, minUs }: HistogramCells): void {
    for (let i = 0; i < cells.length; i += 2) {
      this.#cells[cells[i]!]! += cells[i + 1]!;
      this.#count += cells[i + 1]!;
    }
    if (cells.length === 0) return;
    this.#sumUs += sumUs;
    this.#maxUs = Math.max(this.#maxUs, maxUs);
    this.#minUs = Math.min(this.#minUs, minUs);
  }

  /** Lists the non-empty cells. */
  toCells(): HistogramCells {
    const cells: number[] = [];
    for (const [index, count] of this.#cells.entries()) if (count > 0) cells.push(index, count);
    return {
      cells,
      sumUs: this.#sumUs,
      maxUs: this.#maxUs,
      minUs: this.#count === 0 ? 0 : this.#minUs,
    };
  }

  /** Removes all times. */
  clear(): void {
    this.#cells.fill(0);
    this.#count = this.#sumUs = this.#maxUs = 0;
    this.#minUs = MAX_US;
  }

  /**
   * Computes a quantile.
   *
   * @param part Between 0 and 1: 0.5 is the median.
   * @returns The shortest time, in milliseconds, that this fraction of all times does not exceed; 0
   * if no time was added.
   */
  quantileMs(part: number): number {
    if (this.#count === 0) return 0;
    const rank = Math.max(1, Math.ceil(part * this.#count));
    let seen = 0;
    for (let index = 0; index < CELLS; index++) {
      seen += this.#cells[index]!;
      // This is the upper bound of the cell, so that no quantile is below the exact value.
      if (seen >= rank) return Math.min(topOf(index), this.#maxUs) / 1_000;
    }
    return this.#maxUs / 1_000;
  }

  /** Computes the quantiles of a report. */
  quantiles(): Quantiles {
    const count = this.#count;
    return {
      count,
      min: count === 0 ? 0 : this.#minUs / 1_000,
      mean: count === 0 ? 0 : Math.round(this.#sumUs / count) / 1_000,
      p50: this.quantileMs(0.5),
      p90: this.quantileMs(0.9),
      p99: this.quantileMs(0.99),
      p999: this.quantileMs(0.999),
      max: this.#maxUs / 1_000,
    };
  }
}

function cellOf(us: number): number {
  if (us < CELLS_PER_OCTAVE) return us;
  const octave = 31 - Math.clz32(us) - BITS;
  return (octave + 1) * CELLS_PER_OCTAVE + (us >>> octave) - CELLS_PER_OCTAVE;
}

/** The longest time of a cell, in microseconds. */
function topOf(index: number): number {
  if (index < CELLS_PER_OCTAVE) return index;
  const octave = Math.floor(index / CELLS_PER_OCTAVE) - 1;
  const first = (index % CELLS_PER_OCTAVE + CELLS_PER_OCTAVE) * 2 ** octave;
  return first + 2 ** octave - 1;
}
