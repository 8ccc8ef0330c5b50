/**
 * Variable-length integers of QUIC, RFC 9000 section 16.
 *
 * @module
 */

/** Largest value that is written, and the largest that is read exactly: 2^53 - 1. */
export const MAX_VARINT: number = Number.MAX_SAFE_INTEGER;

/** What the upper four bytes of an eight-byte varint count. */
const HIGH_UNIT = 2 ** 32;

/**
 * Tells how many bytes a value takes.
 *
 * @param value The value.
 * @returns 1, 2, 4 or 8.
 * @throws {RangeError} If the value is not an integer from 0 to {@linkcode MAX_VARINT}.
 */
export function varintLength(value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(
      `Cannot encode varint: value must be an integer from 0 to ${MAX_VARINT}, received ${value}`,
    );
  }
  if (value < 0x40) return 1;
  if (value < 0x4000) return 2;
  return value < 0x4000_0000 ? 4 : 8;
}

/**
 * Writes a value in its shortest form.
 *
 * @param target Where to; MUST have room for {@linkcode varintLength} bytes.
 * @param at Offset of the first byte.
 * @param value The value.
 * @returns The offset behind the last byte.
 * @throws {RangeError} If the value is not an integer from 0 to {@linkcode MAX_VARINT}.
 */
export function writeVarint(target: Uint8Array, at: number, value: number): number {
  switch (varintLength(value)) {
    case 1:
      target[at] = value;
      return at + 1;
    case 2:
      target[at] = 0x40 | value >>> 8;
      target[at + 1] = value;
      return at + 2;
    case 4:
      writeUint32(target, at, 0x8000_0000 | value);
      return at + 4;
    default:
      writeUint32(target, at, 0xc000_0000 | Math.floor(value / HIGH_UNIT));
      writeUint32(target, at + 4, value % HIGH_UNIT);
      return at + 8;
  }
}

/**
 * Encodes a value in its shortest form.
 *
 * @param value The value.
 * @returns 1, 2, 4 or 8 bytes.
 * @throws {RangeError} If the value is not an integer from 0 to {@linkcode MAX_VARINT}.
 *
 * @example Usage
 * ```ts
 * import { encodeVarint } from "./varint.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encodeVarint(15_293), Uint8Array.of(0x7b, 0xbd));
 * ```
 */
export function encodeVarint(value: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(varintLength(value));
  writeVarint(bytes, 0, value);
  return bytes;
}

/**
 * Tells how long a varint is from its first byte.
 *
 * @param firstByte The first byte.
 * @returns 1, 2, 4 or 8.
 */
export function varintLengthAt(firstByte: number): number {
  return 1 << (firstByte >>> 6);
}

/**
 * Reads a varint. The caller MUST have seen with {@linkcode varintLengthAt}
 * that all of it is there.
 *
 * A value above {@linkcode MAX_VARINT}, such as the 2^62 - 1 with which some
 * peers say "no limit", is rounded: it is good for comparisons alone.
 *
 * @param bytes Where from.
 * @param at Offset of the first byte.
 * @returns The value.
 */
export function readVarint(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  switch (first >>> 6) {
    case 0:
      return first;
    case 1:
      return (first & 0x3f) << 8 | bytes[at + 1]!;
    case 2:
      return readUint32(bytes, at) & 0x3fff_ffff;
    default:
      return (readUint32(bytes, at) & 0x3fff_ffff) * HIGH_UNIT + (readUint32(bytes, at + 4) >>> 0);
  }
}

/**
 * Reads a varint without rounding, where a value above {@linkcode MAX_VARINT} has to be exact. The
 * caller MUST have seen with {@linkcode varintLengthAt} that all of it is there.
 *
 * @param bytes Where from.
 * @param at Offset of the first byte.
 * @returns The value.
 */
export function readBigVarint(bytes: Uint8Array, at: number): bigint {
  if (bytes[at]! >>> 6 < 3) return BigInt(readVarint(bytes, at));
  const high = BigInt(readUint32(bytes, at) & 0x3fff_ffff);
  return high << 32n | BigInt(readUint32(bytes, at + 4) >>> 0);
}

function writeUint32(target: Uint8Array, at: number, value: number): void {
  target[at] = value >>> 24;
  target[at + 1] = value >>> 16;
  target[at + 2] = value >>> 8;
  target[at + 3] = value;
}

/** The four bytes as a signed integer, as the operators give it. */
function readUint32(bytes: Uint8Array, at: number): number {
  return bytes[at]! << 24 | bytes[at + 1]! << 16 | bytes[at + 2]! << 8 | bytes[at + 3]!;
}
