/**
 * Frames of QMux: those of RFC 9000 section 19 and RFC 9221 that it has, and
 * its own (draft-ietf-quic-qmux).
 *
 * @module
 */
import type { StreamDirection } from "../connection.ts";
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import {
  decodeTransportParameters,
  MAX_STREAM_COUNT,
  type TransportParameters,
} from "./transport_parameters.ts";

/** Types of frames that fit one byte. */
export const FrameType = {
  /** Nothing. */
  padding: 0x00,
  /** A stream was cut by who writes it. */
  resetStream: 0x04,
  /** Who reads a stream wants no more of it. */
  stopSending: 0x05,
  /** Bytes of a stream; the low bits say what the frame has. */
  stream: 0x08,
  /** Bytes of all streams that may be sent. */
  maxData: 0x10,
  /** Bytes of one stream that may be sent. */
  maxStreamData: 0x11,
  /** Bidirectional streams that may be opened. */
  maxStreamsBidi: 0x12,
  /** Unidirectional streams that may be opened. */
  maxStreamsUni: 0x13,
  /** The bytes of all streams are used up. */
  dataBlocked: 0x14,
  /** The bytes of one stream are used up. */
  streamDataBlocked: 0x15,
  /** The bidirectional streams are used up. */
  streamsBlockedBidi: 0x16,
  /** The unidirectional streams are used up. */
  streamsBlockedUni: 0x17,
  /** The connection ends by a fault. */
  connectionClose: 0x1c,
  /** The connection ends because an application says so. */
  applicationClose: 0x1d,
  /** A datagram up to the end of the record. */
  datagram: 0x30,
  /** A datagram with its length. */
  datagramWithLength: 0x31,
} as const;

/** Bits of a STREAM frame's type. */
export const StreamBit = {
  /** It is the end of the stream. */
  fin: 0x01,
  /** It says how long it is. */
  length: 0x02,
  /** It says where it is in the stream. */
  offset: 0x04,
} as const;

/** QX_TRANSPORT_PARAMETERS. */
export const PARAMETERS_TYPE = 0x3f5153300d0a0d0an;

/** QX_PING that asks for an answer. */
export const PING_TYPE = 0x348c67529ef8c7bdn;

/** QX_PING that is the answer. */
export const PONG_TYPE = 0x348c67529ef8c7ben;

/** Bytes of a stream. */
export interface StreamFrame {
  /** Tells the kinds of frames apart. */
  readonly kind: "stream";
  /** The stream. */
  readonly id: number;
  /** Where its bytes are in the stream; `NaN` if it does not say, and they follow on what came before. */
  readonly offset: number;
  /** Its bytes; a part of the record. */
  readonly data: Uint8Array;
  /** Whether the stream ends behind them. */
  readonly isFin: boolean;
}

/** A stream that was cut by who writes it. */
export interface ResetFrame {
  /** Tells the kinds of frames apart. */
  readonly kind: "reset";
  /** The stream. */
  readonly id: number;
  /** The application's code. */
  readonly code: number;
  /** Bytes of the stream up to its end; `undefined` where the framing has none. */
  readonly finalSize: number | undefined;
}

/** The connection's end. */
export interface CloseFrame {
  /** Tells the kinds of frames apart. */
  readonly kind: "close";
  /** Whether an application says so, and it is no fault. */
  readonly isApplication: boolean;
  /** The application's code, or QUIC's. */
  readonly code: number;
  /** In words. */
  readonly reason: string;
}

/** A datagram. */
export interface DatagramFrame {
  /** Tells the kinds of frames apart. */
  readonly kind: "datagram";
  /** Its bytes; a part of the record. */
  readonly data: Uint8Array;
  /** Bytes of the whole frame. */
  readonly frameSize: number;
}

/** Any frame; padding is none. */
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

/** Reads the frames of one record, one after the other. */
export class FrameReader {
  readonly #cursor: Cursor;

  /**
   * Begins at the first frame.
   *
   * @param record The record, without a size field.
   */
  constructor(record: Uint8Array) {
    this.#cursor = new Cursor(record, QuicError.frameEncodingError);
  }

  /** Whether nothing is left of the record. */
  get isAtEnd(): boolean {
    return this.#cursor.left === 0;
  }

  /**
   * Reads the next frame; padding is skipped.
   *
   * @returns The frame; `undefined` at the end of the record.
   * @throws {QmuxError} If there is none that can be read.
   */
  next(): QmuxFrame | undefined {
    const cursor = this.#cursor;
    const { bytes } = cursor;
    while (cursor.at < bytes.byteLength && bytes[cursor.at] === FrameType.padding) cursor.at++;
    // Whoever got the last frame may have handed the memory of the record on.
    if (cursor.left <= 0) return undefined;
    const first = bytes[cursor.at]!;
    if (first >= 0x40) return this.#own();
    cursor.at++;
    return (first & 0xf8) === FrameType.stream ? this.#stream(first) : this.#other(first);
  }

  #stream(type: number): StreamFrame {
    const cursor = this.#cursor;
    const id = cursor.varint();
    // QUIC would mean 0. Older peers never say it: nothing is lost or comes twice on such a wire.
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
    if (!isApplication) cursor.varint(); // The type of the frame at fault.
    const reason = decoder.decode(cursor.take(cursor.varint()));
    return { kind: "close", isApplication, code, reason };
  }

  /** A frame of QMux itself, whose types are long. */
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
 * @returns Its frames.
 * @throws {QmuxError} If it cannot be read.
 */
export function decodeRecord(record: Uint8Array): QmuxFrame[] {
  const reader = new FrameReader(record);
  const frames: QmuxFrame[] = [];
  for (let frame; (frame = reader.next()) !== undefined;) frames.push(frame);
  return frames;
}

/** All types of frames of streams in pairs: the even one is of bidirectional streams. */
function directionOf(type: number): StreamDirection {
  return (type & 1) === 0 ? "bidirectional" : "unidirectional";
}

function malformed(message: string): QmuxError {
  return new QmuxError(QuicError.frameEncodingError, message);
}
