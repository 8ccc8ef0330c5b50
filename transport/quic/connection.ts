/** A plain QUIC connection with streams and datagrams (RFC 9000, RFC 9221). */
import { ConnectionError, StreamError } from "../../errors.ts";
import { CountedConnection, type StreamAccount } from "../counters.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionInspection,
  DirectReadable,
  DirectStream,
  DirectStreams,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { checkWireClose, markClose, MAX_QUIC_CLOSE_CODE, unmarkReason } from "../wire_close.ts";
import { QuicDatagrams } from "./datagrams.ts";
import {
  endUnused,
  openBidirectional,
  type OpenStream,
  openUnidirectional,
  type QuicEnding,
  quicEnding,
  remoteAddressOf,
} from "./deno_quic.ts";
import type { StreamFailure } from "../deno_errors.ts";
import { FIRST_READ_BYTES, FirstReads, ReceiveHalf } from "./receive_half.ts";
import { SendHalf } from "./send_half.ts";
import { QuicStream } from "./stream.ts";
import {
  type StreamHalf,
  StreamHalves,
  type StreamOwner,
  TurnEnd,
  type TurnWatcher,
} from "./stream_owner.ts";
import type { UnreadShare, UnreadStream } from "./unread_streams.ts";
import type { Runtime } from "../../base/runtime.ts";
import { IncomingQueue, takeOut } from "../incoming_queue.ts";

const CAPABILITIES: ConnectionCapabilities = {
  streams: true,
  datagrams: "unreliable",
  // The runtime cannot send reset codes, but the peer's codes are read.
  resetCodes: false,
  credit: false,
  independentStreams: true,
};

/** Makes the runtime wait for stream credit. By default, it fails immediately. */
const WAITING = { waitUntilAvailable: true };

/** A QUIC connection whose handshake is complete, so it is ready from the start. */
export interface QuicConnection extends Connection {
  /** The address of the peer. */
  readonly remoteAddress: Deno.NetAddr;
  /**
   * The server name that the client requested. It is `undefined` on a client, and if the client
   * dialed an address.
   */
  readonly serverName: string | undefined;
  /** Unidirectional streams with plain calls. */
  readonly direct: DirectStreams;
  /** The counters and events of the connection. */
  readonly inspect: ConnectionInspection;
}

/**
 * A {@linkcode QuicConnection} on the runtime's QUIC. All streams and datagrams belong to the
 * application.
 */
export class RawQuicConnection extends CountedConnection
  implements QuicConnection, DirectStreams, StreamOwner {
  readonly transport: string = "quic";
  /**
   * The capabilities. `resetCodes` is false, because the runtime cannot reset a stream with a code.
   */
  readonly capabilities: ConnectionCapabilities = CAPABILITIES;
  readonly ready: Promise<void> = Promise.resolve();
  /**
   * Resolves with the code and reason that the closing side gave. Rejects if the connection was
   * lost.
   */
  readonly closed: Promise<ConnectionCloseInfo>;
  /** The open stream halves, which end with the connection. */
  readonly halves: StreamHalves = new StreamHalves();
  /** `undefined`, because the runtime implements QUIC flow control. */
  readonly dataCredit = undefined;
  /** The counters of unread streams, on a server. */
  readonly unread: UnreadShare | undefined;

  readonly #runtime: Runtime;
  readonly #conn: Deno.QuicConn;
  readonly #bidirectional: PeerStreams<Deno.QuicBidirectionalStream, QuicStream, QuicStream> =
    new PeerStreams({
      streams: () => this.#conn.incomingBidirectionalStreams,
      take: ({ readable, writable }) => {
        const account = this.account("bidirectional", "remote");
        const receive = this.#receiveHalf(readable, account);
        return new QuicStream(receive, new SendHalf(this, writable, { account }));
      },
      present: (stream) => this.#taken(stream),
      waits: (stream) => this.#watch(stream),
      drop(stream) {
        stream.cancel();
        stream.abort();
      },
    });
  readonly #unidirectional: PeerStreams<Deno.QuicReceiveStream, ReceiveHalf, ReceiveStream> =
    new PeerStreams({
      streams: () => this.#conn.incomingUnidirectionalStreams,
      take: (stream) => {
        const account = this.account("unidirectional", "remote");
        return this.#receiveHalf(stream, account, this.#firstReads);
      },
      present: (half) => this.#taken(half).readable,
      waits: (half) => this.#watch(half),
      drop: (half) => half.cancel(),
    });
  readonly #firstReads = new FirstReads();
  readonly #turnEnd: TurnEnd;
  #draining: Promise<void> | undefined = undefined;
  #datagrams: QuicDatagrams | undefined = undefined;
  #closing: Required<ConnectionCloseInfo> | undefined = undefined;
  /**
   * True if both sides mark a close with code 0. A process that crashes also closes with code 0,
   * but without a mark.
   */
  #requiresClose = false;
  #error: ConnectionError | undefined = undefined;
  #failed: StreamHalf[] = [];

  /**
   * Wraps a connection of the runtime.
   *
   * @param conn A connection whose handshake is complete, and of which no data has been read.
   * @param unread The counters of unread streams. If they are given, the peer's streams are
   * accepted immediately. Otherwise, they wait in the runtime until the application reads them.
   */
  constructor(runtime: Runtime, conn: Deno.QuicConn, unread?: UnreadShare) {
    super();
    this.#runtime = runtime;
    this.#turnEnd = new TurnEnd(runtime);
    this.#conn = conn;
    this.unread = unread;
    this.closed = this.#run();
    this.closed.catch(() => {}); // An unobserved rejection is not an error.
    if (unread === undefined) return;
    this.#bidirectional.accept();
    this.#unidirectional.accept();
  }

  /** The protocol negotiated in the handshake (ALPN). */
  get protocol(): string {
    return this.#conn.protocol ?? "";
  }

  get remoteAddress(): Deno.NetAddr {
    return remoteAddressOf(this.#conn);
  }

  get serverName(): string | undefined {
    return this.#conn.serverName ?? undefined;
  }

  /** Never settles, because QUIC cannot request a drain. */
  get draining(): Promise<void> {
    return this.#draining ??= new Promise(() => {});
  }

  /** The datagrams. If too many wait to be read, the oldest are dropped. */
  get datagrams(): QuicDatagrams {
    if (this.#datagrams === undefined) {
      const error = this.#error;
      this.#datagrams = new QuicDatagrams(this.#conn, this, {
        quarterId: undefined,
        error: error && (() => error),
      });
      void this.#readDatagrams(this.#datagrams);
    }
    return this.#datagrams;
  }

  /**
   * The bidirectional streams opened by the peer. On a client, they wait in the runtime until you
   * first access this property.
   */
  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#bidirectional.readable;
  }

  /**
   * The unidirectional streams opened by the peer. On a client, they wait in the runtime until you
   * first access this property.
   */
  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#unidirectional.readable;
  }

  get direct(): DirectStreams {
    return this;
  }

  /** The number of accepted streams of the peer that the application has not taken yet. */
  get unreadStreams(): number {
    return this.#bidirectional.size + this.#unidirectional.size;
  }

  /**
   * Waits for stream credit and opens a stream. The peer notices the stream when its first byte
   * arrives.
   */
  async createBidirectionalStream(options: OpenStreamOptions = {}): Promise<QuicStream> {
    const { readable, writable } = await this.#opened(openBidirectional, options);
    const account = this.account("bidirectional", "local");
    const receive = this.#receiveHalf(readable, account);
    return new QuicStream(receive, this.#sendHalf(writable, account, options));
  }

  /**
   * Waits for stream credit and opens a stream. The peer notices the stream when its first byte
   * arrives.
   */
  async createUnidirectionalStream(options: OpenStreamOptions = {}): Promise<SendStream> {
    return (await this.openUnidirectional(options)).writable;
  }

  async openUnidirectional(options: OpenStreamOptions = {}): Promise<SendHalf> {
    const stream = await this.#opened(openUnidirectional, options);
    return this.#sendHalf(stream, this.account("unidirectional", "local"), options);
  }

  receiveBidirectional(receiver: (stream: DirectStream) => void): void {
    this.#bidirectional.receive((stream) => this.#hand(stream, receiver));
  }

  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void {
    this.#unidirectional.receive((half) => this.#hand(half, receiver));
  }

  /** Closes the connection immediately. Data that the peer has not received yet is lost. */
  close(options?: CloseOptions): void {
    const info = checkWireClose(options, MAX_QUIC_CLOSE_CODE);
    if (this.#closing !== undefined || this.#error !== undefined) return;
    this.#closing = info;
    this.#over(new ConnectionError(`The connection was closed with code ${info.closeCode}`));
    this.#conn.close(this.#requiresClose ? markClose(info) : info);
  }

  requireClose(): boolean {
    return this.#requiresClose = this.#closing === undefined && this.#error === undefined;
  }

  protected override discardFirst(): boolean {
    return this.#bidirectional.changeFirst((stream) => stream.discard());
  }

  /** Closes the connection. `await using` calls this method. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  streamError({ kind, code }: StreamFailure): Error {
    const what = kind === "reset" ? "reset" : "stopped reading";
    const message = `The peer ${what} the stream with code ${code}`;
    return new StreamError(message, { streamErrorCode: code, by: "remote" });
  }

  connectionError(cause: unknown): Error {
    return this.#error ?? new ConnectionError("The connection is over", { cause });
  }

  /** Does nothing, because QUIC enforces flow control. */
  overrun(): void {}

  rejectUnread(half: StreamHalf & UnreadStream, error: Error): void {
    this.ledger.streamsRejected++;
    const stream = this.#bidirectional.takeOut((one) => one.receivesBy(half));
    if (stream !== undefined) {
      stream.cancel(error);
      stream.abort(error);
      return;
    }
    const receive = this.#unidirectional.takeOut((one) => one === half);
    if (receive !== undefined) return receive.cancel(error);
    // The application already has the stream, and a normal end would hide the rejection.
    half.fail(error);
  }

  async #run(): Promise<ConnectionCloseInfo> {
    const ending = this.#unmark(await quicEnding(this.#conn));
    const lost = this.#closing === undefined && this.#ended(ending);
    for (const half of this.#failed.splice(0)) half.release();
    if (lost) throw lost;
    const { closeCode = 0, reason } = ending;
    return this.#closing ?? { closeCode, reason };
  }

  /**
   * Reads the mark of a close with code 0. If a mark is required but missing, the connection was
   * lost.
   */
  #unmark(ending: QuicEnding): QuicEnding {
    if (ending.closeCode !== 0) return ending;
    const reason = unmarkReason(ending.reason);
    if (reason !== undefined) return { closeCode: 0, reason };
    if (!this.#requiresClose) return ending;
    return { closeCode: undefined, reason: "the peer ended it without a close" };
  }

  /**
   * Handles the peer's close, or the loss of the connection. Returns an error if the connection was
   * lost.
   */
  #ended({ closeCode, reason, isTimeout }: QuicEnding): ConnectionError | undefined {
    if (closeCode === undefined) {
      const error = new ConnectionError(`The connection broke: ${reason}`, { isTimeout });
      return this.#over(error, { isBroken: true });
    }
    const words = reason && `: ${reason}`;
    this.#over(
      new ConnectionError(`The peer closed the connection with code ${closeCode}${words}`),
    );
    return undefined;
  }

  #over(error: ConnectionError, { isBroken = false } = {}): ConnectionError {
    this.#error = error;
    this.#failed = this.halves.toArray();
    for (const half of this.#failed) half.fail(error);
    const cause = isBroken ? error : undefined;
    this.#bidirectional.end(cause);
    this.#unidirectional.end(cause);
    this.#datagrams?.end(() => error, isBroken);
    return error;
  }

  async #readDatagrams(datagrams: QuicDatagrams): Promise<void> {
    try {
      while (this.#error === undefined) datagrams.deliver(await this.#conn.readDatagram());
    } catch {
      // The connection has ended, and `closed` reports the outcome.
    }
  }

  /** Opens a stream of the runtime, and converts its errors to this connection's errors. */
  async #opened<T extends Deno.QuicBidirectionalStream | Deno.QuicSendStream>(
    open: OpenStream<T>,
    options: OpenStreamOptions,
  ): Promise<T> {
    const { signal, timeoutMs } = options;
    signal?.throwIfAborted();
    if (this.#error !== undefined) throw this.#error;
    const opening = { signal, timeoutMs, leftMs: timeoutMs, wire: WAITING };
    let stream: T;
    try {
      stream = await open(this.#runtime, this.#conn, opening);
    } catch (error) {
      const isOurs = signal?.aborted || error instanceof Error && error.name === "TimeoutError";
      throw isOurs ? error : this.connectionError(error);
    }
    if (this.#error === undefined) return stream;
    endUnused(stream);
    throw this.#error;
  }

  /**
   * Passes a stream to the application. From then on, the end of the stream is noticed even if the
   * application does not read.
   */
  #taken<T extends QuicStream | ReceiveHalf>(stream: T): T {
    stream.taken();
    this.#turnEnd.add(stream);
    return stream;
  }

  /** Passes a stream to a receiver. Most receivers start to read immediately. */
  #hand<T extends QuicStream | ReceiveHalf>(stream: T, receiver: (stream: T) => void): void {
    stream.taken();
    receiver(stream);
    if (!stream.isRead) this.#turnEnd.add(stream);
  }

  /** Counts a waiting stream as unread once the current turn of the event loop has ended. */
  #watch(stream: TurnWatcher): void {
    if (this.unread !== undefined) this.#turnEnd.add(stream);
  }

  #receiveHalf(
    stream: Deno.QuicReceiveStream,
    account: StreamAccount | undefined,
    firstReads?: FirstReads,
  ): ReceiveHalf {
    const reader = stream.getReader({ mode: "byob" });
    return new ReceiveHalf(this, reader, { account, firstReads, firstReadBytes: FIRST_READ_BYTES });
  }

  #sendHalf(
    stream: Deno.QuicSendStream,
    account: StreamAccount | undefined,
    { sendOrder }: OpenStreamOptions,
  ): SendHalf {
    const half = new SendHalf(this, stream, { account });
    if (sendOrder !== undefined) half.sendOrder = sendOrder;
    return half;
  }
}

/** The steps that turn a stream of the runtime into a stream of the application. */
interface PeerStreamsOptions<S, T, U> {
  /** Returns the streams of the runtime. */
  streams(): ReadableStream<S>;
  /** Wraps a stream of the runtime. */
  take(stream: S): T;
  /** Converts a wrapped stream when a reader takes it. */
  present(item: T): U;
  /** Called with each stream that enters the queue. */
  waits(item: T): void;
  /** Ends a stream that no reader will take. */
  drop(item: T): void;
}

/**
 * A queue of streams that the peer opened. The runtime holds the streams until this queue accepts
 * them, so if the application reads no streams, the peer must wait. The QUIC stream limit bounds
 * the number of streams held.
 *
 * @typeParam S The stream of the runtime.
 * @typeParam T The wrapped stream.
 * @typeParam U The stream as readers receive it.
 */
class PeerStreams<S, T, U> {
  readonly #options: PeerStreamsOptions<S, T, U>;
  readonly #arrivals: IncomingQueue<T, U>;
  #receiver: ((item: T) => void) | undefined = undefined;
  #isAccepting = false;
  #isOver = false;

  /** Creates the queue, but does not accept streams yet. */
  constructor(options: PeerStreamsOptions<S, T, U>) {
    this.#options = options;
    this.#arrivals = new IncomingQueue<T, U>(
      { capacity: Infinity, onDropped: (item) => options.drop(item) },
      (item) => options.present(item),
    );
  }

  /** The streams in order of arrival. */
  get readable(): ReadableStream<U> {
    this.accept();
    return this.#arrivals.readable;
  }

  /** The number of accepted streams that the application has not taken yet. */
  get size(): number {
    return this.#arrivals.size;
  }

  /**
   * Sets a receiver, which replaces the readable.
   *
   * @param receiver Called with each stream, including streams accepted earlier.
   * @throws {TypeError} If there already is a receiver.
   */
  receive(receiver: (item: T) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive streams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const held of this.#arrivals.takeHeld()) receiver(held);
    this.accept();
  }

  /**
   * Removes a stream from the queue.
   *
   * @returns The stream; `undefined` if no stream in the queue matches.
   */
  takeOut(isMeant: (item: T) => boolean): T | undefined {
    return takeOut(this.#arrivals, isMeant);
  }

  /** Applies a change to the first stream in the queue. Returns false if the queue is empty. */
  changeFirst(change: (item: T) => void): boolean {
    const held = this.#arrivals.takeHeld();
    for (const [index, item] of held.entries()) {
      if (index === 0) change(item);
      this.#arrivals.push(item);
    }
    return held.length > 0;
  }

  /**
   * Ends the streams when the connection ends.
   *
   * @param error The error for readers; `undefined` unless the connection broke.
   */
  end(error?: Error): void {
    this.#isOver = true;
    if (error === undefined) this.#arrivals.end();
    else this.#arrivals.fail(error);
  }

  /** Starts to accept streams from the runtime. Further calls have no effect. */
  accept(): void {
    if (this.#isAccepting || this.#isOver) return;
    this.#isAccepting = true;
    void this.#acceptAll(this.#options.streams().getReader());
  }

  async #acceptAll(reader: ReadableStreamDefaultReader<S>): Promise<void> {
    try {
      while (true) {
        const { done, value } = await reader.read();
        // Once the connection has ended, a stream is useless.
        if (done || this.#isOver) return;
        const item = this.#options.take(value);
        if (this.#receiver !== undefined) this.#receiver(item);
        else {
          this.#arrivals.push(item);
          this.#options.waits(item);
        }
      }
    } catch {
      // The connection has ended, and `closed` reports the outcome.
    }
  }
}
