/** Parses the URLs that clients accept, and formats them for errors. */
import { ConnectionError, TimeoutError, UnsupportedError } from "../errors.ts";

/**
 * Resolves a URL. In a page or worker, a relative URL is resolved against the location.
 *
 * @returns The absolute URL, or `null` if the URL is invalid, or relative outside of a page.
 */
export function absoluteUrl(url: string | URL): URL | null {
  const { location } = globalThis as { location?: { href: string } };
  return parseUrl(String(url), location?.href);
}

/**
 * Parses a URL. This is needed because `URL.parse` is missing in Safari 17 and in Chrome up to 125.
 *
 * @param base The base for a relative URL.
 * @returns The absolute URL, or `null` if the URL is invalid.
 */
export function parseUrl(url: string, base?: string): URL | null {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
}

/**
 * Parses the URL of a server.
 *
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL. In a page, it may be relative.
 * @returns The URL, without a fragment.
 * @throws {TypeError} If the URL is invalid or has another scheme.
 */
export function parseServerUrl(url: string | URL): URL {
  const parsed = absoluteUrl(url);
  if (parsed === null || !/^(ws|http)s?:$/.test(parsed.protocol)) {
    throw new TypeError(
      `Cannot connect: url must start with ws:, wss:, http: or https:, received "${
        publicUrl(url)
      }"`,
    );
  }
  // The `URL` class of React Native has no setters.
  return new URL(parsed.href.replace(/#.*/s, ""));
}

/**
 * Removes the parts of a URL that may be secret: the user, password, query and fragment.
 *
 * @param url A URL, or a text used as one.
 * @returns The scheme, host and path.
 */
export function publicUrl(url: string | URL): string {
  return String(url).replace(/[?#].*/s, "").replace(/^([a-z][a-z0-9+.-]*:)?\/\/[^/]*@/i, "$1//");
}

/**
 * Removes secrets from a URL's query: the token, the ticket, and the marker for a token in band.
 * Sessions keep their URL without secrets.
 *
 * @param url An absolute or relative URL.
 * @returns The URL without `token`, `ticket` and `auth=in-band`, otherwise unchanged.
 */
export function withoutToken(url: string): string {
  return url.replace(/\?[^#]*/, (query) => {
    const pairs = query.slice(1).split("&");
    const kept = pairs.filter((pair) => !/^(token=|ticket=|auth=in-band$)/.test(pair));
    if (kept.length === pairs.length) return query;
    return kept.length === 0 ? "" : `?${kept.join("&")}`;
  });
}

/**
 * Returns whether a text can be the host of a URL. Other characters could change the URL's path.
 *
 * @param host The value of a `Host` header.
 * @returns `true` if the text is a host, with or without a port.
 */
export function isHost(host: string): boolean {
  return /^[^\s/?#@\\]+$/.test(host);
}

/**
 * Returns the part of a URL after a path. Other spellings of the path do not match.
 *
 * @param path The path, without a trailing slash.
 * @returns The rest of the path, still encoded, or `undefined` if the URL has another path.
 */
export function pathBelow(url: string, path: string): string | undefined {
  const pathname = parseUrl(url)?.pathname;
  if (pathname === undefined || !pathname.startsWith(path)) return undefined;
  const rest = pathname.slice(path.length);
  return rest === "" || rest.startsWith("/") ? rest : undefined;
}

/**
 * Adds the URL to the message of a connection error.
 *
 * @param error The error. An error of another kind, or one that already names the host, is returned
 * unchanged.
 * @returns An error of the same class.
 */
export function withUrl(error: unknown, url: string | URL): unknown {
  const { message, cause = error } = Object(error) as Error;
  const host = absoluteUrl(url)?.host;
  if (host && message?.includes(`//${host}`)) return error;
  const why = `Cannot connect to ${publicUrl(url)}: ${message?.replace(/^Cannot connect: /, "")}`;
  if (error instanceof TimeoutError) return new TimeoutError(why, error.timeoutMs, { cause });
  if (error instanceof UnsupportedError) return new UnsupportedError(why, { cause });
  if (!(error instanceof ConnectionError)) return error;
  const { status } = error;
  return new ConnectionError(why, { cause, status });
}
