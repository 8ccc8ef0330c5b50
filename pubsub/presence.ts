/**
 * Presence: which users are here, however many connections each of them has.
 *
 * @module
 */
import type { PresenceMember } from "../session/presence_notice.ts";
import { coreOf, type Session } from "../session/session.ts";
import { MAX_TIMER_MS } from "../session/wait.ts";
import { checkTopic } from "../session/topic_pattern.ts";

/** A user's first session came. */
export interface PresenceJoinEvent {
  /** Tells the events apart. */
  readonly type: "join";
  /** Where; `undefined` means that the user came online. */
  readonly topic: string | undefined;
  /** Who. */
  readonly user: string;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** The session that came. */
  readonly session: Session;
}

/** A user's last session has gone, and none came back within the grace. */
export interface PresenceLeaveEvent {
  /** Tells the events apart. */
  readonly type: "leave";
  /** Where; `undefined` means that the user went offline. */
  readonly topic: string | undefined;
  /** Who. */
  readonly user: string;
  /** When the user was declared absent, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** When the last session went; earlier than `at` by the grace. */
  readonly lastSeenAt: number;
}

/** Somebody came or went; branch on `type`. */
export type PresenceEvent = PresenceJoinEvent | PresenceLeaveEvent;

/** Gets the events of a {@linkcode Presence}. */
export type PresenceListener = (event: PresenceEvent) => void;

/** Options for {@linkcode Presence}. */
export interface PresenceOptions {
  /**
   * How long a user whose last session went may stay away without having left,
   * in milliseconds: a reload is no leave. With 0, a user leaves at once.
   *
   * @default {5000}
   */
  readonly graceMs?: number;
  /**
   * Users who went offline and whose `lastSeenAt` is remembered; those who went
   * first are forgotten first.
   *
   * @default {10000}
   */
  readonly maxLastSeen?: number;
  /**
   * Sees what a listener threw; the other listeners run all the same.
   *
   * @default {console.error}
   */
  readonly onError?: (error: unknown) => void;
}

/** A user in one place: a topic, or anywhere at all. */
interface Stay {
  readonly topic: string | undefined;
  readonly user: string;
  readonly joinedAt: number;
  connections: number;
  /** When the last connection went; says nothing while there is one. */
  lastSeenAt: number;
}

/** Everything about a user who is online, or was until a moment ago. */
interface Person {
  readonly online: Stay;
  readonly topics: Set<string>;
}

/** What a session takes part in. Its user is the one it came with. */
interface Visit {
  readonly user: string;
  readonly stays: Map<string | undefined, Stay>;
}

/**
 * @ignore Calls a function within each change, before any listener: it sees changes in
 * their order, and must not make one itself.
 */
export let observePresence: (presence: Presence, observer: PresenceListener) => Disposable;

/**
 * Keeps who is present in topics, and online at all: users, not connections.
 *
 * - **Users:** two tabs of one user are one member with two connections; the
 *   user leaves with the last of them.
 * - **Grace:** who comes back within `graceMs` never left: there is neither a
 *   leave nor a join, and the user counts as present all the time, with 0 connections.
 * - **Close:** a session that closes leaves everything; one that is closed can
 *   not enter.
 * - **Events:** each listener sees joins and leaves in their order, after the
 *   change; what a listener changes itself is told when it returned.
 * - **Bounds:** one timer for all graces, none while nobody is away.
 * - **Node:** it knows the sessions of this process only.
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
  readonly #graceMs: number;
  readonly #maxLastSeen: number;
  readonly #onError: (error: unknown) => void;
  readonly #people = new Map<string, Person>();
  readonly #topics = new Map<string, Map<string, Stay>>();
  readonly #visits = new Map<Session, Visit>();
  readonly #lastSeen = new Map<string, number>();
  readonly #observers = new Set<PresenceListener>();
  // Objects of their own, so that one listener can subscribe twice.
  readonly #listeners = new Set<{ readonly listener: PresenceListener }>();
  readonly #events: PresenceEvent[] = [];
  /** Users whose last session went, in the order in which they will have left. */
  readonly #away = new Set<Stay>();
  readonly #watched = new WeakSet<Session>();
  readonly #onEnd = (session: Session) => void this.leave(session);
  #timer: ReturnType<typeof setTimeout> | undefined;
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
    this.#graceMs = graceMs;
    this.#maxLastSeen = maxLastSeen;
    this.#onError = onError;
  }

  /**
   * Notes that a session is here; in a topic, if one is given, and online in
   * any case. Idempotent; a closed session is left out.
   *
   * @param session The session; its user is kept until it leaves.
   * @param topic The topic; left out, the session is online and no more.
   * @returns Whether the user was not present there before.
   * @throws {TypeError} If the topic is no topic.
   * @throws {RangeError} If the topic is longer than 255 bytes.
   */
  enter(session: Session, topic?: string): boolean {
    if (topic !== undefined) checkTopic(topic, "enter");
    if (session.isClosed || this.#isDisposed) return false;
    let visit = this.#visits.get(session);
    if (visit === undefined) {
      visit = { user: session.user, stays: new Map() };
      this.#visits.set(session, visit);
      this.#watch(session);
    }
    let hasCome = this.#arrive(session, visit, undefined);
    if (topic !== undefined) hasCome = this.#arrive(session, visit, topic);
    this.#tell();
    return hasCome;
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
      this.#depart(stay);
    } else {
      this.#visits.delete(session);
      const [online, ...stays] = visit.stays.values();
      for (const stay of stays) this.#depart(stay);
      // Last: who is in a topic is online.
      this.#depart(online!);
    }
    this.#tell();
    return true;
  }

  /**
   * Lists who is present in a topic, those within their grace included.
   *
   * @param topic The topic.
   * @returns The members, in the order in which they came.
   */
  members(topic: string): PresenceMember[] {
    const stays = this.#topics.get(topic)?.values() ?? [];
    return Array.from(
      stays,
      ({ user, connections, joinedAt }) => ({ user, connections, joinedAt }),
    );
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
    return this.#topics.get(topic)?.has(who) ?? false;
  }

  /**
   * Counts a user's sessions in a topic.
   *
   * @param user The user.
   * @param topic The topic.
   * @returns How many; 0 for a user who is absent, or within the grace.
   */
  connections(user: string, topic: string): number {
    return this.#topics.get(topic)?.get(user)?.connections ?? 0;
  }

  /**
   * Lists the topics in which a user is present.
   *
   * @param user The user.
   * @returns The topics, in the order in which the user came.
   */
  topicsOf(user: string): string[] {
    return [...this.#people.get(user)?.topics ?? []];
  }

  /**
   * Tells whether a user is online, or within the grace.
   *
   * @param user The user.
   * @returns Whether it is so.
   */
  isOnline(user: string): boolean {
    return this.#people.has(user);
  }

  /**
   * Lists who is online, those within their grace included.
   *
   * @returns The users, in the order in which they came.
   */
  online(): string[] {
    return [...this.#people.keys()];
  }

  /**
   * Tells when a user was last connected.
   *
   * @param user The user.
   * @returns Milliseconds since the Unix epoch; `undefined` for a user who is
   * connected, who never was, or who was forgotten by `maxLastSeen`.
   */
  lastSeenAt(user: string): number | undefined {
    const stay = this.#people.get(user)?.online;
    if (stay === undefined) return this.#lastSeen.get(user);
    return stay.connections === 0 ? stay.lastSeenAt : undefined;
  }

  /**
   * Calls a function when users come and go.
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
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#events.length = 0;
    this.#observers.clear();
    for (const held of [this.#people, this.#topics, this.#visits, this.#lastSeen]) held.clear();
    for (const held of [this.#listeners, this.#away]) held.clear();
  }

  /** Once a session, however often it comes and goes. */
  #watch(session: Session): void {
    if (this.#watched.has(session)) return;
    this.#watched.add(session);
    coreOf(session).whenEnded(this.#onEnd);
  }

  #arrive(session: Session, { user, stays }: Visit, topic: string | undefined): boolean {
    if (stays.has(topic)) return false;
    const known = topic === undefined
      ? this.#people.get(user)?.online
      : this.#topics.get(topic)?.get(user);
    const at = Date.now();
    const stay = known ?? { topic, user, joinedAt: at, connections: 0, lastSeenAt: at };
    stays.set(topic, stay);
    stay.connections++;
    if (known !== undefined) {
      this.#away.delete(stay);
      this.#schedule();
      return false;
    }
    this.#add(stay);
    this.#note({ type: "join", topic, user, at, session });
    return true;
  }

  #depart(stay: Stay): void {
    stay.connections--;
    if (stay.connections > 0) return;
    stay.lastSeenAt = Date.now();
    if (this.#graceMs === 0) return this.#remove(stay);
    this.#away.add(stay);
    this.#schedule();
  }

  #add(stay: Stay): void {
    const { topic, user } = stay;
    if (topic === undefined) {
      this.#people.set(user, { online: stay, topics: new Set() });
      this.#lastSeen.delete(user);
      return;
    }
    this.#people.get(user)!.topics.add(topic);
    const stays = this.#topics.get(topic) ?? new Map<string, Stay>();
    this.#topics.set(topic, stays);
    stays.set(user, stay);
  }

  #remove({ topic, user, lastSeenAt }: Stay): void {
    if (topic === undefined) {
      this.#people.delete(user);
      this.#remember(user, lastSeenAt);
    } else {
      this.#people.get(user)!.topics.delete(topic);
      const stays = this.#topics.get(topic)!;
      stays.delete(user);
      if (stays.size === 0) this.#topics.delete(topic);
    }
    this.#note({ type: "leave", topic, user, at: Date.now(), lastSeenAt });
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

  /** Sets the one timer for whoever is away longest; takes it off when nobody is. */
  #schedule(): void {
    if (this.#away.size === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#timer !== undefined) return;
    const [first] = this.#away;
    // A clock that was set back must not make the wait longer.
    const leftMs = first!.lastSeenAt + this.#graceMs - Date.now();
    const waitMs = Math.max(0, Math.min(leftMs, this.#graceMs));
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#expire();
    }, waitMs);
  }

  #expire(): void {
    const now = Date.now();
    for (const stay of this.#away) {
      const isDue = now >= stay.lastSeenAt + this.#graceMs || now < stay.lastSeenAt;
      if (!isDue) break;
      this.#away.delete(stay);
      this.#remove(stay);
    }
    this.#schedule();
    this.#tell();
  }

  #note(event: PresenceEvent): void {
    this.#events.push(event);
    for (const observer of this.#observers) this.#call(observer, event);
  }

  #tell(): void {
    if (this.#isTelling) return;
    this.#isTelling = true;
    // More may be added, and a disposal empties it, while the listeners run.
    for (let i = 0; i < this.#events.length; i++) {
      const event = this.#events[i]!;
      for (const entry of [...this.#listeners]) {
        if (this.#listeners.has(entry)) this.#call(entry.listener, event);
      }
    }
    this.#events.length = 0;
    this.#isTelling = false;
  }

  #call(listener: PresenceListener, event: PresenceEvent): void {
    try {
      listener(event);
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

function print(error: unknown): void {
  // deno-lint-ignore no-console
  console.error("A listener of presence failed:", error);
}
