/**
 * Listening for QUIC connections: one UDP socket, its certificates, and how
 * many connections there may be. What is spoken on them is for others to say.
 *
 * @module
 */
import { addressKey } from "./address.ts";
import { listenAt } from "./address_in_use.ts";
import { type Certificate, checkCertificate } from "./certificate.ts";
import { requireQuic } from "./h3/quic.ts";
import { KEEP_ALIVE_MS } from "./quic/options.ts";

/** Handshakes at a time; more are refused, which costs nothing. */
const MAX_HANDSHAKES = 1_024;

/** The farewell packets leave before the socket is closed, in milliseconds. */
const FAREWELL_MS = 10;

/** Options of every listener on QUIC. */
export interface QuicListenOptions extends Certificate {
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
   * A peer that vanished is noticed within this and `keepAliveIntervalMs`; the client's time counts if
   * it is less.
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
  /** Closes the listener. None by default. */
  readonly signal?: AbortSignal;
}

/** What became of a connection. */
export interface AcceptedConnection {
  /** Settles when it is over; never rejects. */
  readonly ending: Promise<unknown>;
  /** Closes it, for the listener does. */
  close(): void;
}

/** What a listener adds. */
export interface QuicAcceptorHandlers<C extends AcceptedConnection> {
  /** Protocols to agree on one of (ALPN); who offers none of them is refused. */
  readonly protocols: readonly string[];
  /** Bidirectional streams that a peer may have open. */
  readonly maxBidirectionalStreams: number;
  /** Unidirectional streams that a peer may have open. */
  readonly maxUnidirectionalStreams: number;
  /** Takes a connection past its handshake. MUST NOT throw. */
  accept(conn: Deno.QuicConn): C;
  /** Closes one that is too many. */
  refuse(conn: Deno.QuicConn): void;
}

/**
 * Accepts the connections of one UDP socket.
 *
 * - **Robust:** a handshake that fails ends nothing but itself.
 * - **Bound:** connections, those of one address, and handshakes have limits.
 *
 * @typeParam C What a connection becomes.
 */
export class QuicAcceptor<C extends AcceptedConnection> {
  #endpoint: Deno.QuicEndpoint | undefined;
  readonly #options: QuicListenOptions;
  readonly #handlers: QuicAcceptorHandlers<C>;
  // All stay referenced and read: stopping one stops the others too, in Deno 2.9.
  readonly #listeners: Deno.QuicListener[] = [];
  readonly #connections = new Map<C, string>();
  readonly #perAddress = new Map<string, number>();
  #handshakes = 0;
  #isStopped = false;

  /** Where it listens. */
  readonly address: Deno.NetAddr;

  /**
   * Listens.
   *
   * @param options See {@linkcode QuicListenOptions}.
   * @param handlers See {@linkcode QuicAcceptorHandlers}.
   */
  constructor(options: QuicListenOptions, handlers: QuicAcceptorHandlers<C>) {
    requireQuic();
    const { idleTimeoutMs, keepAliveIntervalMs, maxConnections, maxConnectionsPerAddress } =
      options;
    checkLimits({ idleTimeoutMs, keepAliveIntervalMs, maxConnections, maxConnectionsPerAddress });
    checkCertificate(options, "listen: the certificate");
    options.signal?.throwIfAborted();
    this.#options = options;
    this.#handlers = handlers;
    const { hostname = "0.0.0.0", port = 0 } = options;
    const endpoint = this.#endpoint = listenAt(
      { hostname, port, transport: "UDP" },
      () => new Deno.QuicEndpoint({ hostname, port }),
    );
    try {
      this.address = endpoint.addr;
      this.rotate(options);
    } catch (error) {
      endpoint.close({ closeCode: 0, reason: "" });
      throw error;
    }
  }

  /** The connections there are. */
  get connections(): Iterable<C> {
    return this.#connections.keys();
  }

  /** How many there are. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Has new handshakes get another certificate. */
  rotate(certificate: Certificate): void {
    checkCertificate(certificate, "rotate certificate: the new one");
    const { cert, key } = certificate;
    if (this.#endpoint === undefined) {
      throw new TypeError("Cannot rotate certificate: the listener is closed");
    }
    const { idleTimeoutMs = 15_000, keepAliveIntervalMs = KEEP_ALIVE_MS } = this.#options;
    const { protocols, maxBidirectionalStreams, maxUnidirectionalStreams } = this.#handlers;
    const listener = this.#endpoint.listen({
      cert,
      key,
      alpnProtocols: [...protocols],
      maxIdleTimeout: idleTimeoutMs,
      keepAliveInterval: keepAliveIntervalMs,
      maxConcurrentBidirectionalStreams: maxBidirectionalStreams,
      maxConcurrentUnidirectionalStreams: maxUnidirectionalStreams,
    });
    this.#listeners.push(listener);
    void this.#acceptAll(listener);
  }

  /** Takes no new connections. */
  stop(): void {
    this.#isStopped = true;
  }

  /**
   * Closes every connection, and the socket.
   *
   * @param closeCode Of handshakes that are under way.
   */
  async close(closeCode: number): Promise<void> {
    this.stop();
    const connections = [...this.#connections.keys()];
    for (const connection of connections) connection.close();
    await Promise.all(connections.map(({ ending }) => ending));
    if (connections.length > 0) await new Promise((resolve) => setTimeout(resolve, FAREWELL_MS));
    for (const listener of this.#listeners.splice(0)) listener.stop();
    this.#endpoint?.close({ closeCode, reason: "" });
    // The runtime gives the port back once nothing refers to the endpoint any more.
    this.#endpoint = undefined;
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
      return this.#handlers.refuse(conn);
    }
    const connection = this.#handlers.accept(conn);
    this.#connections.set(connection, address);
    this.#perAddress.set(address, count + 1);
    await connection.ending;
    this.#connections.delete(connection);
    const left = this.#perAddress.get(address)! - 1;
    if (left === 0) this.#perAddress.delete(address);
    else this.#perAddress.set(address, left);
  }
}

/**
 * Checks that limits make sense.
 *
 * @param limits By name; `undefined` is the default.
 * @throws {RangeError} If one is not a positive integer.
 */
export function checkLimits(limits: Readonly<Record<string, number | undefined>>): void {
  for (const [name, value] of Object.entries(limits)) {
    if (value === undefined || Number.isInteger(value) && value > 0) continue;
    throw new RangeError(
      `Cannot listen: ${name} must be a positive integer, received ${value}`,
    );
  }
}
