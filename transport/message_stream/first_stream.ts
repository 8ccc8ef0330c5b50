/**
 * Finds the stream of the messages, and keeps it from the application.
 *
 * @module
 */
import type { BidirectionalStream, Connection } from "../connection.ts";
import { within } from "../within.ts";

/** The first bidirectional stream of the client, and what comes after it. */
export class FirstStream {
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
