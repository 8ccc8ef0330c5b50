/**
 * What the application says of who may have a session, and what it is told.
 *
 * @module
 */
import type { RequestInfo } from "../transport/address.ts";
import type { RefusalStatus } from "../errors.ts";
import type { FlowControlOptions } from "../transport/connection.ts";
import { checkOriginRules, type OriginRules } from "../transport/origins.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";

/** What `authenticate` gets to see. */
export interface AuthenticationContext {
  /**
   * The request that began the session: its URL, headers and cookies, also for a token that comes in
   * band. For a renewal it has the headers that the session keeps (`keepsHeaders`), and no cookies
   * unless they are among them.
   */
  readonly request: Request;
  /** The bearer token, from the header, from `?token=`, or sent in band; `undefined` without one. */
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
  /**
   * What is behind it, for the server alone: what `authenticate` or `userOf`
   * threw, or the limit. An `AuthenticationError` or a limit is a plain refusal;
   * anything else may be a fault of the application.
   */
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
   * Says who a peer is; what it returns becomes `session.value`, and whoever it
   * returns for is in, such as a guest without a token. It is asked once for each session: before the
   * upgrade, or when the token is there that the client announced. A throw refuses the session:
   *
   * - An {@linkcode AuthenticationError} refuses with its status and text: 401
   *   by default, and 503 has clients come back later, such as when a database
   *   is down.
   * - Anything else refuses with 401, which has clients give up. Its text never
   *   crosses; it goes to `onRefusal` as `error`, or is printed without one.
   *   `Promise.reject()`, with nothing at all, is a plain refusal and no fault.
   */
  readonly authenticate?: (context: AuthenticationContext) => V | Promise<V>;
  /**
   * Says which user a value stands for: for presence, limits and `server.to`.
   * By default the value itself if it is a string, and each session its own user otherwise.
   * If it throws, or returns no string, the session is refused with 503, and with 403 if the user
   * has more than 255 bytes in UTF-8; that is told like a throw of `authenticate`.
   */
  readonly userOf?: (value: V) => string;
  /**
   * Says when the credentials behind a value end, in milliseconds since the Unix epoch; `undefined` and
   * `Infinity` are never. A client that came with a token is asked for a new one 30 s before, or at half
   * of the time that is left; `connect()` renews by itself if its `token` is a function. A session that
   * was not renewed is closed with 4401 then, and so are plain pages and logins by cookie. Credentials
   * that ended already are refused with 401. A throw counts as one of `userOf`.
   */
  readonly expiresAt?: (value: V) => number | undefined;
  /**
   * Lets a `skein.1` client that announces a token, as `connect()` does with its option `token`,
   * connect and say it first: within `session.handshakeTimeoutMs` (5 seconds) and 8 KiB, before
   * anything else is read. Without this such a client is refused with 401, for good.
   *
   * @default {false}
   */
  readonly acceptsTokenInBand?: boolean;
  /**
   * How long `authenticate` may take, in milliseconds, before the session is
   * refused with 503. `Infinity` is for ever.
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
  /**
   * Sees every session that was refused, and every token renewal that failed by
   * something else than an `AuthenticationError`. Without it, refusals are printed: a line for each
   * cause once an hour, and what may be a fault of the application at most every second.
   */
  readonly onRefusal?: (refusal: Refusal) => void;
  /** What upgrades; the runtime's own by default. */
  readonly webSocketEngine?: WebSocketEngine;
  /** How much a peer may send on streams ahead of who reads them, on every transport that counts. */
  readonly flowControl?: FlowControlOptions;
}

/** Finds an invalid name of a header. */
const NO_HEADERS = new Headers();

/**
 * Checks options when a server is created, not when the first peer comes.
 *
 * @typeParam V What `authenticate` returns.
 * @param options See {@linkcode AdmissionOptions}.
 * @throws {TypeError} If the path, an origin, a host or a header's name makes no sense.
 * @throws {RangeError} If `authenticateTimeoutMs` is negative, or no number, or a limit of
 * `flowControl` is no integer from 0.
 */
export function checkAdmissionOptions<V>(options: AdmissionOptions<V>): void {
  const { path, authenticateTimeoutMs = 0, keepsHeaders = "all" } = options;
  checkOriginRules(options);
  if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
    throw new TypeError(`Cannot create server: path must begin with "/", received "${path}"`);
  }
  if (typeof authenticateTimeoutMs !== "number" || !(authenticateTimeoutMs >= 0)) {
    throw new RangeError(
      `Cannot create server: authenticateTimeoutMs must be from 0, received ${authenticateTimeoutMs}`,
    );
  }
  for (const name of ["maxData", "maxStreamData", "maxStreamsBidi", "maxStreamsUni"] as const) {
    const limit = options.flowControl?.[name] ?? 0;
    if (Number.isSafeInteger(limit) && limit >= 0) continue;
    throw new RangeError(
      `Cannot create server: flowControl.${name} must be an integer from 0 to 2^53 - 1, received ${limit}`,
    );
  }
  if (keepsHeaders === "all") return;
  if (!Array.isArray(keepsHeaders)) {
    throw new TypeError(
      `Cannot create server: keepsHeaders must be "all" or an array of names, received ${
        typeof keepsHeaders === "string" ? `"${keepsHeaders}"` : typeof keepsHeaders
      }`,
    );
  }
  for (const name of keepsHeaders) {
    if (isHeaderName(name)) continue;
    throw new TypeError(
      `Cannot create server: keepsHeaders must hold names of headers, received "${name}"`,
    );
  }
}

function isHeaderName(name: unknown): boolean {
  try {
    return typeof name === "string" && !NO_HEADERS.has(name);
  } catch {
    return false;
  }
}
