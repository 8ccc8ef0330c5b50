/**
 * A server's two sockets: TCP for WebSocket, UDP for WebTransport, on one port
 * number.
 *
 * @module
 */
import type { WebTransportStats } from "../telemetry/measures.ts";
import { answerWellKnown } from "./well_known.ts";
import { hostOf, isAnyAddress, printError, WebTransportHalf } from "./webtransport.ts";
import type { PagePlace } from "./webtransport_request.ts";
import { webTransportOptions, type WebTransportServeOptions } from "./webtransport_options.ts";
import { listenAt } from "../transport/address_in_use.ts";
import { checkCertificate } from "../transport/certificate/certificate.ts";
import type { OriginRules } from "../transport/origins.ts";
import type { HttpListener, WebSocketHost } from "../transport/websocket/server.ts";
import type {
  Certificate,
  ListenWebTransportOptions,
  QuicHandshakeStats,
  RawQuicOptions,
  WebTransportRequest,
} from "../transport/h3/server.ts";

/** How often a free TCP port is tried whose UDP sibling turns out to be taken. */
const MAX_ATTEMPTS = 10;

/** Attempts at a UDP port that is taken, one right after the other: it may wait for the collector alone. */
const EAGER_ATTEMPTS = 10;

/** The time before the next attempt, in milliseconds; it doubles. */
const RETRY_MS = 100;

/** The longest time between two attempts, in milliseconds: an attempt is one call of the system. */
const MAX_RETRY_MS = 5_000;

/**
 * Attempts before which garbage is collected: a listener that this process closed holds its port
 * until then. Afterwards the port is that of another process.
 */
const COLLECTING_ATTEMPTS = 15;

/** Buffers that are allocated before an attempt: the collector works in small steps. */
const COLLECTING_ROUNDS = 10;

/** The time between two buffers, in milliseconds. */
const COLLECTING_MS = 5;

/** A buffer, in bytes: enough for the collector to begin. It is never touched, and so takes no memory. */
const COLLECTING_BYTES = 67_108_864;

/** What a server that listens is told, beside its address. */
export interface ListenInfo {
  /** The URL of WebTransport; empty if it is off. */
  readonly webTransportUrl: string;
  /**
   * Why WebTransport is off, where it was not turned off. With a `Deno.errors.AddrInUse` the port is
   * tried again for as long as the server lives.
   */
  readonly webTransportError: Error | undefined;
}

/** An engine of WebTransport that counts no handshakes. */
const NO_HANDSHAKES: QuicHandshakeStats = { pending: 0, ignored: 0, replaced: 0, tooSlow: 0 };

/** How many connections there may be on UDP, and on TCP where these are counted; what a client may send ahead. */
export type ConnectionLimits =
  & Pick<WebTransportServeOptions, "flowControl" | "maxConnections" | "maxConnectionsPerAddress">
  & Pick<ListenWebTransportOptions, "unreadStreams">;

/** How and where to listen. */
export interface ListeningOptions extends OriginRules {
  /** TCP port; 0 takes one that is free on both. */
  readonly port: number;
  /** Address. */
  readonly hostname: string;
  /** Certificate; development without one. */
  readonly tls: Certificate | undefined;
  /** How WebTransport is offered. */
  readonly webTransport: boolean | WebTransportServeOptions | undefined;
  /** What listens on TCP, in place of the runtime's own server. */
  readonly webSocket: WebSocketHost | undefined;
  /** Whether other processes may listen on the TCP port. */
  readonly reusePort: boolean;
  /** Bounds of connections, where WebTransport has none of its own. */
  readonly connectionLimits: ConnectionLimits;
  /** Who takes raw QUIC beside WebTransport. */
  readonly quic: RawQuicOptions | undefined;
  /** Told where the server listens, in place of a line that is printed. */
  readonly onListen: ((address: Deno.NetAddr, info: ListenInfo) => void) | undefined;
}

/** Who answers what comes in. */
export interface ListeningHandlers {
  /** Answers an HTTP request. */
  fetch(
    request: Request,
    info: { readonly remoteAddr: Deno.NetAddr },
  ): Response | Promise<Response>;
  /** Answers a request for a WebTransport session. */
  take(request: WebTransportRequest, place: PagePlace): Promise<void>;
}

/** Listens, from its construction to its close. */
export class Listening {
  readonly #options: ListeningOptions;
  readonly #handlers: ListeningHandlers;
  readonly #closings: Promise<void>[] = []; // At most `MAX_ATTEMPTS`, and the last one.
  #http: HttpListener;
  #webTransport: WebTransportHalf | undefined;
  #error: Error | undefined;
  /** The certificate that was rotated in before there was a UDP port. */
  #certificate: Certificate | undefined;
  #retrying: Promise<void> | undefined;
  #isStopped = false;
  /** Ends the wait for the next attempt. */
  #endWait: (() => void) | undefined;

  /**
   * Listens. A UDP port that is taken is tried again until the server stops.
   *
   * @throws {Error} If that is impossible over TCP, or over UDP where WebTransport has options.
   */
  constructor(options: ListeningOptions, handlers: ListeningHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    const webTransport = webTransportOptions(options.webTransport);
    this.#http = this.#serve();
    if (webTransport === undefined) return;
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

  /** Where WebSocket listens. */
  get address(): Deno.NetAddr {
    return this.#http.addr;
  }

  /** The URL of WebSocket, for clients on this machine. */
  get url(): string {
    return `${this.#options.tls === undefined ? "ws" : "wss"}://${this.#localHost}/`;
  }

  /** WebTransport, unless it is off. */
  get webTransport(): WebTransportHalf | undefined {
    return this.#webTransport;
  }

  /** Counters of WebTransport; `undefined` if it is off. */
  get stats(): WebTransportStats | undefined {
    const half = this.#webTransport;
    if (half === undefined && this.#retrying === undefined) return undefined;
    return { isListening: half !== undefined, handshakes: half?.handshakes ?? NO_HANDSHAKES };
  }

  /**
   * Has new WebTransport clients get another certificate, also those of a UDP port to come.
   *
   * @throws {TypeError} If WebTransport is off, or the certificate makes no sense.
   */
  rotate(certificate: Certificate): void {
    if (this.#webTransport !== undefined) return this.#webTransport.rotate(certificate);
    if (this.#retrying === undefined) {
      throw new TypeError("Cannot rotate certificate: WebTransport must be on, received none");
    }
    checkCertificate(certificate, "rotate certificate: the new one");
    this.#certificate = certificate;
  }

  /** Tells where the server listens: `onListen`, or the terminal. */
  announce(): void {
    const { onListen } = this.#options;
    const webTransportUrl = this.#webTransport?.url ?? "";
    const info = { webTransportUrl, webTransportError: this.#error };
    if (onListen !== undefined) return onListen(this.address, info);
    const { address: { hostname, port } } = this;
    const scheme = this.#options.tls === undefined ? "http" : "https";
    const local = `${scheme}://${this.#localHost}/`;
    const all = isAnyAddress(hostname)
      ? `${scheme}://${hostOf(hostname)}:${port}/ (${local})`
      : local;
    const too = webTransportUrl === "" ? "" : `, WebTransport on ${webTransportUrl}`;
    print(`Listening on ${all}${too}`);
    if (this.#error === undefined) return;
    const again = this.#retrying === undefined ? "" : "; it is tried again until it is free";
    print(`WebTransport is off: ${this.#error.message}${again}`);
  }

  /** Takes no new WebTransport sessions. */
  stop(): void {
    this.#isStopped = true;
    this.#endWait?.();
    this.#webTransport?.stop();
  }

  /** Stops listening, and ends what is left. */
  async close(): Promise<void> {
    this.#isStopped = true;
    this.#endWait?.();
    this.#closings.push(this.#http.shutdown());
    await Promise.all([...this.#closings, this.#retrying, this.#webTransport?.close()]);
  }

  get #localHost(): string {
    const { hostname, port } = this.address;
    return `${hostOf(isAnyAddress(hostname) ? "localhost" : hostname)}:${port}`;
  }

  #serve(): HttpListener {
    const { port, hostname, tls, webSocket, reusePort, connectionLimits } = this.#options;
    const answer: ListeningHandlers["fetch"] = (request, info) =>
      this.#wellKnown(request) ?? this.#handlers.fetch(request, info);
    if (webSocket !== undefined) {
      return webSocket.listen({ ...connectionLimits, port, hostname, tls }, answer);
    }
    return listenAt({ hostname, port, transport: "TCP" }, () => {
      return Deno.serve({ port, hostname, reusePort, ...tls, onListen() {} }, answer);
    });
  }

  /** Finds a port that is free over both, if it may be any. */
  #offer(options: WebTransportServeOptions): WebTransportHalf {
    const isAnyPort = this.#isAnyPort(options);
    for (let attempt = 1;; attempt++) {
      try {
        return this.#half(options);
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

  /** Binds the UDP port once it is free: a predecessor drains, or its listener is not collected yet. */
  async #retry(options: WebTransportServeOptions): Promise<void> {
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
        this.#webTransport = this.#half(certificate ? { ...options, certificate } : options);
        this.#error = undefined;
        return this.#announceWebTransport();
      } catch (error) {
        if (!isTaken(error)) {
          this.#retrying = undefined;
          return printError("WebTransport stays off", error);
        }
      }
    }
  }

  /** Waits; resolves to true as soon as the server stops. */
  #stopsWithin(ms: number): Promise<boolean> {
    if (this.#isStopped) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      this.#endWait = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }

  /** Tells that WebTransport listens, after all. */
  #announceWebTransport(): void {
    const { onListen } = this.#options;
    if (onListen === undefined) return print(`WebTransport on ${this.#webTransport!.url}`);
    try {
      this.announce();
    } catch (error) {
      printError("onListen failed", error);
    }
  }

  #half(options: WebTransportServeOptions): WebTransportHalf {
    const { webTransport, tls, connectionLimits, quic } = this.#options;
    const { port, hostname } = this.address;
    const half: WebTransportHalf = new WebTransportHalf({
      options: { ...connectionLimits, ...options },
      port,
      hostname,
      tls,
      // Nobody who left it to the server is asked a second time.
      mayPrompt: typeof webTransport === "object",
      quic,
      unreadStreams: connectionLimits.unreadStreams,
      take: (request) => {
        const webTransportPort = half.address.port;
        return this.#handlers.take(request, {
          port,
          webTransportPort,
          isDevelopment: tls === undefined,
          hidesRequests: half.hidesRequests,
        });
      },
    });
    return half;
  }

  #wellKnown(request: Request): Response | undefined {
    const { tls, webTransport } = this.#options;
    if (this.#webTransport === undefined || tls !== undefined) return undefined;
    const { wellKnown = true } = typeof webTransport === "object" ? webTransport : {};
    return wellKnown ? answerWellKnown(request, this.#webTransport, this.#options) : undefined;
  }
}

function isTaken(error: unknown): boolean {
  return error instanceof Deno.errors.AddrInUse;
}

/**
 * Presses the runtime to collect its garbage, by a buffer more in `pressure`. A socket of QUIC goes
 * back to the system with it alone, and an idle process allocates too little. Buffers that are not
 * kept would be freed by themselves, without a look at anything older.
 */
function urgeCollection(pressure: ArrayBuffer[]): void {
  try {
    pressure.push(new ArrayBuffer(COLLECTING_BYTES));
  } catch {
    // There is no address space for it: the collector runs anyway.
  }
}

function print(line: string): void {
  // As the runtime does, where nobody else is told: not where a program's output goes.
  // deno-lint-ignore no-console
  console.error(line);
}
