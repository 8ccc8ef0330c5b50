/**
 * Listening for QUIC connections: one UDP socket, its certificates, and how
 * many connections there may be. What is spoken on them is for others to say.
 *
 * @module
 */
import { addressKey } from "../address.ts";
import { listenAt } from "../address_in_use.ts";
import { type Certificate, checkCertificate } from "../certificate/certificate.ts";
import { Deadlines } from "../deadlines.ts";
import { requireQuic } from "./runtime.ts";
import { KEEP_ALIVE_MS } from "./options.ts";
import { UnreadShare, type UnreadStreamLimits, UnreadStreams } from "./unread_streams.ts";

/** Handshakes at once by default: that of an honest peer takes a round trip, so this is 10,000 a second. */
const MAX_HANDSHAKES = 1_024;

/** A handshake that takes longer is given up, in milliseconds: packets that trickle in would hold its place. */
const HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * A handshake keeps its place this long, in milliseconds, where others want it: enough for a round
 * trip to anywhere and one lost packet. It bounds the work of a flood too, to `maxHandshakes` in
 * this time.
 */
const HANDSHAKE_GRACE_MS = 2_000;

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
  /**
   * Handshakes at once. For one more the oldest is given up once it took two seconds; until then
   * the first packet of the new one is ignored, and an honest peer sends it again.
   *
   * @default {1024}
   */
  readonly maxHandshakes?: number;
  /** Bounds of streams that clients open and that this end does not read. */
  readonly unreadStreams?: UnreadStreamLimits | undefined;
  /** Closes the listener. None by default. */
  readonly signal?: AbortSignal;
}

/** Handshakes under way, and those that a listener's bounds kept from ending. */
export interface QuicHandshakeStats {
  /** Handshakes now. */
  readonly pending: number;
  /** First packets that were ignored, as there were too many handshakes; their peers send them again. */
  readonly ignored: number;
  /** Handshakes that were given up for newer ones. */
  readonly replaced: number;
  /** Handshakes that were given up as they took ten seconds. */
  readonly tooSlow: number;
}

/** A connection that was taken. */
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
  /** Takes a connection past its handshake, whose unread streams are to be counted. MUST NOT throw. */
  accept(conn: Deno.QuicConn, unread: UnreadShare): C;
  /** Closes one that is too many. */
  refuse(conn: Deno.QuicConn): void;
}

/**
 * Accepts the connections of one UDP socket.
 *
 * - **Robust:** a handshake that fails ends nothing but itself.
 * - **Bound:** connections, those of one address, and handshakes have limits.
 * - **Open under a flood:** handshakes that nobody finishes give way to newer ones.
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
  /** When each began, the oldest first. Bounded by `maxHandshakes`. */
  readonly #handshakes = new Map<Deno.QuicConn, number>();
  readonly #slow = new Deadlines<Deno.QuicConn>(HANDSHAKE_TIMEOUT_MS, (conn) => {
    if (this.#handshakes.has(conn)) this.#giveUp(conn, "tooSlow");
  });
  readonly #counts = { ignored: 0, replaced: 0, tooSlow: 0 };
  readonly #unread: UnreadStreams;
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
    const { idleTimeoutMs, keepAliveIntervalMs, maxHandshakes } = options;
    const { maxConnections, maxConnectionsPerAddress } = options;
    checkLimits({ idleTimeoutMs, keepAliveIntervalMs, maxHandshakes });
    checkLimits({ maxConnections, maxConnectionsPerAddress });
    checkCertificate(options, "listen: the certificate");
    this.#unread = UnreadStreams.of(options.unreadStreams);
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

  /** Counters of handshakes. */
  get handshakes(): QuicHandshakeStats {
    return { pending: this.#handshakes.size, ...this.#counts };
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
    this.#slow.clear();
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
      // `incoming.remoteAddr` and its like destroy the handshake in Deno 2.8.3 to 2.9.6, so that
      // addresses are not told apart here; a forged packet has any address it likes.
      if (this.#isStopped || this.#connections.size >= maxConnections) incoming.refuse();
      else if (this.#hasPlace(maxConnections)) void this.#accept(incoming);
      else {
        // A peer that is refused gives up; one that hears nothing tries again.
        this.#counts.ignored++;
        incoming.ignore();
      }
    }
  }

  /** Tells whether one more handshake may begin; the oldest gives way to it if it took long enough. */
  #hasPlace(maxConnections: number): boolean {
    const { maxHandshakes = MAX_HANDSHAKES } = this.#options;
    const handshakes = this.#handshakes;
    const places = Math.min(maxHandshakes, maxConnections - this.#connections.size);
    if (handshakes.size < places) return true;
    const [oldest] = handshakes;
    if (oldest === undefined || Date.now() - oldest[1] < HANDSHAKE_GRACE_MS) return false;
    this.#giveUp(oldest[0], "replaced");
    return handshakes.size < places;
  }

  #giveUp(conn: Deno.QuicConn, why: "replaced" | "tooSlow"): void {
    this.#counts[why]++;
    this.#handshakes.delete(conn);
    this.#slow.delete(conn);
    conn.close({ closeCode: 0, reason: "" });
  }

  /** Waits for the end of a handshake, and tells whether there is a connection. */
  async #shakeHands(conn: Deno.QuicConn): Promise<boolean> {
    let isOpen = true;
    const lost = () => {
      isOpen = false;
    };
    conn.closed.then(lost, lost);
    this.#handshakes.set(conn, Date.now());
    this.#slow.add(conn);
    // It resolves for a handshake that failed, too: `closed` settles with it then, but behind it.
    await conn.handshake;
    await Promise.resolve();
    this.#slow.delete(conn);
    return this.#handshakes.delete(conn) && isOpen;
  }

  async #accept(incoming: Deno.QuicIncoming): Promise<void> {
    let conn: Deno.QuicConn;
    try {
      // With 0-RTT there is a connection at once, which can be closed before its handshake ends.
      // Nothing of it is read until then.
      conn = incoming.accept({ zeroRtt: true });
    } catch {
      return; // Such as one without a common protocol.
    }
    if (!await this.#shakeHands(conn)) return;
    const { maxConnectionsPerAddress = 10_000 } = this.#options;
    const address = addressKey(conn.remoteAddr.hostname);
    const count = this.#perAddress.get(address) ?? 0;
    if (this.#isStopped || count >= maxConnectionsPerAddress) {
      return this.#handlers.refuse(conn);
    }
    const unread = new UnreadShare(this.#unread, address);
    const connection = this.#handlers.accept(conn, unread);
    this.#connections.set(connection, address);
    this.#perAddress.set(address, count + 1);
    await connection.ending;
    unread.end();
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
