/**
 * Waiting for a stream that QUIC opens when the peer allows it.
 *
 * @module
 */
import { TimeoutError } from "../errors.ts";
import type { StreamDirection } from "./connection.ts";
import { within } from "./within.ts";

/**
 * Waits for a stream, as long as its user does. The runtime can not be told to
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
