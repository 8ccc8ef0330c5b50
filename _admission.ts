/**
 * From an HTTP request to a session, or to a refusal: path, origin, limits,
 * authentication, upgrade. In this order, and before anything is upgraded.
 *
 * @module
 */
import {
  type AdmissionOptions,
  checkAdmissionOptions,
  type RequestInfo,
} from "./_admission_options.ts";
import { Authenticator, type Identity, namingInBand } from "./_authentication.ts";
import { Openings } from "./_openings.ts";
import { RefusalReport, Refused } from "./_refusal.ts";
import { AuthenticationError, CloseCode, LimitError } from "./errors.ts";
import type { Reservation, SessionManager } from "./manager/mod.ts";
import {
  Session,
  type SessionCloseOptions,
  type SessionIdentity,
  SKEIN_PROTOCOL,
} from "./session/session.ts";
import type { SessionSettings } from "./session/settings.ts";
import { withoutToken } from "./session/url.ts";
import type { Connection } from "./transport/connection.ts";
import { isOriginAllowed } from "./transport/origins.ts";
import {
  type AcceptedWebSocket,
  acceptWebSocket,
  isWebSocketUpgrade,
  offeredProtocols,
  type SocketLease,
  type WebSocketEngine,
} from "./transport/websocket_server.ts";

/** Headers that tell where a session comes from, and hold no secret. */
const DEFAULT_HEADERS: readonly string[] = [
  "host",
  "origin",
  "user-agent",
  "accept-language",
  "x-forwarded-for",
];

/** Who asks to be admitted. */
interface Peer {
  readonly request: Request;
  readonly address: string | undefined;
  readonly isSkein: boolean;
}

const ANYBODY = { value: undefined, user: undefined, awaitsToken: false };
const AWAITED = { ...ANYBODY, awaitsToken: true };

/** Admits sessions. */
export class Admission<V> {
  readonly #options: AdmissionOptions<V>;
  readonly #settings: SessionSettings;
  readonly #manager: SessionManager;
  readonly #accept: WebSocketEngine;
  readonly #matches: (url: string) => boolean;
  readonly #authenticator: Authenticator<V>;
  readonly #report: RefusalReport;
  // Both are bounded by the places that the manager gave.
  readonly #openings: Openings;
  readonly #reservations = new Map<Connection, Reservation>();
  readonly #awaited = new Set<Session>();

  /**
   * Admits sessions of these settings, as the manager's limits allow.
   *
   * @throws {TypeError} If an option makes no sense.
   * @throws {RangeError} If a time does not.
   */
  constructor(options: AdmissionOptions<V>, settings: SessionSettings, manager: SessionManager) {
    checkAdmissionOptions(options);
    this.#options = options;
    this.#settings = settings;
    this.#openings = new Openings(settings.handshakeTimeoutMs);
    this.#manager = manager;
    this.#accept = options.webSocketEngine ?? acceptWebSocket;
    this.#matches = pathMatcher(options.path);
    this.#authenticator = new Authenticator(options);
    this.#report = new RefusalReport(options.onRefusal);
  }

  /** Hands over the place that was kept for a connection's session, to the manager. */
  takeReservation(connection: Connection): Reservation | undefined {
    const reservation = this.#reservations.get(connection);
    this.#reservations.delete(connection);
    return reservation;
  }

  /** Answers one request; at once, where nobody has to be asked. */
  fetch(request: Request, info: RequestInfo = {}): Response | Promise<Response> {
    if (!isWebSocketUpgrade(request)) return this.#other(request, info);
    const address = this.#addressOf(request, info);
    const isSkein = offeredProtocols(request).includes(SKEIN_PROTOCOL);
    const peer = { request, address, isSkein };
    try {
      const response = this.#admit(peer);
      if (response instanceof Response) return response;
      return response.catch((error) => this.#refuse(peer, error));
    } catch (error) {
      return this.#refuse(peer, error);
    }
  }

  /** Closes the sessions that did not say their tokens yet; the manager does not know them. */
  async close(options: SessionCloseOptions): Promise<void> {
    const info = { code: CloseCode.draining, ...options };
    await Promise.all([...this.#awaited].map((session) => session.close(info)));
  }

  /** Runs `authenticate` for a token that came in band; of its errors only the refusal is left. */
  async renew(session: Session, token: string, signal: AbortSignal): Promise<Identity<V>> {
    const { url, headers, address } = session;
    try {
      return await this.#authenticator.identify(new Request(url, { headers }), token, signal);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { status, message, cause, isFault } = error;
      if (session.state === "connecting" || isFault) this.#report.tell(error, { address, token });
      throw new AuthenticationError(message, { status, cause });
    }
  }

  #admit(peer: Peer): Response | Promise<Response> {
    const { request, address, isSkein } = peer;
    const { url, headers } = request;
    if (!this.#matches(url)) throw new Refused(404, "No session is served at this path");
    if (!isOriginAllowed(headers, this.#options)) {
      // The hint comes first: a close reason is cut at its end.
      throw new Refused(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    const reservation = this.#reserve(address, undefined);
    const { authenticate, acceptsTokenInBand = false } = this.#options;
    if (authenticate === undefined) return this.#upgrade(peer, reservation, ANYBODY);
    const token = tokenOf(request);
    const mayAwait = acceptsTokenInBand && isSkein && token === undefined;
    if (mayAwait && !headers.has("cookie") && !headers.has("authorization")) {
      return this.#upgrade(peer, reservation, AWAITED);
    }
    return this.#identified(peer, reservation, { token, mayAwait });
  }

  async #identified(
    peer: Peer,
    byAddress: Reservation,
    { token, mayAwait }: { readonly token: string | undefined; readonly mayAwait: boolean },
  ): Promise<Response> {
    let reservation = byAddress;
    try {
      const { value, user } = await this.#authenticator.identify(peer.request, token);
      if (user !== undefined) {
        byAddress[Symbol.dispose]();
        reservation = this.#reserve(peer.address, user);
      }
      return this.#upgrade(peer, reservation, { value, user, awaitsToken: false });
    } catch (error) {
      // Who has a cookie of something else may still say a token.
      const isUnknown = error instanceof Refused && error.status === 401;
      if (mayAwait && isUnknown) return this.#upgrade(peer, reservation, AWAITED);
      reservation[Symbol.dispose]();
      const hadNone = peer.isSkein && token === undefined && !this.#options.acceptsTokenInBand;
      throw hadNone ? namingInBand(error) : error;
    }
  }

  #upgrade(
    { request, address, isSkein }: Peer,
    reservation: Reservation,
    who: { value: unknown; user: string | undefined; awaitsToken: boolean },
  ): Response {
    const url = withoutToken(request.url);
    // After the upgrade the runtime can not read them any more.
    const headers = this.#keptHeaders(request.headers);
    let accepted: AcceptedWebSocket;
    let lease: SocketLease | undefined;
    try {
      lease = this.#lease(address);
      accepted = this.#accept(request, {
        protocol: isSkein ? SKEIN_PROTOCOL : "",
        // `skein.1` has a heartbeat of its own; a plain peer is pinged by the runtime.
        idleTimeoutMs: isSkein ? 0 : this.#settings.heartbeat.timeoutMs,
        lease,
      });
    } catch (cause) {
      reservation[Symbol.dispose]();
      lease?.[Symbol.dispose]();
      if (cause instanceof Refused) throw cause;
      throw new Refused(400, "The upgrade is malformed", { cause });
    }
    const { connection, response } = accepted;
    this.#openings.add(connection, [reservation, lease], () => {
      if (reservation.isHeld) {
        return this.#open(connection, reservation, { ...who, url, headers, address });
      }
      connection.close({ closeCode: CloseCode.timedOut, reason: "The upgrade took too long" });
    });
    return response;
  }

  #open(
    connection: Connection,
    reservation: Reservation,
    identity: SessionIdentity,
  ): void {
    // Its constructor establishes most sessions, and the manager takes this then.
    this.#reservations.set(connection, reservation);
    const session = new Session(connection, this.#settings, identity);
    if (session.state !== "connecting") {
      // One that ended at once never got as far as the manager.
      return this.takeReservation(connection)?.[Symbol.dispose]();
    }
    // One that never says its token gives its place back.
    this.#awaited.add(session);
    session.ready.then(() => this.#awaited.delete(session), () => {
      this.#awaited.delete(session);
      this.takeReservation(connection)?.[Symbol.dispose]();
    });
  }

  #reserve(address: string | undefined, user: string | undefined): Reservation {
    return withinLimits(this.#manager, () => this.#manager.admit({ address, user }));
  }

  #lease(address: string | undefined): SocketLease {
    return withinLimits(this.#manager, () => this.#manager.admitSocket({ address }));
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

  /** A browser sees no status of a refused WebSocket, so Skein's client is told by a close. */
  #refuse(peer: Peer, error: unknown): Response {
    if (!(error instanceof Refused)) throw error;
    const { request, address, isSkein } = peer;
    const { status, message: reason } = error;
    // A token is looked for only where it could be printed.
    this.#report.tell(error, { address, token: error.isFault ? tokenOf(request) : undefined });
    return isSkein && this.#refuseByClose(peer, { closeCode: 4000 + status, reason }) ||
      new Response(reason, {
        status,
        headers: status === 429 || status === 503 ? { "retry-after": "5" } : {},
      });
  }

  /** Such a socket lingers until its peer answers the close, or leaves; so it counts like the others. */
  #refuseByClose(
    { request, address }: Peer,
    info: { readonly closeCode: number; readonly reason: string },
  ): Response | undefined {
    let lease: SocketLease | undefined;
    try {
      lease = this.#lease(address);
      const { connection, response } = this.#accept(request, {
        protocol: SKEIN_PROTOCOL,
        // It would end with the close, and end nothing.
        idleTimeoutMs: 0,
        lease,
      });
      this.#openings.add(connection, [lease], () => {});
      connection.close(info);
      return response;
    } catch {
      // What can not be upgraded, or not any more, gets the status.
      lease?.[Symbol.dispose]();
      return undefined;
    }
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

  #addressOf(request: Request, info: RequestInfo): string | undefined {
    const { clientAddress } = this.#options;
    if (clientAddress !== undefined) return clientAddress(request, info);
    const { remoteAddr } = info;
    return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
  }
}

/** A limit that is reached is a refusal. */
function withinLimits<T>(manager: SessionManager, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw new Refused(manager.isDraining ? 503 : 429, error.message, { cause: error });
  }
}

function tokenOf(request: Request): string | undefined {
  const [scheme, token] = request.headers.get("authorization")?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "bearer" && token) return token;
  if (!request.url.includes("token=")) return undefined;
  return new URL(request.url).searchParams.get("token") ?? undefined;
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
