/**
 * The end of a group that was given up, on a wire without resets.
 *
 * @module
 */

/** A length of two, and only one byte: without any byte, gomoqt takes the group for a whole one. */
const TORN_FRAME = Uint8Array.of(2, 0);

/** The same frame after a timestamp. */
const TORN_TIMED_FRAME = Uint8Array.of(0, 2, 0);

/**
 * Gives a frame that ends before the announced length: on a wire without resets, the sign that the
 * group was given up.
 *
 * @param timestamps True if frames carry timestamps.
 * @returns The bytes to write before the end of the stream.
 */
export function tornFrame(timestamps: boolean): Uint8Array {
  return timestamps ? TORN_TIMED_FRAME : TORN_FRAME;
}
