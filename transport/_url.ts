/**
 * The URLs that clients take.
 *
 * @module
 */

/**
 * Reads the URL of a server; one without a host is that of the page.
 *
 * @param url `ws:`, `wss:`, `http:` or `https:`.
 * @returns The URL, without a fragment.
 * @throws {TypeError} If it is none of these.
 */
export function parseServerUrl(url: string | URL): URL {
  const base = (globalThis as { location?: { href: string } }).location?.href;
  const parsed = URL.parse(String(url), base);
  if (parsed === null || !/^(ws|http)s?:$/.test(parsed.protocol)) {
    throw new TypeError(
      // Without the query, where tokens are.
      `Cannot connect: url must begin with ws:, wss:, http: or https:, received "${
        String(url).split("?")[0]
      }"`,
    );
  }
  parsed.hash = "";
  return parsed;
}
