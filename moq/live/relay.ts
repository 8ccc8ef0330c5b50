/**
 * A relay: announces the broadcasts of its sessions, and subscribes to each track once for all
 * subscribers.
 */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, COUNT, POSITIVE, RUNTIME, SHARE } from "../../base/options/option_checks.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { LimitLevel } from "../../errors.ts";
import { Quotas, sharesOf, type Slot } from "../../base/quotas/shares.ts";
import { reportTo } from "../session/context.ts";
import type { MoqSession } from "../session/session.ts";
import type { Announcement, AnnouncementReader } from "../track/announcement.ts";
import { TrackMux } from "../track/mux.ts";
import type { SubscriberSession, TrackWriter } from "../track/track_writer.ts";
import { MoqError } from "../wire/errors.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import { LiveTrack, type LiveTrackOptions, TRACK } from "./live_track.ts";
import { RelayCapacity } from "./relay_capacity.ts";
import {
  MAX_NOTICE_PATHS,
  type MoqRelayNotice,
  NOTICES_PATH,
  NOTICES_TRACK,
} from "./relay_notices.ts";
import { RelayRoute, type RelayRouteLink } from "./relay_route.ts";
import type { RelaySource, TrackOrigin } from "./relay_source.ts";

interface WaitingBroadcast {
  source: RelaySource;
  readonly slot: Slot;
}

/**
 * The limit that prevents a broadcast from being relayed: of the session, its address, or the
 * relay.
 */
type RelayLimit = "share" | "address" | "full";

/** A session of a relay, or another relay of its cluster. */
class RelayPeer {
  /** Source of the broadcasts. */
  readonly from: TrackOrigin;
  /** Relayed broadcasts. */
  readonly paths: Set<BroadcastPath> = new Set();
  /** Broadcasts that wait for a slot, oldest first. */
  readonly waiting: Map<BroadcastPath, WaitingBroadcast> = new Map();
  /** The number of discarded announcements. */
  ignored = 0;
  /** Reason why the last broadcast was not relayed. */
  reason: NonNullable<MoqRelayNotice["reason"]> | undefined;

  readonly #runtime: Runtime;
  /** The track of the notices, created on the first request. */
  #notices: LiveTrack | undefined;
  #isChanged = false;

  constructor(runtime: Runtime, from: TrackOrigin) {
    this.from = from;
    this.#runtime = runtime;
  }

  /** Sends notices to a subscriber: the current state, then each change. */
  async serve(track: TrackWriter, placesOf: () => number): Promise<void> {
    if (this.#notices === undefined) {
      // The newest notice contains the whole state.
      this.#notices = new LiveTrack({
        runtime: this.#runtime,
        maxCachedGroups: 1,
        maxLagGroups: 4,
      });
      this.#write(placesOf());
    }
    await this.#notices.serve(track);
  }

  /** Records a change of the broadcasts; subscribers receive a notice at the end of this turn. */
  changed(placesOf: () => number): void {
    if (this.#notices === undefined || this.#isChanged) return;
    this.#isChanged = true;
    this.#runtime.schedule(() => {
      this.#isChanged = false;
      if (this.#notices?.isClosed === false) this.#write(placesOf());
    });
  }

  end(): void {
    this.#notices?.close();
  }

  #write(places: number): void {
    const { paths, waiting, ignored, reason = null } = this;
    const notice: MoqRelayNotice = {
      relayed: paths.size,
      places,
      waiting: [...waiting.keys().take(MAX_NOTICE_PATHS)],
      waitingCount: waiting.size,
      ignored,
      reason,
    };
    using group = this.#notices!.openGroup();
    group.writeFrame(new TextEncoder().encode(JSON.stringify(notice)));
  }
}

const MAX_BROADCASTS = 100_000;

/**
 * The default maximum number of broadcasts of one address: one for each session that it may have.
 */
const MAX_BROADCASTS_PER_ADDRESS = 1_000;

const MAX_TRACKS = 10_000;

const MAX_TRACKS_PER_ADDRESS = 1_000;

/** The default maximum: an eighth of `maxFetches`. */
const MAX_FETCHES_PER_ADDRESS = 32;

/** The default maximum: half of it is room for the groups of 32 clients, 2 MiB each. */
const MAX_FETCH_BYTES = 134_217_728;

/** The default maximum: an eighth of `maxFetchBytes`. */
const MAX_FETCH_BYTES_PER_ADDRESS = 16_777_216;

/** The options for {@linkcode MoqRelay}. */
export interface MoqRelayOptions {
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * The mux of the sessions, which announces relayed broadcasts. The application's own publications
   * in this mux take precedence.
   *
   * @default {a new mux}
   */
  readonly mux?: TrackMux | undefined;
  /**
   * Prefix of relayed broadcasts; others are not relayed.
   *
   * @default {"/"}
   */
  readonly prefix?: string | undefined;
  /**
   * Allows sessions that dialed in to publish under any path without `authorize`.
   *
   * Without this option such announcements are rejected, whatever the client's address: behind a
   * proxy all clients seem to come from this machine.
   *
   * @default {false}
   */
  readonly allowAnonymousPublish?: boolean | undefined;
  /**
   * The time for which a track stays subscribed upstream, with a warm cache, after its last
   * subscriber has left, in milliseconds.
   *
   * @default {5000}
   */
  readonly lingerMs?: number | undefined;
  /**
   * The maximum number of broadcasts of all sessions. Further ones wait for a slot, at most as many
   * again; see {@linkcode relayNotices}.
   *
   * @default {100000}
   */
  readonly maxBroadcasts?: number | undefined;
  /**
   * The maximum number of relayed broadcasts whose first publisher came from one network address,
   * in contention. Further ones wait.
   *
   * An IPv6 /64 counts as one address. At most as many may wait. The default only applies while
   * more than half of `maxBroadcasts` are relayed.
   *
   * @default {1000}
   */
  readonly maxBroadcastsPerAddress?: number | undefined;
  /**
   * The maximum number of tracks subscribed upstream. A further track replaces one without
   * subscribers, or is rejected.
   *
   * @default {10000}
   */
  readonly maxTracks?: number | undefined;
  /**
   * The maximum number of these tracks whose first subscriber came from one network address, in
   * contention.
   *
   * An IPv6 /64 counts as one address. The default only applies while more than half of `maxTracks`
   * are subscribed.
   *
   * @default {1000}
   */
  readonly maxTracksPerAddress?: number | undefined;
  /**
   * The fraction of `maxBroadcasts` and of `maxTracks` that a session that dialed in may use, but
   * at least one each.
   *
   * As many broadcasts may wait. The fraction also applies to `maxFetches` and `maxFetchBytes`,
   * while more than half of them are in use. Sessions that this program dialed may use all slots.
   * `authorize` can grant a larger `share`, such as `{ share: 1 }` for another relay.
   *
   * @default {0.02}
   */
  readonly maxShare?: number | undefined;
  /**
   * The maximum number of concurrent requests to publishers, for groups or for the properties of a
   * track; further ones are rejected.
   *
   * A request without progress for `track.stallTimeoutMs` is ended.
   *
   * @default {256}
   */
  readonly maxFetches?: number | undefined;
  /**
   * The maximum number of these requests from one network address, in contention.
   *
   * An IPv6 /64 counts as one address. The default only applies while more than half of
   * `maxFetches` are running.
   *
   * @default {32}
   */
  readonly maxFetchesPerAddress?: number | undefined;
  /**
   * The maximum number of bytes of fetched groups that wait for their clients, besides 256 KiB of
   * each fetch.
   *
   * The relay reads a group ahead of its client, so that unread fetches do not delay the
   * publisher's live tracks. Beyond this limit, or beyond a share of it, one fetch of each publisher
   * may wait for its client: the one whose client was the last to take data. Others end with
   * `tooFarBehind`. Each frame counts for 128 bytes more.
   *
   * @default {134217728}
   */
  readonly maxFetchBytes?: number | undefined;
  /**
   * The maximum number of these bytes for clients at one network address, in contention.
   *
   * An IPv6 /64 counts as one address. The default only applies while more than half of
   * `maxFetchBytes` are in use.
   *
   * @default {16777216}
   */
  readonly maxFetchBytesPerAddress?: number | undefined;
  /** The limits of the fan-out of each track; see {@linkcode LiveTrackOptions}. */
  readonly track?: Omit<LiveTrackOptions, "runtime" | "info" | "onDemand"> | undefined;
  /**
   * Receives errors of broadcasts and announcements.
   *
   * A lack of slots is reported once per session and reason, until all broadcasts of the session
   * are relayed. By default, all other errors are ignored.
   *
   * @default {prints one line about sessions without `authorize`}
   */
  readonly onError?: ((error: unknown) => void) | undefined;
}

const OPTIONS: OptionKinds<MoqRelayOptions> = {
  allowAnonymousPublish: "boolean",
  lingerMs: COUNT,
  maxBroadcasts: POSITIVE,
  maxBroadcastsPerAddress: POSITIVE,
  maxFetchBytes: POSITIVE,
  maxFetchBytesPerAddress: POSITIVE,
  maxFetches: POSITIVE,
  maxFetchesPerAddress: POSITIVE,
  maxShare: SHARE,
  maxTracks: POSITIVE,
  maxTracksPerAddress: POSITIVE,
  mux: "object",
  onError: "function",
  prefix: "string",
  runtime: RUNTIME,
  track: TRACK,
};

/**
 * Relays the broadcasts of its sessions to each other.
 *
 * - **Once:** the relay subscribes to a track upstream for its first subscriber, with the highest
 *   priority of all subscribers, and unsubscribes `lingerMs` after the last one has left.
 * - **Fan-out:** a {@linkcode LiveTrack} holds each group once for all subscribers: late
 *   subscribers start at the newest group, fetches are handled from the cache first, and a stalled
 *   subscriber does not affect the others.
 * - **Routes:** if a broadcast has several sources, the relay uses the route with the fewest hops.
 *   If two routes to different publishers are equally short, it uses the newer one. If another
 *   route to the same publisher takes over, subscriptions stay. If another publisher takes over,
 *   subscribers see the broadcast end and start again.
 * - **Loops** are detected by the `hopId` of the mux, and rejected. Versions without hops cannot
 *   reveal loops, so relays must speak moq-lite-04 or -05 to each other. A source without hops may
 *   be an echo of this relay: it never replaces another source, and takes over only one second
 *   after that source has gone.
 * - **Untrusted sessions:** a session that dialed in may publish only if `authorize` allows it, and
 *   may use at most 2 % of the slots. A broadcast without a slot waits for one, and its publisher
 *   can read the reason: see {@linkcode relayNotices}.
 * - **Slow subscribers:** a subscriber that falls behind loses the oldest groups, explicitly. A
 *   subscription without progress is ended, and its session is closed if only that frees the
 *   memory.
 *
 * @example From a publisher to a subscriber
 * ```ts
 * import { MoqRelay, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using relay = new MoqRelay();
 * async function join(mux: TrackMux): Promise<MoqSession> {
 *   const pair = memoryPair({ protocol: "moq-lite-05" });
 *   const [mine, theirs] = await Promise.all([
 *     MoqSession.open(pair.client, { side: "client", mux }),
 *     MoqSession.open(pair.server, { side: "server", mux: relay.mux, authorize: () => true }),
 *   ]);
 *   void relay.accept(theirs);
 *   return mine;
 * }
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   await using group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 * });
 * await using _publisher = await join(mux);
 * await using subscriber = await join(new TrackMux());
 *
 * await using announcements = await subscriber.acceptAnnounce("/");
 * const announced = await announcements.next();
 * assertEquals([announced?.path, announced?.hops], ["/clock", [mux.hopId, relay.mux.hopId]]);
 * for await (const group of await subscriber.subscribe("/clock", "seconds")) {
 *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "12:00");
 * }
 * ```
 */
export class MoqRelay implements AsyncDisposable {
  /** Mux of the sessions; open sessions with this mux. */
  readonly mux: TrackMux;
  /** Prefix of relayed broadcasts. */
  readonly prefix: BroadcastPath;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @ignore
   */
  readonly runtime: Runtime;

  readonly #maxBroadcasts: number;
  readonly #capacity: RelayCapacity;
  readonly #routeLink: RelayRouteLink;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #allowsAnonymous: boolean;
  readonly #notices: Disposable;
  readonly #console: ConsoleReport;
  readonly #routes = new Map<BroadcastPath, RelayRoute>();
  readonly #sessions = new Map<SubscriberSession, RelayPeer>();
  /** Other relays of the cluster that hold broadcasts. */
  readonly #remotes = new Map<TrackOrigin, RelayPeer>();
  /** Peers with broadcasts that wait for a slot of the relay, next one first. */
  readonly #queue = new Set<RelayPeer>();
  #isFilling = false;
  #isClosed = false;

  /**
   * Creates a relay.
   *
   * @param options The limits of the relay, and its mux.
   * @throws {RangeError} If a limit is invalid, or the prefix is too long.
   */
  constructor(options: MoqRelayOptions = {}) {
    checkOptions("create relay", options, OPTIONS);
    const { runtime = platformRuntime(), mux = new TrackMux({ runtime }), prefix = "/" } = options;
    const { track = {}, onError } = options;
    const { lingerMs = 5_000, maxTracks = MAX_TRACKS, maxFetches = 256 } = options;
    const { maxBroadcasts = MAX_BROADCASTS, maxShare = 0.02 } = options;
    const { allowAnonymousPublish = false, maxBroadcastsPerAddress } = options;
    this.runtime = runtime;
    this.#console = new ConsoleReport(runtime);
    this.mux = mux;
    this.prefix = broadcastPath(prefix);
    this.#maxBroadcasts = maxBroadcasts;
    const quotas = mux.quotas = new Quotas(runtime);
    this.#capacity = new RelayCapacity(quotas, {
      maxBroadcasts,
      broadcastShares: sharesOf(
        { address: maxBroadcastsPerAddress },
        { address: MAX_BROADCASTS_PER_ADDRESS },
      ),
      maxTracks,
      maxFetches,
      fetchShares: sharesOf(
        { address: options.maxFetchesPerAddress },
        { address: MAX_FETCHES_PER_ADDRESS },
      ),
      maxFetchBytes: options.maxFetchBytes ?? MAX_FETCH_BYTES,
      fetchByteShares: sharesOf(
        { address: options.maxFetchBytesPerAddress },
        { address: MAX_FETCH_BYTES_PER_ADDRESS },
      ),
      maxShare,
      trackShares: sharesOf(
        { address: options.maxTracksPerAddress },
        { address: MAX_TRACKS_PER_ADDRESS },
      ),
    });
    this.#allowsAnonymous = allowAnonymousPublish;
    this.#onError = onError;
    this.#notices = mux.handle(NOTICES_PATH, {
      serveTrack: (track) => this.#serveNotices(track),
    });
    this.#routeLink = {
      runtime,
      mux,
      lingerMs,
      live: track,
      capacity: this.#capacity,
      paused: new WeakMap(),
      report: (error) => this.#report(error),
      onEmpty: (route) => {
        this.#routes.delete(route.path);
        this.#fillSoon();
      },
      onMoved: () => this.#fillSoon(),
    };
  }

  /** The current state of the relay. */
  get stats(): {
    readonly sessions: number;
    /** Broadcasts that a session announced, or that another relay of the cluster holds. */
    readonly broadcasts: number;
    /** Broadcasts that wait for a slot. */
    readonly waiting: number;
    /** Tracks subscribed upstream. */
    readonly tracks: number;
  } {
    return {
      sessions: this.#sessions.size,
      broadcasts: this.#routes.size,
      waiting: this.#capacity.waiting,
      tracks: this.#capacity.tracks,
    };
  }

  /**
   * Adds a session, as publisher and as subscriber. Call `accept` once for each session, dialed or
   * accepted. For a client that reconnects, use
   * `connectMoq(url, { mux: relay.mux, onSession: (session) => relay.accept(session) })`.
   *
   * @param session The session, opened with the relay's `mux`.
   * @returns Resolves when the session has closed; never rejects.
   * @throws {TypeError} If the session has another mux or was accepted before, or the relay is
   * closed.
   */
  accept(session: MoqSession): Promise<void> {
    if (session?.mux !== this.mux) {
      throw new TypeError("Cannot accept session: it must have the mux of the relay");
    }
    if (this.#sessions.has(session)) {
      throw new TypeError("Cannot accept session: it was accepted already");
    }
    if (this.#isClosed) throw new TypeError("Cannot accept session: the relay is closed");
    if (session.isClosed) return Promise.resolve();
    this.#sessions.set(session, new RelayPeer(this.runtime, session));
    session.signal.addEventListener("abort", () => this.#left(session), { once: true });
    return this.#follow(session);
  }

  /**
   * Adds a broadcast that another relay holds, or changes its route; called by
   * {@linkcode MoqCluster}.
   *
   * @ignore
   */
  addSource(path: BroadcastPath, source: RelaySource): void {
    if (this.#isClosed) return;
    const { session } = source;
    let peer = this.#remotes.get(session);
    if (peer === undefined) {
      this.#remotes.set(session, peer = new RelayPeer(this.runtime, session));
    }
    this.#add(peer, path, source);
  }

  /**
   * Removes a broadcast that another relay held.
   *
   * @ignore
   */
  removeSource(path: BroadcastPath, from: TrackOrigin): void {
    const peer = this.#remotes.get(from);
    if (peer === undefined) return;
    if (this.#stopWaiting(peer, path)) this.#queue.delete(peer);
    if (peer.paths.delete(path)) this.#routes.get(path)?.remove(from);
    if (peer.waiting.size > 0) this.#fillSoon(peer);
    else if (peer.paths.size === 0) this.#remotes.delete(from);
  }

  /**
   * Returns the source in use; `undefined` for a publication of the application, or an unknown
   * path.
   *
   * @ignore
   */
  sourceOf(path: BroadcastPath): RelaySource | undefined {
    return this.#routes.get(path)?.source;
  }

  /**
   * Tries to publish a broadcast again; called when another publication of the path has ended.
   *
   * @ignore
   */
  retry(path: BroadcastPath): void {
    this.#routes.get(path)?.retry();
  }

  /** Ends all relayed broadcasts; sessions stay open. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#notices[Symbol.dispose]();
    for (const peer of [...this.#sessions.values(), ...this.#remotes.values()]) {
      for (const path of peer.waiting.keys()) this.#stopWaiting(peer, path);
      peer.end();
    }
    this.#sessions.clear();
    this.#remotes.clear();
    this.#queue.clear();
    for (const route of [...this.#routes.values()]) route.close();
  }

  /** Ends all relayed broadcasts; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  async #follow(session: MoqSession): Promise<void> {
    try {
      const reader = await session.acceptAnnounce(this.prefix);
      for await (const announcement of reader) {
        if (this.#isClosed) break;
        this.#announced(session, announcement, reader);
      }
    } catch (error) {
      // A peer without announcements may reject the request.
      if (!session.isClosed) this.#report(error);
    }
    if (!session.isClosed) this.#forget(session);
    await session.closed;
  }

  #announced(
    session: MoqSession,
    { path, active, hops }: Announcement,
    reader: AnnouncementReader,
  ): void {
    const peer = this.#sessions.get(session);
    if (peer === undefined) return;
    if (active) {
      if (this.#mayPublish(session)) return this.#add(peer, path, { session, hops });
      this.#reject(peer, path, "anonymous");
      return reader.close("bannedPrefix");
    }
    if (this.#stopWaiting(peer, path)) return this.#updateNotice(peer);
    if (!peer.paths.delete(path)) return;
    if (peer.paths.size === 0 && peer.waiting.size === 0) peer.ignored = 0;
    // A broadcast that ends and starts in the same turn has changed its route.
    this.runtime.schedule(() => {
      const current = this.#sessions.get(session);
      if (current?.paths.has(path)) return;
      this.#routes.get(path)?.remove(session);
      if (current === undefined) return;
      if (current.waiting.size > 0) this.#fillSoon(current);
      this.#updateNotice(current);
    });
  }

  /** Returns `true` if a session may publish: the application decides, or no decision is needed. */
  #mayPublish(session: MoqSession): boolean {
    return session.side === "client" || session.hasAuthorize || this.#allowsAnonymous;
  }

  /** Returns the number of broadcasts that may come from a session, or from another relay. */
  #placesOf({ from }: RelayPeer): number {
    // The cluster limits the broadcasts of its relays.
    return "side" in from
      ? this.#capacity.shareOf(from as MoqSession, this.#maxBroadcasts)
      : this.#maxBroadcasts;
  }

  /**
   * Finds the limit that prevents a broadcast from being relayed; `undefined` if a slot is free.
   */
  #limitOf(peer: RelayPeer, path: BroadcastPath): RelayLimit | undefined {
    if (!peer.paths.has(path) && peer.paths.size >= this.#placesOf(peer)) return "share";
    if (this.#routes.has(path)) return undefined;
    return limitAt(this.#capacity.levelFull(peer.from));
  }

  /** Relays a broadcast, or queues it for a slot. */
  #add(peer: RelayPeer, path: BroadcastPath, source: RelaySource): void {
    const limit = this.#relay(peer, path, source);
    if (limit === undefined) {
      // The share of the session may have grown.
      if (peer.waiting.size > 0) this.#fillSoon(peer);
      return this.#updateNotice(peer);
    }
    if (!this.#wait(peer, path, source)) peer.ignored++;
    // A peer that uses its whole share is queued when one of its broadcasts ends.
    else if (limit !== "share") this.#queue.add(peer);
    this.#reject(peer, path, limit);
  }

  /** Relays a broadcast; returns the limit that prevents it, if any. */
  #relay(peer: RelayPeer, path: BroadcastPath, source: RelaySource): RelayLimit | undefined {
    const { paths, from: holder } = peer;
    if (!paths.has(path) && paths.size >= this.#placesOf(peer)) return "share";
    let route = this.#routes.get(path);
    if (route === undefined) {
      const slot = this.#capacity.takeBroadcast(holder);
      if (typeof slot === "string") return limitAt(slot);
      route = new RelayRoute(path, this.#routeLink, { slot, holder });
      this.#routes.set(path, route);
    }
    this.#stopWaiting(peer, path);
    paths.add(path);
    route.add(source);
    return undefined;
  }

  /** Lets a broadcast wait for a slot; returns `false` if it cannot. */
  #wait(peer: RelayPeer, path: BroadcastPath, source: RelaySource): boolean {
    const { waiting, from } = peer;
    const known = waiting.get(path);
    if (known !== undefined) {
      known.source = source;
      return true;
    }
    const hasShare = waiting.size < this.#placesOf(peer);
    const slot = hasShare ? this.#capacity.takeWait(from) : undefined;
    if (slot === undefined) return false;
    waiting.set(path, { source, slot });
    return true;
  }

  #stopWaiting({ waiting }: RelayPeer, path: BroadcastPath): boolean {
    waiting.get(path)?.slot[Symbol.dispose]();
    return waiting.delete(path);
  }

  /** Relays waiting broadcasts at the end of this turn, round-robin by session. */
  #fillSoon(peer?: RelayPeer): void {
    if (peer !== undefined) this.#queue.add(peer);
    if (this.#isFilling || this.#queue.size === 0) return;
    this.#isFilling = true;
    this.runtime.schedule(() => {
      this.#isFilling = false;
      if (!this.#isClosed) this.#fill();
    });
  }

  #fill(): void {
    // A peer that is added again is visited again, after the others.
    for (const peer of this.#queue) {
      const [next] = peer.waiting;
      const limit = next && this.#limitOf(peer, next[0]);
      if (limit === "full") return;
      if (limit === "address") continue; // Keeps its turn, without blocking other addresses.
      this.#queue.delete(peer);
      // A peer that uses its whole share is queued again when one of its broadcasts ends.
      if (next === undefined || limit === "share") continue;
      const [path, { source }] = next;
      this.#relay(peer, path, source);
      if (peer.waiting.size > 0) this.#queue.add(peer);
      this.#updateNotice(peer);
    }
  }

  /**
   * Reports a broadcast that is not relayed, to this application and to a publisher that subscribes
   * to notices.
   */
  #reject(
    peer: RelayPeer,
    path: BroadcastPath,
    limit: RelayLimit | "anonymous",
  ): void {
    const reason = limit === "address" ? "share" : limit;
    const isNew = peer.reason !== reason;
    peer.reason = reason;
    this.#updateNotice(peer);
    if (!isNew) return;
    const rule = {
      anonymous:
        "the session must have authorize, of listenMoq() or MoqSession.open(), or the relay allowAnonymousPublish",
      share: `its session already has ${this.#placesOf(peer)} broadcasts, see maxShare`,
      address: "its address already uses its share of the broadcasts, see maxBroadcastsPerAddress",
      full: `there are already ${this.#maxBroadcasts} broadcasts, see maxBroadcasts`,
    }[limit];
    const message = `Cannot relay ${path}: ${rule}`;
    if (reason === "anonymous" && this.#onError === undefined) {
      this.#console.tell("anonymous", message);
    }
    const name = {
      anonymous: "bannedPrefix",
      share: "sessionLimit",
      address: "addressLimit",
      full: "relayLimit",
    } as const;
    this.#report(new MoqError("announce", name[limit], message));
  }

  #updateNotice(peer: RelayPeer): void {
    if (peer.waiting.size === 0 && peer.ignored === 0 && peer.reason !== "anonymous") {
      peer.reason = undefined;
    }
    peer.changed(() => this.#placesOf(peer));
  }

  /** Sends a session the notices about its own broadcasts. */
  async #serveNotices(track: TrackWriter): Promise<void> {
    const peer = this.#sessions.get(track.session);
    if (peer === undefined || track.name !== NOTICES_TRACK) {
      return track.closeWithError("notFound");
    }
    await peer.serve(track, () => this.#placesOf(peer));
  }

  #left(session: MoqSession): void {
    this.#forget(session);
    this.#sessions.get(session)?.end();
    this.#sessions.delete(session);
  }

  #forget(session: MoqSession): void {
    const peer = this.#sessions.get(session);
    if (peer === undefined) return;
    const { paths, waiting } = peer;
    this.#queue.delete(peer);
    for (const path of waiting.keys()) this.#stopWaiting(peer, path);
    for (const path of paths) this.#routes.get(path)?.remove(session);
    paths.clear();
  }

  #report(error: unknown): void {
    reportTo(this.#onError, error);
  }
}

/** The limit of a relay that is reached at a level. */
function limitAt(level: LimitLevel | undefined): RelayLimit | undefined {
  if (level === undefined) return undefined;
  return level === "server" ? "full" : "address";
}
