/**
 * Waiting with an end: by time, by signal.
 *
 * @module
 */
import { TimeoutError } from "../errors.ts";

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
  const { what, timeoutMs, signal } = options;
  if (timeoutMs === undefined && signal === undefined) return promise;
  if (signal?.aborted) {
    // Nobody else may look at it.
    promise.catch(() => {});
    return Promise.reject(signal.reason);
  }
  return new Promise((resolve, reject) => {
    // However the wait ends, neither a timer nor a listener is left behind.
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (reason: unknown) => {
      done();
      reject(reason);
    };
    const onAbort = () => giveUp(signal?.reason);
    const timer = startTimer(timeoutMs, (ms) => {
      giveUp(new TimeoutError(`Cannot wait for ${what} longer than ${ms} ms`, ms));
    });
    signal?.addEventListener("abort", onAbort);
    promise.then(resolve, reject).finally(done);
  });
}

/**
 * Waits for a promise for a time, and says whether that was enough.
 *
 * @param promise What to wait for.
 * @param timeoutMs How long, in milliseconds.
 * @returns False if the time was over first.
 * @throws What the promise rejects with, in time.
 */
export async function settlesWithin(
  promise: Promise<unknown>,
  timeoutMs: number,
): Promise<boolean> {
  const { promise: over, resolve } = Promise.withResolvers<boolean>();
  const timer = startTimer(timeoutMs, () => resolve(false));
  try {
    return await Promise.race([promise.then(() => true), over]);
  } finally {
    clearTimeout(timer);
  }
}

/** The longest time that a timer can run, in milliseconds: it holds 31 bits. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

/**
 * Starts a timer, unless there is nothing to wait for.
 *
 * @param ms How long, in milliseconds; `undefined` and `Infinity` are for ever.
 * @param callback Called with the time, when it is over.
 * @returns The timer, for `clearTimeout`.
 * @throws {RangeError} If the time is negative, or no number.
 */
export function startTimer(
  ms: number | undefined,
  callback: (ms: number) => void,
): ReturnType<typeof setTimeout> | undefined {
  if (ms === undefined) return undefined;
  if (!(ms >= 0)) throw new RangeError(`Cannot wait: timeoutMs must be from 0, received ${ms}`);
  return ms > MAX_TIMER_MS ? undefined : setTimeout(callback, ms, ms);
}

/**
 * Waits for some time.
 *
 * @param ms How long, in milliseconds.
 * @param signal Ends the wait early; the promise still resolves.
 * @returns Resolves when the time is over.
 */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
