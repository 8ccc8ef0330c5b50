/**
 * How many sessions there may be: in all, per user, per network address; sockets and rates beside.
 *
 * @module
 */
import { LimitError } from "../errors.ts";
import { addTo, countOf } from "./_counts.ts";
import { RateLimits, type RateLimitsOptions } from "./rate_limits.ts";
import { Sockets } from "./sockets.ts";
import { UnreadStreams, type UnreadStreamStats } from "../transport/quic/unread_streams.ts";

/** How many sessions there may be, unless it is said. */
export const DEFAULT_MAX_SESSIONS = 10_000;

/** How many of them may have the same address, unless it is said. */
export const DEFAULT_MAX_SESSIONS_PER_ADDRESS = 1_000;

/** How many of them may be of the same user, unless it is said. */
export const DEFAULT_MAX_SESSIONS_PER_USER = 100;

/** Limits of a session manager. */
export interface ManagerLimits {
  /**
   * Most sessions at once, handshakes included. It bounds everything that the manager keeps; there
   * may be twice as many sockets, as those whose peers do not answer a close outlive their sessions.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /**
   * Most sessions of one user at once: enough for every device and tab of a person, too few for a
   * client that connects in a loop. `Infinity` is no limit. Who has no user is not counted here.
   *
   * @default {100}
   */
  readonly maxSessionsPerUser?: number;
  /**
   * Most sessions of one network address at once, where an IPv6 /64 counts as one: an office behind
   * one address fits. Behind a proxy that the server is not told to trust, everybody has the
   * proxy's address. `Infinity` is no limit. Who has no address is not counted here. There may be
   * twice as many sockets of one address; beyond, an upgrade is answered with 429.
   *
   * @default {1000}
   */
  readonly maxSessionsPerAddress?: number;
}

/** Why a session was refused: the `limit` of a {@linkcode LimitError}. */
export type RefusalReason = keyof ManagerLimits | "draining";

/** What a session counts for. */
export interface Claim {
  /** Its user; `undefined` counts for nobody. */
  readonly user: string | undefined;
  /** The key of its address; `undefined` counts for none. */
  readonly address: string | undefined;
}

/**
 * A place that is kept for a session which is still being established. It
 * counts like a session until it becomes one, or is given back by `using`.
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
  /** Whether the place is still kept: neither a session, nor given back. */
  readonly isHeld: boolean;
  /** Gives the place back, unless a session took it. Idempotent. */
  [Symbol.dispose](): void;
}

/** The one {@linkcode Reservation}; its limiter knows all about it. */
class Place implements Reservation {
  readonly #limiter: SessionLimiter;

  constructor(limiter: SessionLimiter) {
    this.#limiter = limiter;
  }

  get isHeld(): boolean {
    return this.#limiter.isHeld(this);
  }

  [Symbol.dispose](): void {
    this.#limiter.cancel(this);
  }
}

/** Counts what is taken, and refuses what is too much. */
export class SessionLimiter {
  readonly #limits: Required<ManagerLimits>;
  // Each bounded by `maxSessions`: whoever is counted is a session or a reservation.
  readonly #users = new Map<string, number>();
  readonly #addresses = new Map<string, number>();
  readonly #reservations = new Map<Reservation, Claim>();
  /** Claims that count once for their user, both ways round: a client that moves has two sessions. */
  readonly #partners = new Map<Claim, Claim>();
  /** Sockets have bounds that follow from those of sessions. */
  readonly sockets: Sockets;
  /** How fast what is counted here may come, and what it may do. */
  readonly rates: RateLimits;
  /** Streams that sessions do not read. */
  readonly unreadStreams: { readonly stats: UnreadStreamStats };
  readonly #refused: Record<RefusalReason, number> = {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 0,
  };
  #taken = 0;
  #isDraining = false;

  /**
   * Creates a limiter that counts nobody yet.
   *
   * @param limits See {@linkcode ManagerLimits}.
   * @param rates See {@linkcode RateLimitsOptions}.
   * @param unreadStreams Counts the streams that sessions do not read; there are none by default.
   * @throws {RangeError} If a limit is not a positive integer, or a rate is not above 0.
   */
  constructor(
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
    for (const [name, value] of Object.entries(this.#limits)) {
      if (Number.isInteger(value) && value > 0) continue;
      if (value === Infinity && name !== "maxSessions") continue;
      throw new RangeError(
        `Cannot create session manager: ${name} must be a positive integer, received ${value}`,
      );
    }
    this.sockets = new Sockets(this.#limits);
    this.rates = new RateLimits(rates, maxSessionsPerAddress);
  }

  /** Whether everybody is refused. */
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** How many reservations are held. */
  get reserved(): number {
    return this.#reservations.size;
  }

  /** How many users have sessions or reservations. */
  get users(): number {
    return this.#users.size;
  }

  /** How many network addresses have sessions or reservations. */
  get addresses(): number {
    return this.#addresses.size;
  }

  /** How many were refused, by reason. */
  get refused(): Readonly<Record<RefusalReason, number>> {
    return { ...this.#refused };
  }

  /** Refuses everybody from now on. */
  refuseAll(): void {
    this.#isDraining = true;
  }

  /**
   * Counts a session.
   *
   * @param claim What it counts for.
   * @param beside A claim of the same user, with which it counts once.
   * @throws {LimitError} If there is no room.
   */
  take(claim: Claim, beside?: Claim): void {
    this.#check("add", claim, { beside });
    this.#count(claim, 1, beside);
  }

  /**
   * Keeps a place.
   *
   * @param claim What it counts for.
   * @param beside A claim of the same user, with which it counts once.
   * @returns The place.
   * @throws {LimitError} If there is no room.
   */
  reserve(claim: Claim, beside?: Claim): Reservation {
    this.#check("admit", claim, { beside });
    this.#count(claim, 1, beside);
    const reservation = new Place(this);
    this.#reservations.set(reservation, claim);
    return reservation;
  }

  /**
   * Turns a place into a session. The place stays kept where this throws.
   *
   * @param reservation The place.
   * @param claim What the session counts for; the address of the place comes first.
   * @param beside A claim of the same user, with which the session counts once.
   * @returns What was counted.
   * @throws {TypeError} If the place is not kept here any more.
   * @throws {LimitError} If the session counts for somebody else, who has no room.
   */
  redeem(reservation: Reservation, claim: Claim, beside?: Claim): Claim {
    const held = this.#reservations.get(reservation);
    if (held === undefined) {
      throw new TypeError(
        "Cannot add session: its reservation must be held by this manager, received one that is not",
      );
    }
    const final = { user: claim.user, address: held.address ?? claim.address };
    const partner = this.#partners.get(held) ?? beside;
    this.#check("add", final, { held, beside: partner });
    this.#reservations.delete(reservation);
    this.#count(held, -1);
    this.#count(final, 1, partner);
    return final;
  }

  /** Whether a place is kept here. */
  isHeld(reservation: Reservation): boolean {
    return this.#reservations.has(reservation);
  }

  /** Gives a place back. Idempotent. */
  cancel(reservation: Reservation): void {
    const held = this.#reservations.get(reservation);
    if (held === undefined) return;
    this.#reservations.delete(reservation);
    this.release(held);
  }

  /** A session is over. */
  release(claim: Claim): void {
    this.#count(claim, -1);
  }

  /** Throws if there is no room; `held` is what the same session counts for already. */
  #check(
    verb: "add" | "admit",
    { user, address }: Claim,
    { held, beside }: { readonly held?: Claim; readonly beside: Claim | undefined },
  ): void {
    const { maxSessions, maxSessionsPerUser, maxSessionsPerAddress } = this.#limits;
    if (this.#isDraining) {
      this.#refuse("draining", `Cannot ${verb} session: none may begin while draining`);
    }
    if (held === undefined && this.#taken >= maxSessions) {
      this.#refuse("maxSessions", `Cannot ${verb} session: ${atMost(maxSessions, "at once")}`);
    }
    const isCounted = user === held?.user || this.#mayShare(user, beside, held);
    if (!isCounted && countOf(this.#users, user) >= maxSessionsPerUser) {
      const rule = atMost(maxSessionsPerUser, "per user");
      this.#refuse("maxSessionsPerUser", `Cannot ${verb} session: ${rule}`);
    }
    if (address !== held?.address && countOf(this.#addresses, address) >= maxSessionsPerAddress) {
      const rule = atMost(maxSessionsPerAddress, "per network address");
      this.#refuse("maxSessionsPerAddress", `Cannot ${verb} session: ${rule}`);
    }
  }

  /** The message may reach the peer: it names no user and no address. */
  #refuse(reason: RefusalReason, message: string): never {
    this.#refused[reason]++;
    throw new LimitError(reason, message);
  }

  #count(claim: Claim, step: 1 | -1, beside?: Claim): void {
    const { user, address } = claim;
    this.#taken += step;
    addTo(this.#addresses, address, step);
    const partner = this.#partners.get(claim);
    if (partner !== undefined) {
      // The one that is left counts from now on.
      this.#partners.delete(claim);
      this.#partners.delete(partner);
    } else if (step === 1 && this.#mayShare(user, beside)) {
      this.#partners.set(claim, beside!).set(beside!, claim);
    } else addTo(this.#users, user, step);
  }

  /** Two share a place, never three: else a client could have any number of sessions in one. */
  #mayShare(user: string | undefined, beside: Claim | undefined, held?: Claim): boolean {
    if (user === undefined || user !== beside?.user) return false;
    const partner = this.#partners.get(beside);
    return partner === undefined || partner === held;
  }
}

function atMost(limit: number, what: string): string {
  return `at most ${limit} sessions ${what}, received one more`;
}
