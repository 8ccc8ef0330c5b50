/**
 * Capsules (RFC 9297 section 3) of WebTransport over HTTP/3.
 *
 * @module
 */
import { cutReason, MAX_WEBTRANSPORT_REASON_BYTES } from "../close_info.ts";
import {
  encodeTlv,
  readOnlyBigVarint,
  readOnlyVarint,
  type TlvHandling,
  TlvParser,
} from "./_tlv.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { encodeVarint } from "../quic/varint.ts";

/** The types of capsules that are known here. */
export const CapsuleType = {
  /** A datagram on the stream. */
  datagram: 0x0,
  /** Ends the session with a code and a reason. */
  close: 0x2843,
  /** Asks to end the session soon. */
  drain: 0x78ae,
  /** How many bytes may be sent on streams, in all. */
  maxData: 0x190b_4d3d,
  /** Of HTTP/2 alone: over HTTP/3 it is an error. */
  maxStreamData: 0x190b_4d3e,
  /** How many bidirectional streams may be opened, in all. */
  maxStreamsBidi: 0x190b_4d3f,
  /** How many unidirectional streams may be opened, in all. */
  maxStreamsUni: 0x190b_4d40,
  /** The sender waits for more `maxData`. */
  dataBlocked: 0x190b_4d41,
  /** Of HTTP/2 alone: over HTTP/3 it is an error. */
  streamDataBlocked: 0x190b_4d42,
  /** The sender waits for more `maxStreamsBidi`. */
  streamsBlockedBidi: 0x190b_4d43,
  /** The sender waits for more `maxStreamsUni`. */
  streamsBlockedUni: 0x190b_4d44,
} as const;

/** A capsule. */
export interface Capsule {
  /** One of {@linkcode CapsuleType}. */
  readonly type: number;
  /** What it carries; it may be a view of the chunk it came in. */
  readonly payload: Uint8Array;
}

/** What a close capsule says. */
export interface CloseCapsule {
  /** Code, 32 bits without a sign. */
  readonly closeCode: number;
  /** Reason in words; may be empty. */
  readonly reason: string;
}

/**
 * Longest datagram that is taken from a capsule; a longer one is dropped. As large as in a packet:
 * what is held for a reader is bound by its number.
 */
export const MAX_DATAGRAM_CAPSULE_BYTES = 1_500;

/** The most streams of one kind that a session has: the numbers of streams end at 2^62 - 1. */
export const MAX_STREAM_COUNT = 2n ** 60n;

const CLOSE_CODE_BYTES = 4;
const MAX_VARINT_BYTES = 8;

/** Longest payloads; what is longer is malformed. */
const MAX_PAYLOAD_BYTES: ReadonlyMap<number, number> = new Map([
  [CapsuleType.close, CLOSE_CODE_BYTES + MAX_WEBTRANSPORT_REASON_BYTES],
  [CapsuleType.drain, 0],
  [CapsuleType.maxData, MAX_VARINT_BYTES],
  // A stream's id goes before the value.
  [CapsuleType.maxStreamData, 2 * MAX_VARINT_BYTES],
  [CapsuleType.maxStreamsBidi, MAX_VARINT_BYTES],
  [CapsuleType.maxStreamsUni, MAX_VARINT_BYTES],
  [CapsuleType.dataBlocked, MAX_VARINT_BYTES],
  [CapsuleType.streamDataBlocked, 2 * MAX_VARINT_BYTES],
  [CapsuleType.streamsBlockedBidi, MAX_VARINT_BYTES],
  [CapsuleType.streamsBlockedUni, MAX_VARINT_BYTES],
]);

const encoder = new TextEncoder();

/**
 * Encodes a capsule.
 *
 * @param type One of {@linkcode CapsuleType}, or any other.
 * @param payload What it carries.
 * @returns The bytes.
 * @throws {RangeError} If the type is not an integer from 0 to 2^53 - 1.
 */
export function encodeCapsule(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeTlv(type, payload);
}

/**
 * Encodes a capsule that carries one number.
 *
 * @param type One of {@linkcode CapsuleType}, or any other.
 * @param value The number.
 * @returns The bytes.
 * @throws {RangeError} If the type or the value is not an integer from 0 to 2^53 - 1.
 */
export function encodeVarintCapsule(type: number, value: number): Uint8Array<ArrayBuffer> {
  return encodeTlv(type, encodeVarint(value));
}

/**
 * Reads the payload of a capsule that carries one number.
 *
 * @param payload The payload.
 * @returns The number; above 2^53 - 1 it is rounded.
 * @throws {H3ProtocolError} If the payload is not exactly one varint.
 */
export function decodeVarintCapsule(payload: Uint8Array): number {
  const value = readOnlyVarint(payload);
  if (value !== undefined) return value;
  throw notOneVarint(payload);
}

/**
 * Reads the payload of a capsule that carries a number of streams.
 *
 * @param payload The payload.
 * @returns The number; above 2^53 - 1 it is rounded.
 * @throws {H3ProtocolError} If the payload is not exactly one varint, or with `flowControlError` if
 * it is more than {@linkcode MAX_STREAM_COUNT}.
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
 * Encodes the capsule that closes a session.
 *
 * @param close Code and reason; the reason is cut at 1,024 bytes, never inside a character.
 * @returns The bytes.
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
 * Reads the payload of the capsule that closes a session.
 *
 * @param payload The payload.
 * @returns Code and reason.
 * @throws {H3ProtocolError} If the payload is too short, too long, or no UTF-8.
 */
export function decodeCloseCapsule(payload: Uint8Array): CloseCapsule {
  const maxBytes = CLOSE_CODE_BYTES + MAX_WEBTRANSPORT_REASON_BYTES;
  if (payload.length < CLOSE_CODE_BYTES || payload.length > maxBytes) {
    throw malformed(
      `close must have ${CLOSE_CODE_BYTES} to ${maxBytes} bytes, received ${payload.length}`,
    );
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  try {
    // A byte order mark is a character of the reason like any other.
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    const reason = decoder.decode(payload.subarray(CLOSE_CODE_BYTES));
    return { closeCode: view.getUint32(0), reason };
  } catch (cause) {
    throw malformed("the reason of a close must be UTF-8", { cause });
  }
}

/**
 * Cuts the content of a CONNECT stream into capsules.
 *
 * - **Known types** come whole, up to a bound of each type; a datagram longer
 *   than {@linkcode MAX_DATAGRAM_CAPSULE_BYTES} is dropped, as datagrams may be.
 * - **Unknown types** are skipped without buffering.
 * - **Errors** are final: a call after one throws again.
 *
 * Take all capsules before pushing more: what is left is copied.
 */
export class CapsuleParser {
  readonly #parser = new TlvParser(handlingOf);

  /** Whether the stream may end here; an end inside a capsule is {@linkcode H3Error.messageError}. */
  get isBetweenCapsules(): boolean {
    return this.#parser.isBetween;
  }

  /**
   * Adds bytes.
   *
   * @param chunk The bytes; they are not copied and MUST stay as they are.
   */
  push(chunk: Uint8Array): void {
    this.#parser.push(chunk);
  }

  /**
   * Takes the next capsule.
   *
   * @returns It, or `undefined` if more bytes are needed first.
   * @throws {H3ProtocolError} If a capsule is too long for its type.
   */
  next(): Capsule | undefined {
    return this.#parser.next();
  }
}

/** What becomes of each capsule. */
function handlingOf(type: number, length: number): TlvHandling {
  if (type === CapsuleType.datagram) {
    return length <= MAX_DATAGRAM_CAPSULE_BYTES ? "whole" : "skip";
  }
  const maxBytes = MAX_PAYLOAD_BYTES.get(type);
  if (maxBytes === undefined) return "skip";
  if (length <= maxBytes) return "whole";
  throw malformed(
    `type 0x${type.toString(16)} may have ${maxBytes} bytes, received ${length}`,
  );
}

function notOneVarint(payload: Uint8Array): H3ProtocolError {
  return malformed(`payload must be one varint, received ${payload.length} bytes`);
}

function malformed(message: string, options?: ErrorOptions): H3ProtocolError {
  return new H3ProtocolError(H3Error.messageError, `Cannot read capsule: ${message}`, options);
}
