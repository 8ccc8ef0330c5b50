/** Waiting that ends by time or by signal. */
import { startTimer, within } from "../../transport/within.ts";

export { MAX_TIMER_MS, startTimer } from "../../transport/within.ts";

/** Options for {@linkcode waitFor}. */
export interface WaitForOptions {
  /** Name of the awaited event, for the error. */
  readonly what: string;
  /** Time after which the wait gives up, in milliseconds; unlimited if left out. */
  readonly timeoutMs?: number | undefined;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for a promise, with a limit. Giving up does not cancel the work behind the promise.
 *
 * @typeParam T The type of the promised value.
 * @param promise The promise to wait for.
 * @param options See {@linkcode WaitForOptions}.
 * @returns The promised value.
 * @throws {TimeoutError} If the promise takes longer than `timeoutMs`.
 */
export function waitFor<T>(promise: Promise<T>, options: WaitForOptions): Promise<T> {
  const { what, ...rest } = options;
  return within(promise, { late: `Cannot wait for ${what} longer than`, ...rest });
}

/**
 * Waits for a promise for a limited time.
 *
 * @param promise The promise to wait for.
 * @param timeoutMs The limit, in milliseconds.
 * @returns True if the promise fulfilled in time; false after the limit.
 * @throws The promise's rejection, in time.
 */
export function settlesWithin(promise: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = startTimer(timeoutMs, () => resolve(false));
    promise.finally(() => clearTimeout(timer)).then(() => resolve(true), reject);
  });
}

/**
 * Waits for a time or a signal. Leaves neither a timer nor a listener behind.
 *
 * @param ms The time, in milliseconds.
 * @param signals Signals that each end the pause.
 */
export function pause(ms: number, ...signals: readonly AbortSignal[]): Promise<void> {
  if (ms <= 0 || signals.some(({ aborted }) => aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = startTimer(ms, done);
    for (const signal of signals) signal.addEventListener("abort", done, { once: true });
  });
}
