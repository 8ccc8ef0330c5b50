/** Frames of QMux, from RFC 9000 section 19, RFC 9221 and draft-ietf-quic-qmux. */
import type { StreamDirection } from "../connection.ts";
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import {
  decodeTransportParameters,
  MAX_STREAM_COUNT,
  type TransportParameters,
} from "./transport_parameters.ts";

/** One-byte frame types. */
export const FrameType = {
  /** Padding. */
  padding: 0x00,
  /** RESET_STREAM: the writer abandoned a stream. */
  resetStream: 0x04,
  /** STOP_SENDING: the reader wants no more of a stream. */
  stopSending: 0x05,
  /** STREAM: bytes of a stream; the low bits are {@linkcode StreamBit}. */
  stream: 0x08,
  /** MAX_DATA: bytes of all streams that may be sent. */
  maxData: 0x10,
  /** MAX_STREAM_DATA: bytes of one stream that may be sent. */
  maxStreamData: 0x11,
  /** MAX_STREAMS: bidirectional streams that may be opened. */
  maxStreamsBidi: 0x12,
  /** MAX_STREAMS: unidirectional streams that may be opened. */
  maxStreamsUni: 0x13,
  /** DATA_BLOCKED: the bytes of all streams are used up. */
  dataBlocked: 0x14,
  /** STREAM_DATA_BLOCKED: the bytes of one stream are used up. */
  streamDataBlocked: 0x15,
  /** STREAMS_BLOCKED: the bidirectional streams are used up. */
  streamsBlockedBidi: 0x16,
  /** STREAMS_BLOCKED: the unidirectional streams are used up. */
  streamsBlockedUni: 0x17,
  /** CONNECTION_CLOSE because of a protocol violation. */
  connectionClose: 0x1c,
  /** CONNECTION_CLOSE by the application. */
  applicationClose: 0x1d,
  /** DATAGRAM up to the end of the record. */
  datagram: 0x30,
  /** DATAGRAM with a length. */
  datagramWithLength: 0x31,
} as const;

/** Bits in the type of a STREAM frame. */
export const StreamBit = {
  /** The stream ends with this frame. */
  fin: 0x01,
  /** A length field is present. */
  length: 0x02,
  /** An offset field is present. */
  offset: 0x04,
} as const;

/** QX_TRANSPORT_PARAMETERS frame. */
export const PARAMETERS_TYPE = 0x3f5153300d0a0d0an;

/** QX_PING frame that requests an answer. */
export const PING_TYPE = 0x348c67529ef8c7bdn;

/** QX_PING frame that answers. */
export const PONG_TYPE = 0x348c67529ef8c7ben;

/** STREAM frame. */
export interface StreamFrame {
  /** Discriminator. */
  readonly kind: "stream";
  /** Stream number. */
  readonly id: number;
  /**
   * Offset of the bytes in the stream; `NaN` in a frame without an offset, where the bytes follow
   * those received before.
   */
  readonly offset: number;
  /** Payload; a view of the record. */
  readonly data: Uint8Array;
  /** True if the stream ends behind the payload. */
  readonly isFin: boolean;
}

/** RESET_STREAM frame. */
export interface ResetFrame {
  /** Discriminator. */
  readonly kind: "reset";
  /** Stream number. */
  readonly id: number;
  /** Application error code. */
  readonly code: number;
  /** Total bytes of the stream; `undefined` in the framing without this field. */
  readonly finalSize: number | undefined;
}

/** CONNECTION_CLOSE frame. */
export interface CloseFrame {
  /** Discriminator. */
  readonly kind: "close";
  /** True if the application closed the connection, as opposed to a protocol violation. */
  readonly isApplication: boolean;
  /** Application close code, or QUIC error code. */
  readonly code: number;
  /** Reason in words. */
  readonly reason: string;
}

/** DATAGRAM frame. */
export interface DatagramFrame {
  /** Discriminator. */
  readonly kind: "datagram";
  /** Payload; a view of the record. */
  readonly data: Uint8Array;
  /** Bytes of the whole frame. */
  readonly frameSize: number;
}

/** Any frame but padding. */
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

const decoder = new TextDecoder();

/** Reader for the frames of one record. */
export class FrameReader {
  readonly #cursor: Cursor;

  /**
   * Creates a reader at the first frame.
   *
   * @param record The record, without a size field.
   */
  constructor(record: Uint8Array) {
    this.#cursor = new Cursor(record, QuicError.frameEncodingError);
  }

  /** Tells whether the whole record is read. */
  get isAtEnd(): boolean {
    return this.#cursor.left === 0;
  }

  /**
   * Reads the next frame; padding is skipped.
   *
   * @returns The frame; `undefined` at the end of the record.
   * @throws {QmuxError} If the bytes are no valid frame.
   */
  next(): QmuxFrame | undefined {
    const cursor = this.#cursor;
    const { bytes } = cursor;
    while (cursor.at < bytes.byteLength && bytes[cursor.at] === FrameType.padding) cursor.at++;
    // The receiver of the last frame may have transferred the memory of the record.
    if (cursor.left <= 0) return undefined;
    const first = bytes[cursor.at]!;
    if (first >= 0x40) return this.#own();
    cursor.at++;
    return (first & 0xf8) === FrameType.stream ? this.#stream(first) : this.#other(first);
  }

  #stream(type: number): StreamFrame {
    const cursor = this.#cursor;
    const id = cursor.varint();
    // QUIC defines an absent offset as 0. Older peers never send an offset: their wire neither
    // loses nor repeats bytes.
    const offset = (type & StreamBit.offset) === 0 ? NaN : cursor.varint();
    const length = (type & StreamBit.length) === 0 ? cursor.left : cursor.varint();
    const data = cursor.take(length);
    if (offset + length >= 2 ** 62) throw malformed("A stream cannot be that long");
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
    throw malformed(`There is no frame of type 0x${type.toString(16)}`);
  }

  #count(): number {
    const count = this.#cursor.exactVarint();
    if (count > MAX_STREAM_COUNT) throw malformed("There are at most 2^60 streams");
    return Number(count);
  }

  #close(isApplication: boolean): CloseFrame {
    const cursor = this.#cursor;
    const code = cursor.varint();
    if (!isApplication) cursor.varint(); // Type of the offending frame.
    const reason = decoder.decode(cursor.take(cursor.varint()));
    return { kind: "close", isApplication, code, reason };
  }

  /** Reads a frame of QMux itself; these types are longer than one byte. */
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
    throw malformed(`There is no frame of type 0x${type.toString(16)}`);
  }
}

/**
 * Reads all frames of a record.
 *
 * @param record The record, without a size field.
 * @returns Frames of the record.
 * @throws {QmuxError} If a frame cannot be decoded.
 */
export function decodeRecord(record: Uint8Array): QmuxFrame[] {
  const reader = new FrameReader(record);
  const frames: QmuxFrame[] = [];
  for (let frame; (frame = reader.next()) !== undefined;) frames.push(frame);
  return frames;
}

/** Derives the direction from a frame type: of each pair, the even type is bidirectional. */
function directionOf(type: number): StreamDirection {
  return (type & 1) === 0 ? "bidirectional" : "unidirectional";
}

function malformed(message: string): QmuxError {
  return new QmuxError(QuicError.frameEncodingError, message);
}

/**
 * Decodes the frame of a message. A STREAM frame has no offset field and follows the bytes received
 * before; its `offset` is `NaN`.
 *
 * @throws {QmuxError} If the frame cannot be decoded.
 */
export function decodeLegacyFrame(message: Uint8Array): QmuxFrame {
  const cursor = new Cursor(message, QuicError.frameEncodingError);
  const type = cursor.varint();
  const first = cursor.varint(); // Stream number, or the code of a close.
  switch (type) {
    case FrameType.stream:
    case FrameType.stream | StreamBit.fin: {
      const data = cursor.take(cursor.left);
      return { kind: "stream", id: first, offset: NaN, data, isFin: type !== FrameType.stream };
    }
    case FrameType.resetStream:
      return { kind: "reset", id: first, code: cursor.varint(), finalSize: undefined };
    case FrameType.stopSending:
      return { kind: "stop", id: first, code: cursor.varint() };
    case FrameType.connectionClose:
    case FrameType.applicationClose:
      return {
        kind: "close",
        isApplication: type === FrameType.applicationClose,
        code: first,
        reason: decoder.decode(cursor.take(cursor.left)),
      };
  }
  throw new QmuxError(
    QuicError.frameEncodingError,
    `There is no frame of type 0x${type.toString(16)}`,
  );
}
