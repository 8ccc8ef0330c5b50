/** A model of the presence of one node: users, the data of each, and the events in order. */

/** Times of an event may differ by the resolution of timers, in milliseconds. */
const RESOLUTION_MS = 3;

/** A session of a user, as the model knows it. */
export interface Visitor {
  readonly user: string;
  /** Number of the session. */
  readonly number: number;
  /** Topics in which the session is present, in the order of joining; `undefined` means online. */
  readonly topics: Set<string | undefined>;
  /** Rooms that the session joined. */
  readonly rooms: Set<string>;
  /** Data for each room, also for one that the session has not joined. */
  readonly kept: Map<string, number>;
}

/** An event as text, with the times. */
export interface Told {
  readonly text: string;
  readonly at: number;
  /** Time at which the user was seen last, of a leave. */
  readonly seenAt?: number | undefined;
}

/** A user in one topic, or online. */
class Presence {
  readonly topic: string | undefined;
  readonly user: string;
  readonly joinedAt: number;
  /** Present sessions with the data of each; the one set last comes last. */
  readonly sessions = new Map<Visitor, number | undefined>();
  seenAt = 0;
  data: number | undefined;

  constructor(topic: string | undefined, user: string, joinedAt: number) {
    this.topic = topic;
    this.user = user;
    this.joinedAt = joinedAt;
  }

  /** Finds the data that was set last. */
  refresh(): boolean {
    const before = this.data;
    this.data = [...this.sessions.values()].findLast((data) => data !== undefined);
    return this.data !== before;
  }
}

/** The users of one node without other nodes. */
export class AttendanceModel {
  readonly #now: () => number;
  readonly #graceMs: number;
  readonly #maxSeen: number;
  readonly #presences = new Map<string | undefined, Map<string, Presence>>();
  /** Users without sessions, in the order in which their grace ends. */
  readonly #away = new Set<Presence>();
  readonly #seen = new Map<string, number>();
  /** Events since the last look. */
  told: Told[] = [];

  /**
   * Creates a model without users.
   *
   * @param now The clock of the node.
   * @param graceMs The grace, in milliseconds.
   * @param maxSeen Most users of which the node remembers when they were seen last.
   */
  constructor(now: () => number, graceMs: number, maxSeen: number) {
    this.#now = now;
    this.#graceMs = graceMs;
    this.#maxSeen = maxSeen;
  }

  /** Times at which a grace ends. */
  get ends(): number[] {
    return [...this.#away].map(({ seenAt }) => seenAt + this.#graceMs);
  }

  /**
   * Lets a session enter a topic, or come online.
   *
   * @param visitor The session.
   * @param topic The topic.
   * @param data The data; `undefined` leaves present data as it is.
   * @returns True if the user was not present.
   */
  enter(visitor: Visitor, topic: string | undefined, data: number | undefined): boolean {
    const hasCome = this.#arrive(visitor, undefined, undefined);
    return topic === undefined ? hasCome : this.#arrive(visitor, topic, data);
  }

  /**
   * Sets the data of a session.
   *
   * @param visitor The session.
   * @param topic The topic.
   * @param data The data; `undefined` removes it.
   * @returns True if the session is present.
   */
  update(visitor: Visitor, topic: string, data: number | undefined): boolean {
    if (!visitor.topics.has(topic)) return false;
    this.#set(this.#presences.get(topic)!.get(visitor.user)!, visitor, data);
    return true;
  }

  /**
   * Removes a session from a topic.
   *
   * @param visitor The session.
   * @param topic The topic.
   * @param isFinal True if a user without other sessions leaves at once, without the grace.
   * @returns True if the session was present.
   */
  leave(visitor: Visitor, topic: string, isFinal: boolean): boolean {
    if (!visitor.topics.delete(topic)) return false;
    this.#depart(visitor, topic, isFinal);
    return true;
  }

  /**
   * Removes a session from all topics, and then from the online users.
   *
   * @param visitor The session.
   * @returns True if the session was present.
   */
  leaveAll(visitor: Visitor): boolean {
    const [online, ...topics] = visitor.topics;
    if (visitor.topics.size === 0) return false;
    visitor.topics.clear();
    for (const topic of [...topics, online]) this.#depart(visitor, topic, false);
    return true;
  }

  /**
   * Ends each grace that is over.
   *
   * @param isAll True if all are over, whatever the clock says.
   */
  expire(isAll = false): void {
    for (const presence of this.#away) {
      const endsAt = presence.seenAt + this.#graceMs;
      if (isAll || endsAt <= this.#now()) this.#end(presence, endsAt);
    }
  }

  /** The users of a topic, or those who are online, in the order of joining. */
  members(topic: string | undefined) {
    return [...this.#presences.get(topic)?.values() ?? []]
      .map(({ user, sessions, joinedAt, data }) => ({
        user,
        connections: sessions.size,
        joinedAt,
        ...(data !== undefined && { data }),
      }));
  }

  /**
   * The topics of a user.
   *
   * @param user The user.
   * @returns The topics in the order in which the user joined.
   */
  topicsOf(user: string): string[] {
    return this.#order.filter((presence) => presence.user === user)
      .flatMap(({ topic }) => topic ?? []);
  }

  /**
   * The time at which a user was seen last.
   *
   * @param user The user.
   * @returns The time; `undefined` for a user with sessions, and for one who is forgotten.
   */
  seenAt(user: string): number | undefined {
    const online = this.#presences.get(undefined)?.get(user);
    if (online === undefined) return this.#seen.get(user);
    return online.sessions.size === 0 ? online.seenAt : undefined;
  }

  /** All presences in the order of joining. */
  readonly #order: Presence[] = [];

  #arrive(visitor: Visitor, topic: string | undefined, data: number | undefined): boolean {
    const { user, topics } = visitor;
    const users = this.#presences.get(topic) ?? new Map<string, Presence>();
    this.#presences.set(topic, users);
    const known = users.get(user);
    if (topics.has(topic)) {
      if (data !== undefined) this.#set(known!, visitor, data);
      return false;
    }
    topics.add(topic);
    const presence = known ?? new Presence(topic, user, this.#now());
    this.#away.delete(presence);
    presence.sessions.set(visitor, data);
    const isOther = presence.refresh();
    if (known !== undefined) {
      if (isOther) this.#tell("update", presence, visitor);
      return false;
    }
    users.set(user, presence);
    this.#order.push(presence);
    if (topic === undefined) this.#seen.delete(user);
    this.#tell("join", presence, visitor);
    return true;
  }

  #set(presence: Presence, visitor: Visitor, data: number | undefined): void {
    presence.sessions.delete(visitor);
    presence.sessions.set(visitor, data);
    if (presence.refresh()) this.#tell("update", presence);
  }

  #depart(visitor: Visitor, topic: string | undefined, isFinal: boolean): void {
    const presence = this.#presences.get(topic)!.get(visitor.user)!;
    presence.sessions.delete(visitor);
    if (presence.sessions.size > 0) {
      if (presence.refresh()) this.#tell("update", presence);
      return;
    }
    presence.seenAt = this.#now();
    this.#away.add(presence);
    if (isFinal || this.#graceMs === 0) this.#end(presence, this.#now());
  }

  #end(presence: Presence, at: number): void {
    const { user, topic, seenAt } = presence;
    this.#away.delete(presence);
    this.#presences.get(topic)!.delete(user);
    this.#order.splice(this.#order.indexOf(presence), 1);
    this.told.push({ text: textOf("leave", presence), at, seenAt });
    if (topic !== undefined || this.#maxSeen === 0) return;
    this.#seen.set(user, seenAt);
    if (this.#seen.size > this.#maxSeen) this.#seen.delete([...this.#seen.keys()][0]!);
  }

  #tell(type: string, presence: Presence, { number }: Partial<Visitor> = {}): void {
    this.told.push({ text: textOf(type, presence, number), at: this.#now() });
  }
}

/**
 * Writes an event as text.
 *
 * @param type The type.
 * @param event Topic, user and data.
 * @param session Number of the session.
 * @returns The text.
 */
export function textOf(
  type: string,
  { topic, user, data }: { readonly [Key in "topic" | "user" | "data"]?: unknown },
  session?: number,
): string {
  return `${user} ${type} ${topic ?? "online"} ${data ?? "-"} ${session ?? "-"}`;
}

/**
 * Compares events.
 *
 * @param expected The events of the model.
 * @param received The events of the node.
 * @returns The texts of each that differs, with an exclamation mark where only a time differs.
 */
export function compare(expected: readonly Told[], received: readonly Told[]) {
  const isNear = (one: number | undefined, other: number | undefined) =>
    Math.abs((one ?? 0) - (other ?? 0)) <= RESOLUTION_MS;
  const told = received.map(({ text, at, seenAt }, i) => {
    const model = expected[i];
    const isFine = model === undefined || isNear(model.at, at) && isNear(model.seenAt, seenAt);
    return isFine ? text : `${text}!`;
  });
  return { expected: expected.map(({ text }) => text), told };
}
