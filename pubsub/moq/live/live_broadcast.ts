/** A broadcast of live tracks. */
import { platformRuntime, type Runtime } from "../../../base/runtime.ts";
import { MoqError } from "../wire/errors.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import { LiveTrack, type LiveTrackOptions } from "./live_track.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { FetchRequest, TrackServer } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";

/** Options for {@linkcode LiveBroadcast}. */
export interface LiveBroadcastOptions {
  /**
   * Clocks, timers and randomness of this node, for all tracks.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime;
  /**
   * Most tracks at once.
   *
   * @default {1024}
   */
  readonly maxTracks?: number;
}

/**
 * Serves live tracks by their names; other names are refused with `notFound`. Pass the broadcast to
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
   * Creates a broadcast without tracks.
   *
   * @param options The limit on tracks.
   * @throws {RangeError} If `maxTracks` is not a positive integer.
   */
  constructor(options: LiveBroadcastOptions = {}) {
    const { runtime = platformRuntime(), maxTracks = 1_024 } = options;
    if (!Number.isInteger(maxTracks) || maxTracks < 1) {
      throw new RangeError(
        `Cannot create broadcast: maxTracks must be a positive integer, received ${maxTracks}`,
      );
    }
    this.#runtime = runtime;
    this.#maxTracks = maxTracks;
  }

  /** Names of the tracks. */
  get names(): readonly string[] {
    return [...this.#tracks.keys()];
  }

  /**
   * Adds a track.
   *
   * @param name Name of the track.
   * @param options Limits of the track.
   * @returns The track, ready for groups.
   * @throws {TypeError} If the broadcast has a track of this name already.
   * @throws {RangeError} If there are too many tracks, or a limit is invalid.
   */
  track(name: string, options: LiveTrackOptions = {}): LiveTrack {
    if (this.#tracks.has(name)) {
      throw new TypeError(`Cannot add track: its name must be new, received "${name}"`);
    }
    if (this.#tracks.size >= this.#maxTracks) {
      throw new RangeError(
        `Cannot add track: there are ${this.#maxTracks} already, see maxTracks`,
      );
    }
    const track = new LiveTrack({ runtime: this.#runtime, ...options });
    this.#tracks.set(name, track);
    return track;
  }

  /**
   * Finds a track.
   *
   * @param name Name of the track.
   * @returns The track; `undefined` if there is no track of this name.
   */
  get(name: string): LiveTrack | undefined {
    return this.#tracks.get(name);
  }

  /**
   * Ends and removes a track.
   *
   * @param name Name of the track.
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
  async serveTrack(track: TrackWriter): Promise<void> {
    const live = this.#tracks.get(track.name);
    // Close in the same turn, before the subscriber is accepted.
    if (live === undefined) return track.closeWithError("notFound");
    await live.serve(track);
  }

  /**
   * Answers a fetch; called by the mux.
   *
   * @param request The requested group.
   * @param group Writer of the answer.
   * @returns Resolves when the group is written.
   * @throws {MoqError} If there is no such track, or the group is not in the cache.
   */
  async serveFetch(request: FetchRequest, group: GroupWriter): Promise<void> {
    await this.#require(request.name, "fetch").serveFetch(request, group);
  }

  /**
   * Returns the fixed properties of a track; called by the mux.
   *
   * @param name Name of the track.
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
