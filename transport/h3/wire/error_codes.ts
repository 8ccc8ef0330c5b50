/** The error codes of HTTP/3, QPACK, HTTP datagrams and WebTransport over HTTP/3. */
import { ProtocolError } from "../../../errors.ts";
import type { ConnectionCloseInfo } from "../../connection.ts";
import { MAX_WEBTRANSPORT_CLOSE_CODE, unmarkReason } from "../../wire_close.ts";

/**
 * The codes of RFC 9114 section 8.1, RFC 9204 section 6, RFC 9297, and WebTransport over HTTP/3.
 */
export const H3Error = {
  /** The connection or stream ended without an error. */
  noError: 0x100,
  /** A protocol violation that has no specific code. */
  generalProtocolError: 0x101,
  /** An internal failure of the sending side. */
  internalError: 0x102,
  /** A stream of a type that the peer may not open. */
  streamCreationError: 0x103,
  /** A stream that the connection needs was closed. */
  closedCriticalStream: 0x104,
  /** A frame in an invalid place. */
  frameUnexpected: 0x105,
  /** A frame with an invalid layout. */
  frameError: 0x106,
  /** The peer caused too much load. */
  excessiveLoad: 0x107,
  /** A stream ID or push ID was misused. */
  idError: 0x108,
  /** An invalid SETTINGS frame. */
  settingsError: 0x109,
  /** A control stream that does not start with SETTINGS. */
  missingSettings: 0x10a,
  /** A request that was rejected without being processed. */
  requestRejected: 0x10b,
  /** A request or response that is no longer needed. */
  requestCancelled: 0x10c,
  /** A request whose stream ended early. */
  requestIncomplete: 0x10d,
  /** A malformed message. */
  messageError: 0x10e,
  /** The connection of a CONNECT request broke. */
  connectError: 0x10f,
  /** A request that must be made over HTTP/1.1. */
  versionFallback: 0x110,
  /** An invalid datagram, or an invalid value of the setting for datagrams. */
  datagramError: 0x33,
  /** A field section that cannot be decoded. */
  qpackDecompressionFailed: 0x200,
  /** An invalid instruction on the QPACK encoder stream. */
  qpackEncoderStreamError: 0x201,
  /** An invalid instruction on the QPACK decoder stream. */
  qpackDecoderStreamError: 0x202,
  /** A stream that arrived before its session, when the buffer was full. */
  bufferedStreamRejected: 0x3994_bd84,
  /** A stream of a closed session. */
  sessionGone: 0x170d_7b68,
  /** A violation of WebTransport's flow control. */
  flowControlError: 0x045d_4487,
  /** The server selected a subprotocol that was not offered. */
  alpnError: 0x0817_b3dd,
  /** A setting or transport parameter that WebTransport needs is missing. */
  requirementsNotMet: 0x212c_0d48,
} as const;

/** A violation of HTTP/3 or WebTransport by the peer, with the code for the close. */
export class H3ProtocolError extends ProtocolError {
  /** One of {@linkcode H3Error}. */
  readonly h3Code: number;

  /**
   * @param h3Code One of {@linkcode H3Error}.
   * @param message What was expected, and what was received.
   */
  constructor(h3Code: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "H3ProtocolError";
    this.h3Code = h3Code;
  }
}

/**
 * The codes that end a request but not the connection. They stand for a malformed, an incomplete,
 * an oversized and a rejected message (RFC 9114 sections 4.1, 4.1.1, 4.1.2 and 4.2.2).
 */
export const STREAM_ERRORS: ReadonlySet<number> = new Set([
  H3Error.messageError,
  H3Error.requestIncomplete,
  H3Error.excessiveLoad,
  H3Error.requestRejected,
]);

/** The HTTP/3 code for the application's stream code 0. */
const FIRST_STREAM_CODE = 0x52e4_a40f_a8db;

/** The HTTP/3 code for the application's stream code 2^32 - 1. */
const LAST_STREAM_CODE = 0x52e5_ac98_3162;

/** The distance between reserved codes, which are 0x1f * n + 0x21. The mapping skips them. */
const RESERVED_EVERY = 0x1f;
const RESERVED_OFFSET = 0x21;

/**
 * Maps an HTTP/3 code to an application's stream code, as WebTransport over HTTP/3 specifies. The
 * opposite mapping is up to the runtime, but Deno does not send application codes.
 *
 * @returns The application's code; `undefined` for a code outside the mapped range.
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
 * Reads the close of a session from a CONNECTION_CLOSE, for peers that close the connection instead
 * of the session. Two such peers are quiche, which maps the code like a stream code, and Deno's own
 * WebTransport, which sends it unchanged.
 *
 * @returns The code and reason of the session's close, or `undefined` if the connection was lost.
 * The connection counts as lost if the code is an HTTP/3 code, is longer than 32 bits, or is 0
 * without Skein's mark: a process that exits with an uncaught error closes its connections with 0.
 *
 * @example Usage
 * ```ts
 * import { H3Error, sessionCloseOf } from "./error_codes.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const reason = "bye";
 * const close = { closeCode: 4010, reason };
 * assertEquals(sessionCloseOf(close), close);
 * assertEquals(sessionCloseOf({ closeCode: 0x52e4a40fb90a, reason }), close);
 * assertEquals(sessionCloseOf({ closeCode: H3Error.noError, reason }), undefined);
 * ```
 */
export function sessionCloseOf(
  { closeCode, reason }: Required<ConnectionCloseInfo>,
): Required<ConnectionCloseInfo> | undefined {
  const mapped = fromHttp3StreamCode(closeCode);
  if (mapped !== undefined) return { closeCode: mapped, reason };
  if (closeCode > MAX_WEBTRANSPORT_CLOSE_CODE || isHttp3Code(closeCode)) return undefined;
  if (closeCode !== 0) return { closeCode, reason };
  const unmarked = unmarkReason(reason);
  return unmarked === undefined ? undefined : { closeCode, reason: unmarked };
}

/**
 * Tells whether a close code belongs to HTTP/3, QPACK or WebTransport, and therefore not to a
 * session.
 */
function isHttp3Code(code: number): boolean {
  return code === H3Error.datagramError || code >= 0x100 && code <= 0x1ff ||
    code >= 0x200 && code <= 0x2ff || Object.values<number>(H3Error).includes(code);
}
