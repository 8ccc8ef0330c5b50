/**
 * A bounded queue of what came from the wire, read as a stream.
 *
 * @module
 */

/** Options for {@linkcode Arrivals}. */
export interface ArrivalsOptions<T> {
  /** Items held at most; past it the oldest is dropped. */
  capacity: number;
  /** Called when a reader took an item. */
  onTaken?: () => void;
  /** Called with an item that nobody will read. */
  onDropped?: (item: T) => void;
}

/**
 * Holds items until a reader asks for them. Nothing is buffered in the stream
 * itself, so an item counts as taken only when it was.
 *
 * - **Overflow:** the oldest item is dropped.
 * - **End:** after a clean end what is held can still be read.
 *
 * @typeParam T The type of an item.
 */
export class Arrivals<T> {
  readonly #options: ArrivalsOptions<T>;
  readonly #items: T[] = [];
  #readable: ReadableStream<T> | undefined = undefined;
  #controller: ReadableStreamDefaultController<T> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #wanted = false;
  #ending = false;
  #over = false;

  /**
   * Creates an empty queue.
   *
   * @param options See {@linkcode ArrivalsOptions}.
   */
  constructor(options: ArrivalsOptions<T>) {
    this.#options = options;
  }

  /** The items, in order. Made when somebody asks for it: most connections have queues that nobody reads. */
  get readable(): ReadableStream<T> {
    return this.#readable ??= new ReadableStream<T>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#failure !== undefined) controller.error(this.#failure.cause);
        else if (this.#over) controller.close();
      },
      pull: () => this.#pull(),
      cancel: () => this.#finish(),
    }, { highWaterMark: 0 });
  }

  /**
   * Adds an item; after the end it is dropped.
   *
   * @param item What came.
   */
  push(item: T): void {
    if (this.#over || this.#ending) {
      this.#options.onDropped?.(item);
      return;
    }
    this.#items.push(item);
    if (this.#wanted) this.#pull();
    else if (this.#items.length > this.#options.capacity) {
      const oldest = this.#items.shift()!; // Not inside the optional call, which may not happen.
      this.#options.onDropped?.(oldest);
    }
  }

  /** Ends the stream once what is held was read. Idempotent. */
  end(): void {
    this.#ending = true;
    if (this.#items.length === 0) this.#close();
  }

  /**
   * Ends the stream with an error; what is held is dropped. Idempotent.
   *
   * @param error What readers get.
   */
  fail(error: unknown): void {
    if (this.#over) return;
    this.#finish();
    this.#failure = { cause: error };
    this.#controller?.error(error);
  }

  #pull(): void {
    const item = this.#items.shift();
    this.#wanted = item === undefined;
    if (item === undefined) return;
    // Enqueueing may ask for the next one at once, from in here.
    this.#controller!.enqueue(item);
    this.#options.onTaken?.();
    if (this.#ending && this.#items.length === 0) this.#close();
  }

  #close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#controller?.close();
  }

  #finish(): void {
    this.#over = true;
    for (const item of this.#items.splice(0)) this.#options.onDropped?.(item);
  }
}
