/**
 * Streams of the W3C's WebTransport that receive.
 *
 * @module
 */
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import type { StreamHalf } from "../quic/stream_halves.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import type { StreamsOwner } from "./send_stream.ts";

/** Counters of a stream that receives. */
export interface WebTransportReceiveStreamStats {
  /** Bytes that came, and were taken from the runtime. */
  readonly bytesReceived: number;
  /** Bytes of those that were handed to who reads. */
  readonly bytesRead: number;
}

/** What is behind a stream that receives. */
export class ReceiveSource implements StreamHalf, UnderlyingByteSource {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  /** It is a byte stream. */
  readonly type = "bytes";
  /** Bytes that came. */
  received = 0;
  /** Bytes that were handed over. */
  read = 0;

  readonly #owner: StreamsOwner;
  readonly #half: DirectReadable;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isOver = false;

  /**
   * Takes over a half.
   *
   * @param owner Whose it is.
   * @param half Is read from.
   */
  constructor(owner: StreamsOwner, half: DirectReadable) {
    this.#owner = owner;
    this.#half = half;
    owner.halves.add(this);
  }

  /** The half, for who wants no web stream. */
  get half(): DirectReadable {
    this.#owner.halves.delete(this);
    return this.#half;
  }

  /** Reads one piece ahead: only so the end of a stream is noticed before somebody reads. */
  begin(): void {
    if (!this.#isOver) this.#ahead ??= this.#readAhead();
  }

  /** Called by the stream. */
  start(controller: ReadableByteStreamController): void {
    this.#controller = controller;
    if (this.#owner.isOver()) this.fail(this.#owner.connectionError(undefined));
  }

  /** Called by the stream. */
  async pull(controller: ReadableByteStreamController): Promise<void> {
    const bytes = await (this.#ahead ??= this.#readAhead());
    if (bytes === null || this.#isOver) return;
    this.read += bytes.byteLength;
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
    this.#ahead = this.#readAhead();
  }

  /** Called by the stream. */
  cancel(reason: unknown): void {
    this.#end();
    this.#half.cancel(reason);
  }

  /** Ends it, with the session or by the peer. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#end();
    this.#controller?.error(error);
  }

  /** There is nothing left of it. */
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
      return; // The end is inside an element that is wider than a byte: the reader was told.
    }
    this.#controller!.byobRequest?.respond(0);
  }

  #end(): void {
    this.#isOver = true;
    this.#owner.halves.delete(this);
  }
}

/** A stream that receives: a byte stream, so that it can be read with a BYOB reader too. */
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
   * @ignore Creates a stream; only the session can.
   *
   * @param source What is behind it.
   */
  constructor(source: ReceiveSource | undefined = undefined) {
    const checked = constructible(source, ReceiveSource);
    // The types know no class of byte streams.
    super(checked as unknown as UnderlyingDefaultSource, { highWaterMark: 0 });
    this.#source = checked;
  }

  /** The same without a web stream; use either. */
  get direct(): DirectReadable {
    return this.#source.half;
  }

  /**
   * Locks the stream for a BYOB reader.
   *
   * @param options Its `mode` is `byob`.
   * @returns The reader.
   */
  override getReader(options: { mode: "byob" }): ReadableStreamBYOBReader;
  /**
   * Locks the stream for a reader.
   *
   * @param options Nothing, or a `mode` that is `undefined`.
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
   * Counts what came.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportReceiveStreamStats> {
    const { received, read } = this.#source;
    return Promise.resolve({ bytesReceived: received, bytesRead: read });
  }
}
