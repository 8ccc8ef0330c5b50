/**
 * Requests and responses of node:http as those of the web platform.
 *
 * @module
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { pipeline } from "node:stream/promises";

/** What a `Host` header holds: anything else could move the path of the URL. */
const HOST = /^[^\s/?#@\\]+$/;

/** Where a request came from. */
export interface Origin {
  /** The peer's address. */
  readonly remoteAddr: Deno.NetAddr;
}

/**
 * Makes a request of the web platform.
 *
 * @param message What came.
 * @param options Whether it came over TLS, whether it may have a body, and what ends with it.
 * @returns The request; `undefined` if it is malformed.
 */
export function requestOf(
  message: IncomingMessage,
  options: { readonly isSecure: boolean; readonly hasBody: boolean; readonly signal: AbortSignal },
): Request | undefined {
  const { method = "GET", rawHeaders } = message;
  const url = urlOf(message, options.isSecure);
  // node:http takes the first of several hosts.
  const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === "host");
  if (url === undefined || hosts.length > 1) return undefined;
  const mayHaveBody = options.hasBody && method !== "GET" && method !== "HEAD";
  try {
    const body = mayHaveBody
      ? Readable.toWeb(message) as unknown as ReadableStream<Uint8Array<ArrayBuffer>>
      : null;
    const headers = new Headers();
    for (let i = 0; i < rawHeaders.length; i += 2) {
      headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
    }
    return new Request(url, { method, headers, body, signal: options.signal });
  } catch {
    // A method or a header that the web platform does not have, such as CONNECT.
    return undefined;
  }
}

/**
 * Tells where a request came from.
 *
 * @param message What came.
 * @returns The peer's address.
 */
export function originOf({ socket }: IncomingMessage): Origin {
  const { remoteAddress = "", remotePort = 0 } = socket;
  return { remoteAddr: { transport: "tcp", hostname: remoteAddress, port: remotePort } };
}

/**
 * Sends a response; it is waited for where its body is a stream. Never rejects: a peer that left
 * ends the body.
 *
 * @param response The response.
 * @param out Where to.
 */
export async function respond(response: Response, out: ServerResponse): Promise<void> {
  try {
    out.statusCode = response.status;
    const cookies = response.headers.getSetCookie();
    for (const [name, value] of response.headers) {
      if (name !== "set-cookie") out.setHeader(name, value);
    }
    if (cookies.length > 0) out.setHeader("set-cookie", cookies);
    const { body } = response;
    if (body === null) out.end();
    else await pipeline(Readable.fromWeb(body as unknown as NodeReadableStream), out);
  } catch {
    out.destroy();
  }
}

/** The target may be a path, or a whole URL as proxies get it. */
function urlOf({ url = "", headers: { host = "" } }: IncomingMessage, isSecure: boolean) {
  const scheme = isSecure ? "https" : "http";
  if (!url.startsWith("/")) return /^https?:/i.test(url) && URL.canParse(url) ? url : undefined;
  const whole = `${scheme}://${host}${url}`;
  return HOST.test(host) && URL.canParse(whole) ? whole : undefined;
}
