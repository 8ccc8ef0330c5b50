/**
 * The rules for the fields of requests and responses (RFC 9114 sections 4.2 and 4.3, RFC 9220,
 * draft-ietf-webtrans-http3 section 3.2).
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import type { Field } from "./qpack.ts";

/**
 * The pseudo-headers of a request. Each can occur at most once, and they precede all other fields.
 */
const REQUEST_PSEUDO_HEADERS: ReadonlySet<string> = new Set([
  ":method",
  ":protocol",
  ":scheme",
  ":authority",
  ":path",
]);

const RESPONSE_PSEUDO_HEADERS: ReadonlySet<string> = new Set([":status"]);

/** Fields that describe an HTTP/1.1 connection, which are forbidden. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
]);

/** The values of `:protocol`; `webtransport-h3` has been used since draft 15. */
const PROTOCOLS: ReadonlySet<string> = new Set(["webtransport", "webtransport-h3"]);

/** Matches a status of three digits, the first of which is 1 to 5. */
const STATUS = /^[1-5]\d\d$/;

/** The status that HTTP/3 forbids, because it has no upgrades (RFC 9114 section 4.5). */
const SWITCHING_PROTOCOLS = "101";

/**
 * Finds the status with which to reject a request, if it is not a valid request for a session.
 *
 * @returns 400 if the request is malformed, 405 if it has another method, 501 if it asks for
 * another protocol, and `undefined` if it is a valid request for a session.
 */
export function rejectionStatus(fields: readonly Field[]): number | undefined {
  const pseudo = pseudoHeadersOf(fields, REQUEST_PSEUDO_HEADERS);
  if (pseudo === undefined) return 400;
  const authority = pseudo.get(":authority");
  for (const [name, value] of fields) {
    if (name === "te" && value.toLowerCase() !== "trailers") return 400;
    // If both are present, they must be equal (RFC 9114 section 4.3.1).
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
 * @throws {H3ProtocolError} With code `messageError` if the response is malformed.
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

/** Collects the pseudo-headers of a message. Returns `undefined` if the message is malformed. */
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
 * Tells whether the authority and the path form a URL that consists of exactly these parts and has
 * no user information.
 */
function isTarget(authority = "", path = ""): boolean {
  if (authority === "" || /[@/?#\\]/.test(authority) || !path.startsWith("/")) return false;
  return URL.canParse(`https://${authority}${path}`);
}
