/** Option checks based on tables, and checks of limits that are positive integers. */

/**
 * Kind of the value of one option.
 *
 * - A string names the allowed types, such as `"string or function"`: results of `typeof`, `array`,
 *   `null` or `AbortSignal`.
 * - An array lists all allowed values.
 * - Another object contains the kinds of a nested object, and a function checks the value itself.
 * - `0` means any value: the code that reads the option checks it.
 */
export type OptionKind = 0 | string | readonly unknown[] | object | CheckOption;

export type CheckOption = (value: unknown, place: OptionPlace) => void;

/** Numbers that an option accepts. */
export interface NumberRange {
  /** Smallest value. */
  readonly min: number;
  /** Largest value; `Infinity` if the option accepts it. */
  readonly max: number;
  /** Excludes fractions. */
  readonly isInteger?: boolean | undefined;
  /** Excludes the smallest value itself. */
  readonly isAbove?: boolean | undefined;
}

/** The check of a number. The test of all options reads its range. */
export type NumberCheck = CheckOption & { readonly range: NumberRange };

/** The check of an object with options. The same test reads the kinds of these options. */
export type NestedCheck = CheckOption & {
  readonly kinds: object;
  /** True for an object whose keys the user chooses, each with an object of these options. */
  readonly isRecord?: boolean | undefined;
};

/** Location of options, for errors. */
export interface OptionPlace {
  /** The user's call, such as `create broker`. */
  readonly verb: string;
  /** Path of the value: `options`, or names with dots such as `api.rate`. */
  readonly path: string;
}

type KindOf<V> =
  | CheckOption
  // deno-lint-ignore ban-types -- all functions
  | ([V] extends [Function] ? "function"
    : [V] extends [boolean] ? "boolean"
    : [V] extends [number] ? NumberCheck
    : [V] extends [AbortSignal] ? "AbortSignal"
    : [V] extends [string] ? "string" | readonly V[]
    : [V] extends [readonly unknown[]] ? "array" | 0
    : [V] extends [object] ? "object" | "object or null" | OptionKinds<V> | 0
    : string | readonly unknown[] | 0);

/**
 * The kind of each option in an interface. The compiler reports a missing option, a removed option,
 * and a kind that does not match the type.
 *
 * @typeParam T The interface.
 */
export type OptionKinds<T> = { readonly [K in keyof T]-?: KindOf<Exclude<T[K], undefined>> };

/**
 * Selects an inner call's options from the options of an outer call.
 *
 * @param kinds Kinds of the inner call's options.
 * @param options The outer call's options.
 * @returns The selected options.
 */
export function optionsFor<T extends object>(kinds: OptionKinds<T>, options: T): T {
  const known = Object.entries(options).filter(([name]) => Object.hasOwn(kinds, name));
  return Object.fromEntries(known) as T;
}

/**
 * Copies an object without the keys whose value is `undefined`. Use it before you spread options
 * over defaults, and for objects whose keys are printed, compared or passed to another library.
 *
 * @param given Options, or a result.
 * @returns An object with the keys that have a value.
 */
export function withoutUndefined<T extends object>(given: T): T {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as T;
}

/**
 * Fills in missing options.
 *
 * @param defaults Every option, by name.
 * @param given The application's options, already checked; other keys are ignored.
 * @returns The complete options.
 */
export function withDefaults<T extends object>(
  defaults: T,
  given: { readonly [Name in keyof NoInfer<T>]?: NoInfer<T>[Name] | undefined },
): T {
  const all = { ...defaults };
  for (const name in defaults) {
    const value = given[name];
    if (value !== undefined) all[name] = value;
  }
  return all;
}

/**
 * Fills in missing limits, and checks the given ones.
 *
 * @param defaults Every limit, by name.
 * @param given The application's options; other keys are ignored.
 * @param options The name of the created object, the option that contains the limits, and the
 * largest value.
 * @returns The complete limits.
 * @throws {RangeError} If a limit is not a positive integer, or is larger than `max`.
 */
export function checkLimits<K extends string>(
  defaults: Readonly<Record<K, number>>,
  given: { readonly [Name in NoInfer<K>]?: number | undefined },
  { of, max = Infinity }: { readonly of: string; readonly max?: number | undefined },
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
