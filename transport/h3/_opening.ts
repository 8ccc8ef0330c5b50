/**
 * Waiting for a stream that the runtime opens when the peer allows it.
 *
 * @module
 */
import type { StreamDirection } from "../connection.ts";
import { within } from "../within.ts";

/**
 * Waits for a stream, as long as its user does. The runtime can not be told to
 * give up: a stream that comes too late is ended.
 *
 * @typeParam T The stream.
 * @param opening The stream that is being opened.
 * @param options Its `signal` and `timeoutMs` give up waiting; the kind of stream is for the error.
 * @param handlers Ends a stream that nobody waits for any more.
 * @returns The stream.
 * @throws {TimeoutError} If `timeoutMs` passed first.
 */
export function opened<T>(
  opening: Promise<T>,
  options: {
    readonly kind: StreamDirection;
    readonly signal: AbortSignal | undefined;
    readonly timeoutMs: number | undefined;
  },
  handlers: { readonly late: (stream: T) => void },
): Promise<T> {
  const { signal, timeoutMs, kind } = options;
  if (signal === undefined && timeoutMs === undefined) return opening;
  const late = `Cannot open stream: the peer allowed no ${kind} stream within`;
  return within(opening, { late, signal, timeoutMs, discard: handlers.late });
}
