/**
 * Instructions of QPACK's encoder and decoder streams (RFC 9204 sections 4.3 and 4.4) where both
 * ends refer to the static table alone: nearly all of them are errors.
 *
 * @module
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";

/** The one instruction that fits a table without room: "the capacity is 0". */
const CAPACITY_OF_0 = 0b0010_0000;

/** The first two bits of an instruction of a decoder. */
const DECODER_INSTRUCTION = 0b1100_0000;

/** "Stream Cancellation". A decoder may send it although nothing refers to its table. */
const STREAM_CANCELLATION = 0b0100_0000;

/** All bits of a prefix of 6 bits: the integer goes on in the next byte. */
const FULL_PREFIX = 0b0011_1111;

/** Bytes behind the prefix that an integer of 62 bits has at most. */
const MAX_CONTINUATION_BYTES = 9;

/**
 * Checks bytes of the peer's encoder stream. This end announces a table of capacity 0.
 *
 * @param bytes The bytes, as they came.
 * @throws {H3ProtocolError} With `qpackEncoderStreamError` if they need a table.
 */
export function checkEncoderInstructions(bytes: Uint8Array): void {
  const wrong = bytes.find((byte) => byte !== CAPACITY_OF_0);
  if (wrong === undefined) return;
  throw new H3ProtocolError(
    H3Error.qpackEncoderStreamError,
    `Expected no instruction for a dynamic table of capacity 0, received 0x${wrong.toString(16)}`,
  );
}

/** Checks the bytes of one decoder stream of a peer. This end never inserts into its table. */
export class DecoderInstructions {
  /** Bytes of the integer under way that may still come; `undefined` between instructions. */
  #bytesLeft: number | undefined = undefined;

  /**
   * Checks what came next.
   *
   * @param bytes The bytes; an instruction may be cut anywhere.
   * @throws {H3ProtocolError} With `qpackDecoderStreamError` if they acknowledge what was never sent.
   */
  check(bytes: Uint8Array): void {
    for (const byte of bytes) {
      if (this.#bytesLeft !== undefined) this.#continue(byte);
      else this.#begin(byte);
    }
  }

  #begin(byte: number): void {
    if ((byte & DECODER_INSTRUCTION) !== STREAM_CANCELLATION) {
      throw failure(`it acknowledges what was never inserted, by 0x${byte.toString(16)}`);
    }
    if ((byte & FULL_PREFIX) === FULL_PREFIX) this.#bytesLeft = MAX_CONTINUATION_BYTES;
  }

  #continue(byte: number): void {
    this.#bytesLeft = byte < 0x80 ? undefined : this.#bytesLeft! - 1;
    if (this.#bytesLeft === 0) throw failure("a stream's number has more than 62 bits");
  }
}

function failure(message: string): H3ProtocolError {
  return new H3ProtocolError(
    H3Error.qpackDecoderStreamError,
    `Cannot read QPACK's decoder stream: ${message}`,
  );
}
