/**
 * The frames of a message stream: `length(varint) kind(u8) body`, where the length is the number of
 * bytes of the body, and the varint is QUIC's (RFC 9000, section 16).
 */

/** The body is text in UTF-8: one or more envelopes, joined by line feeds. */
export const KIND_TEXT = 0;

/** The body is a binary message without its mark. */
export const KIND_BINARY = 1;

/** An end mark: no frame comes after it. The body is empty. */
export const KIND_END = 2;

/**
 * First byte of the mark of a binary message, on wires with other binary frames. On a message
 * stream the kind replaces the mark, which each end removes and adds.
 */
export const MARK_0 = 0x40;

/** Second byte of the mark. */
export const MARK_1 = 0x53;

/** Length of the mark; at most that of the shortest head of a frame. */
export const MARK_BYTES = 2;

/**
 * Tells if bytes are a binary message with its mark.
 *
 * @param frame The bytes.
 * @returns `true` if the bytes begin with the mark.
 */
export function isMarked(frame: Uint8Array): boolean {
  return frame.length >= MARK_BYTES && frame[0] === MARK_0 && frame[1] === MARK_1;
}

/**
 * Counts the bytes of a length.
 *
 * @param length Below 2^30, as a frame is in memory.
 * @returns 1, 2 or 4.
 */
export function lengthBytes(length: number): 1 | 2 | 4 {
  return length < 64 ? 1 : length < 16_384 ? 2 : 4;
}

/**
 * Writes the head of a frame.
 *
 * @param target The buffer.
 * @param at Index of the first byte.
 * @param head Kind of the frame, and length of the body.
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
