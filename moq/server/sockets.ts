/**
 * The sockets of a MoQ server: UDP for WebTransport and raw QUIC, TCP for WebSocket, on one port
 * number.
 */
import { UnsupportedError } from "../../errors.ts";
import { requireDeno } from "../../base/platform.ts";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import { listenAt } from "../../transport/address.ts";
import {
  type Certificate,
  certificateHashes,
  checkCertificate,
  type Sha256Hash,
} from "../../transport/certificate/certificate.ts";
import {
  type DevCertificateOptions,
  DevRenewal,
} from "../../transport/certificate/dev_certificate.ts";
import type { FlowControlOptions } from "../../transport/connection.ts";
import {
  listenWebTransport,
  type ListenWebTransportOptions,
  type WebTransportListener,
  type WebTransportRequest,
} from "../../transport/h3/server.ts";
import type { QuicConnection } from "../../transport/quic/connection.ts";
import type {
  HttpListener,
  WebSocketEngine,
  WebSocketHost,
} from "../../transport/websocket/server.ts";
import { MAX_STREAMS } from "../wire/versions.ts";
import type { SocketHost } from "../../server/server_core.ts";
import type { ListenMoqOptions, MoqWire } from "./server_options.ts";

const CLOSE_TIMEOUT_MS = 2_000;

/** The maximum number of free TCP ports to try until one is also free on UDP. */
const MAX_ATTEMPTS = 10;

const WIRES: readonly MoqWire[] = ["webtransport", "quic", "websocket"];

const ANY_ADDRESS: readonly string[] = ["0.0.0.0", "::", "[::]"];

/** The options of {@linkcode MoqSockets}. */
export interface SocketsOptions {
  readonly runtime: Runtime;
  /** The port of both sockets; 0 chooses one that is free on both. */
  readonly port: number;
  readonly hostname: string;
  /** The certificate and key; `undefined` in development. */
  readonly tls: Certificate | undefined;
  /** The options of the development certificate. */
  readonly dev: DevCertificateOptions;
  /** Transports on which to listen. */
  readonly wires: readonly MoqWire[];
  /** The protocols of raw QUIC, in order of preference. */
  readonly protocols: readonly string[];
  /** Listens on TCP instead of the runtime's own server. */
  readonly webSocket: WebSocketHost | undefined;
  /**
   * The limits of the UDP socket. A host that counts TCP connections gets `maxConnections` and
   * `maxConnectionsPerAddress` too.
   */
  readonly limits: Partial<ListenWebTransportOptions>;
}

/** Handlers of requests and connections. */
export interface SocketsHandlers {
  /** Responds to an HTTP request. */
  fetch(
    request: Request,
    info: { readonly remoteAddr: Deno.NetAddr },
  ): Response | Promise<Response>;
  /** Responds to a request for a WebTransport session; never rejects. */
  take(request: WebTransportRequest): Promise<void>;
  /** Accepts a connection of raw QUIC; never rejects. */
  accept(connection: QuicConnection): Promise<void>;
}

/**
 * Checks the options of a listening server and fills in defaults.
 *
 * @param protocols The protocols of raw QUIC, in order of preference.
 * @throws {TypeError} If `transports` is empty, contains an unknown name, or lacks `websocket`
 * although `webSocket` is set.
 * @throws {UnsupportedError} If the platform cannot listen.
 */
export function socketsOptions(
  runtime: Runtime,
  options: ListenMoqOptions,
  protocols: readonly string[],
): SocketsOptions {
  const { port = 0, tls, transports = WIRES, names, cacheFolder, limits = {}, webSocket } = options;
  const { hostname = tls === undefined ? "127.0.0.1" : "0.0.0.0" } = options;
  const wires = [...new Set(transports)];
  if (wires.length === 0 || !wires.every((wire) => WIRES.includes(wire))) {
    throw new TypeError(
      `Cannot serve MoQ: transports must be some of ${WIRES.join(", ")}, received ${
        JSON.stringify(transports)
      }`,
    );
  }
  if (webSocket !== undefined && !wires.includes("websocket")) {
    throw new TypeError(
      `Cannot serve MoQ: transports must include websocket if webSocket is set, received ${
        JSON.stringify(transports)
      }`,
    );
  }
  if (typeof Deno === "undefined") {
    throw new UnsupportedError("Cannot listen: a server requires Deno");
  }
  const { maxSessions = 10_000, maxSessionsPerAddress: perAddress } = limits;
  const { idleTimeoutMs } = options;
  return {
    runtime,
    port,
    hostname,
    tls,
    dev: {
      runtime,
      names,
      cacheFolder,
    },
    wires,
    protocols,
    webSocket,
    limits: {
      maxConnections: connectionsFor(maxSessions),
      maxConnectionsPerAddress: perAddress && connectionsFor(Math.min(maxSessions, perAddress)),
      maxStreams: options.maxBidirectionalStreams ?? MAX_STREAMS,
      maxUnidirectionalStreams: options.maxUnidirectionalStreams ?? MAX_STREAMS,
      flowControl: flowControlOf(options),
      unreadStreams: options.unreadStreams,
      idleTimeoutMs,
      keepAliveIntervalMs: idleTimeoutMs && Math.max(1, Math.round(idleTimeoutMs / 3)),
    },
  };
}

/**
 * Returns the flow control of a server, for transports that count credit.
 *
 * @returns The same credit, by default with enough streams for groups and subscriptions.
 */
export function flowControlOf(
  { flowControl }: { readonly flowControl?: FlowControlOptions | undefined },
): FlowControlOptions {
  return { maxStreamsBidi: MAX_STREAMS, maxStreamsUni: MAX_STREAMS, ...flowControl };
}

/** Two connections per session: rejected and unused connections stay open for a while. */
function connectionsFor(sessions: number): number {
  return Math.min(2 * sessions, Number.MAX_SAFE_INTEGER);
}

/** Sockets that listen from construction to close. */
export class MoqSockets implements SocketHost {
  readonly #options: SocketsOptions;
  readonly #handlers: SocketsHandlers;
  readonly #closings: Promise<void>[] = []; // At most `MAX_ATTEMPTS`, and the last one.
  #http: HttpListener | undefined;
  #udp: WebTransportListener | undefined;
  #renewal: DevRenewal | undefined;
  #loop: Promise<void> | undefined;
  #hashes: readonly Sha256Hash[] = [];

  /**
   * Opens the sockets.
   *
   * @throws {UnsupportedError} If the runtime has no QUIC, and a transport requires it.
   * @throws {Deno.errors.AddrInUse} If the port is in use.
   */
  constructor(options: SocketsOptions, handlers: SocketsHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    const { tls, wires, port } = options;
    if (tls !== undefined) checkCertificate(tls, "listen: tls");
    try {
      if (wires.includes("websocket")) this.#http = this.#serve();
      if (wires.length > 1 || this.#http === undefined) this.#bind(port === 0);
    } catch (error) {
      void this.close();
      throw error;
    }
  }

  /** The address of the UDP socket, or of the TCP socket if UDP is off. */
  get address(): Deno.NetAddr {
    return this.#udp?.address ?? this.#http!.addr;
  }

  /** Returns the URL of a transport for clients on this machine; empty if it is off. */
  urlOf(wire: MoqWire): string {
    const { tls, wires } = this.#options;
    if (!wires.includes(wire)) return "";
    const plain = tls === undefined ? "ws" : "wss";
    const scheme = { webtransport: "https", quic: "moqt", websocket: plain }[wire];
    const { hostname, port } = this.address;
    const name = ANY_ADDRESS.includes(hostname) ? "localhost" : hostname;
    return `${scheme}://${name.includes(":") ? `[${name}]` : name}:${port}/`;
  }

  /** Engine for WebSocket upgrades instead of the runtime's own. */
  get webSocketEngine(): WebSocketEngine | undefined {
    return this.#options.webSocket?.accept;
  }

  /** `true` if plain HTTP may serve the hashes of the certificate. */
  get isDevelopment(): boolean {
    return this.#options.tls === undefined;
  }

  /** Hashes with which a client can trust the certificate; empty if that requires an authority. */
  get hashes(): readonly Sha256Hash[] {
    return this.#hashes;
  }

  /** Sets the certificate for new connections over UDP. Open sessions stay. */
  rotate(certificate: Certificate): void {
    if (this.#udp === undefined) {
      throw new TypeError("Cannot rotate certificate: WebTransport or QUIC must be on");
    }
    this.#replace(certificate);
    // An application that provides a certificate also renews it.
    this.#renewal?.[Symbol.dispose]();
  }

  /** Rejects further clients over UDP. Idempotent. */
  stop(): void {
    this.#udp?.stop();
  }

  /** Stops listening, and closes every connection over UDP. */
  async close(): Promise<void> {
    this.#renewal?.[Symbol.dispose]();
    if (this.#http !== undefined) this.#closings.push(this.#http.shutdown());
    await Promise.all([
      // The runtime waits forever for a peer that vanished during its handshake; stop waiting.
      settlesWithin(this.#options.runtime, Promise.all(this.#closings), CLOSE_TIMEOUT_MS),
      this.#udp?.close(),
    ]);
    await this.#loop;
  }

  #serve(): HttpListener {
    const { runtime, port, hostname, tls, webSocket, limits } = this.#options;
    if (webSocket !== undefined) {
      const { maxConnections, maxConnectionsPerAddress } = limits;
      return webSocket.listen(
        { runtime, port, hostname, tls, maxConnections, maxConnectionsPerAddress },
        (request, info) => this.#handlers.fetch(request, info),
      );
    }
    requireDeno("listen", "webSocket must be hardenedWebSocket() of @skein/skein/ws");
    return listenAt({ hostname, port, transport: "TCP" }, () =>
      Deno.serve(
        { port, hostname, ...tls, onListen() {} },
        (request, info) => this.#handlers.fetch(request, info),
      ));
  }

  /**
   * Binds UDP to the TCP port. With port 0, retries with other TCP ports while the UDP port is in
   * use.
   */
  #bind(isAnyPort: boolean): void {
    const { tls, dev } = this.#options;
    if (tls === undefined) {
      this.#renewal = new DevRenewal(dev, (certificate) => this.#replace(certificate));
    }
    const certificate = tls ?? this.#renewal!.first;
    this.#hashes = certificateHashes(certificate.cert);
    for (let attempt = 1;; attempt++) {
      try {
        this.#udp = this.#listen(certificate);
        break;
      } catch (error) {
        const isTaken = error instanceof Deno.errors.AddrInUse;
        const mayRetry = isAnyPort && isTaken && this.#http !== undefined;
        if (!mayRetry || attempt === MAX_ATTEMPTS) throw error;
        const taken = this.#http!;
        this.#http = this.#serve();
        this.#closings.push(taken.shutdown());
      }
    }
    this.#loop = this.#takeAll(this.#udp);
  }

  #listen({ cert, key }: Certificate): WebTransportListener {
    const { runtime, port, hostname, wires, protocols, limits } = this.#options;
    return listenWebTransport({
      ...limits,
      runtime,
      cert,
      key,
      hostname,
      port: this.#http?.addr.port ?? port,
      quic: wires.includes("quic") && protocols.length > 0
        ? { protocols, onConnection: (connection) => this.#handlers.accept(connection) }
        : undefined,
    });
  }

  async #takeAll(listener: WebTransportListener): Promise<void> {
    for await (const request of listener) {
      // Do not await the response: a request may wait for a database.
      if (this.#options.wires.includes("webtransport")) void this.#handlers.take(request);
      else request.reject(404);
    }
  }

  #replace({ cert, key }: Certificate): void {
    this.#udp?.rotate({ cert, key });
    this.#hashes = certificateHashes(cert);
  }
}
