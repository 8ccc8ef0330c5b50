/** The frames of HTTP/3 (RFC 9114 section 7). */
import { encodeTlv, readOnlyBigVarint, TlvParser, type TlvPolicy } from "./tlv.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";

/** The known frame types. */
export const FrameType = {
  /** A part of a message's content. */
  data: 0x0,
  /** Fields, encoded with QPACK. */
  headers: 0x1,
  /** Cancels a push. */
  cancelPush: 0x3,
  /** The settings of the sender. This is the first frame of a control stream. */
  settings: 0x4,
  /** Announces a pushed response. */
  pushPromise: 0x5,
  /** Announces that the sender accepts no more requests. */
  goaway: 0x7,
  /** The limit on pushes that the client accepts. */
  maxPushId: 0xd,
  /**
   * Starts a WebTransport stream, and is followed by a session ID instead of a length. It is valid
   * only at the start of a stream, so {@linkcode Http3FrameParser} rejects it.
   */
  webTransportStream: 0x41,
} as const;

/** A frame, or a piece of a DATA frame. */
export interface Http3Frame {
  /** One of {@linkcode FrameType}. */
  readonly type: number;
  /** The payload, which may be a view of the received chunk. */
  readonly payload: Uint8Array;
}

/** The options for {@linkcode Http3FrameParser}. */
export interface FrameParserOptions {
  /**
   * The maximum payload size of frames other than DATA.
   *
   * @default {65_536}
   */
  readonly maxPayloadBytes?: number | undefined;
  /**
   * The kind of stream that carries the frames. A frame that is not allowed on this kind of stream
   * (RFC 9114 section 7) is rejected as soon as its type has arrived. By default, all frames are
   * accepted.
   *
   * - `control`: the first frame must be SETTINGS, and SETTINGS must not be repeated. DATA, HEADERS
   *   and PUSH_PROMISE are not allowed.
   * - `request`: only DATA, HEADERS, PUSH_PROMISE and unknown types are allowed.
   */
  readonly stream?: "control" | "request" | undefined;
}

/** The default maximum payload size of frames other than DATA. */
const DEFAULT_MAX_PAYLOAD_BYTES = 65_536;

/** The maximum payload size of a frame whose payload is one varint. */
const MAX_VARINT_BYTES = 8;

/**
 * Encodes a frame.
 *
 * @param type One of {@linkcode FrameType}, or any other type.
 * @throws {RangeError} If the type is not an integer from 0 to 2^53 - 1.
 *
 * @example Usage
 * ```ts
 * import { encodeFrame, Http3FrameParser, FrameType } from "./frames.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const parser = new Http3FrameParser();
 * parser.push(encodeFrame(FrameType.goaway, Uint8Array.of(4)));
 * assertEquals(parser.next(), { type: FrameType.goaway, payload: Uint8Array.of(4) });
 * assertEquals(parser.next(), undefined);
 * ```
 */
export function encodeFrame(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeTlv(type, payload);
}

/**
 * Decodes the payload of a GOAWAY, CANCEL_PUSH or MAX_PUSH_ID frame, which consists of one ID.
 *
 * @returns The ID. It is not rounded, because IDs are compared exactly.
 * @throws {H3ProtocolError} If the payload is not exactly one varint.
 */
export function decodeIdPayload(payload: Uint8Array): bigint {
  const id = readOnlyBigVarint(payload);
  if (id !== undefined) return id;
  throw new H3ProtocolError(
    H3Error.frameError,
    `Cannot read frame: payload must be one varint, received ${payload.length} bytes`,
  );
}

/**
 * Splits a byte stream into frames.
 *
 * - **DATA** is returned in pieces and never buffered. An empty DATA frame is returned as one empty
 *   piece.
 * - **Known types** are returned complete; their size is limited.
 * - **Unknown types** are skipped without buffering.
 * - **Errors** are final: each later call throws the error again.
 *
 * Read all frames before you push the next chunk, because unread bytes are copied.
 */
export class Http3FrameParser {
  readonly #parser: TlvParser;

  /**
   * @throws {RangeError} If `maxPayloadBytes` is not a positive integer.
   */
  constructor(options: FrameParserOptions = {}) {
    const { maxPayloadBytes = DEFAULT_MAX_PAYLOAD_BYTES, stream } = options;
    if (!Number.isSafeInteger(maxPayloadBytes) || maxPayloadBytes < 1) {
      throw new RangeError(
        `Cannot create frame parser: maxPayloadBytes must be a positive integer, received ${maxPayloadBytes}`,
      );
    }
    const isDefault = maxPayloadBytes === DEFAULT_MAX_PAYLOAD_BYTES;
    if (stream === "request" && isDefault) this.#parser = new TlvParser(REQUEST_POLICY);
    else this.#parser = new TlvParser(placed(policyOf(maxPayloadBytes), stream));
  }

  /**
   * True at the boundary between two frames. A stream that ends anywhere else is a {@linkcode
   * H3Error.frameError}.
   */
  get isBetweenFrames(): boolean {
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
   * Returns the next frame, or the next piece of a DATA frame.
   *
   * @returns The frame or piece; `undefined` if more bytes are needed.
   * @throws {H3ProtocolError} If a frame is too long, malformed, reserved for HTTP/2, or not
   * allowed on this kind of stream.
   */
  next(): Http3Frame | undefined {
    return this.#parser.next();
  }
}

/** Builds the policy for frames on any kind of stream. */
function policyOf(maxPayloadBytes: number): TlvPolicy {
  return (type, length) => {
    switch (type) {
      case FrameType.data:
        return "pieces";
      case FrameType.headers:
      case FrameType.settings:
      case FrameType.pushPromise:
        if (length > maxPayloadBytes) throw tooLong(type, length, maxPayloadBytes);
        return "whole";
      case FrameType.cancelPush:
      case FrameType.goaway:
      case FrameType.maxPushId:
        if (length <= MAX_VARINT_BYTES) return "whole";
        throw new H3ProtocolError(
          H3Error.frameError,
          `Cannot read frame 0x${
            type.toString(16)
          }: it must be one varint, received ${length} bytes`,
        );
      case FrameType.webTransportStream:
        throw new H3ProtocolError(
          H3Error.frameError,
          "Cannot read frame 0x41: it may only start a stream",
        );
      case 0x2:
      case 0x6:
      case 0x8:
      case 0x9:
        throw new H3ProtocolError(
          H3Error.frameUnexpected,
          `Cannot read frame 0x${type.toString(16)}: the type is reserved for HTTP/2`,
        );
      default:
        return "skip";
    }
  };
}

/** The types that are valid on a control stream only (RFC 9114 section 7). */
const CONTROL_TYPES: ReadonlySet<number> = new Set([
  FrameType.cancelPush,
  FrameType.settings,
  FrameType.goaway,
  FrameType.maxPushId,
]);

/** The types that are valid on a request stream only (RFC 9114 section 7). */
const REQUEST_TYPES: ReadonlySet<number> = new Set([
  FrameType.data,
  FrameType.headers,
  FrameType.pushPromise,
]);

/** Extends a policy to reject frames that are not allowed on the given kind of stream. */
function placed(policy: TlvPolicy, stream: FrameParserOptions["stream"]): TlvPolicy {
  switch (stream) {
    case undefined:
      return policy;
    case "request":
      return (type, length) => {
        if (CONTROL_TYPES.has(type)) throw misplaced(type, "a request");
        return policy(type, length);
      };
    case "control": {
      let hasSettings = false;
      return (type, length) => {
        if (!hasSettings && type !== FrameType.settings) {
          throw new H3ProtocolError(
            H3Error.missingSettings,
            `Expected SETTINGS first, received a frame of type ${type}`,
          );
        }
        if (hasSettings && type === FrameType.settings) {
          throw new H3ProtocolError(
            H3Error.frameUnexpected,
            "Expected SETTINGS once, received them twice",
          );
        }
        hasSettings = true;
        if (REQUEST_TYPES.has(type)) throw misplaced(type, "the control stream");
        return policy(type, length);
      };
    }
  }
}

/**
 * The policy of the most frequent case. Parsers share it, because a closure per parser would be
 * wasteful.
 */
const REQUEST_POLICY: TlvPolicy = placed(policyOf(DEFAULT_MAX_PAYLOAD_BYTES), "request");

function misplaced(type: number, place: string): H3ProtocolError {
  return new H3ProtocolError(
    H3Error.frameUnexpected,
    `Expected no frame of type ${type} on ${place}`,
  );
}

function tooLong(type: number, length: number, maxBytes: number): H3ProtocolError {
  return new H3ProtocolError(
    H3Error.excessiveLoad,
    `Cannot read frame 0x${
      type.toString(16)
    }: it must have at most ${maxBytes} bytes, received ${length}`,
  );
}
