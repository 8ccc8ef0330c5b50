/** Options of a subscription. */
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { SubscribeFields } from "../wire/messages.ts";

/** Options for a subscription to a track. */
export interface SubscribeOptions {
  /**
   * 0 to 255; tracks with a higher priority go first.
   *
   * @default {0}
   */
  readonly priority?: number;
  /**
   * Older groups go first, and the reader yields groups in the order of their numbers: a group
   * waits for missing groups before, up to `maxLatencyMs`, or a second without a limit. Otherwise
   * newer groups go first, and the reader yields groups on arrival.
   *
   * @default {false}
   */
  readonly ordered?: boolean;
  /**
   * Age behind the newest group, in milliseconds, above which a group is not wanted; 0 for no
   * limit.
   *
   * @default {0}
   */
  readonly maxLatencyMs?: number;
  /**
   * The first group; the newest one by default. On versions that cannot tell the publisher, this
   * end refuses earlier groups.
   */
  readonly startGroup?: number;
  /**
   * The last group; unlimited by default. The track ends once all groups up to the last one came or
   * were dropped.
   */
  readonly endGroup?: number;
  /**
   * Groups that wait for the reader; above that, the oldest group is given up, and the reader gets
   * an error.
   *
   * @default {1024}
   */
  readonly maxQueuedGroups?: number;
  /** Unsubscribes. */
  readonly signal?: AbortSignal;
  /**
   * Gets groups that will not come: dropped by the publisher, or given up after the wait. An error
   * of this function goes to the session's `onError`.
   */
  readonly onMissed?: (missed: MissedGroups, reason: MoqErrorName) => void;
}

/** Groups that wait for the reader, by default. */
export const DEFAULT_MAX_QUEUED_GROUPS = 1_024;

/**
 * Fills in the defaults of a subscription.
 *
 * @param options The options.
 * @returns All fields.
 * @throws {RangeError} If a value is out of range.
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
  // The wire carries each number plus one.
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
 * Changes the fields of a subscription.
 *
 * @param fields The current fields.
 * @param changes The changed fields; an absent field stays, and `undefined` removes a bound.
 * @returns The fields from now on.
 * @throws {RangeError} If a value is out of range.
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
 * Checks the number of groups that may wait for the reader.
 *
 * @param options The options.
 * @returns The number.
 * @throws {RangeError} If the number is no positive integer.
 */
export function maxQueuedGroupsOf(options: SubscribeOptions): number {
  const { maxQueuedGroups = DEFAULT_MAX_QUEUED_GROUPS } = options;
  if (Number.isInteger(maxQueuedGroups) && maxQueuedGroups > 0) return maxQueuedGroups;
  throw new RangeError(
    `Cannot subscribe: maxQueuedGroups must be a positive integer, received ${maxQueuedGroups}`,
  );
}
