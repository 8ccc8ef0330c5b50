/**
 * Streams of the W3C's WebTransport in both directions, and those that come in.
 *
 * @module
 */
import type { BidirectionalStream, DirectStream } from "../connection.ts";
import { ReceiveSource, WebTransportReceiveStream } from "./receive_stream.ts";
import {
  type OrderedWritable,
  SendSource,
  type StreamsOwner,
  type WebTransportSendOptions,
  WebTransportSendStream,
} from "./send_stream.ts";
import { constructible, defineInterface } from "./web_idl.ts";

/** Source behind a stream that both ends write to. */
export class BidirectionalSource {
  /** Whose it is. */
  readonly owner: StreamsOwner;
  /** The stream by plain calls. */
  readonly stream: DirectStream & OrderedWritable;
  /** Its group and its place in the order, if it was opened with any. */
  readonly options: WebTransportSendOptions | undefined;

  /**
   * Takes over a stream.
   *
   * @param owner Whose it is.
   * @param stream The stream by plain calls.
   * @param options Its group and its place in the order, if it was opened with any.
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

/** A stream that both ends write to. Its web streams are made when they are asked for. */
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
   * @ignore Creates a stream; only the session can.
   *
   * @param source What is behind it.
   */
  constructor(source: BidirectionalSource | undefined = undefined) {
    this.#source = constructible(source, BidirectionalSource);
  }

  /** What the server writes. */
  get readable(): WebTransportReceiveStream {
    const { owner, stream } = this.#source;
    return this.#readable ??= new WebTransportReceiveStream(new ReceiveSource(owner, stream));
  }

  /** What this end writes. */
  get writable(): WebTransportSendStream {
    const { owner, stream, options } = this.#source;
    return this.#writable ??= new WebTransportSendStream(new SendSource(owner, stream, options));
  }

  /** The same without web streams; use either it or those. */
  get direct(): DirectStream {
    return this.#source.stream;
  }
}

/** What comes in from a session that may not be there yet. */
export class IncomingStreams<T, Half> {
  /** The streams, in order. */
  readonly readable: ReadableStream<T>;

  readonly #source: () => Promise<ReadableStream<Half>>;
  readonly #wrap: (half: Half) => T;
  #reader: Promise<ReadableStreamDefaultReader<Half>> | undefined = undefined;
  #controller: ReadableStreamDefaultController<T> | undefined = undefined;
  #isOver = false;

  /**
   * Prepares to wait for streams.
   *
   * @param source Resolves once there is a session; may reject.
   * @param wrap Makes a stream of what the session has.
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
   * Ends it with the session.
   *
   * @param error Why it broke; `undefined` if it was closed.
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
      // The session is over, and `end` says how.
    }
  }

  /** Later ones are refused. */
  #cancel(reason: unknown): void {
    this.#isOver = true;
    this.#open().then((reader) => reader.cancel(reason)).catch(() => {});
  }

  #open(): Promise<ReadableStreamDefaultReader<Half>> {
    return this.#reader ??= this.#source().then((streams) => streams.getReader());
  }
}
