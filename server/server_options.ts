/** Options of `serve()` and `createServer()`, and the check that refuses unknown keys. */
import { HISTORY_BOUNDS } from "../pubsub/topic_options.ts";
import type { MetricsOptions } from "./metrics/endpoint.ts";

import type { AuthorizationContext } from "./http/guard.ts";
import type { InspectorOptions } from "./inspector/options.ts";
import { DURABLE_STREAMS, type DurableStreamsOptions } from "./durable/options.ts";
import type { WebTransportServeOptions } from "./webtransport_options.ts";
import { type RateLimitsOptions, RATES } from "../manager/rate_limits.ts";
import { checkRate, type Rate } from "../base/token_bucket.ts";
import type { NodesOptions } from "../pubsub/nodes/nodes.ts";
import { ROOM } from "../pubsub/presence/rooms.ts";
import type { RoomOptions } from "../pubsub/presence/rooms.ts";
import {
  BROKER,
  checkOptions,
  LIMIT,
  listOf,
  numberIn,
  objectOr,
  objectWith,
  PORT,
  POSITIVE,
  RATE,
  recordOf,
  RUNTIME,
  TIMER,
} from "../base/option_checks.ts";
import { checkLimits, type OptionKinds } from "../base/options.ts";
import type { SessionLimits } from "../session/settings.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import { FLOW_CONTROL, UNREAD_STREAMS } from "../transport/option_kinds.ts";
import type { Broker, HistoryBounds } from "../pubsub/broker.ts";
import type { UnreadStreamLimits } from "../transport/quic/unread_streams.ts";
import type { AdmissionOptions } from "./admission_options.ts";
import type { ValueOf } from "./guest.ts";
import type { ListenInfo } from "./listener.ts";
import type { MoqFace } from "./face.ts";
import type { Contract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import type { ManagerLimits } from "../manager/limits.ts";
import type { Runtime } from "../base/runtime.ts";
import type { WebSocketHost } from "../transport/websocket/server.ts";
import { LIMITS as SESSION_LIMITS } from "../session/call_checks.ts";
import type { SessionHandlers } from "../session/session_settings.ts";

/**
 * Options for {@linkcode createServer}.
 *
 * @typeParam V Type of the values from `authenticate`, `typeof guest` included.
 * @typeParam C The contract.
 */
export interface ServerOptions<V = unknown, C extends Contract = Contract>
  extends
    AdmissionOptions<V>,
    Omit<SessionHandlers<ValueOf<V>, C, "server">, "onGoAway" | "onDropped"> {
  /** Topics and their schemas; messages that do not fit are refused. */
  readonly contract?: C | undefined;
  /**
   * Called for each stream that a client opens; several calls may run at once. An error ends that
   * stream with code 4500 and goes to `onError`; the session continues. Without this handler, read
   * streams from `session.incomingStreams()`. Over QUIC the streams of a session that closes seem
   * to end cleanly: send a length or an end marker with data that must be complete.
   *
   * @example An echo
   * ```ts
   * import { dial, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   async onStream(stream) {
   *     if (stream.direction === "bidirectional") await stream.readable.pipeTo(stream.writable);
   *   },
   * });
   * await using session = await dial(server.url);
   * const { readable, writable } = await session.createBidirectionalStream();
   * const writer = writable.getWriter();
   * await writer.write(new TextEncoder().encode("hello"));
   * await writer.close();
   * assertEquals(await new Response(readable).text(), "hello");
   * ```
   */
  readonly onStream?:
    | ((
      stream: IncomingStream,
      session: Session<ValueOf<V>, C, "server">,
    ) => void | Promise<void>)
    | undefined;
  /**
   * Decides whether a client may subscribe, publish or set presence data. Without `authorize` all
   * are denied. `presence` sets the client's presence data in a room. For the topic `stream:<id>` of
   * a durable stream, `subscribe` reads the stream, and `cancel` asks the writer to stop; both are
   * allowed for the user's own answers. An object in place of `true` allows the action; its `from` has
   * precedence over `includePublisher`, and adds the user of the session to a publication. After
   * `session.requestTimeoutMs` without an answer, the client receives `unavailable`.
   */
  readonly authorize?:
    | ((
      session: Session<ValueOf<V>, C, "server">,
      topic: string,
      action: "subscribe" | "publish" | "presence" | "cancel",
    ) =>
      | boolean
      | { readonly from?: boolean | undefined }
      | Promise<boolean | { readonly from?: boolean | undefined }>)
    | undefined;
  /**
   * Adds `from`, the user that `userOf` returned, to publications of clients. The answer of
   * `authorize` to a publication has precedence. A client without a user has no `from`.
   *
   * @example A chat with names that cannot be forged
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   authenticate: ({ token }) => token ?? null,
   *   authorize: () => true,
   *   includePublisher: true,
   * });
   * await using ann = connect(`${server.url}?token=ann`);
   * await using bob = connect(`${server.url}?token=bob`);
   * const chat = bob.subscribe("chat");
   * await chat.ready;
   * await ann.publish("chat", "hello");
   * for await (const { from, data } of chat) {
   *   assertEquals([from, data], ["ann", "hello"]);
   *   break;
   * }
   * ```
   *
   * @default {false}
   */
  readonly includePublisher?: boolean | undefined;
  /**
   * Called when a client has renewed its token: `session.value` is the new value, `before` the
   * previous one. At the same time `authorize` is called again for every topic to which the client
   * subscribed, and subscriptions that are denied now end; topics of `server.subscribe` stay.
   * Errors go to `onError`, and the session continues.
   *
   * @example A role that is taken back
   * ```ts
   * import { connect, RequestError, serve } from "@skein/skein";
   * import { assertEquals, assertRejects } from "@std/assert";
   *
   * const changes: string[] = [];
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   allowTokenMessage: true,
   *   authenticate: ({ token = "" }) => ({ name: "ann", role: token }),
   *   userOf: ({ name }) => name,
   *   authorize: ({ value }) => value.role === "editor",
   *   onRenewed: ({ value }, before) => void changes.push(`${before.role} to ${value.role}`),
   * });
   * await using client = connect(server.url, { token: "editor" });
   * const drafts = client.subscribe("drafts");
   * await drafts.ready;
   * await client.session?.authenticate("reader");
   * const error = await assertRejects(() => Array.fromAsync(drafts), RequestError);
   * assertEquals([changes, error.failure.code], [["editor to reader"], "forbidden"]);
   * ```
   */
  readonly onRenewed?:
    | ((
      session: Session<ValueOf<V>, C, "server">,
      before: ValueOf<V>,
    ) => void | Promise<void>)
    | undefined;
  /**
   * Limits of the server, beside those of each session.
   *
   * A peer that does not answer a close leaves its socket with the runtime. Sockets are therefore
   * bounded too: to twice the sessions, in total and by address. Further requests are answered with
   * 429 and not upgraded. WebTransport connections have the same bounds, counted apart; beyond these
   * the handshake fails.
   */
  readonly limits?:
    | ManagerLimits & {
      /**
       * Most topics to which one session may subscribe.
       *
       * @default {128}
       */
      readonly maxTopicsPerSession?: number | undefined;
      /**
       * Limits for streams over WebTransport and QUIC that clients open and no handler or loop reads.
       * By default such a stream is refused 5 s after its arrival; one address holds at most 80 MB, and
       * all clients together hold at most 640 MB.
       */
      readonly unreadStreams?: UnreadStreamLimits | undefined;
    }
    | undefined;
  /**
   * Rates at which clients may send, publish, subscribe and connect. Connections have a rate by
   * default, and so have the publications of each session (1,000 at once, then 200 a second) and its
   * subscriptions (256 at once, then 20 a second). Rates of users and addresses count on all nodes
   * together if the `store` of the broker can count.
   */
  readonly rates?: RateLimitsOptions | undefined;
  /** Limits and times of each session. */
  readonly session?: SessionLimits | undefined;
  /**
   * Patterns of topics that are rooms, such as `room:{name}`. A client that subscribes to a room
   * joins that room. The object form has presence options for the rooms of each pattern.
   *
   * @default {[]}
   */
  readonly rooms?: readonly string[] | Readonly<Record<string, RoomOptions>> | undefined;
  /**
   * Topics with a history, by pattern, each with the bounds of one topic: by default 1,000
   * publications, five minutes and 1 MiB. A client that reconnects gets the missed publications, or
   * the reason for a gap. A new subscriber can ask for the newest publications. Use the same
   * bounds on every node.
   *
   * @example The last lines of a chat
   * ```ts
   * import { dial, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   history: { "chat:{room}": { size: 100, ttlMs: 60_000 } },
   *   onOpen: (session) => void server.subscribe(session, "chat:lobby", { last: 10 }),
   * });
   * server.publish("chat:lobby", "hello");
   * await using session = await dial(server.url);
   * for await (const message of session) {
   *   assertEquals([message.topic, message.data], ["chat:lobby", "hello"]);
   *   break;
   * }
   * ```
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>> | undefined;
  /**
   * Time within which a user who left may return without an event, in milliseconds.
   *
   * @default {5000}
   */
  readonly presenceGraceMs?: number | undefined;
  /**
   * `true` if this node tracks the online users of all nodes, at about 200 bytes a user. Otherwise
   * `presence.online()`, `isOnline()` and `lastSeenAt()` cover this node only. Rooms are shared in
   * any case.
   *
   * @default {true}
   */
  readonly clusterPresence?: boolean | undefined;
  /** Observes handshakes, sessions and messages, for traces and metrics. Not set by default. */
  readonly instrumentation?: Instrumentation | undefined;
  /**
   * Answers `/metrics` in the text format of Prometheus and `/healthz` with the state of the
   * server, for programs on this machine. An object sets the paths and the allowed clients.
   *
   * @default {false}
   */
  readonly metrics?: boolean | MetricsOptions | undefined;
  /**
   * Serves a page that shows the sessions, topics, rooms, durable streams and brokers of all nodes,
   * and the messages of one session as these come and go: at `/inspector`, for programs on this
   * machine. An object sets the path and lets others in. Requests for the path and below go to the
   * inspector, also in a mounted server. Costs nothing while no page is open.
   *
   * @default {false}
   */
  readonly inspector?: boolean | InspectorOptions | undefined;
  /**
   * Serves an HTTP API for backends in any language: publish, send to a user, disconnect, presence,
   * history, health and statistics, in JSON. The OpenAPI document is at `openapi.json` below the
   * path. Requests for the path and below go to the API, also in a mounted server. Not served by
   * default.
   */
  readonly api?: ApiOptions | undefined;
  /**
   * Serves durable streams: logs with an end, kept by the broker, which outlive readers, writers and
   * this server. Requests for the path and below follow the Durable Streams protocol. The broker
   * must keep logs. Not served by default.
   *
   * @example A stream that is written and read with `fetch`
   * ```ts
   * import { serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   durableStreams: { path: "/streams", authorize: () => true },
   * });
   * const url = `${server.url.replace("ws:", "http:")}streams/answers/1`;
   * const type = { "content-type": "text/plain" };
   * const end = { "stream-closed": "true" };
   * const send = async (init: RequestInit) => await (await fetch(url, init)).text();
   * await send({ method: "PUT", headers: type });
   * await send({ method: "POST", headers: type, body: "Hello, " });
   * await send({ method: "POST", headers: { ...type, ...end }, body: "you" });
   *
   * const response = await fetch(url);
   * assertEquals(await response.text(), "Hello, you");
   * assertEquals(response.headers.get("stream-closed"), "true");
   * ```
   */
  readonly durableStreams?: DurableStreamsOptions | undefined;
  /**
   * Bounds of answers that outlive the connections of their callers: those of requests with
   * `resume: true` in the contract.
   */
  readonly answers?: {
    /**
     * Time after the last item or read at which an answer is deleted, in milliseconds. For another
     * week its name starts no answer.
     *
     * @default {86400000}
     */
    readonly keepMs?: number | undefined;
    /**
     * Most answers that the broker keeps, those that go on included. They don't count as durable
     * streams. For one more, the oldest answer that has ended makes room, of the network address that
     * has the most of them; answers that ended within ten minutes and were not read to the end go
     * last. The readers of an answer that made room get the code `gone`, and for a week its name
     * starts no answer. If all answers go on, one more is refused with the code `too-many`.
     *
     * @default {100000}
     */
    readonly maxKept?: number | undefined;
    /**
     * Most such answers of one user, or of one guest. For one more, the user's oldest answer that has
     * ended makes room. The default counts only while more than half of `maxKept` are kept.
     *
     * @default {100}
     */
    readonly maxKeptPerUser?: number | undefined;
    /**
     * Most such answers for the guests and new users of one network address, where an IPv6 /64 counts
     * as one. For one more, their oldest answer that has ended makes room. Users who were there an
     * hour ago have ten times as many together. The default counts only while more than half of
     * `maxKept` are kept.
     *
     * @default {1000}
     */
    readonly maxKeptPerAddress?: number | undefined;
    /**
     * Most answers that this server makes at once. One more is refused with the code `too-many`.
     *
     * @default {10000}
     */
    readonly maxRunning?: number | undefined;
    /**
     * Most answers that this server makes for one user at once, or for one guest. One more is refused
     * with the code `too-many`. The default counts only while more than half of `maxRunning` run.
     *
     * @default {32}
     */
    readonly maxRunningPerUser?: number | undefined;
    /**
     * Most answers that this server makes at once for the guests and new users of one network
     * address, where an IPv6 /64 counts as one. One more is refused with the code `too-many`. Users
     * who were there an hour ago have ten times as many together. The default counts only while more
     * than half of `maxRunning` run.
     *
     * @default {128}
     */
    readonly maxRunningPerAddress?: number | undefined;
  } | undefined;
  /**
   * Carries publications between servers; by default within this process. The server does not close
   * the broker.
   */
  readonly broker?: Broker | undefined;
  /** Name and heartbeat of this node among the nodes of the broker; ignored without a `broker`. */
  readonly node?: Omit<NodesOptions, "broker" | "onError" | "runtime"> | undefined;
  /**
   * Serves Media over QUIC on the same ports. The MoQ server gets the clients that offer one of its
   * protocols or ask for its path, and all clients over raw QUIC. Rules, limits and sessions are
   * those of the MoQ server, which is drained and closed with this server. Over UDP a client may
   * have 128 bidirectional streams open, which are its subscriptions, unless `maxStreams` of
   * `webTransport` is larger.
   *
   * @example Beside messages
   * ```ts
   * import { dial, serve } from "@skein/skein";
   * import { dialMoq, MoqServer, TrackMux } from "@skein/skein/moq";
   * import { assertEquals } from "@std/assert";
   *
   * const mux = new TrackMux();
   * mux.publish("/greeting", async (track) => {
   *   const group = await track.openGroup();
   *   await group.writeFrame(new TextEncoder().encode("hello"));
   *   await group.close();
   * });
   * const moq = new MoqServer({
   *   mux,
   *   authorize: (_session, _path, action) => action !== "publish",
   * });
   * await using server = serve({ port: 0, onListen() {}, moq });
   *
   * await using session = await dial(server.url);
   * await using media = await dialMoq(moq.webSocketUrl);
   * const track = await media.subscribe("/greeting", "text");
   * for await (const group of track) {
   *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "hello");
   * }
   * assertEquals(session.state, "connected");
   * ```
   */
  readonly moq?: MoqFace | undefined;
  /**
   * Clocks, timers and randomness of this node, for tests and simulations. By default those of the
   * platform. A broker and a MoQ server have the same option of their own.
   */
  readonly runtime?: Runtime | undefined;
}

/** Options for {@linkcode serve}. */
export interface ServeOptions<V = unknown, C extends Contract = Contract>
  extends ServerOptions<V, C> {
  /**
   * Port on which to listen; 0 takes a free one.
   *
   * @default {8000}
   */
  readonly port?: number | undefined;
  /**
   * Address on which to listen.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string | undefined;
  /** Certificate and key in PEM, for `wss:` and WebTransport. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /**
   * Serves sessions over WebTransport too: on UDP, by default on the same port number.
   *
   * - `true` offers WebTransport where possible. Otherwise one line gives the reason, and only
   *   WebSocket is served. Deno has QUIC with `--unstable-net`.
   * - An object offers WebTransport, and `serve()` throws where that is impossible.
   * - A taken UDP port, for example of a predecessor that drains, is tried again in either case
   *   until the server ends; `onListen` and `webTransportStats` show the state.
   * - With `tls` WebTransport has the same certificate. Without `tls` the server is in development:
   *   a short-lived certificate, trusted by its hash, on this machine only.
   *
   * On Node WebTransport is off by default, and `true` prints that line.
   *
   * @default {true}
   */
  readonly webTransport?: boolean | WebTransportServeOptions | undefined;
  /**
   * Listens on TCP and upgrades, in place of the runtime's own server: `hardenedWebSocket()` of
   * `@skein/skein/ws`, for a server that faces the internet without a proxy. A server on Node always
   * needs it.
   */
  readonly webSocket?: WebSocketHost | undefined;
  /**
   * Lets other processes listen on the same TCP port: the kernel then passes each new connection to
   * one of these processes. Deno supports this on Linux with `--unstable-net`. UDP is not shared:
   * the first process serves WebTransport. Turn WebTransport off in the others, or give each
   * process its own `port`.
   *
   * @default {false}
   */
  readonly reusePort?: boolean | undefined;
  /**
   * Called once the server listens, with the state of WebTransport, and again when a taken UDP port
   * has become free. By default the addresses are printed, with the reason if WebTransport is off.
   */
  readonly onListen?: ((address: Deno.NetAddr, info: ListenInfo) => void) | undefined;
  /** Closes the server. */
  readonly signal?: AbortSignal | undefined;
}

/** An action of the HTTP API, as `authorize` gets it. */
export type ApiAction =
  | "follow"
  | "publish"
  | "publish-batch"
  | "send"
  | "sessions"
  | "disconnect-user"
  | "disconnect-session"
  | "presence"
  | "history"
  | "health"
  | "stats"
  | "describe";

/**
 * Options of the HTTP API.
 *
 * @example A backend with a key
 * ```ts
 * import { type ApiOptions, connect, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const api: ApiOptions = {
 *   path: "/api",
 *   authorize: ({ request, action }) =>
 *     request.headers.get("authorization") === "Bearer s3cret" && action === "publish",
 * };
 * await using server = serve({ port: 0, onListen() {}, authorize: () => true, api });
 * await using client = connect(server.url);
 * const news = client.subscribe("news");
 * await news.ready;
 *
 * const url = server.url.replace("ws:", "http:");
 * const response = await fetch(`${url}api/topics/news/publications`, {
 *   method: "POST",
 *   headers: { authorization: "Bearer s3cret", "content-type": "application/json" },
 *   body: JSON.stringify({ data: "hello" }),
 * });
 * assertEquals(await response.json(), { topic: "news" });
 * for await (const { data } of news) {
 *   assertEquals(data, "hello");
 *   break;
 * }
 * ```
 */
export interface ApiOptions {
  /** Path of the API, such as `/api`: exact, without a slash at its end. */
  readonly path: string;
  /**
   * Decides each action. The id is the topic, the user or the session; empty for the others. A batch
   * is a `publish-batch` before its body is read, and then a `publish` for each of its topics.
   * `{ caller }` allows the action to a backend of that name: callers do not share keys of
   * `Idempotency-Key`. Without a name a caller is told from others by its user, or by its
   * `Authorization`. Anything else denies. An error denies too, is printed, and is answered with
   * 503, so that clients ask again.
   *
   * Without `authorize` only programs on this machine may use the API: the peer's address is
   * loopback, the requested host is one of this machine's names or of `hosts`, and no header of a
   * proxy is present. Pages may use the API then if `origins` names their origin, or if this server
   * has served them; `*` is not enough. A proxy on this machine that adds no such header looks like
   * a program, so behind a proxy `authorize` is needed.
   */
  readonly authorize?:
    | ((
      context: AuthorizationContext<ApiAction>,
    ) => boolean | { readonly caller: string } | Promise<boolean | { readonly caller: string }>)
    | undefined;
  /**
   * Rate of requests of one network address, counted by each node. `{ perSecond: Infinity }` is no
   * limit.
   *
   * @default {{ perSecond: 1000, burst: 2000 }}
   */
  readonly rate?: Rate | undefined;
  /**
   * Most requests that are answered at once.
   *
   * @default {256}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Most bytes of the body of a request.
   *
   * @default {1048576}
   */
  readonly maxBodyBytes?: number | undefined;
  /**
   * Most publications of one request.
   *
   * @default {100}
   */
  readonly maxPublications?: number | undefined;
  /**
   * Most readers of this node that follow topics by server-sent events. One more is answered with
   * 429. Once more than half are there, one network address has at most 256, and one user 32.
   *
   * @default {10000}
   */
  readonly maxReaders?: number | undefined;
  /**
   * Time for which the key of a request is remembered, in milliseconds, by the store of the broker.
   *
   * @default {600000}
   */
  readonly idempotencyWindowMs?: number | undefined;
}

/** Default rate of one network address: more than a backend needs, and a brake for guesses. */
const API_RATE: Required<Rate> = { perSecond: 1_000, burst: 2_000 };

/** Default limits of the API. */
const API_LIMITS = {
  idempotencyWindowMs: 600_000,
  maxBodyBytes: 1_048_576,
  maxPublications: 100,
  maxReaders: 10_000,
  maxRequests: 256,
};

export const API: OptionKinds<ApiOptions> = {
  authorize: "function",
  idempotencyWindowMs: POSITIVE,
  maxBodyBytes: POSITIVE,
  maxPublications: POSITIVE,
  maxReaders: POSITIVE,
  maxRequests: POSITIVE,
  path: "string",
  rate: RATE,
};

export const INSPECTOR: OptionKinds<InspectorOptions> = {
  authorize: "function",
  path: "string",
  payloads: "boolean",
};

export const METRICS: OptionKinds<MetricsOptions> = {
  allow: "string or function",
  path: "string",
};

export const WEB_TRANSPORT: OptionKinds<WebTransportServeOptions> = {
  cacheFolder: "string or object or null",
  certificate: "object",
  engine: "string or function",
  flowControl: FLOW_CONTROL,
  hostname: "string",
  idleTimeoutMs: POSITIVE,
  keepAliveIntervalMs: POSITIVE,
  maxConnections: POSITIVE,
  maxConnectionsPerAddress: POSITIVE,
  maxHandshakes: POSITIVE,
  maxSessionsPerConnection: POSITIVE,
  maxStreams: POSITIVE,
  port: PORT,
};

export const SERVER: OptionKinds<ServerOptions> = {
  allowTokenMessage: "boolean",
  answers: {
    keepMs: POSITIVE,
    maxKept: POSITIVE,
    maxKeptPerAddress: POSITIVE,
    maxKeptPerUser: POSITIVE,
    maxRunning: POSITIVE,
    maxRunningPerAddress: POSITIVE,
    maxRunningPerUser: POSITIVE,
  },
  api: API,
  authenticate: "function",
  authorize: "function",
  broker: BROKER,
  clientAddress: "function",
  contract: 0,
  durableStreams: DURABLE_STREAMS,
  expiresAt: "function",
  fetch: "function",
  flowControl: FLOW_CONTROL,
  history: recordOf(HISTORY_BOUNDS),
  hosts: listOf("string"),
  http: "boolean",
  inspector: objectOr("boolean", INSPECTOR),
  instrumentation: "object",
  keepHeaders: listOf("string", "string"),
  limits: {
    maxSessions: POSITIVE,
    maxSessionsPerAddress: LIMIT,
    maxSessionsPerUser: LIMIT,
    maxTopicsPerSession: POSITIVE,
    unreadStreams: UNREAD_STREAMS,
  },
  maxTokenBytes: POSITIVE,
  metrics: objectOr("boolean", METRICS),
  moq: objectWith("MoqServer", "fetch"),
  includePublisher: "boolean",
  node: { goneAfterMs: TIMER, heartbeatMs: TIMER, name: "string" },
  onClose: "function",
  onError: "function",
  onHandlerError: ["answer", "close"],
  onMessage: "function",
  onOpen: "function",
  onRefusal: "function",
  onRefused: "function",
  onRenewed: "function",
  onStream: "function",
  origins: listOf("string"),
  path: "string",
  presenceGraceMs: numberIn({ min: 0, max: MAX_TIMER_MS }),
  clusterPresence: "boolean",
  rates: RATES,
  requests: "object",
  rooms: (value, place) => (Array.isArray(value) ? listOf("string") : recordOf(ROOM))(value, place),
  runtime: RUNTIME,
  session: SESSION_LIMITS,
  userOf: "function",
};

export const SERVE: OptionKinds<ServeOptions> = {
  ...SERVER,
  hostname: "string",
  onListen: "function",
  port: PORT,
  reusePort: "boolean",
  signal: "AbortSignal",
  tls: 0,
  webSocket: objectWith("WebSocketHost", "accept", "listen"),
  webTransport: objectOr("boolean", WEB_TRANSPORT),
};

/**
 * Rejects options with an unknown name or a value of another type, at any depth.
 *
 * @throws {TypeError} If a name is unknown, or a value has another type.
 */
export function checkServerOptions(verb: "create server" | "serve", options: object): void {
  checkOptions(verb, options, verb === "serve" ? SERVE : SERVER);
}

/**
 * Checks the paths of the HTTP faces, which load later.
 *
 * @param faces Options of each face, by the name of the option; `undefined` for a face that is off.
 * @throws {TypeError} If a path is not spelled as in a URL, two faces overlap, or `authorize` is not
 * a function.
 */
export function checkFaces(
  faces: Readonly<
    Record<string, { readonly path: string; readonly authorize?: unknown } | undefined>
  >,
): void {
  const taken: [name: string, path: string][] = [];
  for (const [name, face] of Object.entries(faces)) {
    if (face === undefined) continue;
    const { path, authorize } = face;
    // Other spellings would never match the URL of a request.
    const isPath = typeof path === "string" && /^\/.*[^/]$/.test(path) &&
      URL.parse(path, "http://localhost")?.pathname === path;
    if (!isPath) {
      throw new TypeError(
        `Cannot create server: ${name}.path must be a path as URLs have it, without a slash at ` +
          `the end, received ${path}`,
      );
    }
    if (authorize !== undefined && typeof authorize !== "function") {
      throw new TypeError(
        `Cannot create server: ${name}.authorize must be a function, received ${typeof authorize}`,
      );
    }
    for (const [other, known] of taken) {
      if (`${path}/`.startsWith(`${known}/`) || `${known}/`.startsWith(`${path}/`)) {
        throw new TypeError(
          `Cannot create server: ${name}.path must not overlap ${other}.path, received ${path}`,
        );
      }
    }
    taken.push([name, path]);
  }
}

/**
 * Checks the options of the API, and fills in the limits.
 *
 * @returns The options with all limits; without a rate if there is no limit.
 * @throws {RangeError} If a limit is not a positive integer, or the rate is malformed.
 */
export function checkApi(
  options: ApiOptions,
): Pick<ApiOptions, "authorize" | "path"> & typeof API_LIMITS & {
  readonly rate: Required<Rate> | undefined;
} {
  const { path, authorize, rate = API_RATE } = options;
  const limits = checkLimits(API_LIMITS, options, { of: "server: api." });
  return {
    path,
    authorize,
    rate: checkRate(rate, "api.rate"),
    ...limits,
  };
}

/**
 * Checks the options of the inspector, and fills in the defaults.
 *
 * @throws {TypeError} If an option is unknown or invalid.
 */
export function checkInspector(
  options: InspectorOptions,
): Required<Pick<InspectorOptions, "path" | "payloads">> & Pick<InspectorOptions, "authorize"> {
  checkOptions("create inspector", options, INSPECTOR);
  const { path = "/inspector", authorize, payloads = true } = options;
  checkFaces({ inspector: { path, authorize } });
  return { path, payloads, authorize };
}
