/**
 * Framing from before the drafts, with the subprotocol `webtransport`: one frame per message,
 * without lengths.
 *
 * @module
 */
import { Cursor } from "./_cursor.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import { FrameType, type QmuxFrame, StreamBit } from "./frames.ts";

const decoder = new TextDecoder();

/**
 * Decodes the frame of a message. A STREAM frame has no offset field and follows the bytes received
 * before; its `offset` is `NaN`.
 *
 * @throws {QmuxError} If the frame cannot be decoded.
 */
export function decodeLegacyFrame(message: Uint8Array): QmuxFrame {
  const cursor = new Cursor(message, QuicError.frameEncodingError);
  const type = cursor.varint();
  const first = cursor.varint(); // Stream number, or the code of a close.
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
