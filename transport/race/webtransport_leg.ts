/**
 * One attempt to open WebTransport: from the URL of a server to a connection that carries messages.
 *
 * @module
 */
import { ConnectionError } from "../../errors.ts";
import { locateWebTransport } from "./locate.ts";
import type { Connection } from "../connection.ts";
import { MESSAGE_PROTOCOL, openMessages } from "../message_stream/connection.ts";
import { type DialWebTransportOptions, TOKEN_MARK, TOKEN_MARK_QUERY } from "../webtransport.ts";
import type { WebTransportLeg } from "./options.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** Opens WebTransport at an `https:` URL; the connections carry no messages. */
export type WebTransportDialer = (
  url: URL,
  options: DialWebTransportOptions,
) => Promise<Connection>;

/**
 * Turns a platform's WebTransport dialer into a participant of the race.
 *
 * - **Endpoint:** for a `wss:` or `https:` URL, WebTransport has the same host and port. For a
 *   `ws:` or `http:` URL, there is an endpoint only if certificate hashes are given, or if the
 *   server is on this machine and announces the endpoint at `/.well-known/skein/webtransport`.
 * - **Messages:** a connection with the protocol `skein.1` carries messages. If the URL asks for
 *   the protocol with `?protocol=skein.1`, a server that names no protocol is taken to agree.
 * - **Failure:** the function rejects with `UnsupportedError` where the server has no endpoint,
 *   with `ConnectionError` where the server speaks no protocol that was offered, and with any error
 *   of `dial`.
 *
 * @param dial Opens WebTransport.
 * @returns A function that finds the WebTransport endpoint of a server and opens a connection.
 *
 * @example The race of browsers
 * ```ts
 * import { dialWebSocket } from "@skein/skein/transport";
 * import { dialNativeWebTransport } from "../native/client.ts";
 * import { isNativeWebTransportAvailable } from "../native/support.ts";
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
    const { protocols = [], serverCertificateHashes: given, signal } = options;
    const { url: place, hashes } = await locateWebTransport(url, { hashes: given, signal });
    const isAsked = place.searchParams.get("protocol") === MESSAGE_PROTOCOL;
    if (isAsked && protocols.includes(TOKEN_MARK)) place.search += `&${TOKEN_MARK_QUERY}`;
    const connection = await dial(place, {
      ...options,
      ...(hashes && { serverCertificateHashes: hashes }),
    });
    const { protocol } = connection;
    try {
      if (protocol === MESSAGE_PROTOCOL || isAsked && !protocol) {
        return openMessages(connection, { runtime: platformRuntime() });
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
