/** Conversion of node:http requests and responses from and to those of the web platform. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { pipeline } from "node:stream/promises";

/** Characters of a valid `Host` header: any other character could move the path of the URL. */
const HOST = /^[^\s/?#@\\]+$/;

/** Origin of a request. */
export interface Origin {
  /** The peer's address. */
  readonly remoteAddr: Deno.NetAddr;
}

/**
 * Converts a node:http request to one of the web platform.
 *
 * @param message Request of node:http.
 * @param options Use of TLS, permission for a body, and the signal that aborts the request.
 * @returns The request; `undefined` for a malformed one.
 */
export function requestOf(
  message: IncomingMessage,
  options: { readonly isSecure: boolean; readonly hasBody: boolean; readonly signal: AbortSignal },
): Request | undefined {
  const { method = "GET", rawHeaders } = message;
  const url = urlOf(message, options.isSecure);
  // node:http takes the first of several `Host` headers; such a request is refused here.
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
    // The web platform refuses some methods and headers, such as CONNECT.
    return undefined;
  }
}

/**
 * Reads the origin of a request.
 *
 * @param message Request of node:http.
 * @returns The peer's address.
 */
export function originOf({ socket }: IncomingMessage): Origin {
  const { remoteAddress = "", remotePort = 0 } = socket;
  return { remoteAddr: { transport: "tcp", hostname: remoteAddress, port: remotePort } };
}

/**
 * Sends a response, and waits until a streamed body was sent. Never rejects: a client that
 * disconnects ends the body.
 *
 * @param response Response to send.
 * @param out Response of node:http to write to.
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

/** Builds the request's URL. The target may be a path, or a whole URL as sent to proxies. */
function urlOf({ url = "", headers: { host = "" } }: IncomingMessage, isSecure: boolean) {
  const scheme = isSecure ? "https" : "http";
  if (!url.startsWith("/")) return /^https?:/i.test(url) && URL.canParse(url) ? url : undefined;
  const whole = `${scheme}://${host}${url}`;
  return HOST.test(host) && URL.canParse(whole) ? whole : undefined;
}
