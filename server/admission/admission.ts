/**
 * Admission of sessions on every transport: checks the path, the origin and the limits,
 * authenticates the peer, and accepts the session, in this order.
 */
import { UDP_PROXY } from "../../base/quotas/accounts.ts";
import { countedAddress } from "../accounts.ts";
import {
  Attempt,
  type AttemptHost,
  AwaitedToken,
  MAX_AWAITED_HEADER_BYTES,
  ticketOf,
} from "./attempt.ts";
import { ServerHandshake } from "./handshake.ts";
import { type AdmissionOptions, pathMatcher, pathOf } from "./admission_options.ts";
import { peerAddress, type RequestInfo } from "../../transport/address.ts";
import { Authenticator, GUEST, type Identity, LATER, TAKES_NO_TOKEN } from "./authentication.ts";
import { PendingUpgrades, type RequestPeer, type SessionRequest } from "./session_request.ts";
import { Rejected, RejectionReport, withinLimits } from "./rejection.ts";
import {
  FetchedUpgrade,
  WebSocketSessionRequest,
  type WebSocketUpgradeOptions,
} from "./websocket_request.ts";
import { type PageOrigin, parsedUrl, WebTransportSessionRequest } from "./webtransport_request.ts";
import { AuthenticationError, CloseCode, type CloseInfo, LimitError } from "../../errors.ts";
import type { Slot } from "../../base/quotas/shares.ts";
import type { Reservation } from "../../manager/limits.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import { checkedAddress, DecisionFault } from "../../base/decision.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Decisions, Login } from "../../pubsub/decisions.ts";
import { MAX_JOINED_BYTES } from "../../session/queue/frames.ts";
import { internals, Session } from "../../session/session.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import { withoutToken } from "../../transport/url.ts";
import { MAX_TOKEN_BYTES } from "../../session/serving/first_frames.ts";
import type { GivingWay, Newcomer } from "./giving_way.ts";
import { SessionClaims, type UserClaims } from "./user_limit.ts";
import type { Connection } from "../../transport/connection.ts";
import {
  acceptUpgrade,
  findUpgradeFault,
  type OfferedUpgrade,
  type UpgradeRequest,
  type WebSocketEngine,
} from "../../transport/websocket/server.ts";
import type { WebTransportRequest } from "../../transport/h3/server.ts";
import type { SessionCloseOptions } from "../../session/types.ts";

/** Headers that describe the client of a session and contain no secrets. */
const DEFAULT_HEADERS: readonly string[] = [
  "host",
  "origin",
  "user-agent",
  "accept-language",
  "x-forwarded-for",
];

/**
 * Bytes accepted before the token, in addition to its own size: the start of the stream and its
 * frames.
 */
const EARLY_MARGIN_BYTES = 4_096;

/**
 * Number of network addresses at which a user name is probably shared by several people; a power of
 * two.
 */
const MANY_ADDRESSES = 16;

/**
 * Longest wait for the connections of closed sessions, in milliseconds. Each connection closes by
 * itself within 2 s.
 */
const FAREWELL_MS = 3_000;

/** A peer whose token is pending. */
const UNKNOWN: Identity = { ...GUEST, isGuest: false };

/** Services that an admission uses. */
export interface AdmissionParts {
  /** All sessions of this node. */
  readonly manager: SessionManager;
  /** Counts the sessions of users on all nodes; `undefined` if only this node counts. */
  readonly claims: UserClaims | undefined;
  /** The logins under way on this node. */
  readonly decisions: Decisions;
  /** Makes room for a session of a user at the limit. */
  readonly givingWay: GivingWay;
  /** Prints rejections if the application has no handler. */
  readonly console: ConsoleReport;
  /** Engine of WebSocket upgrades; by default the runtime's own. */
  readonly accept?: WebSocketEngine | undefined;
}

/** Admits or rejects sessions. */
export class Admission<V> {
  readonly #options: AdmissionOptions<V>;
  readonly #settings: SessionSettings;
  readonly #manager: SessionManager;
  readonly #claims: SessionClaims;
  readonly #givingWay: GivingWay;
  readonly #engine: WebSocketEngine;
  readonly #upgradeOptions: WebSocketUpgradeOptions;
  /**
   * Largest frame that a peer may send, in bytes: one message of `maxMessageBytes`, or several
   * small messages.
   */
  readonly maxFrameBytes: number;
  readonly #messages: WebSocketUpgradeOptions["messages"];
  /** Checks whether sessions are served at the path of a URL. */
  readonly serves: (url: string) => boolean;
  readonly #authenticator: Authenticator<V>;
  readonly #report: RejectionReport;
  readonly #console: ConsoleReport;
  // Both are bounded by the manager's reservations.
  readonly #pendingUpgrades: PendingUpgrades;
  /** Attempts with a connection whose session is not established yet. */
  readonly #attempts = new Map<Connection, Attempt>();
  /** True once a WebSocket has opened after its upgrade. */
  #hasOpened = false;
  readonly #decisions: Decisions;
  readonly #host: AttemptHost = {
    takeSocket: ({ client, ticket }) => {
      const isBeside = this.#predecessorOf(ticket) !== undefined;
      return this.#withinLimits(() => client.takeSocket(isBeside));
    },
    opened: (attempt) => this.#opened(attempt),
    late: ({ request }) => this.#late(request),
    over: ({ accepted }) => void this.#attempts.delete(accepted!.connection),
  };
  /** WebTransport connections, until they close. */
  readonly #connections = new Set<Connection>();

  /**
   * Creates an admission.
   *
   * @param options The options, which `checkAdmissionOptions()` has checked.
   */
  constructor(
    options: AdmissionOptions<V>,
    settings: SessionSettings,
    { manager, claims, givingWay, decisions, console, accept = acceptUpgrade }: AdmissionParts,
  ) {
    const { runtime } = settings;
    this.#claims = new SessionClaims(claims);
    this.#decisions = decisions;
    this.#givingWay = givingWay;
    this.#options = options;
    this.#settings = settings;
    this.#pendingUpgrades = new PendingUpgrades(runtime, settings.handshakeTimeoutMs);
    this.#manager = manager;
    this.maxFrameBytes = Math.max(MAX_JOINED_BYTES, settings.maxMessageBytes);
    this.#messages = {
      streamTimeoutMs: settings.handshakeTimeoutMs,
      maxFrameBytes: this.maxFrameBytes,
      maxEarlyBytes: (options.tokens?.maxBytes ?? MAX_TOKEN_BYTES) + EARLY_MARGIN_BYTES,
    };
    this.#engine = accept;
    this.#upgradeOptions = {
      runtime,
      pendingUpgrades: this.#pendingUpgrades,
      idleTimeoutMs: settings.heartbeat.timeoutMs,
      flowControl: options.flowControl,
      messages: this.#messages,
    };
    this.serves = pathMatcher(options.path);
    this.#authenticator = new Authenticator(runtime, options, console);
    this.#report = new RejectionReport(options.onSessionRejected, console);
    this.#console = console;
  }

  /** Returns the reservation of a new session, for the manager. */
  reservationOf({ connection }: Session): Reservation | undefined {
    return this.#attempts.get(connection)?.client;
  }

  /**
   * Returns the options with which the user of a new session was disconnected while the session was
   * being established; `undefined` if that did not happen.
   */
  revocationOf({ connection, [internals]: { user } }: Session): SessionCloseOptions | undefined {
    return this.#attempts.get(connection)?.login?.revocationFor(user);
  }

  /**
   * Responds to a request for a WebSocket upgrade. The response is synchronous unless the
   * application must decide first.
   */
  fetch(request: Request, info: RequestInfo = {}): Response | Promise<Response> {
    return this.upgrade(new FetchedUpgrade(request, this.#engine), info);
  }

  /** Responds to a WebSocket upgrade, as `fetch` does. */
  upgrade(upgrade: OfferedUpgrade, info: RequestInfo): Response | Promise<Response> {
    const { address, rejection } = this.peerOf(() => upgrade.request, info);
    const fault = findUpgradeFault(upgrade);
    if (fault !== undefined) {
      this.#report.tell(new Rejected(400, fault.message), { address });
      // Respond without an upgrade: a rejection would upgrade for a Skein client.
      return new Response(fault.message, fault);
    }
    const options = this.#upgradeOptions;
    return this.admit(new WebSocketSessionRequest(upgrade, { address, rejection }, options));
  }

  /** Responds to a request for a WebTransport session. */
  take(asked: WebTransportRequest, pages: PageOrigin): void | Promise<void> {
    const url = parsedUrl(asked);
    if (url === undefined) return asked.reject(400);
    const info = { remoteAddr: asked.remoteAddress };
    const peerOf = (request: () => Request) => this.peerOf(request, info);
    const { runtime } = this.#settings;
    const messages = this.#messages;
    const onAccepted = (connection: Connection) => this.#untilClosed(connection);
    const options = { runtime, url, pages, messages, peerOf, onAccepted };
    return this.admit(new WebTransportSessionRequest(asked, options));
  }

  /**
   * Checks whether a request for a WebTransport session comes from a client that moves from another
   * session.
   */
  isSuccessor(asked: WebTransportRequest): boolean {
    const url = parsedUrl(asked);
    if (url === undefined) return false;
    return this.#predecessorOf(ticketOf({ isSkein: true, url: url.href })) !== undefined;
  }

  #untilClosed(connection: Connection): void {
    this.#connections.add(connection);
    const ended = () => void this.#connections.delete(connection);
    connection.closed.then(ended, ended);
  }

  /**
   * Identifies the user of an HTTP request without a session, by its `Authorization` header or its
   * cookies. Returns `undefined` if there is no `authenticate`.
   *
   * @param login The login, which the caller ends.
   * @throws {Rejected} If the application rejects the request, fails, or takes too long.
   */
  async identify(request: Request, login: Login): Promise<string | undefined> {
    if (this.#options.authenticate === undefined) return undefined;
    const token = bearerTokenOf(request.headers);
    return (await this.#authenticator.identify(request, { token, login })).user;
  }

  /**
   * Returns the network address of a request, where known.
   *
   * @throws {Rejected} If `clientAddress` failed.
   */
  addressOf(request: Request, info: RequestInfo): string | undefined {
    const { address, rejection } = this.peerOf(() => request, info);
    if (rejection !== undefined) throw rejection;
    return address;
  }

  /**
   * Closes all sessions, and waits for their WebTransport connections: the close code is sent after
   * the last messages, and clients need it to decide whether to reconnect.
   */
  async close(options: SessionCloseOptions = {}): Promise<void> {
    this.#pendingUpgrades[Symbol.dispose]();
    const info = { ...options, code: options.code ?? CloseCode.draining };
    await Promise.all([
      this.#manager.shutdown(options),
      // Sessions that are not established yet are not registered with the manager.
      ...Array.from(this.#attempts.values(), ({ session }) => session?.close(info)),
    ]);
    const ends = [...this.#connections].map(({ closed }) => closed);
    await settlesWithin(this.#settings.runtime, Promise.allSettled(ends), FAREWELL_MS);
  }

  /**
   * Runs `authenticate` for a token that came in a message. Errors become an `AuthenticationError`.
   */
  async renew(session: Session, token: string, signal: AbortSignal): Promise<Identity> {
    const { url, address, connection } = session;
    const attempt = this.#attempts.get(connection);
    const awaited = attempt?.awaited;
    if (awaited !== undefined) awaited.isAsked = true;
    using cleanup = new DisposableStack();
    const login = cleanup.use(this.#decisions.login());
    try {
      const request = new Request(url, { headers: awaited?.headers ?? session.headers });
      const identity = await this.#authenticator.identify(request, { token, login, signal });
      if (attempt !== undefined && session.state === "connecting") {
        await this.#identify(attempt, identity.user, signal);
        // The login lasts until the session is established.
        if (!attempt.isOver) {
          attempt.login = login;
          cleanup.move();
        }
      }
      return identity;
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      const { status, message, cause, fault } = error;
      if (session.state === "connecting" || fault !== undefined) {
        this.#report.tell(error, { address, token: () => token });
      }
      throw new AuthenticationError(message, { status, cause });
    }
  }

  /** Responds to a request for a session on any transport. */
  admit<A>(request: SessionRequest<A>): A | Promise<A> {
    const address = countedAddress(request);
    if (address === UDP_PROXY && request.rejection === undefined) this.#hintAtUdpProxy();
    const client = this.#manager.connecting(address);
    const handshake = ServerHandshake.begin(request, this.#settings);
    const attempt = new Attempt(request, { host: this.#host, client, handshake });
    try {
      const response = this.#admit(request, attempt);
      if (!(response instanceof Promise)) return response;
      return response.catch((error) => this.#reject(request, error, attempt));
    } catch (error) {
      return this.#reject(request, error, attempt);
    }
  }

  #admit<A>(request: SessionRequest<A>, attempt: Attempt): A | Promise<A> {
    const { url, headers, announcesToken } = request;
    if (!this.serves(url)) throw new Rejected(404, "No session is served at this path");
    if (request.rejection !== undefined) throw request.rejection;
    if (!request.isOriginAllowed(this.#options)) {
      // The hint comes first, because a close reason is cut at its end.
      throw new Rejected(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    const { client, handshake } = attempt;
    this.#withinLimits(() => client.countAttempt());
    const { authenticate, tokens } = this.#options;
    if (announcesToken && (authenticate === undefined || !tokens?.inMessage)) {
      throw new Rejected(401, TAKES_NO_TOKEN, { isToldByClose: true });
    }
    if (announcesToken) {
      attempt.awaited = AwaitedToken.of(request);
      if (attempt.awaited === undefined) {
        throw new Rejected(
          400,
          `Cannot wait for a token: the headers have more than ${MAX_AWAITED_HEADER_BYTES} bytes`,
        );
      }
    }
    this.#withinLimits(() => client.reserve(this.#slotBeside(attempt)));
    if (announcesToken) return this.#accept(request, attempt, UNKNOWN);
    if (authenticate === undefined) return this.#accept(request, attempt, GUEST);
    const identified = () => this.#identified(request, attempt);
    return handshake === undefined ? identified() : handshake.during(identified);
  }

  async #identified<A>(request: SessionRequest<A>, attempt: Attempt): Promise<A> {
    const { signal } = request;
    const login = attempt.login = this.#decisions.login();
    const token = tokenOf(request);
    const identity = await this.#authenticator.identify(request.request, {
      token,
      login,
      signal,
      isCookieless: request.isCookieless,
    });
    await this.#identify(attempt, identity.user, signal);
    return this.#accept(request, attempt, identity);
  }

  /** Counts an attempt toward its user, among all nodes and on this one. */
  async #identify(
    attempt: Attempt,
    user: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (user === undefined) return;
    const { client, request: { address, transport }, session } = attempt;
    this.#withinLimits(() => client.countUser(user));
    this.#hintAtShared(user, address);
    const predecessor = this.#predecessorOf(attempt.ticket);
    // The ticket of a lost session names the session to close first.
    const secret = predecessor === undefined ? attempt.secret : undefined;
    const newcomer = { secret, signal, isHttp: transport === "http" && session === undefined };
    // Claim first: while an attempt waits for its claim, it must not use one of the user's slots on
    // this node.
    const claim = await this.#withRoom(user, newcomer, () => this.#claim(user, predecessor));
    if (claim !== undefined) {
      if (session === undefined) attempt.claim = claim;
      else this.#claims.give(session, claim);
    }
    await this.#withRoom(user, newcomer, () => {
      // The slot is released if the session closes, or the server.
      if (!client.isHeld) return;
      this.#withinLimits(() => client.identify(user, this.#manager.slotOf(predecessor)));
    });
  }

  async #claim(user: string, beside: Session | undefined): Promise<Disposable | undefined> {
    try {
      return await this.#claims.claim(user, beside);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      throw new Rejected(429, error.message, { cause: error });
    }
  }

  #accept<A>(request: SessionRequest<A>, attempt: Attempt, identity: Identity): A {
    const { url: asked } = request;
    // After an upgrade the runtime can no longer read the headers.
    const headers = this.#keptHeaders(request.headers);
    const url = asked.includes("?") ? withoutToken(asked) : asked;
    const { connection, opened, response } = request.accept(attempt);
    attempt.accepted = { connection, identity, url, headers };
    if (opened === undefined) this.#opened(attempt);
    else this.#pendingUpgrades.add(opened, attempt);
    return response;
  }

  /**
   * Warns about an upgrade that never opened. There is no warning if other upgrades have opened,
   * because the peer has then simply left. If the application rebuilds a `Request`, the runtime
   * accepts it but never responds to the upgrade.
   */
  #late({ transport, url }: SessionRequest<unknown>): void {
    if (transport !== "websocket" || this.#hasOpened) return;
    const { handshakeTimeoutMs } = this.#settings;
    this.#console.tell(
      "unopened",
      `A WebSocket upgrade of ${pathOf(url)} did not open within ${handshakeTimeoutMs} ms: pass ` +
        "the original Request to server.fetch, and return its Response unchanged. A framework may " +
        "rebuild the request, as Hono's app.mount() does: use " +
        "app.all(path, (c) => server.fetch(c.req.raw))",
    );
  }

  /** Creates the session of an attempt, and follows it until it is established or closed. */
  #opened(attempt: Attempt): void {
    const { accepted, awaited, claim, client, handshake, request, secret, ticket } = attempt;
    const { connection, identity, url, headers } = accepted!;
    this.#hasOpened ||= request.transport === "websocket";
    if (!client.isHeld) {
      // The slot was released because the upgrade took too long or the server is closing.
      return connection.close(
        this.#manager.isDraining
          ? { closeCode: CloseCode.draining, reason: "The server closes" }
          : { closeCode: CloseCode.timedOut, reason: "The upgrade took too long" },
      );
    }
    // Most sessions are established in the constructor, where the manager takes the reservation.
    this.#attempts.set(connection, attempt);
    const session = attempt.session = new Session(connection, this.#settings, {
      value: identity.value,
      user: identity.user,
      isGuest: identity.isGuest,
      credentials: identity.credentials,
      url,
      headers,
      address: request.address,
      secret,
      predecessor: this.#predecessorOf(ticket),
      awaitsToken: awaited !== undefined,
    });
    attempt.handOver();
    if (session.state === "connecting") this.#follow(session, attempt);
    else attempt[Symbol.dispose]();
    if (claim !== undefined) this.#claims.give(session, claim);
    handshake?.opened(session);
  }

  #follow(session: Session, attempt: Attempt): void {
    const { awaited } = attempt;
    session.ready.then(() => {
      attempt[Symbol.dispose]();
      awaited?.admitted.resolve();
    }, () => {
      attempt[Symbol.dispose]();
      const rejection = awaited && rejectionOfClose(awaited, session[internals].info);
      if (rejection !== undefined) this.#report.tell(rejection, { address: session.address });
    });
  }

  /**
   * Prints a hint if sessions from many addresses have the same user, which is probably the name of
   * all guests.
   */
  #hintAtShared(user: string | undefined, address: string | undefined): void {
    if (user === undefined || address === undefined || this.#options.userOf !== undefined) return;
    const sessions = this.#manager.sessionsOf(user);
    const { length } = sessions;
    // Counting addresses takes time proportional to the number of sessions, so count only when that
    // number is a power of two.
    if (length < MANY_ADDRESSES || (length & length - 1) !== 0) return;
    const addresses = new Set(sessions.map((session) => session.address));
    if (addresses.size < MANY_ADDRESSES) return;
    this.#console.tell(
      "shared-user",
      `The user "${user}" has sessions from ${addresses.size} network addresses at the same time: ` +
        "if this is the name of all guests, return guest from authenticate instead",
    );
  }

  /** Takes a slot. If the user is at the limit, makes room once and takes it again. */
  async #withRoom<T>(user: string, newcomer: Newcomer, take: () => T | Promise<T>): Promise<T> {
    try {
      return await take();
    } catch (error) {
      if (!isAtUserLimit(error) || !await this.#givingWay.makeRoom(user, newcomer)) throw error;
    }
    return await take();
  }

  #withinLimits<T>(take: () => T): T {
    return withinLimits(this.#manager, take);
  }

  #slotBeside({ ticket }: Attempt): Slot | undefined {
    return this.#manager.slotOf(this.#predecessorOf(ticket));
  }

  /** Finds the session of this node from which a client moves, by its secret ticket. */
  #predecessorOf(ticket: string | undefined): Session | undefined {
    if (ticket === undefined) return undefined;
    const session = this.#manager.get(ticket.split(".", 1)[0]!);
    return session?.isReady && session[internals].lineage.ticket === ticket ? session : undefined;
  }

  /**
   * Copies the headers to keep into one object; a list of pairs would need one object per header.
   */
  #keptHeaders(headers: UpgradeRequest["headers"]): HeadersInit {
    const { keepHeaders = DEFAULT_HEADERS } = this.#options;
    if (keepHeaders === "all") return [...headers];
    const kept: Record<string, string> = {};
    for (const name of keepHeaders) {
      const value = headers.get(name);
      if (value !== null) kept[name] = value;
    }
    return kept;
  }

  #reject<A>(request: SessionRequest<A>, error: unknown, attempt: Attempt): A {
    attempt.handshake?.failed(error);
    attempt[Symbol.dispose]();
    if (!(error instanceof Rejected)) throw error;
    const { address, signal, isSkein } = request;
    const rejected = isSkein ? error : error.forAnyPeer;
    // The client disconnected during authentication, which is not reported as a rejection.
    if (signal?.aborted !== true && !rejected.isRoutine) {
      this.#report.tell(rejected, { address, token: () => tokenOf(request) });
    }
    return request.reject(
      rejected,
      () => this.#withinLimits(() => attempt.client.takeSocket(false)),
    );
  }

  #hintAtUdpProxy(): void {
    this.#console.tell(
      "udp-proxy",
      "Clients over WebTransport have no network address, because clientAddress returned none: " +
        "together they count as one network, which may use half of each limit",
    );
  }

  /** Finds the network address of a request, or the rejection if `clientAddress` failed. */
  peerOf(request: () => Request, info: RequestInfo): RequestPeer {
    const { clientAddress } = this.#options;
    try {
      const address = clientAddress
        ? checkedAddress(clientAddress(request(), info))
        : peerAddress(info);
      if (address?.includes(",")) {
        throw new TypeError(
          "Cannot count address: clientAddress must return one address, received a list; " +
            "forwardedAddress({ trusted: 1 }) reads the entry of one proxy",
        );
      }
      return { address, rejection: undefined };
    } catch (cause) {
      const fault = DecisionFault.thrown("clientAddress", cause);
      return { address: undefined, rejection: new Rejected(503, LATER, { cause, fault }) };
    }
  }
}

function isAtUserLimit(error: unknown): boolean {
  return error instanceof Rejected && error.cause instanceof LimitError &&
    error.cause.limit === "maxSessionsPerUser";
}

/** Finds the unreported rejection of a session that closed before it was established. */
function rejectionOfClose(
  { isAsked }: AwaitedToken,
  { code, by, reason = "" }: Partial<CloseInfo> = {},
): Rejected | undefined {
  // Such as a token that is too large.
  const isUnread = by === "local" && code === CloseCode.unauthenticated && !isAsked;
  if (isUnread) return new Rejected(401, reason);
  const isLate = by === "local" && code === CloseCode.timedOut;
  return isLate ? new Rejected(408, "No token in time") : undefined;
}

function bearerTokenOf(headers: Pick<Headers, "get">): string | undefined {
  const [scheme, token] = headers.get("authorization")?.split(" ") ?? [];
  return scheme?.toLowerCase() === "bearer" && token ? token : undefined;
}

function tokenOf({ url, headers }: SessionRequest<unknown>): string | undefined {
  const token = bearerTokenOf(headers);
  if (token !== undefined) return token;
  if (!url.includes("token=")) return undefined;
  // Matches the raw spelling, as `withoutToken` does, so that no token stays in a session's URL.
  const pair = new URL(url).search.slice(1).split("&").find((one) => one.startsWith("token="));
  return new URLSearchParams(pair).get("token") ?? undefined;
}
