/**
 * Which pages may connect: the check that keeps a foreign page from using the
 * cookies of its visitor.
 *
 * @module
 */

/** Which origins may connect. */
export interface OriginRules {
  /**
   * Origins of pages that may connect, such as `https://example.com`; `*` lets
   * every page in.
   *
   * @default {[]}
   */
  readonly origins?: readonly string[];
  /**
   * Host names that are this server's own: a page whose origin is one of them,
   * and is the host that was asked, may connect. Named, so that a name that an
   * attacker points here (DNS rebinding) does not pass.
   *
   * @default {["localhost", "127.0.0.1", "[::1]"]}
   */
  readonly hosts?: readonly string[];
}

const LOCAL_HOSTS: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];

/**
 * Decides whether a request may connect. One without an `Origin` header is no
 * page's, and may.
 *
 * @param headers The request's headers.
 * @param rules See {@linkcode OriginRules}.
 * @returns Whether it may.
 *
 * @example Usage
 * ```ts
 * import { isOriginAllowed } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const page = new Headers({ origin: "http://localhost:8000", host: "localhost:8000" });
 * assertEquals(isOriginAllowed(page), true);
 * const foreign = new Headers({ origin: "https://evil.example", host: "localhost:8000" });
 * assertEquals(isOriginAllowed(foreign), false);
 * ```
 */
export function isOriginAllowed(headers: Headers, rules: OriginRules = {}): boolean {
  const { origins = [], hosts = LOCAL_HOSTS } = rules;
  const origin = headers.get("origin");
  if (origin === null || origins.includes("*") || origins.includes(origin)) return true;
  const url = URL.parse(origin);
  return url !== null && url.host === headers.get("host") && hosts.includes(url.hostname);
}
