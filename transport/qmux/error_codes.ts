/**
 * Error codes of QUIC that QMux closes a connection with, RFC 9000 section 20.1.
 *
 * @module
 */
import { ProtocolError } from "../../errors.ts";

/** Codes of QUIC's transport. */
export const QuicError = {
  /** Nothing went wrong. */
  noError: 0x0,
  /** This end failed by itself. */
  internalError: 0x1,
  /** More bytes than were allowed. */
  flowControlError: 0x3,
  /** More streams than were allowed. */
  streamLimitError: 0x4,
  /** A frame for a stream that cannot have it. */
  streamStateError: 0x5,
  /** A stream that changed its final size. */
  finalSizeError: 0x6,
  /** A frame that cannot be read. */
  frameEncodingError: 0x7,
  /** Parameters that cannot be read, or are not allowed. */
  transportParameterError: 0x8,
  /** Another breach of the rules. */
  protocolViolation: 0xa,
} as const;

/** What the peer did wrong, with QUIC's code of it. */
export class QmuxError extends ProtocolError {
  /** One of {@linkcode QuicError}. */
  readonly quicCode: number;

  /**
   * Creates the error.
   *
   * @param quicCode One of {@linkcode QuicError}.
   * @param message What was expected, and what came.
   */
  constructor(quicCode: number, message: string) {
    super(message);
    this.quicCode = quicCode;
  }
}
