/** Numbers, claims and token buckets in a file. */
import type { TakenTokens, TokenRate } from "../../pubsub/broker.ts";
import type { Database, Statement } from "./database.ts";

/** The facts of a `SqliteBroker`'s store. Every fact ends by itself. */
export class Facts {
  readonly #advance: Statement;
  readonly #newest: Statement;
  readonly #expire: Statement;
  readonly #renew: Statement;
  readonly #count: Statement;
  readonly #claim: Statement;
  readonly #release: Statement;
  readonly #claims: Statement;
  readonly #bucket: Statement;
  readonly #fill: Statement;

  constructor(db: Database) {
    this.#advance = db.prepare(
      "INSERT INTO numbers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number, until = excluded.until WHERE excluded.number > number OR until <= ?",
    );
    this.#newest = db.prepare("SELECT number FROM numbers WHERE key = ? AND until > ?");
    this.#expire = db.prepare("DELETE FROM claims WHERE scope = ? AND until <= ?");
    this.#renew = db.prepare("UPDATE claims SET until = ? WHERE scope = ? AND member = ?");
    this.#count = db.prepare("SELECT count(*) AS count FROM claims WHERE scope = ?");
    this.#claim = db.prepare("INSERT INTO claims VALUES (?, ?, ?)");
    this.#release = db.prepare("DELETE FROM claims WHERE scope = ? AND member = ?");
    this.#claims = db.prepare("SELECT member FROM claims WHERE scope = ? AND until > ?");
    this.#bucket = db.prepare("SELECT tokens, at FROM buckets WHERE key = ?");
    this.#fill = db.prepare("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)");
  }

  /** Notes a number; returns true if above the previous one. */
  advance(key: string, number: number, windowMs: number, now: number): boolean {
    return Number(this.#advance.run(key, number, after(now, windowMs), now).changes) > 0;
  }

  /** Reads a number; -1 if no number is remembered. */
  newest(key: string, now: number): number {
    return Number(this.#newest.get(key, now)?.number ?? -1);
  }

  /** Claims a place, or renews the claim; false if the scope is full. */
  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
    now: number,
  ): boolean {
    this.#expire.run(scope, now);
    const until = after(now, ttlMs);
    if (Number(this.#renew.run(until, scope, member).changes) > 0) return true;
    if (Number(this.#count.get(scope)!.count) >= max) return false;
    this.#claim.run(scope, member, until);
    return true;
  }

  /** Gives up a claim. */
  release(scope: string, member: string): void {
    this.#release.run(scope, member);
  }

  /** Lists the members that hold a claim. */
  claims(scope: string, now: number): string[] {
    return this.#claims.all(scope, now).map(({ member }) => String(member));
  }

  /** Takes tokens from a bucket, which begins full. */
  take(key: string, amount: number, { perSecond, burst }: TokenRate, now: number): TakenTokens {
    const { tokens, at } = this.#bucket.get(key) ?? { tokens: burst, at: now };
    const passedMs = Math.max(0, now - Number(at));
    const filled = Math.min(burst, Number(tokens) + passedMs * perSecond / 1_000);
    const granted = filled >= amount;
    const left = granted ? filled - amount : filled;
    this.#fill.run(key, left, now, after(now, (burst - left) / perSecond * 1_000));
    const retryAfterMs = granted ? 0 : Math.ceil((amount - filled) / perSecond * 1_000);
    return { granted, retryAfterMs };
  }
}

/** A moment in the future, as an integer of SQLite. */
function after(now: number, ms: number): number {
  return Math.min(now + Math.ceil(ms), Number.MAX_SAFE_INTEGER);
}
