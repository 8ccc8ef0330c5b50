/**
 * Check of the transport options of a client.
 *
 * @module
 */
import type { TransportName, TransportOptions } from "./options.ts";

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/** Transport options after the check, with defaults filled in. */
export interface CheckedTransports extends TransportOptions {
  /** The transports to try, each once, the preferred one first. */
  readonly transports: readonly TransportName[];
  /** True if the application chose the transports. */
  readonly isChosen: boolean;
  /** Head start of the preferred transport, in milliseconds. */
  readonly headStartMs: number;
}

/**
 * Checks transport options when a client is made, before the first connection.
 *
 * @param options See {@linkcode TransportOptions}.
 * @returns The options with defaults filled in.
 * @throws {TypeError} If `transports` is empty, or has an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function checkTransports(options: TransportOptions): CheckedTransports {
  const { headStartMs = 500 } = options;
  const transports = [...new Set(options.transports ?? TRANSPORTS)];
  if (transports.length === 0 || !transports.every((name) => TRANSPORTS.includes(name))) {
    throw new TypeError(
      `Cannot connect: transports must be some of ${TRANSPORTS}, received ${
        JSON.stringify(options.transports)
      }`,
    );
  }
  if (!(headStartMs >= 0)) {
    throw new RangeError(`Cannot connect: headStartMs must be from 0, received ${headStartMs}`);
  }
  return { ...options, transports, isChosen: options.transports !== undefined, headStartMs };
}
