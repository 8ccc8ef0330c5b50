/**
 * Connections between two programs over WebTransport, raw QUIC, WebSocket and memory. All of them
 * implement {@linkcode Connection}, whose interface is that of W3C WebTransport.
 *
 * @example Two ends in the same process
 * ```ts
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * const stream = await pair.client.createUnidirectionalStream();
 * const writer = stream.getWriter();
 * await writer.write(new TextEncoder().encode("hello"));
 * await writer.close();
 * for await (const incoming of pair.server.incomingUnidirectionalStreams) {
 *   assertEquals(await new Response(incoming).text(), "hello");
 *   break;
 * }
 * ```
 *
 * @module
 */
export type { Certificate } from "./certificate/certificate.ts";
export {
  type DevCertificate,
  devCertificate,
  type DevCertificateOptions,
} from "./certificate/dev_certificate.ts";
export type {
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionEvent,
  ConnectionInspection,
  ConnectionStats,
  CreditState,
  DatagramDuplex,
  DirectDatagrams,
  DirectReadable,
  DirectStream,
  DirectStreams,
  DirectWritable,
  FlowControlOptions,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "./connection.ts";
export {
  directDatagrams,
  directStream,
  openUnidirectional,
  receiveBidirectional,
  receiveUnidirectional,
} from "./direct.ts";
export { dialWebTransport } from "./h3/client.ts";
export type { WebTransportRequest } from "./h3/request.ts";
export {
  listenWebTransport,
  type ListenWebTransportOptions,
  WebTransportListener,
} from "./h3/server.ts";
export {
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
} from "./memory/memory.ts";
export type { MemoryFaults } from "./memory/path.ts";
export { type MessageStreamOptions, withMessages } from "./message_stream/server.ts";
export { type NativeServerDefect, nativeServerDefects } from "./native/defects.ts";
export { acceptNativeWebTransport } from "./native/accept.ts";
export type { OriginRules } from "./origins.ts";
export type { QuicHandshakeStats } from "./quic/acceptor.ts";
export { dialQuic, type DialQuicOptions } from "./quic/client.ts";
export type { QuicConnection } from "./quic/connection.ts";
export { listenQuic, type ListenQuicOptions, QuicListener } from "./quic/server.ts";
export type { UnreadStreamLimits } from "./quic/unread_streams.ts";
export type { TransportFallback, TransportName, TransportOptions } from "./race/options.ts";
export { dialWebSocket } from "./websocket/client.ts";
export type { DialWebSocketOptions } from "./websocket/connection.ts";
export {
  acceptWebSocket,
  type AcceptWebSocketOptions,
  type HttpListenOptions,
  isWebSocketUpgrade,
  type WebSocketEngine,
  type WebSocketHost,
} from "./websocket/server.ts";
export type { SocketLease } from "./websocket/server.ts";
export type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";
