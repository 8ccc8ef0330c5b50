/**
 * The server half of raw QUIC.
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
} from "./acceptor.ts";
import type { Certificate } from "../certificate/certificate.ts";
import type { Connection } from "../connection.ts";
import { checkProtocols } from "./options.ts";
import { type QuicConnection, RawQuicConnection } from "./connection.ts";

export type { Certificate } from "../certificate/certificate.ts";
export type { QuicHandshakeStats, QuicListenOptions } from "./acceptor.ts";

/** Connections that nobody took yet; more are closed. */
const MAX_WAITING_CONNECTIONS = 1_024;

/** Options for {@linkcode listenQuic}. */
export interface ListenQuicOptions extends QuicListenOptions {
  /** Protocols that are spoken (ALPN), the best first; who offers none of them is refused. */
  readonly protocols: readonly string[];
  /**
   * Bidirectional streams that a peer may have open. Each may hold up to 1.25 MB that nobody reads.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number;
  /**
   * Unidirectional streams that a peer may have open. Each may hold up to 1.25 MB that nobody reads.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number;
}

/**
 * Listens for QUIC connections. Iterate over it to get them, ready.
 *
 * - **Robust:** a handshake that fails ends nothing but itself.
 * - **Bound:** connections, those of one address, handshakes and connections
 *   that wait have limits; what is beyond is refused, or ignored where handshakes are too many.
 */
export class QuicListener implements AsyncIterable<QuicConnection>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<Accepted>;
  readonly #signal: AbortSignal | undefined;
  readonly #waiting: QuicConnection[] = [];
  readonly #onAbort = (): void => void this.close();
  #wake: PromiseWithResolvers<void> | undefined = undefined;
  #isStopped = false;
  #closing: Promise<void> | undefined = undefined;

  /**
   * Listens; `listenQuic()` does.
   *
   * @param options See {@linkcode ListenQuicOptions}.
   */
  constructor(options: ListenQuicOptions) {
    const { protocols, maxBidirectionalStreams = 128, maxUnidirectionalStreams = 1_024 } = options;
    checkProtocols(protocols, "listen");
    checkLimits({ maxBidirectionalStreams, maxUnidirectionalStreams });
    this.#signal = options.signal;
    this.#acceptor = new QuicAcceptor(options, {
      protocols,
      maxBidirectionalStreams,
      maxUnidirectionalStreams,
      accept: (conn, unread) => this.#take(new RawQuicConnection(conn, unread)),
      refuse: refuseQuic,
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

  /**
   * Has new handshakes get another certificate. Connections stay.
   *
   * @param certificate The certificate and its key.
   * @throws {TypeError} If they make no sense, or the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Takes no new connections, and closes those that nobody took with 4503. Others stay. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#acceptor.stop();
    for (const connection of this.#waiting.splice(0)) refuseConnection(connection);
    this.#wake?.resolve();
  }

  /**
   * Closes every connection with 0, and stops listening. Idempotent. The runtime gives
   * the port back when it collects its garbage, not at once.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields connections, until the listener is stopped. */
  async *[Symbol.asyncIterator](): AsyncGenerator<QuicConnection, void, undefined> {
    while (true) {
      for (let connection; (connection = this.#waiting.shift()) !== undefined;) yield connection;
      if (this.#isStopped) return;
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
    }
  }

  #take(connection: QuicConnection): Accepted {
    if (this.#waiting.length >= MAX_WAITING_CONNECTIONS) refuseConnection(connection);
    else {
      this.#waiting.push(connection);
      this.#wake?.resolve();
    }
    return acceptedQuic(connection);
  }

  async #close(): Promise<void> {
    this.stop();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    await this.#acceptor.close(CloseCode.normal);
  }
}

type Accepted = AcceptedConnection;

/**
 * Listens for QUIC connections.
 *
 * @param options See {@linkcode ListenQuicOptions}.
 * @returns The listener; iterate over it to get the connections.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is taken.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If there are no protocols, or the certificate and its key are not texts of PEM.
 *
 * @example An echo
 * ```ts
 * import { devCertificate, dialQuic, directStream, listenQuic } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const certificate = devCertificate({ cacheFolder: null });
 * const protocols = ["echo"];
 * await using listener = listenQuic({ hostname: "127.0.0.1", protocols, ...certificate });
 * void (async () => {
 *   for await (const connection of listener) {
 *     for await (const stream of connection.incomingBidirectionalStreams) {
 *       stream.readable.pipeTo(stream.writable).catch(() => {});
 *     }
 *   }
 * })();
 *
 * await using connection = await dialQuic(`quic://127.0.0.1:${listener.address.port}`, {
 *   protocols,
 *   serverCertificateHashes: certificate.hashes,
 * });
 * const stream = directStream(await connection.createBidirectionalStream());
 * await stream.write(new TextEncoder().encode("hello"));
 * await stream.close();
 * assertEquals(new TextDecoder().decode((await stream.read())!), "hello");
 * ```
 */
export function listenQuic(options: ListenQuicOptions): QuicListener {
  return new QuicListener(options);
}

/**
 * Gives a listener what it needs of a connection.
 *
 * @param connection The connection.
 * @returns Its end, and how it is closed.
 */
export function acceptedQuic(connection: Connection): AcceptedConnection {
  return { ending: connection.closed.catch(() => {}), close: () => connection.close() };
}

/**
 * Closes a connection that is one too many.
 *
 * @param conn The connection.
 */
export function refuseQuic(conn: Deno.QuicConn): void {
  conn.close({ closeCode: CloseCode.tooMany, reason: "Too many connections" });
}

function refuseConnection(connection: Connection): void {
  connection.close({ closeCode: CloseCode.draining, reason: "The server takes no more" });
}
