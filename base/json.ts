/** JSON encoding that rejects values that JSON would drop or change. */
import { describe } from "./error_text.ts";

/**
 * Encodes data as JSON, alone or inside an object that contains it under the key `data`.
 *
 * JSON would silently encode `NaN` as `null`, and a `Map`, a promise or an error as `{}`. Data may
 * therefore consist of strings, booleans, finite numbers, `null`, arrays, plain objects, and
 * objects with a `toJSON` method such as `Date`. A key with the value `undefined` counts as absent.
 *
 * @param verb The operation, for the error.
 * @param holder The object that contains the data; by default, the data is encoded alone.
 * @returns JSON text without raw line feeds.
 * @throws {TypeError} If JSON cannot represent the data; the message includes the path of the
 * value.
 *
 * @example Usage
 * ```ts
 * import { encodeJson } from "./json.ts";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * assertEquals(encodeJson({ at: new Date(0) }, "send"), '{"at":"1970-01-01T00:00:00.000Z"}');
 * assertThrows(() => encodeJson({ rows: new Map() }, "send"), TypeError, "received Map at rows");
 * ```
 */
export function encodeJson(data: unknown, verb: string, holder: unknown = data): string {
  let lost: Lost | undefined = { value: data, path: "" };
  let options: ErrorOptions | undefined;
  try {
    // A single call encodes the whole holder; separate pieces would have to be joined and scanned
    // again.
    const text = JSON.stringify(holder) as string | undefined;
    if (isCertain([data], false)) return text!;
    // A `toJSON` may return nothing. Inside a string the quotes would be escaped.
    const isDropped = typeof data === "object" && (data as Holder | null)?.toJSON &&
      !text?.includes(holder === data ? "" : '"data":');
    if (!isDropped) lost = isCertain([data], true) ? undefined : findLost(data, true);
    if (lost === undefined) return text!;
  } catch (cause) {
    // A cycle, a bigint, or a `toJSON` or a getter that throws.
    options = { cause };
    try {
      lost = findLost(data, true) ?? lost;
    } catch {
      // It throws again.
    }
  }
  const { value, path } = lost!;
  throw new TypeError(
    `Cannot ${verb}: data must be a value that JSON can hold, received ${describe(value)}` +
      path.replace(".", " at "),
    options,
  );
}

/**
 * Returns true if JSON certainly holds everything inside an object or an array. Most data is plain,
 * and this costs a fraction of the encoding; what is lost, and its path, can be found afterwards.
 * The text alone does not show it: a function leaves nothing behind, and a `Map` an empty object.
 *
 * @param value An object or an array without cycles, which has been encoded.
 * @param replaced The result for an object with a `toJSON`.
 * @returns False if the value must be examined.
 */
export function isCertain(value: object, replaced: boolean): boolean {
  if ((value as Holder).toJSON) return replaced;
  // A call for each item would take twice as long.
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const item: unknown = value[i];
      if (typeof item === "string") continue;
      if (typeof item === "number") {
        if (item - item !== 0) return false;
      } else if (typeof item === "object") {
        if (item !== null && !isCertain(item, replaced)) return false;
      } else if (typeof item !== "boolean") return false;
    }
    return true;
  }
  if (!isPlain(value)) return false;
  // Engines walk an object faster than they list its keys.
  for (const key in value) {
    const item = (value as Holder)[key];
    if (typeof item === "string") continue;
    if (typeof item === "number") {
      if (item - item !== 0) return false;
    } else if (typeof item === "object") {
      if (item !== null && !isCertain(item, replaced)) return false;
    } else if (typeof item !== "boolean" && item !== undefined) return false;
  }
  return true;
}

/** An object or an array. */
type Holder = Readonly<Record<string, unknown>>;

/** A value that JSON would drop or change, and its path. */
export interface Lost {
  readonly value: unknown;
  /** Keys, each after a dot. */
  readonly path: string;
}

/**
 * Finds a value that JSON would drop or change, or an object inside itself. A key with the value
 * `undefined` counts as absent.
 *
 * @param replaced True if an object with a `toJSON` is not lost.
 * @param around The objects that contain the value.
 * @throws What reading the value throws; a `RangeError` if it is nested too deep.
 */
export function findLost(
  value: unknown,
  replaced: boolean,
  around: Set<unknown> = new Set(),
): Lost | undefined {
  const here = { value, path: "" };
  if (typeof value !== "object" || !value) return isCertain([value], true) ? undefined : here;
  const isArray = Array.isArray(value);
  const replaces = (value as Holder).toJSON;
  if (replaces && replaced) return undefined;
  if (around.has(value) || !(isArray ? !replaces : isPlain(value))) return here;
  around.add(value);
  for (const key of isArray ? value.keys() : Object.keys(value)) {
    const item = (value as Holder)[key];
    const lost = item === undefined && !isArray ? undefined : findLost(item, replaced, around);
    if (lost) return { value: lost.value, path: `.${key}${lost.path}` };
  }
  around.delete(value);
  return undefined;
}

/** True for an object literal of any realm, and for an object without a prototype. */
export function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || !prototype ||
    Object.getPrototypeOf(prototype) === null;
}
