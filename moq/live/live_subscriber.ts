/** One subscriber of a live track, with its groups in flight and its aborted ones. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { type MissedGroups, MoqError } from "../wire/errors.ts";
import { type DeliveryOwner, GroupDelivery, type LiveGroup } from "./live_group.ts";

/** The longest wait for earlier groups after the last requested group, in milliseconds. */
const LATE_GROUP_MS = 500;

/** The number of checks within `stallTimeoutMs`. */
export const STALL_TICKS = 4;

/** The limits of a subscriber, set by its track. */
export interface LiveSubscriberLimits {
  /** The maximum number of groups in flight. */
  readonly maxGroupsInFlight: number;
  /** The maximum number of aborted groups of which the connection still holds a part. */
  readonly maxStuckGroups: number;
  /** The largest age of a group, relative to the newest group, in milliseconds; 0 for no limit. */
  readonly maxLatencyMs: number;
  /** Longest time without progress, in milliseconds. */
  readonly stallTimeoutMs: number;
}

export class LiveSubscriber implements DeliveryOwner {
  /** Writes the groups to the subscriber. */
  readonly track: TrackWriter;
  /**
   * Resolves once the subscriber has received all groups, or left; rejects if the subscription
   * failed.
   */
  readonly done: Promise<void>;

  readonly #runtime: Runtime;
  readonly #limits: LiveSubscriberLimits;
  readonly #done: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #sending = new Map<number, GroupDelivery>();
  /** Groups that wait for a slot among the groups in flight, oldest first. */
  #waiting: GroupDelivery[] = [];
  /** Streams that the connection holds: of groups in flight, and of aborted ones. */
  #held = 0;
  #stuck = 0;
  #quietTicks = 0;
  #start = 0;
  #newest: LiveGroup | undefined = undefined;
  /** Groups accepted for delivery, and dropped groups. */
  #settled = 0;
  #isSourceOver = false;
  #isOver = false;
  #lateTimer: Timer | undefined = undefined;
  #freeTimer: Timer | undefined = undefined;

  constructor(runtime: Runtime, track: TrackWriter, limits: LiveSubscriberLimits) {
    this.#runtime = runtime;
    this.track = track;
    this.#limits = limits;
    this.done = this.#done.promise;
    this.done.catch(() => {});
    track.whenEnded(() => this.leave());
  }

  /**
   * Starts at the newest group, or at the group that the subscriber requested.
   *
   * @param cached Cached groups, oldest first.
   * @param newest The newest group, which may be missing in `cached`.
   */
  begin(cached: readonly LiveGroup[], newest: LiveGroup | undefined): void {
    const { startGroup, endGroup = Infinity } = this.track.subscription;
    this.#newest = newest;
    const last = newest?.sequence ?? -1;
    this.#start = startGroup ?? Math.max(0, last + 1 - this.track.groupsBack);
    const missed: MissedGroups[] = [];
    let next = this.#start;
    for (const group of cached) {
      const { sequence } = group;
      if (sequence < this.#start || sequence > endGroup) continue;
      if (sequence > next) missed.push({ first: next, last: sequence - 1 });
      next = sequence + 1;
      this.#take(group);
    }
    const end = Math.min(last, endGroup);
    if (next <= end) missed.push({ first: next, last: end });
    // Without a requested start the subscription starts with the first cached group: no group is
    // missed.
    if (startGroup !== undefined && missed.length > 0) {
      this.track.accept();
      for (const range of missed) this.dropped(range, "evicted");
    }
    this.#checkEnd();
  }

  opened(group: LiveGroup, newest: LiveGroup): void {
    if (this.#isOver) return;
    this.#newest = newest;
    const { startGroup = 0, endGroup = Infinity } = this.track.subscription;
    const { sequence } = group;
    if (sequence >= Math.max(this.#start, startGroup) && sequence <= endGroup) this.#take(group);
    this.#expire();
    this.#checkEnd();
  }

  /** Handles groups that will not be sent. */
  dropped({ first, last }: MissedGroups, reason: MoqErrorName): void {
    const { endGroup = Infinity } = this.track.subscription;
    const range = { first: Math.max(first, this.#start), last: Math.min(last, endGroup) };
    if (this.#isOver || range.first > range.last) return;
    this.#settled += range.last - range.first + 1;
    this.track.drop(range, reason);
    this.#checkEnd();
  }

  /** Handles an update of the subscription. */
  updated(): void {
    const before = this.#start;
    const { startGroup = before, endGroup = Infinity } = this.track.subscription;
    this.#start = Math.min(before, startGroup);
    const newest = this.#newest;
    const sequence = newest?.sequence ?? before;
    // An earlier start includes the newest group, but no older ones.
    if (newest?.isWhole && sequence >= startGroup && sequence < before && sequence <= endGroup) {
      this.#take(newest);
    }
    this.#expire();
    this.#checkEnd();
  }

  /** Handles the end of the source: no more groups follow. */
  sourceOver(): void {
    this.#isSourceOver = true;
    this.#checkEnd();
  }

  /** Checks for progress; called {@linkcode STALL_TICKS} times in `stallTimeoutMs`. */
  tick(): void {
    if (!this.#isBehind()) this.#quietTicks = 0;
    else if (++this.#quietTicks > STALL_TICKS) {
      const { stallTimeoutMs } = this.#limits;
      this.fail("tooFarBehind", `The subscriber accepted no data for ${stallTimeoutMs} ms`);
    }
  }

  /** Ends the subscription with an error. */
  fail(reason: MoqErrorName, message: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.track.closeWithError(reason);
    this.#forget();
    this.#done.reject(new MoqError("subscribe", reason, message));
    if (this.#held === 0) return;
    // A connection that cannot reset a stream holds unread data until the session closes.
    const { stallTimeoutMs } = this.#limits;
    this.#freeTimer = this.#runtime.setTimeout(() => {
      this.track.closeSession(
        `A subscription was ended, and the subscriber has not read ${this.#held} of its groups`,
      );
    }, stallTimeoutMs);
  }

  /** Ends the subscription because the subscriber left, or the session or track was closed. */
  leave(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#forget();
    this.#done.resolve();
  }

  progressed(): void {
    this.#quietTicks = 0;
  }

  released(delivery: GroupDelivery): void {
    this.#held--;
    if (this.#held === 0) this.#runtime.clearTimeout(this.#freeTimer);
    if (delivery.isGivenUp) this.#stuck--;
    else {
      this.#sending.delete(delivery.group.sequence);
      this.#quietTicks = 0;
    }
    if (this.#isOver) return;
    this.#fill();
    this.#checkEnd();
  }

  /** Aborts a delivery, and notifies the subscriber. */
  giveUp(delivery: GroupDelivery, reason: MoqErrorName): void {
    const { writer, group: { sequence } } = delivery;
    delivery.isGivenUp = true;
    if (writer === undefined) {
      this.#waiting.splice(this.#waiting.indexOf(delivery), 1);
      this.track.drop({ first: sequence, last: sequence }, reason);
      return this.#checkEnd();
    }
    this.#sending.delete(sequence);
    this.#stuck++;
    // Resets the stream if the transport can, which frees its data immediately.
    writer.abort(reason);
    if (this.#stuck > this.#limits.maxStuckGroups) {
      this.fail("tooFarBehind", `More than ${this.#limits.maxStuckGroups} groups are stuck`);
    } else this.#checkEnd();
  }

  #take(group: LiveGroup): void {
    this.#settled++;
    const delivery = new GroupDelivery(group, this);
    if (this.#sending.size < this.#limits.maxGroupsInFlight) return this.#send(delivery);
    let at = this.#waiting.length;
    while (at > 0 && this.#waiting[at - 1]!.group.sequence > group.sequence) at--;
    this.#waiting.splice(at, 0, delivery);
  }

  #send(delivery: GroupDelivery): void {
    const { group, group: { sequence } } = delivery;
    let writer: GroupWriter;
    try {
      writer = this.track.startGroup(sequence);
    } catch {
      // The track is closed: the last requested group was sent, or the subscriber narrowed the
      // request.
      group.deliveries.delete(delivery);
      return this.track.drop({ first: sequence, last: sequence }, "expired");
    }
    delivery.writer = writer;
    this.#sending.set(sequence, delivery);
    this.#held++;
    writer.pullFrom(delivery);
  }

  #fill(): void {
    while (this.#waiting.length > 0 && this.#sending.size < this.#limits.maxGroupsInFlight) {
      const { ordered } = this.track.subscription;
      this.#send((ordered ? this.#waiting.shift() : this.#waiting.pop())!);
    }
  }

  /** Aborts the groups that are too old now. */
  #expire(): void {
    const { maxLatencyMs: own } = this.track.subscription;
    const maxLatencyMs = Math.min(own || Infinity, this.#limits.maxLatencyMs || Infinity);
    const newest = this.#newest;
    if (newest === undefined || maxLatencyMs === Infinity) return;
    if (this.#sending.size + this.#waiting.length < 2) return;
    const oldest = newest.openedAt - maxLatencyMs;
    for (const delivery of [...this.#waiting, ...this.#sending.values()]) {
      const { group, writer } = delivery;
      if (group === newest || group.openedAt >= oldest) continue;
      // The connection has the whole group.
      if (writer?.isEnded && writer.bufferedBytes === 0) continue;
      delivery.giveUp("expired");
    }
  }

  #isBehind(): boolean {
    if (this.#isOver) return false;
    if (this.#waiting.length > 0 || this.#stuck > 0) return true;
    return this.#sending.values().some((delivery) => delivery.isBehind);
  }

  #checkEnd(): void {
    if (this.#isOver || this.#sending.size + this.#waiting.length > 0) return;
    if (this.#isSourceOver) return this.#finish();
    const { endGroup } = this.track.subscription;
    if (endGroup === undefined || (this.#newest?.sequence ?? -1) < endGroup) return;
    if (this.#settled > endGroup - this.#start) return this.#finish();
    this.#lateTimer ??= this.#runtime.setTimeout(() => {
      this.#lateTimer = undefined;
      if (this.#sending.size + this.#waiting.length === 0) this.#finish();
    }, LATE_GROUP_MS);
  }

  #finish(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#forget();
    this.#done.resolve();
  }

  #forget(): void {
    this.#runtime.clearTimeout(this.#lateTimer);
    for (const delivery of this.#waiting) delivery.group.deliveries.delete(delivery);
    this.#waiting = [];
    for (const delivery of this.#sending.values()) delivery.group.deliveries.delete(delivery);
  }
}
