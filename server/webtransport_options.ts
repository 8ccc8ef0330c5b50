/**
 * How a server offers WebTransport beside WebSocket.
 *
 * @module
 */
import type {
  Certificate,
  ListenWebTransportOptions,
  QuicHandshakeStats,
  WebTransportRequest,
} from "../transport/h3/server.ts";

/**
 * What listens for WebTransport, as `WebTransportListener` does. It MUST go on
 * when a handshake or a session fails.
 */
export interface WebTransportSource extends AsyncIterable<WebTransportRequest> {
  /** Where it listens. */
  readonly address: Deno.NetAddr;
  /** Counters of handshakes, for the metrics; an engine that does not count has none. */
  readonly handshakes?: QuicHandshakeStats;
  /**
   * Has new handshakes get another certificate. Sessions stay.
   *
   * @param certificate The certificate and its key.
   */
  rotate(certificate: Certificate): void;
  /** Takes no new connections, and refuses new requests with 503. Idempotent. */
  stop(): void;
  /** Closes every connection, and stops listening; the iteration ends. Idempotent. */
  close(): Promise<void>;
}

/**
 * What begins to listen for WebTransport: the seam where another engine can
 * stand beside `listenWebTransport()`. It MUST throw `Deno.errors.AddrInUse`
 * if the port is taken.
 */
export type WebTransportEngine = (options: ListenWebTransportOptions) => WebTransportSource;

/** Options for WebTransport; see `webTransport` of `ServeOptions`. */
export interface WebTransportServeOptions extends
  Pick<
    ListenWebTransportOptions,
    | "flowControl"
    | "idleTimeoutMs"
    | "keepAliveIntervalMs"
    | "maxConnections"
    | "maxConnectionsPerAddress"
    | "maxHandshakes"
    | "maxSessionsPerConnection"
    | "maxStreams"
  > {
  /** UDP port; by default the number of the TCP port. */
  readonly port?: number;
  /**
   * Address to listen on. By default that of WebSocket; in development, without
   * `tls`, never more than this machine: `127.0.0.1` stands for all addresses.
   */
  readonly hostname?: string;
  /** By default that of `tls`; in development, without `tls`, the one that `deno task cert` shows. */
  readonly certificate?: Certificate;
  /**
   * Who the development certificate is for.
   *
   * @default {["localhost", "127.0.0.1", "::1"]}
   */
  readonly names?: readonly string[];
  /** Where the development certificate is kept; the user's cache folder by default, `null` for nowhere. */
  readonly cacheFolder?: string | URL | null;
  /**
   * Whether `/.well-known/skein/webtransport` tells clients of this machine the
   * port and the hash of the certificate; never with `tls`.
   *
   * @default {true}
   */
  readonly wellKnown?: boolean;
  /** What listens; HTTP/3 on the runtime's QUIC by default. */
  readonly engine?: WebTransportEngine;
}

/**
 * Checks the options that nobody else does.
 *
 * @param webTransport The option as it was given.
 * @returns Its parts; `undefined` if there shall be no WebTransport.
 * @throws {TypeError} If it is neither a boolean nor an object.
 * @throws {RangeError} If the port is none.
 */
export function webTransportOptions(
  webTransport: boolean | WebTransportServeOptions | undefined,
): WebTransportServeOptions | undefined {
  if (webTransport === false) return undefined;
  if (webTransport === true || webTransport === undefined) return {};
  if (typeof webTransport !== "object" || webTransport === null) {
    throw new TypeError(
      `Cannot serve: webTransport must be a boolean or an object, received ${webTransport}`,
    );
  }
  const { port = 0 } = webTransport;
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new RangeError(`Cannot serve: port must be an integer from 0 to 65535, received ${port}`);
  }
  return webTransport;
}
