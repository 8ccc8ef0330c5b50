/**
 * How a group ends that is given up where the wire has no resets.
 *
 * @module
 */

/** A length of two bytes, and one: without any, gomoqt takes it for a whole group. */
const TORN_FRAME = Uint8Array.of(2, 0);

/** The same behind a timestamp. */
const TORN_TIMED_FRAME = Uint8Array.of(0, 2, 0);

/**
 * A frame that ends before its length: where the wire has no resets, it says that the group was given up.
 *
 * @param timestamps Frames carry timestamps.
 * @returns What goes out before the end.
 */
export function tornFrame(timestamps: boolean): Uint8Array {
  return timestamps ? TORN_TIMED_FRAME : TORN_FRAME;
}
