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

/**
 * The time within which a silence counts as another failure after the transport has opened, or
 * after the silence of another WebSocket, in milliseconds. Some networks let a connection open and
 * then drop everything that follows.
 */
export const SILENCES_MS = 120_000;

/** The failure of one of a server's transports. */
export interface RaceLoss {
  readonly error: unknown;
  /** The time from which the transport is tried first again, in milliseconds since the epoch. */
  readonly until: number;
  /** The number of failures in a row, or 0 after a single silence. */
  readonly failures: number;
  /** The time at which the transport opened again, in milliseconds since the epoch. */
  readonly openedAt?: number | undefined;
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
    const { failures: before = 0, openedAt } = this.get(origin) ?? {};
    const inRow = openedAt === undefined ? before : 0;
    const failures = !isSilence ? inRow + 1 : this.isBrief(origin, now) ? (before || 1) + 1 : 0;
    const forMs = Math.min(FIRST_REMEMBER_MS * 2 ** ((failures || 1) - 1), REMEMBER_MS);
    this.delete(origin); // The newest is the last.
    this.set(origin, { error, failures, until: now + forMs });
    if (this.size > MAX_REMEMBERED) this.delete(this.keys().next().value!);
  }

  /** Forgets a failure, unless the transport soon falls silent. */
  opened(origin: string, now: number): void {
    const loss = this.get(origin);
    if (loss) this.set(origin, { ...loss, until: 0, openedAt: now });
  }

  /** Returns true if the transport has opened after a failure, but too recently to be proven. */
  isBrief(origin: string, now: number): boolean {
    return now - (this.get(origin)?.openedAt ?? -Infinity) < SILENCES_MS;
  }

  /** Returns the failure because of which the transport is not tried first. */
  recent(origin: string, now: number): RaceLoss | undefined {
    const loss = this.get(origin);
    // Setting the clock back must not lengthen the time.
    return loss && loss.until > now && loss.until <= now + REMEMBER_MS ? loss : undefined;
  }
}
