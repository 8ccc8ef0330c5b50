/**
 * Transport parameters of QMux: RFC 9000 section 18, less those that
 * draft-ietf-quic-qmux forbids, with its own.
 *
 * @module
 */
import { encodeVarint } from "../quic/varint.ts";
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";

/** What an end says about itself before anything else. */
export interface TransportParameters {
  /** Closes after so much silence, in milliseconds; 0 is never. */
  readonly maxIdleTimeoutMs: number;
  /** Bytes of all streams together that the other end may send at first. */
  readonly maxData: number;
  /** Bytes of a bidirectional stream that this end opens. */
  readonly maxStreamDataBidiLocal: number;
  /** Bytes of a bidirectional stream that the other end opens. */
  readonly maxStreamDataBidiRemote: number;
  /** Bytes of a unidirectional stream. */
  readonly maxStreamDataUni: number;
  /** Bidirectional streams that the other end may open at first. */
  readonly maxStreamsBidi: number;
  /** Unidirectional streams that the other end may open at first. */
  readonly maxStreamsUni: number;
  /** Largest DATAGRAM frame, RFC 9221; 0 is none. */
  readonly maxDatagramFrameSize: number;
  /** Largest record, without its size field. */
  readonly maxRecordSize: number;
}

/** What holds for an end that does not say how large records may be. */
export const DEFAULT_MAX_RECORD_SIZE = 16_382;

/** Most streams of a direction that can be counted, RFC 9000 section 4.6. */
export const MAX_STREAM_COUNT: number = 2 ** 60;

/** What holds for an end that says nothing. */
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

/** RFC 9000 section 18.2, and RFC 9221. */
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

/** Those that count streams. */
const COUNTS: ReadonlySet<keyof TransportParameters> = new Set(["maxStreamsBidi", "maxStreamsUni"]);

/** Those of QUIC that have no meaning here. */
const FORBIDDEN: ReadonlySet<bigint> = new Set(
  [0x00, 0x02, 0x03, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10].map(BigInt),
);

/**
 * Encodes parameters; those that have their default value are left out.
 *
 * @param parameters What to say.
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
 * Decodes parameters. Unknown ones are ignored.
 *
 * @param bytes The body of a QX_TRANSPORT_PARAMETERS frame.
 * @returns What was said, and the defaults of the rest.
 * @throws {QmuxError} If they cannot be read, or are not allowed.
 */
export function decodeTransportParameters(bytes: Uint8Array): TransportParameters {
  const parameters: { -readonly [Name in keyof TransportParameters]: number } = {
    ...DEFAULT_PARAMETERS,
  };
  const seen = new Set<bigint>();
  const cursor = new Cursor(bytes, QuicError.transportParameterError);
  while (cursor.left > 0) {
    const id = cursor.exactVarint();
    const value = new Cursor(cursor.take(cursor.varint()), QuicError.transportParameterError);
    const name = IDS.get(id);
    if (FORBIDDEN.has(id)) throw refused(id, "is not allowed in QMux");
    if (name === undefined) continue;
    if (seen.has(id)) throw refused(id, "came twice");
    seen.add(id);
    const number = value.exactVarint();
    if (value.left > 0) throw refused(id, "is longer than its number");
    if (number > MAX_STREAM_COUNT && COUNTS.has(name)) throw refused(id, "is above 2^60");
    parameters[name] = Number(number);
  }
  if (parameters.maxRecordSize < DEFAULT_MAX_RECORD_SIZE) {
    throw tooWrong(`maxRecordSize is below ${DEFAULT_MAX_RECORD_SIZE}`);
  }
  return parameters;
}

function encodeId(id: bigint): Uint8Array {
  if (id <= BigInt(Number.MAX_SAFE_INTEGER)) return encodeVarint(Number(id));
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, id | 0xc000_0000_0000_0000n);
  return bytes;
}

function refused(id: bigint, why: string): QmuxError {
  return tooWrong(`Parameter 0x${id.toString(16)} ${why}`);
}

function tooWrong(message: string): QmuxError {
  return new QmuxError(QuicError.transportParameterError, message);
}
