/** The server side of raw QUIC. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE } from "../../base/options/option_checks.ts";
import { CloseCode } from "../../errors.ts";
import {
  ACCEPT,
  type AcceptedConnection,
  type ListenQuicOptions,
  QuicAcceptor,
  type QuicHandshakeStats,
} from "./acceptor.ts";
import type { Certificate } from "../certificate/certificate.ts";
import type { Connection } from "../connection.ts";
import { checkProtocols } from "./options.ts";
import { type QuicConnection, RawQuicConnection } from "./connection.ts";
import { platformRuntime } from "../../base/runtime.ts";

export type { Certificate } from "../certificate/certificate.ts";
export type { ListenQuicOptions, QuicHandshakeStats } from "./acceptor.ts";

const LISTEN: OptionKinds<ListenQuicOptions> = {
  ...ACCEPT,
  maxBidirectionalStreams: POSITIVE,
  maxUnidirectionalStreams: POSITIVE,
  protocols: "array",
};

/**
 * The maximum number of accepted connections that wait for the application. Further connections are
 * closed.
 */
const MAX_WAITING_CONNECTIONS = 1_024;

/**
 * A listener for QUIC connections. Iterate over it to receive ready connections.
 *
 * - **Robust:** a failed handshake does not affect other connections.
 * - **Limits:** connections, connections per address, handshakes and waiting connections are
 *   limited. Excess connections are rejected, and excess handshakes are ignored.
 */
export class QuicListener implements AsyncIterable<QuicConnection>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<AcceptedConnection>;
  readonly #signal: AbortSignal | undefined;
  readonly #waiting: QuicConnection[] = [];
  readonly #onAbort = (): void => void this.close();
  #wake: PromiseWithResolvers<void> | undefined = undefined;
  #isStopped = false;
  #closing: Promise<void> | undefined = undefined;

  /**
   * Starts to listen; prefer `listenQuic()`.
   *
   * @param options The options of `listenQuic()`.
   */
  constructor(options: ListenQuicOptions) {
    checkOptions("listen", options, LISTEN);
    const { protocols, maxBidirectionalStreams = 128, maxUnidirectionalStreams = 1_024 } = options;
    const { runtime = platformRuntime() } = options;
    checkProtocols(protocols, "listen");
    this.#signal = options.signal;
    this.#acceptor = new QuicAcceptor(runtime, options, {
      protocols,
      maxBidirectionalStreams,
      maxUnidirectionalStreams,
      protocol: {
        begin: (conn) => ({ unread }) => this.#take(new RawQuicConnection(runtime, conn, unread)),
        reject: rejectQuic,
      },
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

  /**
   * Replaces the certificate for new handshakes. Open connections are not affected.
   *
   * @param certificate The certificate and key.
   * @throws {TypeError} If the certificate or key is invalid, or if the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /**
   * Rejects new connections, and closes connections that wait for the application with 4503. Other
   * open connections are not affected.
   */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#acceptor.stop();
    for (const connection of this.#waiting.splice(0)) rejectConnection(connection);
    this.#wake?.resolve();
  }

  /**
   * Closes every connection with code 0 and stops listening. Further calls have no effect. The
   * runtime frees the port when it collects garbage, not immediately.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes the listener. `await using` calls this method. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields ready connections until the listener stops. */
  async *[Symbol.asyncIterator](): AsyncGenerator<QuicConnection, void, undefined> {
    while (true) {
      for (let connection; (connection = this.#waiting.shift()) !== undefined;) yield connection;
      if (this.#isStopped) return;
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
    }
  }

  #take(connection: QuicConnection): AcceptedConnection {
    if (this.#waiting.length >= MAX_WAITING_CONNECTIONS) rejectConnection(connection);
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

/**
 * Listens for QUIC connections.
 *
 * @param options The certificate, protocols, address and limits.
 * @returns The listener. Iterate over it to receive ready connections.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is in use.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If `protocols` is empty, or if the certificate or the key is not a PEM
 * string.
 *
 * @example Echo each stream
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

/** Adapts a raw QUIC connection for a listener. */
export function acceptedQuic(connection: Connection): AcceptedConnection {
  return { ending: connection.closed.catch(() => {}), close: () => connection.close() };
}

/** Closes a connection that exceeds a limit. */
export function rejectQuic(conn: Deno.QuicConn): void {
  conn.close({ closeCode: CloseCode.tooMany, reason: "Too many connections" });
}

function rejectConnection(connection: Connection): void {
  connection.close({
    closeCode: CloseCode.draining,
    reason: "The server accepts no more connections",
  });
}
