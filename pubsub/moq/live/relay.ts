/**
 * A relay: what its sessions announce, it announces; what is asked of it, it asks once, and hands on to all.
 *
 * @module
 */
import { platformSchedule } from "../../../session/schedule.ts";
import { RelayRoute, type RelayRouteLink } from "./_relay_route.ts";
import type { RelayedFrom, RelaySource } from "./relay_source.ts";
import type { Announcement } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import type { LiveTrackOptions } from "./live_track.ts";
import { TrackMux } from "../track/mux.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";
import type { MoqSession } from "../session/session.ts";

/** Options for {@linkcode MoqRelay}. */
export interface MoqRelayOptions {
  /**
   * What its sessions are served from, and where what it relays is announced; what is published there by
   * other means goes first. One of its own by default.
   */
  readonly mux?: TrackMux;
  /**
   * What of its peers' broadcasts is relayed: those below this prefix.
   *
   * @default {"/"}
   */
  readonly prefix?: string;
  /**
   * How long a track stays subscribed upstream, and its cache warm, after its last subscriber left, in
   * milliseconds.
   *
   * @default {5000}
   */
  readonly lingerMs?: number;
  /**
   * Broadcasts of all sessions; those beyond are not relayed.
   *
   * @default {100000}
   */
  readonly maxBroadcasts?: number;
  /**
   * Tracks that are subscribed upstream at once; one more is refused.
   *
   * @default {10000}
   */
  readonly maxTracks?: number;
  /**
   * Fetches that are sent on upstream at once; one more is refused.
   *
   * @default {256}
   */
  readonly maxFetches?: number;
  /** What the fan-out of each track may hold; see {@linkcode LiveTrackOptions}. */
  readonly track?: Omit<LiveTrackOptions, "info" | "onDemand">;
  /** Gets what went wrong with a broadcast or an announcement. Lost by default. */
  readonly onError?: (error: unknown) => void;
}

/** What a relay does now. */
export interface MoqRelayStats {
  /** Sessions. */
  readonly sessions: number;
  /** Broadcasts that a session announced, or another relay of the cluster holds. */
  readonly broadcasts: number;
  /** Tracks that are subscribed upstream. */
  readonly tracks: number;
}

/**
 * Relays the broadcasts of its sessions to each other.
 *
 * - **Once:** a track is subscribed upstream at its first subscriber, with the highest priority of them all,
 *   and unsubscribed `lingerMs` after the last one left.
 * - **Fan-out:** each group is held once for all subscribers, by a {@linkcode LiveTrack}: late ones begin at
 *   the newest group, fetches are answered from the cache first, and who stalls harms nobody.
 * - **Ways:** of several sources of a broadcast the shortest chain of hops is taken; of two that are as short and
 *   lead to two publishers, the newer one. Where another way to the same publisher takes over,
 *   subscriptions stay; where it is another publisher, subscribers see the broadcast end and begin again.
 * - **Loops** are refused by the `hopId` of the mux. In versions without hops nobody can see them: relays
 *   speak moq-lite-04 or -05 to each other. A source without hops never replaces another one, and takes
 *   over a second after that is gone: it may be an echo of this relay.
 * - **Behind:** a subscriber that falls behind loses the oldest groups, explicitly; one that takes nothing
 *   is ended, and, where only that frees what it holds, so is its session.
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
 *     MoqSession.open(pair.server, { side: "server", mux: relay.mux }),
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
  /** What its sessions are served from; open them with it. */
  readonly mux: TrackMux;
  /** What of its peers' broadcasts is relayed: those below it. */
  readonly prefix: BroadcastPath;

  readonly #maxBroadcasts: number;
  readonly #maxTracks: number;
  readonly #maxFetches: number;
  readonly #routeLink: RelayRouteLink;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #schedule = platformSchedule();
  readonly #routes = new Map<BroadcastPath, RelayRoute>();
  readonly #sessions = new Map<MoqSession, Set<BroadcastPath>>();
  #tracks = 0;
  #fetches = 0;
  #isClosed = false;

  /**
   * Creates a relay without sessions.
   *
   * @param options See {@linkcode MoqRelayOptions}.
   * @throws {RangeError} If a limit makes no sense, or the prefix is too long.
   */
  constructor(options: MoqRelayOptions = {}) {
    const { mux = new TrackMux(), prefix = "/", track = {}, onError } = options;
    const { lingerMs = 5_000, maxTracks = 10_000, maxFetches = 256 } = options;
    const { maxBroadcasts = 100_000 } = options;
    const limits = { lingerMs, maxBroadcasts, maxTracks, maxFetches };
    for (const [name, value] of Object.entries(limits)) {
      const least = name === "lingerMs" ? 0 : 1;
      if (Number.isInteger(value) && value >= least) continue;
      throw new RangeError(
        `Cannot create relay: ${name} must be an integer of at least ${least}, received ${value}`,
      );
    }
    this.mux = mux;
    this.prefix = broadcastPath(prefix);
    this.#maxBroadcasts = maxBroadcasts;
    this.#maxTracks = maxTracks;
    this.#maxFetches = maxFetches;
    this.#onError = onError;
    this.#routeLink = {
      mux,
      lingerMs,
      live: track,
      takeTrack: () => this.#tracks < this.#maxTracks && ++this.#tracks > 0,
      giveTrack: () => void this.#tracks--,
      takeFetch: () => this.#fetches < this.#maxFetches && ++this.#fetches > 0,
      giveFetch: () => void this.#fetches--,
      report: (error) => this.#report(error),
      onEmpty: (route) => void this.#routes.delete(route.path),
    };
  }

  /** What it does now. */
  get stats(): MoqRelayStats {
    return {
      sessions: this.#sessions.size,
      broadcasts: this.#routes.size,
      tracks: this.#tracks,
    };
  }

  /**
   * Takes a session in, as publisher and as subscriber: once for each, whoever dialed. Those of a
   * client that comes back are taken with `connectMoq(url, { mux: relay.mux, onSession: (session) =>
   * relay.accept(session) })`.
   *
   * @param session The session; it was opened with the relay's `mux`.
   * @returns Resolves when the session is over; never rejects.
   * @throws {TypeError} If it has another mux or was taken in already, or the relay is closed.
   */
  accept(session: MoqSession): Promise<void> {
    if (session.mux !== this.mux) {
      throw new TypeError("Cannot accept session: it must have the mux of the relay");
    }
    if (this.#sessions.has(session)) {
      throw new TypeError("Cannot accept session: it was accepted already");
    }
    if (this.#isClosed) throw new TypeError("Cannot accept session: the relay is closed");
    if (session.isClosed) return Promise.resolve();
    this.#sessions.set(session, new Set());
    session.signal.addEventListener("abort", () => this.#left(session), { once: true });
    return this.#follow(session);
  }

  /**
   * Takes a broadcast in that another relay holds, anew or by another way; a {@linkcode MoqCluster} does.
   *
   * @ignore
   */
  addSource(path: BroadcastPath, source: RelaySource): void {
    if (!this.#isClosed) this.#routeOf(path)?.add(source);
  }

  /**
   * Another relay does not have it any more.
   *
   * @ignore
   */
  removeSource(path: BroadcastPath, from: RelayedFrom): void {
    this.#routes.get(path)?.remove(from);
  }

  /**
   * What a broadcast is taken from now; `undefined` if it is published by other means, or not at all.
   *
   * @ignore
   */
  sourceOf(path: BroadcastPath): RelaySource | undefined {
    return this.#routes.get(path)?.source;
  }

  /**
   * A broadcast may be free now that was published by other means.
   *
   * @ignore
   */
  retry(path: BroadcastPath): void {
    this.#routes.get(path)?.retry();
  }

  /** Ends all that is relayed; sessions stay open. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const route of [...this.#routes.values()]) route.close();
    this.#sessions.clear();
  }

  /** Ends all that is relayed; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  async #follow(session: MoqSession): Promise<void> {
    try {
      const reader = await session.acceptAnnounce(this.prefix);
      for await (const announcement of reader) {
        if (this.#isClosed) break;
        this.#announced(session, announcement);
      }
    } catch (error) {
      // A peer may have nothing to announce.
      if (!session.isClosed) this.#report(error);
    }
    if (!session.isClosed) this.#forget(session);
    await session.closed;
  }

  #announced(session: MoqSession, { path, active, hops }: Announcement): void {
    const paths = this.#sessions.get(session);
    if (paths === undefined) return;
    if (active) {
      const route = this.#routeOf(path);
      if (route === undefined) return;
      paths.add(path);
      return route.add({ session, hops });
    }
    paths.delete(path);
    // What ends and begins in the same turn comes by another way.
    this.#schedule(() => {
      if (!this.#sessions.get(session)?.has(path)) this.#routes.get(path)?.remove(session);
    });
  }

  /** The route of a broadcast, made if need be; `undefined` if there are too many. */
  #routeOf(path: BroadcastPath): RelayRoute | undefined {
    let route = this.#routes.get(path);
    if (route !== undefined) return route;
    if (this.#routes.size >= this.#maxBroadcasts) {
      const message = `Cannot relay ${path}: there are ${this.#maxBroadcasts} broadcasts already`;
      this.#report(new MoqError("announce", "internal", message));
      return undefined;
    }
    route = new RelayRoute(path, this.#routeLink);
    this.#routes.set(path, route);
    return route;
  }

  #left(session: MoqSession): void {
    this.#forget(session);
    this.#sessions.delete(session);
  }

  #forget(session: MoqSession): void {
    const paths = this.#sessions.get(session);
    if (paths === undefined) return;
    for (const path of paths) this.#routes.get(path)?.remove(session);
    paths.clear();
  }

  #report(error: unknown): void {
    try {
      this.#onError?.(error);
    } catch {
      // There is nobody left to tell.
    }
  }
}
