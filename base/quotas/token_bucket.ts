/** A token bucket: a burst, and a steady rate. */

/** A rate, and its burst. */
export interface Rate {
  /**
   * The number of tokens refilled per second, which may be a fraction. `Infinity` means no limit.
   */
  readonly perSecond: number;
  /**
   * Maximum burst after a pause.
   *
   * @default {perSecond, and at least 1}
   */
  readonly burst?: number | undefined;
}

/** Tolerance for rounding errors, in milliseconds. */
const ROUNDING_MS = 0.001;

/**
 * Counts tokens, and computes how long to wait for more. Times are milliseconds since the Unix
 * epoch.
 */
export interface Bucket {
  /**
   * Returns the time until there are enough tokens, in milliseconds; 0 if there are enough now.
   * Does not take any tokens.
   */
  waitMs(amount: number, now: number): number;
  /** Takes tokens. */
  take(amount: number, now: number): void;
  /**
   * Returns true if the bucket is full. It can then be discarded, because a new bucket would be the
   * same.
   */
  isFull(now: number): boolean;
}

/**
 * Checks a rate.
 *
 * @param name Name of the option, for the error.
 * @returns The rate with its burst; `undefined` if there is no limit.
 * @throws {RangeError} If `perSecond` is not above 0, or `burst` is below 1.
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
      `Cannot create rate limits: ${name}.burst must be 1 or more, received ${burst}`,
    );
  }
  return perSecond === Infinity || burst === Infinity ? undefined : { perSecond, burst };
}

/**
 * Multiplies a rate and its burst, for several clients that share it.
 *
 * @param times The factor.
 * @returns The larger rate.
 */
export function multiplyRate(
  { perSecond, burst }: Required<Rate>,
  times: number,
): Required<Rate> {
  return { perSecond: perSecond * times, burst: burst * times };
}

/**
 * A token bucket that starts full. Calls take tokens, and time refills them.
 *
 * - **Larger than the bucket:** an amount above `burst` is accepted once the bucket is full, and
 *   the resulting debt delays later amounts. The average rate is kept this way, and no amount is
 *   rejected forever.
 * - **Cost:** the bucket stores two numbers and needs no timer, because tokens are computed on each
 *   call.
 * - **Clock:** if the clock is set back, the tokens for the time since the last call are lost. If
 *   the clock is set forward, the bucket is filled.
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

  waitMs(amount: number, now: number): number {
    this.#refill(now);
    const { perSecond, burst } = this.#rate;
    const missing = Math.min(amount, burst) - this.#tokens;
    return Math.ceil(Math.max(0, missing / perSecond * 1_000 - ROUNDING_MS));
  }

  take(amount: number, now: number): void {
    this.#refill(now);
    this.#tokens -= amount;
  }

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
