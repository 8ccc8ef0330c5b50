/** The WebTransport server, with HTTP/3 over the runtime's QUIC. */
import { attempt } from "../../base/call_safely.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE } from "../../base/options/option_checks.ts";
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
import { Http3RequestQueue } from "./request_queue.ts";
import type { QuicConnection } from "../quic/connection.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { checkProtocols } from "../quic/options.ts";

export type { QuicHandshakeStats } from "../quic/acceptor.ts";

export { type Certificate, checkCertificate } from "../certificate/certificate.ts";

export type { AcceptOptions, RejectOptions, WebTransportRequest } from "./request.ts";

/** The options for {@linkcode listenWebTransport}. */
export interface ListenWebTransportOptions
  extends
    Omit<ListenQuicOptions, "protocols" | "maxBidirectionalStreams" | "maxUnidirectionalStreams"> {
  /**
   * The maximum number of concurrent sessions on one connection. Further requests are rejected with
   * 429.
   *
   * @default {16}
   */
  readonly maxSessionsPerConnection?: number | undefined;
  /**
   * The maximum number of streams that a peer can have open, per connection and direction. Each
   * stream can hold up to 1.25 MB of unread data; see `unreadStreams`.
   *
   * @default {128}
   */
  readonly maxStreams?: number | undefined;
  /**
   * The maximum number of unidirectional streams that a peer can have open, per connection. The
   * default is `maxStreams`, or 1024 if `quic` is set, because Media over QUIC peers open streams
   * without waiting. The value is also the default of `flowControl.maxStreamsUni`.
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The limits on data that a client can send before you read it. They apply to clients that
   * support flow control, such as Skein in Deno; a browser may not support it. The stream limits
   * above and QUIC's own limits also apply.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Tells whether a request is from a client that is handing over from a session of this server. If
   * this callback is set, twice as many connections as `maxConnections` and
   * `maxConnectionsPerAddress` can be open. A connection above the normal limits is closed unless
   * its first request arrives within two seconds and comes from such a client. By default, the
   * limits apply to all connections. The callback MUST NOT throw or be asynchronous: only `true` lets
   * a connection stay.
   *
   * @param request The request. Do not accept or reject it here.
   */
  readonly isSuccessor?: ((request: WebTransportRequest) => boolean) | undefined;
  /** Serves protocols other than HTTP/3 with raw QUIC on the same port. Absent by default. */
  readonly quic?: {
    /**
     * The supported protocols (ALPN), in order of preference. They MUST NOT include `h3`, which
     * WebTransport uses.
     */
    readonly protocols: readonly string[];
    /**
     * Called with each connection once it is ready. If the callback throws or rejects, the
     * connection is closed with 4500.
     *
     * @param connection The connection; `protocol` is the negotiated protocol.
     */
    onConnection(connection: QuicConnection): void | Promise<void>;
    /**
     * Called with each error from `onConnection`. Without this callback, the errors are ignored. It
     * MUST NOT throw.
     *
     * @param error What `onConnection` threw or rejected with.
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

/**
 * The options for raw QUIC next to WebTransport; see {@linkcode ListenWebTransportOptions.quic}.
 */
export type RawQuicOptions = NonNullable<ListenWebTransportOptions["quic"]>;

/**
 * A listener for WebTransport sessions. Iterate over it to receive requests.
 *
 * - **Robust:** a failed handshake does not affect other connections.
 * - **0-RTT:** a request is handled only once the handshake is complete, so a replayed request is
 *   never handled.
 * - **Limits:** connections, handshakes, waiting requests, and sessions per connection are limited.
 *   Excess connections, requests and sessions are rejected.
 * - **Open under a flood:** newer handshakes replace unfinished ones. Other excess handshakes are
 *   ignored; honest clients then send their first packet again.
 * - **Idle connections:** a connection is closed after two seconds without a session, because
 *   browsers keep idle connections open.
 */
export class WebTransportListener implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<ServerConnection>;
  readonly #signal: AbortSignal | undefined;
  /** Resolves when the code for connections has loaded. */
  readonly #loaded: Promise<Http3Protocol>;
  readonly #requests = new Http3RequestQueue();
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
    flowLimitsOf(flowControl); // Throws for an invalid limit before the server listens.
    this.#signal = options.signal;
    // HTTP/3, a third of all code that a server may need, loads while the server starts to listen.
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
      // Requests and control streams count against these limits too.
      maxBidirectionalStreams: maxStreams + 1,
      maxUnidirectionalStreams: maxUnidirectionalStreams + 3,
      protocol,
    });
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** The address that the listener is bound to. */
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
   * Replaces the certificate for new handshakes. Open sessions are not affected.
   *
   * @param certificate The certificate and key.
   * @throws {TypeError} If the certificate or key is invalid, or if the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Rejects new connections, and rejects new requests with 503. Open sessions are not affected. */
  stop(): void {
    if (this.#requests.isStopped) return;
    this.#acceptor.stop();
    for (const connection of this.#acceptor.connections) {
      connection.stop?.();
    }
    this.#requests.stop();
  }

  /**
   * Closes every connection and stops listening. Further calls have no effect. Close open sessions
   * first; otherwise, their clients treat them as lost. The runtime frees the port when it collects
   * garbage, not immediately.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes the listener. `await using` calls this method. */
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
    const protocol = await this.#loaded.catch(() => undefined); // The iteration throws this error.
    protocol?.clear();
  }
}

/**
 * Listens for WebTransport sessions.
 *
 * @param options The certificate, address and limits.
 * @returns The listener. Iterate over it to receive requests.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is in use.
 * @throws {RangeError} If a limit is not a positive integer, or if a limit in `flowControl` is
 * invalid.
 * @throws {TypeError} If the certificate or the key is not a PEM string.
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
    attempt(() => quic.onError?.(error), () => {}); // No other handler is left.
  }
}
