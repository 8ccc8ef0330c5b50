/** Cookies of requests, which any client may malform. */

/**
 * Reads the cookies of a request. Every browser sends all cookies of a host, including those that
 * other programs on the host have set. For this reason, malformed cookies never throw.
 *
 * @param headers The headers of the request.
 * @returns The values by name, as sent. A pair without a name is left out, and a pair without `=`
 * is a name with an empty value. If a name is repeated, the last value counts.
 */
export function cookiesOf(headers: Pick<Headers, "get">): Record<string, string | undefined> {
  const cookies: Record<string, string | undefined> = Object.create(null);
  for (const pair of headers.get("cookie")?.split(";") ?? []) {
    const [name = "", ...value] = pair.split("=");
    const key = name.trim();
    if (key !== "") cookies[key] = value.join("=");
  }
  return cookies;
}
