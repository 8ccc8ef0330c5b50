/** The server side of WebTransport: HTTP/3 on the runtime's QUIC. */
import type { OptionKinds } from "../../base/options.ts";
import { checkOptions, POSITIVE } from "../../base/option_checks.ts";
import { CloseCode } from "../../errors.ts";
import type { Http3Protocol, ServerConnection } from "./accept.ts";
import {
  ACCEPT,
  type ListenQuicOptions,
  QuicAcceptor,
  type QuicHandshakeStats,
} from "../quic/acceptor.ts";
import type { Certificate } from "../certificate/certificate.ts";
import type { FlowControlOptions } from "../connection.ts";
import { flowLimitsOf } from "./wire/settings.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { H3Error } from "./wire/error_codes.ts";
import type { WebTransportRequest } from "./request.ts";
import { RequestQueue } from "./request_queue.ts";
import type { QuicConnection } from "../quic/connection.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { checkProtocols } from "../quic/options.ts";

export type { QuicHandshakeStats } from "../quic/acceptor.ts";

export { type Certificate, checkCertificate } from "../certificate/certificate.ts";

export type { AcceptOptions, RefuseOptions, WebTransportRequest } from "./request.ts";

/** The options for {@linkcode listenWebTransport}. */
export interface ListenWebTransportOptions
  extends
    Omit<ListenQuicOptions, "protocols" | "maxBidirectionalStreams" | "maxUnidirectionalStreams"> {
  /**
   * The maximum number of concurrent sessions of one connection; more are rejected with 429.
   *
   * @default {16}
   */
  readonly maxSessionsPerConnection?: number | undefined;
  /**
   * The maximum number of a peer's open streams per connection and direction. Each may hold up to
   * 1.25 MB of unread data; see `unreadStreams`.
   *
   * @default {128}
   */
  readonly maxStreams?: number | undefined;
  /**
   * The maximum number of a peer's open unidirectional streams per connection, if different: peers
   * of Media over QUIC open streams without waiting. `maxStreams` by default, or 1024 with `quic`.
   * The value is also the default of `flowControl.maxStreamsUni`.
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The limits on data that a client may send ahead of the readers, for clients with flow control,
   * such as Skein in Deno; a browser may lack flow control. The stream limits above and QUIC's own
   * limits also apply.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Tells whether the client of a request hands over from a session of this server. Beyond
   * `maxConnections` and `maxConnectionsPerAddress`, as many additional connections are admitted if
   * their first request arrives within two seconds and is from such a client; others are closed. By
   * default the limits apply to all connections. MUST NOT throw.
   *
   * @param request The request, which must not be accepted or refused here.
   */
  readonly isSuccessor?: ((request: WebTransportRequest) => boolean) | undefined;
  /** Raw QUIC for protocols other than HTTP/3 on the same port. Absent by default. */
  readonly quic?: {
    /**
     * Supported protocols (ALPN), in order of preference. MUST NOT include `h3`, which WebTransport
     * uses.
     */
    readonly protocols: readonly string[];
    /**
     * Called with each ready connection. If the callback throws or rejects, the connection is closed
     * with 4500.
     *
     * @param connection The connection; `protocol` is the negotiated one.
     */
    onConnection(connection: QuicConnection): void | Promise<void>;
    /**
     * Called with errors of `onConnection`, which are otherwise ignored. MUST NOT throw.
     *
     * @param error The error.
     */
    onError?(error: unknown): void;
  } | undefined;
}

const LISTEN: OptionKinds<ListenWebTransportOptions> = {
  ...ACCEPT,
  flowControl: FLOW_CONTROL,
  isSuccessor: "function",
  maxSessionsPerConnection: POSITIVE,
  maxStreams: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  quic: { onConnection: "function", onError: "function", protocols: "array" },
};

/** Raw QUIC next to WebTransport; see {@linkcode ListenWebTransportOptions.quic}. */
export type RawQuicOptions = NonNullable<ListenWebTransportOptions["quic"]>;

/**
 * Listener for WebTransport sessions; iterate to receive requests.
 *
 * - **Robust:** a failed handshake affects no other connection.
 * - **0-RTT:** a request is handled only after the handshake, so a replayed request is never
 *   handled.
 * - **Bound:** connections, handshakes, waiting requests, and sessions per connection have limits;
 *   excess ones are rejected.
 * - **Open under a flood:** excess handshakes are ignored, so that honest clients try again, and
 *   newer handshakes replace unfinished ones.
 * - **Grace:** a connection is closed after two seconds without a session, because browsers keep
 *   idle connections open.
 */
export class WebTransportListener implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<ServerConnection>;
  readonly #signal: AbortSignal | undefined;
  /** Resolves after the code for connections has loaded. */
  readonly #loaded: Promise<Http3Protocol>;
  readonly #requests = new RequestQueue();
  readonly #onAbort = (): void => void this.close();
  #closing: Promise<void> | undefined = undefined;

  /**
   * Starts to listen; prefer `listenWebTransport()`.
   *
   * @param options The options of `listenWebTransport()`.
   */
  constructor(options: ListenWebTransportOptions) {
    checkOptions("listen", options, LISTEN);
    const { runtime = platformRuntime() } = options;
    const { quic, maxSessionsPerConnection: maxSessions = 16, maxStreams = 128 } = options;
    const { maxUnidirectionalStreams = quic === undefined ? maxStreams : 1_024 } = options;
    if (quic !== undefined) checkQuic(quic);
    const isOther = quic !== undefined || options.maxUnidirectionalStreams !== undefined;
    const flowControl = isOther
      ? {
        ...options.flowControl,
        maxStreamsUni: options.flowControl?.maxStreamsUni ?? maxUnidirectionalStreams,
      }
      : options.flowControl;
    flowLimitsOf(flowControl); // Throws for an invalid limit, before the server listens.
    this.#signal = options.signal;
    // HTTP/3 loads while the server starts to listen: a third of all code that a server may need.
    const protocol = import("./accept.ts").then(({ acceptProtocol }) =>
      acceptProtocol({
        runtime,
        side: "server",
        maxSessions,
        flowControl,
        isSuccessor: options.isSuccessor,
        onRequest: (request) => this.#requests.push(request),
      }, quic && ((connection) => void handOver(connection, quic)))
    );
    this.#loaded = protocol;
    this.#acceptor = new QuicAcceptor<ServerConnection>(runtime, options, {
      protocols: ["h3", ...quic?.protocols ?? []],
      // Requests and control streams count in addition to the streams of sessions.
      maxBidirectionalStreams: maxStreams + 1,
      maxUnidirectionalStreams: maxUnidirectionalStreams + 3,
      protocol,
    });
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Bound address. */
  get address(): Deno.NetAddr {
    return this.#acceptor.address;
  }

  /** The counters of handshakes. */
  get handshakes(): QuicHandshakeStats {
    return this.#acceptor.handshakes;
  }

  /** The number of open connections. */
  get connectionCount(): number {
    return this.#acceptor.connectionCount;
  }

  /** The number of sessions, including pending ones. */
  get sessionCount(): number {
    let count = 0;
    for (const connection of this.#acceptor.connections) {
      count += connection.sessionCount ?? 0;
    }
    return count;
  }

  /**
   * Replaces the certificate for new handshakes. Sessions stay open.
   *
   * @param certificate The certificate and key.
   * @throws {TypeError} If the certificate or key is invalid, or the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Rejects new connections, and new requests with 503. Sessions stay open. */
  stop(): void {
    if (this.#requests.isStopped) return;
    this.#acceptor.stop();
    for (const connection of this.#acceptor.connections) {
      connection.stop?.();
    }
    this.#requests.stop();
  }

  /**
   * Closes every connection, and stops listening. Idempotent. Clients see open sessions as lost, so
   * close them first. The runtime frees the port on garbage collection, not immediately.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes the listener; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields requests until the listener stops. */
  async *[Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    await this.#loaded;
    yield* this.#requests;
  }

  async #close(): Promise<void> {
    this.stop();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    await this.#acceptor.close(H3Error.noError);
    const protocol = await this.#loaded.catch(() => undefined); // The iteration throws the error.
    protocol?.clear();
  }
}

/**
 * Listens for WebTransport sessions.
 *
 * @param options The certificate, address and limits.
 * @returns The listener; iterate to receive requests.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is in use.
 * @throws {RangeError} If a limit is not a positive integer, or a limit in `flowControl` is
 * invalid.
 * @throws {TypeError} If the certificate and key are not PEM strings.
 */
export function listenWebTransport(options: ListenWebTransportOptions): WebTransportListener {
  return new WebTransportListener(options);
}

function checkQuic({ protocols, onConnection }: RawQuicOptions): void {
  checkProtocols(protocols, "listen");
  if (protocols.includes("h3")) {
    throw new TypeError('Cannot listen: protocols of raw QUIC must not include "h3"');
  }
  if (typeof onConnection !== "function") {
    throw new TypeError(
      `Cannot listen: onConnection must be a function, received ${typeof onConnection}`,
    );
  }
}

/** Passes a connection to the application, and handles errors of the callback. */
async function handOver(connection: QuicConnection, quic: RawQuicOptions): Promise<void> {
  try {
    await quic.onConnection(connection);
  } catch (error) {
    connection.close({ closeCode: CloseCode.handlerFailed, reason: "A handler failed" });
    quic.onError?.(error);
  }
}
