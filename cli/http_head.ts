/** HTTP/1.1 on a raw socket: a request, and the head and start of the response. */
import { concat } from "../base/bytes.ts";

/** Largest head of a response, in bytes. */
const MAX_HEAD_BYTES = 65_536;

/** Most bytes of a body that are read, for the text of an error. */
const MAX_BODY_BYTES = 1_024;

// Each byte becomes one character, so that indexes into text and bytes are the same.
const decoder = new TextDecoder("latin1");

/** The head of a response. */
export interface HttpHead {
  /** Status, such as 101. */
  readonly status: number;
  /** Reason phrase. */
  readonly statusText: string;
  /** Response headers. */
  readonly headers: Headers;
  /** Bytes after the head that have already arrived. */
  readonly rest: Uint8Array;
}

/** A source of bytes, such as a socket. */
export interface ByteSource {
  /** Reads bytes into an array; returns `null` at the end. */
  read(into: Uint8Array): Promise<number | null>;
}

/**
 * Formats the head of a GET request.
 *
 * @param url The URL, which provides the path, the query and the `Host` header.
 * @param fields Header lines, such as `Upgrade: websocket`.
 * @param headers Further headers.
 * @returns The head, including the final empty line.
 */
export function requestText(
  url: URL,
  fields: readonly string[],
  headers?: HeadersInit,
): string {
  return [
    `GET ${url.pathname}${url.search} HTTP/1.1`,
    `Host: ${url.host}`,
    "User-Agent: skein-cli",
    ...fields,
    ...[...new Headers(headers)].map(([name, value]) => `${name}: ${value}`),
    "",
    "",
  ].join("\r\n");
}

/**
 * Reads the head of a response.
 *
 * @param source The socket.
 * @returns The head, and the bytes that have already arrived after it.
 * @throws {Error} If the connection ends before the head is complete, or if the bytes are not an
 * HTTP/1.1 response.
 */
export async function readHead(source: ByteSource): Promise<HttpHead> {
  let bytes = new Uint8Array(4_096);
  let end = 0;
  while (true) {
    if (end === bytes.length) {
      if (end >= MAX_HEAD_BYTES) {
        throw new Error(`The response has a head of more than ${MAX_HEAD_BYTES} bytes`);
      }
      const larger = new Uint8Array(end * 2);
      larger.set(bytes);
      bytes = larger;
    }
    const count = await source.read(bytes.subarray(end));
    if (count === null) {
      throw new Error(
        end === 0
          ? "The server closed the connection without a response"
          : "The server closed the connection within the head of its response",
      );
    }
    end += count;
    const text = decoder.decode(bytes.subarray(0, end));
    const length = text.indexOf("\r\n\r\n");
    if (length >= 0) return parseHead(text.slice(0, length), bytes.slice(length + 4, end));
    if (!"HTTP/1.".startsWith(text.slice(0, 7))) throw notHttp(text);
  }
}

/**
 * Reads the start of a response body, for use in an error message.
 *
 * @param source The socket.
 * @param head The head of the response.
 * @returns One line of at most 200 characters, without markup. It may be empty.
 */
export async function bodyOf(source: ByteSource, { headers, rest }: HttpHead): Promise<string> {
  const isChunked = /chunked\s*$/i.test(headers.get("transfer-encoding") ?? "");
  const endsWithConnection = /^close$/i.test(headers.get("connection") ?? "");
  const length = Number(headers.get("content-length") ?? (endsWithConnection ? Infinity : 0));
  const bytes = new Uint8Array(MAX_BODY_BYTES);
  const first = rest.subarray(0, MAX_BODY_BYTES);
  bytes.set(first);
  let end = first.length;
  const isWhole = () => isChunked ? contentOf(bytes.subarray(0, end)).isWhole : end >= length;
  while (end < MAX_BODY_BYTES && !isWhole()) {
    const count = await source.read(bytes.subarray(end));
    if (count === null) break;
    end += count;
  }
  const body = bytes.subarray(0, end);
  const text = new TextDecoder().decode(isChunked ? contentOf(body).content : body);
  if (/^\s*</.test(text)) return "";
  return text.replace(/\s+/g, " ").trim().slice(0, 200);
}

/** Returns the content of chunks, which may be incomplete, and whether the last one has arrived. */
function contentOf(
  chunks: Uint8Array,
): { readonly content: Uint8Array; readonly isWhole: boolean } {
  const text = decoder.decode(chunks);
  const parts: Uint8Array[] = [];
  let at = 0;
  let isWhole = false;
  while (!isWhole && text.includes("\r\n", at)) {
    const start = text.indexOf("\r\n", at) + 2;
    const size = parseInt(text.slice(at, start), 16);
    // The last chunk is empty. A malformed size ends the body, too.
    isWhole = !(size > 0);
    if (!isWhole) parts.push(chunks.subarray(start, start + size));
    at = start + size + 2;
  }
  return { content: concat(parts), isWhole };
}

function parseHead(text: string, rest: Uint8Array): HttpHead {
  const [first = "", ...lines] = text.split("\r\n");
  const match = /^HTTP\/1\.[01] (\d{3})(?: (.*))?$/.exec(first);
  if (match === null) throw notHttp(first);
  const headers = new Headers();
  for (const line of lines) {
    const at = line.indexOf(":");
    if (at > 0) headers.append(line.slice(0, at).trim(), line.slice(at + 1).trim());
  }
  return { status: Number(match[1]), statusText: match[2] ?? "", headers, rest };
}

function notHttp(text: string): Error {
  const shown = JSON.stringify(text.slice(0, 32));
  return new Error(`The response is not HTTP/1.1: it starts with ${shown}`);
}
