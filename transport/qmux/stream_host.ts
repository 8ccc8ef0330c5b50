/**
 * What the two directions of a stream need of their connection.
 *
 * @module
 */
import type { ReceiveCredit } from "../_flow_control.ts";
import type { SendHalf } from "./send_half.ts";
import type { QmuxStream } from "./stream.ts";

/** A connection, as its streams see it. */
export interface StreamHost {
  /** Bytes of all streams that the peer may send. */
  readonly dataReceived: ReceiveCredit;
  /** Bytes of all streams that this end may send now. */
  readonly dataLeft: number;
  /** Counts bytes of streams that were put into a record. */
  dataSent(byteLength: number): void;
  /** Puts bytes of a stream into a record at once, if nothing is ahead of them; tells how many. */
  sendNow(half: SendHalf, bytes: Uint8Array): number;
  /** A stream has something to send. */
  wantsToSend(half: SendHalf): void;
  /** A stream has nothing to send any more. */
  withdrawn(half: SendHalf): void;
  /** A stream has a frame without a payload to send. */
  wantsControl(stream: QmuxStream): void;
  /** A direction of a stream is over. */
  halfEnded(stream: QmuxStream): void;
}

/**
 * Reads the code that an abort or a cancel carries.
 *
 * @param reason What the application gave.
 * @returns Its `streamErrorCode`, or 0 where it has none that is an unsigned number of 32 bits.
 */
export function codeOf(reason: unknown): number {
  if (typeof reason !== "object" || reason === null) return 0;
  const { streamErrorCode } = reason as { streamErrorCode?: unknown };
  return typeof streamErrorCode === "number" && streamErrorCode >>> 0 === streamErrorCode
    ? streamErrorCode
    : 0;
}
