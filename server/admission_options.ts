/** Options for admitting sessions, and their checks. */
import type { RequestInfo } from "../transport/address.ts";
import type { AuthenticationError } from "../errors.ts";
import type { guest } from "./guest.ts";
import type { FlowControlOptions } from "../transport/connection.ts";
import { checkOriginRules, type OriginRules } from "../transport/origins.ts";

/** Argument of `authenticate`. */
export interface AuthenticationContext {
  /**
   * The request of the session: its URL, headers and cookies, also for a token that comes in band.
   * A renewal has only the headers that the session keeps (`keepHeaders`): cookies are missing
   * unless listed there.
   */
  readonly request: Request;
  /** The bearer token, from the header, from `?token=`, or sent in band; `undefined` without one. */
  readonly token: string | undefined;
  /** The cookies of the request, by name. Read them only if you need them: each reading parses. */
  readonly cookies: Readonly<Record<string, string | undefined>>;
  /** Aborted after ten seconds, or when the session ends before the answer. */
  readonly signal: AbortSignal;
}

/**
 * Type of `authenticate`. The compiler rejects a function that may return `undefined`, for example by
 * a missing `return`.
 *
 * @typeParam V The values that `authenticate` returns for admitted peers.
 */
export type Authenticate<V> =
  & ((context: AuthenticationContext) => V | null | false | Promise<V | null | false>)
  & (unknown extends V ? unknown
    : undefined extends V ? Authenticate<Exclude<V, undefined | void>>
    : unknown);

/** A refused session, as passed to `onRefusal`. */
export interface Refusal {
  /** HTTP status; the close code is 4000 more. */
  readonly status: AuthenticationError["status"];
  /** Reason that the peer received. */
  readonly reason: string;
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /**
   * Cause of the refusal, for the server only: the error of the application, or the limit. An
   * `AuthenticationError` or a limit is a plain refusal; other errors are faults of the application.
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
   * Identifies a peer. Called once for each session: before the upgrade, or when a token arrives
   * that the client announced. Without `authenticate` every peer is a guest. A call that takes longer
   * than ten seconds refuses with 503. By its result:
   *
   * - **A value** admits the peer, and becomes `session.value`.
   * - **`guest`** admits the peer as a guest, with an identity of its own and without a value.
   * - **`null` and `false`** refuse with 401, and clients give up.
   * - **An {@linkcode AuthenticationError}** refuses with its status and text: 401 by default. After
   *   503 clients come back later.
   * - **Any other error, and `undefined`,** are faults of the application: clients of Skein get 503
   *   and come back, others get 401 with `Retry-After`. The text of the error is never sent.
   *   `onRefusal` receives the error, and the first fault prints a line.
   */
  readonly authenticate?: Authenticate<V> | undefined;
  /**
   * Returns the user of a value: for presence, limits and `server.to`. By default a string value is
   * the user; a session with another value has no user, but an identity of its own like a guest. Not
   * called for guests. A user that begins with `guest:` or has more than 255 bytes in UTF-8 is
   * refused with 403. An error, or a result other than a string, counts like an error of
   * `authenticate`.
   */
  readonly userOf?: ((value: Exclude<V, typeof guest>) => string) | undefined;
  /**
   * Returns the end of the credentials behind a value, in milliseconds since the Unix epoch;
   * `undefined` and `Infinity` are never. A client that came with a token is asked for a new one 30
   * s before the end, or at half of the remaining time. `connect()` renews automatically if its
   * `token` is a function. A session without a renewal is closed with 4401 at the end, and so are
   * plain pages and logins by cookie. Credentials that ended before are refused with 401. Not called
   * for guests. Errors count like those of `authenticate`.
   */
  readonly expiresAt?: ((value: Exclude<V, typeof guest>) => number | undefined) | undefined;
  /**
   * Lets a `skein.1` client that announces a token, as `connect()` does with its option `token`,
   * connect and send the token first, within `session.handshakeTimeoutMs` (5 seconds), before other
   * data is read. Without this option such a client is refused with 401, permanently.
   *
   * @default {false}
   */
  readonly allowTokenMessage?: boolean | undefined;
  /**
   * Most bytes of a token in band, with its envelope. A longer token is refused with 401.
   *
   * @default {16384}
   */
  readonly maxTokenBytes?: number | undefined;
  /**
   * Returns the network address of a peer; by default the socket's. Behind proxies use
   * {@linkcode forwardedAddress}. A header of your own counts only over TCP: a client whose UDP
   * reaches this server writes its headers itself. `info.remoteAddr.transport` is `udp` for
   * WebTransport, otherwise `tcp`. Peers without an address are not counted by address. A list of
   * addresses is refused: most of it comes from the client.
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
   * kept only if named. `authenticate` sees all headers, and can return the values that a session
   * should keep. Keeping all headers costs about 4 KiB a session.
   *
   * @default {["host", "origin", "user-agent", "accept-language", "x-forwarded-for"]}
   */
  readonly keepHeaders?: "all" | readonly string[] | undefined;
  /**
   * Serves sessions over HTTP too, for clients with `http` among their `transports` whose network
   * blocks all others. Requests of this transport carry the header `Skein-Transport`, and pass the
   * same checks as upgrades.
   *
   * @default {true}
   */
  readonly http?: boolean | undefined;
  /**
   * Answers HTTP requests other than WebSocket upgrades, and those of sessions over HTTP. By default
   * with status 426.
   */
  readonly fetch?:
    | ((request: Request, info: RequestInfo) => Response | Promise<Response>)
    | undefined;
  /**
   * Called for every refused session, and for every token renewal that failed by a fault of the
   * application. Without a handler refusals are printed: one line for each cause once an hour.
   */
  readonly onRefusal?: ((refusal: Refusal) => void) | undefined;
  /**
   * Credit: how much a peer may send on streams ahead of the reader, on every transport that
   * counts.
   */
  readonly flowControl?: FlowControlOptions | undefined;
}

/** `has()` throws for an invalid name of a header. */
const NO_HEADERS = new Headers();

/**
 * Checks options when a server is created, rather than when the first peer comes.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @throws {TypeError} If the path, an origin, a host or a header's name is invalid.
 */
export function checkAdmissionOptions<V>(options: AdmissionOptions<V>): void {
  const { path, keepHeaders = "all" } = options;
  checkOriginRules(options);
  if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
    throw new TypeError(`Cannot create server: path must begin with "/", received "${path}"`);
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
      `Cannot create server: keepHeaders must hold names of headers, received "${name}"`,
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
