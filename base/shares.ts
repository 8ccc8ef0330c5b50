/**
 * Bounds of a whole server that many use, with a share for each network address, user and session:
 * a bound alone protects the process, and gives its capacity to whoever comes first.
 */
import type { Runtime } from "./runtime.ts";
import { FAMILIAR_FACTOR, NOBODY, type Owner, Owners, type OwnersOptions } from "./owners.ts";
import { LimitError, type LimitLevel } from "../errors.ts";

/** Part of a bound from which shares are enforced: below, nobody takes from anybody. */
const CONTENDED_PART = 0.5;

/** Tells whether shares are enforced: one more would be above half of a bound. */
export function isContended(taken: number, max: number): boolean {
  return taken >= max * CONTENDED_PART;
}

/** Facts about the share of a network. */
export interface NetworkShare {
  /** The share of one address. */
  readonly share: number;
  /** Shares that the network has. */
  readonly factor: number;
  /** The bound. */
  readonly max: number;
  /** True if the application set the share. */
  readonly isStrict: boolean;
}

/**
 * Computes the most that a network may have of a bound: a wide network, or any address of a small
 * bound, would otherwise have all of it.
 *
 * @param facts See {@linkcode NetworkShare}.
 * @returns The shares of the network, at most half of the bound, unless the application set more.
 */
export function mostOfNetwork({ share, factor, max, isStrict }: NetworkShare): number {
  const half = Math.floor(max * CONTENDED_PART);
  return Math.min(share * factor, Math.max(isStrict ? share : 1, half));
}

/** Part of a share from which an owner is reported to other nodes: most owners have less. */
const REPORTED_PART = 1 / 16;

/** Most owners in one report, which travels with each heartbeat of a node. */
const MAX_REPORTED = 256;

/** Longest key in a report, as JSON: with this a report has at most 100 KB. */
const MAX_KEY_CHARS = 300;

/** Largest count in a report, so that sums over all nodes are exact. */
const MAX_REPORTED_COUNT = 1_000_000_000;

/** Most nodes whose reports count. Reports of others are ignored. */
const MAX_NODES = 1_000;

/** Shares of a {@linkcode Quota}; a level without a share has none of its own. */
export interface Shares {
  /** Most of one network address; an IPv6 /64 is one address, and wider networks have more. */
  readonly address?: number | undefined;
  /** Most of one user, or of one guest. */
  readonly user?: number | undefined;
  /** Most of one session. */
  readonly session?: number | undefined;
}

/** The part of {@linkcode QuotaOptions} about shares. */
export type QuotaShares = Pick<QuotaOptions, "shares" | "strict">;

/**
 * Fills in default shares. A share that the application set always counts, a default only in
 * contention.
 *
 * @param set The shares that the application set.
 * @param defaults The other shares.
 * @returns The shares, and the levels that always count.
 */
export function sharesOf(
  set: { readonly [Level in keyof Shares]?: number | undefined },
  defaults: Shares,
): QuotaShares {
  const strict = LEVELS.filter((level) => set[level] !== undefined);
  const given = Object.fromEntries(strict.map((level) => [level, set[level]]));
  return { shares: { ...defaults, ...given } as Shares, strict };
}

const LEVELS = ["session", "user", "address"] as const satisfies readonly (keyof Shares)[];

/** Options of a {@linkcode Quota}. */
export interface QuotaOptions {
  /** The option that sets the bound, for errors. */
  readonly limit: string;
  /** The name for counters; by default `limit`. */
  readonly name?: string | undefined;
  /** The options that set the shares, for errors; by default `limit`. */
  readonly shareLimits?: { readonly [Level in keyof Shares]?: string } | undefined;
  /** The refused action, such as `read`, for errors. */
  readonly verb: string;
  /** The counted things, in the plural, for errors. */
  readonly what: string;
  /** Most of all together. */
  readonly max: number;
  /** Most of one owner, once more than half of `max` is taken. */
  readonly shares: Shares;
  /** Levels whose share always counts, since the application set it. */
  readonly strict?: readonly (keyof Shares)[] | undefined;
  /** Levels that all nodes together count in another, exact way: reports of nodes don't count. */
  readonly exact?: readonly (keyof Shares)[] | undefined;
  /**
   * Time after which a refused peer may try again, in milliseconds.
   *
   * @default {5000}
   */
  readonly retryAfterMs?: number | undefined;
}

/** Counters of a {@linkcode Quota}. */
export interface QuotaStats {
  /** Number that is taken. */
  readonly taken: number;
  /** Most of all together. */
  readonly max: number;
  /** Number of refusals, by the level whose bound or share was reached. */
  readonly refused: Readonly<Record<LimitLevel, number>>;
}

/** Conditions of {@linkcode Quota.take}. */
export interface TakeOptions {
  /** The refused action, in place of that of the quota. */
  readonly verb?: string | undefined;
  /** True if the owner has a right to the place, since another node gave it: no share counts. */
  readonly ignoresShares?: boolean | undefined;
  /**
   * Another place of the same client, which moves: both count once wherever they have the same
   * owner. A place that counts with another one already is ignored, since otherwise a client could
   * have any number of places for one.
   */
  readonly beside?: Place | undefined;
  /**
   * Times the bound and the shares that count for this place.
   *
   * @default {1}
   */
  readonly factor?: number | undefined;
}

/** The places of one owner at one level. */
interface Tally {
  readonly level: keyof Shares;
  readonly key: string;
  readonly share: number;
  taken: number;
}

/** An owner that other nodes should know. */
interface Holder {
  readonly key: string;
  readonly taken: number;
  /** The taken part of the share. */
  readonly part: number;
}

/** The places of owners on one node: the name of the quota, the key of the owner, the number. */
export type QuotaReport = readonly (readonly [name: string, key: string, taken: number])[];

/** Changes the counts of a quota for one place. */
interface Counter {
  change(place: Place, owner: Owner, options: TakeOptions): void;
  release(place: Place): void;
}

/** A counted part of a bound, until disposal. */
export class Place implements Disposable {
  readonly #quota: Counter;
  /** The counted levels; for the quota. */
  counts: readonly Tally[];
  /** The place with which this one counts once; for the quota. */
  partner: Place | undefined = undefined;
  /** True until the place is given back. */
  isHeld = true;

  constructor(quota: Counter, counts: readonly Tally[]) {
    this.#quota = quota;
    this.counts = counts;
  }

  /**
   * Counts the place for another owner, such as the user that a guest turned out to be. The place
   * stays as it was if this throws.
   *
   * @param owner The owner from now on.
   * @param options Conditions; the shares of levels at which the owner stays the same don't count.
   * @throws {LimitError} If a share of the new owner is reached.
   */
  change(owner: Owner, options: TakeOptions = {}): void {
    if (!this.isHeld) throw new TypeError("Cannot change place: it must be held, received another");
    this.#quota.change(this, owner, options);
  }

  /** Gives the place back. Idempotent. */
  [Symbol.dispose](): void {
    if (!this.isHeld) return;
    this.isHeld = false;
    this.#quota.release(this);
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
 * - **Half:** no address and no network has more than half of the bound, unless the application gave
 *   it that share.
 * - **Proxies:** the address of a proxy has no share, unless the application set one.
 * - **Nodes:** a share counts what other nodes report too; the bound and contention are of this node.
 * - **Memory:** one entry for each owner with a place, and for each owner that a node reports.
 *
 * @example Usage
 * ```ts
 * import { NOBODY } from "./owners.ts";
 * import { Quota } from "./shares.ts";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const rooms = new Quota({ limit: "maxRooms", verb: "open", what: "rooms", max: 4, shares: { user: 1 } });
 * const ann = { ...NOBODY, user: "ann" };
 * const places = [rooms.take(ann), rooms.take(ann)]; // Half of the bound.
 * assertThrows(() => rooms.take(ann), Error, "Cannot open: your user may have at most 1 rooms");
 * using _bob = rooms.take({ ...NOBODY, user: "bob" });
 * for (const place of places) place[Symbol.dispose]();
 * assertEquals(rooms.stats.taken, 1);
 * ```
 */
export class Quota {
  readonly #options: QuotaOptions;
  /** Taken places by owner; bounded by the places. */
  readonly #counts = new Map<string, Tally>();
  /** Places on other nodes by owner; bounded by the reports. */
  readonly #elsewhere = new Map<string, number>();
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
    return { taken: this.#taken, max: this.#options.max, refused: { ...this.#refused } };
  }

  /** Number of owners with a place, each counted at each of its levels. */
  get owners(): number {
    return this.#counts.size;
  }

  /** Number of places that are taken. */
  get taken(): number {
    return this.#taken;
  }

  /** True once all places are taken. */
  get isFull(): boolean {
    return this.#taken >= this.#options.max;
  }

  /** True once shares are enforced. */
  get isContended(): boolean {
    return isContended(this.#taken, this.#options.max);
  }

  /**
   * Takes a place.
   *
   * @param owner The taker of the place; by default nobody, for whom no share counts.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @returns The place.
   * @throws {LimitError} If the bound or a share is reached, with the level.
   */
  take(owner: Owner = NOBODY, options: TakeOptions = {}): Place {
    const found = this.#attempt(owner, options);
    if (found instanceof Place) return found;
    throw this.#errorOf(found, options);
  }

  /**
   * Takes a place if there is one, without the cost of an error.
   *
   * @param owner The taker of the place.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @returns The place, or the level whose bound or share is reached.
   */
  tryTake(owner: Owner = NOBODY, options: TakeOptions = {}): Place | LimitLevel {
    const found = this.#attempt(owner, options);
    return found instanceof Place ? found : found.level;
  }

  /**
   * Tells whether a place could be taken, and counts no refusal.
   *
   * @param owner The taker of the place.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @returns The level whose bound or share is reached, shares first; `undefined` if there is room.
   */
  levelFull(owner: Owner = NOBODY, options: TakeOptions = {}): LimitLevel | undefined {
    return (this.#fullShare(this.#countsOf(owner), options) ?? this.#fullBound(options))?.level;
  }

  readonly #counter: Counter = {
    change: (place, owner, options) => {
      const counts = this.#countsOf(owner);
      const partner = place.partner ?? partnerOf(options.beside);
      const full = this.#fullShare(counts, options, place, partner);
      if (full !== undefined) {
        this.#refused[full.level]++;
        throw this.#errorOf(full, options);
      }
      this.#remove(place);
      place.counts = counts;
      this.#add(place, partner);
    },
    release: (place) => this.#remove(place),
  };

  #attempt(owner: Owner, options: TakeOptions): Place | Full {
    const counts = this.#countsOf(owner);
    const partner = partnerOf(options.beside);
    const full = this.#fullShare(counts, options, partner) ??
      (partner === undefined ? this.#fullBound(options) : undefined);
    if (full !== undefined) {
      this.#refused[full.level]++;
      return full;
    }
    const place = new Place(this.#counter, counts);
    this.#add(place, partner);
    return place;
  }

  #fullBound({ factor = 1 }: TakeOptions): Full | undefined {
    const most = this.#options.max * factor;
    return this.#taken >= most ? { level: "server", most } : undefined;
  }

  /** Finds a reached share of a level at which the known places don't count already. */
  #fullShare(
    counts: readonly Tally[],
    { ignoresShares = false, factor = 1 }: TakeOptions,
    ...known: readonly (Place | undefined)[]
  ): Full | undefined {
    const { max, strict = [] } = this.#options;
    const bites = isContended(this.#taken, max * factor);
    if (ignoresShares || !bites && strict.length === 0) return undefined;
    for (const tally of counts) {
      const { level, share } = tally;
      if (!bites && !strict.includes(level)) continue;
      if (known.some((place) => place?.counts.includes(tally))) continue;
      const most = share * factor;
      if (this.#takenBy(tally) >= most) return { level, most };
    }
    return undefined;
  }

  #add(place: Place, partner: Place | undefined): void {
    if (partner === undefined) this.#taken++;
    else [place.partner, partner.partner] = [partner, place];
    for (const tally of place.counts) {
      if (partner?.counts.includes(tally)) continue;
      if (tally.taken++ === 0) this.#counts.set(tally.key, tally);
    }
  }

  /** The partner that remains counts from now on. */
  #remove(place: Place): void {
    const { partner } = place;
    if (partner === undefined) this.#taken--;
    else place.partner = partner.partner = undefined;
    for (const tally of place.counts) {
      if (partner?.counts.includes(tally)) continue;
      if (--tally.taken === 0) this.#counts.delete(tally.key);
    }
  }

  /** The levels at which an owner is counted, the narrowest first. */
  #countsOf(owner: Owner): Tally[] {
    const { session, user, guest, networks, isBehindProxy, isFamiliar } = owner;
    const { shares, strict, max } = this.#options;
    const counts: Tally[] = [];
    if (shares.session !== undefined && session !== undefined) {
      counts.push(this.#tallyOf("session", `session ${session}`, shares.session));
    }
    const name = user ?? guest;
    if (shares.user !== undefined && name !== undefined) {
      const kind = user === undefined ? "guest" : "user";
      counts.push(this.#tallyOf("user", `${kind} ${name}`, shares.user));
    }
    const share = shares.address;
    if (share === undefined) return counts;
    const isStrict = strict?.includes("address") ?? false;
    if (isStrict && share === Infinity) return counts;
    if (isBehindProxy && !isStrict) {
      if (this.isContended) owner.onProxy?.();
      return counts;
    }
    const times = isFamiliar ? FAMILIAR_FACTOR : 1;
    for (const network of networks) {
      const key = `${isFamiliar ? "familiar" : "at"} ${network.key}`;
      const known = this.#counts.get(key);
      if (known !== undefined) {
        counts.push(known);
        continue;
      }
      const most = mostOfNetwork({ share, factor: network.factor * times, max, isStrict });
      counts.push({ level: "address", key, share: most, taken: 0 });
    }
    return counts;
  }

  #tallyOf(level: keyof Shares, key: string, share: number): Tally {
    return this.#counts.get(key) ?? { level, key, share, taken: 0 };
  }

  #errorOf(full: Full, { verb = this.#options.verb }: TakeOptions): LimitError {
    return limitError({ ...this.#options, verb }, full);
  }

  /** Number of places of an owner, those that other nodes report included. */
  #takenBy({ level, key, taken }: Tally): number {
    return this.#isReported(level) ? taken + (this.#elsewhere.get(key) ?? 0) : taken;
  }

  /** A session is on one node only. */
  #isReported(level: keyof Shares): boolean {
    return level !== "session" && !this.#options.exact?.includes(level);
  }

  /** Lists the owners with at least a sixteenth of their share, for other nodes. */
  *holders(): Generator<Holder> {
    for (const { key, level, share, taken } of this.#counts.values()) {
      if (taken < share * REPORTED_PART || !this.#isReported(level)) continue;
      if (JSON.stringify(key).length <= MAX_KEY_CHARS) yield { key, taken, part: taken / share };
    }
  }

  /**
   * Notes places on other nodes.
   *
   * @param key The key of the owner.
   * @param difference Places more, or less if negative.
   */
  hear(key: string, difference: number): void {
    const taken = (this.#elsewhere.get(key) ?? 0) + difference;
    if (taken === 0) this.#elsewhere.delete(key);
    else this.#elsewhere.set(key, taken);
  }
}

/** A reached bound or share. */
export interface Full {
  /** The level. */
  readonly level: LimitLevel;
  /** Most places at this level. */
  readonly most: number;
}

/**
 * Makes the error of a reached bound or share. The message may reach the peer, and so names no user
 * and no address.
 *
 * @param options The texts of the quota, and the levels that always count.
 * @param full The level that was reached.
 * @returns The error.
 */
export function limitError(
  options: Omit<QuotaOptions, "max" | "name" | "shares" | "exact">,
  { level, most }: Full,
): LimitError {
  const { limit, shareLimits, verb, what, retryAfterMs = 5_000, strict } = options;
  const owner = level === "server" ? "this server" : `your ${level}`;
  const isForNow = level !== "server" && !strict?.includes(level);
  const now = isForNow ? " while the server is busy" : "";
  const name = level === "server" ? limit : shareLimits?.[level] ?? limit;
  return new LimitError(name, `Cannot ${verb}: ${owner} may have at most ${most} ${what}${now}`, {
    retryAfterMs,
    level,
  });
}

/**
 * Opens a quota of a part that is also used without a server.
 *
 * @param quotas All quotas of the server, if there is one.
 * @param options See {@linkcode QuotaOptions}.
 * @returns The quota.
 */
export function quotaIn(quotas: Quotas | undefined, options: QuotaOptions): Quota {
  return quotas?.open(options) ?? new Quota(options);
}

/** Returns a place with which another one may count: two can count as one, never three. */
function partnerOf(beside: Place | undefined): Place | undefined {
  const isFree = beside?.isHeld === true && beside.partner === undefined;
  return isFree ? beside : undefined;
}

/** Places on another node, as counted in a quota of this node. */
interface Heard {
  readonly quota: Quota;
  readonly key: string;
  readonly taken: number;
}

/**
 * All quotas of a server: one registry for counters, for the users that are familiar, and for the
 * places that owners have on other nodes.
 *
 * @example An address that has its share on another node
 * ```ts
 * import { Quotas } from "./shares.ts";
 * import { platformRuntime } from "./runtime.ts";
 * import { assertThrows } from "@std/assert";
 *
 * const [one, two] = [new Quotas(platformRuntime()), new Quotas(platformRuntime())];
 * const options = { limit: "maxRooms", verb: "open", what: "rooms", max: 100 };
 * const [here, there] = [one, two].map((quotas) =>
 *   quotas.open({ ...options, shares: { address: 1 }, strict: ["address"] })
 * );
 * here!.take(one.owners.of({ address: "192.0.2.1" }));
 * two.hear("one", one.report());
 * assertThrows(() => there!.take(two.owners.of({ address: "192.0.2.1" })), Error, "your address");
 * ```
 */
export class Quotas {
  /** Makes the owners of places. */
  readonly owners: Owners;
  readonly #all = new Map<string, Quota>(); // Bounded by the names, which are constants.
  /** Bounds that are counted elsewhere. */
  readonly #others = new Map<string, { readonly stats: QuotaStats }>();
  /** Reported places by node; at most `MAX_NODES`, each with at most `MAX_REPORTED` owners. */
  readonly #heard = new Map<string, readonly Heard[]>();

  /**
   * Begins without quotas.
   *
   * @param runtime Runtime that has the clock.
   * @param options See {@linkcode OwnersOptions}.
   */
  constructor(runtime: Runtime, options: OwnersOptions = {}) {
    this.owners = new Owners(runtime, options);
  }

  /** Counters of all quotas, by name. */
  get stats(): Readonly<Record<string, QuotaStats>> {
    const all = [...this.#all, ...this.#others];
    return Object.fromEntries(all.map(([name, { stats }]) => [name, stats]));
  }

  /**
   * Opens a quota, for as long as the server lives.
   *
   * @param options See {@linkcode QuotaOptions}.
   * @returns The quota; that of an earlier call with the same name, such as by a listener that tries
   * another port.
   */
  open(options: QuotaOptions): Quota {
    const { name = options.limit } = options;
    const known = this.#all.get(name);
    if (known !== undefined) return known;
    const quota = new Quota(options);
    this.#all.set(name, quota);
    return quota;
  }

  /**
   * Adds a bound that is counted elsewhere to the counters.
   *
   * @param name The name for counters, which no quota has.
   * @param counted The counters.
   */
  add(name: string, counted: { readonly stats: QuotaStats }): void {
    this.#others.set(name, counted);
  }

  /**
   * Lists the owners with much of a share on this node, for other nodes.
   *
   * @returns At most 256 owners, those with the largest part of their share; `undefined` for none.
   */
  report(): QuotaReport | undefined {
    const holders = Array.from(
      this.#all,
      ([name, quota]) => Array.from(quota.holders(), (holder) => ({ name, ...holder })),
    ).flat();
    if (holders.length === 0) return undefined;
    if (holders.length > MAX_REPORTED) holders.sort((one, other) => other.part - one.part);
    return holders.slice(0, MAX_REPORTED).map(({ name, key, taken }) => [name, key, taken]);
  }

  /**
   * Counts the places that another node reports, in place of its previous report. Owners in quotas
   * that this node doesn't have are ignored.
   *
   * @param node Id of the node.
   * @param report The report of {@linkcode Quotas.report} there; anything else counts as no report.
   */
  hear(node: string, report: unknown): void {
    this.forget(node);
    if (!isReport(report) || this.#heard.size >= MAX_NODES) return;
    const heard = report.flatMap(([name, key, taken]) => {
      const quota = this.#all.get(name);
      return quota === undefined ? [] : [{ quota, key, taken }];
    });
    for (const { quota, key, taken } of heard) quota.hear(key, taken);
    this.#heard.set(node, heard);
  }

  /**
   * Stops counting the places of another node, which is gone.
   *
   * @param node Id of the node.
   */
  forget(node: string): void {
    for (const { quota, key, taken } of this.#heard.get(node) ?? []) quota.hear(key, -taken);
    this.#heard.delete(node);
  }
}

function isReport(value: unknown): value is QuotaReport {
  return Array.isArray(value) && value.length <= MAX_REPORTED && value.every(isReported);
}

function isReported(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [name, key, taken] = value as readonly unknown[];
  return typeof name === "string" && typeof key === "string" && key.length <= MAX_KEY_CHARS &&
    Number.isSafeInteger(taken) && taken as number > 0 && taken as number <= MAX_REPORTED_COUNT;
}
