/** Options for admitting sessions, and their checks. */
import type { RequestInfo } from "../transport/address.ts";
import type { AuthenticationError } from "../errors.ts";
import type { guest } from "./guest.ts";
import type { FlowControlOptions } from "../transport/connection.ts";
import { checkOriginRules, type OriginRules } from "../transport/origins.ts";

/** Argument of `authenticate`. */
export interface AuthenticationContext {
  /**
   * The request of the session, with its URL, headers and cookies, also if the token comes in a
   * message. A renewal has only the headers that the session keeps (`keepHeaders`): cookies are
   * missing unless listed there.
   */
  readonly request: Request;
  /**
   * The bearer token, from the header, from `?token=`, or from a message; `undefined` without one.
   */
  readonly token: string | undefined;
  /** The cookies of the request, by name. They are parsed on each access. */
  readonly cookies: Readonly<Record<string, string | undefined>>;
  /** Aborted after 10 seconds, or when the session closes before `authenticate` returns. */
  readonly signal: AbortSignal;
}

/**
 * Type of `authenticate`. The compiler rejects a function that may return `undefined`, for example
 * because of a missing `return`.
 *
 * @typeParam V The values that `authenticate` returns for admitted peers.
 */
export type Authenticate<V> =
  & ((context: AuthenticationContext) => V | null | false | Promise<V | null | false>)
  & (unknown extends V ? unknown
    : undefined extends V ? Authenticate<Exclude<V, undefined | void>>
    : unknown);

/** A rejected session, as passed to `onRefusal`. */
export interface Refusal {
  /** HTTP status; the close code is 4000 more. */
  readonly status: AuthenticationError["status"];
  /** Reason that the peer received. */
  readonly reason: string;
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /**
   * Cause of the rejection, for the server only: the application's error, or the limit. An
   * `AuthenticationError` or a limit is an expected rejection; other errors are faults of the
   * application.
   */
  readonly error?: unknown;
}

/** Options for admitting sessions. */
export interface AdmissionOptions<V> extends OriginRules {
  /**
   * Path at which sessions are served: exact, or a `URLPattern` pathname such as `/rooms/:id`. By
   * default every path.
   */
  readonly path?: string | undefined;
  /**
   * Identifies a peer. Called once per session: before the upgrade, or when the token arrives that
   * the client announced. Without `authenticate` every peer is a guest. After 10 seconds the
   * session is rejected with 503. The result decides:
   *
   * - **A value** admits the peer, and becomes `session.value`.
   * - **`guest`** admits the peer as a guest, with its own identity and without a value.
   * - **`null` and `false`** reject with 401, and clients stop reconnecting.
   * - **An {@linkcode AuthenticationError}** rejects with its status and text: 401 by default.
   *   After 503 clients reconnect later.
   * - **Any other error, and `undefined`,** are faults of the application: Skein clients receive
   *   503 and reconnect, others receive 401 with `Retry-After`. The error's text is never sent.
   *   `onRefusal` receives the error, and the first fault prints a line.
   */
  readonly authenticate?: Authenticate<V> | undefined;
  /**
   * Returns the user of a value: for presence, limits and `server.to`. By default a string value is
   * the user; a session with another value has no user, but its own identity like a guest. Not
   * called for guests. A user that starts with `guest:` or has more than 255 bytes in UTF-8 is
   * rejected with 403. An error, or a result other than a string, counts like an error of
   * `authenticate`.
   */
  readonly userOf?: ((value: Exclude<V, typeof guest>) => string) | undefined;
  /**
   * Returns when a value's credentials expire, in milliseconds since the Unix epoch; `undefined`
   * and `Infinity` mean never. The server requests a new token from a client that sent one, 30 s
   * before the expiry or at half of the remaining time. `connect()` renews automatically if its
   * `token` is a function. At the expiry a session without a renewal is closed with 4401, and so
   * are plain pages and logins by cookie. Credentials that have already expired are rejected with
   * 401. Not called for guests. Errors count like errors of `authenticate`.
   */
  readonly expiresAt?: ((value: Exclude<V, typeof guest>) => number | undefined) | undefined;
  /**
   * Lets a `skein.1` client that announces a token, as `connect()` does with its option `token`,
   * connect and send the token first, within `session.handshakeTimeoutMs` (5 seconds), before other
   * data is read. Without this option such a client is rejected with 401, permanently.
   *
   * @default {false}
   */
  readonly allowTokenMessage?: boolean | undefined;
  /**
   * Most bytes of a token message, including its envelope. A longer token is rejected with 401.
   *
   * @default {16384}
   */
  readonly maxTokenBytes?: number | undefined;
  /**
   * Returns the network address of a peer; by default the socket's. Behind proxies use {@linkcode
   * forwardedAddress}. Trust a header of your own only over TCP: a client that reaches this server
   * over UDP writes its headers itself. `info.remoteAddr.transport` is `udp` for WebTransport,
   * otherwise `tcp`. Peers without an address are not counted by address. A list of addresses is
   * rejected, because most of it comes from the client.
   *
   * @example Behind one HTTP proxy that sets the header, with UDP past the proxy
   * ```ts
   * import { connect, forwardedAddress, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   hostname: "127.0.0.1",
   *   onListen() {},
   *   clientAddress: forwardedAddress({ trusted: 1 }),
   *   onMessage: (message, session) => message.reply(session.address ?? "unknown"),
   * });
   * await using direct = connect(server.url, { transports: ["webtransport"] });
   * assertEquals(await direct.request("address"), "127.0.0.1");
   * ```
   */
  readonly clientAddress?:
    | ((request: Request, info: RequestInfo) => string | undefined)
    | undefined;
  /**
   * Request headers that a session keeps as `session.headers`, or `all`. Headers with secrets are
   * kept only if named. `authenticate` receives all headers, and can return the values that a
   * session should keep. Keeping all headers takes about 4 KiB per session.
   *
   * @default {["host", "origin", "user-agent", "accept-language", "x-forwarded-for"]}
   */
  readonly keepHeaders?: "all" | readonly string[] | undefined;
  /**
   * Also serves sessions over HTTP, for clients with `http` among their `transports` whose network
   * blocks all others. Requests of this transport have the header `Skein-Transport`, and pass the
   * same checks as upgrades.
   *
   * @default {true}
   */
  readonly http?: boolean | undefined;
  /**
   * Handles HTTP requests other than WebSocket upgrades and requests of sessions over HTTP. By
   * default the response has status 426.
   */
  readonly fetch?:
    | ((request: Request, info: RequestInfo) => Response | Promise<Response>)
    | undefined;
  /**
   * Called for every rejected session, and for every token renewal that failed because of the
   * application. Without a handler rejections are printed: one line per cause and hour.
   */
  readonly onRefusal?: ((refusal: Refusal) => void) | undefined;
  /**
   * Credit: the data that a peer may send on streams ahead of the reader, on every transport with
   * flow control.
   */
  readonly flowControl?: FlowControlOptions | undefined;
}

/** `has()` throws for an invalid name of a header. */
const NO_HEADERS = new Headers();

/**
 * Checks options when the server is created, rather than when the first peer connects.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @throws {TypeError} If the path, an origin, a host or a header's name is invalid.
 */
export function checkAdmissionOptions<V>(options: AdmissionOptions<V>): void {
  const { path, keepHeaders = "all" } = options;
  checkOriginRules(options);
  if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
    throw new TypeError(`Cannot create server: path must start with "/", received "${path}"`);
  }
  if (keepHeaders === "all") return;
  if (!Array.isArray(keepHeaders)) {
    throw new TypeError(
      `Cannot create server: keepHeaders must be "all" or an array of names, received ${
        typeof keepHeaders === "string" ? `"${keepHeaders}"` : typeof keepHeaders
      }`,
    );
  }
  for (const name of keepHeaders) {
    if (isHeaderName(name)) continue;
    throw new TypeError(
      `Cannot create server: keepHeaders must contain header names, received "${name}"`,
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
