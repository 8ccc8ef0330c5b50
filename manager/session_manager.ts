/** All sessions of a server: limits, lookup, statistics, and closing them. */
import { RATES } from "./rate_limits.ts";
import { DRAIN } from "./drain.ts";
import { CLOSE } from "../session/settings/call_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import {
  checkOptions,
  COUNT,
  integer,
  LIMIT,
  POSITIVE,
  RUNTIME,
} from "../base/options/option_checks.ts";
import { CloseCode } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import { diagnostics, type SessionDiagnostics } from "../session/insight/diagnostics.ts";
import { issues, type SessionIssue } from "../session/insight/health.ts";
import { platformRuntime, type Runtime, type Timer } from "../base/runtime.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import type { Account } from "../base/quotas/accounts.ts";
import type { Slot } from "../base/quotas/shares.ts";
import type { SocketLease } from "../transport/websocket/server.ts";
import { Drain, type DrainOptions, type DrainReport } from "./drain.ts";
import {
  ConnectingClient,
  type LimiterParts,
  type ManagerLimits,
  type Reservation,
  SessionLimiter,
} from "./limits.ts";
import type { HttpPublications, RateLimitsOptions } from "./rate_limits.ts";
import { type ManagerStats, StatsAccumulator } from "./stats.ts";
import type { SessionCloseOptions, SessionState } from "../session/types.ts";

/** Default time between two searches for closed sessions, in milliseconds. */
const CLEANUP_INTERVAL_MS = 60_000;

/** Options for {@linkcode SessionManager}. */
export interface SessionManagerOptions extends ManagerLimits {
  /** Rates of messages, subscriptions and connections. */
  readonly rates?: RateLimitsOptions | undefined;
  /**
   * Time between two calls of {@linkcode SessionManager.cleanup} by the manager, in milliseconds.
   * Sessions leave when they close, so this is only a safety net. There is no timer while the
   * manager has no sessions.
   *
   * @default {60000}
   */
  readonly cleanupIntervalMs?: number | undefined;
  /**
   * Parts of the server that the manager shares.
   *
   * @internal
   */
  readonly parts?: LimiterParts | undefined;
  /** Clocks, timers and randomness of this node; the platform's by default. */
  readonly runtime?: Runtime | undefined;
}

/** User and address of a session that requests admission. */
export interface AdmitOptions {
  /** The user, if already known. */
  readonly user?: string | undefined;
  /** The network address. */
  readonly address?: string | undefined;
  /**
   * Another session of the same client, from which it moves: both count once in all limits in which
   * they have the same user and address.
   */
  readonly beside?: Session | undefined;
}

/** Options for {@linkcode SessionManager.add}. */
export interface AddOptions {
  /** The slot that {@linkcode SessionManager.admit} reserved for the session. */
  readonly reservation?: Reservation | undefined;
  /**
   * Another session of the same client, from which it moves: both count once in all limits in which
   * they have the same user and address.
   */
  readonly beside?: Session | undefined;
}

interface ListedSession {
  readonly session: Session;
  /** Key under which the session is listed with its user's. */
  readonly user: string;
  readonly slot: Slot;
  /** Number of the session, in order of addition. */
  readonly number: number;
  /** Meters the peer's messages, if a rate applies. */
  readonly meter: Disposable | undefined;
}

const MANAGER: OptionKinds<SessionManagerOptions> = {
  cleanupIntervalMs: integer(1, MAX_TIMER_MS),
  maxSessions: POSITIVE,
  maxSessionsPerAddress: LIMIT,
  maxSessionsPerUser: LIMIT,
  parts: "object",
  rates: RATES,
  runtime: RUNTIME,
};

const ADMIT: OptionKinds<AdmitOptions> = { address: "string", beside: "object", user: "string" };

const ADD: OptionKinds<AddOptions> = { beside: "object", reservation: "object" };

/**
 * Holds all sessions of a server.
 *
 * - **Limits:** sessions are limited in total, per user and per network address. With
 *   {@linkcode SessionManager.admit}, handshakes are counted, too.
 * - **Rates:** a peer's messages are counted once its session is added; see
 *   {@linkcode RateLimitsOptions}.
 * - **Leaving:** a session that closes has left the manager before its `onClose` runs.
 * - **Cost:** a session takes a few hundred bytes, and has no timer or promise of its own.
 * - **Timers:** the manager has one timer while it has sessions.
 *
 * @example Usage
 * ```ts
 * import { Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { SessionManager } from "@skein/skein/manager";
 * import { assertEquals } from "@std/assert";
 *
 * await using manager = new SessionManager({ maxSessionsPerUser: 5 });
 * const { server } = memoryPair();
 * const session = new Session(server, sessionSettings({ side: "server" }), { user: "ann" });
 * const id = manager.add(session);
 * assertEquals(manager.get(id), session);
 * assertEquals(manager.sessionsOf("ann"), [session]);
 * await session.close();
 * assertEquals(manager.count, 0);
 * ```
 */
export class SessionManager implements AsyncDisposable {
  readonly #runtime: Runtime;
  readonly #limiter: SessionLimiter;
  readonly #totals = new StatsAccumulator();
  // Both are bounded by `maxSessions`.
  readonly #entries = new Map<string, ListedSession>();
  readonly #byUser = new Map<string, Session[]>();
  /**
   * Sessions that were removed while open. Their `#onEnd` is already registered, in case they are
   * added again.
   */
  readonly #known = new WeakSet<Session>();
  readonly #onEnd = (session: Session) => {
    const { id } = session;
    if (this.#entries.get(id)?.session === session) this.#forget(id);
  };
  readonly #cleanupIntervalMs: number;
  #lastNumber = 0;
  #cleaner: Timer | undefined;
  #drained: Promise<DrainReport> | undefined;

  /**
   * Creates a manager without sessions.
   *
   * @param options See {@linkcode SessionManagerOptions}.
   * @throws {RangeError} If a limit or the interval is not a positive integer, or a rate is not
   * above 0.
   */
  constructor(options: SessionManagerOptions = {}) {
    checkOptions("create manager", options, MANAGER);
    const { parts, rates, runtime = platformRuntime(), cleanupIntervalMs, ...limits } = options;
    this.#runtime = runtime;
    this.#cleanupIntervalMs = cleanupIntervalMs ?? CLEANUP_INTERVAL_MS;
    this.#limiter = new SessionLimiter(runtime, limits, rates, parts);
  }

  /**
   * Creates a manager without sessions. This is the same as `new`.
   *
   * @param options See {@linkcode SessionManagerOptions}.
   * @returns A manager to which sessions can be added.
   * @throws {RangeError} If a limit or the interval is not a positive integer, or a rate is not
   * above 0.
   */
  static create(options: SessionManagerOptions = {}): SessionManager {
    return new SessionManager(options);
  }

  /** Number of sessions. */
  get count(): number {
    return this.#entries.size;
  }

  /** True once `drain` or `shutdown` rejects new sessions. */
  get isDraining(): boolean {
    return this.#limiter.isDraining;
  }

  /**
   * Reserves a slot for a session that does not exist yet. Call this before you reply to a handshake,
   * so that many concurrent handshakes cannot exceed a limit.
   *
   * @param options The user and the network address, as far as known.
   * @returns The slot; pass it to {@linkcode SessionManager.add}, or dispose of it.
   * @throws {LimitError} If a limit, named by `limit`, is reached, or if the manager is draining.
   *
   * @example Usage
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals } from "@std/assert";
   *
   * await using manager = new SessionManager();
   * using reservation = manager.admit({ address: "192.0.2.1" });
   * const { server } = memoryPair(); // The handshake.
   * manager.add(new Session(server, sessionSettings({ side: "server" })), { reservation });
   * assertEquals([manager.count, manager.stats().reserved], [1, 0]);
   * ```
   */
  admit(options: AdmitOptions = {}): Reservation {
    checkOptions("admit session", options, ADMIT);
    const { user, address, beside } = options;
    return this.#limiter.reserve({ user, address }, this.slotOf(beside));
  }

  /**
   * Starts to count a client that connects. It takes nothing until its methods are called.
   *
   * @param address The network address, where known.
   * @returns The client, which is the reservation of its session.
   *
   * @ignore
   */
  connecting(address: string | undefined): ConnectingClient {
    return new ConnectingClient(this.#limiter, { user: undefined, address });
  }

  /**
   * Counts an attempt to connect toward the rates of its user and its network address. Call this
   * once for each of the two, as soon as it is known.
   *
   * @param options The user, the network address, or both.
   * @throws {LimitError} If there are too many attempts; `retryAfterMs` is the time to wait.
   *
   * @example Usage
   * ```ts
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals, assertThrows } from "@std/assert";
   *
   * const manager = new SessionManager({
   *   rates: { perAddress: { connections: { perSecond: 0.5, burst: 1 } } },
   * });
   * const who = { address: "192.0.2.1" };
   * manager.admitConnection(who);
   * assertThrows(() => manager.admitConnection(who), Error, "at most 0.5 connections a second");
   * assertEquals(manager.stats().rates.rejectedConnections.address, 1);
   * ```
   */
  admitConnection(options: AdmitOptions): void {
    checkOptions("admit connection", options, ADMIT);
    const { user, address } = options;
    this.#limiter.rates.connect({ user, account: this.#limiter.accounts.of({ address }) });
  }

  /**
   * Counts a socket from the upgrade until the runtime has closed it, which can be long after the
   * session ended. There may be twice as many sockets as a limit allows sessions, and three times
   * as many while clients move.
   *
   * @param options The network address, and the session from which the client moves, if known.
   * @returns The lease of the socket; pass it to the engine that upgrades.
   * @throws {LimitError} If twice as many sockets are open as a limit allows sessions.
   *
   * @example Usage
   * ```ts
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals, assertThrows } from "@std/assert";
   *
   * const manager = new SessionManager({ maxSessionsPerAddress: 1 });
   * const who = { address: "192.0.2.1" };
   * using _first = manager.admitSocket(who);
   * using _second = manager.admitSocket(who);
   * assertThrows(() => manager.admitSocket(who), Error, "your address may have at most 2 sockets");
   * assertEquals(manager.stats().sockets, { open: 2, lingering: 0, rejected: 1 });
   * ```
   */
  admitSocket(options: Pick<AdmitOptions, "address" | "beside"> = {}): SocketLease {
    checkOptions("admit socket", options, { address: "string", beside: "object" });
    const { address, beside } = options;
    return this.#limiter.sockets.take(this.#limiter.accounts.of({ address }), beside !== undefined);
  }

  /**
   * Adds a session. A session leaves when it closes; if it is already closed, it leaves
   * immediately.
   *
   * Add a session once its user is known, because `session.user` is read only by this call.
   *
   * @param session Any session.
   * @param options The session's reservation, which stays valid if this throws.
   * @returns The id of the session.
   * @throws {TypeError} If there already is a session with this id, or if this manager does not
   * hold the reservation.
   * @throws {LimitError} If a limit, named by `limit`, is reached, or if the manager is draining.
   */
  add(session: Session, options: AddOptions = {}): string {
    checkOptions("add session", options, ADD);
    return this.enter(session, options);
  }

  /**
   * Adds a session as `add` does, without a check of the options.
   *
   * @ignore
   */
  enter(session: Session, options: AddOptions): string {
    const { id } = session;
    const { reservation } = options;
    const beside = this.slotOf(options.beside);
    if (this.#entries.has(id)) {
      throw new TypeError(`Cannot add session: its id must be new, received ${id}`);
    }
    // The user of an anonymous session is not counted.
    const user = verifiedUser(session);
    const peer = { user, address: session.address };
    const slot = reservation === undefined
      ? this.#limiter.take(peer, beside)
      : this.#limiter.redeem(reservation, peer, beside);
    const number = ++this.#lastNumber;
    const account = reservation instanceof ConnectingClient
      ? reservation.account
      : this.#limiter.accounts.of({ address: session.address });
    const meter = this.#limiter.rates.meter(session, { user, account });
    const name = session.user;
    this.#entries.set(id, { session, user: name, slot, number, meter });
    this.#index(name, session);
    this.#totals.added(session, this.#entries.size);
    this.#scheduleCleanup();
    if (session.isClosed || !this.#known.has(session)) session[internals].whenEnded(this.#onEnd);
    return id;
  }

  /**
   * Counts the cost of work that a client starts, such as a response; see `rates.perUser.cost`.
   *
   * @param account The client.
   * @param verb The rejected action, for the error.
   * @throws {RequestError} With the code `too-many` if a rate of the user or the address has too
   * little left.
   * @ignore
   */
  charge(account: Account, cost: number, verb: string): void {
    this.#limiter.rates.charge(account, cost, verb);
  }

  /**
   * Counts publications of a client over HTTP; see `rates.perSession.publications`.
   *
   * @param account The client, with the caller that the application has named as the user.
   * @throws {RequestError} With the code `too-many` if a rate has too little left.
   * @ignore
   */
  publish(account: Account, publications: HttpPublications): void {
    this.#limiter.rates.publish(account, publications);
  }

  /**
   * Counts publications over HTTP that no request has announced; see
   * `rates.perSession.publications`.
   *
   * @param account The client, as for `publish`.
   * @param publications The user, and the number of publications.
   * @ignore
   */
  spend(account: Account, publications: Pick<HttpPublications, "count" | "user">): void {
    this.#limiter.rates.spend(account, publications);
  }

  /**
   * Finds a session.
   *
   * @param id The id of the session.
   * @returns The session, or `undefined`.
   */
  get(id: string): Session | undefined {
    return this.#entries.get(id)?.session;
  }

  /**
   * Removes a session. The session stays open, but is no longer counted.
   *
   * @param id The id of the session.
   * @returns The session, or `undefined` if there is no session with this id.
   */
  remove(id: string): Session | undefined {
    return this.#forget(id);
  }

  /**
   * Lists all sessions.
   *
   * @returns A copy of the list, in the order of addition.
   */
  all(): Session[] {
    return Array.from(this.#entries.values(), ({ session }) => session);
  }

  /**
   * Lists the sessions of a user.
   *
   * @param user The user, as in `session.user`.
   * @returns A copy of the list, in the order of addition.
   */
  sessionsOf(user: string): Session[] {
    return [...this.#byUser.get(user) ?? []];
  }

  /**
   * Lists the sessions in a state.
   *
   * @param state The value of `session.state` to look for.
   * @returns A copy of the list, in the order of addition.
   */
  byState(state: SessionState): Session[] {
    return this.all().filter((session) => session.state === state);
  }

  /**
   * Sums up the counters of all sessions. This reads every session, so call it for a metrics page,
   * not for every message.
   *
   * @returns The statistics.
   */
  stats(): ManagerStats {
    return this.#totals.read(this.all(), this.#limiter);
  }

  /**
   * Lists the problems of all sessions. Reads every session, like `stats`.
   *
   * @param options Maximum number of problems to return; 100 by default.
   * @returns The problems, each with the id of its session. Errors come first; otherwise, problems
   * are in the order in which their sessions were added.
   * @throws {RangeError} If the limit is not a positive integer.
   *
   * @example Usage
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals } from "@std/assert";
   *
   * await using manager = new SessionManager();
   * const { client, server } = memoryPair();
   * manager.add(new Session(server, sessionSettings({ side: "server" }), { id: "s-1" }));
   * await client.createUnidirectionalStream();
   * const [issue] = manager.issues();
   * assertEquals([issue?.id, issue?.code], ["s-1", "unread-streams"]);
   * ```
   */
  issues(
    options: { readonly limit?: number | undefined } = {},
  ): (SessionIssue & { readonly id: string })[] {
    checkOptions("list issues", options, { limit: POSITIVE });
    const { limit = 100 } = options;
    const found: Record<SessionIssue["severity"], (SessionIssue & { readonly id: string })[]> = {
      error: [],
      warning: [],
    };
    for (const [id, { session }] of this.#entries) {
      for (const issue of issues(session[internals])) {
        const same = found[issue.severity];
        if (same.length < limit) same.push({ id, ...issue });
      }
      if (found.error.length === limit) break;
    }
    return [...found.error, ...found.warning].slice(0, limit);
  }

  /**
   * Takes a snapshot of each session, one page at a time.
   *
   * @param options The maximum number of sessions in a page, 100 by default; and in `after`, the
   * `next` of the previous page. Without `after`, the first page is returned.
   * @returns A page of snapshots.
   * @throws {RangeError} If the limit is not a positive integer.
   *
   * @example All sessions
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals } from "@std/assert";
   *
   * await using manager = new SessionManager();
   * const settings = sessionSettings({ side: "server" });
   * for (const id of ["a", "b", "c"]) manager.add(new Session(memoryPair().server, settings, { id }));
   * const ids: string[] = [];
   * let after: number | undefined;
   * do {
   *   const page = manager.diagnostics({ limit: 2, after });
   *   ids.push(...page.sessions.map(({ id }) => id));
   *   after = page.next;
   * } while (after !== undefined);
   * assertEquals(ids, ["a", "b", "c"]);
   * ```
   */
  diagnostics(
    options: { readonly limit?: number | undefined; readonly after?: number | undefined } = {},
  ): {
    /** A snapshot of each session. */
    readonly sessions: readonly SessionDiagnostics[];
    /**
     * Start of the next page, which stays valid while sessions come and go; `undefined` after the
     * last page.
     */
    readonly next: number | undefined;
  } {
    checkOptions("list diagnostics", options, { after: COUNT, limit: POSITIVE });
    const { after = 0, limit = 100 } = options;
    const sessions: SessionDiagnostics[] = [];
    let last = after;
    for (const { number, session } of this.#entries.values()) {
      if (number <= after) continue;
      if (sessions.length === limit) return { sessions, next: last };
      sessions.push(diagnostics(session[internals]));
      last = number;
    }
    return { sessions, next: undefined };
  }

  /**
   * Removes closed sessions. It is called periodically. Sessions leave when they close, so this
   * finds a closed session only after a failure.
   *
   * @returns Number of removed sessions.
   */
  cleanup(): number {
    let count = 0;
    for (const [id, { session }] of this.#entries) {
      if (!session.isClosed) continue;
      this.#forget(id);
      count++;
    }
    return count;
  }

  /**
   * Closes all sessions after flushing their queues. New sessions are still accepted.
   *
   * @param options Close code (0 by default) and reason.
   * @returns Number of closed sessions, once all are closed.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  async closeAll(options: SessionCloseOptions = {}): Promise<number> {
    checkOptions("close", options, CLOSE);
    const sessions = this.all();
    await Promise.all(sessions.map((session) => session.close(options)));
    return sessions.length;
  }

  /**
   * Closes all sessions gracefully. New sessions are rejected, and every peer immediately receives
   * the time at which to reconnect, a different one for each peer. Its session is closed then,
   * after its handlers and responses finish and its queues are flushed. Sessions that take too long
   * are cut off.
   *
   * Idempotent: the options of the first call apply, and later calls return the same promise.
   *
   * @param options See {@linkcode DrainOptions}.
   * @returns The result, when no session is left.
   * @throws {RangeError} If `withinMs` is not a positive integer.
   *
   * @example Usage
   * ```ts
   * import { Session } from "@skein/skein";
   * import { sessionSettings } from "@skein/skein/session";
   * import { memoryPair } from "@skein/skein/transport";
   * import { SessionManager } from "@skein/skein/manager";
   * import { assertEquals } from "@std/assert";
   *
   * const manager = new SessionManager();
   * const { server } = memoryPair();
   * manager.add(new Session(server, sessionSettings({ side: "server" })));
   * const { closed, cut } = await manager.drain({ withinMs: 5_000, reason: "A new version" });
   * assertEquals([closed, cut, manager.count], [1, 0, 0]);
   * ```
   */
  drain(options: DrainOptions = {}): Promise<DrainReport> {
    checkOptions("drain", options, DRAIN);
    if (this.#drained === undefined) {
      const drain = new Drain(this.#runtime, options);
      this.#limiter.rejectAll();
      this.#drained = drain.run(this.all());
    }
    return this.#drained;
  }

  /**
   * Rejects new sessions and closes all existing sessions. Idempotent; it also ends a drain in
   * progress.
   *
   * @param options Close code (4503 by default) and reason.
   * @returns Resolves when all sessions are closed and no timer is left.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  async shutdown(options: SessionCloseOptions = {}): Promise<void> {
    checkOptions("close", options, CLOSE);
    this.#limiter.rejectAll();
    await this.closeAll({ ...options, code: options.code ?? CloseCode.draining });
    await this.#drained;
    this.cleanup();
    this.#limiter.rates[Symbol.dispose]();
  }

  /** Rejects new sessions and closes all existing sessions; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  #scheduleCleanup(): void {
    this.#cleaner ??= this.#runtime.setTimeout(() => {
      this.#cleaner = undefined;
      this.cleanup();
      if (this.#entries.size > 0) this.#scheduleCleanup();
    }, this.#cleanupIntervalMs);
  }

  /**
   * Returns the slot of a session of this manager.
   *
   * @ignore
   */
  slotOf(session: Session | undefined): Slot | undefined {
    const entry = session && this.#entries.get(session.id);
    return entry?.session === session ? entry?.slot : undefined;
  }

  #forget(id: string): Session | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    const { session, user, slot, meter } = entry;
    this.#entries.delete(id);
    slot[Symbol.dispose]();
    meter?.[Symbol.dispose]();
    this.#unindex(user, session);
    if (session.isClosed) this.#totals.ended(session);
    else {
      this.#known.add(session);
      this.#totals.removed(session);
    }
    if (this.#entries.size === 0) {
      this.#runtime.clearTimeout(this.#cleaner);
      this.#cleaner = undefined;
    }
    return session;
  }

  #index(user: string, session: Session): void {
    const sessions = this.#byUser.get(user);
    if (sessions === undefined) this.#byUser.set(user, [session]);
    else sessions.push(session);
  }

  #unindex(user: string, session: Session): void {
    const sessions = this.#byUser.get(user)!;
    if (sessions.length === 1) this.#byUser.delete(user);
    else sessions.splice(sessions.indexOf(session), 1);
  }
}
