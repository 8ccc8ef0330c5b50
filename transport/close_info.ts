/** The rules for closing a connection, for each transport. */
import { CloseCode, type CloseInfo } from "../errors.ts";
import type { ConnectionCloseInfo } from "./connection.ts";

/**
 * The longest close reason on WebSocket, in bytes: a control frame has room for 125 bytes, and the
 * code uses two of them.
 */
export const MAX_WEBSOCKET_REASON_BYTES = 123;

/** The longest close reason on WebTransport, in bytes. */
export const MAX_WEBTRANSPORT_REASON_BYTES = 1024;

/**
 * Checks the code and reason of a close, and fills in the defaults.
 *
 * @param maxReasonBytes The maximum length of the reason in bytes. A longer reason is cut at a
 * character boundary.
 * @returns The code (0 by default), and the reason, truncated if it is too long.
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
  const checked = { closeCode, reason: cutReason(reason, maxReasonBytes) };
  own.add(checked);
  return checked;
}

/** The closes of this side, which a connection also reports as `closed`. */
const own = new WeakSet<ConnectionCloseInfo>();

/**
 * Returns whether `closed` of a connection reports a close of this side. A transport closes a
 * connection by itself, for example after a message that is too large.
 */
export function isOwnClose(info: ConnectionCloseInfo): boolean {
  return own.has(info);
}

/** The close code of a WebSocket for a message that is too big (RFC 6455 section 7.4.1). */
const WEBSOCKET_TOO_BIG = 1009;

/**
 * Returns whether the peer, or a proxy in between, closed a connection because a message was too
 * large.
 */
export function isForSize({ code, by }: Partial<CloseInfo> = {}): boolean {
  return by === "remote" && (code === CloseCode.tooLarge || code === WEBSOCKET_TOO_BIG);
}

/** Returns whether an application may send a close code. */
export function isSendable(code: number): boolean {
  return code === 0 || Number.isInteger(code) && code >= 3000 && code <= 4999;
}

/**
 * Truncates a text to a number of bytes in UTF-8, without splitting a character.
 *
 * @param text The text to truncate. Lone surrogates become U+FFFD.
 * @returns The longest prefix that fits.
 */
export function cutReason(text: string, maxBytes: number): string {
  const whole = text.toWellFormed();
  // A UTF-16 unit needs at most three bytes, so a short reason, which is the common case, need not
  // be encoded.
  if (whole.length * 3 <= maxBytes) return whole;
  const { read } = new TextEncoder().encodeInto(whole, new Uint8Array(maxBytes));
  return whole.slice(0, read);
}
