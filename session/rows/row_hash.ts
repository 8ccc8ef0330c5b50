/** Hashes of the names of rows and clients, in browsers too. */

/**
 * Hashes a text with FNV-1a, for places in tables. It is quick, and anyone who chooses the text can
 * choose the number.
 *
 * @param start The start value, for further hashes of the same text.
 * @returns A number of 32 bits, 0 or more.
 */
export function hash32(text: string, start = 0x811c9dc5): number {
  let hash = start;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
