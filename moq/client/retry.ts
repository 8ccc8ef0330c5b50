/** Which failures a client retries, and when. */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import type { BackoffOptions } from "../../base/backoff.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";

/** Delays between attempts, and limits for giving up. */
export interface MoqRetryOptions extends BackoffOptions {
  /**
   * Upper end of the first delay, in milliseconds; every delay is drawn between 0 and the upper
   * end.
   *
   * @default {500}
   */
  readonly firstDelayMs?: number | undefined;
  /**
   * Upper end of every delay, in milliseconds; the first one doubles up to this limit.
   *
   * @default {10000}
   */
  readonly maxDelayMs?: number | undefined;
  /**
   * Attempts in a row before giving up; a session that did not hold for `stableMs` counts as an
   * attempt.
   *
   * @default {Infinity}
   */
  readonly maxAttempts?: number | undefined;
  /**
   * Time without a session that held, in milliseconds, after which the client gives up; `Infinity`
   * for no limit.
   *
   * @default {300000}
   */
  readonly giveUpAfterMs?: number | undefined;
  /**
   * Age at which a session counts as held, in milliseconds: then delays, attempts and the time to
   * give up start anew. For a server that accepts sessions and drops them at once, the delays keep
   * growing.
   *
   * @default {10000}
   */
  readonly stableMs?: number | undefined;
  /**
   * Time after GOAWAY, in milliseconds, after which the client leaves the session even without a
   * next one: a server that restarts waits for the client to leave.
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
 * @throws {RangeError} If a time is negative or no number.
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

/** HTTP statuses that a later attempt may overcome. */
const LATER: ReadonlySet<number> = new Set([408, 425, 429]);

/** Reasons with which a server refuses a client for good. */
const FINAL: ReadonlySet<MoqErrorName> = new Set(["unauthorized", "unsupportedVersion"]);

/** Reasons with which an announce stream may end by accident. */
const PASSING: ReadonlySet<MoqErrorName> = new Set([
  "internal",
  "cancelled",
  "timeout",
  "sessionClosed",
  "goingAway",
  "unknown",
]);

/** Reasons of a refused or ended subscription that no later attempt can overcome. */
const HOPELESS: ReadonlySet<MoqErrorName> = new Set([
  "unauthorized",
  "invalidRange",
  "malformedTrack",
  "wrongSize",
  "frameTooLarge",
  "groupTooLarge",
]);

/**
 * Tells whether a client must stop.
 *
 * @returns True if another attempt would fail as well.
 */
export function isRefusal(error: unknown): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return true;
  if (error instanceof UnsupportedError) return true;
  if (error instanceof ConnectionError) {
    const { status = 0 } = error;
    return status >= 400 && status < 500 && !LATER.has(status);
  }
  return error instanceof MoqError && error.scope === "session" && FINAL.has(error.reason);
}

/**
 * Tells whether an operation ended because the session ended: the next session will do.
 *
 * @returns True for an error of the session or connection.
 */
export function isOfSession(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof MoqError && error.scope === "session";
}

/**
 * Tells whether to subscribe again, on the same session, once the broadcast is back.
 *
 * @returns True if another attempt may succeed.
 */
export function isPassingForTrack(error: unknown): boolean {
  return error instanceof MoqError && !HOPELESS.has(error.reason);
}

/**
 * Tells whether to ask for announcements again, on the same session.
 *
 * @param error The error of the announce stream; `undefined` for an end without one.
 * @returns True if another attempt may succeed.
 */
export function isPassingForAnnouncements(error: unknown): boolean {
  if (error === undefined) return true;
  return error instanceof MoqError && error.by !== "local" && PASSING.has(error.reason);
}
