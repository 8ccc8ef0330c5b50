/**
 * One room on this node: sends the list of members and its changes to the sessions in the room.
 */
import { QueueFullError } from "../../errors.ts";
import { Broadcast } from "../../session/queue/broadcast.ts";
import type { Flusher } from "../../session/queue/flusher.ts";
import { type EncodedMessage, encodeMessage } from "../../session/wire/encode.ts";
import {
  PRESENCE_PREFIX,
  type PresenceChangesNotice,
  type PresenceMember,
  type PresenceNotice,
} from "../../session/wire/presence_notice.ts";
import { internals, type Session } from "../../session/session.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Presence } from "./presence.ts";
import type { ConnectionCount, PresenceCount } from "./presence_scopes.ts";
import type { PresenceEvent } from "./types.ts";

/** Maximum size of a notice in bytes, so that it fits in one frame. */
const MAX_NOTICE_BYTES = 60_000;

/**
 * Minimum size of a notice in bytes, even if a member accepts only smaller messages. All members
 * share the notices, and there would be too many smaller ones. A member that accepts only smaller
 * messages receives gaps.
 */
const LEAST_NOTICE_BYTES = 8_192;

/** Bytes of a notice in addition to the members and the topic. */
const FRAME_BYTES = 100;

/**
 * Maximum number of bytes of data that the changes of one interval carry; further data follows in
 * the next interval. This bounds the traffic to each member, however much data the users set.
 */
const MAX_DATA_BYTES = 65_536;

/**
 * Maximum number of bytes that one interval carries about users' connections; further users follow
 * in the next interval, unless they then have as many connections as before. If a node dies, the
 * users that reconnect to other nodes have twice as many connections until the node is declared
 * gone.
 */
const MAX_COUNT_BYTES = 4_096;

/** Time for which a small room gathers data updates, in milliseconds. */
const UPDATE_MS = 50;

/**
 * Maximum number of notices that wait for a session that is still receiving the list. Beyond that,
 * the list starts over.
 */
const MAX_HELD = 16;

/** Options for the notices of a room. */
export interface RoomOptions {
  /**
   * Content of the notices: all users by name, or only the number of users, for rooms with many
   * thousands of users.
   *
   * A list takes about 70 bytes per user, and is sent to each user.
   *
   * @default {"list"}
   */
  readonly members?: "list" | "count" | undefined;
  /**
   * Number of users above which changes are gathered into one notice, and sessions that join within
   * the same interval share one list.
   *
   * @default {100}
   */
  readonly gatherAbove?: number | undefined;
  /**
   * Maximum time for which changes are gathered, in milliseconds.
   *
   * @default {1000}
   */
  readonly gatherMs?: number | undefined;
  /**
   * Maximum size of a user's presence data in bytes, as JSON: 0 for none, up to 4,096.
   *
   * @default {512}
   */
  readonly maxDataBytes?: number | undefined;
}

interface RoomNoticesParts {
  readonly runtime: Runtime;
  readonly presence: Presence;
  readonly flusher: Flusher;
}

type JoinedUser = PresenceChangesNotice["joined"][number];
type UpdatedUser = NonNullable<PresenceChangesNotice["updated"]>[number];
type CountedUser = NonNullable<PresenceChangesNotice["connections"]>[number];

/** A user's connections, as the members know them. */
interface KnownCount extends ConnectionCount {
  /** True if the members know different numbers, or an earlier visit of the user. */
  isMixed: boolean;
}

/** A user that left; `hadData` is true if members may have received the user's data. */
type LeftUser = PresenceChangesNotice["left"][number] & { readonly hadData: boolean };

/** The sessions in a room on this node, and their notices. */
export class RoomNotices {
  readonly name: string;
  readonly #runtime: Runtime;
  readonly #presence: Presence;
  readonly #options: Required<RoomOptions>;
  readonly #topic: string;
  /** The sessions that have received the list and now receive changes. */
  readonly #told: Broadcast<Session>;
  readonly #waiting = new Set<Session>();
  /** The sessions that are receiving the list, each with the notices to send after it. */
  readonly #getting = new Map<Session, EncodedMessage[]>();
  readonly #joined = new Map<string, JoinedUser>();
  readonly #left = new Map<string, LeftUser>();
  readonly #updated = new Map<string, UpdatedUser>();
  /** Users whose connections the members may not know. Bounded by the users in the room. */
  readonly #recounted = new Map<string, KnownCount>();
  #maxBytes = MAX_NOTICE_BYTES;
  #timer: Timer | undefined;
  #gatheredAt = -Infinity;
  #toldUsers = 0;

  constructor(
    name: string,
    options: Required<RoomOptions>,
    { runtime, presence, flusher }: RoomNoticesParts,
  ) {
    this.#runtime = runtime;
    this.name = name;
    this.#presence = presence;
    this.#options = options;
    this.#topic = PRESENCE_PREFIX + name;
    this.#told = new Broadcast<Session>(flusher);
  }

  get isEmpty(): boolean {
    return this.#told.size + this.#waiting.size + this.#getting.size === 0;
  }

  /**
   * Adds a session that is about to enter the presence with `data`. The session receives the list
   * immediately, or with the next notice in a large room. A session that is already in the room
   * receives the list again.
   *
   * @throws {QueueFullError} If the session's send queue has no room for the list.
   * @throws {SessionClosedError} If the session is not established yet.
   */
  admit(session: Session, data: unknown): void {
    const core = session[internals];
    core.checkOpen("join");
    const { sendQueue, maxMessageBytes } = core.settings;
    const accepted = Math.max(core.sending.maxSendBytes, LEAST_NOTICE_BYTES);
    const room = Math.floor(sendQueue.maxBytes / 2);
    this.#maxBytes = Math.min(this.#maxBytes, maxMessageBytes, accepted, room);
    const isNew = !this.#presence.has(session.user, this.name);
    const users = this.#presence.count(this.name) + (isNew ? 1 : 0);
    if (!this.#gathers(users)) {
      const [first, ...rest] = this.#list(this.#membersWith(session, data));
      if (rest.length === 0) {
        core.sending.push(first!, false);
        this.#told.add(session, core.sending.messages("join"));
        return;
      }
    }
    // Until a session in the room has received the list, it needs no changes, because the list
    // includes them.
    this.#told.delete(session);
    this.#getting.delete(session);
    this.#waiting.add(session);
    this.#schedule();
  }

  /** Removes a session. */
  leave(session: Session): void {
    this.#told.delete(session);
    this.#waiting.delete(session);
    this.#getting.delete(session);
    if (this.isEmpty) this.close();
  }

  /**
   * Notifies the members of a user's connections, immediately or with the next gathered notice.
   * They keep the last number while the user has no connection, so a reload is no change.
   */
  recount({ user, before, session }: PresenceCount): void {
    if (this.#options.members === "count" || this.#joined.has(user)) return;
    const known = this.#recounted.get(user) ?? { ...shownAs(before), isMixed: false };
    const member = this.#presence.member(user, this.name)!;
    if (isKnown(member, known)) return void this.#recounted.delete(user);
    this.#recounted.set(user, known);
    if (member.connections === 0) return;
    if (this.#gathers(this.#presence.count(this.name))) return this.#schedule();
    for (const one of this.#takeCounts()) {
      // The session that entered has received this number in the list.
      this.#told.send(this.#encode({ type: "connections", ...one }), session);
    }
  }

  /** Notifies the members of an event, immediately or with the next gathered notice. */
  note(event: PresenceEvent): void {
    if (event.type === "update" && this.#options.members === "count") return;
    const users = this.#presence.count(this.name);
    if (this.#gathers(users) || this.#comesTooSoon(event)) {
      this.#gather(event);
      return this.#schedule();
    }
    const { user, at } = event;
    if (event.type === "leave") {
      const { lastSeenAt } = event;
      this.#recounted.delete(user);
      return this.#told.send(this.#encode({ type: "leave", user, at, lastSeenAt }));
    }
    const { type, session } = event;
    if (type === "update") this.#gatheredAt = this.#runtime.now();
    const notice = type === "join"
      ? { type, ...this.#asJoined({ user, at, data: event.data }) }
      : { type, ...withData({ user, at }, event) };
    // The session that entered has received this change in the list.
    this.#told.send(this.#encode(notice), session);
  }

  /** Sends the list to waiting sessions, now that the other nodes have sent all users of the room. */
  settled(): void {
    if (this.#waiting.size > 0) this.#flush();
  }

  /** Stops sending lists and gathered notices. */
  close(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting.clear();
    this.#getting.clear();
  }

  /** True if notices have to wait, because the room is large or earlier notices wait. */
  #gathers(users: number): boolean {
    if (this.#timer !== undefined || this.#getting.size > 0) return true;
    if (this.#waiting.size > 0 || !this.#presence.isSettled(this.name)) return true;
    return this.#options.members === "count" || users > this.#options.gatherAbove;
  }

  /** True if an update follows the previous one too soon. Updates caused by joining never wait. */
  #comesTooSoon({ type, session }: PresenceEvent & { readonly session?: Session }): boolean {
    return type === "update" && session === undefined &&
      this.#runtime.now() - this.#gatheredAt < UPDATE_MS;
  }

  #gather(event: PresenceEvent): void {
    const { user, at } = event;
    if (event.type === "leave") {
      this.#recounted.delete(user);
      const hadData = this.#updated.delete(user) || event.data !== undefined;
      if (this.#joined.delete(user)) return;
      this.#left.set(user, { user, at, lastSeenAt: event.lastSeenAt, hadData });
    } else if (event.type === "update") {
      const joined = this.#joined.get(user);
      if (joined === undefined) this.#updated.set(user, withData({ user, at }, event));
      else this.#joined.set(user, withData({ user, at: joined.at }, event));
    } else {
      const left = this.#left.get(user);
      if (left === undefined) return void this.#joined.set(user, withData({ user, at }, event));
      // Members have not seen the user leave, but may have received older data.
      this.#left.delete(user);
      this.#recounted.set(user, { connections: 0, joinedAt: 0, isMixed: true });
      if (!left.hadData && event.data === undefined) return;
      this.#updated.set(user, withData({ user, at }, event));
    }
  }

  /** Schedules the next notice: soon after a quiet time, otherwise at the end of the interval. */
  #schedule(): void {
    if (this.#timer !== undefined) return;
    const { gatherMs: longest } = this.#options;
    const gatherMs = this.#isLively ? Math.min(UPDATE_MS, longest) : longest;
    const leftMs = this.#gatheredAt + gatherMs - this.#runtime.now();
    this.#timer = this.#runtime.setTimeout(
      () => this.#flush(),
      Math.max(0, Math.min(leftMs, gatherMs)),
    );
  }

  /** True if only data updates are gathered: the room is small, and no session waits for a list. */
  get #isLively(): boolean {
    const { members, gatherAbove } = this.#options;
    if (members === "count" || this.#waiting.size > 0 || this.#getting.size > 0) return false;
    return this.#presence.count(this.name) <= gatherAbove;
  }

  #flush(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#gatheredAt = this.#runtime.now();
    const changes = this.#takeChanges();
    // Updates and connections remain if these changes had no room for more.
    if (this.#updated.size > 0 || this.#hasUnsentCounts) this.#schedule();
    for (const message of changes) this.#told.send(message);
    for (const [session, held] of this.#getting) {
      held.push(...changes);
      // The session reads the list more slowly than the room changes, so start over with a new
      // list.
      if (held.length > MAX_HELD && this.#getting.delete(session)) this.#waiting.add(session);
    }
    // Until the other nodes have replied, the list is incomplete.
    if (this.#waiting.size === 0 || !this.#presence.isSettled(this.name)) return;
    const list = this.#options.members === "count"
      ? [this.#encode(this.#count())]
      : this.#list(this.#presence.members(this.name));
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const session of waiting) {
      const held: EncodedMessage[] = [];
      this.#getting.set(session, held);
      void this.#give(session, list, held);
    }
  }

  #takeChanges(): EncodedMessage[] {
    const { members, gatherAbove } = this.#options;
    const users = this.#presence.count(this.name);
    const { joined, updated } = this.#takeData();
    const left = Array.from(this.#left.values(), ({ hadData: _, ...one }) => one);
    this.#left.clear();
    const connections = this.#takeCounts();
    if (members === "count") {
      if (users === this.#toldUsers) return [];
      this.#toldUsers = users;
      return [this.#encode(this.#count())];
    }
    const count = joined.length + left.length + updated.length + connections.length;
    if (users <= gatherAbove && count <= gatherAbove && this.#getting.size === 0) {
      return [
        ...left.map((one) => this.#encode({ type: "leave", ...one })),
        ...joined.map((one) => this.#encode({ type: "join", ...one })),
        ...updated.map((one) => this.#encode({ type: "update", ...one })),
        ...connections.map((one) => this.#encode({ type: "connections", ...one })),
      ];
    }
    return [
      ...this.#split(left).map((left) => this.#encode({ type: "changes", joined: [], left })),
      ...this.#split(joined).map((joined) => this.#encode({ type: "changes", joined, left: [] })),
      ...this.#split(updated).map((updated) =>
        this.#encode({ type: "changes", joined: [], left: [], updated })
      ),
      ...this.#split(connections).map((connections) =>
        this.#encode({ type: "changes", joined: [], left: [], connections })
      ),
    ];
  }

  /** Takes the users whose connections the members don't know, as far as one interval carries. */
  #takeCounts(): CountedUser[] {
    const counted: CountedUser[] = [];
    let leftBytes = MAX_COUNT_BYTES;
    for (const [user, known] of this.#recounted) {
      const member = this.#presence.member(user, this.name)!;
      const { connections, joinedAt } = member;
      // If the user returns within the grace period, the number may be the same as before.
      if (connections === 0) continue;
      if (!isKnown(member, known)) {
        const one = { user, connections };
        counted.push(joinedAt === known.joinedAt ? one : { ...one, joinedAt });
        leftBytes -= utf8Length(JSON.stringify(counted.at(-1)));
      }
      this.#recounted.delete(user);
      if (leftBytes <= 0) break;
    }
    return counted;
  }

  /** True if a user who has connections waits for the next interval. */
  get #hasUnsentCounts(): boolean {
    return this.#recounted.keys().some((user) => this.#presence.connections(user, this.name) > 0);
  }

  /**
   * Takes the joins and updates of this interval, with as much data as one interval may carry. If a
   * join's data does not fit, it becomes an update, which waits for the next interval.
   */
  #takeData(): { readonly joined: JoinedUser[]; readonly updated: UpdatedUser[] } {
    let leftBytes = MAX_DATA_BYTES;
    const fits = ({ data }: UpdatedUser) => {
      if (data === undefined) return true;
      leftBytes -= utf8Length(JSON.stringify(data));
      return leftBytes >= 0;
    };
    const late: UpdatedUser[] = [];
    const joined = Array.from(this.#joined.values(), (one) => {
      if (fits(one)) return this.#asJoined(one);
      late.push(one);
      return this.#asJoined({ user: one.user, at: one.at });
    });
    this.#joined.clear();
    const updated: UpdatedUser[] = [];
    for (const [user, one] of this.#updated) {
      if (leftBytes < 0 || !fits(one)) break;
      updated.push(one);
      this.#updated.delete(user);
    }
    for (const one of late) this.#updated.set(one.user, one);
    return { joined, updated };
  }

  /** Sends the list to a session in parts, followed by the changes since then. */
  async #give(
    session: Session,
    list: readonly EncodedMessage[],
    held: EncodedMessage[],
  ): Promise<void> {
    const core = session[internals];
    const isGetting = () => this.#getting.get(session) === held;
    try {
      for (const [i, part] of list.entries()) {
        if (i > 0) await core.sending.messages("join").flushed();
        if (!isGetting()) return;
        core.sending.push(part, false);
      }
      // No other code may run from here until the session is among `#told`, or a change is lost.
      for (const notice of held) core.sending.push(notice, false);
      this.#getting.delete(session);
      if (!session.isClosed) this.#told.add(session, core.sending.messages("join"));
    } catch (error) {
      // The queue closed the session, which was too slow.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  /** A join as the other members receive it, with the user's connections until now. */
  #asJoined({ user, at, data }: JoinedUser): JoinedUser {
    const { connections, joinedAt } = this.#presence.member(user, this.name) ??
      { connections: 1, joinedAt: at };
    const joined = withData({ user, at: joinedAt }, { data });
    return connections > 1 ? { ...joined, connections } : joined;
  }

  /** The members right after `session` enters with `data`. */
  #membersWith(session: Session, data: unknown): PresenceMember[] {
    const members = this.#presence.members(this.name);
    if (this.#presence.has(session, this.name)) return members;
    const { user } = session;
    const at = members.findIndex((member) => member.user === user);
    const known = members[at];
    if (known === undefined) {
      members.push(withData({ user, connections: 1, joinedAt: this.#runtime.now() }, { data }));
      return members;
    }
    const { connections, joinedAt } = known;
    // Data from before the grace period is dropped when the first session returns.
    const now = data ?? (connections > 0 ? known.data : undefined);
    members[at] = withData({ user, connections: connections + 1, joinedAt }, { data: now });
    return members;
  }

  #list(all: readonly PresenceMember[]): EncodedMessage[] {
    for (const [user, known] of this.#recounted) {
      const shown = shownAs(this.#presence.member(user, this.name)!);
      known.isMixed ||= !isKnown(shown, known);
    }
    const members = all.map(shownAs);
    const parts = this.#split(members);
    const type = "members";
    if (parts.length <= 1) return [this.#encode({ type, members, ...this.#completeness })];
    return parts.map((members, page) => {
      const more = page === parts.length - 1 ? undefined : true;
      const completeness = page === 0 ? this.#completeness : {};
      return this.#encode({ type, members, page, more, ...completeness });
    });
  }

  #count(): PresenceNotice {
    const users = this.#presence.count(this.name);
    return { type: "count", users, ...this.#completeness };
  }

  get #completeness(): { readonly isComplete?: false } {
    return this.#presence.isComplete(this.name) ? {} : { isComplete: false };
  }

  /** Splits a list so that each part fits into a notice. An oversize element forms its own part. */
  #split<T>(all: readonly T[]): T[][] {
    const maxBytes = this.#maxBytes - FRAME_BYTES - utf8Length(this.#topic);
    const parts: T[][] = [];
    let bytes = Infinity;
    for (const one of all) {
      const size = utf8Length(JSON.stringify(one)) + 1;
      if (bytes + size > maxBytes) {
        parts.push([]);
        bytes = 0;
      }
      bytes += size;
      parts.at(-1)!.push(one);
    }
    return parts;
  }

  #encode(notice: PresenceNotice): EncodedMessage {
    return encodeMessage(this.#topic, notice, { maxBytes: Infinity });
  }
}

/** Adds data, if there is any. */
function withData<T extends object>(
  to: T,
  { data }: { readonly data?: unknown },
): T & { readonly data?: unknown } {
  return data === undefined ? to : { ...to, data };
}

/** A member as the others see it: without a connection, with the fewest that it may return with. */
function shownAs<M extends ConnectionCount>(member: M): M {
  return member.connections > 0 ? member : { ...member, connections: 1 };
}

/** True if all members know the connections of a user. */
function isKnown({ connections, joinedAt }: ConnectionCount, known: KnownCount): boolean {
  return !known.isMixed && connections === known.connections && joinedAt === known.joinedAt;
}
