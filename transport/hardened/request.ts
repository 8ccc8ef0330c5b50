/** Reads the head of an upgrade, and converts any head to a web platform request. */
import { Buffer } from "node:buffer";
import { isHost } from "../url.ts";

export interface ReceivedHead {
  readonly method: string;
  /** A path, or a whole URL as clients send it to proxies. */
  readonly target: string;
  /**
   * The names in lower case and the values, in the order of the head. A name may occur more than
   * once.
   */
  readonly headers: Iterable<readonly [name: string, value: string]>;
}

/** An upgrade to a WebSocket, with the bytes after its head. */
export interface UpgradeHead extends ReceivedHead {
  readonly headers: HeadFields;
  readonly rest: Buffer;
}

/**
 * The header fields of a head. A value is decoded into its own string when it is requested. A slice
 * of the head's text would keep the whole text alive for as long as a session keeps the value.
 */
export class HeadFields implements Iterable<[name: string, value: string]> {
  readonly #bytes: Buffer;
  /** The names in lower case. Bounded by the size of the head. */
  readonly #names: string[] = [];
  /** The start and end of each value in the bytes. */
  readonly #bounds: number[] = [];

  /** Creates fields whose values are in `bytes`. */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Adds a field, with the start and the end of its value. */
  add(name: string, start: number, end: number): void {
    this.#names.push(name);
    this.#bounds.push(start, end);
  }

  /** Returns the value of a field, joined by commas if the field occurred more than once. */
  get(name: string): string | null {
    const wanted = name.toLowerCase();
    let value: string | null = null;
    for (let i = this.#names.indexOf(wanted); i >= 0; i = this.#names.indexOf(wanted, i + 1)) {
      value = value === null ? this.#valueAt(i) : `${value}, ${this.#valueAt(i)}`;
    }
    return value;
  }

  /** Returns whether there is a field with the name. */
  has(name: string): boolean {
    return this.#names.includes(name.toLowerCase());
  }

  /** Yields the fields in the order of the head. */
  *[Symbol.iterator](): Generator<[name: string, value: string]> {
    for (const [i, name] of this.#names.entries()) yield [name, this.#valueAt(i)];
  }

  #valueAt(index: number): string {
    return this.#bytes.toString("latin1", this.#bounds[2 * index], this.#bounds[2 * index + 1]);
  }
}

/** The first bytes of every upgrade. */
const METHOD = "GET ";

const HEAD_END = "\r\n\r\n";

const LINE_END = "\r\n";

/** The bytes that follow most heads. There are none, because a client waits for the response. */
const NOTHING = Buffer.alloc(0);

/** The version at the end of the request line, with the space before it. */
const VERSION = " HTTP/1.1";

const TARGET = /^[\x21-\x7e]+$/;

/** The name of a header in lower case. */
const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;

/** Matches a character that no head may contain, or a line ending of one character. */
const FORBIDDEN = /[^\t\x20-\x7e\x80-\xff\r\n]|\r(?!\n)|[^\r]\n/;

const BARE_LINE_FEED = /[^\r]\n/;

/** The word `upgrade` in a `Connection` header. */
const CONNECTION_UPGRADE = /(?:^|,)\s*upgrade\s*(?:,|$)/i;

/**
 * Reads the first request of a connection while it may still be an upgrade to a WebSocket. Only an
 * unambiguous head is accepted. Any other head, malformed or not, is left to node:http.
 *
 * @param bytes All bytes of the connection so far.
 * @param checked The number of bytes that earlier calls have checked.
 * @param maxBytes The largest head to read.
 * @returns The upgrade, `undefined` if the request is not an upgrade, or `"incomplete"` if more
 * bytes are needed.
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
    // node:http rejects a bare line feed immediately.
    const mayGoOn = bytes.length < maxBytes && !BARE_LINE_FEED.test(text);
    return mayGoOn ? "incomplete" : undefined;
  }
  const head = start === 0 ? text.slice(0, end) : bytes.toString("latin1", 0, start + end);
  return parseUpgrade(head, bytes);
}

/**
 * Parses a head without its last line.
 *
 * @param bytes All bytes of the connection. They start with the head.
 * @returns The head, or `undefined` if the request is not an upgrade.
 */
function parseUpgrade(head: string, bytes: Buffer): UpgradeHead | undefined {
  if (FORBIDDEN.test(head)) return undefined;
  let lineEnd = lineEndAfter(head, 0);
  const targetEnd = lineEnd - VERSION.length;
  if (!head.startsWith(VERSION, targetEnd)) return undefined;
  const headers = new HeadFields(bytes);
  let hosts = 0;
  let upgrades = 0;
  let asksConnection = false;
  while (lineEnd < head.length) {
    const start = lineEnd + LINE_END.length;
    lineEnd = lineEndAfter(head, start);
    const colon = head.indexOf(":", start);
    if (colon < 0 || colon > lineEnd) return undefined;
    const name = head.slice(start, colon).toLowerCase();
    if (!HEADER_NAME.test(name)) return undefined;
    // This is a loop, because a regular expression for the space around a value would take
    // quadratic time: 0.7 s for a value with 15,000 spaces in the middle.
    let from = colon + 1;
    let to = lineEnd;
    while (from < to && isSpace(bytes[from]!)) from++;
    while (from < to && isSpace(bytes[to - 1]!)) to--;
    headers.add(name, from, to);
    switch (name) {
      case "host":
        hosts++;
        break;
      case "upgrade":
        if (!isWebSocket(head.slice(from, to))) return undefined;
        upgrades++;
        break;
      case "connection":
        asksConnection ||= CONNECTION_UPGRADE.test(head.slice(from, to));
        break;
      case "content-length":
        if (head.slice(from, to) !== "0") return undefined;
        break;
      case "transfer-encoding":
        return undefined;
    }
  }
  if (hosts !== 1 || upgrades !== 1 || !asksConnection) return undefined;
  const target = bytes.toString("latin1", METHOD.length, targetEnd);
  if (!TARGET.test(target)) return undefined;
  const headBytes = head.length + HEAD_END.length;
  const rest = headBytes === bytes.length ? NOTHING : bytes.subarray(headBytes);
  return { method: "GET", target, headers, rest };
}

/** Returns the index of the next line end, or of the end of the head. */
function lineEndAfter(head: string, start: number): number {
  const end = head.indexOf(LINE_END, start);
  return end < 0 ? head.length : end;
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x09;
}

/**
 * Checks the value of an `Upgrade` header.
 *
 * @returns `true` if the header requests a WebSocket and nothing else.
 */
export function isWebSocket(upgrade: string): boolean {
  return upgrade.toLowerCase() === "websocket";
}

/**
 * A request whose signal is created when it is first read. Few handlers read the signal of an
 * upgrade, and creating it takes longer than creating the rest of the request. A copy made with
 * `new Request(request)` has its own signal.
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
 * Converts the head of a request to a web platform request.
 *
 * @param options Whether the connection uses TLS, the body, and the signal that aborts the request.
 * A function can create the signal when it is first read.
 * @returns The request, or `undefined` if the head is malformed.
 */
export function requestOf(
  { method, target, headers }: ReceivedHead,
  options: {
    readonly isSecure: boolean;
    readonly body?: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
    readonly signal: AbortSignal | (() => AbortSignal);
  },
): Request | undefined {
  const { isSecure, body = null, signal } = options;
  const fields = headers instanceof Array ? headers : [...headers];
  const hosts = fields.filter(([name]) => name === "host");
  // node:http uses the first of several `Host` headers; such a request is rejected here.
  if (hosts.length > 1) return undefined;
  const url = requestUrl(target, hosts[0]?.[1] ?? "", isSecure);
  if (url === undefined) return undefined;
  try {
    // If the body is a stream, Node also requires `duplex`; Deno ignores this member.
    const init = { method, headers: fields as [string, string][], body, duplex: "half" };
    return typeof signal === "function"
      ? new LateSignalRequest(url, init, signal)
      : new Request(url, { ...init, signal });
  } catch {
    // The web platform rejects some methods and headers, such as CONNECT.
    return undefined;
  }
}

/**
 * Builds the URL of a request. The URL uses the `Host` header even if the target is a whole URL, so
 * that all parts of a server see the same host.
 *
 * @param host The value of the `Host` header.
 * @param isSecure True if the connection uses TLS.
 * @returns The URL, as in a `Request`, or `undefined` if the target or the host is malformed.
 */
export function requestUrl(target: string, host: string, isSecure: boolean): string | undefined {
  if (!target.startsWith("/")) {
    const url = /^https?:\/\//i.test(target) ? URL.parse(target) : null;
    // The URL of a `Request` never contains a user name.
    if (url === null || url.username !== "" || url.password !== "") return undefined;
    target = url.pathname + url.search;
  }
  if (!isHost(host)) return undefined;
  return URL.parse(`${isSecure ? "https" : "http"}://${host}${target}`)?.href;
}
