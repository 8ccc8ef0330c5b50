/**
 * From an HTTP request to a session, or to a refusal: path, origin, limits,
 * authentication, upgrade. In this order, and before anything is upgraded.
 *
 * @module
 */
import { AuthenticationError, CloseCode, LimitError, type RefusalStatus } from "./errors.ts";
import type { Reservation, SessionManager } from "./manager/mod.ts";
import {
  Session,
  type SessionCloseOptions,
  type SessionIdentity,
  SKEIN_PROTOCOL,
} from "./session/session.ts";
import type { SessionSettings } from "./session/settings.ts";
import type { Connection } from "./transport/connection.ts";
import { isOriginAllowed, type OriginRules } from "./transport/origins.ts";
import {
  acceptWebSocket,
  isWebSocketUpgrade,
  offeredProtocols,
  type WebSocketEngine,
} from "./transport/websocket_server.ts";

/** A peer that is refused has this long to take note, in milliseconds. */
const REFUSED_IDLE_MS = 10_000;

/** What an HTTP server knows of a request beside the request. */
export interface RequestInfo {
  /** Where it came from. */
  readonly remoteAddr?: Deno.Addr;
}

/** What `authenticate` gets to see. */
export interface AuthenticationContext {
  /**
   * The request that began the session: its URL, headers and cookies. For a
   * token that comes in band, it has the headers that the session keeps
   * (`keepsHeaders`), and no cookies unless they are among them.
   */
  readonly request: Request;
  /** The bearer token, from the header, from `?token=`, or sent in band. */
  readonly token: string | undefined;
  /** Aborted when the answer takes longer than `authenticateTimeoutMs`, or the session ended meanwhile. */
  readonly signal: AbortSignal;
}

/** A session that was refused; told to `onRefusal`. */
export interface Refusal {
  /** HTTP status; the close code is 4000 more. */
  readonly status: RefusalStatus;
  /** What the peer was told. */
  readonly reason: string;
  /** The peer's network address, where it is known. */
  readonly address: string | undefined;
  /** What `authenticate` threw, if it was that. */
  readonly error?: unknown;
}

/** Options for admitting sessions. */
export interface AdmissionOptions<V> extends OriginRules {
  /**
   * Path at which sessions are served: exact, or a `URLPattern` pathname such as `/rooms/:id`.
   * Every path, if left out.
   */
  readonly path?: string;
  /**
   * Says who a peer is; what it returns becomes `session.value`. A throw refuses
   * the session: an {@linkcode AuthenticationError} with its status and text,
   * anything else with 401 and no text.
   */
  readonly authenticate?: (context: AuthenticationContext) => V | Promise<V>;
  /**
   * Says which user a value stands for: for presence, limits and `server.to`.
   * By default the value itself if it is a string, and each session its own user otherwise.
   */
  readonly userOf?: (value: V) => string;
  /**
   * Lets a `skein.1` client that has no token, and no cookie that `authenticate`
   * takes, connect and say its token first: within `session.handshakeTimeoutMs` (5
   * seconds) and 8 KiB, before anything else is read.
   *
   * @default {false}
   */
  readonly acceptsTokenInBand?: boolean;
  /**
   * How long `authenticate` may take, in milliseconds.
   *
   * @default {10000}
   */
  readonly authenticateTimeoutMs?: number;
  /**
   * Finds the peer's network address; the socket's by default. Behind a proxy
   * that you trust, read its header here.
   */
  readonly clientAddress?: (request: Request, info: RequestInfo) => string | undefined;
  /**
   * Request headers that a session keeps as `session.headers`, or `all`. Those
   * with secrets are not kept unless named: `authenticate` sees them all, and
   * what it returns is what a session should remember. Keeping all of them
   * costs some 4 KiB a session.
   *
   * @default {["host", "origin", "user-agent", "accept-language", "x-forwarded-for"]}
   */
  readonly keepsHeaders?: "all" | readonly string[];
  /** Answers requests that are no WebSocket upgrade; 426 if left out. */
  readonly fetch?: (request: Request, info: RequestInfo) => Response | Promise<Response>;
  /** Sees every session that was refused. */
  readonly onRefusal?: (refusal: Refusal) => void;
  /** What upgrades; the runtime's own by default. */
  readonly webSocketEngine?: WebSocketEngine;
}

/** Thrown inside, turned into an answer at the edge. */
class Refused extends Error {
  constructor(readonly status: RefusalStatus, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

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
  #reservation: Reservation | undefined;
  readonly #reservations = new Map<Session, Reservation>();

  /** Admits sessions of these settings, as the manager's limits allow. */
  constructor(options: AdmissionOptions<V>, settings: SessionSettings, manager: SessionManager) {
    this.#options = options;
    this.#settings = settings;
    this.#manager = manager;
    this.#accept = options.webSocketEngine ?? acceptWebSocket;
    this.#matches = pathMatcher(options.path);
  }

  /** Gives up the place that was kept for a session, to the manager. */
  takeReservation(session: Session): Reservation | undefined {
    const reservation = this.#reservation ?? this.#reservations.get(session);
    this.#reservation = undefined;
    this.#reservations.delete(session);
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

  async #identify(
    request: Request,
    token: string | undefined,
    signal: AbortSignal,
  ): Promise<{ value: V; user: string | undefined }> {
    const { authenticate, userOf } = this.#options;
    const value = await authenticate?.({ request, token, signal }) as V;
    if (userOf !== undefined) return { value, user: userOf(value) };
    return { value, user: typeof value === "string" ? value : undefined };
  }

  /** Closes the sessions that did not say their tokens yet; the manager does not know them. */
  async close(options: SessionCloseOptions): Promise<void> {
    const info = { code: CloseCode.draining, ...options };
    await Promise.all([...this.#reservations.keys()].map((session) => session.close(info)));
  }

  /** Runs `authenticate` for a token that came in band; of its errors only the refusal is left. */
  async renew(
    session: Session,
    token: string,
    signal: AbortSignal,
  ): Promise<{ value: V; user: string | undefined }> {
    const { url, headers, address } = session;
    try {
      return await this.#authenticate(new Request(url, { headers }), token, signal);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (session.state === "connecting") this.#tell(error, address);
      const { status, message, cause } = error;
      throw new AuthenticationError(message, { status, cause });
    }
  }

  #admit(peer: Peer): Response | Promise<Response> {
    const { request, address, isSkein } = peer;
    const { url, headers } = request;
    if (!this.#matches(url)) throw new Refused(404, "No session is served at this path");
    if (!isOriginAllowed(headers, this.#options)) {
      throw new Refused(403, `The origin ${headers.get("origin")} is not allowed`);
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
      const { value, user } = await this.#authenticate(peer.request, token);
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
      throw error;
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
    let accepted: ReturnType<WebSocketEngine>;
    try {
      accepted = this.#accept(request, {
        protocol: isSkein ? SKEIN_PROTOCOL : "",
        // `skein.1` has a heartbeat of its own; a plain peer is pinged by the runtime.
        idleTimeoutMs: isSkein ? 0 : this.#settings.heartbeat.timeoutMs,
      });
    } catch (cause) {
      reservation[Symbol.dispose]();
      throw new Refused(400, "The upgrade is malformed", { cause });
    }
    const { connection, response } = accepted;
    // A peer that vanished before the response leaves a socket that never opens, nor says so.
    const free = () => reservation[Symbol.dispose]();
    const timer = setTimeout(free, this.#settings.handshakeTimeoutMs);
    connection.ready.then(() => {
      clearTimeout(timer);
      if (reservation.isHeld) {
        this.#open(connection, reservation, { ...who, url, headers, address });
      } else {connection.close({
          closeCode: CloseCode.timedOut,
          reason: "The upgrade took too long",
        });}
    }, () => {
      clearTimeout(timer);
      free();
    });
    return response;
  }

  #open(
    connection: Connection,
    reservation: Reservation,
    identity: SessionIdentity,
  ): void {
    // Most sessions are established by their constructor, which takes it.
    this.#reservation = reservation;
    const session = new Session(connection, this.#settings, identity);
    this.#reservation = undefined;
    if (session.state !== "connecting") return;
    // One that never says its token gives its place back.
    this.#reservations.set(session, reservation);
    session.ready.catch(() => this.takeReservation(session)?.[Symbol.dispose]());
  }

  #reserve(address: string | undefined, user: string | undefined): Reservation {
    try {
      return this.#manager.admit({ address, user });
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      throw new Refused(this.#manager.isDraining ? 503 : 429, error.message, { cause: error });
    }
  }

  async #authenticate(
    request: Request,
    token: string | undefined,
    signal?: AbortSignal,
  ): Promise<{ value: V; user: string | undefined }> {
    const { authenticateTimeoutMs = 10_000 } = this.#options;
    const timeout = new AbortController();
    const timer = setTimeout(
      () => timeout.abort(new Refused(503, "Authentication took too long")),
      authenticateTimeoutMs,
    );
    const { promise: late, reject } = Promise.withResolvers<never>();
    timeout.signal.addEventListener("abort", () => reject(timeout.signal.reason));
    const onAbort = () => timeout.abort(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([this.#identify(request, token, timeout.signal), late]);
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (error instanceof AuthenticationError) {
        throw new Refused(error.status, error.message, { cause: error });
      }
      throw new Refused(401, "Unauthenticated", { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
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
  #refuse({ request, address, isSkein }: Peer, error: unknown): Response {
    if (!(error instanceof Refused)) throw error;
    const { status, message: reason } = error;
    this.#tell(error, address);
    if (isSkein) {
      try {
        const { connection, response } = this.#accept(request, {
          protocol: SKEIN_PROTOCOL,
          idleTimeoutMs: REFUSED_IDLE_MS,
        });
        connection.close({ closeCode: 4000 + status, reason });
        return response;
      } catch { /* What can not be upgraded gets the status. */ }
    }
    return new Response(reason, {
      status,
      headers: status === 429 || status === 503 ? { "retry-after": "5" } : {},
    });
  }

  #tell({ status, message: reason, cause }: Refused, address: string | undefined): void {
    this.#options.onRefusal?.({
      status,
      reason,
      address,
      ...(cause === undefined ? {} : { error: cause }),
    });
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

function tokenOf(request: Request): string | undefined {
  const [scheme, token] = request.headers.get("authorization")?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "bearer" && token) return token;
  if (!request.url.includes("token=")) return undefined;
  return new URL(request.url).searchParams.get("token") ?? undefined;
}

/** A session remembers where it came to, not by which secret. */
function withoutToken(url: string): string {
  if (!url.includes("token=")) return url;
  const clean = new URL(url);
  clean.searchParams.delete("token");
  return clean.href;
}

function pathMatcher(path: string | undefined): (url: string) => boolean {
  if (path === undefined) return () => true;
  if (!path.startsWith("/")) {
    throw new TypeError(`Cannot create server: path must begin with "/", received "${path}"`);
  }
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
