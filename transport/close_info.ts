/**
 * The rules for closing a connection, the same on every wire.
 *
 * @module
 */
import type { ConnectionCloseInfo } from "./connection.ts";

/** Longest close reason in bytes on WebSocket: a control frame's 125, less the code. */
export const MAX_WEBSOCKET_REASON_BYTES = 123;

/** Longest close reason in bytes on WebTransport. */
export const MAX_WEBTRANSPORT_REASON_BYTES = 1024;

const encoder = new TextEncoder();

/**
 * Checks how a connection is to be closed, and fills in what is left out.
 *
 * @param info Code and reason as the caller gave them.
 * @param maxReasonBytes Where the reason is cut, at a character boundary.
 * @returns The code (0 by default) and the reason that fits.
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
  const allowed = closeCode === 0 ||
    Number.isInteger(closeCode) && closeCode >= 3000 && closeCode <= 4999;
  if (!allowed) {
    throw new RangeError(
      `Cannot close connection: code must be 0 or 3000 to 4999, received ${closeCode}`,
    );
  }
  return { closeCode, reason: cutReason(reason, maxReasonBytes) };
}

/**
 * Cuts a text to a number of bytes in UTF-8, never inside a character.
 *
 * @param text The text; lone surrogates become U+FFFD.
 * @param maxBytes How many bytes it may take.
 * @returns The longest start of the text that fits.
 */
export function cutReason(text: string, maxBytes: number): string {
  const whole = text.toWellFormed();
  // Three bytes a UTF-16 unit at most: the common short reason is not encoded.
  if (whole.length * 3 <= maxBytes) return whole;
  const { read } = encoder.encodeInto(whole, new Uint8Array(maxBytes));
  return whole.slice(0, read);
}
