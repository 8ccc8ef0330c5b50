/**
 * A TCP connection on which a test writes and reads text, such as raw HTTP/1.1.
 *
 * @module
 */
import { soon } from "../waiting.ts";

const encoder = new TextEncoder();

/** Options for {@linkcode TextSocket.open}. */
export interface TextSocketOptions {
  /** The certificate to trust. If it is set, the socket connects with TLS. */
  readonly cert?: string;
}

/** A connection that writes and reads text. */
export class TextSocket implements Disposable {
  readonly conn: Deno.Conn;

  private constructor(conn: Deno.Conn) {
    this.conn = conn;
  }

  /** Connects to a port of this machine. */
  static async open(port: number, { cert }: TextSocketOptions = {}): Promise<TextSocket> {
    const hostname = "127.0.0.1";
    if (cert !== undefined) {
      return new TextSocket(await Deno.connectTls({ hostname, port, caCerts: [cert] }));
    }
    const conn = await Deno.connect({ hostname, port });
    conn.setNoDelay();
    return new TextSocket(conn);
  }

  static async send(port: number, text: string | Uint8Array): Promise<TextSocket> {
    const socket = await TextSocket.open(port);
    await socket.write(text);
    return socket;
  }

  async write(text: string | Uint8Array): Promise<void> {
    const bytes = typeof text === "string" ? encoder.encode(text) : text;
    for (let at = 0; at < bytes.length;) at += await this.conn.write(bytes.subarray(at));
  }

  /**
   * Reads until a text arrives or the connection ends.
   *
   * @param end The text, or a function that returns true when everything has arrived.
   * @returns Everything received since the last call, as Latin-1.
   */
  async until(end?: string | ((text: string) => boolean)): Promise<string> {
    const chunk = new Uint8Array(65_536);
    let text = "";
    // The text may span two chunks, and searching everything each time would take too long.
    let searched = 0;
    const isThere = () => typeof end === "string" ? text.includes(end, searched) : end?.(text);
    while (!isThere()) {
      searched = typeof end === "string" ? Math.max(0, text.length - end.length) : 0;
      const count = await soon(this.conn.read(chunk).catch(() => null));
      if (count === null) break;
      text += new TextDecoder("latin1").decode(chunk.subarray(0, count));
    }
    return text;
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }
}

/** Creates the head of a request, including the blank line before the body. */
export function headOf(
  line: string,
  headers: Readonly<Record<string, string>>,
  version = "1.1",
): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${line} HTTP/${version}\r\n${lines.join("")}\r\n`;
}

export interface ResponseParts {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

/** Parses a response, whose body may be missing or incomplete. */
export function partsOf(text: string): ResponseParts {
  const end = text.indexOf("\r\n\r\n");
  const [status = "", ...fields] = (end < 0 ? text : text.slice(0, end)).split("\r\n");
  return {
    status: Number(status.split(" ")[1]),
    headers: new Headers(fields.map((field) => field.split(": ", 2) as [string, string])),
    body: end < 0 ? "" : text.slice(end + 4),
  };
}
