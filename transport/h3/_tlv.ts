/**
 * Type, length, payload: the layout that frames of HTTP/3 (RFC 9114 section
 * 7.1) and capsules (RFC 9297 section 3.2) share.
 *
 * @module
 */
import {
  readBigVarint,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../quic/varint.ts";

/** One frame or capsule, or a piece of it. */
export interface Tlv {
  /** What it is. */
  readonly type: number;
  /** What it carries; it may be a view of the chunk it came in. */
  readonly payload: Uint8Array;
}

/**
 * What becomes of a payload: `whole` is buffered until it is complete, `pieces`
 * are passed on as they come, and `skip` drops it.
 */
export type TlvHandling = "whole" | "pieces" | "skip";

/**
 * Decides what becomes of a payload, once its type and length are known.
 *
 * - `type` What it is.
 * - `length` Its bytes; rounded above 2^53 - 1.
 * - It MUST answer `whole` only up to a bound, since so much is buffered.
 * - What it throws passes through `next()`, then and at each later call.
 */
export type TlvPolicy = (type: number, length: number) => TlvHandling;

/** Two varints of eight bytes. */
const MAX_HEADER_BYTES = 16;

/** What is set aside at first for a payload that comes in parts: a length alone costs little. */
const FIRST_BUFFER_BYTES = 1024;

const NOTHING = new Uint8Array(0);

/**
 * Encodes one frame or capsule.
 *
 * @param type What it is.
 * @param payload What it carries.
 * @returns The bytes.
 * @throws {RangeError} If the type is not an integer from 0 to 2^53 - 1.
 */
export function encodeTlv(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const headerBytes = varintLength(type) + varintLength(payload.length);
  const bytes = new Uint8Array(headerBytes + payload.length);
  bytes.set(payload, writeVarint(bytes, writeVarint(bytes, 0, type), payload.length));
  return bytes;
}

/**
 * Reads a payload that is one varint and nothing else.
 *
 * @param payload The payload.
 * @returns The value; `undefined` if the payload is shorter or longer than one varint.
 */
export function readOnlyVarint(payload: Uint8Array): number | undefined {
  if (payload.length === 0 || payload.length !== varintLengthAt(payload[0]!)) return undefined;
  return readVarint(payload, 0);
}

/**
 * Reads a payload that is one varint and nothing else, without rounding.
 *
 * @param payload The payload.
 * @returns The value; `undefined` if the payload is shorter or longer than one varint.
 */
export function readOnlyBigVarint(payload: Uint8Array): bigint | undefined {
  const value = readOnlyVarint(payload);
  return value === undefined ? undefined : readBigVarint(payload, 0);
}

/**
 * Cuts a stream of bytes into frames or capsules.
 *
 * - **Order:** as they came.
 * - **Bound:** it buffers one payload, no larger than the policy lets be
 *   `whole`, and what of the last chunk was not taken.
 */
export class TlvParser {
  readonly #policy: TlvPolicy;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  readonly #header = new Uint8Array(MAX_HEADER_BYTES);
  #headerBytes = 0;
  #handling: TlvHandling | undefined;
  #type = 0;
  /** Bytes of the payload that did not come yet. */
  #left = 0;
  #buffer: Uint8Array = NOTHING;
  #buffered = 0;

  /**
   * Creates a parser at the start of a stream.
   *
   * @param policy Decides what becomes of each payload.
   */
  constructor(policy: TlvPolicy) {
    this.#policy = policy;
  }

  /** Whether the stream may end here: nothing has begun that is not complete. */
  get isBetween(): boolean {
    return this.#headerBytes === 0 && this.#handling === undefined &&
      this.#at === this.#chunk.length;
  }

  /**
   * Adds bytes.
   *
   * @param chunk The bytes; they are not copied and MUST stay as they are.
   */
  push(chunk: Uint8Array): void {
    const rest = this.#chunk.length - this.#at;
    if (rest === 0) this.#chunk = chunk;
    else {
      const joined = new Uint8Array(rest + chunk.length);
      joined.set(this.#chunk.subarray(this.#at));
      joined.set(chunk, rest);
      this.#chunk = joined;
    }
    this.#at = 0;
  }

  /**
   * Takes the next frame, capsule or piece.
   *
   * @returns It, or `undefined` if more bytes are needed first.
   */
  next(): Tlv | undefined {
    while (this.#handling !== undefined || this.#readHeader()) {
      const payload = this.#readPayload();
      if (payload !== undefined) return { type: this.#type, payload };
      if (this.#at === this.#chunk.length) break;
    }
    // The chunk is used up: let its memory go.
    this.#chunk = NOTHING;
    this.#at = 0;
    return undefined;
  }

  #readHeader(): boolean {
    const header = this.#header;
    while (this.#headerBytes < neededBytes(header, this.#headerBytes)) {
      if (this.#at === this.#chunk.length) return false;
      header[this.#headerBytes++] = this.#chunk[this.#at++]!;
    }
    this.#type = readVarint(header, 0);
    this.#left = readVarint(header, varintLengthAt(header[0]!));
    this.#handling = this.#policy(this.#type, this.#left);
    this.#headerBytes = 0;
    return true;
  }

  /** The payload, or the part of it that is to be passed on; `undefined` if there is none yet. */
  #readPayload(): Uint8Array | undefined {
    const handling = this.#handling;
    const start = this.#at;
    const size = Math.min(this.#left, this.#chunk.length - start);
    const isPiece = size > 0 || this.#left === 0;
    this.#at += size;
    this.#left -= size;
    const isLast = this.#left === 0;
    if (isLast) this.#handling = undefined;
    if (handling === "skip") return undefined;
    const part = this.#chunk.subarray(start, start + size);
    if (handling === "pieces") return isPiece ? part : undefined;
    if (isLast && this.#buffered === 0) return part;
    if (size > 0) this.#append(part);
    return isLast ? this.#takeBuffer() : undefined;
  }

  #append(part: Uint8Array): void {
    const size = this.#buffered + part.length;
    if (size > this.#buffer.length) {
      const room = Math.max(size, this.#buffer.length * 2, FIRST_BUFFER_BYTES);
      const grown = new Uint8Array(Math.min(room, size + this.#left));
      grown.set(this.#buffer.subarray(0, this.#buffered));
      this.#buffer = grown;
    }
    this.#buffer.set(part, this.#buffered);
    this.#buffered = size;
  }

  #takeBuffer(): Uint8Array {
    const payload = this.#buffer.subarray(0, this.#buffered);
    this.#buffer = NOTHING;
    this.#buffered = 0;
    return payload;
  }
}

/** How long the header is, as far as its bytes tell. */
function neededBytes(header: Uint8Array, size: number): number {
  if (size === 0) return 1;
  const typeBytes = varintLengthAt(header[0]!);
  return size <= typeBytes ? typeBytes + 1 : typeBytes + varintLengthAt(header[typeBytes]!);
}
