/**
 * Keys of options: a mistyped one would be ignored, and its default would hold in silence.
 *
 * @module
 */

/** Each key of an options type, so that the compiler finds one that is missing or gone. */
export type OptionKeys<T> = Readonly<Record<keyof T, true>>;

/**
 * Refuses options with a key that is not known.
 *
 * @param options The options as they were given; nothing is checked where they are no object.
 * @param known Holds every key that there is.
 * @param place The operation and the place of the options, such as `create broker: options`.
 * @throws {TypeError} If a key is unknown; the message names the one that may have been meant.
 */
export function checkKeys(options: unknown, known: object, place: string): void {
  if (typeof options !== "object" || options === null) return;
  for (const key of Object.keys(options)) {
    if (Object.hasOwn(known, key)) continue;
    const meant = Object.keys(known).find((one) => isNear(one, key));
    const hint = meant === undefined ? "" : `; "${meant}" may be meant`;
    throw new TypeError(`Cannot ${place} must have known keys, received "${key}"${hint}`);
  }
}

/** Tells whether two names differ by case, or by one letter that is other, missing, added or swapped. */
function isNear(a: string, b: string): boolean {
  const [one, other] = [a.toLowerCase(), b.toLowerCase()];
  if (one === other) return true;
  let start = 0;
  while (start < one.length && one[start] === other[start]) start++;
  const tails = (i: number, j: number) => one.slice(start + i) === other.slice(start + j);
  const isSwapped = one[start] === other[start + 1] && one[start + 1] === other[start];
  return tails(1, 1) || tails(1, 0) || tails(0, 1) || isSwapped && tails(2, 2);
}
