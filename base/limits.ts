/** Limits that are positive integers with defaults. */

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
