/** Checks of options: known keys, and limits that are positive integers. */

/** All keys of an options type, so that the compiler finds a missing or removed key. */
export type OptionKeys<T> = Readonly<Record<keyof T, true>>;

/**
 * Refuses options with an unknown key: without this check, a mistyped key would be ignored and its
 * default would apply silently.
 *
 * @param options The options as given; other values than objects are not checked.
 * @param known An object with all known keys.
 * @param place The operation and the place of the options, such as `create broker: options`.
 * @throws {TypeError} If a key is unknown; the message suggests the most similar key.
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

/**
 * Returns true for two names that differ only by case, or by one letter that is changed, missing,
 * added or swapped.
 */
function isNear(a: string, b: string): boolean {
  const [one, other] = [a.toLowerCase(), b.toLowerCase()];
  if (one === other) return true;
  let start = 0;
  while (start < one.length && one[start] === other[start]) start++;
  const tails = (i: number, j: number) => one.slice(start + i) === other.slice(start + j);
  const isSwapped = one[start] === other[start + 1] && one[start + 1] === other[start];
  return tails(1, 1) || tails(1, 0) || tails(0, 1) || isSwapped && tails(2, 2);
}

/**
 * Fills in missing limits, and checks the given ones.
 *
 * @param defaults Every limit, by name.
 * @param given Options of the application; other keys are ignored.
 * @param options The created object and the option that holds the limits; the largest value.
 * @returns The complete limits.
 * @throws {RangeError} If a limit is not a positive integer, or larger than `max`.
 */
export function checkLimits<K extends string>(
  defaults: Readonly<Record<K, number>>,
  given: { readonly [Name in NoInfer<K>]?: number | undefined },
  { of, max = Infinity }: { readonly of: string; readonly max?: number },
): Record<K, number> {
  const limits: Record<K, number> = { ...defaults };
  for (const name in limits) {
    const value = given[name] ?? limits[name];
    const isPositive = Number.isInteger(value) && value > 0;
    if (!isPositive || value > max) {
      const rule = isPositive ? `at most ${max}` : "a positive integer";
      throw new RangeError(`Cannot create ${of}${name} must be ${rule}, received ${value}`);
    }
    limits[name] = value;
  }
  return limits;
}
