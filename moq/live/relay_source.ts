/** Sources of a relay's broadcasts, and their order. */
import type { MoqSession } from "../session/session.ts";
import { VERSIONS } from "../wire/versions.ts";

/** The origin of tracks: a session, or another relay that is dialed on demand. */
export interface TrackOrigin
  extends Pick<MoqSession, "version" | "isClosed" | "subscribe" | "fetch" | "trackInfo"> {
  /** Resolves when the session or relay has gone; never rejects. */
  readonly closed: Promise<unknown>;
}

/** Facts about a broadcast that another relay of the cluster holds. */
export interface RemoteBroadcast {
  /** The id of that relay's node. */
  readonly node: string;
  /** Start of the broadcast at that relay; increases from relay to relay. */
  readonly since: number;
  /** `true` if the announcement reached that relay without hops. */
  readonly isBlind: boolean;
}

export interface RelaySource {
  /** The session or relay that announced the broadcast. */
  readonly session: TrackOrigin;
  /** Relays on the route, before this one. */
  readonly hops: readonly bigint[];
  /**
   * Present if another relay of the cluster holds the broadcast; `undefined` if a session announced
   * it here.
   */
  readonly remote?: RemoteBroadcast | undefined;
}

/** Returns `true` if the hops of a source are known. A source without hops may be an echo. */
export function tellsHops({ session, remote }: RelaySource): boolean {
  return remote === undefined ? VERSIONS[session.version].hops : !remote.isBlind;
}

/**
 * Returns the distance to the publisher, in hops. The list of hops may or may not include the
 * publisher itself. A broadcast received from another relay always counts as farther away than a
 * broadcast announced here, so that two relays never fetch a broadcast from each other.
 */
export function distanceOf({ hops, remote }: RelaySource): number {
  return Math.max(remote === undefined ? 1 : 2, hops.length);
}

/** Returns `true` if two sources lead to the same publisher, as far as their hops tell. */
export function isSamePublisher(one: RelaySource, other: RelaySource): boolean {
  if (one === other) return true;
  return one.hops[0] !== undefined && one.hops[0] === other.hops[0];
}

/** Returns `true` if two sources passed the same relays. */
export function isSameWay(one: RelaySource, other: RelaySource): boolean {
  return one.hops.length === other.hops.length &&
    one.hops.every((hop, at) => hop === other.hops[at]);
}

/**
 * Orders sources by age, for `sort()`. Sources of other relays come first, in the same order on
 * every relay; sources announced here follow in order of arrival.
 *
 * @returns A number below 0 if the first source is older, above 0 if it is newer.
 */
export function byAge({ remote: one }: RelaySource, { remote: other }: RelaySource): number {
  if (one === undefined || other === undefined) return Number(!one) - Number(!other);
  return one.since - other.since || (one.node < other.node ? -1 : Number(one.node > other.node));
}
