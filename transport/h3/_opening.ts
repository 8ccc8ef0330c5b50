/**
 * Waiting for a stream that the runtime opens when the peer allows it.
 *
 * @module
 */
import { TimeoutError } from "../../errors.ts";
import type { OpenStreamOptions } from "../connection.ts";

/**
 * Waits for a stream, as long as its user does. The runtime can not be told to
 * give up: a stream that comes too late is ended.
 *
 * @typeParam T The stream.
 * @param opening The stream that is being opened.
 * @param options Its `signal` and `timeoutMs` give up waiting.
 * @param handlers Ends a stream that nobody waits for any more.
 * @returns The stream.
 * @throws {TimeoutError} If `timeoutMs` passed first.
 */
export async function opened<T>(
  opening: Promise<T>,
  options: OpenStreamOptions,
  handlers: { readonly late: (stream: T) => void },
): Promise<T> {
  const { signal, timeoutMs } = options;
  if (signal === undefined && timeoutMs === undefined) return await opening;
  const { promise: givenUp, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = timeoutMs === undefined ? undefined : setTimeout(() => {
    const message = `Cannot open stream: the peer allowed none within ${timeoutMs} ms`;
    reject(new TimeoutError(message, timeoutMs));
  }, timeoutMs);
  try {
    return await Promise.race([opening, givenUp]);
  } catch (error) {
    opening.then(handlers.late, () => {});
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}
