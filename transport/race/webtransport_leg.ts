/**
 * One attempt to open WebTransport: from the URL of a server to a connection
 * that carries messages.
 *
 * @module
 */
import { ConnectionError } from "../../errors.ts";
import { locateWebTransport } from "./locate.ts";
import type { Connection } from "../connection.ts";
import { MESSAGE_PROTOCOL, openMessages } from "../message_stream/message_stream.ts";
import { type DialWebTransportOptions, TOKEN_MARK, TOKEN_MARK_QUERY } from "../webtransport.ts";
import type { WebTransportLeg } from "./options.ts";

/** Opens WebTransport at its own URL, of `https:`; its connections have no messages. */
export type WebTransportDialer = (
  url: URL,
  options: DialWebTransportOptions,
) => Promise<Connection>;

/**
 * Makes what a race takes of what a platform dials with.
 *
 * - **Where:** a URL of `wss:` or `https:` has WebTransport at the same host and port. One of `ws:`
 *   or `http:` has it if hashes of certificates are given, or if the server is on this machine and
 *   says so at `/.well-known/skein/webtransport`.
 * - **Messages:** a connection that speaks `skein.1` has them. A URL that asks for it, by
 *   `?protocol=skein.1`, takes the server to agree where that says nothing.
 * - **Failure:** it rejects with `UnsupportedError` where there is none, with `ConnectionError`
 *   where the server speaks none of the protocols offered, and with what `dial` rejects with.
 *
 * @param dial Opens WebTransport.
 * @returns Finds the WebTransport of a server, and opens it.
 *
 * @example What browsers race with
 * ```ts
 * import {
 *   dialNativeWebTransport,
 *   dialWebSocket,
 *   isNativeWebTransportAvailable,
 *   raceTransports,
 *   webTransportLeg,
 * } from "@skein/skein/transport";
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
        return openMessages(connection);
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
