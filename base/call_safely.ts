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
