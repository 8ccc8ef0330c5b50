/**
 * Reference model of rates: token buckets of sessions, users and addresses, and what they reject.
 */
import type { Rate } from "../base/quotas/token_bucket.ts";

/** Maximum time between a call and its count at the server, in milliseconds. */
const LATE_MS = 20;

/** Scopes, in the order in which a server counts them. */
export const SCOPES = ["session", "user", "address"] as const;

export type Scope = typeof SCOPES[number];

export type Unit = "messages" | "bytes" | "publications" | "subscriptions" | "connections";

/** Rates by unit. A unit without a rate is not limited. */
export type ModelRates = Partial<Record<Unit, Required<Rate>>>;

/** Tokens that a call needs, by unit. */
export type Need = Partial<Record<Unit, number>>;

export interface Shortage {
  readonly scope: Scope;
  /** Time until there are enough, in milliseconds. */
  readonly waitMs: number;
}

/**
 * A bucket, which starts full. If more tokens are needed than the burst, the taker waits for a full
 * bucket and leaves a debt.
 */
class ModelBucket {
  readonly #rate: Required<Rate>;
  #tokens: number;
  #atMs = -Infinity;

  constructor(rate: Required<Rate>) {
    this.#rate = rate;
    this.#tokens = rate.burst;
  }

  waitMs(amount: number, ms: number): number {
    const missing = Math.min(amount, this.#rate.burst) - this.#at(ms);
    return Math.max(0, missing * 1_000 / this.#rate.perSecond);
  }

  take(amount: number, ms: number): void {
    this.#tokens = this.#at(ms) - amount;
    this.#atMs = ms;
  }

  /** True if counting some milliseconds earlier or later could have another outcome. */
  isNear(amount: number, ms: number): boolean {
    const isEarly = this.waitMs(amount, ms + LATE_MS) > 0;
    if (isEarly !== this.waitMs(amount, ms - LATE_MS) > 0) return true;
    const { perSecond, burst } = this.#rate;
    return Math.abs(this.#filledAt(ms) - burst) <= LATE_MS * perSecond / 1_000;
  }

  #at(ms: number): number {
    return Math.min(this.#rate.burst, this.#filledAt(ms));
  }

  #filledAt(ms: number): number {
    return this.#tokens + Math.max(0, ms - this.#atMs) * this.#rate.perSecond / 1_000;
  }
}

/** The buckets of one session, user or address. */
export class ModelAccount {
  readonly scope: Scope;
  readonly #buckets: ReadonlyMap<Unit, ModelBucket>;

  constructor(scope: Scope, rates: ModelRates) {
    this.scope = scope;
    const entries = Object.entries(rates) as [Unit, Required<Rate>][];
    this.#buckets = new Map(entries.map(([unit, rate]) => [unit, new ModelBucket(rate)]));
  }

  /** Time until there are enough tokens, in milliseconds; 0 if there are enough now. */
  waitMs(need: Need, ms: number): number {
    const waits = this.#of(need).map(([bucket, amount]) => bucket.waitMs(amount, ms));
    return waits.find((wait) => wait > 0) ?? 0;
  }

  /** Takes the tokens of a need. */
  take(need: Need, ms: number): void {
    for (const [bucket, amount] of this.#of(need)) bucket.take(amount, ms);
  }

  /** True if counting some milliseconds earlier or later could have another outcome. */
  isNear(need: Need, ms: number): boolean {
    return this.#of(need).some(([bucket, amount]) => bucket.isNear(amount, ms));
  }

  /** The buckets of a need, in the order in which it names them. */
  #of(need: Need): [ModelBucket, number][] {
    return (Object.entries(need) as [Unit, number][]).flatMap(([unit, amount]) => {
      const bucket = this.#buckets.get(unit);
      return bucket === undefined ? [] : [[bucket, amount]];
    });
  }
}

/** Accounts by name, each shared by all sessions of the user or the address. */
export class ModelAccounts {
  readonly #rates: Readonly<Record<Scope, ModelRates>>;
  readonly #shared = new Map<string, ModelAccount>();

  constructor(rates: Readonly<Record<Scope, ModelRates>>) {
    this.#rates = rates;
  }

  /**
   * Finds the accounts of a new session.
   *
   * @param user The user; `undefined` for a guest.
   */
  ofSession(user: string | undefined, address: string): ModelAccount[] {
    return [
      new ModelAccount("session", this.#rates.session),
      ...(user === undefined ? [] : [this.of("user", user)]),
      this.of("address", address),
    ];
  }

  /** Finds the account of a user or an address. */
  of(scope: Exclude<Scope, "session">, name: string): ModelAccount {
    const key = `${scope} ${name}`;
    const account = this.#shared.get(key) ?? new ModelAccount(scope, this.#rates[scope]);
    this.#shared.set(key, account);
    return account;
  }
}

/** Finds the first account without enough tokens. */
export function shortageOf(
  accounts: readonly ModelAccount[],
  need: Need,
  ms: number,
): Shortage | undefined {
  for (const account of accounts) {
    const waitMs = account.waitMs(need, ms);
    if (waitMs > 0) return { scope: account.scope, waitMs };
  }
  return undefined;
}
