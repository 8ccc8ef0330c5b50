/**
 * Connections between two programs over WebTransport, WebSocket and memory. All implement the one
 * contract {@linkcode Connection}, which has the shape of W3C WebTransport.
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
  ConnectionInspection,
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
export type { Sha256Hash } from "./certificate/certificate.ts";
export { devCertificate } from "./certificate/dev_certificate.ts";
export type { DevCertificate, DevCertificateOptions } from "./certificate/dev_certificate.ts";
export {
  directDatagrams,
  directReadable,
  directStream,
  directWritable,
  openUnidirectional,
  receiveUnidirectional,
} from "./direct.ts";
export { memoryPair } from "./memory/memory.ts";
export type {
  DisconnectOptions,
  MemoryDirection,
  MemoryFaults,
  MemoryLink,
  MemoryPair,
  MemoryPairOptions,
  WithheldCredit,
} from "./memory/memory.ts";
export { withMessages } from "./message_stream/with_messages.ts";
export type { MessageStreamOptions } from "./message_stream/with_messages.ts";
export type { MessageBounds } from "./message_stream/message_stream.ts";
export { dialNativeWebTransport } from "./native/client.ts";
export { ENGINE_DEFECTS, engineDefect } from "./native/engines.ts";
export type { EngineDefect, EngineUse } from "./native/engines.ts";
export { isNativeWebTransportAvailable } from "./native/support.ts";
export { nativeServerDefects } from "./native/defects.ts";
export type { NativeServerDefect } from "./native/defects.ts";
export { acceptNativeWebTransport } from "./native/server.ts";
export type { AcceptedNativeWebTransport } from "./native/server.ts";
export { dialQuic } from "./quic/client.ts";
export type { DialQuicOptions } from "./quic/client.ts";
export { listenQuic, QuicListener } from "./quic/server.ts";
export type { ListenQuicOptions, QuicHandshakeStats, QuicListenOptions } from "./quic/server.ts";
export type { UnreadStreamLimits } from "./quic/unread_streams.ts";
export type { QuicConnection } from "./quic/connection.ts";
export { raceTransports } from "./race/race.ts";
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
} from "./h3/client.ts";
export { webTransportLeg } from "./race/webtransport_leg.ts";
export type { WebTransportDialer } from "./race/webtransport_leg.ts";
export type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";
export { dialWebSocket } from "./websocket/client.ts";
export { acceptWebSocket, isWebSocketUpgrade, offeredProtocols } from "./websocket/server.ts";
export type {
  AcceptedWebSocket,
  AcceptWebSocketOptions,
  HttpHandler,
  HttpListener,
  HttpListenOptions,
  SocketLease,
  WebSocketEngine,
  WebSocketHost,
} from "./websocket/server.ts";
export { isOriginAllowed } from "./origins.ts";
export type { OriginRules } from "./origins.ts";
export { listenWebTransport, WebTransportListener } from "./h3/server.ts";
export type {
  AcceptOptions,
  Certificate,
  ListenWebTransportOptions,
  RawQuicOptions,
  RefuseOptions,
  WebTransportRequest,
} from "./h3/server.ts";
export type { DialWebSocketOptions } from "./websocket/dial.ts";
export type {
  RaceOptions,
  RacingDialer,
  SilentTransport,
  TransportFallback,
  TransportName,
  TransportOptions,
  TransportPlatform,
  WebTransportLeg,
} from "./race/options.ts";
