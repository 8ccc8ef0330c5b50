/**
 * The limits of a relay for broadcasts, tracks and fetches, and the share of each session and
 * address.
 */
import type { LimitLevel } from "../../errors.ts";
import { type Account, NOBODY, socketAccount } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas, QuotaShares, Slot } from "../../base/quotas/shares.ts";
import type { SubscriberSession } from "../track/track_writer.ts";
import type { TrackOrigin } from "./relay_source.ts";
import type { RelayTrack } from "./relay_track.ts";

/** The unit in which a fetch takes memory, in bytes. */
export const FETCH_BLOCK_BYTES = 65_536;

/** The limits of a {@linkcode RelayCapacity}; see `MoqRelayOptions`. */
export interface RelayBounds {
  readonly maxBroadcasts: number;
  /** Shares of the relayed and of the waiting broadcasts. */
  readonly broadcastShares: QuotaShares;
  readonly maxTracks: number;
  readonly trackShares: QuotaShares;
  readonly maxFetches: number;
  readonly fetchShares: QuotaShares;
  readonly maxFetchBytes: number;
  readonly fetchByteShares: QuotaShares;
  readonly maxShare: number;
}

/** Counts the broadcasts, tracks and fetches of a relay, in total, by address and by session. */
export class RelayCapacity {
  readonly #bounds: RelayBounds;
  readonly #tracksOf = new WeakMap<SubscriberSession, number>();
  readonly #fetchesOf = new WeakMap<SubscriberSession, number>();
  readonly #fetchBytesOf = new WeakMap<SubscriberSession, number>();
  /** Tracks without subscribers, oldest first. */
  readonly #idle = new Set<RelayTrack>();
  readonly #accounts = new WeakMap<SubscriberSession, Account>();
  readonly #broadcasts: Quota;
  readonly #waiting: Quota;
  readonly #tracks: Quota;
  readonly #fetches: Quota;
  readonly #fetchBytes: Quota;

  constructor(quotas: Quotas, bounds: RelayBounds) {
    this.#bounds = bounds;
    const { maxBroadcasts: max, broadcastShares, maxTracks, trackShares } = bounds;
    const broadcasts = { limit: "maxBroadcasts", verb: "relay", max, ...broadcastShares };
    this.#broadcasts = quotas.open({
      ...broadcasts,
      name: "moq.maxBroadcasts",
      what: "broadcasts",
    });
    this.#waiting = quotas.open({
      ...broadcasts,
      name: "moq.waitingBroadcasts",
      what: "broadcasts that wait",
    });
    this.#tracks = quotas.open({
      limit: "maxTracks",
      name: "moq.maxTracks",
      verb: "relay",
      what: "tracks",
      max: maxTracks,
      ...trackShares,
    });
    this.#fetches = quotas.open({
      limit: "maxFetches",
      name: "moq.maxFetches",
      verb: "fetch",
      what: "upstream requests",
      max: bounds.maxFetches,
      ...bounds.fetchShares,
    });
    this.#fetchBytes = quotas.open({
      limit: "maxFetchBytes",
      name: "moq.maxFetchBytes",
      verb: "fetch",
      what: "bytes of fetched groups",
      max: bounds.maxFetchBytes,
      ...bounds.fetchByteShares,
    });
  }

  /** Broadcasts that wait for a slot. */
  get waiting(): number {
    return this.#waiting.taken;
  }

  /** Tracks subscribed upstream. */
  get tracks(): number {
    return this.#tracks.taken;
  }

  /**
   * Returns the level at which no slot is free for another broadcast; `undefined` if one is free.
   */
  levelFull(from: TrackOrigin): LimitLevel | undefined {
    return this.#broadcasts.levelFull(this.#accountOf(from));
  }

  /** Takes a slot for another broadcast, or returns the level at which none is free. */
  takeBroadcast(from: TrackOrigin): Slot | LimitLevel {
    return this.#broadcasts.tryTake(this.#accountOf(from));
  }

  /** Counts a broadcast for another source after its first one has gone. */
  moveBroadcast(slot: Slot, to: TrackOrigin): void {
    slot.change(this.#accountOf(to), { ignoresShares: true });
  }

  /** Takes a slot for a waiting broadcast; `undefined` if none is free. */
  takeWait(from: TrackOrigin): Slot | undefined {
    const slot = this.#waiting.tryTake(this.#accountOf(from));
    return typeof slot === "string" ? undefined : slot;
  }

  /** Returns the part of a total that a session may use: at least one. */
  shareOf({ side, share }: SubscriberSession, total: number): number {
    const part = share ?? (side === "client" ? 1 : this.#bounds.maxShare);
    return Math.max(1, Math.floor(part * total));
  }

  /**
   * Takes a slot for another track. If there are too many, the oldest track without subscribers is
   * ended. The slot is counted against the address of the first subscriber.
   *
   * @param session The first subscriber.
   * @returns The slot, or the reason why there is none: too many tracks have subscribers, in total
   * or for the address.
   */
  takeTrack(session: SubscriberSession): Slot | "addressLimit" | "relayLimit" {
    if (this.tracks >= this.#bounds.maxTracks) {
      for (const track of this.#idle) {
        this.#idle.delete(track);
        if (track.endIfIdle()) break;
      }
    }
    const slot = this.#tracks.tryTake(this.#accountOf(session));
    if (typeof slot !== "string") return slot;
    return slot === "server" ? "relayLimit" : "addressLimit";
  }

  /** The account of a slot; `NOBODY` for a peer that may represent many clients. */
  #accountOf(from: TrackOrigin | SubscriberSession): Account {
    // The cluster bounds the broadcasts of its relays.
    if (!("side" in from)) return NOBODY;
    const session = from as SubscriberSession;
    const { address = "", share, side } = session;
    if (share !== undefined || side === "client") return NOBODY;
    let account = this.#accounts.get(session);
    if (account === undefined) this.#accounts.set(session, account = socketAccount(address));
    return account;
  }

  /** Records that a track has ended. */
  forget(track: RelayTrack): void {
    this.#idle.delete(track);
  }

  /** Records that a track lost its last subscriber, or got another one. */
  setIdle(track: RelayTrack, isIdle: boolean): void {
    this.#idle.delete(track);
    if (isIdle) this.#idle.add(track);
  }

  /** Counts another track of a session; `false` if the session already uses its share. */
  takeShare(session: SubscriberSession): boolean {
    const count = this.#tracksOf.get(session) ?? 0;
    if (count >= this.shareOf(session, this.#bounds.maxTracks)) return false;
    this.#tracksOf.set(session, count + 1);
    return true;
  }

  /** Counts one track less for a session. */
  giveShare(session: SubscriberSession): void {
    this.#tracksOf.set(session, this.#tracksOf.get(session)! - 1);
  }

  /**
   * Takes a slot for another fetch, or another request for the properties of a track, to the
   * source.
   *
   * @param session The session of the client.
   * @returns The slot, or the reason why there is none. The share of a session only applies while
   * more than half of the slots are in use, so that one client can fetch many groups from an idle
   * relay.
   */
  takeFetch(
    session: SubscriberSession,
  ): Disposable | "sessionLimit" | "addressLimit" | "relayLimit" {
    const slot = this.#takeOf(this.#fetches, session, {
      counts: this.#fetchesOf,
      max: this.#bounds.maxFetches,
      units: 1,
    });
    if (typeof slot !== "string") return slot;
    return slot === "server" ? "relayLimit" : `${slot}Limit`;
  }

  /**
   * Takes memory for {@linkcode FETCH_BLOCK_BYTES} of a fetched group.
   *
   * @param session The session of the client.
   * @returns The memory; `undefined` if there is none, in total or for the client. The share of a
   * session only applies while more than half of the memory is in use.
   */
  takeFetchBlock(session: SubscriberSession): Disposable | undefined {
    const block = this.#takeOf(this.#fetchBytes, session, {
      counts: this.#fetchBytesOf,
      max: this.#bounds.maxFetchBytes,
      units: FETCH_BLOCK_BYTES,
    });
    return typeof block === "string" ? undefined : block;
  }

  /** Takes units of a quota, of which a session gets its share in contention. */
  #takeOf(
    quota: Quota,
    session: SubscriberSession,
    { counts, max, units }: {
      readonly counts: WeakMap<SubscriberSession, number>;
      readonly max: number;
      readonly units: number;
    },
  ): Disposable | "session" | "address" | "server" {
    const count = counts.get(session) ?? 0;
    const share = this.shareOf(session, max);
    if (quota.isContended && count + units > share) return "session";
    const slot = quota.tryTake(this.#accountOf(session), { units });
    if (typeof slot === "string") return slot === "server" ? "server" : "address";
    counts.set(session, count + units);
    return {
      [Symbol.dispose]: () => {
        slot[Symbol.dispose]();
        counts.set(session, counts.get(session)! - units);
      },
    };
  }
}
