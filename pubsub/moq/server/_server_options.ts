/**
 * What the application says of a server of MoQ.
 *
 * @module
 */
import type { Certificate } from "../../../transport/certificate/certificate.ts";
import type { FlowControlOptions } from "../../../transport/connection.ts";
import type { OriginRules } from "../../../transport/origins.ts";
import type { UnreadStreamLimits } from "../../../transport/quic/unread_streams.ts";
import type { WebSocketHost } from "../../../transport/websocket/server.ts";
import type { MoqServerLimits } from "./_places.ts";
import type { TrackMux } from "../track/mux.ts";
import type { MoqSession, MoqSessionOptions, SetupRequest } from "../session/session.ts";
import type { MoqWire } from "./_server_host.ts";

/** What is known of a client beside what it says in its setup. */
export interface MoqClientInfo {
  /** The URL that it asked for; over raw QUIC without a path, which only its setup tells. */
  readonly url: string;
  /** Its request headers; none over raw QUIC. */
  readonly headers: Headers;
  /** Its network address, where that is known. */
  readonly address: string | undefined;
  /** The wire: `webtransport`, `quic`, `websocket`, or the name of another one. */
  readonly transport: string;
}

/** Options for {@linkcode MoqServer}. */
export interface MoqServerOptions extends
  OriginRules,
  Pick<
    MoqSessionOptions,
    | "versions"
    | "mux"
    | "extensions"
    | "authorize"
    | "bitrate"
    | "family"
    | "setupTimeoutMs"
    | "onError"
  > {
  /** What is published to one client, in place of `mux`; asked once it is let in. */
  readonly muxOf?: (request: SetupRequest, client: MoqClientInfo) => TrackMux;
  /** The path of sessions: exact, or a `URLPattern` pathname such as `/rooms/:id`. Every path by default. */
  readonly path?: string;
  /**
   * Decides about a client before it is let in. What it throws refuses it, and the text of an
   * `AuthenticationError` or a `MoqError` is told to the client; over HTTP by status (that of the
   * `AuthenticationError`, or 403), else by a close. Anything else refuses with 401, and is told to
   * `onError` alone.
   *
   * Over WebTransport and WebSocket it is called before the client is answered, which has said no more
   * than its URL, headers and, mostly, its version; over raw QUIC it has its setup.
   */
  readonly onSetup?: (request: SetupRequest, client: MoqClientInfo) => void | Promise<void>;
  /** Gets each session once it is there. If it throws, that is told to `onError` and the session is closed. */
  readonly onSession?: (session: MoqSession, client: MoqClientInfo) => void | Promise<void>;
  /** Answers requests that are no WebSocket upgrade; 426 if left out. */
  readonly fetch?: (request: Request, info: MoqRequestInfo) => Response | Promise<Response>;
  /** Finds a client's network address, behind a proxy that you trust; the socket's by default. */
  readonly clientAddress?: (headers: Headers, info: MoqRequestInfo) => string | undefined;
  /** Limits of the server. */
  readonly limits?: MoqServerLimits;
  /** Limits of each session. */
  readonly sessionLimits?: MoqSessionOptions["limits"];
  /**
   * A connection that shows no sign of life for this long, in milliseconds, is given up: 30 s over a
   * WebSocket by default. `listenMoq` has it for WebTransport and raw QUIC too, where it is 15 s by
   * default, and up to a third more may pass: a silent client is asked for a sign three times in between.
   */
  readonly idleTimeoutMs?: number;
  /**
   * How much a client may send ahead of who reads, where that is counted; by default as on every
   * wire, but 1024 streams of each kind.
   */
  readonly flowControl?: FlowControlOptions;
}

/** What an HTTP server knows of a request beside the request. */
export interface MoqRequestInfo {
  /** Where it came from. */
  readonly remoteAddr?: Deno.Addr;
}

/** Options for {@linkcode listenMoq}. */
export interface ListenMoqOptions extends MoqServerOptions {
  /**
   * Port of UDP and TCP; 0 takes one that is free on both.
   *
   * @default {0}
   */
  readonly port?: number;
  /**
   * Address to listen on. By default `0.0.0.0`; in development, without `tls`, `127.0.0.1`.
   */
  readonly hostname?: string;
  /**
   * Certificate and key in PEM. Without it this is development: a short-lived certificate that clients
   * trust by its hash, which plain HTTP tells at `/certificate.sha256`, and WebSocket without TLS.
   */
  readonly tls?: Certificate;
  /**
   * Who the development certificate is for.
   *
   * @default {["localhost", "127.0.0.1", "::1"]}
   */
  readonly names?: readonly string[];
  /** Where the development certificate is kept; the user's cache folder by default, `null` for nowhere. */
  readonly cacheFolder?: string | URL | null;
  /**
   * What is listened on.
   *
   * @default {["webtransport", "quic", "websocket"]}
   */
  readonly transports?: readonly MoqWire[];
  /**
   * Listens on TCP, and upgrades, in place of the runtime's own server: `hardenedWebSocket()` of
   * `@skein/skein/ws`, for a server that faces the internet without a proxy. Only with the transport
   * `websocket`.
   */
  readonly webSocket?: WebSocketHost;
  /**
   * Bidirectional streams that a client may have open on a connection: its subscriptions and questions.
   * Each may hold up to 1.25 MB that nobody reads.
   *
   * @default {1024}
   */
  readonly maxBidirectionalStreams?: number;
  /**
   * Unidirectional streams that a client may have open on a connection: groups that it publishes. Each
   * may hold up to 1.25 MB that nobody reads.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number;
  /**
   * Streams over WebTransport and QUIC that clients open and that the server does not read. By default
   * one is refused 5 s after it came, one address takes at most 80 MB and all take at most 640 MB.
   */
  readonly unreadStreams?: UnreadStreamLimits;
  /** Closes the server. */
  readonly signal?: AbortSignal;
}

/** How sessions are asked to leave. */
export interface MoqDrainOptions {
  /** Where to go instead; the same place by default. */
  readonly uri?: string;
  /**
   * When those that are still there are closed, in milliseconds.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number;
}

/** What became of sessions that were asked to leave. */
export interface MoqDrainReport {
  /** Sessions that left. */
  readonly left: number;
  /** Sessions that were closed for they did not. */
  readonly cut: number;
}
