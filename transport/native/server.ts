/** The runtime's own server side of WebTransport, `Deno.upgradeWebTransport`, as a connection. */
import {
  type AcceptedConnection,
  type AcceptedPeer,
  QuicAcceptor,
  type QuicHandshakeStats,
  type QuicListenOptions,
} from "../quic/acceptor.ts";
import { checkPositive } from "../quic/options.ts";
import type { Certificate } from "../certificate/certificate.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { H3Error } from "../h3/wire/error_codes.ts";
import { type QuicEnding, quicEnding, remoteAddressOf, requireUpgrade } from "../quic/deno_quic.ts";
import type { WebTransportRequest } from "../h3/request.ts";
import { Http3RequestQueue } from "../h3/request_queue.ts";

/** How long a client may take to request a session, in milliseconds. */
const FIRST_REQUEST_TIMEOUT_MS = 10_000;

/** The code that is loaded once a server listens. */
type AcceptPart = typeof import("./accept.ts");

/** The options for {@linkcode listenNativeWebTransport}. */
export interface ListenNativeWebTransportOptions extends QuicListenOptions {
  /**
   * The number of streams of each kind that a peer may have open on a connection. The runtime
   * counts a stream as open until garbage collection.
   *
   * @default {128}
   */
  readonly maxStreams?: number | undefined;
  /**
   * Returns whether the client of a request hands over; see the option of `listenWebTransport()`.
   */
  readonly isSuccessor?: ((request: WebTransportRequest) => boolean) | undefined;
}

/**
 * A listener for WebTransport sessions of the runtime's own engine, with the members of
 * `WebTransportListener`. Iterate over it to receive the sessions as requests.
 *
 * - **Accepted first:** the session is open before its request is yielded. If you reject the
 *   request, the session closes with 4000 plus the status, and the headers of the response are
 *   lost.
 * - **No headers:** a request has only its URL, and a `host` header built from the URL.
 * - **Limits:** the numbers of connections, handshakes and waiting requests are limited, and so is
 *   the time to request a session. A connection carries one session.
 */
export class NativeWebTransportListener
  implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<ListenedConnection>;
  readonly #signal: AbortSignal | undefined;
  /** Resolves when the code for sessions has loaded. */
  readonly #loaded: Promise<unknown>;
  readonly #requests = new Http3RequestQueue();
  readonly #runtime: Runtime;
  readonly #upgrades: Deadlines<ListenedConnection>;
  readonly #isSuccessor: ListenNativeWebTransportOptions["isSuccessor"];
  readonly #onAbort = (): void => void this.close();
  #closing: Promise<void> | undefined = undefined;

  constructor(options: ListenNativeWebTransportOptions) {
    requireUpgrade();
    const { maxStreams = 128, signal, runtime = platformRuntime(), isSuccessor } = options;
    checkPositive("listen", { maxStreams });
    this.#signal = signal;
    this.#runtime = runtime;
    this.#isSuccessor = isSuccessor;
    this.#upgrades = new Deadlines(
      runtime,
      FIRST_REQUEST_TIMEOUT_MS,
      (connection) => connection.close(),
    );
    const protocol = import("./accept.ts").then((part) => ({
      begin: (conn: Deno.QuicConn) => ({ isSpare }: AcceptedPeer) =>
        this.#accept(new ListenedConnection(conn, isSpare), part),
      reject: closeExcess,
      takesSpare: isSuccessor && (() => true),
    }));
    this.#loaded = protocol;
    this.#acceptor = new QuicAcceptor<ListenedConnection>(runtime, options, {
      protocols: ["h3"],
      // The request and the control streams are also counted.
      maxBidirectionalStreams: maxStreams + 1,
      maxUnidirectionalStreams: maxStreams + 3,
      protocol,
    });
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  get address(): Deno.NetAddr {
    return this.#acceptor.address;
  }

  get connectionCount(): number {
    return this.#acceptor.connectionCount;
  }

  get handshakes(): QuicHandshakeStats {
    return this.#acceptor.handshakes;
  }

  /**
   * Uses another certificate for new handshakes. Sessions stay open.
   *
   * @throws {TypeError} If the certificate and key are invalid, or if the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Stops accepting connections, and rejects waiting requests with 503. Sessions stay open. */
  stop(): void {
    this.#acceptor.stop();
    this.#requests.stop();
  }

  /**
   * Closes every connection, and stops listening. The runtime does not free the port immediately,
   * but at garbage collection. Idempotent.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields requests until the listener is stopped. */
  async *[Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    await this.#loaded;
    yield* this.#requests;
  }

  #accept(connection: ListenedConnection, part: AcceptPart): ListenedConnection {
    this.#upgrades.add(connection);
    void this.#upgrade(connection, part);
    return connection;
  }

  async #upgrade(connection: ListenedConnection, part: AcceptPart): Promise<void> {
    const { conn, isSpare } = connection;
    try {
      const accepted = await part.acceptNativeWebTransport(conn, { runtime: this.#runtime });
      const request = new part.NativeRequest(accepted, remoteAddressOf(conn));
      // A promise decides nothing, and must not lift the limit.
      if (isSpare && this.#isSuccessor?.(request) !== true) closeExcess(conn);
      else this.#requests.push(request);
    } catch {
      // The peer requested no session, or broke the protocol.
      connection.close();
    } finally {
      this.#upgrades.delete(connection);
    }
  }

  async #close(): Promise<void> {
    this.stop();
    this.#signal?.removeEventListener("abort", this.#onAbort);
    await this.#acceptor.close(H3Error.noError);
    this.#upgrades.clear();
  }
}

/**
 * Listens for WebTransport sessions with the runtime's own engine.
 *
 * @throws {UnsupportedError} If the runtime has no WebTransport. The message names the flag that
 * enables it.
 * @throws {Deno.errors.AddrInUse} If the UDP port is already in use.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If the certificate and key are not PEM texts.
 */
export function listenNativeWebTransport(
  options: ListenNativeWebTransportOptions,
): NativeWebTransportListener {
  return new NativeWebTransportListener(options);
}

class ListenedConnection implements AcceptedConnection {
  readonly conn: Deno.QuicConn;
  /** True for a connection above the limits, which is closed unless its client hands over. */
  readonly isSpare: boolean;
  readonly ending: Promise<QuicEnding>;

  constructor(conn: Deno.QuicConn, isSpare: boolean) {
    this.conn = conn;
    this.isSpare = isSpare;
    this.ending = quicEnding(conn);
  }

  close(): void {
    this.conn.close({ closeCode: H3Error.noError, reason: "" });
  }
}

/** Closes a connection that exceeds a limit. */
function closeExcess(conn: Deno.QuicConn): void {
  conn.close({ closeCode: H3Error.excessiveLoad, reason: "Too many connections" });
}
