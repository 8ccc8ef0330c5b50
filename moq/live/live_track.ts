/** Tracks with one source and many subscribers, and broadcasts of such tracks. */
import { attempt } from "../../base/call_safely.ts";
import { type OptionKinds, withDefaults } from "../../base/options/options.ts";
import { checkOptions, COUNT, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import type { FetchRequest, TrackServer } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { type MissedGroups, MoqError, type MoqErrorName } from "../wire/errors.ts";
import { PLAIN_FRAMES } from "../wire/frames.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import { GroupDelivery, LiveGroup, type LiveGroupLink } from "./live_group.ts";
import { LiveSubscriber, STALL_TICKS } from "./live_subscriber.ts";

/** The options for {@linkcode LiveTrack}. */
export interface LiveTrackOptions {
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Fixed properties of the track, for versions in which subscribers can request them. */
  readonly info?: Partial<TrackInfoMessage> | undefined;
  /**
   * Groups kept for late subscribers and fetches. The newest group is always kept.
   *
   * @default {32}
   */
  readonly maxCachedGroups?: number | undefined;
  /**
   * The bytes kept for late subscribers and fetches.
   *
   * Each encoding that a subscriber needs (with timestamps, without, or of the IETF's drafts) is
   * held once.
   *
   * @default {16777216}
   */
  readonly maxCachedBytes?: number | undefined;
  /**
   * The maximum age of a group for late subscribers, in milliseconds. The newest group is always
   * kept.
   *
   * @default {30000}
   */
  readonly maxCacheAgeMs?: number | undefined;
  /**
   * The maximum number of groups by which a subscriber may be behind; older groups are dropped.
   *
   * @default {256}
   */
  readonly maxLagGroups?: number | undefined;
  /**
   * The maximum number of bytes by which a subscriber may be behind; older groups are dropped.
   *
   * A group larger than this and `maxCachedBytes` loses its first frames: only subscribers that
   * have read them receive the rest.
   *
   * @default {16777216}
   */
  readonly maxLagBytes?: number | undefined;
  /**
   * The maximum age of a group relative to the newest one, in milliseconds; older groups are
   * dropped. 0 means no limit. A subscriber may request a lower limit.
   *
   * @default {0}
   */
  readonly maxLatencyMs?: number | undefined;
  /**
   * The maximum number of groups in flight to one subscriber; further groups wait.
   *
   * @default {64}
   */
  readonly maxGroupsInFlight?: number | undefined;
  /**
   * The maximum number of dropped groups of one subscriber of which the connection holds a part
   * that it cannot release, for example over Deno's QUIC. Beyond it the subscription is ended.
   *
   * @default {64}
   */
  readonly maxStuckGroups?: number | undefined;
  /**
   * The longest time for which a subscriber may accept no data while data is waiting, in
   * milliseconds; then its subscription is ended.
   *
   * The subscription may end up to a quarter later. If the connection has streams that cannot be
   * reset, the session is closed after the same time again, because only closing it frees them.
   *
   * @default {10000}
   */
  readonly stallTimeoutMs?: number | undefined;
  /**
   * The maximum number of subscribers; further ones are rejected.
   *
   * @default {65536}
   */
  readonly maxSubscribers?: number | undefined;
  /** Called when a subscriber joins, leaves, or updates its subscription. Errors are ignored. */
  readonly onDemand?: (() => void) | undefined;
}

/** The default of {@linkcode LiveTrackOptions.stallTimeoutMs}. */
export const STALL_TIMEOUT_MS = 10_000;

type LiveTrackLimits = Required<Omit<LiveTrackOptions, "runtime" | "info" | "onDemand">>;

const DEFAULTS: LiveTrackLimits = {
  maxCachedGroups: 32,
  maxCachedBytes: 16_777_216,
  maxCacheAgeMs: 30_000,
  maxLagGroups: 256,
  maxLagBytes: 16_777_216,
  maxLatencyMs: 0,
  maxGroupsInFlight: 64,
  maxStuckGroups: 64,
  stallTimeoutMs: STALL_TIMEOUT_MS,
  maxSubscribers: 65_536,
};

/** Writes one group, outside of a subscription. */
async function deliver(group: LiveGroup, writer: GroupWriter): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const delivery = new GroupDelivery(group, {
    progressed() {},
    released: () => resolve(),
    giveUp(given, reason) {
      given.isGivenUp = true;
      writer.abort(reason);
      resolve();
    },
  });
  writer.pullFrom(delivery);
  delivery.writer = writer;
  await promise;
}

export const TRACK: OptionKinds<LiveTrackOptions> = {
  info: "object",
  maxCacheAgeMs: COUNT,
  maxCachedBytes: POSITIVE,
  maxCachedGroups: POSITIVE,
  maxGroupsInFlight: POSITIVE,
  maxLagBytes: POSITIVE,
  maxLagGroups: POSITIVE,
  maxLatencyMs: COUNT,
  maxStuckGroups: POSITIVE,
  maxSubscribers: POSITIVE,
  onDemand: "function",
  runtime: RUNTIME,
  stallTimeoutMs: POSITIVE,
};

/**
 * A track with one source and many subscribers. The source writes each group once; subscribers come
 * and go, and never block the source or one another.
 *
 * - **Late subscribers** start at the newest group, or at any cached group.
 * - **Bounded:** only the newest groups are kept, once for all subscribers. A subscriber that falls
 *   behind loses the oldest groups. Each of them is aborted, and reported as dropped if the version
 *   supports it; none is omitted silently.
 * - **Stalled:** the subscription of a stalled subscriber ends with `tooFarBehind`.
 *
 * @example A track for many subscribers
 * ```ts
 * import { LiveTrack, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using live = new LiveTrack();
 * const mux = new TrackMux();
 * mux.publish("/clock", (track) => live.serve(track));
 *
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [publisher, subscriber] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 * await using _publisher = publisher;
 * await using _subscriber = subscriber;
 *
 * for (const text of ["11:59", "12:00"]) {
 *   using group = live.openGroup();
 *   group.writeFrame(new TextEncoder().encode(text));
 * }
 * await using track = await subscriber.subscribe("/clock", "seconds");
 * const group = await track.nextGroup();
 * assertEquals(group?.sequence, 2);
 * assertEquals(new TextDecoder().decode((await group!.readFrame())!), "12:00");
 * ```
 */
export class LiveTrack implements AsyncDisposable {
  readonly #runtime: Runtime;
  readonly #info: Partial<TrackInfoMessage>;
  readonly #limits: LiveTrackLimits;
  readonly #onDemand: (() => void) | undefined;
  readonly #subscribers = new Set<LiveSubscriber>();
  readonly #link: LiveGroupLink;
  #groups: LiveGroup[] = [];
  #newest: LiveGroup | undefined = undefined;
  #byteLength = 0;
  /** The number up to which groups are finished, including missing ones. */
  #floor = -1;
  #stallTimer: Timer | undefined = undefined;
  #state: "open" | "over" = "open";
  #error: MoqErrorName | undefined = undefined;

  /**
   * Creates a track.
   *
   * @param options The limits of the track.
   * @throws {RangeError} If a limit is not a positive integer.
   */
  constructor(options: LiveTrackOptions = {}) {
    checkOptions("create track", options, TRACK);
    const { runtime = platformRuntime(), info = {}, onDemand, ...limits } = options;
    this.#runtime = runtime;
    this.#limits = withDefaults(DEFAULTS, limits);
    this.#info = info;
    this.#onDemand = onDemand;
    this.#link = {
      runtime,
      frames: PLAIN_FRAMES,
      grew: (byteLength) => {
        this.#byteLength += byteLength;
        if (byteLength > 0) this.#evict();
      },
      ended: () => {
        this.#evict();
        if (this.#state === "over") this.#checkOver();
      },
    };
  }

  /** The number of the newest group; `undefined` before the first one. */
  get newestGroup(): number | undefined {
    return this.#newest?.sequence;
  }

  /** The number of subscribers. */
  get subscribers(): number {
    return this.#subscribers.size;
  }

  /** The number of groups held for late subscribers and for subscribers that are behind. */
  get heldGroups(): number {
    return this.#groups.length;
  }

  /** The bytes of the held groups. */
  get heldBytes(): number {
    return this.#byteLength;
  }

  /** `true` if no more groups can be opened. */
  get isClosed(): boolean {
    return this.#state === "over";
  }

  /** Combined demand of the subscribers; `undefined` without subscribers. */
  get demand(): {
    /** The highest priority of all subscribers. */
    readonly priority: number;
    /** The longest latency of all subscribers, in milliseconds; 0 if one has no limit. */
    readonly maxLatencyMs: number;
  } | undefined {
    if (this.#subscribers.size === 0) return undefined;
    let [priority, maxLatencyMs] = [0, 0];
    let isUnlimited = false;
    for (const { track: { subscription } } of this.#subscribers) {
      priority = Math.max(priority, subscription.priority);
      maxLatencyMs = Math.max(maxLatencyMs, subscription.maxLatencyMs);
      isUnlimited ||= subscription.maxLatencyMs === 0;
    }
    return { priority, maxLatencyMs: isUnlimited ? 0 : maxLatencyMs };
  }

  /**
   * Returns `true` if a group can be opened: the number is new and not too old.
   *
   * @param sequence The number of the group.
   * @returns `false` if the group was opened before or is too old, or the track is closed.
   */
  canOpen(sequence: number): boolean {
    if (this.#state !== "open" || sequence <= this.#floor) return false;
    return sequence > (this.#newest?.sequence ?? -1) ||
      !this.#groups.some((group) => group.sequence === sequence);
  }

  /**
   * Opens a group. Several groups may be open at once, and may be opened out of order.
   *
   * @param sequence The number of the group; by default one more than the newest number, or 1 for
   * the first group.
   * @returns The group, which accepts frames until it is closed.
   * @throws {RangeError} If the number is not an integer from 0 to 2^53 - 2, was used before, or is
   * too old.
   * @throws {TypeError} If the track is closed.
   */
  openGroup(sequence: number = (this.#newest?.sequence ?? 0) + 1): LiveGroup {
    if (this.#state !== "open") throw new TypeError("Cannot open group: the track is closed");
    if (!Number.isInteger(sequence) || sequence < 0 || sequence >= Number.MAX_SAFE_INTEGER) {
      throw new RangeError(
        `Cannot open group: its number must be an integer from 0 to 2^53 - 2, received ${sequence}`,
      );
    }
    if (!this.canOpen(sequence)) {
      throw new RangeError(
        `Cannot open group: its number must be new and above ${this.#floor}, received ${sequence}`,
      );
    }
    const group = new LiveGroup(sequence, this.#link);
    let at = this.#groups.length;
    while (at > 0 && this.#groups[at - 1]!.sequence > sequence) at--;
    this.#groups.splice(at, 0, group);
    const newest = this.#newest = this.#groups.at(-1)!;
    for (const subscriber of this.#subscribers) subscriber.opened(group, newest);
    this.#evict();
    return group;
  }

  /**
   * Notifies the subscribers that groups will not be sent.
   *
   * @param missed Numbers of the groups.
   * @param reason The name of the error that subscribers receive.
   */
  drop(missed: MissedGroups, reason: MoqErrorName = "expired"): void {
    for (const subscriber of this.#subscribers) subscriber.dropped(missed, reason);
  }

  /**
   * Serves one subscriber, starting with the newest or the requested group; or responds to a fetch from
   * the cache. Requested groups that are no longer cached are reported as dropped.
   *
   * @param track The subscriber's track.
   * @returns Resolves when the subscriber has left, or has received all requested groups.
   * @throws {MoqError} If the track was closed with an error, the subscriber fell too far behind, or
   * a fetched group is not in the cache.
   */
  async serve(track: TrackWriter): Promise<void> {
    if (track.fetched !== undefined) {
      const group = this.#cachedGroup(track.fetched.sequence);
      return await deliver(group, track.startGroup(group.sequence));
    }
    if (this.#error !== undefined) throw this.#closedError(this.#error);
    const { maxSubscribers } = this.#limits;
    if (this.#subscribers.size >= maxSubscribers) {
      const message = `Cannot subscribe: there are ${maxSubscribers} subscribers already`;
      throw new MoqError("subscribe", "relayLimit", message);
    }
    if (track.isEnded) return;
    const subscriber = new LiveSubscriber(this.#runtime, track, this.#limits);
    this.#subscribers.add(subscriber);
    track.whenUpdated(() => {
      subscriber.updated();
      this.#tellDemand();
    });
    this.#startStallTimer();
    try {
      track.largest = this.#largest();
      subscriber.begin(this.#cached(), this.#newest);
      if (this.#state === "over") subscriber.sourceOver();
      this.#tellDemand();
      await subscriber.done;
    } finally {
      this.#subscribers.delete(subscriber);
      this.#evict();
      if (this.#subscribers.size === 0) this.#stopStallTimer();
      this.#tellDemand();
    }
  }

  /**
   * Responds to a fetch from the cache.
   *
   * @param request The requested group.
   * @param writer Writer of the response.
   * @returns Resolves once the group has been written or aborted.
   * @throws {MoqError} If the group is not in the cache.
   */
  async serveFetch(request: FetchRequest, writer: GroupWriter): Promise<void> {
    await deliver(this.#cachedGroup(request.sequence), writer);
  }

  #cachedGroup(sequence: number): LiveGroup {
    const group = this.#cached().find((cached) => cached.sequence === sequence);
    if (group !== undefined) return group;
    const isPast = sequence <= (this.#newest?.sequence ?? -1);
    throw new MoqError(
      "fetch",
      isPast ? "evicted" : "notFound",
      `Cannot fetch: group ${sequence} is not in the cache`,
    );
  }

  /**
   * Returns `true` if a fetch of a group can be handled.
   *
   * @param sequence The number of the group.
   * @returns `true` if the group is in the cache.
   */
  hasCached(sequence: number): boolean {
    return this.#cached().some((group) => group.sequence === sequence);
  }

  /**
   * Returns the fixed properties of the track.
   *
   * @returns The option `info`.
   */
  trackInfo(): Partial<TrackInfoMessage> {
    return this.#info;
  }

  /**
   * Ends the track: open groups are closed, and subscribers receive the groups in flight.
   * Idempotent.
   */
  close(): void {
    if (this.#state === "over") return;
    this.#state = "over";
    for (const group of [...this.#groups]) group.close();
    this.#checkOver();
  }

  /**
   * Ends the track with an error: groups in flight are aborted. Idempotent.
   *
   * @param reason The name of the error that subscribers receive.
   */
  closeWithError(reason: MoqErrorName): void {
    if (this.#error !== undefined || this.#state === "over") return;
    this.#state = "over";
    this.#error = reason;
    const { message } = this.#closedError(reason);
    for (const subscriber of [...this.#subscribers]) subscriber.fail(reason, message);
    for (const group of this.#groups.splice(0)) group.evict("publishAborted");
    this.#newest = undefined;
  }

  /** Closes the track; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  #tellDemand(): void {
    // An error of the application's callback ends neither subscribers nor the process.
    attempt(() => this.#onDemand?.(), () => {});
  }

  /** Groups for late subscribers and fetches, oldest first. */
  #cached(): LiveGroup[] {
    const { maxCachedGroups, maxCachedBytes, maxCacheAgeMs } = this.#limits;
    const oldest = this.#runtime.now() - maxCacheAgeMs;
    const found: LiveGroup[] = [];
    let [count, byteLength] = [0, 0];
    for (let at = this.#groups.length - 1; at >= 0; at--) {
      const group = this.#groups[at]!;
      byteLength += group.byteLength;
      const isInside = count < maxCachedGroups && byteLength <= maxCachedBytes &&
        group.openedAt >= oldest;
      if (!isInside && group !== this.#newest) break;
      count++;
      if (group.isWhole) found.push(group);
    }
    return found.reverse();
  }

  /**
   * Drops groups that neither late subscribers nor subscribers that are behind can still receive.
   */
  #evict(): void {
    const { maxCachedGroups, maxCachedBytes, maxCacheAgeMs } = this.#limits;
    const { maxLagGroups, maxLagBytes } = this.#limits;
    const oldest = this.#runtime.now() - maxCacheAgeMs;
    while (this.#groups.length > 1) {
      const [group] = this.#groups as [LiveGroup];
      const count = this.#groups.length;
      const isCached = count <= maxCachedGroups && this.#byteLength <= maxCachedBytes &&
        group.openedAt >= oldest;
      // Beyond the cache, keep only groups that are still being written or in flight to a
      // subscriber.
      const isNeeded = !group.isEnded || group.deliveries.size > 0;
      const isInBounds = count <= maxLagGroups && this.#byteLength <= maxLagBytes;
      if (isCached || isNeeded && isInBounds) break;
      this.#groups.shift();
      this.#floor = Math.max(this.#floor, group.sequence);
      group.evict("expired");
    }
    const maxBytes = Math.max(maxCachedBytes, maxLagBytes);
    if (this.#byteLength > maxBytes) this.#newest?.trim(maxBytes);
  }

  #checkOver(): void {
    if (this.#groups.some((group) => !group.isEnded)) return;
    for (const subscriber of [...this.#subscribers]) subscriber.sourceOver();
  }

  #startStallTimer(): void {
    this.#stallTimer ??= this.#runtime.setTimeout(() => {
      this.#stallTimer = undefined;
      this.#startStallTimer();
      for (const subscriber of [...this.#subscribers]) subscriber.tick();
    }, this.#limits.stallTimeoutMs / STALL_TICKS);
  }

  /** The newest frame, as the drafts of the IETF number it. */
  #largest(): TrackWriter["largest"] {
    const group = this.#groups.findLast(({ frameCount }) => frameCount > 0);
    return group && { group: group.sequence, object: group.frameCount - 1 };
  }

  #stopStallTimer(): void {
    this.#runtime.clearTimeout(this.#stallTimer);
    this.#stallTimer = undefined;
  }

  #closedError(reason: MoqErrorName): MoqError {
    return new MoqError("subscribe", reason, "The track was closed with an error");
  }
}

/** The options for {@linkcode LiveBroadcast}. */
export interface LiveBroadcastOptions {
  /**
   * The clocks, timers and randomness of this node, for all tracks.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * The maximum number of tracks.
   *
   * @default {1024}
   */
  readonly maxTracks?: number | undefined;
}

/**
 * Serves live tracks by name; other names are rejected with `notFound`. Pass the broadcast to
 * `mux.publish()`.
 *
 * @example Two tracks
 * ```ts
 * import { LiveBroadcast, TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * await using broadcast = new LiveBroadcast();
 * const video = broadcast.track("video", { maxLatencyMs: 500 });
 * const audio = broadcast.track("audio");
 * using _publication = new TrackMux().publish("/room/ann", broadcast);
 *
 * for (const track of [video, audio]) {
 *   using group = track.openGroup();
 *   group.writeFrame(new Uint8Array(10));
 * }
 * assertEquals(broadcast.names, ["video", "audio"]);
 * ```
 */
export class LiveBroadcast implements TrackServer, AsyncDisposable {
  readonly #runtime: Runtime;
  readonly #maxTracks: number;
  readonly #tracks = new Map<string, LiveTrack>();

  /**
   * Creates a broadcast.
   *
   * @param options The limit on tracks.
   * @throws {RangeError} If `maxTracks` is not a positive integer.
   */
  constructor(options: LiveBroadcastOptions = {}) {
    checkOptions("create broadcast", options, { maxTracks: POSITIVE, runtime: RUNTIME });
    const { runtime = platformRuntime(), maxTracks = 1_024 } = options;
    this.#runtime = runtime;
    this.#maxTracks = maxTracks;
  }

  /** The names of the tracks. */
  get names(): readonly string[] {
    return [...this.#tracks.keys()];
  }

  /**
   * Adds a track.
   *
   * @param name The name under which subscribers request the track.
   * @param options The limits of the track.
   * @returns The track, ready for groups.
   * @throws {TypeError} If the broadcast already has a track of this name.
   * @throws {RangeError} If there are too many tracks, or a limit is invalid.
   */
  track(name: string, options: LiveTrackOptions = {}): LiveTrack {
    checkOptions("create track", options, TRACK);
    if (this.#tracks.has(name)) {
      throw new TypeError(`Cannot add track: its name must be new, received "${name}"`);
    }
    if (this.#tracks.size >= this.#maxTracks) {
      throw new RangeError(
        `Cannot add track: there are ${this.#maxTracks} already, see maxTracks`,
      );
    }
    const track = new LiveTrack({ ...options, runtime: options.runtime ?? this.#runtime });
    this.#tracks.set(name, track);
    return track;
  }

  /**
   * Finds a track.
   *
   * @param name The name of the track.
   * @returns The track; `undefined` if there is no track of this name.
   */
  get(name: string): LiveTrack | undefined {
    return this.#tracks.get(name);
  }

  /**
   * Ends and removes a track.
   *
   * @param name The name of the track.
   * @returns `true` if the broadcast had a track of this name.
   */
  remove(name: string): boolean {
    this.#tracks.get(name)?.close();
    return this.#tracks.delete(name);
  }

  /**
   * Serves a subscriber; called by the mux.
   *
   * @param track The subscriber's track.
   * @returns Resolves when the subscriber is done.
   * @throws {MoqError} If the track ended with an error.
   */
  serveTrack(track: TrackWriter): Promise<void> {
    const live = this.#tracks.get(track.name);
    if (live !== undefined) return live.serve(track);
    // Close in the same turn, before the subscriber is accepted.
    track.closeWithError("notFound");
    return Promise.resolve();
  }

  /**
   * Responds to a fetch; called by the mux.
   *
   * @param request The requested group.
   * @param group Writer of the response.
   * @returns Resolves when the group is written.
   * @throws {MoqError} If there is no such track, or the group is not in the cache.
   */
  async serveFetch(request: FetchRequest, group: GroupWriter): Promise<void> {
    await this.#require(request.name, "fetch").serveFetch(request, group);
  }

  /**
   * Returns the fixed properties of a track; called by the mux.
   *
   * @param name The name under which the track was added.
   * @returns The properties.
   * @throws {MoqError} If there is no such track.
   */
  trackInfo(name: string): Partial<TrackInfoMessage> {
    return this.#require(name, "subscribe").trackInfo();
  }

  /** Ends all tracks. Idempotent. */
  close(): void {
    for (const track of this.#tracks.values()) track.close();
  }

  /** Ends all tracks; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  #require(name: string, scope: "subscribe" | "fetch"): LiveTrack {
    const track = this.#tracks.get(name);
    if (track !== undefined) return track;
    throw new MoqError(scope, "notFound", `There is no track "${name}"`);
  }
}
