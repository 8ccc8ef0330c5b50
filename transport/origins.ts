/** Rules for the origins of pages, so that no foreign page can use its visitor's cookies. */
import { peerAddress, type RequestInfo } from "./address.ts";

/** Rules for the origins of pages that may connect. */
export interface OriginRules {
  /**
   * The origins of pages that may connect, such as `https://example.com`: scheme, host, and port
   * unless it is the scheme's default. `*` allows every page.
   *
   * @default {[]}
   */
  readonly origins?: readonly string[] | undefined;
  /**
   * The host names of this server. A page may connect if its origin has one of these names, and
   * equals the host and port of the request. Only listed names count, so that an attacker cannot
   * use a name that resolves to this server (DNS rebinding). Names have no port: a page from
   * another port of the same host has another origin, and needs `origins`.
   *
   * @default {["localhost", "127.0.0.1", "[::1]"]}
   */
  readonly hosts?: readonly string[] | undefined;
}

/** The host names of this machine, as they appear in URLs. */
export const LOCAL_HOSTS: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];

/**
 * Decides whether a request may connect. A request without an `Origin` header does not come from a
 * page, and may connect.
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
 * Tells how far the rules trust the origin of a page.
 *
 * @param page The `Origin` header of the request, and the requested host with its port.
 * @returns `full` for a page of this server and for a listed origin, which may use the cookies of
 * the visitor; `anonymous` if only `*` or `null` allows the page; `none` for all other pages.
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
 * Tells if a program on this machine sent a request, and addressed this machine. A request that a
 * proxy passed on is not from this machine, if the proxy adds one of the usual headers.
 *
 * @param hosts Additional host names that stand for this machine.
 * @returns `true` if all conditions hold.
 */
export function isFromThisMachine(
  { headers, url }: Request,
  info: RequestInfo,
  hosts: readonly string[] = [],
): boolean {
  if (!/^(?:::1|(?:::ffff:)?127(?:\.\d+){3})$/.test(peerAddress(info) ?? "")) return false;
  // HTTP/2 has the host only in the URL. Every browser sends the host.
  const asked = headers.get("host") ?? new URL(url).host;
  const host = URL.parse(`http://${asked}`)?.hostname ?? "";
  if (!LOCAL_HOSTS.includes(host) && !hosts.includes(host)) return false;
  for (const name of headers.keys()) {
    if (FORWARDED.includes(name) || name.startsWith("x-forwarded-")) return false;
  }
  return true;
}

/**
 * Checks rules when a server is created: a misspelled rule would silently keep every page out.
 *
 * @throws {TypeError} If an origin or a host name is malformed.
 */
export function checkOriginRules({ origins = [], hosts = [] }: OriginRules): void {
  checkList("origins", origins);
  checkList("hosts", hosts);
  for (const origin of origins) {
    // A page in a sandbox has the origin "null".
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
 * Formats an origin as browsers do in the header. By the URL standard, the scheme of an extension
 * has no origin.
 */
function originOf(text: string): string | undefined {
  const url = URL.parse(text);
  return url === null || url.host === "" ? undefined : `${url.protocol}//${url.host}`;
}

function hostOf(text: string): string | undefined {
  const url = text.includes("://") ? URL.parse(text) : URL.parse(`http://${text}`);
  return (url ?? URL.parse(`http://[${text}]`))?.hostname;
}
