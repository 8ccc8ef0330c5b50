/**
 * Rooms: topics whose members know of each other.
 *
 * @module
 */
import {
  PRESENCE_PREFIX,
  type PresenceMember,
  type PresenceNotice,
} from "../session/presence_notice.ts";
import { coreOf, type Session } from "../session/session.ts";
import { checkTopic } from "../session/topic_pattern.ts";
import { utf8Length } from "../session/utf8.ts";
import { observePresence, type Presence, type PresenceEvent } from "./presence.ts";
import type { PublishOptions, Topics } from "./topics.ts";

/** Options for {@linkcode Rooms}. */
export interface RoomsOptions {
  /** Carries messages and notices. */
  readonly topics: Topics;
  /** Says who is there. */
  readonly presence: Presence;
}

/**
 * Rooms: a room is a topic with presence. Who joins gets what is published in
 * it, and is told who is there, who comes and who goes, by
 * {@linkcode PresenceNotice}s on the topic `presence:<room>`.
 *
 * - **Users:** notices are about users: a second tab is no join, closing it no
 *   leave, and a reload within the grace of {@linkcode Presence} neither.
 * - **First:** a session that joins gets `members` first, itself included; then
 *   every change once, in order, and none that the list has already.
 * - **Close:** a session that closes leaves its rooms; the others are told
 *   when the grace is over.
 * - **Limits:** a room takes two of the session's topics. Its name must not begin
 *   with `presence:`, and has at most 246 bytes, so that the notices' topic fits.
 * - **Nodes:** `members` are those of this process. With a broker, notices come
 *   from all nodes, so that one may repeat what was known.
 *
 * @example Usage
 * ```ts
 * import { memoryPair, Presence, Rooms, Session, sessionSettings, Topics } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * const { client, server } = memoryPair();
 * await using ada = new Session(server, settings, { user: "ada" });
 * await using page = new Session(client, sessionSettings({ side: "client" }));
 * await using topics = new Topics({ turn: settings.turn });
 * using presence = new Presence();
 * using rooms = new Rooms({ topics, presence });
 *
 * rooms.join(ada, "chat");
 * rooms.publish("chat", "hello");
 * const heard: string[] = [];
 * for await (const { topic, data } of page) {
 *   heard.push(topic);
 *   if (data === "hello") break;
 * }
 * assertEquals(heard, ["presence:chat", "chat"]);
 * ```
 */
export class Rooms implements Disposable {
  readonly #topics: Topics;
  readonly #presence: Presence;
  readonly #observation: Disposable;
  /** Rooms in which somebody is present; those who are within their grace too. */
  readonly #known = new Set<string>();
  readonly #roomsOf = new Map<Session, Set<string>>();
  readonly #onEnd = (session: Session) => void this.#roomsOf.delete(session);

  /**
   * Creates rooms without members.
   *
   * @param options See {@linkcode RoomsOptions}.
   */
  constructor(options: RoomsOptions) {
    this.#topics = options.topics;
    this.#presence = options.presence;
    this.#observation = observePresence(options.presence, (event) => this.#announce(event));
  }

  /**
   * Lets a session into a room: subscribes it, tells it who is there, and tells
   * the others if its user was not there before. Idempotent; a session that is
   * closed, or closing, is left out.
   *
   * @param session A session of the topics' turn.
   * @param room The room.
   * @returns Whether the session was not a member before, and is now.
   * @throws {TypeError} If the name is no topic, or begins with `presence:`.
   * @throws {RangeError} If the name is longer than 246 bytes.
   * @throws {QueueFullError} If the session has no two topics left, or its send queue
   * is full and the policy `close`; it is not a member then.
   * @throws {SessionClosedError} If the session is not established yet.
   */
  join(session: Session, room: string): boolean {
    const notices = this.#noticesOf(room, "join");
    const isEnding = session.state === "draining" && !session.isReady;
    if (session.isClosed || isEnding || this.isMember(session, room)) return false;
    const entered: string[] = [];
    try {
      for (const topic of [room, notices]) {
        if (this.#topics.subscribe(session, topic)) entered.push(topic);
      }
      // Nothing runs between the subscription and this, and what `enter` makes others
      // do comes after: so the list is first, and complete.
      const members = this.#membersWith(session, room);
      const notice: PresenceNotice = { type: "members", members };
      session.send(notices, notice);
    } catch (error) {
      for (const topic of entered) this.#topics.unsubscribe(session, topic);
      throw error;
    }
    this.#known.add(room);
    this.#remember(session, room);
    this.#presence.enter(session, room);
    return true;
  }

  /**
   * Lets a session out of a room. The others are told when its user has left:
   * with the last of the user's sessions, after the grace. Idempotent.
   *
   * @param session Any session.
   * @param room The room.
   * @returns Whether the session was a member.
   */
  leave(session: Session, room: string): boolean {
    if (!this.#roomsOf.get(session)?.delete(room)) return false;
    this.#topics.unsubscribe(session, room);
    this.#topics.unsubscribe(session, PRESENCE_PREFIX + room);
    this.#presence.leave(session, room);
    return true;
  }

  /**
   * Publishes in a room; the publisher need not be a member.
   *
   * @param room The room.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` members.
   * @param options A session that does not get it.
   * @throws {TypeError} If JSON can not hold the data, or the name is no room's.
   * @throws {RangeError} If the message is too large, or the name too long.
   */
  publish(room: string, data?: unknown, options: PublishOptions = {}): void {
    this.#noticesOf(room, "publish");
    this.#topics.publish(room, data, options);
  }

  /**
   * Lists the users in a room, those within their grace included.
   *
   * @param room The room.
   * @returns The members, in the order in which they came.
   */
  members(room: string): PresenceMember[] {
    return this.#presence.members(room);
  }

  /**
   * Lists the rooms that a session joined.
   *
   * @param session Any session.
   * @returns The rooms, in the order in which it came to them.
   */
  roomsOf(session: Session): string[] {
    return [...this.#roomsOf.get(session) ?? []];
  }

  /**
   * Tells whether a session joined a room.
   *
   * @param session Any session.
   * @param room The room.
   * @returns Whether it did, and did not leave.
   */
  isMember(session: Session, room: string): boolean {
    return this.#roomsOf.get(session)?.has(room) ?? false;
  }

  /** Sends no notices any more; the topics and the presence stay as they are. Idempotent. */
  [Symbol.dispose](): void {
    this.#observation[Symbol.dispose]();
  }

  #noticesOf(room: string, verb: string): string {
    checkTopic(room, verb, Infinity);
    if (room.startsWith(PRESENCE_PREFIX)) {
      throw new TypeError(
        `Cannot ${verb}: the name of a room must not begin with "${PRESENCE_PREFIX}", received "${room}"`,
      );
    }
    const maxBytes = this.#topics.maxTopicBytes - PRESENCE_PREFIX.length;
    const bytes = utf8Length(room);
    if (bytes > maxBytes) {
      throw new RangeError(
        `Cannot ${verb}: the name of a room must have at most ${maxBytes} bytes, ` +
          `so that "${PRESENCE_PREFIX}" fits before it, received ${bytes} bytes`,
      );
    }
    return PRESENCE_PREFIX + room;
  }

  #remember(session: Session, room: string): void {
    const rooms = this.#roomsOf.get(session);
    if (rooms !== undefined) return void rooms.add(room);
    this.#roomsOf.set(session, new Set([room]));
    coreOf(session).whenEnded(this.#onEnd);
  }

  /** The members as they are once the session is in. */
  #membersWith(session: Session, room: string): PresenceMember[] {
    const members = this.members(room);
    if (this.#presence.has(session, room)) return members;
    const { user } = session;
    const at = members.findIndex((member) => member.user === user);
    const known = members[at];
    if (known === undefined) members.push({ user, connections: 1, joinedAt: Date.now() });
    else members[at] = { ...known, connections: known.connections + 1 };
    return members;
  }

  /** Runs inside the change, so that notices are in the order of the changes. */
  #announce(event: PresenceEvent): void {
    const { type, topic: room, user, at } = event;
    if (room === undefined || !this.#known.has(room)) return;
    if (type === "join") {
      return this.#publish(room, { type, user, at }, event.session);
    }
    if (this.members(room).length === 0) this.#known.delete(room);
    this.#publish(room, { type, user, at, lastSeenAt: event.lastSeenAt });
  }

  #publish(room: string, notice: PresenceNotice, except?: Session): void {
    this.#topics.publish(PRESENCE_PREFIX + room, notice, { except });
  }
}
