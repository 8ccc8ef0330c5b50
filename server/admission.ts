/**
 * Admission of sessions on every transport: checks the path, the origin and the limits,
 * authenticates the peer, and accepts the session, in this order.
 */
import { type AdmissionOptions, pathMatcher, pathOf } from "./admission_options.ts";
import { peerAddress, type RequestInfo } from "../transport/address.ts";
import { Authenticator, GUEST, type Identity, LATER, TAKES_NO_TOKEN } from "./authentication.ts";
import { PendingUpgrades, type RequestPeer, type SessionRequest } from "./session_request.ts";
import type { Face } from "./face.ts";
import type { RequestHead } from "./feature.ts";
import { Rejected, RejectionReport, withinLimits } from "./rejection.ts";
import {
  FetchedUpgrade,
  WebSocketSessionRequest,
  type WebSocketUpgradeOptions,
} from "./websocket_request.ts";
import { type PageOrigin, parsedUrl, WebTransportSessionRequest } from "./webtransport_request.ts";
import {
  AuthenticationError,
  CloseCode,
  type CloseInfo,
  ConnectionError,
  LimitError,
} from "../errors.ts";
import type { Reservation } from "../manager/limits.ts";
import type { AdmitOptions, SessionManager } from "../manager/session_manager.ts";
import { DecisionFault } from "../base/decision.ts";
import { settlesWithin } from "../base/wait.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import type { Decisions, Login } from "../pubsub/decisions.ts";
import { MAX_JOINED_BYTES } from "../session/queue/frames.ts";
import { internals, Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import { TICKET_KEY, withoutToken } from "../session/url.ts";
import { MAX_TOKEN_BYTES } from "../session/serving/first_frames.ts";
import { TICKET_SECRET } from "../session/serving/requests.ts";
import type { GivingWay, Newcomer } from "./giving_way.ts";
import { SessionClaims, type UserClaims } from "./user_limit.ts";
import type { Connection } from "../transport/connection.ts";
import {
  acceptWebSocket,
  findUpgradeFault,
  isWebSocketUpgrade,
  type OfferedUpgrade,
  type UpgradeRequest,
  type WebSocketEngine,
} from "../transport/websocket/server.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";
import type { SessionCloseOptions, SessionIdentity } from "../session/types.ts";
import { rejectionStatus } from "../session/insight/watch.ts";
import type { FollowedHandshake } from "../session/settings/settings.ts";

/** Headers that describe the client of a session and contain no secrets. */
const DEFAULT_HEADERS: readonly string[] = [
  "host",
  "origin",
  "user-agent",
  "accept-language",
  "x-forwarded-for",
];

/** Most bytes of headers kept for `authenticate` while a token is pending; enough for cookies. */
const MAX_AWAITED_HEADER_BYTES = 16_384;

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

/** A peer whose session counts towards the limit of its user. */
interface UserNewcomer extends Newcomer {
  readonly user: string | undefined;
  /** The session from which the client moves. */
  readonly predecessor: Session | undefined;
}

type ServerIdentity = SessionIdentity<unknown, Session>;

/** A request whose token follows in a message. */
interface Awaited {
  /** Request headers, including cookies. */
  readonly headers: Headers;
  /**
   * `true` once a token was passed to `authenticate`, after which its rejection is already
   * reported.
   */
  isAsked: boolean;
  /** Resolves once the token was accepted. */
  readonly admitted: PromiseWithResolvers<void>;
}

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

/** Admits or rejects sessions: the face for WebSocket upgrades and WebTransport. */
export class Admission<V> implements Face {
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
  // All bounded by the manager's reservations.
  readonly #pendingUpgrades: PendingUpgrades;
  /** True once a WebSocket has opened after its upgrade. */
  #hasOpened = false;
  readonly #reservations = new Map<Connection, Reservation>();
  readonly #awaited = new Map<Connection, Awaited>();
  readonly #decisions: Decisions;
  /** Logins of sessions that are not established yet. */
  readonly #pendingLogins = new Map<Connection, Login>();
  /** Sessions that are not established yet. */
  readonly #pending = new Set<Session>();
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
    { manager, claims, givingWay, decisions, console, accept = acceptWebSocket }: AdmissionParts,
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
      maxEarlyBytes: (options.maxTokenBytes ?? MAX_TOKEN_BYTES) + EARLY_MARGIN_BYTES,
    };
    this.#engine = accept;
    this.#upgradeOptions = {
      runtime,
      manager,
      pendingUpgrades: this.#pendingUpgrades,
      idleTimeoutMs: settings.heartbeat.timeoutMs,
      flowControl: options.flowControl,
      messages: this.#messages,
    };
    this.serves = pathMatcher(options.path);
    this.#authenticator = new Authenticator(runtime, options);
    this.#report = new RejectionReport(options.onSessionRejected, console);
    this.#console = console;
  }

  /** Passes the reservation of a connection to the manager. */
  takeReservation(connection: Connection): Reservation | undefined {
    const reservation = this.#reservations.get(connection);
    this.#reservations.delete(connection);
    return reservation;
  }

  /**
   * Returns the options with which the user of a new session was disconnected while the session was
   * being established; `undefined` if that did not happen.
   */
  revocationOf({ connection, [internals]: { user } }: Session): SessionCloseOptions | undefined {
    return this.#pendingLogins.get(connection)?.revocationFor(user);
  }

  /** Checks whether a request is an upgrade, or came over WebTransport. */
  wants(request: RequestHead): boolean {
    return request.protocols !== undefined || isWebSocketUpgrade(request);
  }

  /**
   * Responds to an upgrade. The response is synchronous unless the application must decide first.
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

  take(asked: WebTransportRequest, pages: PageOrigin): void | Promise<void> {
    const url = parsedUrl(asked);
    if (url === undefined) return asked.reject(400);
    const info = { remoteAddr: asked.remoteAddress };
    const peerOf = (request: () => Request) => this.peerOf(request, info);
    const { runtime } = this.#settings;
    const messages = this.#messages;
    const onAccepted = (connection: Connection) => this.#follow(connection);
    const options = { runtime, url, pages, messages, peerOf, onAccepted };
    return this.admit(new WebTransportSessionRequest(asked, options));
  }

  /**
   * Checks whether a request for a WebTransport session comes from a client that moves from another
   * session.
   */
  isSuccessor(asked: WebTransportRequest): boolean {
    const url = parsedUrl(asked);
    return url !== undefined && this.#predecessorOf({ isSkein: true, url: url.href }) !== undefined;
  }

  #follow(connection: Connection): void {
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
      ...[...this.#pending].map((session) => session.close(info)),
    ]);
    const ends = [...this.#connections].map(({ closed }) => closed);
    await settlesWithin(this.#settings.runtime, Promise.allSettled(ends), FAREWELL_MS);
  }

  /**
   * Runs `authenticate` for a token that came in a message. Errors become an `AuthenticationError`.
   */
  async renew(session: Session, token: string, signal: AbortSignal): Promise<Identity> {
    const { url, address, connection } = session;
    const awaited = this.#awaited.get(connection);
    if (awaited !== undefined) awaited.isAsked = true;
    using cleanup = new DisposableStack();
    const login = cleanup.use(this.#decisions.login());
    try {
      const request = new Request(url, { headers: awaited?.headers ?? session.headers });
      const identity = await this.#authenticator.identify(request, { token, login, signal });
      if (session.state === "connecting") {
        this.#count({ user: identity.user });
        this.#hintAtShared(identity.user, address);
        const { predecessor, secret } = session[internals].lineage;
        const { user } = identity;
        const newcomer = { user, predecessor, secret, signal, isHttp: false };
        const claim = await this.#claimFor(newcomer);
        if (claim !== undefined) this.#claims.give(session, claim);
        const reservation = this.#reservations.get(connection);
        await this.#withRoom(newcomer, () => this.#identify(reservation, newcomer));
        // The login lasts until the session is established.
        if (this.#pending.has(session)) {
          this.#pendingLogins.set(connection, login);
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
  admit<A>(sessionRequest: SessionRequest<A>): A | Promise<A> {
    const handshake = ServerHandshake.begin(sessionRequest, this.#settings);
    try {
      const response = this.#admit(sessionRequest, handshake);
      if (!(response instanceof Promise)) return response;
      return response.catch((error) => this.#reject(sessionRequest, error, handshake));
    } catch (error) {
      return this.#reject(sessionRequest, error, handshake);
    }
  }

  #admit<A>(
    sessionRequest: SessionRequest<A>,
    handshake: ServerHandshake | undefined,
  ): A | Promise<A> {
    const { url, headers, address } = sessionRequest;
    if (!this.serves(url)) throw new Rejected(404, "No session is served at this path");
    if (sessionRequest.rejection !== undefined) throw sessionRequest.rejection;
    if (!sessionRequest.isOriginAllowed(this.#options)) {
      // The hint comes first, because a close reason is cut at its end.
      throw new Rejected(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    this.#count({ address });
    const { authenticate, allowTokenMessage = false } = this.#options;
    const takesInBand = allowTokenMessage && authenticate !== undefined;
    if (sessionRequest.announcesToken && !takesInBand) {
      throw new Rejected(401, TAKES_NO_TOKEN, { isToldByClose: true });
    }
    const awaited = sessionRequest.announcesToken ? awaitedOf(sessionRequest) : undefined;
    if (sessionRequest.announcesToken && awaited === undefined) {
      throw new Rejected(
        400,
        `Cannot wait for a token: the headers have more than ${MAX_AWAITED_HEADER_BYTES} bytes`,
      );
    }
    const predecessor = this.#predecessorOf(sessionRequest);
    const reservation = this.#reserve(address, predecessor);
    if (authenticate === undefined || awaited !== undefined) {
      const who = awaited === undefined ? GUEST : UNKNOWN;
      return this.#accept(sessionRequest, reservation, { ...who, awaited, handshake });
    }
    const identified = () =>
      this.#identified(sessionRequest, reservation, { handshake, predecessor });
    return handshake === undefined ? identified() : handshake.during(identified);
  }

  async #identified<A>(
    sessionRequest: SessionRequest<A>,
    reservation: Reservation,
    { handshake, predecessor }: {
      readonly handshake: ServerHandshake | undefined;
      readonly predecessor: Session | undefined;
    },
  ): Promise<A> {
    const { request, address, signal } = sessionRequest;
    let claim: Disposable | undefined;
    const login = this.#decisions.login();
    try {
      const token = tokenOf(sessionRequest);
      const identity = await this.#authenticator.identify(request, { token, login, signal });
      const { user } = identity;
      if (user !== undefined) {
        this.#count({ user });
        this.#hintAtShared(user, address);
        const isHttp = sessionRequest.transport === "http";
        const secret = secretOf(sessionRequest);
        const newcomer = { user, predecessor, secret, signal, isHttp };
        // Claim first: while an attempt waits for its claim, it must not use one of the user's
        // slots on this node.
        claim = await this.#claimFor(newcomer);
        await this.#withRoom(newcomer, () => this.#identify(reservation, newcomer));
      }
      return this.#accept(sessionRequest, reservation, { ...identity, handshake, claim, login });
    } catch (error) {
      reservation[Symbol.dispose]();
      claim?.[Symbol.dispose]();
      login[Symbol.dispose]();
      throw error;
    }
  }

  #accept<A>(
    sessionRequest: SessionRequest<A>,
    reservation: Reservation,
    { value, user, isGuest, credentials, handshake, claim, login, awaited }:
      & Identity
      & {
        readonly awaited?: Awaited | undefined;
        readonly handshake: ServerHandshake | undefined;
        readonly claim?: Disposable | undefined;
        readonly login?: Login | undefined;
      },
  ): A {
    const { address } = sessionRequest;
    const { url: asked } = sessionRequest;
    const url = asked.includes("?") ? withoutToken(asked) : asked;
    // After an upgrade the runtime can no longer read the headers.
    const headers = this.#keptHeaders(sessionRequest.headers);
    try {
      const { connection, opened, response, held } = sessionRequest.accept({
        admitted: awaited?.admitted.promise,
        beside: this.#predecessorOf(sessionRequest),
      });
      const open = () => {
        if (reservation.isHeld) {
          const predecessor = this.#predecessorOf(sessionRequest);
          const secret = secretOf(sessionRequest);
          const who = { value, user, isGuest, credentials, url, headers, address, secret };
          const peer = predecessor === undefined ? who : { ...who, predecessor };
          const session = this.#open(connection, reservation, { identity: peer, awaited, login });
          if (claim !== undefined) this.#claims.give(session, claim);
          return handshake?.opened(session);
        }
        // The slot was released because the upgrade took too long or the server is closing.
        login?.[Symbol.dispose]();
        connection.close(
          this.#manager.isDraining
            ? { closeCode: CloseCode.draining, reason: "The server closes" }
            : { closeCode: CloseCode.timedOut, reason: "The upgrade took too long" },
        );
      };
      if (opened === undefined) open();
      else {
        const all = [reservation, handshake, claim, login, ...held]
          .filter((one) => one !== undefined);
        const begin = () => {
          this.#hasOpened ||= sessionRequest.transport === "websocket";
          open();
        };
        this.#pendingUpgrades.add(opened, all, { begin, onLate: () => this.#late(sessionRequest) });
      }
      return response;
    } catch (error) {
      reservation[Symbol.dispose]();
      throw error;
    }
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

  #open(
    connection: Connection,
    reservation: Reservation,
    { identity, awaited, login }: {
      readonly identity: ServerIdentity;
      readonly awaited: Awaited | undefined;
      readonly login: Login | undefined;
    },
  ): Session {
    // Most sessions are established in the constructor, where the manager takes the reservation.
    this.#reservations.set(connection, reservation);
    const awaitsToken = awaited !== undefined;
    if (awaitsToken) this.#awaited.set(connection, awaited);
    if (login !== undefined) this.#pendingLogins.set(connection, login);
    const session = new Session(connection, this.#settings, { ...identity, awaitsToken });
    if (session.state !== "connecting") {
      // A session that closed immediately never reached the manager.
      this.takeReservation(connection)?.[Symbol.dispose]();
      this.#awaited.delete(connection);
      this.#endLogin(connection);
      return session;
    }
    this.#await(session);
    return session;
  }

  #endLogin(connection: Connection): void {
    this.#pendingLogins.get(connection)?.[Symbol.dispose]();
    this.#pendingLogins.delete(connection);
  }

  /** Follows a session until it is established or closed. */
  #await(session: Session): void {
    const { connection, address } = session;
    const awaited = this.#awaited.get(connection);
    this.#pending.add(session);
    session.ready.then(() => {
      this.#pending.delete(session);
      this.#awaited.delete(connection);
      this.#endLogin(connection);
      awaited?.admitted.resolve();
    }, () => {
      this.#pending.delete(session);
      const rejection = awaited && rejectionOfClose(awaited, session[internals].info);
      this.#awaited.delete(connection);
      this.#endLogin(connection);
      if (rejection !== undefined) this.#report.tell(rejection, { address });
      this.takeReservation(connection)?.[Symbol.dispose]();
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

  /** Counts a connection attempt, as soon as the address or the user is known. */
  #count(who: AdmitOptions): void {
    withinLimits(this.#manager, () => this.#manager.admitConnection(who));
  }

  async #claimFor(newcomer: UserNewcomer): Promise<Disposable | undefined> {
    const { user, predecessor } = newcomer;
    if (user === undefined) return undefined;
    return await this.#withRoom(newcomer, async () => {
      try {
        return await this.#claims.claim(user, predecessor);
      } catch (error) {
        if (!(error instanceof LimitError)) throw error;
        throw new Rejected(429, error.message, { cause: error });
      }
    });
  }

  /** Counts a slot toward its user. Until then, it counts toward its address only. */
  #identify(
    reservation: Reservation | undefined,
    { user, predecessor: beside }: UserNewcomer,
  ): void {
    // The slot is released if the session closes, or the server.
    if (user === undefined || !reservation?.isHeld) return;
    withinLimits(this.#manager, () => this.#manager.identify(reservation, { user, beside }));
  }

  /** Takes a slot. If the user is at the limit, makes room once and takes it again. */
  async #withRoom<T>(newcomer: UserNewcomer, take: () => T | Promise<T>): Promise<T> {
    try {
      return await take();
    } catch (error) {
      const { user, predecessor, secret } = newcomer;
      if (!isAtUserLimit(error) || user === undefined) throw error;
      const lost = predecessor === undefined ? secret : undefined;
      if (!await this.#givingWay.makeRoom(user, { ...newcomer, secret: lost })) throw error;
    }
    return await take();
  }

  #reserve(address: string | undefined, beside: Session | undefined): Reservation {
    return withinLimits(this.#manager, () => this.#manager.admit({ address, beside }));
  }

  /** Finds the session of this node from which a client moves, by its secret ticket. */
  #predecessorOf(
    sessionRequest: Pick<SessionRequest<unknown>, "isSkein" | "url">,
  ): Session | undefined {
    const ticket = ticketOf(sessionRequest);
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

  #reject<A>(
    sessionRequest: SessionRequest<A>,
    error: unknown,
    handshake: ServerHandshake | undefined,
  ): A {
    handshake?.failed(error);
    if (!(error instanceof Rejected)) throw error;
    const { address, signal, isSkein } = sessionRequest;
    const rejected = isSkein ? error : error.forAnyPeer;
    // The client disconnected during authentication, which is not reported as a rejection.
    if (signal?.aborted !== true) {
      this.#report.tell(rejected, { address, token: () => tokenOf(sessionRequest) });
    }
    return sessionRequest.reject(rejected);
  }

  /** Finds the network address of a request, or the rejection if `clientAddress` failed. */
  peerOf(request: () => Request, info: RequestInfo): RequestPeer {
    const { clientAddress } = this.#options;
    try {
      const address = clientAddress ? clientAddress(request(), info) : peerAddress(info);
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
  { isAsked }: Awaited,
  { code, by, reason = "" }: Partial<CloseInfo> = {},
): Rejected | undefined {
  // Such as a token that is too large.
  const isUnread = by === "local" && code === CloseCode.unauthenticated && !isAsked;
  if (isUnread) return new Rejected(401, reason);
  const isLate = by === "local" && code === CloseCode.timedOut;
  return isLate ? new Rejected(408, "No token in time") : undefined;
}

/** Reads the ticket of the client's earlier session, if any. */
function ticketOf(
  { isSkein, url }: Pick<SessionRequest<unknown>, "isSkein" | "url">,
): string | undefined {
  if (!isSkein || !url.includes(TICKET_KEY)) return undefined;
  return new URL(url).searchParams.get(TICKET_KEY.slice(0, -1)) ?? undefined;
}

/** Reads the secret of the client's earlier session, which identifies a returning guest. */
function secretOf(sessionRequest: SessionRequest<unknown>): string | undefined {
  const secret = ticketOf(sessionRequest)?.split(".")[1] ?? "";
  return TICKET_SECRET.test(secret) ? secret : undefined;
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

/**
 * Copies the headers of a request, because the runtime cannot read them after an upgrade. Returns
 * `undefined` if they are too large.
 */
function awaitedOf({ headers }: SessionRequest<unknown>): Awaited | undefined {
  let bytes = 0;
  for (const [name, value] of headers) bytes += name.length + value.length;
  if (bytes > MAX_AWAITED_HEADER_BYTES) return undefined;
  const admitted = Promise.withResolvers<void>();
  return { headers: new Headers([...headers]), isAsked: false, admitted };
}

/**
 * A handshake that is observed by an instrumentation. If it is disposed of without a result, the
 * peer disappeared.
 */
class ServerHandshake implements Disposable {
  readonly #handshake: FollowedHandshake;

  private constructor(handshake: FollowedHandshake) {
    this.#handshake = handshake;
  }

  /** Starts a handshake; `undefined` without an instrumentation. */
  static begin(
    { url, transport, address }: SessionRequest<unknown>,
    { watch }: SessionSettings,
  ): ServerHandshake | undefined {
    if (watch === undefined) return undefined;
    const info = { side: "server", url: withoutToken(url), transport, address } as const;
    const handshake = watch.handshake(info);
    return handshake && new ServerHandshake(handshake);
  }

  /** Runs application code within the handshake. */
  during<T>(run: () => T): T {
    return this.#handshake.during(run);
  }

  /** Ends the handshake with a session, once it is established. */
  opened(session: Session): void {
    if (session.state === "connected") return this.#handshake.ended({ session });
    session.ready.then(
      () => this.#handshake.ended({ session }),
      (error) => this.failed(error),
    );
  }

  /** Ends the handshake without a session. */
  failed(error: unknown): void {
    this.#handshake.ended({ error, status: rejectionStatus(error) });
  }

  /** Ends the handshake of a peer that never opened the connection. */
  [Symbol.dispose](): void {
    this.failed(new ConnectionError("The connection never opened"));
  }
}
