/** Limits of sessions: in all, per user, per network address; sockets and rates beside. */
import { LimitError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import { isContended } from "../base/shares.ts";
import { RateLimits, type RateLimitsOptions } from "./rate_limits.ts";
import { addTo, countOf, Sockets } from "./sockets.ts";
import { UnreadStreams, type UnreadStreamStats } from "../transport/quic/unread_streams.ts";

/** Default limit of sessions. */
export const DEFAULT_MAX_SESSIONS = 10_000;

/** Default limit of sessions per network address. */
export const DEFAULT_MAX_SESSIONS_PER_ADDRESS = 1_000;

/** Default limit of sessions per user. */
export const DEFAULT_MAX_SESSIONS_PER_USER = 100;

/** Limits of a session manager. */
export interface ManagerLimits {
  /**
   * Most sessions at once, handshakes included. This limit bounds all memory of the manager. There
   * may be twice as many sockets: a socket whose peer does not answer a close outlives the session.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /**
   * Most sessions of one user at once: enough for every device and tab of a person, too few for a
   * client that connects in a loop. `Infinity` is no limit. Sessions without a user are not counted
   * here. The default counts only while more than half of `maxSessions` are taken, and on each node
   * by itself; a number that you set counts always, and on all nodes together.
   *
   * @default {100}
   */
  readonly maxSessionsPerUser?: number;
  /**
   * Most sessions of one network address at once, where an IPv6 /64 counts as one: an office behind
   * one address fits. Behind a proxy that the server is not told to trust, all clients have the
   * proxy's address. `Infinity` is no limit. Sessions without an address are not counted here.
   * There may be twice as many sockets of one address; beyond, an upgrade is answered with 429. The
   * default counts only while more than half of `maxSessions` are taken.
   *
   * @default {1000}
   */
  readonly maxSessionsPerAddress?: number;
}

/** Reason of a refused session: the `limit` of a {@linkcode LimitError}. */
export type RefusalReason = keyof ManagerLimits | "draining";

/** User and address that a session counts for. */
export interface Claim {
  /** The user; `undefined` is not counted. */
  readonly user: string | undefined;
  /** The key of the network address; `undefined` is not counted. */
  readonly address: string | undefined;
}

/**
 * A place for a session that is still being established. The place counts like a session until
 * `add` uses the reservation, or until disposal gives the place back.
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
  /** `true` while the place is kept; `false` once used or given back. */
  readonly isHeld: boolean;
  /** Gives the place back, unless a session took it. Idempotent. */
  [Symbol.dispose](): void;
}

/** The one implementation of {@linkcode Reservation}. */
class HeldReservation implements Reservation {
  /** Limiter that keeps the place. */
  readonly limiter: SessionLimiter;
  /** User and address for which the place counts; `undefined` once used or given back. */
  claim: Claim | undefined;

  constructor(limiter: SessionLimiter, claim: Claim) {
    this.limiter = limiter;
    this.claim = claim;
  }

  get isHeld(): boolean {
    return this.claim !== undefined;
  }

  [Symbol.dispose](): void {
    const { claim } = this;
    this.claim = undefined;
    if (claim !== undefined) this.limiter.cancel(claim);
  }
}

/** Counts sessions and reservations, and refuses those beyond a limit. */
export class SessionLimiter {
  readonly #limits: Required<ManagerLimits>;
  /** Shares that the application set, which always count; defaults count only in contention. */
  readonly #strict: ReadonlySet<keyof ManagerLimits>;
  // Each bounded by `maxSessions`, as each entry belongs to a session or a reservation.
  readonly #users = new Map<string, number>();
  readonly #addresses = new Map<string, number>();
  /**
   * Pairs of claims that count once, in both directions: a client that moves, or whose server fell
   * silent, has two sessions.
   */
  readonly #partners = new Map<Claim, Claim>();
  /** Counts sockets, whose bounds follow from those of sessions. */
  readonly sockets: Sockets;
  /** Rates of attempts to connect, and of messages. */
  readonly rates: RateLimits;
  /** Counts the streams that sessions do not read. */
  readonly unreadStreams: { readonly stats: UnreadStreamStats };
  readonly #refused: Record<RefusalReason, number> = {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 0,
  };
  #taken = 0;
  #reserved = 0;
  #isDraining = false;

  /**
   * Creates a limiter without counts.
   *
   * @param runtime Runtime that has the clock and the timers.
   * @param limits See {@linkcode ManagerLimits}.
   * @param rates See {@linkcode RateLimitsOptions}.
   * @param unreadStreams Counts the streams that sessions do not read; by default, no streams.
   * @throws {RangeError} If a limit is not a positive integer, or a rate is not above 0.
   */
  constructor(
    runtime: Runtime,
    limits: ManagerLimits = {},
    rates: RateLimitsOptions = {},
    unreadStreams: { readonly stats: UnreadStreamStats } = new UnreadStreams(),
  ) {
    this.unreadStreams = unreadStreams;
    const {
      maxSessions = DEFAULT_MAX_SESSIONS,
      maxSessionsPerUser = DEFAULT_MAX_SESSIONS_PER_USER,
      maxSessionsPerAddress = DEFAULT_MAX_SESSIONS_PER_ADDRESS,
    } = limits;
    this.#limits = { maxSessions, maxSessionsPerUser, maxSessionsPerAddress };
    const names = ["maxSessionsPerUser", "maxSessionsPerAddress"] as const;
    this.#strict = new Set(names.filter((name) => limits[name] !== undefined));
    this.sockets = new Sockets({
      ...this.#limits,
      isStrict: this.#strict.has("maxSessionsPerAddress"),
    });
    this.rates = new RateLimits(runtime, rates, maxSessionsPerAddress);
  }

  /** `true` once all sessions are refused. */
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Number of held reservations. */
  get reserved(): number {
    return this.#reserved;
  }

  /** Number of users with sessions or reservations. */
  get users(): number {
    return this.#users.size;
  }

  /** Number of network addresses with sessions or reservations. */
  get addresses(): number {
    return this.#addresses.size;
  }

  /** Number of refused sessions, by reason. */
  get refused(): Readonly<Record<RefusalReason, number>> {
    return { ...this.#refused };
  }

  /** Refuses all sessions from now on. */
  refuseAll(): void {
    this.#isDraining = true;
  }

  /**
   * Counts a session.
   *
   * @param claim The user and the address of the session.
   * @param beside The claim of the client's other session, with which this one counts once.
   * @throws {LimitError} If there is no room.
   */
  take(claim: Claim, beside?: Claim): void {
    this.#check("add", claim, { beside });
    this.#count(claim, 1, beside);
  }

  /**
   * Keeps a place.
   *
   * @param claim The user and the address of the session.
   * @param beside The claim of the client's other session, with which this one counts once.
   * @returns The place.
   * @throws {LimitError} If there is no room.
   */
  reserve(claim: Claim, beside?: Claim): Reservation {
    this.#check("admit", claim, { beside });
    this.#count(claim, 1, beside);
    this.#reserved++;
    return new HeldReservation(this, claim);
  }

  /**
   * Turns a place into a session. The place stays kept if this throws.
   *
   * @param reservation The place.
   * @param claim The user and the address of the session; the address of the place comes first.
   * @param beside The claim of the client's other session, with which this one counts once.
   * @returns The claim that was counted.
   * @throws {TypeError} If the place is not kept here any more.
   * @throws {LimitError} If the session has another user or address, for which there is no room.
   */
  redeem(reservation: Reservation, claim: Claim, beside?: Claim): Claim {
    const isOwn = reservation instanceof HeldReservation && reservation.limiter === this;
    const held = isOwn ? reservation.claim : undefined;
    if (!isOwn || held === undefined) {
      throw new TypeError(
        "Cannot add session: its reservation must be held by this manager, received another",
      );
    }
    const final = { user: claim.user, address: held.address ?? claim.address };
    const known = this.#partners.get(held);
    const partner = known ?? beside;
    this.#check("add", final, { held, beside: partner });
    reservation.claim = undefined;
    this.#reserved--;
    if (final.user === held.user && final.address === held.address && partner === known) {
      return held;
    }
    this.#count(held, -1);
    this.#count(final, 1, partner);
    return final;
  }

  /** Gives a kept place back. */
  cancel(claim: Claim): void {
    this.#reserved--;
    this.release(claim);
  }

  /** Ends the count of a session. */
  release(claim: Claim): void {
    this.#count(claim, -1);
  }

  /** Throws if there is no room; `held` is the earlier claim of the same session. */
  #check(
    verb: "add" | "admit",
    { user, address }: Claim,
    { held, beside }: { readonly held?: Claim; readonly beside: Claim | undefined },
  ): void {
    const { maxSessions, maxSessionsPerUser, maxSessionsPerAddress } = this.#limits;
    if (this.#isDraining) {
      this.#refuse("draining", `Cannot ${verb} session: none may begin while draining`);
    }
    const partner = this.#mayPair(beside, held) ? beside : undefined;
    if (held === undefined && partner === undefined && this.#taken >= maxSessions) {
      this.#refuse("maxSessions", `Cannot ${verb} session: ${atMost(maxSessions, "at once")}`);
    }
    const isCounted = (name: keyof Claim, value: string | undefined) =>
      [held, partner].some((other) => other !== undefined && other[name] === value);
    if (
      this.#bites("maxSessionsPerUser") && !isCounted("user", user) &&
      countOf(this.#users, user) >= maxSessionsPerUser
    ) {
      const rule = atMost(maxSessionsPerUser, "per user");
      this.#refuse("maxSessionsPerUser", `Cannot ${verb} session: ${rule}`);
    }
    if (
      this.#bites("maxSessionsPerAddress") && !isCounted("address", address) &&
      countOf(this.#addresses, address) >= maxSessionsPerAddress
    ) {
      const rule = atMost(maxSessionsPerAddress, "per network address");
      this.#refuse("maxSessionsPerAddress", `Cannot ${verb} session: ${rule}`);
    }
  }

  /** Tells whether a share counts now. */
  #bites(share: keyof ManagerLimits): boolean {
    return this.#strict.has(share) || isContended(this.#taken, this.#limits.maxSessions);
  }

  /** The message may reach the peer, and so names no user and no address. */
  #refuse(reason: RefusalReason, message: string): never {
    this.#refused[reason]++;
    throw new LimitError(reason, message);
  }

  #count(claim: Claim, step: 1 | -1, beside?: Claim): void {
    const partner = step === 1 && this.#mayPair(beside) ? beside : this.#partners.get(claim);
    // The claim that remains counts from now on.
    if (partner === undefined) this.#taken += step;
    else if (step === 1) this.#partners.set(claim, partner).set(partner, claim);
    else {
      this.#partners.delete(claim);
      this.#partners.delete(partner);
    }
    const { user, address } = claim;
    if (partner === undefined || partner.user !== user) addTo(this.#users, user, step);
    if (partner === undefined || partner.address !== address) {
      addTo(this.#addresses, address, step);
    }
  }

  /**
   * Two claims can count as one, never three: otherwise a client could have any number of
   * sessions in one place.
   */
  #mayPair(beside: Claim | undefined, held?: Claim): boolean {
    if (beside === undefined) return false;
    const partner = this.#partners.get(beside);
    return partner === undefined || partner === held;
  }
}

function atMost(limit: number, what: string): string {
  return `at most ${limit} sessions ${what}, received one more`;
}
