/** One track of a relay, subscribed upstream once while it has subscribers. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { SubscriberSession, TrackWriter } from "../track/track_writer.ts";
import { type MissedGroups, MoqError, type MoqErrorName, MoqLaggedError } from "../wire/errors.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { VERSIONS } from "../wire/versions.ts";
import { LiveTrack, type LiveTrackOptions } from "./live_track.ts";
import type { RelaySource } from "./relay_source.ts";

/** The longest time for a replaced source to finish its groups in flight, in milliseconds. */
const RETIRE_MS = 5_000;

/** The time after acceptance after which a source counts as stable, in milliseconds. */
const STABLE_MS = 5_000;

export interface RelayTrackLink {
  readonly runtime: Runtime;
  readonly path: BroadcastPath;
  readonly name: string;
  /** The time without subscribers after which the track is unsubscribed, in milliseconds. */
  readonly lingerMs: number;
  readonly live: LiveTrackOptions;
  /** Returns another source to try after a failure. */
  next(failed: ReadonlySet<RelaySource>): RelaySource | undefined;
  /** Called when the last subscriber has left, and when another one joins after that. */
  onIdle(track: RelayTrack, isIdle: boolean): void;
  /** Called once, at the end of the track. */
  onOver(track: RelayTrack): void;
}

interface Upstream {
  readonly source: RelaySource;
  /** The first requested group; `undefined` for the newest one. */
  startGroup: number | undefined;
  readonly controller: AbortController;
  readonly begun: PromiseWithResolvers<void>;
  readonly groups: Set<GroupReader>;
  readonly pumps: Set<Promise<void>>;
  reader: TrackReader | undefined;
  /** The time of acceptance, by the monotonic clock; `Infinity` before that. */
  acceptedAt: number;
}

export class RelayTrack {
  /** Fan-out to the subscribers. */
  readonly live: LiveTrack;
  /** The number of subscriptions to this track by session. */
  readonly watchers: Map<SubscriberSession, number> = new Map();

  readonly #link: RelayTrackLink;
  readonly #unaccepted = new Set<TrackWriter>();
  readonly #failed = new Set<RelaySource>();
  #source: RelaySource;
  #upstream: Upstream | undefined = undefined;
  #isReady = false;
  #asked: NonNullable<LiveTrack["demand"]> = { priority: 0, maxLatencyMs: 0 };
  #isScheduled = false;
  #lingerTimer: Timer | undefined = undefined;
  #isOver = false;

  constructor(link: RelayTrackLink, source: RelaySource) {
    this.#link = link;
    this.#source = source;
    this.live = new LiveTrack({
      ...link.live,
      runtime: link.runtime,
      onDemand: () => this.#demanded(),
    });
  }

  async serve(track: TrackWriter): Promise<void> {
    const served = this.live.serve(track);
    if (this.#isReady) track.accept();
    else this.#unaccepted.add(track);
    const { startGroup } = track.subscription;
    if (this.#upstream === undefined && !this.#isOver) {
      this.#asked = this.live.demand ?? this.#asked;
      this.#subscribe(startGroup);
    } else this.#widen(startGroup);
    try {
      await served;
    } finally {
      this.#unaccepted.delete(track);
      // A subscriber that left before this point has also changed the demand.
      this.#demanded();
    }
  }

  /** Continues with another source of the same groups. */
  switchTo(source: RelaySource): void {
    if (this.#isOver || source === this.#source) return;
    this.#source = source;
    this.#failed.clear();
    const old = this.#upstream;
    if (old === undefined) return;
    this.#resume();
    void this.#retire(old, this.#upstream!.begun.promise);
  }

  /** Ends the track if it has no subscribers, to free its slot; `false` if it has some. */
  endIfIdle(): boolean {
    if (this.live.demand !== undefined) return false;
    this.end(undefined);
    return true;
  }

  /** Ends the track; the subscribers receive the reason. */
  end(reason: MoqErrorName | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#link.runtime.clearTimeout(this.#lingerTimer);
    if (reason === undefined) this.live.close();
    else this.live.closeWithError(reason);
    if (this.#upstream !== undefined) leave(this.#upstream);
    this.#link.onOver(this);
  }

  /** Subscribes at the current source, from the group after the newest one. */
  #resume(): void {
    const { newestGroup } = this.live;
    this.#subscribe(newestGroup === undefined ? undefined : newestGroup + 1);
  }

  /**
   * Subscribes again for a subscriber that starts before the first requested group, which may be
   * far in the future. Once a group has arrived, all later ones follow.
   */
  #widen(startGroup: number | undefined): void {
    const old = this.#upstream;
    if (this.#isOver || old?.startGroup === undefined) return;
    if (this.live.newestGroup !== undefined || (startGroup ?? -1) >= old.startGroup) return;
    if (VERSIONS[old.source.session.version].draft?.oneSubscription) {
      old.startGroup = startGroup ?? 0;
      old.reader?.update({ startGroup: old.startGroup }).catch(() => {}); // `nextGroup` rejects, too.
      return;
    }
    if (startGroup !== undefined) leave(old);
    // The old subscription may still deliver groups that are older than the newest one.
    else void this.#retire(old);
    this.#subscribe(startGroup);
  }

  #subscribe(startGroup: number | undefined): void {
    const upstream: Upstream = {
      source: this.#source,
      startGroup,
      controller: new AbortController(),
      begun: Promise.withResolvers(),
      groups: new Set(),
      pumps: new Set(),
      reader: undefined,
      acceptedAt: Infinity,
    };
    this.#upstream = upstream;
    void this.#run(upstream).finally(() => upstream.begun.resolve());
  }

  async #run(upstream: Upstream): Promise<void> {
    const { path, name } = this.#link;
    const { startGroup } = upstream;
    const { signal } = upstream.controller;
    try {
      const reader = upstream.reader = await upstream.source.session.subscribe(path, name, {
        ...this.#asked,
        startGroup,
        signal,
        onMissed: (missed, reason) => this.#missed(missed, reason),
      });
      if (upstream.startGroup !== startGroup) {
        await reader.update({ startGroup: upstream.startGroup });
      }
      reader.ready.then(() => this.#accepted(upstream), () => {}); // `nextGroup` rejects, too.
      for (let group; (group = await this.#next(reader)) !== null;) {
        upstream.begun.resolve();
        const pump = this.#pump(group, upstream).finally(() => upstream.pumps.delete(pump));
        upstream.pumps.add(pump);
      }
      await Promise.all(upstream.pumps);
      if (this.#upstream === upstream && !signal.aborted) this.end(undefined);
    } catch (error) {
      if (this.#upstream === upstream && !signal.aborted) this.#sourceFailed(upstream, error);
    }
  }

  async #next(reader: TrackReader): Promise<GroupReader | null> {
    while (true) {
      try {
        return await reader.nextGroup();
      } catch (error) {
        if (!(error instanceof MoqLaggedError)) throw error;
        this.#missed(error.missed, error.reason);
      }
    }
  }

  async #pump(group: GroupReader, upstream: Upstream): Promise<void> {
    // Another subscription delivers the group, or it is too old.
    const isLeft = upstream.controller.signal.aborted;
    if (isLeft || !this.live.canOpen(group.sequence)) return group.cancel("expired");
    const live = this.live.openGroup(group.sequence);
    upstream.groups.add(group);
    try {
      while (true) {
        let frame = group.takeFrame();
        if (frame === undefined) frame = await group.readFrame();
        if (frame === null) break;
        const { timestamp } = group;
        live.writeFrame(frame, { timestamp });
      }
      // Reading a group that was cancelled here ends as if the group were complete.
      if (upstream.controller.signal.aborted) live.abort("cancelled");
      else live.close();
    } catch (error) {
      const isOfGroup = error instanceof MoqError && error.scope === "group";
      live.abort(isOfGroup ? error.reason : "publishAborted");
      group.cancel("expired");
    } finally {
      upstream.groups.delete(group);
    }
  }

  #missed(missed: MissedGroups, reason: MoqErrorName): void {
    this.live.drop(missed, reason);
  }

  #accepted(upstream: Upstream): void {
    if (this.#upstream !== upstream) return;
    this.#isReady = true;
    upstream.acceptedAt = this.#link.runtime.monotonic();
    for (const track of this.#unaccepted) track.accept();
    this.#unaccepted.clear();
  }

  #sourceFailed({ source, acceptedAt }: Upstream, error: unknown): void {
    // Sources that accept and then fail are not tried in turn forever.
    const heldMs = this.#link.runtime.monotonic() - acceptedAt;
    if (heldMs >= STABLE_MS) this.#failed.clear();
    this.#failed.add(source);
    const next = this.#link.next(this.#failed);
    if (next === undefined) return this.end(reasonOf(error));
    this.#source = next;
    this.#resume();
  }

  /**
   * Gives a replaced subscription time to finish its groups, then cancels it.
   *
   * @param begun Resolves when the groups in flight are the last needed ones.
   */
  async #retire(old: Upstream, begun?: Promise<void>): Promise<void> {
    const late = Promise.withResolvers<void>();
    const timer = this.#link.runtime.setTimeout(() => late.resolve(), RETIRE_MS);
    const isOver = () => this.#isOver || old.source.session.isClosed;
    if (!isOver()) await Promise.race([begun ?? late.promise, late.promise, sourceEnd(old)]);
    if (!isOver()) await Promise.race([Promise.all(old.pumps), late.promise, sourceEnd(old)]);
    this.#link.runtime.clearTimeout(timer);
    leave(old);
  }

  #demanded(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#link.runtime.schedule(() => {
      this.#isScheduled = false;
      if (!this.#isOver) this.#follow();
    });
  }

  /**
   * Passes the demand to the source, and ends the track some time after the last subscriber has
   * left.
   */
  #follow(): void {
    this.#link.runtime.clearTimeout(this.#lingerTimer);
    const { demand } = this.live;
    this.#link.onIdle(this, demand === undefined);
    if (demand === undefined) {
      this.#lingerTimer = this.#link.runtime.setTimeout(() => {
        // Subscribers of this turn have not been counted yet.
        if (this.live.demand === undefined) this.end(undefined);
      }, this.#link.lingerMs);
      return;
    }
    const { priority, maxLatencyMs } = this.#asked;
    if (demand.priority === priority && demand.maxLatencyMs === maxLatencyMs) return;
    this.#asked = demand;
    this.#upstream?.reader?.update(demand).catch(() => {}); // `nextGroup` rejects, too.
  }
}

/** The reason for the subscribers: a limit of the source limits this relay, not one of them. */
function reasonOf(error: unknown): MoqErrorName {
  if (!(error instanceof MoqError)) return "internal";
  const isLimit = error.reason === "sessionLimit" || error.reason === "addressLimit";
  return isLimit ? "relayLimit" : error.reason;
}

function leave({ controller, groups }: Upstream): void {
  controller.abort();
  for (const group of groups) group.cancel("cancelled");
}

function sourceEnd({ source }: Upstream): Promise<unknown> {
  return source.session.closed;
}
