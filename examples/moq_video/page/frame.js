/**
 * The format of a frame on the track `video`: eight bytes of time, then the encoded picture. The
 * first frame of each group is a key frame. The track `catalog` contains the decoder's settings as
 * JSON.
 *
 * @module
 */

/** Path of all broadcasts. */
export const PREFIX = "/live";

/** Returns the path of a name's broadcast. */
export function pathOf(name) {
  return `${PREFIX}/${name}`;
}

/** Interval between groups, in milliseconds. */
export const GROUP_MS = 1_000;

/** Pictures per second. */
export const RATE = 30;

/** Returns the time in milliseconds, with fractions. */
export function now() {
  return performance.timeOrigin + performance.now();
}

/** Creates the frame of an encoded picture; the timestamp is the time of capture. */
export function encodeFrame(chunk) {
  const frame = new Uint8Array(8 + chunk.byteLength);
  new DataView(frame.buffer).setFloat64(0, chunk.timestamp);
  chunk.copyTo(frame.subarray(8));
  return frame;
}

/** Splits a frame into time and picture. */
export function decodeFrame(frame) {
  const { buffer, byteOffset, byteLength } = frame;
  const timestamp = new DataView(buffer, byteOffset, byteLength).getFloat64(0);
  return { timestamp, data: frame.subarray(8) };
}
