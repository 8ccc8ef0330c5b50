/** Opening of streams that ends by time or by signal. */
import { TimeoutError } from "../errors.ts";
import type { StreamDirection } from "./connection.ts";
import { within } from "../base/wait.ts";
import type { Runtime } from "../base/runtime.ts";

/**
 * Waits for a stream no longer than its user wants. The runtime cannot cancel the opening: a stream
 * that opens too late goes to `late`, which ends it.
 *
 * @typeParam T Type of the stream.
 * @param runtime Runtime that has the timers.
 * @param opening Promise of the stream.
 * @param options `signal` and `leftMs` end the wait; `kind` and `timeoutMs` appear in the error.
 * @param handlers Handler of a stream that opened too late.
 * @returns The stream.
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function opened<T>(
  runtime: Runtime,
  opening: Promise<T>,
  options: {
    readonly kind: StreamDirection;
    readonly signal: AbortSignal | undefined;
    readonly timeoutMs: number | undefined;
    /** Remaining part of `timeoutMs`. */
    readonly leftMs: number | undefined;
  },
  handlers: { readonly late: (stream: T) => void },
): Promise<T> {
  const { signal, timeoutMs, leftMs, kind } = options;
  if (signal === undefined && leftMs === undefined) return opening;
  return within(runtime, opening, { signal, timeoutMs: leftMs, discard: handlers.late })
    .catch((error) => {
      if (!(error instanceof TimeoutError)) throw error;
      const rule = `the peer allowed no ${kind} stream within ${timeoutMs} ms`;
      throw new TimeoutError(`Cannot open stream: ${rule}`, timeoutMs!);
    });
}
