/** The two encodings of integers: QUIC's, which moq-lite uses, and that of the IETF's drafts. */
import {
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../../transport/quic/varint.ts";

/** An encoding of integers whose length can be read from the first byte. */
export interface IntegerCodec {
  /**
   * Computes the encoded length.
   *
   * @throws {RangeError} If the value is not an integer from 0 to 2^53 - 1.
   */
  length(value: number): number;
  /**
   * Writes a value in the shortest form.
   *
   * @returns The offset after the last byte.
   */
  write(target: Uint8Array, at: number, value: number): number;
  /** Reads the length from the first byte. */
  lengthAt(firstByte: number): number;
  /** Reads a complete value; a value above 2^53 - 1 is rounded. */
  read(bytes: Uint8Array, at: number): number;
}

/** The integers of QUIC: the two highest bits are the length. */
export const QUIC_INTEGERS: IntegerCodec = {
  length: varintLength,
  write: writeVarint,
  lengthAt: varintLengthAt,
  read: readVarint,
};

/** The longest encoding of a number of up to 53 bits. */
const MAX_WRITTEN_BYTES = 8;

/**
 * The integers of the IETF's drafts: the number of leading one bits is the number of further bytes,
 * 0 to 8.
 */
export const LEADING_INTEGERS: IntegerCodec = {
  length(value) {
    // Checks the range, too.
    if (varintLength(value) === 1 || value < 0x80) return 1;
    let bytes = 2;
    while (bytes < MAX_WRITTEN_BYTES && value >= 2 ** (7 * bytes)) bytes++;
    return bytes;
  },
  write(target, at, value) {
    const length = LEADING_INTEGERS.length(value);
    let rest = value;
    for (let byte = at + length - 1; byte >= at; byte--) {
      target[byte] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    target[at]! |= 0xff00 >> length - 1 & 0xff;
    return at + length;
  },
  lengthAt(firstByte) {
    return firstByte === 0xff ? 9 : Math.clz32(~firstByte << 24) + 1;
  },
  read(bytes, at) {
    const first = bytes[at]!;
    if (first < 0x80) return first;
    const length = LEADING_INTEGERS.lengthAt(first);
    let value = first & 0xff >> length;
    for (let byte = at + 1; byte < at + length; byte++) value = value * 256 + bytes[byte]!;
    return value;
  },
};
