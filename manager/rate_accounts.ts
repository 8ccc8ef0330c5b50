/** Rate limit accounts of sessions, users, network addresses, and callers over HTTP. */
import { type BrokerCounts, SharedBucket } from "./shared_counts.ts";
import { type Bucket, multiplyRate, type Rate, TokenBucket } from "../base/quotas/token_bucket.ts";

export type RateUnit = "messages" | "bytes" | "publications" | "subscriptions" | "connections";

export type RateScope = "session" | "user" | "address";

/** The rates of one scope, checked and complete. */
export type Rates = { readonly [Unit in RateUnit]?: Required<Rate> | undefined };

/** Units of a publication other than bytes. */
export const PUBLICATION: readonly RateUnit[] = ["publications", "messages"];

/** Tokens that one or several envelopes, or a request over HTTP, take from accounts. */
export interface Amount {
  /** Units other than bytes. */
  readonly units: readonly RateUnit[];
  readonly count: number;
  /** Total size in bytes. */
  readonly size: number;
}

/** The account that has too few tokens, and when it has enough. */
export interface Shortage {
  readonly account: RateAccount;
  readonly unit: RateUnit;
  readonly waitMs: number;
}

/**
 * Maximum number of users, addresses and callers over HTTP without sessions that are remembered, of
 * each. The oldest is forgotten first.
 */
export const MAX_IDLE_RATE_ACCOUNTS = 10_000;

/** The token buckets of one session, user or address, or of a caller over HTTP. */
export class RateAccount {
  readonly scope: RateScope;
  /** Messages, and all other calls of a peer. */
  readonly messages: Bucket | undefined;
  /** Bytes of the same messages and calls. */
  readonly bytes: Bucket | undefined;
  /** Publications, which are messages too. */
  readonly publications: Bucket | undefined;
  /** Subscriptions, including unsubscribing. */
  readonly subscriptions: Bucket | undefined;
  /** Attempts to connect. */
  readonly connections: Bucket | undefined;
  /** Number of sessions that count here. */
  holders = 0;

  /** Creates an account with full buckets. */
  constructor(scope: RateScope, bucketOf: (unit: RateUnit) => Bucket | undefined) {
    this.scope = scope;
    this.messages = bucketOf("messages");
    this.bytes = bucketOf("bytes");
    this.publications = bucketOf("publications");
    this.subscriptions = bucketOf("subscriptions");
    this.connections = bucketOf("connections");
  }

  /** Creates the account of one session. */
  static ofSession(rates: Rates, now: number): RateAccount {
    return new RateAccount("session", (unit) => rates[unit] && new TokenBucket(rates[unit], now));
  }

  /** True if all buckets are full, as in a new account. */
  isFull(now: number): boolean {
    return isFull(this.messages, now) && isFull(this.bytes, now) &&
      isFull(this.publications, now) && isFull(this.subscriptions, now) &&
      isFull(this.connections, now);
  }
}

/**
 * The accounts of all users, of all addresses, or of all callers over HTTP, who have the rates of a
 * session. An account with sessions is always kept. An account without sessions is kept until its
 * buckets are full, because full buckets hold no information; at most
 * {@linkcode MAX_IDLE_RATE_ACCOUNTS} such accounts are kept.
 */
export class RateAccounts {
  readonly #scope: RateScope;
  readonly #rates: Rates;
  readonly #brokerOf: (unit: RateUnit) => BrokerCounts | undefined;
  /** All accounts; bounded by the number of sessions and `MAX_IDLE_RATE_ACCOUNTS`. */
  readonly #all = new Map<string, RateAccount>();
  /**
   * Accounts without sessions, in the order in which they became idle; bounded by
   * `MAX_IDLE_RATE_ACCOUNTS`.
   */
  readonly #idle = new Map<string, RateAccount>();

  /**
   * Starts without accounts. `brokerOf` returns the broker of a unit whose rate applies to all
   * nodes together.
   */
  constructor(
    scope: RateScope,
    rates: Rates,
    brokerOf: (unit: RateUnit) => BrokerCounts | undefined,
  ) {
    this.#scope = scope;
    this.#rates = rates;
    this.#brokerOf = brokerOf;
  }

  get size(): number {
    return this.#all.size;
  }

  /**
   * Counts an attempt to connect. If there are too many, returns the number of milliseconds to
   * wait.
   */
  connect(name: string, now: number): number {
    if (this.#rates.connections === undefined) return 0;
    const account = this.#find(name, now);
    const { connections } = account;
    const waitMs = connections!.waitMs(1, now);
    if (waitMs === 0) connections!.take(1, now);
    if (account.holders === 0) this.#leave(name, account, now);
    return waitMs;
  }

  /**
   * Finds or creates an account, and keeps it for a session or a request. A new account has `times`
   * the rates.
   */
  hold(name: string, now: number, times = 1): RateAccount {
    const account = this.#find(name, now, times);
    if (account.holders === 0) this.#idle.delete(name);
    account.holders++;
    return account;
  }

  /** Releases a hold. */
  release(name: string, now: number): void {
    const account = this.#all.get(name)!;
    account.holders--;
    if (account.holders === 0) this.#leave(name, account, now);
  }

  #find(name: string, now: number, times = 1): RateAccount {
    const known = this.#all.get(name);
    if (known !== undefined) return known;
    const account = new RateAccount(this.#scope, (unit) => {
      const rate = this.#rates[unit];
      return rate && this.#bucketOf(unit, name, { rate: multiplyRate(rate, times), now });
    });
    this.#all.set(name, account);
    return account;
  }

  #bucketOf(
    unit: RateUnit,
    name: string,
    { rate, now }: { readonly rate: Required<Rate>; readonly now: number },
  ): Bucket {
    const broker = this.#brokerOf(unit);
    if (broker === undefined) return new TokenBucket(rate, now);
    return new SharedBucket(broker, `rate:${this.#scope}:${unit}:${name}`, rate, now);
  }

  /**
   * Moves an account to the idle accounts, and forgets old accounts. The buckets of the account
   * that has been idle longest fill first, so forgetting it loses the least.
   */
  #leave(name: string, left: RateAccount, now: number): void {
    this.#idle.delete(name);
    this.#idle.set(name, left);
    for (const [oldest, account] of this.#idle) {
      if (this.#idle.size <= MAX_IDLE_RATE_ACCOUNTS && !account.isFull(now)) return;
      this.#idle.delete(oldest);
      this.#all.delete(oldest);
    }
  }
}

/** True if some of the units, or bytes, have a rate. */
export function isCounted(by: Rates | RateAccount, units: readonly RateUnit[]): boolean {
  if (by.bytes !== undefined) return true;
  for (const unit of units) if (by[unit] !== undefined) return true;
  return false;
}

/** Returns the first account that has too few tokens; `undefined` if all have enough. */
export function shortageOf(
  accounts: readonly RateAccount[],
  { units, count, size }: Amount,
  now: number,
): Shortage | undefined {
  for (const account of accounts) {
    for (const unit of units) {
      const waitMs = account[unit]?.waitMs(count, now);
      if (waitMs) return { account, unit, waitMs };
    }
    const waitMs = account.bytes?.waitMs(size, now);
    if (waitMs) return { account, unit: "bytes", waitMs };
  }
  return undefined;
}

/** Takes tokens from all accounts. */
export function takeFrom(
  accounts: readonly RateAccount[],
  { units, count, size }: Amount,
  now: number,
): void {
  for (const account of accounts) {
    for (const unit of units) account[unit]?.take(count, now);
    account.bytes?.take(size, now);
  }
}

function isFull(bucket: Bucket | undefined, now: number): boolean {
  return bucket === undefined || bucket.isFull(now);
}
