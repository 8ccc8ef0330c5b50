/**
 * The URLs that clients take, and how errors show them.
 *
 * @module
 */
import { ConnectionError, TimeoutError, UnsupportedError } from "../errors.ts";

/**
 * Makes a URL absolute: in a page, and in its workers, a relative one is taken against theirs.
 *
 * @param url A URL.
 * @returns The URL; `null` if it is none, such as a relative one outside of a page.
 */
export function absoluteUrl(url: string | URL): URL | null {
  const { location } = globalThis as { location?: { href: string } };
  return URL.parse(String(url), location?.href);
}

/**
 * Reads the URL of a server.
 *
 * @param url `ws:`, `wss:`, `http:` or `https:`; in a page also a relative one.
 * @returns The URL, without a fragment.
 * @throws {TypeError} If it is none of these.
 */
export function parseServerUrl(url: string | URL): URL {
  const parsed = absoluteUrl(url);
  if (parsed === null || !/^(ws|http)s?:$/.test(parsed.protocol)) {
    throw new TypeError(
      `Cannot connect: url must begin with ws:, wss:, http: or https:, received "${
        publicUrl(url)
      }"`,
    );
  }
  parsed.hash = "";
  return parsed;
}

/**
 * Takes everything out of a URL that may be a secret: user, password, query and fragment.
 *
 * @param url A URL, or what was taken for one.
 * @returns Scheme, host and path.
 */
export function publicUrl(url: string | URL): string {
  return String(url).replace(/[?#].*/s, "").replace(/^([a-z][a-z0-9+.-]*:)?\/\/[^/]*@/i, "$1//");
}

/**
 * Has the error of a connection name its URL.
 *
 * @param error An error; those of other kinds, and those that name the host, stay as they are.
 * @param url Where the connection was to go.
 * @returns An error of the same class.
 */
export function withUrl(error: unknown, url: string | URL): unknown {
  const { message, cause = error } = Object(error) as Error;
  const host = absoluteUrl(url)?.host;
  if (host && message?.includes(host)) return error;
  const why = `Cannot connect to ${publicUrl(url)}: ${message?.replace(/^Cannot connect: /, "")}`;
  if (error instanceof TimeoutError) return new TimeoutError(why, error.timeoutMs, { cause });
  if (error instanceof UnsupportedError) return new UnsupportedError(why, { cause });
  if (!(error instanceof ConnectionError)) return error;
  const { status } = error;
  return new ConnectionError(why, { cause, ...(status !== undefined && { status }) });
}
