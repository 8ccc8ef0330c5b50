/**
 * The server half of WebTransport: HTTP/3 on the runtime's QUIC.
 *
 * @module
 */
import { addressKey } from "./address.ts";
import type { FlowControlOptions } from "./connection.ts";
import { Deadlines } from "./deadlines.ts";
import { requireQuic } from "./h3/quic.ts";
import {
  encodeControlHead,
  Http3Connection,
  type Http3ConnectionOptions,
} from "./h3/connection.ts";
import { H3Error } from "./h3/error_codes.ts";
import type { WebTransportRequest } from "./h3/request.ts";

export { isQuicAvailable as isWebTransportAvailable } from "./h3/quic.ts";
export type { AcceptOptions, RefuseOptions, WebTransportRequest } from "./h3/request.ts";

/** Handshakes at a time; more are refused, which costs nothing. */
const MAX_HANDSHAKES = 1_024;

/** Requests that nobody took yet; more are refused with 503. */
const MAX_WAITING_REQUESTS = 1_024;

/** A client that asked for no session by then is not here for one, in milliseconds. */
const FIRST_REQUEST_TIMEOUT_MS = 10_000;

/** The farewell packets leave before the socket is closed, in milliseconds. */
const FAREWELL_MS = 10;

/** A certificate and its key. */
export interface Certificate {
  /** The chain in PEM, the server's own first. */
  readonly cert: string;
  /** The private key in PEM. */
  readonly key: string;
}

/** Options for {@linkcode listenWebTransport}. */
export interface ListenWebTransportOptions extends Certificate {
  /**
   * Address to listen on.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string;
  /**
   * UDP port to listen on; 0 takes a free one.
   *
   * @default {0}
   */
  readonly port?: number;
  /**
   * How long a connection may be silent before it is given up, in milliseconds.
   * A peer that vanished is noticed within this and `keepAliveIntervalMs`.
   *
   * @default {15000}
   */
  readonly idleTimeoutMs?: number;
  /**
   * How often a silent connection is asked whether it is still there, in milliseconds.
   *
   * @default {5000}
   */
  readonly keepAliveIntervalMs?: number;
  /**
   * Connections at once.
   *
   * @default {10000}
   */
  readonly maxConnections?: number;
  /**
   * Connections of one address at once (an IPv6 /64 counts as one); a browser makes one for each
   * session.
   *
   * @default {10000}
   */
  readonly maxConnectionsPerAddress?: number;
  /**
   * Sessions of one connection at once; more are refused with 429.
   *
   * @default {16}
   */
  readonly maxSessionsPerConnection?: number;
  /**
   * Streams of each kind that a peer may have open on a connection. Each may
   * hold up to 1.25 MB that nobody reads.
   *
   * @default {128}
   */
  readonly maxStreams?: number;
  /**
   * How much a client may send ahead of who reads, where it counts too, as a client of Skein in Deno
   * does; a browser may not. `maxStreams` and QUIC's own limits stay below it.
   */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Closes the listener. None by default. */
  readonly signal?: AbortSignal;
}

/**
 * Listens for WebTransport sessions. Iterate over it to get their requests.
 *
 * - **Robust:** a handshake that fails ends nothing but itself.
 * - **0-RTT:** a request is seen only once the handshake is complete, so one
 *   that is replayed is never seen.
 * - **Bound:** connections, handshakes, requests that wait and sessions a
 *   connection have limits; what is beyond is refused.
 * - **Grace:** a connection without a session is closed after two seconds,
 *   since browsers keep theirs.
 */
export class WebTransportListener implements AsyncIterable<WebTransportRequest>, AsyncDisposable {
  #endpoint: Deno.QuicEndpoint | undefined;
  readonly #options: ListenWebTransportOptions;
  readonly #connectionOptions: Http3ConnectionOptions;
  // All stay referenced and read: stopping one stops the others too, in Deno 2.9.
  readonly #listeners: Deno.QuicListener[] = [];
  readonly #connections = new Map<Http3Connection, string>();
  readonly #perAddress = new Map<string, number>();
  readonly #waiting: WebTransportRequest[] = [];
  readonly #firstRequests = new Deadlines<Http3Connection>(
    FIRST_REQUEST_TIMEOUT_MS,
    (connection) => connection.close(),
  );
  readonly #onAbort = (): void => void this.close();
  #wake: PromiseWithResolvers<void> | undefined = undefined;
  #handshakes = 0;
  #isStopped = false;
  #closing: Promise<void> | undefined = undefined;

  /** Where it listens. */
  readonly address: Deno.NetAddr;

  /**
   * Listens; `listenWebTransport()` does.
   *
   * @param options See {@linkcode ListenWebTransportOptions}.
   */
  constructor(options: ListenWebTransportOptions) {
    requireQuic();
    checkLimits(options);
    checkCertificate(options, "listen: the certificate");
    options.signal?.throwIfAborted();
    this.#options = options;
    const { hostname = "0.0.0.0", port = 0, flowControl } = options;
    const { maxSessionsPerConnection: maxSessions = 16 } = options;
    this.#connectionOptions = {
      side: "server",
      maxSessions,
      flowControl,
      controlHead: encodeControlHead({ side: "server", maxSessions, flowControl }),
      firstRequests: this.#firstRequests,
      onRequest: (request) => this.#take(request),
    };
    const endpoint = this.#endpoint = new Deno.QuicEndpoint({ hostname, port });
    try {
      this.address = endpoint.addr;
      this.rotate(options);
    } catch (error) {
      endpoint.close({ closeCode: 0, reason: "" });
      throw error;
    }
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** How many connections there are. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /** How many sessions there are, asked for ones too. */
  get sessionCount(): number {
    let count = 0;
    for (const { sessionCount } of this.#connections.keys()) count += sessionCount;
    return count;
  }

  /**
   * Has new handshakes get another certificate. Sessions stay.
   *
   * @param certificate The certificate and its key.
   * @throws {TypeError} If they make no sense, or the listener is closed.
   */
  rotate(certificate: Certificate): void {
    checkCertificate(certificate, "rotate certificate: the new one");
    const { cert, key } = certificate;
    if (this.#endpoint === undefined) {
      throw new TypeError("Cannot rotate certificate: the listener is closed");
    }
    const { idleTimeoutMs, keepAliveIntervalMs, maxStreams = 128 } = this.#options;
    const listener = this.#endpoint.listen({
      cert,
      key,
      alpnProtocols: ["h3"],
      maxIdleTimeout: idleTimeoutMs ?? 15_000,
      keepAliveInterval: keepAliveIntervalMs ?? 5_000,
      // The request itself is one, and so are the control streams.
      maxConcurrentBidirectionalStreams: maxStreams + 1,
      maxConcurrentUnidirectionalStreams: maxStreams + 3,
    });
    this.#listeners.push(listener);
    void this.#acceptAll(listener);
  }

  /** Takes no new connections, and refuses new requests with 503. Sessions stay. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    for (const connection of this.#connections.keys()) connection.stop();
    for (const request of this.#waiting.splice(0)) request.refuse(503);
    this.#wake?.resolve();
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
  async *[Symbol.asyncIterator](): AsyncGenerator<WebTransportRequest, void, undefined> {
    while (true) {
      for (let request; (request = this.#waiting.shift()) !== undefined;) yield request;
      if (this.#isStopped) return;
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
    }
  }

  async #acceptAll(listener: Deno.QuicListener): Promise<void> {
    while (true) {
      let incoming: Deno.QuicIncoming;
      try {
        incoming = await listener.incoming();
      } catch {
        return; // The endpoint was closed.
      }
      const { maxConnections = 10_000 } = this.#options;
      const isFull = this.#connections.size + this.#handshakes >= maxConnections ||
        this.#handshakes >= MAX_HANDSHAKES;
      if (isFull || this.#isStopped) {
        incoming.refuse();
        continue;
      }
      void this.#accept(incoming);
    }
  }

  async #accept(incoming: Deno.QuicIncoming): Promise<void> {
    this.#handshakes++;
    let conn: Deno.QuicConn;
    try {
      conn = await incoming.accept();
    } catch {
      return; // A handshake that failed is the peer's matter.
    } finally {
      this.#handshakes--;
    }
    const { maxConnectionsPerAddress = 10_000 } = this.#options;
    const address = addressKey(conn.remoteAddr.hostname);
    const count = this.#perAddress.get(address) ?? 0;
    if (this.#isStopped || count >= maxConnectionsPerAddress) {
      conn.closed.catch(() => {});
      conn.close({ closeCode: H3Error.excessiveLoad, reason: "Too many connections" });
      return;
    }
    const connection = new Http3Connection(conn, this.#connectionOptions);
    this.#connections.set(connection, address);
    this.#perAddress.set(address, count + 1);
    await connection.ending;
    this.#connections.delete(connection);
    const left = this.#perAddress.get(address)! - 1;
    if (left === 0) this.#perAddress.delete(address);
    else this.#perAddress.set(address, left);
  }

  #take(request: WebTransportRequest): void {
    if (this.#isStopped || this.#waiting.length >= MAX_WAITING_REQUESTS) {
      return request.refuse(503);
    }
    this.#waiting.push(request);
    this.#wake?.resolve();
  }

  async #close(): Promise<void> {
    this.stop();
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    const connections = [...this.#connections.keys()];
    for (const connection of connections) connection.close();
    await Promise.all(connections.map(({ ending }) => ending));
    if (connections.length > 0) await new Promise((resolve) => setTimeout(resolve, FAREWELL_MS));
    this.#firstRequests.clear();
    for (const listener of this.#listeners.splice(0)) listener.stop();
    this.#endpoint?.close({ closeCode: H3Error.noError, reason: "" });
    // The runtime gives the port back once nothing refers to the endpoint any more.
    this.#endpoint = undefined;
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

/**
 * Checks a certificate before anything is bound: plain text in its place would
 * serve nobody, or serve in the clear.
 *
 * @param certificate What was given.
 * @param what What it is called, with the verb: `listen: the certificate`.
 * @throws {TypeError} If it is not two texts of PEM.
 */
export function checkCertificate(certificate: unknown, what: string): void {
  const { cert, key } = Object(certificate) as Partial<Record<keyof Certificate, unknown>>;
  const parts = { cert, key };
  for (const [name, value] of Object.entries(parts)) {
    if (typeof value === "string" && value.includes("-----BEGIN ")) continue;
    const received = typeof value === "string" ? "a text that is none" : typeof value;
    throw new TypeError(`Cannot ${what} must have a ${name} in PEM, received ${received}`);
  }
}

function checkLimits(options: ListenWebTransportOptions): void {
  const limits = {
    idleTimeoutMs: options.idleTimeoutMs,
    keepAliveIntervalMs: options.keepAliveIntervalMs,
    maxConnections: options.maxConnections,
    maxConnectionsPerAddress: options.maxConnectionsPerAddress,
    maxSessionsPerConnection: options.maxSessionsPerConnection,
    maxStreams: options.maxStreams,
  };
  for (const [name, value] of Object.entries(limits)) {
    if (value === undefined || Number.isInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot listen: ${name} must be a positive integer, received ${value}`,
    );
  }
}
