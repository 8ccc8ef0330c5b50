/**
 * The frames in the body of a POST request. Each consists of a length (a varint as in RFC 9000), a
 * type and the bytes.
 */
import type { Frame } from "../connection.ts";
import { readVarint, varintLength, varintLengthAt, writeVarint } from "../quic/varint.ts";

const TEXT = 0;
const BINARY = 1;

const encoder = new TextEncoder();

/** A frame that is ready to be sent. */
export interface EncodedFrame {
  readonly type: number;
  readonly bytes: Uint8Array;
  /** The size in the body of a request, in bytes. */
  readonly size: number;
}

export function encodeFrame(frame: Frame): EncodedFrame {
  const isText = typeof frame === "string";
  const bytes = isText ? encoder.encode(frame) : frame;
  const size = varintLength(bytes.byteLength) + 1 + bytes.byteLength;
  return { type: isText ? TEXT : BINARY, bytes, size };
}

/**
 * Joins frames into a body.
 *
 * @param frames The frames, in order.
 */
export function joinFrames(frames: readonly EncodedFrame[]): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(frames.reduce((sum, { size }) => sum + size, 0));
  let at = 0;
  for (const { type, bytes } of frames) {
    at = writeVarint(body, at, bytes.byteLength);
    body[at++] = type;
    body.set(bytes, at);
    at += bytes.byteLength;
  }
  return body;
}

/**
 * Reads the frames of a body.
 *
 * @returns The frames, whose bytes are parts of the body; `undefined` if the body is cut off, or if
 * it contains a frame of an unknown type or a text that is not UTF-8.
 *
 * @example Usage
 * ```ts
 * import { encodeFrame, joinFrames, readFrames } from "./frames.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const frames = ["hello", Uint8Array.of(1, 2)];
 * const body = joinFrames(frames.map(encodeFrame));
 * assertEquals(body, Uint8Array.of(5, 0, 104, 101, 108, 108, 111, 2, 1, 1, 2));
 * assertEquals(readFrames(body), frames);
 * assertEquals(readFrames(body.subarray(1)), undefined);
 * ```
 */
export function readFrames(body: Uint8Array): Frame[] | undefined {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const frames: Frame[] = [];
  let at = 0;
  while (at < body.byteLength) {
    const lengthBytes = varintLengthAt(body[at]!);
    if (at + lengthBytes >= body.byteLength) return undefined;
    const length = readVarint(body, at);
    const type = body[at + lengthBytes]!;
    const start = at + lengthBytes + 1;
    at = start + length;
    if (at > body.byteLength || type > BINARY) return undefined;
    const bytes = body.subarray(start, at);
    if (type === BINARY) {
      frames.push(bytes);
      continue;
    }
    try {
      frames.push(decoder.decode(bytes));
    } catch {
      return undefined;
    }
  }
  return frames;
}
