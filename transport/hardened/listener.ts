/** An HTTP server on node:http with the interface of `Deno.serve`, limits, and upgrades. */
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  ServerResponse,
} from "node:http";
import { createServer as createSecureServer } from "node:https";
import net, { type Socket } from "node:net";
import { type Duplex, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { UnsupportedError } from "../../errors.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { listenAt } from "../address.ts";
import type { HttpHandler } from "../websocket/server.ts";
import {
  type ConnectionSlot,
  HandshakeLimits,
  type HandshakeLimitsOptions,
} from "./handshake_limits.ts";
import { Liveness } from "./socket.ts";

/** Interval of node:http's checks for slow requests, in milliseconds. */
const CHECK_INTERVAL_MS = 1_000;

/** Requests of one connection that may wait for their answers; few clients pipeline at all. */
const MAX_PIPELINED = 16;

/** Characters of a valid `Host` header: any other character could move the path of the URL. */
const HOST = /^[^\s/?#@\\]+$/;

/**
 * Options with one that the types lack. A request that the callback declines is served as a plain
 * request.
 */
interface Settings extends ServerOptions {
  readonly shouldUpgradeCallback: (message: IncomingMessage) => boolean;
}

/** A requested upgrade. */
export interface Upgrade {
  /** Server that received the request. */
  readonly listener: Listener;
  /** The request. */
  readonly message: IncomingMessage;
  /** Socket of the request. */
  readonly socket: Duplex;
  /** Bytes that arrived behind the request. */
  readonly head: Uint8Array;
  /** True once the socket belongs to a WebSocket. */
  isTaken: boolean;
}

/** Options of a {@linkcode Listener}. */
export interface ListenerOptions {
  /** Clocks and timers of the server. */
  readonly runtime: Runtime;
  /** TCP port; 0 takes a free one. */
  readonly port: number;
  /** Address to listen on. */
  readonly hostname: string;
  /** Certificate and key in PEM; `undefined` listens without TLS. */
  readonly tls: { readonly cert: string; readonly key: string } | undefined;
  /** Limits on connections and handshakes. */
  readonly limits: HandshakeLimitsOptions;
  /** Time from the connection to the end of the first request's head, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** Time for a whole request, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** Time that a connection may wait for its next request, in milliseconds. */
  readonly keepAliveTimeoutMs: number;
  /** Size of a request's head, in bytes. */
  readonly maxHeaderBytes: number;
  /** Time that a shutdown waits for answers, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** Receives each upgrade before the handler answers the request. */
  readonly onUpgrade: (request: Request, upgrade: Upgrade) => void;
}

/** A connection before and after an upgrade. */
interface Peer {
  readonly socket: Socket;
  readonly slot: ConnectionSlot;
  /** Unfinished answers. Bounded by `MAX_PIPELINED`. */
  readonly answers: Set<ServerResponse>;
  /**
   * True once further requests of this connection must not be answered, because the bytes are not
   * trustworthy or too many requests wait.
   */
  isOver: boolean;
}

/** An HTTP server that listens from construction to shutdown. */
export class Listener {
  /** Address that the server listens on. */
  readonly addr: Deno.NetAddr;
  /** Clocks and timers of the server. */
  readonly runtime: Runtime;
  /** Limits and counters of connections. */
  readonly limits: HandshakeLimits;
  /** Liveness checks by idle timeout, of which each server has one. */
  readonly #liveness = new Map<number, Liveness>();
  readonly #options: ListenerOptions;
  readonly #console: ConsoleReport;
  readonly #handler: HttpHandler;
  readonly #server: Server;
  /**
   * Connections by remote address and port, because the socket of TLS and the socket that connected
   * are two objects. Bounded by the limits.
   */
  readonly #peers = new Map<string, Peer>();
  readonly #handshakes: Deadlines<Peer>;
  #closing: Promise<void> | undefined;

  /**
   * Starts listening.
   *
   * @throws {Deno.errors.AddrInUse} If the port is taken.
   * @throws {UnsupportedError} If the runtime cannot listen at once.
   */
  constructor(options: ListenerOptions, handler: HttpHandler) {
    const { runtime, hostname, port, tls, requestTimeoutMs, handshakeTimeoutMs } = options;
    this.runtime = runtime;
    this.#console = new ConsoleReport(runtime);
    this.#options = options;
    this.#handler = handler;
    this.limits = new HandshakeLimits(options.limits);
    this.#handshakes = new Deadlines(runtime, handshakeTimeoutMs, ({ socket }) => {
      this.limits.countLate();
      socket.destroy();
    });
    const settings: Settings = {
      maxHeaderSize: options.maxHeaderBytes,
      headersTimeout: Math.min(handshakeTimeoutMs, requestTimeoutMs),
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: options.keepAliveTimeoutMs,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
      shouldUpgradeCallback: (message) => this.#isUpgrade(message),
    };
    const server = this.#server = tls === undefined
      ? createServer(settings)
      : createSecureServer({ ...settings, ...tls });
    server.on("connection", (socket: Socket) => this.#connected(socket));
    server.on("clientError", refuse);
    // A failure costs one connection, not the process.
    server.on("request", (message, response) => {
      this.#request(message, response).catch(() => response.destroy());
    });
    server.on("upgrade", (message, socket, head) => {
      this.#upgrade(message, socket, head).catch(() => socket.destroy());
    });
    this.addr = bind(server, hostname, port);
  }

  /**
   * Stops listening, and ends every connection; connections with an unfinished answer end last.
   * Idempotent.
   */
  shutdown(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /**
   * Finds the liveness check of an idle timeout, or creates one.
   *
   * @param idleTimeoutMs Idle timeout, in milliseconds.
   * @returns The check.
   */
  livenessOf(idleTimeoutMs: number): Liveness {
    const known = this.#liveness.get(idleTimeoutMs);
    if (known !== undefined) return known;
    const liveness = new Liveness(this.runtime, idleTimeoutMs);
    this.#liveness.set(idleTimeoutMs, liveness);
    return liveness;
  }

  async #close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#handshakes.clear();
    const answering = [...this.#peers.values()].filter(({ socket, answers }) => {
      if (answers.size === 0) socket.destroy();
      return answers.size > 0;
    });
    if (answering.length === 0) return await promise;
    const timer = this.runtime.setTimeout(() => {
      for (const { socket } of answering) socket.destroy();
    }, this.#options.closeTimeoutMs);
    await promise;
    this.runtime.clearTimeout(timer);
  }

  #connected(socket: Socket): void {
    // With TLS, no other listener handles the errors of this socket.
    socket.on("error", () => {});
    const slot = this.limits.admit(socket.remoteAddress ?? "", this.runtime.now(), () => {
      socket.destroy();
    });
    // The TLS handshake is the expensive part: beyond the rate, drop the connection instead of
    // answering 429.
    const isDropped = slot === undefined || this.#closing !== undefined ||
      slot.retryAfterS > 0 && this.#options.tls !== undefined;
    if (isDropped) {
      slot?.[Symbol.dispose]();
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    const peer: Peer = { socket, slot, answers: new Set(), isOver: false };
    this.#peers.set(key, peer);
    this.#handshakes.add(peer);
    socket.on("close", () => {
      // A new connection may already have the same port.
      if (this.#peers.get(key) === peer) this.#peers.delete(key);
      this.#handshakes.delete(peer);
      slot[Symbol.dispose]();
    });
  }

  async #request(message: IncomingMessage, out: ServerResponse): Promise<void> {
    // A destroyed message loses its socket.
    const { socket } = message;
    const peer = this.#requested(message);
    // node:http still parses requests that were read before the connection was given up.
    if (peer === undefined || peer.isOver) return;
    if (peer.answers.size === MAX_PIPELINED) {
      peer.isOver = true;
      peer.socket.destroy();
      return;
    }
    peer.answers.add(out);
    const leaving = new AbortController();
    out.on("close", () => out.writableFinished || leaving.abort());
    await respond(
      await this.#answer(message, peer, { hasBody: true, signal: leaving.signal }),
      out,
    );
    // The rest of an unread body is not waited for.
    if (!message.complete) socket.destroySoon();
    peer.answers.delete(out);
    if (this.#closing !== undefined && peer.answers.size === 0) peer.socket.destroySoon();
  }

  /**
   * Accepts an upgrade only on a connection without an unfinished answer, and without a body. Any
   * other upgrade is served as a plain request, in turn: an unfinished answer would be written into
   * the WebSocket, and a proxy may disagree about where a body ends.
   */
  #isUpgrade({ headers, httpVersion, socket }: IncomingMessage): boolean {
    const { upgrade = "", "content-length": length = "0", "transfer-encoding": coding } = headers;
    const [answer, next] = this.#peers.get(keyOf(socket))?.answers ?? [];
    // A client with a complete answer may send its next request before the system reports the
    // write.
    const isAnswered = next === undefined && answer?.writableEnded !== false;
    return isWebSocket(upgrade) && httpVersion === "1.1" && length === "0" &&
      coding === undefined && isAnswered;
  }

  async #upgrade(message: IncomingMessage, socket: Duplex, head: Uint8Array): Promise<void> {
    // node:http removes its own listeners before an upgrade.
    socket.on("error", () => {});
    const peer = this.#requested(message);
    if (peer === undefined) return void socket.destroy();
    const leaving = new AbortController();
    socket.on("close", () => leaving.abort());
    const upgrade: Upgrade = { listener: this, message, socket, head, isTaken: false };
    const response = await this.#answer(message, peer, { upgrade, signal: leaving.signal });
    if (upgrade.isTaken) return;
    const out = new ServerResponse(message);
    out.shouldKeepAlive = false;
    out.assignSocket(socket as Socket);
    out.on("finish", () => (socket as Socket).destroySoon());
    await respond(response, out);
  }

  async #answer(
    message: IncomingMessage,
    peer: Peer,
    options: {
      readonly hasBody?: boolean;
      readonly upgrade?: Upgrade;
      readonly signal: AbortSignal;
    },
  ): Promise<Response> {
    const { retryAfterS } = peer.slot;
    if (retryAfterS > 0) {
      const headers = { "retry-after": `${retryAfterS}`, connection: "close" };
      return new Response("Too many connections", { status: 429, headers });
    }
    const { headers: { upgrade: protocol = "" }, httpVersion } = message;
    if (isWebSocket(protocol) && httpVersion !== "1.1") {
      const why =
        `Cannot upgrade to WebSocket: HTTP must have version 1.1, received ${httpVersion}`;
      return new Response(why, { status: 400, headers: { connection: "close" } });
    }
    const { hasBody = false, upgrade, signal } = options;
    const isSecure = this.#options.tls !== undefined;
    const request = requestOf(message, { isSecure, hasBody, signal });
    if (request === undefined) {
      peer.isOver = true;
      const headers = { connection: "close" };
      return new Response("Malformed request", { status: 400, headers });
    }
    if (upgrade !== undefined) this.#options.onUpgrade(request, upgrade);
    try {
      return await this.#handler(request, originOf(message));
    } catch (error) {
      // As the runtime's own server does, but at a bounded rate: peers choose the requests.
      this.#console.failed("A request", error);
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** Finds the connection of a request, and marks it as no longer pending. */
  #requested({ socket }: IncomingMessage): Peer | undefined {
    const peer = this.#peers.get(keyOf(socket));
    if (peer === undefined) return undefined;
    this.#handshakes.delete(peer);
    peer.slot.requested();
    return peer;
  }
}

/** Answers a malformed or late request with its error status. */
function refuse({ code }: Error & { readonly code?: string }, socket: Duplex): void {
  if (!socket.writable) return void socket.destroy();
  const status = code === "HPE_HEADER_OVERFLOW"
    ? "431 Request Header Fields Too Large"
    : code === "ERR_HTTP_REQUEST_TIMEOUT"
    ? "408 Request Timeout"
    : "400 Bad Request";
  socket.write(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
  (socket as Socket).destroySoon();
}

function isWebSocket(upgrade: string): boolean {
  return upgrade.toLowerCase() === "websocket";
}

function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/**
 * Converts a node:http request to one of the web platform.
 *
 * @param message Request of node:http.
 * @param options Use of TLS, permission for a body, and the signal that aborts the request.
 * @returns The request; `undefined` for a malformed one.
 */
function requestOf(
  message: IncomingMessage,
  options: { readonly isSecure: boolean; readonly hasBody: boolean; readonly signal: AbortSignal },
): Request | undefined {
  const { method = "GET", rawHeaders } = message;
  const url = urlOf(message, options.isSecure);
  // node:http takes the first of several `Host` headers; such a request is refused here.
  const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === "host");
  if (url === undefined || hosts.length > 1) return undefined;
  const mayHaveBody = options.hasBody && method !== "GET" && method !== "HEAD";
  try {
    const body = mayHaveBody
      ? Readable.toWeb(message) as unknown as ReadableStream<Uint8Array<ArrayBuffer>>
      : null;
    const headers = new Headers();
    for (let i = 0; i < rawHeaders.length; i += 2) {
      headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
    }
    return new Request(url, { method, headers, body, signal: options.signal });
  } catch {
    // The web platform refuses some methods and headers, such as CONNECT.
    return undefined;
  }
}

/** Builds the request's URL. The target may be a path, or a whole URL as sent to proxies. */
function urlOf({ url = "", headers: { host = "" } }: IncomingMessage, isSecure: boolean) {
  const scheme = isSecure ? "https" : "http";
  if (!url.startsWith("/")) return /^https?:/i.test(url) && URL.canParse(url) ? url : undefined;
  const whole = `${scheme}://${host}${url}`;
  return HOST.test(host) && URL.canParse(whole) ? whole : undefined;
}

/**
 * Reads the origin of a request.
 *
 * @param message Request of node:http.
 * @returns The peer's address.
 */
function originOf({ socket }: IncomingMessage): Parameters<HttpHandler>[1] {
  const { remoteAddress = "", remotePort = 0 } = socket;
  return { remoteAddr: { transport: "tcp", hostname: remoteAddress, port: remotePort } };
}

/**
 * Sends a response, and waits until a streamed body was sent. Never rejects: a client that
 * disconnects ends the body.
 *
 * @param response Response to send.
 * @param out Response of node:http to write to.
 */
async function respond(response: Response, out: ServerResponse): Promise<void> {
  try {
    out.statusCode = response.status;
    const cookies = response.headers.getSetCookie();
    for (const [name, value] of response.headers) {
      if (name !== "set-cookie") out.setHeader(name, value);
    }
    if (cookies.length > 0) out.setHeader("set-cookie", cookies);
    const { body } = response;
    if (body === null) out.end();
    else await pipeline(Readable.fromWeb(body as unknown as NodeReadableStream), out);
  } catch {
    out.destroy();
  }
}

/** The synchronous part of node:net. */
interface SynchronousNet {
  /** Returns a bound socket, or an error number. */
  _createServerHandle(address: string, port: number, family: 4 | 6): object | number;
}

/**
 * Listens, and returns the address at once: with a host name, `listen` would report the address in
 * a later turn.
 */
function bind(server: Server, hostname: string, port: number): Deno.NetAddr {
  const address = net.isIP(hostname) > 0 ? hostname : resolve(hostname);
  const { _createServerHandle } = net as unknown as Partial<SynchronousNet>;
  if (_createServerHandle === undefined) {
    throw new UnsupportedError(
      "Cannot listen: the hardened WebSocket engine needs _createServerHandle of node:net, which this runtime does not have",
    );
  }
  const handle = _createServerHandle(address, port, net.isIPv6(address) ? 6 : 4);
  if (typeof handle === "object") {
    // The error of a later turn is thrown below instead.
    server.on("error", () => {});
    server.listen(handle);
    const found = server.address();
    if (typeof found === "object" && found !== null) {
      return { transport: "tcp", hostname: found.address, port: found.port };
    }
  }
  // Throws the runtime's own error with the reason.
  listenAt({ hostname, port, transport: "TCP" }, () => Deno.listen({ hostname, port }).close());
  throw new Deno.errors.AddrNotAvailable(`Cannot listen on ${hostname}:${port}`);
}

/** Resolves a host name by the runtime's resolver, which answers at once. */
function resolve(hostname: string): string {
  using listener = Deno.listen({ hostname, port: 0 });
  return listener.addr.hostname;
}
