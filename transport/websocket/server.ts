/**
 * The server half of the WebSocket connection, on `Deno.upgradeWebSocket`.
 *
 * What the runtime cannot do, and what follows: it has no receive limit and no
 * read pause, so size limits apply once a message is there; it cannot drop a
 * peer that stopped reading, or that does not answer a close, so what was handed
 * to it stays with it until that peer reads or leaves. Sessions hand it little
 * for that reason, and are over for the application at once; sockets are counted
 * until their real end (see {@linkcode SocketLease}). An idle timeout is no help
 * there: the runtime stops it when the socket is closed, and it would cost a
 * timer each message.
 *
 * @module
 */
import { ServerWebSocketConnection, type SocketLease } from "./server_socket.ts";
import { withStreams } from "./streams.ts";
import type { Connection, FlowControlOptions } from "../connection.ts";
import type { MessageStreamOptions } from "../message_stream/message_stream.ts";
import { parseQmuxProtocol } from "../qmux/versions.ts";

export type { SocketLease } from "./server_socket.ts";

/** Options for {@linkcode acceptWebSocket}. */
export interface AcceptWebSocketOptions {
  /** The subprotocol to answer with: one that the peer offered. */
  readonly protocol?: string;
  /**
   * Closes a peer that shows no sign of life for this long, in milliseconds;
   * the runtime sends a WebSocket ping after half of it. 0 turns that off.
   * It ends with the first call of `close`, whether the peer answers that or not.
   *
   * @default {60000}
   */
  readonly idleTimeoutMs?: number;
  /** Counts for the socket, until the runtime let it go. */
  readonly lease?: SocketLease;
  /** How much the peer may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Bounds of the stream that carries the messages of `qmux-NN.skein.1`. */
  readonly messages?: Pick<MessageStreamOptions, "maxFrameBytes" | "streamTimeoutMs">;
  /**
   * Resolves once the peer is admitted, where its token is to come first. Until then an engine SHOULD
   * take no more than that: no streams and datagrams of `skein.1`, and 16 KiB of the first stream of
   * `qmux-NN.skein.1`. At once by default.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

/** A WebSocket that was accepted. */
export interface AcceptedWebSocket {
  /** The connection; `ready` resolves once the response went out. */
  readonly connection: Connection;
  /** MUST be returned from the HTTP handler. */
  readonly response: Response;
}

/**
 * What accepts WebSockets: the seam where another engine can stand beside
 * {@linkcode acceptWebSocket}.
 *
 * - It MUST throw a `TypeError` if the request is no upgrade. A server hands it only requests that
 *   are one by RFC 6455: method, host, version and key are checked before.
 * - It MUST NOT read the request's body.
 * - It MUST dispose of `lease` once the socket is really gone, whatever became
 *   of the connection before; who throws, leaves that to the caller.
 */
export type WebSocketEngine = (
  request: Request,
  options?: AcceptWebSocketOptions,
) => AcceptedWebSocket;

/** An HTTP server that listens. */
export interface HttpListener {
  /** Where it listens. */
  readonly addr: Deno.NetAddr;
  /** Stops listening, and ends every connection; those that wait for an answer last. Idempotent. */
  shutdown(): Promise<void>;
}

/** How a {@linkcode WebSocketHost} listens. */
export interface HttpListenOptions {
  /** TCP port; 0 takes a free one. */
  readonly port: number;
  /** Address. */
  readonly hostname: string;
  /** Certificate and key in PEM; in the clear without. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /** Connections at once. */
  readonly maxConnections?: number | undefined;
  /** Connections of one network address at once. */
  readonly maxConnectionsPerAddress?: number | undefined;
}

/** Answers a request; `remoteAddr` is where it came from. */
export type HttpHandler = (
  request: Request,
  info: { readonly remoteAddr: Deno.NetAddr },
) => Response | Promise<Response>;

/** A {@linkcode WebSocketEngine} with an HTTP server of its own, in the place of `Deno.serve`. */
export interface WebSocketHost {
  /** Accepts upgrades that its own server handed out. */
  readonly accept: WebSocketEngine;
  /**
   * Listens.
   *
   * @param options See {@linkcode HttpListenOptions}.
   * @param handler Answers requests.
   * @returns The server.
   * @throws {Deno.errors.AddrInUse} If the port is taken.
   */
  listen(options: HttpListenOptions, handler: HttpHandler): HttpListener;
}

/**
 * Accepts a WebSocket.
 *
 * - **`skein.1`:** the connection has message frames, and streams and datagrams beside them.
 * - **QMux:** with `qmux-01`, `qmux-01.chat` or the like, it has streams and datagrams; its
 *   `protocol` is what stands behind the point. Messages of `qmux-01.skein.1` travel on the first
 *   stream of the peer.
 * - **Other subprotocols, and none:** message frames alone.
 *
 * @param request An upgrade request; see {@linkcode isWebSocketUpgrade}.
 * @param options See {@linkcode AcceptWebSocketOptions}.
 * @returns The connection, and the response to return.
 * @throws {TypeError} If the request is no WebSocket upgrade, or does not offer the protocol.
 */
export function acceptWebSocket(
  request: Request,
  options: AcceptWebSocketOptions = {},
): AcceptedWebSocket {
  const { protocol = "", idleTimeoutMs = 60_000, lease, flowControl, admitted } = options;
  const isOffered = protocol === "" || offeredProtocols(request).includes(protocol);
  if (!isOffered) {
    throw new TypeError(
      `Cannot accept WebSocket: protocol must be one that the peer offers, received "${protocol}"`,
    );
  }
  const { socket, response } = Deno.upgradeWebSocket(request, {
    idleTimeout: idleTimeoutMs / 1_000,
  });
  // Not by the runtime's own option: it does not find a protocol behind a comma without a space.
  if (protocol !== "") response.headers.set("sec-websocket-protocol", protocol);
  const wire = { lease, flowControl, admitted };
  const connection = new ServerWebSocketConnection(socket, { protocol, ...wire });
  if (parseQmuxProtocol(protocol) === undefined) return { connection, response };
  const streams = withStreams(connection, { ...options.messages, ...wire, side: "server" });
  return { connection: streams, response };
}

/**
 * Tells whether a request wants to become a WebSocket.
 *
 * @param request Any request.
 * @returns Whether it is an upgrade.
 *
 * @example Usage
 * ```ts
 * import { isWebSocketUpgrade } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(isWebSocketUpgrade(new Request("http://localhost/")), false);
 * ```
 */
export function isWebSocketUpgrade(request: Request): boolean {
  return request.headers.get("upgrade")?.toLowerCase() === "websocket";
}

/** The only version of the protocol that there is (RFC 6455). */
const VERSION = "13";

/** 16 bytes in base64: of its last letter only two bits count, and clients differ in the others. */
const KEY = /^[A-Za-z0-9+/]{22}==$/;

/** The word among those of a `Connection` header. */
const CONNECTION_UPGRADE = /(?:^|,)\s*upgrade\s*(?:,|$)/i;

/** A fault of an upgrade request, and its answer. */
export interface UpgradeFault {
  /** HTTP status. */
  readonly status: number;
  /** The fault in a sentence, which is the body of the answer. */
  readonly message: string;
  /** Headers of the answer. */
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Checks an upgrade request by RFC 6455, section 4.2.1: an engine may take what it forbids.
 *
 * @param request An upgrade request; see {@linkcode isWebSocketUpgrade}.
 * @returns The first fault; `undefined` if there is none.
 */
export function findUpgradeFault({ method, headers }: Request): UpgradeFault | undefined {
  if (method !== "GET") {
    return faultOf(405, `the method must be GET, received ${method}`, { allow: "GET" });
  }
  if (!headers.get("host")) return faultOf(400, "the request must have a Host");
  if (!CONNECTION_UPGRADE.test(headers.get("connection") ?? "")) {
    return faultOf(400, "Connection must have upgrade among its words");
  }
  const version = headers.get("sec-websocket-version");
  if (version !== VERSION) {
    const received = version === null ? "none" : version.slice(0, 20);
    return faultOf(426, `Sec-WebSocket-Version must be ${VERSION}, received ${received}`, {
      connection: "upgrade",
      upgrade: "websocket",
      "sec-websocket-version": VERSION,
    });
  }
  if (KEY.test(headers.get("sec-websocket-key") ?? "")) return undefined;
  return faultOf(400, "Sec-WebSocket-Key must be 16 bytes in base64");
}

function faultOf(
  status: number,
  rule: string,
  headers: UpgradeFault["headers"] = {},
): UpgradeFault {
  return { status, message: `Cannot upgrade to WebSocket: ${rule}`, headers };
}

/**
 * Lists the subprotocols that a peer offers.
 *
 * @param request An upgrade request.
 * @returns The protocols, in the peer's order.
 */
export function offeredProtocols(request: Request): string[] {
  const header = request.headers.get("sec-websocket-protocol");
  return header === null ? [] : header.split(",").map((protocol) => protocol.trim());
}
