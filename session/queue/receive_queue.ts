/**
 * What came and was not handled yet: one at a time, in order, bounded.
 *
 * @module
 */
import { Changing } from "../base/signal.ts";

interface Item<T> {
  readonly item: T;
  readonly size: number;
}

/** Handles one item. MUST NOT throw or reject. */
export type Consumer<T> = (item: T) => void | Promise<void>;

/** Lets items overtake others while consumers wait for something that those items may bring about. */
export interface Overtaking<T> {
  /** Items that may run now beyond the concurrency of the queue. */
  readonly extraRoom: number;
  /** Returns whether an item may take that room. */
  mayOvertake(item: T): boolean;
}

/**
 * A bounded queue with one reader: a consumer that is called, or one who
 * takes. A consumer that is done at once is called without a detour. It changes
 * when something arrives, is taken, finishes, or the queue ends.
 */
export class ReceiveQueue<T> extends Changing {
  readonly #limits: { readonly maxMessages: number; readonly maxBytes: number };
  readonly #concurrency: number;
  #items: Item<T>[] = [];
  #bytes = 0;
  #running = 0;
  /** Whether the consumer is kept waiting. */
  isHeld = false;
  #consumer: Consumer<T> | undefined;
  #overtaking: Overtaking<T> | undefined;
  #isEnded = false;

  /** Creates an empty queue. */
  constructor(
    limits: { readonly maxMessages: number; readonly maxBytes: number },
    concurrency: number,
  ) {
    super();
    this.#limits = limits;
    this.#concurrency = concurrency;
  }

  /** How many items wait. */
  get size(): number {
    return this.#items.length;
  }

  /** How many items the consumer is busy with. */
  get running(): number {
    return this.#running;
  }

  /** Bytes that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether nothing waits and nothing runs. */
  get isIdle(): boolean {
    return this.#items.length === 0 && this.#running === 0 && !this.isHeld;
  }

  /** Whether no more will come. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Adds an item; false if there is no room for it. */
  offer(item: T, size: number): boolean {
    if (this.#isEnded) return true;
    const isNext = this.#items.length === 0 && this.#mayRun;
    const mayRun = isNext || this.#hasExtraRoom && this.#overtaking!.mayOvertake(item);
    if (this.#consumer !== undefined && mayRun) {
      this.#run(item);
      return true;
    }
    const { maxMessages, maxBytes } = this.#limits;
    // A single message is taken whatever its size; its own limit was checked.
    if (
      this.#items.length >= maxMessages || (this.#items.length > 0 && this.#bytes + size > maxBytes)
    ) return false;
    this.#items.push({ item, size });
    this.#bytes += size;
    this.notify();
    return true;
  }

  /** Sets who is called with each item, and which items may overtake others; none by default. */
  consume(consumer: Consumer<T>, overtaking?: Overtaking<T>): void {
    this.#consumer = consumer;
    this.#overtaking = overtaking;
    this.pump();
  }

  /** Runs what may run; to be called when the room for overtaking has grown. */
  pump(): void {
    if (this.#consumer === undefined) return;
    while (this.#items.length > 0 && this.#mayRun) this.#run(this.take()!);
    for (let i = 0; i < this.#items.length && this.#hasExtraRoom;) {
      if (this.#overtaking!.mayOvertake(this.#items[i]!.item)) this.#run(this.#takeAt(i)!);
      else i++;
    }
  }

  /** Keeps the consumer waiting until something else is done. */
  holdFor(done: Promise<unknown>): void {
    this.isHeld = true;
    done.finally(() => {
      this.isHeld = false;
      this.pump();
      this.notify();
    });
  }

  /** Takes all items that wait and may overtake others. */
  takeOvertaking(): T[] {
    const taken: T[] = [];
    for (let i = 0; i < this.#items.length;) {
      if (this.#overtaking?.mayOvertake(this.#items[i]!.item)) taken.push(this.#takeAt(i)!);
      else i++;
    }
    return taken;
  }

  /** Takes the next item that waits. */
  take(): T | undefined {
    return this.#takeAt(0);
  }

  /** Takes no more; what waits stays for its reader. Idempotent. */
  end(): void {
    this.#isEnded = true;
    this.notify();
  }

  /** Forgets what waits. */
  clear(): void {
    this.#items = [];
    this.#bytes = 0;
    this.notify();
  }

  get #mayRun(): boolean {
    return this.#running < this.#concurrency && !this.isHeld;
  }

  get #hasExtraRoom(): boolean {
    const overtaking = this.#overtaking;
    return overtaking !== undefined && !this.isHeld &&
      this.#running < this.#concurrency + overtaking.extraRoom;
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
    const running = this.#consumer!(item);
    if (running === undefined) return;
    this.#running++;
    running.then(() => {
      this.#running--;
      this.pump();
      this.notify();
    });
  }
}
