/** Delays between attempts: exponential, with jitter and a cap. */
import type { Runtime } from "./runtime.ts";

/** Default first delay, in milliseconds. */
export const FIRST_DELAY_MS = 500;

/** Default maximum delay, in milliseconds. */
export const MAX_DELAY_MS = 30_000;

/**
 * Longest server-requested delay that a client respects, in milliseconds: a wrong unit or clock on
 * the server must not keep its clients away for days.
 */
const MAX_RETRY_AFTER_MS = 3_600_000;

/**
 * Clamps the retry delay that a server has sent.
 *
 * @param retryAfterMs The server's delay, in milliseconds; 0 by default.
 * @returns The delay, between 0 and one hour.
 */
export function boundRetryAfter(retryAfterMs: number = 0): number {
  return Math.max(0, Math.min(MAX_RETRY_AFTER_MS, retryAfterMs));
}

/** Options for {@linkcode Backoff}. */
export interface BackoffOptions {
  /**
   * Upper limit of the first delay, in milliseconds. It doubles with each further attempt.
   *
   * @default {500}
   */
  readonly firstDelayMs?: number | undefined;
  /**
   * Upper limit of every delay, in milliseconds.
   *
   * @default {30000}
   */
  readonly maxDelayMs?: number | undefined;
  /**
   * Number of consecutive attempts before giving up.
   *
   * @default {Infinity}
   */
  readonly maxAttempts?: number | undefined;
}

/**
 * Exponential backoff with full jitter: each delay is a random time between zero and the full
 * delay. If many clients lose their server, their reconnects are spread out as widely as possible.
 *
 * @example Usage
 * ```ts
 * import { Backoff } from "./backoff.ts";
 * import { platformRuntime } from "./runtime.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const runtime = Object.assign(platformRuntime(), { random: () => 0.5 });
 * const backoff = new Backoff(runtime, { firstDelayMs: 100, maxDelayMs: 300 });
 * assertEquals([backoff.next(), backoff.next(), backoff.next()], [50, 100, 150]);
 * ```
 */
export class Backoff {
  readonly #runtime: Runtime;
  readonly #options: Required<BackoffOptions>;
  #attempt = 0;

  /**
   * Creates a backoff.
   *
   * @param runtime The runtime that generates the random numbers.
   * @param options See {@linkcode BackoffOptions}.
   * @throws {RangeError} If a delay is not positive.
   */
  constructor(runtime: Runtime, options: BackoffOptions = {}) {
    const {
      firstDelayMs = FIRST_DELAY_MS,
      maxDelayMs = MAX_DELAY_MS,
      maxAttempts = Infinity,
    } = options;
    for (const [name, value] of Object.entries({ firstDelayMs, maxDelayMs, maxAttempts })) {
      if (!(value > 0)) {
        throw new RangeError(`Cannot create backoff: ${name} must be positive, received ${value}`);
      }
    }
    this.#runtime = runtime;
    this.#options = { firstDelayMs, maxDelayMs, maxAttempts };
  }

  /** Number of attempts since the last success. */
  get attempt(): number {
    return this.#attempt;
  }

  /** The upper limit of every delay, in milliseconds. */
  get maxDelayMs(): number {
    return this.#options.maxDelayMs;
  }

  /**
   * Chooses the next delay.
   *
   * @returns The delay in milliseconds, or `undefined` after `maxAttempts`.
   */
  next(): number | undefined {
    const { firstDelayMs, maxDelayMs, maxAttempts } = this.#options;
    if (this.#attempt >= maxAttempts) return undefined;
    // Beyond 2^30 the cap applies anyway, and the power would eventually overflow.
    const whole = Math.min(maxDelayMs, firstDelayMs * 2 ** Math.min(this.#attempt, 30));
    this.#attempt++;
    return this.#runtime.random() * whole;
  }

  /** Starts over after a success. */
  reset(): void {
    this.#attempt = 0;
  }
}
