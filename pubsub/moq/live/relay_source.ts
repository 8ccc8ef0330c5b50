/**
 * Where a relay takes a broadcast from, and what makes one way better than another.
 *
 * @module
 */
import type { MoqSession } from "../session/session.ts";
import { VERSIONS } from "../wire/versions.ts";

/** Who is asked for tracks: a session, or another relay that is dialed once it is needed. */
export interface RelayedFrom
  extends Pick<MoqSession, "version" | "isClosed" | "subscribe" | "fetch" | "trackInfo"> {
  /** Resolves when nothing comes from there any more; never rejects. */
  readonly closed: Promise<unknown>;
}

/** What is known of a broadcast that another relay of the cluster holds. */
export interface FarBroadcast {
  /** Id of its node. */
  readonly node: string;
  /** When the broadcast began there; grows from relay to relay. */
  readonly since: number;
  /** Whether who announced it there told no hops. */
  readonly isBlind: boolean;
}

/** Where a broadcast comes from. */
export interface RelaySource {
  /** Who announced it. */
  readonly session: RelayedFrom;
  /** The relays that it passed before this one. */
  readonly hops: readonly bigint[];
  /** Another relay of the cluster holds it; `undefined` if a session announced it here. */
  readonly far?: FarBroadcast;
}

/**
 * Tells whether a source says by which relays it came. One that does not may be an echo.
 *
 * @param source The source.
 * @returns Whether it does.
 */
export function tellsHops({ session, far }: RelaySource): boolean {
  return far === undefined ? VERSIONS[session.version].hops : !far.isBlind;
}

/**
 * Measures how far a publisher is. It may stand in its hops itself, or not; but what another relay
 * holds is farther than what was announced here, always: so no two relays take it from each other.
 *
 * @param source The source.
 * @returns How many hops.
 */
export function distanceOf({ hops, far }: RelaySource): number {
  return Math.max(far === undefined ? 1 : 2, hops.length);
}

/**
 * Tells whether two sources lead to the same publisher, as far as hops tell.
 *
 * @param one A source.
 * @param other Another one.
 * @returns Whether they do.
 */
export function isSameOrigin(one: RelaySource, other: RelaySource): boolean {
  if (one === other) return true;
  return one.hops[0] !== undefined && one.hops[0] === other.hops[0];
}

/**
 * Tells whether two sources passed the same relays.
 *
 * @param one A source.
 * @param other Another one.
 * @returns Whether they did.
 */
export function isSameWay(one: RelaySource, other: RelaySource): boolean {
  return one.hops.length === other.hops.length &&
    one.hops.every((hop, at) => hop === other.hops[at]);
}

/**
 * Orders sources by age, for `sort()`. Those of other relays go first, in the order that every relay
 * sees; what was announced here follows in the order in which it came.
 *
 * @param one A source.
 * @param other Another one.
 * @returns Below 0 if the first one is older, above if it is newer.
 */
export function byAge({ far: one }: RelaySource, { far: other }: RelaySource): number {
  if (one === undefined || other === undefined) return Number(!one) - Number(!other);
  return one.since - other.since || (one.node < other.node ? -1 : Number(one.node > other.node));
}
