/**
 * Waiting for a stream that the runtime opens when the peer allows it.
 *
 * @module
 */
import type { OpenStreamOptions } from "../connection.ts";
import { within } from "../within.ts";

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
export function opened<T>(
  opening: Promise<T>,
  options: OpenStreamOptions,
  handlers: { readonly late: (stream: T) => void },
): Promise<T> {
  const { signal, timeoutMs } = options;
  if (signal === undefined && timeoutMs === undefined) return opening;
  const late = "Cannot open stream: the peer allowed none within";
  return within(opening, { late, signal, timeoutMs, discard: handlers.late });
}
