/**
 * Instructions of QPACK's encoder and decoder streams (RFC 9204 sections 4.3 and 4.4). Both ends
 * use the static table only, so nearly all instructions are errors.
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";

/** The only valid encoder instruction: "Set Dynamic Table Capacity" to 0. */
const CAPACITY_OF_0 = 0b0010_0000;

/** Mask of the instruction bits on a decoder stream. */
const DECODER_INSTRUCTION = 0b1100_0000;

/** "Stream Cancellation", valid even though no field refers to the dynamic table. */
const STREAM_CANCELLATION = 0b0100_0000;

/** Mask of a prefix of 6 bits; all ones mean that the integer continues in the next byte. */
const FULL_PREFIX = 0b0011_1111;

/** Most bytes behind the prefix for an integer of 62 bits. */
const MAX_CONTINUATION_BYTES = 9;

/**
 * Checks bytes of the peer's encoder stream, for which this end announces a table of capacity 0.
 *
 * @param bytes Received bytes.
 * @throws {H3ProtocolError} With `qpackEncoderStreamError` if an instruction needs a table.
 */
export function checkEncoderInstructions(bytes: Uint8Array): void {
  const wrong = bytes.find((byte) => byte !== CAPACITY_OF_0);
  if (wrong === undefined) return;
  throw new H3ProtocolError(
    H3Error.qpackEncoderStreamError,
    `Expected no instruction for a dynamic table of capacity 0, received 0x${wrong.toString(16)}`,
  );
}

/** Validator for one decoder stream of the peer. This end never inserts table entries. */
export class DecoderInstructions {
  /** Bytes that the current integer may still have; `undefined` between instructions. */
  #bytesLeft: number | undefined = undefined;

  /**
   * Checks the next bytes.
   *
   * @param bytes Received bytes; instructions may be split anywhere.
   * @throws {H3ProtocolError} With `qpackDecoderStreamError` for an acknowledgment of a missing
   * insert.
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
