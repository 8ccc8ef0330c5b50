/** A MoQ server: WebTransport, raw QUIC and WebSocket on one port number. */
import { optionsFor } from "../../base/options/options.ts";
import { MOQ_LISTEN, MOQ_SERVER } from "./server_options.ts";
import { checkOptions, TIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import {
  type Feature,
  type FeatureHost,
  Mount,
  type Mounted,
  type RequestHead,
} from "../../server/feature.ts";
import type { SocketHost } from "../../server/server_core.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { DevCertificate } from "../../transport/certificate/dev_certificate.ts";
import type { Certificate } from "../../transport/certificate/certificate.ts";
import type { Connection } from "../../transport/connection.ts";
import type { WebTransportRequest } from "../../transport/h3/server.ts";
import type { QuicConnection } from "../../transport/quic/connection.ts";
import {
  acceptWebSocket,
  findUpgradeFault,
  isWebSocketUpgrade,
  offeredProtocols,
} from "../../transport/websocket/server.ts";
import type { MoqSession } from "../session/session.ts";
import { MOQ_LITE_SESSION_CODES } from "../wire/errors.ts";
import {
  checkVersions,
  chooseWebSocket,
  chooseWebTransport,
  DEFAULT_VERSIONS,
  type MoqVersion,
  protocolsOf,
} from "../wire/versions.ts";
import { MoqAdmission, MoqRejection, moqRejection, type SessionLease } from "./admission.ts";
import { offersMoq, requestsHash } from "./server_options.ts";
import type { ListenMoqOptions, MoqClientInfo, MoqServerOptions } from "./server_options.ts";
import { Sessions } from "./sessions.ts";
import { flowControlOf, MoqSockets, socketsOptions } from "./sockets.ts";

/**
 * A MoQ server that listens by itself, or is mounted in another server.
 *
 * - **Versions:** the ALPN name (over raw QUIC) or the subprotocol (on the other transports)
 *   selects the version. Clients without either send the version in their first message. If there
 *   is no common version, a WebSocket is rejected with 400, and a handshake of raw QUIC fails.
 *   Otherwise the session is closed with 0x15, or with 0x12 if the first message is gomoqt's.
 * - **Robust:** a client that violates the protocol, or a handler that throws, only closes its own
 *   session.
 * - **Bounded:** the numbers of sessions, of sessions per address, and of concurrent setups are
 *   limited.
 *
 * As a feature of `serve`, it shares the server's ports: it receives clients that offer one of its
 * protocols or request its path, and all clients over raw QUIC. It has its own rules, limits and
 * sessions, and is drained and closed together with the server. Over UDP, a client may have 128
 * bidirectional streams open, one per subscription, unless `maxStreams` of `webTransport` is larger.
 *
 * @example With messages on the same server
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { dialMoq, MoqServer, TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/greeting", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("hello"));
 *   await group.close();
 * });
 * const moq = new MoqServer({
 *   mux,
 *   authorize: (_session, _path, action) => action !== "publish",
 * });
 * await using server = serve({ port: 0, onListen() {}, features: [moq] });
 *
 * await using session = await dial(server.url);
 * await using media = await dialMoq(moq.webSocketUrl);
 * const track = await media.subscribe("/greeting", "text");
 * for await (const group of track) {
 *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "hello");
 * }
 * assertEquals(session.state, "connected");
 * ```
 */
export class MoqServer implements Feature, AsyncDisposable {
  /** Name of the feature. */
  readonly name = "moq";
  /**
   * Supported protocols of raw QUIC, in order of preference, for `listenQuic` and similar calls.
   */
  readonly protocols: readonly string[];

  readonly #runtime: Runtime;
  readonly #options: MoqServerOptions;
  readonly #versions: readonly MoqVersion[];
  readonly #admission: MoqAdmission;
  readonly #sessions: Sessions;
  #sockets: MoqSockets | undefined;
  readonly #mount = new Mount("new MoqServer()");
  #removeAbortListener: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /**
   * Creates a server that does not listen: pass requests and connections to {@linkcode fetch},
   * {@linkcode take} and {@linkcode accept}.
   *
   * @param options As for `listenMoq()`, without those for listening.
   * @throws {TypeError} If a version, the path or an origin is invalid.
   * @throws {RangeError} If a limit is not a positive integer, or `bitrate` is invalid.
   */
  constructor(options: MoqServerOptions = {}) {
    checkOptions("serve MoQ", options, MOQ_SERVER);
    const { runtime = platformRuntime(), versions = DEFAULT_VERSIONS } = options;
    checkVersions(versions, "serve MoQ");
    this.#runtime = runtime;
    this.#options = options;
    this.#versions = versions;
    const admission = this.#admission = new MoqAdmission(runtime, options);
    this.#sessions = new Sessions(runtime, options, { versions, admission });
    this.protocols = protocolsOf(versions, "quic");
  }

  /**
   * The address on which the server listens; `undefined` if it is mounted in a server that reports
   * none.
   */
  get address(): Deno.NetAddr | undefined {
    return this.#host?.address;
  }

  /** The WebTransport URL for clients on this machine; empty if the transport is off. */
  get url(): string {
    return this.#host?.urlOf("webtransport") ?? "";
  }

  /** The raw QUIC URL for clients on this machine; empty if the transport is off. */
  get quicUrl(): string {
    return this.#host?.urlOf("quic") ?? "";
  }

  /** The WebSocket URL for clients on this machine; empty if the transport is off. */
  get webSocketUrl(): string {
    return this.#host?.urlOf("websocket") ?? "";
  }

  /**
   * Hashes with which clients can trust the certificate without an authority, for
   * `serverCertificateHashes`. Empty for a certificate that browsers do not accept by hash.
   */
  get certificateHashes(): DevCertificate["hashes"] {
    return this.#host?.hashes ?? [];
  }

  /** Open sessions. */
  get sessions(): ReadonlySet<MoqSession> {
    return this.#sessions.open;
  }

  /**
   * Responds to an HTTP request: a WebSocket upgrade with a MoQ protocol becomes a session. Can be
   * mounted in `Deno.serve`, Hono, oak and any other server that passes the `Request` on.
   *
   * @param request The request as the runtime passed it, because an upgrade needs the original
   * object.
   * @param info Facts about the request, including the client's address.
   * @returns The response, which MUST be returned to the HTTP server unchanged.
   */
  readonly fetch = (
    request: Request,
    info: RequestInfo = {},
  ): Response | Promise<Response> => {
    if (isWebSocketUpgrade(request)) {
      const fault = findUpgradeFault(request);
      return fault === undefined
        ? this.#upgrade(request, info)
        : new Response(fault.message, fault);
    }
    if (requestsHash(request, this.#host)) return this.#respondWithHash(request);
    const { fetch } = this.#options;
    return fetch?.(request, info) ?? new Response("Expected a WebSocket upgrade", {
      status: 426,
      headers: { connection: "upgrade", upgrade: "websocket" },
    });
  };

  /**
   * Responds to a request for a WebTransport session. Never rejects.
   *
   * @param request The request, which must not have been handled yet.
   */
  async take(request: WebTransportRequest): Promise<void> {
    try {
      const { url, headers, remoteAddress } = request;
      const address = this.#admission.addressOf(headers, { remoteAddr: remoteAddress });
      const client = { url, headers, address, transport: "webtransport" };
      const protocol = chooseWebTransport(request.protocols, this.#versions);
      const lease = await this.#admission.admit(client, protocol ?? "");
      const connection = accepted(lease, () => request.accept(protocol ? { protocol } : {}));
      release(connection, lease);
      if (protocol === undefined) return rejectVersion(connection, request.protocols);
      await this.#sessions.begin(connection, client, { lease, isAdmitted: true });
    } catch (error) {
      try {
        request.reject(this.#rejected(error).status);
      } catch {
        // The request was already handled, or the client left.
      }
    }
  }

  /**
   * Starts a session on a connection of any transport, such as raw QUIC. Never rejects.
   *
   * @param connection A connection with streams and an agreed protocol.
   * @param client Facts about the client, including its address.
   * @returns The session; `undefined` if the client was rejected or the setup failed, and the
   * connection was closed.
   */
  async accept(
    connection: Connection,
    client: Partial<MoqClientInfo> = {},
  ): Promise<MoqSession | undefined> {
    const { transport } = connection;
    const { remoteAddress, serverName } = connection as Partial<QuicConnection>;
    const {
      url = this.#quicUrlOf(serverName) ?? `${transport}:`,
      headers = new Headers(),
      address = remoteAddress?.hostname,
    } = client;
    let lease: SessionLease;
    try {
      lease = this.#admission.take(address);
    } catch (error) {
      const { closeCode, message: reason } = moqRejection(error);
      connection.close({ closeCode, reason });
      return undefined;
    }
    release(connection, lease);
    const about = { url, headers, address, transport };
    return await this.#sessions.begin(connection, about, { lease, isAdmitted: false });
  }

  /**
   * Rejects new sessions, asks open ones to leave, closes the remaining ones, and stops listening.
   * Sessions whose version and transport have no message for this are closed after the same time.
   *
   * @param options The URI to which clients should move, by default that of their session; and the
   * time after which the remaining sessions are closed, in milliseconds, 10,000 by default.
   * @returns The number of sessions that left, and of sessions that were closed because they did
   * not leave in time.
   * @throws {RangeError} If the time is negative, or not a number.
   */
  async drain(
    options: { readonly uri?: string | undefined; readonly timeoutMs?: number | undefined } = {},
  ): Promise<{ readonly left: number; readonly cut: number }> {
    checkOptions("drain", options, { timeoutMs: TIME, uri: "string" });
    const { uri = "", timeoutMs = 10_000 } = options;
    // The sockets stay open until the end: stopping them would send the drain of HTTP/3, which
    // carries no URI.
    this.#admission.close();
    const report = await this.#sessions.drain({ uri, timeoutMs });
    await this.close();
    return report;
  }

  /** Closes all sessions, and stops listening. Idempotent. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Closes the server; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Sets the certificate for new clients over UDP. Open sessions and TCP keep the old one. The
   * server renews a development certificate by itself.
   *
   * @param certificate The certificate and its key, in PEM.
   * @throws {TypeError} If the server does not listen on UDP, or the certificate is invalid.
   */
  rotateCertificate(certificate: Certificate): void {
    if (this.#sockets === undefined) {
      throw new TypeError("Cannot rotate certificate: the server must listen");
    }
    this.#sockets.rotate(certificate);
  }

  /**
   * Mounts this server in another server, whose ports, URLs and quotas it uses. Called by `serve()`
   * and `createServer()`.
   *
   * @param host The server that forwards requests and connections.
   * @returns The additions to that server.
   * @throws {TypeError} If this server listens by itself, or is mounted already.
   */
  mount(host: FeatureHost): Mounted {
    if (this.#sockets !== undefined) {
      throw new TypeError(
        "Cannot mount listenMoq(): it listens by itself; write serve({ features: [new MoqServer()] })",
      );
    }
    this.#mount.set(host);
    const { core } = host;
    this.#admission.countBy(core.guardParts.quotas);
    return {
      http: {
        wants: (head) => this.#wants(head),
        fetch: this.fetch,
        webTransport: (request) => this.take(request),
      },
      ...(this.protocols.length > 0 && {
        quic: { protocols: this.protocols, accept: (connection) => this.accept(connection) },
      }),
      // The relay that has the mux keeps quotas of its own.
      quotaStats: () => this.#options.mux?.quotas?.stats ?? {},
      drain: ({ withinMs }) => this.drain({ timeoutMs: withinMs }),
      // A server that could not start has accepted no sessions, and the next one may mount this one.
      close: () => core.hasFailed() ? Promise.resolve() : this.close(),
    };
  }

  /**
   * Checks whether a request on a shared port is for this server: the client offers a MoQ version by
   * name, or requests the path of this server's sessions or the hash of the certificate.
   */
  #wants(asked: RequestHead): boolean {
    if (requestsHash(asked, this.#host) || offersMoq(asked)) return true;
    const isSession = asked.protocols !== undefined || asked.headers.has("upgrade");
    const { path } = this.#options;
    if (!isSession || path === undefined) return false;
    return this.#admission.matches(URL.parse(asked.url)?.pathname ?? "");
  }

  /** Creates a listening server; called by {@linkcode listenMoq}. */
  static listen(options: ListenMoqOptions): MoqServer {
    checkOptions("listen", options, MOQ_LISTEN);
    const { signal } = options;
    signal?.throwIfAborted();
    const server = new MoqServer(optionsFor<MoqServerOptions>(MOQ_SERVER, options));
    server.#sockets = new MoqSockets(socketsOptions(server.#runtime, options, server.protocols), {
      fetch: server.fetch,
      take: (request) => server.take(request),
      async accept(connection) {
        await server.accept(connection);
      },
    });
    const onAbort = () => void server.close();
    signal?.addEventListener("abort", onAbort, { once: true });
    server.#removeAbortListener = () => signal?.removeEventListener("abort", onAbort);
    return server;
  }

  /** The sockets; `undefined` before the server listens or is mounted. */
  get #host(): SocketHost | undefined {
    return this.#sockets ?? (this.#mount.isSet ? this.#mount.host.core.sockets : undefined);
  }

  /** Returns the URL of a client over raw QUIC, as far as known from the handshake. */
  #quicUrlOf(serverName: string | undefined): string | undefined {
    const { quicUrl } = this;
    const parsed = quicUrl === "" ? null : URL.parse(quicUrl);
    return parsed === null ? undefined : `moqt://${serverName ?? parsed.hostname}:${parsed.port}`;
  }

  async #upgrade(request: Request, info: RequestInfo): Promise<Response> {
    try {
      // After an upgrade the runtime can no longer read the request.
      const { url } = request;
      const headers = new Headers(request.headers);
      const address = this.#admission.addressOf(headers, info);
      const client = { url, headers, address, transport: "websocket" };
      const protocol = chooseWebSocket(offeredProtocols(request), this.#versions);
      if (protocol === undefined) {
        throw new MoqRejection(
          400,
          "There is no common MoQ subprotocol: offer for example qmux-01.moq-lite-04",
        );
      }
      const lease = await this.#admission.admit(client, protocol.replace(/^[^.]*\.?/, ""));
      const { idleTimeoutMs = 30_000 } = this.#options;
      const flowControl = flowControlOf(this.#options);
      const accept = this.#host?.webSocketEngine ?? acceptWebSocket;
      const { connection, response } = accepted(
        lease,
        () =>
          accept(request, { runtime: this.#runtime, protocol, idleTimeoutMs, lease, flowControl }),
      );
      void this.#sessions.begin(connection, client, { lease, isAdmitted: true });
      return response;
    } catch (error) {
      const { status, message } = this.#rejected(error);
      return new Response(message, {
        status,
        headers: status === 429 || status === 503 ? { "retry-after": "5" } : {},
      });
    }
  }

  /** Converts an error to a rejection, and reports it unless it already is one. */
  #rejected(error: unknown): MoqRejection {
    if (error instanceof MoqRejection) return error;
    this.#admission.report(error);
    return new MoqRejection(503, "The server failed", { cause: error });
  }

  /**
   * Responds with the hash of the development certificate. Pages of allowed origins may read it.
   */
  #respondWithHash({ headers }: Request): Response {
    const origin = headers.get("origin");
    const mayRead = origin !== null && this.#admission.isOriginAllowed(headers);
    return new Response(this.certificateHashes[0]!.value.toHex(), {
      headers: {
        "cache-control": "no-store",
        vary: "origin",
        ...(mayRead ? { "access-control-allow-origin": origin } : {}),
      },
    });
  }

  async #close(): Promise<void> {
    this.#removeAbortListener?.();
    this.#admission.end();
    this.#sockets?.stop();
    this.#sessions.close();
    await this.#sockets?.close();
  }
}

/**
 * Listens for MoQ sessions: over WebTransport and raw QUIC on one UDP port, and over WebSocket on
 * the TCP port with the same number.
 *
 * @param options Where to listen, and the options of the server.
 * @returns The listening server.
 * @throws {UnsupportedError} If the runtime has no QUIC; the message names the flag that enables
 * it.
 * @throws {Deno.errors.AddrInUse} If the port is in use.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If another option is invalid.
 *
 * @example Over any transport
 * ```ts
 * import { dialMoq, listenMoq, TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/greeting", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("hello"));
 *   await group.close();
 * });
 * await using server = listenMoq({ mux, authorize: (_session, _path, action) => action !== "publish" });
 * const serverCertificateHashes = server.certificateHashes;
 * for (const url of [server.url, server.quicUrl, server.webSocketUrl]) {
 *   await using session = await dialMoq(url, { serverCertificateHashes });
 *   const track = await session.subscribe("/greeting", "text");
 *   for await (const group of track) {
 *     for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "hello");
 *   }
 * }
 * ```
 */
export function listenMoq(options: ListenMoqOptions = {}): MoqServer {
  return MoqServer.listen(options);
}

/** Responds to an admitted client; frees the lease if that fails. */
function accepted<T>(lease: SessionLease, accept: () => T): T {
  try {
    return accept();
  } catch (cause) {
    lease[Symbol.dispose]();
    throw new MoqRejection(400, "The request cannot be handled", { cause });
  }
}

function release(connection: Connection, lease: SessionLease): void {
  const free = () => lease[Symbol.dispose]();
  connection.closed.then(free, free);
}

function rejectVersion(connection: Connection, offered: readonly string[]): void {
  const reason = `There is no common MoQ version: the client offers ${
    offered.join(", ") || "none by name"
  }`;
  connection.close({ closeCode: MOQ_LITE_SESSION_CODES.unsupportedVersion, reason });
}
