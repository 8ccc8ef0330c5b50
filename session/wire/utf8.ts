/** Byte lengths of strings, computed without encoding. */

/**
 * Matches text beyond ASCII. Nearly all text is ASCII, and a regular expression is several times
 * faster than a loop.
 */
// deno-lint-ignore no-control-regex
const BEYOND_ASCII = /[^\x00-\x7f]/;

/**
 * Counts the bytes of a string in UTF-8.
 *
 * @param text The string. A lone surrogate counts as three bytes, like the character that replaces
 * it.
 * @returns The number of bytes.
 *
 * @example Usage
 * ```ts
 * import { utf8Length } from "./utf8.ts";
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
    // A code point of four bytes has two UTF-16 units, each of which was already counted as one
    // byte.
    if (point > 0xffff) i++;
  }
  return bytes;
}

/**
 * Checks a string against a limit in bytes, and counts the bytes only when necessary.
 *
 * @param text The string.
 * @param maxBytes The maximum number of bytes.
 * @returns True if the string is longer.
 */
export function exceedsBytes(text: string, maxBytes: number): boolean {
  if (text.length > maxBytes) return true;
  return text.length * 3 > maxBytes && utf8Length(text) > maxBytes;
}
