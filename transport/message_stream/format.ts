/**
 * The frames of a message stream: `length(varint) kind(u8) body`, where the
 * length is that of the body in bytes, and the varint is QUIC's (RFC 9000, 16).
 *
 * @module
 */

/** The body is text in UTF-8: one or more envelopes, joined by line feeds. */
export const KIND_TEXT = 0;

/** The body is a binary message without its mark. */
export const KIND_BINARY = 1;

/** Nothing comes after it: the end was meant. Its body is empty. */
export const KIND_END = 2;

/**
 * The mark of a binary message: its first two bytes on wires where other
 * binary frames exist. Here the kind says it, so it stays with each end.
 */
export const MARK_0 = 0x40;

/** See {@linkcode MARK_0}. */
export const MARK_1 = 0x53;

/** Bytes of {@linkcode MARK_0} and {@linkcode MARK_1}: no more than the shortest head of a frame. */
export const MARK_BYTES = 2;

/**
 * Tells whether bytes are a binary message, mark and all.
 *
 * @param frame The bytes.
 * @returns Whether they begin with the mark.
 */
export function isMarked(frame: Uint8Array): boolean {
  return frame.length >= MARK_BYTES && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/**
 * Tells how many bytes a length takes.
 *
 * @param length Below 2^30: a frame is in memory.
 * @returns 1, 2 or 4.
 */
export function lengthBytes(length: number): 1 | 2 | 4 {
  return length < 64 ? 1 : length < 16_384 ? 2 : 4;
}

/**
 * Writes the head of a frame.
 *
 * @param target Where to.
 * @param at Index of the first byte.
 * @param head What the frame is.
 */
export function writeHead(
  target: Uint8Array,
  at: number,
  { kind, length }: { readonly kind: number; readonly length: number },
): void {
  const size = lengthBytes(length);
  if (size === 1) target[at] = length;
  else if (size === 2) {
    target[at] = 0x40 | length >> 8;
    target[at + 1] = length;
  } else {
    target[at] = 0x80 | length >> 24;
    target[at + 1] = length >> 16;
    target[at + 2] = length >> 8;
    target[at + 3] = length;
  }
  target[at + size] = kind;
}
