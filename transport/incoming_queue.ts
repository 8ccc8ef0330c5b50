/** A bounded queue of items from the peer, read as a stream. */

/** The options for {@linkcode IncomingQueue}. */
export interface IncomingQueueOptions<T> {
  /** The maximum number of items to hold. If another item arrives, the oldest is dropped. */
  capacity: number;
  /** Called when a reader takes an item. */
  onTaken?: (() => void) | undefined;
  /** Called with each item that will not be read. */
  onDropped?: ((item: T) => void) | undefined;
}

/** A loop's request for the next item. */
type Waiter<U> = PromiseWithResolvers<IteratorResult<U, undefined>>;

/**
 * Holds items until a reader requests them. The stream itself buffers no items, so an item counts
 * as taken only when a reader has received it.
 *
 * - **Overflow:** when the queue is full, the oldest item is dropped.
 * - **End:** after a clean end, held items can still be read.
 *
 * @typeParam T The type of the items.
 * @typeParam U The type that readers receive.
 */
export class IncomingQueue<T, U = T> {
  readonly #options: IncomingQueueOptions<T>;
  readonly #present: (item: T) => U;
  readonly #items: T[] = [];
  readonly #waiters: Waiter<U>[] = [];
  #readable: ReadableStream<U> | undefined = undefined;
  #link: QueueLink<U> | undefined = undefined;
  #controller: ReadableStreamDefaultController<U> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #wanted = false;
  #ending = false;
  #over = false;

  /**
   * Creates an empty queue.
   *
   * @param present Converts an item when a reader takes it. By default, readers receive the item
   * itself.
   */
  constructor(
    options: IncomingQueueOptions<T>,
    present: (item: T) => U = (item) => item as unknown as U,
  ) {
    this.#options = options;
    this.#present = present;
  }

  /**
   * The stream of the items, in order. Created on first use, because most connections have queues
   * that are never read.
   */
  get readable(): ReadableStream<U> {
    if (this.#readable === undefined) {
      const queue: StreamQueue<U> = {
        start: (controller) => {
          this.#controller = controller;
          if (this.#failure !== undefined) controller.error(this.#failure.cause);
          else if (this.#over) controller.close();
        },
        pull: () => this.#pull(),
        cancel: () => this.#finish(),
        begin: () => void (this.#wanted = false), // Left by an earlier reader.
        isQueued: () => this.#isQueued,
        next: () => this.#next(),
      };
      this.#readable = new IncomingQueueStream<U>(this.#link = { queue });
      if (this.#over) this.#letGo();
    }
    return this.#readable;
  }

  /**
   * The number of items that have not been taken yet, including an item that an earlier reader may
   * have left in the stream.
   */
  get size(): number {
    return this.#items.length + Math.max(0, -(this.#controller?.desiredSize ?? 0));
  }

  /** Adds an item. After the end, the item is dropped. */
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
    // A pending pull may come from a cancelled read. Without a reader, the item stays in the queue.
    if (this.#wanted && isRead) this.#pull();
    else if (this.#items.length > this.#options.capacity) {
      const oldest = this.#items.shift()!; // An optional call might skip the shift.
      this.#options.onDropped?.(oldest);
    }
  }

  /**
   * Removes and returns all held items, for a reader that does not use the stream.
   *
   * @returns The items, in order.
   */
  takeHeld(): T[] {
    const held = this.#items.splice(0);
    if (this.#ending) this.#close();
    return held;
  }

  /** Ends the stream once all held items have been read. Idempotent. */
  end(): void {
    this.#ending = true;
    if (this.#items.length === 0) this.#close();
  }

  /** Ends the stream with an error, and drops all held items. Idempotent. */
  fail(error: unknown): void {
    if (this.#over) return;
    this.#failure = { cause: error };
    // This comes first, because it makes the stream drop an item that an earlier reader left there.
    this.#controller?.error(error);
    this.#finish();
  }

  #next(): Promise<IteratorResult<U, undefined>> {
    const item = this.#items.shift();
    if (item === undefined && !this.#over) {
      const waiter: Waiter<U> = Promise.withResolvers();
      this.#waiters.push(waiter);
      return waiter.promise;
    }
    if (item === undefined) return Promise.resolve(DONE);
    this.#options.onTaken?.();
    if (this.#ending && this.#items.length === 0) this.#close();
    return Promise.resolve({ done: false, value: this.#present(item) });
  }

  /** True if the stream itself holds an item, left by an earlier reader. */
  get #isQueued(): boolean {
    return (this.#controller?.desiredSize ?? 0) < 0;
  }

  #pull(): void {
    const item = this.#items.shift();
    this.#wanted = item === undefined;
    if (item === undefined) return;
    // Enqueueing may pull the next item synchronously.
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
    this.#letGo();
  }

  /** Separates the ended stream from this queue, and therefore from the connection. */
  #letGo(): void {
    const link = this.#link;
    if (link === undefined || this.#isQueued) return;
    link.queue = undefined;
    link.failure = this.#failure;
  }
}

/**
 * Removes one item from a queue, if the queue holds it.
 *
 * @returns The item, or `undefined` if no item matches.
 */
export function takeOut<T, U>(
  queue: IncomingQueue<T, U>,
  isMeant: (item: T) => boolean,
): T | undefined {
  let found: T | undefined;
  for (const item of queue.takeHeld()) {
    if (found === undefined && isMeant(item)) found = item;
    else queue.push(item);
  }
  return found;
}

/** The interface of the queue for its stream, and for loops over the stream. */
interface StreamQueue<T> {
  start(controller: ReadableStreamDefaultController<T>): void;
  /** Enqueues an item as soon as there is one. */
  pull(): void;
  /** Drops all items, and accepts no further ones. */
  cancel(): void;
  /** Starts a loop, which is the only reader while it runs. */
  begin(): void;
  /** True if the stream itself holds an item, left by an earlier reader. */
  isQueued(): boolean;
  /** Takes the next item. */
  next(): Promise<IteratorResult<T, undefined>>;
}

/**
 * The link from a stream to its queue, which is cut when the queue has ended. Deno frees a web
 * stream only in a full garbage collection; until then, an uncut link would keep the whole
 * connection alive. Each minor collection would copy the ended connections. That would cost up to a
 * tenth of a session's setup.
 */
interface QueueLink<T> {
  /** The queue; `undefined` once the queue has ended and is empty. */
  queue: StreamQueue<T> | undefined;
  /** The failure of the queue, which only the next loop receives. */
  failure?: { readonly cause: unknown } | undefined;
}

/** A loop over a stream, disposable as in the types of browsers. */
interface QueueIterator<T> extends AsyncIterableIterator<T>, AsyncDisposable {
  [Symbol.asyncIterator](): QueueIterator<T>;
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/**
 * A stream whose loops take items directly from the queue. The platform's own loop would cost a
 * session as much as a tenth of its handshake, because each release of a stream creates an error
 * with a stack trace.
 */
class IncomingQueueStream<T> extends ReadableStream<T> {
  readonly #link: QueueLink<T>;

  constructor(link: QueueLink<T>) {
    super({
      start: (controller) => link.queue?.start(controller),
      pull: () => link.queue?.pull(),
      cancel: () => link.queue?.cancel(),
    }, { highWaterMark: 0 });
    this.#link = link;
  }

  override values(options: ReadableStreamIteratorOptions = {}): QueueIterator<T> {
    // The stream is locked while the loop runs, and stays locked after the loop has reached the
    // end.
    const reader = this.getReader();
    const link = this.#link;
    link.queue?.begin();
    const end = async () => {
      // The loop has already received the error of a failed stream.
      if (!options.preventCancel) await reader.cancel().catch(() => {});
      reader.releaseLock();
      return DONE;
    };
    const iterator: QueueIterator<T> = {
      next() {
        const { queue, failure } = link;
        if (queue !== undefined) {
          return queue.isQueued()
            ? reader.read() as Promise<IteratorResult<T, undefined>>
            : queue.next();
        }
        link.failure = undefined;
        return failure === undefined ? Promise.resolve(DONE) : Promise.reject(failure.cause);
      },
      return: end,
      [Symbol.asyncIterator]: () => iterator,
      [Symbol.asyncDispose]: async () => void await end(),
    };
    return iterator;
  }

  override [Symbol.asyncIterator](
    options?: ReadableStreamIteratorOptions,
  ): QueueIterator<T> {
    return this.values(options);
  }
}
