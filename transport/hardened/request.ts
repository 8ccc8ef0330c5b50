/** Heads of requests: the bytes of an upgrade, and the web platform's request of any head. */
import type { Buffer } from "node:buffer";

/** The head of a request, as received. */
export interface RequestHead {
  readonly method: string;
  /** A path, or a whole URL as sent to proxies. */
  readonly target: string;
  /** Names and values in the order of the head; a name may come more than once. */
  readonly headers: readonly (readonly [name: string, value: string])[];
}

/** An upgrade to a WebSocket, with the bytes behind its head. */
export interface UpgradeHead extends RequestHead {
  readonly rest: Buffer;
}

/** First bytes of every upgrade. */
const METHOD = "GET ";

const HEAD_END = "\r\n\r\n";

const REQUEST_LINE = /^GET ([\x21-\x7e]+) HTTP\/1\.1$/;

/**
 * A header with the space around its value. Spaces are removed by a loop: an expression for them
 * would take quadratic time, 0.7 s for a value with 15,000 spaces in the middle.
 */
const HEADER_LINE = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)$/;

const BARE_LINE_FEED = /[^\r]\n/;

/** Characters of a valid `Host` header: any other character could move the path of the URL. */
const HOST = /^[^\s/?#@\\]+$/;

/** The word `upgrade` in a `Connection` header. */
const CONNECTION_UPGRADE = /(?:^|,)\s*upgrade\s*(?:,|$)/i;

/**
 * Reads the first request of a connection, as long as the request may be an upgrade to a WebSocket.
 * Only a head with one reading is accepted; the judgement on any other head, malformed or not, is
 * left to node:http.
 *
 * @param bytes All bytes of the connection so far.
 * @param checked Number of bytes that an earlier call has seen.
 * @param maxBytes Largest head to read.
 * @returns The upgrade; `undefined` if the request is not one; `"incomplete"` if more bytes are
 * needed.
 */
export function readUpgrade(
  bytes: Buffer,
  checked: number,
  maxBytes: number,
): UpgradeHead | undefined | "incomplete" {
  const start = Math.max(0, checked - HEAD_END.length + 1);
  const text = bytes.toString("latin1", start, maxBytes);
  if (start === 0 && !METHOD.startsWith(text.slice(0, METHOD.length))) return undefined;
  const end = text.indexOf(HEAD_END);
  if (end < 0) {
    // node:http refuses a bare line feed at once.
    const mayGoOn = bytes.length < maxBytes && !BARE_LINE_FEED.test(text);
    return mayGoOn ? "incomplete" : undefined;
  }
  const lines = start === 0 ? text.slice(0, end) : bytes.toString("latin1", 0, start + end);
  const head = parseUpgrade(lines, bytes);
  return head && { ...head, rest: bytes.subarray(start + end + HEAD_END.length) };
}

/**
 * Parses a head without its last line.
 *
 * @param head The head.
 * @param bytes The same head as bytes.
 * @returns The head; `undefined` if the request is not an upgrade.
 */
function parseUpgrade(head: string, bytes: Buffer): RequestHead | undefined {
  const lines = head.split("\r\n");
  const target = REQUEST_LINE.exec(lines[0]!)?.[1];
  if (target === undefined) return undefined;
  const headers: [string, string][] = [];
  let hosts = 0;
  let upgrades = 0;
  let asksConnection = false;
  let lineEnd = lines[0]!.length;
  for (let i = 1; i < lines.length; i++) {
    const header = HEADER_LINE.exec(lines[i]!);
    if (header === null) return undefined;
    lineEnd += 2 + lines[i]!.length;
    const name = header[1]!.toLowerCase();
    const value = trimmed(bytes, lineEnd - header[2]!.length, lineEnd);
    switch (name) {
      case "host":
        hosts++;
        break;
      case "upgrade":
        if (!isWebSocket(value)) return undefined;
        upgrades++;
        break;
      case "connection":
        asksConnection ||= CONNECTION_UPGRADE.test(value);
        break;
      case "content-length":
        if (value !== "0") return undefined;
        break;
      case "transfer-encoding":
        return undefined;
    }
    headers.push([name, value]);
  }
  if (hosts !== 1 || upgrades !== 1 || !asksConnection) return undefined;
  return { method: "GET", target, headers };
}

/**
 * Reads a text without the spaces and tabs around it, from the bytes: a part of a string would keep
 * the whole head for as long as a session keeps the header.
 */
function trimmed(bytes: Buffer, start: number, end: number): string {
  while (start < end && isSpace(bytes[start]!)) start++;
  while (start < end && isSpace(bytes[end - 1]!)) end--;
  return bytes.toString("latin1", start, end);
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x09;
}

/**
 * Checks the value of an `Upgrade` header.
 *
 * @param upgrade The value.
 * @returns `true` if the header asks for a WebSocket and nothing else.
 */
export function isWebSocket(upgrade: string): boolean {
  return upgrade.toLowerCase() === "websocket";
}

/**
 * A request with a signal that is made when first read. Few handlers read the signal of an upgrade,
 * and the signal takes longer to make than the rest of the request. A copy of the request by
 * `new Request(request)` has a signal of its own.
 */
class LateSignalRequest extends Request {
  readonly #signal: () => AbortSignal;

  constructor(url: string, init: RequestInit, signal: () => AbortSignal) {
    super(url, init);
    this.#signal = signal;
  }

  override get signal(): AbortSignal {
    return this.#signal();
  }
}

/**
 * Converts the head of a request to a request of the web platform.
 *
 * @param head Head of the request.
 * @param options Use of TLS, the body, and the signal that aborts the request, or a function that
 * returns the signal when the signal is read.
 * @returns The request; `undefined` for a malformed one.
 */
export function requestOf(
  { method, target, headers }: RequestHead,
  options: {
    readonly isSecure: boolean;
    readonly body?: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
    readonly signal: AbortSignal | (() => AbortSignal);
  },
): Request | undefined {
  const { isSecure, body = null, signal } = options;
  const hosts = headers.filter(([name]) => name === "host");
  // node:http takes the first of several `Host` headers; such a request is refused here.
  if (hosts.length > 1) return undefined;
  const url = urlOf(target, hosts[0]?.[1] ?? "", isSecure);
  if (url === undefined) return undefined;
  try {
    const init = { method, headers: headers as [string, string][], body };
    return typeof signal === "function"
      ? new LateSignalRequest(url, init, signal)
      : new Request(url, { ...init, signal });
  } catch {
    // The web platform refuses some methods and headers, such as CONNECT.
    return undefined;
  }
}

/** Builds the request's URL. */
function urlOf(target: string, host: string, isSecure: boolean): string | undefined {
  if (!target.startsWith("/")) {
    return /^https?:\/\//i.test(target) && URL.canParse(target) ? target : undefined;
  }
  const url = `${isSecure ? "https" : "http"}://${host}${target}`;
  return HOST.test(host) && URL.canParse(url) ? url : undefined;
}
