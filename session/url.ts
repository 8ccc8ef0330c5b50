/**
 * What a session may keep of the URL that it came to.
 *
 * @module
 */

/**
 * Takes the token out of a URL's query: a session remembers where it goes, not by which secret.
 *
 * @param url A URL, absolute or relative.
 * @returns The URL without its `token` parameters, otherwise as it was.
 */
export function withoutToken(url: string): string {
  if (!url.includes("token=")) return url;
  return url.replace(/\?[^#]*/, (query) => {
    const kept = query.slice(1).split("&").filter((pair) => !pair.startsWith("token="));
    return kept.length === 0 ? "" : `?${kept.join("&")}`;
  });
}
