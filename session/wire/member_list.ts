/** The list of the members of a room. A page loads this module on first use. */
import type { PresenceMember, PresenceNotice } from "./presence_notice.ts";

/**
 * Updates a list of the members of a room.
 *
 * Accepts every kind of notice: the list, single changes, and the batched changes of a large room.
 * The list arrives first and after each reconnect; in a large room, it arrives in several parts. If
 * the room only reports the number of its users, its notices do not change the list.
 *
 * @typeParam D The presence data.
 * @param members The members by user, in the order in which they joined. Start with an empty map.
 * @param notice A notice of the room.
 *
 * @example The members of one room, in a session
 * ```ts
 * import { type PresenceMember, type PresenceNotice, updateMembers } from "@skein/skein/session";
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
    for (const change of notice.connections ?? []) recount(members, change);
  } else if (notice.type === "leave") members.delete(notice.user);
  else if (notice.type === "connections") recount(members, notice);
  else if (notice.type === "join" || notice.type === "update") put(members, notice);
}

/** The members of a room, updated by the server's notices. */
export class MemberList {
  /** Number of members, in a room that only reports this number. */
  count: number | undefined;
  #users = new Map<string, PresenceMember>();
  /** The list that replaces the members once it is complete. */
  #next = new Map<string, PresenceMember>();

  /** The members by user, in the order in which they joined. */
  get users(): ReadonlyMap<string, PresenceMember> {
    return this.#users;
  }

  /**
   * Applies a notice. After a reconnect, another server may have other options for the room, so a
   * count replaces an earlier list, and a list replaces an earlier count.
   *
   * @returns False if nothing changed because the rest of a list is still to come, or because this
   * version cannot read the notice.
   */
  take(notice: PresenceNotice): boolean {
    if (!isReadable(notice)) return false;
    if (notice.type === "members") {
      updateMembers(this.#next, notice);
      if (notice.more) return false;
      this.#users = this.#next;
      this.#next = new Map();
      this.count = undefined;
    } else if (notice.type === "count") {
      this.count = notice.users;
      this.#users.clear();
    } else updateMembers(this.#users, notice);
    return true;
  }
}

/** True if a notice has the properties that its type requires. */
function isReadable(value: unknown): boolean {
  const { type, user, users, members, joined, left, updated = [], connections = [] } = Object(
    value,
  );
  const lists = type === "members"
    ? [members]
    : type === "changes"
    ? [joined, left, updated, connections]
    : [];
  if (type === "count") return Number.isFinite(users);
  if (lists.length === 0) return typeof user === "string";
  return lists.every((list) =>
    Array.isArray(list) && list.every((one) => typeof one?.user === "string")
  );
}

function put<D>(
  members: Map<string, PresenceMember<D>>,
  { user, at, data, connections = members.get(user)?.connections ?? 1 }: {
    readonly user: string;
    readonly at: number;
    readonly connections?: number | undefined;
    readonly data?: D | undefined;
  },
): void {
  const { joinedAt = at } = members.get(user) ?? {};
  const member = { user, connections, joinedAt };
  // Applications print and compare members, so the key is absent if there is no data.
  members.set(user, data === undefined ? member : { ...member, data });
}

function recount<D>(
  members: Map<string, PresenceMember<D>>,
  { user, connections, joinedAt }: {
    readonly user: string;
    readonly connections: number;
    readonly joinedAt?: number | undefined;
  },
): void {
  const known = members.get(user);
  if (known === undefined) return;
  members.set(user, { ...known, connections, joinedAt: joinedAt ?? known.joinedAt });
}
