/**
 * Rules for the fields of requests and responses (RFC 9114 sections 4.2 and 4.3, RFC 9220,
 * draft-ietf-webtrans-http3 section 3.2).
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import type { Field } from "./qpack.ts";

/** Pseudo-headers of a request: each at most once, before all other fields. */
const REQUEST_PSEUDO_HEADERS: ReadonlySet<string> = new Set([
  ":method",
  ":protocol",
  ":scheme",
  ":authority",
  ":path",
]);

const RESPONSE_PSEUDO_HEADERS: ReadonlySet<string> = new Set([":status"]);

/** Fields about an HTTP/1.1 connection, which are forbidden. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
]);

/** Values of `:protocol`; `webtransport-h3` is used since draft 15. */
const PROTOCOLS: ReadonlySet<string> = new Set(["webtransport", "webtransport-h3"]);

/** Three digits of a class from 1 to 5. */
const STATUS = /^[1-5]\d\d$/;

/** The status that HTTP/3 forbids, because there are no upgrades (RFC 9114 section 4.5). */
const SWITCHING_PROTOCOLS = "101";

/**
 * Finds the status to reject a request with, unless it is a valid request for a session.
 *
 * @returns 400 for a malformed request, 405 for another method, 501 for another protocol;
 * `undefined` for a valid request for a session.
 */
export function refusalStatus(fields: readonly Field[]): number | undefined {
  const pseudo = pseudoHeadersOf(fields, REQUEST_PSEUDO_HEADERS);
  if (pseudo === undefined) return 400;
  const authority = pseudo.get(":authority");
  for (const [name, value] of fields) {
    if (name === "te" && value.toLowerCase() !== "trailers") return 400;
    // If both are present, both must be equal (RFC 9114 section 4.3.1).
    if (name === "host" && value.toLowerCase() !== authority?.toLowerCase()) return 400;
  }
  const method = pseudo.get(":method");
  if (method === undefined) return 400;
  if (method !== "CONNECT") return 405;
  if (!PROTOCOLS.has(pseudo.get(":protocol") ?? "")) return 501;
  if (pseudo.get(":scheme") !== "https") return 400;
  return isTarget(authority, pseudo.get(":path")) ? undefined : 400;
}

/**
 * Reads the status of a response.
 *
 * @returns The status, from 100 to 599.
 * @throws {H3ProtocolError} With `messageError` if the response is malformed.
 */
export function statusOf(fields: readonly Field[]): number {
  const pseudo = pseudoHeadersOf(fields, RESPONSE_PSEUDO_HEADERS);
  const status = pseudo?.get(":status") ?? "";
  const fault = pseudo === undefined || fields.some(([name]) => name === "te")
    ? "one status before all headers, and no HTTP/1.1 headers"
    : !STATUS.test(status) || status === SWITCHING_PROTOCOLS
    ? `a status from 100 to 599 other than 101, received "${status}"`
    : undefined;
  if (fault === undefined) return Number(status);
  throw new H3ProtocolError(H3Error.messageError, `Cannot read response: expected ${fault}`);
}

/** Collects the pseudo-headers of a message; returns `undefined` for a malformed message. */
function pseudoHeadersOf(
  fields: readonly Field[],
  known: ReadonlySet<string>,
): ReadonlyMap<string, string> | undefined {
  const pseudo = new Map<string, string>();
  let isPastPseudo = false;
  for (const [name, value] of fields) {
    if (!name.startsWith(":")) {
      isPastPseudo = true;
      if (CONNECTION_HEADERS.has(name)) return undefined;
      continue;
    }
    if (isPastPseudo || pseudo.has(name) || !known.has(name)) return undefined;
    pseudo.set(name, value);
  }
  return pseudo;
}

/**
 * Tells whether authority and path form a URL with exactly these parts, without user information.
 */
function isTarget(authority = "", path = ""): boolean {
  if (authority === "" || /[@/?#\\]/.test(authority) || !path.startsWith("/")) return false;
  return URL.canParse(`https://${authority}${path}`);
}
