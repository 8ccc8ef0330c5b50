/** The server: sessions, topics, presence and rooms behind one `serve()`. */
import { Admission } from "./admission.ts";
import type { AdmissionOptions } from "./admission_options.ts";
import type { RequestInfo } from "../transport/address.ts";
import {
  Cluster,
  type DisconnectReport,
  makePresence,
  type NodeOptions,
  type RoomPatterns,
  type SessionInfo,
} from "./users.ts";
import {
  type Authorize,
  type AuthorizedAction,
  clientServices,
  type Permission,
  type RenewedHandler,
  tellLiteral,
} from "./client_requests.ts";
import { type ConnectionLimits, type ListenInfo, Listening } from "./listener.ts";
import type { WebTransportStats } from "../telemetry/measures.ts";
import { MetricsEndpoint, type MetricsOptions } from "../telemetry/endpoint.ts";
import { checkBuiltinEngine, type WebTransportServeOptions } from "./webtransport_options.ts";
import { hostOf, quicOf } from "./moq.ts";
import { reportEngine, sequenceStore } from "./sequence_store.ts";
import { UserClaims } from "./user_limit.ts";
import { checkServerOptions } from "./known_options.ts";
import { type DrainOptions, type DrainReport, SessionManager } from "../manager/mod.ts";
import {
  DEFAULT_MAX_SESSIONS,
  DEFAULT_MAX_SESSIONS_PER_ADDRESS,
  DEFAULT_MAX_SESSIONS_PER_USER,
} from "../manager/limits.ts";
import { defaultSubscriptions, type RateLimitsOptions } from "../manager/rate_limits.ts";
import type { SharedCounts } from "../manager/shared_counts.ts";
import { SOCKETS_PER_SESSION } from "../manager/sockets.ts";
import type { Broker, HistoryBounds } from "../pubsub/broker.ts";
import type { SubscribeOptions } from "../pubsub/history/replay.ts";
import { type Nodes, type Presence, type Rooms, Topics } from "../pubsub/mod.ts";
import type { MoqServer } from "../pubsub/moq/server/server.ts";
import { ConsoleReport } from "../session/insight/console_report.ts";
import type { AnyContract, SendData, SendTopic } from "../session/contract.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { instrument } from "../session/insight/watch.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import type { OptionKeys } from "../base/option_keys.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import type { SessionLimits } from "../session/settings.ts";
import { Turn } from "../session/queue/send_queue.ts";
import { settlesWithin } from "../base/wait.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";
import { type UnreadStreamLimits, UnreadStreams } from "../transport/quic/unread_streams.ts";
import type { WebSocketHost } from "../transport/websocket/server.ts";
import { type Certificate, checkCertificate } from "../transport/h3/server.ts";
import type { UnsubscribeOptions } from "../pubsub/topics.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import { type SessionHandlers, sessionSettings } from "../session/session_settings.ts";
import { CloseCode } from "../errors.ts";
import { internals } from "../session/core.ts";
import { directReadable, directStream } from "../transport/direct.ts";
import { report } from "../session/report.ts";

/**
 * Limits of a server, beside those of each session.
 *
 * A peer that does not answer a close leaves its socket with the runtime. Sockets are therefore
 * bounded too: to twice the sessions, in total and by address. Further requests are answered with
 * 429 and not upgraded. WebTransport connections have the same bounds, counted apart; beyond these
 * the handshake fails.
 */
export interface ServerLimits {
  /**
   * Most sessions at once.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /** Most sessions of one user at once; see `SessionManager` for the default. */
  readonly maxSessionsPerUser?: number;
  /**
   * Most sessions of one network address at once; an IPv6 /64 counts as one. See `SessionManager`
   * for the default.
   */
  readonly maxSessionsPerAddress?: number;
  /**
   * Most topics to which one session may subscribe.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number;
  /**
   * Limits for streams over WebTransport and QUIC that clients open and no handler or loop reads.
   * By default such a stream is refused 5 s after its arrival; one address holds at most 80 MB, and
   * all clients together hold at most 640 MB.
   */
  readonly unreadStreams?: UnreadStreamLimits;
  /**
   * Time between two searches for closed sessions, in milliseconds: a safety net, because sessions
   * normally leave by themselves.
   *
   * @default {60000}
   */
  readonly cleanupIntervalMs?: number;
}

/**
 * Options for {@linkcode createServer}.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 */
export interface ServerOptions<V = unknown, C extends AnyContract = AnyContract>
  extends AdmissionOptions<V>, Omit<SessionHandlers<V, C, "server">, "onGoAway" | "onDropped"> {
  /** Topics and their schemas; messages that do not fit are refused. */
  readonly contract?: C;
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
  readonly onStream?: (
    stream: IncomingStream,
    session: Session<V, C, "server">,
  ) => void | Promise<void>;
  /**
   * Decides whether a client may subscribe, publish or set presence data. Without `authorize` all
   * are denied. A {@linkcode Permission} in place of `true` adds details.
   */
  readonly authorize?: (
    session: Session<V, C, "server">,
    topic: string,
    action: AuthorizedAction,
  ) => boolean | Permission | Promise<boolean | Permission>;
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
   *   authenticate: ({ token = "guest" }) => token,
   *   authorize: () => true,
   *   namesPublishers: true,
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
  readonly namesPublishers?: boolean;
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
   *   acceptsTokenInBand: true,
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
  readonly onRenewed?: (session: Session<V, C, "server">, before: V) => void | Promise<void>;
  /** Limits of the server. */
  readonly limits?: ServerLimits;
  /**
   * Rates at which clients may send, subscribe and connect. Connections have a rate by default, and
   * so have the subscriptions of each session: 256 at once, then 20 a second. Rates of users and
   * addresses count on all nodes together if the `store` of the broker can count. With
   * `shared: undefined` each node counts alone.
   */
  readonly rates?: RateLimitsOptions;
  /** Limits and times of each session. */
  readonly session?: SessionLimits;
  /**
   * Patterns of topics that are rooms, such as `room:{name}`. A client that subscribes to a room
   * joins that room. The object form has presence options for the rooms of each pattern.
   *
   * @default {[]}
   */
  readonly rooms?: RoomPatterns;
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
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>>;
  /**
   * Time within which a user who left may return without an event, in milliseconds.
   *
   * @default {5000}
   */
  readonly presenceGraceMs?: number;
  /**
   * `true` if this node tracks the online users of all nodes, at about 200 bytes a user. Otherwise
   * `presence.online()`, `isOnline()` and `lastSeenAt()` cover this node only. Rooms are shared in
   * any case.
   *
   * @default {true}
   */
  readonly presenceSharesOnline?: boolean;
  /** Observes handshakes, sessions and messages, for traces and metrics. Not set by default. */
  readonly instrumentation?: Instrumentation;
  /**
   * Answers `/metrics` in the text format of Prometheus and `/healthz` with the state of the
   * server, for programs on this machine. An object sets the paths and the allowed clients.
   *
   * @default {false}
   */
  readonly metrics?: boolean | MetricsOptions;
  /**
   * Carries publications between servers; by default within this process. The server does not close
   * the broker.
   */
  readonly broker?: Broker;
  /** Name and heartbeat of this node among the nodes of the broker; ignored without a `broker`. */
  readonly node?: NodeOptions;
  /**
   * Time for which handled messages of a client with `delivery: "at-least-once"` are remembered
   * after its last message, in milliseconds. A message that is sent again later is handled again.
   *
   * @default {300000}
   */
  readonly dedupeWindowMs?: number;
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
  readonly moq?: MoqServer;
  /**
   * Clocks, timers and randomness of this node, for tests and simulations. By default those of the
   * platform. A broker and a MoQ server have the same option of their own.
   */
  readonly runtime?: Runtime;
}

/** Options for {@linkcode serve}. */
export interface ServeOptions<V = unknown, C extends AnyContract = AnyContract>
  extends ServerOptions<V, C> {
  /**
   * Port on which to listen; 0 takes a free one.
   *
   * @default {8000}
   */
  readonly port?: number;
  /**
   * Address on which to listen.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string;
  /** Certificate and key in PEM, for `wss:` and WebTransport. */
  readonly tls?: { readonly cert: string; readonly key: string };
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
   * @default {true}
   */
  readonly webTransport?: boolean | WebTransportServeOptions;
  /**
   * Listens on TCP and upgrades, in place of the runtime's own server: `hardenedWebSocket()` of
   * `@skein/skein/ws`, for a server that faces the internet without a proxy.
   */
  readonly webSocket?: WebSocketHost;
  /**
   * Lets other processes listen on the same TCP port: the kernel then passes each new connection to
   * one of these processes. Deno supports this on Linux with `--unstable-net`. UDP is not shared:
   * the first process serves WebTransport. Turn WebTransport off in the others, or give each
   * process its own `port`. Cannot be combined with `webSocket`.
   *
   * @default {false}
   */
  readonly reusePort?: boolean;
  /**
   * Called once the server listens, with the state of WebTransport, and again when a taken UDP port
   * has become free. By default the addresses are printed, with the reason if WebTransport is off.
   */
  readonly onListen?: (address: Deno.NetAddr, info: ListenInfo) => void;
  /** Closes the server. */
  readonly signal?: AbortSignal;
}

/** Sends to all sessions of one user. */
export interface UserSender<C extends AnyContract = AnyContract> {
  /**
   * Sends a message to every session of the user, encoded once.
   *
   * @param topic The topic.
   * @param data The data.
   * @returns Number of sessions of this node that got the message; other nodes are not counted.
   */
  send<T extends SendTopic<C, "server">>(topic: T, data?: SendData<C, "server", T>): number;
}

/**
 * A server of sessions that listens by itself, or is mounted in another server.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 */
export class Server<V = unknown, C extends AnyContract = AnyContract> implements AsyncDisposable {
  /** Subscriptions of the sessions on this node. */
  readonly topics: Topics;
  /** Users and their presence. */
  readonly presence: Presence;
  /** Topics with presence. */
  readonly rooms: Rooms;
  /** All sessions of this node. */
  readonly manager: SessionManager;
  /** The nodes of the broker; `undefined` without the option `broker`. */
  readonly nodes: Nodes | undefined;

  readonly #runtime: Runtime;
  readonly #console: ConsoleReport;
  readonly #admission: Admission<V>;
  readonly #cluster: Cluster<V, C>;
  readonly #claims: UserClaims | undefined;
  readonly #maxMessageBytes: number;
  readonly #closeTimeoutMs: number;
  readonly #heartbeat: Disposable;
  readonly #engine: Disposable | undefined;
  readonly #services: Disposable | undefined;
  readonly #metrics: MetricsEndpoint | undefined;
  readonly #moq: MoqServer | undefined;
  readonly #unreadStreams: UnreadStreams;
  #listening: Listening | undefined;
  #closing: Promise<void> | undefined;
  /** Stops listening to the signal that closes the server. */
  #letGo: (() => void) | undefined;

  /**
   * Creates a server that does not listen: pass requests to `fetch`.
   *
   * @param options Options of the server.
   * @throws {TypeError} If a key of the options is unknown, or an option is invalid.
   * @throws {RangeError} If a number is out of range.
   */
  constructor(options: ServerOptions<V, C> = {}) {
    checkServerOptions("create server", options, { keys: SERVER_KEYS, limits: LIMIT_KEYS });
    const { contract, authorize, limits = {}, rooms = [], broker } = options;
    const runtime = this.#runtime = options.runtime ?? platformRuntime();
    this.#console = new ConsoleReport(runtime);
    const turn = new Turn(runtime);
    const settings = sessionSettings<V, C, "server">({
      ...options.session,
      ...pickHandlers(options),
      runtime,
      side: "server",
      contract,
      turn,
      console: this.#console,
      services: clientServices({
        runtime,
        authorize: authorize as Authorize | undefined,
        onRenewed: options.onRenewed as RenewedHandler | undefined,
        namesPublishers: options.namesPublishers ?? false,
        contract,
        roomPatterns: Array.isArray(rooms) ? rooms : Object.keys(rooms),
        sequences: sequenceStore({
          runtime,
          broker: () => this.topics.broker,
          isShared: broker !== undefined,
          windowMs: options.dedupeWindowMs,
        }),
        console: this.#console,
        isSilent: options.onError !== undefined,
        hasHistory: Object.keys(options.history ?? {}).length > 0,
        parts: () => ({
          admission: this.#admission as Admission<unknown>,
          cluster: this.#cluster,
          manager: this.manager,
          presence: this.presence,
          rooms: this.rooms,
          topics: this.topics,
        }),
      }),
    });
    instrument(settings, options.instrumentation);
    this.#maxMessageBytes = settings.maxMessageBytes;
    this.#closeTimeoutMs = settings.closeTimeoutMs;
    this.#heartbeat = settings.heartbeat;
    this.#services = settings.services;
    const { maxTopicsPerSession, unreadStreams, ...managerLimits } = limits;
    this.#unreadStreams = new UnreadStreams(unreadStreams);
    const { perSession } = options.rates ?? {};
    const subscriptions = perSession?.subscriptions ?? defaultSubscriptions(maxTopicsPerSession);
    const rates = {
      shared: sharedCounts(broker),
      ...options.rates,
      perSession: { ...perSession, subscriptions },
    };
    this.manager = new SessionManager({
      ...managerLimits,
      runtime,
      rates,
      unreadStreams: this.#unreadStreams,
    });
    this.topics = new Topics({
      settings,
      maxMessageBytes: settings.maxMessageBytes,
      ...(broker === undefined ? {} : { broker }),
      ...(options.history === undefined ? {} : { history: options.history }),
      ...(maxTopicsPerSession === undefined ? {} : { maxTopicsPerSession }),
    });
    const { manager } = this;
    const { metrics = false } = options;
    if (metrics !== false) {
      const { maxSessions } = limits;
      const endpoint = metrics === true ? {} : metrics;
      this.#metrics = new MetricsEndpoint(endpoint, { server: this, maxSessions });
    }
    this.#admission = new Admission(options, settings, {
      manager,
      claim: (user) => this.#claims?.claim(user),
      console: this.#console,
    });
    const { presenceGraceMs: graceMs, presenceSharesOnline: sharesOnline = true } = options;
    const { nodes, presence, rooms: joined } = makePresence({
      topics: this.topics,
      isShared: broker !== undefined,
      node: options.node,
      presence: { sharesOnline, ...(graceMs === undefined ? {} : { graceMs }) },
      rooms,
    });
    this.nodes = nodes;
    this.presence = presence;
    this.rooms = joined;
    this.#cluster = new Cluster({ nodes, manager });
    this.#claims = userClaims(runtime, nodes, limits);
    this.#moq = options.moq;
    this.#engine = broker && reportEngine(runtime, broker, this.#console);
  }

  /** The MoQ server on the same ports, if there is one. */
  get moq(): MoqServer | undefined {
    return this.#moq;
  }

  /** Address on which the server listens; `undefined` if mounted in another server. */
  get address(): Deno.NetAddr | undefined {
    return this.#listening?.address;
  }

  /** The URL at which a client on this machine connects; empty if the server does not listen. */
  get url(): string {
    return this.#listening?.url ?? "";
  }

  /**
   * The URL of WebTransport, with the protocol if the engine is `builtin`; empty if WebTransport is
   * off.
   */
  get webTransportUrl(): string {
    return this.#listening?.webTransport?.url ?? "";
  }

  /** Counters of WebTransport, also part of the metrics; `undefined` if WebTransport is off. */
  get webTransportStats(): WebTransportStats | undefined {
    return this.#listening?.stats;
  }

  /**
   * Hashes by which clients can trust the certificate of WebTransport without an authority: for
   * `serverCertificateHashes`. Empty for a certificate that browsers do not accept by hash, valid
   * for more than two weeks or with an RSA key.
   */
  get certificateHashes(): readonly Sha256Hash[] {
    return this.#listening?.webTransport?.hashes ?? [];
  }

  /**
   * Answers an HTTP request: a WebSocket upgrade becomes a session. Mounts in `Deno.serve`, Hono,
   * oak and any other server that passes the `Request` on.
   *
   * @param request The request.
   * @param info Facts about the request; the address counts for the limits.
   * @returns The response, which MUST be returned to the HTTP server unchanged.
   */
  readonly fetch = (request: Request, info: RequestInfo = {}): Response | Promise<Response> =>
    this.#metrics?.answer(request, info) ??
      (this.#moq?.wants(request) ? this.#moq : this.#admission).fetch(request, info);

  /**
   * Publishes to all subscribers of a topic, on every node. Does not wait for delivery.
   *
   * @param topic The topic.
   * @param data The data.
   * @param options A session to leave out, and the publishing user.
   * @throws {TypeError} If JSON cannot hold the data, or the topic or `from` is invalid.
   * @throws {RangeError} If the message is too large.
   */
  publish<T extends SendTopic<C, "server">>(
    topic: T,
    data?: SendData<C, "server", T>,
    options: { readonly except?: Session<V, C, "server">; readonly from?: string } = {},
  ): void {
    const { except, from } = options;
    this.topics.publish(topic, data, { except: except as Session | undefined, from });
  }

  /**
   * Subscribes a session to a topic. Idempotent; a closed session is ignored. The topic is literal:
   * `chat:*` is one topic, not a pattern.
   *
   * @param session One of this server's sessions.
   * @param topic The topic.
   * @param options Start of the subscription, on a topic with a history: by default now.
   * @returns `true` if this call subscribed the session, `false` if it was subscribed before or is
   * closed.
   */
  subscribe(
    session: Session<V, C, "server">,
    topic: string,
    options: SubscribeOptions = {},
  ): boolean {
    tellLiteral(this.#console, topic);
    return this.topics.subscribe(session as Session, topic, options);
  }

  /**
   * Ends the subscription of a session, whether requested by the client or the application. If the
   * topic is a room, the session leaves the room. Idempotent. The client's subscription ends with a
   * `RequestError` of the code; a plain page gets no notice.
   *
   * @example Removing a member
   * ```ts
   * import { connect, RequestError, serve } from "@skein/skein";
   * import { assertEquals, assertRejects } from "@std/assert";
   *
   * await using server = serve({ port: 0, onListen() {}, authorize: () => true });
   * await using client = connect(server.url);
   * const chat = client.subscribe("chat");
   * await chat.ready;
   * for (const session of server.topics.subscribers("chat")) {
   *   server.unsubscribe(session, "chat", { code: "banned", reason: "Be kind" });
   * }
   * const error = await assertRejects(() => Array.fromAsync(chat), RequestError, "Be kind");
   * assertEquals(error.failure.code, "banned");
   * ```
   *
   * @param session One of this server's sessions.
   * @param topic The topic.
   * @param options Code and reason for the client; the default code is `removed`.
   * @returns `true` if the session was subscribed.
   * @throws {TypeError} If the code is not a text of 1 to 64 characters.
   */
  unsubscribe(
    session: Session<V, C, "server">,
    topic: string,
    options: UnsubscribeOptions = {},
  ): boolean {
    const { code, reason } = options;
    return this.topics.unsubscribe(session as Session, topic, {
      ...(code !== undefined && { code }),
      ...(reason !== undefined && { reason }),
    });
  }

  /**
   * Addresses all sessions of a user, on every node. A session without a user is addressed by its
   * id, on its own node only.
   *
   * @param user The user, as returned by `userOf`.
   * @returns A sender to these sessions.
   */
  to(user: string): UserSender<C> {
    return {
      send: (topic, data) => {
        const message = encodeMessage(topic, data, { maxBytes: this.#maxMessageBytes });
        return this.#cluster.send(user, message);
      },
    };
  }

  /**
   * Lists the sessions of a user, on every node that answers within two seconds.
   * `manager.sessionsOf(user)` lists those of this node immediately.
   *
   * @param user The user, as returned by `userOf`.
   * @returns The sessions, this node's first; at most 1,000 of each other node.
   */
  sessions(user: string): Promise<SessionInfo<V, C>[]> {
    return this.#cluster.sessions(user);
  }

  /**
   * Closes all sessions of a user, on every node.
   *
   * @param user The user, as returned by `userOf`.
   * @param options Close code and reason.
   * @returns Number of closed sessions, and whether all nodes confirmed within ten seconds.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  disconnect(user: string, options: SessionCloseOptions = {}): Promise<DisconnectReport> {
    return this.#cluster.disconnect(user, options);
  }

  /**
   * Drains the server: refuses new sessions, asks every peer to come back at a time spread over the
   * given period, waits for sessions to finish, closes the rest, and stops listening.
   *
   * @param options The time, and the message to peers.
   * @returns Number of sessions that closed by themselves, and of those that were closed.
   */
  async drain(options: DrainOptions = {}): Promise<DrainReport> {
    const connections = this.manager.all().map(({ connection }) => connection);
    this.#listening?.stop();
    // Raw sessions have no envelopes: the wire carries the request to leave.
    for (const connection of connections) connection.drain?.();
    const [report] = await Promise.all([
      this.manager.drain(options),
      this.#moq?.drain(options.withinMs === undefined ? {} : { timeoutMs: options.withinMs }),
    ]);
    // Sessions that were closed are over here, but the close has yet to reach their peers.
    const told = Promise.allSettled(connections.map(({ closed }) => closed));
    await settlesWithin(this.#runtime, told, FAREWELL_MS);
    await this.close();
    return report;
  }

  /**
   * Closes all sessions and stops listening. Idempotent.
   *
   * @param options Close code and reason for the peers.
   */
  close(options: SessionCloseOptions = {}): Promise<void> {
    return this.#closing ??= this.#close(options);
  }

  /** Closes the server; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Sets the certificate of new WebTransport clients; open sessions stay. WebSocket keeps its
   * certificate until a restart, because the runtime's HTTP server cannot change certificates. The
   * server renews a development certificate by itself.
   *
   * @param certificate The certificate and its key, in PEM.
   * @throws {TypeError} If WebTransport is off, or the certificate is invalid.
   */
  rotateCertificate(certificate: Certificate): void {
    if (this.#listening === undefined) {
      throw new TypeError("Cannot rotate certificate: the server must listen");
    }
    this.#listening.rotate(certificate);
  }

  /** Creates a listening server; called by {@linkcode serve}. */
  static listen<V, C extends AnyContract>(options: ServeOptions<V, C>): Server<V, C> {
    checkServerOptions("serve", options, { keys: SERVE_KEYS, limits: LIMIT_KEYS });
    const {
      port = 8000,
      hostname = "0.0.0.0",
      tls,
      webTransport,
      onListen,
      signal,
      webSocket,
      reusePort = false,
      ...serverOptions
    } = options;
    signal?.throwIfAborted();
    if (reusePort && webSocket !== undefined) {
      throw new TypeError("Cannot serve: reusePort must be false with a webSocket, received true");
    }
    checkBuiltinEngine(options);
    // An invalid certificate must not lead to a server without TLS.
    if (tls !== undefined) checkCertificate(tls, "serve: tls");
    const server = new Server(
      webSocket === undefined
        ? serverOptions
        : { webSocketEngine: webSocket.accept, ...serverOptions },
    );
    const { origins, hosts } = options;
    try {
      server.#listening = new Listening({
        runtime: server.#runtime,
        port,
        hostname,
        tls,
        webTransport,
        webSocket,
        reusePort,
        connectionLimits: {
          ...connectionLimits(options.limits),
          flowControl: options.flowControl,
          unreadStreams: server.#unreadStreams,
        },
        quic: quicOf(options.moq),
        onListen,
        ...(origins === undefined ? {} : { origins }),
        ...(hosts === undefined ? {} : { hosts }),
      }, {
        fetch: server.fetch,
        take: (request, place) =>
          server.#moq?.wants(request)
            ? server.#moq.take(request)
            : server.#admission.take(request, place),
      });
      server.#moq?.attach(hostOf(server.#listening, tls === undefined, webSocket?.accept));
      server.#listening.announce();
    } catch (error) {
      void server.close();
      throw error;
    }
    if (signal !== undefined) server.#closeBy(signal);
    return server;
  }

  /** Closes the server when a signal aborts; a signal that outlives the server does not keep it. */
  #closeBy(signal: AbortSignal): void {
    const onAbort = () => void this.close();
    signal.addEventListener("abort", onAbort, { once: true });
    this.#letGo = () => signal.removeEventListener("abort", onAbort);
  }

  async #close(options: SessionCloseOptions): Promise<void> {
    this.#letGo?.();
    this.#listening?.stop();
    await Promise.all([
      this.manager.shutdown(options),
      this.#admission.close(options),
      this.#moq?.close(),
    ]);
    this.#heartbeat[Symbol.dispose]();
    this.#engine?.[Symbol.dispose]();
    this.#services?.[Symbol.dispose]();
    this.rooms[Symbol.dispose]();
    this.presence[Symbol.dispose]();
    this.#cluster.close();
    await this.#claims?.close();
    await this.nodes?.close();
    await this.topics[Symbol.asyncDispose]();
    // The runtime never gives up on a peer that vanished in its handshake; stop waiting.
    await settlesWithin(
      this.#runtime,
      this.#listening?.close() ?? Promise.resolve(),
      this.#closeTimeoutMs,
    );
  }
}

/** Known keys of {@linkcode ServerLimits}. */
const LIMIT_KEYS: OptionKeys<ServerLimits> = {
  cleanupIntervalMs: true,
  maxSessions: true,
  maxSessionsPerAddress: true,
  maxSessionsPerUser: true,
  maxTopicsPerSession: true,
  unreadStreams: true,
};

/** Known keys of {@linkcode ServerOptions}. */
const SERVER_KEYS: OptionKeys<ServerOptions> = {
  acceptsTokenInBand: true,
  authenticate: true,
  authenticateTimeoutMs: true,
  authorize: true,
  broker: true,
  clientAddress: true,
  contract: true,
  dedupeWindowMs: true,
  expiresAt: true,
  fetch: true,
  flowControl: true,
  history: true,
  hosts: true,
  instrumentation: true,
  keepsHeaders: true,
  limits: true,
  metrics: true,
  moq: true,
  namesPublishers: true,
  node: true,
  onClose: true,
  onError: true,
  onHandlerError: true,
  onMessage: true,
  onOpen: true,
  onRefusal: true,
  onRefused: true,
  onRenewed: true,
  onStream: true,
  origins: true,
  path: true,
  presenceGraceMs: true,
  presenceSharesOnline: true,
  rates: true,
  rooms: true,
  runtime: true,
  session: true,
  userOf: true,
  webSocketEngine: true,
};

/** Known keys of {@linkcode ServeOptions}. */
const SERVE_KEYS: OptionKeys<ServeOptions> = {
  ...SERVER_KEYS,
  hostname: true,
  onListen: true,
  port: true,
  reusePort: true,
  signal: true,
  tls: true,
  webSocket: true,
  webTransport: true,
};

/** Returns the limits of connections, equal to those of sockets. */
function connectionLimits(
  {
    maxSessions = DEFAULT_MAX_SESSIONS,
    maxSessionsPerAddress = DEFAULT_MAX_SESSIONS_PER_ADDRESS,
  }: ServerLimits = {},
): ConnectionLimits {
  const perAddress = Math.min(maxSessions, maxSessionsPerAddress);
  return {
    maxConnections: maxSessions * SOCKETS_PER_SESSION,
    maxConnectionsPerAddress: perAddress * SOCKETS_PER_SESSION,
  };
}

/** Returns the counter of user sessions on all nodes, if other nodes and a limit are possible. */
function userClaims(
  runtime: Runtime,
  nodes: Nodes | undefined,
  { maxSessionsPerUser: max = DEFAULT_MAX_SESSIONS_PER_USER }: ServerLimits,
): UserClaims | undefined {
  const store = nodes?.broker.store;
  if (nodes === undefined || store === undefined || max === Infinity) return undefined;
  return new UserClaims({ runtime, store, nodes, max });
}

/** Returns counters shared by the nodes of a broker, if the engine supports counting. */
function sharedCounts(broker: Broker | undefined): SharedCounts | undefined {
  const store = broker?.store;
  if (store?.take === undefined) return undefined;
  return { take: (key, amount, rate) => store.take!(key, amount, rate) };
}

/** Longest wait for closes to reach their peers, in milliseconds. */
const FAREWELL_MS = 500;

/**
 * Creates a server that does not listen, to be mounted in an existing HTTP server.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 * @param options Options of the server.
 * @returns The server; pass requests to `fetch`.
 * @throws {TypeError} If a key of the options is unknown, or an option is invalid.
 * @throws {RangeError} If a number is out of range.
 *
 * @example Mounted in `Deno.serve`
 * ```ts
 * import { createServer, dial } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = createServer({
 *   onMessage: (message) => message.reply("pong"),
 * });
 * await using http = Deno.serve({ port: 0, onListen() {} }, server.fetch);
 * await using session = await dial(`ws://localhost:${http.addr.port}`);
 * assertEquals(await session.request("ping"), "pong");
 * ```
 */
export function createServer<V = unknown, C extends AnyContract = AnyContract>(
  options: ServerOptions<V, C> = {},
): Server<V, C> {
  return new Server(options);
}

/**
 * Serves sessions.
 *
 * A handler that uses the returned server needs a body in braces:
 * `onMessage: (message) => { server.publish("news", message.data); }`. The type of a bare
 * expression would depend on the type of the server, which TypeScript refuses.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 * @param options Where to listen, and the options of the server.
 * @returns The server, listening.
 * @throws {TypeError} If a key of the options is unknown, if `tls` is not a certificate and its key
 * in PEM, if `reusePort` is combined with `webSocket`, or if an option needs a feature that the
 * engine of `webTransport` lacks.
 *
 * @example Authenticated, with a direct message
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authenticate: ({ token }) => token === "s3cret" ? "ann" : Promise.reject(),
 *   onMessage: (_message, session) => void server.to(session.value).send("hello", session.value),
 * });
 * await using session = await dial(`${server.url}?token=s3cret`);
 * session.send("hi");
 * for await (const message of session) {
 *   assertEquals(message.data, "ann");
 *   break;
 * }
 * ```
 */
export function serve<V = unknown, C extends AnyContract = AnyContract>(
  options: ServeOptions<V, C> = {},
): Server<V, C> {
  return Server.listen(options);
}

function pickHandlers<V, C extends AnyContract>(
  options: ServerOptions<V, C>,
): SessionHandlers<V, C, "server"> {
  const { onMessage, onClose, onError, onHandlerError, onRefused } = options;
  const onOpen = openHandler(options);
  return {
    ...(onOpen === undefined ? {} : { onOpen }),
    ...(onMessage === undefined ? {} : { onMessage }),
    ...(onClose === undefined ? {} : { onClose }),
    ...(onError === undefined ? {} : { onError }),
    ...(onHandlerError === undefined ? {} : { onHandlerError }),
    ...(onRefused === undefined ? {} : { onRefused }),
  };
}

/** Reads streams from the start of a session, before `onOpen` is done. */
function openHandler<V, C extends AnyContract>(
  { onOpen, onStream }: ServerOptions<V, C>,
): ServerOptions<V, C>["onOpen"] {
  if (onStream === undefined) return onOpen;
  return (session) => {
    void handleStreams(session as Session, onStream as StreamHandler);
    return onOpen?.(session);
  };
}

/** Handles one stream. */
type StreamHandler = (stream: IncomingStream, session: Session) => void | Promise<void>;

/**
 * Takes the streams of a session until its end, without waiting for handlers. The number of
 * handlers at once is bounded by the streams that the peer may have open.
 *
 * @param session The session.
 * @param handle Handler of each stream. An error ends the stream with code 4500 and is reported to
 * `onError`.
 */
async function handleStreams(session: Session, handle: StreamHandler): Promise<void> {
  const { settings } = session[internals];
  try {
    for await (const stream of session.incomingStreams()) {
      handleStream(session, stream, handle).catch((error) => {
        report(settings, error, session);
        end(stream);
      });
    }
  } catch (error) {
    report(settings, error, session);
  }
}

async function handleStream(
  session: Session,
  stream: IncomingStream,
  handle: StreamHandler,
): Promise<void> {
  await handle(stream, session);
}

/** Ends the rest of a stream, so that the peer does not wait. */
function end(stream: IncomingStream): void {
  const reason = { streamErrorCode: CloseCode.handlerFailed };
  try {
    if (stream.direction === "unidirectional") {
      directReadable(stream.readable).cancel(reason);
    } else {
      const direct = directStream(stream);
      direct.cancel(reason);
      direct.abort(reason);
    }
  } catch {
    // The handler holds a lock, which ends with the session at the latest.
  }
}
