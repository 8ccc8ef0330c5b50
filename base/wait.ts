/** Waits with a timeout or a signal. */
import { TimeoutError } from "../errors.ts";
import type { Runtime, Timer } from "./runtime.ts";

/** Longest duration of a timer, in milliseconds. Timers store it in 31 bits. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

/**
 * Longest time to live, in milliseconds: 100 years. Every broker can store the time at which it
 * ends: SQLite below 2^53 milliseconds, and JetStream as nanoseconds below 2^63.
 */
export const MAX_TTL_MS = 3_153_600_000_000;

/**
 * Starts a timer, unless the time is infinite.
 *
 * @param runtime Runtime with the timers.
 * @param ms Time in milliseconds; `undefined` and `Infinity` start no timer.
 * @param callback Called with `ms` once the time has passed.
 * @returns The timer, for `clearTimeout` of the runtime.
 * @throws {RangeError} If the time is negative or not a number.
 */
export function startTimer(
  runtime: Runtime,
  ms: number | undefined,
  callback: (ms: number) => void,
): Timer | undefined {
  if (ms === undefined) return undefined;
  if (!(ms >= 0)) throw new RangeError(`Cannot wait: timeoutMs must be 0 or more, received ${ms}`);
  return ms > MAX_TIMER_MS ? undefined : runtime.setTimeout(() => callback(ms), ms);
}

/**
 * Creates the error for an aborted operation.
 *
 * @param message The error message, which names the operation.
 * @returns A `DOMException`, or a plain error of that name on platforms without the class.
 */
export function abortError(message: string): Error {
  const name = "AbortError";
  if (typeof DOMException === "function") return new DOMException(message, name);
  return Object.assign(new Error(message), { name });
}

/**
 * Combines the given abort signals. This also works on platforms without `AbortSignal.any`. On
 * these, the combined signal stays in memory until one of the signals aborts.
 *
 * @returns A signal that aborts as soon as one of them does, with the same reason.
 */
export function anySignal(...signals: readonly (AbortSignal | undefined)[]): AbortSignal {
  const given = signals.filter(Boolean) as AbortSignal[];
  const { any } = AbortSignal as Partial<typeof AbortSignal>;
  if (any) return AbortSignal.any(given);
  const joined = new AbortController();
  for (const signal of given) {
    const abort = () => joined.abort(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
  }
  return joined.signal;
}

interface WithinOptions<T> {
  /**
   * Start of the error message; the time in milliseconds follows.
   *
   * @default {"No result within"}
   */
  readonly late?: string;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** Ends the wait after this many milliseconds; waits without limit by default. */
  readonly timeoutMs?: number | undefined;
  /** Receives a result that arrives after the wait has ended. MUST NOT throw. */
  readonly discard?: (tooLate: T) => void;
}

/**
 * Waits for a promise, and always removes its timer and listener. If the wait ends early, the work
 * behind the promise is not cancelled.
 *
 * @typeParam T Type of the result.
 * @param runtime Runtime with the timers.
 * @param promise Promise to wait for.
 * @param options Time, signal and error message.
 * @returns The result of the promise.
 * @throws {TimeoutError} If the promise takes longer than `timeoutMs`.
 * @throws {RangeError} If `timeoutMs` is negative or not a number.
 */
export function within<T>(
  runtime: Runtime,
  promise: Promise<T>,
  options: WithinOptions<T> = {},
): Promise<T> {
  const { late = "No result within", signal, timeoutMs, discard } = options;
  return new Promise((resolve, reject) => {
    const done = () => {
      runtime.clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (reason: unknown) => {
      done();
      reject(reason);
      // A rejection must not stay unhandled.
      promise.then(discard, () => {});
    };
    const onAbort = () => giveUp(signal?.reason);
    let timer: Timer | undefined;
    try {
      timer = startTimer(
        runtime,
        timeoutMs,
        (ms) => giveUp(new TimeoutError(`${late} ${ms} ms`, ms)),
      );
    } catch (error) {
      return giveUp(error); // `giveUp` also discards a later result.
    }
    if (signal?.aborted) return onAbort();
    signal?.addEventListener("abort", onAbort);
    promise.finally(done).then(resolve, reject);
  });
}

/** Options for {@linkcode waitFor}. */
export interface WaitForOptions {
  /** Name of what is awaited, without an article, for the error `No … within 5 ms`. */
  readonly what: string;
  /** Timeout of the wait, in milliseconds; unlimited by default. */
  readonly timeoutMs?: number | undefined;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for a promise, with a timeout. If the wait ends early, the work behind the promise is not
 * cancelled.
 *
 * @typeParam T The type of the promised value.
 * @param runtime Runtime with the timers.
 * @param options See {@linkcode WaitForOptions}.
 * @returns The promised value.
 * @throws {TimeoutError} If the promise takes longer than `timeoutMs`.
 */
export function waitFor<T>(
  runtime: Runtime,
  promise: Promise<T>,
  options: WaitForOptions,
): Promise<T> {
  const { what, ...rest } = options;
  return within(runtime, promise, { late: `No ${what} within`, ...rest });
}

/**
 * Waits for a promise for a limited time.
 *
 * @param runtime Runtime with the timers.
 * @param promise The promise to wait for.
 * @param timeoutMs The limit, in milliseconds.
 * @returns True if the promise was fulfilled in time; false after the limit.
 * @throws The reason of the promise, if it is rejected in time.
 */
export function settlesWithin(
  runtime: Runtime,
  promise: Promise<unknown>,
  timeoutMs: number,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = startTimer(runtime, timeoutMs, () => resolve(false));
    promise.finally(() => runtime.clearTimeout(timer)).then(() => resolve(true), reject);
  });
}

/**
 * Waits until a time has passed or a signal is aborted, then removes its timer and listeners.
 *
 * @param runtime Runtime with the timers.
 * @param ms The time, in milliseconds.
 * @param signals The signals, each of which ends the pause.
 */
export function pause(
  runtime: Runtime,
  ms: number,
  ...signals: readonly AbortSignal[]
): Promise<void> {
  if (ms <= 0 || signals.some(({ aborted }) => aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      runtime.clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = startTimer(runtime, ms, done);
    for (const signal of signals) signal.addEventListener("abort", done, { once: true });
  });
}

/** The calls that wait for each signal. Only one listener is added to the signal itself. */
const waiting = new WeakMap<AbortSignal, Set<(signal: AbortSignal) => void>>();

/**
 * Calls a function when a signal aborts. A signal compares each new listener with all others, so
 * that ten thousand listeners would take seconds to add.
 *
 * @param signal A signal that has not aborted.
 * @param call Receives the signal. MUST NOT throw, and MUST be passed to {@linkcode offAbort}
 * later.
 */
export function onAbort(signal: AbortSignal, call: (signal: AbortSignal) => void): void {
  const calls = waiting.get(signal);
  if (calls !== undefined) return void calls.add(call);
  waiting.set(signal, new Set([call]));
  signal.addEventListener("abort", onAborted);
}

/** Takes back {@linkcode onAbort}. Idempotent. */
export function offAbort(signal: AbortSignal, call: (signal: AbortSignal) => void): void {
  const calls = waiting.get(signal);
  // A listener that is left would keep a signal of `AbortSignal.any` in memory.
  if (!calls?.delete(call) || calls.size > 0) return;
  waiting.delete(signal);
  signal.removeEventListener("abort", onAborted);
}

/**
 * Waits for a promise until a signal aborts. The work behind the promise is not cancelled.
 *
 * @param promise Promise to wait for.
 * @param signal Ends the wait with its reason; by default, nothing does.
 * @returns The result of the promise.
 */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const end = ({ reason }: AbortSignal) => reject(reason);
    promise.finally(() => offAbort(signal, end)).then(resolve, reject);
    if (signal.aborted) end(signal);
    else onAbort(signal, end);
  });
}

function onAborted({ currentTarget }: Event): void {
  const signal = currentTarget as AbortSignal;
  const calls = waiting.get(signal);
  waiting.delete(signal);
  signal.removeEventListener("abort", onAborted);
  calls?.forEach((call) => call(signal));
}
