/**
 * How a subscriber wants a track.
 *
 * @module
 */
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { SubscribeFields } from "../wire/messages.ts";

/** How to subscribe to a track. */
export interface SubscribeOptions {
  /**
   * 0 to 255; tracks with a higher one go first.
   *
   * @default {0}
   */
  readonly priority?: number;
  /**
   * Older groups go first, and this end yields them in the order of their numbers: a group waits
   * for those before it, up to `maxLatencyMs`, or a second without one. Otherwise newer groups go
   * first, and are yielded as they come.
   *
   * @default {false}
   */
  readonly ordered?: boolean;
  /**
   * Groups that are older than this behind the newest one are not wanted, in milliseconds; 0 for no limit.
   *
   * @default {0}
   */
  readonly maxLatencyMs?: number;
  /**
   * The first group; the newest one by default. Earlier ones are refused here, where the version can
   * not tell the publisher.
   */
  readonly startGroup?: number;
  /** The last group; none by default. The track ends once it, and those before it, came or were dropped. */
  readonly endGroup?: number;
  /**
   * Groups that wait for their reader; past it the oldest is given up, and the reader is told.
   *
   * @default {1024}
   */
  readonly maxQueuedGroups?: number;
  /** Unsubscribes. */
  readonly signal?: AbortSignal;
  /**
   * Gets groups that will not come: the publisher dropped them, or the wait for them was given up.
   * What it throws is reported to the session's `onError`.
   */
  readonly onMissed?: (missed: MissedGroups, reason: MoqErrorName) => void;
}

/** Groups that wait for their reader, by default. */
export const DEFAULT_MAX_QUEUED_GROUPS = 1_024;

/**
 * Fills in the defaults of what is asked of a track.
 *
 * @param options What is asked.
 * @returns All of it.
 * @throws {RangeError} If a value makes no sense.
 */
export function subscribeFields(options: SubscribeOptions): SubscribeFields {
  const { priority = 0, ordered = false, maxLatencyMs = 0, startGroup, endGroup } = options;
  const inRange = (name: string, value: number, max: number) => {
    if (Number.isInteger(value) && value >= 0 && value <= max) return;
    throw new RangeError(
      `Cannot subscribe: ${name} must be an integer from 0 to ${max}, received ${value}`,
    );
  };
  inRange("priority", priority, 255);
  inRange("maxLatencyMs", maxLatencyMs, Number.MAX_SAFE_INTEGER);
  // On the wire each is one more.
  if (startGroup !== undefined) inRange("startGroup", startGroup, Number.MAX_SAFE_INTEGER - 1);
  if (endGroup !== undefined) inRange("endGroup", endGroup, Number.MAX_SAFE_INTEGER - 1);
  if (startGroup !== undefined && endGroup !== undefined && endGroup < startGroup) {
    throw new RangeError(
      `Cannot subscribe: endGroup must be at least startGroup (${startGroup}), received ${endGroup}`,
    );
  }
  return { priority, ordered, maxLatencyMs, startGroup, endGroup };
}

/**
 * Changes what is asked of a track.
 *
 * @param fields What was asked.
 * @param changes What changes; what is left out stays, and `undefined` takes a bound away.
 * @returns What is asked from now on.
 * @throws {RangeError} If a value makes no sense.
 */
export function changedFields(
  fields: SubscribeFields,
  changes: Partial<SubscribeFields>,
): SubscribeFields {
  const { startGroup, endGroup, ...rest } = { ...fields, ...changes };
  return subscribeFields({
    ...rest,
    ...(startGroup === undefined ? {} : { startGroup }),
    ...(endGroup === undefined ? {} : { endGroup }),
  });
}

/**
 * Checks how many groups may wait for their reader.
 *
 * @param options What was asked.
 * @returns How many.
 * @throws {RangeError} If it is no positive integer.
 */
export function maxQueuedGroupsOf(options: SubscribeOptions): number {
  const { maxQueuedGroups = DEFAULT_MAX_QUEUED_GROUPS } = options;
  if (Number.isInteger(maxQueuedGroups) && maxQueuedGroups > 0) return maxQueuedGroups;
  throw new RangeError(
    `Cannot subscribe: maxQueuedGroups must be a positive integer, received ${maxQueuedGroups}`,
  );
}
