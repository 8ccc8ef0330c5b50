/**
 * Order keys: a row that moves gets a key between the keys of its new neighbors, so that only the
 * moved row is written. Two users who move different cards never change the same row.
 *
 * A key is read as the digits of a fraction, so it sorts as text.
 *
 * @module
 */

const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz";

/**
 * Maximum length of a key. Each digit halves a gap five times, so that it takes thousands of moves
 * into the same gap to reach this length.
 */
const MAX_LENGTH = 1_000;

/** A key never ends with zero: between `1` and `10` there would be no other key. */
const KEY = /^[0-9a-z]*[1-9a-z]$/;

/** Anything that has a place in an order. */
export interface Ordered {
  /** Key of the row, which decides between equal order keys. */
  readonly key: string;
  readonly order: string;
}

/** Returns whether a value is an order key. Rows come from other pages, which may be faulty. */
export function isOrder(value: unknown): value is string {
  return typeof value === "string" && value.length <= MAX_LENGTH && KEY.test(value);
}

/** Compares rows by their order keys, and equal ones by the keys of the rows. */
export function byOrder(a: Ordered, b: Ordered): number {
  return a.order === b.order ? compare(a.key, b.key) : compare(a.order, b.order);
}

/**
 * Returns a key between two others.
 *
 * @param low The lower key; the empty text for the start.
 * @param high The higher key; `undefined` for the end.
 * @param random Returns a number from 0 to 1, excluding 1. It adds two digits, so that two users
 * who insert a row at the same place get the same key only once in 1,225 times.
 * @returns The key.
 * @throws {RangeError} If `low` is not below `high`.
 */
export function between(
  low: string,
  high: string | undefined,
  random: () => number = Math.random,
): string {
  if (high !== undefined && low >= high) {
    throw new RangeError(`Cannot order: low must be below high, received "${low}" and "${high}"`);
  }
  let key = "";
  let end = high;
  for (let i = 0;; i++) {
    const from = digitAt(low, i) ?? 0;
    const to = end === undefined ? DIGITS.length : digitAt(end, i) ?? 0;
    if (to - from > 1) return key + DIGITS[(from + to) >> 1] + salt(random) + salt(random);
    key += DIGITS[from];
    // The key is now below `high`, whatever follows.
    if (to > from) end = undefined;
  }
}

/**
 * Returns the order key for a row that is inserted.
 *
 * @param rows The rows without the inserted one, in their order.
 * @param index The place, from 0 to the number of rows. Between rows with equal keys there is no
 * place: the row comes after them.
 * @param random As for {@linkcode between}.
 * @returns The key.
 */
export function orderAt(
  rows: readonly { readonly order: string }[],
  index: number,
  random?: () => number,
): string {
  const low = rows[index - 1]?.order ?? "";
  const high = rows.slice(index).find(({ order }) => order > low)?.order;
  return between(low, high, random);
}

function digitAt(key: string, index: number): number | undefined {
  const digit = key[index];
  return digit === undefined ? undefined : DIGITS.indexOf(digit);
}

/** A digit that is not zero. */
function salt(random: () => number): string {
  return DIGITS[1 + Math.floor(random() * (DIGITS.length - 1))]!;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
