/** The options and host of a MoQ server. */
import { MOQ_SESSION } from "../session/session.ts";
import { FLOW_CONTROL, UNREAD_STREAMS } from "../../transport/option_kinds.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { LIMIT, listOf, objectWith, PORT, POSITIVE } from "../../base/options/option_checks.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { RequestHead } from "../../server/feature.ts";
import type { SocketHost } from "../../server/server_core.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { Certificate } from "../../transport/certificate/certificate.ts";
import type { FlowControlOptions } from "../../transport/connection.ts";
import type { OriginRules } from "../../transport/origins.ts";
import { parseQmuxProtocol } from "../../transport/qmux/versions.ts";
import type { UnreadStreamLimits } from "../../transport/quic/unread_streams.ts";
import type { WebSocketHost } from "../../transport/websocket/server.ts";
import type { MoqSession, MoqSessionOptions } from "../session/session.ts";
import type { SetupRequest } from "../session/setup.ts";
import type { TrackMux } from "../track/mux.ts";
import { HASH_PATH, type MoqVersion, protocolsOf, VERSIONS } from "../wire/versions.ts";

/** Facts about a client that don't come from its SETUP. */
export interface MoqClientInfo {
  /** The requested URL; over raw QUIC without the path, which only SETUP contains. */
  readonly url: string;
  /** Request headers; empty over raw QUIC. */
  readonly headers: Headers;
  /** Network address of the client, if known. */
  readonly address: string | undefined;
  /** The transport: `webtransport`, `quic`, `websocket`, or another name. */
  readonly transport: string;
}

/** The options for {@linkcode MoqServer}. */
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
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Returns the broadcasts for one client, once it is admitted.
   *
   * If it throws, the client's session is closed, and `onError` receives the error.
   *
   * @default {`mux`}
   */
  readonly muxOf?: ((request: SetupRequest, client: MoqClientInfo) => TrackMux) | undefined;
  /**
   * The path of sessions: exact, or a `URLPattern` pathname such as `/rooms/:id`.
   *
   * @default {every path}
   */
  readonly path?: string | undefined;
  /**
   * Admits a client, or rejects it by throwing.
   *
   * The client receives the message of an `AuthenticationError` or a `MoqError`: over HTTP with a
   * status (the `AuthenticationError`'s, or 403), otherwise with a close. Any other error is a
   * fault: the client is rejected with 503 and may retry, and only `onError` receives the message.
   *
   * Over WebTransport and WebSocket `onSetup` runs before the request is handled. Only the URL,
   * the headers and usually the version are known then. Over raw QUIC, it runs after SETUP has
   * arrived.
   *
   * @default {admits all}
   */
  readonly onSetup?:
    | ((request: SetupRequest, client: MoqClientInfo) => void | Promise<void>)
    | undefined;
  /**
   * Receives each session once it is open. An error is passed to `onError`, and closes the session.
   */
  readonly onSession?:
    | ((session: MoqSession, client: MoqClientInfo) => unknown)
    | undefined;
  /**
   * Handles HTTP requests other than WebSocket upgrades.
   *
   * @default {responds with 426}
   */
  readonly fetch?:
    | ((request: Request, info: RequestInfo) => Response | Promise<Response>)
    | undefined;
  /**
   * Returns the network address of a client behind a trusted proxy.
   *
   * @default {the address of the socket}
   */
  readonly clientAddress?:
    | ((headers: Headers, info: RequestInfo) => string | undefined)
    | undefined;
  /** The limits of the server. */
  readonly limits?: {
    /**
     * The maximum number of sessions, including those in their setup; beyond it, 429.
     *
     * Over raw QUIC, further clients are closed with 4429.
     *
     * @default {10000}
     */
    readonly maxSessions?: number | undefined;
    /**
     * The maximum number of sessions of one network address, in contention; beyond it, 429.
     *
     * An IPv6 /64 counts as one address. Clients without an address are not counted. The default
     * only applies while more than half of `maxSessions` are in use. Without `clientAddress`, it
     * does not apply to a loopback or private address. A number that you set always applies.
     *
     * @default {1000}
     */
    readonly maxSessionsPerAddress?: number | undefined;
    /**
     * The maximum number of concurrent setups; beyond it, 503.
     *
     * Over raw QUIC, the connection of further clients is closed with 4503. While more than half of
     * the setups are in use, one address may use an eighth of them.
     *
     * @default {1024}
     */
    readonly maxPendingSetups?: number | undefined;
    /**
     * The maximum number of streams that all clients have open; further ones are rejected with
     * `relayLimit`.
     *
     * These are subscriptions, announce interests and other requests, and groups that clients
     * publish. A stream counts until both sides have ended it.
     *
     * State that a client piles up counts, too: 4 groups of a subscription that it has not
     * accepted, or 256 broadcasts that wait to be announced to it, count as one stream.
     *
     * @default {80000}
     */
    readonly maxStreams?: number | undefined;
    /**
     * The maximum number of streams of one network address; further ones are rejected with
     * `addressLimit`.
     *
     * An IPv6 /64 counts as one address. Without `clientAddress`, all clients at loopback and
     * private addresses together may have half of `maxStreams` instead. Sessions with a `share`
     * from `authorize`, such as other relays, are not counted.
     *
     * @default {8000}
     */
    readonly maxStreamsPerAddress?: number | undefined;
  } | undefined;
  /** The limits of each session. */
  readonly sessionLimits?: MoqSessionOptions["limits"] | undefined;
  /**
   * Silence after which a connection is closed, in milliseconds.
   *
   * With `listenMoq` it also applies to WebTransport and raw QUIC, where closing may take up to a
   * third longer, because the server probes a silent client three times.
   *
   * @default {30 s over a WebSocket, otherwise 15 s}
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * How much a client may send ahead of the reader, on transports that count credit.
   *
   * @default {that of the transport, with 1,024 streams of each kind}
   */
  readonly flowControl?: FlowControlOptions | undefined;
}

/** The options for {@linkcode listenMoq}. */
export interface ListenMoqOptions extends MoqServerOptions {
  /**
   * The port of UDP and TCP; 0 chooses one that is free on both.
   *
   * @default {0}
   */
  readonly port?: number | undefined;
  /**
   * The address on which to listen. By default `0.0.0.0`; in development, without `tls`,
   * `127.0.0.1`.
   */
  readonly hostname?: string | undefined;
  /**
   * The certificate and key in PEM. Without `tls` the server runs in development mode: with a
   * short-lived certificate, trusted by its hash, which plain HTTP serves at `/certificate.sha256`,
   * and with WebSocket without TLS.
   */
  readonly tls?: Certificate | undefined;
  /**
   * The names for which the development certificate is valid.
   *
   * @default {["localhost", "127.0.0.1", "::1"]}
   */
  readonly names?: readonly string[] | undefined;
  /**
   * Folder of the development certificate; by default the user's cache folder, `null` for no
   * folder.
   */
  readonly cacheFolder?: string | URL | null | undefined;
  /**
   * Transports on which to listen.
   *
   * @default {["webtransport", "quic", "websocket"]}
   */
  readonly transports?: readonly ("webtransport" | "quic" | "websocket")[] | undefined;
  /**
   * Listens on TCP and handles upgrades instead of the runtime's own server: `hardenedWebSocket()`
   * of `@skein/skein/ws`, for a server that faces the internet without a proxy. Requires the
   * transport `websocket`.
   */
  readonly webSocket?: WebSocketHost | undefined;
  /**
   * The maximum number of bidirectional streams that a client may have open on a connection, for
   * its subscriptions and requests. Each may hold up to 1.25 MB of unread data.
   *
   * @default {1024}
   */
  readonly maxBidirectionalStreams?: number | undefined;
  /**
   * The maximum number of unidirectional streams that a client may have open on a connection, for
   * the groups of its publications. Each may hold up to 1.25 MB of unread data.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The limits for streams over WebTransport and QUIC that clients open and the server does not
   * read. By default such a stream is rejected 5 s after its arrival; one address may hold at most
   * 80 MB, and all clients together at most 640 MB.
   */
  readonly unreadStreams?: UnreadStreamLimits | undefined;
  /** Closes the server. */
  readonly signal?: AbortSignal | undefined;
}

/** Returns `true` if a client offers a MoQ protocol by name. */
export function offersMoq({ headers, protocols }: RequestHead): boolean {
  const offered = protocols ??
    headers.get("sec-websocket-protocol")?.split(",")
      .map((name) => parseQmuxProtocol(name.trim())?.protocol ?? "");
  if (offered === undefined) return false;
  // All MoQ versions, including disabled ones.
  const names = protocolsOf(Object.keys(VERSIONS) as MoqVersion[], "websocket");
  return offered.some((name) => names.includes(name));
}

/** Returns `true` if a client requests the certificate's hash, and the host may send it. */
export function requestsHash({ url, method }: RequestHead, host: SocketHost | undefined): boolean {
  return method === "GET" && host !== undefined && host.isDevelopment && host.hashes.length > 0 &&
    url.includes(HASH_PATH) && URL.parse(url)?.pathname === HASH_PATH;
}

/** A transport that a MoQ server listens on. */
export type MoqWire = NonNullable<ListenMoqOptions["transports"]>[number];

const { side: _side, path: _path, signal: _signal, streams: _streams, ...SESSION } = MOQ_SESSION;

export const MOQ_SERVER: OptionKinds<MoqServerOptions> = {
  ...SESSION,
  clientAddress: "function",
  fetch: "function",
  flowControl: FLOW_CONTROL,
  hosts: listOf("string"),
  idleTimeoutMs: POSITIVE,
  limits: {
    maxPendingSetups: LIMIT,
    maxSessions: LIMIT,
    maxSessionsPerAddress: LIMIT,
    maxStreams: LIMIT,
    maxStreamsPerAddress: LIMIT,
  },
  onSession: "function",
  onSetup: "function",
  origins: listOf("string"),
  path: "string",
  sessionLimits: SESSION.limits,
};

export const MOQ_LISTEN: OptionKinds<ListenMoqOptions> = {
  ...MOQ_SERVER,
  cacheFolder: "string or object or null",
  hostname: "string",
  maxBidirectionalStreams: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  names: listOf("string"),
  port: PORT,
  signal: "AbortSignal",
  tls: 0,
  transports: "array",
  unreadStreams: UNREAD_STREAMS,
  webSocket: objectWith("WebSocketHost", "accept", "listen"),
};
