/**
 * Which transport a client takes: the preferred one with a head start, and the
 * other one beside it when that fails or is late.
 *
 * @module
 */
import { race } from "./run.ts";
import { checkTransports } from "./transports.ts";
import type { RacingDialer, TransportOptions, TransportPlatform } from "./options.ts";

export { FIRST_REMEMBER_MS, LATE_LEG_MS, MAX_REMEMBERED, REMEMBER_MS } from "./run.ts";

/**
 * Makes what a client dials with.
 *
 * - **Race:** the preferred transport starts, the other one after the head start, or as soon as the
 *   first failed. The first that is up wins.
 * - **Late:** the preferred one may take 3 s more where the other one won, while that holds. If it
 *   opens it is closed, or handed to `onLate`; so one lost packet costs no more than this connection.
 * - **Memory:** where the preferred one failed, did not open in these 3 s, or fell silent once it was
 *   open, the other one is tried first for 30 s, twice as long after each failure in a row, and 10
 *   minutes at most. A success forgets it, and refusals and late answers are not remembered.
 *
 * @param platform Dials.
 * @param options See {@linkcode TransportOptions}.
 * @returns The dialer; one for each client.
 * @throws {TypeError} If `transports` is empty, or one of them is none.
 * @throws {RangeError} If `headStartMs` is negative, or no number.
 */
export function raceTransports(
  platform: TransportPlatform,
  options: TransportOptions = {},
): RacingDialer {
  return race(platform, checkTransports(options));
}
