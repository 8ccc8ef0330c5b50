/** Waiting that ends by time or by signal. */
import { TimeoutError } from "../errors.ts";
import type { StreamDirection } from "./connection.ts";

/**
 * Waits for a stream no longer than its user wants. The runtime cannot cancel the opening: a stream
 * that opens too late goes to `late`, which ends it.
 *
 * @typeParam T Type of the stream.
 * @param opening Promise of the stream.
 * @param options `signal` and `leftMs` end the wait; `kind` and `timeoutMs` appear in the error.
 * @param handlers Handler of a stream that opened too late.
 * @returns The stream.
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function opened<T>(
  opening: Promise<T>,
  options: {
    readonly kind: StreamDirection;
    readonly signal: AbortSignal | undefined;
    readonly timeoutMs: number | undefined;
    /** Remaining part of `timeoutMs`. */
    readonly leftMs: number | undefined;
  },
  handlers: { readonly late: (stream: T) => void },
): Promise<T> {
  const { signal, timeoutMs, leftMs, kind } = options;
  if (signal === undefined && leftMs === undefined) return opening;
  return within(opening, { signal, timeoutMs: leftMs, discard: handlers.late }).catch((error) => {
    if (!(error instanceof TimeoutError)) throw error;
    const rule = `the peer allowed no ${kind} stream within ${timeoutMs} ms`;
    throw new TimeoutError(`Cannot open stream: ${rule}`, timeoutMs!);
  });
}

/** Longest time of a timer, in milliseconds: timers hold 31 bits. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

/**
 * Starts a timer, unless the time has no end.
 *
 * @param ms Time in milliseconds; `undefined` and `Infinity` start no timer.
 * @param callback Called with the time when it is over.
 * @returns The timer, for `clearTimeout`.
 * @throws {RangeError} If the time is negative or not a number.
 */
export function startTimer(
  ms: number | undefined,
  callback: (ms: number) => void,
): ReturnType<typeof setTimeout> | undefined {
  if (ms === undefined) return undefined;
  if (!(ms >= 0)) throw new RangeError(`Cannot wait: timeoutMs must be from 0, received ${ms}`);
  return ms > MAX_TIMER_MS ? undefined : setTimeout(callback, ms, ms);
}

/** Options for {@linkcode within}. */
export interface WithinOptions<T> {
  /**
   * Beginning of the error message; the time in milliseconds follows.
   *
   * @default {"Cannot wait longer than"}
   */
  readonly late?: string;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** Ends the wait after this many milliseconds; waits without limit by default. */
  readonly timeoutMs?: number | undefined;
  /** Receives a result that arrives after the wait ended. MUST NOT throw. */
  readonly discard?: (tooLate: T) => void;
}

/**
 * Waits for a promise. In every case the timer and the listener are removed. The end of the wait
 * does not end the work behind the promise.
 *
 * @typeParam T Type of the result.
 * @param promise Promise to wait for.
 * @param options Time, signal and error message.
 * @returns The result of the promise.
 * @throws {TimeoutError} If the promise takes longer than `timeoutMs`.
 * @throws {RangeError} If `timeoutMs` is negative or not a number.
 */
export function within<T>(promise: Promise<T>, options: WithinOptions<T> = {}): Promise<T> {
  const { late = "Cannot wait longer than", signal, timeoutMs, discard } = options;
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (reason: unknown) => {
      done();
      reject(reason);
      // A rejection must not stay unhandled.
      promise.then(discard, () => {});
    };
    const onAbort = () => giveUp(signal?.reason);
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      timer = startTimer(timeoutMs, (ms) => giveUp(new TimeoutError(`${late} ${ms} ms`, ms)));
    } catch (error) {
      return giveUp(error); // `giveUp` also discards a later result.
    }
    if (signal?.aborted) return onAbort();
    signal?.addEventListener("abort", onAbort);
    promise.finally(done).then(resolve, reject);
  });
}
