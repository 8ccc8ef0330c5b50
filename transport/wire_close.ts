/**
 * The rules for closing on wires that carry any code.
 *
 * @module
 */
import { checkCloseInfo, MAX_WEBTRANSPORT_REASON_BYTES } from "./close_info.ts";
import type { ConnectionCloseInfo } from "./connection.ts";

/** The highest code of WebTransport, where it has 32 bits. */
export const MAX_WEBTRANSPORT_CLOSE_CODE: number = 2 ** 32 - 1;

/** The highest code of QUIC, QMux and memory: of 62 bits a number holds 53. */
export const MAX_QUIC_CLOSE_CODE: number = Number.MAX_SAFE_INTEGER;

/**
 * Checks how a connection is to be closed, and fills in what is left out.
 *
 * @param info Code and reason as the caller gave them.
 * @param maxCloseCode The highest code that the wire can carry.
 * @returns The code (0 by default) and the reason, cut to 1024 bytes.
 * @throws {TypeError} If the code is not a number or the reason is not a string.
 * @throws {RangeError} If the code is not an integer from 0 to the highest.
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
  // What is no number is refused there.
  const portable = isAllowed ? { ...info, closeCode: 0 } : info;
  return { ...checkCloseInfo(portable, MAX_WEBTRANSPORT_REASON_BYTES), closeCode };
}

/**
 * Tells whether every wire can carry a close code, a plain WebSocket too.
 *
 * @param code The code.
 * @returns Whether it is 0, or from 3000 to 4999.
 */
export function isPortableCloseCode(code: number): boolean {
  return code === 0 || code >= 3000 && code <= 4999;
}
