/**
 * One broadcast of a relay: who has it, and who of them it is taken from.
 *
 * @module
 */
import { RelayTrack } from "./_relay_track.ts";
import {
  byAge,
  distanceOf,
  isSameOrigin,
  isSameWay,
  type RelayedFrom,
  type RelaySource,
  tellsHops,
} from "./relay_source.ts";
import { MoqError } from "../wire/errors.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import type { LiveTrackOptions } from "./live_track.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { FetchRequest, Publication, TrackMux, TrackServer } from "../track/mux.ts";
import type { BroadcastPath } from "../wire/path.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import type { SubscriberSession } from "../track/track_writer_link.ts";
import { VERSIONS } from "../wire/versions.ts";

/**
 * How long a broadcast is gone before it is taken from a source that tells no hops, in milliseconds.
 * Such a source may be an echo of this relay, and has so long to notice that the broadcast is gone.
 */
export const ECHO_HOLD_MS = 1_000;

/** Sources of one broadcast that are compared; more wait until one of them is gone. */
export const MAX_SOURCES = 64;

/** What a broadcast needs of its relay. */
export interface RelayRouteLink {
  /** Where it is published. */
  readonly mux: TrackMux;
  /** How long a track stays subscribed that nobody wants. */
  readonly lingerMs: number;
  /** What the fan-out of a track may hold. */
  readonly live: LiveTrackOptions;
  /** Counts one track more; not if there are too many that have subscribers. */
  takeTrack(): boolean;
  /** One less. */
  giveTrack(track: RelayTrack): void;
  /** A track lost its last subscriber, or has one again. */
  onIdle(track: RelayTrack, isIdle: boolean): void;
  /** Counts one track more for a session; not if it has its share already. */
  takeShare(session: SubscriberSession): boolean;
  /** One less. */
  giveShare(session: SubscriberSession): void;
  /** Counts one fetch more that is sent on; not if there are too many. */
  takeFetch(): boolean;
  /** One less. */
  giveFetch(): void;
  /** Gets what went wrong. */
  report(error: unknown): void;
  /** Called when it has no sources any more. */
  onEmpty(route: RelayRoute): void;
}

/** One broadcast of a relay. */
export class RelayRoute implements TrackServer {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** Subscribers are accepted once the source accepted. */
  readonly acceptsLater = true;

  readonly #link: RelayRouteLink;
  /** By age. */
  #sources: RelaySource[] = [];
  /** Sources beyond, the oldest first: one of each session at most. */
  readonly #waiting = new Map<RelayedFrom, RelaySource>();
  readonly #tracks = new Map<string, RelayTrack>();
  #active: RelaySource | undefined = undefined;
  #publication: Publication | undefined = undefined;
  #holdTimer: ReturnType<typeof setTimeout> | undefined = undefined;

  /** Begins without sources. */
  constructor(path: BroadcastPath, link: RelayRouteLink) {
    this.path = path;
    this.#link = link;
  }

  /** How many tracks are subscribed. */
  get trackCount(): number {
    return this.#tracks.size;
  }

  /** What it is taken from now. */
  get source(): RelaySource | undefined {
    return this.#active;
  }

  /** A session or another relay announced it, anew or by another way. */
  add(source: RelaySource): void {
    const old = this.#sources.find(({ session }) => session === source.session);
    if (old === undefined && this.#sources.length >= MAX_SOURCES) {
      this.#waiting.set(source.session, source);
      return;
    }
    this.#sources = this.#sources.filter((other) => other !== old);
    this.#sources.push(source);
    this.#sources.sort(byAge);
    // By the very same way: it ended, and began again.
    if (old !== undefined && old === this.#active && isSameWay(old, source)) this.#end();
    this.#decide();
  }

  /** A session or another relay does not have it any more. */
  remove(session: RelayedFrom): void {
    if (this.#waiting.delete(session)) return;
    const count = this.#sources.length;
    this.#sources = this.#sources.filter((source) => source.session !== session);
    if (this.#sources.length === count) return;
    const [next] = this.#waiting.values();
    if (next !== undefined) {
      this.#waiting.delete(next.session);
      this.#sources.push(next);
      this.#sources.sort(byAge);
    }
    this.#decide();
  }

  /** The path may be free now that was published by other means. */
  retry(): void {
    if (this.#active === undefined) this.#decide();
  }

  /** Ends it. */
  close(): void {
    this.#waiting.clear();
    this.#sources = [];
    this.#decide();
  }

  /** See {@linkcode TrackServer}. */
  async serveTrack(track: TrackWriter): Promise<void> {
    const { name, session } = track;
    let relayed = this.#tracks.get(name);
    const source = this.#active;
    if (relayed === undefined && source === undefined) return track.closeWithError("notFound");
    const count = relayed?.watchers.get(session) ?? 0;
    if (count === 0 && !this.#link.takeShare(session)) return track.closeWithError("internal");
    if (relayed === undefined) {
      if (!this.#link.takeTrack()) {
        this.#link.giveShare(session);
        return track.closeWithError("internal");
      }
      relayed = this.#trackOf(name, source!);
    }
    const { watchers } = relayed;
    watchers.set(session, count + 1);
    try {
      await relayed.serve(track);
    } finally {
      const left = watchers.get(session)! - 1;
      if (left > 0) watchers.set(session, left);
      else {
        watchers.delete(session);
        this.#link.giveShare(session);
      }
    }
  }

  /** See {@linkcode TrackServer}: from the cache, or from the source. */
  async serveFetch(request: FetchRequest, group: GroupWriter): Promise<void> {
    const { name, sequence, priority, signal } = request;
    const live = this.#tracks.get(name)?.live;
    if (live?.hasCached(sequence)) return await live.serveFetch(request, group);
    const session = this.#active?.session;
    if (session === undefined || !VERSIONS[session.version].requests || !this.#link.takeFetch()) {
      throw new MoqError(
        "fetch",
        "notFound",
        `Cannot fetch: group ${sequence} is not in the cache`,
      );
    }
    try {
      const reader = await session.fetch(this.path, name, { group: sequence, priority, signal });
      for await (const frame of reader) {
        const { timestamp } = reader;
        await group.writeFrame(frame, timestamp === undefined ? {} : { timestamp });
      }
    } finally {
      this.#link.giveFetch();
    }
  }

  /** See {@linkcode TrackServer}: what the source says. */
  async trackInfo(name: string): Promise<Partial<TrackInfoMessage>> {
    const session = this.#active?.session;
    if (session === undefined || !VERSIONS[session.version].timestamps) return {};
    return await session.trackInfo(this.path, name);
  }

  #trackOf(name: string, source: RelaySource): RelayTrack {
    const { lingerMs, live } = this.#link;
    const track = new RelayTrack({
      path: this.path,
      name,
      lingerMs,
      live,
      next: (failed) =>
        this.#sources.find((other) => isSameOrigin(other, source) && !failed.has(other)),
      onIdle: (idle, isIdle) => this.#link.onIdle(idle, isIdle),
      onOver: (ended) => {
        if (this.#tracks.get(name) === ended) this.#tracks.delete(name);
        this.#link.giveTrack(ended);
      },
    }, source);
    this.#tracks.set(name, track);
    return track;
  }

  #decide(): void {
    const best = this.#best();
    const active = this.#active;
    if (best !== undefined && active !== undefined && isSameOrigin(active, best)) {
      this.#active = best;
      if (best === active) return;
      for (const track of this.#tracks.values()) track.switchTo(best);
      if (!isSameWay(active, best)) this.#publication?.reannounce(best.hops);
      return;
    }
    if (best === active) return this.#checkEmpty();
    const wasThere = active !== undefined;
    this.#end();
    if (best !== undefined) {
      if (wasThere && !tellsHops(best)) this.#hold();
      else if (this.#holdTimer === undefined || tellsHops(best)) this.#begin(best);
    }
    this.#checkEmpty();
  }

  #begin(source: RelaySource): void {
    clearTimeout(this.#holdTimer);
    this.#holdTimer = undefined;
    this.#active = source;
    try {
      this.#publication = this.#link.mux.publish(this.path, this, { hops: source.hops });
    } catch (error) {
      // It is published here by other means, or there are too many.
      this.#active = undefined;
      this.#link.report(error);
    }
  }

  #end(): void {
    this.#active = undefined;
    this.#publication?.end();
    this.#publication = undefined;
    for (const track of [...this.#tracks.values()]) track.end("notFound");
  }

  #hold(): void {
    this.#holdTimer ??= setTimeout(() => {
      this.#holdTimer = undefined;
      this.#decide();
    }, ECHO_HOLD_MS);
  }

  #checkEmpty(): void {
    if (this.#sources.length > 0) return;
    clearTimeout(this.#holdTimer);
    this.#holdTimer = undefined;
    this.#link.onEmpty(this);
  }

  /**
   * The shortest chain of hops. Of two that are as short, the one in use if they lead to the same
   * publisher; otherwise the newer one: a publisher that was killed comes back before its old session is
   * known to be gone. At other relays the newer one is taken in any case: the publisher moved there.
   * One that tells no hops never replaces another.
   */
  #best(): RelaySource | undefined {
    let best = this.#active !== undefined && this.#sources.includes(this.#active)
      ? this.#active
      : undefined;
    const from = best === undefined ? -1 : this.#sources.indexOf(best);
    for (const [at, source] of this.#sources.entries()) {
      if (best !== undefined) {
        if (source === best || !tellsHops(source)) continue;
        const difference = distanceOf(source) - distanceOf(best);
        const isOther = source.far !== undefined || !isSameOrigin(source, best);
        const isNewer = at > from && (difference === 0 && isOther || !tellsHops(best));
        if (difference >= 0 && !isNewer) continue;
      }
      best = source;
    }
    return best;
  }
}
