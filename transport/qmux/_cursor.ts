/** Bounded reader for the bytes of a record. */
import { readVarint, varintLengthAt } from "../quic/varint.ts";
import { QmuxError } from "./error_codes.ts";

/** Reading position in a byte array; reading past the end throws. */
export class Cursor {
  readonly bytes: Uint8Array;
  /** Offset of the next byte. */
  at = 0;
  readonly #code: number;

  /**
   * Creates a cursor at the start.
   *
   * @param bytes Bytes to read.
   * @param code QUIC error code to throw when the bytes end too early.
   */
  constructor(bytes: Uint8Array, code: number) {
    this.bytes = bytes;
    this.#code = code;
  }

  /** Bytes left to read. */
  get left(): number {
    return this.bytes.byteLength - this.at;
  }

  /** Reads a number; one above 2^53 - 1 is rounded. */
  varint(): number {
    const { bytes, at } = this;
    if (at < bytes.byteLength) {
      const first = bytes[at]!;
      if (first < 0x40) {
        this.at = at + 1;
        return first;
      }
      const end = at + varintLengthAt(first);
      if (end <= bytes.byteLength) {
        this.at = end;
        return readVarint(bytes, at);
      }
    }
    throw this.#tooShort();
  }

  /** Reads a number exactly. */
  exactVarint(): bigint {
    const { at } = this;
    const value = this.varint();
    if (value <= Number.MAX_SAFE_INTEGER) return BigInt(value);
    const { buffer, byteOffset } = this.bytes;
    return new DataView(buffer, byteOffset + at, 8).getBigUint64(0) & 0x3fff_ffff_ffff_ffffn;
  }

  /** Reads bytes, without a copy. */
  take(count: number): Uint8Array {
    if (count > this.left) throw this.#tooShort();
    const start = this.at;
    this.at = start + count;
    return this.bytes.subarray(start, this.at);
  }

  #tooShort(): QmuxError {
    return new QmuxError(this.#code, `Expected more than ${this.bytes.byteLength} bytes`);
  }
}
