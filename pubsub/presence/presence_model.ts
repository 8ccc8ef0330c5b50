/**
 * Reference model of the presence of one node: the users, their data, and the events in order.
 */

export interface ModelSession {
  readonly user: string;
  /** Number of the session, which events use as its name. */
  readonly number: number;
  /** Topics in which the session is present, in the order of joining; `undefined` means online. */
  readonly topics: Set<string | undefined>;
}

/** An event, as text with its times. */
export interface ModelEvent {
  readonly text: string;
  readonly at: number;
  /** The last time at which a leaving user was connected. */
  readonly seenAt?: number | undefined;
}

export interface ModelOptions {
  readonly graceMs: number;
  readonly maxLastSeen: number;
  /** The clock of the node. */
  readonly now: () => number;
}

interface ModelMember {
  readonly topic: string | undefined;
  readonly user: string;
  readonly joinedAt: number;
  /** Present sessions with their data; the newest data comes last. */
  readonly sessions: Map<ModelSession, unknown>;
  /** The last time at which a session left. */
  seenAt: number;
  data: unknown;
}

/** The users of a single node, as documented by `Presence`. */
export class PresenceModel {
  /** Events since they were last read. */
  events: ModelEvent[] = [];
  readonly #options: ModelOptions;
  /** All members, in the order of joining. */
  #members: ModelMember[] = [];
  /** Members without sessions, in the order in which their grace periods end. */
  readonly #away = new Set<ModelMember>();
  readonly #seen = new Map<string, number>();

  constructor(options: ModelOptions) {
    this.#options = options;
  }

  /** Times at which the members' grace periods end. */
  get ends(): number[] {
    return [...this.#away].map(({ seenAt }) => seenAt + this.#options.graceMs);
  }

  /**
   * Adds a session to the online users, and also to a topic if one is given.
   *
   * @param data The data; `undefined` leaves existing data as it is.
   * @returns True if the user was not present.
   */
  enter(session: ModelSession, topic: string | undefined, data?: unknown): boolean {
    const isOnline = this.#arrive(session, undefined, undefined);
    return topic === undefined ? isOnline : this.#arrive(session, topic, data);
  }

  /**
   * Sets the data of a session.
   *
   * @param data The data; `undefined` removes it.
   * @returns True if the session is present.
   */
  update(session: ModelSession, topic: string, data: unknown): boolean {
    if (!session.topics.has(topic)) return false;
    this.#set(this.#find(session.user, topic)!, session, data);
    return true;
  }

  /**
   * Removes a session from a topic.
   *
   * @param isFinal True if a user without other sessions leaves without the grace period.
   * @returns True if the session was present.
   */
  leave(session: ModelSession, topic: string, isFinal: boolean): boolean {
    if (!session.topics.delete(topic)) return false;
    this.#depart(session, topic, isFinal);
    return true;
  }

  /**
   * Removes a session from all topics, and then from the online users.
   *
   * @returns True if the session was present.
   */
  leaveAll(session: ModelSession): boolean {
    const [online, ...topics] = session.topics;
    if (session.topics.size === 0) return false;
    session.topics.clear();
    for (const topic of [...topics, online]) this.#depart(session, topic, false);
    return true;
  }

  /**
   * Removes each member whose grace period is over.
   *
   * @param isAll True if all grace periods have passed, whatever the clock says.
   */
  expire(isAll = false): void {
    for (const member of this.#away) {
      const endsAt = member.seenAt + this.#options.graceMs;
      if (isAll || endsAt <= this.#options.now()) this.#remove(member, endsAt);
    }
  }

  /** The users of a topic, or the users that are online, in the order of joining. */
  members(topic: string | undefined): readonly object[] {
    return this.#members.filter((member) => member.topic === topic)
      .map(({ user, sessions, joinedAt, data }) => ({
        user,
        connections: sessions.size,
        joinedAt,
        ...(data !== undefined && { data }),
      }));
  }

  /** The topics of a user, in the order of joining. */
  topicsOf(user: string): string[] {
    return this.#members.flatMap((member) => member.user === user ? member.topic ?? [] : []);
  }

  /** The last time at which a user without sessions was connected, if the node remembers it. */
  lastSeenAt(user: string): number | undefined {
    const online = this.#find(user, undefined);
    if (online === undefined) return this.#seen.get(user);
    return online.sessions.size === 0 ? online.seenAt : undefined;
  }

  #find(user: string, topic: string | undefined): ModelMember | undefined {
    return this.#members.find((member) => member.topic === topic && member.user === user);
  }

  #arrive(session: ModelSession, topic: string | undefined, data: unknown): boolean {
    const { user, topics } = session;
    const known = this.#find(user, topic);
    if (topics.has(topic)) {
      if (data !== undefined) this.#set(known!, session, data);
      return false;
    }
    topics.add(topic);
    if (known !== undefined) {
      this.#away.delete(known);
      known.sessions.set(session, data);
      if (hasOtherData(known)) this.#tell("update", known, session);
      return false;
    }
    const joinedAt = this.#options.now();
    const sessions = new Map([[session, data]]);
    const member = { topic, user, joinedAt, sessions, seenAt: 0, data };
    this.#members.push(member);
    if (topic === undefined) this.#seen.delete(user);
    this.#tell("join", member, session);
    return true;
  }

  #set(member: ModelMember, session: ModelSession, data: unknown): void {
    member.sessions.delete(session);
    member.sessions.set(session, data);
    if (hasOtherData(member)) this.#tell("update", member);
  }

  #depart(session: ModelSession, topic: string | undefined, isFinal: boolean): void {
    const member = this.#find(session.user, topic)!;
    member.sessions.delete(session);
    if (member.sessions.size > 0) {
      if (hasOtherData(member)) this.#tell("update", member);
      return;
    }
    member.seenAt = this.#options.now();
    this.#away.add(member);
    if (isFinal || this.#options.graceMs === 0) this.#remove(member, member.seenAt);
  }

  #remove(member: ModelMember, at: number): void {
    const { user, topic, seenAt } = member;
    this.#away.delete(member);
    this.#members = this.#members.filter((other) => other !== member);
    this.events.push({ text: eventText({ type: "leave", ...member }), at, seenAt });
    if (topic !== undefined || this.#options.maxLastSeen === 0) return;
    this.#seen.set(user, seenAt);
    const [oldest] = this.#seen.keys();
    if (this.#seen.size > this.#options.maxLastSeen) this.#seen.delete(oldest!);
  }

  #tell(type: string, { topic, user, data }: ModelMember, session?: ModelSession): void {
    const text = eventText({ type, topic, user, data, session: session?.number });
    this.events.push({ text, at: this.#options.now() });
  }
}

/**
 * Writes an event as text.
 *
 * @param event The event's type, user, topic and data, and the number of its session.
 */
export function eventText({ type, user, topic, data, session }: {
  readonly type: string;
  readonly user: string;
  readonly topic: string | undefined;
  readonly data?: unknown;
  readonly session?: number | undefined;
}): string {
  return `${user} ${type} ${topic ?? "online"} ${data ?? "-"} ${session ?? "-"}`;
}

/** Applies the data that was set last. Returns true if it differs from the previous data. */
function hasOtherData(member: ModelMember): boolean {
  const before = member.data;
  member.data = [...member.sessions.values()].findLast((data) => data !== undefined);
  return member.data !== before;
}
