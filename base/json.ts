/** JSON encoding that rejects values that JSON would drop or change. */
import { describe } from "./error_text.ts";

/**
 * Encodes data as JSON, alone or inside an object that contains it under the key `data`.
 *
 * JSON would silently encode `NaN` as `null`, and a `Map`, a promise or an error as `{}`. Data may
 * therefore consist of strings, booleans, finite numbers, `null`, arrays, plain objects, and
 * objects with a `toJSON` method such as `Date`. A key with the value `undefined` counts as absent.
 *
 * @param data The data.
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
  let lost: Lost | undefined;
  let options: ErrorOptions | undefined;
  try {
    // A single call encodes the whole holder; separate pieces would have to be joined and scanned
    // again.
    const text = JSON.stringify(holder) as string | undefined;
    lost = findLost(data);
    // A `toJSON` may return nothing. Inside a string the quotes would be escaped.
    if (hasToJson(data) && !text?.includes(holder === data ? "" : '"data":')) {
      lost = { value: data, path: "" };
    }
    if (lost === undefined) return text!;
  } catch (cause) {
    // A cycle, a bigint, or a `toJSON` that throws.
    options = { cause };
    lost = { value: data, path: "" };
  }
  const { value, path } = lost;
  throw new TypeError(
    `Cannot ${verb}: data must be a value that JSON can hold, received ${describe(value)}` +
      path.replace(".", " at "),
    options,
  );
}

/** A value that JSON would drop or change, and its path. */
interface Lost {
  readonly value: unknown;
  /** Keys, each after a dot. */
  readonly path: string;
}

/**
 * Finds a value that JSON would drop or change, in data without cycles. A key with the value
 * `undefined` counts as absent.
 */
function findLost(value: unknown): Lost | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : { value, path: "" };
    case "object":
      break;
    default:
      return { value, path: "" };
  }
  if (value === null || hasToJson(value)) return undefined;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const lost = findLost(value[i]);
      if (lost !== undefined) return under(i, lost);
    }
    return undefined;
  }
  if (!isPlain(value)) return { value, path: "" };
  for (const key of Object.keys(value)) {
    const item = (value as Record<string, unknown>)[key];
    const lost = item === undefined ? undefined : findLost(item);
    if (lost !== undefined) return under(key, lost);
  }
  return undefined;
}

/** True for an object literal of any realm, and for an object without a prototype. */
function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ||
    Object.getPrototypeOf(prototype) === null;
}

function under(key: string | number, { value, path }: Lost): Lost {
  return { value, path: `.${key}${path}` };
}

function hasToJson(value: unknown): boolean {
  return typeof value === "object" && value !== null && "toJSON" in value;
}
