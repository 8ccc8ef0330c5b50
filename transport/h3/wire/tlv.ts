/**
 * The layout that frames (RFC 9114) and capsules (RFC 9297) share: a type, a length and a payload.
 */
import {
  readBigVarint,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../../quic/varint.ts";

/** A frame (RFC 9114 section 7.1), a capsule (RFC 9297 section 3.2), or a piece of either. */
interface Tlv {
  /** The type of the frame or capsule. */
  readonly type: number;
  /** The payload, which may be a view of the received chunk. */
  readonly payload: Uint8Array;
}

/**
 * How to handle a payload: `whole` buffers it until it is complete, `pieces` passes on each piece,
 * and `skip` drops it.
 */
export type TlvHandling = "whole" | "pieces" | "skip";

/**
 * Decides how to handle a payload, once its type and length are known.
 *
 * - `type` is the type of the frame or capsule.
 * - `length` is the payload size in bytes. It is rounded if it is above 2^53 - 1.
 * - The policy MUST limit the length for which it returns `whole`, because the whole payload is
 *   buffered.
 * - If the policy throws, `next()` throws the error, and so does each later call.
 */
export type TlvPolicy = (type: number, length: number) => TlvHandling;

/** The maximum size of a header, which consists of two varints of up to eight bytes. */
const MAX_HEADER_BYTES = 16;

/**
 * The first buffer size for a payload that arrives in several chunks. It is small, so that merely
 * announcing a large length costs little.
 */
const FIRST_BUFFER_BYTES = 1024;

const NOTHING = new Uint8Array(0);

/**
 * Encodes one frame or capsule.
 *
 * @throws {RangeError} If the type is not an integer from 0 to 2^53 - 1.
 */
export function encodeTlv(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const headerBytes = varintLength(type) + varintLength(payload.length);
  const bytes = new Uint8Array(headerBytes + payload.length);
  bytes.set(payload, writeVarint(bytes, writeVarint(bytes, 0, type), payload.length));
  return bytes;
}

/**
 * Decodes a payload that consists of one varint.
 *
 * @returns The value; `undefined` if the payload is not exactly one varint.
 */
export function readOnlyVarint(payload: Uint8Array): number | undefined {
  if (payload.length === 0 || payload.length !== varintLengthAt(payload[0]!)) return undefined;
  return readVarint(payload, 0);
}

/**
 * Decodes a payload that consists of one varint, without rounding.
 *
 * @returns The value; `undefined` if the payload is not exactly one varint.
 */
export function readOnlyBigVarint(payload: Uint8Array): bigint | undefined {
  const value = readOnlyVarint(payload);
  return value === undefined ? undefined : readBigVarint(payload, 0);
}

/**
 * Splits a byte stream into frames or capsules.
 *
 * - **Order:** items are returned in the order in which they arrived.
 * - **Limit:** the parser buffers one payload, up to the size for which the policy returns `whole`,
 *   and the unread rest of the last chunk.
 */
export class TlvParser {
  readonly #policy: TlvPolicy;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  /** The header, if it is split across chunks. */
  #header: Uint8Array | undefined;
  #headerBytes = 0;
  #handling: TlvHandling | undefined;
  #type = 0;
  /** The number of payload bytes that have not arrived yet. */
  #left = 0;
  #buffer: Uint8Array = NOTHING;
  #buffered = 0;

  constructor(policy: TlvPolicy) {
    this.#policy = policy;
  }

  /** True at the boundary between two frames or capsules, where the stream may end. */
  get isBetween(): boolean {
    return this.#headerBytes === 0 && this.#handling === undefined &&
      this.#at === this.#chunk.length;
  }

  /**
   * Adds bytes.
   *
   * @param chunk The bytes. They are not copied, so they MUST NOT change afterwards.
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
   * Returns the next frame, capsule or piece.
   *
   * @returns The next item; `undefined` if more bytes are needed.
   */
  next(): Tlv | undefined {
    while (this.#handling !== undefined || this.#readHeader()) {
      const payload = this.#readPayload();
      if (payload !== undefined) return { type: this.#type, payload };
      if (this.#at === this.#chunk.length) break;
    }
    // Releases the memory of the finished chunk.
    this.#chunk = NOTHING;
    this.#at = 0;
    return undefined;
  }

  #readHeader(): boolean {
    if (this.#headerBytes === 0 && this.#readWholeHeader()) return true;
    const header = this.#header ??= new Uint8Array(MAX_HEADER_BYTES);
    while (this.#headerBytes < neededBytes(header, this.#headerBytes)) {
      if (this.#at === this.#chunk.length) return false;
      header[this.#headerBytes++] = this.#chunk[this.#at++]!;
    }
    this.#begin(header, 0);
    this.#headerBytes = 0;
    return true;
  }

  /**
   * Reads a header that is completely in the chunk, as nearly all are. Returns `false` if it is
   * not.
   */
  #readWholeHeader(): boolean {
    const chunk = this.#chunk;
    const at = this.#at;
    if (at === chunk.length) return false;
    const lengthAt = at + varintLengthAt(chunk[at]!);
    if (lengthAt >= chunk.length) return false;
    const end = lengthAt + varintLengthAt(chunk[lengthAt]!);
    if (end > chunk.length) return false;
    this.#begin(chunk, at);
    this.#at = end;
    return true;
  }

  #begin(bytes: Uint8Array, at: number): void {
    this.#type = readVarint(bytes, at);
    this.#left = readVarint(bytes, at + varintLengthAt(bytes[at]!));
    this.#handling = this.#policy(this.#type, this.#left);
  }

  /** Reads the payload or its next piece. Returns `undefined` if no bytes are available. */
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

/** Computes the header size, as far as the received bytes determine it. */
function neededBytes(header: Uint8Array, size: number): number {
  if (size === 0) return 1;
  const typeBytes = varintLengthAt(header[0]!);
  return size <= typeBytes ? typeBytes + 1 : typeBytes + varintLengthAt(header[typeBytes]!);
}
