/** One broadcast of a relay: its sources, and the choice between them. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { startTimer, untilAborted } from "../../base/wait.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import type { FetchRequest, MoqPublication, TrackMux, TrackServer } from "../track/mux.ts";
import type { SubscriberSession, TrackWriter } from "../track/track_writer.ts";
import { MoqError } from "../wire/errors.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { VERSIONS } from "../wire/versions.ts";
import { type LiveTrackOptions, STALL_TIMEOUT_MS } from "./live_track.ts";
import type { Slot } from "../../base/quotas/shares.ts";
import type { RelayCapacity } from "./relay_capacity.ts";
import { type PausedFetches, RelayFetch } from "./relay_fetch.ts";
import {
  byAge,
  distanceOf,
  isSamePublisher,
  isSameWay,
  type RelaySource,
  tellsHops,
  type TrackOrigin,
} from "./relay_source.ts";
import { RelayTrack } from "./relay_track.ts";

/**
 * The delay between the end of a broadcast and a takeover by a source without hops, in
 * milliseconds. Such a source may be an echo of this relay, and has this long to notice that the
 * broadcast has ended.
 */
const ECHO_DELAY_MS = 1_000;

/**
 * The maximum number of compared sources of one broadcast; further sources wait until one has gone.
 */
const MAX_SOURCES = 64;

/** Collaborators and limits that all broadcasts of a relay share. */
export interface RelayRouteLink {
  readonly runtime: Runtime;
  /** Mux of the publication. */
  readonly mux: TrackMux;
  /** The time for which a track without subscribers stays subscribed, in milliseconds. */
  readonly lingerMs: number;
  /** The limits of the fan-out of a track. */
  readonly live: LiveTrackOptions;
  /** The limits for broadcasts, tracks and fetches. */
  readonly capacity: RelayCapacity;
  readonly paused: PausedFetches;
  report(error: unknown): void;
  /** Called when the last source has gone. */
  onEmpty(route: RelayRoute): void;
  /**
   * Called when the broadcast counts for another holder, which frees a slot of the previous one.
   */
  onMoved(): void;
}

/** A request for the fixed properties of a track, shared by all who ask at the same time. */
interface InfoRequest {
  readonly info: Promise<TrackInfoMessage>;
  /** Aborted when the last asker has left. */
  readonly asking: AbortController;
  askers: number;
}

export class RelayRoute implements TrackServer {
  readonly path: BroadcastPath;
  /** Subscribers are accepted after the source has accepted. */
  readonly acceptLater = true;

  readonly #link: RelayRouteLink;
  /** The slot of the broadcast, which counts for its holder. */
  readonly #slot: Slot;
  #holder: TrackOrigin;
  #sources: RelaySource[] = [];
  /** Sources beyond the limit, oldest first; at most one per session. */
  readonly #waiting = new Map<TrackOrigin, RelaySource>();
  readonly #tracks = new Map<string, RelayTrack>();
  readonly #infos = new Map<string, InfoRequest>();
  #active: RelaySource | undefined = undefined;
  #publication: MoqPublication | undefined = undefined;
  #takeoverTimer: Timer | undefined = undefined;

  constructor(
    path: BroadcastPath,
    link: RelayRouteLink,
    taken: { readonly slot: Slot; readonly holder: TrackOrigin },
  ) {
    this.path = path;
    this.#link = link;
    this.#slot = taken.slot;
    this.#holder = taken.holder;
  }

  /** The source in use. */
  get source(): RelaySource | undefined {
    return this.#active;
  }

  /** Adds a source, or replaces the source of the same session or relay. */
  add(source: RelaySource): void {
    const old = this.#sources.find(({ session }) => session === source.session);
    if (old === undefined && this.#sources.length >= MAX_SOURCES) {
      this.#waiting.set(source.session, source);
      return;
    }
    this.#sources = this.#sources.filter((other) => other !== old);
    this.#sources.push(source);
    this.#sources.sort(byAge);
    // The same route again: the broadcast ended and restarted.
    if (old !== undefined && old === this.#active && isSameWay(old, source)) this.#end();
    this.#decide();
  }

  /** Removes the source of a session or another relay. */
  remove(session: TrackOrigin): void {
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
    const [oldest] = this.#sources;
    if (session === this.#holder && oldest !== undefined) {
      this.#holder = oldest.session;
      this.#link.capacity.moveBroadcast(this.#slot, this.#holder);
      this.#link.onMoved();
    }
    this.#decide();
  }

  /** Tries to publish again; called when another publication of the path has ended. */
  retry(): void {
    if (this.#active === undefined) this.#decide();
  }

  close(): void {
    this.#waiting.clear();
    this.#sources = [];
    this.#decide();
  }

  /** Serves a subscriber from the relayed track of this name. */
  async serveTrack(track: TrackWriter): Promise<void> {
    const { name, session } = track;
    let relayed = this.#tracks.get(name);
    const source = this.#active;
    if (relayed === undefined && source === undefined) return track.closeWithError("notFound");
    const count = relayed?.watchers.get(session) ?? 0;
    if (count === 0 && !this.#link.capacity.takeShare(session)) {
      return track.closeWithError("sessionLimit");
    }
    if (relayed === undefined) {
      const slot = this.#link.capacity.takeTrack(session);
      if (typeof slot === "string") {
        this.#link.capacity.giveShare(session);
        return track.closeWithError(slot);
      }
      relayed = this.#trackOf(name, source!, slot);
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
        this.#link.capacity.giveShare(session);
      }
    }
  }

  /** Serves a fetch from the cache, or from the source. */
  async serveFetch(request: FetchRequest, group: GroupWriter): Promise<void> {
    const { name, sequence, signal } = request;
    const live = this.#tracks.get(name)?.live;
    if (live?.hasCached(sequence)) return await live.serveFetch(request, group);
    const source = this.#active?.session;
    if (source === undefined || !VERSIONS[source.version].requests) {
      throw new MoqError(
        "fetch",
        "notFound",
        `Cannot fetch: group ${sequence} is not in the cache`,
      );
    }
    using _slot = this.#takeFetch("fetch", request.session);
    // Aborting the group also aborts the signal.
    using stall = this.#startStall(() => group.abort("timeout"));
    using fetched = new RelayFetch(request, group, {
      runtime: this.#link.runtime,
      capacity: this.#link.capacity,
      paused: this.#link.paused,
      source,
      onProgress: stall.restart,
    });
    // A client's priority is for its own session: the source's live tracks must not wait for it.
    const reader = await source.fetch(this.path, name, { group: sequence, signal });
    for await (const frame of reader) await fetched.add(frame, reader.timestamp);
    await fetched.end();
  }

  /**
   * Requests the fixed properties of a track from the source, once for all who ask at the same time.
   */
  async trackInfo(
    name: string,
    { session, signal }: Pick<FetchRequest, "session" | "signal">,
  ): Promise<Partial<TrackInfoMessage>> {
    const source = this.#active?.session;
    if (source === undefined || !VERSIONS[source.version].timestamps) return {};
    let request = this.#infos.get(name);
    // No one joins a request that is being cancelled.
    if (request === undefined || request.asking.signal.aborted) {
      const slot = this.#takeFetch("subscribe", session);
      const asking = new AbortController();
      request = { asking, info: this.#askInfo(name, { source, slot, asking }), askers: 0 };
      this.#infos.set(name, request);
    }
    request.askers++;
    try {
      return await untilAborted(request.info, signal);
    } finally {
      if (--request.askers === 0) request.asking.abort(signal.reason);
    }
  }

  async #askInfo(
    name: string,
    { source, slot, asking }: {
      readonly source: TrackOrigin;
      readonly slot: Disposable;
      readonly asking: AbortController;
    },
  ): Promise<TrackInfoMessage> {
    using _slot = slot;
    using _stall = this.#startStall(() => {
      const message = `The source did not describe ${this.path} ${name} in time`;
      asking.abort(new MoqError("subscribe", "timeout", message));
    });
    try {
      return await source.trackInfo(this.path, name, { signal: asking.signal });
    } finally {
      if (this.#infos.get(name)?.asking === asking) this.#infos.delete(name);
    }
  }

  /** Takes a slot for a request to the source. */
  #takeFetch(scope: "fetch" | "subscribe", session: SubscriberSession): Disposable {
    const slot = this.#link.capacity.takeFetch(session);
    if (typeof slot !== "string") return slot;
    const message = "Cannot ask the source: too many requests are running";
    throw new MoqError(scope, slot, message);
  }

  /** Calls back once a request to the source has made no progress for `stallTimeoutMs`. */
  #startStall(onStall: () => void): Disposable & { restart(): void } {
    const { runtime, live: { stallTimeoutMs = STALL_TIMEOUT_MS } } = this.#link;
    const start = () => startTimer(runtime, stallTimeoutMs, onStall);
    let timer = start();
    return {
      restart() {
        runtime.clearTimeout(timer);
        timer = start();
      },
      [Symbol.dispose]: () => runtime.clearTimeout(timer),
    };
  }

  #trackOf(name: string, source: RelaySource, slot: Slot): RelayTrack {
    const { runtime, lingerMs, live } = this.#link;
    const track = new RelayTrack({
      runtime,
      path: this.path,
      name,
      lingerMs,
      live,
      next: (failed) =>
        this.#sources.find((other) => isSamePublisher(other, source) && !failed.has(other)),
      onIdle: (idle, isIdle) => this.#link.capacity.setIdle(idle, isIdle),
      onOver: (ended) => {
        if (this.#tracks.get(name) === ended) this.#tracks.delete(name);
        this.#link.capacity.forget(ended);
        slot[Symbol.dispose]();
      },
    }, source);
    this.#tracks.set(name, track);
    return track;
  }

  #decide(): void {
    const best = this.#best();
    const active = this.#active;
    if (best !== undefined && active !== undefined && isSamePublisher(active, best)) {
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
      if (wasThere && !tellsHops(best)) this.#delayTakeover();
      else if (this.#takeoverTimer === undefined || tellsHops(best)) this.#begin(best);
    }
    this.#checkEmpty();
  }

  #begin(source: RelaySource): void {
    this.#link.runtime.clearTimeout(this.#takeoverTimer);
    this.#takeoverTimer = undefined;
    this.#active = source;
    try {
      this.#publication = this.#link.mux.publish(this.path, this, { hops: source.hops });
    } catch (error) {
      // The path has another publication here, or the mux is full.
      this.#active = undefined;
      this.#link.report(error);
    }
  }

  #end(): void {
    this.#active = undefined;
    this.#publication?.end();
    this.#publication = undefined;
    for (const track of [...this.#tracks.values()]) track.end("notFound");
    const gone = new MoqError("subscribe", "notFound", `The broadcast ${this.path} has ended`);
    for (const { asking } of this.#infos.values()) asking.abort(gone);
  }

  #delayTakeover(): void {
    this.#takeoverTimer ??= this.#link.runtime.setTimeout(() => {
      this.#takeoverTimer = undefined;
      this.#decide();
    }, ECHO_DELAY_MS);
  }

  #checkEmpty(): void {
    if (this.#sources.length > 0) return;
    this.#link.runtime.clearTimeout(this.#takeoverTimer);
    this.#takeoverTimer = undefined;
    this.#slot[Symbol.dispose]();
    this.#link.onEmpty(this);
  }

  /**
   * Chooses the source with the fewest hops.
   *
   * If two routes to the same publisher are equally short, the current one stays. If their
   * publishers differ, the newer one is chosen, because a killed publisher may return before its
   * old session is known to be gone. A newer source at another relay is always chosen, because the
   * publisher moved there. A source without hops never replaces another source.
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
        const isOther = source.remote !== undefined || !isSamePublisher(source, best);
        const isNewer = at > from && (difference === 0 && isOther || !tellsHops(best));
        if (difference >= 0 && !isNewer) continue;
      }
      best = source;
    }
    return best;
  }
}
