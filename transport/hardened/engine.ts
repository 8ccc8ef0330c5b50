/**
 * A WebSocket engine for servers that face the internet without a proxy.
 *
 * @module
 */
import { withStreams } from "../websocket/streams.ts";
import { parseQmuxProtocol } from "../qmux/versions.ts";
import {
  type AcceptedWebSocket,
  type AcceptWebSocketOptions,
  type HttpHandler,
  type HttpListener,
  type HttpListenOptions,
  offeredProtocols,
  type WebSocketHost,
} from "../websocket/server.ts";
import type { HandshakeStats } from "./handshake_limits.ts";
import { FrameMaker } from "./frames.ts";
import { HardenedConnection } from "./connection.ts";
import { Listener, type Upgrade } from "./listener.ts";
import { Liveness } from "./liveness.ts";
import { HardenedSocket } from "./socket.ts";
import { type NodeWebSocket, NodeWebSocketServer } from "./ws.ts";

/** A message where nobody says how large one may be. */
const DEFAULT_PAYLOAD_BYTES = 262_144;

/** `ws` counts in 32 bits. */
const MAX_PAYLOAD_BYTES = 2 ** 31 - 1;

/**
 * A message may come in as many pieces as if each had this many bytes: each
 * costs memory of its own, however small it is.
 */
const MIN_PIECE_BYTES = 256;

/** Limits of {@linkcode hardenedWebSocket}; every one has a default. */
export interface HardenedWebSocketOptions {
  /**
   * Largest message, in bytes, that is read: one that says it is larger, or of which more came, is
   * closed with 4413 before it is held. By default what `session.maxMessageBytes` allows, and 64
   * KiB at least.
   */
  readonly maxPayloadBytes?: number;
  /**
   * How long a peer may take to answer a close before it is dropped, in milliseconds.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
  /**
   * From the connection to the end of its first request's head, with the handshake of TLS, in
   * milliseconds.
   *
   * @default {10000}
   */
  readonly handshakeTimeoutMs?: number;
  /**
   * A request with its body, in milliseconds; looked at every second.
   *
   * @default {60000}
   */
  readonly requestTimeoutMs?: number;
  /**
   * How long a connection may wait for its next request, in milliseconds.
   *
   * @default {5000}
   */
  readonly keepAliveTimeoutMs?: number;
  /**
   * The head of a request, in bytes; a larger one is answered with 431.
   *
   * @default {16384}
   */
  readonly maxHeaderBytes?: number;
  /**
   * Connections that one network address may open a second, on average; an IPv6 /64 is one address.
   * Beyond, a request is answered with 429 and `retry-after`; over TLS, the connection is dropped
   * before its handshake.
   *
   * @default {20}
   */
  readonly handshakesPerSecond?: number;
  /**
   * Connections that one address may open at once after a pause. `Infinity` is no limit, such as
   * behind a proxy, where all come from one address.
   *
   * @default {200}
   */
  readonly handshakeBurst?: number;
  /**
   * Connections of one address without a request yet; one more is dropped.
   *
   * @default {200}
   */
  readonly maxPendingPerAddress?: number;
  /**
   * Connections of all addresses without a request yet; for one more the oldest of them is dropped.
   *
   * @default {2048}
   */
  readonly maxPending?: number;
  /**
   * Addresses without a connection that are remembered until they have all their tokens again; of
   * more, the oldest is forgotten.
   *
   * @default {16384}
   */
  readonly maxIdleAddresses?: number;
}

const DEFAULTS = {
  closeTimeoutMs: 5_000,
  handshakeTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  keepAliveTimeoutMs: 5_000,
  maxHeaderBytes: 16_384,
  handshakesPerSecond: 20,
  handshakeBurst: 200,
  maxPendingPerAddress: 200,
  maxPending: 2_048,
  maxIdleAddresses: 16_384,
};

/** Where nobody says how many: as many as `serve()` allows by default. */
const CONNECTIONS = { maxConnections: 20_000, maxConnectionsPerAddress: 2_000 };

/** What {@linkcode hardenedWebSocket} makes. */
export interface HardenedWebSocket extends WebSocketHost {
  /** What its servers counted of those who connect. */
  stats(): HandshakeStats;
}

/**
 * Makes a WebSocket engine with hard limits, on node:http and `npm:ws`: for a
 * server that faces the internet without a proxy.
 *
 * - **Too large:** a message is refused while it arrives, not once it is there.
 * - **Too fast:** a peer that sends more than is handled is not read for a while. Its own system
 *   holds what it sends; nothing is lost, and nothing is closed for it.
 * - **Too slow:** a peer that does not read, or answer a close, is dropped with what waits for it.
 * - **Too many:** connections, unfinished handshakes and their rate are bounded by address.
 *
 * What gets its requests has to answer with what `accept` returned, as it is. `Deno.upgradeWebSocket`
 * does not know them.
 *
 * @param options See {@linkcode HardenedWebSocketOptions}.
 * @returns The engine, for `webSocket` of `serve()`; several servers may share one.
 * @throws {RangeError} If a limit is not a number above 0.
 *
 * @example Usage
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { hardenedWebSocket } from "@skein/skein/ws";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   webSocket: hardenedWebSocket({ handshakesPerSecond: 5 }),
 *   onMessage: (message) => message.reply("pong"),
 * });
 * await using session = await dial(server.url);
 * assertEquals(await session.request("ping"), "pong");
 * ```
 */
export function hardenedWebSocket(options: HardenedWebSocketOptions = {}): HardenedWebSocket {
  return new Engine(options);
}

class Engine implements HardenedWebSocket {
  readonly #limits: typeof DEFAULTS;
  readonly #maxPayloadBytes: number | undefined;
  readonly #upgrades = new WeakMap<Request, Upgrade>();
  /** By how long a peer may be silent: servers have one such time each. */
  readonly #liveness = new Map<number, Liveness>();
  readonly #listeners = new Set<Listener>();
  readonly #frames = new FrameMaker();

  constructor(options: HardenedWebSocketOptions) {
    this.#limits = checkLimits(options);
    this.#maxPayloadBytes = options.maxPayloadBytes;
  }

  listen(options: HttpListenOptions, handler: HttpHandler): HttpListener {
    const { port, hostname, tls } = options;
    const {
      maxConnections = CONNECTIONS.maxConnections,
      maxConnectionsPerAddress = CONNECTIONS.maxConnectionsPerAddress,
    } = options;
    const listener = new Listener({
      ...this.#limits,
      limits: { ...this.#limits, maxConnections, maxConnectionsPerAddress },
      port,
      hostname,
      tls,
      onUpgrade: (request, upgrade) => void this.#upgrades.set(request, upgrade),
    }, handler);
    this.#listeners.add(listener);
    return {
      addr: listener.addr,
      shutdown: async () => {
        await listener.shutdown();
        this.#listeners.delete(listener);
      },
    };
  }

  stats(): HandshakeStats {
    const stats = {
      connections: 0,
      pending: 0,
      addresses: 0,
      tooFrequent: 0,
      tooManyPending: 0,
      tooMany: 0,
      tooSlow: 0,
    };
    for (const { limits } of this.#listeners) {
      for (const [name, count] of Object.entries(limits.stats)) {
        stats[name as keyof HandshakeStats] += count;
      }
    }
    return stats;
  }

  readonly accept = (
    request: Request,
    options: AcceptWebSocketOptions = {},
  ): AcceptedWebSocket => {
    const { protocol = "", idleTimeoutMs = 60_000, lease, flowControl, messages, admitted } =
      options;
    const upgrade = this.#upgrades.get(request);
    if (upgrade === undefined || upgrade.isTaken) {
      throw new TypeError(
        "Cannot accept WebSocket: the request must be an upgrade that this engine's server handed out, and that nobody accepted",
      );
    }
    if (protocol !== "" && !offeredProtocols(request).includes(protocol)) {
      throw new TypeError(
        `Cannot accept WebSocket: protocol must be one that the peer offers, received "${protocol}"`,
      );
    }
    const maxPayload = this.#maxPayloadBytes ?? messages?.maxFrameBytes ?? DEFAULT_PAYLOAD_BYTES;
    const socket = this.#upgrade(upgrade, protocol, Math.min(maxPayload, MAX_PAYLOAD_BYTES));
    const wire = { lease, flowControl, admitted };
    const connection = new HardenedConnection(socket, { protocol, ...wire });
    socket.onTooLarge = (closeCode) => {
      connection.close({ closeCode, reason: `A message has at most ${maxPayload} bytes` });
    };
    if (idleTimeoutMs > 0) this.#livenessOf(idleTimeoutMs).add(socket);
    const response = new Response(null);
    if (parseQmuxProtocol(protocol) === undefined) return { connection, response };
    const streams = withStreams(connection, { ...messages, ...wire, side: "server" });
    return { connection: streams, response };
  };

  #upgrade(upgrade: Upgrade, protocol: string, maxPayload: number): HardenedSocket {
    const { message, socket, head } = upgrade;
    const maxPieces = Math.max(64, Math.ceil(maxPayload / MIN_PIECE_BYTES));
    const server = new NodeWebSocketServer({
      noServer: true,
      autoPong: false,
      clientTracking: false,
      perMessageDeflate: false,
      skipUTF8Validation: false,
      maxPayload,
      maxBufferedChunks: maxPieces,
      maxFragments: maxPieces,
      // For a peer that closed, and stays: one that is closed here is dropped before.
      closeTimeout: this.#limits.closeTimeoutMs + 1_000,
      handleProtocols: () => protocol === "" ? false : protocol,
      WebSocket: HardenedSocket as new (...args: never) => NodeWebSocket,
    });
    let failure: Error | undefined;
    let upgraded: HardenedSocket | undefined;
    server.on("wsClientError", (error) => {
      failure = error;
    });
    server.handleUpgrade(message, socket, head, (made) => {
      upgraded = made as HardenedSocket;
    });
    if (upgraded === undefined) {
      const why = failure?.message ?? "the peer left";
      throw new TypeError(`Cannot accept WebSocket: ${why}`, { cause: failure });
    }
    upgrade.isTaken = true;
    upgraded.attach(message.socket, {
      frames: this.#frames,
      closeTimeoutMs: this.#limits.closeTimeoutMs,
    });
    return upgraded;
  }

  #livenessOf(idleTimeoutMs: number): Liveness {
    const known = this.#liveness.get(idleTimeoutMs);
    if (known !== undefined) return known;
    const liveness = new Liveness(idleTimeoutMs);
    this.#liveness.set(idleTimeoutMs, liveness);
    return liveness;
  }
}

function checkLimits(options: HardenedWebSocketOptions): typeof DEFAULTS {
  const limits = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS) as (keyof typeof DEFAULTS)[]) {
    const value = limits[name] = options[name] ?? DEFAULTS[name];
    const isLimit = value > 0 && (Number.isFinite(value) || MAY_BE_INFINITE.has(name));
    if (isLimit) continue;
    throw new RangeError(
      `Cannot create WebSocket engine: ${name} must be a number above 0, received ${value}`,
    );
  }
  const { maxPayloadBytes = 1 } = options;
  if (Number.isSafeInteger(maxPayloadBytes) && maxPayloadBytes > 0) return limits;
  throw new RangeError(
    `Cannot create WebSocket engine: maxPayloadBytes must be a positive integer, received ${maxPayloadBytes}`,
  );
}

const MAY_BE_INFINITE: ReadonlySet<string> = new Set([
  "handshakeBurst",
  "maxPendingPerAddress",
  "maxPending",
]);
