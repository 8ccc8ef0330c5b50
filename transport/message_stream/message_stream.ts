/**
 * Message frames on a wire that has streams and no frames of its own: they
 * travel on one stream, the lowest bidirectional one that the client opened.
 *
 * @module
 */
import { CloseCode, ConnectionError } from "../../errors.ts";
import { checkCloseInfo, MAX_WEBTRANSPORT_REASON_BYTES } from "../close_info.ts";
import { directStream } from "../direct.ts";
import { FrameInbox } from "../websocket/frame_inbox.ts";
import type { MessageCarrier } from "../_ledger.ts";
import { FrameParser, type FrameSink } from "./parser.ts";
import { FrameQueue } from "./queue.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionCredit,
  ConnectionObserver,
  ConnectionStats,
  DatagramDuplex,
  DirectStream,
  DirectStreams,
  Frame,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { within } from "../within.ts";

/** The first bidirectional stream of the client, and what comes after it. */
class FirstStream {
  readonly #inner: Connection;
  readonly #reader: ReadableStreamDefaultReader<BidirectionalStream> | undefined;
  readonly #settled = Promise.withResolvers<void>();
  #isSettled = false;
  #isTaken = false;
  #incoming: ReadableStream<BidirectionalStream> | undefined;

  /** Resolves with the stream; rejects if there will be none. */
  readonly stream: Promise<BidirectionalStream>;

  /**
   * Opens the stream at the client, and waits for it at the server.
   *
   * @param inner The connection.
   * @param side Which end this is.
   */
  constructor(inner: Connection, side: "client" | "server") {
    this.#inner = inner;
    if (side === "client") this.stream = inner.createBidirectionalStream();
    else {
      this.#reader = inner.incomingBidirectionalStreams.getReader();
      this.stream = this.#take(this.#reader);
    }
    this.stream.then(() => this.end(), () => this.end());
  }

  /** The streams after the first, held by the inner connection alone. */
  get incoming(): ReadableStream<BidirectionalStream> {
    return this.#incoming ??= this.#reader === undefined || this.#isTaken
      ? this.#inner.incomingBidirectionalStreams
      : this.#waiting();
  }

  /**
   * Waits until the client's first stream is open, so that no other gets ahead of it.
   *
   * @param signal Gives up waiting.
   * @throws {unknown} The signal's reason.
   */
  async opened(signal: AbortSignal | undefined): Promise<void> {
    if (this.#isSettled || this.#reader !== undefined) return;
    await within(this.#settled.promise, { signal });
  }

  /** Nobody has to wait any longer: the stream is there, or the connection is over. */
  end(): void {
    this.#isSettled = true;
    this.#settled.resolve();
  }

  async #take(
    reader: ReadableStreamDefaultReader<BidirectionalStream>,
  ): Promise<BidirectionalStream> {
    try {
      const { done, value } = await reader.read();
      if (!done) return value;
    } finally {
      reader.releaseLock();
      this.#isTaken = true;
    }
    throw new TypeError("Cannot receive messages: the incoming streams ended");
  }

  /** For who asks before the first stream came. */
  #waiting(): ReadableStream<BidirectionalStream> {
    let reader: ReadableStreamDefaultReader<BidirectionalStream> | undefined;
    const source = async () => {
      await this.stream.catch(() => {});
      return reader ??= this.#inner.incomingBidirectionalStreams.getReader();
    };
    return new ReadableStream<BidirectionalStream>({
      async pull(controller): Promise<void> {
        const { done, value } = await (await source()).read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: async (reason) => await (await source()).cancel(reason),
    }, { highWaterMark: 0 });
  }
}

/** The protocol whose messages travel on a stream. */
export const MESSAGE_PROTOCOL = "skein.1";

/** The largest body of a frame that is read, in bytes; a session's own bound is lower, and applies on delivery. */
export const MAX_FRAME_BYTES = 4 * 1024 * 1024;

/** `drained` resolves at or below this many bytes. */
const LOW_WATER_MARK = 16 * 1024;

/** How long a server waits for the client's stream, in milliseconds. */
const STREAM_TIMEOUT_MS = 10_000;

/** How long the peer may take to end its half, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * How long, in milliseconds, the stream and the connection may disagree: one
 * of them has ended, and what the other still has to tell is on its way.
 */
const LINGER_MS = 250;

/**
 * An empty text, the client's first frame, which says nothing: on some wires a
 * peer learns of a stream by its first byte, and the server speaks first.
 */
const GREETING_BYTES = [0, 0];

/** Most bytes that are read of the stream until the peer is admitted: a token has at most half of it. */
const MAX_EARLY_BYTES = 16_384;

/** Options for {@linkcode withMessages}. */
export interface MessageStreamOptions {
  /** Which end this is: the client opens the stream. */
  readonly side: "client" | "server";
  /**
   * How long a server waits for the client's stream before it closes with
   * 4408, in milliseconds.
   *
   * @default {10000}
   */
  readonly streamTimeoutMs?: number;
  /**
   * How long a close waits for what was sent to be written, and for the peer
   * to end its half, in milliseconds.
   *
   * @default {1000}
   */
  readonly closeTimeoutMs?: number;
  /**
   * The largest body of a frame, in bytes; a larger one closes with 4413
   * before it is held.
   *
   * @default {4194304}
   */
  readonly maxFrameBytes?: number;
  /**
   * Resolves once the peer is admitted: until then it may send 16 KiB, and more closes with 4401. At
   * once by default.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

/**
 * Gives a connection message frames. They travel on its lowest bidirectional
 * stream that the client opened, so both ends have to do this, the client
 * before anything else opens a stream.
 *
 * - **Order:** frames come whole and in the order in which they were sent;
 *   what is sent before the stream is there waits for it.
 * - **Writes:** one at a time. All that is sent meanwhile goes with the next.
 * - **Close:** everything sent before goes first, then an end mark; code and
 *   reason follow once the peer has ended its half too, or took too long.
 * - **Abort:** a stream that ends without its mark breaks the connection.
 *
 * Bytes that are sent MUST be binary messages, which begin with `40 53`.
 *
 * @example Usage
 * ```ts
 * import { memoryPair, withMessages } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair({ frames: false });
 * await using client = withMessages(pair.client, { side: "client" });
 * await using server = withMessages(pair.server, { side: "server" });
 * const received = new Promise((resolve) => {
 *   server.frames?.receive({ receiveFrame: resolve, framesEnded() {} });
 * });
 * client.frames?.send("hello");
 * assertEquals(await received, "hello");
 * ```
 *
 * @param connection A connection with streams; its first one is no longer the caller's.
 * @param options See {@linkcode MessageStreamOptions}.
 * @returns The connection with `frames`. It closes the inner one.
 */
export function withMessages(connection: Connection, options: MessageStreamOptions): Connection {
  return new MessageStreamConnection(connection, options);
}

/** How a connection ended: with code and reason, or with an error. */
interface Outcome {
  readonly info?: Required<ConnectionCloseInfo>;
  readonly error?: unknown;
}

/** A connection whose frames are on a stream. It is its own frames, and its own sink of what is read. */
class MessageStreamConnection implements Connection, MessageFrames, FrameSink {
  readonly lowWaterMark = LOW_WATER_MARK;

  readonly #inner: Connection;
  readonly #first: FirstStream;
  readonly #side: "client" | "server";
  readonly #closeTimeoutMs: number;
  readonly #queue = new FrameQueue();
  readonly #inbox = new FrameInbox();
  readonly #parser: FrameParser;
  readonly #closed = Promise.withResolvers<ConnectionCloseInfo>();
  #stream: DirectStream | undefined;
  #drained: PromiseWithResolvers<void> | undefined;
  /** The one thing that is waited for: the stream, the peer's end, or what lingers. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** How this end wants to close. */
  #closing: Required<ConnectionCloseInfo> | undefined;
  #closesConnection = false;
  /** How the inner connection ended. */
  #outcome: Outcome | undefined;
  /** Why the stream, and with it the connection, broke. */
  #failure: ConnectionError | undefined;
  #isWriting = false;
  #isReading = false;
  #isGreeted = false;
  #isEnding = false;
  #hasEnded = false;
  #isPeerEnded = false;
  #isInnerClosed = false;
  #isOver = false;
  #framesSent = 0;
  #framesReceived = 0;
  #bytesSent = 0;
  #bytesReceived = 0;
  #maxBytes = Infinity;

  constructor(inner: Connection, options: MessageStreamOptions) {
    const { side, streamTimeoutMs = STREAM_TIMEOUT_MS, closeTimeoutMs = CLOSE_TIMEOUT_MS } =
      options;
    this.#inner = inner;
    this.#side = side;
    this.#closeTimeoutMs = closeTimeoutMs;
    this.#parser = new FrameParser(this, options.maxFrameBytes ?? MAX_FRAME_BYTES);
    this.#closed.promise.catch(() => {}); // Nobody has to look at it.
    const { admitted } = options;
    if (admitted !== undefined) {
      this.#maxBytes = MAX_EARLY_BYTES;
      admitted.then(() => this.#maxBytes = Infinity, () => {});
    }
    // Where the wire counts streams, this one is not its user's.
    (inner as Partial<MessageCarrier>).carryMessages?.(side === "client" ? "local" : "remote");
    this.#first = new FirstStream(inner, side);
    this.#first.stream.then(
      (stream) => this.#open(stream),
      (error) => this.#break("The message stream could not be opened", error),
    );
    inner.closed.then(
      ({ closeCode = 0, reason = "" }) => this.#innerEnded({ info: { closeCode, reason } }),
      (error) => this.#innerEnded({ error }),
    );
    if (side === "client") return;
    this.#timer = setTimeout(() => {
      this.#closing ??= { closeCode: CloseCode.timedOut, reason: "No message stream in time" };
      this.#closeInner();
    }, streamTimeoutMs);
  }

  get capabilities(): ConnectionCapabilities {
    return this.#inner.capabilities;
  }

  get transport(): string {
    return this.#inner.transport;
  }

  get protocol(): string {
    return this.#inner.protocol || MESSAGE_PROTOCOL; // The URL may have agreed on it.
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

  get counters(): ConnectionCounters | undefined {
    return this.#inner.counters;
  }

  get terminate(): (() => void) | undefined {
    return this.#inner.terminate;
  }

  get unreadStreams(): number | undefined {
    return this.#inner.unreadStreams;
  }

  get controlStreamId(): number | undefined {
    return this.#inner.controlStreamId;
  }

  get credit(): ConnectionCredit | undefined {
    return this.#inner.credit;
  }

  get bufferedAmount(): number {
    return this.#queue.bytes;
  }

  async createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    await this.#first.opened(options?.signal);
    return await this.#inner.createBidirectionalStream(options);
  }

  get directStreams(): DirectStreams | undefined {
    return this.#inner.directStreams;
  }

  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.#inner.createUnidirectionalStream(options);
  }

  send(frame: Frame): void {
    if (this.#isDeaf) return;
    this.#queue.add(frame);
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
    // Where the peer closes already, this does nothing: what it says counts, if it comes in time.
    else this.#end(this.#closeTimeoutMs);
  }

  drain(): void {
    this.#inner.drain?.();
  }

  observe(observer: ConnectionObserver | undefined): void {
    this.#inner.observe?.(observer);
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
    if (!this.#isGreeted && this.#side === "server") {
      this.#isGreeted = true;
      if (frame === "") return;
    }
    this.#framesReceived++;
    if (this.#inbox.deliver(frame)) return;
    const reason = "Frames came before anybody received them";
    this.close({ closeCode: CloseCode.queueFull, reason });
  }

  onEnd(): void {
    this.#isPeerEnded = true;
    if (this.#outcome !== undefined) return this.#settle();
    // The peer may need all of its time for what this end still has to say.
    if (this.#closing === undefined) return this.#end(this.#closeTimeoutMs * 2);
    // What this end said last is on its way first, or the close would overtake it.
    if (this.#hasEnded) this.#closeInner();
  }

  onRefused(closeCode: number, reason: string): void {
    this.close({ closeCode, reason });
  }

  /** Nothing that is sent now would reach anybody. */
  get #isDeaf(): boolean {
    return this.#isEnding || this.#closing !== undefined || this.#failure !== undefined ||
      this.#outcome !== undefined;
  }

  #open(stream: BidirectionalStream): void {
    if (this.#isOver) {
      stream.readable.cancel().catch(() => {});
      stream.writable.abort().catch(() => {});
      return;
    }
    if (this.#side === "server" && !this.#isEnding) this.#stopTimer();
    this.#stream = directStream(stream);
    this.#isReading = true;
    void this.#read(this.#stream);
    this.#wakeWriter();
  }

  /** In a microtask, so that all that one call sends is one write. */
  #wakeWriter(): void {
    if (this.#isWriting || this.#stream === undefined) return;
    this.#isWriting = true;
    Promise.resolve(this.#stream).then((stream) => this.#write(stream));
  }

  async #write(stream: DirectStream): Promise<void> {
    const queue = this.#queue;
    try {
      if (!this.#isGreeted && this.#side === "client") {
        this.#isGreeted = true;
        await this.#writeBytes(stream, Uint8Array.from(GREETING_BYTES));
      }
      for (let bytes; (bytes = queue.next()) !== undefined;) {
        await this.#writeBytes(stream, bytes);
        queue.confirm();
        if (queue.bytes <= LOW_WATER_MARK) this.#endDrain();
      }
      this.#isWriting = false;
      // Only the end mark itself can have been last: nothing is sent behind it.
      if (!this.#isEnding || this.#isOver) return;
      await stream.close();
      this.#hasEnded = true;
      if (this.#isPeerEnded && this.#closing !== undefined) this.#closeInner();
    } catch (error) {
      this.#queue.clear();
      this.#endDrain();
      if (this.#isPeerEnded && this.#closing !== undefined) return this.#closeInner();
      this.#break("The message stream was not taken by the peer", error);
    }
  }

  async #writeBytes(stream: DirectStream, bytes: Uint8Array): Promise<void> {
    const count = bytes.length; // Read here: a wire may take the buffer over.
    await stream.write(bytes);
    this.#bytesSent += count;
  }

  async #read(stream: DirectStream): Promise<void> {
    let cause: unknown;
    try {
      for (let bytes; (bytes = await stream.read()) !== null;) {
        this.#bytesReceived += bytes.length;
        if (this.#bytesReceived <= this.#maxBytes) this.#parser.push(bytes);
        else this.onRefused(CloseCode.unauthenticated, "Expected a token and nothing else");
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

  /** Ends this half behind what was sent, and gives the peer its time. */
  #end(timeoutMs: number): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#queue.addEnd();
    this.#wakeWriter();
    this.#startTimer(timeoutMs, () => this.#closeInner());
  }

  #closeInner(): void {
    if (this.#isInnerClosed) return;
    this.#isInnerClosed = true;
    this.#stopTimer();
    this.#inner.close({ ...this.#closing, closeConnection: this.#closesConnection });
  }

  /** The stream is of no use any more. The connection may be about to tell why. */
  #break(what: string, cause: unknown): void {
    if (this.#outcome !== undefined || this.#isPeerEnded || this.#failure !== undefined) return;
    this.#failure = new ConnectionError(what, cause === undefined ? undefined : { cause });
    if (this.#closing !== undefined) return this.#closeInner();
    this.#queue.clear();
    this.#endDrain();
    this.#startTimer(LINGER_MS, () => {
      this.#isInnerClosed = true;
      this.#inner.close({ closeCode: CloseCode.malformed, reason: what });
    });
  }

  /** Code and reason can overtake the last frames, which are there already. */
  #innerEnded(outcome: Outcome): void {
    this.#outcome = outcome;
    this.#first.end();
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

  #settleClosed(outcome: Outcome): void {
    const { info } = outcome;
    // Unless the connection had a better reason, which came late.
    const isBroken = this.#failure !== undefined && this.#isInnerClosed &&
      this.#closing === undefined && (info === undefined || info.reason === this.#failure.message);
    if (isBroken) this.#closed.reject(this.#failure);
    else if (info !== undefined) this.#closed.resolve(info);
    // A cut cable does not change how this end closed it.
    else if (this.#closing !== undefined) this.#closed.resolve(this.#closing);
    else this.#closed.reject(outcome.error);
  }

  #endDrain(): void {
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  #startTimer(timeoutMs: number, callback: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(callback, timeoutMs);
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
