/** Groups of a subscription that wait for the reader. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type { MissedGroups, MoqErrorName } from "../wire/errors.ts";
import type { GroupReader } from "./group_reader.ts";

/** The highest group number: the number after it must also fit into 53 bits. */
export const LAST_SEQUENCE = Number.MAX_SAFE_INTEGER - 1;

/** The maximum number of separate ranges; beyond it, the oldest gap counts as filled. */
export const MAX_RANGES = 1_024;

/** A set of mostly consecutive numbers: sorted ranges that do not touch. */
export class GroupSequences {
  readonly #ranges: { first: number; last: number }[] = [];

  /** The lowest number; `undefined` if the set is empty. */
  get lowest(): number | undefined {
    return this.#ranges[0]?.first;
  }

  /** The highest number; `undefined` if the set is empty. */
  get highest(): number | undefined {
    return this.#ranges.at(-1)?.last;
  }

  get ranges(): number {
    return this.#ranges.length;
  }

  /**
   * Adds a number, or all numbers of a range.
   *
   * @returns The oldest gap, if there are too many ranges now; it counts as filled from now on.
   */
  add(first: number, last: number = first): MissedGroups | undefined {
    const ranges = this.#ranges;
    const newest = ranges.at(-1);
    // Usually the number follows the highest one.
    if (newest !== undefined && first === newest.last + 1) {
      newest.last = last;
      return undefined;
    }
    let end = ranges.length;
    while (end > 0 && ranges[end - 1]!.first > last + 1) end--;
    let start = end;
    const added = { first, last };
    while (start > 0 && ranges[start - 1]!.last >= first - 1) {
      const other = ranges[--start]!;
      added.first = Math.min(added.first, other.first);
      added.last = Math.max(added.last, other.last);
    }
    ranges.splice(start, end - start, added);
    if (ranges.length <= MAX_RANGES) return undefined;
    const oldest = ranges.shift()!;
    const next = ranges[0]!;
    const gap = { first: oldest.last + 1, last: next.first - 1 };
    next.first = oldest.first;
    return gap;
  }

  /** Returns true if the set has a number, or all numbers of a range. */
  has(first: number, last: number = first): boolean {
    return this.missing(first, last).length === 0;
  }

  /** Lists the gaps within a range, in order. */
  missing(first: number, last: number): MissedGroups[] {
    const gaps: MissedGroups[] = [];
    // From the end: most calls are about the newest numbers.
    for (let at = this.#ranges.length - 1, end = last; end >= first; at--) {
      const range = this.#ranges[at];
      if (range === undefined) {
        gaps.push({ first, last: end });
        break;
      }
      if (range.first > end) continue;
      if (range.last < end) gaps.push({ first: Math.max(first, range.last + 1), last: end });
      end = Math.min(end, range.first - 1);
    }
    return gaps.reverse();
  }
}

/**
 * The time that an ordered reader waits for a missing group without a `maxLatencyMs`, in
 * milliseconds.
 */
export const DEFAULT_ORDER_WAIT_MS = 1_000;

/** Collaborators and limits of a {@linkcode GroupQueue}. */
export interface GroupQueueOptions {
  readonly runtime: Runtime;
  /** The maximum number of waiting groups; beyond it, the queue drops the oldest group. */
  readonly maxQueued: number;
  /** Receives groups that will not arrive. */
  readonly onMissed: (missed: MissedGroups, reason: MoqErrorName) => void;
  /** Called when the wait for missing groups has ended, and the next group can be taken. */
  readonly onGapOver: () => void;
}

/**
 * Accounts for every group once: it is taken, reported as missed, or part of a slow reader's lag.
 * In ordered mode, a group waits for the groups before it, for a limited time.
 */
export class GroupQueue {
  /** Groups that arrived or were dropped. */
  readonly settled: GroupSequences = new GroupSequences();
  readonly #options: GroupQueueOptions;
  readonly #groups: GroupReader[] = [];
  #ordered = false;
  #waitMs = DEFAULT_ORDER_WAIT_MS;
  /** The number of the next group, in ordered mode. */
  #next: number | undefined = undefined;
  #lag: MissedGroups | undefined = undefined;
  #gapTimer: Timer | undefined = undefined;

  constructor(options: GroupQueueOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#groups.length;
  }

  /** Sets the mode, and how long ordered groups wait for missing ones. */
  configure(ordered: boolean, maxLatencyMs: number): void {
    this.#waitMs = Math.min(maxLatencyMs || DEFAULT_ORDER_WAIT_MS, MAX_TIMER_MS);
    if (this.#ordered === ordered) return;
    this.#ordered = ordered;
    this.#stopWaiting();
    if (ordered) this.#groups.sort((one, other) => one.sequence - other.sequence);
    else this.#next = undefined;
  }

  /** Starts an ordered queue: no group arrives before `first`. */
  begin(first: number): void {
    if (this.#ordered && this.#next === undefined) this.#next = first;
  }

  /** Adds a group that arrived. A duplicate, or a group that is too late, is cancelled. */
  put(group: GroupReader): void {
    const { sequence } = group;
    const isLate = this.#ordered && this.#next !== undefined && sequence < this.#next;
    if (isLate || this.settled.has(sequence)) return group.cancel("expired");
    this.#settle(sequence, sequence);
    const groups = this.#groups;
    // Usually the new group belongs at the end.
    let at = groups.length;
    if (this.#ordered) { while (at > 0 && groups[at - 1]!.sequence > sequence) at--; }
    if (at === groups.length) groups.push(group);
    else groups.splice(at, 0, group);
  }

  /**
   * Drops the oldest groups above the limit; called when no reader waits for them. In ordered mode,
   * the missing groups before them are dropped, too.
   *
   * @returns True if any group was dropped.
   */
  shrink(): boolean {
    const groups = this.#groups;
    if (groups.length <= this.#options.maxQueued) return false;
    while (groups.length > this.#options.maxQueued) {
      const group = groups.shift()!;
      const { sequence } = group;
      const due = this.#next ?? sequence;
      group.cancel("tooFarBehind");
      const { first, last } = this.#lag ?? { first: due, last: sequence };
      this.#lag = { first: Math.min(first, due), last: Math.max(last, sequence) };
      if (this.#ordered) this.#next = sequence + 1;
      this.#settle(due, sequence);
    }
    return true;
  }

  /** Returns the range of groups that a slow reader missed; each range once. */
  takeLag(): MissedGroups | undefined {
    const lag = this.#lag;
    this.#lag = undefined;
    return lag;
  }

  /** Marks groups that will not arrive. Groups of the range that did arrive are not reported. */
  drop(first: number, last: number, reason: MoqErrorName): void {
    const missing = this.settled.missing(first, last);
    this.#settle(first, last);
    for (const missed of missing) this.#options.onMissed(missed, reason);
  }

  /**
   * Takes the next group.
   *
   * @param isLast True at the end of the track, to stop waiting for missing groups.
   * @returns The group; `undefined` if the queue is empty, or the next group waits for others.
   */
  take(isLast: boolean): GroupReader | undefined {
    const group = this.#groups[0];
    if (group === undefined) return undefined;
    if (this.#ordered) {
      const due = this.#next ?? group.sequence;
      const { sequence } = group;
      if (sequence > due && !this.settled.has(due, sequence - 1)) {
        if (!isLast) return this.#waitForGap();
        this.drop(due, sequence - 1, "expired");
      }
      this.#next = sequence + 1;
      this.#stopWaiting();
    }
    this.#groups.shift();
    return group;
  }

  /** Stops waiting for missing groups. */
  stop(): void {
    this.#stopWaiting();
  }

  /** Cancels all waiting groups. */
  clear(reason: MoqErrorName): void {
    this.#stopWaiting();
    for (const group of this.#groups.splice(0)) group.cancel(reason);
  }

  #settle(first: number, last: number): void {
    const filled = this.settled.add(first, last);
    if (filled !== undefined) this.#options.onMissed(filled, "expired");
  }

  #waitForGap(): undefined {
    this.#gapTimer ??= this.#options.runtime.setTimeout(() => {
      this.#gapTimer = undefined;
      const group = this.#groups[0];
      if (group === undefined || this.#next === undefined) return;
      if (group.sequence > this.#next) this.drop(this.#next, group.sequence - 1, "expired");
      this.#options.onGapOver();
    }, this.#waitMs);
  }

  #stopWaiting(): void {
    this.#options.runtime.clearTimeout(this.#gapTimer);
    this.#gapTimer = undefined;
  }
}
