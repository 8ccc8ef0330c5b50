/**
 * From an HTTP request to a session, or to a refusal: path, origin, limits,
 * authentication, upgrade. In this order, and before anything is upgraded.
 *
 * @module
 */
import { AuthenticationError, LimitError, type RefusalStatus } from "./errors.ts";
import type { Reservation, SessionManager } from "./manager/mod.ts";
import { Session, SKEIN_PROTOCOL } from "./session/session.ts";
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
  /** The request that began the session: its URL, headers and cookies. */
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
   * Lets a `skein.1` client without credentials connect and say its token first:
   * within 5 seconds and 8 KiB, before anything else is read.
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

/** Admits sessions. */
export class Admission<V> {
  readonly #options: AdmissionOptions<V>;
  readonly #settings: SessionSettings;
  readonly #manager: SessionManager;
  readonly #accept: WebSocketEngine;
  readonly #matches: (url: string) => boolean;
  readonly #reservations = new Map<string, Reservation>();

  /** Admits sessions of these settings, as the manager's limits allow. */
  constructor(options: AdmissionOptions<V>, settings: SessionSettings, manager: SessionManager) {
    this.#options = options;
    this.#settings = settings;
    this.#manager = manager;
    this.#accept = options.webSocketEngine ?? acceptWebSocket;
    this.#matches = pathMatcher(options.path);
  }

  /** Gives up the place that was kept for a session, to the manager. */
  takeReservation(id: string): Reservation | undefined {
    const reservation = this.#reservations.get(id);
    this.#reservations.delete(id);
    return reservation;
  }

  /** Answers one request. */
  async fetch(request: Request, info: RequestInfo = {}): Promise<Response> {
    if (!isWebSocketUpgrade(request)) return await this.#other(request, info);
    const address = this.#addressOf(request, info);
    const isSkein = offeredProtocols(request).includes(SKEIN_PROTOCOL);
    try {
      return await this.#upgrade(request, address, isSkein);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return this.#refuse(request, { error, address, isSkein });
    }
  }

  /** Runs `authenticate`, for a new session and for a token that comes later. */
  async identify(
    request: Request,
    token: string | undefined,
    signal: AbortSignal,
  ): Promise<{ value: V; user: string | undefined }> {
    const { authenticate, userOf } = this.#options;
    const value = await authenticate?.({ request, token, signal }) as V;
    if (userOf !== undefined) return { value, user: userOf(value) };
    return { value, user: typeof value === "string" ? value : undefined };
  }

  async #upgrade(
    request: Request,
    address: string | undefined,
    isSkein: boolean,
  ): Promise<Response> {
    const { url, headers } = request;
    if (!this.#matches(url)) throw new Refused(404, "No session is served at this path");
    if (!isOriginAllowed(headers, this.#options)) {
      throw new Refused(403, `The origin ${headers.get("origin")} is not allowed`);
    }
    const token = tokenOf(request);
    const { authenticate, acceptsTokenInBand = false } = this.#options;
    const awaitsToken = acceptsTokenInBand && isSkein && authenticate !== undefined &&
      token === undefined;
    const byAddress = this.#reserve({ address });
    let reservation = byAddress;
    try {
      const { value, user } = awaitsToken || authenticate === undefined
        ? { value: undefined as V, user: undefined }
        : await this.#authenticate(request, token);
      if (user !== undefined) {
        byAddress[Symbol.dispose]();
        reservation = this.#reserve({ address, user });
      }
      // After the upgrade Deno can not read them any more.
      const kept = [...headers];
      const { connection, response } = this.#accept(request, {
        protocol: isSkein ? SKEIN_PROTOCOL : "",
        // `skein.1` has a heartbeat of its own; a plain peer is pinged by the runtime.
        idleTimeoutMs: isSkein ? 0 : this.#settings.heartbeat.timeoutMs,
      });
      const identity = {
        value,
        url,
        headers: kept,
        awaitsToken,
        ...(address === undefined ? {} : { address }),
        ...(user === undefined ? {} : { user }),
      };
      this.#open(connection, identity, reservation);
      return response;
    } catch (error) {
      reservation[Symbol.dispose]();
      throw error;
    }
  }

  #open(
    connection: Connection,
    identity: { readonly value: V; readonly awaitsToken: boolean },
    reservation: Reservation,
  ): void {
    connection.ready.then(
      () => {
        const id = crypto.randomUUID();
        this.#reservations.set(id, reservation);
        const session = new Session(connection, this.#settings, { ...identity, id });
        if (session.state !== "connecting") return;
        // One that never says its token gives its place back.
        session.ready.catch(() => this.takeReservation(id)?.[Symbol.dispose]());
      },
      () => reservation[Symbol.dispose](),
    );
  }

  #reserve(who: { address: string | undefined; user?: string }): Reservation {
    const { address, user } = who;
    try {
      return this.#manager.admit({
        ...(address === undefined ? {} : { address }),
        ...(user === undefined ? {} : { user }),
      });
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      throw new Refused(this.#manager.isDraining ? 503 : 429, error.message, { cause: error });
    }
  }

  async #authenticate(
    request: Request,
    token: string | undefined,
  ): Promise<{ value: V; user: string | undefined }> {
    const { authenticateTimeoutMs = 10_000 } = this.#options;
    const timeout = new AbortController();
    const timer = setTimeout(
      () => timeout.abort(new Refused(503, "Authentication took too long")),
      authenticateTimeoutMs,
    );
    const { promise: late, reject } = Promise.withResolvers<never>();
    timeout.signal.addEventListener("abort", () => reject(timeout.signal.reason));
    try {
      return await Promise.race([this.identify(request, token, timeout.signal), late]);
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (error instanceof AuthenticationError) {
        throw new Refused(error.status, error.message, { cause: error });
      }
      throw new Refused(401, "Unauthenticated", { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  /** A browser sees no status of a refused WebSocket, so Skein's client is told by a close. */
  #refuse(
    request: Request,
    refused: { error: Refused; address: string | undefined; isSkein: boolean },
  ): Response {
    const { error: { status, message: reason, cause }, address, isSkein } = refused;
    this.#options.onRefusal?.({
      status,
      reason,
      address,
      ...(cause === undefined ? {} : { error: cause }),
    });
    if (!isSkein) {
      return new Response(reason, {
        status,
        headers: status === 429 || status === 503 ? { "retry-after": "5" } : {},
      });
    }
    const { connection, response } = this.#accept(request, {
      protocol: SKEIN_PROTOCOL,
      idleTimeoutMs: REFUSED_IDLE_MS,
    });
    connection.close({ closeCode: 4000 + status, reason });
    return response;
  }

  async #other(request: Request, info: RequestInfo): Promise<Response> {
    const { fetch } = this.#options;
    if (fetch !== undefined) return await fetch(request, info);
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

function pathMatcher(path: string | undefined): (url: string) => boolean {
  if (path === undefined) return () => true;
  if (!path.startsWith("/")) {
    throw new TypeError(`Cannot create server: path must begin with "/", received "${path}"`);
  }
  if (!/[:*?+(){}]/.test(path)) return (url) => new URL(url).pathname === path;
  const pattern = new URLPattern({ pathname: path });
  return (url) => pattern.test({ pathname: new URL(url).pathname });
}
