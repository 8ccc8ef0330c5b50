/** Checks UTF-8 text that arrives in chunks. */

/** The state between two characters. */
export const FIRST_UTF8 = 0;

/** The state after bytes that no further bytes can make valid. */
export const INVALID_UTF8 = -1;

/**
 * Checks further bytes of a text.
 *
 * In the middle of a character, the state contains the number of missing bytes, and the bounds of
 * the next byte.
 *
 * @param state The state after the preceding bytes; {@linkcode FIRST_UTF8} at the start.
 * @param start The index of the first byte to check.
 * @param end The index after the last byte to check.
 * @returns The state after the bytes, or {@linkcode INVALID_UTF8} if the text cannot be valid.
 */
export function utf8After(
  state: number,
  bytes: Uint8Array,
  start: number,
  end: number,
): number {
  for (let at = start; at < end; at++) {
    const byte = bytes[at]!;
    if (state === FIRST_UTF8) {
      if (byte < 0x80) continue;
      state = afterFirst(byte);
      if (state === INVALID_UTF8) return state;
    } else {
      if (byte < (state >> 8 & 0xff) || byte > (state & 0xff)) return INVALID_UTF8;
      const missing = (state >> 16) - 1;
      state = missing === 0 ? FIRST_UTF8 : stateOf(missing, 0x80, 0xbf);
    }
  }
  return state;
}

/** Returns the state after the first byte of a multi-byte character. */
function afterFirst(byte: number): number {
  // Values below 0xc2 are continuation bytes and the start of overlong characters.
  if (byte < 0xc2 || byte > 0xf4) return INVALID_UTF8;
  if (byte < 0xe0) return stateOf(1, 0x80, 0xbf);
  if (byte === 0xe0) return stateOf(2, 0xa0, 0xbf);
  // Surrogates.
  if (byte === 0xed) return stateOf(2, 0x80, 0x9f);
  if (byte < 0xf0) return stateOf(2, 0x80, 0xbf);
  if (byte === 0xf0) return stateOf(3, 0x90, 0xbf);
  return stateOf(3, 0x80, byte === 0xf4 ? 0x8f : 0xbf);
}

function stateOf(missing: number, low: number, high: number): number {
  return missing << 16 | low << 8 | high;
}
