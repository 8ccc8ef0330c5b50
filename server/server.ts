/** The server: sessions, topics, presence and rooms behind one `serve()`. */
import { DRAIN } from "../manager/drain.ts";
import { CLOSE } from "../session/settings/call_checks.ts";
import { requireBase64 } from "../base/platform.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import type { Admission } from "./admission/admission.ts";
import { checkAdmissionOptions } from "./admission/admission_options.ts";
import { peerAddress, type RequestInfo } from "../transport/address.ts";
import { type SessionInfo, Users } from "./users.ts";
import { tellLiteral, tellNoHistory } from "./requests/hints.ts";
import { KnownTopics } from "./requests/known_topics.ts";
import {
  admissionOf,
  faultReporter,
  managerOf,
  presenceOf,
  publishHookOf,
  servicesOf,
  topicsOf,
} from "./server_parts.ts";
import {
  type ConnectionLimits,
  quicOptionsOf,
  ServerListener,
  socketHost,
} from "./listener/listener.ts";
import {
  type HttpStats,
  type Measure,
  measuresOf,
  type MetricsSource,
  type ServerHealth,
  type WebTransportStats,
} from "./metrics/measures.ts";
import { checkBuiltinEngine } from "./listener/webtransport_options.ts";
import { reportBroker, reportRequest } from "./broker_services.ts";
import type { UserClaims } from "./admission/user_limit.ts";
import { checkServerOptions, type ServeOptions, type ServerOptions } from "./server_options.ts";
import { pickHandlers } from "./handlers.ts";
import { accountOf } from "./accounts.ts";
import type { AuthorizeChange } from "./requests/changes.ts";
import type { MutationOverrides } from "./requests/mutations.ts";
import type { PublishHook } from "./requests/on_publish.ts";
import { UnservedStreams } from "./requests/unserved_streams.ts";
import type { Feature, RequestHead } from "./feature.ts";
import { featureHosts } from "./feature_host.ts";
import { Features } from "./features.ts";
import type { InspectedStreams, ServerCore } from "./server_core.ts";
import type { GivingWay } from "./admission/giving_way.ts";
import type { ValueOf } from "./admission/guest.ts";
import type { ResumableHandler } from "../session/responses/request_handlers.ts";
import { RequestGate } from "./http/gate.ts";
import { HttpTransport } from "./http/http_transport.ts";
import { DRAIN_MS, type DrainOptions, type DrainReport } from "../manager/drain.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import {
  isWebSocketUpgrade,
  type OfferedUpgrade,
  type WebSocketEngine,
} from "../transport/websocket/server.ts";
import { isHost } from "../transport/url.ts";
import { DEFAULT_MAX_SESSIONS } from "../manager/limits.ts";
import { SOCKETS_PER_SESSION } from "../manager/sockets.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import { GRACE_MS, type Presence } from "../pubsub/presence/presence.ts";
import type { Rooms } from "../pubsub/presence/rooms.ts";
import {
  type PublishOptions,
  SUBSCRIBE,
  type SubscribeOptions,
  type UnsubscribeOptions,
} from "../pubsub/topic_options.ts";
import type { Topics } from "../pubsub/topics.ts";
import { ConsoleReport } from "../base/console_report.ts";
import { describe, textOf } from "../base/error_text.ts";
import type {
  ComparedByMembers,
  Contract,
  ContractData,
  ContractTopic,
} from "../session/contract.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { watchOf } from "../session/insight/watch.ts";
import type { Session } from "../session/session.ts";
import { report, type SessionSettings } from "../session/settings/settings.ts";
import { Flusher } from "../session/queue/flusher.ts";
import { pause, settlesWithin } from "../base/wait.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import { addressKey, isPrivateAddress } from "../base/network_address.ts";
import { type Account, proxyRule } from "../base/quotas/accounts.ts";
import { Quotas, type QuotaStats } from "../base/quotas/shares.ts";
import type { DevCertificate } from "../transport/certificate/dev_certificate.ts";
import { UnreadStreams } from "../transport/quic/unread_streams.ts";
import {
  type Certificate,
  checkCertificate,
  type WebTransportRequest,
} from "../transport/h3/server.ts";
import type { PageOrigin } from "./admission/webtransport_request.ts";
import type { OriginRules } from "../transport/origins.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import { compileContract } from "../session/settings/check_settings.ts";
import { settingsWith } from "../session/settings/session_settings.ts";

/**
 * A session server that listens on its own or is mounted in another server.
 *
 * A function with a parameter of type `Server` accepts every server, except one whose contract has
 * states. For that one, write `Server<unknown, typeof contract>`.
 *
 * @typeParam V Type of the values from `authenticate`, including `typeof guest`.
 * @typeParam C The contract.
 */
export class Server<V = unknown, C extends Contract = Contract> implements AsyncDisposable {
  /**
   * Lets a `Server<V, C>` be passed where a `Server` is expected. Has no value.
   *
   * @ignore
   */
  declare readonly compared?: ComparedByMembers<C>;
  /** Subscriptions of the sessions on this node. */
  readonly topics: Topics;
  /** Users and their presence. */
  readonly presence: Presence;
  /** Topics with presence. */
  readonly rooms: Rooms;
  /** All sessions of this node. */
  readonly manager: SessionManager;
  /** The nodes of the broker; `undefined` if there is no `broker` option. */
  readonly nodes: Nodes | undefined;

  readonly #runtime: Runtime;
  readonly #console: ConsoleReport;
  readonly #gate = new RequestGate();
  readonly #quotas: Quotas;
  readonly #accountOf = (session: Session): Account => accountOf(this.#quotas.accounts, session);
  /** True if the application limits addresses and reads them from sockets. */
  readonly #countsSockets: boolean;
  readonly #admission: Admission<unknown>;
  /** The application's handler for all other requests. */
  readonly #fetch: ServerOptions["fetch"];
  readonly #users: Users;
  /** The slots of users' sessions in the broker's store, if `maxSessionsPerUser` spans all nodes. */
  readonly #claims: UserClaims | undefined;
  /** Closes a user's lost sessions when a new one needs their slots. */
  readonly #givingWay: GivingWay;
  readonly #maxMessageBytes: number;
  readonly #closeTimeoutMs: number;
  readonly #heartbeat: Disposable;
  /** Prints that the broker is unreachable. */
  readonly #brokerReport: Disposable | undefined;
  /** Handles the sessions' requests, such as subscriptions. */
  readonly #services: Disposable | undefined;
  /** Decides about publications of clients, if there is the option `onPublish`. */
  readonly #publishHook: PublishHook | undefined;
  readonly #unreadStreams: UnreadStreams;
  readonly #features: Features;
  /** Origins and hosts of trusted pages. */
  readonly #origins: OriginRules;
  readonly #maxSessions: number | undefined;
  /** Sessions over HTTP; `undefined` if the option `http` is `false`. */
  readonly #httpTransport: HttpTransport | undefined;
  #listener: ServerListener | undefined;
  /** True until the hint at the hardened engine, if that engine would suit this server. */
  #suitsHardened = false;
  #closing: Promise<void> | undefined;
  /** True if the server could not be created or could not listen. */
  #hasFailed = false;
  /** Removes the listener of the signal that closes the server. */
  #removeAbortListener: (() => void) | undefined;

  /**
   * Creates a server that does not listen. Pass requests to its `fetch` method.
   *
   * @param options As for {@linkcode createServer}.
   * @param parts Parts from other modules of this library; none by default.
   * @throws {TypeError} If a key of the options is unknown, or an option is invalid.
   * @throws {RangeError} If a number is out of range.
   */
  constructor(options: ServerOptions<V, C> = {}, parts: ServerParts = {}) {
    checkServerOptions("create server", options);
    // Everything below may read the contract.
    if (options.contract !== undefined) compileContract(options.contract, "server");
    const { contract, limits = {}, rooms = [], broker } = options;
    // Only the types of the application's callbacks depend on its values and its contract.
    const plain = options as unknown as ServerOptions;
    checkAdmissionOptions(options);
    const known = new KnownTopics(contract, Array.isArray(rooms) ? rooms : Object.keys(rooms));
    const features = allFeatures(options);
    Features.check(features);
    const runtime = this.#runtime = options.runtime ?? platformRuntime();
    const quotas = this.#quotas = new Quotas(runtime, {
      isProxy: proxyRule(options.clientAddress),
      onProxy: (address) => this.#hintAtProxy(address),
    });
    this.#countsSockets = options.clientAddress === undefined &&
      (options.limits?.maxSessionsPerAddress ?? options.rates?.perAddress) !== undefined;
    const console = this.#console = new ConsoleReport(runtime);
    const settings = settingsWith<ValueOf<V>, C, "server">(
      { flusher: new Flusher(runtime), console },
      { ...options.session, ...pickHandlers(options), runtime, side: "server", contract },
    );
    this.#maxMessageBytes = settings.maxMessageBytes;
    this.#closeTimeoutMs = settings.closeTimeoutMs;
    this.#heartbeat = settings.heartbeat;
    const unreadStreams = this.#unreadStreams = new UnreadStreams(limits.unreadStreams, quotas);
    const manager = this.manager = managerOf(options, { runtime, quotas, unreadStreams });
    const topics = this.topics = topicsOf(options, settings);
    this.#maxSessions = limits.maxSessions;
    this.#fetch = options.fetch && this.#gate.guard(options.fetch);
    const made = { runtime, console, quotas, settings, manager, topics };
    ({ nodes: this.nodes, presence: this.presence, rooms: this.rooms } = presenceOf(plain, made));
    const { nodes, presence } = this;
    this.#users = new Users({
      nodes,
      manager,
      decisions: topics.decisions,
      disconnected: (user) => this.#features.disconnected(user),
    });
    const { accept } = parts;
    ({ admission: this.#admission, claims: this.#claims, givingWay: this.#givingWay } = admissionOf(
      plain,
      { ...made, nodes, accept },
    ));
    this.#brokerReport = broker && reportBroker(runtime, broker, console);
    this.#origins = { origins: options.origins, hosts: options.hosts };
    this.#httpTransport = options.http === false ? undefined : new HttpTransport({
      ...made,
      gate: this.#gate,
      origins: this.#origins,
      admission: this.#admission,
      nodes,
    });
    const reportFault = faultReporter(plain, console);
    const publishHook = this.#publishHook = publishHookOf(plain, {
      ...made,
      nodes,
      known,
      reportFault,
    });
    this.#features = this.#featuresOf(plain, settings, { ...parts, reportFault });
    this.#mount(features);
    // The topics of features begin with `stream:`, which `mount` has checked.
    const { topicMounts } = this.#features;
    topics.serveStreams((topic) =>
      topicMounts.find(({ prefix }) => topic.startsWith(prefix))?.open(topic)
    );
    settings.watch = watchOf(settings, this.#features.hooks);
    // The sessions find their services in the settings. The services need the mounted features.
    this.#services = settings.services = servicesOf(plain, {
      ...made,
      known,
      admission: this.#admission,
      presence,
      rooms: this.rooms,
      users: this.#users,
      accountOf: this.#accountOf,
      handlers: [...topicMounts, new UnservedStreams(console)],
      responses: this.#features.responses,
      publishHook,
      published: settings.watch?.published,
      hasHistory: Object.keys(options.history ?? {}).length > 0 || topicMounts.length > 0,
    });
  }

  /**
   * Reads the health of the server.
   *
   * @ignore
   */
  health(): ServerHealth {
    const { count, isDraining } = this.manager;
    const isFull = count >= (this.#maxSessions ?? DEFAULT_MAX_SESSIONS);
    return { status: isDraining ? "draining" : isFull ? "full" : "ok", sessions: count };
  }

  /**
   * Reads all metrics of the server and of its features. Each call reads every session, so call it
   * once per scrape, not per message.
   *
   * @returns The metrics, as `metrics()` of `@skein/skein/operations` serves them.
   */
  measures(): readonly Measure[] {
    return [...measuresOf(this), ...this.#features.measures()];
  }

  /** Address on which the server listens; `undefined` if it is mounted in another server. */
  get address(): Deno.NetAddr | undefined {
    return this.#listener?.address;
  }

  /** The URL at which a client on this machine connects; empty if the server does not listen. */
  get url(): string {
    return this.#listener?.url ?? "";
  }

  /**
   * The WebTransport URL, which includes the protocol if the engine is `builtin`; empty if
   * WebTransport is off.
   */
  get webTransportUrl(): string {
    return this.#listener?.webTransport?.url ?? "";
  }

  /**
   * Counters of WebTransport, which are also part of the metrics; `undefined` if WebTransport is
   * off.
   */
  get webTransportStats(): WebTransportStats | undefined {
    return this.#listener?.stats;
  }

  /**
   * Durable streams for an inspector; `undefined` if the server has none.
   *
   * @ignore
   */
  get streams(): InspectedStreams | undefined {
    return this.#features.streams;
  }

  /**
   * Counters of HTTP requests, by feature, such as `api`. They are also part of the metrics.
   */
  get httpStats(): Readonly<Record<string, HttpStats>> {
    return this.#features.httpStats;
  }

  /**
   * Counters of the limits that clients share, by name: used slots, the limit, and rejections by
   * the level whose share was reached. They are also part of the metrics.
   */
  get quotaStats(): Readonly<Record<string, QuotaStats>> {
    return { ...this.#quotas.stats, ...this.#features.quotaStats };
  }

  /**
   * Hashes by which clients can trust the WebTransport certificate without a certificate authority;
   * pass them as `serverCertificateHashes`. Empty if browsers do not accept the certificate by its
   * hash, because it is valid for more than two weeks or has an RSA key.
   */
  get certificateHashes(): DevCertificate["hashes"] {
    return this.#listener?.webTransport?.hashes ?? [];
  }

  /**
   * Responds to an HTTP request. A WebSocket upgrade becomes a session. This works in `Deno.serve`,
   * Hono, oak and any other server that passes the original `Request`.
   *
   * @param request The request as the runtime passed it, because an upgrade needs the original
   * object.
   * @param info Information about the request. Its address is used for the limits.
   * @returns The response, which MUST be returned to the HTTP server unchanged.
   */
  readonly fetch = (request: Request, info: RequestInfo = {}): Response | Promise<Response> => {
    // The runtime reads the address again at each access.
    const { remoteAddr } = info;
    if (this.#countsSockets && remoteAddr === undefined) this.#hintAtNoAddress();
    if (hasMalformedHost(request)) return new Response("Malformed host", { status: 400 });
    const feature = this.#features.requestsFor(request);
    if (feature !== undefined) return feature.fetch(request, info);
    if (isWebSocketUpgrade(request)) {
      if (this.#suitsHardened) this.#hintAtEngine(request, { remoteAddr });
      return this.#admission.fetch(request, { remoteAddr });
    }
    if (this.#httpTransport?.wants(request)) return this.#httpTransport.fetch(request, info);
    if (this.#fetch !== undefined) return this.#fetch(request, info);
    if (!this.#admission.serves(request.url)) return new Response("Not found", { status: 404 });
    return new Response("Expected a WebSocket upgrade", {
      status: 426,
      headers: { connection: "upgrade", upgrade: "websocket" },
    });
  };

  /**
   * Responds to an upgrade that an engine offers, as `fetch` does. Returns `undefined` if the
   * upgrade is not for a session; the engine then calls `fetch`.
   */
  #upgrade(upgrade: OfferedUpgrade, info: RequestInfo): Response | Promise<Response> | undefined {
    if (hasMalformedHost(upgrade) || !isWebSocketUpgrade(upgrade)) return undefined;
    if (this.#features.requestsFor(upgrade) !== undefined) return undefined;
    return this.#admission.upgrade(upgrade, info);
  }

  /** Responds to a request for a WebTransport session. */
  #acceptWebTransport(request: WebTransportRequest, pages: PageOrigin): void | Promise<void> {
    const feature = this.#features.requestsFor(request);
    if (feature?.webTransport !== undefined) return feature.webTransport(request);
    return this.#admission.take(request, pages);
  }

  #hintAtNoAddress(): void {
    this.#console.tell(
      "no-address",
      "A limit by network address has no effect: a request has no address. Pass the " +
        "second argument of the HTTP server's handler: server.fetch(request, info), or set " +
        "clientAddress",
    );
  }

  #hintAtProxy(address: string | undefined): void {
    const who = address === undefined
      ? "clients without a known address"
      : `the clients of ${address}, probably a proxy,`;
    this.#console.tell(
      "proxy",
      `Limits by network address can't tell ${who} apart, and a limit is half used up, or their ` +
        "common rate reached: one client can use the rest. Set clientAddress: " +
        "forwardedAddress({ trusted: 1 })",
    );
  }

  /** Prints a hint once a client connects from the internet without a proxy. */
  #hintAtEngine({ headers }: Request, info: RequestInfo): void {
    const address = peerAddress(info);
    if (address === undefined || isPrivateAddress(addressKey(address))) return;
    // `has()` would make the runtime copy all headers.
    if (headers.get("x-forwarded-for") !== null || headers.get("forwarded") !== null) return;
    this.#suitsHardened = false;
    this.#console.tell(
      "engine",
      "Clients connect from the internet without a proxy. webSocket: hardenedWebSocket() of " +
        "@skein/skein/ws also bounds connections, request heads and idle time",
    );
  }

  /**
   * Publishes to all subscribers of a topic on every node. Does not wait for delivery.
   *
   * @param topic The topic whose subscribers receive the message, of 1 to 255 bytes.
   * @param data Any value that JSON can represent, or a `Uint8Array` for `skein.1` subscribers.
   * @param options A session to exclude, and the publishing user.
   * @throws {TypeError} If JSON cannot represent the data, or the topic or `from` is invalid.
   * @throws {RangeError} If the message is too large.
   */
  publish<T extends ContractTopic<C, "server">>(
    topic: T,
    data?: ContractData<C, "server", T>,
    options: {
      readonly except?: Session<ValueOf<V>, C, "server"> | undefined;
      readonly from?: string | undefined;
    } = {},
  ): void {
    this.topics.publish(topic, data, options as PublishOptions);
  }

  /**
   * Subscribes a session to a topic. Idempotent; if the session is closed, the call has no effect.
   * The topic is literal: `chat:*` is one topic, not a pattern.
   *
   * @param session One of this server's sessions.
   * @param topic The topic whose messages the session receives, of 1 to 255 bytes.
   * @param options Where the subscription starts if the topic has a history. By default, it starts
   * now.
   * @returns Resolves to `true` once the broker has confirmed the subscription: from then on, the
   * session receives all publications from every node. Resolves to `false` if the session leaves or
   * closes before that. Rejects with a `BrokerError` if the broker does not confirm within 10
   * seconds; the session stays subscribed, and its client is notified of the gap. The error is also
   * passed to `onError`, so you need not await the call.
   */
  subscribe(
    session: Session<ValueOf<V>, C, "server">,
    topic: string,
    options: SubscribeOptions = {},
  ): Promise<boolean> {
    checkOptions("subscribe", options, SUBSCRIBE);
    tellLiteral(this.#console, topic);
    tellNoHistory(this.#console, topic, { ...options, topics: this.topics });
    return this.topics.subscribe(session as Session, topic, options);
  }

  /**
   * Ends a session's subscription, no matter whether the client or the application requested it. If
   * the topic is a room, the session leaves the room; if it is the stream of a state, the session
   * also loses the ephemeral rows. Idempotent. The client's subscription ends with a `RequestError`
   * that contains the code from the options; plain WebSocket clients receive no notice.
   *
   * This is final: if `authorize` or `authorizeChange` is still deciding about a request of the
   * session for the topic, such as a subscription or a publication, the request fails with the same
   * code, whatever they decide. A call that they make themselves does not affect the request that
   * they decide about.
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
   * @param topic The topic that the session no longer receives.
   * @param options Code and reason for the client; the default code is `removed`.
   * @returns `true` if the session was subscribed, or such a request was under way.
   * @throws {TypeError} If the code is not a string of 1 to 64 characters.
   */
  unsubscribe(
    session: Session<ValueOf<V>, C, "server">,
    topic: string,
    options: UnsubscribeOptions = {},
  ): boolean {
    const isEnded = this.topics.unsubscribe(session as Session, topic, options);
    return this.#features.unsubscribed(session as Session, topic, options) || isEnded;
  }

  /**
   * Addresses all sessions of a user on every node. To address a guest or another session without a
   * user, pass its `session.user`; this works only on the session's own node.
   *
   * @param user The user, as returned by `userOf`.
   * @returns A sender to these sessions.
   */
  to(user: string): {
    /**
     * Sends a message to every session of the user, encoded once.
     *
     * @param topic The name under which the user's clients receive the message, of 1 to 255 bytes.
     * @param data Any value that JSON can represent, or a `Uint8Array` for `skein.1` sessions.
     * @returns Number of sessions on this node that received the message; other nodes are not
     * counted.
     */
    send<T extends ContractTopic<C, "server">>(
      topic: T,
      data?: ContractData<C, "server", T>,
    ): number;
  } {
    return {
      send: (topic, data) => {
        const message = encodeMessage(topic, data, { maxBytes: this.#maxMessageBytes });
        return this.#users.send(user, message);
      },
    };
  }

  /**
   * Lists the sessions of a user on every node that responds within two seconds. For the sessions
   * on this node alone, use `manager.sessionsOf(user)`, which returns immediately.
   *
   * @param user The user, as returned by `userOf`.
   * @returns The sessions, with those on this node first; at most 1,000 per node.
   */
  sessions(user: string): Promise<SessionInfo<Session<ValueOf<V>, C, "server">>[]> {
    type Own = SessionInfo<Session<ValueOf<V>, C, "server">>[];
    // Only the types depend on the contract.
    return this.#users.sessions(user) as Promise<unknown> as Promise<Own>;
  }

  /**
   * Closes all sessions of a user, on every node, and ends the user's HTTP requests: readers of
   * topics and durable streams receive nothing more, and may reconnect if `authenticate` and
   * `authorize` allow it.
   *
   * This is final: a request of the user about which the application is still deciding fails. If
   * `authenticate` is running for the user, it is called once more, and its second result counts.
   * A call that `authenticate` makes itself does not affect the login that it decides about, so it
   * can close the user's other sessions.
   *
   * @param user The user, as returned by `userOf`.
   * @param options Close code and reason.
   * @returns Number of closed sessions, and whether all nodes confirmed within ten seconds.
   * @throws {RangeError} If the code is neither 0 nor 3000 to 4999.
   */
  async disconnect(user: string, options: SessionCloseOptions = {}): Promise<{
    /** Number of closed sessions, on all nodes. */
    readonly closed: number;
    /** `true` if every node responded; otherwise, sessions may still be open. */
    readonly isComplete: boolean;
  }> {
    checkOptions("disconnect", options, CLOSE);
    return await this.#users.disconnect(user, options);
  }

  /**
   * Drains the server, within the time limit of the options:
   *
   * - **Sessions:** new sessions are rejected. Each peer receives a different time at which to
   *   reconnect. Its session closes at that time, after handlers and queues have finished.
   * - **HTTP requests** to features and to `fetch` are served until all sessions have closed. After
   *   that, new requests receive 503 with `Retry-After`, and pending requests finish. A request
   *   whose body is still incomplete when the time is up also receives 503.
   *
   * Then the server stops listening.
   *
   * @param options The time limit, and the message to peers.
   * @returns The number of sessions that closed by themselves, and the number of sessions that the
   * server closed.
   */
  async drain(options: DrainOptions = {}): Promise<DrainReport> {
    checkOptions("drain", options, DRAIN);
    const connections = this.manager.all().map(({ connection }) => connection);
    this.#listener?.stop();
    // Raw sessions have no envelopes, so the transport asks the peer to leave.
    for (const connection of connections) connection.drain?.();
    const { withinMs = DRAIN_MS, signal } = options;
    const endsAt = this.#runtime.monotonic() + withinMs;
    const drained = this.manager.drain(options);
    this.nodes?.beat();
    const [report] = await Promise.all([
      drained,
      this.#features.drain({ ...options, withinMs }),
    ]);
    // Closed sessions have ended on this side, but their closes have yet to reach the peers.
    const told = Promise.allSettled(connections.map(({ closed }) => closed));
    await settlesWithin(this.#runtime, told, FAREWELL_MS);
    this.#gate.stop();
    const leftMs = () => Math.max(0, endsAt - this.#runtime.monotonic());
    await this.#idleWithin(leftMs(), signal);
    this.#closing ??= this.#close({}, signal?.aborted ? 0 : leftMs());
    await this.#closing;
    return report;
  }

  /**
   * Closes all sessions and stops listening. Idempotent.
   *
   * If a client stops in the middle of a request, Deno's own server keeps its connection, and with
   * it the process: end the program with `Deno.exit()`. With `hardenedWebSocket()`, the process ends
   * by itself.
   *
   * @param options Close code and reason for the peers.
   */
  close(options: SessionCloseOptions = {}): Promise<void> {
    checkOptions("close", options, CLOSE);
    return this.#closing ??= this.#close(options);
  }

  /** Closes the server; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Sets the certificate for new WebTransport clients; open sessions are not affected. WebSocket
   * keeps its certificate until a restart, because the runtime's HTTP server cannot change
   * certificates. The server renews a development certificate automatically.
   *
   * @param certificate The certificate and its key, in PEM.
   * @throws {TypeError} If WebTransport is off, or the certificate is invalid.
   */
  rotateCertificate(certificate: Certificate): void {
    if (this.#listener === undefined) {
      throw new TypeError("Cannot rotate certificate: the server must listen");
    }
    this.#listener.rotate(certificate);
  }

  /**
   * Creates a listening server. {@linkcode serve} calls this, and so do workers, which pass parts.
   *
   * @ignore
   */
  static listen<V, C extends Contract>(
    options: ServeOptions<V, C>,
    { udpFrom, respond, source }: WorkerParts = {},
  ): Server<V, C> {
    checkServerOptions("serve", options);
    requireBase64("serve");
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
    // An invalid certificate must not lead to a server without TLS.
    if (tls !== undefined) checkCertificate(tls, "serve: tls");
    const server = new Server(serverOptions, { source, accept: webSocket?.accept });
    const { origins, hosts, fetch, clientAddress } = options;
    server.#suitsHardened = [webSocket, fetch, clientAddress, respond].every((one) => !one);
    try {
      checkBuiltinEngine(options, server.#features.quic);
      server.#listener = new ServerListener({
        runtime: server.#runtime,
        console: server.#console,
        port,
        hostname,
        tls,
        webTransport,
        webSocket,
        reusePort,
        maxFrameBytes: server.#admission.maxFrameBytes,
        connectionLimits: {
          ...connectionLimits(options.limits),
          flowControl: options.flowControl,
          quotas: server.#quotas,
          unreadStreams: server.#unreadStreams,
        },
        quic: quicOptionsOf(server.#features.quic),
        udpFrom,
        onListen,
        origins,
        hosts,
      }, {
        fetch: respond === undefined
          ? server.fetch
          : (request, info) => respond(request, info) ?? server.fetch(request, info),
        upgrade: respond === undefined
          ? (upgrade, info) => server.#upgrade(upgrade, info)
          : undefined,
        isSuccessor: (request) => server.#admission.isSuccessor(request),
        take: (request, pages) => server.#acceptWebTransport(request, pages),
      });
      server.#listener.announce();
    } catch (error) {
      server.#fail();
      throw error;
    }
    if (signal !== undefined) server.#closeBy(signal);
    return server;
  }

  /** Creates the host of the server's features. */
  #featuresOf(
    { authorizeChange, contract, mutations, onError, presence = {} }: ServerOptions,
    settings: SessionSettings,
    { source, accept, reportFault }: ServerParts & Pick<ServerCore, "reportFault">,
  ): Features {
    const reportError = (what: string, error: unknown) => reportRequest(this.#console, what, error);
    const core: ServerCore = {
      guardParts: {
        runtime: this.#runtime,
        gate: this.#gate,
        quotas: this.#quotas,
        decisions: this.topics.decisions,
        identify: (request, login) => this.#admission.identify(request, login),
        addressOf: (request, info) => this.#admission.addressOf(request, info),
        report: reportError,
      },
      origins: this.#origins,
      users: this.#users,
      settings,
      sockets: socketHost(() => this.#listener, accept),
      server: this,
      accountOf: this.#accountOf,
      graceMs: presence.graceMs ?? GRACE_MS,
      authorizeChange: authorizeChange as AuthorizeChange | undefined,
      publishHook: this.#publishHook,
      mutations: mutations as MutationOverrides | undefined,
      hasFailed: () => this.#hasFailed,
      reportFault,
      reportFailure: (what, error) => {
        if (onError === undefined) return this.#console.failed(what, error);
        const text = `${what} failed: ${textOf(error)}`;
        report(settings, new Error(text, { cause: error }), undefined);
      },
      reportLoss: (error) => {
        const { message: about } = error;
        if (onError !== undefined) report(settings, error, undefined);
        else this.#console.tell("lost-data", about, { about });
      },
    };
    return new Features({
      runtime: this.#runtime,
      gate: this.#gate,
      console: this.#console,
      report: reportError,
      hostOf: featureHosts(this, { core, contract, process: source ?? this }),
    });
  }

  /** Mounts features. If one of them fails, closes the server. */
  #mount(features: readonly Feature[]): void {
    try {
      this.#features.mount(features);
    } catch (error) {
      this.#fail();
      throw error;
    }
  }

  /** Closes a server that could not start, whose features the next server may mount. */
  #fail(): void {
    this.#hasFailed = true;
    void this.close();
  }

  /**
   * Closes the server when a signal aborts. A signal that outlives the server does not keep it in
   * memory.
   */
  #closeBy(signal: AbortSignal): void {
    const onAbort = () => void this.close();
    // `onListen` may have aborted it.
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    this.#removeAbortListener = () => signal.removeEventListener("abort", onAbort);
  }

  /** Waits for pending requests until a close or the signal ends the wait. */
  async #idleWithin(ms: number, signal: AbortSignal | undefined): Promise<void> {
    const ended = new AbortController();
    const end = () => ended.abort();
    void this.#gate.idle.then(end);
    await pause(this.#runtime, ms, ended.signal, this.#gate.cut, ...signal ? [signal] : []);
  }

  /**
   * Closes the server.
   *
   * @param responsesMs Time allowed for sending responses; at least `closeTimeoutMs`.
   */
  async #close(options: SessionCloseOptions, responsesMs = 0): Promise<void> {
    this.#removeAbortListener?.();
    this.#listener?.stop();
    this.#gate.close();
    await this.#features.close(options);
    await this.#admission.close(options);
    // The connections of sessions over HTTP close after their sessions.
    await this.#httpTransport?.close();
    // Do this only after the sessions have closed, because the runtime's server cuts off WebSockets
    // together with bodies.
    this.#listener?.cutBodies();
    const isIdle = await settlesWithin(this.#runtime, this.#gate.idle, this.#closeTimeoutMs);
    this.#heartbeat[Symbol.dispose]();
    this.#brokerReport?.[Symbol.dispose]();
    this.#services?.[Symbol.dispose]();
    this.#publishHook?.[Symbol.dispose]();
    this.rooms[Symbol.dispose]();
    this.presence[Symbol.dispose]();
    this.#users.close();
    this.#givingWay[Symbol.dispose]();
    await this.#claims?.close();
    await this.nodes?.close();
    await this.topics[Symbol.asyncDispose]();
    // The runtime waits forever for a peer that disappeared during its handshake, and for an
    // application handler that never returns, so stop waiting.
    const waitMs = isIdle ? Math.max(this.#closeTimeoutMs, responsesMs) : 0;
    const closed = this.#listener?.close(responsesMs) ?? Promise.resolve();
    await settlesWithin(this.#runtime, closed, waitMs);
  }
}

/** Checks whether the `Host` header makes the URL of a request invalid, or changes its path. */
function hasMalformedHost({ headers, url }: RequestHead): boolean {
  const host = headers.get("host");
  return !URL.canParse(url) || host !== null && !isHost(host);
}

/**
 * Lists the features of a server, including those that its handlers of requests need.
 *
 * @throws {TypeError} If a request has `resume` in the contract, and its handler is not resumable.
 */
function allFeatures(
  { contract, features = [], requests = {} }: {
    readonly contract?: Contract | undefined;
    readonly features?: readonly Feature[] | undefined;
    readonly requests?: object | undefined;
  },
): readonly Feature[] {
  const known = new Set(features.map(({ name }) => name));
  const all = [...features];
  const handlers = Object.entries(requests) as [string, Partial<ResumableHandler<never, never>>][];
  for (const [pattern, handler] of handlers) {
    // The table of requests rejects what is no handler.
    if (typeof handler !== "function" && Object(handler) !== handler) continue;
    const { resumable } = handler;
    const isCostly = resumable === undefined && "cost" in handler;
    if (typeof handler === "object" && typeof resumable !== "function" && !isCostly) {
      throw new TypeError(
        `Cannot create server: resumable of requests["${pattern}"] must be the function that ` +
          `"@skein/skein/streams" exports, received ${describe(resumable)}`,
      );
    }
    const feature = resumable?.() as Feature | undefined;
    if (feature === undefined && contract?.definition.requests?.[pattern]?.resume === true) {
      throw new TypeError(
        `Cannot create server: the contract has resume for requests["${pattern}"], so its handler ` +
          'must be { resumable, handle }, with resumable imported from "@skein/skein/streams"',
      );
    }
    if (feature === undefined || known.has(feature.name)) continue;
    known.add(feature.name);
    all.push(feature);
  }
  return all;
}

/** Parts of a server that do not come from the application. */
export interface ServerParts {
  /** Reads the metrics of all workers. By default, the server reports only its own metrics. */
  readonly source?: MetricsSource | undefined;
  /** Accepts WebSocket upgrades. By default, the runtime does. */
  readonly accept?: WebSocketEngine | undefined;
}

/** Parts of a server that all workers of a process share. */
export interface WorkerParts extends Pick<ServerParts, "source"> {
  /** Resolves when the server may listen on UDP. By default, it listens immediately. */
  readonly udpFrom?: Promise<void> | undefined;
  /**
   * Handles a request instead of the server. Returns `undefined` if the server should handle the
   * request.
   */
  readonly respond?:
    | ((
      request: Request,
      info: RequestInfo,
    ) => Response | Promise<Response> | undefined)
    | undefined;
}

/** Returns the limits on connections, which equal the limits on sockets. */
function connectionLimits(
  { maxSessions = DEFAULT_MAX_SESSIONS, maxSessionsPerAddress }: ServerOptions["limits"] = {},
): ConnectionLimits {
  return {
    maxConnections: maxSessions * SOCKETS_PER_SESSION,
    maxConnectionsPerAddress: maxSessionsPerAddress &&
      Math.min(maxSessions, maxSessionsPerAddress) * SOCKETS_PER_SESSION,
  };
}

/** Longest wait for closes to reach their peers, in milliseconds. */
const FAREWELL_MS = 500;

/**
 * Creates a server that does not listen, so that you can mount it in an existing HTTP server.
 *
 * @typeParam V Type of the values from `authenticate`, including `typeof guest`.
 * @typeParam C The contract.
 * @param options As for `serve()`, without those for listening.
 * @returns The server. Pass requests to its `fetch` method.
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
export function createServer<V = unknown, C extends Contract = Contract>(
  options: ServerOptions<V, C> = {},
): Server<V, C> {
  return new Server(options);
}

/**
 * Serves sessions.
 *
 * If a handler uses the returned server, write its body in braces:
 * `onMessage: (message) => { server.publish("news", message.data); }`. The return type of a bare
 * expression would depend on the server's type, which TypeScript rejects.
 *
 * @typeParam V Type of the values from `authenticate`, including `typeof guest`.
 * @typeParam C The contract.
 * @param options The address on which to listen, and the options of the server.
 * @returns The server, listening.
 * @throws {TypeError} If an option is unknown, if `tls` is not a certificate and its key in PEM
 * format, or if an option needs something that the engine of `webTransport` lacks.
 * @throws {UnsupportedError} On Node, if `webSocket` is not given, or if Node is older than version
 * 26.
 *
 * @example Authenticated, with a direct message
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authenticate: ({ token }) => token === "s3cret" ? "ann" : null,
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
export function serve<V = unknown, C extends Contract = Contract>(
  options: ServeOptions<V, C> = {},
): Server<V, C> {
  return Server.listen(options);
}
