/** The NATS protocol, as a server reads and writes it. */
import { concat } from "../../../base/bytes.ts";

/** Longest line of a client, in bytes; the default of servers. */
const MAX_CONTROL_LINE = 4_096;

/** Most bytes of a message, including headers; the default of servers. */
export const MAX_PAYLOAD = 1_048_576;

const CR = 13;
const LF = 10;
const EMPTY: Uint8Array = new Uint8Array();
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A message between clients, servers and streams. */
export interface NatsMessage {
  /** Subject, without wildcards. */
  readonly subject: string;
  /** Subject for replies; empty for none. */
  readonly reply: string;
  /** The block of headers, with the line `NATS/1.0` and the empty line at the end; empty for none. */
  readonly headers: string;
  /** The payload. */
  readonly data: Uint8Array;
  /** Subject that receivers see, if different from the routed subject. */
  readonly shown?: string | undefined;
}

/** A command of a client. */
export type NatsCommand =
  | { readonly name: "connect"; readonly options: ConnectCommand }
  | { readonly name: "ping" | "pong" }
  | {
    readonly name: "sub";
    readonly subject: string;
    readonly queue: string;
    readonly sid: string;
  }
  | { readonly name: "unsub"; readonly sid: string; readonly max: number }
  | { readonly name: "pub"; readonly message: NatsMessage };

/** The client options that a server uses. */
export interface ConnectCommand {
  /** False if the client does not receive its own messages. */
  readonly echo?: boolean | undefined;
  /** True if the client reads headers. */
  readonly headers?: boolean | undefined;
  /** True if the client is notified of a request without a receiver. */
  readonly no_responders?: boolean | undefined;
  /** True if the server replies to each command with `+OK`. */
  readonly verbose?: boolean | undefined;
  /** True if subjects are checked. */
  readonly pedantic?: boolean | undefined;
}

/** A protocol violation, whose text the server sends before it closes the connection. */
export class NatsViolation extends Error {
  override readonly name = "NatsViolation";
}

/** Reads the commands of one client. */
export class CommandReader {
  #rest: Uint8Array = EMPTY;

  /**
   * Reads bytes of the connection.
   *
   * @returns The complete commands.
   * @throws {NatsViolation} If a server would reject a command. No further command can be read
   * then.
   */
  read(bytes: Uint8Array): NatsCommand[] {
    const all = this.#rest.length === 0 ? bytes : concat([this.#rest, bytes]);
    const commands: NatsCommand[] = [];
    let at = 0;
    for (;;) {
      const end = lineEnd(all, at);
      if ((end === -1 ? all.length : end) - at > MAX_CONTROL_LINE) {
        throw new NatsViolation("maximum control line exceeded");
      }
      if (end === -1) break;
      const line = decoder.decode(all.subarray(at, end));
      const [verb = "", ...words] = line.split(/[ \t]+/).filter((word) => word !== "");
      const name = verb.toUpperCase();
      if (name !== "PUB" && name !== "HPUB") {
        at = end + 2;
        if (name !== "") commands.push(commandOf(name, words, line));
        continue;
      }
      const head = headOf(name, words);
      const next = end + 2 + head.bytes + 2;
      if (next > all.length) break;
      const body = all.subarray(end + 2, end + 2 + head.bytes);
      const { subject, reply, headerBytes } = head;
      const headers = headerBytes === 0 ? "" : decoder.decode(body.subarray(0, headerBytes));
      const data = body.subarray(headerBytes);
      commands.push({ name: "pub", message: { subject, reply, headers, data } });
      at = next;
    }
    this.#rest = all.subarray(at);
    return commands;
  }
}

function commandOf(name: string, words: readonly string[], line: string): NatsCommand {
  switch (name) {
    case "PING":
      return { name: "ping" };
    case "PONG":
      return { name: "pong" };
    case "CONNECT":
      return { name: "connect", options: JSON.parse(line.slice(line.indexOf("{"))) };
    case "SUB": {
      const [subject = "", ...rest] = words;
      const sid = rest.pop();
      if (sid === undefined || rest.length > 1) break;
      return { name: "sub", subject, queue: rest[0] ?? "", sid };
    }
    case "UNSUB": {
      const [sid, max = "0"] = words;
      if (sid === undefined) break;
      return { name: "unsub", sid, max: Number(max) };
    }
  }
  throw new NatsViolation("Unknown Protocol Operation");
}

function headOf(
  name: "PUB" | "HPUB",
  words: readonly string[],
): { readonly subject: string; readonly reply: string; headerBytes: number; bytes: number } {
  const [subject = "", ...rest] = words;
  const bytes = Number(rest.pop());
  const headerBytes = name === "HPUB" ? Number(rest.pop()) : 0;
  const [reply = ""] = rest;
  const isGood = rest.length <= 1 && Number.isSafeInteger(bytes) && bytes >= headerBytes &&
    Number.isSafeInteger(headerBytes) && headerBytes >= 0;
  if (!isGood) throw new NatsViolation("Parser Error");
  if (bytes > MAX_PAYLOAD) throw new NatsViolation("Maximum Payload Violation");
  return { subject, reply, headerBytes, bytes };
}

function lineEnd(bytes: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(CR, from); at !== -1; at = bytes.indexOf(CR, at + 1)) {
    if (bytes[at + 1] === LF) return at;
  }
  return -1;
}

/**
 * Encodes a line for a client.
 *
 * @param line The line, without its end.
 */
export function encodeLine(line: string): Uint8Array {
  return encoder.encode(`${line}\r\n`);
}

/**
 * Encodes a message for a subscription of a client.
 *
 * @param sid The client's id of the subscription.
 */
export function encodeMessage(sid: string, message: NatsMessage): Uint8Array {
  const { reply, headers, data } = message;
  const subject = message.shown ?? message.subject;
  const address = reply === "" ? `${subject} ${sid}` : `${subject} ${sid} ${reply}`;
  if (headers === "") {
    return concat([encoder.encode(`MSG ${address} ${data.length}\r\n`), data, LINE_END]);
  }
  const block = encoder.encode(headers);
  const sizes = `${block.length} ${block.length + data.length}`;
  return concat([encoder.encode(`HMSG ${address} ${sizes}\r\n`), block, data, LINE_END]);
}

const LINE_END = encoder.encode("\r\n");

/**
 * Creates a message.
 *
 * @param body Payload: bytes, a text, or an object that becomes JSON; empty by default.
 * @param headers The block of headers; none by default.
 * @returns The message, without a subject for replies.
 */
export function messageOf(subject: string, body: unknown = EMPTY, headers = ""): NatsMessage {
  const data = body instanceof Uint8Array
    ? body
    : encoder.encode(typeof body === "string" ? body : JSON.stringify(body));
  return { subject, reply: "", headers, data };
}

/**
 * Reads the payload of a message as JSON.
 *
 * @param empty Result for an empty payload; `undefined` by default.
 * @returns The value; `undefined` if malformed.
 */
export function jsonIn<T>({ data }: NatsMessage, empty?: T): T | undefined {
  if (data.length === 0) return empty;
  try {
    return JSON.parse(decoder.decode(data));
  } catch {
    return undefined;
  }
}

/**
 * Creates a block of headers.
 *
 * @param entries Names and values, in order.
 * @param status Status after the version, such as `404 No Messages`.
 */
export function headersOf(entries: readonly (readonly [string, unknown])[], status = ""): string {
  const lines = entries.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return `NATS/1.0${status === "" ? "" : ` ${status}`}\r\n${lines}\r\n`;
}

/**
 * Adds headers to a block.
 *
 * @param headers The block; may be empty.
 * @param entries Names and values, in order.
 * @returns The longer block.
 */
export function withHeaders(
  headers: string,
  entries: readonly (readonly [string, unknown])[],
): string {
  if (headers === "") return headersOf(entries);
  const lines = entries.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return `${headers.slice(0, -2)}${lines}\r\n`;
}

/**
 * Reads a header.
 *
 * @param headers The block; may be empty.
 * @param name Name of the header, case-sensitive.
 * @returns The first value; `undefined` if absent.
 */
export function headerIn(headers: string, name: string): string | undefined {
  const at = headers.indexOf(`\r\n${name}:`);
  if (at === -1) return undefined;
  const from = at + name.length + 3;
  return headers.slice(from, headers.indexOf("\r\n", from)).trim();
}

/** Counts the bytes of a text in UTF-8. */
export function byteLength(text: string): number {
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) > 127) return encoder.encode(text).length;
  }
  return text.length;
}
