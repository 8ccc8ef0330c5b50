/** Numbers, claims and token buckets in a file. */
import type { TakenTokens, TokenRate } from "../../pubsub/broker.ts";
import { type Database, prepareAll, type Statements } from "./database.ts";

const SQL = {
  advance:
    "INSERT INTO numbers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number, until = excluded.until WHERE excluded.number > number OR until <= ?",
  newest: "SELECT number FROM numbers WHERE key = ? AND until > ?",
  expire: "DELETE FROM claims WHERE scope = ? AND until <= ?",
  renew: "UPDATE claims SET until = ? WHERE scope = ? AND member = ?",
  count: "SELECT count(*) AS count FROM claims WHERE scope = ?",
  claim: "INSERT INTO claims VALUES (?, ?, ?)",
  release: "DELETE FROM claims WHERE scope = ? AND member = ?",
  claims: "SELECT member FROM claims WHERE scope = ? AND until > ?",
  bucket: "SELECT tokens, at FROM buckets WHERE key = ?",
  fill: "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)",
};

/** The state of a `SqliteBroker`'s store. Every entry expires. */
export class Facts {
  readonly #sql: Statements<typeof SQL>;

  constructor(db: Database) {
    this.#sql = prepareAll(db, SQL);
  }

  /** Records a number. Returns true if it is above the previous number. */
  advance(key: string, number: number, windowMs: number, now: number): boolean {
    return Number(this.#sql.advance.run(key, number, after(now, windowMs), now).changes) > 0;
  }

  /** Reads a number. Returns -1 if no number is remembered. */
  newest(key: string, now: number): number {
    return Number(this.#sql.newest.get(key, now)?.number ?? -1);
  }

  /** Claims a slot, or renews the claim. Returns false if the scope is full. */
  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
    now: number,
  ): boolean {
    this.#sql.expire.run(scope, now);
    const until = after(now, ttlMs);
    if (Number(this.#sql.renew.run(until, scope, member).changes) > 0) return true;
    if (Number(this.#sql.count.get(scope)!.count) >= max) return false;
    this.#sql.claim.run(scope, member, until);
    return true;
  }

  /** Releases a claim. */
  release(scope: string, member: string): void {
    this.#sql.release.run(scope, member);
  }

  /** Lists the members that hold a claim. */
  claims(scope: string, now: number): string[] {
    return this.#sql.claims.all(scope, now).map(({ member }) => String(member));
  }

  /** Takes tokens from a bucket, which starts full. */
  take(key: string, amount: number, { perSecond, burst }: TokenRate, now: number): TakenTokens {
    const { tokens, at } = this.#sql.bucket.get(key) ?? { tokens: burst, at: now };
    const passedMs = Math.max(0, now - Number(at));
    const filled = Math.min(burst, Number(tokens) + passedMs * perSecond / 1_000);
    const granted = filled >= amount;
    const left = granted ? filled - amount : filled;
    this.#sql.fill.run(key, left, now, after(now, (burst - left) / perSecond * 1_000));
    const retryAfterMs = granted ? 0 : Math.ceil((amount - filled) / perSecond * 1_000);
    return { granted, retryAfterMs };
  }
}

/** A moment in the future, as an integer of SQLite. */
function after(now: number, ms: number): number {
  return Math.min(now + Math.ceil(ms), Number.MAX_SAFE_INTEGER);
}
