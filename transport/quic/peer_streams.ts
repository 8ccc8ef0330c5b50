/** Queue of the streams of one direction that the peer opens. */
import { Arrivals, takeOut } from "../incoming_queue.ts";

/** Steps from a stream of the runtime to the application. */
export interface PeerStreamsOptions<S, T, U> {
  /** Streams of the runtime. */
  streams(): ReadableStream<S>;
  /** Wraps a stream of the runtime. */
  take(stream: S): T;
  /** Converts a wrapped stream for a reader, at the moment of reading. */
  present(item: T): U;
  /** Called with a stream that enters the queue. */
  waits(item: T): void;
  /** Ends a stream that has no reader any more. */
  drop(item: T): void;
}

/**
 * Streams that the peer opened. The runtime keeps streams until this queue accepts some, so that the
 * peer waits for an application that does not ask for streams. The QUIC stream limit bounds the
 * number.
 *
 * @typeParam S Stream of the runtime.
 * @typeParam T Wrapped stream.
 * @typeParam U Stream as readers get it.
 */
export class PeerStreams<S, T, U> {
  readonly #options: PeerStreamsOptions<S, T, U>;
  readonly #arrivals: Arrivals<T, U>;
  #receiver: ((item: T) => void) | undefined = undefined;
  #isAccepting = false;
  #isOver = false;

  /** Creates the queue without accepting streams. */
  constructor(options: PeerStreamsOptions<S, T, U>) {
    this.#options = options;
    this.#arrivals = new Arrivals<T, U>(
      { capacity: Infinity, onDropped: (item) => options.drop(item) },
      (item) => options.present(item),
    );
  }

  /** Streams in order of arrival. */
  get readable(): ReadableStream<U> {
    this.accept();
    return this.#arrivals.readable;
  }

  /** Number of accepted streams that the application has not taken. */
  get size(): number {
    return this.#arrivals.size;
  }

  /**
   * Sets a receiver in place of the readable.
   *
   * @param receiver Called with each stream, those accepted earlier included.
   * @throws {TypeError} If there is a receiver already.
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
   * @param isMeant Predicate for the stream.
   * @returns The stream; `undefined` if none in the queue matches.
   */
  takeOut(isMeant: (item: T) => boolean): T | undefined {
    return takeOut(this.#arrivals, isMeant);
  }

  /** Applies a change to the first stream in the queue; returns false if the queue is empty. */
  changeFirst(change: (item: T) => void): boolean {
    const held = this.#arrivals.takeHeld();
    for (const [index, item] of held.entries()) {
      if (index === 0) change(item);
      this.#arrivals.push(item);
    }
    return held.length > 0;
  }

  /**
   * Ends the streams with the connection.
   *
   * @param error Error for readers, if the connection broke.
   */
  end(error?: Error): void {
    this.#isOver = true;
    if (error === undefined) this.#arrivals.end();
    else this.#arrivals.fail(error);
  }

  /** Starts to take streams from the runtime. Idempotent. */
  accept(): void {
    if (this.#isAccepting || this.#isOver) return;
    this.#isAccepting = true;
    void this.#acceptAll(this.#options.streams().getReader());
  }

  async #acceptAll(reader: ReadableStreamDefaultReader<S>): Promise<void> {
    try {
      while (true) {
        const { done, value } = await reader.read();
        // Streams after the end of the connection have no use.
        if (done || this.#isOver) return;
        const item = this.#options.take(value);
        if (this.#receiver !== undefined) this.#receiver(item);
        else {
          this.#arrivals.push(item);
          this.#options.waits(item);
        }
      }
    } catch {
      // The connection is over; `closed` reports the outcome.
    }
  }
}
