/**
 * Waiting for what the platform makes, but not for ever.
 *
 * @module
 */
import { TimeoutError } from "../errors.ts";

/** A timer holds 31 bits; what is longer, `Infinity` included, is for ever. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Options for {@linkcode within}. */
export interface WithinOptions<T> {
  /** What can not be done in time, for the error: a verb and its object. */
  readonly what: string;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
  /** Gives up after this many milliseconds; never, if left out. */
  readonly timeoutMs?: number | undefined;
  /** Called with what comes after nobody waits for it any more. MUST NOT throw. */
  readonly discard: (late: T) => void;
}

/**
 * Waits for a promise. However the wait ends, neither a timer nor a listener is left behind.
 *
 * @typeParam T What the promise gives.
 * @param promise What to wait for.
 * @param options See {@linkcode WithinOptions}.
 * @returns What the promise gives.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 */
export function within<T>(promise: Promise<T>, options: WithinOptions<T>): Promise<T> {
  const { what, signal, timeoutMs = Infinity, discard } = options;
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (reason: unknown) => {
      done();
      reject(reason);
      promise.then(discard, () => {});
    };
    const onAbort = () => giveUp(signal?.reason);
    const timer = timeoutMs > MAX_TIMER_MS ? undefined : setTimeout(
      () => giveUp(new TimeoutError(`Cannot ${what} within ${timeoutMs} ms`, timeoutMs)),
      timeoutMs,
    );
    if (signal?.aborted) return onAbort();
    signal?.addEventListener("abort", onAbort);
    promise.then((value) => {
      done();
      resolve(value);
    }, (error) => {
      done();
      reject(error);
    });
  });
}
