/**
 * Server-wide limits, with a share for each network address, user and session. A limit alone would
 * protect the process, but would give its whole capacity to the first clients that ask.
 */
import type { Runtime } from "../runtime.ts";
import {
  type Account,
  Accounts,
  type AccountsOptions,
  FAMILIAR_FACTOR,
  NOBODY,
} from "./accounts.ts";
import {
  type AccountUsage,
  readReport,
  ReportedUsages,
  type UsageReport,
  UsageReporter,
} from "./reports.ts";
import { LimitError, type LimitLevel, RequestError } from "../../errors.ts";

/**
 * The fraction of a limit above which shares are enforced. Below it, there is enough for everyone.
 */
const CONTENDED_PART = 0.5;

/** Returns true if shares are enforced, because one more slot would exceed half of the limit. */
export function isContended(taken: number, max: number): boolean {
  return taken >= max * CONTENDED_PART;
}

/** Parameters of a network's share. */
export interface NetworkShare {
  /** The share of one address. */
  readonly share: number;
  /** Number of shares of the network. */
  readonly factor: number;
  /** The limit. */
  readonly max: number;
  /** True if the application set the share. */
  readonly isStrict: boolean;
}

/**
 * Computes how much of a limit a network may use. Without this maximum, a wide network could use
 * the whole limit, and so could a single address if the limit is small.
 *
 * @param facts See {@linkcode NetworkShare}.
 * @returns The maximum for the network: at most half of the limit, unless the application set more.
 */
export function mostOfNetwork({ share, factor, max, isStrict }: NetworkShare): number {
  const half = Math.floor(max * CONTENDED_PART);
  return Math.min(share * factor, Math.max(isStrict ? share : 1, half));
}

/**
 * The fraction of a share above which an account is reported to other nodes. Most accounts use
 * less.
 */
const REPORTED_PART = 1 / 16;

/** Maximum number of nodes whose reports count. Reports from further nodes are ignored. */
const MAX_NODES = 1_000;

/** Key of the network that all peers at private or unknown addresses form together. */
const UNTOLD = "at private or unknown addresses";

/** The shares of a {@linkcode Quota}. A level without a share is only subject to the limit. */
export interface Shares {
  /**
   * Maximum for one network address. An IPv6 /64 counts as one address, and wider networks get
   * more.
   */
  readonly address?: number | undefined;
  /** Maximum for one user or guest. */
  readonly user?: number | undefined;
  /** Maximum for one session. */
  readonly session?: number | undefined;
}

/** The part of {@linkcode QuotaOptions} about shares. */
export type QuotaShares = Pick<QuotaOptions, "shares" | "strict">;

/**
 * Fills in default shares. A share set by the application always applies; a default share applies
 * only under contention.
 *
 * @param set The shares set by the application.
 * @param defaults The other shares.
 * @returns The shares, and the levels whose share always applies.
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
  /** The option that sets the limit, for errors. */
  readonly limit: string;
  /** The name for counters; by default `limit`. */
  readonly name?: string | undefined;
  /** The options that set the shares, for errors; by default `limit`. */
  readonly shareLimits?: { readonly [Level in keyof Shares]?: string } | undefined;
  /** The rejected action, such as `read`, for errors. */
  readonly verb: string;
  /** The counted resources, in the plural, for errors. */
  readonly what: string;
  /** Maximum for all accounts together. */
  readonly max: number;
  /** Maximum for one account, once more than half of `max` is in use. */
  readonly shares: Shares;
  /** Levels whose share always applies, because the application set it. */
  readonly strict?: readonly (keyof Shares)[] | undefined;
  /**
   * True if the default shares always apply, too, because a slot costs money or much memory. All
   * peers at private or unknown addresses then count as one network, which may use half of the
   * limit.
   */
  readonly isCostly?: boolean | undefined;
  /** Levels that all nodes count exactly by other means, so that reports of nodes don't count. */
  readonly exact?: readonly (keyof Shares)[] | undefined;
  /** Advice at the end of errors, by the level whose limit or share is reached. */
  readonly remedies?: { readonly [Level in LimitLevel]?: string } | undefined;
  /**
   * Time after which a rejected peer may retry, in milliseconds.
   *
   * @default {5000}
   */
  readonly retryAfterMs?: number | undefined;
  /**
   * True if the slots of a user are in use until that user's own work ends, so that errors about
   * the share of a user have no `retryAfterMs`.
   */
  readonly isOwnToFree?: boolean | undefined;
}

/** Counters of a {@linkcode Quota}. */
export interface QuotaStats {
  /** Number in use. */
  readonly taken: number;
  /** Maximum for all accounts together. */
  readonly max: number;
  /** Number of rejections, by the level whose limit or share was reached. */
  readonly rejected: Readonly<Record<LimitLevel, number>>;
}

/** Conditions of {@linkcode Quota.take}. */
export interface TakeOptions {
  /** The rejected action, instead of the quota's. */
  readonly verb?: string | undefined;
  /** True if another node has already granted the slot, so that no share applies. */
  readonly ignoresShares?: boolean | undefined;
  /**
   * Another slot of the same client during a handover. The two slots count as one at each level
   * where they have the same account. If the other slot already counts as one with a third slot,
   * this option is ignored. Otherwise, a client could have any number of slots that count as one.
   */
  readonly beside?: Slot | undefined;
  /**
   * Multiplies the limit and the shares for this slot.
   *
   * @default {1}
   */
  readonly factor?: number | undefined;
  /**
   * How much of the limit and the shares the slot uses.
   *
   * @default {1}
   */
  readonly units?: number | undefined;
}

/** The slots of one account at one level. */
interface Tally {
  readonly level: keyof Shares;
  readonly key: string;
  readonly share: number;
  taken: number;
}

/** Changes the counts of a quota for one slot. */
interface Counter {
  change(slot: Slot, account: Account, options: TakeOptions): void;
  release(slot: Slot): void;
}

/** One slot of a limit, counted until it is disposed. */
export class Slot implements Disposable {
  readonly #quota: Counter;
  /** How much of the quota the slot uses. */
  readonly units: number;
  /** The counted levels, used by the quota. */
  counts: readonly Tally[];
  /** The slot with which this one counts once, used by the quota. */
  partner: Slot | undefined = undefined;
  /** True until the slot is released. */
  isHeld = true;

  constructor(quota: Counter, counts: readonly Tally[], units: number) {
    this.#quota = quota;
    this.counts = counts;
    this.units = units;
  }

  /**
   * Counts the slot for another account, for example after a guest has logged in as a user. If this
   * method throws, the slot is unchanged.
   *
   * @param account The new account.
   * @param options Conditions. Shares are not checked at levels where the account stays the same.
   * @throws {LimitError} If a share of the new account is reached.
   */
  change(account: Account, options: TakeOptions = {}): void {
    if (!this.isHeld) {
      throw new TypeError("Cannot change slot: it was released");
    }
    this.#quota.change(this, account, options);
  }

  /** Releases the slot. Idempotent. */
  [Symbol.dispose](): void {
    if (!this.isHeld) return;
    this.isHeld = false;
    this.#quota.release(this);
  }
}

/**
 * A limit for all accounts, with a share for each.
 *
 * - **Contention:** shares apply once more than half of the limit is in use. Until then, no one is
 *   rejected because of a share. After that, an account at or above its share gets no more slots.
 * - **Address:** guests and users first seen at an address within the last hour draw on the same
 *   per-address share. Familiar users together get ten times that share, and each is also limited
 *   to the per-user share.
 * - **IPv6:** a /64 counts as one address. A /56 gets 4 shares and a /48 gets 16, because one
 *   customer often controls the whole network.
 * - **Divided:** if the quota is costly, each familiar user gets an equal part of their address's
 *   share once half of it is used.
 * - **Half:** no address or network may use more than half of the limit, unless the application set
 *   a larger share.
 * - **Proxies:** no share applies to the address of a proxy, unless the application set one, or
 *   the quota is costly: all proxies and unknown addresses together then get half of the limit. All
 *   clients behind a UDP proxy together get half of each limit.
 * - **Nodes:** shares also count the usage that other nodes report. The limit and contention are
 *   local to this node.
 * - **Memory:** there is one entry for each account with a slot, and one for each account that
 *   another node reports.
 *
 * @example Usage
 * ```ts
 * import { NOBODY } from "./accounts.ts";
 * import { Quota } from "./shares.ts";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const rooms = new Quota({ limit: "maxRooms", verb: "open", what: "rooms", max: 4, shares: { user: 1 } });
 * const ann = { ...NOBODY, user: "ann" };
 * const slots = [rooms.take(ann), rooms.take(ann)]; // Half of the limit.
 * assertThrows(() => rooms.take(ann), Error, "Cannot open: your user may have at most 1 rooms");
 * using _bob = rooms.take({ ...NOBODY, user: "bob" });
 * for (const slot of slots) slot[Symbol.dispose]();
 * assertEquals(rooms.stats.taken, 1);
 * ```
 */
export class Quota {
  readonly #options: QuotaOptions;
  /** Used slots by account; bounded by the number of slots. */
  readonly #counts = new Map<string, Tally>();
  /** Slots on other nodes by account; bounded by the reports. */
  readonly #elsewhere = new Map<string, number>();
  readonly #rejected: Record<LimitLevel, number> = { server: 0, address: 0, user: 0, session: 0 };
  #taken = 0;

  /**
   * Creates a quota with all slots free.
   *
   * @param options See {@linkcode QuotaOptions}.
   */
  constructor(options: QuotaOptions) {
    this.#options = options;
  }

  get stats(): QuotaStats {
    return { taken: this.#taken, max: this.#options.max, rejected: { ...this.#rejected } };
  }

  /** Number of accounts that have a slot. An account counts once for each of its levels. */
  get accounts(): number {
    return this.#counts.size;
  }

  /** Number of used slots. */
  get taken(): number {
    return this.#taken;
  }

  /** True once all slots are in use. */
  get isFull(): boolean {
    return this.#taken >= this.#options.max;
  }

  /** True once shares are enforced. */
  get isContended(): boolean {
    return isContended(this.#taken, this.#options.max);
  }

  /**
   * Takes a slot.
   *
   * @param account The account of the slot; by default, there is none, and no share applies.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @throws {LimitError} If the limit or a share is reached; the error includes the level.
   */
  take(account: Account = NOBODY, options: TakeOptions = {}): Slot {
    const found = this.#attempt(account, options);
    if (found instanceof Slot) return found;
    throw this.#errorOf(found, options);
  }

  /**
   * Takes a slot if one is free. Unlike `take`, it saves the cost of creating an error.
   *
   * @param account The account of the slot.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @returns The slot, or the level whose limit or share is reached.
   */
  tryTake(account: Account = NOBODY, options: TakeOptions = {}): Slot | LimitLevel {
    const found = this.#attempt(account, options);
    return found instanceof Slot ? found : found.level;
  }

  /**
   * Checks whether a slot is free. A negative result does not count as a rejection.
   *
   * @param account The account of the slot.
   * @param options Conditions; see {@linkcode TakeOptions}.
   * @returns The level whose share is reached, or `server` if the limit is reached; `undefined` if
   * a slot is free.
   */
  levelFull(account: Account = NOBODY, options: TakeOptions = {}): LimitLevel | undefined {
    return (this.#fullShare(this.#countsOf(account), options) ?? this.#fullBound(options))?.level;
  }

  readonly #counter: Counter = {
    change: (slot, account, options) => {
      const counts = this.#countsOf(account);
      const partner = slot.partner ?? partnerOf(options.beside);
      const full = this.#fullShare(counts, options, slot, partner);
      if (full !== undefined) {
        this.#rejected[full.level]++;
        throw this.#errorOf(full, options);
      }
      this.#remove(slot);
      slot.counts = counts;
      this.#add(slot, partner);
    },
    release: (slot) => this.#remove(slot),
  };

  #attempt(account: Account, options: TakeOptions): Slot | Full {
    const counts = this.#countsOf(account);
    const partner = partnerOf(options.beside);
    const full = this.#fullShare(counts, options, partner) ??
      (partner === undefined
        ? this.#fullPart(account, counts) ?? this.#fullBound(options)
        : undefined);
    if (full !== undefined) {
      this.#rejected[full.level]++;
      return full;
    }
    const slot = new Slot(this.#counter, counts, options.units ?? 1);
    this.#add(slot, partner);
    return slot;
  }

  #fullBound({ factor = 1, units = 1 }: TakeOptions): Full | undefined {
    const most = this.#options.max * factor;
    return this.#taken + units - 1 >= most ? { level: "server", most } : undefined;
  }

  /**
   * Finds a level whose share is exhausted. Skips levels at which the given slots already count.
   */
  #fullShare(
    counts: readonly Tally[],
    { ignoresShares = false, factor = 1, units = 1 }: TakeOptions,
    ...known: readonly (Slot | undefined)[]
  ): Full | undefined {
    const { max, strict = [], isCostly = false } = this.#options;
    const bites = isCostly || isContended(this.#taken, max * factor);
    if (ignoresShares || !bites && strict.length === 0) return undefined;
    for (const tally of counts) {
      const { level, share } = tally;
      if (!bites && !strict.includes(level)) continue;
      if (known.some((slot) => slot?.counts.includes(tally))) continue;
      const most = share * factor;
      if (this.#takenBy(tally) + units - 1 >= most) {
        return { level, most, isUntold: tally.key === UNTOLD };
      }
    }
    return undefined;
  }

  /**
   * Divides the share of the familiar users of an address between them, once more than half of it
   * is used. Otherwise, some of them could use all of it.
   */
  #fullPart(
    { isFamiliar, familiarUsers = 1 }: Account,
    counts: readonly Tally[],
  ): Full | undefined {
    if (!this.#options.isCostly || !isFamiliar) return undefined;
    const own = counts.find(({ level }) => level === "user");
    const pool = counts.find(({ level }) => level === "address");
    if (own === undefined || pool === undefined) return undefined;
    if (!isContended(this.#takenBy(pool), pool.share)) return undefined;
    const most = Math.max(1, Math.floor(pool.share / Math.max(1, familiarUsers)));
    return this.#takenBy(own) >= most ? { level: "user", most, isDivided: true } : undefined;
  }

  #add(slot: Slot, partner: Slot | undefined): void {
    if (partner === undefined) this.#taken += slot.units;
    else [slot.partner, partner.partner] = [partner, slot];
    for (const tally of slot.counts) {
      if (partner?.counts.includes(tally)) continue;
      if (tally.taken === 0) this.#counts.set(tally.key, tally);
      tally.taken += slot.units;
    }
  }

  /** The remaining partner counts from now on. */
  #remove(slot: Slot): void {
    const { partner } = slot;
    if (partner === undefined) this.#taken -= slot.units;
    else slot.partner = partner.partner = undefined;
    for (const tally of slot.counts) {
      if (partner?.counts.includes(tally)) continue;
      tally.taken -= slot.units;
      if (tally.taken === 0) this.#counts.delete(tally.key);
    }
  }

  /** The levels at which an account is counted, the narrowest first. */
  #countsOf(account: Account): Tally[] {
    const { session, user, guest, networks, isBehindProxy, isFamiliar } = account;
    const { shares, strict, max, isCostly = false } = this.#options;
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
    if (account.isBehindUdpProxy) return [...counts, this.#untoldTally()];
    if (isBehindProxy && !isStrict) {
      if (this.isContended) account.onProxy?.();
      if (isCostly) counts.push(this.#untoldTally());
      return counts;
    }
    if (isCostly && networks.length === 0 && account !== NOBODY) {
      if (this.isContended) account.onProxy?.();
      counts.push(this.#untoldTally());
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

  #untoldTally(): Tally {
    const half = Math.max(1, Math.floor(this.#options.max * CONTENDED_PART));
    return this.#tallyOf("address", UNTOLD, half);
  }

  #tallyOf(level: keyof Shares, key: string, share: number): Tally {
    return this.#counts.get(key) ?? { level, key, share, taken: 0 };
  }

  #errorOf(full: Full, { verb = this.#options.verb }: TakeOptions): LimitError {
    return limitError({ ...this.#options, verb }, full);
  }

  /** Number of slots of an account, including those that other nodes report. */
  #takenBy(tally: Tally): number {
    const { key, taken } = tally;
    return this.#isReported(tally) ? taken + (this.#elsewhere.get(key) ?? 0) : taken;
  }

  /**
   * False for a session, which exists on one node only, and for half of a limit, which each node
   * has for itself.
   */
  #isReported({ level, key }: Pick<Tally, "key" | "level">): boolean {
    return level !== "session" && key !== UNTOLD && !this.#options.exact?.includes(level);
  }

  /** Lists the accounts with at least a sixteenth of their share, for other nodes. */
  *holders(): Generator<Omit<AccountUsage, "name">> {
    for (const tally of this.#counts.values()) {
      const { key, share, taken } = tally;
      if (taken < share * REPORTED_PART || !this.#isReported(tally)) continue;
      yield { key, taken, part: taken / share };
    }
  }

  /**
   * Records slots on other nodes.
   *
   * @param key The key of the account.
   * @param difference Number of slots to add, or to remove if negative.
   */
  addRemote(key: string, difference: number): void {
    const taken = (this.#elsewhere.get(key) ?? 0) + difference;
    if (taken === 0) this.#elsewhere.delete(key);
    else this.#elsewhere.set(key, taken);
  }
}

/** A reached limit or share. */
export interface Full {
  readonly level: LimitLevel;
  /** Maximum number of slots at this level. */
  readonly most: number;
  /** True for the share of all peers at private or unknown addresses. */
  readonly isUntold?: boolean | undefined;
  /** True for a user's part of the share of an address. */
  readonly isDivided?: boolean | undefined;
}

/**
 * Creates the error for a limit or share that has been reached. The message contains no user or
 * address, because it may be sent to the peer.
 *
 * @param options The texts of the quota, and the levels whose share always applies.
 * @param full The level whose limit or share was reached.
 */
export function limitError(
  options: Omit<QuotaOptions, "max" | "name" | "shares" | "exact">,
  { level, most, isUntold = false, isDivided = false }: Full,
): LimitError {
  const { limit, shareLimits, verb, what, strict, isCostly, remedies } = options;
  const { retryAfterMs = 5_000, isOwnToFree } = options;
  const account = isUntold
    ? "all clients at private or unknown addresses"
    : level === "server"
    ? "this server"
    : `your ${level}`;
  const isForNow = level !== "server" && !isCostly && !strict?.includes(level);
  const now = isDivided
    ? " while others at your address have many"
    : isForNow
    ? " while the server is busy"
    : "";
  const name = level === "server" ? limit : shareLimits?.[level] ?? limit;
  // The part of a divided share, and half of the limit, depend on others, too.
  const remedy = isDivided || isUntold ? undefined : remedies?.[level];
  const message = `Cannot ${verb}: ${account} may have at most ${most} ${what}${now}`;
  return new LimitError(name, remedy === undefined ? message : `${message}; ${remedy}`, {
    retryAfterMs: isOwnToFree && level === "user" && !isDivided ? undefined : retryAfterMs,
    level,
  });
}

/**
 * Converts the error for a reached limit or share to a rejection that the peer receives.
 *
 * @param error The error, whose level and time the peer receives too.
 */
export function rejectionOf(error: LimitError, code: string = "too-many"): RequestError {
  const { message, retryAfterMs, level } = error;
  return new RequestError(code, message, { retryAfterMs, level, cause: error });
}

/**
 * Opens a quota for a component that can also be used without a server.
 *
 * @param quotas All quotas of the server, if there is one.
 * @param options See {@linkcode QuotaOptions}.
 */
export function quotaIn(quotas: Quotas | undefined, options: QuotaOptions): Quota {
  return quotas?.open(options) ?? new Quota(options);
}

/**
 * Returns the given slot if another slot may count together with it. Two slots can count as one,
 * but never three.
 */
function partnerOf(beside: Slot | undefined): Slot | undefined {
  const isFree = beside?.isHeld === true && beside.partner === undefined;
  return isFree ? beside : undefined;
}

/**
 * All quotas of a server. This registry also keeps the counters, the familiar users, and the slots
 * that accounts use on other nodes.
 *
 * @example An address that uses its share on another node
 * ```ts
 * import { Quotas } from "./shares.ts";
 * import { platformRuntime } from "../runtime.ts";
 * import { assertThrows } from "@std/assert";
 *
 * const [one, two] = [new Quotas(platformRuntime()), new Quotas(platformRuntime())];
 * const options = { limit: "maxRooms", verb: "open", what: "rooms", max: 100 };
 * const [here, there] = [one, two].map((quotas) =>
 *   quotas.open({ ...options, shares: { address: 1 }, strict: ["address"] })
 * );
 * here!.take(one.accounts.of({ address: "192.0.2.1" }));
 * two.receiveReport("one", one.report({ maxBytes: 1_000 }));
 * assertThrows(() => there!.take(two.accounts.of({ address: "192.0.2.1" })), Error, "your address");
 * ```
 */
export class Quotas {
  /** Creates the accounts of slots. */
  readonly accounts: Accounts;
  readonly #all = new Map<string, Quota>(); // Bounded by the names, which are constants.
  readonly #others = new Map<string, { readonly stats: QuotaStats }>();
  /** Reported slots by node; at most `MAX_NODES`. */
  readonly #reports = new Map<string, ReportedUsages>();
  readonly #reporter = new UsageReporter();
  readonly #runtime: Runtime;

  /**
   * Creates a registry without quotas.
   *
   * @param runtime The runtime with the clock.
   * @param options See {@linkcode AccountsOptions}.
   */
  constructor(runtime: Runtime, options: AccountsOptions = {}) {
    this.accounts = new Accounts(runtime, options);
    this.#runtime = runtime;
  }

  /** Counters of all quotas, by name. */
  get stats(): Readonly<Record<string, QuotaStats>> {
    const all = [...this.#all, ...this.#others];
    return Object.fromEntries(all.map(([name, { stats }]) => [name, stats]));
  }

  /**
   * Opens a quota for the lifetime of the server.
   *
   * @param options See {@linkcode QuotaOptions}.
   * @returns The quota. If there already is one with the same name, for example because a listener
   * tries another port, returns that one.
   */
  open(options: QuotaOptions): Quota {
    const { name = options.limit } = options;
    const known = this.#all.get(name);
    if (known !== undefined) return known;
    const quota = new Quota(options);
    this.#all.set(name, quota);
    for (const reported of this.#reports.values()) reported.opened(name, quota);
    return quota;
  }

  /**
   * Adds the counters of a limit that another component enforces.
   *
   * @param name The name for the counters, which no quota may have.
   * @param counted The counters.
   */
  add(name: string, counted: { readonly stats: QuotaStats }): void {
    this.#others.set(name, counted);
  }

  /**
   * Tells other nodes which accounts use much of their share on this node.
   *
   * @param options The budget of the report; `isClosing` reports no accounts, because the clients
   * move to other nodes, which then count them.
   * @returns The changes since the last report; `undefined` if nothing was ever reported.
   */
  report(
    { maxBytes, isClosing = false }: { readonly maxBytes: number; readonly isClosing?: boolean },
  ): UsageReport | undefined {
    if (isClosing) return this.#reporter.clear();
    const usages = Array.from(
      this.#all,
      ([name, quota]) => Array.from(quota.holders(), (holder) => ({ name, ...holder })),
    );
    return this.#reporter.next(usages.flat(), maxBytes);
  }

  /** Reports all accounts again, because another node missed a report. */
  repeatReport(): void {
    this.#reporter.repeat();
  }

  /**
   * Counts the slots that another node reports.
   *
   * @param node Id of the node.
   * @param report The result of {@linkcode Quotas.report} on that node; anything else counts as no
   * report.
   * @returns True if reports of the node are missing, and {@linkcode Quotas.repeatReport} should be
   * called there.
   */
  receiveReport(node: string, report: unknown): boolean {
    const received = readReport(report);
    if (received === undefined) {
      this.forget(node);
      return false;
    }
    let reported = this.#reports.get(node);
    if (reported === undefined) {
      if (this.#reports.size >= MAX_NODES) return false;
      reported = new ReportedUsages((name) => this.#all.get(name));
      this.#reports.set(node, reported);
    }
    reported.take(received);
    return reported.isMissing(received, this.#reports.size, this.#runtime.random());
  }

  /**
   * Stops counting the slots of a node that is gone.
   *
   * @param node Id of the node.
   */
  forget(node: string): void {
    this.#reports.get(node)?.clear();
    this.#reports.delete(node);
  }
}
