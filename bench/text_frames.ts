/**
 * The text frames of a message stream, `length(varint) kind(u8) body`, for the generator and the
 * control.
 *
 * @module
 */

/** The kind of a text frame. */
const TEXT = 0;

/**
 * Calls back for each complete text frame.
 *
 * @param bytes Bytes of a stream, from the start of a frame.
 * @param onText Receives the body; the bytes are valid during the call only.
 * @returns The incomplete frame at the end.
 */
export function eachText(bytes: Uint8Array, onText: (body: Uint8Array) => void): Uint8Array {
  let at = 0;
  while (at < bytes.length) {
    const size = 1 << (bytes[at]! >> 6);
    const body = at + size + 1;
    if (body > bytes.length) break;
    let length = bytes[at]! & 0x3f;
    for (let i = 1; i < size; i++) length = length * 256 + bytes[at + i]!;
    if (body + length > bytes.length) break;
    if (bytes[body - 1] === TEXT) onText(bytes.subarray(body, body + length));
    at = body + length;
  }
  return bytes.subarray(at);
}

/**
 * Encodes a text frame.
 *
 * @param body The text in UTF-8.
 * @returns The frame.
 */
export function textFrame(body: Uint8Array): Uint8Array {
  const { length } = body;
  const size = length < 64 ? 1 : length < 16_384 ? 2 : 4;
  const frame = new Uint8Array(size + 1 + length);
  for (let i = size - 1, rest = length; i >= 0; i--, rest >>= 8) frame[i] = rest;
  frame[0]! |= Math.log2(size) << 6;
  frame[size] = TEXT;
  frame.set(body, size + 1);
  return frame;
}
