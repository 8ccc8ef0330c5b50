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

/** Who waits for an item in a loop. */
type Waiter<U> = PromiseWithResolvers<IteratorResult<U, undefined>>;

/**
 * Holds items until a reader asks for them. Nothing is buffered in the stream
 * itself, so an item counts as taken only when it was.
 *
 * - **Overflow:** the oldest item is dropped.
 * - **End:** after a clean end what is held can still be read.
 *
 * @typeParam T The type of an item.
 * @typeParam U What readers get of it.
 */
export class Arrivals<T, U = T> {
  readonly #options: ArrivalsOptions<T>;
  readonly #present: (item: T) => U;
  readonly #items: T[] = [];
  readonly #waiters: Waiter<U>[] = [];
  #readable: ReadableStream<U> | undefined = undefined;
  #controller: ReadableStreamDefaultController<U> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #isTold = false;
  #wanted = false;
  #ending = false;
  #over = false;

  /**
   * Creates an empty queue.
   *
   * @param options See {@linkcode ArrivalsOptions}.
   * @param present Makes what readers get of an item, when they get it; the item itself by default.
   */
  constructor(
    options: ArrivalsOptions<T>,
    present: (item: T) => U = (item) => item as unknown as U,
  ) {
    this.#options = options;
    this.#present = present;
  }

  /** The items, in order. Made when somebody asks for it: most connections have queues that nobody reads. */
  get readable(): ReadableStream<U> {
    return this.#readable ??= new ArrivalStream<U>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#failure !== undefined) controller.error(this.#failure.cause);
        else if (this.#over) controller.close();
      },
      pull: () => this.#pull(),
      cancel: () => this.#finish(),
    }, {
      begin: () => void (this.#wanted = false), // Of a reader that is gone.
      isQueued: () => (this.#controller?.desiredSize ?? 0) < 0,
      next: () => this.#next(),
    });
  }

  /** How many items nobody took yet; a reader that left may have left one in the stream. */
  get size(): number {
    return this.#items.length + Math.max(0, -(this.#controller?.desiredSize ?? 0));
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
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) {
      this.#options.onTaken?.();
      return waiter.resolve({ done: false, value: this.#present(item) });
    }
    const isRead = this.#readable?.locked ?? false;
    this.#items.push(item);
    // A read that was given up may be what is wanted: then nobody would take it from the stream.
    if (this.#wanted && isRead) this.#pull();
    else if (this.#items.length > this.#options.capacity) {
      const oldest = this.#items.shift()!; // Not inside the optional call, which may not happen.
      this.#options.onDropped?.(oldest);
    }
  }

  /**
   * Takes all that is held, for who reads by other means than the stream.
   *
   * @returns The items, in order.
   */
  takeHeld(): T[] {
    const held = this.#items.splice(0);
    if (this.#ending) this.#close();
    return held;
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
    this.#failure = { cause: error };
    this.#finish();
    this.#controller?.error(error);
  }

  /** The next item, for a loop. */
  #next(): Promise<IteratorResult<U, undefined>> {
    const item = this.#items.shift();
    if (item === undefined && !this.#over) {
      const waiter: Waiter<U> = Promise.withResolvers();
      this.#waiters.push(waiter);
      return waiter.promise;
    }
    if (item === undefined) {
      const failure = this.#isTold ? undefined : this.#failure;
      this.#isTold = true; // A loop hears of an error once.
      return failure === undefined ? Promise.resolve(DONE) : Promise.reject(failure.cause);
    }
    this.#options.onTaken?.();
    if (this.#ending && this.#items.length === 0) this.#close();
    return Promise.resolve({ done: false, value: this.#present(item) });
  }

  #pull(): void {
    const item = this.#items.shift();
    this.#wanted = item === undefined;
    if (item === undefined) return;
    // Enqueueing may ask for the next one at once, from in here.
    this.#controller!.enqueue(this.#present(item));
    this.#options.onTaken?.();
    if (this.#ending && this.#items.length === 0) this.#close();
  }

  #close(): void {
    if (this.#over) return;
    this.#finish();
    this.#controller?.close();
  }

  #finish(): void {
    this.#over = true;
    for (const item of this.#items.splice(0)) this.#options.onDropped?.(item);
    for (const { resolve, reject } of this.#waiters.splice(0)) {
      if (this.#failure === undefined) resolve(DONE);
      else reject(this.#failure.cause);
    }
  }
}

/**
 * Takes one item out of a queue, if it is held there.
 *
 * @param queue The queue.
 * @param isMeant Finds the item.
 * @returns The item; `undefined` if there is none.
 */
export function takeOut<T, U>(queue: Arrivals<T, U>, isMeant: (item: T) => boolean): T | undefined {
  let found: T | undefined;
  for (const item of queue.takeHeld()) {
    if (found === undefined && isMeant(item)) found = item;
    else queue.push(item);
  }
  return found;
}

/** What a loop gets its items from. */
interface LoopQueue<T> {
  /** A loop has the only reader now. */
  begin(): void;
  /** Whether the stream itself holds an item, for a reader that left. */
  isQueued(): boolean;
  /** The next item. */
  next(): Promise<IteratorResult<T, undefined>>;
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/**
 * A stream whose items a loop gets straight from the queue. The loop of the
 * platform costs a session as much as a tenth of its handshake: it makes an
 * error, with its stack, each time that it lets go of a stream.
 */
class ArrivalStream<T> extends ReadableStream<T> {
  readonly #queue: LoopQueue<T>;

  constructor(source: UnderlyingDefaultSource<T>, queue: LoopQueue<T>) {
    super(source, { highWaterMark: 0 });
    this.#queue = queue;
  }

  override values(options: ReadableStreamIteratorOptions = {}): AsyncIterableIterator<T> {
    // It is locked while the loop runs, and stays so once it is at its end.
    const reader = this.getReader();
    const queue = this.#queue;
    queue.begin();
    const iterator: AsyncIterableIterator<T> = {
      next: () =>
        queue.isQueued() ? reader.read() as Promise<IteratorResult<T, undefined>> : queue.next(),
      async return() {
        // One that failed has told so.
        if (!options.preventCancel) await reader.cancel().catch(() => {});
        reader.releaseLock();
        return DONE;
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  override [Symbol.asyncIterator](
    options?: ReadableStreamIteratorOptions,
  ): AsyncIterableIterator<T> {
    return this.values(options);
  }
}
