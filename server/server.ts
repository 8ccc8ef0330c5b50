/**
 * The server: sessions, topics, presence and rooms behind one `serve()`. All modules meet here.
 *
 * @module
 */
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
import { sequenceStore } from "./sequence_store.ts";
import { UserClaims } from "./user_limit.ts";
import { handleStreams, type StreamHandler } from "./stream_handler.ts";
import { reportEngine } from "./engine_report.ts";
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
import { instrument } from "../session/insight/instrument.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import type { OptionKeys } from "../session/base/option_keys.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import type { SessionLimits } from "../session/settings.ts";
import { Turn } from "../session/queue/turn.ts";
import { settlesWithin } from "../session/base/wait.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";
import { type UnreadStreamLimits, UnreadStreams } from "../transport/quic/unread_streams.ts";
import type { WebSocketHost } from "../transport/websocket/server.ts";
import { type Certificate, checkCertificate } from "../transport/h3/server.ts";
import type { UnsubscribeOptions } from "../pubsub/topics.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import { type SessionHandlers, sessionSettings } from "../session/session_settings.ts";

/**
 * Limits of a server, beside those of each session.
 *
 * A peer that does not answer a close leaves its socket with the runtime, so
 * sockets are bounded too: to twice the sessions, in all and by address. Beyond
 * that a request is answered with 429 and not upgraded. WebTransport
 * connections have the same bounds, of their own; beyond, the handshake fails.
 */
export interface ServerLimits {
  /**
   * Sessions at once.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /** Sessions of one user at once; see `SessionManager` for the default. */
  readonly maxSessionsPerUser?: number;
  /** Sessions of one network address at once (an IPv6 /64 counts as one); see `SessionManager` for the default. */
  readonly maxSessionsPerAddress?: number;
  /**
   * Topics that one session may subscribe to.
   *
   * @default {128}
   */
  readonly maxTopicsPerSession?: number;
  /**
   * Streams over WebTransport and QUIC that clients open and that no handler or loop reads. By default
   * one is refused 5 s after it came, one address takes at most 80 MB and all take at most 640 MB.
   */
  readonly unreadStreams?: UnreadStreamLimits;
  /**
   * How often closed sessions are looked for, in milliseconds: a safety net, since they leave by themselves.
   *
   * @default {60000}
   */
  readonly cleanupIntervalMs?: number;
}

/**
 * Options for {@linkcode createServer}.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 */
export interface ServerOptions<V = unknown, C extends AnyContract = AnyContract>
  extends AdmissionOptions<V>, Omit<SessionHandlers<V, C, "server">, "onGoAway" | "onDropped"> {
  /** Topics and their schemas; messages that do not fit are refused. */
  readonly contract?: C;
  /**
   * Gets each stream that a client opens, while others go on. What it throws ends that stream with
   * code 4500 and is told to `onError`; the session lives. Without it, take them from
   * `session.incomingStreams()`. Over QUIC a session that closes ends its streams like a clean end: data that
   * has to be whole tells its length, or its end.
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
   * Decides whether a client may subscribe or publish by itself. Everything is denied without it. A
   * {@linkcode Permission} in place of `true` says how.
   */
  readonly authorize?: (
    session: Session<V, C, "server">,
    topic: string,
    action: AuthorizedAction,
  ) => boolean | Permission | Promise<boolean | Permission>;
  /**
   * Has publications of clients carry `from`: the user that `userOf` returned. The answer of
   * `authorize` to one publication goes first. A client without a user has no `from`.
   *
   * @example A chat whose lines have names that nobody can forge
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
   * Called when a client has renewed its token: `session.value` is the new one already, `before` what
   * it was. At the same time `authorize` is asked again for every topic that the client subscribed to,
   * and takes it off what it denies now; topics of `server.subscribe` stay. What this throws is told
   * to `onError`, and the session goes on.
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
   * addresses hold on all nodes together if the `store` of the broker can count, and by node if
   * `shared` is `undefined`.
   */
  readonly rates?: RateLimitsOptions;
  /** Limits and times of each session. */
  readonly session?: SessionLimits;
  /**
   * Patterns of topics that are rooms, such as `room:{name}`: a client that subscribes to one joins
   * it. As an object it says how the rooms of each pattern tell who is in them.
   *
   * @default {[]}
   */
  readonly rooms?: RoomPatterns;
  /**
   * Topics that keep what was published, by pattern, each with what is kept of one topic: 1,000
   * publications, five minutes and 1 MiB by default. A client that comes back gets what it missed,
   * or is told why not; one that comes late can ask for the newest. The same on every node.
   *
   * @example What was said before
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
   * How long a user who left may take to come back unnoticed, in milliseconds.
   *
   * @default {5000}
   */
  readonly presenceGraceMs?: number;
  /**
   * Whether this node knows who is online on all nodes, at some 200 bytes for each user; without it
   * `presence.online()`, `isOnline()` and `lastSeenAt()` are about its own. Rooms are shared in any case.
   *
   * @default {true}
   */
  readonly presenceSharesOnline?: boolean;
  /** Watches handshakes, sessions and messages from outside, for traces and metrics; nobody by default. */
  readonly instrumentation?: Instrumentation;
  /**
   * Answers `/metrics` with the text that Prometheus reads and `/healthz` with how the server is,
   * to programs on this machine; an object says where, and to whom.
   *
   * @default {false}
   */
  readonly metrics?: boolean | MetricsOptions;
  /** Carries publications between servers; within this process by default. It is not closed by the server. */
  readonly broker?: Broker;
  /** Name of this node among those of the broker, and its heartbeat; says nothing without a `broker`. */
  readonly node?: NodeOptions;
  /**
   * How long it is remembered what was handled of a client with `delivery: "at-least-once"`, in
   * milliseconds after its last message: what it sends again later than that is handled again.
   *
   * @default {300000}
   */
  readonly dedupeWindowMs?: number;
  /**
   * Serves Media over QUIC on the same ports. It gets who offers one of its protocols, and who asks
   * for its path, with its own rules, limits and sessions; over raw QUIC it gets everybody. It is
   * drained and closed with this server. Over UDP a client may have 128 bidirectional streams open,
   * which are its subscriptions, unless `maxStreams` of `webTransport` says more.
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
}

/** Options for {@linkcode serve}. */
export interface ServeOptions<V = unknown, C extends AnyContract = AnyContract>
  extends ServerOptions<V, C> {
  /**
   * Port to listen on; 0 takes a free one.
   *
   * @default {8000}
   */
  readonly port?: number;
  /**
   * Address to listen on.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string;
  /** Certificate and key in PEM, for `wss:` and WebTransport. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /**
   * Whether, and how, sessions are served over WebTransport too: on UDP, by
   * default on the same port number.
   *
   * - `true` offers it where that is possible; where it is not, one line says
   *   why, and WebSocket is served alone. Deno has QUIC with `--unstable-net`.
   * - An object offers it, and `serve()` throws where it cannot.
   * - A UDP port that is taken, such as by a predecessor that drains, is tried again in either case
   *   for as long as the server lives; `onListen` and `webTransportStats` tell.
   * - With `tls` it has the same certificate. Without, this is development: a
   *   short-lived certificate that clients trust by its hash, on this machine only.
   *
   * @default {true}
   */
  readonly webTransport?: boolean | WebTransportServeOptions;
  /**
   * What listens on TCP, and upgrades, in place of the runtime's own server: `hardenedWebSocket()`
   * of `@skein/skein/ws`, for a server that faces the internet without a proxy.
   */
  readonly webSocket?: WebSocketHost;
  /**
   * Whether other processes may listen on the same TCP port: the kernel then hands each new
   * connection to one of them. Deno has it on Linux with `--unstable-net`. UDP is not shared:
   * WebTransport is served by the process that is first, so turn it off, or give each its own
   * `port`. Not with `webSocket`.
   *
   * @default {false}
   */
  readonly reusePort?: boolean;
  /**
   * Called once the server listens, with what is known of WebTransport, and again where its UDP port
   * was taken and came free; prints the addresses by default, and why WebTransport is off.
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
   * @returns How many sessions of this node got it; how many others did is not known here.
   */
  send<T extends SendTopic<C, "server">>(topic: T, data?: SendData<C, "server", T>): number;
}

/**
 * A server of sessions, whether it listens by itself or is mounted in another.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 */
export class Server<V = unknown, C extends AnyContract = AnyContract> implements AsyncDisposable {
  /** Who is subscribed to what, on this node. */
  readonly topics: Topics;
  /** Who is there. */
  readonly presence: Presence;
  /** Topics with presence. */
  readonly rooms: Rooms;
  /** All sessions of this node. */
  readonly manager: SessionManager;
  /** The nodes of the broker; `undefined` if none was handed in. */
  readonly nodes: Nodes | undefined;

  readonly #console = new ConsoleReport();
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

  /**
   * Creates a server that does not listen: hand requests to `fetch`.
   *
   * @param options See {@linkcode ServerOptions}.
   * @throws {TypeError} If a key of the options is unknown, or one makes no sense.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(options: ServerOptions<V, C> = {}) {
    checkServerOptions("create server", options, { keys: SERVER_KEYS, limits: LIMIT_KEYS });
    const { contract, authorize, limits = {}, rooms = [], broker } = options;
    const turn = new Turn();
    const settings = sessionSettings<V, C, "server">({
      ...options.session,
      ...pickHandlers(options),
      side: "server",
      contract,
      turn,
      console: this.#console,
      services: clientServices({
        authorize: authorize as Authorize | undefined,
        onRenewed: options.onRenewed as RenewedHandler | undefined,
        namesPublishers: options.namesPublishers ?? false,
        contract,
        roomPatterns: Array.isArray(rooms) ? rooms : Object.keys(rooms),
        sequences: sequenceStore({
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
      rates,
      unreadStreams: this.#unreadStreams,
    });
    this.topics = new Topics({
      turn,
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
    this.#claims = userClaims(nodes, limits);
    this.#moq = options.moq;
    this.#engine = broker && reportEngine(broker, this.#console);
  }

  /** What serves Media over QUIC on the same ports, if anything does. */
  get moq(): MoqServer | undefined {
    return this.#moq;
  }

  /** Where the server listens; `undefined` if it is mounted in another one. */
  get address(): Deno.NetAddr | undefined {
    return this.#listening?.address;
  }

  /** The URL at which a client on this machine connects; empty if the server does not listen. */
  get url(): string {
    return this.#listening?.url ?? "";
  }

  /** The same for WebTransport, with the protocol where the engine is `builtin`; empty if it is off. */
  get webTransportUrl(): string {
    return this.#listening?.webTransport?.url ?? "";
  }

  /** Counters of WebTransport, which the metrics have too; `undefined` if it is off. */
  get webTransportStats(): WebTransportStats | undefined {
    return this.#listening?.stats;
  }

  /**
   * By which clients can trust the certificate of WebTransport without an
   * authority: for `serverCertificateHashes`. Empty for a certificate that
   * browsers do not take so, with more than two weeks or an RSA key.
   */
  get certificateHashes(): readonly Sha256Hash[] {
    return this.#listening?.webTransport?.hashes ?? [];
  }

  /**
   * Answers an HTTP request: a WebSocket upgrade becomes a session. Mounts in
   * `Deno.serve`, Hono, oak and whatever else has the request.
   *
   * @param request The request.
   * @param info What the HTTP server knows of it; its address is for the limits.
   * @returns The response, which MUST be returned to the HTTP server as it is.
   */
  readonly fetch = (request: Request, info: RequestInfo = {}): Response | Promise<Response> =>
    this.#metrics?.answer(request, info) ??
      (this.#moq?.wants(request) ? this.#moq : this.#admission).fetch(request, info);

  /**
   * Publishes to all subscribers of a topic, on every node. Does not wait for anybody.
   *
   * @param topic The topic.
   * @param data The data.
   * @param options A session whose client does not get it, and the user who publishes.
   * @throws {TypeError} If JSON cannot hold the data, the topic is no topic, or `from` no user.
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
   * Subscribes a session to a topic. Idempotent; a closed session is left out. The topic is taken
   * literally: `chat:*` is one topic, and no pattern.
   *
   * @param session One of this server's sessions.
   * @param topic The topic.
   * @param options Where it begins, on a topic with a history: now by default.
   * @returns Whether the session was not subscribed before, and is now.
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
   * Takes a session off a topic, and out of the room where the topic is one, however it came there.
   * Idempotent. The client's subscription ends with a `RequestError` of the code; a plain page is
   * told nothing.
   *
   * @example A member who is removed
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
   * @param options What the client is told: by default that it was `removed`.
   * @returns Whether the session was subscribed.
   * @throws {TypeError} If the code is no text of 1 to 64 characters.
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
   * Addresses a user: all sessions that it has, on every node. A session without a user is found by
   * its id, on its own node.
   *
   * @param user What `userOf` returned.
   * @returns What sends to them.
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
   * Lists the sessions of a user, on every node that answers within two seconds. Those of this node
   * are in `manager.sessionsOf(user)`, at once.
   *
   * @param user What `userOf` returned.
   * @returns The sessions, this node's first; at most 1,000 of each other node.
   */
  sessions(user: string): Promise<SessionInfo<V, C>[]> {
    return this.#cluster.sessions(user);
  }

  /**
   * Closes all sessions of a user, on every node.
   *
   * @param user What `userOf` returned.
   * @param options Close code and reason.
   * @returns How many sessions were closed, and whether all nodes said so within ten seconds.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  disconnect(user: string, options: SessionCloseOptions = {}): Promise<DisconnectReport> {
    return this.#cluster.disconnect(user, options);
  }

  /**
   * Winds up: refuses new sessions, tells every peer when to come back, spread
   * over the time given, lets them finish, closes them, and stops listening.
   *
   * @param options The time, and what peers are told.
   * @returns How many sessions closed by themselves, and how many were cut off.
   */
  async drain(options: DrainOptions = {}): Promise<DrainReport> {
    const connections = this.manager.all().map(({ connection }) => connection);
    this.#listening?.stop();
    // Raw sessions have no envelopes; the wire tells them.
    for (const connection of connections) connection.drain?.();
    const [report] = await Promise.all([
      this.manager.drain(options),
      this.#moq?.drain(options.withinMs === undefined ? {} : { timeoutMs: options.withinMs }),
    ]);
    // Those that were cut are over here, but their peers have yet to be told why.
    const told = Promise.allSettled(connections.map(({ closed }) => closed));
    await settlesWithin(told, FAREWELL_MS);
    await this.close();
    return report;
  }

  /**
   * Closes all sessions and stops listening. Idempotent.
   *
   * @param options Close code and reason told to the peers.
   */
  close(options: SessionCloseOptions = {}): Promise<void> {
    return this.#closing ??= this.#close(options);
  }

  /** Closes the server; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Has new WebTransport clients get another certificate; sessions stay.
   * WebSocket keeps the one it has until the server is started again, since the
   * runtime's HTTP server cannot change it. The development certificate is
   * renewed by the server itself.
   *
   * @param certificate The certificate and its key, in PEM.
   * @throws {TypeError} If WebTransport is off, or they make no sense.
   */
  rotateCertificate(certificate: Certificate): void {
    if (this.#listening === undefined) {
      throw new TypeError("Cannot rotate certificate: the server must listen");
    }
    this.#listening.rotate(certificate);
  }

  /** Listens; called by {@linkcode serve}. */
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
    // What is meant as a certificate and is none must not be served in the clear.
    if (tls !== undefined) checkCertificate(tls, "serve: tls");
    const server = new Server(
      webSocket === undefined
        ? serverOptions
        : { webSocketEngine: webSocket.accept, ...serverOptions },
    );
    const { origins, hosts } = options;
    try {
      server.#listening = new Listening({
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
    signal?.addEventListener("abort", () => void server.close(), { once: true });
    return server;
  }

  async #close(options: SessionCloseOptions): Promise<void> {
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
    // The runtime waits for ever for a peer that vanished in its handshake; this does not.
    await settlesWithin(this.#listening?.close() ?? Promise.resolve(), this.#closeTimeoutMs);
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

/** As many connections as there may be sockets. */
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

/** What counts the sessions of users on all nodes, if there can be others and a limit. */
function userClaims(
  nodes: Nodes | undefined,
  { maxSessionsPerUser: max = DEFAULT_MAX_SESSIONS_PER_USER }: ServerLimits,
): UserClaims | undefined {
  const store = nodes?.broker.store;
  if (nodes === undefined || store === undefined || max === Infinity) return undefined;
  return new UserClaims({ store, nodes, max });
}

/** What the nodes of a broker count together, if its engine can. */
function sharedCounts(broker: Broker | undefined): SharedCounts | undefined {
  const store = broker?.store;
  if (store?.take === undefined) return undefined;
  return { take: (key, amount, rate) => store.take!(key, amount, rate) };
}

/** How long peers that were cut off may take to hear of it, in milliseconds. */
const FAREWELL_MS = 500;

/**
 * Creates a server that does not listen, for those who have an HTTP server.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 * @param options See {@linkcode ServerOptions}.
 * @returns The server; hand requests to its `fetch`.
 * @throws {TypeError} If a key of the options is unknown, or one makes no sense.
 * @throws {RangeError} If a number is out of its range.
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
 * A handler that uses the server it is given to needs a body in braces:
 * `onMessage: (message) => { server.publish("news", message.data); }`. As a bare
 * expression its type would depend on the server's own, and TypeScript refuses that.
 *
 * @typeParam V What `authenticate` returns.
 * @typeParam C The contract.
 * @param options See {@linkcode ServeOptions}.
 * @returns The server, listening.
 * @throws {TypeError} If a key of the options is unknown, if `tls` is given and is not a certificate
 *   and its key in PEM, if `reusePort` stands beside `webSocket`, or if an option needs what the engine
 *   of `webTransport` does not show.
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

/** Streams are taken from the start on, not once `onOpen` is done. */
function openHandler<V, C extends AnyContract>(
  { onOpen, onStream }: ServerOptions<V, C>,
): ServerOptions<V, C>["onOpen"] {
  if (onStream === undefined) return onOpen;
  return (session) => {
    void handleStreams(session as Session, onStream as StreamHandler);
    return onOpen?.(session);
  };
}
