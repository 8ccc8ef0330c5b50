/** QUIC error codes that QMux closes a connection with (RFC 9000 section 20.1). */
import { ProtocolError } from "../../errors.ts";

/** QUIC transport error codes. */
export const QuicError = {
  /** Close without an error. */
  noError: 0x0,
  /** Internal failure of the sending end. */
  internalError: 0x1,
  /** More bytes received than granted. */
  flowControlError: 0x3,
  /** More streams opened than granted. */
  streamLimitError: 0x4,
  /** Frame for a stream in a state that does not allow the frame. */
  streamStateError: 0x5,
  /** Changed final size of a stream. */
  finalSizeError: 0x6,
  /** Undecodable frame. */
  frameEncodingError: 0x7,
  /** Undecodable or forbidden transport parameters. */
  transportParameterError: 0x8,
  /** Any other protocol violation. */
  protocolViolation: 0xa,
} as const;

/** Protocol violation by the peer, with the QUIC error code. */
export class QmuxError extends ProtocolError {
  /** One of {@linkcode QuicError}. */
  readonly quicCode: number;

  /**
   * Creates the error.
   *
   * @param quicCode One of {@linkcode QuicError}.
   * @param message Expected and received input.
   */
  constructor(quicCode: number, message: string) {
    super(message);
    this.quicCode = quicCode;
  }
}
