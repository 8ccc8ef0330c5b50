/** Presence: the users that are present, each with any number of connections. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkType } from "../../base/error_text.ts";
import {
  checkOptions,
  COUNT,
  numberIn,
  objectWith,
  RUNTIME,
  SIGNAL,
} from "../../base/options/option_checks.ts";
import { checkTopic, encodeEnvelope } from "../../session/wire/encode.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import { attempt } from "../../base/call_safely.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { internals, type Session } from "../../session/session.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import {
  type PresenceObserver,
  type PresenceScope,
  PresenceScopes,
  type UserPresence,
} from "./presence_scopes.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { PresenceFeed } from "./events.ts";
import type { PresenceEvent, PresenceFeedEvent, PresenceOptions } from "./types.ts";

export type { PresenceEvent, PresenceOptions };

/** Default time within which a user may return, in milliseconds. */
export const GRACE_MS = 5_000;

/** Default maximum number of users whose `lastSeenAt` is remembered. */
export const MAX_LAST_SEEN = 10_000;

/** Maximum size of a user's presence data in bytes, which every node keeps. */
export const MAX_PRESENCE_DATA_BYTES = 4_096;

/** A session's presence, by topic. The user is the session's user at the first `enter`. */
interface Visit {
  readonly user: string;
  readonly presences: Map<string | undefined, UserPresence>;
}

const PRESENCE: OptionKinds<PresenceOptions> = {
  graceMs: numberIn({ min: 0, max: MAX_TIMER_MS }),
  maxLastSeen: COUNT,
  nodes: objectWith("Nodes", "handle", "subscribe"),
  onError: "function",
  runtime: RUNTIME,
  acrossNodes: "boolean",
};

/**
 * Tracks which users are present in topics, and which users are online. It counts users, not
 * connections.
 *
 * - **Users:** two tabs of one user are one member with two connections. The user leaves when the
 *   last connection does.
 * - **Grace period:** a user that returns within `graceMs` counts as never having left. There is
 *   neither a leave nor a join, and the user counts as present the whole time, with 0 connections.
 * - **Close:** a session that closes leaves all topics and goes offline. A closed session cannot
 *   enter.
 * - **Data:** a session may be present in a topic with data. A user's data is the newest data of
 *   the user's present sessions on all nodes, by the clocks of the nodes. Data that a node sets
 *   always counts as newer than the data that it knew before. When the session with the newest data
 *   leaves, the newest data of the other sessions applies again. During the grace period, when no
 *   session is present, the last data stays.
 * - **Events:** each listener receives joins, data updates and leaves in order, after the change.
 *   Changes that a listener makes are reported after it has returned.
 * - **Bounds:** there is one timer for all grace periods, and none while no user is away.
 * - **Nodes:** with `nodes`, a user's connections on all nodes count. The user joins with the first
 *   connection and leaves with the last; moving to another node within the grace period counts as
 *   neither. A node tracks only the topics in which it has users or followers; its listeners
 *   receive no events of other topics. If a node dies, its users leave once the node is declared
 *   gone and the grace period has passed, which takes 12 s by default. Event times come from the
 *   clock of the node where the event happened. No wait depends on other nodes' clocks.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { Presence } from "@skein/skein/pubsub";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
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
  /** Clocks, timers and randomness of this node. */
  readonly runtime: Runtime;
  readonly #nodes: Nodes | undefined;
  readonly #maxLastSeen: number;
  readonly #console: ConsoleReport;
  readonly #onError: (error: unknown) => void;
  readonly #scopes: PresenceScopes;
  readonly #visits = new Map<Session, Visit>();
  readonly #lastSeen = new Map<string, number>();
  readonly #observers = new Set<PresenceObserver>();
  // Each listener is wrapped in an object, so that one function can subscribe twice.
  readonly #listeners = new Set<{ readonly listener: (event: PresenceEvent) => void }>();
  readonly #events: PresenceEvent[] = [];
  readonly #watched = new WeakSet<Session>();
  readonly #onEnd = (session: Session) => void this.remove(session);
  #feed: PresenceFeed | undefined;
  #isTelling = false;
  #isDisposed = false;

  /**
   * Creates a presence without users.
   *
   * @param options See {@linkcode PresenceOptions}.
   * @throws {RangeError} If `graceMs` is not from 0 to 2,147,483,647, or `maxLastSeen` is not an
   * integer of 0 or more.
   */
  constructor(options: PresenceOptions = {}) {
    checkOptions("create presence", options, PRESENCE);
    const { graceMs = GRACE_MS, maxLastSeen = MAX_LAST_SEEN } = options;
    const { nodes, acrossNodes = true } = options;
    this.runtime = options.runtime ?? nodes?.runtime ?? platformRuntime();
    this.#nodes = nodes;
    this.#maxLastSeen = maxLastSeen;
    this.#console = new ConsoleReport(this.runtime);
    this.#onError = options.onError ?? ((error) => this.#print(error));
    this.#scopes = new PresenceScopes({ runtime: this.runtime, graceMs, nodes, acrossNodes }, {
      changed: (event, presence) => this.#note(event, presence),
      counted: (count) => {
        for (const observer of this.#observers) this.#call(() => observer.counted?.(count));
      },
      settled: (topic) => {
        for (const observer of this.#observers) this.#call(() => observer.settled?.(topic));
      },
      opened: (scope) => {
        for (const observer of this.#observers) this.#call(() => observer.opened?.(scope));
      },
      closed: (scope) => {
        for (const observer of this.#observers) this.#call(() => observer.closed?.(scope));
      },
      holds: (scope) => [...this.#observers].some((observer) => observer.holds?.(scope)),
      tell: () => this.#tell(),
    });
  }

  /**
   * Adds a session to the online users, and to a topic if you pass one. Idempotent; a closed
   * session is ignored.
   *
   * @param session The session. Its user is kept until the session leaves.
   * @param topic The topic. If left out, the session is only online.
   * @param options The data with which the session is present in the topic. If left out, the data
   * of a session that is already present does not change.
   * @returns True if the user was not present before, as far as this node knows.
   * @throws {TypeError} If the topic is not valid, or JSON cannot hold the data.
   * @throws {RangeError} If the topic is longer than 255 bytes, or the data is longer than 4,096
   * bytes.
   * @throws {UnsupportedError} If the broker of the nodes is closed.
   */
  enter(session: Session, topic?: string, options: { readonly data?: unknown } = {}): boolean {
    checkOptions("enter", options, { data: 0 });
    if (topic !== undefined) checkTopic(topic, "enter");
    return this.add(session, topic, copyPresenceData(options.data, { verb: "enter" }));
  }

  /**
   * Adds a session as {@linkcode Presence.enter} does, without a check of the arguments.
   *
   * @ignore
   */
  add(session: Session, topic?: string, data?: unknown): boolean {
    if (session.isClosed || this.#isDisposed) return false;
    const scope = topic === undefined ? undefined : this.#scopes.open(topic);
    let visit = this.#visits.get(session);
    if (visit === undefined) {
      visit = { user: session.user, presences: new Map() };
      this.#visits.set(session, visit);
      this.#watch(session);
    }
    let hasCome = this.#arrive(session, visit, this.#scopes.online, undefined);
    if (scope !== undefined) hasCome = this.#arrive(session, visit, scope, data);
    this.#tell();
    return hasCome;
  }

  /**
   * Sets the data with which a session is present in a topic. Listeners receive an update if that
   * changes the user's data.
   *
   * @example Mark a user as away
   * ```ts
   * import { Session } from "@skein/skein";
   * import { Presence } from "@skein/skein/pubsub";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
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
   * @param topic A topic in which the session is present.
   * @param options The data; if left out, the session's data is removed.
   * @returns True if the session is present in the topic; otherwise the call has no effect.
   * @throws {TypeError} If JSON cannot hold the data.
   * @throws {RangeError} If the data has more than 4,096 bytes as JSON.
   */
  update(session: Session, topic: string, options: { readonly data?: unknown } = {}): boolean {
    checkOptions("update", options, { data: 0 });
    return this.change(session, topic, copyPresenceData(options.data, { verb: "update" }));
  }

  /**
   * Sets data as {@linkcode Presence.update} does, without a check of the arguments.
   *
   * @ignore
   */
  change(session: Session, topic: string, data: unknown): boolean {
    const userPresence = this.#visits.get(session)?.presences.get(topic);
    if (userPresence === undefined) return false;
    this.#scopes.setData(userPresence, session, data);
    this.#tell();
    return true;
  }

  /**
   * Removes a session from a topic, or from all topics and from the online users.
   *
   * @param session Any session.
   * @param topic The topic; if left out, the session leaves all topics and goes offline.
   * @param options With `isFinal`, a user without other sessions leaves the topic immediately,
   * without the grace period.
   * @returns True if the session was present.
   */
  leave(
    session: Session,
    topic?: string,
    options: { readonly isFinal?: boolean | undefined } = {},
  ): boolean {
    checkOptions("leave", options, { isFinal: "boolean" });
    return this.remove(session, topic, options.isFinal);
  }

  /**
   * Removes a session as {@linkcode Presence.leave} does, without a check of the arguments.
   *
   * @ignore
   */
  remove(session: Session, topic?: string, isFinal = false): boolean {
    const visit = this.#visits.get(session);
    if (visit === undefined) return false;
    if (topic !== undefined) {
      const userPresence = visit.presences.get(topic);
      if (userPresence === undefined) return false;
      visit.presences.delete(topic);
      this.#scopes.depart(userPresence, session, !isFinal);
    } else {
      this.#visits.delete(session);
      const [online, ...presences] = visit.presences.values();
      for (const userPresence of presences) this.#scopes.depart(userPresence, session, true);
      // Offline comes last, because every user in a topic is online.
      this.#scopes.depart(online!, session, true);
    }
    this.#tell();
    return true;
  }

  /**
   * Lists the users present in a topic, including those within the grace period. With many nodes,
   * {@linkcode Presence.isComplete} returns false if some users may be missing.
   *
   * @param topic The topic in which the users are present.
   * @returns The members, in the order in which this node discovered them.
   */
  members(topic: string): PresenceMember[] {
    return Array.from(this.#scopes.get(topic)?.users.values() ?? [], ({ member }) => member);
  }

  /**
   * Finds a user present in a topic.
   *
   * @ignore
   * @returns The member; `undefined` if the user is absent.
   */
  member(user: string, topic: string): PresenceMember | undefined {
    return this.#scopes.get(topic)?.users.get(user)?.member;
  }

  /**
   * Counts the users present in a topic, including those within the grace period.
   *
   * @param topic The topic in which the users are present.
   * @returns The number of users.
   */
  count(topic: string): number {
    return this.#scopes.get(topic)?.users.size ?? 0;
  }

  /**
   * Returns true if a user or a session is present in a topic.
   *
   * @param who A user, including a user within the grace period, or one session.
   * @param topic The topic in which the user or session may be present.
   * @returns True if present.
   */
  has(who: string | Session, topic: string): boolean {
    if (typeof who !== "string") return this.#visits.get(who)?.presences.has(topic) ?? false;
    return this.#scopes.get(topic)?.users.has(who) ?? false;
  }

  /**
   * Counts a user's sessions in a topic.
   *
   * @param user The user's name, as in `session.user`.
   * @param topic The topic to which the sessions belong.
   * @returns The number of sessions; 0 if the user is absent or within the grace period.
   */
  connections(user: string, topic: string): number {
    return this.#scopes.get(topic)?.users.get(user)?.connections ?? 0;
  }

  /**
   * Lists the topics in which a user is present, among the topics known to this node.
   *
   * @param user The user's name, as in `session.user`.
   * @returns The topics, in the order of joining.
   */
  topicsOf(user: string): string[] {
    return this.#scopes.topicsOf(user);
  }

  /**
   * Returns true if a user is online, or within the grace period.
   *
   * @param user The user's name, as in `session.user`.
   * @returns True if online or within the grace period.
   */
  isOnline(user: string): boolean {
    return this.#scopes.online.users.has(user);
  }

  /**
   * Lists the online users, including those within the grace period. With many nodes,
   * {@linkcode Presence.isComplete} returns false if some users may be missing.
   *
   * @returns The users, in the order of coming online.
   */
  online(): string[] {
    return [...this.#scopes.online.users.keys()];
  }

  /**
   * Returns the time at which a user was last connected.
   *
   * @param user The user's name, as in `session.user`.
   * @returns The time in milliseconds since the Unix epoch; `undefined` if the user is connected,
   * was never connected, or was forgotten because of `maxLastSeen`.
   */
  lastSeenAt(user: string): number | undefined {
    const userPresence = this.#scopes.online.users.get(user);
    if (userPresence === undefined) return this.#lastSeen.get(user);
    return userPresence.connections === 0 ? userPresence.seenAt : undefined;
  }

  /**
   * Follows a topic: this node then tracks the topic's users even if none of its own users is in
   * the topic.
   *
   * @param topic The topic whose users this node needs, of 1 to 255 bytes.
   * @returns A disposable that stops following the topic. `ready` resolves when the other nodes
   * have sent the topic's users, or after a second at the latest.
   * @throws {TypeError} If the topic is not valid.
   * @throws {RangeError} If the topic is longer than 255 bytes.
   * @throws {UnsupportedError} If the broker of the nodes is closed.
   */
  follow(topic: string): Disposable & { readonly ready: Promise<void> } {
    checkTopic(topic, "follow");
    if (this.#isDisposed) return { ready: Promise.resolve(), [Symbol.dispose]() {} };
    const scope = this.#scopes.open(topic);
    scope.followers++;
    let isOver = false;
    return {
      ready: scope.shared?.ready ?? Promise.resolve(),
      [Symbol.dispose]: () => {
        if (isOver) return;
        isOver = true;
        scope.followers--;
        this.#scopes.release(scope);
      },
    };
  }

  /**
   * Returns true if `members` and `count` include all users of a topic, or `online` all online
   * users, on all nodes.
   *
   * - **Not complete:** until every other node has sent its users, after messages between nodes were
   *   missed, and while the broker is unreachable. That usually takes less than a second.
   * - **Bounds:** a node keeps up to 100,000 users of each other node, and a million of all, in each
   *   topic and online. Further users are left out, so `has` and `isOnline` may return false for
   *   them, until a tenth of the bound is free again.
   * - **Unknown topics:** a topic without users or followers on this node, and the online users with
   *   `acrossNodes: false`, are only complete if there is no other node.
   *
   * @example A node that is alone knows all users
   * ```ts
   * import { Presence } from "@skein/skein/pubsub";
   * import { assertEquals } from "@std/assert";
   *
   * using presence = new Presence();
   * assertEquals([presence.isComplete("chat"), presence.isComplete()], [true, true]);
   * ```
   *
   * @param topic The topic; if left out, the online users.
   * @returns True if they are complete.
   */
  isComplete(topic?: string): boolean {
    return this.#scopes.isComplete(topic);
  }

  /**
   * Returns true if the list of a topic need not wait for other nodes any longer: they have sent
   * their users, or a second has passed.
   *
   * @ignore
   */
  isSettled(topic: string): boolean {
    return this.#scopes.isSettled(topic);
  }

  /**
   * Calls a function when users join and leave, and when their data changes.
   *
   * @param listener Receives the events.
   * @returns A disposable that ends the calls immediately.
   * @throws {TypeError} If the listener is not a function.
   */
  subscribe(listener: (event: PresenceEvent) => void): Disposable {
    checkType("follow presence", "listener", listener);
    const entry = { listener };
    if (!this.#isDisposed) this.#listeners.add(entry);
    return { [Symbol.dispose]: () => void this.#listeners.delete(entry) };
  }

  /**
   * Yields the users that are present, and then each change with the node on which it happened, for
   * a program that acts on changes once for all nodes, such as a sender of webhooks.
   *
   * - **Responsible:** one of the nodes that track a topic and read their events leads the topic,
   *   usually the one that has tracked it for longest. It decides on joins and leaves, and
   *   `isResponsible` is true only there. Read the events on every node that has sessions.
   * - **In order:** the joins and leaves of a user alternate, with one `joinedAt` for each stay.
   * - **At least once:** the other nodes copy each decision before anyone acts on it. If the
   *   responsible node dies within 20 s, another one repeats the change with the same `id`, and
   *   `isRepeat`. Updates are not repeated. While a broker is unreachable, a change may be lost, or
   *   reported by two nodes.
   * - **First:** the listing of the users that are present. Another listing follows when this node
   *   begins to track a topic that has users.
   * - **Unknown:** a node tracks only the topics in which it has users or followers, and each of
   *   them for another 20 s. An event of the kind `unknown` says that the last node that tracked a
   *   topic is gone, or that this node no longer tracks a topic that still has users.
   * - **Delay:** with `nodes`, an event comes 250 ms after the change, so that moving between nodes
   *   counts neither as a leave nor as a join. The first change in a topic takes another second. A
   *   stay that ends before the leader receives it isn't reported.
   * - **Bounds:** at most 100,000 events wait for a loop. For repeats, each topic keeps the last
   *   100,000 stays that ended within 20 s.
   *
   * @example Act on each join once
   * ```ts
   * import { Session } from "@skein/skein";
   * import { Presence } from "@skein/skein/pubsub";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { assertEquals } from "@std/assert";
   *
   * const settings = sessionSettings({ side: "server" });
   * await using session = new Session(memoryPair().server, settings, { user: "ada" });
   * using presence = new Presence({ graceMs: 0 });
   * const told: string[] = [];
   * const reading = (async () => {
   *   for await (const event of presence.events()) {
   *     if (event.kind === "present") presence.enter(session, "chat");
   *     if (event.kind === "join" && event.isResponsible) told.push(event.id);
   *     if (told.length === 2) break;
   *   }
   * })();
   * await reading;
   * assertEquals(told.map((id) => id.replace(/\d+$/, "")), ["join/ada/", "join:chat/ada/"]);
   * ```
   *
   * @param options A signal that ends the loop with its reason.
   * @yields The events.
   * @throws {QueueFullError} If more than 100,000 events wait because the loop is too slow. Start it
   * again.
   */
  async *events(
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<PresenceFeedEvent, void, undefined> {
    checkOptions("read presence", options, SIGNAL);
    const { signal } = options;
    const { PresenceFeed } = await import("./events.ts");
    signal?.throwIfAborted();
    if (this.#isDisposed) return;
    const feed = this.#feed ??= new PresenceFeed({
      runtime: this.runtime,
      nodes: this.#nodes,
      scopes: this.#scopes,
      observe: (observer) => this.observe(observer),
    });
    try {
      yield* feed.read(signal);
    } finally {
      if (feed.isIdle) {
        feed.stop();
        if (this.#feed === feed) this.#feed = undefined;
      }
    }
  }

  /**
   * Adds an observer of the library.
   *
   * @ignore
   * @param observer Receives changes before any listener.
   * @returns A disposable that removes the observer.
   */
  observe(observer: PresenceObserver): Disposable {
    this.#observers.add(observer);
    return { [Symbol.dispose]: () => void this.#observers.delete(observer) };
  }

  /** Removes all users without an event, and stops the timer. Idempotent. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#feed?.[Symbol.dispose]();
    this.#scopes[Symbol.dispose]();
    this.#events.length = 0;
    for (const held of [this.#observers, this.#listeners]) held.clear();
    for (const held of [this.#visits, this.#lastSeen]) held.clear();
  }

  /** Removes a session when it ends; registered once per session. */
  #watch(session: Session): void {
    if (this.#watched.has(session)) return;
    this.#watched.add(session);
    session[internals].whenEnded(this.#onEnd);
  }

  #arrive(
    session: Session,
    { user, presences }: Visit,
    scope: PresenceScope,
    data: unknown,
  ): boolean {
    const known = presences.get(scope.topic);
    if (known !== undefined) {
      if (data !== undefined) this.#scopes.setData(known, session, data);
      return false;
    }
    const { presence: userPresence, hasCome } = this.#scopes.arrive(scope, session, { user, data });
    presences.set(scope.topic, userPresence);
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

  #note(event: PresenceEvent, presence: UserPresence): void {
    if (event.topic === undefined) {
      if (event.type === "join") this.#lastSeen.delete(event.user);
      else if (event.type === "leave") this.#remember(event.user, event.lastSeenAt);
    }
    if (this.#listeners.size > 0) this.#events.push(event);
    for (const observer of this.#observers) {
      this.#call(() => observer.changed(event, presence));
    }
  }

  #tell(): void {
    if (this.#isTelling || this.#events.length === 0) return;
    this.#isTelling = true;
    // The list may grow while listeners run, and a disposal empties it.
    for (let i = 0; i < this.#events.length; i++) {
      const event = this.#events[i]!;
      for (const entry of [...this.#listeners]) {
        if (this.#listeners.has(entry)) this.#call(() => entry.listener(event));
      }
    }
    this.#events.length = 0;
    this.#isTelling = false;
  }

  #call(listener: () => unknown): void {
    attempt(listener, (error) => this.#report(error));
  }

  #report(error: unknown): void {
    attempt(() => this.#onError(error), (failure) => this.#print(failure));
  }

  #print(error: unknown): void {
    this.#console.failed("A listener of presence", error);
  }
}

/**
 * Copies presence data through JSON, so that a later change of the original has no effect.
 *
 * @param data The data; `undefined` means no data.
 * @param options The bound, and the verb for the error texts.
 * @throws {TypeError} If JSON cannot hold the data.
 * @throws {RangeError} If the data has more than `maxBytes` as JSON.
 */
export function copyPresenceData(
  data: unknown,
  options: { readonly verb: string; readonly maxBytes?: number | undefined },
): unknown {
  if (data === undefined) return undefined;
  const { verb, maxBytes = MAX_PRESENCE_DATA_BYTES } = options;
  const { data: copy } = JSON.parse(encodeEnvelope({ topic: "presence", data }, verb));
  const bytes = utf8Length(JSON.stringify(copy));
  if (bytes <= maxBytes) return copy;
  throw new RangeError(
    `Cannot ${verb}: the data of a presence must have at most ${maxBytes} bytes as JSON, ` +
      `received ${bytes}`,
  );
}
