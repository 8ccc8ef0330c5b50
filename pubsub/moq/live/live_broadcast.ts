/**
 * A broadcast of live tracks.
 *
 * @module
 */
import { MoqError } from "../wire/errors.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import { LiveTrack, type LiveTrackOptions } from "./live_track.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { FetchRequest, TrackServer } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";

/** Options for {@linkcode LiveBroadcast}. */
export interface LiveBroadcastOptions {
  /**
   * Tracks at once.
   *
   * @default {1024}
   */
  readonly maxTracks?: number;
}

/**
 * Serves live tracks by their names; a name that is none of them is refused with `notFound`. Give it to
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
  readonly #maxTracks: number;
  readonly #tracks = new Map<string, LiveTrack>();

  /**
   * Creates a broadcast without tracks.
   *
   * @param options See {@linkcode LiveBroadcastOptions}.
   * @throws {RangeError} If `maxTracks` is not a positive integer.
   */
  constructor(options: LiveBroadcastOptions = {}) {
    const { maxTracks = 1_024 } = options;
    if (!Number.isInteger(maxTracks) || maxTracks < 1) {
      throw new RangeError(
        `Cannot create broadcast: maxTracks must be a positive integer, received ${maxTracks}`,
      );
    }
    this.#maxTracks = maxTracks;
  }

  /** The names of its tracks. */
  get names(): readonly string[] {
    return [...this.#tracks.keys()];
  }

  /**
   * Adds a track.
   *
   * @param name Its name.
   * @param options See {@linkcode LiveTrackOptions}.
   * @returns The track; write its groups.
   * @throws {TypeError} If there is one of this name already.
   * @throws {RangeError} If there are too many tracks, or a limit makes no sense.
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
    const track = new LiveTrack(options);
    this.#tracks.set(name, track);
    return track;
  }

  /**
   * Finds a track.
   *
   * @param name Its name.
   * @returns The track; `undefined` if there is none.
   */
  get(name: string): LiveTrack | undefined {
    return this.#tracks.get(name);
  }

  /**
   * Ends a track, and removes it.
   *
   * @param name Its name.
   * @returns Whether it was there.
   */
  remove(name: string): boolean {
    this.#tracks.get(name)?.close();
    return this.#tracks.delete(name);
  }

  /**
   * See {@linkcode TrackServer}.
   *
   * @param track The subscriber's track.
   * @returns Resolves when the subscriber is done.
   * @throws {MoqError} If the track ended with an error.
   */
  async serveTrack(track: TrackWriter): Promise<void> {
    const live = this.#tracks.get(track.name);
    // At once, before the subscriber is told that it was accepted.
    if (live === undefined) return track.closeWithError("notFound");
    await live.serve(track);
  }

  /**
   * See {@linkcode TrackServer}.
   *
   * @param request What is wanted.
   * @param group Where to write it.
   * @returns Resolves when it is written.
   * @throws {MoqError} If there is no such track, or its cache does not have the group.
   */
  async serveFetch(request: FetchRequest, group: GroupWriter): Promise<void> {
    await this.#require(request.name, "fetch").serveFetch(request, group);
  }

  /**
   * See {@linkcode TrackServer}.
   *
   * @param name The name of the track.
   * @returns What stays true of it.
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
