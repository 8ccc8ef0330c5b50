/**
 * Rates that apply to all nodes together. Each node counts on its own, and settles with a broker.
 */
import type { Runtime } from "../base/runtime.ts";
import { MAX_TIMER_MS, pause, within } from "../base/wait.ts";
import { type Bucket, type Rate, TokenBucket } from "../base/quotas/token_bucket.ts";

/**
 * Token buckets that all nodes share. The `store` of a broker provides them.
 *
 * - `take` MUST be atomic, and MUST take either the whole amount or nothing. A bucket starts full.
 * - `take` MUST reject while the counters are unreachable.
 */
export interface SharedCounts {
  /**
   * Takes tokens from a bucket.
   *
   * @param key The bucket, such as `rate:user:messages:ann`.
   * @param amount Number of tokens; at most `burst`.
   * @param rate Refill per second, and capacity of the bucket.
   * @returns `granted` is true if all tokens were taken, and false if none were; `retryAfterMs` is
   * the time until there will be enough tokens, 0 if granted.
   */
  take(
    key: string,
    amount: number,
    rate: Required<Rate>,
  ): Promise<{ readonly granted: boolean; readonly retryAfterMs: number }>;
}

/** Result of {@linkcode SharedCounts.take}. */
export type SharedCount = Awaited<ReturnType<SharedCounts["take"]>>;

/**
 * Fraction of the burst that is settled at once. It is large enough to be cheap, and small enough
 * to be accurate.
 */
const SETTLED_PART = 0.1;

/** Time limit for a reply, in milliseconds. A slower broker is considered unreachable. */
const BROKER_TIMEOUT_MS = 500;

/**
 * Time for which nodes count on their own before they retry an unreachable broker, in milliseconds.
 */
const BROKER_PAUSE_MS = 1_000;

/** Minimum time between a denial and the next request, in milliseconds. */
const MIN_PAUSE_MS = 50;

/** A broker that may be unreachable. */
export class BrokerCounts implements Disposable {
  readonly runtime: Runtime;
  readonly #counts: SharedCounts;
  readonly #closing = new AbortController();
  #awayUntil = -Infinity;
  #failures = 0;

  /** Creates a broker for shared counts. */
  constructor(runtime: Runtime, counts: SharedCounts) {
    this.runtime = runtime;
    this.#counts = counts;
  }

  /** Number of requests without a reply. */
  get failures(): number {
    return this.#failures;
  }

  /** True if the broker must not be called now. */
  isAway(now: number): boolean {
    const leftMs = this.#awayUntil - now;
    // After the clock was set back, the remaining time would exceed the whole pause.
    return this.#closing.signal.aborted || leftMs > 0 && leftMs <= BROKER_PAUSE_MS;
  }

  /** Takes tokens. Resolves to `undefined` if the broker does not respond. Never rejects. */
  async take(
    key: string,
    amount: number,
    rate: Required<Rate>,
  ): Promise<SharedCount | undefined> {
    const { signal } = this.#closing;
    if (signal.aborted) return undefined;
    try {
      const reply = this.#counts.take(key, amount, rate);
      return await within(this.runtime, reply, { timeoutMs: BROKER_TIMEOUT_MS, signal });
    } catch {
      if (signal.aborted) return undefined;
      this.#failures++;
      this.#awayUntil = this.runtime.now() + BROKER_PAUSE_MS;
      return undefined;
    }
  }

  /** Waits for a time, or until disposed. */
  pause(ms: number): Promise<void> {
    return pause(this.runtime, ms, this.#closing.signal);
  }

  /** Ends all waits. */
  [Symbol.dispose](): void {
    this.#closing.abort();
  }
}

/**
 * A bucket for a rate that applies to all nodes together. No call waits for the broker:
 *
 * - **Own bucket first:** this node's own bucket lets tokens through immediately; the node then
 *   owes them to the broker.
 * - **Settling:** a debt is paid once it reaches a tenth of the burst, with one request at a time.
 * - **Denied:** if the broker has too few tokens, nothing passes until the debt is paid.
 * - **Error:** before a node finds out that other nodes have used up the tokens, its own bucket may
 *   let through at most one burst. That burst is paid off first, so the rate holds over time.
 * - **While the broker is unreachable,** the node counts on its own and owes no tokens.
 */
export class SharedBucket implements Bucket {
  readonly #own: TokenBucket;
  readonly #broker: BrokerCounts;
  readonly #key: string;
  readonly #rate: Required<Rate>;
  #owed = 0;
  #takenAt = -Infinity;
  #deniedUntil: number | undefined;
  #isSettling = false;

  /** Creates a bucket that is full as far as this node knows. */
  constructor(broker: BrokerCounts, key: string, rate: Required<Rate>, now: number) {
    this.#own = new TokenBucket(rate, now);
    this.#broker = broker;
    this.#key = key;
    this.#rate = rate;
  }

  waitMs(amount: number, now: number): number {
    const wait = this.#own.waitMs(amount, now);
    if (this.#deniedUntil === undefined || this.#broker.isAway(now)) return wait;
    // The reply arrives soon after the next request. Setting the clock back must not lengthen the
    // wait.
    return Math.max(wait, Math.min(this.#deniedUntil - now, this.#fillMs), 1);
  }

  take(amount: number, now: number): void {
    this.#own.take(amount, now);
    if (this.#broker.isAway(now)) return;
    this.#owed = (this.#isPaid(now) ? 0 : this.#owed) + amount;
    this.#takenAt = now;
    if (this.#isDue && !this.#isSettling) void this.#settle();
  }

  isFull(now: number): boolean {
    return !this.#isSettling && this.#isPaid(now) && this.#own.isFull(now);
  }

  get #isDue(): boolean {
    return this.#owed >= this.#rate.burst * SETTLED_PART;
  }

  /** Time in which an empty bucket fills, in whole milliseconds. */
  get #fillMs(): number {
    return Math.ceil(this.#rate.burst / this.#rate.perSecond * 1_000);
  }

  /**
   * True if a debt is older than the time in which an empty bucket fills, so that time has paid it.
   */
  #isPaid(now: number): boolean {
    return now - this.#takenAt >= this.#fillMs;
  }

  async #settle(): Promise<void> {
    this.#isSettling = true;
    while (this.#isDue) {
      const amount = Math.min(this.#owed, this.#rate.burst);
      const reply = await this.#broker.take(this.#key, amount, this.#rate);
      if (reply === undefined) this.#owed = 0;
      else if (reply.granted) this.#owed -= amount;
      else {
        // A broker may return no number, or more than a timer can wait for.
        const asked = Math.max(Math.ceil(reply.retryAfterMs) || 0, MIN_PAUSE_MS);
        const pauseMs = Math.min(asked, MAX_TIMER_MS);
        this.#deniedUntil = this.#broker.runtime.now() + pauseMs;
        await this.#broker.pause(pauseMs);
      }
    }
    this.#deniedUntil = undefined;
    this.#isSettling = false;
  }
}
