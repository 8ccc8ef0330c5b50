/** Commands and replies of Redis on the simulated network. */
import { Buffer } from "node:buffer";

/**
 * Bytes as a text: one character between 0 and 255 per byte. Keys, values and messages of the model
 * are byte strings, so that any payload passes unchanged.
 */
export type ByteString = string;

/** A command: a name, and arguments. */
export type Command = readonly ByteString[];

/** A status reply, such as `OK`. */
export class StatusReply {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** An error reply: a code in capitals, and a text. */
export class ErrorReply {
  /** Code and text, as in `ERR syntax error`. */
  readonly text: string;

  /**
   * Creates an error reply.
   *
   * @param text Code and text.
   */
  constructor(text: string) {
    this.text = text;
  }
}

/** A reply; a text is a bulk reply, and `null` a missing one. */
export type Reply = ByteString | number | null | StatusReply | ErrorReply | readonly Reply[];

export const OK: StatusReply = new StatusReply("OK");

/**
 * Creates a byte string.
 *
 * @param value A text, which is encoded as UTF-8, a number, or bytes.
 */
export function byteString(value: string | number | Uint8Array): ByteString {
  if (typeof value === "number") return `${value}`;
  if (typeof value === "string") {
    return isAscii(value) ? value : Buffer.from(value).toString("latin1");
  }
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("latin1");
}

/** Decodes a byte string as UTF-8. */
export function textOf(bytes: ByteString): string {
  return isAscii(bytes) ? bytes : Buffer.from(bytes, "latin1").toString();
}

/**
 * Computes the encoded size of a command or a reply (RESP2).
 *
 * @returns Number of bytes.
 */
export function wireBytes(value: Reply | Command): number {
  if (typeof value === "string") return 5 + digitsOf(value.length) + value.length;
  if (typeof value === "number") return 4 + digitsOf(value);
  if (value === null) return 5;
  if (value instanceof StatusReply || value instanceof ErrorReply) return 3 + value.text.length;
  let bytes = 3 + digitsOf(value.length);
  for (const each of value) bytes += wireBytes(each);
  return bytes;
}

function digitsOf(number: number): number {
  return `${number}`.length;
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return false;
  return true;
}
