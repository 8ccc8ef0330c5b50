/**
 * Reference models of the rows that nodes share: claims and token buckets. All times are in
 * milliseconds.
 */
import type { TakenTokens, TokenRate } from "./broker.ts";

/** Maximum difference between two clocks that show whole milliseconds. */
const TICK_MS = 2;

/** Time between a call and its reply. The call took effect at some time in between. */
export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** Members that hold a claim in a scope. */
export class ClaimsModel {
  readonly #ends = new Map<string, Span>();

  /** Members, in order of their names. */
  get members(): readonly string[] {
    return [...this.#ends.keys()].toSorted();
  }

  has(member: string): boolean {
    return this.#ends.has(member);
  }

  /** Adds or renews a claim. */
  claim(member: string, { fromMs, toMs }: Span, ttlMs: number): void {
    this.#ends.set(member, { fromMs: fromMs + ttlMs, toMs: toMs + ttlMs });
  }

  /** Ends a claim. */
  release(member: string): void {
    this.#ends.delete(member);
  }

  /** Ends the claims whose time is up, and returns true if a claim may end at about this time. */
  lapse(nowMs: number, edgeMs: number): boolean {
    for (const [member, { toMs }] of this.#ends) {
      if (toMs + edgeMs < nowMs) this.#ends.delete(member);
    }
    return [...this.#ends.values()].some(({ fromMs }) => fromMs - edgeMs < nowMs);
  }
}

/** The range of tokens that may be left in a bucket. */
export class BucketModel {
  /** Fewest and most tokens. */
  least: number;
  most: number;
  readonly #rate: TokenRate;
  #at: Span;

  /** Creates a full bucket. */
  constructor(rate: TokenRate, nowMs: number) {
    this.least = this.most = rate.burst;
    this.#rate = rate;
    this.#at = { fromMs: nowMs, toMs: nowMs };
  }

  /**
   * Takes an amount several times concurrently.
   *
   * @param amount Tokens of each call.
   * @param at Time of the calls.
   * @param results The results of the broker.
   * @returns The first result that no bucket can produce; `undefined` if all are possible.
   */
  take(amount: number, at: Span, results: readonly TakenTokens[]): string | undefined {
    this.#fill(at);
    const { least, most } = this;
    const rejections = results.filter(({ granted }) => !granted);
    const grants = results.length - rejections.length;
    const [fewest, greatest] = [least, most].map((tokens) =>
      Math.min(results.length, Math.floor(tokens / amount))
    );
    if (grants < fewest! || grants > greatest!) {
      return `${grants} grants instead of ${fewest} to ${greatest}`;
    }
    this.least = Math.max(0, least - amount * grants);
    this.most = most - amount * grants;
    if (rejections.length > 0) this.most = Math.min(this.most, amount);
    const longestMs = this.#msUntil(amount, this.least) + TICK_MS;
    // One of several calls may be rejected shortly before another one is granted.
    const shortestMs = grants > 0 ? 1 : Math.max(1, this.#msUntil(amount, this.most) - TICK_MS);
    const wrong = results.find(({ granted, retryAfterMs: ms }) =>
      granted ? ms !== 0 : ms < shortestMs || ms > longestMs
    );
    return wrong && `${JSON.stringify(wrong)} instead of ${shortestMs} to ${longestMs} ms`;
  }

  #fill(at: Span): void {
    const { perSecond, burst } = this.#rate;
    const after = (tokens: number, ms: number) =>
      Math.min(burst, tokens + Math.max(0, ms) * perSecond / 1_000);
    this.least = after(this.least, at.fromMs - this.#at.toMs - TICK_MS);
    this.most = after(this.most, at.toMs - this.#at.fromMs + TICK_MS);
    this.#at = at;
  }

  #msUntil(amount: number, tokens: number): number {
    return Math.ceil((amount - tokens) / this.#rate.perSecond * 1_000);
  }
}
