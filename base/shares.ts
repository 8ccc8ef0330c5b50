/**
 * Bounds of a whole server that many use, with a share for each network address, user and session:
 * a bound alone protects the process, and gives its capacity to whoever comes first.
 */
import type { Runtime } from "./runtime.ts";
import { LimitError, type LimitLevel } from "../errors.ts";

/** Part of a bound from which shares are enforced: below, nobody takes from anybody. */
const CONTENDED_PART = 0.5;

/** Tells whether shares are enforced: one more would be above half of a bound. */
export function isContended(taken: number, max: number): boolean {
  return taken >= max * CONTENDED_PART;
}

/**
 * Times the share of an address that its familiar users may have together: an office, or a carrier,
 * has many users behind one address.
 */
const FAMILIAR_FACTOR = 10;

/** Time after which a user who was first seen at an address is familiar there, in milliseconds. */
const FAMILIAR_AFTER_MS = 3_600_000;

/** Time after which a user who was not seen at an address any more is forgotten, in milliseconds. */
const FORGET_AFTER_MS = 86_400_000;

/** Most pairs of address and user that are remembered. Others count as not familiar. */
const MAX_REMEMBERED = 20_000;

/** A part of the network that one party may control, and how many shares of an address it has. */
export interface Network {
  /** The key of the network. */
  readonly key: string;
  /** Shares of a single address that the whole network may have. */
  readonly factor: number;
}

/** Facts about the taker of a place. */
export interface OwnerFacts {
  /** The networks of the peer, the narrowest first; empty if unknown. */
  readonly networks?: readonly Network[];
  /** The verified user. */
  readonly user?: string | undefined;
  /** The name of a guest, for a peer without a user. */
  readonly guest?: string | undefined;
  /** The session. */
  readonly session?: string | undefined;
}

/** The taker of places: the network, the user or guest, and the session of a peer. */
export interface Owner extends OwnerFacts {
  /** True for a user who was first seen at this address more than an hour ago. */
  readonly isFamiliar: boolean;
}

/** The owner of what the application itself takes, for which the bound of the server alone counts. */
export const NOBODY: Owner = { isFamiliar: false };

/** Remembers which users are familiar at which address. */
export class Owners {
  readonly #runtime: Runtime;
  /** Pairs of address and user; at most `MAX_REMEMBERED`. */
  readonly #seen = new Map<string, { readonly firstMs: number; lastMs: number }>();

  /**
   * Begins without users.
   *
   * @param runtime Runtime that has the clock.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Makes an owner, and notes its user as seen now.
   *
   * @param facts Facts about the peer.
   * @returns The owner.
   */
  of(facts: OwnerFacts): Owner {
    const { networks = [], user } = facts;
    if (user === undefined || networks.length === 0) return { ...facts, isFamiliar: false };
    const pair = JSON.stringify([networks[0]!.key, user]);
    const firstMs = this.#firstSeen(pair);
    const runtime = this.#runtime;
    return {
      ...facts,
      get isFamiliar() {
        return runtime.monotonic() - firstMs >= FAMILIAR_AFTER_MS;
      },
    };
  }

  #firstSeen(pair: string): number {
    const now = this.#runtime.monotonic();
    // Pairs are in the order in which they were last seen.
    for (const [oldest, { lastMs }] of this.#seen) {
      if (now - lastMs < FORGET_AFTER_MS) break;
      this.#seen.delete(oldest);
    }
    const firstMs = this.#seen.get(pair)?.firstMs ?? now;
    this.#seen.delete(pair);
    if (this.#seen.size < MAX_REMEMBERED) this.#seen.set(pair, { firstMs, lastMs: now });
    return firstMs;
  }
}

/** Shares of a {@linkcode Quota}; a level without a share has none of its own. */
export interface Shares {
  /** Most of one network address; an IPv6 /64 is one address, and wider networks have more. */
  readonly address?: number;
  /** Most of one user, or of one guest. */
  readonly user?: number;
  /** Most of one session. */
  readonly session?: number;
}

/** Options of a {@linkcode Quota}. */
export interface QuotaOptions {
  /** The option that sets the bound, for errors and counters. */
  readonly limit: string;
  /** The refused action, such as `read`, for errors. */
  readonly verb: string;
  /** The counted things, in the plural, for errors. */
  readonly what: string;
  /** Most of all together. */
  readonly max: number;
  /** Most of one owner, once more than half of `max` is taken. */
  readonly shares: Shares;
  /** Levels whose share always counts, since the application set it. */
  readonly strict?: readonly (keyof Shares)[];
  /**
   * Time after which a refused peer may try again, in milliseconds.
   *
   * @default {5000}
   */
  readonly retryAfterMs?: number;
}

/** Counters of a {@linkcode Quota}. */
export interface QuotaStats {
  /** Number that is taken. */
  readonly taken: number;
  /** Number of refusals, by the level whose bound or share was reached. */
  readonly refused: Readonly<Record<LimitLevel, number>>;
}

/** A counted part of a bound, until disposal. */
export interface Place extends Disposable {
  /** True until the place is given back. */
  readonly isHeld: boolean;
  /** Gives the place back. Idempotent. */
  [Symbol.dispose](): void;
}

/** A level at which an owner is counted. */
interface Count {
  readonly level: keyof Shares;
  readonly key: string;
  readonly share: number;
}

/** The one implementation of {@linkcode Place}. */
class HeldPlace implements Place {
  #giveBack: (() => void) | undefined;

  constructor(giveBack: () => void) {
    this.#giveBack = giveBack;
  }

  get isHeld(): boolean {
    return this.#giveBack !== undefined;
  }

  [Symbol.dispose](): void {
    const giveBack = this.#giveBack;
    this.#giveBack = undefined;
    giveBack?.();
  }
}

/**
 * A bound for all, and a share for each.
 *
 * - **Contention:** shares count once more than half of the bound is taken. Before that nobody is
 *   refused by a share; after that, whoever has more than a share gets no more.
 * - **Address:** guests, and users first seen at an address within the hour, use the share of that
 *   address. Familiar users have ten times that share together, and each the share of a user.
 * - **IPv6:** a /64 is one address. A /56 has 4 shares and a /48 has 16, as one party often has them.
 * - **Memory:** one number for each owner with a place.
 *
 * @example Usage
 * ```ts
 * import { NOBODY, Quota } from "./shares.ts";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const rooms = new Quota({ limit: "maxRooms", verb: "open", what: "rooms", max: 4, shares: { user: 1 } });
 * const ann = { user: "ann", isFamiliar: false };
 * const places = [rooms.take(ann), rooms.take(ann)]; // Half of the bound.
 * assertThrows(() => rooms.take(ann), Error, "Cannot open: your user may have at most 1 rooms");
 * using _bob = rooms.take({ user: "bob", isFamiliar: false });
 * for (const place of places) place[Symbol.dispose]();
 * assertEquals(rooms.stats.taken, 1);
 * ```
 */
export class Quota {
  readonly #options: QuotaOptions;
  /** Taken places by owner; bounded by the places. */
  readonly #counts = new Map<string, number>();
  readonly #refused: Record<LimitLevel, number> = { server: 0, address: 0, user: 0, session: 0 };
  #taken = 0;

  /**
   * Begins without places.
   *
   * @param options See {@linkcode QuotaOptions}.
   */
  constructor(options: QuotaOptions) {
    this.#options = options;
  }

  /** Counters. */
  get stats(): QuotaStats {
    return { taken: this.#taken, refused: { ...this.#refused } };
  }

  /** Number of places that are taken. */
  get taken(): number {
    return this.#taken;
  }

  /** True once shares are enforced. */
  get isContended(): boolean {
    return isContended(this.#taken, this.#options.max);
  }

  /**
   * Takes a place.
   *
   * @param owner The taker of the place; by default nobody, for whom no share counts.
   * @param options `ignoresShares` if the owner has a right to the place, as another node gave it.
   * @returns The place.
   * @throws {LimitError} If the bound or a share is reached, with the level.
   */
  take(owner: Owner = NOBODY, { ignoresShares = false } = {}): Place {
    const { max } = this.#options;
    const counts = this.#countsOf(owner);
    for (const { level, key, share } of ignoresShares ? [] : counts) {
      if (!this.isContended && !this.#options.strict?.includes(level)) continue;
      if ((this.#counts.get(key) ?? 0) >= share) this.#refuse(level, share);
    }
    if (this.#taken >= max) this.#refuse("server", max);
    this.#count(counts, 1);
    return new HeldPlace(() => this.#count(counts, -1));
  }

  #count(counts: readonly Count[], step: 1 | -1): void {
    this.#taken += step;
    for (const { key } of counts) {
      const count = (this.#counts.get(key) ?? 0) + step;
      if (count === 0) this.#counts.delete(key);
      else this.#counts.set(key, count);
    }
  }

  /** The levels at which an owner is counted, the narrowest first. */
  #countsOf({ session, user, guest, networks = [], isFamiliar }: Owner): Count[] {
    const { shares } = this.#options;
    const counts: Count[] = [];
    if (shares.session !== undefined && session !== undefined) {
      counts.push({ level: "session", key: `session ${session}`, share: shares.session });
    }
    const name = user ?? guest;
    if (shares.user !== undefined && name !== undefined) {
      const kind = user === undefined ? "guest" : "user";
      counts.push({ level: "user", key: `${kind} ${name}`, share: shares.user });
    }
    if (shares.address === undefined) return counts;
    for (const { key, factor } of networks) {
      const share = shares.address * factor * (isFamiliar ? FAMILIAR_FACTOR : 1);
      counts.push({ level: "address", key: `${isFamiliar ? "familiar" : "at"} ${key}`, share });
    }
    return counts;
  }

  /** The message may reach the peer, and so names no user and no address. */
  #refuse(level: LimitLevel, most: number): never {
    const { limit, verb, what, retryAfterMs = 5_000, strict } = this.#options;
    this.#refused[level]++;
    const owner = level === "server" ? "this server" : `your ${level}`;
    const isForNow = level !== "server" && !strict?.includes(level);
    const now = isForNow ? " while the server is busy" : "";
    throw new LimitError(limit, `Cannot ${verb}: ${owner} may have at most ${most} ${what}${now}`, {
      retryAfterMs,
      level,
    });
  }
}
