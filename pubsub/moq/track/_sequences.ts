/** The numbers of groups that came, and the gaps between them. */
import type { MissedGroups } from "../wire/errors.ts";

/** The highest number of a group: the number after must fit into 53 bits, too. */
export const LAST_SEQUENCE = Number.MAX_SAFE_INTEGER - 1;

/** Ranges that the set keeps apart; above that, the oldest gap counts as filled. */
export const MAX_RANGES = 1_024;

/** A set of mostly consecutive numbers: sorted ranges that do not touch. */
export class Sequences {
  readonly #ranges: { first: number; last: number }[] = [];

  /** The lowest number; `undefined` if the set is empty. */
  get lowest(): number | undefined {
    return this.#ranges[0]?.first;
  }

  /** The highest number; `undefined` if the set is empty. */
  get highest(): number | undefined {
    return this.#ranges.at(-1)?.last;
  }

  /** Number of ranges. */
  get ranges(): number {
    return this.#ranges.length;
  }

  /**
   * Adds a number, or all numbers of a range.
   *
   * @returns The oldest gap, if there are too many ranges now; that gap counts as filled from now
   * on.
   */
  add(first: number, last: number = first): MissedGroups | undefined {
    const ranges = this.#ranges;
    const newest = ranges.at(-1);
    // Usually the number follows the highest one.
    if (newest !== undefined && first === newest.last + 1) {
      newest.last = last;
      return undefined;
    }
    let end = ranges.length;
    while (end > 0 && ranges[end - 1]!.first > last + 1) end--;
    let start = end;
    const added = { first, last };
    while (start > 0 && ranges[start - 1]!.last >= first - 1) {
      const other = ranges[--start]!;
      added.first = Math.min(added.first, other.first);
      added.last = Math.max(added.last, other.last);
    }
    ranges.splice(start, end - start, added);
    if (ranges.length <= MAX_RANGES) return undefined;
    const oldest = ranges.shift()!;
    const next = ranges[0]!;
    const gap = { first: oldest.last + 1, last: next.first - 1 };
    next.first = oldest.first;
    return gap;
  }

  /** Tells whether the set has a number, or all numbers of a range. */
  has(first: number, last: number = first): boolean {
    return this.missing(first, last).length === 0;
  }

  /** Lists the gaps within a range, in order. */
  missing(first: number, last: number): MissedGroups[] {
    const gaps: MissedGroups[] = [];
    // From the end: most calls are about the newest numbers.
    for (let at = this.#ranges.length - 1, end = last; end >= first; at--) {
      const range = this.#ranges[at];
      if (range === undefined) {
        gaps.push({ first, last: end });
        break;
      }
      if (range.first > end) continue;
      if (range.last < end) gaps.push({ first: Math.max(first, range.last + 1), last: end });
      end = Math.min(end, range.first - 1);
    }
    return gaps.reverse();
  }
}
