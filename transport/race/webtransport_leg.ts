/** One attempt to open WebTransport, from the server's URL to a connection with messages. */
import { anySignal } from "../../base/wait.ts";
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { MESSAGE_PROTOCOL, openMessages } from "../message_stream/connection.ts";
import {
  type CertificateHash,
  type DialWebTransportOptions,
  TOKEN_MARK,
  TOKEN_MARK_QUERY,
} from "../webtransport.ts";
import type { WebTransportLeg } from "./options.ts";
import type { Runtime } from "../../base/runtime.ts";

/** The path at which a server on this machine announces its WebTransport endpoint. */
const WELL_KNOWN = "/.well-known/skein/webtransport";

/**
 * How long to wait for a server on this machine to announce its endpoint, in milliseconds. A server
 * that stalls for a moment may still have an endpoint.
 */
const WELL_KNOWN_MS = 5_000;

const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;

/** Opens WebTransport at an `https:` URL. The connections carry no messages. */
export type WebTransportDialer = (
  url: URL,
  options: DialWebTransportOptions,
) => Promise<Connection>;

/**
 * Turns a platform's WebTransport dialer into a participant of the race.
 *
 * - **Endpoint:** for a `wss:` or `https:` URL, WebTransport uses the same host and port. For a
 *   `ws:` or `http:` URL, there is an endpoint only if certificate hashes are set, or if the server
 *   is on this machine and announces the endpoint at `/.well-known/skein/webtransport`.
 * - **Messages:** a connection with the protocol `skein.1` carries messages. If the URL requests
 *   the protocol with `?protocol=skein.1`, a server that names no protocol is assumed to accept it.
 * - **Failure:** the function rejects with `UnsupportedError` if the server has no endpoint, and
 *   with `ConnectionError` if the server supports none of the offered protocols. It passes on any
 *   error of `dial`.
 *
 * @returns A function that finds the WebTransport endpoint of a server and opens a connection.
 *
 * @example The race as browsers run it
 * ```ts
 * import { dialWebSocket } from "@skein/skein/transport";
 * import { dialNativeWebTransport } from "../native/client.ts";
 * import { isNativeWebTransportAvailable } from "../webtransport.ts";
 * import { raceTransports } from "./race.ts";
 * import { webTransportLeg } from "./webtransport_leg.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const dial = raceTransports({
 *   webSocket: dialWebSocket,
 *   webTransport: isNativeWebTransportAvailable()
 *     ? webTransportLeg(dialNativeWebTransport)
 *     : "This platform has no WebTransport",
 * });
 * assertEquals(typeof dial, "function");
 * ```
 */
export function webTransportLeg(dial: WebTransportDialer): WebTransportLeg {
  return async (url, options) => {
    const { runtime, protocols = [], signal } = options;
    const { serverCertificateHashes: given } = options;
    const { url: place, hashes } = await locateWebTransport(url, {
      runtime,
      hashes: given,
      signal,
    });
    const isAsked = place.searchParams.get("protocol") === MESSAGE_PROTOCOL;
    if (isAsked && protocols.includes(TOKEN_MARK)) place.search += `&${TOKEN_MARK_QUERY}`;
    const connection = await dial(place, {
      ...options,
      serverCertificateHashes: hashes ?? given,
    });
    const { protocol } = connection;
    try {
      if (protocol === MESSAGE_PROTOCOL || isAsked && !protocol) {
        return openMessages(connection, { runtime });
      }
      if (protocol || protocols.length === 0) return connection;
      throw new ConnectionError(
        `The server does not speak ${
          protocols.filter((name) => name !== TOKEN_MARK).join(" or ")
        } over WebTransport`,
      );
    } catch (error) {
      connection.close();
      throw error;
    }
  };
}

/** A WebTransport endpoint: the URL to dial and the certificates to trust. */
export interface WebTransportPlace {
  /** The `https:` URL. */
  readonly url: URL;
  /** The hashes of certificates to trust without an authority. */
  readonly hashes: readonly CertificateHash[] | undefined;
}

/** The body of the response from the well-known URL. */
interface WellKnown {
  readonly port: number;
  readonly hostname?: string;
  readonly serverCertificateHashes: readonly { readonly value: string }[];
}

/** The options for {@linkcode locateWebTransport}. */
export interface LocateOptions {
  /** The client's timers. */
  readonly runtime: Runtime;
  /** The certificate hashes that the application set. */
  readonly hashes?: readonly CertificateHash[] | undefined;
  /** Cancels the search. */
  readonly signal?: AbortSignal | undefined;
  /** The function that requests the well-known URL. The default is the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
}

/**
 * Finds the WebTransport endpoint of a server.
 *
 * For a `wss:` or `https:` URL, the endpoint has the same host and port. For a `ws:` or `http:`
 * URL, there is an endpoint only if certificate hashes are set, or if the server is on this machine
 * and announces the endpoint at `/.well-known/skein/webtransport`.
 *
 * @param url The server's URL as the application passed it: `ws:`, `wss:`, `http:` or `https:`.
 * @throws {UnsupportedError} If the server has no WebTransport endpoint.
 */
export async function locateWebTransport(
  url: URL,
  options: LocateOptions,
): Promise<WebTransportPlace> {
  const { runtime, hashes, signal, fetch = globalThis.fetch } = options;
  const isPlain = /^(ws|http):$/.test(url.protocol);
  const place = new URL(url);
  place.protocol = "https:";
  // The default port is 80 for `ws:` and `http:`, and 443 for `https:`.
  if (isPlain) place.port = url.port || "80";
  if (hashes || !isPlain) return { url: place, hashes };
  if (!LOOPBACK.test(url.hostname)) {
    throw new UnsupportedError("Cannot open WebTransport: the URL is plain HTTP");
  }
  const asked = new URL(WELL_KNOWN, url);
  asked.protocol = "http:";
  const late = new AbortController();
  const timer = runtime.setTimeout(() => late.abort(), WELL_KNOWN_MS);
  try {
    const response = await fetch(asked, {
      cache: "no-store",
      credentials: "omit",
      redirect: "manual", // A redirect fails below.
      signal: anySignal(signal, late.signal),
    });
    // Any other response, such as a 404 page, fails in `json()` or in the checks below.
    const { port, hostname = url.hostname, serverCertificateHashes }: WellKnown = await response
      .json();
    if (!response.ok || !Number.isInteger(port) || !LOOPBACK.test(hostname)) {
      throw new Error(`${WELL_KNOWN} returned ${response.status}`);
    }
    place.port = String(port);
    place.hostname = hostname;
    return {
      url: place,
      hashes: serverCertificateHashes.map(({ value }) => ({
        algorithm: "sha-256",
        value: Uint8Array.from(atob(value), (character) => character.charCodeAt(0)),
      })),
    };
  } catch (cause) {
    throw new UnsupportedError("Cannot open WebTransport: the server does not offer it", { cause });
  } finally {
    runtime.clearTimeout(timer);
    // This releases a response whose body was not read.
    late.abort();
  }
}
