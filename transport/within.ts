/**
 * Waiting, but not for ever: by time, by signal.
 *
 * @module
 */
import { TimeoutError } from "../errors.ts";
import type { StreamDirection } from "./connection.ts";

/**
 * Waits for a stream, as long as its user does. The runtime cannot be told to
 * give up: a stream that comes too late is ended.
 *
 * @typeParam T The stream.
 * @param opening The stream that is being opened.
 * @param options Its `signal` and `leftMs` give up waiting; the kind of stream, and the time that was
 * asked for, are for the error.
 * @param handlers Ends a stream that nobody waits for any more.
 * @returns The stream.
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function opened<T>(
  opening: Promise<T>,
  options: {
    readonly kind: StreamDirection;
    readonly signal: AbortSignal | undefined;
    readonly timeoutMs: number | undefined;
    /** What is left of `timeoutMs`. */
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

/** Options for {@linkcode within}. */
export interface WithinOptions<T> {
  /**
   * How the error begins when the time is over; how long that was follows.
   *
   * @default {"Cannot wait longer than"}
   */
  readonly late?: string;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
  /** Gives up after this many milliseconds; never, if left out. */
  readonly timeoutMs?: number | undefined;
  /** Called with what comes after nobody waits for it any more. MUST NOT throw. */
  readonly discard?: (tooLate: T) => void;
}

/**
 * Waits for a promise. However the wait ends, neither a timer nor a listener is left behind;
 * giving up does not end what the promise stands for.
 *
 * @typeParam T What the promise gives.
 * @param promise What to wait for.
 * @param options See {@linkcode WithinOptions}.
 * @returns What the promise gives.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 * @throws {RangeError} If `timeoutMs` is negative, or no number.
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
      // Nobody else may look at it.
      promise.then(discard, () => {});
    };
    const onAbort = () => giveUp(signal?.reason);
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      timer = startTimer(timeoutMs, (ms) => giveUp(new TimeoutError(`${late} ${ms} ms`, ms)));
    } catch (error) {
      return giveUp(error); // What comes is thrown away all the same.
    }
    if (signal?.aborted) return onAbort();
    signal?.addEventListener("abort", onAbort);
    promise.finally(done).then(resolve, reject);
  });
}
