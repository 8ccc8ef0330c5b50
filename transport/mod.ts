/**
 * Bytes between two programs: connections over WebSocket and memory, all with
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
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionStats,
  DatagramDuplex,
  DirectDatagrams,
  DirectReadable,
  DirectStream,
  DirectWritable,
  Frame,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "./connection.ts";
export { directDatagrams, directReadable, directStream, directWritable } from "./direct.ts";
export { memoryPair } from "./memory.ts";
export type {
  DisconnectOptions,
  MemoryDirection,
  MemoryFaults,
  MemoryLink,
  MemoryPair,
  MemoryPairOptions,
} from "./memory.ts";
export { dialWebSocket } from "./websocket_client.ts";
export type { DialWebSocketOptions } from "./websocket_client.ts";
export { acceptWebSocket, isWebSocketUpgrade, offeredProtocols } from "./websocket_server.ts";
export type {
  AcceptedWebSocket,
  AcceptWebSocketOptions,
  SocketLease,
  WebSocketEngine,
} from "./websocket_server.ts";
export { isOriginAllowed } from "./origins.ts";
export type { OriginRules } from "./origins.ts";
