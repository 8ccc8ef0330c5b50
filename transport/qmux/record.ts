/**
 * A record that is being written, frame by frame.
 *
 * @module
 */
import { varintLength, writeVarint } from "../quic/varint.ts";
import { FrameType, StreamBit } from "./frames.ts";
import { encodeTransportParameters, type TransportParameters } from "./transport_parameters.ts";

/** The memory of a record that begins with a small frame. */
const MIN_CAPACITY = 512;

/** From this many bytes on a frame's record gets just the memory that it needs, and a little. */
const LARGE_BYTES = 4_096;

/** Behind a large frame there is most often a small one, such as the end of its stream. */
const SLACK_BYTES = 32;

/** Longest frame that has no payload: a type and three numbers of eight bytes. */
export const MAX_CONTROL_BYTES = 32;

/** A record with less room than this is full: the header of a frame with a payload would hardly fit. */
const MIN_ROOM = 64;

const EMPTY = new Uint8Array();
const encoder = new TextEncoder();

/** Writes records. Who writes has seen that there is {@linkcode RecordWriter.room}. */
export class RecordWriter {
  #bytes: Uint8Array = EMPTY;
  #at = 0;
  readonly #isLegacy: boolean;
  readonly #isSingle: boolean;

  /** Bytes that a record may have. */
  limit: number;
  /** Bytes of a stream that one frame may have. */
  maxPayload: number = Infinity;

  /**
   * Creates an empty record.
   *
   * @param limit Bytes that a record may have at first.
   * @param options Whether there is one frame a record, as in draft 00, and whether frames are those
   * from before the drafts, without lengths and offsets.
   */
  constructor(limit: number, options: { readonly isSingle: boolean; readonly isLegacy: boolean }) {
    this.limit = limit;
    this.#isSingle = options.isSingle;
    this.#isLegacy = options.isLegacy;
  }

  /** Bytes so far. */
  get byteLength(): number {
    return this.#at;
  }

  /** Bytes that it may have beside those. */
  get room(): number {
    return this.limit - this.#at;
  }

  /** Whether another frame goes into the next one. */
  get isFull(): boolean {
    return this.#isSingle ? this.#at > 0 : this.limit - this.#at < MIN_ROOM;
  }

  /** Ends the record, and begins another. */
  take(): Uint8Array {
    const record = this.#bytes.subarray(0, this.#at);
    this.#bytes = EMPTY;
    this.#at = 0;
    return record;
  }

  /** Writes a frame of numbers alone. */
  control(type: number, ...numbers: number[]): void {
    this.#reserve(MAX_CONTROL_BYTES);
    this.#varint(type);
    for (const number of numbers) this.#varint(number);
  }

  /** Writes a RESET_STREAM frame. */
  reset(id: number, code: number, finalSize: number): void {
    if (this.#isLegacy) this.control(FrameType.resetStream, id, code);
    else this.control(FrameType.resetStream, id, code, finalSize);
  }

  /** Writes a frame of a long type and a long number. */
  ping(type: bigint, sequence: bigint): void {
    this.#reserve(MAX_CONTROL_BYTES);
    this.#longVarint(type);
    if (sequence <= BigInt(Number.MAX_SAFE_INTEGER)) this.#varint(Number(sequence));
    else this.#longVarint(sequence);
  }

  /** Writes a QX_TRANSPORT_PARAMETERS frame. */
  parameters(type: bigint, parameters: TransportParameters): void {
    const body = encodeTransportParameters(parameters);
    this.#reserve(16 + body.byteLength);
    this.#longVarint(type);
    this.#varint(body.byteLength);
    this.#copy(body, 0, body.byteLength);
  }

  /** Writes a close; `frameType` is that of the frame at fault, and absent where an application closes. */
  close(code: number, reason: string, frameType?: number): void {
    const text = encoder.encode(reason);
    this.#reserve(MAX_CONTROL_BYTES + text.byteLength);
    this.#varint(frameType === undefined ? FrameType.applicationClose : FrameType.connectionClose);
    this.#varint(code);
    if (!this.#isLegacy) {
      if (frameType !== undefined) this.#varint(frameType);
      this.#varint(text.byteLength);
    }
    this.#copy(text, 0, text.byteLength);
  }

  /** Writes a DATAGRAM frame with its length. */
  datagram(bytes: Uint8Array): void {
    const { byteLength } = bytes;
    this.#reserve(datagramFrameSize(byteLength));
    this.#varint(FrameType.datagramWithLength);
    this.#varint(byteLength);
    this.#copy(bytes, 0, byteLength);
  }

  /**
   * Tells how many bytes of a stream the record has room for.
   *
   * @param id The stream.
   * @param offset Where in the stream.
   */
  payloadRoom(id: number, offset: number): number {
    let header = 1 + varintLength(id);
    // The length takes two bytes up to 16 KiB, and four above.
    if (!this.#isLegacy) {
      header += (offset > 0 ? varintLength(offset) : 0) + (this.room < 16_384 ? 2 : 4);
    }
    return Math.min(this.room - header, this.maxPayload);
  }

  /**
   * Writes a STREAM frame.
   *
   * @param id The stream.
   * @param offset Where in the stream.
   * @param payload Its bytes, from `start` up to `end`.
   * @param isFin Whether the stream ends behind them.
   */
  stream(
    id: number,
    offset: number,
    payload: { readonly bytes: Uint8Array; readonly start: number; readonly end: number },
    isFin: boolean,
  ): void {
    const { bytes, start, end } = payload;
    const hasOffset = offset > 0 && !this.#isLegacy;
    let type: number = FrameType.stream;
    if (isFin) type |= StreamBit.fin;
    if (hasOffset) type |= StreamBit.offset;
    if (!this.#isLegacy) type |= StreamBit.length;
    this.#reserve(MAX_CONTROL_BYTES + end - start);
    this.#bytes[this.#at++] = type;
    this.#varint(id);
    if (hasOffset) this.#varint(offset);
    if (!this.#isLegacy) this.#varint(end - start);
    if (end > start) this.#copy(bytes, start, end);
  }

  #varint(value: number): void {
    if (value < 0x40) this.#bytes[this.#at++] = value;
    else this.#at = writeVarint(this.#bytes, this.#at, value);
  }

  /** Of a number that takes eight bytes. */
  #longVarint(value: bigint): void {
    const { buffer, byteOffset } = this.#bytes;
    const view = new DataView(buffer, byteOffset + this.#at, 8);
    view.setBigUint64(0, value | 0xc000_0000_0000_0000n);
    this.#at += 8;
  }

  #copy(bytes: Uint8Array, start: number, end: number): void {
    const isWhole = start === 0 && end === bytes.byteLength;
    this.#bytes.set(isWhole ? bytes : bytes.subarray(start, end), this.#at);
    this.#at += end - start;
  }

  #reserve(count: number): void {
    const needed = this.#at + count;
    const old = this.#bytes;
    if (needed <= old.byteLength) return;
    const least = count >= LARGE_BYTES ? needed + SLACK_BYTES : MIN_CAPACITY;
    this.#bytes = new Uint8Array(Math.max(needed, least, old.byteLength * 2));
    if (this.#at > 0) this.#bytes.set(old.subarray(0, this.#at));
  }
}

/**
 * Tells how long the DATAGRAM frame of a datagram is.
 *
 * @param byteLength Bytes of the datagram.
 * @returns Bytes of the frame, which has its length.
 */
export function datagramFrameSize(byteLength: number): number {
  return 1 + varintLength(byteLength) + byteLength;
}
