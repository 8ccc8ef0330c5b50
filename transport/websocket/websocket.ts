/**
 * A WebSocket as a connection: what its two halves, client and server, share.
 *
 * @module
 */
import { ConnectionError } from "../../errors.ts";
import { checkCloseInfo } from "../close_info.ts";
import { FrameInbox } from "./frame_inbox.ts";
import { lateReadable, lateWritable, type LoadStreams } from "./lazy_streams.ts";
import type { Multiplexer, StreamsHost } from "../qmux/multiplexer.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionCredit,
  ConnectionObserver,
  ConnectionStats,
  DatagramDuplex,
  FlowControlOptions,
  Frame,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { publicUrl } from "../url.ts";
import { within } from "../within.ts";

/** Below this many bytes held, the socket counts as drained. */
const LOW_WATER_MARK = 32_768;

/** A socket tells nothing when it drained, so it is asked: first after, and at most every, so many ms. */
const FIRST_POLL_MS = 2;
const LAST_POLL_MS = 50;

/** How long a peer may take to answer a close, in milliseconds. */
const CLOSE_TIMEOUT_MS = 5_000;

/** Of these, binary frames that are no messages are records of streams and datagrams. */
const STREAMS_PROTOCOL = "skein.1";

/** Bytes of records that wait until streams are loaded: a peer may not say much before it is answered. */
const MAX_EARLY_BYTES = 65_536;

/** The largest datagram that one end of Skein takes from the other, in bytes. */
const MAX_DATAGRAM_BYTES = 16_379;

/** A server on this machine. */
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

/** The part of a socket that a connection needs; Deno's and the browser's both fit. */
export type Socket =
  & Pick<
    WebSocket,
    | "addEventListener"
    | "binaryType"
    | "bufferedAmount"
    | "close"
    | "protocol"
    | "readyState"
    | "removeEventListener"
    | "send"
  >
  & Partial<Pick<WebSocket, "url">>;

const EVENTS = ["open", "message", "close", "error"] as const;

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;

/** What a {@linkcode WebSocketConnection} may have beside its socket. */
export interface WebSocketConnectionOptions {
  /** How much the peer may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions | undefined;
  /** Loads what streams take, where it is not there. */
  readonly loadStreams?: LoadStreams;
}

/**
 * A connection on a WebSocket that may still be opening. It is its own frames
 * and its own event listener: ten thousand idle ones should not hold a dozen
 * closures each.
 *
 * With `skein.1` it has streams and datagrams too, in the binary frames that are
 * no messages; what they take is made when the first of them comes or goes.
 */
export class WebSocketConnection
  implements Connection, MessageFrames, EventListenerObject, StreamsHost {
  /** Always `websocket`. */
  readonly transport = "websocket";
  /** `drained` resolves at or below this many bytes. */
  readonly lowWaterMark = LOW_WATER_MARK;

  readonly #socket: Socket;
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
  #poll: ReturnType<typeof setTimeout> | undefined;
  #lingering: ReturnType<typeof setTimeout> | undefined;
  #framesSent = 0;
  #framesReceived = 0;

  /** Gets what happens on streams, and with datagrams. */
  observer: ConnectionObserver | undefined = undefined;
  /** How much the peer may send ahead of who reads it. */
  readonly flowControl: FlowControlOptions | undefined;

  /** Wraps a socket. */
  constructor(socket: Socket, options: WebSocketConnectionOptions = {}) {
    const { flowControl, loadStreams } = options;
    this.#socket = socket;
    this.#loadStreams = loadStreams;
    this.flowControl = flowControl;
    socket.binaryType = "arraybuffer";
    for (const type of EVENTS) socket.addEventListener(type, this);
  }

  /** Streams and datagrams too, with `skein.1`. */
  get capabilities(): ConnectionCapabilities {
    return this.hasStreams ? FRAMES_AND_STREAMS : FRAMES_ONLY;
  }

  /** Whether there are streams and datagrams. */
  get hasStreams(): boolean {
    return this.protocol === STREAMS_PROTOCOL;
  }

  /** Which end this is. */
  get side(): "client" | "server" {
    return "client";
  }

  /** The socket's own frames. */
  get frames(): MessageFrames {
    return this;
  }

  /** Bytes handed over that the socket still holds. */
  get bufferedAmount(): number {
    return this.#closeEvent === undefined ? this.#socket.bufferedAmount : 0;
  }

  /** Takes the socket's events. */
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

  /** Hands a frame, or a record, to the socket; after its end it goes nowhere. */
  send(frame: Frame): void {
    if (this.#socket.readyState !== OPEN) return;
    if (!this.#isRecord(frame)) this.#framesSent++;
    this.#socket.send(frame as string | Uint8Array<ArrayBuffer>);
  }

  /** Sets who gets the frames. */
  receive(receiver: FrameReceiver): void {
    this.#inbox.receive(receiver);
  }

  /** Waits until the socket holds little. */
  drained(): Promise<void> {
    if (this.#drained !== undefined) return this.#drained.promise;
    if (this.bufferedAmount <= LOW_WATER_MARK) return Promise.resolve();
    const drained = this.#drained = Promise.withResolvers<void>();
    const poll = (waitMs: number) => {
      this.#poll = setTimeout(() => {
        if (this.bufferedAmount <= LOW_WATER_MARK) {
          this.#drained = undefined;
          drained.resolve();
        } else poll(Math.min(waitMs * 2, LAST_POLL_MS));
      }, waitMs);
    };
    poll(FIRST_POLL_MS);
    return drained.promise;
  }

  /** The subprotocol that the server chose. */
  get protocol(): string {
    return this.#socket.protocol;
  }

  /** Resolves once the socket is open. */
  get ready(): Promise<void> {
    if (this.#wasOpen) return Promise.resolve();
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      if (this.#closeEvent !== undefined) this.#ready.reject(this.#broken());
    }
    return this.#ready.promise;
  }

  /** How the socket was closed. */
  get closed(): Promise<ConnectionCloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      this.#closed.promise.catch(() => {});
      this.#settleClosed();
    }
    return this.#closed.promise;
  }

  /** Never settles: a WebSocket has no notice of its own. */
  get draining(): Promise<void> {
    return new Promise(() => {});
  }

  /** Datagrams, if there are any. */
  get datagrams(): DatagramDuplex {
    return this.#datagrams ??= this.#now?.datagrams ?? {
      readable: lateReadable(async () => (await this.#load()).datagrams.readable),
      writable: lateWritable(async () => (await this.#load()).datagrams.writable),
      maxDatagramSize: this.hasStreams ? MAX_DATAGRAM_BYTES : 0,
    };
  }

  /** Ended already, if there are no streams. */
  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#bidirectional ??= this.#now?.incomingBidirectionalStreams ??
      lateReadable(async () => (await this.#load()).incomingBidirectionalStreams);
  }

  /** Ended already, if there are no streams. */
  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#unidirectional ??= this.#now?.incomingUnidirectionalStreams ??
      lateReadable(async () => (await this.#load()).incomingUnidirectionalStreams);
  }

  /** What was counted, once there was a stream or a datagram. */
  get counters(): ConnectionCounters | undefined {
    return this.#streams?.counters;
  }

  /** Streams of the peer that nobody took yet. */
  get unreadStreams(): number | undefined {
    return this.#streams?.unreadStreams;
  }

  /** Flow control of streams, if there are any; nothing is used before the first, and a grant is one. */
  get credit(): ConnectionCredit | undefined {
    if (!this.hasStreams) return undefined;
    return this.#streams?.credit ?? {
      state: () => ({ granted: 0, received: 0, allowed: 0, sent: 0, waiting: 0 }),
      grant: (kind, total) => {
        if (this.#now) return this.#now.credit?.grant(kind, total);
        this.#load().then(({ credit }) => credit?.grant(kind, total)).catch(() => {});
      },
    };
  }

  /** Opens a stream, if there are any. */
  async createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    const streams = this.#now ?? await within(this.#load(), options);
    return await streams.createBidirectionalStream(options);
  }

  /** Opens a stream, if there are any. */
  async createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    const streams = this.#now ?? await within(this.#load(), options);
    return await streams.createUnidirectionalStream(options);
  }

  /** Sets who is told. */
  observe(observer: ConnectionObserver | undefined): void {
    this.observer = observer;
    this.#streams?.observe?.(observer);
  }

  /** Closes the socket behind what was sent. */
  close(info?: ConnectionCloseInfo): void {
    const checked = checkCloseInfo(info);
    if (this.#closeEvent !== undefined || this.#closing !== undefined) return;
    this.#closing = checked;
    this.#endStreams();
    // A browser's socket that is not open yet could only be closed without a code.
    if (this.#socket.readyState !== CONNECTING) this.#closeSocket(checked);
  }

  /** What was counted. */
  getStats(): Promise<ConnectionStats> {
    return Promise.resolve({
      framesSent: this.#framesSent,
      framesReceived: this.#framesReceived,
    });
  }

  /** Closes, and waits for the peer's close. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Gives up on a socket that is still opening. */
  abandon(): void {
    this.#closing ??= { closeCode: 0, reason: "" };
    this.#socket.close();
  }

  /** Refuses a record of a peer that may send none yet, and closes; on an end that knows. */
  protected refusesRecords?(): boolean;

  /** Makes what streams take, on an end that has it at hand. */
  protected openStreams?(): Multiplexer;

  /** The peer does not answer the close: the connection is over, whatever becomes of the socket. */
  protected giveUp(): void {
    this.#end({ code: 1006, reason: "", wasClean: false });
  }

  #closeSocket({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    if (this.#socket.readyState === CLOSED) return;
    this.#socket.close(closeCode === 0 ? 1000 : closeCode, reason);
    // A peer that reads nothing never answers; its socket lingers, this connection does not.
    this.#lingering = setTimeout(() => this.giveUp(), CLOSE_TIMEOUT_MS);
  }

  #overflow(): void {
    this.close({ closeCode: 4507, reason: "Frames came before anybody received them" });
  }

  /** What streams take, if it is there, or can be at once. */
  get #now(): Multiplexer | undefined {
    return this.#streams ?? (this.openStreams && this.#begin(this.openStreams()));
  }

  #load(): Promise<Multiplexer> {
    return this.#loading ??= this.#now
      ? Promise.resolve(this.#now)
      : this.#loadStreams!().then(({ openStreams }) => this.#begin(openStreams(this)));
  }

  #begin(streams: Multiplexer): Multiplexer {
    this.#streams = streams;
    if (this.#closing !== undefined || this.#closeEvent !== undefined) this.#endStreams();
    return streams;
  }

  /** Once, by who closes first. */
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
    if (this.#closing !== undefined || this.refusesRecords?.()) return;
    if (this.#now !== undefined) return this.#now.receive(record);
    this.#earlyBytes += record.byteLength;
    if (this.#earlyBytes > MAX_EARLY_BYTES) this.#overflow();
    // Where they do not load, who asks for one is told.
    else this.#load().then((streams) => streams.receive(record), () => {});
  }

  #onOpen(): void {
    this.#wasOpen = true;
    if (this.#closing !== undefined) this.#closeSocket(this.#closing);
    this.#ready?.resolve();
    this.#ready = undefined;
    this.#socket.removeEventListener("open", this);
  }

  /** Deno can fire the event twice; the first one counts. */
  #end({ code, reason, wasClean }: CloseDetails): void {
    if (this.#closeEvent !== undefined) return;
    this.#closeEvent = { code, reason, wasClean };
    // The runtime keeps a socket that broke until its idle timer fires, and what listens with it.
    for (const type of EVENTS) this.#socket.removeEventListener(type, this);
    if (!wasClean && reason !== "") this.#failure ??= reason;
    if (this.#closing === undefined) this.#endStreams();
    clearTimeout(this.#lingering);
    clearTimeout(this.#poll);
    this.#drained?.resolve();
    this.#ready?.reject(this.#broken());
    this.#settleClosed();
    this.#inbox.close();
  }

  #settleClosed(): void {
    if (this.#closed === undefined || this.#closeEvent === undefined) return;
    const { code, reason, wasClean } = this.#closeEvent;
    // What the peer echoes, or a cut cable, does not change how this end closed it.
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
    const why = cause instanceof Error ? cause.message : String(cause ?? "");
    // Browsers do not say why; what Deno says begins in the same way.
    let detail = why.replace(/^failed to connect to WebSocket: |^unknown$/i, "");
    if (!this.#wasOpen && isPlain(url ?? "", detail)) {
      detail = `${detail || "no reason is told"}; a server without TLS has a URL of ws: or http:`;
    }
    const message = detail === "" ? failed : `${failed}: ${detail}`;
    return new ConnectionError(message, cause === undefined ? {} : { cause });
  }
}

/** The part of a close event that counts. */
type CloseDetails = Pick<CloseEvent, "code" | "reason" | "wasClean">;

/**
 * Tells whether a server that was dialed with TLS may have none. Deno says that it is so. Browsers
 * say nothing; then it is likely on a developer's own machine alone.
 */
function isPlain(url: string, detail: string): boolean {
  if (!url.startsWith("wss:")) return false;
  return detail === "" ? LOOPBACK.test(url) : /InvalidContentType/.test(detail);
}

/** 1000 normal, 1005 no code given. */
function isNormal(code: number): boolean {
  return code === 1000 || code === 1005;
}
