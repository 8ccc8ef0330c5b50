/** Writer for records, frame by frame. */
import { varintLength, writeVarint } from "../quic/varint.ts";
import {
  encodeTransportParameters,
  FrameType,
  StreamBit,
  type TransportParameters,
} from "./frames.ts";

/** Buffer size of a record that begins with a small frame. */
const MIN_CAPACITY = 512;

/** Frame size from which the buffer of a record is allocated to fit, with little slack. */
const LARGE_BYTES = 4_096;

/** Slack behind a large frame for a small one, such as the end of the stream. */
const SLACK_BYTES = 32;

/** Longest frame without a payload: a type and three integers of eight bytes. */
export const MAX_CONTROL_BYTES = 32;

/**
 * Room below which a record counts as full: the header of a frame with a payload would hardly fit.
 */
const MIN_ROOM = 64;

const EMPTY = new Uint8Array();
const encoder = new TextEncoder();

/** Writer for records. Callers MUST check {@linkcode RecordWriter.room} before each write. */
export class RecordWriter {
  #bytes: Uint8Array = EMPTY;
  #at = 0;
  readonly #isLegacy: boolean;
  readonly #isSingle: boolean;

  /** Most bytes of a record. */
  limit: number;
  /** Most bytes of a stream in one frame. */
  maxPayload: number = Infinity;

  /**
   * Creates an empty record.
   *
   * @param limit Most bytes of a record at first.
   * @param options `isSingle` puts one frame into a record, as in draft 00; `isLegacy` writes the
   * frames from before the drafts, without lengths and offsets.
   */
  constructor(limit: number, options: { readonly isSingle: boolean; readonly isLegacy: boolean }) {
    this.limit = limit;
    this.#isSingle = options.isSingle;
    this.#isLegacy = options.isLegacy;
  }

  /** Bytes written so far. */
  get byteLength(): number {
    return this.#at;
  }

  /** Bytes left in the record. */
  get room(): number {
    return this.limit - this.#at;
  }

  /** Tells whether the next frame needs a new record. */
  get isFull(): boolean {
    return this.#isSingle ? this.#at > 0 : this.limit - this.#at < MIN_ROOM;
  }

  /** Ends the record and begins another. */
  take(): Uint8Array {
    const record = this.#bytes.subarray(0, this.#at);
    this.#bytes = EMPTY;
    this.#at = 0;
    return record;
  }

  /** Writes a frame that consists of integers. */
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

  /** Writes a frame of a long type and an integer. */
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

  /**
   * Writes a close. `frameType` is the type of the offending frame; absent when the application
   * closes.
   */
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

  /** Writes a DATAGRAM frame with a length. */
  datagram(bytes: Uint8Array): void {
    const { byteLength } = bytes;
    this.#reserve(datagramFrameSize(byteLength));
    this.#varint(FrameType.datagramWithLength);
    this.#varint(byteLength);
    this.#copy(bytes, 0, byteLength);
  }

  /**
   * Computes how many bytes of a stream fit into the record.
   *
   * @param id Stream number.
   * @param offset Offset in the stream.
   */
  payloadRoom(id: number, offset: number): number {
    let header = 1 + varintLength(id);
    // The length field takes two bytes below 16 KiB, and four above.
    if (!this.#isLegacy) {
      header += (offset > 0 ? varintLength(offset) : 0) + (this.room < 16_384 ? 2 : 4);
    }
    return Math.min(this.room - header, this.maxPayload);
  }

  /**
   * Writes a STREAM frame.
   *
   * @param id Stream number.
   * @param offset Offset in the stream.
   * @param payload Payload: `bytes` from `start` up to `end`.
   * @param isFin Whether the stream ends behind the payload.
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

  /** Writes an integer in eight bytes. */
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
 * Computes the size of a DATAGRAM frame with a length.
 *
 * @param byteLength Bytes of the datagram.
 * @returns Bytes of the frame.
 */
export function datagramFrameSize(byteLength: number): number {
  return 1 + varintLength(byteLength) + byteLength;
}
