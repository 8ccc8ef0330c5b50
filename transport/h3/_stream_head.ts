/**
 * What a stream begins with: its type, and for one of WebTransport its session
 * (RFC 9114 section 6.2, draft-ietf-webtrans-http3 sections 4.2 and 4.3).
 *
 * @module
 */
import { concat } from "../quic/bytes.ts";
import { FIRST_READ_BYTES } from "../quic/receive_half.ts";
import { readVarint, varintLengthAt } from "../quic/varint.ts";

/** The beginning of a stream. */
export interface StreamHead {
  /** Reads the rest. */
  readonly reader: ReadableStreamBYOBReader;
  /** The type of a unidirectional stream, or of the first frame of a bidirectional one. */
  readonly type: number;
  /** The session, for a stream of WebTransport. */
  readonly sessionId: number | undefined;
  /** What came after the head. */
  readonly held: Uint8Array | undefined;
  /** Whether there is surely more: what was read filled its buffer. */
  readonly isFull: boolean;
  /** All of it. */
  readonly whole: Uint8Array;
}

/**
 * Reads the beginning of a stream.
 *
 * @param reader Reads the stream.
 * @param sessionType The type that is followed by a session.
 * @returns The beginning; `empty` if the stream ends without a byte, `undefined` if it ends inside of
 * the head, or breaks.
 */
export async function readHead(
  reader: ReadableStreamBYOBReader,
  sessionType: number,
): Promise<StreamHead | "empty" | undefined> {
  let bytes: Uint8Array | undefined;
  while (true) {
    let result;
    try {
      result = await reader.read(new Uint8Array(FIRST_READ_BYTES));
    } catch {
      return undefined; // Reset, or the connection is over.
    }
    if (result.done) return bytes === undefined ? "empty" : undefined;
    bytes = bytes === undefined ? result.value : concat(bytes, result.value);
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
