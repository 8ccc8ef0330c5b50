/**
 * The binary format of typed messages: heads, payloads, and a parser that does not depend on chunk
 * boundaries.
 */
import type { internals, SessionCore } from "../core.ts";
import type { SessionLike } from "../types.ts";
import { CloseCode, QueueFullError, StreamError, StructuredError } from "../../errors.ts";
import type { Codec } from "./codec.ts";
import type { CompiledRegistry } from "./registry.ts";
import { placed, validate, type Validation } from "../../base/standard_schema.ts";
import { describe, textOf } from "../../base/error_text.ts";

/** Bytes of the type and the length before a message on a stream. */
export const STREAM_HEAD_BYTES = 6;

/** Bytes of the type before a message in a datagram. */
export const DATAGRAM_HEAD_BYTES = 2;

/** Type of the end mark. */
export const END_TYPE = 0xffff;

/** Largest length in 32 bits. */
export const MAX_LENGTH = 0xffff_ffff;

/** Maximum number of types that an error lists. A registry may contain thousands. */
const MAX_NAMED_TYPES = 16;

/** Maximum length of a codec's error text. The text may repeat the input. */
const MAX_TOLD = 256;

/**
 * Checks a codec, for untyped callers.
 *
 * @param what The object that uses the codec.
 * @throws {TypeError} If the value is not a codec.
 */
export function checkCodec(codec: Codec, what: string): void {
  const { encode, decode } = (codec ?? {}) as Partial<Codec>;
  if (typeof encode === "function" && typeof decode === "function") return;
  const rule = "codec must have the methods encode and decode";
  throw new TypeError(
    `Cannot create ${what}: ${rule}, received ${describe(codec)}`,
  );
}

/**
 * Encodes a message, with its type in a head of the given size.
 *
 * @param type The number of the message.
 * @param data The data to send.
 * @param format The registry, the codec, the size of the head, and the size limit of the payload.
 * @returns The head and the payload.
 * @throws {TypeError} If the registry has no such number, or if the codec does not return bytes.
 * @throws {RangeError} If the payload is too large.
 */
export function encodeMessage(
  type: number,
  data: unknown,
  format: {
    readonly schemas: CompiledRegistry;
    readonly codec: Codec;
    readonly headBytes: number;
    readonly maxBytes: number;
  },
): Uint8Array {
  const { schemas, codec, headBytes, maxBytes } = format;
  if (!schemas.has(type)) {
    throw new TypeError(`Cannot send message: type must be ${typesOf(schemas)}, received ${type}`);
  }
  let payload: unknown;
  try {
    payload = codec.encode(data);
  } catch (cause) {
    const rule = `the data of type ${type} must be what codec ${codec.name} can encode`;
    throw new TypeError(`Cannot send message: ${rule}, which says: ${told(cause)}`, { cause });
  }
  if (!(payload instanceof Uint8Array)) {
    throw new TypeError(
      `Cannot send message: codec ${codec.name} must make a Uint8Array, received ${typeof payload}`,
    );
  }
  const { byteLength } = payload;
  if (byteLength > maxBytes) {
    throw new RangeError(
      `Cannot send message: one of type ${type} must have at most ${maxBytes} bytes, received ${byteLength}`,
    );
  }
  const bytes = new Uint8Array(headBytes + byteLength);
  bytes[0] = type >> 8;
  bytes[1] = type;
  bytes.set(payload, headBytes);
  return bytes;
}

/** A message with a type of the registry and data that fits the schema. */
export interface DecodedMessage {
  /** Number of the message. */
  readonly type: number;
  /** Output of the schema. */
  readonly data: unknown;
}

/** Name of the schemas of messages on streams and in datagrams, for error messages. */
export const SCHEMA = "the schema of a structured message";

/** A session that waits for asynchronous schemas for a limited time. */
export interface CheckingSession extends SessionLike {
  /** The implementation. */
  readonly [internals]: Pick<SessionCore, "inTime">;
}

/** Format of received messages. */
export interface DecodeFormat {
  readonly schemas: CompiledRegistry;
  readonly codec: Codec;
  /** Waits for an asynchronous schema for a limited time. */
  readonly inTime: <T>(checked: Promise<T>) => Promise<T>;
}

/**
 * Decodes and checks a payload.
 *
 * @param payload The bytes, which the codec may keep.
 * @param type The number of the message, which must be in the registry.
 * @param format The registry, the codec, and the timeout of asynchronous schemas.
 * @returns The message, or a promise of the message if the schema is asynchronous.
 * @throws {StructuredError} If the codec cannot read the payload, or if the data does not fit the
 * schema.
 */
export function decodeMessage(
  payload: Uint8Array,
  type: number,
  { schemas, codec, inTime }: DecodeFormat,
): DecodedMessage | Promise<DecodedMessage> {
  let value: unknown;
  const { byteLength } = payload;
  try {
    value = codec.decode(payload);
  } catch (cause) {
    const rule = `expected ${codec.name} in a message of type ${type}`;
    const came = `${byteLength} ${byteLength === 1 ? "byte" : "bytes"}: ${told(cause)}`;
    throw rejection("malformed", `${rule}, received ${came}`, { type, cause });
  }
  const checked = validate(schemas.get(type)!, value);
  return checked instanceof Promise
    ? inTime(checked).then((outcome) => accepted(type, outcome))
    : accepted(type, checked);
}

function accepted(type: number, outcome: Validation<unknown>): DecodedMessage {
  if (outcome.ok) return { type, data: outcome.value };
  const rule = `expected data that fits the schema of type ${type}`;
  throw rejection("invalid", `${rule}, received${placed(outcome)}`, { type });
}

/**
 * Creates the error for a number that is not in the registry.
 *
 * @param type The number.
 */
export function unknownType(type: number, schemas: CompiledRegistry): StructuredError {
  return rejection("unknown-type", `expected type ${typesOf(schemas)}, received ${type}`, { type });
}

/**
 * Creates an error from a rule and the received value.
 *
 * @param reason Kind of the error.
 * @param text The rule and the received value.
 * @param options The number of the message, and the cause.
 */
export function rejection(
  reason: StructuredError["reason"],
  text: string,
  options: { readonly type?: number | undefined; readonly cause?: unknown },
): StructuredError {
  return new StructuredError(reason, `Cannot read message: ${text}`, options);
}

/**
 * Creates the error that the peer receives, if the connection can carry a code.
 *
 * @param error The reason for the abort.
 * @returns The error itself, or an error with the code with which a session would close for the
 * same reason.
 */
export function reasonFor(error: unknown): StreamError {
  if (error instanceof StreamError) return error;
  let streamErrorCode: number = CloseCode.handlerFailed;
  if (error instanceof QueueFullError) streamErrorCode = CloseCode.queueFull;
  if (error instanceof StructuredError) {
    streamErrorCode = error.reason === "too-large" ? CloseCode.tooLarge : CloseCode.malformed;
  }
  const message = error instanceof Error ? error.message : "The stream failed";
  return new StreamError(message, { streamErrorCode, by: "local", cause: error });
}

function told(cause: unknown): string {
  return textOf(cause).slice(0, MAX_TOLD);
}

function typesOf(schemas: CompiledRegistry): string {
  const types = [...schemas.keys()];
  const named = types.slice(0, MAX_NAMED_TYPES).join(", ");
  return types.length > MAX_NAMED_TYPES ? `${named}, …` : named.replace(/, (\d+)$/, " or $1");
}

/**
 * Size of the first buffer for a message that arrives in several chunks. The buffer is not sized by
 * the length that the peer claims, because that may be false.
 */
const FIRST_PAYLOAD_BYTES = 16 * 1024;

const NOTHING = new Uint8Array();

interface StructuredFrame {
  /** Number of the message. */
  readonly type: number;
  /** Bytes for the codec, valid until the next chunk. */
  readonly payload: Uint8Array;
}

/** The caller's rules for a parser. */
export interface StructuredParserRules {
  /**
   * Size of the largest payload. A larger message is rejected before any of its bytes are buffered.
   */
  readonly maxMessageBytes: number;
  /** True if both sides use the end mark. */
  readonly hasEndMark: boolean;
  /**
   * Called with the number of each message, before its payload.
   *
   * @param type The number.
   * @returns True to receive the message; false to skip the payload without buffering it.
   * @throws Any error, to stop reading.
   */
  accepts(type: number): boolean;
}

interface OpenFrame {
  readonly type: number;
  readonly length: number;
  filled: number;
  bytes: Uint8Array;
}

/**
 * An incremental parser that returns one message per call. The parser keeps one chunk and at most
 * one message. The buffer for the message is at most 16 KiB or twice the received bytes, whichever
 * is larger.
 */
export class StructuredParser {
  readonly #rules: StructuredParserRules;
  readonly #head: Uint8Array = new Uint8Array(STREAM_HEAD_BYTES);
  #headFilled = 0;
  #chunk: Uint8Array = NOTHING;
  #at = 0;
  #open: OpenFrame | undefined = undefined;
  #skipping = 0;
  #isAtEnd = false;

  /**
   * Creates a parser.
   *
   * @param rules The rules of the caller.
   */
  constructor(rules: StructuredParserRules) {
    this.#rules = rules;
  }

  /** True after the end mark. No more messages follow. */
  get isAtEnd(): boolean {
    return this.#isAtEnd;
  }

  /** A description of the incomplete message, for people; `undefined` between two messages. */
  get gap(): string | undefined {
    const open = this.#open;
    if (open !== undefined) {
      return `${open.filled} of ${open.length} bytes of a message of type ${open.type}`;
    }
    if (this.#skipping > 0) return `a message that lacks ${this.#skipping} bytes`;
    if (this.#headFilled > 0) return `${this.#headFilled} of ${STREAM_HEAD_BYTES} bytes of a head`;
    return undefined;
  }

  /** Number of the incomplete message. */
  get openType(): number | undefined {
    return this.#open?.type;
  }

  /**
   * Adds the next bytes, once {@linkcode StructuredParser.next} has returned `undefined`.
   *
   * @param chunk The bytes, which belong to the parser until the next chunk.
   */
  push(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /**
   * Returns the last chunk, which the parser no longer needs.
   *
   * @returns The chunk, whose memory may be reused.
   */
  takeUsed(): Uint8Array {
    const chunk = this.#chunk;
    this.#chunk = NOTHING;
    this.#at = 0;
    return chunk;
  }

  /**
   * Reads one message.
   *
   * @returns The message; `undefined` if the message is incomplete, and after the end mark.
   * @throws {StructuredError} If the message is too large, or if an end mark has a payload.
   */
  next(): StructuredFrame | undefined {
    while (!this.#isAtEnd) {
      if (this.#skipping > 0) {
        const skipped = Math.min(this.#skipping, this.#chunk.length - this.#at);
        this.#skipping -= skipped;
        this.#at += skipped;
        if (this.#skipping > 0) return undefined;
      }
      if (this.#open !== undefined) return this.#fill(this.#open);
      const frame = this.#readHead();
      if (frame !== "skipped") return frame;
    }
    return undefined;
  }

  #readHead(): StructuredFrame | "skipped" | undefined {
    let head = this.#chunk;
    let at = this.#at;
    const rest = head.length - at;
    if (this.#headFilled > 0 || rest < STREAM_HEAD_BYTES) {
      const taken = Math.min(STREAM_HEAD_BYTES - this.#headFilled, rest);
      this.#head.set(head.subarray(at, at + taken), this.#headFilled);
      this.#headFilled += taken;
      this.#at += taken;
      if (this.#headFilled < STREAM_HEAD_BYTES) return undefined;
      this.#headFilled = 0;
      head = this.#head;
      at = 0;
    } else this.#at += STREAM_HEAD_BYTES;
    const type = head[at]! << 8 | head[at + 1]!;
    const length = (head[at + 2]! << 24 | head[at + 3]! << 16 | head[at + 4]! << 8 |
      head[at + 5]!) >>> 0;
    return this.#begin(type, length);
  }

  #begin(type: number, length: number): StructuredFrame | "skipped" | undefined {
    const { maxMessageBytes, hasEndMark } = this.#rules;
    if (type === END_TYPE && hasEndMark) {
      if (length > 0) {
        throw rejection("malformed", `expected an empty end mark, received ${length} bytes`, {
          type,
        });
      }
      this.#isAtEnd = true;
      return "skipped";
    }
    if (length > maxMessageBytes) {
      const rule = `expected at most ${maxMessageBytes} bytes`;
      throw rejection("too-large", `${rule}, received a message of type ${type} with ${length}`, {
        type,
      });
    }
    if (!this.#rules.accepts(type)) {
      this.#skipping = length;
      return "skipped";
    }
    const end = this.#at + length;
    if (end <= this.#chunk.length) {
      const payload = this.#chunk.subarray(this.#at, end);
      this.#at = end;
      return { type, payload };
    }
    const came = this.#chunk.length - this.#at;
    const size = Math.min(length, Math.max(FIRST_PAYLOAD_BYTES, came * 2));
    return this.#fill(this.#open = { type, length, filled: 0, bytes: new Uint8Array(size) });
  }

  #fill(open: OpenFrame): StructuredFrame | undefined {
    const { length, filled } = open;
    const taken = Math.min(this.#chunk.length - this.#at, length - filled);
    const end = filled + taken;
    if (end > open.bytes.length) {
      const larger = new Uint8Array(Math.min(length, Math.max(end, open.bytes.length * 2)));
      larger.set(open.bytes.subarray(0, filled));
      open.bytes = larger;
    }
    open.bytes.set(this.#chunk.subarray(this.#at, this.#at + taken), filled);
    open.filled = end;
    this.#at += taken;
    if (end < length) return undefined;
    this.#open = undefined;
    return { type: open.type, payload: open.bytes };
  }
}
