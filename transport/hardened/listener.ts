/**
 * An HTTP server on node:http, as one on `Deno.serve`: with bounds for those who
 * connect, and upgrades that are handed out.
 *
 * @module
 */
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  ServerResponse,
} from "node:http";
import { createServer as createSecureServer } from "node:https";
import net, { type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { UnsupportedError } from "../../errors.ts";
import { listenAt } from "../address_in_use.ts";
import { Deadlines } from "../deadlines.ts";
import { type Origin, originOf, requestOf, respond } from "./exchange.ts";
import { type Admitted, HandshakeLimits, type HandshakeLimitsOptions } from "./handshake_limits.ts";

/** How often node:http looks for requests that take too long, in milliseconds. */
const CHECK_INTERVAL_MS = 1_000;

/** Requests of one connection that wait for their answers: few clients send a second one before. */
const MAX_PIPELINED = 16;

/** What node:http knows, and its types here do not: what it says is no upgrade is a request as any. */
interface Settings extends ServerOptions {
  readonly shouldUpgradeCallback: (message: IncomingMessage) => boolean;
}

/** Answers a request. */
export type Handler = (request: Request, origin: Origin) => Response | Promise<Response>;

/** An upgrade that was asked for. */
export interface Upgrade {
  /** The request. */
  readonly message: IncomingMessage;
  /** Its socket. */
  readonly socket: Duplex;
  /** What came behind the request. */
  readonly head: Uint8Array;
  /** Whether somebody took the socket. */
  isTaken: boolean;
}

/** How to listen. */
export interface ListenerOptions {
  /** TCP port; 0 takes a free one. */
  readonly port: number;
  /** Address. */
  readonly hostname: string;
  /** Certificate and key in PEM; in the clear without. */
  readonly tls: { readonly cert: string; readonly key: string } | undefined;
  /** Bounds by address. */
  readonly limits: HandshakeLimitsOptions;
  /** From the connection to the end of its first request's head, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** A whole request, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** A connection that waits for its next request, in milliseconds. */
  readonly keepAliveTimeoutMs: number;
  /** The head of a request, in bytes. */
  readonly maxHeaderBytes: number;
  /** How long a shutdown waits for answers, in milliseconds. */
  readonly closeTimeoutMs: number;
  /** Gets each upgrade before it is answered. */
  readonly onUpgrade: (request: Request, upgrade: Upgrade) => void;
}

/** A connection, whatever became of it. */
interface Peer {
  readonly socket: Socket;
  readonly admitted: Admitted;
  /** Answers that are not out yet; bounded by `MAX_PIPELINED`. */
  readonly answers: Set<ServerResponse>;
  /** Whether what comes is not to be trusted, or not to be answered any more. */
  isOver: boolean;
}

/** Listens, from its construction to its shutdown. */
export class Listener {
  /** Where it listens. */
  readonly addr: Deno.NetAddr;
  /** Counts connections. */
  readonly limits: HandshakeLimits;
  readonly #options: ListenerOptions;
  readonly #handler: Handler;
  readonly #server: Server;
  /** By address and port, as a socket of TLS is not the one that connected. Bounded by the limits. */
  readonly #peers = new Map<string, Peer>();
  readonly #handshakes: Deadlines<Peer>;
  #closing: Promise<void> | undefined;

  /**
   * Listens.
   *
   * @throws {Deno.errors.AddrInUse} If the port is taken.
   * @throws {UnsupportedError} If the runtime cannot listen at once.
   */
  constructor(options: ListenerOptions, handler: Handler) {
    const { hostname, port, tls, requestTimeoutMs, handshakeTimeoutMs } = options;
    this.#options = options;
    this.#handler = handler;
    this.limits = new HandshakeLimits(options.limits);
    this.#handshakes = new Deadlines(handshakeTimeoutMs, ({ socket }) => {
      this.limits.late();
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
    // Whatever goes wrong costs one connection, and not the process.
    server.on("request", (message, response) => {
      this.#request(message, response).catch(() => response.destroy());
    });
    server.on("upgrade", (message, socket, head) => {
      this.#upgrade(message, socket, head).catch(() => socket.destroy());
    });
    this.addr = bind(server, hostname, port);
  }

  /** Stops listening, and ends every connection; those that wait for an answer last. Idempotent. */
  shutdown(): Promise<void> {
    return this.#closing ??= this.#close();
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
    const timer = setTimeout(() => {
      for (const { socket } of answering) socket.destroy();
    }, this.#options.closeTimeoutMs);
    await promise;
    clearTimeout(timer);
  }

  #connected(socket: Socket): void {
    // Of a connection that carries TLS nobody else listens.
    socket.on("error", () => {});
    const admitted = this.limits.admit(socket.remoteAddress ?? "", Date.now(), () => {
      socket.destroy();
    });
    // What is dear about a handshake is TLS: who is one too many is not told after it.
    const isDropped = admitted === undefined || this.#closing !== undefined ||
      admitted.retryAfterS > 0 && this.#options.tls !== undefined;
    if (isDropped) {
      admitted?.[Symbol.dispose]();
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    const peer: Peer = { socket, admitted, answers: new Set(), isOver: false };
    this.#peers.set(key, peer);
    this.#handshakes.add(peer);
    socket.on("close", () => {
      // Its port may be that of a new connection already.
      if (this.#peers.get(key) === peer) this.#peers.delete(key);
      this.#handshakes.delete(peer);
      admitted[Symbol.dispose]();
    });
  }

  async #request(message: IncomingMessage, out: ServerResponse): Promise<void> {
    // Gone from the message once that is destroyed.
    const { socket } = message;
    const peer = this.#asked(message);
    // What was read by then is still parsed.
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
    // What was not read of its body is not waited for.
    if (!message.complete) socket.destroySoon();
    peer.answers.delete(out);
    if (this.#closing !== undefined && peer.answers.size === 0) peer.socket.destroySoon();
  }

  /**
   * Others are answered as requests are, in their turn: what waits for an answer would be answered
   * into a WebSocket, and where a body ends somebody in between may see otherwise.
   */
  #isUpgrade({ headers, httpVersion, socket }: IncomingMessage): boolean {
    const { upgrade = "", "content-length": length = "0", "transfer-encoding": coding } = headers;
    const [answer, next] = this.#peers.get(keyOf(socket))?.answers ?? [];
    // Who has all of an answer may go on before the system says that it took it.
    const isAnswered = next === undefined && answer?.writableEnded !== false;
    return isWebSocket(upgrade) && httpVersion === "1.1" && length === "0" &&
      coding === undefined && isAnswered;
  }

  async #upgrade(message: IncomingMessage, socket: Duplex, head: Uint8Array): Promise<void> {
    // Nobody else listens by now.
    socket.on("error", () => {});
    const peer = this.#asked(message);
    if (peer === undefined) return void socket.destroy();
    const leaving = new AbortController();
    socket.on("close", () => leaving.abort());
    const upgrade: Upgrade = { message, socket, head, isTaken: false };
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
    asked: {
      readonly hasBody?: boolean;
      readonly upgrade?: Upgrade;
      readonly signal: AbortSignal;
    },
  ): Promise<Response> {
    const { retryAfterS } = peer.admitted;
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
    const { hasBody = false, upgrade, signal } = asked;
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
      // As the runtime's own server does.
      // deno-lint-ignore no-console
      console.error(error);
      return new Response("Internal Server Error", { status: 500 });
    }
  }

  /** The peer of a request, which is no longer pending. */
  #asked({ socket }: IncomingMessage): Peer | undefined {
    const peer = this.#peers.get(keyOf(socket));
    if (peer === undefined) return undefined;
    this.#handshakes.delete(peer);
    peer.admitted.asked();
    return peer;
  }
}

/** Says what is wrong with bytes that are no request, or not in time. */
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

/** The part of node:net that listens at once. */
interface SynchronousNet {
  /** A socket that is bound; a number where that failed. */
  _createServerHandle(address: string, port: number, family: 4 | 6): object | number;
}

/** Listens, and knows where: with a host, `listen` would tell that in a later turn. */
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
    // What it says in a later turn is thrown below.
    server.on("error", () => {});
    server.listen(handle);
    const found = server.address();
    if (typeof found === "object" && found !== null) {
      return { transport: "tcp", hostname: found.address, port: found.port };
    }
  }
  // Says why it is impossible, in the words of the runtime.
  listenAt({ hostname, port, transport: "TCP" }, () => Deno.listen({ hostname, port }).close());
  throw new Deno.errors.AddrNotAvailable(`Cannot listen on ${hostname}:${port}`);
}

/** The address of a name, by the runtime's resolver, which answers at once. */
function resolve(hostname: string): string {
  using listener = Deno.listen({ hostname, port: 0 });
  return listener.addr.hostname;
}
