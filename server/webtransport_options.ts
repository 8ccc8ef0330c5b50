/**
 * How a server offers WebTransport beside WebSocket.
 *
 * @module
 */
import type { AdmissionOptions } from "./admission_options.ts";
import type { OriginRules } from "../transport/origins.ts";
import type {
  Certificate,
  ListenWebTransportOptions,
  QuicHandshakeStats,
  WebTransportRequest,
} from "../transport/h3/server.ts";

/** Name of the runtime's own engine, `Deno.upgradeWebTransport`. */
export const BUILTIN_ENGINE = "builtin";

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
  /**
   * The engine that listens: HTTP/3 on the runtime's QUIC by default. `"builtin"` is the runtime's own
   * WebTransport, `Deno.upgradeWebTransport`, which has defects: the guide to WebTransport lists them.
   * It shows no headers of a request, so some options are checked when the server starts:
   *
   * - **Origins:** `origins` has to hold `*`, since the origin of a page is not known.
   * - **Tokens:** beside `authenticate`, `acceptsTokenInBand` has to be true. Cookies and
   *   `Authorization` do not arrive over this engine.
   * - **Protocol:** the URL of a client names it, as `webTransportUrl` does: `?protocol=skein.1`. A
   *   client that names none is refused with 400.
   * - **Left out:** `flowControl` and `maxSessionsPerConnection` beside the engine, and `moq`.
   *
   * @example The runtime's own engine
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   hostname: "127.0.0.1",
   *   onListen() {},
   *   origins: ["*"],
   *   webTransport: { engine: "builtin" },
   *   onMessage: (message) => message.reply("pong"),
   * });
   * await using client = connect(`${server.url}?protocol=skein.1`);
   * assertEquals(await client.request("ping"), "pong");
   * assertEquals((await client.whenConnected()).transport, "webtransport");
   * ```
   */
  readonly engine?: WebTransportEngine | "builtin";
}

/**
 * Checks the option `webTransport`, apart from the limits that the listener checks.
 *
 * @param webTransport The option as it was given.
 * @returns Its parts; `undefined` if WebTransport is off.
 * @throws {TypeError} If it is neither a boolean nor an object, or the engine is unknown.
 * @throws {RangeError} If the port is not an integer from 0 to 65535.
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
  const { port = 0, engine } = webTransport;
  if (engine !== undefined && engine !== BUILTIN_ENGINE && typeof engine !== "function") {
    throw new TypeError(
      `Cannot serve: engine of webTransport must be "${BUILTIN_ENGINE}" or a function, received ${
        typeof engine === "string" ? `"${engine}"` : typeof engine
      }`,
    );
  }
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new RangeError(`Cannot serve: port must be an integer from 0 to 65535, received ${port}`);
  }
  return webTransport;
}

/** Options of a server that have to fit the built-in engine. */
export interface BuiltinEngineOptions
  extends Pick<OriginRules, "origins">, Pick<AdmissionOptions<never>, "acceptsTokenInBand"> {
  /** The option `webTransport`. */
  readonly webTransport?: boolean | WebTransportServeOptions | undefined;
  /** The option `authenticate`, of which only the presence counts. */
  readonly authenticate?: unknown;
  /** The option `moq`, of which only the presence counts. */
  readonly moq?: unknown;
}

/**
 * Checks that no option needs something that the runtime's own engine does not show or do. Options for
 * another engine pass.
 *
 * @param options The server's options.
 * @throws {TypeError} If one does.
 */
export function checkBuiltinEngine(options: BuiltinEngineOptions): void {
  const { webTransport, origins = [], authenticate, acceptsTokenInBand = false, moq } = options;
  if (typeof webTransport !== "object" || webTransport?.engine !== BUILTIN_ENGINE) return;
  const refuse = (rule: string, received: string): never => {
    throw new TypeError(
      `Cannot serve: ${rule} with the engine "${BUILTIN_ENGINE}" of webTransport, received ${received}`,
    );
  };
  // A request without an Origin passes as one of no page, and so would every page.
  if (!origins.includes("*")) {
    refuse('origins must hold "*", since no Origin is shown,', JSON.stringify(origins));
  }
  if (authenticate !== undefined && !acceptsTokenInBand) {
    refuse(
      "acceptsTokenInBand must be true beside authenticate, since no headers are shown,",
      `${acceptsTokenInBand}`,
    );
  }
  // Each group of a track is a stream, and those give out.
  if (moq !== undefined) refuse("moq must be left out", typeof moq);
  for (const name of ["flowControl", "maxSessionsPerConnection"] as const) {
    if (webTransport[name] === undefined) continue;
    refuse(`webTransport.${name} must be left out`, JSON.stringify(webTransport[name]));
  }
}
