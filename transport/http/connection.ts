/** The code that both sides of the HTTP transport share. */
import { ConnectionError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { checkCloseInfo } from "../close_info.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionInspection,
  ConnectionStats,
  DatagramDuplex,
  Frame,
  FrameReceiver,
  MessageFrames,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { FrameInbox } from "../frame_inbox.ts";
import { noDatagrams, noStreams, rejectStream } from "../unsupported.ts";

/** The name of the transport, and the value of the header {@linkcode Header.transport}. */
export const HTTP_TRANSPORT = "http";

/** The only subprotocol of the transport. */
export const HTTP_PROTOCOL = "skein.1";

/** The headers of requests, and of the transport's own responses. */
export const Header = {
  /** Marks the requests and responses of the transport. */
  transport: "skein-transport",
  session: "skein-session",
  secret: "skein-secret",
  /** The number of the first frame of a POST, or of the next frame that the server accepts. */
  number: "skein-number",
  /** The number of the newest event that the server has written, in the response to a POST. */
  written: "skein-written",
  /** Requests one response of known length instead of an event stream; see `polls.ts`. */
  poll: "skein-poll",
  /** The code of a close by the client, and the percent-encoded reason. */
  close: "skein-close",
  /** The number of the last event that the client has received. */
  lastEvent: "last-event-id",
} as const;

/** The time after which a connection ends if neither end can reach the other, in milliseconds. */
export const LOST_MS = 30_000;

/**
 * The same time for a client that polls less often than {@linkcode LOST_MS} allows, such as one in a
 * hidden page, in milliseconds. Two of its polls may be lost or late.
 */
export const SELDOM_LOST_MS = 150_000;

/** The time between two polls up to which {@linkcode LOST_MS} applies, in seconds. */
export const OFTEN_S = 12;

/** The longest wait for the last requests of a closed connection, in milliseconds. */
export const CLOSE_TIMEOUT_MS = 5_000;

/** The number of buffered bytes at or below which `drained` resolves. */
const LOW_WATER_MARK = 32_768;

const CAPABILITIES: ConnectionCapabilities = Object.freeze({
  streams: false,
  datagrams: "none",
  resetCodes: false,
  credit: false,
  independentStreams: false,
});

const NO_INSPECTION: ConnectionInspection = Object.freeze({});

/** One end of a connection over HTTP. It has message frames, but no streams and datagrams. */
export abstract class HttpConnection implements Connection, MessageFrames {
  readonly transport = HTTP_TRANSPORT;
  readonly protocol = HTTP_PROTOCOL;
  readonly capabilities = CAPABILITIES;
  readonly lowWaterMark = LOW_WATER_MARK;
  protected readonly runtime: Runtime;
  protected readonly inbox = new FrameInbox();
  readonly #closed = Promise.withResolvers<ConnectionCloseInfo>();
  #closing: Required<ConnectionCloseInfo> | undefined = undefined;
  #isOver = false;
  #drained: PromiseWithResolvers<void> | undefined = undefined;
  #framesSent = 0;
  #framesReceived = 0;

  /** Creates an open connection. */
  constructor(runtime: Runtime) {
    this.runtime = runtime;
    this.#closed.promise.catch(() => {}); // Callers may ignore the rejection.
  }

  abstract get bufferedAmount(): number;

  /** Passes a frame to the transport. */
  protected abstract transmit(frame: Frame): void;

  /** Notifies the peer that this side has closed, after all earlier frames were sent. */
  protected abstract conclude(info: Required<ConnectionCloseInfo>): void;

  /** Frees all resources. Called once, when the connection has ended. */
  protected abstract release(): void;

  /** Resolved from the start. */
  get ready(): Promise<void> {
    return Promise.resolve();
  }

  get closed(): Promise<ConnectionCloseInfo> {
    return this.#closed.promise;
  }

  /** Never settles, because the session announces a drain in its messages. */
  get draining(): Promise<void> {
    return new Promise(() => {});
  }

  get frames(): MessageFrames {
    return this;
  }

  get datagrams(): DatagramDuplex {
    return noDatagrams(this.transport);
  }

  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return noStreams();
  }

  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return noStreams();
  }

  /** Undefined, because there are no streams and no credit. */
  get inspect(): ConnectionInspection {
    return NO_INSPECTION;
  }

  /** True after the connection has ended. */
  protected get isOver(): boolean {
    return this.#isOver;
  }

  /** The code and reason of a close by this side. */
  protected get closing(): Required<ConnectionCloseInfo> | undefined {
    return this.#closing;
  }

  /** Passes a frame to the peer. Ignored once the connection is closed. */
  send(frame: Frame): void {
    if (this.#isOver || this.#closing !== undefined) return;
    this.#framesSent++;
    this.transmit(frame);
  }

  receive(receiver: FrameReceiver): void {
    this.inbox.receive(receiver);
  }

  drained(): Promise<void> {
    if (this.#isOver || this.bufferedAmount <= LOW_WATER_MARK) return Promise.resolve();
    return (this.#drained ??= Promise.withResolvers()).promise;
  }

  createBidirectionalStream(): Promise<BidirectionalStream> {
    return rejectStream(this.transport);
  }

  createUnidirectionalStream(): Promise<SendStream> {
    return rejectStream(this.transport);
  }

  /** Closes the connection after sending all earlier frames. */
  close(info?: ConnectionCloseInfo): void {
    const checked = checkCloseInfo(info);
    if (this.#isOver || this.#closing !== undefined) return;
    this.#closing = checked;
    this.conclude(checked);
  }

  terminate(): void {
    this.finish(new ConnectionError("The connection was dropped"));
  }

  getStats(): Promise<ConnectionStats> {
    const [framesSent, framesReceived] = [this.#framesSent, this.#framesReceived];
    return Promise.resolve({ framesSent, framesReceived });
  }

  /** Closes the connection, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Passes a frame from the peer to the receiver. */
  protected deliver(frame: Frame): void {
    if (this.#closing !== undefined) return;
    this.#framesReceived++;
    if (this.inbox.deliver(frame)) return;
    this.close({ closeCode: 4507, reason: "Too many frames arrived before a receiver was set" });
  }

  /** Resolves `drained` if few bytes remain. */
  protected shrunk(): void {
    if (this.#drained === undefined) return;
    if (!this.#isOver && this.bufferedAmount > LOW_WATER_MARK) return;
    this.#drained.resolve();
    this.#drained = undefined;
  }

  /** Ends the connection. If this side has closed it, that code and reason are kept. Idempotent. */
  protected finish(outcome: ConnectionCloseInfo | Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const info = this.#closing ?? outcome;
    if (info instanceof Error) this.#closed.reject(info);
    else this.#closed.resolve(info);
    this.release();
    this.shrunk();
    this.inbox.close();
  }
}
