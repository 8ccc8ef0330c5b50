/**
 * The order in which streams send.
 *
 * @module
 */

/** What QUIC takes; above it are the heads of streams. */
const MAX_SEND_ORDER = 2 ** 31 - 2;
const MIN_SEND_ORDER = -(2 ** 31);

/**
 * Web IDL's `long long`, as far as numbers go.
 *
 * @param value What was given.
 * @returns A whole number.
 */
export function toInteger(value: unknown): number {
  const whole = Math.trunc(Number(value));
  return Number.isFinite(whole) ? whole + 0 : 0;
}

/**
 * Fits a place in the order to what QUIC takes.
 *
 * @param sendOrder The place.
 * @returns The same, or the nearest there is.
 */
export function wireOrder(sendOrder: unknown): number {
  return Math.min(MAX_SEND_ORDER, Math.max(MIN_SEND_ORDER, toInteger(sendOrder)));
}
