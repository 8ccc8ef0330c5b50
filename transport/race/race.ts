/**
 * Choice of a client's transport: the preferred one has a head start, and the other one starts when
 * the preferred one fails or is late.
 *
 * @module
 */
import { race } from "./run.ts";
import { checkTransports } from "./transports.ts";
import type { RacingDialer, TransportOptions, TransportPlatform } from "./options.ts";

export { FIRST_REMEMBER_MS, LATE_LEG_MS, MAX_REMEMBERED, REMEMBER_MS } from "./run.ts";

/**
 * Makes the dialer of a client, which races two transports.
 *
 * - **Race:** the preferred transport starts first. The other one starts after the head start, or
 *   as soon as the preferred one fails. The first transport that opens wins.
 * - **Late:** if the other transport wins, the preferred one may take 3 s more, while the winning
 *   connection stays open. A late connection is closed, or handed to `onLate`. A lost packet
 *   therefore affects only one connection.
 * - **Memory:** if the preferred transport fails, does not open within these 3 s, or falls silent
 *   after opening, the other one is tried first for 30 s. Each failure in a row doubles that time,
 *   up to 10 minutes. A success clears the memory. Refusals and late connections are not
 *   remembered.
 *
 * @param platform The dialers of the platform.
 * @param options See {@linkcode TransportOptions}.
 * @returns The dialer; one for each client.
 * @throws {TypeError} If `transports` is empty, or has an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function raceTransports(
  platform: TransportPlatform,
  options: TransportOptions = {},
): RacingDialer {
  return race(platform, checkTransports(options));
}
