/**
 * Rules for the fields of requests and responses (RFC 9114 sections 4.2 and 4.3, RFC 9220,
 * draft-ietf-webtrans-http3 section 3.2).
 *
 * @module
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import type { Field } from "./qpack.ts";

/** Once each at most, and ahead of all else. */
const REQUEST_PSEUDO_HEADERS: ReadonlySet<string> = new Set([
  ":method",
  ":protocol",
  ":scheme",
  ":authority",
  ":path",
]);

/** The same for a response. */
const RESPONSE_PSEUDO_HEADERS: ReadonlySet<string> = new Set([":status"]);

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

/** Three digits, of one of the five classes. */
const STATUS = /^[1-5]\d\d$/;

/** HTTP/3 has no upgrades, RFC 9114 section 4.5. */
const SWITCHING_PROTOCOLS = "101";

/**
 * Finds the status of a request that asks for no session.
 *
 * @param fields Its fields.
 * @returns 400 if it is malformed, 405 for another method, 501 for another protocol; `undefined`
 * if it asks for a session.
 */
export function refusalOf(fields: readonly Field[]): number | undefined {
  const pseudo = pseudoHeadersOf(fields, REQUEST_PSEUDO_HEADERS);
  if (pseudo === undefined) return 400;
  const authority = pseudo.get(":authority");
  for (const [name, value] of fields) {
    if (name === "te" && value.toLowerCase() !== "trailers") return 400;
    // RFC 9114 section 4.3.1: where both are present they are the same.
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
 * @param fields Its fields.
 * @returns The status, from 100 to 599.
 * @throws {H3ProtocolError} With `messageError` if the response is malformed.
 */
export function statusOf(fields: readonly Field[]): number {
  const pseudo = pseudoHeadersOf(fields, RESPONSE_PSEUDO_HEADERS);
  const status = pseudo?.get(":status") ?? "";
  const fault = pseudo === undefined || fields.some(([name]) => name === "te")
    ? "one status ahead of all headers, and none of HTTP/1.1"
    : !STATUS.test(status) || status === SWITCHING_PROTOCOLS
    ? `a status from 100 to 599 other than 101, received "${status}"`
    : undefined;
  if (fault === undefined) return Number(status);
  throw new H3ProtocolError(H3Error.messageError, `Cannot read response: expected ${fault}`);
}

/** The pseudo-headers of a message; `undefined` if the message is malformed. */
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

/** Tells whether authority and path make a URL that means just them, without a user in it. */
function isTarget(authority = "", path = ""): boolean {
  if (authority === "" || /[@/?#\\]/.test(authority) || !path.startsWith("/")) return false;
  return URL.canParse(`https://${authority}${path}`);
}
