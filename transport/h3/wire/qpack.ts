/**
 * The field sections of QPACK (RFC 9204) with a dynamic table of capacity 0.
 *
 * If an end announces capacity 0, its peer sends only static references and literals. The two sides
 * therefore share no state, and each section is decoded independently.
 *
 * @module
 */
import { decodeHuffman } from "./huffman.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";

/**
 * A field, which consists of a name in lower case and a value. Each character of the value stands
 * for one byte, as in `Headers`.
 */
export type Field = readonly [name: string, value: string];

/**
 * The maximum size of a section in bytes. As in RFC 9114 section 4.2.2, the size of a field is its
 * name, its value and 32 bytes.
 */
const MAX_SECTION_BYTES = 65_536;

/** The bytes added for each field to the size of its name and value. */
const FIELD_OVERHEAD_BYTES = 32;

/** A token (RFC 9110 section 5.6.2). In a pseudo-header, a colon precedes it. */
const NAME = /^:?[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const NAME_OF_ANY_CASE = /^:?[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** The characters that are forbidden in values (RFC 9114 section 10.3). */
const FORBIDDEN_IN_VALUE = /[\0\r\n]/;

/**
 * The exclusive upper bound of a prefix integer, which has up to 62 bits (RFC 9204 section 4.1.1).
 */
const INTEGER_LIMIT = 2 ** 62;
const MAX_INTEGER_SHIFT = 56;

/** The number of bytes converted to characters in one call. */
const DECODE_STEP_BYTES = 8192;

/**
 * Encodes a field section with static references and plain strings.
 *
 * @param fields The fields in order. Their names are converted to lower case.
 * @returns The payload of a HEADERS frame.
 * @throws {TypeError} If a name is not a token, or if a value contains CR, LF, NUL or a character
 * above U+00FF.
 *
 * @example Usage
 * ```ts
 * import { decodeFields, encodeFields } from "./qpack.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const section = encodeFields([[":status", "200"], ["Sec-Thing", "1"]]);
 * assertEquals(decodeFields(section), [[":status", "200"], ["sec-thing", "1"]]);
 * ```
 */
export function encodeFields(fields: Iterable<Field>): Uint8Array<ArrayBuffer> {
  // The required insert count and the base are 0, because there is no dynamic table.
  const bytes = [0, 0];
  for (const [anyName, value] of fields) {
    checkField(anyName, value);
    const name = anyName.toLowerCase();
    const fieldIndex = STATIC_FIELDS.get(staticKey(name, value));
    if (fieldIndex !== undefined) {
      writeInteger(bytes, { flags: 0b1100_0000, prefixBits: 6, value: fieldIndex });
      continue;
    }
    const nameIndex = STATIC_NAMES.get(name);
    if (nameIndex !== undefined) {
      writeInteger(bytes, { flags: 0b0101_0000, prefixBits: 4, value: nameIndex });
    } else {
      writeString(bytes, name, { flags: 0b0010_0000, prefixBits: 3 });
    }
    writeString(bytes, value, { flags: 0, prefixBits: 7 });
  }
  return Uint8Array.from(bytes);
}

/**
 * Decodes a field section.
 *
 * @param bytes The payload of a HEADERS frame.
 * @returns The fields in order.
 * @throws {H3ProtocolError} With code `qpackDecompressionFailed` if the section is invalid or
 * refers to the dynamic table, with `excessiveLoad` if the section is too large, and with
 * `messageError` if a name is not a token in lower case, or if a value contains CR, LF or NUL.
 */
export function decodeFields(bytes: Uint8Array): Field[] {
  const reader = new SectionReader(bytes);
  reader.readPrefix();
  const fields: Field[] = [];
  let size = 0;
  while (!reader.isDone) {
    const field = reader.readField();
    size += field[0].length + field[1].length + FIELD_OVERHEAD_BYTES;
    if (size > MAX_SECTION_BYTES) {
      throw new H3ProtocolError(
        H3Error.excessiveLoad,
        `Cannot decode fields: the section has more than ${MAX_SECTION_BYTES} bytes`,
      );
    }
    if (!NAME.test(field[0])) throw malformed("a name must be a token in lower case");
    if (FORBIDDEN_IN_VALUE.test(field[1])) throw malformed("a value may not contain CR, LF or NUL");
    fields.push(field);
  }
  return fields;
}

/** A reader for the representations of RFC 9204 section 4.5. */
class SectionReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isDone(): boolean {
    return this.#at === this.#bytes.length;
  }

  readPrefix(): void {
    const requiredInsertCount = this.#readInteger(8);
    if (requiredInsertCount !== 0) throw failure("the dynamic table has capacity 0");
    const isNegative = (this.#peek() & 0b1000_0000) !== 0;
    this.#readInteger(7);
    if (isNegative) throw failure("the base may not be negative");
  }

  readField(): Field {
    const first = this.#peek();
    // An indexed field line has the bits 1 T and an index.
    if ((first & 0b1000_0000) !== 0) {
      return this.#readReference(6, (first & 0b0100_0000) !== 0);
    }
    // A literal with a name reference has the bits 0 1 N T, an index and a value.
    if ((first & 0b0100_0000) !== 0) {
      const [name] = this.#readReference(4, (first & 0b0001_0000) !== 0);
      return [name, this.#readString(7)];
    }
    // A literal has the bits 0 0 1 N H, a length, a name and a value.
    if ((first & 0b0010_0000) !== 0) return [this.#readString(3), this.#readString(7)];
    throw failure("a post-base reference points into the dynamic table");
  }

  #readReference(prefixBits: number, isStatic: boolean): Field {
    if (!isStatic) throw failure("a reference points into the dynamic table");
    const index = this.#readInteger(prefixBits);
    const field = STATIC_TABLE[index];
    if (field === undefined) {
      throw failure(`the static table has ${STATIC_TABLE.length} entries, received index ${index}`);
    }
    return field;
  }

  /**
   * Reads a string whose length is an integer with the given prefix. The bit above the prefix is
   * set if the string uses the Huffman code.
   */
  #readString(prefixBits: number): string {
    const isCoded = (this.#peek() & 1 << prefixBits) !== 0;
    const length = this.#readInteger(prefixBits);
    const rest = this.#bytes.length - this.#at;
    if (length > rest) throw failure(`a string has ${length} bytes, received ${rest}`);
    const bytes = this.#bytes.subarray(this.#at, this.#at += length);
    return fromLatin1(isCoded ? decodeHuffman(bytes) : bytes);
  }

  #readInteger(prefixBits: number): number {
    const limit = (1 << prefixBits) - 1;
    let value = this.#peek() & limit;
    this.#at++;
    if (value < limit) return value;
    for (let shift = 0; shift <= MAX_INTEGER_SHIFT; shift += 7) {
      const byte = this.#peek();
      this.#at++;
      value += (byte & 0x7f) * 2 ** shift;
      if (value >= INTEGER_LIMIT) break;
      if (byte < 0x80) return value;
    }
    throw failure("an integer has more than 62 bits");
  }

  #peek(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw failure("the section is truncated");
    return byte;
  }
}

interface IntegerPrefix {
  /** The bits above the prefix. */
  readonly flags: number;
  readonly prefixBits: number;
}

/** Writes a prefix integer (RFC 7541 section 5.1). */
function writeInteger(bytes: number[], integer: IntegerPrefix & { readonly value: number }): void {
  const { flags, prefixBits, value } = integer;
  const limit = (1 << prefixBits) - 1;
  if (value < limit) {
    bytes.push(flags | value);
    return;
  }
  bytes.push(flags | limit);
  let rest = value - limit;
  for (; rest >= 0x80; rest >>>= 7) bytes.push(rest & 0x7f | 0x80);
  bytes.push(rest);
}

function writeString(bytes: number[], text: string, prefix: IntegerPrefix): void {
  writeInteger(bytes, { ...prefix, value: text.length });
  for (let i = 0; i < text.length; i++) bytes.push(text.charCodeAt(i));
}

function checkField(name: string, value: string): void {
  if (!NAME_OF_ANY_CASE.test(name)) {
    throw new TypeError(
      `Cannot encode field: name must be a token, received ${JSON.stringify(name)}`,
    );
  }
  if (FORBIDDEN_IN_VALUE.test(value)) {
    throw new TypeError(`Cannot encode field ${name}: value must not contain CR, LF or NUL`);
  }
  for (let i = 0; i < value.length; i++) {
    if (value.charCodeAt(i) > 0xff) {
      throw new TypeError(
        `Cannot encode field ${name}: value must not contain characters above U+00FF`,
      );
    }
  }
}

/** Converts each byte to the character with the same number. */
function fromLatin1(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += DECODE_STEP_BYTES) {
    const step = bytes.subarray(at, at + DECODE_STEP_BYTES);
    // Spreading the bytes would take six times as long.
    text += String.fromCharCode.apply(null, step as unknown as number[]);
  }
  return text;
}

function failure(message: string): H3ProtocolError {
  return new H3ProtocolError(H3Error.qpackDecompressionFailed, `Cannot decode fields: ${message}`);
}

function malformed(message: string): H3ProtocolError {
  return new H3ProtocolError(H3Error.messageError, `Cannot decode fields: ${message}`);
}

// These are the instructions of the encoder and decoder streams (RFC 9204 sections 4.3 and 4.4).
// Both sides use only the static table, so nearly all instructions are errors.

/** The only valid encoder instruction, which is "Set Dynamic Table Capacity" with capacity 0. */
const CAPACITY_OF_0 = 0b0010_0000;

/** The mask of the instruction bits on a decoder stream. */
const DECODER_INSTRUCTION = 0b1100_0000;

/** "Stream Cancellation", which is valid even though no field refers to the dynamic table. */
const STREAM_CANCELLATION = 0b0100_0000;

/**
 * The mask of a 6-bit prefix. If all of its bits are ones, the integer continues in the next byte.
 */
const FULL_PREFIX = 0b0011_1111;

/** The maximum number of bytes after the prefix, for an integer of 62 bits. */
const MAX_CONTINUATION_BYTES = 9;

/**
 * Checks bytes of the peer's encoder stream. This side announces a table of capacity 0.
 *
 * @throws {H3ProtocolError} With code `qpackEncoderStreamError` if an instruction needs a table.
 */
export function checkEncoderInstructions(bytes: Uint8Array): void {
  const wrong = bytes.find((byte) => byte !== CAPACITY_OF_0);
  if (wrong === undefined) return;
  throw new H3ProtocolError(
    H3Error.qpackEncoderStreamError,
    `Expected no instruction for a dynamic table of capacity 0, received 0x${wrong.toString(16)}`,
  );
}

/** A validator for one decoder stream of the peer. This side never inserts table entries. */
export class DecoderInstructions {
  /**
   * The maximum number of bytes that remain of the current integer; `undefined` between
   * instructions.
   */
  #bytesLeft: number | undefined = undefined;

  /**
   * Checks the next bytes.
   *
   * @param bytes The received bytes. Instructions may be split anywhere.
   * @throws {H3ProtocolError} With code `qpackDecoderStreamError` if an instruction acknowledges an
   * entry that was never inserted.
   */
  check(bytes: Uint8Array): void {
    for (const byte of bytes) {
      if (this.#bytesLeft !== undefined) this.#continue(byte);
      else this.#begin(byte);
    }
  }

  #begin(byte: number): void {
    if ((byte & DECODER_INSTRUCTION) !== STREAM_CANCELLATION) {
      throw brokenDecoderStream(
        `it acknowledges an entry that was never inserted, received 0x${byte.toString(16)}`,
      );
    }
    if ((byte & FULL_PREFIX) === FULL_PREFIX) this.#bytesLeft = MAX_CONTINUATION_BYTES;
  }

  #continue(byte: number): void {
    this.#bytesLeft = byte < 0x80 ? undefined : this.#bytesLeft! - 1;
    if (this.#bytesLeft === 0) throw brokenDecoderStream("a stream ID has more than 62 bits");
  }
}

function brokenDecoderStream(message: string): H3ProtocolError {
  return new H3ProtocolError(
    H3Error.qpackDecoderStreamError,
    `Cannot read QPACK decoder stream: ${message}`,
  );
}

/** The static table (RFC 9204 Appendix A), which consists of 99 fields. */
export const STATIC_TABLE: readonly (readonly [name: string, value: string])[] = [
  [":authority", ""],
  [":path", "/"],
  ["age", "0"],
  ["content-disposition", ""],
  ["content-length", "0"],
  ["cookie", ""],
  ["date", ""],
  ["etag", ""],
  ["if-modified-since", ""],
  ["if-none-match", ""],
  ["last-modified", ""],
  ["link", ""],
  ["location", ""],
  ["referer", ""],
  ["set-cookie", ""],
  [":method", "CONNECT"],
  [":method", "DELETE"],
  [":method", "GET"],
  [":method", "HEAD"],
  [":method", "OPTIONS"],
  [":method", "POST"],
  [":method", "PUT"],
  [":scheme", "http"],
  [":scheme", "https"],
  [":status", "103"],
  [":status", "200"],
  [":status", "304"],
  [":status", "404"],
  [":status", "503"],
  ["accept", "*/*"],
  ["accept", "application/dns-message"],
  ["accept-encoding", "gzip, deflate, br"],
  ["accept-ranges", "bytes"],
  ["access-control-allow-headers", "cache-control"],
  ["access-control-allow-headers", "content-type"],
  ["access-control-allow-origin", "*"],
  ["cache-control", "max-age=0"],
  ["cache-control", "max-age=2592000"],
  ["cache-control", "max-age=604800"],
  ["cache-control", "no-cache"],
  ["cache-control", "no-store"],
  ["cache-control", "public, max-age=31536000"],
  ["content-encoding", "br"],
  ["content-encoding", "gzip"],
  ["content-type", "application/dns-message"],
  ["content-type", "application/javascript"],
  ["content-type", "application/json"],
  ["content-type", "application/x-www-form-urlencoded"],
  ["content-type", "image/gif"],
  ["content-type", "image/jpeg"],
  ["content-type", "image/png"],
  ["content-type", "text/css"],
  ["content-type", "text/html; charset=utf-8"],
  ["content-type", "text/plain"],
  ["content-type", "text/plain;charset=utf-8"],
  ["range", "bytes=0-"],
  ["strict-transport-security", "max-age=31536000"],
  ["strict-transport-security", "max-age=31536000; includesubdomains"],
  ["strict-transport-security", "max-age=31536000; includesubdomains; preload"],
  ["vary", "accept-encoding"],
  ["vary", "origin"],
  ["x-content-type-options", "nosniff"],
  ["x-xss-protection", "1; mode=block"],
  [":status", "100"],
  [":status", "204"],
  [":status", "206"],
  [":status", "302"],
  [":status", "400"],
  [":status", "403"],
  [":status", "421"],
  [":status", "425"],
  [":status", "500"],
  ["accept-language", ""],
  ["access-control-allow-credentials", "FALSE"],
  ["access-control-allow-credentials", "TRUE"],
  ["access-control-allow-headers", "*"],
  ["access-control-allow-methods", "get"],
  ["access-control-allow-methods", "get, post, options"],
  ["access-control-allow-methods", "options"],
  ["access-control-expose-headers", "content-length"],
  ["access-control-request-headers", "content-type"],
  ["access-control-request-method", "get"],
  ["access-control-request-method", "post"],
  ["alt-svc", "clear"],
  ["authorization", ""],
  ["content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"],
  ["early-data", "1"],
  ["expect-ct", ""],
  ["forwarded", ""],
  ["if-range", ""],
  ["origin", ""],
  ["purpose", "prefetch"],
  ["server", ""],
  ["timing-allow-origin", "*"],
  ["upgrade-insecure-requests", "1"],
  ["user-agent", ""],
  ["x-forwarded-for", ""],
  ["x-frame-options", "deny"],
  ["x-frame-options", "sameorigin"],
];

/** The first index of each name in the static table. */
const STATIC_NAMES: ReadonlyMap<string, number> = indexBy((name) => name);

/** The index of each field in the static table, by {@linkcode staticKey}. */
const STATIC_FIELDS: ReadonlyMap<string, number> = indexBy(staticKey);

/**
 * Builds the key of a field in {@linkcode STATIC_FIELDS}.
 *
 * @returns The name and the value, separated by a character that is invalid in names.
 */
function staticKey(name: string, value: string): string {
  return `${name}\n${value}`;
}

function indexBy(key: (name: string, value: string) => string): Map<string, number> {
  const indices = new Map<string, number>();
  for (const [index, [name, value]] of STATIC_TABLE.entries()) {
    const field = key(name, value);
    if (!indices.has(field)) indices.set(field, index);
  }
  return indices;
}
