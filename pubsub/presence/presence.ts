/**
 * Presence: which users are here, however many connections each of them has.
 *
 * @module
 */
import { encodeEnvelope } from "../../session/wire/envelope.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import { internals, type Session } from "../../session/session.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { MAX_TIMER_MS } from "../../session/base/wait.ts";
import { checkTopic } from "../../session/base/topic_pattern.ts";
import { Places } from "./topic_presence.ts";
import type { Place, Stay } from "./user_presence.ts";
import type {
  PresenceEvent,
  PresenceJoinEvent,
  PresenceLeaveEvent,
  PresenceListener,
  PresenceOptions,
  PresenceUpdateEvent,
} from "./types.ts";

export type {
  PresenceEvent,
  PresenceJoinEvent,
  PresenceLeaveEvent,
  PresenceListener,
  PresenceOptions,
  PresenceUpdateEvent,
};

/** Most bytes of the data with which a user can be present: each node keeps it for each user. */
export const MAX_PRESENCE_DATA_BYTES = 4_096;

/** The data with which a session is present. */
export interface PresenceDataOptions {
  /**
   * Any value that JSON can hold, of at most 4,096 bytes as JSON; it is copied. Left out, the session
   * has no data.
   */
  readonly data?: unknown;
}

/** What a session takes part in. Its user is the one it came with. */
interface Visit {
  readonly user: string;
  readonly stays: Map<string | undefined, Stay>;
}

/** Sees changes before any listener. */
export interface PresenceObserver {
  /** Called within each change, in order. MUST NOT make one itself. */
  changed(event: PresenceEvent): void;
  /** The other nodes said who is in a topic; what `members` says from now on is all. */
  settled(topic: string): void;
}

/** @ignore Adds an observer. */
export let observePresence: (presence: Presence, observer: PresenceObserver) => Disposable;

/**
 * Keeps who is present in topics, and online at all: users, not connections.
 *
 * - **Users:** two tabs of one user are one member with two connections; the
 *   user leaves with the last of them.
 * - **Grace:** who comes back within `graceMs` never left: there is neither a
 *   leave nor a join, and the user counts as present all the time, with 0 connections.
 * - **Close:** a session that closes leaves everything; one that is closed can
 *   not enter.
 * - **Data:** a session may be present in a topic with data. The user's is what was set last by a
 *   session that is there, on any node: by the clocks of the nodes, and what is set after something
 *   else was known is newer in any case. When that session goes, the newest of the others stands
 *   again; within the grace, when no session is there, the last one stays.
 * - **Events:** each listener sees joins, updates of data and leaves in their order, after the
 *   change; what a listener changes itself is told when it returned.
 * - **Bounds:** one timer for all graces, none while nobody is away.
 * - **Nodes:** with `nodes`, a user's connections are those on all nodes, it came with the first of
 *   them and leaves with the last, and moving from one to another within the grace is neither. A node
 *   knows the topics in which it has somebody, and those that it follows; of others, which have it
 *   from their own, its listeners hear nothing. Users of a node that died leave after the time in
 *   which it is found gone, and the grace: 12 s by default. Times are by the clocks of the nodes where
 *   it happened; no wait depends on them.
 *
 * @example Usage
 * ```ts
 * import { memoryPair, Presence, Session, sessionSettings } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * await using tab1 = new Session(memoryPair().server, settings, { user: "ada" });
 * await using tab2 = new Session(memoryPair().server, settings, { user: "ada" });
 * using presence = new Presence({ graceMs: 0 });
 * const events: string[] = [];
 * presence.subscribe(({ type, topic, user }) => events.push(`${user} ${type} ${topic}`));
 *
 * presence.enter(tab1, "chat");
 * presence.enter(tab2, "chat");
 * presence.leave(tab1, "chat");
 * assertEquals(presence.connections("ada", "chat"), 1);
 * presence.leave(tab2, "chat");
 * assertEquals(events, ["ada join undefined", "ada join chat", "ada leave chat"]);
 * assertEquals(presence.online(), ["ada"]);
 * ```
 */
export class Presence implements Disposable {
  readonly #maxLastSeen: number;
  readonly #onError: (error: unknown) => void;
  readonly #places: Places;
  readonly #visits = new Map<Session, Visit>();
  readonly #lastSeen = new Map<string, number>();
  readonly #observers = new Set<PresenceObserver>();
  // Objects of their own, so that one listener can subscribe twice.
  readonly #listeners = new Set<{ readonly listener: PresenceListener }>();
  readonly #events: PresenceEvent[] = [];
  readonly #watched = new WeakSet<Session>();
  readonly #onEnd = (session: Session) => void this.leave(session);
  #isTelling = false;
  #isDisposed = false;

  static {
    observePresence = (presence, observer) => {
      presence.#observers.add(observer);
      return { [Symbol.dispose]: () => void presence.#observers.delete(observer) };
    };
  }

  /**
   * Creates a presence of nobody.
   *
   * @param options See {@linkcode PresenceOptions}.
   * @throws {RangeError} If `graceMs` is not from 0 to 2,147,483,647, or `maxLastSeen`
   * is not an integer from 0.
   */
  constructor(options: PresenceOptions = {}) {
    const { graceMs = 5_000, maxLastSeen = 10_000, onError = print } = options;
    const { nodes, sharesOnline = true } = options;
    if (!(graceMs >= 0 && graceMs <= MAX_TIMER_MS)) {
      throw new RangeError(
        `Cannot create presence: graceMs must be from 0 to ${MAX_TIMER_MS}, received ${graceMs}`,
      );
    }
    if (!Number.isInteger(maxLastSeen) || maxLastSeen < 0) {
      throw new RangeError(
        `Cannot create presence: maxLastSeen must be an integer from 0, received ${maxLastSeen}`,
      );
    }
    this.#maxLastSeen = maxLastSeen;
    this.#onError = onError;
    this.#places = new Places({ graceMs, nodes, sharesOnline }, {
      changed: (event) => this.#note(event),
      settled: (topic) => {
        for (const observer of this.#observers) this.#call(() => observer.settled(topic));
      },
      tell: () => this.#tell(),
    });
  }

  /**
   * Notes that a session is here; in a topic, if one is given, and online in
   * any case. Idempotent; a closed session is left out.
   *
   * @param session The session; its user is kept until it leaves.
   * @param topic The topic; left out, the session is online and no more.
   * @param options The data with which the session is present in the topic; of one that is there
   * already it stays as it is unless it is given.
   * @returns Whether the user was not present there before, as far as it is known here.
   * @throws {TypeError} If the topic is no topic, or JSON cannot hold the data.
   * @throws {RangeError} If the topic is longer than 255 bytes, or the data than 4,096.
   * @throws {UnsupportedError} If the nodes' broker is closed.
   */
  enter(session: Session, topic?: string, options: PresenceDataOptions = {}): boolean {
    if (topic !== undefined) checkTopic(topic, "enter");
    const data = copyPresenceData(options.data, { verb: "enter" });
    if (session.isClosed || this.#isDisposed) return false;
    const place = topic === undefined ? undefined : this.#places.open(topic);
    let visit = this.#visits.get(session);
    if (visit === undefined) {
      visit = { user: session.user, stays: new Map() };
      this.#visits.set(session, visit);
      this.#watch(session);
    }
    let hasCome = this.#arrive(session, visit, this.#places.online, undefined);
    if (place !== undefined) hasCome = this.#arrive(session, visit, place, data);
    this.#tell();
    return hasCome;
  }

  /**
   * Sets the data with which a session is present in a topic. Listeners are told if the data of its
   * user changes by that.
   *
   * @example A user who is away
   * ```ts
   * import { memoryPair, Presence, Session, sessionSettings } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * const settings = sessionSettings({ side: "server" });
   * await using session = new Session(memoryPair().server, settings, { user: "ada" });
   * using presence = new Presence({ graceMs: 0 });
   * presence.enter(session, "chat", { data: { is: "here" } });
   * presence.update(session, "chat", { data: { is: "away" } });
   * assertEquals(presence.members("chat").map(({ data }) => data), [{ is: "away" }]);
   * ```
   *
   * @param session Any session.
   * @param topic The topic.
   * @param options The data; without it the session has none any more.
   * @returns Whether the session is present there; if not, nothing changes.
   * @throws {TypeError} If JSON cannot hold the data.
   * @throws {RangeError} If the data has more than 4,096 bytes as JSON.
   */
  update(session: Session, topic: string, options: PresenceDataOptions = {}): boolean {
    const data = copyPresenceData(options.data, { verb: "update" });
    const stay = this.#visits.get(session)?.stays.get(topic);
    if (stay === undefined) return false;
    this.#places.setData(stay, session, data);
    this.#tell();
    return true;
  }

  /**
   * Notes that a session has gone: from a topic, or from everything.
   *
   * @param session Any session.
   * @param topic The topic; left out, the session goes from all topics and offline.
   * @returns Whether it was there.
   */
  leave(session: Session, topic?: string): boolean {
    const visit = this.#visits.get(session);
    if (visit === undefined) return false;
    if (topic !== undefined) {
      const stay = visit.stays.get(topic);
      if (stay === undefined) return false;
      visit.stays.delete(topic);
      this.#places.depart(stay, session);
    } else {
      this.#visits.delete(session);
      const [online, ...stays] = visit.stays.values();
      for (const stay of stays) this.#places.depart(stay, session);
      // Last: who is in a topic is online.
      this.#places.depart(online!, session);
    }
    this.#tell();
    return true;
  }

  /**
   * Lists who is present in a topic, those within their grace included.
   *
   * @param topic The topic.
   * @returns The members, in the order in which they came to be known here.
   */
  members(topic: string): PresenceMember[] {
    return Array.from(this.#places.get(topic)?.stays.values() ?? [], ({ member }) => member);
  }

  /**
   * Counts who is present in a topic, those within their grace included.
   *
   * @param topic The topic.
   * @returns How many users.
   */
  count(topic: string): number {
    return this.#places.get(topic)?.stays.size ?? 0;
  }

  /**
   * Tells whether somebody is present in a topic.
   *
   * @param who A user, within the grace too; or one session.
   * @param topic The topic.
   * @returns Whether it is so.
   */
  has(who: string | Session, topic: string): boolean {
    if (typeof who !== "string") return this.#visits.get(who)?.stays.has(topic) ?? false;
    return this.#places.get(topic)?.stays.has(who) ?? false;
  }

  /**
   * Counts a user's sessions in a topic.
   *
   * @param user The user.
   * @param topic The topic.
   * @returns How many; 0 for a user who is absent, or within the grace.
   */
  connections(user: string, topic: string): number {
    return this.#places.get(topic)?.stays.get(user)?.connections ?? 0;
  }

  /**
   * Lists the topics in which a user is present, among those known here.
   *
   * @param user The user.
   * @returns The topics, in the order in which the user came.
   */
  topicsOf(user: string): string[] {
    return this.#places.topicsOf(user);
  }

  /**
   * Tells whether a user is online, or within the grace.
   *
   * @param user The user.
   * @returns Whether it is so.
   */
  isOnline(user: string): boolean {
    return this.#places.online.stays.has(user);
  }

  /**
   * Lists who is online, those within their grace included.
   *
   * @returns The users, in the order in which they came.
   */
  online(): string[] {
    return [...this.#places.online.stays.keys()];
  }

  /**
   * Tells when a user was last connected.
   *
   * @param user The user.
   * @returns Milliseconds since the Unix epoch; `undefined` for a user who is
   * connected, who never was, or who was forgotten by `maxLastSeen`.
   */
  lastSeenAt(user: string): number | undefined {
    const stay = this.#places.online.stays.get(user);
    if (stay === undefined) return this.#lastSeen.get(user);
    return stay.connections === 0 ? stay.seenAt : undefined;
  }

  /**
   * Wants to know of a topic, whether or not this node has somebody in it.
   *
   * @param topic The topic.
   * @returns `ready` resolves when the other nodes said who is there, and within a second in any
   * case; disposing of it ends that.
   * @throws {TypeError} If the topic is no topic.
   * @throws {RangeError} If the topic is longer than 255 bytes.
   * @throws {UnsupportedError} If the nodes' broker is closed.
   */
  follow(topic: string): Disposable & { readonly ready: Promise<void> } {
    checkTopic(topic, "follow");
    if (this.#isDisposed) return { ready: Promise.resolve(), [Symbol.dispose]() {} };
    const place = this.#places.open(topic);
    place.followers++;
    let isOver = false;
    return {
      ready: place.scope?.ready ?? Promise.resolve(),
      [Symbol.dispose]: () => {
        if (isOver) return;
        isOver = true;
        place.followers--;
        this.#places.release(place);
      },
    };
  }

  /**
   * Tells whether `members` of a topic are all there are: the other nodes said who is there.
   *
   * @param topic The topic.
   * @returns Whether it is so; of a topic that nobody here is in or follows, whether it would be.
   */
  isSettled(topic: string): boolean {
    return this.#places.isSettled(topic);
  }

  /**
   * Calls a function when users come and go, and when their data changes.
   *
   * @param listener Gets the events.
   * @returns Disposing of it ends the calls at once.
   */
  subscribe(listener: PresenceListener): Disposable {
    const entry = { listener };
    if (!this.#isDisposed) this.#listeners.add(entry);
    return { [Symbol.dispose]: () => void this.#listeners.delete(entry) };
  }

  /** Forgets everybody without an event, and leaves no timer. Idempotent. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#places[Symbol.dispose]();
    this.#events.length = 0;
    for (const held of [this.#observers, this.#listeners]) held.clear();
    for (const held of [this.#visits, this.#lastSeen]) held.clear();
  }

  /** Once a session, however often it comes and goes. */
  #watch(session: Session): void {
    if (this.#watched.has(session)) return;
    this.#watched.add(session);
    session[internals].whenEnded(this.#onEnd);
  }

  #arrive(session: Session, { user, stays }: Visit, place: Place, data: unknown): boolean {
    const known = stays.get(place.topic);
    if (known !== undefined) {
      if (data !== undefined) this.#places.setData(known, session, data);
      return false;
    }
    const { stay, hasCome } = this.#places.arrive(place, session, { user, data });
    stays.set(place.topic, stay);
    return hasCome;
  }

  #remember(user: string, lastSeenAt: number): void {
    if (this.#maxLastSeen === 0) return;
    this.#lastSeen.set(user, lastSeenAt);
    if (this.#lastSeen.size <= this.#maxLastSeen) return;
    for (const oldest of this.#lastSeen.keys()) {
      this.#lastSeen.delete(oldest);
      return;
    }
  }

  #note(event: PresenceEvent): void {
    if (event.topic === undefined) {
      if (event.type === "join") this.#lastSeen.delete(event.user);
      else if (event.type === "leave") this.#remember(event.user, event.lastSeenAt);
    }
    if (this.#listeners.size > 0) this.#events.push(event);
    for (const observer of this.#observers) this.#call(() => observer.changed(event));
  }

  #tell(): void {
    if (this.#isTelling || this.#events.length === 0) return;
    this.#isTelling = true;
    // More may be added, and a disposal empties it, while the listeners run.
    for (let i = 0; i < this.#events.length; i++) {
      const event = this.#events[i]!;
      for (const entry of [...this.#listeners]) {
        if (this.#listeners.has(entry)) this.#call(() => entry.listener(event));
      }
    }
    this.#events.length = 0;
    this.#isTelling = false;
  }

  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.#report(error);
    }
  }

  #report(error: unknown): void {
    try {
      this.#onError(error);
    } catch (failure) {
      print(failure);
    }
  }
}

/**
 * Copies the data of a presence as JSON holds it, so that a later change of the original changes
 * nothing.
 *
 * @param data The data; `undefined` is none.
 * @param options Bounds, and what is done, for the errors.
 * @returns The copy.
 * @throws {TypeError} If JSON cannot hold the data.
 * @throws {RangeError} If it has more than `maxBytes` as JSON.
 */
export function copyPresenceData(
  data: unknown,
  options: { readonly verb: string; readonly maxBytes?: number },
): unknown {
  if (data === undefined) return undefined;
  const { verb, maxBytes = MAX_PRESENCE_DATA_BYTES } = options;
  const { data: copy } = JSON.parse(encodeEnvelope({ topic: "presence", data }, verb));
  const bytes = utf8Length(JSON.stringify(copy));
  if (bytes <= maxBytes) return copy;
  throw new RangeError(
    `Cannot ${verb}: the data of a presence must have at most ${maxBytes} bytes as JSON, ` +
      `received ${bytes} bytes`,
  );
}

function print(error: unknown): void {
  // deno-lint-ignore no-console
  console.error("A listener of presence failed:", error);
}
