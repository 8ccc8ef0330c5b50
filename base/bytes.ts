/** Byte arrays. */

/**
 * Concatenates byte arrays.
 *
 * @param parts The arrays, in order.
 * @returns A copy of all bytes, in its own buffer.
 */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  let size = 0;
  for (const { byteLength } of parts) size += byteLength;
  const all = new Uint8Array(size);
  let end = 0;
  for (const part of parts) {
    all.set(part, end);
    end += part.byteLength;
  }
  return all;
}

/**
 * Compares byte arrays. An array that is the beginning of another one comes first.
 *
 * @param a An array.
 * @param b Another array.
 * @returns A negative number if `a` comes first, a positive one if `b` does, and 0 if they are equal.
 */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.byteLength, b.byteLength);
  for (let i = 0; i < shared; i++) {
    if (a[i] !== b[i]) return a[i]! - b[i]!;
  }
  return a.byteLength - b.byteLength;
}
