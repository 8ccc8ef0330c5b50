/** Tells failures that a new attempt may overcome from final ones. */
import { ConnectionError, UnsupportedError } from "../../../errors.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import {
  maxQueuedGroupsOf,
  subscribeFields,
  type SubscribeOptions,
} from "../track/subscribe_options.ts";

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
 * @param error The error of the attempt, or of the session.
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
 * @param error The error of the operation.
 * @returns True for an error of the session or connection.
 */
export function isOfSession(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof MoqError && error.scope === "session";
}

/**
 * Tells whether to subscribe again, on the same session, once the broadcast is back.
 *
 * @param error The error of the subscription.
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

/** Checks the options of a subscription before the first attempt. */
export function checkSubscribe(options: SubscribeOptions): void {
  subscribeFields(options);
  maxQueuedGroupsOf(options);
}
