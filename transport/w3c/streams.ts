/** Bidirectional and incoming streams of the W3C `WebTransport`. */
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

/** Source behind a bidirectional stream. */
export class BidirectionalSource {
  /** The session. */
  readonly owner: StreamsOwner;
  /** The stream with direct calls. */
  readonly stream: DirectStream & OrderedWritable;
  /** Group and priority, for a stream opened by this end. */
  readonly options: WebTransportSendOptions | undefined;

  /**
   * Wraps a stream.
   *
   * @param owner The session.
   * @param stream The stream with direct calls.
   * @param options Group and priority, for a stream opened by this end.
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

/** A bidirectional stream. The web streams are created on first use. */
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
   * @ignore Creates a stream; callable only by the session.
   *
   * @param source Source behind the stream.
   */
  constructor(source: BidirectionalSource | undefined = undefined) {
    this.#source = constructible(source, BidirectionalSource);
  }

  /** Data written by the server. */
  get readable(): WebTransportReceiveStream {
    const { owner, stream } = this.#source;
    return this.#readable ??= new WebTransportReceiveStream(new ReceiveSource(owner, stream));
  }

  /** Data written by this end. */
  get writable(): WebTransportSendStream {
    const { owner, stream, options } = this.#source;
    return this.#writable ??= new WebTransportSendStream(new SendSource(owner, stream, options));
  }

  /** The stream with direct calls. MUST NOT be mixed with the web streams. */
  get direct(): DirectStream {
    return this.#source.stream;
  }
}

/** Incoming streams of a session that may still be connecting. */
export class IncomingStreams<T, Half> {
  /** Streams in order of arrival. */
  readonly readable: ReadableStream<T>;

  readonly #source: () => Promise<ReadableStream<Half>>;
  readonly #wrap: (half: Half) => T;
  #reader: Promise<ReadableStreamDefaultReader<Half>> | undefined = undefined;
  #controller: ReadableStreamDefaultController<T> | undefined = undefined;
  #isOver = false;

  /**
   * Creates the readable.
   *
   * @param source Resolves once the session is ready; may reject.
   * @param wrap Converts a stream of the session.
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
   * Ends the readable with the session.
   *
   * @param error Error of a broken session; `undefined` after a close.
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
      // The session is over; `end` reports the outcome.
    }
  }

  /** Refuses later streams. */
  #cancel(reason: unknown): void {
    this.#isOver = true;
    this.#open().then((reader) => reader.cancel(reason)).catch(() => {});
  }

  #open(): Promise<ReadableStreamDefaultReader<Half>> {
    return this.#reader ??= this.#source().then((streams) => streams.getReader());
  }
}
