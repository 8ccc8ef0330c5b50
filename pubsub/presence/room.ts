/**
 * What the members of one room on this node are told of who is in it.
 *
 * @module
 */
import { QueueFullError } from "../../errors.ts";
import { Broadcast } from "../../session/queue/broadcast.ts";
import { type EncodedMessage, encodeMessage } from "../../session/wire/encode.ts";
import {
  PRESENCE_PREFIX,
  type PresenceChangesNotice,
  type PresenceMember,
  type PresenceNotice,
} from "../../session/wire/presence_notice.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Turn } from "../../session/queue/turn.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import type { Presence } from "./presence.ts";
import type { PresenceEvent } from "./types.ts";

/** Most bytes of one notice, so that it goes out in one frame. */
const MAX_NOTICE_BYTES = 60_000;

/** What a notice has beside its members, in bytes; the topic comes on top. */
const FRAME_BYTES = 100;

/**
 * Most bytes of data that the changes of one interval carry; the data of other users follows with
 * the next. It bounds what each member of a room gets, whatever its users set.
 */
const MAX_DATA_BYTES = 65_536;

/** How long updates of data are gathered in a room that gathers nothing else, in milliseconds. */
const UPDATE_MS = 50;

/** Notices that wait while a session still gets the list; past it the session gets a new list. */
const MAX_HELD = 16;

/** How a room tells who is in it. */
export interface RoomOptions {
  /**
   * What members are told: everybody by name, or how many there are. For rooms of many thousands,
   * as a list takes some 70 bytes for each user and goes to each.
   *
   * @default {"list"}
   */
  readonly members?: "list" | "count";
  /**
   * Users above which changes are gathered into one notice, and lists shared by all who came meanwhile.
   *
   * @default {100}
   */
  readonly gatherAbove?: number;
  /**
   * How long they are gathered at most, in milliseconds.
   *
   * @default {1000}
   */
  readonly gatherMs?: number;
  /**
   * Most bytes of the data with which a user is present, as JSON: from 0, for none, to 4,096.
   *
   * @default {512}
   */
  readonly maxDataBytes?: number;
}

/** What a room is part of. */
export interface RoomParts {
  readonly presence: Presence;
  readonly turn: Turn;
}

type Joined = PresenceChangesNotice["joined"][number];
type Updated = NonNullable<PresenceChangesNotice["updated"]>[number];

/** A user who left; `hadData` if members may know of its data. */
type Left = PresenceChangesNotice["left"][number] & { readonly hadData: boolean };

/** The members of a room on this node, and what they are told. */
export class Room {
  /** Its name. */
  readonly name: string;
  readonly #presence: Presence;
  readonly #options: Required<RoomOptions>;
  readonly #topic: string;
  /** Who got the list, and is told of changes. */
  readonly #told: Broadcast;
  /** Who waits for the list. */
  readonly #waiting = new Set<Session>();
  /** Who is getting it, with the notices that come after it. */
  readonly #getting = new Map<Session, EncodedMessage[]>();
  readonly #joined = new Map<string, Joined>();
  readonly #left = new Map<string, Left>();
  readonly #updated = new Map<string, Updated>();
  #maxBytes = MAX_NOTICE_BYTES;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #gatheredAt = -Infinity;
  #toldUsers = 0;

  /** Creates a room without members. */
  constructor(name: string, options: Required<RoomOptions>, { presence, turn }: RoomParts) {
    this.name = name;
    this.#presence = presence;
    this.#options = options;
    this.#topic = PRESENCE_PREFIX + name;
    this.#told = new Broadcast(turn);
  }

  /** Whether nobody of this node is in it. */
  get isEmpty(): boolean {
    return this.#told.size + this.#waiting.size + this.#getting.size === 0;
  }

  /**
   * Takes a session in that is about to enter, with its data. It gets the list now, or soon in a
   * large room.
   *
   * @throws {QueueFullError} If the session has no room for it.
   * @throws {SessionClosedError} If the session is not established yet.
   */
  admit(session: Session, data: unknown): void {
    const core = session[internals];
    core.checkOpen("join");
    const { sendQueue, maxMessageBytes } = core.settings;
    this.#maxBytes = Math.min(this.#maxBytes, maxMessageBytes, Math.floor(sendQueue.maxBytes / 2));
    const isNew = !this.#presence.has(session.user, this.name);
    const users = this.#presence.count(this.name) + (isNew ? 1 : 0);
    if (!this.#gathers(users)) {
      const [first, ...rest] = this.#list(this.#membersWith(session, data));
      if (rest.length === 0) {
        core.push(first!, false);
        this.#told.add(session);
        return;
      }
    }
    this.#waiting.add(session);
    this.#schedule();
  }

  /** A session is a member no more. */
  leave(session: Session): void {
    this.#told.delete(session);
    this.#waiting.delete(session);
    this.#getting.delete(session);
    if (this.isEmpty) this.close();
  }

  /** A user came or went, or has other data. */
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
      return this.#told.send(this.#encode({ type: "leave", user, at, lastSeenAt }));
    }
    const { type, session } = event;
    if (type === "update") this.#gatheredAt = Date.now();
    // The list of the session that came has it already.
    this.#told.send(this.#encode({ type, ...withData({ user, at }, event) }), session);
  }

  /** The other nodes said who is in it: who waits for that, waits no more. */
  settled(): void {
    if (this.#waiting.size > 0) this.#flush();
  }

  /** Tells nobody anything any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting.clear();
    this.#getting.clear();
  }

  /** Whether notices wait; once some do, so do those after them. */
  #gathers(users: number): boolean {
    if (this.#timer !== undefined || this.#getting.size > 0) return true;
    if (this.#waiting.size > 0 || !this.#presence.isSettled(this.name)) return true;
    return this.#options.members === "count" || users > this.#options.gatherAbove;
  }

  /** Tells whether data changes faster than members are told of it; a session that joins does not wait. */
  #comesTooSoon({ type, session }: PresenceEvent & { readonly session?: Session }): boolean {
    return type === "update" && session === undefined && Date.now() - this.#gatheredAt < UPDATE_MS;
  }

  #gather(event: PresenceEvent): void {
    const { user, at } = event;
    if (event.type === "leave") {
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
      // For members the user was there all the time; of the data they may know another.
      this.#left.delete(user);
      if (!left.hadData && event.data === undefined) return;
      this.#updated.set(user, withData({ user, at }, event));
    }
  }

  /** Soon where nothing was told for a while, else when the time is over. */
  #schedule(): void {
    if (this.#timer !== undefined) return;
    const { gatherMs: longest } = this.#options;
    const gatherMs = this.#isLively ? Math.min(UPDATE_MS, longest) : longest;
    const leftMs = this.#gatheredAt + gatherMs - Date.now();
    this.#timer = setTimeout(() => this.#flush(), Math.max(0, Math.min(leftMs, gatherMs)));
  }

  /** True if only updates of data are gathered: the room is small, and no session waits for its list. */
  get #isLively(): boolean {
    const { members, gatherAbove } = this.#options;
    if (members === "count" || this.#waiting.size > 0 || this.#getting.size > 0) return false;
    return this.#presence.count(this.name) <= gatherAbove;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#gatheredAt = Date.now();
    const changes = this.#takeChanges();
    // Updates that found no room in these changes.
    if (this.#updated.size > 0) this.#schedule();
    for (const message of changes) this.#told.send(message);
    for (const [session, held] of this.#getting) {
      held.push(...changes);
      // It takes the list more slowly than the room changes: it begins anew.
      if (held.length > MAX_HELD && this.#getting.delete(session)) this.#waiting.add(session);
    }
    // Who waits for other nodes is served when they answered.
    if (this.#waiting.size === 0 || !this.#presence.isSettled(this.name)) return;
    const list = this.#options.members === "count"
      ? [this.#encode({ type: "count", users: this.#presence.count(this.name) })]
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
    if (members === "count") {
      if (users === this.#toldUsers) return [];
      this.#toldUsers = users;
      return [this.#encode({ type: "count", users })];
    }
    const count = joined.length + left.length + updated.length;
    if (users <= gatherAbove && count <= gatherAbove && this.#getting.size === 0) {
      return [
        ...left.map((one) => this.#encode({ type: "leave", ...one })),
        ...joined.map((one) => this.#encode({ type: "join", ...one })),
        ...updated.map((one) => this.#encode({ type: "update", ...one })),
      ];
    }
    return [
      ...this.#split(left).map((left) => this.#encode({ type: "changes", joined: [], left })),
      ...this.#split(joined).map((joined) => this.#encode({ type: "changes", joined, left: [] })),
      ...this.#split(updated).map((updated) =>
        this.#encode({ type: "changes", joined: [], left: [], updated })
      ),
    ];
  }

  /**
   * Takes users who came and whose data changed, as much data as one interval may carry. Data of
   * users who came that finds no room becomes an update, and waits with the others for the next.
   */
  #takeData(): { readonly joined: Joined[]; readonly updated: Updated[] } {
    let leftBytes = MAX_DATA_BYTES;
    const fits = ({ data }: Updated) => {
      if (data === undefined) return true;
      leftBytes -= utf8Length(JSON.stringify(data));
      return leftBytes >= 0;
    };
    const late: Updated[] = [];
    const joined = Array.from(this.#joined.values(), (one) => {
      if (fits(one)) return one;
      late.push(one);
      return { user: one.user, at: one.at };
    });
    this.#joined.clear();
    const updated: Updated[] = [];
    for (const [user, one] of this.#updated) {
      if (leftBytes < 0 || !fits(one)) break;
      updated.push(one);
      this.#updated.delete(user);
    }
    for (const one of late) this.#updated.set(one.user, one);
    return { joined, updated };
  }

  /** Sends the list to a session, a part at a time, then what changed meanwhile. */
  async #give(
    session: Session,
    list: readonly EncodedMessage[],
    held: EncodedMessage[],
  ): Promise<void> {
    const core = session[internals];
    const isGetting = () => this.#getting.get(session) === held;
    try {
      for (const [i, part] of list.entries()) {
        if (i > 0) await core.messages("join").flushed();
        if (!isGetting()) return;
        core.push(part, false);
      }
      // Nothing runs from here on until the session is told of changes with the others.
      for (const notice of held) core.push(notice, false);
      this.#getting.delete(session);
      if (!session.isClosed) this.#told.add(session);
    } catch (error) {
      // The session could not keep up, and was closed for it.
      if (!(error instanceof QueueFullError)) throw error;
    }
  }

  /** The members as they are once the session is in, with its data. */
  #membersWith(session: Session, data: unknown): PresenceMember[] {
    const members = this.#presence.members(this.name);
    if (this.#presence.has(session, this.name)) return members;
    const { user } = session;
    const at = members.findIndex((member) => member.user === user);
    const known = members[at];
    if (known === undefined) {
      members.push(withData({ user, connections: 1, joinedAt: Date.now() }, { data }));
      return members;
    }
    const { connections, joinedAt } = known;
    // Data that was set before the grace ends with the first session that is back.
    const now = data ?? (connections > 0 ? known.data : undefined);
    members[at] = withData({ user, connections: connections + 1, joinedAt }, { data: now });
    return members;
  }

  #list(members: readonly PresenceMember[]): EncodedMessage[] {
    const parts = this.#split(members);
    if (parts.length <= 1) return [this.#encode({ type: "members", members })];
    return parts.map((members, page) => {
      const isLast = page === parts.length - 1;
      return this.#encode({ type: "members", members, page, ...(isLast ? {} : { more: true }) });
    });
  }

  /** Splits a list so that each part fits into a notice; one that is too large alone is one. */
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
