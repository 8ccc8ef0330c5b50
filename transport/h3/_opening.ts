/**
 * What opening a stream of a session takes: its head, and its order.
 *
 * @module
 */
import type { OpenStreamOptions } from "../connection.ts";
import { varintLength, writeVarint } from "../quic/varint.ts";

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
