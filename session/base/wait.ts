/**
 * Waiting with an end: by time, by signal.
 *
 * @module
 */
import { startTimer, within } from "../../transport/within.ts";

export { MAX_TIMER_MS, startTimer } from "../../transport/within.ts";

/** Options for {@linkcode waitFor}. */
export interface WaitForOptions {
  /** What is waited for, named in the error. */
  readonly what: string;
  /** Gives up after this many milliseconds; never, if left out. */
  readonly timeoutMs?: number | undefined;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for a promise, but not for ever. Giving up does not end what the promise stands for.
 *
 * @typeParam T What the promise gives.
 * @param promise What to wait for.
 * @param options See {@linkcode WaitForOptions}.
 * @returns What the promise gives.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 */
export function waitFor<T>(promise: Promise<T>, options: WaitForOptions): Promise<T> {
  const { what, ...rest } = options;
  return within(promise, { late: `Cannot wait for ${what} longer than`, ...rest });
}

/**
 * Waits for a promise for a time, and says whether that was enough.
 *
 * @param promise What to wait for.
 * @param timeoutMs How long, in milliseconds.
 * @returns False if the time was over first.
 * @throws What the promise rejects with, in time.
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
 * @param signals Each of these ends the pause.
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
