/**
 * What is in a frame of the track `video`: eight bytes of time, then what the encoder made. The
 * first frame of each group is a key frame. The track `catalog` says how to decode it, in JSON.
 *
 * @module
 */

/** Where the broadcasts are. */
export const PREFIX = "/live";

/** Where that of a name is. */
export function pathOf(name) {
  return `${PREFIX}/${name}`;
}

/** Groups begin this often. */
export const GROUP_MS = 1_000;

/** Pictures a second. */
export const RATE = 30;

/** The time in milliseconds, with a fraction. */
export function now() {
  return performance.timeOrigin + performance.now();
}

/** Makes a frame of an encoded picture; its timestamp is the time that it was taken. */
export function encodeFrame(chunk) {
  const frame = new Uint8Array(8 + chunk.byteLength);
  new DataView(frame.buffer).setFloat64(0, chunk.timestamp);
  chunk.copyTo(frame.subarray(8));
  return frame;
}

/** Takes a frame apart. */
export function decodeFrame(frame) {
  const { buffer, byteOffset, byteLength } = frame;
  const timestamp = new DataView(buffer, byteOffset, byteLength).getFloat64(0);
  return { timestamp, data: frame.subarray(8) };
}
