/** Failures that a client retries, and their delays. */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import type { BackoffOptions } from "../../base/backoff.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";

/** Delays between attempts, and limits after which the client stops. */
export interface MoqRetryOptions extends BackoffOptions {
  /**
   * Upper limit of the first delay, in milliseconds; every delay is drawn between 0 and its upper
   * limit.
   *
   * @default {500}
   */
  readonly firstDelayMs?: number | undefined;
  /**
   * Upper limit of every delay, in milliseconds; the first one doubles up to this limit.
   *
   * @default {10000}
   */
  readonly maxDelayMs?: number | undefined;
  /**
   * Consecutive attempts after which the client stops; a session that was not stable for `stableMs`
   * counts as an attempt.
   *
   * @default {Infinity}
   */
  readonly maxAttempts?: number | undefined;
  /**
   * Time without a stable session after which the client stops, in milliseconds; `Infinity` for no
   * limit.
   *
   * @default {300000}
   */
  readonly giveUpAfterMs?: number | undefined;
  /**
   * Age at which a session counts as stable, in milliseconds, which resets delays, attempts and
   * `giveUpAfterMs`. If a server accepts sessions and drops them immediately, the delays keep
   * growing.
   *
   * @default {10000}
   */
  readonly stableMs?: number | undefined;
  /**
   * The time after GOAWAY, in milliseconds, after which the client leaves the session even without
   * a next one, because a restarting server waits for its clients to leave.
   *
   * @default {5000}
   */
  readonly leaveAfterMs?: number | undefined;
}

/** The settings of `retry`, with all defaults. */
export type MoqRetry = Required<MoqRetryOptions>;

/**
 * Fills in the defaults.
 *
 * @throws {RangeError} If a time is negative or not a number.
 */
export function retrySettings(options: MoqRetryOptions = {}): MoqRetry {
  const { firstDelayMs = 500, maxDelayMs = 10_000, maxAttempts = Infinity } = options;
  const { giveUpAfterMs = 300_000, stableMs = 10_000, leaveAfterMs = 5_000 } = options;
  return {
    firstDelayMs,
    maxDelayMs,
    maxAttempts,
    giveUpAfterMs,
    stableMs,
    leaveAfterMs,
  };
}

/** HTTP statuses after which a later attempt may succeed. */
const LATER: ReadonlySet<number> = new Set([408, 425, 429]);

/** Reasons with which a server rejects a client permanently. */
const FINAL: ReadonlySet<MoqErrorName> = new Set(["unauthorized", "unsupportedVersion"]);

/** Reasons for a temporary end of an announce stream. */
const PASSING: ReadonlySet<MoqErrorName> = new Set([
  "internal",
  "sessionLimit",
  "cancelled",
  "timeout",
  "sessionClosed",
  "goingAway",
  "unknown",
]);

/** Reasons for a rejected or ended subscription after which no later attempt can succeed. */
const HOPELESS: ReadonlySet<MoqErrorName> = new Set([
  "unauthorized",
  "invalidRange",
  "malformedTrack",
  "wrongSize",
  "frameTooLarge",
  "groupTooLarge",
]);

/**
 * Returns true if a client must stop.
 *
 * @returns True if another attempt would fail as well.
 */
export function isRejection(error: unknown): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return true;
  if (error instanceof UnsupportedError) return true;
  if (error instanceof ConnectionError) {
    const { status = 0 } = error;
    return status >= 400 && status < 500 && !LATER.has(status);
  }
  return error instanceof MoqError && error.scope === "session" && FINAL.has(error.reason);
}

/**
 * Returns true if an operation ended because the session closed, so that it can continue in the
 * next one.
 *
 * @returns True for an error of the session or connection.
 */
export function isOfSession(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof MoqError && error.scope === "session";
}

/**
 * Returns true if the client should subscribe again in the same session, once the broadcast is
 * back.
 *
 * @returns True if another attempt may succeed.
 */
export function isPassingForTrack(error: unknown): boolean {
  return error instanceof MoqError && !HOPELESS.has(error.reason);
}

/**
 * Returns true if the client should request announcements again in the same session.
 *
 * @param error The error of the announce stream; `undefined` if it ended without one.
 * @returns True if another attempt may succeed.
 */
export function isPassingForAnnouncements(error: unknown): boolean {
  if (error === undefined) return true;
  return error instanceof MoqError && error.by !== "local" && PASSING.has(error.reason);
}
