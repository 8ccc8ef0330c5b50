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
  if (signal?.aborted) return Promise.reject(signal.reason);
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
    const timer = timeoutMs === undefined ? undefined : setTimeout(
      () =>
        giveUp(new TimeoutError(`Cannot wait for ${what} longer than ${timeoutMs} ms`, timeoutMs)),
      timeoutMs,
    );
    signal?.addEventListener("abort", onAbort);
    promise.then(resolve, reject).finally(done);
  });
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
