/**
 * What a client is told about who is present in a topic. Notices for the topic
 * `chat:lobby` arrive as messages with the topic `presence:chat:lobby`.
 *
 * @module
 */

/** Topics of presence notices begin with it; the topic that they tell of follows. */
export const PRESENCE_PREFIX = "presence:";

/** A user who is present in a topic, with one connection or several. */
export interface PresenceMember {
  /** Who; what the server's `userOf` returned. */
  readonly user: string;
  /** How many of the user's sessions are in the topic; 0 while the user may still come back unnoticed. */
  readonly connections: number;
  /** When the first of them came, in milliseconds since the Unix epoch. */
  readonly joinedAt: number;
}

/**
 * Everyone who is present; the first notice after a subscription. In a large room they are several,
 * one after the other; the first of them begins a new list.
 */
export interface PresenceMembersNotice {
  /** Tells the notices apart. */
  readonly type: "members";
  /** Everyone who is present, or some of them. */
  readonly members: readonly PresenceMember[];
  /** Which part of the list this is, from 0; absent where it is all of it. */
  readonly page?: number;
  /** Whether another part follows. */
  readonly more?: true;
}

/** A user's first connection came in. */
export interface PresenceJoinNotice {
  /** Tells the notices apart. */
  readonly type: "join";
  /** Who came. */
  readonly user: string;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
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

/** Who came and went in a large room since the last notice; who did both is not in it. */
export interface PresenceChangesNotice {
  /** Tells the notices apart. */
  readonly type: "changes";
  /** Users whose first connection came in, and when. */
  readonly joined: readonly Pick<PresenceJoinNotice, "user" | "at">[];
  /** Users whose last connection has gone; see {@linkcode PresenceLeaveNotice}. */
  readonly left: readonly Pick<PresenceLeaveNotice, "user" | "at" | "lastSeenAt">[];
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
 * @example Keeping a list of who is there
 * ```ts
 * import type { PresenceNotice } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const present = new Set<string>();
 * function note(notice: PresenceNotice) {
 *   switch (notice.type) {
 *     case "members":
 *       // Not 0: the list goes on.
 *       if (!notice.page) present.clear();
 *       for (const { user } of notice.members) present.add(user);
 *       break;
 *     case "join":
 *       present.add(notice.user);
 *       break;
 *     case "leave":
 *       present.delete(notice.user);
 *       break;
 *     case "changes":
 *       for (const { user } of notice.joined) present.add(user);
 *       for (const { user } of notice.left) present.delete(user);
 *   }
 * }
 * note({ type: "members", members: [{ user: "ada", connections: 2, joinedAt: 0 }] });
 * note({ type: "join", user: "bob", at: 5 });
 * note({ type: "leave", user: "ada", at: 9, lastSeenAt: 8 });
 * note({ type: "changes", joined: [{ user: "eve", at: 10 }], left: [] });
 * assertEquals([...present], ["bob", "eve"]);
 * ```
 */
export type PresenceNotice =
  | PresenceMembersNotice
  | PresenceJoinNotice
  | PresenceLeaveNotice
  | PresenceChangesNotice
  | PresenceCountNotice;
