/**
 * Streams of one direction that the peer opens.
 *
 * @module
 */
import { Arrivals, takeOut } from "../_arrivals.ts";

/** What is made of streams. */
export interface PeerStreamsOptions<S, T, U> {
  /** Those of the runtime. */
  streams(): ReadableStream<S>;
  /** Takes over one of them. */
  take(stream: S): T;
  /** Makes what readers get of it, when they get it. */
  present(item: T): U;
  /** Called with one that waits in the queue. */
  waits(item: T): void;
  /** Ends one that nobody will read. */
  drop(item: T): void;
}

/**
 * Streams that the peer opened. They stay in the runtime until they are accepted, so that the peer
 * waits for an application that does not ask for them; QUIC's limit on streams bounds how many there
 * are.
 *
 * @typeParam S A stream of the runtime.
 * @typeParam T What is made of it.
 * @typeParam U What readers get of that.
 */
export class PeerStreams<S, T, U> {
  readonly #options: PeerStreamsOptions<S, T, U>;
  readonly #arrivals: Arrivals<T, U>;
  #receiver: ((item: T) => void) | undefined = undefined;
  #isAccepting = false;
  #isOver = false;

  /**
   * Prepares to take streams.
   *
   * @param options See {@linkcode PeerStreamsOptions}.
   */
  constructor(options: PeerStreamsOptions<S, T, U>) {
    this.#options = options;
    this.#arrivals = new Arrivals<T, U>(
      { capacity: Infinity, onDropped: (item) => options.drop(item) },
      (item) => options.present(item),
    );
  }

  /** The streams, in order. */
  get readable(): ReadableStream<U> {
    this.accept();
    return this.#arrivals.readable;
  }

  /** How many were accepted that nobody took yet. */
  get size(): number {
    return this.#arrivals.size;
  }

  /**
   * Sets who gets each stream instead of the readable.
   *
   * @param receiver Gets each; those too that were accepted before.
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
   * Takes one stream out of those that wait.
   *
   * @param isMeant Finds it.
   * @returns The stream; `undefined` if it does not wait.
   */
  takeOut(isMeant: (item: T) => boolean): T | undefined {
    return takeOut(this.#arrivals, isMeant);
  }

  /** Has something done to the first stream that is held, if there is one, and says whether. */
  changeFirst(change: (item: T) => void): boolean {
    const held = this.#arrivals.takeHeld();
    for (const [index, item] of held.entries()) {
      if (index === 0) change(item);
      this.#arrivals.push(item);
    }
    return held.length > 0;
  }

  /**
   * Ends them with the connection.
   *
   * @param error What readers get, if the connection broke.
   */
  end(error?: Error): void {
    this.#isOver = true;
    if (error === undefined) this.#arrivals.end();
    else this.#arrivals.fail(error);
  }

  /** Takes streams from the runtime, from now on. Idempotent. */
  accept(): void {
    if (this.#isAccepting || this.#isOver) return;
    this.#isAccepting = true;
    void this.#acceptAll(this.#options.streams().getReader());
  }

  async #acceptAll(reader: ReadableStreamDefaultReader<S>): Promise<void> {
    try {
      while (true) {
        const { done, value } = await reader.read();
        // What comes after the end is of no use to anybody.
        if (done || this.#isOver) return;
        const item = this.#options.take(value);
        if (this.#receiver !== undefined) this.#receiver(item);
        else {
          this.#arrivals.push(item);
          this.#options.waits(item);
        }
      }
    } catch {
      // The connection is over; its `closed` tells how.
    }
  }
}
