/**
 * Reads and writes the frames of QMux (RFC 9000 sections 18 to 20, RFC 9221, draft-ietf-quic-qmux).
 */
import { ProtocolError } from "../../errors.ts";
import type { StreamDirection } from "../connection.ts";
import {
  encodeVarint,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../quic/varint.ts";

/** The frame types of one byte. */
export const FrameType = {
  padding: 0x00,
  /** RESET_STREAM: the writer abandoned a stream. */
  resetStream: 0x04,
  /** STOP_SENDING: the reader stopped reading a stream. */
  stopSending: 0x05,
  /** STREAM: bytes of a stream. The low bits of the type are {@linkcode StreamBit}. */
  stream: 0x08,
  /** MAX_DATA: the limit on bytes of all streams. */
  maxData: 0x10,
  /** MAX_STREAM_DATA: the limit on bytes of one stream. */
  maxStreamData: 0x11,
  /** MAX_STREAMS: the limit on bidirectional streams. */
  maxStreamsBidi: 0x12,
  /** MAX_STREAMS: the limit on unidirectional streams. */
  maxStreamsUni: 0x13,
  /** DATA_BLOCKED: the credit for bytes of all streams is used up. */
  dataBlocked: 0x14,
  /** STREAM_DATA_BLOCKED: the credit for bytes of one stream is used up. */
  streamDataBlocked: 0x15,
  /** STREAMS_BLOCKED: the credit for bidirectional streams is used up. */
  streamsBlockedBidi: 0x16,
  /** STREAMS_BLOCKED: the credit for unidirectional streams is used up. */
  streamsBlockedUni: 0x17,
  /** CONNECTION_CLOSE: the connection is closed because of a protocol violation. */
  connectionClose: 0x1c,
  /** CONNECTION_CLOSE: the application closes the connection. */
  applicationClose: 0x1d,
  /** DATAGRAM: a datagram that extends to the end of the record. */
  datagram: 0x30,
  datagramWithLength: 0x31,
} as const;

const StreamBit = {
  /** The stream ends with this frame. */
  fin: 0x01,
  /** A length field is present. */
  length: 0x02,
  /** An offset field is present. */
  offset: 0x04,
} as const;

/** The type of a QX_TRANSPORT_PARAMETERS frame. */
export const PARAMETERS_TYPE = 0x3f5153300d0a0d0an;

/** The type of a QX_PING frame that requests a reply. */
export const PING_TYPE = 0x348c67529ef8c7bdn;

/** The type of a QX_PING frame that is a reply. */
export const PONG_TYPE = 0x348c67529ef8c7ben;

/** The buffer size of a record that starts with a small frame. */
const MIN_CAPACITY = 512;

/**
 * The minimum size of a frame for which the record's buffer is allocated to fit, with little slack.
 */
const LARGE_BYTES = 4_096;

/** The slack after a large frame for a small frame, such as the end of the stream. */
const SLACK_BYTES = 32;

/**
 * The maximum size of a frame without a payload. It consists of a type and three integers of eight
 * bytes.
 */
const MAX_CONTROL_BYTES = 32;

/**
 * A record with less room than this counts as full, because the header of a frame with a payload
 * would hardly fit.
 */
const MIN_ROOM = 64;
const EMPTY = new Uint8Array();
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The QUIC transport error codes. */
export const QuicError = {
  /** The connection was closed without an error. */
  noError: 0x0,
  /** An internal failure of the sending side. */
  internalError: 0x1,
  /** More bytes were received than granted. */
  flowControlError: 0x3,
  /** More streams were opened than granted. */
  streamLimitError: 0x4,
  /** A frame that the stream's state does not allow. */
  streamStateError: 0x5,
  /** The final size of a stream changed. */
  finalSizeError: 0x6,
  /** A frame that cannot be decoded. */
  frameEncodingError: 0x7,
  /** Transport parameters that cannot be decoded or are forbidden. */
  transportParameterError: 0x8,
  /** Any other protocol violation. */
  protocolViolation: 0xa,
} as const;

/** A protocol violation by the peer, with the QUIC error code. */
export class QmuxError extends ProtocolError {
  /** One of {@linkcode QuicError}. */
  readonly quicCode: number;

  /**
   * @param quicCode One of {@linkcode QuicError}.
   * @param message What was expected, and what was received.
   */
  constructor(quicCode: number, message: string) {
    super(message);
    this.quicCode = quicCode;
  }
}

export interface StreamFrame {
  readonly kind: "stream";
  readonly id: number;
  /**
   * The offset of the bytes in the stream. It is `NaN` if the frame has no offset; its bytes then
   * follow the bytes received before.
   */
  readonly offset: number;
  /** The payload, a view of the record. */
  readonly data: Uint8Array;
  /** True if the stream ends after the payload. */
  readonly isFin: boolean;
}

export interface ResetFrame {
  readonly kind: "reset";
  readonly id: number;
  /** The application error code. */
  readonly code: number;
  /** The total number of bytes in the stream. */
  readonly finalSize: number;
}

export interface CloseFrame {
  readonly kind: "close";
  /**
   * True if the application closed the connection; false if it was closed because of a protocol
   * violation.
   */
  readonly isApplication: boolean;
  /** The application close code or the QUIC error code. */
  readonly code: number;
  readonly reason: string;
}

export interface DatagramFrame {
  readonly kind: "datagram";
  /** The payload, a view of the record. */
  readonly data: Uint8Array;
  /** The size of the whole frame in bytes. */
  readonly frameSize: number;
}

/** Any frame except padding. */
export type QmuxFrame =
  | StreamFrame
  | ResetFrame
  | CloseFrame
  | DatagramFrame
  | { readonly kind: "stop"; readonly id: number; readonly code: number }
  | { readonly kind: "maxData" | "dataBlocked"; readonly limit: number }
  | {
    readonly kind: "maxStreamData" | "streamDataBlocked";
    readonly id: number;
    readonly limit: number;
  }
  | {
    readonly kind: "maxStreams" | "streamsBlocked";
    readonly direction: StreamDirection;
    readonly limit: number;
  }
  | { readonly kind: "parameters"; readonly parameters: TransportParameters }
  | { readonly kind: "ping" | "pong"; readonly sequence: bigint };

/**
 * The parameters that an end announces before all other frames. QMux forbids some of QUIC's
 * parameters.
 */
export interface TransportParameters {
  /** The idle timeout in milliseconds; 0 means none. */
  readonly maxIdleTimeoutMs: number;
  /** The initial limit on bytes of all streams that the other side can send. */
  readonly maxData: number;
  /** The initial limit on bytes of a bidirectional stream opened by this side. */
  readonly maxStreamDataBidiLocal: number;
  /** The initial limit on bytes of a bidirectional stream opened by the other side. */
  readonly maxStreamDataBidiRemote: number;
  /** The initial limit on bytes of a unidirectional stream. */
  readonly maxStreamDataUni: number;
  /** The initial limit on bidirectional streams that the other side can open. */
  readonly maxStreamsBidi: number;
  /** The initial limit on unidirectional streams that the other side can open. */
  readonly maxStreamsUni: number;
  /** The maximum size of a DATAGRAM frame (RFC 9221); 0 means that datagrams are not accepted. */
  readonly maxDatagramFrameSize: number;
  /** The maximum size of a record, without the size field. */
  readonly maxRecordSize: number;
}

/** The maximum record size of an end that does not announce `maxRecordSize`. */
export const DEFAULT_MAX_RECORD_SIZE = 16_382;

/** The largest valid number of streams in one direction (RFC 9000 section 4.6). */
const MAX_STREAM_COUNT: number = 2 ** 60;

/** The parameters of an end that announces none. */
export const DEFAULT_PARAMETERS: TransportParameters = Object.freeze({
  maxIdleTimeoutMs: 0,
  maxData: 0,
  maxStreamDataBidiLocal: 0,
  maxStreamDataBidiRemote: 0,
  maxStreamDataUni: 0,
  maxStreamsBidi: 0,
  maxStreamsUni: 0,
  maxDatagramFrameSize: 0,
  maxRecordSize: DEFAULT_MAX_RECORD_SIZE,
});

/** A reading position in a byte array. Reading past the end throws an error. */
class QmuxCursor {
  readonly bytes: Uint8Array;
  /** The offset of the next byte. */
  at = 0;
  readonly #code: number;

  /**
   * @param code The QUIC error code to throw if the bytes end too early.
   */
  constructor(bytes: Uint8Array, code: number) {
    this.bytes = bytes;
    this.#code = code;
  }

  /** The number of bytes left to read. */
  get left(): number {
    return this.bytes.byteLength - this.at;
  }

  /** Reads a number. A number above 2^53 - 1 is rounded. */
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

  /** Reads a number without rounding. */
  exactVarint(): bigint {
    const { at } = this;
    const value = this.varint();
    if (value <= Number.MAX_SAFE_INTEGER) return BigInt(value);
    const { buffer, byteOffset } = this.bytes;
    return new DataView(buffer, byteOffset + at, 8).getBigUint64(0) & 0x3fff_ffff_ffff_ffffn;
  }

  /** Reads bytes without copying them. */
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

/** A reader for the frames of one record. */
export class QmuxFrameReader {
  readonly #cursor: QmuxCursor;

  /**
   * Creates a reader at the first frame.
   *
   * @param record The record, without a size field.
   */
  constructor(record: Uint8Array) {
    this.#cursor = new QmuxCursor(record, QuicError.frameEncodingError);
  }

  /** Tells whether the whole record has been read. */
  get isAtEnd(): boolean {
    return this.#cursor.left === 0;
  }

  /**
   * Reads the next frame. Padding is skipped.
   *
   * @returns The frame; `undefined` at the end of the record.
   * @throws {QmuxError} If the bytes are not a valid frame.
   */
  next(): QmuxFrame | undefined {
    const cursor = this.#cursor;
    const { bytes } = cursor;
    while (cursor.at < bytes.byteLength && bytes[cursor.at] === FrameType.padding) cursor.at++;
    // The receiver of the previous frame may have transferred the record's memory.
    if (cursor.left <= 0) return undefined;
    const first = bytes[cursor.at]!;
    if (first >= 0x40) return this.#own();
    cursor.at++;
    return (first & 0xf8) === FrameType.stream ? this.#stream(first) : this.#other(first);
  }

  #stream(type: number): StreamFrame {
    const cursor = this.#cursor;
    const id = cursor.varint();
    // In QUIC, a missing offset means 0. Older peers never send an offset, because their link
    // neither loses nor repeats bytes.
    const offset = (type & StreamBit.offset) === 0 ? NaN : cursor.varint();
    const length = (type & StreamBit.length) === 0 ? cursor.left : cursor.varint();
    const data = cursor.take(length);
    if (offset + length >= 2 ** 62) throw malformed("Expected a stream of less than 2^62 bytes");
    return { kind: "stream", id, offset, data, isFin: (type & StreamBit.fin) !== 0 };
  }

  #other(type: number): QmuxFrame {
    const cursor = this.#cursor;
    switch (type) {
      case FrameType.resetStream:
        return {
          kind: "reset",
          id: cursor.varint(),
          code: cursor.varint(),
          finalSize: cursor.varint(),
        };
      case FrameType.stopSending:
        return { kind: "stop", id: cursor.varint(), code: cursor.varint() };
      case FrameType.maxData:
        return { kind: "maxData", limit: cursor.varint() };
      case FrameType.dataBlocked:
        return { kind: "dataBlocked", limit: cursor.varint() };
      case FrameType.maxStreamData:
        return { kind: "maxStreamData", id: cursor.varint(), limit: cursor.varint() };
      case FrameType.streamDataBlocked:
        return { kind: "streamDataBlocked", id: cursor.varint(), limit: cursor.varint() };
      case FrameType.maxStreamsBidi:
      case FrameType.maxStreamsUni:
        return { kind: "maxStreams", direction: directionOf(type), limit: this.#count() };
      case FrameType.streamsBlockedBidi:
      case FrameType.streamsBlockedUni:
        return { kind: "streamsBlocked", direction: directionOf(type), limit: this.#count() };
      case FrameType.connectionClose:
      case FrameType.applicationClose:
        return this.#close(type === FrameType.applicationClose);
      case FrameType.datagram:
        return { kind: "datagram", frameSize: 1 + cursor.left, data: cursor.take(cursor.left) };
      case FrameType.datagramWithLength: {
        const start = cursor.at - 1;
        const data = cursor.take(cursor.varint());
        return { kind: "datagram", frameSize: cursor.at - start, data };
      }
    }
    throw malformed(`Received a frame of unknown type 0x${type.toString(16)}`);
  }

  #count(): number {
    const count = this.#cursor.exactVarint();
    if (count > MAX_STREAM_COUNT) throw malformed("Expected at most 2^60 streams");
    return Number(count);
  }

  #close(isApplication: boolean): CloseFrame {
    const cursor = this.#cursor;
    const code = cursor.varint();
    if (!isApplication) cursor.varint(); // The type of the offending frame.
    const reason = decoder.decode(cursor.take(cursor.varint()));
    return { kind: "close", isApplication, code, reason };
  }

  /** Reads a frame that QMux itself defines. The types of these frames are longer than one byte. */
  #own(): QmuxFrame {
    const cursor = this.#cursor;
    const type = cursor.exactVarint();
    switch (type) {
      case PARAMETERS_TYPE:
        return {
          kind: "parameters",
          parameters: decodeTransportParameters(cursor.take(cursor.varint())),
        };
      case PING_TYPE:
        return { kind: "ping", sequence: cursor.exactVarint() };
      case PONG_TYPE:
        return { kind: "pong", sequence: cursor.exactVarint() };
    }
    throw malformed(`Received a frame of unknown type 0x${type.toString(16)}`);
  }
}

/**
 * Derives the direction from a frame type. In each pair of types, the even one is for bidirectional
 * streams.
 */
function directionOf(type: number): StreamDirection {
  return (type & 1) === 0 ? "bidirectional" : "unidirectional";
}

function malformed(message: string): QmuxError {
  return new QmuxError(QuicError.frameEncodingError, message);
}

/** A writer for records. Callers MUST check {@linkcode RecordWriter.room} before each write. */
export class RecordWriter {
  #bytes: Uint8Array = EMPTY;
  #at = 0;

  /** The maximum size of a record in bytes. */
  limit: number;
  /** The maximum number of stream bytes in one frame. */
  maxPayload: number = Infinity;

  /**
   * Creates an empty record.
   *
   * @param limit The initial maximum size of a record.
   */
  constructor(limit: number) {
    this.limit = limit;
  }

  get byteLength(): number {
    return this.#at;
  }

  /** The number of bytes left in the record. */
  get room(): number {
    return this.limit - this.#at;
  }

  /** Tells whether the next frame must go into a new record. */
  get isFull(): boolean {
    return this.limit - this.#at < MIN_ROOM;
  }

  /** Ends the record and starts another one. */
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

  reset(id: number, code: number, finalSize: number): void {
    this.control(FrameType.resetStream, id, code, finalSize);
  }

  /** Writes a frame that consists of a long type and an integer. */
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
   * Writes a close. `frameType` is the type of the offending frame; it is absent if the application
   * closes the connection.
   */
  close(code: number, reason: string, frameType?: number): void {
    const text = encoder.encode(reason);
    this.#reserve(MAX_CONTROL_BYTES + text.byteLength);
    this.#varint(frameType === undefined ? FrameType.applicationClose : FrameType.connectionClose);
    this.#varint(code);
    if (frameType !== undefined) this.#varint(frameType);
    this.#varint(text.byteLength);
    this.#copy(text, 0, text.byteLength);
  }

  datagram(bytes: Uint8Array): void {
    const { byteLength } = bytes;
    this.#reserve(datagramFrameSize(byteLength));
    this.#varint(FrameType.datagramWithLength);
    this.#varint(byteLength);
    this.#copy(bytes, 0, byteLength);
  }

  /** Computes how many stream bytes fit into the record. */
  payloadRoom(id: number, offset: number): number {
    // The length field has two bytes below 16 KiB, and four above.
    const header = 1 + varintLength(id) + (offset > 0 ? varintLength(offset) : 0) +
      (this.room < 16_384 ? 2 : 4);
    return Math.min(this.room - header, this.maxPayload);
  }

  /**
   * Writes a STREAM frame.
   *
   * @param payload The payload, which is `bytes` from `start` up to `end`.
   * @param isFin True if the stream ends after the payload.
   */
  stream(
    id: number,
    offset: number,
    payload: { readonly bytes: Uint8Array; readonly start: number; readonly end: number },
    isFin: boolean,
  ): void {
    const { bytes, start, end } = payload;
    const hasOffset = offset > 0;
    let type: number = FrameType.stream | StreamBit.length;
    if (isFin) type |= StreamBit.fin;
    if (hasOffset) type |= StreamBit.offset;
    this.#reserve(MAX_CONTROL_BYTES + end - start);
    this.#bytes[this.#at++] = type;
    this.#varint(id);
    if (hasOffset) this.#varint(offset);
    this.#varint(end - start);
    if (end > start) this.#copy(bytes, start, end);
  }

  #varint(value: number): void {
    if (value < 0x40) this.#bytes[this.#at++] = value;
    else this.#at = writeVarint(this.#bytes, this.#at, value);
  }

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

/** Computes the size of a DATAGRAM frame with a length field. */
export function datagramFrameSize(byteLength: number): number {
  return 1 + varintLength(byteLength) + byteLength;
}

/** The parameter IDs of RFC 9000 section 18.2, RFC 9221 and draft-ietf-quic-qmux. */
const IDS: ReadonlyMap<bigint, keyof TransportParameters> = new Map([
  [0x01n, "maxIdleTimeoutMs"],
  [0x04n, "maxData"],
  [0x05n, "maxStreamDataBidiLocal"],
  [0x06n, "maxStreamDataBidiRemote"],
  [0x07n, "maxStreamDataUni"],
  [0x08n, "maxStreamsBidi"],
  [0x09n, "maxStreamsUni"],
  [0x20n, "maxDatagramFrameSize"],
  [0x0571c59429cd0845n, "maxRecordSize"],
]);

const COUNTS: ReadonlySet<keyof TransportParameters> = new Set(["maxStreamsBidi", "maxStreamsUni"]);

/** The QUIC parameters that have no meaning in QMux. */
const FORBIDDEN: ReadonlySet<bigint> = new Set(
  [0x00, 0x02, 0x03, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10].map(BigInt),
);

/**
 * Encodes parameters. Default values are omitted.
 *
 * @returns The body of a QX_TRANSPORT_PARAMETERS frame.
 */
export function encodeTransportParameters(parameters: TransportParameters): Uint8Array {
  const bytes: number[] = [];
  for (const [id, name] of IDS) {
    const value = parameters[name];
    if (value === DEFAULT_PARAMETERS[name]) continue;
    const encoded = encodeVarint(value);
    bytes.push(...encodeId(id), encoded.byteLength, ...encoded);
  }
  return Uint8Array.from(bytes);
}

/**
 * Decodes parameters. Unknown parameters are ignored.
 *
 * @param bytes The body of a QX_TRANSPORT_PARAMETERS frame.
 * @returns The announced values, and the defaults of all other parameters.
 * @throws {QmuxError} If the parameters cannot be decoded or are not allowed.
 */
export function decodeTransportParameters(bytes: Uint8Array): TransportParameters {
  const parameters: { -readonly [Name in keyof TransportParameters]: number } = {
    ...DEFAULT_PARAMETERS,
  };
  const seen = new Set<bigint>();
  const cursor = new QmuxCursor(bytes, QuicError.transportParameterError);
  while (cursor.left > 0) {
    const id = cursor.exactVarint();
    const value = new QmuxCursor(cursor.take(cursor.varint()), QuicError.transportParameterError);
    const name = IDS.get(id);
    if (FORBIDDEN.has(id)) throw rejected(id, "is not allowed in QMux");
    if (name === undefined) continue;
    if (seen.has(id)) throw rejected(id, "is repeated");
    seen.add(id);
    const number = value.exactVarint();
    if (value.left > 0) throw rejected(id, "has bytes after the number");
    if (number > MAX_STREAM_COUNT && COUNTS.has(name)) throw rejected(id, "is above 2^60");
    parameters[name] = Number(number);
  }
  if (parameters.maxRecordSize < DEFAULT_MAX_RECORD_SIZE) {
    throw invalid(`maxRecordSize is below ${DEFAULT_MAX_RECORD_SIZE}`);
  }
  return parameters;
}

function encodeId(id: bigint): Uint8Array {
  if (id <= BigInt(Number.MAX_SAFE_INTEGER)) return encodeVarint(Number(id));
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, id | 0xc000_0000_0000_0000n);
  return bytes;
}

function rejected(id: bigint, why: string): QmuxError {
  return invalid(`Parameter 0x${id.toString(16)} ${why}`);
}

function invalid(message: string): QmuxError {
  return new QmuxError(QuicError.transportParameterError, message);
}
