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

/** Everyone who is present; the first notice after a subscription. */
export interface PresenceMembersNotice {
  /** Tells the notices apart. */
  readonly type: "members";
  /** Everyone who is present. */
  readonly members: readonly PresenceMember[];
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
 *   if (notice.type === "join") present.add(notice.user);
 *   else if (notice.type === "leave") present.delete(notice.user);
 *   else for (const member of notice.members) present.add(member.user);
 * }
 * note({ type: "members", members: [{ user: "ada", connections: 2, joinedAt: 0 }] });
 * note({ type: "join", user: "bob", at: 5 });
 * note({ type: "leave", user: "ada", at: 9, lastSeenAt: 8 });
 * assertEquals([...present], ["bob"]);
 * ```
 */
export type PresenceNotice =
  | PresenceMembersNotice
  | PresenceJoinNotice
  | PresenceLeaveNotice;
