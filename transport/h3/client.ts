/** The WebTransport client for Deno, with HTTP/3 over the runtime's QUIC. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE, RUNTIME, TIME } from "../../base/options/option_checks.ts";
import { within } from "../../base/wait.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Http3Dialer } from "./dialer.ts";
import { requireQuic } from "../quic/deno_quic.ts";
import type { Connection } from "../connection.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { withUrl } from "../url.ts";
import { DIAL_TIMEOUT_MS, type DialWebTransportOptions } from "../webtransport.ts";

const DIAL: OptionKinds<DialWebTransportOptions> = {
  flowControl: FLOW_CONTROL,
  headers: 0,
  idleTimeoutMs: POSITIVE,
  maxBidirectionalStreams: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  onWorn: "function",
  protocols: "array",
  runtime: RUNTIME,
  serverCertificateHashes: "array",
  signal: "AbortSignal",
  timeoutMs: TIME,
};

/**
 * Dials a WebTransport session on a connection of its own. Sessions of {@linkcode WebTransport} can
 * share a connection if you set `allowPooling`.
 *
 * - **Addresses:** if a name has several addresses, attempts start 250 ms apart and alternate
 *   between IPv6 and IPv4 (RFC 8305). The first address that responds is used. The certificate is
 *   checked against the name. An error lists each address that was tried.
 *
 * @example Send bytes to a server that echoes them
 * ```ts
 * import {
 *   devCertificate,
 *   dialWebTransport,
 *   listenWebTransport,
 * } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const certificate = devCertificate({ cacheFolder: null });
 * await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
 * const serving = (async () => {
 *   for await (const request of listener) {
 *     for await (const stream of request.accept().incomingBidirectionalStreams) {
 *       await stream.readable.pipeTo(stream.writable);
 *     }
 *   }
 * })();
 *
 * const connection = await dialWebTransport(`https://127.0.0.1:${listener.address.port}/`, {
 *   serverCertificateHashes: certificate.hashes,
 * });
 * const { readable, writable } = await connection.createBidirectionalStream();
 * const writer = writable.getWriter();
 * await writer.write(new TextEncoder().encode("hello"));
 * await writer.close();
 * assertEquals(await new Response(readable).text(), "hello");
 * connection.close();
 * await listener.close();
 * await serving;
 * ```
 *
 * @param url An `https:` URL.
 * @param options The subprotocols, headers, certificates, limits and timeouts.
 * @returns The established connection.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {ConnectionError} If the connection fails. If the server rejected the session, `status`
 * is set.
 * @throws {TimeoutError} If `timeoutMs` passes first.
 * @throws {TypeError} If the URL is not `https:`.
 * @throws {RangeError} If a limit is invalid.
 */
export async function dialWebTransport(
  url: string | URL,
  options: DialWebTransportOptions = {},
): Promise<Connection> {
  checkOptions("dial WebTransport", options, DIAL);
  requireQuic();
  const { signal, timeoutMs = DIAL_TIMEOUT_MS, runtime = platformRuntime() } = options;
  signal?.throwIfAborted();
  const dialer = new Http3Dialer(url, { ...options, runtime });
  try {
    return await within(runtime, dialer.session(), {
      late: "Cannot dial within",
      signal,
      timeoutMs,
    });
  } catch (error) {
    dialer.abort();
    throw withUrl(dialer.explain(error), url);
  }
}
