/** Options for admitting sessions, and their checks. */
import { describe } from "../../base/error_text.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { AuthenticationError } from "../../errors.ts";
import type { Contract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import type { guest, ValueOf } from "./guest.ts";
import type { FlowControlOptions } from "../../transport/connection.ts";
import { checkOriginRules, type OriginRules } from "../../transport/origins.ts";

/** Argument of `authenticate`. */
export interface AuthenticationContext {
  /**
   * The session's request, with its URL, headers and cookies, even if the token arrives later in a
   * message. When a token is renewed, the request has only the headers that the session keeps (see
   * `keepHeaders`), so cookies are missing unless they are listed there.
   */
  readonly request: Request;
  /**
   * The bearer token from the `Authorization` header, the `token` query parameter or a message;
   * `undefined` if there is none.
   */
  readonly token: string | undefined;
  /**
   * The cookies of the request, by name. They are parsed on each access. Browsers send none over
   * WebTransport: if you read this property there, a page that you reject or admit as a guest
   * connects over another transport, without a report to `onSessionRejected`.
   */
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

/**
 * Marks an `authenticate` whose values expire. Its options are spread, and other `tokens` after
 * them would replace `expiresAt` without notice.
 */
export const EXPIRES: unique symbol = Symbol("expires");

/** A rejected session, as passed to `onSessionRejected`. */
export interface SessionRejection {
  /** HTTP status. The close code is this status plus 4000. */
  readonly status: AuthenticationError["status"];
  /** Reason that the peer received. */
  readonly reason: string;
  /** Network address of the peer, where known. */
  readonly address: string | undefined;
  /**
   * Cause of the rejection, which is never sent to the peer: an error from the application, or the
   * limit that was reached. An `AuthenticationError` or a limit is an expected rejection; any other
   * error is a fault in the application.
   */
  readonly error?: unknown;
}

/**
 * Options for admitting sessions.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 */
export interface AdmissionOptions<V, C extends Contract = Contract> extends OriginRules {
  /**
   * Path of the sessions: an exact path, or a `URLPattern` pathname such as `/rooms/:id`.
   *
   * @default {every path}
   */
  readonly path?: string | undefined;
  /**
   * Identifies a client: returns the session's value, or `guest`, or `null` to reject it. A call
   * that takes more than 10 s rejects with 503.
   *
   * It is called once per session: before the upgrade, or, if the client announced a token as its
   * first message, when this message arrives. The result decides what happens:
   *
   * - **A value** admits the peer, and becomes `session.value`.
   * - **`guest`** admits the peer as a guest, with its own identity and without a value.
   * - **`null` and `false`** reject with 401, and clients stop reconnecting.
   * - **An {@linkcode AuthenticationError}** rejects with the error's text and status: 401 by
   *   default; after a 503, clients reconnect later.
   * - **Any other error, and `undefined`,** are faults in the application. Skein clients receive
   *   503 and reconnect; other clients receive 401 with `Retry-After`. The error's text is never
   *   sent to the client. `onSessionRejected` receives the error, and the first such error is
   *   logged.
   *
   * @default {every client is a guest}
   */
  readonly authenticate?: Authenticate<V> | undefined;
  /**
   * Returns the name of the user that a value from `authenticate` stands for. Presence, limits and
   * `server.to` use it.
   *
   * A session with any other value has no user and gets its own identity, as a guest does; the
   * server prints one line if the value is an object or a number. It is not called for guests.
   *
   * A user that is empty, starts with `guest:` or is longer than 255 bytes of UTF-8 is rejected with
   * 403. An error, or a result that is not a string, is treated like an error from `authenticate`.
   *
   * @default {the value, if it is a string}
   */
  readonly userOf?: ((value: Exclude<V, typeof guest>) => string) | undefined;
  /** The tokens that clients send, and the credentials of the sessions. */
  readonly tokens?:
    | {
      /**
       * Accepts the `token` of `connect()`, which arrives in a message. If `false`, the server
       * rejects clients that send one with 4401, or with 401 over HTTP.
       *
       * The token must arrive within `session.handshakeTimeoutMs`, by default 5 s; no other data is
       * read before it. If this option is off, these clients are permanently rejected.
       *
       * @default {false}
       */
      readonly inMessage?: boolean | undefined;
      /**
       * Maximum size of a token message in bytes, including its envelope. A larger one is rejected
       * with 401.
       *
       * @default {16384}
       */
      readonly maxBytes?: number | undefined;
      /**
       * Returns when a value's credentials expire, in milliseconds since the Unix epoch. Shortly
       * before, the server requests a new token from the client.
       *
       * `undefined` and `Infinity` mean never. If the credentials have already expired, the session
       * is rejected with 401. It is not called for guests. An error is treated like an error from
       * `authenticate`.
       *
       * The server requests a new token from clients that sent one: 30 s before the current token
       * expires, or halfway through the remaining time if less than a minute remains. `connect()`
       * renews automatically if its `token` is a function. A session that is not renewed is closed
       * with 4401 when its credentials expire. This includes plain WebSocket connections and
       * sessions that logged in with a cookie.
       *
       * @default {never}
       */
      readonly expiresAt?: ((value: Exclude<V, typeof guest>) => number | undefined) | undefined;
      /**
       * Called after a client has renewed its token. `authorize` then decides again about every
       * topic to which the client subscribed.
       *
       * `session.value` is the new value, and `before` is the previous one. Subscriptions that
       * `authorize` denies end; those made with `server.subscribe` stay. If this handler throws,
       * the error is passed to `onError`, and the session continues.
       *
       * @example A role that is revoked
       * ```ts
       * import { connect, RequestError, serve } from "@skein/skein";
       * import { assertEquals, assertRejects } from "@std/assert";
       *
       * const changes: string[] = [];
       * await using server = serve({
       *   port: 0,
       *   onListen() {},
       *   authenticate: ({ token = "" }) => ({ name: "ann", role: token }),
       *   userOf: ({ name }) => name,
       *   tokens: {
       *     inMessage: true,
       *     onRenewed: ({ value }, before) => void changes.push(`${before.role} to ${value.role}`),
       *   },
       *   authorize: ({ value }) => value.role === "editor",
       * });
       * await using client = connect(server.url, { token: "editor" });
       * const drafts = client.subscribe("drafts");
       * await drafts.ready;
       * await client.session?.authenticate("reader");
       * const error = await assertRejects(() => Array.fromAsync(drafts), RequestError);
       * assertEquals([changes, error.failure.code], [["editor to reader"], "forbidden"]);
       * ```
       */
      readonly onRenewed?:
        | ((
          session: Session<ValueOf<V>, C, "server">,
          before: ValueOf<V>,
        ) => unknown)
        | undefined;
    }
    | undefined;
  /**
   * Returns the network address of a client. Behind proxies, use `forwardedAddress({ trusted: 1
   * })`.
   *
   * {@linkcode forwardedAddress} reads the header of a proxy. Peers without an address don't count
   * against limits per address; over WebTransport, they are one network, which may use half of each
   * limit. A list of addresses is rejected, because most of its entries come from the client.
   *
   * If you read a header yourself, trust it only over TCP: a client that connects over UDP bypasses
   * the proxy and can send any header. `info.remoteAddr.transport` is `udp` for WebTransport,
   * otherwise `tcp`.
   *
   * @example Behind one HTTP proxy that sets the header, while UDP bypasses the proxy
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
   *
   * @default {the address of the socket}
   */
  readonly clientAddress?:
    | ((request: Request, info: RequestInfo) => string | undefined)
    | undefined;
  /**
   * The request headers that a session keeps in `session.headers`, or `"all"`, which takes about 4
   * KiB of memory per session.
   *
   * The default leaves out headers with secrets, such as `cookie` and `authorization`; `"all"` keeps
   * them. `authenticate` receives all headers, and can return the values that a session should keep.
   *
   * @default {["host", "origin", "user-agent", "accept-language", "x-forwarded-for"]}
   */
  readonly keepHeaders?: "all" | readonly string[] | undefined;
  /**
   * Also serves sessions over plain HTTP, for clients whose network blocks all other transports.
   *
   * The clients list `http` in their `transports`, as they do by default. The requests of this
   * transport have the header `Skein-Transport`, and go through the same checks as upgrades.
   *
   * @default {true}
   */
  readonly http?: boolean | undefined;
  /**
   * Handles all other HTTP requests, such as requests for a page's files.
   *
   * WebSocket upgrades and the requests of sessions over HTTP don't reach it. What it throws is not
   * for `onError`: the HTTP server prints it, and responds with 500.
   *
   * @default {responds with 426}
   */
  readonly fetch?:
    | ((request: Request, info: RequestInfo) => Response | Promise<Response>)
    | undefined;
  /**
   * Called for each rejected session, and for each token renewal that failed because of the
   * application.
   *
   * @default {prints a line an hour for each cause}
   */
  readonly onSessionRejected?: ((rejection: SessionRejection) => void) | undefined;
  /**
   * How much data a client may send on streams before the application reads it.
   *
   * It applies to every transport with flow control.
   *
   * @default {1 MiB, 100 streams; over HTTP/3 4 MiB, 128}
   */
  readonly flowControl?: FlowControlOptions | undefined;
}

/**
 * Compiles the path of sessions.
 *
 * @param path A path or a `URLPattern` of one; by default, all paths match.
 * @returns Checks whether sessions are served at the path of a URL.
 * @throws {TypeError} If the pattern is malformed.
 */
export function pathMatcher(path: string | undefined): (url: string) => boolean {
  if (path === undefined) return () => true;
  if (!/[:*?+(){}]/.test(path)) return (url) => pathOf(url) === path;
  const pattern = new URLPattern({ pathname: path });
  return (url) => pattern.test({ pathname: pathOf(url) });
}

/** The path of a request's URL, already normalized by the HTTP server. */
export function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}

/** `has()` throws for an invalid name of a header. */
const NO_HEADERS = new Headers();

/**
 * Checks options when the server is created, rather than when the first peer connects.
 *
 * @typeParam V Type of the values from `authenticate`.
 * @typeParam C The contract.
 * @throws {TypeError} If the path, an origin, a host or a header's name is invalid, or if the
 * expiry of tokens is missing.
 */
export function checkAdmissionOptions<V, C extends Contract>(
  options: AdmissionOptions<V, C>,
): void {
  const { authenticate, path, keepHeaders = "all", tokens = {} } = options;
  checkOriginRules(options);
  if (authenticate !== undefined && EXPIRES in authenticate && tokens.expiresAt === undefined) {
    throw new TypeError(
      "Cannot create server: the tokens of jwt() expire, so tokens must have expiresAt; " +
        "write tokens: { ...auth.tokens, ... }, where auth is the result of jwt()",
    );
  }
  if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
    throw new TypeError(`Cannot create server: path must start with "/", received "${path}"`);
  }
  pathMatcher(path);
  if (keepHeaders === "all") return;
  if (!Array.isArray(keepHeaders)) {
    throw new TypeError(
      `Cannot create server: keepHeaders must be "all" or an array of names, received ${
        typeof keepHeaders === "string" ? `"${keepHeaders}"` : describe(keepHeaders)
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
