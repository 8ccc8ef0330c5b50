/**
 * The framing from before the drafts, whose subprotocol is `webtransport`: one
 * frame a message, and no lengths in it.
 *
 * @module
 */
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { FrameType, type QmuxFrame, StreamBit } from "./frames.ts";

const decoder = new TextDecoder();

/**
 * Reads the frame of a message. A STREAM frame has no offset: its bytes follow
 * those that came before, which is said by `NaN`.
 *
 * @param message The message.
 * @returns Its frame.
 * @throws {QmuxError} If it cannot be read.
 */
export function decodeLegacyFrame(message: Uint8Array): QmuxFrame {
  const cursor = new Cursor(message, QuicError.frameEncodingError);
  const type = cursor.varint();
  const first = cursor.varint(); // A stream, or the code of a close.
  switch (type) {
    case FrameType.stream:
    case FrameType.stream | StreamBit.fin: {
      const data = cursor.take(cursor.left);
      return { kind: "stream", id: first, offset: NaN, data, isFin: type !== FrameType.stream };
    }
    case FrameType.resetStream:
      return { kind: "reset", id: first, code: cursor.varint(), finalSize: undefined };
    case FrameType.stopSending:
      return { kind: "stop", id: first, code: cursor.varint() };
    case FrameType.connectionClose:
    case FrameType.applicationClose:
      return {
        kind: "close",
        isApplication: type === FrameType.applicationClose,
        code: first,
        reason: decoder.decode(cursor.take(cursor.left)),
      };
  }
  throw new QmuxError(
    QuicError.frameEncodingError,
    `There is no frame of type 0x${type.toString(16)}`,
  );
}
