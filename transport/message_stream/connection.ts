/** Message frames on one stream, for transports that have streams but no frames. */
import { CloseCode, ConnectionError } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { checkCloseInfo, MAX_WEBTRANSPORT_REASON_BYTES } from "../close_info.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionInspection,
  ConnectionStats,
  DatagramDuplex,
  DirectReadable,
  DirectStream,
  DirectStreams,
  DirectWritable,
  Frame,
  FramePart,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { directStream } from "../direct.ts";
import { FrameInbox } from "../frame_inbox.ts";
import { FrameQueue, type FrameSink, StreamFrameParser } from "./frames.ts";

/** The message stream at one end. The client opens the stream, and the server waits for it. */
export interface FirstStream {
  /** Resolves with the stream; rejects if there will be no stream. */
  readonly stream: Promise<BidirectionalStream>;
  /** How long a server waits for the stream, in milliseconds. This is absent at the client. */
  readonly timeoutMs?: number | undefined;
  /** The streams after the first one. Only the inner connection buffers them. */
  readonly incoming: ReadableStream<BidirectionalStream>;
}

export const MESSAGE_PROTOCOL = "skein.1";

/**
 * The largest frame body that is read, in bytes. If a session has a lower limit, it applies on
 * delivery.
 */
export const MAX_FRAME_BYTES = 4 * 1024 * 1024;

/**
 * The largest frame body that a client reads, in bytes. Deno's WebSocket has the same limit. If a
 * message exceeds the session's lower limit, a client drops the message instead of closing the
 * connection.
 */
const MAX_CLIENT_FRAME_BYTES = 64 * 1024 * 1024;

/** The number of buffered bytes at or below which `drained` resolves. */
const LOW_WATER_MARK = 16 * 1024;

/** How long to wait for the peer to end the other half, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * The longest time between the end of the stream and the end of the connection, in milliseconds.
 * When one of them arrives, the other may still be in flight.
 */
const LINGER_MS = 250;

/**
 * An empty text, which is the client's first frame. On some transports, a peer notices a stream
 * only when its first byte arrives, and the server may have to send the first message.
 */
const GREETING_BYTES = [0, 0];

/** A resolved promise, to start a microtask. */
const SETTLED = /* @__PURE__ */ Promise.resolve();

const NORMAL: ConnectionCloseInfo = { closeCode: CloseCode.normal, reason: "" };

const NO_CLOSE = "The peer ended the session without a close";

/** The options for `withMessages()`. */
export interface MessageStreamOptions {
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /** Client or server. The client opens the stream. */
  readonly side: "client" | "server";
  /**
   * How long a server waits for the client's stream, in milliseconds. After that, the server closes
   * with 4408.
   *
   * @default {10000}
   */
  readonly streamTimeoutMs?: number | undefined;
  /**
   * How long a close waits for sent frames to be written, and for the peer to end the other half,
   * in milliseconds.
   *
   * @default {1000}
   */
  readonly closeTimeoutMs?: number | undefined;
  /**
   * The largest body of a frame, in bytes. A larger body closes the connection with 4413 without
   * being buffered. The default is 4 MiB on a server and 64 MiB on a client.
   */
  readonly maxFrameBytes?: number | undefined;
  /**
   * Resolves when the peer is admitted. Until then, the peer may send `maxEarlyBytes`; if it sends
   * more, the connection closes with 4401. By default, the peer is admitted immediately.
   */
  readonly admitted?: Promise<unknown> | undefined;
  /**
   * The maximum number of bytes that the peer may send before it is admitted. The default is enough
   * for a token with its envelope.
   *
   * @default {20480}
   */
  readonly maxEarlyBytes?: number | undefined;
}

/** The limits of message frames, and the runtime of the node. */
export interface MessageOptions
  extends Pick<MessageStreamOptions, "closeTimeoutMs" | "maxFrameBytes"> {
  readonly runtime: Runtime;
}

/**
 * Adds message frames to the connection of a client, on a stream that this function opens. See
 * `withMessages`.
 *
 * @param connection A connection on which no stream has been opened yet.
 * @returns The connection with `frames`. Closing it also closes the inner connection.
 */
export function openMessages(
  connection: Connection,
  options: MessageOptions,
): MessageStreamConnection {
  // The counters of streams exclude the message stream.
  connection.inspect?.excludeMessageStream?.("local");
  const stream = connection.createBidirectionalStream();
  return new MessageStreamConnection(connection, {
    maxFrameBytes: MAX_CLIENT_FRAME_BYTES,
    ...options,
  }, {
    stream,
    get incoming() {
      return connection.incomingBidirectionalStreams;
    },
  });
}

/** How a connection ended: with a code and reason, or with an error. */
interface ConnectionOutcome {
  readonly info?: Required<ConnectionCloseInfo>;
  readonly error?: unknown;
}

/**
 * A connection with frames on a stream. This class is also the `frames` object, and the sink of
 * parsed frames.
 */
export class MessageStreamConnection
  implements Connection, DirectStreams, MessageFrames, FrameSink {
  readonly lowWaterMark = LOW_WATER_MARK;
  /**
   * The maximum number of bytes that the peer may send. If it sends more, the connection closes
   * with 4401.
   */
  maxBytes = Infinity;

  readonly #runtime: Runtime;
  readonly #inner: Connection;
  readonly #first: FirstStream;
  readonly #isServer: boolean;
  /** True if the transport reports an end without a close as a close with 0. */
  readonly #isAmbiguous: boolean;
  /** Resolves when no other stream can overtake the message stream any more. */
  readonly #settled: Promise<unknown>;
  readonly #closeTimeoutMs: number;
  readonly #queue = new FrameQueue();
  readonly #inbox = new FrameInbox();
  readonly #parser: StreamFrameParser;
  readonly #closed = Promise.withResolvers<ConnectionCloseInfo>();
  #stream: DirectStream | undefined;
  #drained: PromiseWithResolvers<void> | undefined;
  /** The only timer. It waits for the stream, for the peer's end, or for data still in flight. */
  #timer: Timer | undefined;
  #closing: Required<ConnectionCloseInfo> | undefined;
  #closesConnection = false;
  #outcome: ConnectionOutcome | undefined;
  #failure: ConnectionError | undefined;
  #isWriting = false;
  #isReading = false;
  #isGreeted = false;
  /** True if a receiver of streams is waiting for the first stream. */
  #isAwaited = false;
  #isEnding = false;
  #hasEnded = false;
  #isPeerEnded = false;
  #isInnerClosed = false;
  #isOver = false;
  #framesSent = 0;
  #framesReceived = 0;
  #bytesSent = 0;
  #bytesReceived = 0;

  /** Puts message frames on the first stream of a connection. */
  constructor(inner: Connection, options: MessageOptions, first: FirstStream) {
    const { runtime, closeTimeoutMs = CLOSE_TIMEOUT_MS, maxFrameBytes } = options;
    const { stream, timeoutMs } = first;
    this.#runtime = runtime;
    this.#inner = inner;
    this.#isAmbiguous = inner.inspect?.requireClose?.() === false;
    this.#first = first;
    this.#isServer = timeoutMs !== undefined;
    this.#closeTimeoutMs = closeTimeoutMs;
    this.#parser = new StreamFrameParser(this, maxFrameBytes ?? MAX_FRAME_BYTES);
    this.#closed.promise.catch(() => {}); // Callers may ignore the rejection.
    stream.then(
      (stream) => this.#open(stream),
      (error) => this.#break("The message stream could not be opened", error),
    );
    const over = inner.closed.then(
      ({ closeCode = 0, reason = "" }) => this.#innerEnded({ info: { closeCode, reason } }),
      (error) => this.#innerEnded({ error }),
    );
    this.#settled = this.#isServer
      ? Promise.resolve()
      : Promise.race([stream, over]).catch(() => {});
    if (timeoutMs === undefined) return;
    this.#timer = runtime.setTimeout(() => {
      this.#closing ??= { closeCode: CloseCode.timedOut, reason: "No message stream in time" };
      this.#closeInner();
    }, timeoutMs);
  }

  get capabilities(): ConnectionCapabilities {
    return this.#inner.capabilities;
  }

  get transport(): string {
    return this.#inner.transport;
  }

  get protocol(): string {
    return this.#inner.protocol || MESSAGE_PROTOCOL; // The URL may have chosen the protocol.
  }

  get ready(): Promise<void> {
    return this.#inner.ready;
  }

  get closed(): Promise<ConnectionCloseInfo> {
    return this.#closed.promise;
  }

  get draining(): Promise<void> {
    return this.#inner.draining;
  }

  get datagrams(): DatagramDuplex {
    return this.#inner.datagrams;
  }

  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#first.incoming;
  }

  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#inner.incomingUnidirectionalStreams;
  }

  get frames(): MessageFrames {
    return this;
  }

  get inspect(): ConnectionInspection | undefined {
    return this.#inner.inspect;
  }

  get direct(): DirectStreams | undefined {
    return this.#inner.direct && this;
  }

  receiveBidirectional(receiver: (stream: DirectStream) => void): void {
    const direct = this.#inner.direct!;
    if (!this.#isServer || this.#stream !== undefined) return direct.receiveBidirectional(receiver);
    if (this.#isAwaited) {
      throw new TypeError("Cannot receive streams: there is a receiver already");
    }
    this.#isAwaited = true;
    // The first stream carries the messages. If it never opens, the connection ends.
    this.#first.stream.then(() => direct.receiveBidirectional(receiver), () => {});
  }

  openUnidirectional(options?: OpenStreamOptions): Promise<DirectWritable> {
    return this.#inner.direct!.openUnidirectional(options);
  }

  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void {
    this.#inner.direct!.receiveUnidirectional(receiver);
  }

  get terminate(): (() => void) | undefined {
    return this.#inner.terminate;
  }

  get bufferedAmount(): number {
    return this.#queue.bytes;
  }

  get partialBytes(): number {
    return this.#parser.partialBytes;
  }

  async createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    await within(this.#runtime, this.#settled, options ?? {});
    return await this.#inner.createBidirectionalStream(options);
  }

  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.#inner.createUnidirectionalStream(options);
  }

  send(frame: Frame, parts?: readonly FramePart[]): void {
    if (this.#isDeaf) return;
    this.#queue.add(frame, parts);
    this.#framesSent++;
    this.#wakeWriter();
  }

  receive(receiver: FrameReceiver): void {
    this.#inbox.receive(receiver);
  }

  drained(): Promise<void> {
    if (this.bufferedAmount <= LOW_WATER_MARK) return Promise.resolve();
    return (this.#drained ??= Promise.withResolvers()).promise;
  }

  close(options?: CloseOptions): void {
    const checked = checkCloseInfo(options, MAX_WEBTRANSPORT_REASON_BYTES);
    if (this.#closing !== undefined || this.#outcome !== undefined) return;
    this.#closing = checked;
    this.#closesConnection = options?.closeConnection === true;
    const hasNothingToSay = this.#stream === undefined && this.#queue.bytes === 0;
    if (this.#failure !== undefined || hasNothingToSay) this.#closeInner();
    // If the peer is already closing, this has no effect: the peer's code is reported if it arrives
    // in time.
    else this.#end(this.#closeTimeoutMs);
  }

  drain(): void {
    this.#inner.drain?.();
  }

  async getStats(): Promise<ConnectionStats> {
    const inner = await this.#inner.getStats();
    return {
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
      ...inner,
      framesSent: this.#framesSent,
      framesReceived: this.#framesReceived,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  onFrame(frame: Frame): void {
    if (this.#closing !== undefined) return;
    if (!this.#isGreeted && this.#isServer) {
      this.#isGreeted = true;
      if (frame === "") return;
    }
    this.#framesReceived++;
    if (this.#inbox.deliver(frame)) return;
    const reason = "Too many frames arrived before a receiver was set";
    this.close({ closeCode: CloseCode.queueFull, reason });
  }

  onEnd(): void {
    this.#isPeerEnded = true;
    if (this.#outcome !== undefined) return this.#settle();
    // The peer may need all of its time for this side's last frames.
    if (this.#closing === undefined) return this.#end(this.#closeTimeoutMs * 2);
    // Send this side's last frames first, or the close would overtake them.
    if (this.#hasEnded) this.#closeInner();
  }

  onRejected(closeCode: number, reason: string): void {
    this.close({ closeCode, reason });
  }

  /** `true` if frames sent now would not reach the peer. */
  get #isDeaf(): boolean {
    return this.#isEnding || this.#closing !== undefined || this.#failure !== undefined ||
      this.#outcome !== undefined;
  }

  #open(stream: BidirectionalStream): void {
    if (this.#isOver || this.#isInnerClosed) {
      stream.readable.cancel().catch(() => {});
      stream.writable.abort().catch(() => {});
      return;
    }
    if (this.#isServer && !this.#isEnding) this.#stopTimer();
    this.#stream = directStream(stream);
    this.#isReading = true;
    void this.#read(this.#stream);
    this.#wakeWriter();
  }

  /** Starts a write in a microtask, so that all frames of the same call become one write. */
  #wakeWriter(): void {
    const stream = this.#stream;
    if (this.#isWriting || stream === undefined) return;
    this.#isWriting = true;
    SETTLED.then(() => this.#writeNext(stream));
  }

  /**
   * Writes the next bytes, and continues after the write. An async loop would need more promises.
   */
  #writeNext(stream: DirectStream): void {
    const bytes = this.#nextBytes();
    if (bytes === undefined) return this.#wroteAll(stream);
    const count = bytes.length; // Read before a transport takes over the buffer.
    stream.write(bytes).then(() => {
      this.#bytesSent += count;
      this.#queue.confirm();
      if (this.#queue.bytes <= LOW_WATER_MARK) this.#endDrain();
      this.#writeNext(stream);
    }, (error) => this.#writeFailed(error));
  }

  #nextBytes(): Uint8Array | undefined {
    if (this.#isGreeted || this.#isServer) return this.#queue.next();
    this.#isGreeted = true;
    return Uint8Array.from(GREETING_BYTES);
  }

  #wroteAll(stream: DirectStream): void {
    this.#isWriting = false;
    // The last bytes can only be the end mark, because no frame is added after it.
    if (!this.#isEnding || this.#isOver) return;
    stream.close().then(() => {
      this.#hasEnded = true;
      if (this.#isPeerEnded && this.#closing !== undefined) this.#closeInner();
    }, (error) => this.#writeFailed(error));
  }

  #writeFailed(error: unknown): void {
    this.#queue.clear();
    this.#endDrain();
    if (this.#isPeerEnded && this.#closing !== undefined) return this.#closeInner();
    this.#break("The message stream could not be written", error);
  }

  async #read(stream: DirectStream): Promise<void> {
    let cause: unknown;
    try {
      for (let bytes; (bytes = await stream.read()) !== null;) {
        this.#bytesReceived += bytes.length;
        if (this.#bytesReceived <= this.maxBytes) this.#parser.push(bytes);
        else this.onRejected(CloseCode.unauthenticated, "Expected a token and nothing else");
      }
    } catch (error) {
      cause = error;
    }
    this.#isReading = false;
    if (this.#outcome !== undefined) this.#settle();
    else if (!this.#isPeerEnded) {
      this.#break("The message stream ended without its end mark", cause);
    }
  }

  /** Ends this half after the sent frames, and starts the timeout for the peer's half. */
  #end(timeoutMs: number): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#queue.addEnd();
    this.#wakeWriter();
    this.#startTimer(timeoutMs, () => this.#giveUp());
  }

  /** Closes the connection of a peer that did not end its half in time. */
  #giveUp(): void {
    // The code decides whether a client reconnects, so a lost code must not count as a normal
    // close.
    if (this.#closing !== undefined || this.#isServer) return this.#closeInner();
    const reason = "The server ended its messages, and its close did not arrive";
    this.#failure = new ConnectionError(reason);
    this.#isInnerClosed = true;
    this.#inner.close({ reason });
  }

  #closeInner(): void {
    if (this.#isInnerClosed) return;
    this.#isInnerClosed = true;
    this.#stopTimer();
    this.#inner.close({ ...this.#closing, closeConnection: this.#closesConnection });
  }

  /**
   * Breaks the connection because its stream failed. The inner connection may be about to report
   * the cause.
   */
  #break(what: string, cause: unknown): void {
    if (this.#outcome !== undefined || this.#isPeerEnded || this.#failure !== undefined) return;
    this.#failure = new ConnectionError(what, { cause });
    if (this.#closing !== undefined) return this.#closeInner();
    this.#queue.clear();
    this.#endDrain();
    this.#startTimer(LINGER_MS, () => {
      this.#isInnerClosed = true;
      this.#inner.close({ closeCode: CloseCode.malformed, reason: what });
    });
  }

  /**
   * Waits for the last frames, because the code and reason can overtake frames that have arrived.
   */
  #innerEnded(outcome: ConnectionOutcome): void {
    this.#outcome = outcome;
    const isWhole = !this.#isReading || this.#isPeerEnded || this.#closing !== undefined;
    if (isWhole) this.#settle();
    else this.#startTimer(LINGER_MS, () => this.#settle());
  }

  #settle(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopTimer();
    this.#queue.clear();
    this.#endDrain();
    if (this.#isReading) this.#stream?.cancel();
    if (this.#isWriting || !this.#isEnding) this.#stream?.abort();
    this.#settleClosed(this.#outcome!);
    this.#inbox.close();
  }

  #settleClosed(outcome: ConnectionOutcome): void {
    const { info } = outcome;
    // If the connection reported a more precise reason later, it takes precedence over the stream's
    // failure.
    const isBroken = this.#failure !== undefined && this.#isInnerClosed &&
      this.#closing === undefined && (info === undefined || info.reason === this.#failure.message);
    if (isBroken) this.#closed.reject(this.#failure);
    else if (info !== undefined && this.#isClose(info)) this.#closed.resolve(info);
    // A network failure does not change this side's own close.
    else if (this.#closing !== undefined) this.#closed.resolve(this.#closing);
    // The client closed on purpose, and only its code was lost.
    else if (this.#isServer && this.#isPeerEnded) this.#closed.resolve(NORMAL);
    else this.#closed.reject(outcome.error ?? new ConnectionError(NO_CLOSE));
  }

  /**
   * Distinguishes a close from a loss. On an ambiguous transport, a close with 0 counts only after
   * the end mark.
   */
  #isClose({ closeCode, reason }: Required<ConnectionCloseInfo>): boolean {
    // A client that closes before its stream sends no mark.
    const hasMark = !this.#isServer || this.#stream !== undefined;
    const mayBeLoss = this.#isAmbiguous && hasMark && closeCode === CloseCode.normal &&
      reason === "";
    return !mayBeLoss || this.#isPeerEnded;
  }

  #endDrain(): void {
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  #startTimer(timeoutMs: number, callback: () => void): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = this.#runtime.setTimeout(callback, timeoutMs);
  }

  #stopTimer(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
