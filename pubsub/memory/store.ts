/**
 * What nodes share, in the memory of one process.
 *
 * @module
 */
import type { BrokerStore, TakenTokens, TokenRate } from "../broker.ts";

/** Rows, scopes and buckets of each kind that are remembered; the one that was used least lately goes first. */
const MAX_ENTRIES = 100_000;

/** The store of a {@linkcode MemoryBroker}. */
export class MemoryStore implements BrokerStore {
  readonly #numbers = new Map<string, { number: number; until: number }>();
  readonly #scopes = new Map<string, Map<string, number>>();
  readonly #buckets = new Map<string, { tokens: number; at: number }>();

  advance(key: string, number: number, windowMs: number): Promise<boolean> {
    const now = Date.now();
    const known = this.#numbers.get(key);
    if (known !== undefined && known.until > now && number <= known.number) {
      return Promise.resolve(false);
    }
    renew(this.#numbers, key, { number, until: now + windowMs });
    return Promise.resolve(true);
  }

  newest(key: string): Promise<number> {
    const known = this.#numbers.get(key);
    return Promise.resolve(known === undefined || known.until <= Date.now() ? -1 : known.number);
  }

  claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean> {
    const members = this.#members(scope) ?? new Map<string, number>();
    if (!members.has(member) && members.size >= max) return Promise.resolve(false);
    members.set(member, Date.now() + ttlMs);
    renew(this.#scopes, scope, members);
    return Promise.resolve(true);
  }

  release(scope: string, member: string): Promise<void> {
    const members = this.#scopes.get(scope);
    members?.delete(member);
    if (members?.size === 0) this.#scopes.delete(scope);
    return Promise.resolve();
  }

  claims(scope: string): Promise<string[]> {
    return Promise.resolve([...this.#members(scope)?.keys() ?? []]);
  }

  take(key: string, amount: number, { perSecond, burst }: TokenRate): Promise<TakenTokens> {
    const now = Date.now();
    const { tokens, at } = this.#buckets.get(key) ?? { tokens: burst, at: now };
    const filled = Math.min(burst, tokens + Math.max(0, now - at) * perSecond / 1_000);
    const granted = filled >= amount;
    renew(this.#buckets, key, { tokens: granted ? filled - amount : filled, at: now });
    const retryAfterMs = granted ? 0 : Math.ceil((amount - filled) / perSecond * 1_000);
    return Promise.resolve({ granted, retryAfterMs });
  }

  /** Forgets everything. */
  clear(): void {
    for (const map of [this.#numbers, this.#scopes, this.#buckets]) map.clear();
  }

  #members(scope: string): Map<string, number> | undefined {
    const members = this.#scopes.get(scope);
    const now = Date.now();
    for (const [member, until] of members ?? []) if (until <= now) members!.delete(member);
    return members;
  }
}

/** Puts an entry last, and lets go of the first one where there are too many. */
function renew<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= MAX_ENTRIES) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
