/** Opening of the runtime's streams, which ends by time or by signal. */
import { TimeoutError } from "../../errors.ts";
import type { StreamDirection } from "../connection.ts";
import { within } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";

/** Options for opening a stream. */
export interface OpeningOptions {
  /** Options of the runtime. */
  readonly wire: Deno.QuicSendStreamOptions;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** Time that the caller allows in milliseconds, for the error. */
  readonly timeoutMs?: number | undefined;
  /** Remaining part of `timeoutMs`. */
  readonly leftMs: number | undefined;
}

/** Opens a stream of one direction. */
export type OpenStream<T> = (
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
) => Promise<T>;

/**
 * Opens a bidirectional stream. The runtime cannot cancel the opening: a stream that opens too late
 * ends at once.
 *
 * @param runtime Runtime that has the timers.
 * @param conn Connection of the stream.
 * @param options Waiting, and options of the runtime.
 * @returns The stream.
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function openBidirectional(
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
): Promise<Deno.QuicBidirectionalStream> {
  return inTime(runtime, conn.createBidirectionalStream(options.wire), "bidirectional", options);
}

/**
 * Opens a unidirectional stream; see {@linkcode openBidirectional}.
 *
 * @param runtime Runtime that has the timers.
 * @param conn Connection of the stream.
 * @param options Waiting, and options of the runtime.
 * @returns The stream.
 * @throws {TimeoutError} If `leftMs` passed first.
 */
export function openUnidirectional(
  runtime: Runtime,
  conn: Deno.QuicConn,
  options: OpeningOptions,
): Promise<Deno.QuicSendStream> {
  return inTime(runtime, conn.createUnidirectionalStream(options.wire), "unidirectional", options);
}

/** Ends a stream that no caller wants any more. */
export function endUnused(stream: Deno.QuicBidirectionalStream | Deno.QuicSendStream): void {
  if ("readable" in stream) stream.readable.cancel().catch(() => {});
  const writable = "writable" in stream ? stream.writable : stream;
  writable.abort().catch(() => {});
}

function inTime<T extends Deno.QuicBidirectionalStream | Deno.QuicSendStream>(
  runtime: Runtime,
  opening: Promise<T>,
  direction: StreamDirection,
  { signal, timeoutMs, leftMs }: OpeningOptions,
): Promise<T> {
  if (signal === undefined && leftMs === undefined) return opening;
  return within(runtime, opening, { signal, timeoutMs: leftMs, discard: endUnused })
    .catch((error) => {
      if (!(error instanceof TimeoutError)) throw error;
      const rule = `the peer allowed no ${direction} stream within ${timeoutMs} ms`;
      throw new TimeoutError(`Cannot open stream: ${rule}`, timeoutMs!);
    });
}
