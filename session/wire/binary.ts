/**
 * Binary messages: the bytes `40 53`, the length of the head (varint), the envelope without its
 * data, then the data.
 */

/** First two bytes of a binary message's frame: the varint 0x53. */
const MARK_0 = 0x40;
const MARK_1 = 0x53;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** Writes a binary message as one frame. */
export function encodeBinary(head: string, data: Uint8Array): Uint8Array {
  const headBytes = encoder.encode(head);
  const prefix = [MARK_0, MARK_1, ...varint(headBytes.length)];
  const frame = new Uint8Array(prefix.length + headBytes.length + data.length);
  frame.set(prefix);
  frame.set(headBytes, prefix.length);
  frame.set(data, prefix.length + headBytes.length);
  return frame;
}

/**
 * Encodes a length in as few bytes as possible. The array of bytes takes the lowest eight bits of
 * each number.
 */
function varint(n: number): number[] {
  if (n < 64) return [n];
  return n < 16_384 ? [n >> 8 | 0x40, n] : [n >> 24 | 0x80, n >> 16, n >> 8, n];
}

/** Returns true for the frame of a binary message; all other binary frames belong to streams. */
export function isBinaryMessage(frame: Uint8Array): boolean {
  return frame.length >= 3 && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/** Splits a binary message into head and data; `undefined` for a truncated or malformed frame. */
export function decodeBinary(frame: Uint8Array): { head: string; data: Uint8Array } | undefined {
  const lengthSize = 1 << (frame[2]! >> 6);
  if (lengthSize === 8 || frame.length < 2 + lengthSize) return undefined;
  let length = frame[2]! & 0x3f;
  for (let i = 1; i < lengthSize; i++) length = length * 256 + frame[2 + i]!;
  const start = 2 + lengthSize;
  if (frame.length < start + length) return undefined;
  try {
    const head = decoder.decode(frame.subarray(start, start + length));
    return { head, data: frame.subarray(start + length) };
  } catch {
    return undefined;
  }
}
