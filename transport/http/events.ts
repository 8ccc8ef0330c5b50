/** The events of the HTTP transport, in the format of server-sent events. */
import type { ConnectionCloseInfo, Frame } from "../connection.ts";

/** A comment that shows that the connection is alive. */
export const COMMENT = ":\n\n";

/** The ID and secret of a new connection. */
export interface OpenedConnection {
  readonly session: string;
  /** The secret of the connection: 128 random bits. */
  readonly secret: string;
}

/** An event, as a client reads it. */
export type HttpEvent =
  | { readonly kind: "session"; readonly opened: OpenedConnection }
  | { readonly kind: "frame"; readonly number: number; readonly frame: Frame }
  | {
    readonly kind: "close";
    readonly number: number;
    readonly info: Required<ConnectionCloseInfo>;
  };

/** Writes the first event of a connection. */
export function writeOpened(opened: OpenedConnection): string {
  return writeEvent(JSON.stringify(opened), { name: "session" });
}

/**
 * Writes a frame as an event.
 *
 * A text with a carriage return is written as a JSON string, because readers treat every line
 * ending in an event as a line feed.
 */
export function writeFrame(number: number, frame: Frame): string {
  const id = `${number}`;
  if (typeof frame !== "string") return writeEvent(frame.toBase64(), { id, name: "binary" });
  if (!frame.includes("\r")) return writeEvent(frame, { id });
  return writeEvent(JSON.stringify(frame), { id, name: "quoted" });
}

/**
 * Writes an event. Every kind of line ending in the data starts a new line, so that no text can add
 * fields.
 *
 * Readers drop one space after a colon. Some require it, and readers of durable streams expect none.
 *
 * @param data The data. Readers treat each of its line endings as a line feed.
 * @param fields The name of the event, and its ID. Neither may contain a line ending. If `isTight`,
 * a line of data has a space after the colon only if it begins with one.
 * @returns The lines of the event, with the empty line at its end.
 */
export function writeEvent(
  data: string,
  { name, id, isTight }: {
    readonly name?: string | undefined;
    readonly id?: string | undefined;
    readonly isTight?: boolean | undefined;
  } = {},
): string {
  const fieldOf = (line: string) => isTight && !line.startsWith(" ") ? "data:" : "data: ";
  const isOneLine = !data.includes("\n") && !data.includes("\r");
  const lines = isOneLine
    ? fieldOf(data) + data
    : data.split(/\r\n|[\r\n]/).map((line) => fieldOf(line) + line).join("\n");
  return `${id === undefined ? "" : `id: ${id}\n`}${
    name === undefined ? "" : `event: ${name}\n`
  }${lines}\n\n`;
}

export function writeClose(number: number, info: Required<ConnectionCloseInfo>): string {
  const { closeCode: code, reason } = info;
  return writeEvent(JSON.stringify({ code, reason }), { id: `${number}`, name: "close" });
}

/**
 * Reads events from text that arrives in pieces.
 *
 * @example Usage
 * ```ts
 * import { EventReader, writeFrame } from "./events.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const reader = new EventReader();
 * const text = writeFrame(1, "two\n lines");
 * assertEquals(reader.read(text.slice(0, 9)), []);
 * const event = { kind: "frame", number: 1, frame: "two\n lines" } as const;
 * assertEquals(reader.read(text.slice(9)), [event]);
 * ```
 */
export class EventReader {
  /** The start of a line that is not complete yet. */
  #rest: string[] = [];
  #id = "";
  #type = "message";
  #data: string[] | undefined;

  /**
   * @returns The events that the piece completes.
   * @throws {TypeError} If an event is malformed or unknown.
   */
  read(text: string): HttpEvent[] {
    const events: HttpEvent[] = [];
    let at = 0;
    for (let end; (end = text.indexOf("\n", at)) >= 0; at = end + 1) {
      this.#rest.push(text.slice(at, end));
      const line = this.#rest.join("");
      this.#rest = [];
      const event = this.#line(line);
      if (event !== undefined) events.push(event);
    }
    if (at < text.length) this.#rest.push(text.slice(at));
    return events;
  }

  #line(line: string): HttpEvent | undefined {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    const value = line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") (this.#data ??= []).push(value);
    else if (name === "id") this.#id = value;
    else if (name === "event") this.#type = value;
    return undefined;
  }

  #end(): HttpEvent | undefined {
    const [type, data] = [this.#type, this.#data?.join("\n")];
    this.#type = "message";
    this.#data = undefined;
    return data === undefined ? undefined : this.#eventOf(type, data);
  }

  #eventOf(type: string, data: string): HttpEvent {
    const number = Number(this.#id);
    switch (type) {
      case "message":
        return { kind: "frame", number, frame: data };
      case "binary":
        return { kind: "frame", number, frame: bytesOf(data) };
      case "quoted":
        return { kind: "frame", number, frame: String(JSON.parse(data)) };
      case "close": {
        const { code, reason } = JSON.parse(data);
        return { kind: "close", number, info: { closeCode: Number(code), reason: `${reason}` } };
      }
      case "session": {
        const { session, secret } = JSON.parse(data);
        return { kind: "session", opened: { session: `${session}`, secret: `${secret}` } };
      }
    }
    throw new TypeError(`Cannot read event: its type must be known, received "${type}"`);
  }
}

/** Decodes base64, because older browsers have no `fromBase64`. */
function bytesOf(text: string): Uint8Array {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
