/** The variable-length integers of QUIC (RFC 9000 section 16). */

/** The largest value that can be written or read exactly, 2^53 - 1. */
export const MAX_VARINT: number = Number.MAX_SAFE_INTEGER;

/** The value of the lowest bit in the upper four bytes of an eight-byte varint. */
const HIGH_UNIT = 2 ** 32;

/**
 * Computes the encoded length of a value.
 *
 * @returns The length: 1, 2, 4 or 8 bytes.
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
 * Writes a value in the shortest form.
 *
 * @param target The destination. It MUST have room for {@linkcode varintLength} bytes.
 * @param at The offset of the first byte.
 * @returns The offset after the last byte.
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
 * Encodes a value in the shortest form.
 *
 * @returns The encoded value, which has 1, 2, 4 or 8 bytes.
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
 * Reads the length of a varint from its first byte.
 *
 * @returns The length: 1, 2, 4 or 8 bytes.
 */
export function varintLengthAt(firstByte: number): number {
  return 1 << (firstByte >>> 6);
}

/**
 * Reads a varint. The caller MUST have checked with {@linkcode varintLengthAt} that all bytes are
 * present.
 *
 * A value above {@linkcode MAX_VARINT} is rounded. For example, some peers send 2^62 - 1 for "no
 * limit". Use a rounded value only for comparisons.
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
 * Reads a varint exactly, even above {@linkcode MAX_VARINT}. The caller MUST have checked with
 * {@linkcode varintLengthAt} that all bytes are present.
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

/** Reads four bytes as a signed integer, the result type of the bit operators. */
function readUint32(bytes: Uint8Array, at: number): number {
  return bytes[at]! << 24 | bytes[at + 1]! << 16 | bytes[at + 2]! << 8 | bytes[at + 3]!;
}
