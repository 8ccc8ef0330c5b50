/**
 * What a client is told about who is present in a topic. Notices for the topic
 * `chat:lobby` arrive as messages with the topic `presence:chat:lobby`.
 *
 * @module
 */

/** Topics of presence notices begin with it; the topic that they tell of follows. */
export const PRESENCE_PREFIX = "presence:";

/**
 * A user who is present in a topic, with one connection or several.
 *
 * @typeParam D The data with which users are present.
 */
export interface PresenceMember<D = unknown> {
  /** Who; what the server's `userOf` returned. */
  readonly user: string;
  /** How many of the user's sessions are in the topic; 0 while the user may still come back unnoticed. */
  readonly connections: number;
  /** When the first of them came, in milliseconds since the Unix epoch. */
  readonly joinedAt: number;
  /**
   * The data with which the user is present; absent where there is none. Of several sessions it is
   * that of the one which set it last.
   */
  readonly data?: D;
}

/**
 * Everyone who is present; the first notice after a subscription. In a large room they are several,
 * one after the other; the first of them begins a new list.
 *
 * @typeParam D The data with which users are present.
 */
export interface PresenceMembersNotice<D = unknown> {
  /** Tells the notices apart. */
  readonly type: "members";
  /** Everyone who is present, or some of them. */
  readonly members: readonly PresenceMember<D>[];
  /** Which part of the list this is, from 0; absent where it is all of it. */
  readonly page?: number;
  /** Whether another part follows. */
  readonly more?: true;
}

/**
 * A user's first connection came in.
 *
 * @typeParam D The data with which users are present.
 */
export interface PresenceJoinNotice<D = unknown> {
  /** Tells the notices apart. */
  readonly type: "join";
  /** Who came. */
  readonly user: string;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The data with which the user is present; absent where there is none. */
  readonly data?: D;
}

/**
 * The data of a user who is present is other than before.
 *
 * @typeParam D The data with which users are present.
 */
export interface PresenceUpdateNotice<D = unknown> {
  /** Tells the notices apart. */
  readonly type: "update";
  /** The user. */
  readonly user: string;
  /** When it changed, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The data now; absent where the user has none any more. */
  readonly data?: D;
}

/** A user's last connection has gone. */
export interface PresenceLeaveNotice {
  /** Tells the notices apart. */
  readonly type: "leave";
  /** Who went. */
  readonly user: string;
  /** When the user was declared absent, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** When the user was last connected; earlier than `at` by the grace period. */
  readonly lastSeenAt: number;
}

/**
 * Changes in a large room since the last notice, net effect only: users who came and went meanwhile
 * are not in it, and of several updates of a user it has the last.
 *
 * @typeParam D The data with which users are present.
 */
export interface PresenceChangesNotice<D = unknown> {
  /** Tells the notices apart. */
  readonly type: "changes";
  /** Users whose first connection came in, when, and with which data. */
  readonly joined: readonly Omit<PresenceJoinNotice<D>, "type">[];
  /** Users whose last connection has gone; see {@linkcode PresenceLeaveNotice}. */
  readonly left: readonly Omit<PresenceLeaveNotice, "type">[];
  /** Users whose data is other than before; see {@linkcode PresenceUpdateNotice}. */
  readonly updated?: readonly Omit<PresenceUpdateNotice<D>, "type">[];
}

/** How many users are present, in a room that tells no more than that. */
export interface PresenceCountNotice {
  /** Tells the notices apart. */
  readonly type: "count";
  /** How many. */
  readonly users: number;
}

/**
 * A presence notice; branch on `type`.
 *
 * @example Keeping a list of who is there, and with which data
 * ```ts
 * import type { PresenceNotice } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const present = new Map<string, unknown>();
 * function note(notice: PresenceNotice) {
 *   switch (notice.type) {
 *     case "members":
 *       // Not 0: the list goes on.
 *       if (!notice.page) present.clear();
 *       for (const { user, data } of notice.members) present.set(user, data);
 *       break;
 *     case "join":
 *     case "update":
 *       present.set(notice.user, notice.data);
 *       break;
 *     case "leave":
 *       present.delete(notice.user);
 *       break;
 *     case "changes": {
 *       const { joined, left, updated = [] } = notice;
 *       for (const { user } of left) present.delete(user);
 *       for (const { user, data } of [...joined, ...updated]) present.set(user, data);
 *     }
 *   }
 * }
 * note({ type: "members", members: [{ user: "ada", connections: 2, joinedAt: 0 }] });
 * note({ type: "join", user: "bob", at: 5 });
 * note({ type: "update", user: "bob", at: 6, data: "away" });
 * note({ type: "leave", user: "ada", at: 9, lastSeenAt: 8 });
 * note({ type: "changes", joined: [{ user: "eve", at: 10, data: "here" }], left: [] });
 * assertEquals([...present], [["bob", "away"], ["eve", "here"]]);
 * ```
 *
 * @typeParam D The data with which users are present: with a contract, what its `presence` says.
 */
export type PresenceNotice<D = unknown> =
  | PresenceMembersNotice<D>
  | PresenceJoinNotice<D>
  | PresenceUpdateNotice<D>
  | PresenceLeaveNotice
  | PresenceChangesNotice<D>
  | PresenceCountNotice;
