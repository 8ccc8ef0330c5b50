/** The values of rows, on servers and in clients: plain JSON that no one can change in place. */
import { checkType, describe, textOf } from "../../base/error_text.ts";
import { findLost, isCertain, type Lost } from "../../base/json.ts";

/**
 * Encodes a row. Unlike a message, a row must not contain objects with a `toJSON` method, such as
 * `Date`: readers would receive another type than the writer wrote. A key with the value
 * `undefined` counts as absent.
 *
 * @param verb The operation, for the error.
 * @returns The row as JSON.
 * @throws {TypeError} If the row is not plain JSON; the message includes the path of the value.
 */
export function encodeRow(value: unknown, verb = "write state"): string {
  let fault: Lost | undefined;
  try {
    const text = JSON.stringify(value);
    if (isCertain([value], false)) return text;
  } catch {
    // A cycle, a bigint, or a `toJSON` that throws.
  }
  try {
    fault = findLost(value, false);
    if (fault === undefined) return JSON.stringify(value);
  } catch (cause) {
    const rule = cause instanceof RangeError
      ? "plain JSON that is not nested as deep"
      : `plain JSON: reading it throws ${textOf(cause)}`;
    throw new TypeError(`Cannot ${verb}: a row must be ${rule}`, { cause });
  }
  const received = describe(fault.value);
  const way = fault.value instanceof Date ? ". Write date.toISOString() or date.getTime()" : "";
  throw new TypeError(
    `Cannot ${verb}: a row must be plain JSON, received ${received}` +
      fault.path.replace(".", " at ") + way,
  );
}

/**
 * Copies a row as readers receive it, and freezes the copy.
 *
 * @throws {TypeError} If the row is not plain JSON.
 */
export function rowOf(value: unknown): unknown {
  return freezeRow(JSON.parse(encodeRow(value)));
}

/** Calls the function of an `update` with a copy of a row, which it may change in place. */
export function callUpdate<R>(key: string, change: (row: unknown) => R, row: unknown): R {
  checkType(`update "${key}"`, "change", change);
  return change(JSON.parse(JSON.stringify(row)));
}

/** Rejects what the function of an `update` returned if it is no row. Returns the row. */
export function checkUpdated(key: string, made: unknown): unknown {
  if (made !== undefined && !(made instanceof Promise)) return made;
  // Nothing awaits this promise.
  made?.catch(() => {});
  const rule = made ? " and must not be async" : "";
  throw new TypeError(
    `Cannot update "${key}": its function must return the changed row${rule}, received ` +
      describe(made),
  );
}

/**
 * Changes a row by the function of an `update`, which must not be asynchronous.
 *
 * @returns The changed row, as a frozen copy.
 * @throws {TypeError} If the function returns no row.
 */
export function updatedRow(
  key: string,
  change: (row: unknown) => unknown,
  row: unknown,
): unknown {
  return rowOf(checkUpdated(key, callUpdate(key, change, row)));
}

/**
 * Freezes a value from JSON, with everything in it. It uses no recursion, because a peer decides
 * how deep the value is.
 *
 * @returns The same value.
 */
export function freezeRow<T>(value: T): T {
  /** Objects to freeze. Most rows have no objects inside. */
  let open: unknown[] | undefined;
  const add = (item: unknown) => {
    if (typeof item === "object" && item !== null) (open ??= []).push(item);
  };
  let next: unknown = value;
  while (typeof next === "object" && next !== null) {
    if (Array.isArray(next)) { for (let i = 0; i < next.length; i++) add(next[i]); }
    else for (const key in next) add((next as Record<string, unknown>)[key]);
    Object.freeze(next);
    next = open?.pop();
  }
  return value;
}

/** Depth to which rows are compared. A row that is deeper counts as changed. */
const MAX_DEPTH = 100;

/** Returns whether two rows are the same JSON. */
export function isSameRow(value: unknown, other: unknown, depth = 0): boolean {
  if (value === other) return true;
  if (typeof value !== "object" || typeof other !== "object" || !value || !other) return false;
  if (Array.isArray(value) !== Array.isArray(other) || depth > MAX_DEPTH) return false;
  const keys = Object.keys(value);
  if (keys.length !== Object.keys(other).length) return false;
  return keys.every((key) => {
    if (!Object.hasOwn(other, key)) return false;
    const [one, another] = [value, other] as Record<string, unknown>[];
    return isSameRow(one![key], another![key], depth + 1);
  });
}
