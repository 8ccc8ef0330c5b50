/** Transport parameters of QMux (RFC 9000 section 18, draft-ietf-quic-qmux). */
import { encodeVarint } from "../quic/varint.ts";
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";

/** Parameters that an end announces before all other frames. Some of QUIC are forbidden in QMux. */
export interface TransportParameters {
  /** Idle timeout in milliseconds; 0 is none. */
  readonly maxIdleTimeoutMs: number;
  /** Bytes of all streams together that the other end may send at first. */
  readonly maxData: number;
  /** Bytes of a bidirectional stream opened by this end. */
  readonly maxStreamDataBidiLocal: number;
  /** Bytes of a bidirectional stream opened by the other end. */
  readonly maxStreamDataBidiRemote: number;
  /** Bytes of a unidirectional stream. */
  readonly maxStreamDataUni: number;
  /** Bidirectional streams that the other end may open at first. */
  readonly maxStreamsBidi: number;
  /** Unidirectional streams that the other end may open at first. */
  readonly maxStreamsUni: number;
  /** Largest DATAGRAM frame (RFC 9221); 0 is none. */
  readonly maxDatagramFrameSize: number;
  /** Largest record, without the size field. */
  readonly maxRecordSize: number;
}

/** Largest record of an end that does not announce `maxRecordSize`. */
export const DEFAULT_MAX_RECORD_SIZE = 16_382;

/** Largest valid number of streams in one direction (RFC 9000 section 4.6). */
export const MAX_STREAM_COUNT: number = 2 ** 60;

/** Parameters of an end that announces none. */
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

/** Parameter ids of RFC 9000 section 18.2, RFC 9221 and draft-ietf-quic-qmux. */
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

/** Parameters that count streams. */
const COUNTS: ReadonlySet<keyof TransportParameters> = new Set(["maxStreamsBidi", "maxStreamsUni"]);

/** QUIC parameters that have no meaning in QMux. */
const FORBIDDEN: ReadonlySet<bigint> = new Set(
  [0x00, 0x02, 0x03, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10].map(BigInt),
);

/**
 * Encodes parameters; default values are left out.
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
 * Decodes parameters; unknown ones are ignored.
 *
 * @param bytes The body of a QX_TRANSPORT_PARAMETERS frame.
 * @returns Announced values, with defaults for the rest.
 * @throws {QmuxError} If the parameters cannot be decoded or are not allowed.
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

function refused(id: bigint, why: string): QmuxError {
  return invalid(`Parameter 0x${id.toString(16)} ${why}`);
}

function invalid(message: string): QmuxError {
  return new QmuxError(QuicError.transportParameterError, message);
}
