/**
 * The codes of closed connections, on transports that can carry any close code, and of aborted
 * streams.
 */
import type { ConnectionCloseInfo } from "./connection.ts";
import { checkCloseInfo, MAX_WEBTRANSPORT_REASON_BYTES } from "./close_info.ts";

/**
 * Checks the code and reason of a close, and fills in the defaults.
 *
 * @param maxCloseCode The highest code that the transport can carry.
 * @returns The code (0 by default), and the reason, truncated to 1024 bytes.
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
  // `checkCloseInfo` rejects a code that is not a number.
  const portable = isAllowed ? { ...info, closeCode: 0 } : info;
  return { ...checkCloseInfo(portable, MAX_WEBTRANSPORT_REASON_BYTES), closeCode };
}

/**
 * Checks that every transport, including a plain WebSocket, can carry a close code.
 *
 * @returns `true` for 0, and for 3000 to 4999.
 */
export function isPortableCloseCode(code: number): boolean {
  return code === 0 || code >= 3000 && code <= 4999;
}

/**
 * The prefix that Skein adds to the reason when it closes a QUIC connection with 0. A process that
 * exits with an uncaught error also closes its connections with 0, but without a reason.
 */
const CLOSE_MARK = "skein.close";

/**
 * Marks a close on a QUIC connection, so that the peer can distinguish a close with 0 from a crash.
 *
 * @returns The same close. If its code is 0, its reason starts with the mark.
 */
export function markClose({ closeCode = 0, reason = "" }: ConnectionCloseInfo): Required<
  ConnectionCloseInfo
> {
  if (closeCode !== 0) return { closeCode, reason };
  return { closeCode, reason: reason === "" ? CLOSE_MARK : `${CLOSE_MARK} ${reason}` };
}

/**
 * Reads the mark of a close with 0.
 *
 * @returns The reason without the mark, or `undefined` if there is no mark.
 */
export function unmarkReason(reason: string): string | undefined {
  if (reason === CLOSE_MARK) return "";
  const start = `${CLOSE_MARK} `;
  return reason.startsWith(start) ? reason.slice(start.length) : undefined;
}

/** The highest close code of QUIC, QMux and memory. A number can hold 53 of QUIC's 62 bits. */
export const MAX_QUIC_CLOSE_CODE: number = Number.MAX_SAFE_INTEGER;

/** The highest close code of WebTransport: the code is a 32-bit integer. */
export const MAX_WEBTRANSPORT_CLOSE_CODE: number = 2 ** 32 - 1;

/**
 * Reads the error code of an abort or cancel reason.
 *
 * @returns The `streamErrorCode` of the reason, or 0 if it is not an unsigned 32-bit integer.
 */
export function streamErrorCodeOf(reason: unknown): number {
  if (typeof reason !== "object" || reason === null) return 0;
  const { streamErrorCode } = reason as { streamErrorCode?: unknown };
  return typeof streamErrorCode === "number" && streamErrorCode >>> 0 === streamErrorCode
    ? streamErrorCode
    : 0;
}
