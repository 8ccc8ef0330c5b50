/**
 * The server half of the WebSocket connection, based on `Deno.upgradeWebSocket`. Clients do not
 * load this code.
 *
 * The runtime has three limits:
 *
 * - It cannot limit the size of a message while it is read, and it cannot pause reading. Size
 *   limits therefore apply only after a message has arrived.
 * - It cannot drop a peer that has stopped reading or does not reply to a close. Bytes passed to
 *   the runtime stay there until that peer reads or disconnects. A session therefore passes few
 *   bytes at a time to the runtime. When the session ends, the application learns this immediately,
 *   but the socket is counted until it is really gone (see {@linkcode SocketLease}).
 * - Its idle timeout does not help here, because the runtime stops the timeout when the socket is
 *   closed, and because the timeout would cost a timer for each message.
 */
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, numberIn, RUNTIME } from "../../base/options/option_checks.ts";
import { requireDeno } from "../../base/platform.ts";
import { CloseCode } from "../../errors.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { Quotas } from "../../base/quotas/shares.ts";
import type { Connection, ConnectionCloseInfo, FlowControlOptions } from "../connection.ts";
import {
  MESSAGE_STREAM,
  type MessageStreamOptions,
  withMessages,
} from "../message_stream/server.ts";
import { FLOW_CONTROL } from "../option_kinds.ts";
import { CREDIT_KINDS } from "../qmux/credit.ts";
import type { Multiplexer } from "../qmux/multiplexer.ts";
import type { Qmux } from "../qmux/qmux.ts";
import { parseQmuxProtocol } from "../qmux/versions.ts";
import {
  WebSocketConnection,
  type WebSocketConnectionOptions,
  type WebSocketLike,
} from "./connection.ts";
import { openStreams, withStreams } from "./streams.ts";

/**
 * Counts one socket from the upgrade until disposal. It is disposed of when the socket is really
 * gone, even if the connection ended earlier.
 */
export interface SocketLease extends Disposable {
  /**
   * Reports that this side has closed the socket, and that the peer has not replied yet.
   * Idempotent.
   */
  closing(): void;
  /** Reports that the socket is gone. Idempotent. */
  [Symbol.dispose](): void;
}

/** The options for {@linkcode acceptWebSocket}. */
export interface AcceptWebSocketOptions {
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** The selected subprotocol. The peer must have offered it. */
  readonly protocol?: string | undefined;
  /**
   * Headers to add to the upgrade response. There are none by default.
   */
  readonly headers?: HeadersInit | undefined;
  /**
   * How long a peer may show no sign of life before its connection is closed, in milliseconds. The
   * runtime sends a WebSocket ping after half of this time. 0 turns the timeout off. The timeout
   * stops at the first call of `close`, even if the peer does not reply.
   *
   * @default {60000}
   */
  readonly idleTimeoutMs?: number | undefined;
  /** The socket's lease, which is held until the runtime releases the socket. */
  readonly lease?: SocketLease | undefined;
  /** The amount that the peer may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** The limits of the stream that carries the messages with `qmux-NN.skein.1`. */
  readonly messages?:
    | Pick<
      MessageStreamOptions,
      "maxEarlyBytes" | "maxFrameBytes" | "streamTimeoutMs"
    >
    | undefined;
  /**
   * Resolves when a peer that must first send a token is admitted. Until then, an engine SHOULD
   * accept no more than the token. With `skein.1`, it should accept no streams or datagrams; with
   * `qmux-NN.skein.1`, only `maxEarlyBytes` of the first stream. By default, every peer is admitted
   * immediately.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

const ACCEPT: OptionKinds<AcceptWebSocketOptions> = {
  admitted: "object",
  flowControl: FLOW_CONTROL,
  headers: 0,
  idleTimeoutMs: numberIn({ min: 0, max: MAX_TIMER_MS }),
  lease: "object",
  messages: {
    maxEarlyBytes: MESSAGE_STREAM.maxEarlyBytes,
    maxFrameBytes: MESSAGE_STREAM.maxFrameBytes,
    streamTimeoutMs: MESSAGE_STREAM.streamTimeoutMs,
  },
  protocol: "string",
  runtime: RUNTIME,
};

/**
 * A function that accepts WebSockets. Another engine can replace {@linkcode acceptWebSocket}.
 *
 * - It MUST throw a `TypeError` if the request is not an upgrade. A server passes only upgrade
 *   requests that are valid according to RFC 6455; it has already checked the method, host, version
 *   and key.
 * - It MUST NOT read the request's body.
 * - It MUST dispose of `lease` once the socket is really gone, even if the connection ended
 *   earlier. If the engine throws, the caller disposes of the lease.
 */
export type WebSocketEngine = (
  request: Request,
  options?: AcceptWebSocketOptions,
) => {
  /** The connection. Its `ready` resolves once the response was sent. */
  readonly connection: Connection;
  /** The response, which MUST be returned from the HTTP handler. */
  readonly response: Response;
  /**
   * True if the connection is already open before the response is returned.
   *
   * @default {false}
   */
  readonly isOpen?: boolean | undefined;
};

export type AcceptedWebSocket = ReturnType<WebSocketEngine>;

/** The head of an upgrade request. Every `Request` is one. */
export interface UpgradeRequest extends Pick<Request, "method" | "url"> {
  readonly headers: Pick<Headers, "get" | "has" | typeof Symbol.iterator>;
}

/** An upgrade request that can be accepted without a `Request`. */
export interface OfferedUpgrade extends UpgradeRequest {
  /** The request for the application. A host may create it on first use. */
  readonly request: Request;
  /**
   * Accepts the upgrade, which MUST be valid; see {@linkcode findUpgradeFault}.
   *
   * @param options The options of the engine. The peer MUST have offered the subprotocol.
   * @throws {TypeError} If the peer has disconnected.
   */
  accept(options: AcceptWebSocketOptions): AcceptedWebSocket;
}

/** The options of {@linkcode WebSocketHost.listen}. */
export interface HttpListenOptions {
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** The TCP port; 0 selects a free port. */
  readonly port: number;
  /** The address to listen on. */
  readonly hostname: string;
  /** The certificate and key in PEM. Without them, the server does not use TLS. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /**
   * Lets other processes listen on the same TCP port; see `reusePort` of `serve`.
   *
   * @default {false}
   */
  readonly reusePort?: boolean | undefined;
  /**
   * The largest message that the server accepts from peers, in bytes. A host with a lower limit
   * MUST throw a `RangeError`, because peers rely on the server's limit.
   */
  readonly maxFrameBytes?: number | undefined;
  /** The maximum number of simultaneous connections. */
  readonly maxConnections?: number | undefined;
  /**
   * The maximum number of simultaneous connections per network address. By default, an address is
   * limited to a share once more than half of all connections are in use.
   */
  readonly maxConnectionsPerAddress?: number | undefined;
  /**
   * All quotas of the server, for a host that uses them. The server provides them.
   *
   * @internal
   */
  readonly quotas?: Quotas | undefined;
}

/**
 * A handler of upgrades without a `Request`. It returns `undefined` for an upgrade that needs a
 * `Request`.
 */
export type UpgradeHandler = (
  upgrade: OfferedUpgrade,
  info: { readonly remoteAddr: Deno.NetAddr },
) => Response | Promise<Response> | undefined;

/** A handler of requests. `remoteAddr` is the address of the peer. */
export type HttpHandler = (
  request: Request,
  info: { readonly remoteAddr: Deno.NetAddr },
) => Response | Promise<Response>;

/** A {@linkcode WebSocketEngine} with its own HTTP server instead of `Deno.serve`. */
export interface WebSocketHost {
  /** Accepts upgrades from this host's own server. */
  readonly accept: WebSocketEngine;
  /**
   * Starts an HTTP server.
   *
   * @param options The address, certificate and limits.
   * @param handler Responds to each request, including upgrades.
   * @returns The server.
   * @throws {Deno.errors.AddrInUse} If the port is already in use.
   */
  listen(
    options: HttpListenOptions,
    handler: (
      request: Request,
      info: { readonly remoteAddr: Deno.NetAddr },
    ) => Response | Promise<Response>,
  ): {
    /** The address that the server listens on. */
    readonly addr: Deno.NetAddr;
    /**
     * Stops listening, and ends every connection. Connections with an unfinished response end last.
     * Idempotent.
     *
     * @param options The time that the server allows for unfinished responses, in milliseconds. A
     * host may allow more.
     */
    shutdown(options?: { readonly responsesMs?: number | undefined }): Promise<void>;
    /**
     * Stops reading the bodies of incomplete requests. Their reads reject, but the handler's
     * response is still sent. Called once, before `shutdown`. Idempotent.
     */
    cutBodies?(): void;
  };
}

/**
 * A host that may also offer upgrades before there is a `Request`, because creating a `Request`
 * takes longer than creating a session. Every host qualifies: a host without support for
 * `onUpgrade` calls only `handler`.
 */
export interface UpgradeHost extends WebSocketHost {
  /**
   * Starts an HTTP server.
   *
   * @param onUpgrade The handler of upgrades, which is called first. If it returns `undefined`,
   * `handler` is called.
   */
  listen(
    options: HttpListenOptions,
    handler: HttpHandler,
    onUpgrade?: UpgradeHandler,
  ): ReturnType<WebSocketHost["listen"]>;
}

export type HttpListener = ReturnType<WebSocketHost["listen"]>;

/**
 * Accepts a WebSocket. {@linkcode isWebSocketUpgrade} finds the requests for one.
 *
 * - **`skein.1`:** the connection has message frames, streams and datagrams.
 * - **QMux:** with a subprotocol such as `qmux-01` or `qmux-01.chat`, the connection has streams
 *   and datagrams. Its `protocol` is the part after the dot. With `qmux-01.skein.1`, the peer's
 *   first stream carries messages.
 * - **Other subprotocols, or none:** the connection has only message frames.
 *
 * @param request An upgrade request.
 * @param options The subprotocol, timeouts and limits.
 * @returns The connection, and the response to return.
 * @throws {TypeError} If the request is not a WebSocket upgrade, or if it does not offer the
 * protocol.
 */
export function acceptWebSocket(
  request: Request,
  options: AcceptWebSocketOptions = {},
): ReturnType<WebSocketEngine> {
  checkOptions("accept WebSocket", options, ACCEPT);
  return acceptUpgrade(request, options);
}

/**
 * Accepts a WebSocket as {@linkcode acceptWebSocket} does, without a check of the options.
 *
 * @ignore
 */
export function acceptUpgrade(
  request: Request,
  options: AcceptWebSocketOptions = {},
): ReturnType<WebSocketEngine> {
  const { runtime = platformRuntime(), protocol = "", idleTimeoutMs = 60_000 } = options;
  const { lease, flowControl, messages, admitted } = options;
  checkOffered(request, protocol);
  const fields = fieldsOf(options.headers); // An upgraded request can no longer be rejected.
  requireDeno("accept WebSocket", "serve() must listen, with hardenedWebSocket()");
  const { socket, response } = Deno.upgradeWebSocket(request, {
    idleTimeout: idleTimeoutMs / 1_000,
  });
  // The runtime's own option does not find a protocol after a comma without a space.
  if (protocol !== "") response.headers.set("sec-websocket-protocol", protocol);
  for (const [name, value] of fields) response.headers.append(name, value);
  const connection = new ServerWebSocketConnection(socket, {
    runtime,
    protocol,
    lease,
    flowControl,
    admitted,
    events: SERVER_EVENTS,
  });
  const streams = { runtime, flowControl, messages, admitted };
  return { connection: withAgreedStreams(connection, streams), response };
}

/**
 * Checks the additional headers of a response.
 *
 * @param headers The headers, or `undefined` for none.
 * @returns The names and values, without line breaks.
 * @throws {TypeError} If a name or a value is malformed.
 */
export function fieldsOf(headers: HeadersInit | undefined): Iterable<[string, string]> {
  return headers === undefined ? [] : new Headers(headers);
}

/**
 * Checks the subprotocol of a response.
 *
 * @param protocol The subprotocol, or `""` for none.
 * @throws {TypeError} If the peer does not offer the subprotocol.
 */
export function checkOffered(request: UpgradeRequest, protocol: string): void {
  if (protocol === "" || offeredProtocols(request).includes(protocol)) return;
  throw new TypeError(
    `Cannot accept WebSocket: protocol must be one that the peer offers, received "${protocol}"`,
  );
}

/**
 * Adds the streams of a QMux subprotocol to a server's WebSocket. If the subprotocol names
 * `skein.1`, messages are added too.
 *
 * @param connection The WebSocket. With any subprotocol other than QMux, it is returned unchanged.
 * @param options The listener's runtime, and the caller's limits.
 */
export function withAgreedStreams(
  connection: Connection,
  options:
    & Pick<AcceptWebSocketOptions, "flowControl" | "messages" | "admitted">
    & { readonly runtime: Runtime },
): Connection {
  const { protocol } = connection;
  if (parseQmuxProtocol(protocol) === undefined) return connection;
  const { runtime, flowControl, messages, admitted } = options;
  const carry = (streams: Connection) =>
    withMessages(streams, { ...messages, runtime, admitted, side: "server" });
  const hold = admitted && ((qmux: Qmux) => holdUntil(qmux, admitted, messages?.maxEarlyBytes));
  return withStreams(connection, { runtime, flowControl, hold, carry, side: "server" });
}

/**
 * Returns whether a request is an upgrade to a WebSocket, for {@linkcode acceptWebSocket}.
 *
 * - **Only `Upgrade`** is read, in any case. The engine checks the rest of the handshake.
 *
 * @param request The request, or only its headers.
 * @returns True if the request asks for a WebSocket; false for all other requests, which your own
 * handler answers.
 *
 * @example WebSockets and pages on one port
 * ```ts
 * import { acceptWebSocket, dialWebSocket, isWebSocketUpgrade } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = Deno.serve({ port: 0, onListen() {} }, (request) => {
 *   if (!isWebSocketUpgrade(request)) return new Response("a page");
 *   return acceptWebSocket(request).response;
 * });
 * const { port } = server.addr;
 * await using connection = await dialWebSocket(`ws://localhost:${port}`);
 * assertEquals(connection.capabilities.streams, false);
 * assertEquals(await (await fetch(`http://localhost:${port}`)).text(), "a page");
 * ```
 */
export function isWebSocketUpgrade(
  request: { readonly headers: Pick<Headers, "get"> },
): boolean {
  return request.headers.get("upgrade")?.toLowerCase() === "websocket";
}

/** The only version of the WebSocket protocol (RFC 6455). */
const VERSION = "13";

/**
 * Matches 16 bytes in base64. Only two bits of the last letter are significant, and clients differ
 * in the others.
 */
const KEY = /^[A-Za-z0-9+/]{22}==$/;

/** The word `upgrade` in a `Connection` header. */
const CONNECTION_UPGRADE = /(?:^|,)\s*upgrade\s*(?:,|$)/i;

/** A fault of an upgrade request, with the response to send. */
export interface UpgradeFault {
  readonly status: number;
  /** A description of the fault, which is sent as the body of the response. */
  readonly message: string;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Checks an upgrade request according to RFC 6455, section 4.2.1, because an engine may be more
 * lenient.
 *
 * @returns The first fault, or `undefined` if the request is valid.
 */
export function findUpgradeFault(
  { method, headers }: UpgradeRequest,
): UpgradeFault | undefined {
  if (method !== "GET") {
    return faultOf(405, `the method must be GET, received ${method}`, { allow: "GET" });
  }
  if (!headers.get("host")) return faultOf(400, "the request must have a Host header");
  if (!CONNECTION_UPGRADE.test(headers.get("connection") ?? "")) {
    return faultOf(400, "Connection must include upgrade");
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
 * @returns The protocols, in the order of the header.
 */
export function offeredProtocols(request: UpgradeRequest): string[] {
  const header = request.headers.get("sec-websocket-protocol");
  return header === null ? [] : header.split(",").map((protocol) => protocol.trim());
}

const CLOSING = 2;

/** The events of a server's socket. Its close event includes the information of its error event. */
const SERVER_EVENTS = ["open", "message", "close"] as const;

/** The options of a {@linkcode ServerWebSocketConnection}. */
export interface ServerWebSocketOptions extends Pick<WebSocketConnectionOptions, "events"> {
  readonly runtime: Runtime;
  /** The subprotocol selected by the server, which Deno's socket does not report. */
  readonly protocol: string;
  readonly lease?: SocketLease | undefined;
  /** The amount that the peer may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Resolves when the peer is admitted. Until then, streams and datagrams are rejected. By default,
   * every peer is admitted immediately.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

export class ServerWebSocketConnection extends WebSocketConnection {
  readonly #socket: WebSocketLike;
  readonly #protocol: string;
  readonly #lease: SocketLease | undefined;
  #isAdmitted: boolean;

  constructor(socket: WebSocketLike, options: ServerWebSocketOptions) {
    const { protocol, lease, admitted } = options;
    super(socket, options);
    this.#isAdmitted = admitted === undefined;
    admitted?.then(() => this.#isAdmitted = true, () => {});
    this.#socket = socket;
    this.#protocol = protocol;
    this.#lease = lease;
  }

  override get side(): "server" {
    return "server";
  }

  override get protocol(): string {
    return this.#protocol;
  }

  override handleEvent(event: Event): void {
    if (event.type === "close") this.#lease?.[Symbol.dispose]();
    super.handleEvent(event);
    // `close()` may have been called before the socket opened.
    if (event.type === "open") this.#tellClosing();
  }

  /** Closes the socket after sending all earlier frames. */
  override close(info?: ConnectionCloseInfo): void {
    super.close(info);
    this.#tellClosing();
  }

  /**
   * Rejects streams and datagrams before the peer is admitted, because only a message with a token
   * is allowed.
   */
  protected override rejectsRecords(): boolean {
    if (this.#isAdmitted) return false;
    const reason = "Expected a token and nothing else";
    this.close({ closeCode: CloseCode.unauthenticated, reason });
    return true;
  }

  /** Creates the multiplexer without loading code. */
  protected override openStreams(): Multiplexer {
    return openStreams(this);
  }

  /** Ends the connection, and keeps the lease until the runtime releases the socket. */
  protected override giveUp(): void {
    super.giveUp();
    const lease = this.#lease;
    if (lease === undefined) return;
    this.#socket.addEventListener("close", () => lease[Symbol.dispose](), { once: true });
  }

  #tellClosing(): void {
    if (this.#socket.readyState === CLOSING) this.#lease?.closing();
  }
}

/**
 * The credit until a peer is admitted, for example before a client sends its token. It is enough
 * for the stream with the token and a few others.
 */
const HELD = { data: 20_480, bidirectional: 8, unidirectional: 8 };

/**
 * Accepts no datagrams and little stream data until the peer is admitted.
 *
 * @param qmux A multiplexer that has not started. If it uses the framing from before the drafts, it
 * has no credit and stays unchanged.
 * @param admitted Resolves when the peer is admitted.
 * @param data The maximum number of bytes of stream data.
 */
function holdUntil(qmux: Qmux, admitted: Promise<unknown>, data: number = HELD.data): void {
  const { credit } = qmux;
  if (credit === undefined) return;
  const windows = CREDIT_KINDS.map((kind) => {
    const { receive } = credit.of(kind);
    const { window } = receive;
    receive.resize(Math.min(window, kind === "data" ? data : HELD[kind]));
    return () => receive.resize(window);
  });
  qmux.dropsDatagrams = true;
  admitted.then(() => {
    qmux.dropsDatagrams = false;
    windows.forEach((open) => open());
  }, () => {});
}
