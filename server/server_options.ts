/** Options of `serve()` and `createServer()`, and the check that rejects unknown keys. */
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
 * @typeParam V Type of the values from `authenticate`, including `typeof guest`.
 * @typeParam C The contract.
 */
export interface ServerOptions<V = unknown, C extends Contract = Contract>
  extends
    AdmissionOptions<V>,
    Omit<SessionHandlers<ValueOf<V>, C, "server">, "onGoAway" | "onDropped"> {
  /** Topics and their schemas; other messages are rejected. */
  readonly contract?: C | undefined;
  /**
   * Called for each stream that a client opens; several calls may run concurrently. An error resets
   * the stream with code 4500 and goes to `onError`; the session continues. Without this handler,
   * read streams from `session.incomingStreams()`. Over QUIC the streams of a closing session
   * appear to end cleanly: send a length or an end marker with data that must be complete.
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
   * are denied. `presence` sets the client's presence data in a room. For the topic `stream:<id>`
   * of a durable stream, `subscribe` reads the stream, and `cancel` asks the writer to stop;
   * both are allowed for the user's own responses. An object instead of `true` allows the action;
   * its `from` overrides `includePublisher`, and adds the session's user to a publication. If
   * `authorize` takes longer than `session.requestTimeoutMs`, the client receives `unavailable`.
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
   * Adds `from`, the user that `userOf` returned, to publications of clients. The result of
   * `authorize` overrides this. Publications of a client without a user have no `from`.
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
   * previous one. `authorize` is also called again for every topic to which the client subscribed,
   * and denied subscriptions end; topics of `server.subscribe` stay. Errors go to `onError`, and
   * the session continues.
   *
   * @example A role that is revoked
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
   * Limits of the server, in addition to the limits of each session.
   *
   * A peer that does not respond to a close leaves its socket open in the runtime. So sockets are
   * also limited, to twice the sessions, in total and per address. Further requests receive 429
   * instead of an upgrade. WebTransport connections have the same limits, counted separately;
   * beyond them the handshake fails.
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
       * Limits for streams over WebTransport and QUIC that clients open and no handler or loop
       * reads. By default such a stream is rejected 5 s after its arrival; they hold at most 80 MB
       * per address, and at most 640 MB for all clients together.
       */
      readonly unreadStreams?: UnreadStreamLimits | undefined;
    }
    | undefined;
  /**
   * Rate limits for sending, publishing, subscribing and connecting. By default connections have a
   * rate limit, and so do each session's publications (1,000 at first, then 200 a second) and
   * subscriptions (256 at first, then 20 a second). Rate limits of users and addresses apply to all
   * nodes together if the broker's `store` can count.
   */
  readonly rates?: RateLimitsOptions | undefined;
  /** Limits and times of each session. */
  readonly session?: SessionLimits | undefined;
  /**
   * Patterns of topics that are rooms, such as `room:{name}`. A client that subscribes to a room
   * joins it. The object form has presence options for the rooms of each pattern.
   *
   * @default {[]}
   */
  readonly rooms?: readonly string[] | Readonly<Record<string, RoomOptions>> | undefined;
  /**
   * Topics with a history, by pattern, each with the bounds of one topic: by default 1,000
   * publications, five minutes and 1 MiB. A client that reconnects receives the missed
   * publications, or the reason for a gap. A new subscriber can request the newest publications.
   * Use the same bounds on every node.
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
   * Grace period in which a user may leave and return without an event, in milliseconds.
   *
   * @default {5000}
   */
  readonly presenceGraceMs?: number | undefined;
  /**
   * `true` if this node tracks the online users of all nodes, with about 200 bytes per user.
   * Otherwise `presence.online()`, `isOnline()` and `lastSeenAt()` cover only this node. Rooms are
   * always shared.
   *
   * @default {true}
   */
  readonly clusterPresence?: boolean | undefined;
  /** Observes handshakes, sessions and messages, for traces and metrics. Not set by default. */
  readonly instrumentation?: Instrumentation | undefined;
  /**
   * Serves `/metrics` in the Prometheus text format, and `/healthz` with the state of the server,
   * for programs on this machine. An object sets the path and the allowed clients.
   *
   * @default {false}
   */
  readonly metrics?: boolean | MetricsOptions | undefined;
  /**
   * Serves a page that shows the sessions, topics, rooms, durable streams and brokers of all nodes,
   * and the live messages of one session: at `/inspector`, for programs on this machine. An object
   * sets the path and allows others. Requests for the path and below go to the inspector, also in a
   * mounted server. It has no cost while no page is open.
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
   * Serves durable streams: logs with an end, kept by the broker, which outlive readers, writers
   * and this server. Requests for the path and below follow the Durable Streams protocol. The
   * broker must keep logs. Not served by default.
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
   * Limits of responses that outlive their callers' connections, for requests with `resume: true`
   * in the contract.
   */
  readonly answers?: {
    /**
     * Time after the last item or read at which a response is deleted, in milliseconds. Its name
     * cannot be used again for another week.
     *
     * @default {86400000}
     */
    readonly keepMs?: number | undefined;
    /**
     * Most responses that the broker keeps, including running ones. They don't count as durable
     * streams. Beyond the limit, the oldest finished response of the network address with the most
     * responses is dropped; responses that finished within the last ten minutes and were not read
     * to the end are dropped last. Readers of a dropped response receive the code `gone`, and its
     * name cannot be used again for a week. If all responses are running, a new one is rejected
     * with the code `too-many`.
     *
     * @default {100000}
     */
    readonly maxKept?: number | undefined;
    /**
     * Most kept responses per user or guest. Beyond the limit, the user's oldest finished response
     * is dropped. The default applies only while more than half of `maxKept` are kept.
     *
     * @default {100}
     */
    readonly maxKeptPerUser?: number | undefined;
    /**
     * Most kept responses for the guests and new users of one network address; an IPv6 /64 counts
     * as one address. Beyond the limit, their oldest finished response is dropped. Users who were
     * seen there an hour ago have ten times as many together. The default applies only while more
     * than half of `maxKept` are kept.
     *
     * @default {1000}
     */
    readonly maxKeptPerAddress?: number | undefined;
    /**
     * Most responses that run on this server at the same time. Another one is rejected with the
     * code `too-many`.
     *
     * @default {10000}
     */
    readonly maxRunning?: number | undefined;
    /**
     * Most running responses per user or guest on this server. Another one is rejected with the
     * code `too-many`. The default applies only while more than half of `maxRunning` are running.
     *
     * @default {32}
     */
    readonly maxRunningPerUser?: number | undefined;
    /**
     * Most running responses on this server for the guests and new users of one network address; an
     * IPv6 /64 counts as one address. Another one is rejected with the code `too-many`. Users who
     * were seen there an hour ago have ten times as many together. The default applies only while
     * more than half of `maxRunning` are running.
     *
     * @default {128}
     */
    readonly maxRunningPerAddress?: number | undefined;
  } | undefined;
  /**
   * Carries publications between servers; by default only within this process. The server does not
   * close the broker.
   */
  readonly broker?: Broker | undefined;
  /** Name and heartbeat of this node among the nodes of the broker; ignored without a `broker`. */
  readonly node?: Omit<NodesOptions, "broker" | "onError" | "runtime"> | undefined;
  /**
   * Serves Media over QUIC on the same ports. The MoQ server receives the clients that offer one of
   * its protocols or request its path, and all clients over raw QUIC. It applies its own rules,
   * limits and sessions, and is drained and closed with this server. Over UDP a client may have 128
   * bidirectional streams open, one per subscription, unless `maxStreams` of `webTransport` is
   * larger.
   *
   * @example With messages on the same server
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
   * Clocks, timers and randomness of this node, for tests and simulations. By default the
   * platform's. Brokers and MoQ servers have the same option.
   */
  readonly runtime?: Runtime | undefined;
}

/** Options for {@linkcode serve}. */
export interface ServeOptions<V = unknown, C extends Contract = Contract>
  extends ServerOptions<V, C> {
  /**
   * Port on which to listen; 0 selects a free port.
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
   * Also serves sessions over WebTransport: on UDP, by default on the same port number.
   *
   * - `true` offers WebTransport if possible. Otherwise the server prints the reason, and serves
   *   only WebSocket. Deno has QUIC with `--unstable-net`.
   * - An object offers WebTransport, and `serve()` throws if that is impossible.
   * - In both cases a UDP port in use, for example by a draining predecessor, is retried until the
   *   server closes; `onListen` and `webTransportStats` show the state.
   * - With `tls` WebTransport uses the same certificate. Without `tls` the server is in development
   *   mode: a short-lived certificate, trusted by its hash, only on this machine.
   *
   * On Node WebTransport is off by default, and `true` prints the reason.
   *
   * @default {true}
   */
  readonly webTransport?: boolean | WebTransportServeOptions | undefined;
  /**
   * Listens on TCP and upgrades, instead of the runtime's own server: `hardenedWebSocket()` from
   * `@skein/skein/ws`, for a server on the internet without a proxy. A server on Node always needs
   * it.
   */
  readonly webSocket?: WebSocketHost | undefined;
  /**
   * Lets other processes listen on the same TCP port: the kernel passes each new connection to one
   * of them. Deno supports this on Linux with `--unstable-net`. UDP is not shared: the first
   * process serves WebTransport. Turn WebTransport off in the others, or set a different `port` for
   * each.
   *
   * @default {false}
   */
  readonly reusePort?: boolean | undefined;
  /**
   * Called once the server listens, with the state of WebTransport, and again when a UDP port in
   * use has become free. By default the addresses are printed, with the reason if WebTransport is
   * off.
   */
  readonly onListen?: ((address: Deno.NetAddr, info: ListenInfo) => void) | undefined;
  /** Closes the server when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** An action of the HTTP API, as passed to `authorize`. */
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
  /** Path of the API, such as `/api`, without a trailing slash. */
  readonly path: string;
  /**
   * Decides each action. The id is the topic, the user or the session; empty for other actions. A
   * batch is a `publish-batch` before its body is read, and then a `publish` for each of its
   * topics. `{ caller }` allows the action and names the backend: callers do not share values of
   * `Idempotency-Key`. Without a name, callers are distinguished by user, or by `Authorization`.
   * Anything else denies. An error also denies, is printed, and the response is 503, so that
   * clients retry.
   *
   * Without `authorize` only programs on this machine may use the API: the peer's address is
   * loopback, the requested host is one of this machine's names or of `hosts`, and there is no
   * proxy header. Pages may then use the API if `origins` lists their origin, or if this server has
   * served them; `*` is not enough. A proxy on this machine without such a header looks like a
   * program, so behind a proxy you need `authorize`.
   */
  readonly authorize?:
    | ((
      context: AuthorizationContext<ApiAction>,
    ) => boolean | { readonly caller: string } | Promise<boolean | { readonly caller: string }>)
    | undefined;
  /**
   * Rate limit per network address, counted by each node. `{ perSecond: Infinity }` means no limit.
   *
   * @default {{ perSecond: 1000, burst: 2000 }}
   */
  readonly rate?: Rate | undefined;
  /**
   * Most concurrent requests.
   *
   * @default {256}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Most bytes of a request body.
   *
   * @default {1048576}
   */
  readonly maxBodyBytes?: number | undefined;
  /**
   * Most publications per request.
   *
   * @default {100}
   */
  readonly maxPublications?: number | undefined;
  /**
   * Most readers on this node that follow topics by server-sent events. Another one receives 429.
   * Once more than half are connected, a network address has at most 256, and a user 32.
   *
   * @default {10000}
   */
  readonly maxReaders?: number | undefined;
  /**
   * Time for which the broker's store remembers the key of a request, in milliseconds.
   *
   * @default {600000}
   */
  readonly idempotencyWindowMs?: number | undefined;
}

/**
 * Default rate limit per network address: more than a backend needs, but it slows down guessing.
 */
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
 * @param faces Options of each face, by option name; `undefined` for a face that is off.
 * @throws {TypeError} If a path is not spelled as in a URL, two faces overlap, or `authorize` is
 * not a function.
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
    // Other spellings would never match a request's URL.
    const isPath = typeof path === "string" && /^\/.*[^/]$/.test(path) &&
      URL.parse(path, "http://localhost")?.pathname === path;
    if (!isPath) {
      throw new TypeError(
        `Cannot create server: ${name}.path must be a path spelled as in a URL, without a trailing ` +
          `slash, received ${path}`,
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
