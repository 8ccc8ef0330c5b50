/**
 * Durable streams, live state, and responses that outlive their connections and servers.
 *
 * @example All three on one server
 * ```ts
 * import { serve } from "@skein/skein";
 * import { durableStreams, liveState, resumable } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const streams = durableStreams({ path: "/streams" });
 * const states = liveState();
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   features: [streams, states],
 *   requests: {
 *     count: {
 *       resumable,
 *       async *handle({ data }) {
 *         for (let n = 1; n <= Number(data); n++) yield n;
 *       },
 *     },
 *   },
 * });
 * await using log = await streams.create("log");
 * await log.append({ level: "info" });
 * await using list = await states.open("list");
 * await list.collection("items").set("milk", { done: false });
 * assertEquals(server.httpStats.durableStreams?.active, 0);
 * ```
 *
 * @module
 */
export { type DurableStreams, durableStreams } from "./durable_streams.ts";
export type {
  CreateDurableStreamOptions,
  DurableStreamInfo,
  DurableStreamItem,
  ReadDurableStreamOptions,
} from "./streams.ts";
export { DurableStreamsHandler, type DurableStreamsHandlerOptions } from "./http/handler.ts";
export {
  type InitialStateRows,
  liveState,
  type LiveStateOptions,
  type LiveStates,
  type OpenStateOptions,
} from "./live_state.ts";
export type { MigratedRows, MigrateRow, StateMigration } from "./state/migrations.ts";
export type {
  DurableStreamAction,
  DurableStreamRequest,
  DurableStreamsOptions,
  ResumableOptions,
} from "./options.ts";
export type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogBroker,
  LogCaller,
  LogConfig,
  LogCreated,
  LogEnd,
  LogInfo,
  LogOrigin,
  LogOverShare,
  LogPage,
  LogProducer,
  LogRecord,
  LogRetained,
  LogRow,
  LogTail,
  ReadLogOptions,
  RetainLogOptions,
  RowBounds,
  RowChange,
  RowStats,
} from "./logs/log.ts";
export { resumable } from "./resumable.ts";
export type { DurableStreamWriter } from "./writer.ts";
export type { State, StateCollection, StateOf, TypedState } from "./state/state.ts";
export type { RowReader } from "../session/rows/row_reader.ts";
export type {
  StateChange,
  StateTransaction,
  StateWriteOptions,
  TypedChange,
  TypedStateMethods,
  TypedTransaction,
} from "../session/state_types.ts";
