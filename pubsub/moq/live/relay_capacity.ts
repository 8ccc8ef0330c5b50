/** Bounds of a relay on tracks and fetches, and the share of each session and address. */
import { type Place, Quota, type QuotaShares, socketOwner } from "../../../base/shares.ts";
import type { SubscriberSession } from "../track/track_writer.ts";
import type { RelayTrack } from "./relay_track.ts";

/** Bounds of a {@linkcode RelayCapacity}; see `MoqRelayOptions`. */
export interface RelayBounds {
  readonly maxTracks: number;
  /** Shares of the tracks. */
  readonly trackShares: QuotaShares;
  readonly maxFetches: number;
  readonly maxShare: number;
}

/** Counts the tracks and fetches of a relay, in total and by session. */
export class RelayCapacity {
  readonly #bounds: RelayBounds;
  /** Number of tracks by session. */
  readonly #tracksOf = new WeakMap<SubscriberSession, number>();
  /** Tracks without subscribers, the oldest first. */
  readonly #idle = new Set<RelayTrack>();
  readonly #tracks: Quota;
  #fetches = 0;

  constructor(bounds: RelayBounds) {
    this.#bounds = bounds;
    this.#tracks = new Quota({
      limit: "maxTracks",
      verb: "relay",
      what: "tracks",
      max: bounds.maxTracks,
      ...bounds.trackShares,
    });
  }

  /** Tracks subscribed upstream. */
  get tracks(): number {
    return this.#tracks.taken;
  }

  /** Returns the part of a total that a session may use: one at least. */
  shareOf({ side, share }: SubscriberSession, total: number): number {
    const part = share ?? (side === "client" ? 1 : this.#bounds.maxShare);
    return Math.max(1, Math.floor(part * total));
  }

  /**
   * Takes a place for one more track, in place of the oldest one without subscribers if there are
   * too many. The place counts for the address of the first subscriber.
   *
   * @param session The first subscriber.
   * @returns The place; `undefined` if too many tracks have subscribers, of all or of the address.
   */
  takeTrack({ address, share }: SubscriberSession): Place | undefined {
    if (this.tracks >= this.#bounds.maxTracks) {
      for (const track of this.#idle) {
        this.#idle.delete(track);
        if (track.endIfIdle()) break;
      }
    }
    // A session with a granted share, such as another relay, stands for many clients.
    const options = { ignoresShares: share !== undefined };
    const place = this.#tracks.tryTake(socketOwner(address ?? ""), options);
    return typeof place === "string" ? undefined : place;
  }

  /** Notes that a track has ended. */
  forget(track: RelayTrack): void {
    this.#idle.delete(track);
  }

  /** Notes that a track lost its last subscriber, or that another subscriber came. */
  setIdle(track: RelayTrack, isIdle: boolean): void {
    this.#idle.delete(track);
    if (isIdle) this.#idle.add(track);
  }

  /** Counts one more track of a session; `false` if the session has its share already. */
  takeShare(session: SubscriberSession): boolean {
    const count = this.#tracksOf.get(session) ?? 0;
    if (count >= this.shareOf(session, this.#bounds.maxTracks)) return false;
    this.#tracksOf.set(session, count + 1);
    return true;
  }

  /** Counts one track of a session less. */
  giveShare(session: SubscriberSession): void {
    this.#tracksOf.set(session, this.#tracksOf.get(session)! - 1);
  }

  /** Counts one more fetch that is sent upstream; `false` if there are too many. */
  takeFetch(): boolean {
    return this.#fetches < this.#bounds.maxFetches && ++this.#fetches > 0;
  }

  /** Counts one fetch less. */
  giveFetch(): void {
    this.#fetches--;
  }
}
