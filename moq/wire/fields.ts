/** Encoding and decoding of message fields: varints, bytes, strings. */
import { ProtocolError } from "../../errors.ts";
import { type IntegerCodec, QUIC_INTEGERS } from "./integers.ts";

const encoder = new TextEncoder();
// A byte order mark belongs to a name like any other character.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The lowest number that a varint cannot hold. */
const VARINT_END = 1n << 62n;

/** The largest fields of a message of the IETF's drafts, whose length has two bytes. */
const MAX_DRAFT_BODY_BYTES = 0xffff;

/** Collects the fields of a message. */
export class FieldWriter {
  readonly #integers: IntegerCodec;
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(64);
  #length = 0;

  /** Starts without fields. */
  constructor(integers: IntegerCodec = QUIC_INTEGERS) {
    this.#integers = integers;
  }

  /**
   * Adds a byte.
   *
   * @param value 0 to 255.
   * @throws {RangeError} If the value is not an integer from 0 to 255.
   */
  u8(value: number): this {
    if (!Number.isInteger(value) || value < 0 || value > 0xff) {
      throw new RangeError(
        `Cannot encode byte: value must be an integer from 0 to 255, received ${value}`,
      );
    }
    this.#reserve(1)[this.#length++] = value;
    return this;
  }

  /**
   * Adds a varint.
   *
   * @param value An integer of up to 53 bits, 0 or more.
   * @throws {RangeError} If the value is not such an integer.
   */
  varint(value: number): this {
    const bytes = this.#reserve(this.#integers.length(value));
    this.#length = this.#integers.write(bytes, this.#length, value);
    return this;
  }

  /**
   * Adds a varint of QUIC of up to 62 bits.
   *
   * @throws {RangeError} If the number is negative or larger.
   */
  varint62(value: bigint): this {
    if (value >= VARINT_END) {
      throw new RangeError(`Cannot encode varint: value must be below 2^62, received ${value}`);
    }
    if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return this.varint(Number(value));
    const bytes = this.#reserve(8);
    new DataView(bytes.buffer).setBigUint64(this.#length, value | 3n << 62n);
    this.#length += 8;
    return this;
  }

  /** Adds bytes without a length. */
  raw(value: Uint8Array): this {
    this.#reserve(value.byteLength).set(value, this.#length);
    this.#length += value.byteLength;
    return this;
  }

  /** Adds a length and bytes. */
  sized(value: Uint8Array): this {
    return this.varint(value.byteLength).raw(value);
  }

  /** Adds a length and a string in UTF-8. */
  string(value: string): this {
    return this.sized(encoder.encode(value));
  }

  /** Returns the bytes of all fields without copying them. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }

  /**
   * Returns a message: varints, the length of all fields, and the fields.
   *
   * @param head The varints before the length.
   */
  finishSized(...head: readonly number[]): Uint8Array<ArrayBuffer> {
    const { length, write } = this.#integers;
    const size = head.reduce((sum, value) => sum + length(value), length(this.#length));
    const message = new Uint8Array(size + this.#length);
    let at = 0;
    for (const value of head) at = write(message, at, value);
    at = write(message, at, this.#length);
    message.set(this.finish(), at);
    return message;
  }

  /**
   * Returns a message of the IETF's drafts: a type, a length of two bytes, and all fields.
   *
   * @param name The name of the message, for the error.
   * @throws {RangeError} If the fields have more than 65,535 bytes.
   */
  finishDraft(type: number, name: string): Uint8Array<ArrayBuffer> {
    const length = this.#length;
    if (length > MAX_DRAFT_BODY_BYTES) {
      throw new RangeError(
        `Cannot write ${name}: it must have at most ${MAX_DRAFT_BODY_BYTES} bytes, received ${length}`,
      );
    }
    return new FieldWriter(this.#integers).varint(type).u8(length >>> 8).u8(length & 0xff)
      .raw(this.finish()).finish();
  }

  #reserve(count: number): Uint8Array<ArrayBuffer> {
    if (this.#length + count > this.#bytes.byteLength) {
      const larger = new Uint8Array(Math.max(this.#bytes.byteLength * 2, this.#length + count));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return this.#bytes;
  }
}

/** Reads the fields of a complete message. */
export class FieldReader {
  readonly #bytes: Uint8Array;
  readonly #name: string;
  readonly #integers: IntegerCodec;
  #at = 0;

  constructor(bytes: Uint8Array, name: string, integers: IntegerCodec = QUIC_INTEGERS) {
    this.#bytes = bytes;
    this.#name = name;
    this.#integers = integers;
  }

  /** Unread bytes. */
  get left(): number {
    return this.#bytes.byteLength - this.#at;
  }

  u8(): number {
    this.#need(1);
    return this.#bytes[this.#at++]!;
  }

  /** Reads a byte that is 0 or 1. */
  bool(): boolean {
    const value = this.u8();
    if (value > 1) throw this.fault(`a flag must be 0 or 1, received ${value}`);
    return value === 1;
  }

  /**
   * Reads a varint of up to 53 bits.
   *
   * @throws {ProtocolError} If the number is larger, or the varint is incomplete.
   */
  varint(): number {
    const value = this.#roundedVarint();
    if (!Number.isSafeInteger(value)) {
      throw this.fault(`a number must be at most ${Number.MAX_SAFE_INTEGER}, received ${value}`);
    }
    return value;
  }

  /**
   * Reads a varint that is a limit or a measurement, where a number of more than 53 bits means
   * "unlimited" or "very large".
   *
   * @returns The number, at most the largest 53-bit number.
   * @throws {ProtocolError} If the varint is incomplete.
   */
  limit(): number {
    return Math.min(this.#roundedVarint(), Number.MAX_SAFE_INTEGER);
  }

  #roundedVarint(): number {
    this.#need(1);
    const length = this.#integers.lengthAt(this.#bytes[this.#at]!);
    this.#need(length);
    const value = this.#integers.read(this.#bytes, this.#at);
    this.#at += length;
    return value;
  }

  /** Reads a varint, and returns its encoding. */
  rawVarint(): Uint8Array {
    this.#need(1);
    return this.raw(this.#integers.lengthAt(this.#bytes[this.#at]!));
  }

  /** Reads a varint of QUIC of up to 62 bits. */
  varint62(): bigint {
    this.#need(1);
    if (this.#integers.lengthAt(this.#bytes[this.#at]!) < 8) return BigInt(this.varint());
    this.#need(8);
    const { buffer, byteOffset } = this.#bytes;
    const value = new DataView(buffer, byteOffset + this.#at, 8).getBigUint64(0);
    this.#at += 8;
    return value & VARINT_END - 1n;
  }

  /** Reads a length and a string. */
  string(): string {
    const bytes = this.sized();
    try {
      return decoder.decode(bytes);
    } catch {
      throw this.fault("a text must be UTF-8");
    }
  }

  /** Reads a length and bytes. */
  sized(): Uint8Array {
    return this.raw(this.varint());
  }

  /** Reads a number of bytes; all unread ones by default. */
  raw(length: number = this.left): Uint8Array {
    this.#need(length);
    const start = this.#at;
    return this.#bytes.subarray(start, this.#at += length);
  }

  /** Checks that all bytes were read. */
  end(): void {
    if (this.left > 0) throw this.fault(`expected its end, received ${this.left} bytes more`);
  }

  /** Creates the error of a malformed message. */
  fault(what: string): ProtocolError {
    return new ProtocolError(`Cannot read ${this.#name}: ${what}`);
  }

  #need(count: number): void {
    if (this.left < count) throw this.fault(`expected ${count} bytes more, received ${this.left}`);
  }
}

/**
 * Decodes a whole message.
 *
 * @returns The result of `read`.
 * @throws {ProtocolError} If a field is malformed, or bytes follow the last field.
 */
export function decodeMessage<T>(
  body: Uint8Array,
  name: string,
  read: (fields: FieldReader) => T,
  integers?: IntegerCodec,
): T {
  const fields = new FieldReader(body, name, integers);
  const message = read(fields);
  fields.end();
  return message;
}
