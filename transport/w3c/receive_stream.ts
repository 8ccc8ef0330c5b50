/** Receiving streams of the W3C `WebTransport`. */
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import type { StreamHalf } from "../quic/stream_owner.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import type { StreamsOwner } from "./send_stream.ts";

/** Counters of a receiving stream. */
export interface WebTransportReceiveStreamStats {
  /** Bytes received from the runtime. */
  readonly bytesReceived: number;
  /** Received bytes that the reader has taken. */
  readonly bytesRead: number;
}

/** Source behind a receiving stream. */
export class ReceiveSource implements StreamHalf, UnderlyingByteSource {
  /** Previous half in the list of the owner. */
  previous: StreamHalf | undefined = undefined;
  /** Next half in the list of the owner. */
  next: StreamHalf | undefined = undefined;

  /** Marks a byte stream. */
  readonly type = "bytes";
  /** Bytes received. */
  received = 0;
  /** Bytes taken by the reader. */
  read = 0;

  readonly #owner: StreamsOwner;
  readonly #half: DirectReadable;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isOver = false;

  /**
   * Wraps a half.
   *
   * @param owner The session.
   * @param half Half to read from.
   */
  constructor(owner: StreamsOwner, half: DirectReadable) {
    this.#owner = owner;
    this.#half = half;
    owner.halves.add(this);
  }

  /** The half, for direct calls instead of a web stream. */
  get half(): DirectReadable {
    this.#owner.halves.delete(this);
    return this.#half;
  }

  /** Reads one chunk ahead, so that the end of the stream is noticed without a read. */
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

  /** Ends the stream, with the session or by the peer. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#end();
    this.#controller?.error(error);
  }

  /** No-op: this direction needs no release. */
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
    try {
      this.#controller!.close();
    } catch {
      return; // The stream ended inside an element wider than a byte; the reader got the error.
    }
    this.#controller!.byobRequest?.respond(0);
  }

  #end(): void {
    this.#isOver = true;
    this.#owner.halves.delete(this);
  }
}

/** A receiving stream. As a byte stream, also readable with a BYOB reader. */
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
   * @ignore Creates a stream; callable only by the session.
   *
   * @param source Source behind the stream.
   */
  constructor(source: ReceiveSource | undefined = undefined) {
    const checked = constructible(source, ReceiveSource);
    // The types have no class of byte streams.
    super(checked as unknown as UnderlyingDefaultSource, { highWaterMark: 0 });
    this.#source = checked;
  }

  /** The stream with direct calls. MUST NOT be mixed with the web stream. */
  get direct(): DirectReadable {
    return this.#source.half;
  }

  /**
   * Locks the stream for a BYOB reader.
   *
   * @param options `mode` is `byob`.
   * @returns The reader.
   */
  override getReader(options: { mode: "byob" }): ReadableStreamBYOBReader;
  /**
   * Locks the stream for a reader.
   *
   * @param options Absent, or with an undefined `mode`.
   * @returns The reader.
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
   * Reads the counters of received bytes.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportReceiveStreamStats> {
    const { received, read } = this.#source;
    return Promise.resolve({ bytesReceived: received, bytesRead: read });
  }
}
