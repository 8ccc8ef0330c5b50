/**
 * Binary messages: `40 53`, the length of the head (varint), the envelope
 * without its data, then the bytes.
 *
 * @module
 */

/** First two bytes of a binary message's frame: the varint 0x53. */
const MARK_0 = 0x40;
const MARK_1 = 0x53;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** Writes a binary message as one frame. */
export function encodeBinary(head: string, data: Uint8Array): Uint8Array {
  const headBytes = encoder.encode(head);
  const lengthSize = headBytes.length < 64 ? 1 : headBytes.length < 16384 ? 2 : 4;
  const frame = new Uint8Array(2 + lengthSize + headBytes.length + data.length);
  frame[0] = MARK_0;
  frame[1] = MARK_1;
  const view = new DataView(frame.buffer);
  if (lengthSize === 1) view.setUint8(2, headBytes.length);
  else if (lengthSize === 2) view.setUint16(2, headBytes.length | 0x4000);
  else view.setUint32(2, headBytes.length + 0x8000_0000);
  frame.set(headBytes, 2 + lengthSize);
  frame.set(data, 2 + lengthSize + headBytes.length);
  return frame;
}

/** Whether a binary frame is a binary message; all others belong to the streams. */
export function isBinaryMessage(frame: Uint8Array): boolean {
  return frame.length >= 3 && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/** Splits a binary message into its head and its bytes; `undefined` if it is not whole. */
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
