/**
 * Calling what the application wrote, where nobody waits for it.
 *
 * @module
 */

/**
 * Calls a function that may fail, now or later.
 *
 * @param call The function.
 * @param failed Told what it throws, or what its promise rejects with. MUST NOT throw.
 * @returns What it is busy with, which never rejects; `undefined` if it is done.
 */
export function attempt(
  call: () => unknown,
  failed: (error: unknown) => void,
): Promise<unknown> | undefined {
  try {
    const running = call();
    // Types let an asynchronous function through where nothing is returned.
    return running instanceof Promise ? running.catch(failed) : undefined;
  } catch (error) {
    return void failed(error);
  }
}
