/** Calls of the broker that are retried while it is unreachable. */
import { Backoff } from "../base/backoff.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import { pause } from "../base/wait.ts";
import { BrokerError } from "../errors.ts";

/** Delays between attempts, in milliseconds. */
const DELAYS = { firstDelayMs: 100, maxDelayMs: 1_000 };

/** Options of {@linkcode whileUnreachable}. */
export interface RepeatOptions {
  readonly runtime: Runtime;
  /** Ends the delays between attempts. */
  readonly signal: AbortSignal;
  /**
   * Time after the first failure at which a failure becomes final, in milliseconds. There is no
   * limit by default.
   */
  readonly withinMs?: number | undefined;
  /** True if a failure is final for another reason. */
  readonly isOver?: (() => boolean) | undefined;
}

/**
 * Makes a call, and retries it while the broker is unreachable.
 *
 * @param options See {@linkcode RepeatOptions}.
 * @returns The result.
 * @throws {BrokerError} If the broker is unreachable for too long.
 */
export async function whileUnreachable<T>(
  call: () => Promise<T>,
  { runtime, signal, withinMs, isOver = () => false }: RepeatOptions,
): Promise<T> {
  const backoff = new Backoff(runtime, DELAYS);
  let isLate = false;
  let timer: Timer | undefined;
  try {
    while (true) {
      try {
        return await call();
      } catch (error) {
        if (!(error instanceof BrokerError) || isLate || isOver()) throw error;
        if (withinMs !== undefined) timer ??= runtime.setTimeout(() => isLate = true, withinMs);
        await pause(runtime, backoff.next()!, signal);
      }
    }
  } finally {
    runtime.clearTimeout(timer);
  }
}
