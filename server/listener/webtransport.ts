/**
 * WebTransport of a listening server: its UDP socket, its certificate and the renewal, its
 * requests, and the well-known resource by which clients find it in development.
 */
import {
  BUILTIN_ENGINE,
  type WebTransportServeOptions,
  type WebTransportSource,
} from "./webtransport_options.ts";
import { UnsupportedError } from "../../errors.ts";
import { certificateHashes, type Sha256Hash } from "../../transport/certificate/certificate.ts";
import { isDeno } from "../../base/platform.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import { SKEIN_PROTOCOL } from "../../session/session.ts";
import { DevRenewal } from "../../transport/certificate/dev_certificate.ts";
import { listenNativeWebTransport } from "../../transport/native/server.ts";
import {
  type Certificate,
  listenWebTransport,
  type ListenWebTransportOptions,
  type QuicHandshakeStats,
  type RawQuicOptions,
  type WebTransportRequest,
} from "../../transport/h3/server.ts";
import { isQuicAvailable } from "../../transport/quic/deno_quic.ts";
import { isOriginAllowed, LOCAL_HOSTS, type OriginRules } from "../../transport/origins.ts";

const ANY_ADDRESS: readonly string[] = ["0.0.0.0", "::", "[::]"];

/** Options of {@linkcode WebTransportSocket}. */
export interface WebTransportSocketOptions {
  readonly runtime: Runtime;
  /** The options of WebTransport itself. */
  readonly options: WebTransportServeOptions;
  /** Address of WebSocket. */
  readonly hostname: string;
  /** Port of WebSocket. */
  readonly port: number;
  /** Certificate of WebSocket; `undefined` in development. */
  readonly tls: Certificate | undefined;
  /** `true` if the runtime may prompt for the permission to listen. */
  readonly mayPrompt: boolean;
  /** Handler of raw QUIC on the same port. */
  readonly quic?: RawQuicOptions | undefined;
  /** All quotas of the server. */
  readonly quotas?: ListenWebTransportOptions["quotas"] | undefined;
  /** Limits of unread streams. */
  readonly unreadStreams?: ListenWebTransportOptions["unreadStreams"] | undefined;
  /** Prints errors that no handler of the application receives. */
  readonly console: ConsoleReport;
  /** Checks whether the client of a request moves from a session of this server. */
  readonly isSuccessor: (request: WebTransportRequest) => boolean;
  /** Responds to a request. Errors are printed. */
  readonly take: (request: WebTransportRequest) => void | Promise<void>;
}

/** The UDP socket of a server, which listens for WebTransport. */
export class WebTransportSocket implements AsyncDisposable {
  /**
   * `true` if the engine provides only the URL of a request, so that the URL must include the
   * protocol.
   */
  readonly hidesRequests: boolean;
  readonly #listener: WebTransportSource;
  readonly #console: ConsoleReport;
  readonly #take: WebTransportSocketOptions["take"];
  readonly #renewal: DevRenewal | undefined;
  readonly #loop: Promise<void>;
  #hashes: readonly Sha256Hash[];
  #isClosed = false;

  /**
   * Starts listening.
   *
   * @throws {UnsupportedError} If the runtime has no QUIC, or if it lacks the permission and must
   * not prompt for it.
   * @throws {Deno.errors.AddrInUse} If the port is in use.
   */
  constructor(
    {
      runtime,
      options,
      hostname: tcpHostname,
      port: tcpPort,
      tls,
      mayPrompt,
      quic,
      quotas,
      unreadStreams,
      console,
      isSuccessor,
      take,
    }: WebTransportSocketOptions,
  ) {
    const { engine = listenWebTransport, certificate = tls, cacheFolder } = options;
    const {
      port = tcpPort,
      hostname = tls === undefined ? loopback(tcpHostname) : tcpHostname,
    } = options;
    this.hidesRequests = engine === BUILTIN_ENGINE;
    const listen = engine === BUILTIN_ENGINE ? listenNativeWebTransport : engine;
    if (this.hidesRequests || listen === listenWebTransport) {
      checkRuntime(`${bracketed(hostname)}:${port}`, mayPrompt);
    }
    this.#console = console;
    this.#take = take;
    if (certificate === undefined) {
      const dev = { runtime, cacheFolder };
      this.#renewal = new DevRenewal(dev, (renewed) => this.#replace(renewed));
    }
    const { cert, key } = certificate ?? this.#renewal!.first;
    try {
      this.#listener = listen({
        ...limitsOf(options),
        runtime,
        quic,
        quotas,
        unreadStreams,
        isSuccessor,
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

  /** Address of the UDP socket. */
  get address(): Deno.NetAddr {
    return this.#listener.address;
  }

  /** Counters of handshakes, if the engine has them. */
  get handshakes(): QuicHandshakeStats | undefined {
    return this.#listener.handshakes;
  }

  /** The URL for clients on this machine. */
  get url(): string {
    const { hostname, port } = this.address;
    const url = `https://${bracketed(isAnyAddress(hostname) ? "localhost" : hostname)}:${port}/`;
    return this.hidesRequests ? `${url}?protocol=${SKEIN_PROTOCOL}` : url;
  }

  /**
   * Hashes by which a client can trust the certificate; empty if a certificate authority must have
   * signed it.
   */
  get hashes(): readonly Sha256Hash[] {
    return this.#hashes;
  }

  /** Sets the certificate for new clients. Open sessions are not affected. */
  rotate(certificate: Certificate): void {
    this.#replace(certificate);
    // An application that provides a certificate also renews it.
    this.#renewal?.[Symbol.dispose]();
  }

  /** Rejects new sessions. Idempotent. */
  stop(): void {
    this.#listener.stop();
  }

  /** Stops listening, and closes every connection. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#renewal?.[Symbol.dispose]();
    await this.#listener.close();
    await this.#loop;
  }

  /** Closes the socket; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #replace({ cert, key }: Certificate): void {
    this.#listener.rotate({ cert, key });
    this.#hashes = certificateHashes(cert);
  }

  async #run(): Promise<void> {
    try {
      // Not awaited, because one request may wait for a database.
      for await (const request of this.#listener) void this.#respond(request);
    } catch (error) {
      if (!this.#isClosed) this.#console.failed("WebTransport", error);
    }
  }

  async #respond(request: WebTransportRequest): Promise<void> {
    try {
      await this.#take(request);
    } catch (error) {
      this.#console.failed("A WebTransport request", error);
      try {
        request.reject(500);
      } catch {
        // The request already has a response, or the client left.
      }
    }
  }
}

/** Checks whether an address stands for all addresses of a machine. */
export function isAnyAddress(hostname: string): boolean {
  return ANY_ADDRESS.includes(hostname);
}

/** Formats a name or an address for a URL. */
export function bracketed(hostname: string): string {
  return hostname.includes(":") && !hostname.startsWith("[") ? `[${hostname}]` : hostname;
}

/** A server with a development certificate listens only on this machine. */
function loopback(hostname: string): string {
  return isAnyAddress(hostname) ? "127.0.0.1" : hostname;
}

/** Options for which the listener has defaults. */
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

/** Checks that the runtime can listen. The error says how to fix it. */
function checkRuntime(address: string, mayPrompt: boolean): void {
  if (!isQuicAvailable()) {
    const hint = isDeno
      ? 'start it with --unstable-net, or write "unstable": ["net"] in deno.json'
      : "only Deno has it";
    throw new UnsupportedError(`Cannot listen for WebTransport: this runtime has no QUIC; ${hint}`);
  }
  if (mayPrompt) return;
  const { state } = Deno.permissions.querySync({ name: "net", host: address });
  if (state === "granted") return;
  throw new UnsupportedError(
    `Cannot listen for WebTransport: the permission --allow-net=${address} must be granted`,
  );
}

/** Path of the resource. */
const WELL_KNOWN_PATH = "/.well-known/skein/webtransport";

/** JSON content of the resource. */
interface WellKnown {
  /** The UDP port. */
  readonly port: number;
  /** Address as in a URL, if different from the requested host. */
  readonly hostname?: string;
  /** Hashes of the certificate, in base64. */
  readonly serverCertificateHashes: readonly {
    readonly algorithm: "sha-256";
    readonly value: string;
  }[];
}

/** Checks whether a request is for the resource. */
export function isWellKnown({ method, url }: Pick<Request, "method" | "url">): boolean {
  if (!url.includes(WELL_KNOWN_PATH) || method !== "GET") return false;
  // A peer may send an invalid host, which makes the URL invalid.
  return URL.parse(url)?.pathname === WELL_KNOWN_PATH;
}

/**
 * Responds to programs on this machine and to pages that may connect. All other clients receive the
 * response that a server without this path would send. A foreign name that points to this machine
 * (DNS rebinding) does not count as this machine.
 *
 * @param request A request for the resource; see `isWellKnown`.
 * @param socket The UDP socket. Without one, the status is 204, because a browser reports an error
 * status to its console.
 * @returns The response; `undefined` for other clients.
 */
export function wellKnownResponse(
  request: Request,
  socket: Pick<WebTransportSocket, "address" | "hashes"> | undefined,
  rules: OriginRules,
): Response | undefined {
  const { headers } = request;
  const asked = URL.parse(`http://${headers.get("host")}`);
  if (asked === null || !LOCAL_HOSTS.includes(asked.hostname)) return undefined;
  if (!isOriginAllowed(headers, rules)) return undefined;
  const origin = headers.get("origin");
  const fields = {
    "cache-control": "no-store",
    vary: "origin",
    ...(origin === null ? {} : { "access-control-allow-origin": origin }),
  };
  return socket === undefined
    ? new Response(null, { status: 204, headers: fields })
    : Response.json(wellKnownOf(socket), { headers: fields });
}

function wellKnownOf(
  { address, hashes }: Pick<WebTransportSocket, "address" | "hashes">,
): WellKnown {
  const { hostname, port } = address;
  return {
    port,
    hostname: isAnyAddress(hostname) ? undefined : bracketed(hostname),
    serverCertificateHashes: hashes.map(({ algorithm, value }) => ({
      algorithm,
      value: value.toBase64(),
    })),
  };
}
