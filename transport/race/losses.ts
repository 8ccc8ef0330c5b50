/** Remembers which transports failed, by server. */
import { UnsupportedError } from "../../errors.ts";

/**
 * The time for which a failed transport is not tried first, in milliseconds. Each failure in a row
 * doubles the time.
 */
export const FIRST_REMEMBER_MS = 30_000;

/** The longest time for which a failure is remembered, in milliseconds. */
export const REMEMBER_MS: number = 10 * 60_000;

/**
 * The maximum number of servers with a remembered failure. If there are more, the oldest is
 * forgotten.
 */
export const MAX_REMEMBERED = 64;

/** The failure of one of a server's transports. */
export interface RaceLoss {
  readonly error: unknown;
  /** The time from which the transport is tried first again, in milliseconds since the epoch. */
  readonly until: number;
  /** The number of failures in a row, or 0 for a session that opened and later fell silent. */
  readonly failures: number;
}

/** The failures by server. */
export class Losses extends Map<string, RaceLoss> {
  /**
   * Remembers a failure or a silence. A rejection is not remembered, because it shows that the
   * network was fine.
   *
   * @param now The current time, in milliseconds since the epoch.
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

  /** Returns the failure because of which the transport is not tried first. */
  recent(origin: string, now: number): RaceLoss | undefined {
    const loss = this.get(origin);
    // Setting the clock back must not lengthen the time.
    return loss && loss.until > now && loss.until <= now + REMEMBER_MS ? loss : undefined;
  }
}
