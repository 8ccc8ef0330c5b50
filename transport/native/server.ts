/** The runtime's own server side of WebTransport, `Deno.upgradeWebTransport`, as a connection. */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import {
  type AcceptedConnection,
  QuicAcceptor,
  type QuicHandshakeStats,
  type QuicListenOptions,
} from "../quic/acceptor.ts";
import { IncomingQueue } from "../incoming_queue.ts";
import { checkLimits } from "../quic/options.ts";
import type { Certificate } from "../certificate/certificate.ts";
import type { Connection, ConnectionCapabilities, ConnectionCloseInfo } from "../connection.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { H3Error, isHttp3Code } from "../h3/wire/error_codes.ts";
import { QUIC_MISSING, type QuicEnding, quicEnding } from "../quic/deno_quic.ts";
import type { WebTransportRequest } from "../h3/request.ts";
import { RequestQueue } from "../h3/request_queue.ts";
import { connectionOf, type NativeWebTransport } from "./client.ts";
import { type NativeServerDefect, nativeServerDefects } from "./defects.ts";

/** Newest datagrams that are kept for the reader. */
const MAX_WAITING_DATAGRAMS = 1_024;

/** Time for a client to request a session, in milliseconds. */
const FIRST_REQUEST_TIMEOUT_MS = 10_000;

const CAPABILITIES: ConnectionCapabilities = {
  streams: true,
  datagrams: "unreliable",
  resetCodes: false,
  credit: false,
  independentStreams: true,
};

/**
 * Accepts a WebTransport session on a QUIC connection with the runtime's own server side.
 *
 * - **Close:** code and reason are those of the QUIC connection. A peer that closes only its
 *   session appears to close with 0, regardless of the real code.
 * - **Datagrams:** the newest 1,024 are kept for the reader.
 *
 * @param conn A connection of a `Deno.QuicListener` with the ALPN `h3`, used by no other code.
 * @param options Runtime of the node.
 * @returns The session, and its known defects.
 * @throws {UnsupportedError} If the runtime has no WebTransport; the message names the flag.
 */
export async function acceptNativeWebTransport(
  conn: Deno.QuicConn,
  options: { readonly runtime?: Runtime } = {},
): Promise<{
  /** Established connection. Its QUIC connection carries no other session. */
  readonly connection: Connection;
  /** URL of the request. */
  readonly url: string;
  /** Known defects of the connection; see {@linkcode nativeServerDefects}. */
  readonly defects: readonly NativeServerDefect[];
}> {
  requireUpgrade();
  const { runtime = platformRuntime() } = options;
  const ending = quicEnding(conn);
  const datagrams = takeDatagrams(conn, ending);
  const native = await Deno.upgradeWebTransport(conn);
  await native.ready;
  const session = new AcceptedSession(native, { ending, datagrams });
  const connection = connectionOf(runtime, session, CAPABILITIES);
  return { connection, url: native.url, defects: nativeServerDefects() };
}

/** Options for {@linkcode listenNativeWebTransport}. */
export interface ListenNativeWebTransportOptions extends QuicListenOptions {
  /**
   * Streams of each kind that a peer may have open on a connection. The runtime counts a stream as
   * open until garbage collection.
   *
   * @default {128}
   */
  readonly maxStreams?: number;
}

/**
 * Listener for WebTransport sessions of the runtime's own engine. Iterating yields the sessions as
 * requests.
 *
 * - **Accepted first:** the session is open before its request is yielded. A refusal closes the
 *   session with 4000 plus the status; headers of the answer are lost.
 * - **No headers:** a request has only its URL, and a `host` header built from the URL.
 * - **Bound:** connections, handshakes, the time to request a session, and waiting requests have
 *   limits. A connection carries one session.
 */
export class NativeWebTransportListener
  implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  readonly #acceptor: QuicAcceptor<ListenedConnection>;
  readonly #signal: AbortSignal | undefined;
  readonly #requests = new RequestQueue();
  readonly #runtime: Runtime;
  readonly #upgrades: Deadlines<ListenedConnection>;
  readonly #onAbort = (): void => void this.close();
  #closing: Promise<void> | undefined = undefined;

  /**
   * Starts listening; called by `listenNativeWebTransport()`.
   *
   * @param options Address, certificate and limits.
   */
  constructor(options: ListenNativeWebTransportOptions) {
    requireUpgrade();
    const { maxStreams = 128, signal, runtime = platformRuntime() } = options;
    checkLimits("listen", { maxStreams });
    this.#signal = signal;
    this.#runtime = runtime;
    this.#upgrades = new Deadlines(
      runtime,
      FIRST_REQUEST_TIMEOUT_MS,
      (connection) => connection.close(),
    );
    this.#acceptor = new QuicAcceptor<ListenedConnection>(runtime, options, {
      protocols: ["h3"],
      // The request and the control streams count, too.
      maxBidirectionalStreams: maxStreams + 1,
      maxUnidirectionalStreams: maxStreams + 3,
      protocol: {
        begin: (conn) => () => this.#accept(conn),
        refuse: (conn) =>
          conn.close({ closeCode: H3Error.excessiveLoad, reason: "Too many connections" }),
      },
    });
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Address of the UDP socket. */
  get address(): Deno.NetAddr {
    return this.#acceptor.address;
  }

  /** Number of connections. */
  get connectionCount(): number {
    return this.#acceptor.connectionCount;
  }

  /** Counters of handshakes. */
  get handshakes(): QuicHandshakeStats {
    return this.#acceptor.handshakes;
  }

  /**
   * Uses another certificate for new handshakes. Sessions stay.
   *
   * @param certificate Certificate and key.
   * @throws {TypeError} If the certificate and key are invalid, or the listener is closed.
   */
  rotate(certificate: Certificate): void {
    this.#acceptor.rotate(certificate);
  }

  /** Accepts no new connections, and refuses waiting requests with 503. Sessions stay. */
  stop(): void {
    this.#acceptor.stop();
    this.#requests.stop();
  }

  /**
   * Closes every connection, and stops listening. Idempotent. The runtime frees the port at garbage
   * collection, not at once.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Yields requests until the listener is stopped. */
  [Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    return this.#requests[Symbol.asyncIterator]();
  }

  #accept(conn: Deno.QuicConn): ListenedConnection {
    const connection = new ListenedConnection(conn);
    this.#upgrades.add(connection);
    void this.#upgrade(connection);
    return connection;
  }

  async #upgrade(connection: ListenedConnection): Promise<void> {
    const { conn } = connection;
    try {
      const accepted = await acceptNativeWebTransport(conn, { runtime: this.#runtime });
      this.#requests.push(new NativeRequest(accepted, conn.remoteAddr));
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
 * @param options Address, certificate and limits.
 * @returns The listener, to iterate over.
 * @throws {UnsupportedError} If the runtime has no WebTransport; the message names the flag.
 * @throws {Deno.errors.AddrInUse} If the UDP port is taken.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If the certificate and key are not PEM texts.
 */
export function listenNativeWebTransport(
  options: ListenNativeWebTransportOptions,
): NativeWebTransportListener {
  return new NativeWebTransportListener(options);
}

function requireUpgrade(): void {
  if (typeof Deno.upgradeWebTransport !== "function") throw new UnsupportedError(QUIC_MISSING);
}

/**
 * Reads datagrams in place of the runtime (`one-datagram`, `empty-datagram-fatal`). The runtime
 * keeps only one, and an empty one ends the process: a byte stream rejects empty chunks, and the
 * runtime does not handle the rejection.
 */
function takeDatagrams(conn: Deno.QuicConn, ending: Promise<unknown>): ReadableStream<Uint8Array> {
  const arrivals = new IncomingQueue<Uint8Array>({ capacity: MAX_WAITING_DATAGRAMS });
  const read = conn.readDatagram.bind(conn);
  // The runtime's own read stays pending until the connection ends.
  conn.readDatagram = () => ending.then(() => read());
  void deliverDatagrams(read, arrivals);
  return arrivals.readable;
}

async function deliverDatagrams(
  read: () => Promise<Uint8Array>,
  arrivals: IncomingQueue<Uint8Array>,
): Promise<void> {
  try {
    while (true) {
      const datagram = await read();
      // The only session of a connection has the id 0, in one byte.
      if (datagram[0] === 0) arrivals.push(datagram.subarray(1));
    }
  } catch {
    arrivals.end(); // The connection ended, as `closed` reports.
  }
}

/** A QUIC connection of a listener. */
class ListenedConnection implements AcceptedConnection {
  readonly conn: Deno.QuicConn;
  readonly ending: Promise<QuicEnding>;

  constructor(conn: Deno.QuicConn) {
    this.conn = conn;
    this.ending = quicEnding(conn);
  }

  close(): void {
    this.conn.close({ closeCode: H3Error.noError, reason: "" });
  }
}

/** A session of the runtime, whose end is that of its QUIC connection. */
class AcceptedSession implements NativeWebTransport {
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly datagrams: NativeWebTransport["datagrams"];
  readonly incomingBidirectionalStreams: NativeWebTransport["incomingBidirectionalStreams"];
  readonly incomingUnidirectionalStreams: NativeWebTransport["incomingUnidirectionalStreams"];
  readonly #native: NativeWebTransport;

  constructor(native: WebTransport, { ending, datagrams }: {
    readonly ending: Promise<QuicEnding>;
    readonly datagrams: ReadableStream<Uint8Array>;
  }) {
    const own = this.#native = native as unknown as NativeWebTransport;
    this.ready = own.ready;
    this.closed = ending.then(sessionEnding);
    this.datagrams = {
      readable: datagrams,
      writable: own.datagrams!.writable!,
      get maxDatagramSize() {
        return own.datagrams!.maxDatagramSize;
      },
    };
    this.incomingBidirectionalStreams = own.incomingBidirectionalStreams;
    this.incomingUnidirectionalStreams = own.incomingUnidirectionalStreams;
  }

  createBidirectionalStream(
    options: Parameters<NativeWebTransport["createBidirectionalStream"]>[0],
  ): ReturnType<NativeWebTransport["createBidirectionalStream"]> {
    return this.#native.createBidirectionalStream(options);
  }

  createUnidirectionalStream(
    options: Parameters<NativeWebTransport["createUnidirectionalStream"]>[0],
  ): ReturnType<NativeWebTransport["createUnidirectionalStream"]> {
    return this.#native.createUnidirectionalStream(options);
  }

  close(info: ConnectionCloseInfo): void {
    this.#native.close(info);
  }
}

/** Converts the end of a QUIC connection to the end of its session. */
function sessionEnding({ closeCode, reason }: QuicEnding): ConnectionCloseInfo {
  // Peers close the connection with this code after the session, whose own code is hidden.
  if (closeCode === H3Error.noError) return { closeCode: 0, reason: "" };
  if (closeCode === undefined) throw new ConnectionError(reason);
  if (!isHttp3Code(closeCode)) return { closeCode, reason };
  const code = `0x${closeCode.toString(16)}`;
  throw new ConnectionError(`the peer closed with code ${code}${reason && `: ${reason}`}`);
}

/** A session accepted by the runtime, presented to the application as a request. */
class NativeRequest implements WebTransportRequest {
  readonly url: string;
  readonly headers: Headers;
  readonly protocols: readonly string[] = [];
  readonly remoteAddress: Deno.NetAddr;
  readonly #connection: Connection;
  #isAnswered = false;
  #aborted: AbortController | undefined;

  constructor(
    { url, connection }: { readonly url: string; readonly connection: Connection },
    remoteAddress: Deno.NetAddr,
  ) {
    this.url = url;
    this.headers = new Headers({ host: URL.parse(url)?.host ?? "" });
    this.remoteAddress = remoteAddress;
    this.#connection = connection;
  }

  get signal(): AbortSignal {
    if (this.#aborted !== undefined) return this.#aborted.signal;
    const aborted = this.#aborted = new AbortController();
    const giveUp = () => {
      if (!this.#isAnswered) {
        aborted.abort(new Error("The client ended the request before the answer"));
      }
    };
    this.#connection.closed.then(giveUp, giveUp);
    return aborted.signal;
  }

  accept({ protocol = "" }: { readonly protocol?: string } = {}): Connection {
    if (protocol !== "") {
      throw new TypeError(
        `Cannot accept request: protocol must be left out because the runtime negotiates none, received "${protocol}"`,
      );
    }
    this.#answer();
    return this.#connection;
  }

  refuse(status: number): void {
    if (!Number.isInteger(status) || status < 300 || status > 599) {
      throw new RangeError(
        `Cannot refuse request: status must be an integer from 300 to 599, received ${status}`,
      );
    }
    this.#answer();
    this.#connection.close({ closeCode: 4000 + status, reason: `Refused with ${status}` });
  }

  #answer(): void {
    if (this.#isAnswered) throw new TypeError("Cannot answer request: it was answered before");
    this.#isAnswered = true;
  }
}
