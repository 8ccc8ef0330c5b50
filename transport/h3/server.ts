/**
 * The server half of WebTransport: HTTP/3 on the runtime's QUIC.
 *
 * @module
 */
import { CloseCode } from "../../errors.ts";
import {
  type AcceptedConnection,
  checkLimits,
  QuicAcceptor,
  type QuicHandshakeStats,
  type QuicListenOptions,
} from "../quic/acceptor.ts";
import type { Certificate } from "../certificate/certificate.ts";
import type { FlowControlOptions } from "../connection.ts";
import { Deadlines } from "../deadlines.ts";
import { encodeControlHead, Http3Connection, type Http3ConnectionOptions } from "./connection.ts";
import { H3Error } from "./error_codes.ts";
import type { WebTransportRequest } from "./request.ts";
import { RequestQueue } from "./request_queue.ts";
import { type QuicConnection, RawQuicConnection } from "../quic/connection.ts";
import { checkProtocols } from "../quic/options.ts";
import type { UnreadShare } from "../quic/unread_streams.ts";
import { acceptedQuic, refuseQuic } from "../quic/server.ts";

export type { QuicHandshakeStats } from "../quic/acceptor.ts";
export { type Certificate, checkCertificate } from "../certificate/certificate.ts";
export { isQuicAvailable as isWebTransportAvailable } from "../quic/runtime.ts";
export type { AcceptOptions, RefuseOptions, WebTransportRequest } from "./request.ts";

/** A client that asked for no session by then is not here for one, in milliseconds. */
const FIRST_REQUEST_TIMEOUT_MS = 10_000;

/** Options for {@linkcode listenWebTransport}. */
export interface ListenWebTransportOptions extends QuicListenOptions {
  /**
   * Sessions of one connection at once; more are refused with 429.
   *
   * @default {16}
   */
  readonly maxSessionsPerConnection?: number;
  /**
   * Streams of each kind that a peer may have open on a connection. Each may hold up to 1.25 MB
   * that the application does not read; see `unreadStreams`.
   *
   * @default {128}
   */
  readonly maxStreams?: number;
  /**
   * Unidirectional streams that a peer may have open on a connection, where that is another number:
   * peers of Media over QUIC open theirs without waiting. `maxStreams` by default, or 1024 with `quic`.
   * It is the default of `flowControl.maxStreamsUni` too.
   */
  readonly maxUnidirectionalStreams?: number;
  /**
   * How much a client may send ahead of who reads, where it counts too, as a client of Skein in Deno
   * does; a browser may not. The limits of streams and QUIC's own limits stay below it.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Takes connections of other protocols than HTTP/3 on the same port. None by default. */
  readonly quic?: RawQuicOptions | undefined;
}

/** Raw QUIC beside WebTransport; see {@linkcode ListenWebTransportOptions.quic}. */
export interface RawQuicOptions {
  /** Protocols that are spoken there (ALPN), the best first; `h3` is WebTransport's. */
  readonly protocols: readonly string[];
  /**
   * Takes a connection, which is ready. If it throws, or what it returns rejects, the connection is
   * closed with 4500.
   *
   * @param connection The connection; its `protocol` is the one agreed on.
   */
  onConnection(connection: QuicConnection): void | Promise<void>;
  /**
   * Gets what that threw; lost by default. MUST NOT throw.
   *
   * @param error What was thrown.
   */
  onError?(error: unknown): void;
}

/**
 * Listens for WebTransport sessions. Iterate over it to get their requests.
 *
 * - **Robust:** a handshake that fails ends nothing but itself.
 * - **0-RTT:** a request is seen only once the handshake is complete, so one
 *   that is replayed is never seen.
 * - **Bound:** connections, handshakes, requests that wait and sessions a
 *   connection have limits; what is beyond is refused.
 * - **Open under a flood:** handshakes beyond their limit are ignored, which honest clients answer by
 *   trying again, and those that nobody finishes give way to newer ones.
 * - **Grace:** a connection without a session is closed after two seconds,
 *   since browsers keep theirs.
 */
export class WebTransportListener implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<Http3Connection | AcceptedConnection>;
  readonly #signal: AbortSignal | undefined;
  readonly #quic: RawQuicOptions | undefined;
  readonly #connectionOptions: Http3ConnectionOptions;
  readonly #requests = new RequestQueue();
  readonly #firstRequests = new Deadlines<Http3Connection>(
    FIRST_REQUEST_TIMEOUT_MS,
    (connection) => connection.close(),
  );
  readonly #onAbort = (): void => void this.close();
  #closing: Promise<void> | undefined = undefined;

  /**
   * Listens; `listenWebTransport()` does.
   *
   * @param options See {@linkcode ListenWebTransportOptions}.
   */
  constructor(options: ListenWebTransportOptions) {
    const { quic, maxSessionsPerConnection: maxSessions = 16, maxStreams = 128 } = options;
    const { maxUnidirectionalStreams = quic === undefined ? maxStreams : 1_024 } = options;
    checkLimits({ maxSessionsPerConnection: maxSessions, maxStreams, maxUnidirectionalStreams });
    if (quic !== undefined) checkQuic(quic);
    const isOther = quic !== undefined || options.maxUnidirectionalStreams !== undefined;
    const flowControl = isOther
      ? { maxStreamsUni: maxUnidirectionalStreams, ...options.flowControl }
      : options.flowControl;
    this.#quic = quic;
    this.#signal = options.signal;
    this.#connectionOptions = {
      side: "server",
      maxSessions,
      flowControl,
      controlHead: encodeControlHead({ side: "server", maxSessions, flowControl }),
      firstRequests: this.#firstRequests,
      onRequest: (request) => this.#requests.push(request),
    };
    this.#acceptor = new QuicAcceptor<Http3Connection | AcceptedConnection>(options, {
      protocols: ["h3", ...quic?.protocols ?? []],
      // The request itself is one, and so are the control streams.
      maxBidirectionalStreams: maxStreams + 1,
      maxUnidirectionalStreams: maxUnidirectionalStreams + 3,
      accept: (conn, unread) => this.#accept(conn, unread),
      refuse(conn) {
        if (conn.protocol !== "h3") return refuseQuic(conn);
        conn.close({ closeCode: H3Error.excessiveLoad, reason: "Too many connections" });
      },
    });
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Where it listens. */
  get address(): Deno.NetAddr {
    return this.#acceptor.address;
  }

  /** Counters of handshakes. */
  get handshakes(): QuicHandshakeStats {
    return this.#acceptor.handshakes;
  }

  /** How many connections there are. */
  get connectionCount(): number {
    return this.#acceptor.connectionCount;
  }

  /** How many sessions there are, asked for ones too. */
  get sessionCount(): number {
    let count = 0;
    for (const connection of this.#acceptor.connections) {
      if (connection instanceof Http3Connection) count += connection.sessionCount;
    }
    return count;
  }

  /**
   * Has new handshakes get another certificate. Sessions stay.
   *
   * @param certificate The certificate and its key.
   * @throws {TypeError} If they make no sense, or the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Takes no new connections, and refuses new requests with 503. Sessions stay. */
  stop(): void {
    if (this.#requests.isStopped) return;
    this.#acceptor.stop();
    for (const connection of this.#acceptor.connections) {
      if (connection instanceof Http3Connection) connection.stop();
    }
    this.#requests.stop();
  }

  /**
   * Closes every connection, and stops listening. Idempotent. The runtime gives
   * the port back when it collects its garbage, not at once.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields requests, until the listener is stopped. */
  [Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    return this.#requests[Symbol.asyncIterator]();
  }

  #accept(conn: Deno.QuicConn, unread: UnreadShare): Http3Connection | AcceptedConnection {
    if (this.#quic === undefined || conn.protocol === "h3") {
      return new Http3Connection(conn, this.#connectionOptions, unread);
    }
    const connection = new RawQuicConnection(conn, unread);
    void handOver(connection, this.#quic);
    return acceptedQuic(connection);
  }

  async #close(): Promise<void> {
    this.stop();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    await this.#acceptor.close(H3Error.noError);
    this.#firstRequests.clear();
  }
}

/**
 * Listens for WebTransport sessions.
 *
 * @param options See {@linkcode ListenWebTransportOptions}.
 * @returns The listener; iterate over it to get the requests.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is taken.
 * @throws {RangeError} If a limit is not a positive integer, or one of `flowControl` makes no sense.
 * @throws {TypeError} If the certificate and its key are not texts of PEM.
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

/** Gives a connection to who takes it, and survives what that does. */
async function handOver(connection: QuicConnection, quic: RawQuicOptions): Promise<void> {
  try {
    await quic.onConnection(connection);
  } catch (error) {
    connection.close({ closeCode: CloseCode.handlerFailed, reason: "A handler failed" });
    quic.onError?.(error);
  }
}
