/** A WebSocket engine for servers that face the internet without a proxy. */
import { type OptionKinds, withDefaults } from "../../base/options/options.ts";
import {
  ABOVE_ZERO,
  checkOptions,
  COUNT,
  numberIn,
  objectOr,
  POSITIVE,
} from "../../base/options/option_checks.ts";
import { Buffer } from "node:buffer";
import { platformRuntime } from "../../base/runtime.ts";
import {
  type AcceptedWebSocket,
  type AcceptWebSocketOptions,
  checkOffered,
  fieldsOf,
  findUpgradeFault,
  type HttpHandler,
  type HttpListener,
  type HttpListenOptions,
  type UpgradeHandler,
  type UpgradeRequest,
  type WebSocketHost,
  withAgreedStreams,
} from "../websocket/server.ts";
import { acceptKeyOf } from "./accept_key.ts";
import { agreeOnCompression, type CompressionAgreement, SharedDeflater } from "./compression.ts";
import { HardenedConnection } from "./connection.ts";
import type { HandshakeStats } from "./handshake_limits.ts";
import { Listener, type Upgrade } from "./listener.ts";
import type { FrameLimits } from "./frame_reader.ts";
import { WriteTurn } from "./frame_writer.ts";
import { HardenedSocket } from "./socket.ts";

/** The largest message, in bytes, if neither the engine nor `serve()` sets a limit. */
const DEFAULT_PAYLOAD_BYTES = 262_144;

/**
 * The smallest average size of a message's fragments, in bytes. Every fragment costs time, however
 * small it is, so the limit on fragments follows from the limit on bytes.
 */
const MIN_FRAGMENT_BYTES = 256;

/** The number of fragments that any message may have. */
const MIN_FRAGMENTS = 64;

/** The limits of {@linkcode hardenedWebSocket}. All are optional. */
export interface HardenedWebSocketOptions {
  /**
   * The largest message to read, in bytes, in all its fragments. A larger one closes the connection
   * with 4413 before it is buffered.
   *
   * `serve` throws if you set a limit below this default.
   *
   * @default {`session.maxMessageBytes`, but at least 64 KiB}
   */
  readonly maxPayloadBytes?: number | undefined;
  /**
   * The time for a peer to reply to a close, in milliseconds; then the connection is dropped.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number | undefined;
  /**
   * The time from the connection to the end of the first request's head, in milliseconds; then the
   * connection is dropped.
   *
   * It includes the TLS handshake.
   *
   * @default {10000}
   */
  readonly handshakeTimeoutMs?: number | undefined;
  /**
   * The time for a request with its body, in milliseconds; then it receives 408.
   *
   * The time is checked every second.
   *
   * @default {60000}
   */
  readonly requestTimeoutMs?: number | undefined;
  /**
   * The time that a connection may wait for its next request, in milliseconds; then it is dropped.
   *
   * @default {5000}
   */
  readonly keepAliveTimeoutMs?: number | undefined;
  /**
   * The maximum size of a request's head, in bytes; beyond it, 431.
   *
   * @default {16384}
   */
  readonly maxHeaderBytes?: number | undefined;
  /**
   * The number of connections per second that one network address may open, on average; beyond it,
   * 429 with `retry-after`.
   *
   * An IPv6 /64 counts as one address. Over TLS, the connections are dropped before the handshake.
   *
   * @default {20}
   */
  readonly handshakesPerSecond?: number | undefined;
  /**
   * The number of connections that one address may open in a burst after a pause. `Infinity`
   * removes the limit, for example behind a proxy.
   *
   * Behind a proxy, all connections share one address.
   *
   * @default {200}
   */
  readonly handshakeBurst?: number | undefined;
  /**
   * The number of connections of one address that have not sent a request, in contention; further
   * ones are dropped.
   *
   * The default applies only once more than half of `maxPending` is in use; a number that you set
   * always applies.
   *
   * @default {200}
   */
  readonly maxPendingPerAddress?: number | undefined;
  /**
   * The number of connections of all addresses that have not sent a request; beyond it, the oldest
   * is dropped.
   *
   * @default {2048}
   */
  readonly maxPending?: number | undefined;
  /**
   * The number of addresses to remember until their tokens are refilled; beyond it, the one that
   * was quiet for longest is forgotten.
   *
   * @default {16384}
   */
  readonly maxIdleAddresses?: number | undefined;
  /**
   * Compresses messages to many sessions (permessage-deflate), once for all of them. `minBytes` is
   * the smallest message to compress, 512 by default.
   *
   * Each is compressed separately, for peers that offer it. Replies and messages to one session are
   * sent uncompressed.
   *
   * @default {false}
   */
  readonly compression?: boolean | { readonly minBytes?: number | undefined } | undefined;
}

/** The check of a limit that must be finite. */
const FINITE = numberIn({ min: 0, max: Number.MAX_VALUE, isAbove: true });

const OPTIONS: OptionKinds<HardenedWebSocketOptions> = {
  closeTimeoutMs: FINITE,
  compression: objectOr("boolean", { minBytes: COUNT }),
  handshakeBurst: ABOVE_ZERO,
  handshakeTimeoutMs: FINITE,
  handshakesPerSecond: FINITE,
  keepAliveTimeoutMs: FINITE,
  maxHeaderBytes: FINITE,
  maxIdleAddresses: FINITE,
  maxPayloadBytes: POSITIVE,
  maxPending: ABOVE_ZERO,
  maxPendingPerAddress: ABOVE_ZERO,
  requestTimeoutMs: FINITE,
};

/**
 * The smallest message to compress, in bytes. Compressing a smaller one hardly makes its packet
 * smaller.
 */
const MIN_COMPRESSED_BYTES = 512;

const DEFAULTS = {
  closeTimeoutMs: 5_000,
  handshakeTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  keepAliveTimeoutMs: 5_000,
  maxHeaderBytes: 16_384,
  handshakesPerSecond: 20,
  handshakeBurst: 200,
  maxPending: 2_048,
  maxIdleAddresses: 16_384,
};

/**
 * The maximum number of connections if `maxConnections` is not set. It equals the default of
 * `serve()`.
 */
const MAX_CONNECTIONS = 20_000;

/** A WebSocket engine created by {@linkcode hardenedWebSocket}. */
export interface HardenedWebSocket extends WebSocketHost {
  /** The counters of connections and handshakes, summed over the engine's servers. */
  stats(): HandshakeStats;
}

/**
 * Creates a WebSocket engine with hard limits, for a server that faces the internet without a proxy.
 *
 * - **Too large:** a message that is too large is rejected while it arrives, before all of it is in
 *   memory.
 * - **Too fast:** the engine stops reading from a peer that sends faster than its messages are
 *   handled. The peer's own system buffers the rest, so no message is lost and no connection is
 *   closed.
 * - **Too slow:** a peer that does not read, or does not reply to a close, is dropped together with
 *   the bytes that are queued for it.
 * - **Too many:** connections, unfinished handshakes, and new connections per second are limited
 *   per address.
 *
 * The HTTP handler must return the response of `accept` unchanged. `Deno.upgradeWebSocket` does not
 * accept requests of this engine.
 *
 * @param options The limits.
 * @returns The engine, for the `webSocket` option of `serve()`. Several servers may share one
 * engine.
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
  checkOptions("create WebSocket engine", options, OPTIONS);
  return new Engine(options);
}

/** The response to the server for an accepted upgrade. The listener does not read it. */
const ACCEPTED = new Response(null);

/** A hardened socket calls its connection itself. */
const NO_EVENTS: readonly never[] = [];

class Engine implements HardenedWebSocket {
  readonly #limits: typeof DEFAULTS;
  readonly #maxPendingPerAddress: number | undefined;
  readonly #maxPayloadBytes: number | undefined;
  readonly #upgrades = new WeakMap<Request, Upgrade>();
  readonly #listeners = new Set<Listener>();
  /** The limits of the newest socket with compression and of the newest one without. */
  readonly #frameLimits = new Map<boolean, FrameLimits>();
  readonly #turn = new WriteTurn();
  readonly #minCompressedBytes: number | undefined;
  /** The compressors by window. zlib supports seven windows. */
  readonly #deflaters = new Map<number, SharedDeflater>();

  constructor(options: HardenedWebSocketOptions) {
    this.#limits = withDefaults(DEFAULTS, options);
    this.#maxPendingPerAddress = options.maxPendingPerAddress;
    this.#maxPayloadBytes = options.maxPayloadBytes;
    this.#minCompressedBytes = minCompressedBytesOf(options);
  }

  listen(
    options: HttpListenOptions,
    handler: HttpHandler,
    onUpgrade?: UpgradeHandler,
  ): HttpListener {
    const { runtime = platformRuntime(), port, hostname, tls, reusePort = false } = options;
    const { maxFrameBytes = 0 } = options;
    if (this.#maxPayloadBytes !== undefined && this.#maxPayloadBytes < maxFrameBytes) {
      throw new RangeError(
        `Cannot listen: maxPayloadBytes must be at least ${maxFrameBytes}, the largest message that ` +
          `the server accepts, received ${this.#maxPayloadBytes}`,
      );
    }
    const { maxConnections = MAX_CONNECTIONS, maxConnectionsPerAddress, quotas } = options;
    const listener = new Listener({
      ...this.#limits,
      runtime,
      limits: {
        ...this.#limits,
        maxPendingPerAddress: this.#maxPendingPerAddress,
        maxConnections,
        maxConnectionsPerAddress,
        quotas,
      },
      port,
      hostname,
      reusePort,
      tls,
      onUpgrade: (request, upgrade) => void this.#upgrades.set(request, upgrade),
      accept: (upgrade, headers, options) => this.#accept(upgrade, headers, options),
    }, { handler, onUpgrade });
    this.#listeners.add(listener);
    return {
      addr: listener.addr,
      shutdown: async (options) => {
        await listener.shutdown(options);
        this.#listeners.delete(listener);
      },
      cutBodies: () => listener.cutBodies(),
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
    const { protocol = "" } = options;
    const upgrade = this.#upgrades.get(request);
    if (upgrade === undefined || upgrade.isTaken) {
      throw new TypeError(
        "Cannot accept WebSocket: the request must be an upgrade that this engine's server received and has not accepted before",
      );
    }
    checkOffered(request, protocol);
    const fault = findUpgradeFault(request);
    if (fault !== undefined) throw new TypeError(fault.message);
    return { ...this.#accept(upgrade, request.headers, options), response: new Response(null) };
  };

  /** Accepts an upgrade that was checked. */
  #accept(
    upgrade: Upgrade,
    headers: UpgradeRequest["headers"],
    options: AcceptWebSocketOptions,
  ): AcceptedWebSocket {
    const { protocol = "", idleTimeoutMs = 60_000, lease, flowControl, messages, admitted } =
      options;
    const maxPayload = this.#maxPayloadBytes ?? messages?.maxFrameBytes ?? DEFAULT_PAYLOAD_BYTES;
    const socket = this.#upgrade(headers, upgrade, {
      protocol,
      maxPayload,
      fields: fieldsOf(options.headers),
    });
    const { listener, listener: { runtime } } = upgrade;
    const connection = new HardenedConnection(socket, {
      runtime,
      protocol,
      lease,
      flowControl,
      admitted,
      events: NO_EVENTS,
    });
    if (idleTimeoutMs > 0) listener.livenessOf(idleTimeoutMs).add(socket);
    const agreed = withAgreedStreams(connection, { ...options, runtime });
    return { connection: agreed, response: ACCEPTED, isOpen: agreed === connection };
  }

  #upgrade(
    headers: UpgradeRequest["headers"],
    upgrade: Upgrade,
    { protocol, maxPayload, fields }: {
      readonly protocol: string;
      readonly maxPayload: number;
      /** Headers to add to the upgrade response. */
      readonly fields: Iterable<[string, string]>;
    },
  ): HardenedSocket {
    const { listener: { runtime }, socket: raw } = upgrade;
    if (!raw.readable || !raw.writable) {
      throw new TypeError("Cannot accept WebSocket: the peer disconnected");
    }
    const agreement = this.#minCompressedBytes === undefined
      ? undefined
      : agreeOnCompression(headers.get("sec-websocket-extensions"));
    const socket = new HardenedSocket(raw, greetingOf(headers, { protocol, agreement, fields }), {
      runtime,
      turn: this.#turn,
      limits: this.#frameLimitsOf(maxPayload, agreement !== undefined),
      closeTimeoutMs: this.#limits.closeTimeoutMs,
      protocol,
      deflater: agreement && this.#deflaterOf(agreement.windowBits),
    });
    upgrade.take(socket);
    return socket;
  }

  /** Returns the limits for a message size, which nearly all sockets share. */
  #frameLimitsOf(maxPayloadBytes: number, allowsCompression: boolean): FrameLimits {
    const known = this.#frameLimits.get(allowsCompression);
    if (known?.maxPayloadBytes === maxPayloadBytes) return known;
    const maxFragments = Math.max(MIN_FRAGMENTS, Math.ceil(maxPayloadBytes / MIN_FRAGMENT_BYTES));
    const limits = { maxPayloadBytes, maxFragments, allowsCompression };
    this.#frameLimits.set(allowsCompression, limits);
    return limits;
  }

  #deflaterOf(windowBits: number): SharedDeflater {
    const known = this.#deflaters.get(windowBits);
    if (known !== undefined) return known;
    const deflater = new SharedDeflater(windowBits, this.#minCompressedBytes!);
    this.#deflaters.set(windowBits, deflater);
    return deflater;
  }
}

/** Creates the response to a valid handshake, according to RFC 6455, section 4.2.2. */
function greetingOf(
  headers: UpgradeRequest["headers"],
  { protocol, agreement, fields }: {
    readonly protocol: string;
    readonly agreement: CompressionAgreement | undefined;
    readonly fields: Iterable<[string, string]>;
  },
): Buffer {
  const key = headers.get("sec-websocket-key")!;
  let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
    `Sec-WebSocket-Accept: ${acceptKeyOf(key)}\r\n`;
  if (protocol !== "") head += `Sec-WebSocket-Protocol: ${protocol}\r\n`;
  if (agreement !== undefined) head += `Sec-WebSocket-Extensions: ${agreement.header}\r\n`;
  for (const [name, value] of fields) head += `${name}: ${value}\r\n`;
  return Buffer.from(head + "\r\n");
}

function minCompressedBytesOf({ compression }: HardenedWebSocketOptions): number | undefined {
  if (compression === undefined || compression === false) return undefined;
  const { minBytes = MIN_COMPRESSED_BYTES } = compression === true ? {} : compression;
  return minBytes;
}
