/**
 * The browsers' `WebTransport` class for Deno. It uses the runtime's QUIC, so run Deno with
 * `--unstable-net`. The class has its own entry point, so that importing Skein does not shadow a
 * global class.
 *
 * @example Send a datagram to a server and back
 * ```ts
 * import { devCertificate, listenWebTransport } from "@skein/skein/transport";
 * import { WebTransport } from "@skein/skein/webtransport";
 * import { assertEquals } from "@std/assert";
 *
 * const certificate = devCertificate({ cacheFolder: null });
 * await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
 * const serving = (async () => {
 *   for await (const request of listener) {
 *     const { datagrams } = request.accept();
 *     await datagrams.readable.pipeTo(datagrams.writable).catch(() => {});
 *     break;
 *   }
 * })();
 *
 * const transport = new WebTransport(`https://127.0.0.1:${listener.address.port}/`, {
 *   serverCertificateHashes: [...certificate.hashes],
 * });
 * await transport.ready;
 * const writer = transport.datagrams.createWritable().getWriter();
 * await writer.write(new TextEncoder().encode("hello"));
 * const { value } = await transport.datagrams.readable.getReader().read();
 * assertEquals(new TextDecoder().decode(value), "hello");
 *
 * transport.close();
 * await transport.closed;
 * await serving;
 * await listener.close();
 * ```
 *
 * @module
 */
export {
  WebTransportDatagramDuplexStream,
  type WebTransportDatagramStats,
  WebTransportDatagramsWritable,
} from "./datagrams.ts";
export { WebTransportError, type WebTransportErrorOptions } from "./error.ts";
export type {
  WebTransportCongestionControl,
  WebTransportHash,
  WebTransportOptions,
} from "./options.ts";
export {
  WebTransportSendGroup,
  type WebTransportSendOptions,
  WebTransportSendStream,
  type WebTransportSendStreamOptions,
  type WebTransportSendStreamStats,
  WebTransportWriter,
} from "./send_stream.ts";
export {
  WebTransportBidirectionalStream,
  WebTransportReceiveStream,
  type WebTransportReceiveStreamStats,
} from "./streams.ts";
export {
  WebTransport,
  type WebTransportCloseInfo,
  type WebTransportConnectionStats,
} from "./web_transport.ts";
