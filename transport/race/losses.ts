/** Memory of the transports that failed, by server. */
import { UnsupportedError } from "../../errors.ts";

/**
 * The time for which a failed transport is not tried first, in milliseconds; each failure in a row
 * doubles the time.
 */
export const FIRST_REMEMBER_MS = 30_000;

/** The longest time for which a failure is remembered, in milliseconds. */
export const REMEMBER_MS: number = 10 * 60_000;

/** The maximum number of servers with a remembered failure; beyond it, the oldest is forgotten. */
export const MAX_REMEMBERED = 64;

/** Failure of a transport of a server. */
export interface Loss {
  readonly error: unknown;
  /** The time from which the transport is tried first again, in milliseconds since the epoch. */
  readonly until: number;
  /** Failures in a row; 0 for a session that opened and later fell silent. */
  readonly failures: number;
}

/** Failures by server. */
export class Losses extends Map<string, Loss> {
  /**
   * Remembers a failure or a silence, but not a rejection, which shows that the network was fine.
   *
   * @param now Current time, in milliseconds since the epoch.
   * @param isSilence True for a session that opened and later fell silent.
   */
  remember(origin: string, now: number, error: unknown, isSilence = false): void {
    if ((error as { status?: number } | null)?.status || error instanceof UnsupportedError) return;
    const failures = isSilence ? 0 : (this.get(origin)?.failures ?? 0) + 1;
    const forMs = Math.min(FIRST_REMEMBER_MS * 2 ** ((failures || 1) - 1), REMEMBER_MS);
    this.delete(origin); // The newest is the last.
    this.set(origin, { error, failures, until: now + forMs });
    if (this.size > MAX_REMEMBERED) this.delete(this.keys().next().value!);
  }
}
