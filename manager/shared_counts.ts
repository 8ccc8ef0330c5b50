/**
 * Rates that hold on all nodes together: each node counts by itself, and settles with an engine.
 *
 * @module
 */
import { within } from "../transport/within.ts";
import { type Bucket, type Rate, TokenBucket } from "./token_bucket.ts";

/** What an engine answers to {@linkcode SharedCounts.take}. */
export interface SharedCount {
  /** Whether the tokens were taken: all of them or none. */
  readonly granted: boolean;
  /** When there will be enough, in milliseconds; 0 if they were granted. */
  readonly retryAfterMs: number;
}

/**
 * Token buckets that all nodes share; the `store` of a broker is one.
 *
 * - `take` MUST be atomic, and MUST take all of the amount or nothing. A bucket begins full.
 * - `take` MUST reject while the engine is away.
 */
export interface SharedCounts {
  /**
   * Takes tokens from a bucket.
   *
   * @param key The bucket, such as `rate:user:messages:ann`.
   * @param amount How many; at most `burst`.
   * @param rate How fast they come back, and how many the bucket holds.
   * @returns Whether there were enough.
   */
  take(key: string, amount: number, rate: Required<Rate>): Promise<SharedCount>;
}

/** What is settled at once, as a part of the burst: often enough to be true, seldom enough to be cheap. */
const SETTLED_PART = 0.1;

/** An engine that does not answer for so long, in milliseconds, is away. */
const ENGINE_TIMEOUT_MS = 500;

/** For so long nodes count alone before they try an engine that was away, in milliseconds. */
const ENGINE_PAUSE_MS = 1_000;

/** Who was denied asks again after so many milliseconds at the soonest. */
const MIN_PAUSE_MS = 50;

/** An engine that may be away. */
export class Engine implements Disposable {
  readonly #counts: SharedCounts;
  readonly #closing = new AbortController();
  #awayUntil = -Infinity;
  #failures = 0;

  /** Settles with these counts. */
  constructor(counts: SharedCounts) {
    this.#counts = counts;
  }

  /** How often it did not answer. */
  get failures(): number {
    return this.#failures;
  }

  /** Whether it is not to be asked now. */
  isAway(now: number): boolean {
    const leftMs = this.#awayUntil - now;
    // After a clock was set back, more would be left than it ever is.
    return this.#closing.signal.aborted || leftMs > 0 && leftMs <= ENGINE_PAUSE_MS;
  }

  /** Takes tokens; `undefined` if the engine does not answer. Never rejects. */
  async take(
    key: string,
    amount: number,
    rate: Required<Rate>,
  ): Promise<SharedCount | undefined> {
    const { signal } = this.#closing;
    if (signal.aborted) return undefined;
    try {
      const answer = this.#counts.take(key, amount, rate);
      return await within(answer, { timeoutMs: ENGINE_TIMEOUT_MS, signal });
    } catch {
      if (signal.aborted) return undefined;
      this.#failures++;
      this.#awayUntil = Date.now() + ENGINE_PAUSE_MS;
      return undefined;
    }
  }

  /** Waits for a time, or until it is disposed of. */
  async pause(ms: number): Promise<void> {
    const { signal } = this.#closing;
    await within(new Promise<never>(() => {}), { timeoutMs: ms, signal }).catch(() => {});
  }

  /** Waits for nothing any more. */
  [Symbol.dispose](): void {
    this.#closing.abort();
  }
}

/**
 * A bucket of a rate that holds on all nodes together. Nobody waits for the engine:
 *
 * - **What comes** is let through as far as this node's own bucket allows, and owed to the engine.
 * - **Settled** is what is owed, from a tenth of the burst on, one question after the other.
 * - **Denied:** where the engine has no tokens left, nothing is let through until all is paid.
 * - **Error:** before a node hears that others used up the tokens, it may let through what its own
 *   bucket holds, at most one burst. As that is paid first, the rate holds over time.
 * - **While the engine is away** the node counts alone, and owes nothing.
 */
export class SharedBucket implements Bucket {
  readonly #own: TokenBucket;
  readonly #engine: Engine;
  readonly #key: string;
  readonly #rate: Required<Rate>;
  #owed = 0;
  #takenAt = -Infinity;
  #deniedUntil: number | undefined;
  #isSettling = false;

  /** Creates a bucket that is full as far as this node knows. */
  constructor(engine: Engine, key: string, rate: Required<Rate>, now: number) {
    this.#own = new TokenBucket(rate, now);
    this.#engine = engine;
    this.#key = key;
    this.#rate = rate;
  }

  /** See {@linkcode Bucket}. */
  waitMs(amount: number, now: number): number {
    const wait = this.#own.waitMs(amount, now);
    if (this.#deniedUntil === undefined || this.#engine.isAway(now)) return wait;
    // Once it is asked again, the answer is close. A clock that was set back makes no wait longer.
    return Math.max(wait, Math.min(this.#deniedUntil - now, this.#fillMs), 1);
  }

  /** See {@linkcode Bucket}. */
  take(amount: number, now: number): void {
    this.#own.take(amount, now);
    if (this.#engine.isAway(now)) return;
    this.#owed = (this.#isPaid(now) ? 0 : this.#owed) + amount;
    this.#takenAt = now;
    if (this.#isDue && !this.#isSettling) void this.#settle();
  }

  /** See {@linkcode Bucket}. */
  isFull(now: number): boolean {
    return !this.#isSettling && this.#isPaid(now) && this.#own.isFull(now);
  }

  get #isDue(): boolean {
    return this.#owed >= this.#rate.burst * SETTLED_PART;
  }

  /** How long an empty bucket takes to fill, in whole milliseconds. */
  get #fillMs(): number {
    return Math.ceil(this.#rate.burst / this.#rate.perSecond * 1_000);
  }

  /** A debt that is older than an empty bucket takes to fill was paid by time. */
  #isPaid(now: number): boolean {
    return now - this.#takenAt >= this.#fillMs;
  }

  async #settle(): Promise<void> {
    this.#isSettling = true;
    while (this.#isDue) {
      const amount = Math.min(this.#owed, this.#rate.burst);
      const answer = await this.#engine.take(this.#key, amount, this.#rate);
      if (answer === undefined) this.#owed = 0;
      else if (answer.granted) this.#owed -= amount;
      else {
        const pauseMs = Math.max(Math.ceil(answer.retryAfterMs), MIN_PAUSE_MS);
        this.#deniedUntil = Date.now() + pauseMs;
        await this.#engine.pause(pauseMs);
      }
    }
    this.#deniedUntil = undefined;
    this.#isSettling = false;
  }
}
