/** Rules for closing a connection, on each wire. */
import type { ConnectionCloseInfo } from "./connection.ts";

/** Longest close reason on WebSocket, in bytes: the 125 of a control frame minus the code. */
export const MAX_WEBSOCKET_REASON_BYTES = 123;

/** Longest close reason on WebTransport, in bytes. */
export const MAX_WEBTRANSPORT_REASON_BYTES = 1024;

/** Highest close code of WebTransport, an integer of 32 bits. */
export const MAX_WEBTRANSPORT_CLOSE_CODE: number = 2 ** 32 - 1;

/** Highest close code of QUIC, QMux and memory: a number holds 53 of QUIC's 62 bits. */
export const MAX_QUIC_CLOSE_CODE: number = Number.MAX_SAFE_INTEGER;
const encoder = new TextEncoder();

/**
 * Checks code and reason of a close, and fills in the defaults.
 *
 * @param info Code and reason from the caller.
 * @param maxReasonBytes Length in bytes to cut the reason to, at a character boundary.
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
 * Checks code and reason of a close, and fills in the defaults.
 *
 * @param info Code and reason from the caller.
 * @param maxCloseCode Highest code that the wire can carry.
 * @returns The code (0 by default) and the reason, cut to 1024 bytes.
 * @throws {TypeError} If the code is not a number or the reason is not a string.
 * @throws {RangeError} If the code is not an integer from 0 to `maxCloseCode`.
 */
export function checkWireClose(
  info: ConnectionCloseInfo = {},
  maxCloseCode: number,
): Required<ConnectionCloseInfo> {
  const { closeCode = 0 } = info;
  const isAllowed = Number.isInteger(closeCode) && closeCode >= 0 && closeCode <= maxCloseCode;
  if (!isAllowed && typeof closeCode === "number") {
    const rule = `code must be from 0 to ${maxCloseCode}`;
    throw new RangeError(`Cannot close connection: ${rule}, received ${closeCode}`);
  }
  // `checkCloseInfo` refuses a code that is not a number.
  const portable = isAllowed ? { ...info, closeCode: 0 } : info;
  return { ...checkCloseInfo(portable, MAX_WEBTRANSPORT_REASON_BYTES), closeCode };
}

/**
 * Checks that every wire, including a plain WebSocket, can carry a close code.
 *
 * @param code Close code.
 * @returns `true` for 0, and for 3000 to 4999.
 */
export function isPortableCloseCode(code: number): boolean {
  return code === 0 || code >= 3000 && code <= 4999;
}

/**
 * Cuts a text to a number of bytes in UTF-8, never inside a character.
 *
 * @param text Text to cut; lone surrogates become U+FFFD.
 * @param maxBytes Most bytes of the result.
 * @returns The longest prefix that fits.
 */
export function cutReason(text: string, maxBytes: number): string {
  const whole = text.toWellFormed();
  // A UTF-16 unit takes at most three bytes: the common short reason needs no encoding.
  if (whole.length * 3 <= maxBytes) return whole;
  const { read } = encoder.encodeInto(whole, new Uint8Array(maxBytes));
  return whole.slice(0, read);
}
