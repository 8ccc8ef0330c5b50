/** Options of WebTransport, and their checks. */
import type { QuicMount } from "../feature.ts";
import { isDeno } from "../../base/platform.ts";
import type { OriginRules } from "../../transport/origins.ts";
import type {
  Certificate,
  ListenWebTransportOptions,
  QuicHandshakeStats,
  WebTransportRequest,
} from "../../transport/h3/server.ts";

/** Name of the runtime's own engine, `Deno.upgradeWebTransport`. */
export const BUILTIN_ENGINE = "builtin";

/**
 * A listener for WebTransport, such as `WebTransportListener`. It MUST continue when a handshake or
 * session fails.
 */
export interface WebTransportSource extends AsyncIterable<WebTransportRequest> {
  /** Address on which the listener listens. */
  readonly address: Deno.NetAddr;
  /** Counters of handshakes, for the metrics; `undefined` if the engine does not count them. */
  readonly handshakes?: QuicHandshakeStats | undefined;
  /**
   * Sets the certificate for new handshakes. Open sessions are not affected.
   *
   * @param certificate The certificate and its key.
   */
  rotate(certificate: Certificate): void;
  /** Rejects new connections, and responds to new requests with 503. Idempotent. */
  stop(): void;
  /** Closes every connection, and stops listening; the iteration ends. Idempotent. */
  close(): Promise<void>;
}

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
  /**
   * UDP port.
   *
   * @default {the TCP port}
   */
  readonly port?: number | undefined;
  /**
   * Address on which to listen. In development, without `tls`, it is an address of this machine
   * only.
   *
   * In development, `127.0.0.1` replaces an address such as `0.0.0.0` that stands for all
   * interfaces.
   *
   * @default {the WebSocket address}
   */
  readonly hostname?: string | undefined;
  /**
   * Certificate of the UDP port. Without this option and `tls`, it is the development certificate
   * that `deno task cert` shows.
   *
   * @default {`tls`}
   */
  readonly certificate?: Certificate | undefined;
  /**
   * Folder of the development certificate; with `null`, it isn't stored.
   *
   * @default {the user's cache folder}
   */
  readonly cacheFolder?: string | URL | null | undefined;
  /**
   * The implementation of WebTransport: a function, or `"builtin"` for the runtime's own one, which
   * has defects.
   *
   * `"builtin"` is `Deno.upgradeWebTransport`. The WebTransport guide lists its defects. It does
   * not provide request headers, so some options are checked when the server starts:
   *
   * - **Origins:** `origins` must contain `*`, because the origin of a page is unknown.
   * - **Tokens:** with `authenticate`, `tokens.inMessage` must be `true`. This engine does not
   *   provide cookies or the `Authorization` header.
   * - **Protocol:** the client's URL must include the protocol, as `webTransportUrl` does:
   *   `?protocol=skein.1`. Other clients are rejected with 400.
   * - **Not supported:** the options `flowControl` and `maxSessionsPerConnection` of
   *   `webTransport`, and features that accept raw QUIC, such as `MoqServer`.
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
   * await using client = connect(`${server.url}?protocol=skein.1`, {
   *   transports: ["webtransport"],
   * });
   * assertEquals(await client.request("ping"), "pong");
   * assertEquals((await client.whenConnected()).transport, "webtransport");
   * ```
   *
   * @default {HTTP/3 on the runtime's QUIC}
   */
  readonly engine?:
    | ((options: ListenWebTransportOptions) => WebTransportSource)
    | "builtin"
    | undefined;
}

/**
 * Checks the option `webTransport`, except for the limits, which the listener checks.
 *
 * @returns The option as an object; `undefined` if WebTransport is off.
 * @throws {TypeError} If the option is neither a boolean nor an object, or if the engine is
 * unknown.
 * @throws {RangeError} If the port is not an integer between 0 and 65535.
 */
export function webTransportOptions(
  webTransport: boolean | WebTransportServeOptions | undefined,
): WebTransportServeOptions | undefined {
  if (webTransport === false) return undefined;
  if (webTransport === undefined) return isDeno ? {} : undefined;
  if (webTransport === true) return {};
  if (typeof webTransport !== "object" || webTransport === null) {
    throw new TypeError(
      `Cannot serve: webTransport must be a boolean or an object, received ${webTransport}`,
    );
  }
  const { engine } = webTransport;
  if (engine !== undefined && engine !== BUILTIN_ENGINE && typeof engine !== "function") {
    throw new TypeError(
      `Cannot serve: engine of webTransport must be "${BUILTIN_ENGINE}" or a function, received ${
        typeof engine === "string" ? `"${engine}"` : typeof engine
      }`,
    );
  }
  return webTransport;
}

/** Options of a server that the built-in engine restricts. */
export interface BuiltinEngineOptions extends Pick<OriginRules, "origins"> {
  /** The option `webTransport`. */
  readonly webTransport?: boolean | WebTransportServeOptions | undefined;
  /** The option `tokens`. */
  readonly tokens?: { readonly inMessage?: boolean | undefined } | undefined;
  /** The option `authenticate`; only its presence matters. */
  readonly authenticate?: unknown;
}

/**
 * Checks that no option needs a feature that the runtime's own engine lacks. Other engines support
 * all options.
 *
 * @param quic Raw QUIC of a feature, if there is one.
 * @throws {TypeError} If an option needs such a feature.
 */
export function checkBuiltinEngine(options: BuiltinEngineOptions, quic?: QuicMount): void {
  const { webTransport, origins = [], authenticate, tokens } = options;
  if (typeof webTransport !== "object" || webTransport?.engine !== BUILTIN_ENGINE) return;
  const reject = (rule: string, received: string): never => {
    throw new TypeError(
      `Cannot serve: ${rule} with the engine "${BUILTIN_ENGINE}" of webTransport, received ${received}`,
    );
  };
  // A request without an `Origin` header does not count as coming from a page, so every page would
  // pass.
  if (!origins.includes("*")) {
    reject('origins must contain "*", because requests have no Origin,', JSON.stringify(origins));
  }
  if (authenticate !== undefined && !tokens?.inMessage) {
    reject(
      "tokens.inMessage must be true with authenticate, because requests have no headers,",
      `${tokens?.inMessage ?? false}`,
    );
  }
  // Each group of a MoQ track is a stream, and the engine would run out of streams.
  if (quic !== undefined) reject("features must not accept raw QUIC", quic.protocols.join(", "));
  for (const name of ["flowControl", "maxSessionsPerConnection"] as const) {
    if (webTransport[name] === undefined) continue;
    reject(`webTransport.${name} must be left out`, JSON.stringify(webTransport[name]));
  }
}
