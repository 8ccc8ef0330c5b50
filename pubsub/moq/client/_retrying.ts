/**
 * Which failures get no better by trying again.
 *
 * @module
 */
import { ConnectionError, UnsupportedError } from "../../../errors.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import {
  maxQueuedGroupsOf,
  subscribeFields,
  type SubscribeOptions,
} from "../track/subscribe_options.ts";

/** Statuses of HTTP that say: not now. */
const LATER: ReadonlySet<number> = new Set([408, 425, 429]);

/** What a server says of a client that it does not want. */
const FINAL: ReadonlySet<MoqErrorName> = new Set(["unauthorized", "unsupportedVersion"]);

/** How an announce stream may end without anybody meaning it. */
const PASSING: ReadonlySet<MoqErrorName> = new Set([
  "internal",
  "cancelled",
  "timeout",
  "sessionClosed",
  "goingAway",
  "unknown",
]);

/** How a subscription ends that nobody will ever answer better. */
const HOPELESS: ReadonlySet<MoqErrorName> = new Set([
  "unauthorized",
  "invalidRange",
  "malformedTrack",
  "wrongSize",
  "frameTooLarge",
  "groupTooLarge",
]);

/**
 * Tells whether a client shall stop.
 *
 * @param error What its attempt failed of, or its session ended with.
 * @returns Whether it gets no better.
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
 * Tells whether something ended because its session did: the next session will do.
 *
 * @param error What it ended with.
 * @returns Whether that was so.
 */
export function isOfSession(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof MoqError && error.scope === "session";
}

/**
 * Tells whether to subscribe again, on the same session, once the broadcast is back.
 *
 * @param error What the subscription ended with.
 * @returns Whether it may get better.
 */
export function isPassingForTrack(error: unknown): boolean {
  return error instanceof MoqError && !HOPELESS.has(error.reason);
}

/**
 * Tells whether to ask for announcements again, on the same session.
 *
 * @param error What they ended with; `undefined` for an end without one.
 * @returns Whether it may get better.
 */
export function isPassingForAnnouncements(error: unknown): boolean {
  if (error === undefined) return true;
  return error instanceof MoqError && error.by !== "local" && PASSING.has(error.reason);
}

/** Checks how to subscribe, before anybody is asked. */
export function checkSubscribe(options: SubscribeOptions): void {
  subscribeFields(options);
  maxQueuedGroupsOf(options);
}
