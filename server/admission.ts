/**
 * From a request to a session, or to a refusal: path, origin, limits,
 * authentication, acceptance. In this order, on every wire, and before anything
 * is accepted.
 *
 * @module
 */
import { type AdmissionOptions, checkAdmissionOptions } from "./admission_options.ts";
import type { RequestInfo } from "../transport/address.ts";
import { Authenticator, type Identity, namingInBand, TAKES_NO_TOKEN } from "./authentication.ts";
import { ServerHandshake } from "./handshake.ts";
import type { Invitation } from "./session_request.ts";
import { Openings } from "./pending_upgrades.ts";
import { RefusalReport, Refused, withinLimits } from "./refusal.ts";
import { type WebSocketDoor, WebSocketInvitation } from "./websocket_request.ts";
import { type PagePlace, urlOf, WebTransportInvitation } from "./webtransport_request.ts";
import { AuthenticationError, CloseCode, LimitError } from "../errors.ts";
import type { AdmitOptions, Reservation, SessionManager } from "../manager/mod.ts";
import type { ConsoleReport } from "../session/insight/console_report.ts";
import { MAX_JOINED_BYTES } from "../session/queue/packing.ts";
import { internals, Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { TICKET_KEY, withoutToken } from "../session/url.ts";
import { SharedClaims } from "./shared_claims.ts";
import type { Connection } from "../transport/connection.ts";
import {
  acceptWebSocket,
  findUpgradeFault,
  isWebSocketUpgrade,
} from "../transport/websocket/server.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";
import type { SessionCloseOptions } from "../session/types.ts";

/** Headers that tell where a session comes from, and hold no secret. */
const DEFAULT_HEADERS: readonly string[] = [
  "host",
  "origin",
  "user-agent",
  "accept-language",
  "x-forwarded-for",
];

/** Bytes of headers that are kept for `authenticate` while a token is awaited: cookies fit. */
const MAX_AWAITED_HEADER_BYTES = 16_384;

/** Statuses of `authenticate` that a token may still turn into a yes. */
const OPEN_STATUSES: ReadonlySet<number> = new Set([400, 401, 403, 404]);

const ANYBODY = { value: undefined, user: undefined, credentials: undefined };

/** A request whose token follows in band, until it came. */
interface Awaited {
  /** Its headers, cookies included. */
  readonly headers: Headers;
  /** How `authenticate` refused the request as it was; `undefined` if it was not asked, or a token came. */
  refusal: Refused | undefined;
  /** Resolves once its token was accepted. */
  readonly admitted: PromiseWithResolvers<void>;
}

/** What an admission works with. */
export interface AdmissionParts {
  /** Knows all sessions of this node. */
  readonly manager: SessionManager;
  /**
   * Claims a place among the sessions of a user on all nodes; `undefined` where this node's are all.
   * Rejects with a {@linkcode LimitError} if there are too many.
   */
  readonly claim: (user: string) => Promise<Disposable> | undefined;
  /** Prints refusals that no handler is told of. */
  readonly console: ConsoleReport;
}

/** Admits sessions. */
export class Admission<V> {
  readonly #options: AdmissionOptions<V>;
  readonly #settings: SessionSettings;
  readonly #manager: SessionManager;
  readonly #claims: SharedClaims;
  readonly #webSocket: WebSocketDoor;
  readonly #messages: WebSocketDoor["messages"];
  readonly #matches: (url: string) => boolean;
  readonly #authenticator: Authenticator<V>;
  readonly #report: RefusalReport;
  // All are bounded by the places that the manager gave.
  readonly #openings: Openings;
  readonly #reservations = new Map<Connection, Reservation>();
  readonly #awaited = new Map<Connection, Awaited>();
  /** Sessions that are not established yet. */
  readonly #pending = new Set<Session>();

  /**
   * Admits sessions of these settings, as the manager's limits allow.
   *
   * @throws {TypeError} If an option makes no sense.
   * @throws {RangeError} If a time does not.
   */
  constructor(
    options: AdmissionOptions<V>,
    settings: SessionSettings,
    { manager, claim, console }: AdmissionParts,
  ) {
    checkAdmissionOptions(options);
    this.#claims = new SharedClaims(claim);
    this.#options = options;
    this.#settings = settings;
    this.#openings = new Openings(settings.handshakeTimeoutMs);
    this.#manager = manager;
    this.#messages = {
      streamTimeoutMs: settings.handshakeTimeoutMs,
      maxFrameBytes: Math.max(MAX_JOINED_BYTES, settings.maxMessageBytes),
    };
    this.#webSocket = {
      engine: options.webSocketEngine ?? acceptWebSocket,
      manager,
      openings: this.#openings,
      idleTimeoutMs: settings.heartbeat.timeoutMs,
      flowControl: options.flowControl,
      messages: this.#messages,
    };
    this.#matches = pathMatcher(options.path);
    this.#authenticator = new Authenticator(options);
    this.#report = new RefusalReport(options.onRefusal, console);
  }

  /** Hands over the place that was kept for a connection's session, to the manager. */
  takeReservation(connection: Connection): Reservation | undefined {
    const reservation = this.#reservations.get(connection);
    this.#reservations.delete(connection);
    return reservation;
  }

  /** Answers one HTTP request; at once, where nobody has to be asked. */
  fetch(request: Request, info: RequestInfo = {}): Response | Promise<Response> {
    // Who asks for a host that is none has no URL, which is for nobody here to stumble over.
    if (!URL.canParse(request.url)) return new Response("Malformed host", { status: 400 });
    if (!isWebSocketUpgrade(request)) return this.#other(request, info);
    const address = this.#addressOf(() => request, info);
    const fault = findUpgradeFault(request);
    if (fault !== undefined) {
      this.#report.tell(new Refused(400, fault.message), { address });
      // As it is: even a refusal would upgrade, for a client of Skein.
      return new Response(fault.message, fault);
    }
    return this.#answer(new WebSocketInvitation(request, address, this.#webSocket));
  }

  /** Answers one request for a WebTransport session. */
  async take(asked: WebTransportRequest, place: PagePlace): Promise<void> {
    const url = urlOf(asked);
    if (url === undefined) return asked.refuse(400);
    const info = { remoteAddr: asked.remoteAddress };
    const addressOf = (request: () => Request) => this.#addressOf(request, info);
    const messages = this.#messages;
    await this.#answer(new WebTransportInvitation(asked, { url, place, messages, addressOf }));
  }

  /** Closes the sessions that did not speak yet; the manager does not know them. */
  async close(options: SessionCloseOptions): Promise<void> {
    this.#openings[Symbol.dispose]();
    const info = { code: CloseCode.draining, ...options };
    await Promise.all([...this.#pending].map((session) => session.close(info)));
  }

  /** Runs `authenticate` for a token that came in band; of its errors only the refusal is left. */
  async renew(session: Session, token: string, signal: AbortSignal): Promise<Identity<V>> {
    const { url, address, connection } = session;
    const awaited = this.#awaited.get(connection);
    // From now on the token's refusal counts.
    if (awaited !== undefined) awaited.refusal = undefined;
    try {
      const request = new Request(url, { headers: awaited?.headers ?? session.headers });
      const identity = await this.#authenticator.identify(request, token, signal);
      if (session.state === "connecting") {
        this.#count({ user: identity.user });
        const { predecessor } = session[internals];
        const claim = await this.#claimFor(identity.user, predecessor);
        if (claim !== undefined) this.#claims.give(session, claim);
      }
      return identity;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { status, message, cause, isFault } = error;
      if (session.state === "connecting" || isFault) {
        this.#report.tell(error, { address, token: () => token });
      }
      throw new AuthenticationError(message, { status, cause });
    }
  }

  #answer<A>(invitation: Invitation<A>): A | Promise<A> {
    const handshake = ServerHandshake.begin(invitation, this.#settings);
    try {
      const answer = this.#admit(invitation, handshake);
      if (!(answer instanceof Promise)) return answer;
      return answer.catch((error) => this.#refuse(invitation, error, handshake));
    } catch (error) {
      return this.#refuse(invitation, error, handshake);
    }
  }

  #admit<A>(invitation: Invitation<A>, handshake: ServerHandshake | undefined): A | Promise<A> {
    const { url, headers, address, isSkein } = invitation;
    if (!this.#matches(url)) throw new Refused(404, "No session is served at this path");
    if (invitation.refusal !== undefined) throw invitation.refusal;
    if (!invitation.isOriginAllowed(this.#options)) {
      // The hint comes first: a close reason is cut at its end.
      throw new Refused(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    this.#count({ address });
    const { authenticate, acceptsTokenInBand = false } = this.#options;
    const takesInBand = acceptsTokenInBand && authenticate !== undefined;
    if (invitation.announcesToken && !takesInBand) {
      throw new Refused(401, TAKES_NO_TOKEN, { isToldByClose: true });
    }
    const awaited = invitation.announcesToken ? awaitedOf(invitation) : undefined;
    if (invitation.announcesToken && awaited === undefined) {
      throw new Refused(
        400,
        `Cannot wait for a token: the headers have more than ${MAX_AWAITED_HEADER_BYTES} bytes`,
      );
    }
    const reservation = this.#reserve(address, undefined);
    if (authenticate === undefined || awaited !== undefined) {
      return this.#accept(invitation, reservation, { ...ANYBODY, awaited, handshake });
    }
    const token = tokenOf(invitation);
    const mayAwait = takesInBand && isSkein && token === undefined;
    const identified = () =>
      this.#identified(invitation, reservation, { token, mayAwait, handshake });
    return handshake === undefined ? identified() : handshake.during(identified);
  }

  async #identified<A>(
    invitation: Invitation<A>,
    byAddress: Reservation,
    { token, mayAwait, handshake }: {
      readonly token: string | undefined;
      readonly mayAwait: boolean;
      readonly handshake: ServerHandshake | undefined;
    },
  ): Promise<A> {
    const { request, address, isSkein, signal } = invitation;
    const predecessor = this.#predecessorOf(invitation);
    let reservation = byAddress;
    let claim: Disposable | undefined;
    let awaited: Awaited | undefined;
    try {
      const identity = await this.#authenticator.identify(request, token, signal)
        .catch((error) => {
          // A client of 0.1 does not announce the token that it sends next.
          if (mayAwait) awaited = stillAwaited(invitation, error);
          if (awaited === undefined) throw error;
          return ANYBODY;
        });
      const { user } = identity;
      if (user !== undefined) {
        this.#count({ user });
        // The claim first: an attempt that waits for it takes no place of the user on this node.
        claim = await this.#claimFor(user, predecessor);
        byAddress[Symbol.dispose]();
        reservation = this.#reserve(address, user, predecessor);
      }
      // A client of 0.1 may say a token all the same, which it did not announce.
      const maySignIn = mayAwait && awaited === undefined && saysNothing(invitation);
      const who = { ...identity, awaited, maySignIn };
      return this.#accept(invitation, reservation, { ...who, handshake, claim });
    } catch (error) {
      reservation[Symbol.dispose]();
      claim?.[Symbol.dispose]();
      const hadNone = isSkein && token === undefined && !this.#options.acceptsTokenInBand;
      throw hadNone ? namingInBand(error) : error;
    }
  }

  #accept<A>(
    invitation: Invitation<A>,
    reservation: Reservation,
    { handshake, claim, awaited, maySignIn = false, ...who }: {
      readonly value: unknown;
      readonly user: string | undefined;
      readonly credentials: SessionIdentity["credentials"];
      readonly awaited?: Awaited | undefined;
      readonly maySignIn?: boolean;
      readonly handshake: ServerHandshake | undefined;
      readonly claim?: Disposable | undefined;
    },
  ): A {
    const { address } = invitation;
    const url = withoutToken(invitation.url);
    // After an upgrade the runtime cannot read them any more.
    const headers = this.#keptHeaders(invitation.headers);
    try {
      const { connection, opened, answer, held } = invitation.accept(awaited?.admitted.promise);
      const open = () => {
        if (reservation.isHeld) {
          const predecessor = this.#predecessorOf(invitation);
          const peer = { ...who, url, headers, address, ...(predecessor && { predecessor }) };
          const identity = maySignIn ? this.#guest(connection, peer) : peer;
          const session = this.#open(connection, reservation, { identity, awaited });
          if (claim !== undefined) this.#claims.give(session, claim);
          return handshake?.opened(session);
        }
        connection.close({ closeCode: CloseCode.timedOut, reason: "The upgrade took too long" });
      };
      if (opened === undefined) open();
      else {
        const all = [reservation, handshake, claim, ...held].filter((one) => one !== undefined);
        this.#openings.add(opened, all, open);
      }
      return answer;
    } catch (error) {
      reservation[Symbol.dispose]();
      throw error;
    }
  }

  #open(
    connection: Connection,
    reservation: Reservation,
    { identity, awaited }: {
      readonly identity: SessionIdentity;
      readonly awaited: Awaited | undefined;
    },
  ): Session {
    // Its constructor establishes most sessions, and the manager takes this then.
    this.#reservations.set(connection, reservation);
    const awaitsToken = awaited !== undefined;
    if (awaitsToken) this.#awaited.set(connection, awaited);
    const session = new Session(connection, this.#settings, { ...identity, awaitsToken });
    if (session.state !== "connecting") {
      // One that ended at once never got as far as the manager.
      this.takeReservation(connection)?.[Symbol.dispose]();
      this.#awaited.delete(connection);
      return session;
    }
    this.#await(session);
    return session;
  }

  /** The identity of a guest whose first frame may be a token: then another session follows. */
  #guest(connection: Connection, identity: SessionIdentity): SessionIdentity {
    const id = crypto.randomUUID();
    const { url = "", address, headers = [] } = identity;
    const successor = () => {
      const admitted = Promise.withResolvers<void>();
      const awaited = { headers: new Headers(headers), refusal: undefined, admitted };
      try {
        const reservation = this.#reserve(address, undefined);
        const heir = { id, url, address, headers, inherits: true };
        return this.#open(connection, reservation, { identity: heir, awaited });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        connection.close({ closeCode: 4000 + error.status, reason: error.message });
        return undefined;
      }
    };
    return { ...identity, id, successor };
  }

  /** Looks after a session that is not established yet, until it is, or is over. */
  #await(session: Session): void {
    const { connection, address } = session;
    const awaited = this.#awaited.get(connection);
    this.#pending.add(session);
    session.ready.then(() => {
      this.#pending.delete(session);
      this.#awaited.delete(connection);
      awaited?.admitted.resolve();
    }, () => {
      this.#pending.delete(session);
      const { code, by } = session[internals].info ?? {};
      const isLate = awaited !== undefined && code === CloseCode.timedOut && by === "local";
      // Where no token came, the first answer of `authenticate` was the last.
      const refusal = this.#awaited.get(connection)?.refusal ??
        (isLate ? new Refused(408, "No token in time") : undefined);
      this.#awaited.delete(connection);
      if (refusal !== undefined) this.#report.tell(refusal, { address });
      this.takeReservation(connection)?.[Symbol.dispose]();
    });
    const { refusal } = awaited ?? {};
    if (refusal === undefined) return;
    // A client that has no token would else wait for nothing.
    session[internals].post({ expects: "auth", reason: refusal.message });
  }

  /** Counts an attempt to connect, as soon as it is known whose it is. */
  #count(who: AdmitOptions): void {
    withinLimits(this.#manager, () => this.#manager.admitConnection(who));
  }

  /** Asks all nodes, where there are others, for a place among the user's sessions. */
  async #claimFor(
    user: string | undefined,
    beside: Session | undefined,
  ): Promise<Disposable | undefined> {
    try {
      return user === undefined ? undefined : await this.#claims.claim(user, beside);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      throw new Refused(429, error.message, { cause: error });
    }
  }

  #reserve(
    address: string | undefined,
    user: string | undefined,
    beside?: Session,
  ): Reservation {
    return withinLimits(this.#manager, () => this.#manager.admit({ address, user, beside }));
  }

  /** Finds the session of this node from which a client moves, by the secret that it was told. */
  #predecessorOf({ isSkein, url }: Invitation<unknown>): Session | undefined {
    if (!isSkein || !url.includes(TICKET_KEY)) return undefined;
    const ticket = new URL(url).searchParams.get(TICKET_KEY.slice(0, -1)) ?? "";
    const session = this.#manager.get(ticket.split(".", 1)[0]!);
    return session?.isReady && session[internals].ticket === ticket ? session : undefined;
  }

  #keptHeaders(headers: Headers): [string, string][] {
    const { keepsHeaders = DEFAULT_HEADERS } = this.#options;
    if (keepsHeaders === "all") return [...headers];
    const kept: [string, string][] = [];
    for (const name of keepsHeaders) {
      const value = headers.get(name);
      if (value !== null) kept.push([name, value]);
    }
    return kept;
  }

  #refuse<A>(invitation: Invitation<A>, error: unknown, handshake: ServerHandshake | undefined): A {
    handshake?.failed(error);
    if (!(error instanceof Refused)) throw error;
    const { address, signal } = invitation;
    // Who left is told nothing, and is nobody's fault.
    if (signal?.aborted !== true) {
      this.#report.tell(error, { address, token: () => tokenOf(invitation) });
    }
    return invitation.refuse(error);
  }

  #other(request: Request, info: RequestInfo): Response | Promise<Response> {
    const { fetch } = this.#options;
    if (fetch !== undefined) return fetch(request, info);
    const status = this.#matches(request.url) ? 426 : 404;
    return new Response(status === 404 ? "Not found" : "Expected a WebSocket upgrade", {
      status,
      headers: status === 426 ? { connection: "upgrade", upgrade: "websocket" } : {},
    });
  }

  #addressOf(request: () => Request, info: RequestInfo): string | undefined {
    const { clientAddress } = this.#options;
    if (clientAddress !== undefined) return clientAddress(request(), info);
    const { remoteAddr } = info;
    return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
  }
}

function tokenOf({ url, headers }: Invitation<unknown>): string | undefined {
  const [scheme, token] = headers.get("authorization")?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "bearer" && token) return token;
  if (!url.includes("token=")) return undefined;
  // As it is spelled, and as `withoutToken` finds it: what was read stays in no session's URL.
  const pair = new URL(url).search.slice(1).split("&").find((one) => one.startsWith("token="));
  return new URLSearchParams(pair).get("token") ?? undefined;
}

/** Tells whether a request has neither a cookie nor `Authorization`, which could name its user. */
function saysNothing({ headers }: Invitation<unknown>): boolean {
  return !headers.has("cookie") && !headers.has("authorization");
}

/** Keeps what a token needs to be checked, where one may turn a refusal into a yes. */
function stillAwaited(invitation: Invitation<unknown>, error: unknown): Awaited | undefined {
  if (!(error instanceof Refused)) return undefined;
  // A cookie may be of something else.
  const isOpen = saysNothing(invitation) ? OPEN_STATUSES.has(error.status) : error.status === 401;
  return isOpen ? awaitedOf(invitation, error) : undefined;
}

/**
 * Keeps the headers of a request, since the runtime cannot read them after an upgrade; `undefined`
 * if they are too many.
 */
function awaitedOf({ headers }: Invitation<unknown>, refusal?: Refused): Awaited | undefined {
  let bytes = 0;
  for (const [name, value] of headers) bytes += name.length + value.length;
  if (bytes > MAX_AWAITED_HEADER_BYTES) return undefined;
  return { headers: new Headers(headers), refusal, admitted: Promise.withResolvers() };
}

function pathMatcher(path: string | undefined): (url: string) => boolean {
  if (path === undefined) return () => true;
  if (!/[:*?+(){}]/.test(path)) return (url) => pathOf(url) === path;
  const pattern = new URLPattern({ pathname: path });
  return (url) => pattern.test({ pathname: pathOf(url) });
}

/** The path of a request's URL, which the HTTP server normalised already. */
function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}
