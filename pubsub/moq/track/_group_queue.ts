/** Groups of a subscription that wait for the reader. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../../base/wait.ts";
import { Sequences } from "./_sequences.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { GroupReader } from "./group_reader.ts";

/** Time that an ordered reader waits for a missing group, without a `maxLatencyMs`. */
export const DEFAULT_ORDER_WAIT_MS = 1_000;

/** Collaborators and limits of a {@linkcode GroupQueue}. */
export interface GroupQueueOptions {
  /** Timers of this node. */
  readonly runtime: Runtime;
  /** Groups that wait at most; above that, the queue gives up the oldest group. */
  readonly maxQueued: number;
  /** Gets groups that will not come. */
  readonly onMissed: (missed: MissedGroups, reason: MoqErrorName) => void;
  /** Called when the wait for missing groups is over, and the next group can be taken. */
  readonly onGapOver: () => void;
}

/**
 * Accounts for every group once: the group is taken, reported as missed, or part of the lag of a
 * slow reader. In ordered mode, a group waits for the groups before, for a limited time.
 */
export class GroupQueue {
  /** Groups that came, were dropped or were given up. */
  readonly settled: Sequences = new Sequences();
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

  /** Number of waiting groups. */
  get size(): number {
    return this.#groups.length;
  }

  /** Sets the mode from now on, and how long ordered groups wait for missing ones. */
  configure(ordered: boolean, maxLatencyMs: number): void {
    this.#waitMs = Math.min(maxLatencyMs || DEFAULT_ORDER_WAIT_MS, MAX_TIMER_MS);
    if (this.#ordered === ordered) return;
    this.#ordered = ordered;
    this.#stopWaiting();
    if (ordered) this.#groups.sort((one, other) => one.sequence - other.sequence);
    else this.#next = undefined;
  }

  /** Starts an ordered queue: no group comes before `first`. */
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
   * Gives up the oldest groups above the limit; called when no reader waits for those groups. In
   * ordered mode, the missing groups before them are given up, too.
   *
   * @returns True if any group was given up.
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

  /** Takes the range of groups that a slow reader missed; each range is returned once. */
  takeLag(): MissedGroups | undefined {
    const lag = this.#lag;
    this.#lag = undefined;
    return lag;
  }

  /** Marks groups that will not come. Groups of the range that did come are not reported. */
  drop(first: number, last: number, reason: MoqErrorName): void {
    const missing = this.settled.missing(first, last);
    this.#settle(first, last);
    for (const missed of missing) this.#options.onMissed(missed, reason);
  }

  /**
   * Takes the next group.
   *
   * @param isLast True at the end of the track: no missing group is waited for.
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
