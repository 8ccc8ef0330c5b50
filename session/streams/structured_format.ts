/** Framing of typed messages, and errors about invalid ones. */
import { CloseCode, QueueFullError, StreamError, StructuredError } from "../../errors.ts";
import type { Codec } from "./codec.ts";
import type { CompiledRegistry } from "./registry.ts";
import { validate, type Validation } from "../../base/standard_schema.ts";

/** Bytes of the type and the length before a message on a stream. */
export const STREAM_HEAD_BYTES = 6;

/** Bytes of the type before a message in a datagram. */
export const DATAGRAM_HEAD_BYTES = 2;

/** Type of the end mark. */
export const END_TYPE = 0xffff;

/** Largest length in 32 bits. */
export const MAX_LENGTH = 0xffff_ffff;

/** Most types that an error names; a registry may have thousands. */
const MAX_NAMED_TYPES = 16;

/** Most characters of a codec's error text, which may repeat the input. */
const MAX_TOLD = 256;

/**
 * Checks a codec, for callers without types.
 *
 * @param codec The codec.
 * @param what The object to create with the codec.
 * @throws {TypeError} If the value is not a codec.
 */
export function checkCodec(codec: Codec, what: string): void {
  const { encode, decode } = (codec ?? {}) as Partial<Codec>;
  if (typeof encode === "function" && typeof decode === "function") return;
  const rule = "codec must have the methods encode and decode";
  throw new TypeError(
    `Cannot make ${what}: ${rule}, received ${codec === null ? null : typeof codec}`,
  );
}

/**
 * Encodes a message, with the type in a head of the given size.
 *
 * @param type The number of the message.
 * @param data The data to send.
 * @param format The registry and the codec, the bytes of the head, and the most bytes after the
 * head.
 * @returns Head and payload.
 * @throws {TypeError} If the registry has no such number, or the codec returns no bytes.
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

/**
 * Decodes and checks a payload.
 *
 * @param payload The bytes, which the codec may keep.
 * @param type The number of the message, which the registry has.
 * @param format The registry and the codec.
 * @returns The message; a promise of the message if the schema is asynchronous.
 * @throws {StructuredError} If the codec cannot read the payload, or the schema refuses the data.
 */
export function decodeMessage(
  payload: Uint8Array,
  type: number,
  { schemas, codec }: { readonly schemas: CompiledRegistry; readonly codec: Codec },
): DecodedMessage | Promise<DecodedMessage> {
  let value: unknown;
  const { byteLength } = payload;
  try {
    value = codec.decode(payload);
  } catch (cause) {
    const rule = `expected ${codec.name} in a message of type ${type}`;
    const came = `${byteLength} ${byteLength === 1 ? "byte" : "bytes"}: ${told(cause)}`;
    throw refusal("malformed", `${rule}, received ${came}`, { type, cause });
  }
  const checked = validate(schemas.get(type)!, value);
  return checked instanceof Promise
    ? checked.then((outcome) => accepted(type, outcome))
    : accepted(type, checked);
}

function accepted(type: number, outcome: Validation<unknown>): DecodedMessage {
  if (outcome.ok) return { type, data: outcome.value };
  const at = outcome.path.length === 0 ? "" : ` at ${outcome.path.join(".")}`;
  const rule = `expected data that fits the schema of type ${type}`;
  throw refusal("invalid", `${rule}, received${at}: ${outcome.message}`, { type });
}

/**
 * Makes the error for a number that the registry does not have.
 *
 * @param type The number.
 * @param schemas The registry.
 * @returns The error.
 */
export function unknownType(type: number, schemas: CompiledRegistry): StructuredError {
  return refusal("unknown-type", `expected type ${typesOf(schemas)}, received ${type}`, { type });
}

/**
 * Makes an error from a rule and the received value.
 *
 * @param reason Kind of the error.
 * @param text The rule and the received value.
 * @param options The number of the message, and the cause.
 * @returns The error.
 */
export function refusal(
  reason: StructuredError["reason"],
  text: string,
  options: { readonly type?: number | undefined; readonly cause?: unknown },
): StructuredError {
  return new StructuredError(reason, `Cannot read message: ${text}`, options);
}

/**
 * Makes the error that the peer receives, where the connection can carry a code.
 *
 * @param error The reason for the abort.
 * @returns The error itself, or an error with the code of a session that closes for the same
 * reason.
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

/** Returns the text of a codec's error. */
function told(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).slice(0, MAX_TOLD);
}

/** Names the numbers of a registry. */
function typesOf(schemas: CompiledRegistry): string {
  const types = [...schemas.keys()];
  const named = types.slice(0, MAX_NAMED_TYPES).join(", ");
  return types.length > MAX_NAMED_TYPES ? `${named}, …` : named.replace(/, (\d+)$/, " or $1");
}
