/** Messages for calls between nodes, as bytes: a JSON head followed by a part of the data. */
import { isNumber, parseFields } from "./messages.ts";

/**
 * Maximum size of the data in one message, in bytes. Every broker accepts this size plus the head.
 */
const PART_BYTES = 196_608;

/** Bytes of the length before a head. */
const LENGTH_BYTES = 2;

/** A part of a request or of a reply. */
interface DataPart {
  /** Index of the part, from 0. */
  readonly part: number;
  /** Size of all parts together in bytes. */
  readonly size: number;
}

/** The head of a message; the JSON object also includes the sender, as `node`. */
export type CallHead =
  & {
    /** Number of the call, assigned by the calling node. */
    readonly id: number;
  }
  & (
    | { readonly type: "call"; readonly timeoutMs: number } & DataPart
    | { readonly type: "reply" } & DataPart
    | { readonly type: "refusal"; readonly code: RejectionCode }
    | { readonly type: "abort" }
  );

/** The reason why there is no reply: too many calls, or a handler that failed. */
export type RejectionCode = "busy" | "failed";

/** A message, and the id of the node that sent it. */
export type CallMessage = CallHead & { readonly node: string; readonly data: Uint8Array };

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const NO_DATA = new Uint8Array();

/**
 * Encodes a head as JSON, followed by bytes.
 *
 * @param head The head, at most 65,535 bytes as JSON.
 * @param data The bytes.
 * @returns The length of the head, followed by the head and the data.
 */
export function joinHead(head: object, data: Uint8Array = NO_DATA): Uint8Array {
  const json = encoder.encode(JSON.stringify(head));
  const message = new Uint8Array(LENGTH_BYTES + json.length + data.length);
  message[0] = json.length >> 8;
  message[1] = json.length;
  message.set(json, LENGTH_BYTES);
  message.set(data, LENGTH_BYTES + json.length);
  return message;
}

/**
 * Reads a head and the bytes after it.
 *
 * @returns The fields of the head, and the bytes; `undefined` if the message is malformed.
 */
export function splitHead(
  message: Uint8Array,
): { readonly head: Readonly<Record<string, unknown>>; readonly data: Uint8Array } | undefined {
  if (message.length < LENGTH_BYTES) return undefined;
  const end = LENGTH_BYTES + (message[0]! << 8 | message[1]!);
  if (end > message.length) return undefined;
  const head = parseFields(decoded(message.subarray(LENGTH_BYTES, end)));
  return head && { head, data: message.subarray(end) };
}

/**
 * Splits the data of a request or reply.
 *
 * @returns The parts, at least one.
 */
export function* partsOf(data: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at === 0 || at < data.length; at += PART_BYTES) {
    yield data.subarray(at, at + PART_BYTES);
  }
}

/**
 * Reads a message.
 *
 * @param payload The payload of a publication.
 * @returns The message; `undefined` if it is malformed.
 */
export function parseCallMessage(payload: string | Uint8Array): CallMessage | undefined {
  const message = typeof payload === "string" ? undefined : splitHead(payload);
  if (message === undefined) return undefined;
  const { head: { node, type, id, part, size, timeoutMs, code }, data } = message;
  if (typeof node !== "string" || node === "" || !isNumber(id)) return undefined;
  switch (type) {
    case "call":
      if (!isNumber(part) || !isNumber(size) || !isNumber(timeoutMs)) return undefined;
      return { node, type, id, part, size, timeoutMs, data };
    case "reply":
      return isNumber(part) && isNumber(size) ? { node, type, id, part, size, data } : undefined;
    case "refusal":
      return code === "busy" || code === "failed" ? { node, type, id, code, data } : undefined;
    case "abort":
      return { node, type, id, data };
    default:
      return undefined;
  }
}

function decoded(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    return ""; // Not JSON: the message is malformed.
  }
}

export class Gathering {
  readonly #size: number;
  #data: Uint8Array | undefined;
  #parts = 0;
  #length = 0;

  constructor(size: number) {
    this.#size = size;
  }

  /**
   * Adds the next part. A duplicate of an earlier part is ignored.
   *
   * @param message A message with a part.
   * @returns The whole data, once complete; `undefined` before that.
   * @throws {RangeError} If the part is not the next one, or does not fit.
   */
  add({ part, size, data }: DataPart & { readonly data: Uint8Array }): Uint8Array | undefined {
    if (part < this.#parts) return undefined;
    const isNext = part === this.#parts && size === this.#size;
    const room = this.#size - this.#length;
    if (!isNext || data.length > room || (data.length === 0 && room > 0)) {
      throw new RangeError(
        `Cannot join data: part ${this.#parts} of ${room} more bytes must come, ` +
          `received part ${part} of ${data.length}`,
      );
    }
    this.#parts++;
    if (part === 0 && data.length === size) return data;
    this.#data ??= new Uint8Array(size);
    this.#data.set(data, this.#length);
    this.#length += data.length;
    return this.#length === size ? this.#data : undefined;
  }
}
