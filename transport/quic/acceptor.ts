/** Listens for QUIC connections on one UDP socket, with certificates and limits. */
import type { OptionKinds } from "../../base/options/options.ts";
import { PORT, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import { socketAccount } from "../../base/quotas/accounts.ts";
import { type Quota, quotaIn, type Quotas, type Slot } from "../../base/quotas/shares.ts";
import { listenAt } from "../address.ts";
import { type Certificate, checkCertificate } from "../certificate/certificate.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { pause } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import { connectionQuota } from "../connection_quota.ts";
import { remoteAddressOf, requireQuic } from "./deno_quic.ts";
import { CERTIFICATE, UNREAD_STREAMS } from "../option_kinds.ts";
import { IDLE_TIMEOUT_MS, KEEP_ALIVE_MS } from "./options.ts";
import { UnreadShare, type UnreadStreamLimits, UnreadStreams } from "./unread_streams.ts";

/** The default limit on connections. */
const MAX_CONNECTIONS = 10_000;

/**
 * The default limit on concurrent handshakes. A handshake with an honest peer takes one round trip,
 * so this limit admits about 10,000 handshakes per second.
 */
const MAX_HANDSHAKES = 1_024;

/**
 * The maximum duration of a handshake, in milliseconds. Without this limit, a peer that sends
 * packets slowly could keep its slot forever.
 */
export const HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * How long a handshake keeps its slot when other handshakes need one, in milliseconds. The time is
 * enough for a worldwide round trip and one lost packet. It also limits the work that a flood can
 * cause to `maxHandshakes` handshakes in this time.
 */
const HANDSHAKE_GRACE_MS = 2_000;

/**
 * The delay in milliseconds between closing the connections and closing the socket. It gives the
 * runtime time to send the close packets.
 */
const FAREWELL_MS = 10;

/**
 * The number of connections of a client that hands over: the old connection and the new one. If a
 * protocol accepts spare connections, each limit is multiplied by this number.
 */
const PER_CLIENT = 2;

/** The options for `listenQuic()`. */
export interface ListenQuicOptions extends Certificate {
  /**
   * The supported protocols (ALPN), in order of preference. A client that offers none of them is
   * rejected.
   */
  readonly protocols: readonly string[];
  /**
   * The maximum number of bidirectional streams that a peer can have open. Each stream can hold up
   * to 1.25 MB of unread data.
   *
   * @default {128}
   */
  readonly maxBidirectionalStreams?: number | undefined;
  /**
   * The maximum number of unidirectional streams that a peer can have open. Each stream can hold up
   * to 1.25 MB of unread data.
   *
   * @default {1024}
   */
  readonly maxUnidirectionalStreams?: number | undefined;
  /**
   * The address to listen on.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string | undefined;
  /**
   * The UDP port to listen on. With 0, the system selects a free port.
   *
   * @default {0}
   */
  readonly port?: number | undefined;
  /**
   * How long a connection can be silent before it counts as lost, in milliseconds. If the client's
   * idle timeout is shorter, it applies instead.
   *
   * If a peer vanishes, the loss is noticed within this time plus `keepAliveIntervalMs`.
   *
   * @default {9000}
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * The interval between keep-alive packets on a silent connection, in milliseconds.
   *
   * @default {3000}
   */
  readonly keepAliveIntervalMs?: number | undefined;
  /**
   * The maximum number of concurrent connections.
   *
   * @default {10000}
   */
  readonly maxConnections?: number | undefined;
  /**
   * The maximum number of concurrent connections from one address; a browser opens one connection
   * per session.
   *
   * An IPv6 /64 network counts as one address. The default applies only once more than half of
   * `maxConnections` are in use, and never to a loopback or private address, which is probably a
   * proxy. A number that you set always applies.
   *
   * @default {a tenth of `maxConnections`, at least 1,000, in contention}
   */
  readonly maxConnectionsPerAddress?: number | undefined;
  /**
   * The maximum number of concurrent handshakes. A further one replaces the oldest if that started
   * more than two seconds ago.
   *
   * Otherwise, the first packet of the new handshake is ignored, and an honest peer sends it again.
   *
   * @default {1024}
   */
  readonly maxHandshakes?: number | undefined;
  /**
   * The limits on unread streams that clients open.
   *
   * @default {5 s, 80 MB per address, 640 MB in total}
   */
  readonly unreadStreams?: UnreadStreamLimits | undefined;
  /**
   * All quotas of the server, including the quota of connections. A server sets this option.
   *
   * @internal
   */
  readonly quotas?: Quotas | undefined;
  /** A signal that closes the listener. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** The options of every QUIC listener. */
export type QuicListenOptions = Omit<
  ListenQuicOptions,
  "protocols" | "maxBidirectionalStreams" | "maxUnidirectionalStreams"
>;

export const ACCEPT: OptionKinds<QuicListenOptions> = {
  ...CERTIFICATE,
  hostname: "string",
  idleTimeoutMs: POSITIVE,
  keepAliveIntervalMs: POSITIVE,
  maxConnections: POSITIVE,
  maxConnectionsPerAddress: POSITIVE,
  maxHandshakes: POSITIVE,
  port: PORT,
  quotas: "object",
  runtime: RUNTIME,
  signal: "AbortSignal",
  unreadStreams: UNREAD_STREAMS,
};

/**
 * Counters of handshakes in progress, and of handshakes that the listener's limits prevented.
 */
export interface QuicHandshakeStats {
  /** The number of handshakes in progress. */
  readonly pending: number;
  /**
   * The number of first packets that were ignored because too many handshakes were in progress.
   * Peers send them again.
   */
  readonly ignored: number;
  /** The number of handshakes abandoned in favor of newer ones. */
  readonly replaced: number;
  /** The number of handshakes abandoned after ten seconds. */
  readonly tooSlow: number;
}

export interface AcceptedConnection {
  /** Resolves when the connection has ended. Never rejects. */
  readonly ending: Promise<unknown>;
  /** Closes the connection when the listener closes. */
  close(): void;
}

/**
 * Facts about a connection. They are read once, because the runtime creates a new address object at
 * each access.
 */
export interface AcceptedPeer {
  /** The address from which the peer connected. */
  readonly remoteAddress: Deno.NetAddr;
  /** The counters of unread streams. */
  readonly unread: UnreadShare;
  /**
   * True if the connection exceeds the limits. The protocol closes such a connection, unless the
   * client soon proves that it hands over from another connection.
   */
  readonly isSpare: boolean;
}

/** Handles a connection whose handshake is complete. */
export type AcceptQuic<C extends AcceptedConnection> = (peer: AcceptedPeer) => C;

/** The handler of a listener's connections. */
export interface QuicProtocol<C extends AcceptedConnection> {
  /**
   * Starts a connection whose handshake is in progress. Its `protocol` is `undefined` until the
   * first TLS message is complete. This method MAY send data, which goes out with the server's part
   * of the handshake. It MUST NOT read the peer's data, which an attacker could have replayed. It
   * MUST NOT throw.
   *
   * @returns A function that handles the connection once the handshake is complete. It MUST NOT
   * throw.
   */
  begin(conn: Deno.QuicConn): AcceptQuic<C>;
  /** Closes a connection that exceeds a limit. */
  reject(conn: Deno.QuicConn): void;
  /**
   * Tells whether a connection whose handshake is complete may be a spare connection. If this
   * callback is absent, the limits apply to all connections.
   */
  takesSpare?: ((conn: Deno.QuicConn) => boolean) | undefined;
}

/** The protocol on top of a listener. */
export interface QuicAcceptorHandlers<C extends AcceptedConnection> {
  /** The supported protocols (ALPN). A client that offers none of them is rejected. */
  readonly protocols: readonly string[];
  /** The maximum number of bidirectional streams that a peer can have open. */
  readonly maxBidirectionalStreams: number;
  /** The maximum number of unidirectional streams that a peer can have open. */
  readonly maxUnidirectionalStreams: number;
  /**
   * The handler of the connections. If it is a promise, the runtime holds the clients' packets
   * until the promise resolves. If the promise rejects, no client is accepted.
   */
  readonly protocol: QuicProtocol<C> | Promise<QuicProtocol<C>>;
}

/** A handshake in progress. */
interface Handshake {
  readonly startMs: number;
  readonly slot: Slot;
}

/**
 * Accepts connections on one UDP socket.
 *
 * - **Robust:** a failed handshake does not affect other connections.
 * - **Limits:** connections, connections per address, and handshakes are limited. A protocol that
 *   recognizes clients that hand over can have as many spare connections in addition.
 * - **Open under a flood:** newer handshakes replace unfinished ones.
 *
 * @typeParam C The connection that the handlers create.
 */
export class QuicAcceptor<C extends AcceptedConnection> {
  readonly #runtime: Runtime;
  #endpoint: Deno.QuicEndpoint | undefined;
  readonly #options: QuicListenOptions;
  readonly #handlers: QuicAcceptorHandlers<C>;
  // Old listeners stay referenced and are still read, because in Deno 2.9, stopping a listener also
  // stops the others.
  readonly #listeners: Deno.QuicListener[] = [];
  readonly #connections = new Set<C>(); // The slots limit their number.
  readonly #slots: Quota;
  readonly #handshakeSlots: Quota;
  /** The handshakes in progress, the oldest first. Their slots limit their number. */
  readonly #handshakes = new Map<Deno.QuicConn, Handshake>();
  readonly #slow: Deadlines<Deno.QuicConn>;
  readonly #counts = { ignored: 0, replaced: 0, tooSlow: 0 };
  readonly #unread: UnreadStreams;
  #isStopped = false;

  readonly address: Deno.NetAddr;

  constructor(runtime: Runtime, options: QuicListenOptions, handlers: QuicAcceptorHandlers<C>) {
    requireQuic();
    this.#runtime = runtime;
    this.#slow = new Deadlines(runtime, HANDSHAKE_TIMEOUT_MS, (conn) => {
      if (this.#handshakes.has(conn)) this.#giveUp(conn, "tooSlow");
    });
    checkCertificate(options, "listen: the certificate");
    this.#unread = UnreadStreams.of(options.unreadStreams, options.quotas);
    options.signal?.throwIfAborted();
    this.#options = options;
    this.#handlers = handlers;
    this.#slots = connectionQuota({
      name: "quic.connections",
      maxConnections: this.#maxConnections,
      maxConnectionsPerAddress: options.maxConnectionsPerAddress,
      quotas: options.quotas,
    });
    this.#handshakeSlots = handshakeQuota(options);
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

  get connections(): Iterable<C> {
    return this.#connections;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  get handshakes(): QuicHandshakeStats {
    return { pending: this.#handshakes.size, ...this.#counts };
  }

  /** Replaces the certificate for new handshakes. */
  rotate(certificate: Certificate): void {
    checkCertificate(certificate, "rotate certificate: the new one");
    const { cert, key } = certificate;
    if (this.#endpoint === undefined) {
      throw new TypeError("Cannot rotate certificate: the listener is closed");
    }
    const { idleTimeoutMs = IDLE_TIMEOUT_MS, keepAliveIntervalMs = KEEP_ALIVE_MS } = this.#options;
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

  /** Rejects new connections from now on. */
  stop(): void {
    this.#isStopped = true;
  }

  /**
   * Closes every connection and the socket.
   *
   * @param closeCode The close code for handshakes in progress.
   */
  async close(closeCode: number): Promise<void> {
    this.stop();
    this.#slow.clear();
    const connections = [...this.#connections];
    for (const connection of connections) connection.close();
    await Promise.all(connections.map(({ ending }) => ending));
    if (connections.length > 0) await pause(this.#runtime, FAREWELL_MS);
    for (const listener of this.#listeners.splice(0)) listener.stop();
    this.#endpoint?.close({ closeCode, reason: "" });
    // The runtime frees the port only once the endpoint is no longer referenced.
    this.#endpoint = undefined;
  }

  get #maxConnections(): number {
    return this.#options.maxConnections ?? MAX_CONNECTIONS;
  }

  async #acceptAll(listener: Deno.QuicListener): Promise<void> {
    let protocol: QuicProtocol<C>;
    try {
      protocol = await this.#handlers.protocol;
    } catch {
      return; // The owner of the promise handles the rejection.
    }
    while (true) {
      let incoming: Deno.QuicIncoming;
      try {
        incoming = await listener.incoming();
      } catch {
        return; // The endpoint was closed.
      }
      const maxConnections = this.#maxConnections * (protocol.takesSpare ? PER_CLIENT : 1);
      // In Deno 2.8.3 to 2.9.6, `incoming.remoteAddr` and similar getters destroy the handshake, so
      // addresses are not distinguished here. A forged packet could carry any address anyway.
      if (this.#isStopped || this.#connections.size >= maxConnections) {
        incoming.refuse();
        continue;
      }
      const slot = this.#handshakeSlot(maxConnections);
      if (slot !== undefined) void this.#accept(incoming, protocol, slot);
      else {
        // A rejected peer stops trying. An ignored peer tries again.
        this.#counts.ignored++;
        incoming.ignore();
      }
    }
  }

  /**
   * Takes a slot for a handshake. If none is free, abandons the oldest handshake if its grace
   * period is over.
   */
  #handshakeSlot(maxConnections: number): Slot | undefined {
    const slots = this.#handshakeSlots;
    const hasNoRoom = () => slots.taken >= maxConnections - this.#connections.size;
    const [oldest] = this.#handshakes;
    if (oldest !== undefined && (hasNoRoom() || slots.levelFull() !== undefined)) {
      const [conn, { startMs }] = oldest;
      if (this.#runtime.now() - startMs >= HANDSHAKE_GRACE_MS) this.#giveUp(conn, "replaced");
    }
    const slot = hasNoRoom() ? undefined : slots.tryTake();
    return typeof slot === "string" ? undefined : slot;
  }

  #giveUp(conn: Deno.QuicConn, why: "replaced" | "tooSlow"): void {
    this.#counts[why]++;
    this.#handshakeEnded(conn);
    conn.close({ closeCode: 0, reason: "" });
  }

  /** Waits for the end of a handshake. Resolves with true if the connection is open. */
  async #shakeHands(conn: Deno.QuicConn, slot: Slot): Promise<boolean> {
    let isOpen = true;
    const lost = () => {
      isOpen = false;
    };
    conn.closed.then(lost, lost);
    this.#handshakes.set(conn, { startMs: this.#runtime.now(), slot });
    this.#slow.add(conn);
    // `conn.handshake` also resolves if the handshake failed; `closed` then settles right after it.
    await conn.handshake;
    await Promise.resolve();
    return this.#handshakeEnded(conn) && isOpen;
  }

  /** Frees the slot of a handshake. Returns false if it was already free. */
  #handshakeEnded(conn: Deno.QuicConn): boolean {
    this.#slow.delete(conn);
    this.#handshakes.get(conn)?.slot[Symbol.dispose]();
    return this.#handshakes.delete(conn);
  }

  async #accept(
    incoming: Deno.QuicIncoming,
    protocol: QuicProtocol<C>,
    handshake: Slot,
  ): Promise<void> {
    let conn: Deno.QuicConn;
    try {
      // With 0-RTT, the connection exists immediately, so data can be sent with the handshake, and
      // the handshake can be closed early. No data is read until the handshake has ended.
      conn = incoming.accept({ zeroRtt: true });
    } catch {
      handshake[Symbol.dispose]();
      return; // For example, the client offers no common protocol.
    }
    const accept = protocol.begin(conn);
    if (!await this.#shakeHands(conn, handshake)) return;
    if (this.#isStopped) return protocol.reject(conn);
    const remoteAddress = remoteAddressOf(conn);
    const account = socketAccount(remoteAddress.hostname);
    const isSpare = this.#slots.levelFull(account) !== undefined;
    const factor = isSpare && protocol.takesSpare?.(conn) ? PER_CLIENT : 1;
    const slot = this.#slots.tryTake(account, { factor });
    if (typeof slot === "string") return protocol.reject(conn);
    const unread = new UnreadShare(this.#runtime, this.#unread, remoteAddress.hostname);
    const connection = accept({ remoteAddress, unread, isSpare });
    this.#connections.add(connection);
    await connection.ending;
    unread.end();
    this.#connections.delete(connection);
    slot[Symbol.dispose]();
  }
}

/**
 * Creates the quota of handshakes. It has no limit per address, because the address of a first
 * packet may be forged.
 */
function handshakeQuota({ maxHandshakes = MAX_HANDSHAKES, quotas }: QuicListenOptions): Quota {
  return quotaIn(quotas, {
    limit: "maxHandshakes",
    name: "quic.handshakes",
    verb: "connect",
    what: "handshakes at once",
    max: maxHandshakes,
    shares: {},
  });
}
