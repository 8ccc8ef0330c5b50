/**
 * The Deno client of WebTransport: HTTP/3 on the runtime's QUIC.
 *
 * @module
 */
import { within } from "../within.ts";
import { Http3Dialer } from "./dialer.ts";
import { requireQuic } from "../quic/runtime.ts";
import type { Connection } from "../connection.ts";
import { withUrl } from "../url.ts";
import { DIAL_TIMEOUT_MS, type DialWebTransportOptions } from "../webtransport.ts";

export { isQuicAvailable as isWebTransportAvailable } from "../quic/runtime.ts";
export {
  WebTransport,
  WebTransportBidirectionalStream,
  type WebTransportCloseInfo,
  type WebTransportCongestionControl,
  type WebTransportConnectionStats,
  WebTransportDatagramDuplexStream,
  type WebTransportDatagramStats,
  WebTransportDatagramsWritable,
  WebTransportError,
  type WebTransportErrorOptions,
  type WebTransportHash,
  type WebTransportOptions,
  WebTransportReceiveStream,
  type WebTransportReceiveStreamStats,
  WebTransportSendGroup,
  type WebTransportSendOptions,
  WebTransportSendStream,
  type WebTransportSendStreamOptions,
  type WebTransportSendStreamStats,
  WebTransportWriter,
} from "../w3c/web_transport.ts";
export type { CertificateHash, DialWebTransportOptions } from "../webtransport.ts";

/**
 * Dials WebTransport. The session has a connection of its own; those of
 * {@linkcode WebTransport} can share one, with `allowPooling`.
 *
 * - **Every address** of a name is tried, IPv6 and IPv4 by turns, 250 ms apart (RFC 8305); the first
 *   that answers is taken, and the certificate is checked against the name. An error names each
 *   address that was tried.
 *
 * @param url `https:`.
 * @param options See {@linkcode DialWebTransportOptions}.
 * @returns The connection, established.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {ConnectionError} If it cannot be made; `status` is the server's, if it refused.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 * @throws {TypeError} If the URL is not `https:`.
 * @throws {RangeError} If a limit makes no sense.
 */
export async function dialWebTransport(
  url: string | URL,
  options: DialWebTransportOptions = {},
): Promise<Connection> {
  requireQuic();
  const { signal, timeoutMs = DIAL_TIMEOUT_MS } = options;
  signal?.throwIfAborted();
  const dialer = new Http3Dialer(url, options);
  try {
    return await within(dialer.session(), { late: "Cannot dial within", signal, timeoutMs });
  } catch (error) {
    dialer.abort();
    throw withUrl(dialer.explain(error), url);
  }
}
