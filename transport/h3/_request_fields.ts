/**
 * What a request must have to be one for a session (RFC 9114 sections 4.2 and
 * 4.3, RFC 9220, draft-ietf-webtrans-http3 section 3.2).
 *
 * @module
 */
import type { Field } from "./qpack.ts";

/** Once each at most, and ahead of all else. */
const PSEUDO_HEADERS: ReadonlySet<string> = new Set([
  ":method",
  ":protocol",
  ":scheme",
  ":authority",
  ":path",
]);

/** They speak of a connection of HTTP/1.1. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
]);

/** `webtransport-h3` is from draft 15 on. */
const PROTOCOLS: ReadonlySet<string> = new Set(["webtransport", "webtransport-h3"]);

/**
 * Finds the status of a request that asks for no session.
 *
 * @param fields Its fields.
 * @returns 400 if it is malformed, 405 for another method, 501 for another protocol; `undefined`
 * if it asks for a session.
 */
export function refusalOf(fields: readonly Field[]): number | undefined {
  const pseudo = new Map<string, string>();
  let isPastPseudo = false;
  for (const [name, value] of fields) {
    if (!name.startsWith(":")) {
      isPastPseudo = true;
      if (CONNECTION_HEADERS.has(name)) return 400;
      continue;
    }
    if (isPastPseudo || pseudo.has(name) || !PSEUDO_HEADERS.has(name)) return 400;
    pseudo.set(name, value);
  }
  const method = pseudo.get(":method");
  if (method === undefined) return 400;
  if (method !== "CONNECT") return 405;
  if (!PROTOCOLS.has(pseudo.get(":protocol") ?? "")) return 501;
  if (pseudo.get(":scheme") !== "https") return 400;
  return isTarget(pseudo.get(":authority"), pseudo.get(":path")) ? undefined : 400;
}

/** Whether they make a URL, without a user in it, that means just them. */
function isTarget(authority = "", path = ""): boolean {
  if (authority === "" || /[@/?#\\]/.test(authority) || !path.startsWith("/")) return false;
  return URL.canParse(`https://${authority}${path}`);
}
