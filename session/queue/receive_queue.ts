/** A bounded queue of received items, which are handled in order and with limited concurrency. */
import { Signal } from "../../base/signal.ts";

interface Item<T> {
  readonly item: T;
  readonly size: number;
}

/** Handler of items that the queue calls. */
export interface Consumer<T> {
  /** Handles one item. MUST NOT throw or reject. */
  handle(item: T): void | Promise<void>;
  /**
   * Number of items that may currently run beyond the queue's concurrency; 0 by default. The
   * consumer needs this if it waits for an effect of items that {@linkcode mayOvertake} others.
   */
  readonly extraRoom?: number | undefined;
  /** Returns true if an item may use the additional concurrency. */
  mayOvertake?(item: T): boolean;
}

/**
 * A bounded queue with one reader: either a consumer that the queue calls, or a caller of `take`.
 * If the consumer returns no promise, it is done immediately. The queue notifies listeners when an
 * item arrives, is taken or is finished, and when the queue ends.
 */
export class ReceiveQueue<T> extends Signal {
  readonly #limits: { readonly maxMessages: number; readonly maxBytes: number };
  readonly #concurrency: number;
  #items: Item<T>[] = [];
  #bytes = 0;
  #running = 0;
  /** True while the consumer must wait. */
  isHeld = false;
  #consumer: Consumer<T> | undefined;
  #isEnded = false;

  constructor(
    limits: { readonly maxMessages: number; readonly maxBytes: number },
    concurrency: number,
  ) {
    super();
    this.#limits = limits;
    this.#concurrency = concurrency;
  }

  /** Number of waiting items. */
  get size(): number {
    return this.#items.length;
  }

  /** Number of items that the consumer is handling. */
  get running(): number {
    return this.#running;
  }

  /** Number of waiting bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /** True if no item waits or runs. */
  get isIdle(): boolean {
    return this.#items.length === 0 && this.#running === 0 && !this.isHeld;
  }

  /** True if the queue accepts no more items. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Returns true if an item of this size may wait. */
  hasRoom(size: number): boolean {
    const { maxMessages, maxBytes } = this.#limits;
    // A single message is accepted at any size, because the size limit of a message was already
    // checked.
    return this.#items.length === 0 ||
      this.#items.length < maxMessages && this.#bytes + size <= maxBytes;
  }

  /** Adds an item. Returns false if the queue has no room for it. */
  offer(item: T, size: number): boolean {
    if (this.#isEnded) return true;
    const isNext = this.#items.length === 0 && this.#mayRun;
    const mayRun = isNext || this.#hasExtraRoom && this.#mayOvertake(item);
    if (this.#consumer !== undefined && mayRun) {
      this.#run(item);
      return true;
    }
    if (!this.hasRoom(size)) return false;
    this.#items.push({ item, size });
    this.#bytes += size;
    this.notify();
    return true;
  }

  /** Sets the consumer of each item. */
  consume(consumer: Consumer<T>): void {
    this.#consumer = consumer;
    this.pump();
  }

  /** Runs all items that may run. Call this when more items may overtake others. */
  pump(): void {
    if (this.#consumer === undefined) return;
    while (this.#items.length > 0 && this.#mayRun) this.#run(this.take()!);
    for (let i = 0; i < this.#items.length && this.#hasExtraRoom;) {
      if (this.#mayOvertake(this.#items[i]!.item)) this.#run(this.#takeAt(i)!);
      else i++;
    }
  }

  /** Keeps the consumer waiting until a promise settles. */
  holdFor(done: Promise<unknown>): void {
    this.isHeld = true;
    done.finally(() => {
      this.isHeld = false;
      this.pump();
      this.notify();
    });
  }

  /** Takes all waiting items that may overtake others, as the given consumer decides. */
  takeOvertaking(consumer: Required<Pick<Consumer<T>, "mayOvertake">>): T[] {
    const taken: T[] = [];
    for (let i = 0; i < this.#items.length;) {
      if (consumer.mayOvertake(this.#items[i]!.item)) taken.push(this.#takeAt(i)!);
      else i++;
    }
    return taken;
  }

  /** Takes the next waiting item. */
  take(): T | undefined {
    return this.#takeAt(0);
  }

  /** Stops accepting items. Waiting items remain for the reader. Idempotent. */
  end(): void {
    this.#isEnded = true;
    this.notify();
  }

  /** Drops all waiting items. */
  clear(): void {
    this.#items = [];
    this.#bytes = 0;
    this.notify();
  }

  get #mayRun(): boolean {
    return this.#running < this.#concurrency && !this.isHeld;
  }

  get #hasExtraRoom(): boolean {
    if (this.isHeld) return false;
    return this.#running < this.#concurrency + (this.#consumer?.extraRoom ?? 0);
  }

  #mayOvertake(item: T): boolean {
    return this.#consumer?.mayOvertake?.(item) === true;
  }

  #takeAt(index: number): T | undefined {
    // A shift is cheap, and by far the most frequent case.
    const taken = index === 0 ? this.#items.shift() : this.#items.splice(index, 1)[0];
    if (taken === undefined) return undefined;
    this.#bytes -= taken.size;
    this.notify();
    return taken.item;
  }

  #run(item: T): void {
    const running = this.#consumer!.handle(item);
    if (running === undefined) return;
    this.#running++;
    running.then(() => {
      this.#running--;
      this.pump();
      this.notify();
    });
  }
}

/**
 * Throws if the messages already have another reader.
 *
 * @param over Name of the loop's subject, for the error.
 * @param isRead True if another loop is already running.
 * @param isHandled True if there is a handler.
 * @throws {TypeError} If another loop is already running, or if there is a handler.
 */
export function checkLoop(over: string, isRead: boolean, isHandled = false): void {
  if (!isRead && !isHandled) return;
  const reader = isHandled ? "the onMessage handler" : "another loop";
  throw new TypeError(`Cannot iterate over ${over}: its messages go to ${reader}`);
}
