/**
 * Stream heads and send orders for opening streams of a session.
 *
 * @module
 */
import type { OpenStreamOptions } from "../connection.ts";
import { varintLength, writeVarint } from "../quic/varint.ts";

/** Type of a unidirectional WebTransport stream. */
export const UNIDIRECTIONAL_STREAM = 0x54;

/** Highest send order, so that stream heads go first. */
const HEAD_SEND_ORDER = 2 ** 31 - 1;

/** Options for opening a stream of a session. */
export interface OpenSessionStreamOptions extends OpenStreamOptions {
  /**
   * Waits for stream credit; `false` fails with a `RangeError` instead.
   *
   * @default {true}
   */
  readonly waitUntilAvailable?: boolean;
}

/**
 * Encodes the head of a stream.
 *
 * @param type Type of the stream, or of the first frame.
 * @param id Stream id of the session.
 * @returns Bytes of the head.
 */
export function headOf(type: number, id: number): Uint8Array {
  const head = new Uint8Array(2 + varintLength(id));
  writeVarint(head, writeVarint(head, 0, type), id);
  return head;
}

/**
 * Converts options for opening a stream.
 *
 * @param options Options of the caller.
 * @returns Options of the runtime. With a send order, the head gets the highest order, ahead of all
 * payload.
 */
export function quicOptions(options: OpenSessionStreamOptions): Deno.QuicSendStreamOptions {
  const { sendOrder, waitUntilAvailable = true } = options;
  return sendOrder === undefined
    ? { waitUntilAvailable }
    : { waitUntilAvailable, sendOrder: HEAD_SEND_ORDER };
}
