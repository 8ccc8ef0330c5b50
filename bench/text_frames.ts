/**
 * The text frames of a message stream, `length(varint) kind(u8) body`, for the generator and the
 * control.
 *
 * @module
 */

import { readVarint, varintLength, varintLengthAt, writeVarint } from "../transport/quic/varint.ts";

/** The kind of a text frame. */
const TEXT = 0;

/**
 * Passes the body of each complete text frame to a callback.
 *
 * @param bytes Bytes of a stream, from the start of a frame.
 * @param onText Receives the body. The bytes are only valid during the call.
 * @returns The incomplete frame at the end.
 */
export function eachText(bytes: Uint8Array, onText: (body: Uint8Array) => void): Uint8Array {
  let at = 0;
  while (at < bytes.length) {
    const body = at + varintLengthAt(bytes[at]!) + 1;
    if (body > bytes.length) break;
    const end = body + readVarint(bytes, at);
    if (end > bytes.length) break;
    if (bytes[body - 1] === TEXT) onText(bytes.subarray(body, end));
    at = end;
  }
  return bytes.subarray(at);
}

/**
 * Encodes a text frame.
 *
 * @param body The text in UTF-8.
 */
export function textFrame(body: Uint8Array): Uint8Array {
  const frame = new Uint8Array(varintLength(body.length) + 1 + body.length);
  const kind = writeVarint(frame, 0, body.length);
  frame[kind] = TEXT;
  frame.set(body, kind + 1);
  return frame;
}
