/**
 * Bytes between two programs: connections over WebTransport, WebSocket and memory, all with
 * the one contract {@linkcode Connection}, the shape of W3C WebTransport.
 *
 * @example Two ends in one process
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
export type {
  Backpressure,
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionCredit,
  ConnectionEvent,
  ConnectionObserver,
  ConnectionStats,
  CreditKind,
  CreditState,
  DatagramDuplex,
  DirectDatagrams,
  DirectReadable,
  DirectStream,
  DirectStreams,
  DirectWritable,
  FlowControlOptions,
  Frame,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
  StreamDirection,
  StreamSide,
} from "./connection.ts";
export type { Sha256Hash } from "./certificate_hash.ts";
export { devCertificate } from "./dev_certificate.ts";
export type { DevCertificate, DevCertificateOptions } from "./dev_certificate.ts";
export { directDatagrams, directReadable, directStream, directWritable } from "./direct.ts";
export { openUnidirectional, receiveUnidirectional } from "./direct_streams.ts";
export { memoryPair } from "./memory.ts";
export type {
  DisconnectOptions,
  MemoryDirection,
  MemoryFaults,
  MemoryLink,
  MemoryPair,
  MemoryPairOptions,
} from "./memory.ts";
export { withMessages } from "./message_stream.ts";
export type { MessageStreamOptions } from "./message_stream.ts";
export { dialNativeWebTransport } from "./native_client.ts";
export { isNativeWebTransportAvailable } from "./native_support.ts";
export { acceptNativeWebTransport, nativeServerDefects } from "./native_server.ts";
export type { AcceptedNativeWebTransport, NativeServerDefect } from "./native_server.ts";
export { dialQuic } from "./quic_client.ts";
export type { DialQuicOptions } from "./quic_client.ts";
export { listenQuic, QuicListener } from "./quic_server.ts";
export type { ListenQuicOptions, QuicHandshakeStats, QuicListenOptions } from "./quic_server.ts";
export type { QuicConnection } from "./quic/connection.ts";
export { raceTransports } from "./race.ts";
export type {
  RaceOptions,
  RacingDialer,
  TransportFallback,
  TransportName,
  TransportOptions,
  TransportPlatform,
  WebTransportLeg,
} from "./race.ts";
export {
  dialWebTransport,
  isWebTransportAvailable,
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
} from "./webtransport_client.ts";
export { webTransportLeg } from "./webtransport_leg.ts";
export type { WebTransportDialer } from "./webtransport_leg.ts";
export type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";
export { dialWebSocket } from "./websocket_client.ts";
export type { DialWebSocketOptions } from "./websocket_client.ts";
export { acceptWebSocket, isWebSocketUpgrade, offeredProtocols } from "./websocket_server.ts";
export type {
  AcceptedWebSocket,
  AcceptWebSocketOptions,
  HttpHandler,
  HttpListener,
  HttpListenOptions,
  SocketLease,
  WebSocketEngine,
  WebSocketHost,
} from "./websocket_server.ts";
export { isOriginAllowed } from "./origins.ts";
export type { OriginRules } from "./origins.ts";
export { listenWebTransport, WebTransportListener } from "./webtransport_server.ts";
export type {
  AcceptOptions,
  Certificate,
  ListenWebTransportOptions,
  RawQuicOptions,
  RefuseOptions,
  WebTransportRequest,
} from "./webtransport_server.ts";
