/** Priorities of outgoing streams. */

/** Highest priority of QUIC for applications; the value above is for the heads of streams. */
const MAX_SEND_ORDER = 2 ** 31 - 2;
const MIN_SEND_ORDER = -(2 ** 31);

/** Converts to an integer like `long long` of Web IDL, within the range of numbers. */
export function toInteger(value: unknown): number {
  const whole = Math.trunc(Number(value));
  return Number.isFinite(whole) ? whole + 0 : 0;
}

/**
 * Clamps a priority to the range of QUIC.
 *
 * @param sendOrder Priority given by the application.
 * @returns The nearest valid priority.
 */
export function wireOrder(sendOrder: unknown): number {
  return Math.min(MAX_SEND_ORDER, Math.max(MIN_SEND_ORDER, toInteger(sendOrder)));
}
