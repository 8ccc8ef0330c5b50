/**
 * Rooms: topics whose members know of each other.
 *
 * @module
 */
import { QueueFullError } from "../../errors.ts";
import { PRESENCE_PREFIX, type PresenceMember } from "../../session/wire/presence_notice.ts";
import { internals, type Session } from "../../session/session.ts";
import { checkTopic, TopicRouter } from "../../session/base/topic_pattern.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { MAX_TIMER_MS } from "../../session/base/wait.ts";
import { Room, type RoomOptions } from "./room.ts";
import {
  copyPresenceData,
  MAX_PRESENCE_DATA_BYTES,
  observePresence,
  type Presence,
  type PresenceDataOptions,
} from "./presence.ts";
import type {
  PublishOptions,
  Topics,
  TopicSubscribeOptions,
  UnsubscribeOptions,
} from "../topics.ts";

export type { RoomOptions };

/** Rooms for which one session may have data, whether or not it joined them. */
const MAX_ROOMS_WITH_DATA = 32;

/** Options for {@linkcode Rooms.join}: where the history begins, and the data of the session. */
export interface RoomJoinOptions
  extends Omit<TopicSubscribeOptions, "onLeft">, PresenceDataOptions {}

/** Options for {@linkcode Rooms}. */
export interface RoomsOptions {
  /** Carries messages and notices. */
  readonly topics: Topics;
  /** Says who is there. */
  readonly presence: Presence;
  /**
   * How rooms tell who is in them, by patterns of their names, such as `room:{name}`. A room that
   * fits none has the defaults of {@linkcode RoomOptions}.
   *
   * @default {{}}
   */
  readonly patterns?: Readonly<Record<string, RoomOptions>>;
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
 * - **Data:** a session may be present with data, which `members`, `join` and `update` notices
 *   carry; see {@linkcode Presence} for which of several sessions of a user stands. In a small room
 *   an update is told at once, and at most 20 times a second.
 * - **Close:** a session that closes leaves its rooms; the others are told
 *   when the grace is over.
 * - **Large rooms:** above 100 users changes are gathered for up to a second into one notice, and who
 *   joins gets its list with the next of them, in parts where it is long; see {@linkcode RoomOptions}.
 *   They carry at most 64 KiB of data at a time; what is more follows with the next.
 * - **Limits:** the name of a room must not begin with `presence:`, and has at most 246 bytes, so
 *   that the notices' topic fits.
 * - **Nodes:** members are those of all nodes that the presence knows. Each node tells its own; who
 *   joins waits for the list until the other nodes said whom they have, a second at most.
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
  readonly #options: TopicRouter<Required<RoomOptions>>;
  /** Rooms with members of this node. */
  readonly #rooms = new Map<string, Room>();
  readonly #roomsOf = new Map<Session, Set<string>>();
  /** The data of sessions, by room; also of rooms that they have yet to join. */
  readonly #dataOf = new Map<Session, Map<string, unknown>>();
  readonly #onEnd = (session: Session) => {
    for (const room of this.#roomsOf.get(session) ?? []) this.#forget(session, room);
    this.#roomsOf.delete(session);
  };

  /**
   * Creates rooms without members.
   *
   * @param options See {@linkcode RoomsOptions}.
   * @throws {TypeError} If a pattern is malformed, or two of them overlap.
   * @throws {RangeError} If `gatherAbove` or `gatherMs` is no whole number from 0.
   */
  constructor(options: RoomsOptions) {
    this.#topics = options.topics;
    this.#presence = options.presence;
    this.#options = new TopicRouter(
      Object.entries(options.patterns ?? {}).map((
        [pattern, room],
      ) => [pattern, checkOptions(room)]),
      "create rooms",
    );
    this.#observation = observePresence(options.presence, {
      changed: (event) => {
        if (event.topic !== undefined) this.#rooms.get(event.topic)?.note(event);
      },
      settled: (topic) => this.#rooms.get(topic)?.settled(),
    });
  }

  /**
   * Lets a session into a room: subscribes it, tells it who is there, and tells
   * the others if its user was not there before. Idempotent; a session that is
   * closed, or closing, is left out.
   *
   * @param session A session of the topics' turn.
   * @param room The room.
   * @param options Where in the history of the room to begin, if it has one, and the data with which
   * the session is present; what {@linkcode Rooms.update} set before stays unless it is given.
   * @returns Whether the session was not a member before, and is now.
   * @throws {TypeError} If the name is no topic, or begins with `presence:`, or JSON cannot hold the
   * data.
   * @throws {RangeError} If the name is longer than 246 bytes, or the data than the room allows.
   * @throws {QueueFullError} If the session has no topic left, or data in 32 other rooms, or its send
   * queue is full and the policy `close`; it is not a member then.
   * @throws {SessionClosedError} If the session is not established yet.
   */
  join(session: Session, room: string, options: RoomJoinOptions = {}): boolean {
    this.#check(room, "join");
    const isEnding = session.state === "draining" && !session.isReady;
    if (session.isClosed || isEnding) return false;
    if (options.data !== undefined) this.update(session, room, options);
    const isNew = this.#topics.subscribe(session, room, {
      ...options,
      // A member is subscribed: whatever takes it off the topic takes it out of the room.
      onLeft: () => this.#left(session, room),
    });
    if (this.isMember(session, room)) return false;
    const known = this.#rooms.get(room) ?? this.#open(room);
    const data = this.#dataOf.get(session)?.get(room);
    try {
      // What `enter` makes others do comes after this: so the list is first.
      known.admit(session, data);
      this.#remember(session, room);
      this.#presence.enter(session, room, { data });
      return true;
    } catch (error) {
      this.#roomsOf.get(session)?.delete(room);
      this.#forget(session, room);
      if (isNew) this.#topics.unsubscribe(session, room, { isSilent: true });
      throw error;
    }
  }

  /**
   * Takes a session out of a room, and off its topic. The others are told when its user has left:
   * with the last of the user's sessions, after the grace. Idempotent.
   *
   * @param session Any session.
   * @param room The room.
   * @param options What the client is told.
   * @returns Whether the session was a member.
   * @throws {TypeError} If the code is no text of 1 to 64 characters.
   */
  leave(session: Session, room: string, options: UnsubscribeOptions = {}): boolean {
    return this.isMember(session, room) && this.#topics.unsubscribe(session, room, options);
  }

  /**
   * Sets the data with which a session is present in a room: now, if it is a member, and whenever it
   * joins. It is kept until the session is over, also where the session leaves the room.
   *
   * @param session Any session.
   * @param room The room.
   * @param options The data; without it the session has none any more.
   * @returns Whether the session is a member, so that the others are told.
   * @throws {TypeError} If the name is no topic, or begins with `presence:`, or JSON cannot hold the
   * data.
   * @throws {RangeError} If the name is longer than 246 bytes, or the data than the room allows.
   * @throws {QueueFullError} If the session has data in 32 other rooms.
   */
  update(session: Session, room: string, options: PresenceDataOptions = {}): boolean {
    this.#check(room, "update");
    const { maxDataBytes: maxBytes } = this.#optionsOf(room);
    const data = copyPresenceData(options.data, { verb: "update", maxBytes });
    this.#keep(session, room, data);
    return this.isMember(session, room) && this.#presence.update(session, room, { data });
  }

  /**
   * Publishes in a room; the publisher need not be a member.
   *
   * @param room The room.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` members.
   * @param options A session that does not get it.
   * @throws {TypeError} If JSON cannot hold the data, or the name is no room's.
   * @throws {RangeError} If the message is too large, or the name too long.
   */
  publish(room: string, data?: unknown, options: PublishOptions = {}): void {
    this.#check(room, "publish");
    this.#topics.publish(room, data, options);
  }

  /**
   * Lists the users in a room, those within their grace included, with their data.
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
    for (const room of this.#rooms.values()) room.close();
  }

  #check(room: string, verb: string): void {
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
  }

  #optionsOf(room: string): Required<RoomOptions> {
    return this.#options.match(room) ?? checkOptions({});
  }

  #open(name: string): Room {
    const room = new Room(name, this.#optionsOf(name), {
      presence: this.#presence,
      turn: this.#topics.turn,
    });
    this.#rooms.set(name, room);
    return room;
  }

  #left(session: Session, room: string): void {
    if (!this.#roomsOf.get(session)?.delete(room)) return;
    this.#forget(session, room);
    this.#presence.leave(session, room);
  }

  #forget(session: Session, name: string): void {
    const room = this.#rooms.get(name);
    room?.leave(session);
    if (room?.isEmpty) this.#rooms.delete(name);
  }

  /** Keeps the data of a session for a room. */
  #keep(session: Session, room: string, data: unknown): void {
    const known = this.#dataOf.get(session);
    if (data === undefined) return void known?.delete(room);
    if (known === undefined) {
      this.#dataOf.set(session, new Map([[room, data]]));
      return session[internals].whenEnded((ended) => void this.#dataOf.delete(ended));
    }
    if (known.size >= MAX_ROOMS_WITH_DATA && !known.has(room)) {
      throw new QueueFullError(
        `Cannot update: a session may have data in at most ${MAX_ROOMS_WITH_DATA} rooms, received one more`,
      );
    }
    known.set(room, data);
  }

  #remember(session: Session, room: string): void {
    const rooms = this.#roomsOf.get(session);
    if (rooms !== undefined) return void rooms.add(room);
    this.#roomsOf.set(session, new Set([room]));
    session[internals].whenEnded(this.#onEnd);
  }
}

function checkOptions(options: RoomOptions): Required<RoomOptions> {
  const { members = "list", gatherAbove = 100, gatherMs = 1_000, maxDataBytes = 512 } = options;
  if (members !== "list" && members !== "count") {
    throw new TypeError(
      `Cannot create rooms: members must be "list" or "count", received ${members}`,
    );
  }
  for (const [name, value] of Object.entries({ gatherAbove, gatherMs })) {
    if (Number.isInteger(value) && value >= 0 && value <= MAX_TIMER_MS) continue;
    throw new RangeError(
      `Cannot create rooms: ${name} must be a whole number from 0, received ${value}`,
    );
  }
  const isDataFine = Number.isInteger(maxDataBytes) && maxDataBytes >= 0 &&
    maxDataBytes <= MAX_PRESENCE_DATA_BYTES;
  if (!isDataFine) {
    throw new RangeError(
      `Cannot create rooms: maxDataBytes must be a whole number from 0 to ${MAX_PRESENCE_DATA_BYTES}, ` +
        `received ${maxDataBytes}`,
    );
  }
  return { members, gatherAbove, gatherMs, maxDataBytes };
}
