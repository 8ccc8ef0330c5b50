/**
 * Skein: a toolkit for real-time software on Deno. Sessions carry typed messages, requests and
 * replies, streaming responses, topics, presence and rooms between a server and browsers or other
 * programs.
 *
 * This module combines the four modules of the toolkit, which you can also use on their own:
 *
 * - `@skein/skein/transport` opens connections over WebTransport, raw QUIC, WebSocket and memory.
 * - `@skein/skein/session` runs a {@linkcode Session} on a connection.
 * - `@skein/skein/manager` keeps all sessions of a process in a {@linkcode SessionManager}, which
 *   enforces their limits.
 * - `@skein/skein/pubsub` connects sessions: {@linkcode Topics} deliver publications, and a
 *   {@linkcode Broker} such as {@linkcode MemoryBroker} carries them between servers.
 *   {@linkcode Presence} tracks which users are online. {@linkcode Rooms} are topics with presence.
 *
 * {@linkcode serve} uses one of each. Its {@linkcode Server} accepts a connection, authenticates
 * the peer, and adds a session to its `manager`. The session then subscribes to `topics` and joins
 * `rooms`. {@linkcode connect} is the counterpart: its {@linkcode Client} dials a connection, runs
 * a session on it, and replaces the session when it is lost.
 *
 * | To | use |
 * | --- | --- |
 * | serve sessions | {@linkcode serve}, or {@linkcode createServer} in your own HTTP server |
 * | connect, and stay connected | {@linkcode connect} |
 * | open one session | {@linkcode dial} |
 * | share types and validation between server and client | {@linkcode defineContract} |
 * | keep messages that clients miss, and report gaps | `history` of {@linkcode ServeOptions}, `onRecovery` of {@linkcode ClientSubscribeOptions} |
 * | run several nodes as one service | `broker` of {@linkcode ServeOptions}: `RedisBroker` of `@skein/skein/redis`, `NatsBroker` of `@skein/skein/nats`; on one machine, `SqliteBroker` of `@skein/skein/sqlite`, or `serveWorkers` of `@skein/skein/server` |
 * | test without sockets | `@skein/skein/testing` |
 *
 * Browsers import from `@skein/skein/client`, which does not need Deno.
 *
 * @example A server and its client
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
 * @example The same parts, composed by hand
 * ```ts
 * import { MemoryBroker, Presence, Rooms, Session, SessionManager, Topics } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * await using broker = new MemoryBroker();
 * await using topics = new Topics({ settings, broker });
 * using presence = new Presence();
 * using rooms = new Rooms({ topics, presence });
 * await using manager = new SessionManager({ maxSessionsPerUser: 3 });
 *
 * const { server, client } = memoryPair(); // Or a connection of a listener.
 * const ann = new Session(server, settings, { user: "ann" });
 * manager.add(ann);
 * rooms.join(ann, "lobby");
 * rooms.publish("lobby", "Hello");
 *
 * await using page = new Session(client, sessionSettings({ side: "client" }));
 * for await (const { topic, data } of page) {
 *   if (topic !== "lobby") continue; // The members come first.
 *   assertEquals(data, "Hello");
 *   break;
 * }
 * assertEquals([manager.count, presence.members("lobby").length], [1, 1]);
 * ```
 *
 * @module
 */
export type { BackoffOptions } from "./base/backoff.ts";
export { platformRuntime, type Runtime } from "./base/runtime.ts";
export type { StandardSchema } from "./base/standard_schema.ts";
export { Client } from "./client/client.ts";
export { Members, type RoomMembers } from "./client/subscriptions/rooms.ts";
export type {
  ClientOptions,
  ClientPublishOptions,
  ClientRequestOptions,
  ClientStatus,
  ClientSubscribeOptions,
  FlushOptions,
} from "./client/client_options.ts";
export type { ConnectOptions, DialOptions } from "./client/connect.ts";
export { connect, dial, http, webSocket, webTransport } from "./client/deno.ts";
export type { DurableStream, DurableStreamOptions } from "./client/durable_stream.ts";
export type {
  ClientCollection,
  ClientState,
  ClientStateOf,
  ClientStateOptions,
  TypedClientState,
} from "./client/state/state.ts";
export type { ClientStateStatus } from "./client/state/shared_state.ts";
export type { AnyMutationCalls } from "./client/state/mutation_calls.ts";
export { newId } from "./client/new_id.ts";
export type { OnConflict, StateConflict } from "./client/state/write.ts";
export { Subscription } from "./client/subscriptions/subscription.ts";
export {
  AuthenticationError,
  BrokerError,
  CloseCode,
  type CloseInfo,
  ConnectionError,
  LimitError,
  type LimitLevel,
  ProtocolError,
  QueueFullError,
  RequestError,
  SessionClosedError,
  SkeinError,
  StreamError,
  StructuredError,
  TimeoutError,
  UnsupportedError,
} from "./errors.ts";
export type { DrainOptions, DrainReport } from "./manager/drain.ts";
export type { RateLimitsOptions } from "./manager/rate_limits.ts";
export { SessionManager } from "./manager/session_manager.ts";
export type { Broker } from "./pubsub/broker.ts";
export { MemoryBroker } from "./pubsub/memory/broker.ts";
export { Presence } from "./pubsub/presence/presence.ts";
export { Rooms } from "./pubsub/presence/rooms.ts";
export { Topics } from "./pubsub/topics.ts";
export type {
  Authenticate,
  AuthenticationContext,
  SessionRejection,
} from "./server/admission/admission_options.ts";
export {
  type Feature,
  type FeatureHost,
  type GuardOptions,
  type HttpMount,
  Mount,
  type Mounted,
  type QuicMount,
  type RequestHead,
} from "./server/feature.ts";
export { guest, type ValueOf } from "./server/admission/guest.ts";
export { forwardedAddress, type ForwardedAddressOptions } from "./transport/forwarded_address.ts";
export type { ListenInfo } from "./server/listener/listener.ts";
export { createServer, serve, Server } from "./server/server.ts";
export type { ServeOptions, ServerOptions } from "./server/server_options.ts";
export type { ChangeDecision, RequestedChange } from "./server/requests/changes.ts";
export type { RequestedMutation, ServerMutationContext } from "./server/requests/mutations.ts";
export type {
  ContractPublication,
  PublicationOf,
  PublishDecision,
  RequestedPublication,
} from "./server/requests/requested_publications.ts";
export type { AuthorizationContext, GuardedRequest } from "./server/http/guard.ts";
export type { WebTransportServeOptions } from "./server/listener/webtransport_options.ts";
export {
  type Contract,
  type ContractData,
  type ContractItem,
  type ContractReply,
  type ContractTopic,
  defineContract,
  type MessageOf,
  type RoomData,
  type Side,
  type StateInput,
  type StateRow,
  type StateRows,
  type TopicMessage,
} from "./session/contract.ts";
export type { SessionDebugState, SessionDiagnostics } from "./session/insight/diagnostics.ts";
export type { SessionHealth, SessionIssue } from "./session/insight/health.ts";
export type { Instrumentation } from "./session/insight/instrumentation.ts";
export type { HandshakeInfo } from "./session/settings/settings.ts";
export type { SessionStats } from "./session/types.ts";
export type { ContractMessage, UntypedMessage } from "./session/message.ts";
export type { OverflowPolicy } from "./session/queue/send_queue.ts";
export type { RowReader } from "./session/rows/row_reader.ts";
export { Session } from "./session/session.ts";
export type { SessionHandlers } from "./session/settings/session_settings.ts";
export type { SessionLimits } from "./session/settings/settings.ts";
export type { Codec } from "./session/streams/codec.ts";
export type { IncomingStream } from "./session/streams/incoming_streams.ts";
export type { StructuredMessage } from "./session/streams/registry.ts";
export type { StructuredStream } from "./session/streams/structured.ts";
export type { StructuredDatagrams } from "./session/streams/structured_datagrams.ts";
export type {
  StructuredDatagramsOptions,
  StructuredStreamOptions,
} from "./session/streams/structured_options.ts";
export type {
  StateChange,
  StateTransaction,
  StateWriteOptions,
  TypedChange,
  TypedStateMethods,
  TypedTransaction,
} from "./session/state_types.ts";
export type { SessionState, StreamingResponse, WaitOptions } from "./session/types.ts";
export type { ServerUrl } from "./session/url.ts";
export type { GoAway } from "./session/wire/envelope.ts";
export { updateMembers } from "./session/wire/member_list.ts";
export type { PresenceMember, PresenceNotice } from "./session/wire/presence_notice.ts";
export type { Gap, HistoryPosition, Recovery, RecoveryReason } from "./session/wire/recovery.ts";
export type { RequestInfo } from "./transport/address.ts";
export type { Transport, TransportDialOptions, TransportName } from "./transport/race/options.ts";
export type { WebSocketLike } from "./transport/websocket/connection.ts";
export type { WebSocketTransportOptions } from "./transport/websocket/value.ts";
