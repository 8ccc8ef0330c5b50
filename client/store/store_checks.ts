/** Checks of the arguments of stores, and their bounds. */
import { describe } from "../../base/error_text.ts";
import { compareBytes } from "../../base/bytes.ts";
import type { StoreBatch, StoreEntry, StoreRange, StoreReadOptions } from "./store.ts";

/** Maximum bytes of a key. */
export const MAX_KEY_BYTES = 2_048;

/** Maximum bytes of a value. */
export const MAX_VALUE_BYTES = 67_108_864;

/** Maximum entries of a page, unless the caller sets it. */
export const MAX_PAGE_ENTRIES = 1_000;

/** Maximum bytes of a page, unless the caller sets it. */
export const MAX_PAGE_BYTES = 1_048_576;

export interface PageBounds {
  readonly maxEntries: number;
  readonly maxBytes: number;
}

/**
 * Checks the bounds of a read, and fills in the missing ones.
 *
 * @param options The caller's options.
 * @throws {RangeError} If a bound is not a positive integer.
 */
export function checkPageBounds(options: StoreReadOptions = {}): PageBounds {
  const { maxEntries = MAX_PAGE_ENTRIES, maxBytes = MAX_PAGE_BYTES } = options;
  for (const [name, bound] of Object.entries({ maxEntries, maxBytes })) {
    if (Number.isInteger(bound) && bound > 0) continue;
    throw new RangeError(`Cannot read: ${name} must be a positive integer, received ${bound}`);
  }
  return { maxEntries, maxBytes };
}

/**
 * Checks a range.
 *
 * @param verb The caller's call, such as `read`.
 * @throws {TypeError} If a key is no `Uint8Array`.
 */
export function checkRange({ from, to }: StoreRange, verb: string): void {
  checkBytes(from, `${verb}: from`);
  if (to !== undefined) checkBytes(to, `${verb}: to`);
}

/**
 * Checks a batch.
 *
 * @throws {TypeError} If a key or value is no `Uint8Array`.
 * @throws {RangeError} If a key is empty, or a key or value is too large.
 */
export function checkBatch({ deletes = [], puts = [] }: StoreBatch): void {
  for (const range of deletes) checkRange(range, "write");
  for (const entry of puts) checkEntry(entry);
}

function checkEntry({ key, value }: StoreEntry): void {
  checkBytes(key, "write: key");
  checkBytes(value, "write: value");
  if (key.byteLength === 0 || key.byteLength > MAX_KEY_BYTES) {
    const rule = `a key must have 1 to ${MAX_KEY_BYTES} bytes`;
    throw new RangeError(`Cannot write: ${rule}, received ${key.byteLength}`);
  }
  if (value.byteLength > MAX_VALUE_BYTES) {
    const rule = `a value must have at most ${MAX_VALUE_BYTES} bytes`;
    throw new RangeError(`Cannot write: ${rule}, received ${value.byteLength}`);
  }
}

function checkBytes(bytes: unknown, what: string): void {
  if (bytes instanceof Uint8Array) return;
  throw new TypeError(`Cannot ${what} must be a Uint8Array, received ${describe(bytes)}`);
}

/**
 * Returns true if a range has no keys, because it ends before it begins.
 *
 * @returns Whether it is empty.
 */
export function isEmptyRange({ from, to }: StoreRange): boolean {
  return to !== undefined && compareBytes(from, to) >= 0;
}
