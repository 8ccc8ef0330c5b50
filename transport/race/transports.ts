/**
 * Which transports a client was told to take.
 *
 * @module
 */
import type { TransportName, TransportOptions } from "./options.ts";

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/** Options that make sense. */
export interface CheckedTransports extends TransportOptions {
  /** Those to try, each once, the preferred one first. */
  readonly transports: readonly TransportName[];
  /** Whether the application chose them. */
  readonly isChosen: boolean;
  /** How long the preferred one is tried alone, in milliseconds. */
  readonly headStartMs: number;
}

/**
 * Checks options when a client is made, not when it first connects.
 *
 * @param options See {@linkcode TransportOptions}.
 * @returns The same, complete.
 * @throws {TypeError} If `transports` is empty, or one of them is none.
 * @throws {RangeError} If `headStartMs` is negative, or no number.
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
