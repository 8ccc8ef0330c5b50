/**
 * Sessions with one peer over any connection, with messages, requests and replies. This entry also
 * contains the contract that both sides share, and the reconnecting client.
 *
 * @example Two ends in one process
 * ```ts
 * import { Session, sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { client, server } = memoryPair();
 * await using replying = new Session(
 *   server,
 *   sessionSettings({ side: "server", onMessage: (message) => message.reply("pong") }),
 * );
 * await using asking = new Session(client, sessionSettings({ side: "client" }));
 * assertEquals(await asking.request("ping"), "pong");
 * assertEquals(replying.stats.receivedMessages, 1);
 * ```
 *
 * @module
 */
export type { BackoffOptions } from "../base/backoff.ts";
export { platformRuntime, type Runtime } from "../base/runtime.ts";
export type { InputOf, OutputOf, StandardResult, StandardSchema } from "../base/standard_schema.ts";
export { StatusFeed } from "../base/status_feed.ts";
export type { CloseInfo } from "../errors.ts";
export {
  type CollectionsOf,
  type Contract,
  type ContractData,
  type ContractDefinition,
  type ContractItem,
  type ContractReply,
  type ContractTopic,
  defineContract,
  type EntrySchema,
  type IsUntyped,
  type MessageOf,
  type MessagesIn,
  type NoTopic,
  type SectionName,
  type SectionOf,
  type Side,
  type StateCollections,
  type StateDefinition,
  type StateIds,
  type StateInput,
  type StateRow,
  type StateRows,
  type TopicMessage,
} from "./contract.ts";
export type { SessionEventMap, SessionEvents } from "./events.ts";
export type {
  SessionDebugState,
  SessionDiagnostics,
  SessionSummary,
} from "./insight/diagnostics.ts";
export type { SessionHealth, SessionIssue } from "./insight/health.ts";
export type { HandshakeWatch, Instrumentation, RequestWatch } from "./insight/instrumentation.ts";
export {
  recordSessions,
  type RecordSessionsOptions,
  type SessionRecorder,
} from "./insight/recording.ts";
export type { HandshakeInfo } from "./settings/settings.ts";
export type { SessionStats } from "./types.ts";
export { instrument } from "./insight/watch.ts";
export type { ContractMessage, UntypedMessage } from "./message.ts";
export type { OverflowPolicy } from "./queue/send_queue.ts";
export { Session } from "./session.ts";
export {
  type SessionHandlers,
  sessionSettings,
  type SessionSettingsOptions,
} from "./settings/session_settings.ts";
export type { SessionLimits, SessionSettings } from "./settings/settings.ts";
export type { Codec } from "./streams/codec.ts";
export type { IncomingStream } from "./streams/incoming_streams.ts";
export type { Registry, StructuredInput, StructuredMessage } from "./streams/registry.ts";
export type { StructuredStream } from "./streams/structured.ts";
export type { StructuredDatagrams } from "./streams/structured_datagrams.ts";
export type {
  StructuredDatagramsOptions,
  StructuredStreamOptions,
} from "./streams/structured_options.ts";
export type {
  CostlyHandler,
  RequestHandler,
  RequestHandlers,
  ResumableHandler,
} from "./responses/request_handlers.ts";
export type {
  RequestStreamOptions,
  SessionCloseOptions,
  SessionDrainOptions,
  SessionIdentity,
  SessionPublishOptions,
  SessionState,
  StreamingResponse,
  WaitOptions,
} from "./types.ts";
export type { GoAway, TraceContext } from "./wire/envelope.ts";
export { updateMembers } from "./wire/member_list.ts";
export type { PresenceMember, PresenceNotice } from "./wire/presence_notice.ts";
export type {
  Gap,
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
  SubscribeReply,
  Unsubscribed,
} from "./wire/recovery.ts";
export type { ParamsOf, TopicOf } from "./wire/topic_pattern.ts";
