/**
 * Limits that have defaults, and are positive integers.
 *
 * @module
 */

/**
 * Fills in the limits that are left out, and checks those that are given.
 *
 * @param defaults Every limit, by its name.
 * @param given What the application set; all else in it is passed over.
 * @param options What is being created, with the option that the limits stand in; the largest value.
 * @returns The limits, complete.
 * @throws {RangeError} If one is not a positive integer, or larger than `max`.
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
