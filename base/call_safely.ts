/** Calls to application functions that no caller awaits. */
import { checkType } from "./error_text.ts";

/** Maximum number of printed errors of a callback. One that fails once may fail on every change. */
const MAX_PRINTED = 16;

/**
 * Calls a function that may throw or reject.
 *
 * @param call The function to call.
 * @param failed Receives the thrown error, or the rejection of the returned promise. MUST NOT
 * throw.
 * @returns A promise that resolves once the call has settled, and never rejects; `undefined` if the
 * call is already complete.
 */
export function attempt(
  call: () => unknown,
  failed: (error: unknown) => void,
): Promise<unknown> | undefined {
  try {
    const running = call();
    // The type allows an asynchronous function, although the result is not used.
    return running instanceof Promise ? running.catch(failed) : undefined;
  } catch (error) {
    return void failed(error);
  }
}

/**
 * Handles the result of a call that no caller awaits. The type of a callback without a result also
 * allows an asynchronous function, whose rejection would otherwise end the process.
 *
 * @param result The result, or a promise.
 * @param failed Receives the rejection. MUST NOT throw.
 * @returns A promise that resolves once the result has settled, and never rejects; `undefined` if
 * the result is no promise.
 */
export function unawaited(
  result: unknown,
  failed: (error: unknown) => void,
): Promise<unknown> | undefined {
  return attempt(() => result, failed);
}

/** Makes a function that ends a subscription disposable. */
export function disposable(end: () => void): (() => void) & Disposable {
  return Object.assign(end, { [Symbol.dispose]: end });
}

/**
 * Wraps a callback that an application subscribes. If it throws, the error is printed, up to 16
 * times.
 *
 * @param what The callback, for the printed line.
 * @returns A function that calls the callback, and does not throw.
 * @throws {TypeError} If it is not a function.
 */
export function subscriber<A extends unknown[]>(
  what: string,
  callback: (...values: A) => unknown,
): (...values: A) => void {
  checkType("subscribe", "callback", callback);
  let printed = 0;
  return (...values) =>
    void attempt(() => callback(...values), (error) => {
      // deno-lint-ignore no-console
      if (++printed <= MAX_PRINTED) console.error(`${what} failed:`, error);
    });
}
