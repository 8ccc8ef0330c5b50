/** Capsules of WebTransport over HTTP/3 (RFC 9297 section 3). */
import { cutReason, MAX_WEBTRANSPORT_REASON_BYTES } from "../../close_info.ts";
import {
  encodeTlv,
  readOnlyBigVarint,
  readOnlyVarint,
  type TlvHandling,
  TlvParser,
} from "./tlv.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { encodeVarint } from "../../quic/varint.ts";

/** The known capsule types. */
export const CapsuleType = {
  /** DATAGRAM: contains a datagram. */
  datagram: 0x0,
  /** Closes the session with a code and a reason. */
  close: 0x2843,
  /** Asks the peer to end the session soon. */
  drain: 0x78ae,
  /** The limit on the bytes of all streams, in total. */
  maxData: 0x190b_4d3d,
  /** Valid over HTTP/2 only. Over HTTP/3, this capsule is an error. */
  maxStreamData: 0x190b_4d3e,
  /** The limit on bidirectional streams, in total. */
  maxStreamsBidi: 0x190b_4d3f,
  /** The limit on unidirectional streams, in total. */
  maxStreamsUni: 0x190b_4d40,
  /** The sender waits for a higher `maxData`. */
  dataBlocked: 0x190b_4d41,
  /** Valid over HTTP/2 only. Over HTTP/3, this capsule is an error. */
  streamDataBlocked: 0x190b_4d42,
  /** The sender waits for a higher `maxStreamsBidi`. */
  streamsBlockedBidi: 0x190b_4d43,
  /** The sender waits for a higher `maxStreamsUni`. */
  streamsBlockedUni: 0x190b_4d44,
} as const;

export interface Capsule {
  /** One of {@linkcode CapsuleType}. */
  readonly type: number;
  /** The payload, which may be a view of the received chunk. */
  readonly payload: Uint8Array;
}

/** The content of a close capsule. */
interface CloseCapsule {
  /** The close code, an unsigned 32-bit integer. */
  readonly closeCode: number;
  /** The reason as text, which may be empty. */
  readonly reason: string;
}

/**
 * The maximum size of a datagram in a capsule. A longer datagram is dropped. The limit is the size
 * of a packet. It is needed because only the number of held datagrams is limited, not their total
 * size.
 */
export const MAX_DATAGRAM_CAPSULE_BYTES = 1_500;

/**
 * The largest valid number of streams of one direction, because the largest stream ID is 2^62 - 1.
 */
const MAX_STREAM_COUNT = 2n ** 60n;

const CLOSE_CODE_BYTES = 4;
const MAX_VARINT_BYTES = 8;

/** The maximum payload size of each type. A capsule with a longer payload is malformed. */
const MAX_PAYLOAD_BYTES: ReadonlyMap<number, number> = new Map([
  [CapsuleType.close, CLOSE_CODE_BYTES + MAX_WEBTRANSPORT_REASON_BYTES],
  [CapsuleType.drain, 0],
  [CapsuleType.maxData, MAX_VARINT_BYTES],
  // The payload consists of a stream ID and the limit.
  [CapsuleType.maxStreamData, 2 * MAX_VARINT_BYTES],
  [CapsuleType.maxStreamsBidi, MAX_VARINT_BYTES],
  [CapsuleType.maxStreamsUni, MAX_VARINT_BYTES],
  [CapsuleType.dataBlocked, MAX_VARINT_BYTES],
  [CapsuleType.streamDataBlocked, 2 * MAX_VARINT_BYTES],
  [CapsuleType.streamsBlockedBidi, MAX_VARINT_BYTES],
  [CapsuleType.streamsBlockedUni, MAX_VARINT_BYTES],
]);

/**
 * The maximum size of the head of a frame or capsule. It consists of a type and a length, both of
 * which are varints of up to 8 bytes.
 */
const MAX_HEAD_BYTES = 2 * MAX_VARINT_BYTES;

/**
 * The maximum size of a DATA frame that contains a close: two heads, the code, and the longest
 * reason.
 */
export const MAX_CLOSE_FRAME_BYTES: number = 2 * MAX_HEAD_BYTES + CLOSE_CODE_BYTES +
  MAX_WEBTRANSPORT_REASON_BYTES;

const encoder = new TextEncoder();

/** Decodes reasons, which may start with a byte order mark. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Encodes a capsule.
 *
 * @param type One of {@linkcode CapsuleType}, or any other type.
 * @throws {RangeError} If the type is not an integer from 0 to 2^53 - 1.
 */
export function encodeCapsule(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeTlv(type, payload);
}

/**
 * Encodes a capsule whose payload is one integer.
 *
 * @param type One of {@linkcode CapsuleType}, or any other type.
 * @throws {RangeError} If the type or the value is not an integer from 0 to 2^53 - 1.
 */
export function encodeVarintCapsule(type: number, value: number): Uint8Array<ArrayBuffer> {
  return encodeTlv(type, encodeVarint(value));
}

/**
 * Decodes a payload that consists of one integer.
 *
 * @returns The integer. It is rounded if it is above 2^53 - 1.
 * @throws {H3ProtocolError} If the payload is not exactly one varint.
 */
export function decodeVarintCapsule(payload: Uint8Array): number {
  const value = readOnlyVarint(payload);
  if (value !== undefined) return value;
  throw notOneVarint(payload);
}

/**
 * Decodes a payload that is a number of streams.
 *
 * @returns The number. It is rounded if it is above 2^53 - 1.
 * @throws {H3ProtocolError} If the payload is not exactly one varint, or if the number is above
 * {@linkcode MAX_STREAM_COUNT}; the code is then `flowControlError`.
 */
export function decodeStreamCount(payload: Uint8Array): number {
  const count = readOnlyBigVarint(payload);
  if (count === undefined) throw notOneVarint(payload);
  if (count <= MAX_STREAM_COUNT) return Number(count);
  throw new H3ProtocolError(
    H3Error.flowControlError,
    `Cannot read capsule: a number of streams must be at most 2^60, received ${count}`,
  );
}

/**
 * Encodes a capsule that closes a session.
 *
 * @param close The code and reason. The reason is cut at 1,024 bytes, but never inside a character.
 * @throws {RangeError} If the code is not an integer from 0 to 2^32 - 1.
 *
 * @example Usage
 * ```ts
 * import { CapsuleParser, decodeCloseCapsule, encodeCloseCapsule } from "./capsules.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const parser = new CapsuleParser();
 * parser.push(encodeCloseCapsule({ closeCode: 4503, reason: "bye" }));
 * assertEquals(decodeCloseCapsule(parser.next()!.payload), { closeCode: 4503, reason: "bye" });
 * ```
 */
export function encodeCloseCapsule(close: CloseCapsule): Uint8Array<ArrayBuffer> {
  const { closeCode, reason } = close;
  if (!Number.isInteger(closeCode) || closeCode < 0 || closeCode > 0xffff_ffff) {
    throw new RangeError(
      `Cannot encode close: code must be an integer from 0 to ${0xffff_ffff}, received ${closeCode}`,
    );
  }
  const text = encoder.encode(cutReason(reason, MAX_WEBTRANSPORT_REASON_BYTES));
  const payload = new Uint8Array(CLOSE_CODE_BYTES + text.length);
  new DataView(payload.buffer).setUint32(0, closeCode);
  payload.set(text, CLOSE_CODE_BYTES);
  return encodeTlv(CapsuleType.close, payload);
}

/**
 * Decodes the payload of a capsule that closes a session.
 *
 * @throws {H3ProtocolError} If the payload is too short, too long, or not UTF-8.
 */
export function decodeCloseCapsule(payload: Uint8Array): CloseCapsule {
  const maxBytes = CLOSE_CODE_BYTES + MAX_WEBTRANSPORT_REASON_BYTES;
  if (payload.length < CLOSE_CODE_BYTES || payload.length > maxBytes) {
    throw malformed(
      `close must have ${CLOSE_CODE_BYTES} to ${maxBytes} bytes, received ${payload.length}`,
    );
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const closeCode = view.getUint32(0);
  if (payload.length === CLOSE_CODE_BYTES) return { closeCode, reason: "" };
  try {
    return { closeCode, reason: decoder.decode(payload.subarray(CLOSE_CODE_BYTES)) };
  } catch (cause) {
    throw malformed("the reason of a close must be UTF-8", { cause });
  }
}

/**
 * Splits the content of a CONNECT stream into capsules.
 *
 * - **Known types** are returned complete; each type has a maximum size. A datagram longer than
 *   {@linkcode MAX_DATAGRAM_CAPSULE_BYTES} is dropped, because datagrams are unreliable.
 * - **Unknown types** are skipped without buffering.
 * - **Errors** are final: each later call throws the error again.
 *
 * Read all capsules before you push the next chunk, because unread bytes are copied.
 */
export class CapsuleParser {
  readonly #parser = new TlvParser(handlingOf);

  /**
   * True at the boundary between two capsules. A stream that ends anywhere else is a {@linkcode
   * H3Error.messageError}.
   */
  get isBetweenCapsules(): boolean {
    return this.#parser.isBetween;
  }

  /**
   * Adds bytes.
   *
   * @param chunk The bytes. They are not copied, so they MUST NOT change afterwards.
   */
  push(chunk: Uint8Array): void {
    this.#parser.push(chunk);
  }

  /**
   * Returns the next capsule.
   *
   * @returns The capsule; `undefined` if more bytes are needed.
   * @throws {H3ProtocolError} If a capsule is too long for its type.
   */
  next(): Capsule | undefined {
    return this.#parser.next();
  }
}

function handlingOf(type: number, length: number): TlvHandling {
  if (type === CapsuleType.datagram) {
    return length <= MAX_DATAGRAM_CAPSULE_BYTES ? "whole" : "skip";
  }
  const maxBytes = MAX_PAYLOAD_BYTES.get(type);
  if (maxBytes === undefined) return "skip";
  if (length <= maxBytes) return "whole";
  throw malformed(
    `type 0x${type.toString(16)} must have at most ${maxBytes} bytes, received ${length}`,
  );
}

function notOneVarint(payload: Uint8Array): H3ProtocolError {
  return malformed(`payload must be one varint, received ${payload.length} bytes`);
}

function malformed(message: string, options?: ErrorOptions): H3ProtocolError {
  return new H3ProtocolError(H3Error.messageError, `Cannot read capsule: ${message}`, options);
}
