/**
 * What opening a stream of a session takes: its head, and waiting for the
 * runtime, which opens it when the peer allows that.
 *
 * @module
 */
import { TimeoutError } from "../../errors.ts";
import type { OpenStreamOptions, StreamDirection } from "../connection.ts";
import { within } from "../within.ts";
import { varintLength, writeVarint } from "./varint.ts";

/** Type of a unidirectional WebTransport stream. */
export const UNIDIRECTIONAL_STREAM = 0x54;

/** The highest there is: heads go first. */
const HEAD_SEND_ORDER = 2 ** 31 - 1;

/** Options for opening a stream of a session. */
export interface OpenSessionStreamOptions extends OpenStreamOptions {
  /**
   * Whether to wait while the peer allows no more streams.
   *
   * @default {true}
   */
  readonly waitUntilAvailable?: boolean;
}

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

/**
 * The head of a stream.
 *
 * @param type Type of the stream, or of the frame that begins it.
 * @param id The session.
 * @returns Its bytes.
 */
export function headOf(type: number, id: number): Uint8Array {
  const head = new Uint8Array(2 + varintLength(id));
  writeVarint(head, writeVarint(head, 0, type), id);
  return head;
}

/**
 * How the runtime opens a stream.
 *
 * @param options Options of who asks for it.
 * @returns Those of the runtime; where there is an order, the head goes ahead of all payload.
 */
export function quicOptions(options: OpenSessionStreamOptions): Deno.QuicSendStreamOptions {
  const { sendOrder, waitUntilAvailable = true } = options;
  return sendOrder === undefined
    ? { waitUntilAvailable }
    : { waitUntilAvailable, sendOrder: HEAD_SEND_ORDER };
}
