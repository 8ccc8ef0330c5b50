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
