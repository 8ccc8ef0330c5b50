/** Reads the addresses of clients behind proxies from the headers that proxies write. */
import type { OptionKinds } from "../base/options/options.ts";
import { checkOptions, POSITIVE } from "../base/options/option_checks.ts";
import { peerAddress, type RequestInfo } from "./address.ts";

/** The options for {@linkcode forwardedAddress}. */
export interface ForwardedAddressOptions {
  /**
   * The number of proxies between the clients and this server. Each proxy must append the address
   * of its own peer to the header. Earlier entries come from the client and may be forged.
   */
  readonly trusted: number;
  /**
   * The header that the proxies write. It contains a list of addresses, or has the format of RFC
   * 7239 if it is `forwarded`.
   *
   * @default {"x-forwarded-for"}
   */
  readonly header?: string | undefined;
}

const OPTIONS: OptionKinds<ForwardedAddressOptions> = { header: "string", trusted: POSITIVE };

/** Matches the `for` parameter of `Forwarded`, with or without quotes around its value. */
const FOR = /^\s*for\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]*))\s*$/i;

/**
 * Creates a `clientAddress` function for a server behind proxies. It returns the address that the
 * outermost trusted proxy saw. In two cases, it uses the address of the socket instead:
 *
 * - **Fewer entries than proxies, or no header:** the request bypassed the proxies.
 * - **UDP** (WebTransport): the request does not pass through an HTTP proxy, so the client could
 *   have written the header itself.
 *
 * @param options The number of trusted proxies, and the header that they write.
 * @returns A function for the `clientAddress` option of `serve`, `DurableStreamsHandler` and MoQ.
 * @throws {RangeError} If `trusted` is not a positive integer.
 *
 * @example Behind one proxy that appends to `X-Forwarded-For`
 * ```ts
 * import { forwardedAddress } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const clientAddress = forwardedAddress({ trusted: 1 });
 * const headers = { "x-forwarded-for": "10.9.8.7, 192.0.2.1" }; // The client wrote the first entry.
 * assertEquals(clientAddress(new Request("http://localhost", { headers })), "192.0.2.1");
 * ```
 *
 * Source: [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239).
 */
export function forwardedAddress(
  options: ForwardedAddressOptions,
): (from: Request | Headers, info?: RequestInfo) => string | undefined {
  checkOptions("read forwarded address", options, OPTIONS);
  const { trusted, header = "x-forwarded-for" } = options;
  POSITIVE(trusted, { verb: "read forwarded address", path: "trusted" }); // Required.
  const isForwarded = header.toLowerCase() === "forwarded";
  return (from, info = {}) => {
    if (info.remoteAddr?.transport === "udp") return peerAddress(info);
    const value = (from instanceof Request ? from.headers : from).get(header);
    const entries = value === null ? [] : isForwarded ? splitQuoted(value, ",") : value.split(",");
    if (entries.length < trusted) return peerAddress(info);
    const entry = entries.at(-trusted)!.trim();
    const address = isForwarded ? forOf(entry) : entry;
    return address === undefined || address === "" || address.toLowerCase() === "unknown"
      ? undefined
      : address;
  };
}

/**
 * Splits a text at a separator, except inside quotes. The text is read from its end, because a client
 * wrote the start: a quote that it leaves open must not change the entries of the proxies.
 */
function splitQuoted(text: string, separator: string): string[] {
  const parts: string[] = [];
  let isQuoted = false;
  let end = text.length;
  for (let at = end - 1; at >= 0; at--) {
    const char = text[at];
    if (char === '"' && !isEscaped(text, at)) isQuoted = !isQuoted;
    if (char !== separator || isQuoted) continue;
    parts.push(text.slice(at + 1, end));
    end = at;
  }
  parts.push(text.slice(0, end));
  return parts.reverse();
}

/** Returns true if an odd number of backslashes precedes a character. */
function isEscaped(text: string, at: number): boolean {
  let first = at;
  while (text[first - 1] === "\\") first--;
  return (at - first) % 2 === 1;
}

/** Reads the address in the `for` parameter of one element of `Forwarded`. */
function forOf(element: string): string | undefined {
  for (const parameter of splitQuoted(element, ";")) {
    const [whole, quoted, bare] = FOR.exec(parameter) ?? [];
    if (whole !== undefined) return quoted?.replace(/\\(.)/g, "$1").trim() ?? bare;
  }
  return undefined;
}
