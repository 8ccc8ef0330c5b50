/** Limits of a session, with defaults and checks. */

/** Limits of a session. */
export interface MoqLimits {
  /**
   * Subscriptions of the peer at once; one more ends the session with `tooManySubscribes`.
   *
   * @default {16384}
   */
  readonly maxSubscriptions?: number;
  /**
   * Other requests of the peer at once: announce interests, fetches, questions about tracks, and
   * streams whose type has not arrived yet. One more is refused with `internal`.
   *
   * @default {1024}
   */
  readonly maxRequests?: number;
  /**
   * The largest frame to read, in bytes.
   *
   * @default {16777216}
   */
  readonly maxFrameBytes?: number;
}

const DEFAULTS: Required<MoqLimits> = {
  maxSubscriptions: 16_384,
  maxRequests: 1_024,
  maxFrameBytes: 16_777_216,
};

/**
 * Fills in the defaults.
 *
 * @param limits The given limits.
 * @returns All limits.
 * @throws {RangeError} If a limit is not a positive integer.
 */
export function sessionLimits(limits: MoqLimits = {}): Required<MoqLimits> {
  const all = { ...DEFAULTS, ...limits };
  for (const [name, value] of Object.entries(all)) {
    if (Number.isInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot open session: ${name} must be a positive integer, received ${value}`,
    );
  }
  return all;
}

/**
 * Checks a share of the places of a relay.
 *
 * @param what The name of the share in the error.
 * @param share The share.
 * @throws {RangeError} If the share is not a number above 0 and up to 1.
 */
export function checkShare(what: string, share: unknown): void {
  if (typeof share === "number" && share > 0 && share <= 1) return;
  throw new RangeError(`Cannot ${what} must be above 0 and up to 1, received ${String(share)}`);
}
