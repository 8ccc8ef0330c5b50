/**
 * Byte lengths of strings, without encoding them.
 *
 * @module
 */

/** Nearly all text is ASCII, and a regular expression walks it several times faster. */
// deno-lint-ignore no-control-regex
const BEYOND_ASCII = /[^\x00-\x7f]/;

/**
 * Counts the bytes that a string takes in UTF-8.
 *
 * @param text The string; a lone surrogate counts three, as its replacement does.
 * @returns The number of bytes.
 *
 * @example Usage
 * ```ts
 * import { utf8Length } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(utf8Length("naïve €"), 10);
 * ```
 */
export function utf8Length(text: string): number {
  let bytes = text.length;
  if (!BEYOND_ASCII.test(text)) return bytes;
  for (let i = 0; i < text.length; i++) {
    const point = text.codePointAt(i)!;
    if (point >= 0x80) bytes += point < 0x800 ? 1 : 2;
    // Four bytes, of which its two units counted one each.
    if (point > 0xffff) i++;
  }
  return bytes;
}

/**
 * Tells whether a string takes more bytes than allowed; counts only when it
 * could matter.
 *
 * @param text The string.
 * @param maxBytes The most bytes allowed.
 * @returns Whether it is longer.
 */
export function exceedsBytes(text: string, maxBytes: number): boolean {
  if (text.length > maxBytes) return true;
  return text.length * 3 > maxBytes && utf8Length(text) > maxBytes;
}
