/** Limits on sessions, in total, per user and per network address, and on sockets and rates. */
import { LimitError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Account, Accounts } from "../base/quotas/accounts.ts";
import {
  type Quota,
  type QuotaOptions,
  Quotas,
  sharesOf,
  type Slot,
} from "../base/quotas/shares.ts";
import { type CountedPeer, RateLimits, type RateLimitsOptions } from "./rate_limits.ts";
import { Sockets } from "./sockets.ts";
import type { SocketLease } from "../transport/websocket/server.ts";
import { UnreadStreams, type UnreadStreamStats } from "../transport/quic/unread_streams.ts";

/** Default limit on sessions. */
export const DEFAULT_MAX_SESSIONS = 10_000;

/** Default limit on sessions per network address. */
export const DEFAULT_MAX_SESSIONS_PER_ADDRESS = 1_000;

/** Default limit on sessions per user. */
const DEFAULT_MAX_SESSIONS_PER_USER = 100;

/** Limits of a session manager. */
export interface ManagerLimits {
  /**
   * Maximum number of concurrent sessions, including handshakes.
   *
   * This limit bounds the manager's memory. There may be twice as many sockets, because a socket
   * outlives its session if the peer does not respond to a close.
   *
   * @default {10000}
   */
  readonly maxSessions?: number | undefined;
  /**
   * Maximum number of concurrent sessions of one user. The default applies only while more than
   * half of `maxSessions` is in use; a number that you set always applies, across all nodes.
   *
   * The default is high enough for all devices and tabs of a user, and low enough to stop a client
   * that connects in a loop. `Infinity` means no limit. Sessions without a user are not counted
   * here. The sessions that other nodes report count towards the half. At the limit, sessions of
   * the user whose peers no longer respond give way to a new one.
   *
   * @default {100}
   */
  readonly maxSessionsPerUser?: number | undefined;
  /**
   * Maximum number of concurrent sessions from one network address; an IPv6 /64 counts as one. The
   * default applies as that of `maxSessionsPerUser`.
   *
   * The default is enough for an office behind one address. `Infinity` means no limit. Sessions
   * without an address are not counted here. There may be twice as many sockets from one address;
   * beyond that, an upgrade request receives 429.
   *
   * Users who were first seen at an address more than an hour ago may together have ten times as
   * many. Sessions that other nodes report are counted, too. The default applies only while more
   * than half of `maxSessions` is in use. It does not apply to a loopback or private address if
   * `clientAddress` is not set, because such an address is probably a proxy's. A number that you
   * set always applies.
   *
   * @default {1000}
   */
  readonly maxSessionsPerAddress?: number | undefined;
}

/** The reason why a session is rejected: the `limit` of a {@linkcode LimitError}. */
export type RejectionReason = keyof ManagerLimits | "draining";

/**
 * A slot for a session that is still being established. The slot counts like a session until `add`
 * uses the reservation, or until it is disposed.
 *
 * @example Usage
 * ```ts
 * import { SessionManager } from "@skein/skein/manager";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const manager = new SessionManager({ maxSessions: 1 });
 * {
 *   using reservation = manager.admit({ address: "192.0.2.1" });
 *   assertEquals(reservation.isHeld, true);
 *   assertThrows(() => manager.admit(), Error, "at most 1 sessions at once");
 * }
 * manager.admit()[Symbol.dispose]();
 * ```
 */
export interface Reservation extends Disposable {
  /** True while the slot is held; false once it was used or released. */
  readonly isHeld: boolean;
  /** Releases the slot, unless a session uses it. Idempotent. */
  [Symbol.dispose](): void;
}

/**
 * A client that connects. Its account is looked up once, and each limit counts it once: the rates
 * of its address and its user, the slot of its session, and its socket.
 */
export class ConnectingClient implements Reservation {
  /** The limiter that holds the slot. */
  readonly limiter: SessionLimiter;
  /** The user and the address toward which the slot counts. */
  peer: CountedPeer;
  /** The account of both. */
  account: Account;
  /** The slot; `undefined` until it is reserved, and once it was used or released. */
  slot: Slot | undefined;
  readonly #atAddress: Account;

  /** Looks up the account. Takes no slot yet. */
  constructor(limiter: SessionLimiter, peer: CountedPeer) {
    this.limiter = limiter;
    this.peer = peer;
    this.account = this.#atAddress = limiter.accounts.of(peer);
  }

  get isHeld(): boolean {
    return this.slot !== undefined;
  }

  /**
   * Counts the attempt toward the rate of the address.
   *
   * @throws {LimitError} If there are too many attempts.
   */
  countAttempt(): void {
    this.limiter.rates.connect({ account: this.#atAddress });
  }

  /**
   * Counts the attempt toward the rate of a user.
   *
   * @throws {LimitError} If there are too many attempts.
   */
  countUser(user: string): void {
    this.limiter.rates.connect({ user });
  }

  /**
   * Reserves the slot.
   *
   * @param beside The slot of the client's other session: both together are counted once.
   * @throws {LimitError} If there is no room.
   */
  reserve(beside?: Slot): void {
    this.slot = this.limiter.takeFor(this, beside);
  }

  /**
   * Counts the slot toward a user as well. If this throws, the slot stays as it is.
   *
   * @param beside The slot of the client's other session: both together are counted once.
   * @throws {LimitError} If there is no room for the user.
   * @throws {TypeError} If the slot is not held.
   */
  identify(user: string, beside?: Slot): void {
    const peer = { user, address: this.peer.address };
    const account = this.limiter.accounts.known(this.#atAddress, peer);
    this.limiter.changeFor(this, account, beside);
    this.peer = peer;
    this.account = account;
  }

  /**
   * Counts the socket.
   *
   * @param isBeside True if the client moves from another session.
   * @returns The lease of the socket, which the engine disposes of.
   * @throws {LimitError} If there are too many sockets.
   */
  takeSocket(isBeside: boolean): SocketLease {
    return this.limiter.sockets.take(this.#atAddress, isBeside);
  }

  [Symbol.dispose](): void {
    const { slot } = this;
    if (slot === undefined) return;
    this.limiter.endReservation(this);
    slot[Symbol.dispose]();
  }
}

/** Parts of a {@linkcode SessionLimiter} that a server shares with others. */
export interface LimiterParts {
  /** All quotas of the server; by default, a separate registry. */
  readonly quotas?: Quotas | undefined;
  /** Counts the streams that sessions do not read; by default, there are none. */
  readonly unreadStreams?: { readonly stats: UnreadStreamStats } | undefined;
}

/** Counts sessions and reservations, and rejects those beyond a limit. */
export class SessionLimiter {
  /** The accounts of peers. Guests are counted only by address. */
  readonly accounts: Accounts;
  /** Slots of sessions. */
  readonly sessions: Quota;
  /** Counts sockets, whose bounds follow from those on sessions. */
  readonly sockets: Sockets;
  /** Rates of attempts to connect, and of messages. */
  readonly rates: RateLimits;
  /** Counts the streams that sessions do not read. */
  readonly unreadStreams: { readonly stats: UnreadStreamStats };
  #rejectedByDrain = 0;
  #reserved = 0;
  #isDraining = false;

  /** @throws {RangeError} If a limit is not a positive integer, or a rate is not above 0. */
  constructor(
    runtime: Runtime,
    limits: ManagerLimits = {},
    rates: RateLimitsOptions = {},
    { quotas = new Quotas(runtime), unreadStreams = new UnreadStreams() }: LimiterParts = {},
  ) {
    this.accounts = quotas.accounts;
    this.unreadStreams = unreadStreams;
    const options = sessionQuota(limits);
    this.sessions = quotas.open(options);
    this.sockets = new Sockets(quotas, options);
    this.rates = new RateLimits(runtime, rates, {
      maxSessionsPerAddress: limits.maxSessionsPerAddress ?? DEFAULT_MAX_SESSIONS_PER_ADDRESS,
    });
  }

  /** True once all sessions are rejected. */
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Number of held reservations. */
  get reserved(): number {
    return this.#reserved;
  }

  /** Number of rejected sessions, by reason. */
  get rejected(): Readonly<Record<RejectionReason, number>> {
    const { server, user, address } = this.sessions.stats.rejected;
    return {
      maxSessions: server,
      maxSessionsPerUser: user,
      maxSessionsPerAddress: address,
      draining: this.#rejectedByDrain,
    };
  }

  /** Rejects all sessions from now on. */
  rejectAll(): void {
    this.#isDraining = true;
  }

  /**
   * Counts a session.
   *
   * @param peer The user and the address of the session.
   * @param beside The slot of the client's other session: both together are counted once.
   * @returns The slot, to be released when the session ends.
   * @throws {LimitError} If there is no room.
   */
  take(peer: CountedPeer, beside?: Slot): Slot {
    return this.#take("add session", this.accounts.of(peer), beside);
  }

  /**
   * Reserves a slot.
   *
   * @param peer The user and the address of the session.
   * @param beside The slot of the client's other session: both together are counted once.
   * @throws {LimitError} If there is no room.
   */
  reserve(peer: CountedPeer, beside?: Slot): Reservation {
    const client = new ConnectingClient(this, peer);
    client.reserve(beside);
    return client;
  }

  /** Takes the slot of a client that connects, see {@linkcode ConnectingClient.reserve}. */
  takeFor({ account }: ConnectingClient, beside: Slot | undefined): Slot {
    const slot = this.#take("admit session", account, beside);
    this.#reserved++;
    return slot;
  }

  /** Counts the slot of a client for another account; see {@linkcode ConnectingClient.identify}. */
  changeFor(client: ConnectingClient, account: Account, beside: Slot | undefined): void {
    this.#checkDraining("admit session");
    this.#heldOf(client, "admit session").slot.change(account, { verb: "admit session", beside });
  }

  /**
   * Turns a reservation into a session. If this throws, the slot stays reserved.
   *
   * @param peer The user and the address of the session; the slot's own address takes precedence.
   * @param beside The slot of the client's other session: both together are counted once.
   * @returns The session's slot, to be released when it ends.
   * @throws {TypeError} If this limiter no longer holds the reservation.
   * @throws {LimitError} If the session has a different user or address, for which there is no
   * room.
   */
  redeem(reservation: Reservation, peer: CountedPeer, beside?: Slot): Slot {
    const { held, slot } = this.#heldOf(reservation, "add session");
    this.#checkDraining("add session");
    const { user, address = peer.address } = held.peer;
    const isSame = peer.user === user && address === held.peer.address;
    if (!isSame || beside !== undefined) {
      const account = isSame ? held.account : this.accounts.of({ user: peer.user, address });
      slot.change(account, { verb: "add session", beside });
    }
    this.endReservation(held);
    return slot;
  }

  #heldOf(reservation: Reservation, verb: string): { held: ConnectingClient; slot: Slot } {
    const isOwn = reservation instanceof ConnectingClient && reservation.limiter === this;
    const slot = isOwn ? reservation.slot : undefined;
    if (isOwn && slot !== undefined) return { held: reservation, slot };
    throw new TypeError(
      `Cannot ${verb}: this manager does not hold the reservation`,
    );
  }

  /** Stops counting a reservation, whose slot is used or released. */
  endReservation(reservation: ConnectingClient): void {
    reservation.slot = undefined;
    this.#reserved--;
  }

  #take(verb: string, account: Account, beside: Slot | undefined): Slot {
    this.#checkDraining(verb);
    return this.sessions.take(account, { verb, beside });
  }

  #checkDraining(verb: string): void {
    if (!this.#isDraining) return;
    this.#rejectedByDrain++;
    throw new LimitError("draining", `Cannot ${verb}: the server is draining`);
  }
}

function sessionQuota(limits: ManagerLimits): QuotaOptions {
  const { maxSessions = DEFAULT_MAX_SESSIONS, maxSessionsPerUser, maxSessionsPerAddress } = limits;
  return {
    limit: "maxSessions",
    shareLimits: { user: "maxSessionsPerUser", address: "maxSessionsPerAddress" },
    verb: "admit session",
    what: "sessions at once",
    max: maxSessions,
    ...sharesOf(
      { user: maxSessionsPerUser, address: maxSessionsPerAddress },
      { user: DEFAULT_MAX_SESSIONS_PER_USER, address: DEFAULT_MAX_SESSIONS_PER_ADDRESS },
    ),
    // Claims in the nodes' store count a user's sessions.
    exact: maxSessionsPerUser === undefined ? [] : ["user"],
  };
}
