/**
 * An HTTP server with the interface of `Deno.serve`, with limits and upgrades. If the first request
 * of a connection is an upgrade to a WebSocket, this module handles the connection; node:http
 * serves all others.
 */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import { createServer as createSecureServer } from "node:https";
import net, { type Socket } from "node:net";
import { type Duplex, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { getSystemErrorName } from "node:util";
import { UnsupportedError } from "../../errors.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { describe } from "../../base/error_text.ts";
import { isDeno, requireBase64, requireDeno, runtimeError } from "../../base/platform.ts";
import type { Runtime } from "../../base/runtime.ts";
import { listenAt } from "../address.ts";
import type {
  AcceptedWebSocket,
  AcceptWebSocketOptions,
  HttpHandler,
  OfferedUpgrade,
  UpgradeHandler,
  UpgradeRequest,
} from "../websocket/server.ts";
import {
  type ConnectionSlot,
  HandshakeLimits,
  type HandshakeLimitsOptions,
} from "./handshake_limits.ts";
import {
  type HeadFields,
  isWebSocket,
  readUpgrade,
  type ReceivedHead,
  requestOf,
  requestUrl,
  type UpgradeHead,
} from "./request.ts";
import { type HardenedSocket, SocketLiveness } from "./socket.ts";

/** The interval at which node:http checks for slow requests, in milliseconds. */
const CHECK_INTERVAL_MS = 1_000;

/**
 * The number of requests of one connection that are handled at the same time. Few clients pipeline
 * requests at all.
 */
const MAX_PIPELINED = 16;

/**
 * The number of further requests of one connection that may wait. A connection with more is
 * dropped.
 */
const MAX_QUEUED = 256;

/**
 * The options of node:http, plus one that its types lack. If the callback declines an upgrade, it
 * is served as a plain request.
 */
interface NodeServerOptions extends ServerOptions {
  readonly shouldUpgradeCallback: (message: IncomingMessage) => boolean;
}

export class Upgrade {
  /** The server that received the request. */
  readonly listener: Listener;
  readonly socket: Socket;
  readonly #peer: Peer;
  readonly #rest: Buffer;

  /** Creates an upgrade that has no receiver yet. The bytes in `rest` arrived after the head. */
  constructor(peer: Peer, socket: Socket, rest: Buffer) {
    this.listener = peer.listener;
    this.socket = socket;
    this.#peer = peer;
    this.#rest = rest;
  }

  /** True after the socket became a WebSocket. */
  get isTaken(): boolean {
    return this.#peer.receiver !== undefined;
  }

  /**
   * Hands the socket over to a WebSocket.
   *
   * @param receiver Receives the bytes that follow the request. The first bytes arrive in a later
   * turn.
   */
  take(receiver: HardenedSocket): void {
    const { socket } = this;
    this.#peer.receiver = receiver;
    if (this.#rest.length > 0) {
      socket.pause();
      socket.unshift(this.#rest);
    }
    socket.resume();
  }
}

/** An upgrade whose head this server has read itself, so that a `Request` is rarely needed. */
class HeadUpgrade extends Upgrade implements OfferedUpgrade {
  readonly method: string;
  readonly url: string;
  readonly headers: HeadFields;
  readonly #makeRequest: () => Request;
  #request: Request | undefined = undefined;

  /** Creates an upgrade with the URL of the request. */
  constructor(
    peer: Peer,
    socket: Socket,
    { head, url, makeRequest }: {
      readonly head: UpgradeHead;
      readonly url: string;
      readonly makeRequest: () => Request;
    },
  ) {
    super(peer, socket, head.rest);
    this.method = head.method;
    this.url = url;
    this.headers = head.headers;
    this.#makeRequest = makeRequest;
  }

  get request(): Request {
    return this.#request ??= this.#makeRequest();
  }

  accept(options: AcceptWebSocketOptions): AcceptedWebSocket {
    return this.listener.accept(this, this.headers, options);
  }
}

/** The options of a {@linkcode Listener}. */
export interface ListenerOptions {
  readonly runtime: Runtime;
  /** The TCP port; 0 selects a free port. */
  readonly port: number;
  readonly hostname: string;
  /** Lets other processes listen on the same port. */
  readonly reusePort: boolean;
  /** The certificate and key in PEM, or `undefined` to listen without TLS. */
  readonly tls: { readonly cert: string; readonly key: string } | undefined;
  /** The limits on connections and handshakes. */
  readonly limits: HandshakeLimitsOptions;
  /** The time from the connection to the end of the first request's head, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** The time for a whole request, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** The time that a connection may wait for its next request, in milliseconds. */
  readonly keepAliveTimeoutMs: number;
  /** The maximum size of a request's head, in bytes. */
  readonly maxHeaderBytes: number;
  /** How long a shutdown waits for responses, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** Receives each upgrade before the handler responds to the request. */
  readonly onUpgrade: (request: Request, upgrade: Upgrade) => void;
  /** Accepts an upgrade that was checked. */
  readonly accept: (
    upgrade: Upgrade,
    headers: UpgradeRequest["headers"],
    options: AcceptWebSocketOptions,
  ) => AcceptedWebSocket;
}

/** The handlers of a {@linkcode Listener}. */
export interface ListenerHandlers {
  readonly handler: HttpHandler;
  /** Handles upgrades that need no `Request`. */
  readonly onUpgrade: UpgradeHandler | undefined;
}

/**
 * The property of a socket that holds its connection, so that all sockets can share their
 * listeners.
 */
const peerOf: unique symbol = Symbol("peer");

/** A TCP or TLS socket that the server accepted. */
interface PeerSocket extends Socket {
  [peerOf]?: Peer;
}

/** A connection, from its acceptance to its end. */
class Peer {
  readonly listener: Listener;
  readonly slot: ConnectionSlot;
  /** The TCP socket, or the one below the TLS socket. */
  readonly socket: Socket;
  /** The start of the first request's head, until the head is complete. */
  bytes: Buffer | undefined = undefined;
  /**
   * Aborts the request for an upgrade if the peer disconnects before the response. Created when
   * needed.
   */
  leaving: AbortController | undefined = undefined;
  /** The WebSocket that receives the bytes after an upgrade. */
  receiver: HardenedSocket | undefined = undefined;
  /** The unfinished responses of node:http. Bounded by `MAX_PIPELINED`. */
  responses: Set<ServerResponse> | undefined = undefined;
  /** The requests that wait for these responses. Bounded by `MAX_QUEUED`. */
  queued: (readonly [IncomingMessage, ServerResponse])[] | undefined = undefined;
  /**
   * True if further requests of this connection must not be handled, because the bytes cannot be
   * trusted or too many requests are waiting.
   */
  isOver = false;

  constructor(listener: Listener, slot: ConnectionSlot, socket: Socket) {
    this.listener = listener;
    this.slot = slot;
    this.socket = socket;
  }

  /** Aborts when the connection ends, unless it has become a WebSocket. */
  get signal(): AbortSignal {
    if (this.leaving === undefined) {
      this.leaving = new AbortController();
      if (this.socket.destroyed) this.leaving.abort();
    }
    return this.leaving.signal;
  }

  /** True while a request waits for the end of its response. */
  get isResponding(): boolean {
    return (this.responses?.size ?? 0) > 0;
  }
}

/** An HTTP server that listens from construction to shutdown. */
export class Listener {
  /** The address that the server listens on. */
  readonly addr: Deno.NetAddr;
  readonly runtime: Runtime;
  /** The limits and counters of connections. */
  readonly limits: HandshakeLimits;
  /** Accepts an upgrade that was checked. */
  readonly accept: ListenerOptions["accept"];
  /** The liveness checks by idle timeout. Each server has one idle timeout. */
  readonly #liveness = new Map<number, SocketLiveness>();
  readonly #options: ListenerOptions;
  readonly #console: ConsoleReport;
  readonly #handler: HttpHandler;
  readonly #onUpgrade: UpgradeHandler | undefined;
  readonly #server: Server;
  /** The function of node:http that serves a connection. */
  readonly #serveHttp: (socket: Socket) => void;
  /** The open connections. Bounded by the limits. */
  readonly #peers = new Set<Peer>();
  /**
   * The connections in the TLS handshake, by remote address and port, because the TLS socket and
   * the TCP socket are two objects. Bounded by the limits.
   */
  readonly #securing = new Map<string, Peer>();
  readonly #handshakes: Deadlines<Peer>;
  /** Aborts when the server stops reading incomplete bodies. */
  readonly #cut = new AbortController();
  #closing: Promise<void> | undefined;

  /**
   * @throws {Deno.errors.AddrInUse} If the port is already in use.
   * @throws {UnsupportedError} If the runtime cannot listen synchronously.
   */
  constructor(options: ListenerOptions, { handler, onUpgrade }: ListenerHandlers) {
    const { runtime, tls, requestTimeoutMs, handshakeTimeoutMs } = options;
    requireBase64("listen");
    this.runtime = runtime;
    this.#console = new ConsoleReport(runtime);
    this.accept = options.accept;
    this.#options = options;
    this.#handler = handler;
    this.#onUpgrade = onUpgrade;
    this.limits = new HandshakeLimits(options.limits);
    this.#handshakes = new Deadlines(runtime, handshakeTimeoutMs, ({ socket }) => {
      this.limits.countLate();
      socket.destroy();
    });
    const settings: NodeServerOptions = {
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
    const ready = tls === undefined ? "connection" : "secureConnection";
    const [serveHttp] = server.listeners(ready) as ((socket: Socket) => void)[];
    if (serveHttp === undefined) {
      throw new UnsupportedError(
        `Cannot listen: the hardened WebSocket engine needs a listener of node:http for ${ready}, which this runtime does not have`,
      );
    }
    this.#serveHttp = serveHttp.bind(server);
    server.removeAllListeners(ready);
    server.on("connection", (socket: Socket) => this.#connected(socket));
    if (tls !== undefined) {
      server.on("secureConnection", (socket: Socket) => this.#secured(socket));
    }
    server.on("clientError", respondToParseError);
    // A failure costs one connection, not the process.
    server.on("request", (message, response) => {
      this.#request(message, response).catch(() => response.destroy());
    });
    server.on("upgrade", (message, socket: Socket, head) => {
      // node:http removes its own listeners before an upgrade, but not its timeout.
      socket.setTimeout(0);
      const peer = this.#requested(message);
      if (peer === undefined) return void socket.destroy();
      this.#listen(socket);
      this.#upgrade(peer, socket, { ...requestHead(message), rest: head });
    });
    this.addr = bind(server, options);
  }

  /**
   * Stops listening, and ends every connection. Connections with an unfinished response end last.
   * Idempotent.
   */
  shutdown({ responsesMs = 0 }: { readonly responsesMs?: number | undefined } = {}): Promise<void> {
    return this.#closing ??= this.#close(Math.max(responsesMs, this.#options.closeTimeoutMs));
  }

  /** Stops reading the bodies of incomplete requests. Their handlers may still respond. */
  cutBodies(): void {
    // The same error as from the runtime's own server.
    this.#cut.abort(runtimeError("BadResource", "The server is shutting down"));
  }

  /** Returns the liveness check that all sockets with this idle timeout share. */
  livenessOf(idleTimeoutMs: number): SocketLiveness {
    const known = this.#liveness.get(idleTimeoutMs);
    if (known !== undefined) return known;
    const liveness = new SocketLiveness(this.runtime, idleTimeoutMs);
    this.#liveness.set(idleTimeoutMs, liveness);
    return liveness;
  }

  get #isSecure(): boolean {
    return this.#options.tls !== undefined;
  }

  async #close(responsesMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#handshakes.clear();
    const busy = [...this.#peers].filter((peer) => peer.isResponding);
    for (const peer of this.#peers) if (!peer.isResponding) peer.socket.destroy();
    if (busy.length === 0) return await promise;
    const timer = this.runtime.setTimeout(() => {
      for (const { socket } of busy) socket.destroy();
    }, responsesMs);
    await promise;
    this.runtime.clearTimeout(timer);
  }

  #connected(socket: PeerSocket): void {
    // With TLS, no other listener handles the errors of this socket.
    socket.on("error", ignore);
    const slot = this.limits.admit(socket.remoteAddress ?? "", this.runtime.now(), socket);
    const isSecure = this.#isSecure;
    // The TLS handshake is the expensive part, so above the rate, drop the connection instead of
    // replying with 429.
    const isDropped = slot === undefined || this.#closing !== undefined ||
      slot.retryAfterS > 0 && isSecure;
    if (isDropped) {
      slot?.[Symbol.dispose]();
      socket.destroy();
      return;
    }
    const peer = socket[peerOf] = new Peer(this, slot, socket);
    this.#peers.add(peer);
    this.#handshakes.add(peer);
    socket.on("close", Listener.#onClose);
    if (isSecure) this.#securing.set(peerKey(socket), peer);
    else this.#listen(socket);
  }

  #secured(socket: PeerSocket): void {
    const key = peerKey(socket);
    const peer = this.#securing.get(key);
    if (peer === undefined) return void socket.destroy();
    this.#securing.delete(key);
    socket._write = writeBytes;
    socket._writev = writeAllBytes;
    socket[peerOf] = peer;
    socket.on("error", ignore);
    this.#listen(socket);
  }

  /**
   * Listens to the bytes of a socket, even after it becomes a WebSocket. Another listener for each
   * socket would use memory, and removing this one would turn the socket's events into a dictionary
   * of 450 bytes.
   */
  #listen(socket: PeerSocket): void {
    // A peer has disconnected if it ends its half before a head is complete, or while a WebSocket
    // is open.
    socket.allowHalfOpen = false;
    socket.on("data", Listener.#onData);
    socket.on("end", Listener.#onEnd);
  }

  static #onData(this: PeerSocket, chunk: Buffer): void {
    const peer = this[peerOf]!;
    if (peer.receiver !== undefined) peer.receiver.receiveBytes(chunk);
    else peer.listener.#received(peer, this, chunk);
  }

  static #onEnd(this: PeerSocket): void {
    this[peerOf]!.receiver?.bytesEnded();
  }

  static #onClose(this: PeerSocket): void {
    const peer = this[peerOf]!;
    const { listener, slot, leaving, receiver, responses = [] } = peer;
    listener.#peers.delete(peer);
    listener.#handshakes.delete(peer);
    const key = peerKey(this);
    // A new connection may already have the same port.
    if (listener.#securing.get(key) === peer) listener.#securing.delete(key);
    slot[Symbol.dispose]();
    leaving?.abort();
    // node:http ends only the response whose turn it is, and not those that wait for it.
    for (const out of responses) if (out.socket === null) out.destroy().emit("close");
    receiver?.socketClosed();
  }

  #received(peer: Peer, socket: PeerSocket, chunk: Buffer): void {
    const { bytes: earlier } = peer;
    // A head that arrives byte by byte is copied for each byte. `maxHeaderBytes` limits the cost:
    // 16 KiB take 0.1 s of CPU time.
    const bytes = earlier === undefined ? chunk : Buffer.concat([earlier, chunk]);
    const head = readUpgrade(bytes, earlier?.length ?? 0, this.#options.maxHeaderBytes);
    if (head === "incomplete") {
      peer.bytes = bytes;
      return;
    }
    peer.bytes = undefined;
    if (head === undefined) return this.#handOver(socket, bytes);
    this.#markRequested(peer);
    this.#offer(peer, socket, head);
  }

  /** Lets node:http serve a connection, starting with its first byte. */
  #handOver(socket: Socket, bytes: Buffer): void {
    socket.removeListener("data", Listener.#onData);
    socket.removeListener("end", Listener.#onEnd);
    // A client may end its half after a request, and still read the response.
    socket.allowHalfOpen = true;
    this.#serveHttp(socket);
    // Do this within the turn: node:http reads later bytes from the system itself, bypassing the
    // stream, so bytes put back into the stream with `unshift` could arrive after them.
    socket.emit("data", bytes);
  }

  async #request(message: IncomingMessage, out: ServerResponse): Promise<void> {
    // A destroyed message loses its socket.
    const { socket } = message;
    const peer = this.#requested(message);
    // node:http still parses requests that were read before the connection was dropped.
    if (peer === undefined || peer.isOver) return;
    const responses = peer.responses ??= new Set();
    if (responses.size === MAX_PIPELINED) {
      const queued = peer.queued ??= [];
      if (queued.push([message, out]) <= MAX_QUEUED) return;
      peer.isOver = true;
      peer.queued = undefined;
      peer.socket.destroy();
      return;
    }
    responses.add(out);
    const leaving = new AbortController();
    out.on("close", () => out.writableFinished || leaving.abort());
    const sent = Promise.withResolvers<void>();
    const response = this.#respond(message, peer, {
      signal: leaving.signal,
      completed: sent.promise,
    });
    const isHead = message.method === "HEAD";
    await respond(await response, out, { isHead, onError: (error) => this.#brokeOff(error) });
    sent.resolve();
    // Do not wait for the rest of an unread body.
    if (!message.complete) socket.destroySoon();
    responses.delete(out);
    const next = peer.queued?.shift();
    if (next !== undefined) void this.#request(...next);
    if (this.#closing !== undefined && !peer.isResponding) peer.socket.destroySoon();
  }

  /**
   * Accepts an upgrade only if it has no body, and if no response on the connection is unfinished.
   * Any other upgrade is served in turn as a plain request. Accepting it could write an unfinished
   * response into the WebSocket, and a proxy might disagree about where the body ends.
   */
  #isUpgrade({ headers, httpVersion, socket }: IncomingMessage): boolean {
    const { upgrade = "", "content-length": length = "0", "transfer-encoding": coding } = headers;
    const [response, next] = (socket as PeerSocket)[peerOf]?.responses ?? [];
    // A client that has received a complete response may send its next request before the system
    // reports that the response was written.
    const hasReplied = next === undefined && response?.writableEnded !== false;
    return isWebSocket(upgrade) && httpVersion === "1.1" && length === "0" &&
      coding === undefined && hasReplied;
  }

  /** Offers an upgrade without a `Request`, and creates one if there is no other handler. */
  #offer(peer: Peer, socket: Socket, head: UpgradeHead): void {
    const url = requestUrl(head.target, head.headers.get("host")!, this.#isSecure);
    if (url === undefined || this.#onUpgrade === undefined) {
      return this.#upgrade(peer, socket, head);
    }
    const makeRequest = () => this.#requestOf(head, upgrade, peer)!;
    const upgrade: HeadUpgrade = new HeadUpgrade(peer, socket, { head, url, makeRequest });
    const info = connectionInfo(socket);
    const responding = tooFrequent(peer) ??
      this.#call(() => this.#onUpgrade!(upgrade, info) ?? this.#handler(upgrade.request, info));
    this.#respondToUpgrade(upgrade, peer, head, responding);
  }

  #upgrade(peer: Peer, socket: Socket, head: ReceivedHead & { readonly rest: Buffer }): void {
    const upgrade = new Upgrade(peer, socket, head.rest);
    const responding = tooFrequent(peer) ??
      this.#handle(peer, connectionInfo(socket), () => this.#requestOf(head, upgrade, peer));
    this.#respondToUpgrade(upgrade, peer, head, responding);
  }

  #requestOf(head: ReceivedHead, upgrade: Upgrade, peer: Peer): Request | undefined {
    const request = requestOf(head, { isSecure: this.#isSecure, signal: () => peer.signal });
    if (request !== undefined) this.#options.onUpgrade(request, upgrade);
    return request;
  }

  #respondToUpgrade(
    upgrade: Upgrade,
    peer: Peer,
    { method }: ReceivedHead,
    responding: Response | Promise<Response>,
  ): void {
    // Most upgrades are accepted immediately.
    if (upgrade.isTaken) peer.leaving = undefined;
    else {
      this.#finishUpgrade(upgrade, responding, method).catch((error) => {
        if (!upgrade.socket.destroyed) this.#brokeOff(error);
        upgrade.socket.destroy();
      });
    }
  }

  async #finishUpgrade(
    upgrade: Upgrade,
    responding: Response | Promise<Response>,
    method: string,
  ): Promise<void> {
    const { socket } = upgrade;
    // Read at most one buffer, which is enough to notice that a peer has disconnected.
    socket.pause();
    socket.read(0);
    const response = await responding;
    const peer = (socket as PeerSocket)[peerOf]!;
    if (upgrade.isTaken) peer.leaving = undefined;
    else {
      const { signal } = peer;
      await rejectUpgrade(socket, response, { method, now: this.runtime.now(), signal });
    }
  }

  #respond(
    message: IncomingMessage,
    peer: Peer,
    { signal, completed }: {
      readonly signal: AbortSignal;
      /** Resolves once the response was sent. */
      readonly completed: Promise<void>;
    },
  ): Response | Promise<Response> {
    const { headers, httpVersion, socket } = message;
    const { upgrade = "", "transfer-encoding": coding = "chunked" } = headers;
    const late = tooFrequent(peer);
    if (late !== undefined) return late;
    // node:http accepts another version and a second coding, which a proxy may interpret
    // differently.
    if (!/^1\.[01]$/.test(httpVersion) || coding.toLowerCase() !== "chunked") {
      peer.isOver = true;
      return lastResponse(400, "Malformed request");
    }
    if (isWebSocket(upgrade) && httpVersion !== "1.1") {
      const why =
        `Cannot upgrade to WebSocket: HTTP must have version 1.1, received ${httpVersion}`;
      return lastResponse(400, why);
    }
    const body = requestBody(message, this.#cut.signal);
    const info = { ...connectionInfo(socket), completed };
    return this.#handle(
      peer,
      info,
      () => requestOf(requestHead(message), { isSecure: this.#isSecure, body, signal }),
    );
  }

  /** Calls the handler of requests. Never throws or rejects. */
  #handle(
    peer: Peer,
    info: Parameters<HttpHandler>[1],
    request: () => Request | undefined,
  ): Response | Promise<Response> {
    const made = request();
    if (made === undefined) {
      peer.isOver = true;
      return lastResponse(400, "Malformed request");
    }
    return this.#call(() => this.#handler(made, info));
  }

  /** Calls a handler. Never throws or rejects. */
  #call(handle: () => Response | Promise<Response>): Response | Promise<Response> {
    try {
      const response = handle();
      return response instanceof Promise
        ? response.then(checkResponse).catch((error) => this.#failed(error))
        : checkResponse(response);
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Reports an error of the handler as the runtime's own server does, but at a limited rate. */
  #failed(error: unknown): Response {
    this.#console.failed("A request", error);
    return new Response("Internal Server Error", { status: 500 });
  }

  /** Reports a response whose body failed. The client receives only a part of it. */
  #brokeOff(error: unknown): void {
    this.#console.failed("A response", error);
  }

  /** Finds the connection of a request, and marks it as no longer pending. */
  #requested({ socket }: IncomingMessage): Peer | undefined {
    const peer = (socket as PeerSocket)[peerOf];
    if (peer === undefined || !this.#peers.has(peer)) return undefined;
    this.#markRequested(peer);
    return peer;
  }

  #markRequested(peer: Peer): void {
    this.#handshakes.delete(peer);
    peer.slot.requested();
  }
}

function ignore(): void {}

/**
 * Writes to a TLS socket, unless there is nothing to write. The runtime never completes an empty
 * write over TLS, and writes nothing after it; node:http ends a body of known length with such a
 * write.
 */
function writeBytes(this: Socket, ...args: Parameters<Socket["_write"]>): void {
  const [chunk, , callback] = args;
  if ((chunk as Buffer).length === 0) callback();
  else net.Socket.prototype._write.apply(this, args);
}

/** Writes several pieces to a TLS socket; see {@linkcode writeBytes}. */
function writeAllBytes(this: Socket, ...args: Parameters<NonNullable<Socket["_writev"]>>): void {
  const [pieces, callback] = args;
  if (pieces.every(({ chunk }) => (chunk as Buffer).length === 0)) callback();
  else net.Socket.prototype._writev!.apply(this, args);
}

/** Rejects a connection if its address has exceeded the rate. */
function tooFrequent({ slot: { retryAfterS } }: Peer): Response | undefined {
  if (retryAfterS === 0) return undefined;
  return lastResponse(429, "Too many connections", { "retry-after": `${retryAfterS}` });
}

/** Creates the last response of a connection. */
function lastResponse(
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(text, { status, headers: { ...headers, connection: "close" } });
}

/** Rejects a malformed or late request with its error status. */
function respondToParseError({ code }: Error & { readonly code?: string }, socket: Duplex): void {
  if (!socket.writable) return void socket.destroy();
  const status = code === "HPE_HEADER_OVERFLOW"
    ? "431 Request Header Fields Too Large"
    : code === "ERR_HTTP_REQUEST_TIMEOUT"
    ? "408 Request Timeout"
    : "400 Bad Request";
  socket.write(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
  (socket as Socket).destroySoon();
}

function peerKey({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

function requestHead({ method = "GET", url = "", rawHeaders }: IncomingMessage): ReceivedHead {
  const headers: [string, string][] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    headers.push([rawHeaders[i]!.toLowerCase(), rawHeaders[i + 1]!]);
  }
  return { method, target: url, headers };
}

/** Returns the body of a request, whose reads reject when the signal aborts. */
function requestBody(
  message: IncomingMessage,
  signal: AbortSignal,
): ReadableStream<Uint8Array<ArrayBuffer>> | undefined {
  if (message.method === "GET" || message.method === "HEAD") return undefined;
  const body = Readable.toWeb(message) as unknown as ReadableStream<Uint8Array<ArrayBuffer>>;
  // A cancelled message would destroy the socket, over which the response is still to be sent.
  return body.pipeThrough(new TransformStream(), { signal, preventCancel: true });
}

/** Returns the peer's address. */
function connectionInfo(
  { remoteAddress = "", remotePort = 0 }: Socket,
): Parameters<HttpHandler>[1] {
  return { remoteAddr: { transport: "tcp", hostname: remoteAddress, port: remotePort } };
}

/** The headers that {@linkcode rejectUpgrade} sets. */
const CONNECTION_HEADERS: ReadonlySet<string> = new Set([
  "connection",
  "content-length",
  "date",
  "transfer-encoding",
]);

/**
 * Rejects a request for an upgrade with an HTTP response, and ends the connection.
 *
 * @param options The request's method, the current time in milliseconds, and the signal that aborts
 * when the peer disconnects.
 */
async function rejectUpgrade(
  socket: Socket,
  { status, statusText, headers, body }: Response,
  options: { readonly method: string; readonly now: number; readonly signal: AbortSignal },
): Promise<void> {
  const { method, now, signal } = options;
  const lines = [`HTTP/1.1 ${status} ${statusText || STATUS_CODES[status] || ""}`];
  for (const [name, value] of headers) {
    if (!CONNECTION_HEADERS.has(name)) lines.push(`${name}: ${value}`);
  }
  lines.push(`date: ${new Date(now).toUTCString()}`);
  // A header with the names of protocols to which the peer may upgrade requires `upgrade` here.
  lines.push(`connection: ${headers.has("upgrade") ? "upgrade, close" : "close"}`);
  const isEmpty = body === null || method === "HEAD";
  lines.push(isEmpty ? "content-length: 0" : "transfer-encoding: chunked", "", "");
  socket.write(lines.join("\r\n"), "latin1");
  if (isEmpty) await body?.cancel();
  else {
    for await (const piece of body.values()) {
      if (piece.length === 0) continue;
      const size = Buffer.from(`${piece.length.toString(16)}\r\n`, "latin1");
      const mayGoOn = socket.write(Buffer.concat([size, piece, CRLF]));
      if (!mayGoOn) await once(socket, "drain", { signal });
    }
    socket.write("0\r\n\r\n", "latin1");
  }
  socket.destroySoon();
}

const CRLF = Buffer.from("\r\n", "latin1");

/**
 * Checks what a handler returned, as the runtime's own server does. Frameworks have responses of
 * their own classes.
 *
 * @throws {TypeError} If it is no response, or its body can't be sent.
 */
function checkResponse(response: Response): Response {
  if (typeof Object(response).headers?.getSetCookie !== "function") {
    throw new TypeError(
      `Cannot respond to a request: the handler must return a Response, received ${
        describe(response)
      }`,
    );
  }
  if (response.bodyUsed || response.body?.locked) {
    throw new TypeError("Cannot respond to a request: the response's body was already read");
  }
  if (response.type === "error") {
    throw new TypeError("Cannot respond to a request: the handler returned Response.error()");
  }
  return response;
}

/**
 * Sends a response, and waits until a streamed body has been sent. Never rejects. If the client
 * disconnects, or needs only the head, the body is cancelled.
 *
 * @param out The response of node:http to write to.
 * @param options Whether the request's method is `HEAD`, and what receives an error of the response.
 */
async function respond(
  response: Response,
  out: ServerResponse,
  { isHead, onError }: { readonly isHead: boolean; readonly onError: (error: unknown) => void },
): Promise<void> {
  const failed = (error: unknown) => {
    // The body of a client that has disconnected also ends with an error.
    if (!out.destroyed) onError(error);
  };
  try {
    out.statusCode = response.status;
    const cookies = response.headers.getSetCookie();
    for (const [name, value] of response.headers) {
      if (name !== "set-cookie") out.setHeader(name, value);
    }
    if (cookies.length > 0) out.setHeader("set-cookie", cookies);
    const { body } = response;
    if (body === null || isHead || out.destroyed) {
      body?.cancel().catch(onError);
      // A pipeline would not cancel the body of a client that has left already.
      if (out.destroyed) return;
      // If an earlier response is unfinished, the end waits for its turn, or for the end of the
      // connection.
      await new Promise<void>((resolve) => out.once("close", resolve).end(resolve));
    } else {
      const source = Readable.fromWeb(body as unknown as NodeReadableStream);
      await pipeline(source.once("error", failed), out);
    }
  } catch (error) {
    failed(error);
    out.destroy();
  }
}

/** The synchronous part of node:net. */
interface SynchronousNet {
  /** Returns a bound socket, or an error number. */
  _createServerHandle(
    address: string,
    port: number,
    family: 4 | 6,
    fd: undefined,
    flags: number,
  ): object | number;
}

/** `UV_TCP_REUSEPORT` of Deno's node:net. */
const REUSE_PORT = 4;

/**
 * Listens, and returns the address immediately. For a host name, `listen` would report the address
 * in a later turn.
 */
function bind(
  server: Server,
  { hostname, port, reusePort }: Pick<ListenerOptions, "hostname" | "port" | "reusePort">,
): Deno.NetAddr {
  if (reusePort) requireDeno("listen", "reusePort must be false");
  const address = net.isIP(hostname) > 0 ? hostname : resolve(hostname);
  const { _createServerHandle } = net as unknown as Partial<SynchronousNet>;
  if (_createServerHandle === undefined) {
    throw new UnsupportedError(
      "Cannot listen: the hardened WebSocket engine needs _createServerHandle of node:net, which this runtime does not have",
    );
  }
  const flags = reusePort ? REUSE_PORT : 0;
  const handle = _createServerHandle(address, port, net.isIPv6(address) ? 6 : 4, undefined, flags);
  if (typeof handle === "object") {
    // An error that is reported in a later turn is thrown below instead.
    server.on("error", () => {});
    server.listen(handle);
    const found = server.address();
    if (typeof found === "object" && found !== null) {
      return { transport: "tcp", hostname: found.address, port: found.port };
    }
  }
  listenAt({ hostname, port, transport: "TCP" }, () => {
    // This throws the runtime's own error, which contains the reason.
    if (isDeno) Deno.listen({ hostname, port }).close();
    // Node reports that a port is in use only after the socket listens; it reports any other
    // failure immediately.
    else if (typeof handle === "object") throw runtimeError("AddrInUse", "EADDRINUSE");
    else throw new Error(`Cannot listen on ${hostname}:${port}: ${getSystemErrorName(handle)}`);
  });
  throw runtimeError("AddrNotAvailable", `Cannot listen on ${hostname}:${port}`);
}

/** Resolves a host name with the synchronous resolver, which Deno has and Node lacks. */
function resolve(hostname: string): string {
  if (!isDeno) {
    if (hostname === "localhost") return "127.0.0.1";
    throw new TypeError(
      `Cannot listen: hostname must be an IP address or "localhost" on Node, received "${hostname}"`,
    );
  }
  const place = { hostname, port: 0 };
  using listener = listenAt({ ...place, transport: "TCP" }, () => Deno.listen(place));
  return listener.addr.hostname;
}
