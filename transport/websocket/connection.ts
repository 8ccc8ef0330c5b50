/** Dials WebSocket connections, and contains the code that client and server share. */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { isResponseWithoutTls } from "../deno_errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { textOf } from "../../base/error_text.ts";
import { checkCloseInfo } from "../close_info.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionCredit,
  ConnectionInspection,
  ConnectionObserver,
  ConnectionStats,
  DatagramDuplex,
  FlowControlOptions,
  Frame,
  FramePart,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { FrameInbox } from "../frame_inbox.ts";
import type { Multiplexer, StreamsHost } from "../qmux/multiplexer.ts";
import { parseServerUrl, publicUrl } from "../url.ts";

/** The options for {@linkcode dialWebSocket}. */
export interface DialWebSocketOptions {
  /** The subprotocols to offer, in order of preference. */
  readonly protocols?: readonly string[] | undefined;
  /**
   * The request headers. Only Deno supports this, because browsers do not allow request headers.
   */
  readonly headers?: HeadersInit | undefined;
  /** The amount that the server may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Cancels the attempt. */
  readonly signal?: AbortSignal | undefined;
  /**
   * The timeout, in milliseconds. `Infinity` waits without limit.
   *
   * @default {10000}
   */
  readonly timeoutMs?: number | undefined;
}

/**
 * The code for streams and datagrams on a WebSocket. A page that uses only messages does not load
 * it.
 */
export type StreamsPart = Pick<
  typeof import("./streams.ts"),
  "openStreams" | "withStreams"
>;

/** Loads a {@linkcode StreamsPart}. */
export type LoadStreams = () => Promise<StreamsPart>;

interface OpenWebSocketOptions extends DialWebSocketOptions {
  readonly runtime: Runtime;
  /** Loads the code for streams and datagrams. */
  readonly load: LoadStreams;
  /** Creates the socket. The default creates the platform's `WebSocket`. */
  readonly socket?: typeof openSocket | undefined;
  /** The name of the transport; `websocket` by default. */
  readonly name?: string | undefined;
}

/** Opens a WebSocket connection, as `dialWebSocket` documents. */
export async function openWebSocket(
  url: string | URL,
  options: OpenWebSocketOptions,
): Promise<Connection> {
  const { runtime, protocols = [], headers, flowControl, signal, timeoutMs = 10_000, load } =
    options;
  const { socket = openSocket, name } = options;
  signal?.throwIfAborted();
  const target = parseServerUrl(url);
  target.protocol = target.protocol.replace("http", "ws");
  const loadStreams: LoadStreams = () =>
    load().catch((cause) => {
      if (cause instanceof UnsupportedError) throw cause;
      throw new ConnectionError("Cannot load streams", { cause });
    });
  const connection = new WebSocketConnection(socket(target, protocols, headers), {
    runtime,
    flowControl,
    loadStreams,
    name,
  });
  const open = async () => {
    await connection.ready;
    if (!/^(qmux-|webtransport$)/.test(connection.protocol)) return connection;
    const { withStreams } = await loadStreams();
    return withStreams(connection, { runtime, side: "client", flowControl });
  };
  try {
    const late = `Cannot open WebSocket to ${publicUrl(target)} within`;
    return await within(runtime, open(), { late, signal, timeoutMs });
  } catch (error) {
    connection.abandon();
    throw error;
  }
}

function openSocket(
  url: URL,
  protocols: readonly string[],
  headers: HeadersInit | undefined,
): WebSocketLike {
  const offered = [...protocols];
  // Deno's constructor also accepts an object, which the web's types do not declare.
  const Socket = WebSocket as unknown as new (
    url: URL,
    options: string[] | { protocols: string[]; headers: HeadersInit },
  ) => WebSocket;
  try {
    return new Socket(url, headers ? { protocols: offered, headers } : offered);
  } catch (cause) {
    throw headers ? new TypeError("Cannot open WebSocket with headers", { cause }) : cause;
  }
}

/** The number of buffered bytes at or below which the socket counts as drained. */
const LOW_WATER_MARK = 32_768;

/**
 * The first and longest interval between checks for a drained socket, in milliseconds. The checks
 * are needed because sockets emit no event when they drain.
 */
const FIRST_POLL_MS = 2;
const LAST_POLL_MS = 50;

/** How long a peer may take to reply to a close, in milliseconds. */
const CLOSE_TIMEOUT_MS = 5_000;

/**
 * The subprotocol with streams and datagrams. Its binary frames are QMux records, unless they are
 * messages.
 */
const STREAMS_PROTOCOL = "skein.1";

/**
 * The maximum bytes of records held while the code for streams loads. A peer may not send much
 * before it gets a reply.
 */
const MAX_EARLY_BYTES = 65_536;

/** The largest datagram between two sides of Skein, in bytes. */
const MAX_DATAGRAM_BYTES = 16_379;

const LOOPBACK = /^wss:\/\/(localhost|127(\.\d+){3}|\[::1\])[:/]/;

const FRAMES_ONLY: ConnectionCapabilities = Object.freeze({
  streams: false,
  datagrams: "none",
  resetCodes: false,
  credit: false,
  independentStreams: false,
});

const FRAMES_AND_STREAMS: ConnectionCapabilities = Object.freeze({
  ...FRAMES_ONLY,
  streams: true,
  datagrams: "reliable",
  resetCodes: true,
  credit: true,
});

/**
 * The members of a WebSocket that a connection uses. The sockets of Deno and of browsers both have
 * them.
 */
export type WebSocketLike =
  & Pick<
    WebSocket,
    | "addEventListener"
    | "binaryType"
    | "bufferedAmount"
    | "close"
    | "protocol"
    | "readyState"
    | "removeEventListener"
  >
  & Pick<MessageFrames, "send">
  & Partial<Pick<WebSocket, "url">>;

const EVENTS = ["open", "message", "close", "error"] as const;
const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;

/** The options of a {@linkcode WebSocketConnection}. */
export interface WebSocketConnectionOptions {
  readonly runtime: Runtime;
  /** The amount that the peer may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Loads the code for streams, on an end that has not loaded it yet. */
  readonly loadStreams?: LoadStreams | undefined;
  /**
   * The name of the transport.
   *
   * @default {"websocket"}
   */
  readonly name?: string | undefined;
  /**
   * The socket's events to listen to. Each uses memory for as long as the socket is open.
   *
   * @default {["open", "message", "close", "error"]}
   */
  readonly events?: readonly SocketEventName[] | undefined;
}

export type SocketEventName = typeof EVENTS[number];

/**
 * A connection on a WebSocket, which may still be opening. It implements `frames` and the event
 * listener itself, so that an idle connection does not hold a dozen closures.
 *
 * With `skein.1`, the binary frames that are not messages carry streams and datagrams. The
 * multiplexer is created when the first such frame is sent or received.
 */
export class WebSocketConnection
  implements Connection, ConnectionInspection, MessageFrames, EventListenerObject, StreamsHost {
  declare readonly transport: string;
  readonly lowWaterMark = LOW_WATER_MARK;

  readonly #socket: WebSocketLike;
  readonly #loadStreams: LoadStreams | undefined;
  readonly #inbox = new FrameInbox();
  #closed: PromiseWithResolvers<ConnectionCloseInfo> | undefined;
  #ready: PromiseWithResolvers<void> | undefined;
  #streams: Multiplexer | undefined;
  #loading: Promise<Multiplexer> | undefined;
  #earlyBytes = 0;
  #datagrams: DatagramDuplex | undefined;
  #bidirectional: ReadableStream<BidirectionalStream> | undefined;
  #unidirectional: ReadableStream<ReceiveStream> | undefined;
  #closing: Required<ConnectionCloseInfo> | undefined;
  #closeEvent: CloseDetails | undefined;
  #wasOpen = false;
  #failure: unknown;
  #drained: PromiseWithResolvers<void> | undefined;
  #poll: Timer | undefined;
  #lingering: Timer | undefined;
  #framesSent = 0;
  #framesReceived = 0;

  observer: ConnectionObserver | undefined = undefined;
  declare readonly flowControl: FlowControlOptions | undefined;

  declare readonly runtime: Runtime;

  constructor(socket: WebSocketLike, options: WebSocketConnectionOptions) {
    const { runtime, flowControl, loadStreams, name = "websocket" } = options;
    this.transport = name;
    this.runtime = runtime;
    this.#socket = socket;
    this.#loadStreams = loadStreams;
    this.flowControl = flowControl;
    socket.binaryType = "arraybuffer";
    for (const type of options.events ?? EVENTS) socket.addEventListener(type, this);
  }

  /** The capabilities, with streams and datagrams for `skein.1`. */
  get capabilities(): ConnectionCapabilities {
    return this.hasStreams ? FRAMES_AND_STREAMS : FRAMES_ONLY;
  }

  get hasStreams(): boolean {
    return this.protocol === STREAMS_PROTOCOL;
  }

  get side(): "client" | "server" {
    return "client";
  }

  get frames(): MessageFrames {
    return this;
  }

  get bufferedAmount(): number {
    // React Native's WebSocket does not report it.
    return this.#closeEvent === undefined ? this.#socket.bufferedAmount ?? 0 : 0;
  }

  handleEvent(event: Event): void {
    switch (event.type) {
      case "message":
        return this.#onMessage((event as MessageEvent).data);
      case "open":
        return this.#onOpen();
      case "close":
        return this.#end(event as CloseEvent);
      default: {
        const { error, message } = event as Event & { error?: unknown; message?: unknown };
        this.#failure = error ?? message ?? "unknown";
      }
    }
  }

  /** Sends a frame or a record. Ignored unless the socket is open. */
  send(frame: Frame, parts?: readonly FramePart[]): void {
    if (this.#socket.readyState !== OPEN) return;
    if (!this.#isRecord(frame)) this.#framesSent++;
    this.#socket.send(frame, parts);
  }

  receive(receiver: FrameReceiver): void {
    this.#inbox.receive(receiver);
  }

  drained(): Promise<void> {
    if (this.#drained !== undefined) return this.#drained.promise;
    if (this.bufferedAmount <= LOW_WATER_MARK) return Promise.resolve();
    const drained = this.#drained = Promise.withResolvers<void>();
    const poll = (waitMs: number) => {
      this.#poll = this.runtime.setTimeout(() => {
        if (this.bufferedAmount <= LOW_WATER_MARK) {
          this.#drained = undefined;
          drained.resolve();
        } else poll(Math.min(waitMs * 2, LAST_POLL_MS));
      }, waitMs);
    };
    poll(FIRST_POLL_MS);
    return drained.promise;
  }

  get protocol(): string {
    return this.#socket.protocol;
  }

  get ready(): Promise<void> {
    if (this.#wasOpen) return Promise.resolve();
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      if (this.#closeEvent !== undefined) this.#ready.reject(this.#broken());
    }
    return this.#ready.promise;
  }

  /** Resolves with the code and reason after the socket has closed. */
  get closed(): Promise<ConnectionCloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      this.#closed.promise.catch(() => {});
      this.#settleClosed();
    }
    return this.#closed.promise;
  }

  /** Never settles, because WebSocket has no such notice. */
  get draining(): Promise<void> {
    return new Promise(() => {});
  }

  /** The datagrams. Their code is loaded on first use. */
  get datagrams(): DatagramDuplex {
    return this.#datagrams ??= this.#loadedStreams?.datagrams ?? {
      readable: lateReadable(async () => (await this.#loadMultiplexer()).datagrams.readable),
      writable: lateWritable(async () => (await this.#loadMultiplexer()).datagrams.writable),
      maxDatagramSize: this.hasStreams ? MAX_DATAGRAM_BYTES : 0,
    };
  }

  /** The peer's streams. Without `skein.1`, this closes immediately. */
  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#bidirectional ??= this.#loadedStreams?.incomingBidirectionalStreams ??
      lateReadable(async () => (await this.#loadMultiplexer()).incomingBidirectionalStreams);
  }

  /** The peer's streams. Without `skein.1`, this closes immediately. */
  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#unidirectional ??= this.#loadedStreams?.incomingUnidirectionalStreams ??
      lateReadable(async () => (await this.#loadMultiplexer()).incomingUnidirectionalStreams);
  }

  get inspect(): ConnectionInspection {
    return this;
  }

  /** The counters. They are absent until the first stream or datagram. */
  get counters(): ConnectionCounters | undefined {
    return this.#streams?.inspect?.counters;
  }

  get unreadStreams(): number | undefined {
    return this.#streams?.inspect?.unreadStreams;
  }

  /**
   * The flow control of streams with `skein.1`. All amounts are 0 before the first use. A grant
   * counts as a use.
   */
  get credit(): ConnectionCredit | undefined {
    if (!this.hasStreams) return undefined;
    return this.#streams?.inspect?.credit ?? {
      // A caller may keep the object beyond the first use.
      state: (kind) =>
        this.#streams?.inspect?.credit?.state(kind) ??
          { granted: 0, received: 0, allowed: 0, sent: 0, waiting: 0 },
      grant: (kind, total) => {
        if (this.#loadedStreams) return this.#loadedStreams.inspect?.credit?.grant(kind, total);
        this.#loadMultiplexer().then(({ inspect }) => inspect?.credit?.grant(kind, total)).catch(
          () => {},
        );
      },
    };
  }

  /** Opens a bidirectional stream. Requires `skein.1`. */
  async createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    const streams = this.#loadedStreams ??
      await within(this.runtime, this.#loadMultiplexer(), options);
    return await streams.createBidirectionalStream(options);
  }

  /** Opens a unidirectional stream. Requires `skein.1`. */
  async createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    const streams = this.#loadedStreams ??
      await within(this.runtime, this.#loadMultiplexer(), options);
    return await streams.createUnidirectionalStream(options);
  }

  observe(observer: ConnectionObserver | undefined): void {
    this.observer = observer;
    this.#streams?.inspect?.observe?.(observer);
  }

  /** Closes the socket after sending all earlier frames. */
  close(info?: ConnectionCloseInfo): void {
    const checked = checkCloseInfo(info);
    if (this.#closeEvent !== undefined || this.#closing !== undefined) return;
    this.#closing = checked;
    this.#endStreams();
    // A browser's socket accepts no close code before it is open, so `#onOpen` closes it later.
    if (this.#socket.readyState !== CONNECTING) this.#closeSocket(checked);
  }

  getStats(): Promise<ConnectionStats> {
    return Promise.resolve({
      framesSent: this.#framesSent,
      framesReceived: this.#framesReceived,
    });
  }

  /** Closes the connection, and waits for the peer's close. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Cancels the opening of the socket. */
  abandon(): void {
    this.#closing ??= { closeCode: 0, reason: "" };
    this.#socket.close();
  }

  /**
   * Returns `true` if the peer may not send records yet, and closes the connection in that case.
   */
  protected rejectsRecords?(): boolean;

  /** Creates the multiplexer, on an end that has loaded its code. */
  protected openStreams?(): Multiplexer;

  /**
   * Ends the connection to a peer that does not reply to the close. The socket may remain longer.
   */
  protected giveUp(): void {
    this.#end({ code: 1006, reason: "", wasClean: false });
  }

  #closeSocket({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    if (this.#socket.readyState === CLOSED) return;
    this.#socket.close(closeCode === 0 ? 1000 : closeCode, reason);
    // A peer that does not read never replies, so end the connection without waiting for the
    // socket.
    this.#lingering = this.runtime.setTimeout(() => this.giveUp(), CLOSE_TIMEOUT_MS);
  }

  #overflow(): void {
    this.close({ closeCode: 4507, reason: "Too many frames arrived before a receiver was set" });
  }

  /** The multiplexer, if its code is loaded. */
  get #loadedStreams(): Multiplexer | undefined {
    return this.#streams ?? (this.openStreams && this.#begin(this.openStreams()));
  }

  #loadMultiplexer(): Promise<Multiplexer> {
    return this.#loading ??= this.#loadedStreams
      ? Promise.resolve(this.#loadedStreams)
      : this.#loadStreams!().then(({ openStreams }) => this.#begin(openStreams(this)));
  }

  #begin(streams: Multiplexer): Multiplexer {
    this.#streams = streams;
    if (this.#closing !== undefined || this.#closeEvent !== undefined) this.#endStreams();
    return streams;
  }

  /** Ends the streams once, either when this side closes or when the socket closes first. */
  #endStreams(): void {
    if (this.#streams === undefined) return;
    const isBroken = this.#closing === undefined && !this.#closeEvent!.wasClean;
    const error = isBroken ? this.#broken() : new ConnectionError("The connection was closed");
    this.#streams.end(error, isBroken);
  }

  #isRecord(frame: Frame): frame is Uint8Array {
    return typeof frame !== "string" && !(frame[0] === 0x40 && frame[1] === 0x53) &&
      this.hasStreams;
  }

  #onMessage(data: unknown): void {
    const frame = typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer);
    if (this.#isRecord(frame)) return this.#onRecord(frame);
    this.#framesReceived++;
    if (!this.#inbox.deliver(frame)) this.#overflow();
  }

  #onRecord(record: Uint8Array): void {
    if (this.#closing !== undefined || this.rejectsRecords?.()) return;
    if (this.#loadedStreams !== undefined) return this.#loadedStreams.receive(record);
    this.#earlyBytes += record.byteLength;
    if (this.#earlyBytes > MAX_EARLY_BYTES) this.#overflow();
    // A failure to load is reported to the next caller that opens a stream.
    else this.#loadMultiplexer().then((streams) => streams.receive(record), () => {});
  }

  #onOpen(): void {
    this.#wasOpen = true;
    if (this.#closing !== undefined) this.#closeSocket(this.#closing);
    this.#ready?.resolve();
    this.#ready = undefined;
    this.#socket.removeEventListener("open", this);
  }

  /** Ends the connection. Deno can fire the close event twice, so only the first one counts. */
  #end({ code, reason, wasClean }: CloseDetails): void {
    if (this.#closeEvent !== undefined) return;
    this.#closeEvent = { code, reason, wasClean };
    // The runtime keeps a broken socket, with its listeners, until the idle timer fires.
    for (const type of EVENTS) this.#socket.removeEventListener(type, this);
    if (!wasClean && reason !== "") this.#failure ??= reason;
    if (this.#closing === undefined) this.#endStreams();
    this.runtime.clearTimeout(this.#lingering);
    this.runtime.clearTimeout(this.#poll);
    this.#drained?.resolve();
    this.#ready?.reject(this.#broken());
    this.#settleClosed();
    this.#inbox.close();
  }

  #settleClosed(): void {
    if (this.#closed === undefined || this.#closeEvent === undefined) return;
    const { code, reason, wasClean } = this.#closeEvent;
    // A close by this side keeps its own reason, even if the peer's echo differs or the network
    // fails.
    if (this.#closing !== undefined) this.#closed.resolve(this.#closing);
    else if (!wasClean) this.#closed.reject(this.#broken());
    else this.#closed.resolve({ closeCode: isNormal(code) ? 0 : code, reason });
  }

  #broken(): ConnectionError {
    const cause = this.#failure;
    const { url } = this.#socket;
    // A server's socket has no URL.
    const failed = !url
      ? "The WebSocket connection failed"
      : this.#wasOpen
      ? `The WebSocket to ${publicUrl(url)} failed`
      : `Cannot open WebSocket to ${publicUrl(url)}`;
    const why = textOf(cause ?? "");
    // Browsers give no reason. Deno's reasons start with the same words.
    let detail = why.replace(/^failed to connect to WebSocket: |^unknown$/i, "");
    if (!this.#wasOpen && lacksTls(url ?? "", detail)) {
      detail = `${
        detail || "the reason is unknown"
      }; a server without TLS needs a ws: or http: URL`;
    }
    const message = detail === "" ? failed : `${failed}: ${detail}`;
    return new ConnectionError(message, { cause });
  }
}

type CloseDetails = Pick<CloseEvent, "code" | "reason" | "wasClean">;

/**
 * Returns whether a server that was dialed with TLS probably does not use TLS. Deno's error says
 * so. Browsers give no reason, so only a server on the developer's own machine is assumed to lack
 * TLS.
 */
function lacksTls(url: string, detail: string): boolean {
  if (!url.startsWith("wss:")) return false;
  return detail === "" ? LOOPBACK.test(url) : isResponseWithoutTls(detail);
}

function isNormal(code: number): boolean {
  return code === 1000 || code === 1005;
}

/**
 * Creates a stream that opens its source on the first read.
 *
 * @param open Opens the source. Called by the first read.
 */
function lateReadable<T>(open: () => Promise<ReadableStream<T>>): ReadableStream<T> {
  let reader: ReadableStreamDefaultReader<T> | undefined;
  return new ReadableStream<T>({
    async pull(controller): Promise<void> {
      const { done, value } = await (reader ??= (await open()).getReader()).read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    // Before the first read, there is no source to cancel.
    cancel: (reason) => reader?.cancel(reason),
  }, { highWaterMark: 0 });
}

/**
 * Creates a stream that opens its sink on the first write.
 *
 * @param open Opens the sink. Called by the first write.
 */
function lateWritable<T>(open: () => Promise<WritableStream<T>>): WritableStream<T> {
  let writer: WritableStreamDefaultWriter<T> | undefined;
  return new WritableStream<T>({
    async write(chunk): Promise<void> {
      await (writer ??= (await open()).getWriter()).write(chunk);
    },
  });
}
