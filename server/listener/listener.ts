/** The two sockets of a server on one port number: TCP for WebSocket, UDP for WebTransport. */
import { NO_HANDSHAKES, type WebTransportStats } from "../metrics/measures.ts";
import {
  bracketed,
  isAnyAddress,
  isWellKnown,
  WebTransportSocket,
  wellKnownResponse,
} from "./webtransport.ts";
import type { PageOrigin } from "../admission/webtransport_request.ts";
import { webTransportOptions, type WebTransportServeOptions } from "./webtransport_options.ts";
import type { QuicMount } from "../feature.ts";
import type { SocketHost } from "../server_core.ts";
import { attempt, unawaited } from "../../base/call_safely.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import { textOf } from "../../base/error_text.ts";
import { withoutUndefined } from "../../base/options/options.ts";
import { isRuntimeError, requireDeno } from "../../base/platform.ts";
import type { Runtime } from "../../base/runtime.ts";
import { listenAt } from "../../transport/address.ts";
import { checkCertificate } from "../../transport/certificate/certificate.ts";
import type { OriginRules } from "../../transport/origins.ts";
import type {
  HttpListener,
  UpgradeHandler,
  UpgradeHost,
  WebSocketEngine,
  WebSocketHost,
} from "../../transport/websocket/server.ts";
import type {
  Certificate,
  ListenWebTransportOptions,
  RawQuicOptions,
  WebTransportRequest,
} from "../../transport/h3/server.ts";

/** Most free TCP ports to try until one is also free on UDP. */
const MAX_ATTEMPTS = 10;

/**
 * Number of immediate attempts at a UDP port that is in use, which may be free after garbage
 * collection.
 */
const EAGER_ATTEMPTS = 10;

/** Pause before the first delayed attempt, in milliseconds. It doubles with each attempt. */
const RETRY_MS = 100;

/** Longest pause between attempts, in milliseconds. An attempt is only one system call. */
const MAX_RETRY_MS = 5_000;

/**
 * Time until a UDP port that is in use is reported, in milliseconds. When a program restarts on a
 * change of its files, its predecessor releases the port sooner.
 */
const REPORT_MS = 3_000;

/**
 * Number of attempts that are preceded by garbage collection. A closed listener of this process
 * holds its port until it is collected. If these attempts fail, another process must be holding the
 * port.
 */
const COLLECTING_ATTEMPTS = 15;

/** Statuses of a handler that does not serve a path: its own 404, or this server's 426. */
const NOT_FOUND: ReadonlySet<number> = new Set([404, 426]);

/** Number of buffers allocated before an attempt, because the collector works in small steps. */
const COLLECTING_ROUNDS = 10;

/** Time between two buffers, in milliseconds. */
const COLLECTING_MS = 5;

/**
 * Size of a buffer in bytes: enough to start the collector. It is never touched, so it takes no
 * physical memory.
 */
const COLLECTING_BYTES = 67_108_864;

/** Information for `onListen`, in addition to the address. */
export interface ListenInfo {
  /** The URL of WebTransport; empty if it is off. */
  readonly webTransportUrl: string;
  /**
   * The reason why WebTransport failed; `undefined` if WebTransport is listening or was turned off.
   * After a `Deno.errors.AddrInUse`, the server retries the port until it stops.
   */
  readonly webTransportError: Error | undefined;
}

/** Limits on connections over UDP, and over TCP if they are counted, and the credit of clients. */
export type ConnectionLimits =
  & Pick<WebTransportServeOptions, "flowControl" | "maxConnections" | "maxConnectionsPerAddress">
  & Pick<ListenWebTransportOptions, "quotas" | "unreadStreams">;

/** Options of {@linkcode ServerListener}. */
export interface ServerListenerOptions extends OriginRules {
  /** Prints errors that no handler of the application receives. */
  readonly console: ConsoleReport;
  readonly runtime: Runtime;
  /** TCP port. 0 selects a port that is free on both TCP and UDP. */
  readonly port: number;
  /** Address on which to listen. */
  readonly hostname: string;
  /** Certificate; `undefined` in development. */
  readonly tls: Certificate | undefined;
  /** The option `webTransport` of `serve()`. */
  readonly webTransport: boolean | WebTransportServeOptions | undefined;
  /** Host that listens on TCP instead of the runtime's own server. */
  readonly webSocket: WebSocketHost | undefined;
  /** `true` if other processes may listen on the same TCP port. */
  readonly reusePort: boolean;
  /** Largest frame that sessions accept, in bytes. */
  readonly maxFrameBytes: number;
  /** Limits of connections, unless WebTransport has its own. */
  readonly connectionLimits: ConnectionLimits;
  /** Handler of raw QUIC, in addition to WebTransport. */
  readonly quic: RawQuicOptions | undefined;
  /** Resolves when the server may listen on UDP. By default, it listens immediately. */
  readonly udpFrom?: Promise<void> | undefined;
  /** Called when the server listens, instead of printing a line. */
  readonly onListen: ((address: Deno.NetAddr, info: ListenInfo) => void) | undefined;
}

/** Handlers of requests. */
export interface ServerListenerHandlers {
  /** Responds to an HTTP request. */
  fetch(
    request: Request,
    info: { readonly remoteAddr: Deno.NetAddr },
  ): Response | Promise<Response>;
  /** Responds to a WebSocket upgrade without a `Request`, if the host supports this. */
  upgrade?: UpgradeHandler | undefined;
  /**
   * Checks whether a request for a WebTransport session comes from a client that moves from another
   * session.
   */
  isSuccessor(request: WebTransportRequest): boolean;
  /** Responds to a request for a WebTransport session. */
  take(request: WebTransportRequest, pages: PageOrigin): void | Promise<void>;
}

/** The sockets of a server, which listen from construction until close. */
export class ServerListener {
  readonly #options: ServerListenerOptions;
  readonly #handlers: ServerListenerHandlers;
  readonly #closings: Promise<void>[] = []; // At most `MAX_ATTEMPTS` + 1.
  #http: HttpListener;
  #webTransport: WebTransportSocket | undefined;
  #error: Error | undefined;
  /** The certificate that was set before there was a UDP port. */
  #certificate: Certificate | undefined;
  #retrying: Promise<void> | undefined;
  #isStopped = false;
  /** True once the UDP port is free again; TCP may still wait for a peer that disappeared. */
  #isUdpFree = false;
  /** Ends the pause before the next attempt. */
  #endWait: (() => void) | undefined;

  /**
   * Starts listening. A UDP port in use is retried until the server stops.
   *
   * @throws {Error} If listening on TCP fails, or if WebTransport was requested with an object and
   * listening on UDP fails, unless the UDP port may become free.
   */
  constructor(options: ServerListenerOptions, handlers: ServerListenerHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    const webTransport = webTransportOptions(options.webTransport);
    this.#http = this.#serve();
    if (webTransport === undefined) return;
    if (options.udpFrom !== undefined) {
      void options.udpFrom.then(() => {
        if (!this.#isStopped) this.#retrying = this.#retry(webTransport);
      });
      return;
    }
    try {
      this.#webTransport = this.#offer(webTransport);
    } catch (error) {
      const mayComeFree = isTaken(error) && !this.#isAnyPort(webTransport);
      if (typeof options.webTransport === "object" && !mayComeFree) {
        void this.close();
        throw error;
      }
      this.#error = error instanceof Error ? error : new Error(String(error));
      if (mayComeFree) this.#retrying = this.#retry(webTransport);
    }
  }

  /** Address of WebSocket. */
  get address(): Deno.NetAddr {
    return this.#http.addr;
  }

  /** The URL of WebSocket, for clients on this machine. */
  get url(): string {
    return `${this.#options.tls === undefined ? "ws" : "wss"}://${this.#localHost}/`;
  }

  /** `true` without TLS. */
  get isDevelopment(): boolean {
    return this.#options.tls === undefined;
  }

  /** WebTransport, unless it is off. */
  get webTransport(): WebTransportSocket | undefined {
    return this.#webTransport;
  }

  /** Counters of WebTransport; `undefined` if WebTransport is off. */
  get stats(): WebTransportStats | undefined {
    const socket = this.#webTransport;
    if (socket === undefined && this.#retrying === undefined) return undefined;
    const isListening = socket !== undefined && !this.#isUdpFree;
    return { isListening, handshakes: socket?.handshakes ?? NO_HANDSHAKES };
  }

  /**
   * Sets the certificate for new WebTransport clients, even if the UDP port is still in use.
   *
   * @throws {TypeError} If WebTransport is off, or the certificate is invalid.
   */
  rotate(certificate: Certificate): void {
    if (this.#webTransport !== undefined) return this.#webTransport.rotate(certificate);
    if (this.#retrying === undefined) {
      throw new TypeError("Cannot rotate certificate: WebTransport is off");
    }
    checkCertificate(certificate, "rotate certificate: the new one");
    this.#certificate = certificate;
  }

  /** Calls `onListen`, or prints the addresses. */
  announce(): void {
    const { onListen } = this.#options;
    const webTransportUrl = this.#webTransport?.url ?? "";
    const info = { webTransportUrl, webTransportError: this.#error };
    if (onListen !== undefined) {
      return void unawaited(onListen(this.address, info), this.#onListenFailed);
    }
    const { address: { hostname, port } } = this;
    const scheme = this.#options.tls === undefined ? "http" : "https";
    const local = `${scheme}://${this.#localHost}/`;
    const all = isAnyAddress(hostname)
      ? `${scheme}://${bracketed(hostname)}:${port}/ (${local})`
      : local;
    const too = webTransportUrl === "" ? "" : `, WebTransport on ${webTransportUrl}`;
    print(`Listening on ${all}${too}`);
    if (this.#error && !this.#retrying) print(`WebTransport is off: ${this.#error.message}`);
  }

  /** Rejects new WebTransport sessions. */
  stop(): void {
    this.#isStopped = true;
    this.#endWait?.();
    this.#webTransport?.stop();
  }

  /** Cancels incomplete request bodies. */
  cutBodies(): void {
    this.#http.cutBodies?.();
  }

  /**
   * Stops listening, and closes the remaining connections.
   *
   * @param responsesMs Time allowed for sending responses, in milliseconds. The WebSocket host has
   * its own time limit; the longer of the two applies.
   */
  async close(responsesMs = 0): Promise<void> {
    this.#isStopped = true;
    this.#endWait?.();
    this.#closings.push(this.#http.shutdown({ responsesMs }));
    const closing = this.#webTransport?.close().then(() => void (this.#isUdpFree = true));
    await Promise.all([...this.#closings, this.#retrying, closing]);
  }

  get #localHost(): string {
    const { hostname, port } = this.address;
    return `${bracketed(isAnyAddress(hostname) ? "localhost" : hostname)}:${port}`;
  }

  #serve(): HttpListener {
    const { runtime, port, hostname, tls, webSocket, reusePort } = this.#options;
    const { connectionLimits, maxFrameBytes } = this.#options;
    const response: ServerListenerHandlers["fetch"] = (request, info) =>
      tls === undefined && isWellKnown(request)
        ? this.#wellKnown(request, info)
        : this.#handlers.fetch(request, info);
    if (webSocket !== undefined) {
      const { upgrade } = this.#handlers;
      const onUpgrade: UpgradeHandler | undefined = upgrade &&
        ((offered, info) => isWellKnown(offered) ? undefined : upgrade(offered, info));
      const host: UpgradeHost = webSocket;
      const options = {
        ...connectionLimits,
        maxFrameBytes,
        runtime,
        port,
        hostname,
        tls,
        reusePort,
      };
      return host.listen(options, response, onUpgrade);
    }
    requireDeno("serve", "webSocket must be hardenedWebSocket() of @skein/skein/ws");
    return listenAt({ hostname, port, transport: "TCP" }, () => {
      const http = Deno.serve({ port, hostname, reusePort, ...tls, onListen() {} }, response);
      let closing: Promise<void> | undefined;
      const shutdown = () => closing ??= http.shutdown();
      // When the runtime's server shuts down, it cancels bodies and lets handlers respond.
      return { addr: http.addr, shutdown, cutBodies: () => void shutdown() };
    });
  }

  /**
   * Starts WebTransport on the TCP port number. With port 0, retries with other TCP ports while the
   * UDP port is in use.
   */
  #offer(options: WebTransportServeOptions): WebTransportSocket {
    const isAnyPort = this.#isAnyPort(options);
    for (let attempt = 1;; attempt++) {
      try {
        return this.#openWebTransport(options);
      } catch (error) {
        if (!isAnyPort || !isTaken(error) || attempt === MAX_ATTEMPTS) throw error;
        const taken = this.#http;
        this.#http = this.#serve();
        this.#closings.push(taken.shutdown());
      }
    }
  }

  #isAnyPort(options: WebTransportServeOptions): boolean {
    return this.#options.port === 0 && options.port === undefined;
  }

  /**
   * Retries a UDP port that is in use, because a predecessor is draining or a closed listener is
   * waiting for garbage collection.
   */
  async #retry(options: WebTransportServeOptions): Promise<void> {
    const { runtime, onListen } = this.#options;
    const since = runtime.now();
    let isReported = onListen !== undefined || this.#error === undefined;
    let delayMs = RETRY_MS;
    for (let attempt = 1;; attempt++) {
      if (attempt > EAGER_ATTEMPTS) {
        if (await this.#stopsWithin(delayMs)) return;
        delayMs = Math.min(2 * delayMs, MAX_RETRY_MS);
      }
      const pressure: ArrayBuffer[] = [];
      for (let round = 0; attempt <= COLLECTING_ATTEMPTS && round < COLLECTING_ROUNDS; round++) {
        urgeCollection(pressure);
        if (await this.#stopsWithin(COLLECTING_MS)) return;
      }
      const certificate = this.#certificate;
      try {
        this.#webTransport = this.#openWebTransport(
          certificate ? { ...options, certificate } : options,
        );
        this.#error = undefined;
        return this.#announceWebTransport();
      } catch (error) {
        if (!isTaken(error)) {
          this.#retrying = undefined;
          return this.#options.console.failed("Listening for WebTransport", error);
        }
        if (isReported || runtime.now() - since < REPORT_MS) continue;
        isReported = true;
        print(`WebTransport is off: ${textOf(error)}; retrying until the port is free`);
      }
    }
  }

  /** Waits, and resolves to `true` as soon as the server stops. */
  #stopsWithin(ms: number): Promise<boolean> {
    if (this.#isStopped) return Promise.resolve(true);
    const { runtime } = this.#options;
    return new Promise((resolve) => {
      const timer = runtime.setTimeout(() => resolve(false), ms);
      this.#endWait = () => {
        runtime.clearTimeout(timer);
        resolve(true);
      };
    });
  }

  /** Announces WebTransport that became available late. */
  #announceWebTransport(): void {
    const { onListen } = this.#options;
    if (onListen === undefined) return print(`WebTransport on ${this.#webTransport!.url}`);
    attempt(() => this.announce(), this.#onListenFailed);
  }

  readonly #onListenFailed = (error: unknown) => this.#options.console.failed("onListen", error);

  #openWebTransport(options: WebTransportServeOptions): WebTransportSocket {
    const { runtime, console, webTransport, tls, connectionLimits, quic } = this.#options;
    const { port, hostname } = this.address;
    const socket: WebTransportSocket = new WebTransportSocket({
      runtime,
      options: { ...connectionLimits, ...withoutUndefined(options) },
      port,
      hostname,
      tls,
      // Prompt for a permission only if the application chose WebTransport explicitly.
      mayPrompt: typeof webTransport === "object",
      quic,
      quotas: connectionLimits.quotas,
      unreadStreams: connectionLimits.unreadStreams,
      console,
      isSuccessor: (request) => this.#handlers.isSuccessor(request),
      take: (request) => {
        const webTransportPort = socket.address.port;
        return this.#handlers.take(request, {
          port,
          webTransportPort,
          isDevelopment: tls === undefined,
          hidesRequests: socket.hidesRequests,
        });
      },
    });
    return socket;
  }

  /** Without WebTransport, the application's handler responds first: the path may be its own. */
  async #wellKnown(
    request: Request,
    info: Parameters<ServerListenerHandlers["fetch"]>[1],
  ): Promise<Response> {
    const socket = this.#webTransport;
    const known = socket && wellKnownResponse(request, socket, this.#options);
    if (known !== undefined) return known;
    const response = await this.#handlers.fetch(request, info);
    if (socket !== undefined || !NOT_FOUND.has(response.status)) return response;
    const none = wellKnownResponse(request, undefined, this.#options);
    if (none !== undefined) await response.body?.cancel();
    return none ?? response;
  }
}

function isTaken(error: unknown): boolean {
  return isRuntimeError(error, "AddrInUse");
}

/**
 * Makes the runtime collect garbage by adding a buffer to `pressure`. Only garbage collection
 * returns a QUIC socket to the system, and an idle process allocates too little to cause one. The
 * buffers must stay referenced, because the runtime would free unreferenced buffers without
 * collecting older objects.
 */
function urgeCollection(pressure: ArrayBuffer[]): void {
  try {
    pressure.push(new ArrayBuffer(COLLECTING_BYTES));
  } catch {
    // No address space is left: the collector runs anyway.
  }
}

function print(line: string): void {
  // Print on stderr, as the runtime does, because stdout belongs to the program.
  // deno-lint-ignore no-console
  console.error(line);
}

/** Routes raw QUIC connections to the feature that handles them. */
export function quicOptionsOf(mount: QuicMount | undefined): RawQuicOptions | undefined {
  return mount && {
    protocols: mount.protocols,
    async onConnection(connection) {
      await mount.accept(connection);
    },
  };
}

/**
 * Describes the sockets of a server, for a feature with its own sessions.
 *
 * @param listenerOf Returns the server's sockets, once it listens.
 * @param webSocketEngine Engine for WebSocket upgrades that replaces the runtime's own.
 */
export function socketHost(
  listenerOf: () => ServerListener | undefined,
  webSocketEngine: WebSocketEngine | undefined,
): SocketHost {
  return {
    webSocketEngine,
    get isDevelopment() {
      return listenerOf()?.isDevelopment ?? false;
    },
    get address() {
      return listenerOf()?.address;
    },
    get hashes() {
      return listenerOf()?.webTransport?.hashes ?? [];
    },
    urlOf(transport) {
      if (transport === "websocket") return listenerOf()?.url ?? "";
      const url = listenerOf()?.webTransport?.url ?? "";
      return transport === "quic" ? url.replace("https:", "moqt:") : url;
    },
  };
}
