/**
 * The Skein client for browsers, Deno, Node 22 and later, Bun and React Native. None of the modules
 * that this file loads needs Deno.
 *
 * Features that only some pages need are loaded on first use. All sizes are for minified and
 * gzipped code. If you bundle with code splitting, a page that connects loads at most 36.9 KiB at
 * first, or 40.2 KiB if it uses every export, including contracts. Later loads are at most:
 *
 * - 11 KiB for the first attempt to use WebTransport, so a page loads at most 47.8 KiB before its
 *   first session over WebTransport,
 * - 9.2 KiB once connected, or while connecting if there are subscriptions: the code that notices a
 *   lost server, recovers topics, reads durable streams and runs loops over a client,
 * - 9 KiB for HTTP, after all other transports have failed,
 * - 19.3 KiB when a WebSocket first opens or receives a stream or a datagram,
 * - 12.9 KiB when a session is first used for more than messages, for example for diagnostics,
 * - 6.6 KiB at the first streaming response, or before the first session with request handlers or
 *   with a send queue that drops messages,
 * - 20.6 KiB for the first state.
 *
 * If you bundle the client as a single file, it is at most 113.2 KiB.
 *
 * @example Usage
 * ```ts
 * import { connect } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authorize: (_session, topic) => topic === "news",
 * });
 * await using client = connect(server.url);
 * await using news = client.subscribe("news");
 * await news.ready;
 * server.publish("news", "hello");
 * for await (const message of news) {
 *   assertEquals(message.data, "hello");
 *   break;
 * }
 * ```
 *
 * @module
 */
import type { Client } from "./client/client.ts";
import type { ServerUrl } from "./client/client_options.ts";
import { connectBy, type ConnectOptions, dialBy, type DialOptions } from "./client/connect.ts";
import type { Contract } from "./session/contract.ts";
import type { Session } from "./session/session.ts";
import { type PageChunks, pagePlatform } from "./client/page/page.ts";
import type { ClientPlatform } from "./client/platform.ts";
import { httpBy, webTransportBy } from "./transport/race/built_in.ts";
import type { Transport, TransportOptions } from "./transport/race/options.ts";
import { webSocketBy, type WebSocketTransportOptions } from "./transport/websocket/value.ts";

// Import each module directly, because these imports determine how much a page loads at first.
export type { BackoffOptions } from "./base/backoff.ts";
export type { Runtime } from "./base/runtime.ts";
export { Client } from "./client/client.ts";
export type {
  ClientOptions,
  ClientPublishOptions,
  ClientRequestOptions,
  ClientStatus,
  ClientSubscribeOptions,
  FlushOptions,
} from "./client/client_options.ts";
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
export type { OnConflict, StateConflict } from "./client/state/write.ts";
export { Members, type RoomMembers } from "./client/subscriptions/rooms.ts";
export { newId } from "./client/new_id.ts";
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
  type StructuredError,
  TimeoutError,
  UnsupportedError,
} from "./errors.ts";
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
export type { ContractMessage, UntypedMessage } from "./session/message.ts";
export type { OverflowPolicy } from "./session/queue/send_queue.ts";
export type { RowReader } from "./session/rows/row_reader.ts";
export { Session } from "./session/session.ts";
export type { SessionHandlers } from "./session/settings/session_settings.ts";
export type { HandshakeInfo, SessionLimits } from "./session/settings/settings.ts";
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
export type {
  SessionState,
  SessionStats,
  StreamingResponse,
  WaitOptions,
} from "./session/types.ts";
export type { ServerUrl } from "./session/url.ts";
export type { GoAway } from "./session/wire/envelope.ts";
export type { PresenceMember, PresenceNotice } from "./session/wire/presence_notice.ts";
export type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
} from "./session/wire/recovery.ts";
export type {
  Transport,
  TransportDialOptions,
  TransportFallback,
  TransportName,
  TransportOptions,
} from "./transport/race/options.ts";
export type { Connection } from "./transport/connection.ts";
export type { WebSocketLike } from "./transport/websocket/connection.ts";
export type { CertificateHash } from "./transport/webtransport.ts";
export type { ConnectOptions, DialOptions, WebSocketTransportOptions };

/**
 * Connects to a server, and reconnects whenever the connection is lost.
 *
 * The client uses WebTransport if the browser and the server support it, and WebSocket otherwise.
 * If neither opens, it uses HTTP. The client chooses again for each new connection. `status` names
 * the transport in use and, if that is not the preferred transport, the reason.
 *
 * @typeParam C The contract.
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL (in a page, it may be relative, such as
 * `"/chat"`); an array of URLs of the same service; or a function that returns the URL for each
 * connection. See {@linkcode ServerUrl}.
 * @param options The client's options; see {@linkcode ConnectOptions}.
 * @returns The client, which connects in the background.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {TypeError} If the URL is invalid, or if `transports` is empty or contains an unknown
 * name.
 * @throws {UnsupportedError} If the runtime is too old, such as Node 20; the message names the
 * missing globals.
 *
 * @example Read the transport in use
 * ```ts
 * import { connect } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * await using client = connect(server.url, { transports: ["websocket"] });
 * for await (const status of client.status) {
 *   if (status.name !== "connected") continue;
 *   assertEquals(status.transport, "websocket");
 *   assertEquals(status.fallback, undefined); // This is the preferred transport.
 *   break;
 * }
 * ```
 */
export function connect<C extends Contract = Contract>(
  url: ServerUrl,
  options: ConnectOptions<C> = {},
): Client<C> {
  return connectBy(makePlatform, url, options);
}

/**
 * Opens a single session, which does not reconnect if the connection is lost. To reconnect, use
 * {@linkcode connect}.
 *
 * @typeParam C The contract.
 * @param url A `ws:`, `wss:`, `http:` or `https:` URL.
 * @param options The session's options; see {@linkcode DialOptions}.
 * @returns The established session.
 * @throws {ConnectionError} If the connection cannot be opened.
 * @throws {SessionClosedError} If the server rejects the session; `info` contains the code and the
 * reason.
 * @throws {TimeoutError} If opening takes longer than `connectTimeoutMs`.
 * @throws {TypeError} If there is a token but the protocols do not include `skein.1`, or if
 * `transports` is empty.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 * @throws {UnsupportedError} If the runtime is too old, such as Node 20; the message names the
 * missing globals.
 *
 * @example Usage
 * ```ts
 * import { dial } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply(`Hello, ${message.data}`),
 * });
 * await using session = await dial(server.url);
 * assertEquals(await session.request("greet", "world"), "Hello, world");
 * ```
 */
export async function dial<C extends Contract = Contract>(
  url: string | URL,
  options: DialOptions<C> = {},
): Promise<Session<unknown, C, "client">> {
  return await dialBy(makePlatform, url, options);
}

/**
 * Returns WebTransport as a value for the option `transports`, the same as the name
 * `"webtransport"`.
 *
 * @returns The transport.
 *
 * @example Usage
 * ```ts
 * import { connect, http, webSocket, webTransport } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assert } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * const transports = [webTransport(), webSocket(), http()];
 * await using client = connect(server.url, { transports });
 * const { transport } = await client.whenConnected();
 * assert(transports.some(({ name }) => name === transport));
 * ```
 */
export function webTransport(): Transport {
  return webTransportBy(async (url, options) => {
    const { nativeLeg } = await CHUNKS.webTransport();
    return await nativeLeg(url, options);
  });
}

/**
 * Returns WebSocket as a value for the option `transports`, the same as the name `"websocket"`. With
 * the option `socket`, it is a transport of your own on any object that behaves as a `WebSocket`.
 *
 * @param options The function that creates sockets, and the name and host of such a transport.
 * @returns The transport.
 * @throws {TypeError} If there is a `host` without a `socket`.
 *
 * @example Sockets with a query of their own
 * ```ts
 * import { connect, webSocket } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * const traced = webSocket({
 *   name: "traced",
 *   socket: (url, protocols) => {
 *     url.searchParams.set("trace", "7");
 *     return new WebSocket(url, [...protocols]);
 *   },
 * });
 * await using client = connect(server.url, { transports: [traced] });
 * assertEquals((await client.whenConnected()).transport, "traced");
 * ```
 */
export function webSocket(options: WebSocketTransportOptions = {}): Transport {
  return webSocketBy(CHUNKS.streams, options);
}

/**
 * Returns HTTP as a value for the option `transports`, the same as the name `"http"`. It is the last
 * resort, whatever its position in the list.
 *
 * @returns The transport.
 *
 * @example Only over HTTP
 * ```ts
 * import { dial, http } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0, onListen() {} });
 * await using session = await dial(server.url, { transports: [http()] });
 * assertEquals(session.transport, "http");
 * ```
 */
export function http(): Transport {
  return httpBy(CHUNKS.http);
}

const CHUNKS: PageChunks = {
  streams: () => import("./client/page/chunk_streams.ts"),
  webTransport: () => import("./client/page/chunk_webtransport.ts"),
  recovery: () => import("./client/page/chunk_recovery.ts"),
  http: () => import("./client/page/chunk_http.ts"),
  insight: () => import("./client/page/chunk_insight.ts"),
  responses: () => import("./client/page/chunk_responses.ts"),
  state: () => import("./client/page/chunk_state.ts"),
};

function makePlatform(options: TransportOptions): ClientPlatform {
  return pagePlatform(options, CHUNKS);
}
