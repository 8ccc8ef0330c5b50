/**
 * Notices to clients about the users in a topic. Notices for the topic `chat:lobby` arrive as
 * messages with the topic `presence:chat:lobby`.
 */

/** Prefix of the topics of presence notices; the observed topic follows. */
export const PRESENCE_PREFIX = "presence:";

/**
 * A user who is present in a topic, with one connection or several.
 *
 * @typeParam D The presence data.
 */
export interface PresenceMember<D = unknown> {
  /** The user, as returned by the server's `userOf`. */
  readonly user: string;
  /** Number of the user's sessions in the topic; 0 while the user may still come back unnoticed. */
  readonly connections: number;
  /** Start of the first of these sessions, in milliseconds since the Unix epoch. */
  readonly joinedAt: number;
  /** Presence data of the user, as last set by any of the sessions; absent without data. */
  readonly data?: D;
}

/**
 * A presence notice; branch on `type`. {@linkcode updateMembers} keeps a list by these
 * notices.
 *
 * @typeParam D The presence data: with a contract, the type of its `presence`.
 */
export type PresenceNotice<D = unknown> =
  | {
    /**
     * All present users: the first notice after a subscription. In a large room the list comes in
     * several notices, one after the other, and the first of them begins a new list.
     */
    readonly type: "members";
    /** All present users, or some of them. */
    readonly members: readonly PresenceMember<D>[];
    /** Number of this part of the list, from 0; absent for a list in one part. */
    readonly page?: number;
    /** Present if another part follows. */
    readonly more?: true;
  }
  | {
    /** A user's first connection has opened. */
    readonly type: "join";
    /** The user who joined. */
    readonly user: string;
    /** Time of the join, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** Presence data of the user; absent without data. */
    readonly data?: D;
  }
  | {
    /** The data of a present user has changed. */
    readonly type: "update";
    /** The user. */
    readonly user: string;
    /** Time of the change, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** New presence data; absent if the user has no data any more. */
    readonly data?: D;
  }
  | {
    /** A user's last connection has closed. */
    readonly type: "leave";
    /** The user who left. */
    readonly user: string;
    /** Time at which the user was declared absent, in milliseconds since the Unix epoch. */
    readonly at: number;
    /** End of the user's last connection; earlier than `at` by the grace period. */
    readonly lastSeenAt: number;
  }
  | {
    /**
     * Changes in a large room since the last notice, net effect only: a user who joined and left in
     * the meantime is not included, and of several updates of a user only the last one is.
     */
    readonly type: "changes";
    /** Users whose first connection has opened, with time and data as in a join. */
    readonly joined: readonly { readonly user: string; readonly at: number; readonly data?: D }[];
    /** Users whose last connection has closed, with times as in a leave. */
    readonly left: readonly {
      readonly user: string;
      readonly at: number;
      readonly lastSeenAt: number;
    }[];
    /** Users with changed data, with time and data as in an update. */
    readonly updated?: readonly { readonly user: string; readonly at: number; readonly data?: D }[];
  }
  | {
    /** Number of present users, in a room that publishes only this number. */
    readonly type: "count";
    /** Number of users. */
    readonly users: number;
  };

/** Changes in a large room. */
export type PresenceChangesNotice = Extract<PresenceNotice, { readonly type: "changes" }>;

/**
 * Brings a list of the members of a room up to date.
 *
 * Every kind of notice is taken: the list, which comes first and after each reconnect, in a large
 * room in several parts; single changes; and the gathered changes of a large room. A room that only
 * tells the number of its users leaves the list as it is.
 *
 * @typeParam D The presence data.
 * @param members The members by user, in the order of their joins. Begin with an empty map.
 * @param notice A notice of the room.
 *
 * @example The members of one room, in a page
 * ```ts
 * import { type PresenceMember, type PresenceNotice, updateMembers } from "@skein/skein/client";
 * import { assertEquals } from "@std/assert";
 *
 * const members = new Map<string, PresenceMember>();
 * // In `onMessage`, where `topic` is `presence:chat:lobby`:
 * const receive = (data: PresenceNotice) => updateMembers(members, data);
 *
 * receive({ type: "members", members: [{ user: "ada", connections: 2, joinedAt: 0 }] });
 * receive({ type: "join", user: "bob", at: 5 });
 * receive({ type: "update", user: "bob", at: 6, data: "away" });
 * receive({ type: "leave", user: "ada", at: 9, lastSeenAt: 8 });
 * assertEquals([...members.keys()], ["bob"]);
 * assertEquals(members.get("bob")?.data, "away");
 * ```
 */
export function updateMembers<D>(
  members: Map<string, PresenceMember<D>>,
  notice: PresenceNotice<D>,
): void {
  if (notice.type === "members") {
    // A later part continues the list.
    if (!notice.page) members.clear();
    for (const member of notice.members) members.set(member.user, member);
  } else if (notice.type === "changes") {
    for (const { user } of notice.left) members.delete(user);
    for (const change of [...notice.joined, ...notice.updated ?? []]) put(members, change);
  } else if (notice.type === "leave") members.delete(notice.user);
  else if (notice.type !== "count") put(members, notice);
}

/** Adds a user who joined, or changes the data of a member. */
function put<D>(
  members: Map<string, PresenceMember<D>>,
  { user, at, data }: { readonly user: string; readonly at: number; readonly data?: D },
): void {
  const { connections = 1, joinedAt = at } = members.get(user) ?? {};
  members.set(user, { user, connections, joinedAt, ...(data !== undefined && { data }) });
}
