/** Rooms: topics with presence. */
import type { OptionKinds } from "../../base/options/options.ts";
import {
  checkOptions,
  integer,
  objectWith,
  recordOf,
  RUNTIME,
} from "../../base/options/option_checks.ts";
import { QueueFullError } from "../../errors.ts";
import { PRESENCE_PREFIX, type PresenceMember } from "../../session/wire/presence_notice.ts";
import { MOVED } from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import { checkTopic } from "../../session/wire/encode.ts";
import { TopicRouter } from "../../session/wire/topic_pattern.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import type { Runtime } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import { RoomNotices, type RoomOptions } from "./room_notices.ts";
import { copyPresenceData, MAX_PRESENCE_DATA_BYTES, type Presence } from "./presence.ts";
import {
  checkSession,
  type JoinOptions,
  PUBLISH,
  type PublishOptions,
  SUBSCRIBE,
  type SubscribeOptions,
  UNSUBSCRIBE,
  type UnsubscribeOptions,
} from "../topic_options.ts";
import type { Topics } from "../topics.ts";

export type { RoomOptions };

/** Default maximum size of a user's data in a room, in bytes. */
export const MAX_DATA_BYTES = 512;

/** Maximum number of rooms for which one session may have data, joined or not. */
export const MAX_ROOMS_WITH_DATA = 32;

/**
 * Options for {@linkcode Rooms.join}: the start position in the history and the session's data.
 */
export interface RoomJoinOptions extends SubscribeOptions {
  /**
   * Any value that JSON can represent, of at most 4,096 bytes as JSON. The value is copied. If left
   * out, the session has no data.
   */
  readonly data?: unknown;
}

/** Options for {@linkcode Rooms}. */
export interface RoomsOptions {
  /** Topics that carry messages and notices. */
  readonly topics: Topics;
  /** Presence that tracks the members. */
  readonly presence: Presence;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {presence.runtime}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Options of rooms, by patterns of room names such as `room:{name}`. A room without a matching
   * pattern uses the defaults of {@linkcode RoomOptions}.
   *
   * @default {{}}
   */
  readonly patterns?: Readonly<Record<string, RoomOptions>> | undefined;
}

export const ROOM: OptionKinds<RoomOptions> = {
  gatherAbove: integer(0, MAX_TIMER_MS),
  gatherMs: integer(0, MAX_TIMER_MS),
  maxDataBytes: integer(0, MAX_PRESENCE_DATA_BYTES),
  members: ["list", "count"],
};

const ROOMS: OptionKinds<RoomsOptions> = {
  patterns: recordOf(ROOM),
  presence: objectWith("Presence", "enter", "subscribe"),
  runtime: RUNTIME,
  topics: objectWith("Topics", "publish", "subscribe"),
};

const JOIN: OptionKinds<RoomJoinOptions> = { ...SUBSCRIBE, data: 0 };

/**
 * Rooms: a room is a topic with presence. A session that joins receives the messages published in
 * the room, the list of members, and each join and leave of a user, as {@linkcode PresenceNotice}s
 * on the topic `presence:<room>`.
 *
 * - **Users:** notices are about users. Opening a second tab doesn't count as a join, closing it
 *   doesn't count as a leave, and reloading within the grace period of {@linkcode Presence} counts
 *   as neither. Members receive the new number of the user's connections, but not the 0 of the
 *   grace period: a reload causes no notice.
 * - **First:** a session that joins first receives `members`, which includes its own user. Then it
 *   receives every change once and in order, except changes that the list already includes.
 * - **Data:** a session may be present with data, which is included in `members`, `join` and
 *   `update` notices. {@linkcode Presence} defines which data applies if a user has several
 *   sessions. In a small room, members receive updates immediately, at most 20 a second.
 * - **Leave:** a user whose last session unsubscribes leaves immediately. If another session of the
 *   user has closed on another node, its grace period ends first.
 * - **Close:** a session that closes leaves all rooms. Members receive the leave after the grace
 *   period.
 * - **Large rooms:** above 100 users, changes are gathered for up to a second into one notice. A
 *   session that joins receives the list with the next notice, in parts if it is long; see
 *   {@linkcode RoomOptions}. One interval carries at most 64 KiB of data; the rest follows in the
 *   next interval.
 * - **Limits:** the name of a room must not start with `presence:`, and can be at most 246 bytes
 *   long, so that the topic of its notices is not too long.
 * - **Nodes:** a room includes the members on all nodes that the presence knows. Each node sends
 *   notices to its own sessions. A session that joins receives the list once the other nodes have
 *   sent their members, or after one second at the latest.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { Presence, Rooms, Topics } from "@skein/skein/pubsub";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * const { client, server } = memoryPair();
 * await using ada = new Session(server, settings, { user: "ada" });
 * await using page = new Session(client, sessionSettings({ side: "client" }));
 * await using topics = new Topics({ settings });
 * using presence = new Presence();
 * using rooms = new Rooms({ topics, presence });
 *
 * rooms.join(ada, "chat");
 * rooms.publish("chat", "hello");
 * const received: string[] = [];
 * for await (const { topic, data } of page) {
 *   received.push(topic);
 *   if (data === "hello") break;
 * }
 * assertEquals(received, ["presence:chat", "chat"]);
 * ```
 */
export class Rooms implements Disposable {
  readonly #runtime: Runtime;
  readonly #topics: Topics;
  readonly #presence: Presence;
  readonly #observation: Disposable;
  readonly #options: TopicRouter<Required<RoomOptions>>;
  readonly #rooms = new Map<string, RoomNotices>();
  readonly #roomsOf = new Map<Session, Set<string>>();
  /** Sessions' data by room, including rooms that a session has not joined. */
  readonly #dataOf = new Map<Session, Map<string, unknown>>();
  readonly #onEnd = (session: Session) => {
    for (const room of this.#roomsOf.get(session) ?? []) this.#forget(session, room);
    this.#roomsOf.delete(session);
  };

  /**
   * Creates rooms without members.
   *
   * @param options See {@linkcode RoomsOptions}.
   * @throws {TypeError} If a pattern is malformed, or two patterns overlap.
   * @throws {RangeError} If `gatherAbove` or `gatherMs` is not an integer of 0 or more.
   */
  constructor(options: RoomsOptions) {
    checkOptions("create rooms", options, ROOMS);
    this.#runtime = options.runtime ?? options.presence.runtime;
    this.#topics = options.topics;
    this.#presence = options.presence;
    this.#options = new TopicRouter(
      Object.entries(options.patterns ?? {}).map((
        [pattern, room],
      ) => [pattern, complete(room)]),
      "create rooms",
    );
    this.#observation = options.presence.observe({
      changed: (event) => {
        if (event.topic !== undefined) this.#rooms.get(event.topic)?.note(event);
      },
      counted: (count) => this.#rooms.get(count.topic)?.recount(count),
      settled: (topic) => this.#rooms.get(topic)?.settled(),
    });
  }

  /**
   * Adds a session to a room: subscribes the session, sends it the list of members, and sends a
   * notice to the other members if the user was not present before. Idempotent. A session that is
   * closed or closing is ignored.
   *
   * @param session A session of the topics' flusher.
   * @param room The room's topic, of 1 to 246 bytes.
   * @param options The start position in the room's history, and the session's presence data. If
   * you pass no data, the data from {@linkcode Rooms.update} stays. It also stays if this call
   * throws.
   * @returns True if the session was not a member before, and is now.
   * @throws {TypeError} If the name is not a valid topic, or begins with `presence:`, or JSON cannot
   * hold the data.
   * @throws {RangeError} If the name is longer than 246 bytes, or the data larger than the room
   * allows.
   * @throws {QueueFullError} If the session already has the maximum number of topics, if it has
   * data in 32 other rooms, or if its send queue is full and has the policy `close`. The session is
   * then not a member.
   * @throws {SessionClosedError} If the session is not established yet.
   */
  join(session: Session, room: string, options: RoomJoinOptions = {}): boolean {
    checkOptions("join", options, JOIN);
    return this.enter(session, room, options);
  }

  /**
   * Adds a session to a room as {@linkcode Rooms.join} does. Also used for clients' requests.
   *
   * @ignore
   * @param session A session of the topics' flusher.
   * @param options See {@linkcode RoomJoinOptions}, and `isRequested` of {@linkcode Topics.join}.
   * @returns True if the session was not a member before, and is now.
   */
  enter(
    session: Session,
    room: string,
    options: RoomJoinOptions & Pick<JoinOptions, "isRequested">,
  ): boolean {
    checkSession("join", session);
    this.#check(room, "join");
    const isEnding = session.state === "draining" && !session.isReady;
    if (session.isClosed || isEnding) return false;
    const { data: given, ...start } = options;
    const before = this.#dataOf.get(session)?.get(room);
    if (given !== undefined) this.setData(session, room, given);
    try {
      return this.#enter(session, room, start);
    } catch (error) {
      this.#keep(session, room, before);
      throw error;
    }
  }

  /**
   * Removes a session from a room, and unsubscribes it from the room's topic. The other members are
   * notified when the user has left, which is once the grace period after the user's last session
   * is over. On a server, a request of the client about the room for which `authorize` is still
   * running fails with the code, too. Idempotent.
   *
   * @param session Any session.
   * @param room The room's topic, as passed to `join`.
   * @param options Code and reason for the client.
   * @returns True if the session was a member, or such a request was under way.
   * @throws {TypeError} If the code is not a text of 1 to 64 characters.
   */
  leave(
    session: Session,
    room: string,
    options: UnsubscribeOptions = {},
  ): boolean {
    checkOptions("leave", options, UNSUBSCRIBE);
    checkSession("leave", session);
    // The subscription of a session that is not a member is not the room's.
    if (!this.isMember(session, room) && this.#topics.has(session, room)) return false;
    return this.#topics.unsubscribe(session, room, options);
  }

  /**
   * Sets a session's presence data in a room. If the session is a member, the data applies
   * immediately; it also applies to each later join. The data is kept until the session ends, even
   * if the session leaves the room.
   *
   * @param session Any session.
   * @param room The room's topic.
   * @param options The data; if omitted, the session's data is removed.
   * @returns True if the session is a member, so that the other members receive the update.
   * @throws {TypeError} If the name is not a valid topic, or begins with `presence:`, or JSON cannot
   * hold the data.
   * @throws {RangeError} If the name is longer than 246 bytes, or the data larger than the room
   * allows.
   * @throws {QueueFullError} If the session has data in 32 other rooms.
   */
  update(session: Session, room: string, options: { readonly data?: unknown } = {}): boolean {
    checkOptions("update", options, { data: 0 });
    return this.setData(session, room, options.data);
  }

  /**
   * Sets a session's presence data as {@linkcode Rooms.update} does. Also used for clients'
   * requests.
   *
   * @ignore
   */
  setData(session: Session, room: string, given: unknown): boolean {
    checkSession("update", session);
    this.#check(room, "update");
    const { maxDataBytes: maxBytes } = this.#optionsOf(room);
    const data = copyPresenceData(given, { verb: "update", maxBytes });
    this.#keep(session, room, data);
    return this.isMember(session, room) && this.#presence.change(session, room, data);
  }

  /**
   * Publishes in a room; the publisher need not be a member.
   *
   * @param room The room's topic.
   * @param data Any value that JSON can hold, or a `Uint8Array` for `skein.1` members.
   * @param options See {@linkcode PublishOptions}.
   * @throws {TypeError} If JSON cannot hold the data, or the name is not that of a room.
   * @throws {RangeError} If the message is too large or the name is too long.
   */
  publish(room: string, data?: unknown, options: PublishOptions = {}): void {
    checkOptions("publish", options, PUBLISH);
    this.#check(room, "publish");
    this.#topics.publish(room, data, options);
  }

  /**
   * Lists the users in a room with their data, including users within the grace period. With many
   * nodes, {@linkcode Presence.isComplete} returns false if some users may be missing.
   *
   * @param room The room's topic.
   * @returns The members, in the order of joining.
   */
  members(room: string): PresenceMember[] {
    return this.#presence.members(room);
  }

  /**
   * Lists the rooms with members on this node, for an inspector.
   *
   * @ignore
   */
  names(): Iterable<string> {
    return this.#rooms.keys();
  }

  /**
   * Lists the rooms that a session joined.
   *
   * @param session Any session.
   * @returns The rooms, in the order of joining.
   */
  roomsOf(session: Session): string[] {
    return [...this.#roomsOf.get(session) ?? []];
  }

  /**
   * Returns true if a session joined a room.
   *
   * @param session Any session.
   * @param room The room's topic.
   * @returns True if the session joined, and has not left.
   */
  isMember(session: Session, room: string): boolean {
    return this.#roomsOf.get(session)?.has(room) ?? false;
  }

  /** Stops sending notices; the topics and the presence stay as they are. Idempotent. */
  [Symbol.dispose](): void {
    this.#observation[Symbol.dispose]();
    for (const room of this.#rooms.values()) room.close();
  }

  #enter(session: Session, room: string, start: Omit<JoinOptions, "onLeft">): boolean {
    const isNew = !this.#topics.has(session, room);
    // Failures of the broker go to `onError`.
    void this.#topics.join(session, room, {
      ...start,
      // Members are subscribed, so the end of the subscription ends the membership.
      onLeft: (code) => this.#left(session, room, code),
    });
    const data = this.#dataOf.get(session)?.get(room);
    if (this.isMember(session, room)) {
      // A part of the page that was added later has no list yet.
      if (start.isRequested) this.#rooms.get(room)!.admit(session, data);
      return false;
    }
    const known = this.#rooms.get(room) ?? this.#open(room);
    try {
      // The session is admitted before `enter`, so that the list precedes the notices that `enter`
      // causes.
      known.admit(session, data);
      this.#remember(session, room);
      this.#presence.add(session, room, data);
      return true;
    } catch (error) {
      this.#roomsOf.get(session)?.delete(room);
      this.#forget(session, room);
      if (isNew) this.#topics.leave(session, room);
      throw error;
    }
  }

  #check(room: string, verb: string): void {
    checkTopic(room, verb, Infinity);
    if (room.startsWith(PRESENCE_PREFIX)) {
      throw new TypeError(
        `Cannot ${verb}: the name of a room must not start with "${PRESENCE_PREFIX}", received "${room}"`,
      );
    }
    const maxBytes = this.#topics.maxTopicBytes - PRESENCE_PREFIX.length;
    const bytes = utf8Length(room);
    if (bytes > maxBytes) {
      throw new RangeError(
        `Cannot ${verb}: the name of a room must have at most ${maxBytes} bytes, ` +
          `so that "${PRESENCE_PREFIX}" fits before it, received ${bytes}`,
      );
    }
  }

  #optionsOf(room: string): Required<RoomOptions> {
    return this.#options.match(room) ?? complete({});
  }

  #open(name: string): RoomNotices {
    const room = new RoomNotices(name, this.#optionsOf(name), {
      runtime: this.#runtime,
      presence: this.#presence,
      flusher: this.#topics.flusher,
    });
    this.#rooms.set(name, room);
    return room;
  }

  #left(session: Session, room: string, code: string): void {
    if (!this.#roomsOf.get(session)?.delete(room)) return;
    this.#forget(session, room);
    // A client that moves may return to the room in its next session.
    this.#presence.remove(session, room, code !== MOVED);
  }

  #forget(session: Session, name: string): void {
    const room = this.#rooms.get(name);
    room?.leave(session);
    if (room?.isEmpty) this.#rooms.delete(name);
  }

  #keep(session: Session, room: string, data: unknown): void {
    const known = this.#dataOf.get(session);
    if (data === undefined) return void known?.delete(room);
    if (known === undefined) {
      this.#dataOf.set(session, new Map([[room, data]]));
      return session[internals].whenEnded((ended) => void this.#dataOf.delete(ended));
    }
    if (known.size >= MAX_ROOMS_WITH_DATA && !known.has(room)) {
      throw new QueueFullError(
        `Cannot update: the session has data in ${MAX_ROOMS_WITH_DATA} rooms already`,
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

function complete(options: RoomOptions): Required<RoomOptions> {
  const { members = "list", gatherAbove = 100, gatherMs = 1_000, maxDataBytes = MAX_DATA_BYTES } =
    options;
  return { members, gatherAbove, gatherMs, maxDataBytes };
}
