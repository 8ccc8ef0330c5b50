/**
 * The groups of a subscription that wait for their reader.
 *
 * @module
 */
import { MAX_TIMER_MS } from "../../../transport/within.ts";
import { Sequences } from "./_sequences.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { GroupReader } from "./group_reader.ts";

/** How long an ordered reader waits for a group that is missing, without a `maxLatencyMs`. */
export const DEFAULT_ORDER_WAIT_MS = 1_000;

/** What a queue needs of its track. */
export interface GroupQueueOptions {
  /** Groups that wait at most; past it the oldest is given up. */
  readonly maxQueued: number;
  /** Gets groups that will not come. */
  readonly onMissed: (missed: MissedGroups, reason: MoqErrorName) => void;
  /** Called when a group that waited for its predecessors may be taken all the same. */
  readonly onGapOver: () => void;
}

/**
 * Every group once: it is taken, or told as missed, or part of what the reader fell behind by. Where the
 * order counts, a group waits for those before it, but not for ever.
 */
export class GroupQueue {
  /** Groups that came, were dropped or given up. */
  readonly settled: Sequences = new Sequences();
  readonly #options: GroupQueueOptions;
  readonly #groups: GroupReader[] = [];
  #ordered = false;
  #waitMs = DEFAULT_ORDER_WAIT_MS;
  /** Where the order counts, the one that is due. */
  #next: number | undefined = undefined;
  #lag: MissedGroups | undefined = undefined;
  #gapTimer: ReturnType<typeof setTimeout> | undefined = undefined;

  /** Begins without groups. */
  constructor(options: GroupQueueOptions) {
    this.#options = options;
  }

  /** How many wait. */
  get size(): number {
    return this.#groups.length;
  }

  /** Whether the order counts from now on, and how long it may take. */
  configure(ordered: boolean, maxLatencyMs: number): void {
    this.#waitMs = Math.min(maxLatencyMs || DEFAULT_ORDER_WAIT_MS, MAX_TIMER_MS);
    if (this.#ordered === ordered) return;
    this.#ordered = ordered;
    this.#stopWaiting();
    if (ordered) this.#groups.sort((one, other) => one.sequence - other.sequence);
    else this.#next = undefined;
  }

  /** Nothing comes before this one. */
  begin(first: number): void {
    if (this.#ordered && this.#next === undefined) this.#next = first;
  }

  /** A group came. One that came before, or is too late, is given up. */
  put(group: GroupReader): void {
    const { sequence } = group;
    const isLate = this.#ordered && this.#next !== undefined && sequence < this.#next;
    if (isLate || this.settled.has(sequence)) return group.cancel("expired");
    this.#settle(sequence, sequence);
    const groups = this.#groups;
    // Most often it is the last one.
    let at = groups.length;
    if (this.#ordered) { while (at > 0 && groups[at - 1]!.sequence > sequence) at--; }
    if (at === groups.length) groups.push(group);
    else groups.splice(at, 0, group);
  }

  /**
   * Gives up the oldest ones that are too many; called once nobody waits for them. Where the order
   * counts, those that they waited for are given up, too.
   *
   * @returns Whether there were some.
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

  /** What the reader missed for it fell behind; told once. */
  takeLag(): MissedGroups | undefined {
    const lag = this.#lag;
    this.#lag = undefined;
    return lag;
  }

  /** Groups will not come. Those that came all the same do not count. */
  drop(first: number, last: number, reason: MoqErrorName): void {
    const missing = this.settled.missing(first, last);
    this.#settle(first, last);
    for (const missed of missing) this.#options.onMissed(missed, reason);
  }

  /**
   * Takes the next one.
   *
   * @param isLast Nothing more comes, so that nothing is waited for.
   * @returns The group; `undefined` if there is none, or it waits for others.
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

  /** Waits for nothing any more: what is here can be taken. */
  stop(): void {
    this.#stopWaiting();
  }

  /** Gives up all of them. */
  clear(reason: MoqErrorName): void {
    this.#stopWaiting();
    for (const group of this.#groups.splice(0)) group.cancel(reason);
  }

  #settle(first: number, last: number): void {
    const filled = this.settled.add(first, last);
    if (filled !== undefined) this.#options.onMissed(filled, "expired");
  }

  #waitForGap(): undefined {
    this.#gapTimer ??= setTimeout(() => {
      this.#gapTimer = undefined;
      const group = this.#groups[0];
      if (group === undefined || this.#next === undefined) return;
      if (group.sequence > this.#next) this.drop(this.#next, group.sequence - 1, "expired");
      this.#options.onGapOver();
    }, this.#waitMs);
  }

  #stopWaiting(): void {
    clearTimeout(this.#gapTimer);
    this.#gapTimer = undefined;
  }
}
