/** Rules for the origins of pages, so that no foreign page can use its visitor's cookies. */
import { peerAddress, type RequestInfo } from "./address.ts";

/** Rules for the origins of pages that may connect. */
export interface OriginRules {
  /**
   * The origins of pages that may connect, such as `https://example.com`, or `"*"` for every page.
   *
   * An origin consists of scheme, host and port; the scheme's default port is omitted.
   *
   * @default {[]}
   */
  readonly origins?: readonly string[] | undefined;
  /**
   * The host names, without a port, under which this server's own pages may connect.
   *
   * A page may connect if its origin has one of these names, and if its origin's host and port are
   * the same as the request's. Only listed names are accepted, so that an attacker cannot use a
   * name that resolves to this server (DNS rebinding). A page from another port of the same host
   * has another origin, so it must be listed in `origins`.
   *
   * @default {["localhost", "127.0.0.1", "[::1]"]}
   */
  readonly hosts?: readonly string[] | undefined;
}

/** The host names of this machine, as they appear in URLs. */
export const LOCAL_HOSTS: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];

/**
 * Decides whether a request may connect. A request without an `Origin` header does not come from a
 * page, so it may connect.
 *
 * @returns `true` if the request may connect.
 *
 * @example Usage
 * ```ts
 * import { isOriginAllowed } from "./origins.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const page = new Headers({ origin: "http://localhost:8000", host: "localhost:8000" });
 * assertEquals(isOriginAllowed(page), true);
 * const foreign = new Headers({ origin: "https://evil.example", host: "localhost:8000" });
 * assertEquals(isOriginAllowed(foreign), false);
 * ```
 */
export function isOriginAllowed(
  headers: Pick<Headers, "get">,
  rules: OriginRules = {},
): boolean {
  const origin = headers.get("origin");
  return origin === null || originTrust({ origin, host: headers.get("host") }, rules) !== "none";
}

/**
 * Returns how far the rules trust the origin of a page.
 *
 * @param page The request's `Origin` header, and the requested host with its port.
 * @returns `full` for a page of this server and for a listed origin, both of which may use the
 * visitor's cookies; `anonymous` if only `*` or `null` allows the page; `none` for all other pages.
 */
export function originTrust(
  { origin, host }: { readonly origin: string; readonly host: string | null },
  { origins = [], hosts = LOCAL_HOSTS }: OriginRules,
): "full" | "anonymous" | "none" {
  // Any page can put itself into a sandbox, whose origin is "null".
  if (origin !== "null" && origins.includes(origin)) return "full";
  const url = URL.parse(origin);
  if (url !== null && url.host === host && hosts.includes(url.hostname)) return "full";
  return origins.includes("*") || origins.includes(origin) ? "anonymous" : "none";
}

/** Names an origin that the rules don't trust, for the response and the console. */
export function originNotAllowed(origin: string | null): string {
  if (origin === null) return "Origin is missing: requests with cookies must have one";
  return `Origin not allowed: add it to origins, or its host to hosts (${origin})`;
}

/** The headers that proxies add, besides those that start with `x-forwarded-`. */
const FORWARDED = [
  "cdn-loop",
  "cf-ray",
  "forwarded",
  "true-client-ip",
  "via",
  "x-client-ip",
  "x-cluster-client-ip",
  "x-real-ip",
];

/**
 * Returns whether a program on this machine sent a request and addressed it to this machine. A
 * request does not count if a proxy forwarded it and added one of the usual headers.
 *
 * @param hosts Additional names of this machine.
 * @returns `true` if all these conditions are met.
 */
export function isFromThisMachine(
  { headers, url }: Request,
  info: RequestInfo,
  hosts: readonly string[] = [],
): boolean {
  if (!/^(?:::1|(?:::ffff:)?127(?:\.\d+){3})$/.test(peerAddress(info) ?? "")) return false;
  // In HTTP/2, only the URL contains the host. Every browser sends the host.
  const asked = headers.get("host") ?? new URL(url).host;
  const host = URL.parse(`http://${asked}`)?.hostname ?? "";
  if (!LOCAL_HOSTS.includes(host) && !hosts.includes(host)) return false;
  for (const name of headers.keys()) {
    if (FORWARDED.includes(name) || name.startsWith("x-forwarded-")) return false;
  }
  return true;
}

/**
 * Checks the rules when a server is created, because a misspelled rule would silently reject every
 * page.
 *
 * @throws {TypeError} If an origin or a host name is malformed.
 */
export function checkOriginRules({ origins = [], hosts = [] }: OriginRules): void {
  checkList("origins", origins);
  checkList("hosts", hosts);
  for (const origin of origins) {
    // A sandboxed page has the origin "null".
    if (origin === "*" || origin === "null") continue;
    const right = originOf(origin);
    if (right !== origin) {
      rejectOption("origins", "origins such as https://example.com", origin, right);
    }
  }
  for (const host of hosts) {
    const right = hostOf(host);
    if (right !== host) rejectOption("hosts", "host names without ports", host, right);
  }
}

function checkList(name: string, list: unknown): void {
  if (Array.isArray(list) && list.every((one) => typeof one === "string")) return;
  const received = Array.isArray(list) ? "other values in it" : typeof list;
  throw new TypeError(
    `Cannot create server: ${name} must be an array of strings, received ${received}`,
  );
}

function rejectOption(
  name: string,
  rule: string,
  received: string,
  right: string | undefined,
): never {
  const hint = right === undefined ? "" : ` (write "${right}")`;
  throw new TypeError(
    `Cannot create server: ${name} must hold ${rule}, received "${received}"${hint}`,
  );
}

/**
 * Formats an origin as browsers do in the header. According to the URL standard, a URL with an
 * extension's scheme has no origin.
 *
 * @param text An origin, or the URL of a page.
 * @returns The origin; `undefined` if the text has no scheme or no host.
 */
export function originOf(text: string): string | undefined {
  const url = URL.parse(text);
  return url === null || url.host === "" ? undefined : `${url.protocol}//${url.host}`;
}

function hostOf(text: string): string | undefined {
  const url = text.includes("://") ? URL.parse(text) : URL.parse(`http://${text}`);
  return (url ?? URL.parse(`http://[${text}]`))?.hostname;
}
