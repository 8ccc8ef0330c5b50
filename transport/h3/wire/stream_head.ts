/** The heads of streams (RFC 9114 section 6.2, draft-ietf-webtrans-http3 section 4). */
import { FIRST_READ_BYTES, ReadBuffers } from "../../quic/receive_half.ts";
import { concat } from "../../../base/bytes.ts";
import { readVarint, varintLength, varintLengthAt, writeVarint } from "../../quic/varint.ts";

/**
 * The head of a stream, with the data read so far. The head consists of the type and, for a
 * WebTransport stream, the session ID (draft-ietf-webtrans-http3 sections 4.2 and 4.3).
 */
export interface StreamHead {
  /** The reader for the rest of the stream. */
  readonly reader: ReadableStreamBYOBReader;
  /** The type of a unidirectional stream, or of the first frame of a bidirectional stream. */
  readonly type: number;
  /** The session's stream ID, if this is a WebTransport stream. */
  readonly sessionId: number | undefined;
  /** The bytes that were read after the head. */
  readonly held: Uint8Array | undefined;
  /** True if more bytes probably follow, because the read filled the buffer. */
  readonly isFull: boolean;
  /** All bytes read, including the head. */
  readonly whole: Uint8Array;
}

/**
 * Reads the head of a stream.
 *
 * @param sessionType The type that precedes a session ID.
 * @returns The head, or `"empty"` if the stream ends without a byte, or `undefined` if the stream
 * fails or ends inside the head.
 */
export async function readHead(
  reader: ReadableStreamBYOBReader,
  sessionType: number,
): Promise<StreamHead | "empty" | undefined> {
  let bytes: Uint8Array | undefined;
  while (true) {
    let result;
    try {
      result = await reader.read(ReadBuffers.take(FIRST_READ_BYTES));
    } catch {
      return undefined; // The stream was reset, or the connection has ended.
    }
    if (result.done) return bytes === undefined ? "empty" : undefined;
    bytes = bytes === undefined ? result.value : concat([bytes, result.value]);
    const head = parseHead(bytes, reader, sessionType);
    if (head !== undefined) return head;
  }
}

function parseHead(
  whole: Uint8Array,
  reader: ReadableStreamBYOBReader,
  sessionType: number,
): StreamHead | undefined {
  const { byteLength } = whole;
  let end = varintLengthAt(whole[0]!);
  if (byteLength < end) return undefined;
  const type = readVarint(whole, 0);
  let sessionId: number | undefined;
  if (type === sessionType) {
    const at = end;
    if (byteLength === at) return undefined;
    end = at + varintLengthAt(whole[at]!);
    if (byteLength < end) return undefined;
    sessionId = readVarint(whole, at);
  }
  const held = end === byteLength ? undefined : whole.subarray(end);
  return { reader, type, sessionId, held, isFull: byteLength === FIRST_READ_BYTES, whole };
}

/** The type of a unidirectional WebTransport stream. */
export const UNIDIRECTIONAL_STREAM = 0x54;

/**
 * Encodes the head of a stream.
 *
 * @param type The type of the stream, or of the first frame.
 * @param id The session's stream ID.
 */
export function streamHead(type: number, id: number): Uint8Array {
  const head = new Uint8Array(2 + varintLength(id));
  writeVarint(head, writeVarint(head, 0, type), id);
  return head;
}
