/** Rates of the work that clients start, per user or guest and per network address. */
import { type Account, FAMILIAR_FACTOR } from "../base/quotas/accounts.ts";
import { type Bucket, multiplyRate, type Rate, TokenBucket } from "../base/quotas/token_bucket.ts";
import type { Runtime } from "../base/runtime.ts";
import { RequestError } from "../errors.ts";
import { type BrokerCounts, SharedBucket } from "./shared_counts.ts";

/** Default rates of costs. A resumable response costs 1. */
export const COSTS = {
  user: { perSecond: 1, burst: 10 },
  address: { perSecond: 5, burst: 64 },
} as const satisfies Readonly<Record<string, Required<Rate>>>;

/**
 * Number of address rates that all clients at private or unknown addresses may use together. They
 * may be everybody who comes through a proxy, or a single client that does.
 */
export const UNTOLD_FACTOR = 10;

/**
 * Maximum number of remembered buckets. Only a started request creates a bucket, which is forgotten
 * once it is full, by default after 13 seconds. The one that has been idle longest is forgotten
 * first.
 */
export const MAX_COST_BUCKETS = 20_000;

/** A bucket that an account uses, before it exists. */
interface Place {
  readonly level: "user" | "address";
  readonly key: string;
  readonly rate: Required<Rate>;
  /** True for all clients at private or unknown addresses. */
  readonly isUntold?: true;
}

/** The rates and the work that is rejected. */
export interface CostsOptions {
  readonly user: Required<Rate> | undefined;
  readonly address: Required<Rate> | undefined;
  /** True if the application set the rate of an address, which then applies to a proxy, too. */
  readonly isStrict: boolean;
  /** Counters of all nodes, if the broker has some. */
  readonly shared: BrokerCounts | undefined;
}

/**
 * Rates of the cost of work, such as the start of a response that calls a model. Slots bound how
 * much runs at the same time; these rates bound how often a client starts it.
 *
 * - **User:** each user and each guest has a rate. Since anyone can become another guest, their
 *   address has one, too.
 * - **Address:** guests, and users first seen at the address within the last hour, share one rate.
 *   Other users of the address together have ten times that rate. An IPv6 /56 has 4 times the rate
 *   of an address, and a /48 has 16 times.
 * - **Private and unknown addresses** are one network with ten times the rate of an address, unless
 *   the application set a rate.
 * - **Nodes:** the rates apply to all nodes together if the broker has counters.
 */
export class Costs {
  readonly #runtime: Runtime;
  readonly #options: CostsOptions;
  /** Buckets in the order of their last use; at most `MAX_COST_BUCKETS`. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(runtime: Runtime, options: CostsOptions) {
    this.#runtime = runtime;
    this.#options = options;
  }

  /** Number of remembered buckets. */
  get size(): number {
    return this.#buckets.size;
  }

  /**
   * Takes the cost of work from all rates of an account, or from none.
   *
   * @param account The client.
   * @param cost The cost; nothing is counted if it is 0.
   * @param verb The rejected action, such as `start a response`.
   * @throws {RequestError} With the code `too-many` if a rate has too little left. The error has the
   * level, and the time after which all rates have enough.
   */
  take(account: Account, cost: number, verb: string): void {
    if (cost === 0) return;
    const now = this.#runtime.now();
    const places = this.#placesOf(account);
    let worst: (Place & { readonly waitMs: number }) | undefined;
    for (const place of places) {
      const waitMs = this.#buckets.get(place.key)?.waitMs(cost, now) ?? 0;
      if (waitMs > (worst?.waitMs ?? 0)) worst = { ...place, waitMs };
    }
    if (worst !== undefined) {
      // A rate that the application set applies to a proxy, too, and so to all of its clients.
      if (worst.level === "address") account.onProxy?.();
      throw rejection(worst, verb);
    }
    for (const place of places) this.#find(place, now).take(cost, now);
    this.#forget(now);
  }

  #placesOf({ user, guest, networks, isBehindProxy, isFamiliar }: Account): Place[] {
    const { user: own, address, isStrict } = this.#options;
    const places: Place[] = [];
    const name = user ?? guest;
    if (own !== undefined && name !== undefined) {
      const kind = user === undefined ? "guest" : "user";
      places.push({ level: "user", key: `${kind} ${name}`, rate: own });
    }
    if (address === undefined) return places;
    if (networks.length === 0 || isBehindProxy && !isStrict) {
      const rate = multiplyRate(address, UNTOLD_FACTOR);
      places.push({ level: "address", key: "untold", rate, isUntold: true });
      return places;
    }
    const kind = isFamiliar ? "familiar" : "at";
    const times = isFamiliar ? FAMILIAR_FACTOR : 1;
    for (const { key, factor } of networks) {
      places.push({
        level: "address",
        key: `${kind} ${key}`,
        rate: multiplyRate(address, factor * times),
      });
    }
    return places;
  }

  /** Finds or creates a bucket, as the newest one. */
  #find({ key, rate, isUntold }: Place, now: number): Bucket {
    const known = this.#buckets.get(key);
    // Each node has its own private network.
    const shared = isUntold ? undefined : this.#options.shared;
    const bucket = known ??
      (shared ? new SharedBucket(shared, `cost:${key}`, rate, now) : new TokenBucket(rate, now));
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    return bucket;
  }

  #forget(now: number): void {
    for (const [oldest, bucket] of this.#buckets) {
      if (this.#buckets.size <= MAX_COST_BUCKETS && !bucket.isFull(now)) return;
      this.#buckets.delete(oldest);
    }
  }
}

/** The message reaches the peer, so it contains neither the user nor the address. */
function rejection(
  { level, rate: { perSecond }, isUntold, waitMs }: Place & { readonly waitMs: number },
  verb: string,
): RequestError {
  const who = isUntold ? "all clients at private or unknown addresses" : `your ${level}`;
  return new RequestError(
    "too-many",
    `Cannot ${verb}: ${who} may start work that costs at most ${perSecond} a second`,
    { retryAfterMs: waitMs, level },
  );
}
