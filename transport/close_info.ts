/** Rules for closing a connection, on each transport. */
import { CloseCode, type CloseInfo } from "../errors.ts";
import type { ConnectionCloseInfo } from "./connection.ts";

/** The longest close reason on WebSocket, in bytes: the 125 of a control frame minus the code. */
export const MAX_WEBSOCKET_REASON_BYTES = 123;

/** The longest close reason on WebTransport, in bytes. */
export const MAX_WEBTRANSPORT_REASON_BYTES = 1024;

const encoder = new TextEncoder();

/**
 * Checks code and reason of a close, and fills in the defaults.
 *
 * @param maxReasonBytes The maximum length of the reason in bytes; it is cut at a character
 * boundary.
 * @returns The code (0 by default) and the reason, cut to fit.
 * @throws {TypeError} If the code is not a number or the reason is not a string.
 * @throws {RangeError} If the code is neither 0 nor an integer from 3000 to 4999.
 */
export function checkCloseInfo(
  info: ConnectionCloseInfo = {},
  maxReasonBytes: number = MAX_WEBSOCKET_REASON_BYTES,
): Required<ConnectionCloseInfo> {
  const { closeCode = 0, reason = "" } = info;
  if (typeof closeCode !== "number") {
    throw new TypeError(
      `Cannot close connection: code must be a number, received ${typeof closeCode}`,
    );
  }
  if (typeof reason !== "string") {
    throw new TypeError(
      `Cannot close connection: reason must be a string, received ${typeof reason}`,
    );
  }
  if (!isSendable(closeCode)) {
    throw new RangeError(
      `Cannot close connection: code must be 0 or 3000 to 4999, received ${closeCode}`,
    );
  }
  return { closeCode, reason: cutReason(reason, maxReasonBytes) };
}

/** The close code of a WebSocket for a message that is too big (RFC 6455 section 7.4.1). */
const WEBSOCKET_TOO_BIG = 1009;

/**
 * Tells if the peer, or a proxy in between, closed a connection because a message was too large.
 */
export function isForSize({ code, by }: Partial<CloseInfo> = {}): boolean {
  return by === "remote" && (code === CloseCode.tooLarge || code === WEBSOCKET_TOO_BIG);
}

/** Tells if an end may send a close code. */
export function isSendable(code: number): boolean {
  return code === 0 || Number.isInteger(code) && code >= 3000 && code <= 4999;
}

/**
 * Cuts a text to a number of bytes in UTF-8, never inside a character.
 *
 * @param text The text to cut; lone surrogates become U+FFFD.
 * @returns The longest prefix that fits.
 */
export function cutReason(text: string, maxBytes: number): string {
  const whole = text.toWellFormed();
  // A UTF-16 unit needs at most three bytes, so the common short reason needs no encoding.
  if (whole.length * 3 <= maxBytes) return whole;
  const { read } = encoder.encodeInto(whole, new Uint8Array(maxBytes));
  return whole.slice(0, read);
}
