/**
 * A token bucket: how much may come at once, and how fast it comes back.
 *
 * @module
 */

/** How much of something may come. */
export interface Rate {
  /** How much comes back each second; it may be a fraction. `Infinity` is no limit. */
  readonly perSecond: number;
  /**
   * How much may come at once after a pause.
   *
   * @default {perSecond, and at least 1}
   */
  readonly burst?: number;
}

/** So much may be missing because numbers are rounded, in milliseconds. */
const ROUNDING_MS = 0.001;

/** Counts what comes, and says when it is too much. Times are milliseconds since the Unix epoch. */
export interface Bucket {
  /** How long to wait until so much may come, in milliseconds; 0 if it may now. Takes nothing. */
  waitMs(amount: number, now: number): number;
  /** Counts what came. */
  take(amount: number, now: number): void;
  /** Whether one that was just made would be the same, so that this one can be forgotten. */
  isFull(now: number): boolean;
}

/**
 * Checks a rate.
 *
 * @param rate The rate.
 * @param name The option that it is, for the error.
 * @returns The rate, complete; `undefined` if it is no limit.
 * @throws {RangeError} If `perSecond` is not above 0, or `burst` is not a number from 1.
 */
export function checkRate(rate: Rate | undefined, name: string): Required<Rate> | undefined {
  if (rate === undefined) return undefined;
  const { perSecond, burst = Math.max(1, perSecond) } = rate;
  if (typeof perSecond !== "number" || !(perSecond > 0)) {
    throw new RangeError(
      `Cannot create rate limits: ${name}.perSecond must be a number above 0, received ${perSecond}`,
    );
  }
  if (typeof burst !== "number" || !(burst >= 1)) {
    throw new RangeError(
      `Cannot create rate limits: ${name}.burst must be a number from 1, received ${burst}`,
    );
  }
  return perSecond === Infinity || burst === Infinity ? undefined : { perSecond, burst };
}

/**
 * A bucket of tokens that begins full. What comes takes tokens out of it, and time puts them back.
 *
 * - **Larger than the bucket:** what takes more than `burst` may come when the bucket is full, and
 *   is paid for afterwards. So the rate holds, and nothing is refused for ever.
 * - **Cost:** two numbers. There is no timer: tokens are counted when somebody asks.
 * - **Clock:** one that is set back costs the time since the last call, one that is set forth fills
 *   the bucket.
 *
 * @example Usage
 * ```ts
 * import { TokenBucket } from "./token_bucket.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const bucket = new TokenBucket({ perSecond: 10, burst: 2 }, 0);
 * bucket.take(2, 0);
 * assertEquals(bucket.waitMs(1, 0), 100);
 * assertEquals(bucket.waitMs(1, 100), 0);
 * ```
 */
export class TokenBucket implements Bucket {
  readonly #rate: Required<Rate>;
  #tokens: number;
  #at: number;

  /** Creates a full bucket. */
  constructor(rate: Required<Rate>, now: number) {
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#at = now;
  }

  /** See {@linkcode Bucket}. */
  waitMs(amount: number, now: number): number {
    this.#refill(now);
    const { perSecond, burst } = this.#rate;
    const missing = Math.min(amount, burst) - this.#tokens;
    return Math.ceil(Math.max(0, missing / perSecond * 1_000 - ROUNDING_MS));
  }

  /** See {@linkcode Bucket}. */
  take(amount: number, now: number): void {
    this.#refill(now);
    this.#tokens -= amount;
  }

  /** See {@linkcode Bucket}. */
  isFull(now: number): boolean {
    this.#refill(now);
    return this.#tokens === this.#rate.burst;
  }

  #refill(now: number): void {
    const elapsedMs = now - this.#at;
    this.#at = now;
    if (elapsedMs <= 0) return;
    const { perSecond, burst } = this.#rate;
    this.#tokens = Math.min(burst, this.#tokens + elapsedMs * perSecond / 1_000);
  }
}
