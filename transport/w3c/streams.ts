/** The bidirectional and incoming streams of the W3C `WebTransport`. */
import { closeBytes } from "../byte_stream.ts";
import type {
  BidirectionalStream,
  DirectReadable,
  DirectStream,
  ReceiveStream,
} from "../connection.ts";
import {
  type OrderedWritable,
  SendSource,
  type StreamsOwner,
  type WebTransportSendOptions,
  WebTransportSendStream,
} from "./send_stream.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import type { StreamHalf } from "../quic/stream_owner.ts";

/** The counters of a receiving stream. */
export interface WebTransportReceiveStreamStats {
  /** The number of bytes received from the runtime. */
  readonly bytesReceived: number;
  /** The number of received bytes that the reader has read. */
  readonly bytesRead: number;
}

export class ReceiveSource implements StreamHalf, UnderlyingByteSource {
  previous: StreamHalf | undefined = undefined;
  next: StreamHalf | undefined = undefined;

  /** Marks a byte stream. */
  readonly type = "bytes";
  received = 0;
  /** The number of bytes that the reader has read. */
  read = 0;

  readonly #owner: StreamsOwner;
  readonly #half: DirectReadable;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isOver = false;

  constructor(owner: StreamsOwner, half: DirectReadable) {
    this.#owner = owner;
    this.#half = half;
    owner.halves.add(this);
  }

  /** The stream half, for plain calls instead of a web stream. */
  get half(): DirectReadable {
    this.#owner.halves.delete(this);
    return this.#half;
  }

  /**
   * Reads one chunk ahead, so that the end of the stream is noticed even if the application does
   * not read.
   */
  begin(): void {
    if (!this.#isOver) this.#ahead ??= this.#readAhead();
  }

  start(controller: ReadableByteStreamController): void {
    this.#controller = controller;
    if (this.#owner.isOver()) this.fail(this.#owner.connectionError(undefined));
  }

  async pull(controller: ReadableByteStreamController): Promise<void> {
    const bytes = await (this.#ahead ??= this.#readAhead());
    if (bytes === null || this.#isOver) return;
    this.read += bytes.byteLength;
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
    this.#ahead = this.#readAhead();
  }

  cancel(reason: unknown): void {
    this.#end();
    this.#half.cancel(reason);
  }

  /** Ends the stream because the session ended or the peer reset the stream. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#end();
    this.#controller?.error(error);
  }

  /** Does nothing, because this direction needs no release. */
  release(): void {}

  #readAhead(): Promise<Uint8Array | null> {
    const ahead = this.#half.read();
    ahead.then((bytes) => {
      if (bytes === null) this.#finish();
      else this.received += bytes.byteLength;
    }, (error) => this.fail(error));
    return ahead;
  }

  #finish(): void {
    if (this.#isOver) return;
    this.#end();
    closeBytes(this.#controller!);
  }

  #end(): void {
    this.#isOver = true;
    this.#owner.halves.delete(this);
  }
}

/** A receiving stream. It is a byte stream, so it can also be read with a BYOB reader. */
export class WebTransportReceiveStream extends ReadableStream<Uint8Array<ArrayBuffer>>
  implements ReceiveStream {
  static {
    defineInterface(this, {
      name: "WebTransportReceiveStream",
      members: ["getStats"],
      promises: ["getStats"],
    });
  }

  readonly #source: ReceiveSource;

  /**
   * @ignore Creates a stream. Only the session can call this constructor.
   *
   * @param source The source of the stream.
   */
  constructor(source: ReceiveSource | undefined = undefined) {
    const checked = constructible(source, ReceiveSource);
    // TypeScript's types have no class for byte streams.
    super(checked as unknown as UnderlyingDefaultSource, { highWaterMark: 0 });
    this.#source = checked;
  }

  /** Reads the stream with plain calls. MUST NOT be used together with the web stream. */
  get direct(): DirectReadable {
    return this.#source.half;
  }

  /**
   * Locks the stream for a BYOB reader.
   *
   * @param options The options; `mode` is `"byob"`.
   * @returns The only reader until its lock is released.
   */
  override getReader(options: { mode: "byob" }): ReadableStreamBYOBReader;
  /**
   * Locks the stream for a reader.
   *
   * @param options The options; absent, or without a `mode`.
   * @returns The only reader until its lock is released.
   */
  override getReader(
    options?: { mode?: undefined },
  ): ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  override getReader(
    options?: { mode?: "byob" | undefined },
  ): ReadableStreamBYOBReader | ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>> {
    const reader = super.getReader(options as { mode: "byob" });
    this.#source.begin();
    return reader;
  }

  /**
   * Reads how many bytes were received and read.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportReceiveStreamStats> {
    const { received, read } = this.#source;
    return Promise.resolve({ bytesReceived: received, bytesRead: read });
  }
}

/** The source of a bidirectional stream. */
export class BidirectionalSource {
  readonly owner: StreamsOwner;
  /** The stream, for plain calls. */
  readonly stream: DirectStream & OrderedWritable;
  /** The group and priority, if this side opened the stream. */
  readonly options: WebTransportSendOptions | undefined;

  /**
   * @param options The group and priority, if this side opened the stream.
   */
  constructor(
    owner: StreamsOwner,
    stream: DirectStream & OrderedWritable,
    options?: WebTransportSendOptions,
  ) {
    this.owner = owner;
    this.stream = stream;
    this.options = options;
  }
}

/** A bidirectional stream. Its web streams are created on first use. */
export class WebTransportBidirectionalStream implements BidirectionalStream {
  static {
    defineInterface(this, {
      name: "WebTransportBidirectionalStream",
      members: ["readable", "writable"],
    });
  }

  readonly #source: BidirectionalSource;
  #readable: WebTransportReceiveStream | undefined = undefined;
  #writable: WebTransportSendStream | undefined = undefined;

  /**
   * @ignore Creates a stream. Only the session can call this constructor.
   *
   * @param source The source of the stream.
   */
  constructor(source: BidirectionalSource | undefined = undefined) {
    this.#source = constructible(source, BidirectionalSource);
  }

  /** The data written by the server. */
  get readable(): WebTransportReceiveStream {
    const { owner, stream } = this.#source;
    return this.#readable ??= new WebTransportReceiveStream(new ReceiveSource(owner, stream));
  }

  /** The data written by this side. */
  get writable(): WebTransportSendStream {
    const { owner, stream, options } = this.#source;
    return this.#writable ??= new WebTransportSendStream(new SendSource(owner, stream, options));
  }

  /**
   * Reads and writes the stream with plain calls. MUST NOT be used together with the web streams.
   */
  get direct(): DirectStream {
    return this.#source.stream;
  }
}

/** The incoming streams of a session, which may still be connecting. */
export class IncomingStreams<T, Half> {
  /** The streams in order of arrival. */
  readonly readable: ReadableStream<T>;

  readonly #source: () => Promise<ReadableStream<Half>>;
  readonly #wrap: (half: Half) => T;
  #reader: Promise<ReadableStreamDefaultReader<Half>> | undefined = undefined;
  #controller: ReadableStreamDefaultController<T> | undefined = undefined;
  #isOver = false;

  /**
   * @param source Returns a promise that resolves with the streams once the session is ready. The
   * promise may reject.
   */
  constructor(source: () => Promise<ReadableStream<Half>>, wrap: (half: Half) => T) {
    this.#source = source;
    this.#wrap = wrap;
    this.readable = new ReadableStream<T>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#pull(),
      cancel: (reason) => this.#cancel(reason),
    }, { highWaterMark: 0 });
  }

  /**
   * Ends the readable when the session ends.
   *
   * @param error The error if the session broke; `undefined` if it was closed.
   */
  end(error: Error | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (error === undefined) this.#controller!.close();
    else this.#controller!.error(error);
  }

  async #pull(): Promise<void> {
    try {
      const reader = await this.#open();
      const { done, value } = await reader.read();
      if (!done && !this.#isOver) this.#controller!.enqueue(this.#wrap(value));
    } catch {
      // The session has ended, and `end` reports the outcome.
    }
  }

  /** Rejects later streams. */
  #cancel(reason: unknown): void {
    this.#isOver = true;
    this.#open().then((reader) => reader.cancel(reason)).catch(() => {});
  }

  #open(): Promise<ReadableStreamDefaultReader<Half>> {
    return this.#reader ??= this.#source().then((streams) => streams.getReader());
  }
}
