/**
 * Error codes of HTTP/3 (RFC 9114 section 8.1), QPACK (RFC 9204 section 6),
 * HTTP datagrams (RFC 9297) and WebTransport over HTTP/3.
 *
 * @module
 */
import { ProtocolError } from "../../errors.ts";

/** The codes with which HTTP/3 streams and connections end. */
export const H3Error = {
  /** Nothing went wrong. */
  noError: 0x100,
  /** The peer broke the protocol in a way that has no code of its own. */
  generalProtocolError: 0x101,
  /** This end failed. */
  internalError: 0x102,
  /** The peer opened a stream that it may not open. */
  streamCreationError: 0x103,
  /** A stream that the connection needs was closed. */
  closedCriticalStream: 0x104,
  /** A frame came where it may not come. */
  frameUnexpected: 0x105,
  /** A frame does not follow its layout. */
  frameError: 0x106,
  /** The peer asks for too much. */
  excessiveLoad: 0x107,
  /** A stream or push id was used wrongly. */
  idError: 0x108,
  /** The SETTINGS frame is wrong. */
  settingsError: 0x109,
  /** The control stream did not begin with SETTINGS. */
  missingSettings: 0x10a,
  /** The request was not processed at all. */
  requestRejected: 0x10b,
  /** The request, or its answer, is not wanted any more. */
  requestCancelled: 0x10c,
  /** The request ended before it was whole. */
  requestIncomplete: 0x10d,
  /** A message is malformed. */
  messageError: 0x10e,
  /** The connection behind a CONNECT request broke. */
  connectError: 0x10f,
  /** The request must be made over HTTP/1.1. */
  versionFallback: 0x110,
  /** A datagram, or its setting, is wrong. */
  datagramError: 0x33,
  /** A field section cannot be decoded. */
  qpackDecompressionFailed: 0x200,
  /** An instruction on QPACK's encoder stream is wrong. */
  qpackEncoderStreamError: 0x201,
  /** An instruction on QPACK's decoder stream is wrong. */
  qpackDecoderStreamError: 0x202,
  /** A stream came before its session, and there was no room to hold it. */
  bufferedStreamRejected: 0x3994_bd84,
  /** The session of the stream is closed. */
  sessionGone: 0x170d_7b68,
  /** The peer went past a limit of WebTransport's flow control. */
  flowControlError: 0x045d_4487,
  /** The server chose a subprotocol that was not offered. */
  alpnError: 0x0817_b3dd,
  /** The peer lacks a setting or a transport parameter that WebTransport needs. */
  requirementsNotMet: 0x212c_0d48,
} as const;

/** The peer broke HTTP/3 or WebTransport; carries the code to close with. */
export class H3ProtocolError extends ProtocolError {
  /** One of {@linkcode H3Error}. */
  readonly h3Code: number;

  /**
   * Creates the error.
   *
   * @param h3Code One of {@linkcode H3Error}.
   * @param message What was expected, and what came.
   * @param options Standard error options.
   */
  constructor(h3Code: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "H3ProtocolError";
    this.h3Code = h3Code;
  }
}

/**
 * Codes of faults that end a request and not its connection: a malformed message, one that is not
 * whole, and one that is too large (RFC 9114 sections 4.1, 4.1.2 and 4.2.2).
 */
export const STREAM_ERRORS: ReadonlySet<number> = new Set([
  H3Error.messageError,
  H3Error.requestIncomplete,
  H3Error.excessiveLoad,
]);

/** The HTTP/3 code of the application's stream code 0. */
const FIRST_STREAM_CODE = 0x52e4_a40f_a8db;

/** The HTTP/3 code of the application's stream code 2^32 - 1. */
const LAST_STREAM_CODE = 0x52e5_ac98_3162;

/** Codes 0x1f * n + 0x21 are reserved, so one in 31 is left out. */
const RESERVED_EVERY = 0x1f;
const RESERVED_OFFSET = 0x21;

/**
 * Maps an application's stream code to HTTP/3, as WebTransport over HTTP/3 does.
 *
 * @param code The application's code.
 * @returns The code for RESET_STREAM and STOP_SENDING.
 * @throws {RangeError} If the code is not an integer from 0 to 2^32 - 1.
 *
 * @example Usage
 * ```ts
 * import { fromHttp3StreamCode, toHttp3StreamCode } from "./error_codes.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(toHttp3StreamCode(5), 0x52e4a40fa8e0);
 * assertEquals(fromHttp3StreamCode(0x52e4a40fa8e0), 5);
 * ```
 */
export function toHttp3StreamCode(code: number): number {
  if (!Number.isInteger(code) || code < 0 || code > 0xffff_ffff) {
    throw new RangeError(
      `Cannot encode stream code: it must be an integer from 0 to ${0xffff_ffff}, received ${code}`,
    );
  }
  return FIRST_STREAM_CODE + code + Math.floor(code / (RESERVED_EVERY - 1));
}

/**
 * Maps an HTTP/3 code back to the application's stream code.
 *
 * @param code The code of a RESET_STREAM or STOP_SENDING.
 * @returns The application's code; `undefined` if the code is none of an application.
 */
export function fromHttp3StreamCode(code: number): number | undefined {
  if (!Number.isInteger(code) || code < FIRST_STREAM_CODE || code > LAST_STREAM_CODE) {
    return undefined;
  }
  if ((code - RESERVED_OFFSET) % RESERVED_EVERY === 0) return undefined;
  const shifted = code - FIRST_STREAM_CODE;
  return shifted - Math.floor(shifted / RESERVED_EVERY);
}

/**
 * Tells codes of HTTP/3, QPACK and WebTransport, which are no codes of sessions.
 *
 * @param code A code of a close of a connection.
 * @returns Whether it is one of those.
 */
export function isHttp3Code(code: number): boolean {
  return code === H3Error.datagramError || code >= 0x100 && code <= 0x1ff ||
    code >= 0x200 && code <= 0x2ff || Object.values<number>(H3Error).includes(code);
}
