/** Calls to application functions that no caller awaits. */

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
