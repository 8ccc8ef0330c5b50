/**
 * Skein: real-time sessions for Deno. Typed messages, requests and their
 * answers, topics, presence and rooms between a server and browsers or other
 * programs, with bounded queues, reconnecting clients and a clean shutdown.
 *
 * | To | use |
 * | --- | --- |
 * | serve sessions | {@linkcode serve}, or {@linkcode createServer} in an HTTP server of your own |
 * | connect, and stay connected | {@linkcode connect} |
 * | open one session | {@linkcode dial} |
 * | share types and checks between both ends | {@linkcode defineContract} |
 *
 * Browsers import from `@skein/skein/client`, which needs nothing of Deno. What the
 * parts are made of is under `@skein/skein/session`, `/transport`, `/pubsub` and `/manager`.
 *
 * @example A server, and a client of it
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply(`Hello, ${message.data}`),
 * });
 * await using client = connect(server.url);
 * assertEquals(await client.request("greet", "world"), "Hello, world");
 * ```
 *
 * @module
 */
export { connect, type ConnectOptions, dial, type DialOptions } from "./deno_client.ts";
export {
  AuthenticationError,
  CloseCode,
  type CloseCodeValue,
  type ClosedBy,
  type CloseInfo,
  ConnectionError,
  LimitError,
  ProtocolError,
  QueueFullError,
  type RefusalStatus,
  RequestError,
  type RequestFailure,
  SessionClosedError,
  SkeinError,
  type SkeinErrorCode,
  StreamError,
  TimeoutError,
  UnsupportedError,
} from "./errors.ts";
export {
  type AddOptions,
  type AdmitOptions,
  type ByteTotals,
  type DrainOptions,
  type DrainReport,
  type ManagerLimits,
  type ManagerStats,
  type MessageTotals,
  type RefusalReason,
  type Reservation,
  SessionManager,
  type SessionManagerOptions,
  type SocketStats,
  type UnavailableStats,
} from "./manager/mod.ts";
export {
  type Broker,
  type BrokerSubscription,
  type DeliveryClass,
  MemoryBroker,
  Presence,
  type PresenceEvent,
  type PresenceJoinEvent,
  type PresenceLeaveEvent,
  type PresenceListener,
  type PresenceOptions,
  type Publication,
  type PublicationListener,
  type PublishOptions,
  Rooms,
  type RoomsOptions,
  Topics,
  type TopicsOptions,
} from "./pubsub/mod.ts";
export {
  type AcceptOptions,
  type AdmissionOptions,
  type AuthenticationContext,
  type AuthorizedAction,
  type Certificate,
  createServer,
  type ListenInfo,
  type ListenWebTransportOptions,
  type Refusal,
  type RefuseOptions,
  type RequestInfo,
  serve,
  type ServeOptions,
  Server,
  type ServerLimits,
  type ServerOptions,
  type Sha256Hash,
  type UserSender,
  type WebTransportEngine,
  type WebTransportRequest,
  type WebTransportServeOptions,
  type WebTransportSource,
} from "./server.ts";
export {
  type AnyContract,
  type BackoffOptions,
  Client,
  type ClientOptions,
  type ClientRequestOptions,
  type ClientStatus,
  type Contract,
  type ContractDefinition,
  type ContractMessage,
  defineContract,
  type Fresh,
  type GoAway,
  type HeartbeatOptions,
  type InputOf,
  type MessageOf,
  type OutboxOptions,
  type OutboxState,
  type OutputOf,
  type OverflowPolicy,
  type ParamsOf,
  type PresenceJoinNotice,
  type PresenceLeaveNotice,
  type PresenceMember,
  type PresenceMembersNotice,
  type PresenceMessage,
  type PresenceNotice,
  type ReceiveQueueOptions,
  type RequestInput,
  type RequestOutput,
  type RequestSchemas,
  type RequestTopic,
  type SendData,
  type SendQueueOptions,
  type SendTopic,
  Session,
  type SessionCloseOptions,
  type SessionDrainOptions,
  type SessionHandlers,
  type SessionIdentity,
  type SessionLimits,
  type SessionSettings,
  sessionSettings,
  type SessionSettingsOptions,
  type SessionState,
  type SessionStats,
  type Side,
  SKEIN_PROTOCOL,
  type StandardSchema,
  StatusFeed,
  Subscription,
  type SubscriptionStatus,
  type TopicMessage,
  type TopicOf,
  type TopicSchemas,
  type TopicsOf,
  Turn,
  type UntypedMessage,
  type WaitOptions,
} from "./session/mod.ts";
export {
  type BidirectionalStream,
  type Connection,
  type ConnectionCapabilities,
  type ConnectionCloseInfo,
  type ConnectionStats,
  type DatagramDuplex,
  type DirectDatagrams,
  type DirectReadable,
  type DirectStream,
  type DirectWritable,
  type DisconnectOptions,
  type MemoryDirection,
  type MemoryFaults,
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
  type OpenStreamOptions,
  type OriginRules,
  type ReceiveStream,
  type SendStream,
  type SocketLease,
  type WebSocketEngine,
} from "./transport/mod.ts";
export type { TransportFallback, TransportName, TransportOptions } from "./transport/race.ts";
export type { CertificateHash } from "./transport/webtransport.ts";
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
} from "./transport/webtransport_client.ts";
