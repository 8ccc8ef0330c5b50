/**
 * The WebTransport half of a server that listens: its certificate, which is
 * renewed while the server runs, and its requests.
 *
 * @module
 */
import {
  BUILTIN_ENGINE,
  type WebTransportServeOptions,
  type WebTransportSource,
} from "./webtransport_options.ts";
import { UnsupportedError } from "../errors.ts";
import { certificateHashes, type Sha256Hash } from "../transport/certificate/certificate.ts";
import { SKEIN_PROTOCOL } from "../session/session.ts";
import { DevRenewal } from "../transport/certificate/dev_certificate.ts";
import { listenNativeWebTransport } from "../transport/native/server.ts";
import {
  type Certificate,
  isWebTransportAvailable,
  listenWebTransport,
  type ListenWebTransportOptions,
  type QuicHandshakeStats,
  type RawQuicOptions,
  type WebTransportRequest,
} from "../transport/h3/server.ts";

const ANY_ADDRESS: readonly string[] = ["0.0.0.0", "::", "[::]"];

/** What a {@linkcode WebTransportHalf} takes from the other half. */
export interface WebTransportHalfOptions {
  /** The options of WebTransport itself. */
  readonly options: WebTransportServeOptions;
  /** Address of the other half. */
  readonly hostname: string;
  /** Port of the other half. */
  readonly port: number;
  /** Certificate of the other half; without one this is development. */
  readonly tls: Certificate | undefined;
  /** Whether the user may be asked for the permission to listen. */
  readonly mayPrompt: boolean;
  /** Who takes raw QUIC on the same port. */
  readonly quic?: RawQuicOptions | undefined;
  /** Bounds of streams that are not read. */
  readonly unreadStreams?: ListenWebTransportOptions["unreadStreams"];
  /** Answers a request. What it throws is printed. */
  readonly take: (request: WebTransportRequest) => Promise<void>;
}

/** Listens for WebTransport. */
export class WebTransportHalf implements AsyncDisposable {
  /** True if the engine shows the URL of a request alone, which names the protocol then. */
  readonly hidesRequests: boolean;
  readonly #listener: WebTransportSource;
  readonly #take: WebTransportHalfOptions["take"];
  readonly #renewal: DevRenewal | undefined;
  readonly #loop: Promise<void>;
  #hashes: readonly Sha256Hash[];
  #isClosed = false;

  /**
   * Listens.
   *
   * @throws {UnsupportedError} If the runtime has no QUIC, or may not listen and nobody may be asked.
   * @throws {Deno.errors.AddrInUse} If the port is taken.
   */
  constructor(
    {
      options,
      hostname: tcpHostname,
      port: tcpPort,
      tls,
      mayPrompt,
      quic,
      unreadStreams,
      take,
    }: WebTransportHalfOptions,
  ) {
    const { engine = listenWebTransport, certificate = tls, names, cacheFolder } = options;
    const {
      port = tcpPort,
      hostname = tls === undefined ? loopback(tcpHostname) : tcpHostname,
    } = options;
    this.hidesRequests = engine === BUILTIN_ENGINE;
    const listen = engine === BUILTIN_ENGINE ? listenNativeWebTransport : engine;
    if (this.hidesRequests || listen === listenWebTransport) {
      checkRuntime(`${hostOf(hostname)}:${port}`, mayPrompt);
    }
    this.#take = take;
    if (certificate === undefined) {
      const dev = {
        ...(names === undefined ? {} : { names }),
        ...(cacheFolder === undefined ? {} : { cacheFolder }),
      };
      this.#renewal = new DevRenewal(dev, (renewed) => this.#replace(renewed));
    }
    const { cert, key } = certificate ?? this.#renewal!.first;
    try {
      this.#listener = listen({
        ...limitsOf(options),
        ...(quic && { quic }),
        ...(unreadStreams && { unreadStreams }),
        cert,
        key,
        port,
        hostname,
      });
    } catch (error) {
      this.#renewal?.[Symbol.dispose]();
      throw error;
    }
    this.#hashes = certificateHashes(cert);
    this.#loop = this.#run();
  }

  /** Where it listens. */
  get address(): Deno.NetAddr {
    return this.#listener.address;
  }

  /** Counters of handshakes, where the engine has them. */
  get handshakes(): QuicHandshakeStats | undefined {
    return this.#listener.handshakes;
  }

  /** The URL for clients on this machine. */
  get url(): string {
    const { hostname, port } = this.address;
    const url = `https://${hostOf(isAnyAddress(hostname) ? "localhost" : hostname)}:${port}/`;
    return this.hidesRequests ? `${url}?protocol=${SKEIN_PROTOCOL}` : url;
  }

  /** By which a client may trust the certificate; none if that takes an authority. */
  get hashes(): readonly Sha256Hash[] {
    return this.#hashes;
  }

  /** New clients get this certificate; sessions stay as they are. */
  rotate(certificate: Certificate): void {
    this.#replace(certificate);
    // Whoever brings a certificate renews it, too.
    this.#renewal?.[Symbol.dispose]();
  }

  /** Takes nobody any more. Idempotent. */
  stop(): void {
    this.#listener.stop();
  }

  /** Ends it, and every connection. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#renewal?.[Symbol.dispose]();
    await this.#listener.close();
    await this.#loop;
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #replace({ cert, key }: Certificate): void {
    this.#listener.rotate({ cert, key });
    this.#hashes = certificateHashes(cert);
  }

  async #run(): Promise<void> {
    try {
      // Each is answered in its own time: one may wait for a database.
      for await (const request of this.#listener) void this.#answer(request);
    } catch (error) {
      if (!this.#isClosed) printError("WebTransport ended", error);
    }
  }

  async #answer(request: WebTransportRequest): Promise<void> {
    try {
      await this.#take(request);
    } catch (error) {
      // As the HTTP server does with what a handler throws.
      printError("A WebTransport request failed", error);
      try {
        request.refuse(500);
      } catch {
        // It had its answer, or left.
      }
    }
  }
}

/** Tells whether an address stands for all of a machine's. */
export function isAnyAddress(hostname: string): boolean {
  return ANY_ADDRESS.includes(hostname);
}

/** Writes a name or an address as URLs have it. */
export function hostOf(hostname: string): string {
  return hostname.includes(":") && !hostname.startsWith("[") ? `[${hostname}]` : hostname;
}

/** A development certificate is for this machine, and so is its server. */
function loopback(hostname: string): string {
  return isAnyAddress(hostname) ? "127.0.0.1" : hostname;
}

/** What the listener has defaults for. */
const LIMITS = [
  "flowControl",
  "idleTimeoutMs",
  "keepAliveIntervalMs",
  "maxConnections",
  "maxConnectionsPerAddress",
  "maxHandshakes",
  "maxSessionsPerConnection",
  "maxStreams",
] as const;

function limitsOf(options: WebTransportServeOptions): Partial<ListenWebTransportOptions> {
  const given = LIMITS.filter((name) => options[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, options[name]]));
}

/** Says what is missing, in words that tell what to do. */
function checkRuntime(address: string, mayPrompt: boolean): void {
  if (!isWebTransportAvailable()) {
    throw new UnsupportedError(
      'this runtime has no QUIC; start it with --unstable-net, or write "unstable": ["net"] in deno.json',
    );
  }
  if (mayPrompt) return;
  const { state } = Deno.permissions.querySync({ name: "net", host: address });
  if (state === "granted") return;
  throw new UnsupportedError(`it takes the permission to listen, --allow-net=${address}`);
}

/** Prints a failure that no handler is told of. */
export function printError(what: string, error: unknown): void {
  // deno-lint-ignore no-console
  console.error(`${what}:`, error);
}
