/** Decisions of the application about clients that are under way, and their revocation. */
import type { AsyncLocalStorage } from "node:async_hooks";
import { builtin } from "../base/builtins.ts";
import { RequestError } from "../errors.ts";
import type { Session } from "../session/session.ts";
import type { SessionCloseOptions } from "../session/types.ts";

/**
 * Most disconnected users that are remembered while logins are under way. Every login compares its
 * user with all of them. Beyond this limit, all logins under way count as revoked, so that
 * `authenticate` is called once more for each.
 */
export const MAX_DISCONNECTS = 1_000;

/** Code and reason of a revocation, for the client. */
export interface Revocation {
  readonly code: string;
  readonly reason: string;
}

/** The revocation of the decisions about a user or a session that is disconnected. */
export const DISCONNECTED: Revocation = { code: "removed", reason: "The user was disconnected" };

/** The client that a decision is about: a session, or the user of an HTTP request. */
export type DecisionOwner = Session | string;

/** Options of {@linkcode Decisions.begin}. */
export interface DecisionOptions {
  /** The topic; `undefined` if only a revocation of all topics applies. */
  readonly topic?: string | undefined;
  /** Called once when the decision is revoked. MUST NOT throw. */
  readonly onRevoked?: (() => void) | undefined;
}

/** A decision that is under way, from the call of the application until the decision has effect. */
export class Decision implements Disposable {
  /** The first revocation; `undefined` as long as the decision counts. */
  revocation: Revocation | undefined;
  /** The client; `undefined` if it is unknown, and once the decision has ended. */
  owner: DecisionOwner | undefined;
  readonly options: DecisionOptions;
  readonly #decisions: Decisions;

  constructor(
    decisions: Decisions,
    owner: DecisionOwner | undefined,
    options: DecisionOptions,
  ) {
    this.#decisions = decisions;
    this.owner = owner;
    this.options = options;
  }

  /** Calls a function of the application. Calls that it makes don't revoke this decision. */
  during<T>(ask: () => T): T {
    return this.#decisions.run(this, ask);
  }

  /**
   * Checks that the decision still counts. Call it right before the effect.
   *
   * @throws {RequestError} With the code of the revocation.
   */
  check(): void {
    if (this.revocation === undefined) return;
    const { code, reason } = this.revocation;
    throw new RequestError(code, reason || "The permission was revoked during the request");
  }

  /** Ends the decision: it took effect, was negative, or failed. Idempotent. */
  [Symbol.dispose](): void {
    this.#decisions.end(this);
  }
}

/**
 * A login that is under way, from the call of `authenticate` until its session is established or
 * its HTTP request is registered as a decision.
 */
export class Login implements Disposable {
  /** Number of the last disconnect that does not apply. */
  since = 0;
  readonly #decisions: Decisions;

  constructor(decisions: Decisions) {
    this.#decisions = decisions;
  }

  /** Calls a function of the application. Calls that it makes don't revoke this login. */
  during<T>(ask: () => T): T {
    return this.#decisions.run(this, ask);
  }

  /** Ignores all disconnects so far, because `authenticate` was called again after the first one. */
  restart(): void {
    this.#decisions.register(this);
  }

  /**
   * Returns the options of the last call that disconnected the user during this login; `undefined`
   * if there was none.
   */
  revocationFor(user: string | undefined): SessionCloseOptions | undefined {
    return user === undefined ? undefined : this.#decisions.findDisconnect(this, user);
  }

  /** Ends the login: its session is established, or it failed. Idempotent. */
  [Symbol.dispose](): void {
    this.#decisions.endLogin(this);
  }
}

/** A call of `server.disconnect`. */
interface Disconnect {
  readonly number: number;
  readonly user: string;
  readonly options: SessionCloseOptions;
  /** The login or the decision that made the call, if any. */
  readonly by: Decision | Login | undefined;
}

/**
 * The decisions of the application that are under way on this node.
 *
 * A decision takes time, for example in a database. If the application revokes the right meanwhile,
 * a positive decision is out of date, and there is no subscription or session to end yet. For this
 * reason, every request is registered here while the application decides.
 *
 * - **Final:** a revoked decision has no effect.
 * - **Logins:** the user of a login is unknown until `authenticate` returns. The users who are
 *   disconnected meanwhile are remembered, as long as a login is under way that began earlier.
 * - **Own calls:** a call that the application makes while it decides does not revoke that same
 *   decision, so `authenticate` can close the user's other sessions. An `AsyncLocalStorage` keeps
 *   track of the decision through all `await`s. The session or the user could not tell such a call
 *   from one that another request makes.
 * - **Bounds:** each request of a client has one decision or login, so the limits on requests,
 *   readers and sessions apply. Whatever has ended is forgotten, and so is its revocation.
 */
export class Decisions {
  /** Created with the first call of the application, because Deno loads Node's modules for it. */
  #inside: AsyncLocalStorage<Decision | Login> | undefined;
  readonly #underWay = new Map<DecisionOwner, Set<Decision>>();
  /** The logins under way, in the order of `since`. */
  readonly #logins = new Set<Login>();
  /** The disconnects, in order; at most `MAX_DISCONNECTS`. */
  readonly #disconnects: Disconnect[] = [];
  /** Number of all disconnects since the first of the logins under way began. */
  #count = 0;
  /** Number of the last disconnect that was dropped because of the limit. */
  #dropped = 0;

  /** Number of clients with decisions under way, of logins, and of remembered disconnects. */
  get sizes(): readonly [clients: number, logins: number, disconnects: number] {
    return [this.#underWay.size, this.#logins.size, this.#disconnects.length];
  }

  /** The decision or the login whose call of the application is running, if any. */
  get #current(): Decision | Login | undefined {
    return this.#inside?.getStore();
  }

  /** Calls the application for a decision or a login. */
  run<T>(current: Decision | Login, ask: () => T): T {
    this.#inside ??= new (builtin("node:async_hooks").AsyncLocalStorage)();
    return this.#inside.run(current, ask);
  }

  /**
   * Registers a decision, until disposal.
   *
   * @param owner The client. Only `undefined` cannot be revoked.
   * @param options See {@linkcode DecisionOptions}.
   */
  begin(owner: DecisionOwner | undefined, options: DecisionOptions = {}): Decision {
    const decision = new Decision(this, owner, options);
    if (owner === undefined) return decision;
    const all = this.#underWay.get(owner);
    if (all === undefined) this.#underWay.set(owner, new Set([decision]));
    else all.add(decision);
    return decision;
  }

  /** Forgets a decision. */
  end(decision: Decision): void {
    const { owner } = decision;
    const all = owner === undefined ? undefined : this.#underWay.get(owner);
    if (all?.delete(decision) && all.size === 0) this.#underWay.delete(owner!);
    // A pool that the application creates in a decision keeps the decision in memory.
    decision.owner = undefined;
  }

  /**
   * Revokes the decisions about a client, except the one whose call of the application is running.
   *
   * @param owner The client.
   * @param revocation Code and reason.
   * @param topic The topic; by default, all topics.
   * @returns True if a decision was revoked.
   */
  revoke(owner: DecisionOwner, revocation: Revocation, topic?: string): boolean {
    const all = this.#underWay.get(owner);
    if (all === undefined) return false;
    const own = this.#current;
    let isAny = false;
    for (const decision of all) {
      const { options, revocation: earlier } = decision;
      const isMeant = topic === undefined || topic === options.topic;
      if (!isMeant || earlier !== undefined || decision === own) continue;
      decision.revocation = revocation;
      isAny = true;
      options.onRevoked?.();
    }
    return isAny;
  }

  /** Registers a login, until disposal. */
  login(): Login {
    const login = new Login(this);
    this.register(login);
    return login;
  }

  /**
   * Revokes the logins of a user and the decisions about the user's HTTP requests, except the one
   * whose call of the application is running.
   *
   * @param options Code and reason for sessions that are being established.
   */
  disconnect(user: string, options: SessionCloseOptions): void {
    this.revoke(user, DISCONNECTED);
    if (this.#logins.size === 0) return;
    const number = ++this.#count;
    this.#disconnects.push({ number, user, options, by: this.#current });
    if (this.#disconnects.length <= MAX_DISCONNECTS) return;
    this.#disconnects.length = 0;
    this.#dropped = number;
  }

  /** Registers a login, to which the disconnects from now on apply. */
  register(login: Login): void {
    this.#logins.delete(login);
    login.since = this.#count;
    this.#logins.add(login);
    this.#prune();
  }

  /** Finds the last disconnect of a user during a login. */
  findDisconnect(login: Login, user: string): SessionCloseOptions | undefined {
    const last = this.#disconnects.findLast((one) =>
      one.number > login.since && one.user === user && one.by !== login
    );
    return last?.options ?? (login.since < this.#dropped ? {} : undefined);
  }

  /** Forgets a login. */
  endLogin(login: Login): void {
    if (this.#logins.delete(login)) this.#prune();
  }

  /** Forgets the disconnects before all logins under way. */
  #prune(): void {
    const [oldest] = this.#logins;
    if (oldest === undefined) {
      this.#disconnects.length = this.#count = this.#dropped = 0;
      return;
    }
    if (this.#disconnects.length === 0) return;
    const first = this.#disconnects.findIndex(({ number }) => number > oldest.since);
    this.#disconnects.splice(0, first < 0 ? this.#disconnects.length : first);
  }
}
