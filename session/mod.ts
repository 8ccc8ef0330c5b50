/**
 * Sessions with one peer over any connection, with messages, requests and replies; the contract
 * that both ends share; the client that reconnects.
 *
 * @example Two ends in one process
 * ```ts
 * import { Session, sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair();
 * await using answering = new Session(
 *   server,
 *   sessionSettings({ side: "server", onMessage: (message) => message.reply("pong") }),
 * );
 * await using asking = new Session(client, sessionSettings({ side: "client" }));
 * assertEquals(await asking.request("ping"), "pong");
 * assertEquals(answering.stats.receivedMessages, 1);
 * ```
 *
 * @module
 */
export { Backoff, type BackoffOptions } from "../base/backoff.ts";
export { Broadcast } from "./queue/broadcast.ts";
export {
  type AnyContract,
  compileContract,
  type Contract,
  type ContractDefinition,
  type ContractMatch,
  type ContractRoute,
  type ContractRouter,
  defineContract,
  type EntrySchema,
  type InputFor,
  type IsUntyped,
  type MessageOf,
  type MessagesIn,
  type NoTopic,
  type OutputFor,
  type PresenceData,
  type PresenceInput,
  type PresenceMessage,
  type PresenceTopic,
  type RequestInput,
  type RequestOutput,
  type RequestSchemas,
  type RequestTopic,
  type SectionOf,
  type SendData,
  type SendTopic,
  type SentBy,
  type Side,
  type TopicMessage,
  type TopicSchemas,
  type TopicsOf,
} from "./contract.ts";
export { type Codec, jsonCodec } from "./streams/codec.ts";
export type { ControlStats } from "./controls.ts";
export type {
  SessionDebugState,
  SessionDiagnostics,
  SessionLimitState,
  SessionSummary,
} from "./insight/diagnostics.ts";
export {
  type EncodedMessage,
  encodeMessage,
  type EncodeOptions,
  MAX_MESSAGE_BYTES,
} from "./wire/encode.ts";
export {
  type Envelope,
  type GoAway,
  type Hello,
  MAX_TOPIC_BYTES,
  type ServiceKind,
  type TraceContext,
} from "./wire/envelope.ts";
export type { SessionEventMap, SessionEvents, SessionListener } from "./events.ts";
export type {
  HealthOptions,
  QueueState,
  SessionHealth,
  SessionIssue,
  SessionIssueCode,
  SessionQueues,
} from "./insight/health.ts";
export { type Heart, Heartbeat, type HeartbeatOptions } from "./heartbeat.ts";
export type { IncomingStream } from "./streams/incoming_streams.ts";
export { instrument } from "./insight/watch.ts";
export type {
  HandshakeOutcome,
  HandshakeWatch,
  Instrumentation,
  RequestWatch,
} from "./insight/instrumentation.ts";
export type {
  PresenceChangesNotice,
  PresenceCountNotice,
  PresenceJoinNotice,
  PresenceLeaveNotice,
  PresenceMember,
  PresenceMembersNotice,
  PresenceNotice,
  PresenceUpdateNotice,
} from "./wire/presence_notice.ts";
export type {
  Gap,
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
  SubscribeAnswer,
  Unsubscribed,
} from "./wire/recovery.ts";
export type { Registry, StructuredInput, StructuredMessage, TypeIn } from "./streams/registry.ts";
export { platformRuntime, type Runtime, type Timer } from "../base/runtime.ts";
export {
  type Entry,
  HIGH_WATER_MARK,
  MAX_JOINED_BYTES,
  type OverflowPolicy,
  type SendQueueOptions,
  type SendQueueStats,
  Turn,
} from "./queue/send_queue.ts";
export type { SequenceStore } from "./serving/sequences.ts";
export { parseEnvelope } from "./wire/server_envelope.ts";
export {
  type PublicationNumber,
  type PublishRequest,
  ServiceDesk,
  type SessionServices,
  type SubscribeRequest,
} from "./serving/services.ts";
export { Session, type SessionFallback, SKEIN_PROTOCOL } from "./session.ts";
export type { SessionIdentity } from "./session.ts";
export type { ReceiveQueueOptions, SessionLimits, SessionSettings } from "./settings.ts";
export {
  type InputOf,
  type Invalid,
  type OutputOf,
  type StandardFailure,
  type StandardIssue,
  type StandardPathSegment,
  type StandardProps,
  type StandardSchema,
  type StandardSuccess,
  type StandardTypes,
  type Valid,
  validate,
  type Validation,
} from "../base/standard_schema.ts";
export type { SessionStats } from "./insight/stats.ts";
export { StatusFeed, type Unsubscribe } from "../base/status_feed.ts";
export type {
  InvalidPolicy,
  StructuredOptions,
  StructuredStream,
  StructuredStreamOptions,
} from "./streams/structured.ts";
export type {
  StructuredDatagrams,
  StructuredDatagramsOptions,
  StructuredDatagramsStats,
} from "./streams/structured_datagrams.ts";
export {
  checkTopic,
  type ParamNames,
  type ParamsOf,
  type RouteMatch,
  type TopicOf,
  TopicPattern,
  TopicRouter,
} from "./wire/topic_pattern.ts";
export { exceedsBytes, utf8Length } from "./wire/utf8.ts";
export type {
  ClientPublishOptions,
  SessionCloseOptions,
  SessionDrainOptions,
  SessionState,
  WaitOptions,
} from "./types.ts";
export type { InboundStats, Incoming, TopicNote, TopicSink } from "./message.ts";
export type { ContractMessage, UntypedMessage } from "./message.ts";
export {
  type SessionHandlers,
  sessionSettings,
  type SessionSettingsOptions,
} from "./session_settings.ts";
export type { HandshakeInfo } from "./insight/session_watch.ts";
