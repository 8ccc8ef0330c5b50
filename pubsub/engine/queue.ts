/** Work on its way to an engine: queues, their bounds, and the batches of a turn. */
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * First in, first out, with access to every item. Removal of the first item takes constant time on
 * average: removed items are cut off once they are half of all.
 */
export class Fifo<T> {
  #items: T[] = [];
  /** Index of the first item in `#items`. */
  #start = 0;

  /** Number of items. */
  get length(): number {
    return this.#items.length - this.#start;
  }

  /** The first item. */
  get first(): T | undefined {
    return this.#items[this.#start];
  }

  /** Returns the item at an index: from 0 for the first one, or from -1 for the last one. */
  at(index: number): T | undefined {
    if (index < 0) return -index > this.length ? undefined : this.#items.at(index);
    return this.#items[this.#start + index];
  }

  /** Adds an item at the end. */
  push(item: T): void {
    this.#items.push(item);
  }

  /** Removes and returns the first item. */
  shift(): T | undefined {
    const item = this.#items[this.#start];
    if (item === undefined) return undefined;
    this.#start++;
    if (this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
    return item;
  }

  /** Removes and returns all items. */
  clear(): T[] {
    const items = this.#items.slice(this.#start);
    this.#items = [];
    this.#start = 0;
    return items;
  }
}

/** Bounds on all publications that wait for the engine. */
export class WaitingBudget {
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  #messages = 0;
  #bytes = 0;

  constructor({ maxWaiting, maxWaitingBytes }: WaitingLimits) {
    this.#maxMessages = maxWaiting;
    this.#maxBytes = maxWaitingBytes;
  }

  /** Number of waiting publications. */
  get messages(): number {
    return this.#messages;
  }

  /** Tells if there is room for one more publication. */
  hasRoom(bytes: number): boolean {
    return this.#messages < this.#maxMessages && this.#bytes + bytes <= this.#maxBytes;
  }

  /** Takes room for one publication; `false` if there is no room. */
  take(bytes: number): boolean {
    if (!this.hasRoom(bytes)) return false;
    this.#messages++;
    this.#bytes += bytes;
    return true;
  }

  /** Gives back the room of one publication. */
  give(bytes: number): void {
    this.#messages--;
    this.#bytes -= bytes;
  }
}

/** Limits of a {@linkcode WaitingBudget}. */
export interface WaitingLimits {
  /** Most publications. */
  readonly maxWaiting: number;
  /** Most bytes of all together. */
  readonly maxWaitingBytes: number;
}

/** One item on its way to an engine. */
export interface Outgoing {
  /** Bytes that count against the bound; `undefined` for an item that always has room. */
  readonly bytes: number | undefined;
  /** The look of the outbox at which the item is given up, set by the outbox. */
  due: number;
  /** True once the engine took the item, or the item was given up. */
  isOver: boolean;
}

/** Options for {@linkcode Outbox}. */
export interface OutboxOptions extends WaitingLimits {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  /** Name of the engine, for errors. */
  readonly engine: string;
  /**
   * Name of the items, for errors.
   *
   * @default {"publications"}
   */
  readonly items?: string | undefined;
  /** Time after which an item is given up; left out, items wait for as long as it takes. */
  readonly giveUpMs?: number | undefined;
  /** The bound of another outbox, which is shared in place of an own one. */
  readonly budget?: WaitingBudget | undefined;
}

/** Reason for giving up an item at the end. */
const CLOSED = "the broker is closed";

/**
 * Looks for overdue items in each `giveUpMs`. Items are marked with the number of the look at which they
 * are due, as to read a clock for each would be expensive; an item waits for at most a tenth longer.
 */
const LOOKS = 10;

/** Everything that a broker has on its way to its engine: several lines with one bound. */
export class Outbox {
  /** The bound on all items together; other outboxes may share it. */
  readonly budget: WaitingBudget;
  /** Items that were given up. */
  dropped = 0;
  readonly #options: OutboxOptions;
  /** Bounded by the owner: one for each topic with items, or one for each kind of item. */
  readonly #lines = new Set<OutboxLine>();
  #size = 0;
  /** Looks so far. */
  #looks = 0;
  #look: Timer | undefined;
  #isClosed = false;
  #whenEmpty: PromiseWithResolvers<void> | undefined;

  /**
   * Creates an outbox without lines.
   *
   * @param options See {@linkcode OutboxOptions}.
   */
  constructor(options: OutboxOptions) {
    this.#options = options;
    this.budget = options.budget ?? new WaitingBudget(options);
  }

  /** Adds a line. */
  join(line: OutboxLine): void {
    this.#lines.add(line);
  }

  /** Removes an empty line. */
  leave(line: OutboxLine): void {
    this.#lines.delete(line);
  }

  /** Takes room for an item. Returns the reason if there is none. */
  admit(item: Outgoing): string | undefined {
    const { engine, items = "publications", giveUpMs } = this.#options;
    if (this.#isClosed) return CLOSED;
    if (item.bytes !== undefined && !this.budget.take(item.bytes)) {
      return `too many ${items} wait for ${engine}`;
    }
    this.#size++;
    if (giveUpMs === undefined) return undefined;
    // A part of the time until the next look is over already, unless this item starts the looks.
    item.due = this.#looks + LOOKS + (this.#look === undefined ? 0 : 1);
    this.#look ??= this.#lookLater(giveUpMs);
    return undefined;
  }

  /** Gives back the room of an item. */
  release(item: Outgoing): void {
    if (item.bytes !== undefined) this.budget.give(item.bytes);
    if (--this.#size > 0) return;
    this.#whenEmpty?.resolve();
    this.#whenEmpty = undefined;
  }

  /** Resolves once every item is over. */
  empty(): Promise<void> {
    if (this.#size === 0) return Promise.resolve();
    return (this.#whenEmpty ??= Promise.withResolvers()).promise;
  }

  /** Gives up all items, and takes no further ones. */
  close(): void {
    this.#isClosed = true;
    this.#options.runtime.clearTimeout(this.#look);
    for (const line of this.#lines) line.dropAll(CLOSED);
  }

  #lookLater(giveUpMs: number): Timer {
    return this.#options.runtime.setTimeout(() => {
      // Left running until a look finds nothing: a timer for each publication would be expensive.
      this.#look = this.#size === 0 ? undefined : this.#lookLater(giveUpMs);
      const due = ++this.#looks;
      const why =
        `${this.#options.engine} did not acknowledge the publication within ${giveUpMs} ms`;
      for (const line of this.#lines) line.dropDue(due, why);
    }, giveUpMs / LOOKS);
  }
}

/** A line of an outbox, with items of any type. */
type OutboxLine = Pick<Line<Outgoing>, "dropAll" | "dropDue">;

/**
 * Items that go to the engine in the order of their pushes. Those in front may be with the engine
 * already, whose answers may come in any order.
 *
 * - **Bounds:** a push without room in the outbox is refused, and counts as given up.
 * - **Time:** an item is given up after `giveUpMs`, the oldest first, with the engine or not.
 */
export class Line<T extends Outgoing> {
  readonly #outbox: Outbox;
  readonly #onDropped: (item: T, why: string, cause?: unknown) => void;
  /** The first item is not over. */
  readonly #items = new Fifo<T>();
  /** Number of items in front that are with the engine, or over. */
  #sent = 0;

  /**
   * Creates an empty line.
   *
   * @param outbox The outbox of the broker.
   * @param onDropped Called with each item that is given up, and the reason.
   */
  constructor(outbox: Outbox, onDropped: (item: T, why: string, cause?: unknown) => void) {
    this.#outbox = outbox;
    this.#onDropped = onDropped;
    outbox.join(this);
  }

  /** The oldest item. */
  get first(): T | undefined {
    return this.#items.first;
  }

  /** The newest item. */
  get last(): T | undefined {
    return this.#items.at(-1);
  }

  /** True if items are not with the engine yet. */
  get isWaiting(): boolean {
    return this.#items.length > this.#sent;
  }

  /** Number of items with the engine, and of those that are over between them. */
  get sent(): number {
    return this.#sent;
  }

  /** Adds an item, or gives it up at once if there is no room; `true` if there was room. */
  push(item: T): boolean {
    const why = this.#outbox.admit(item);
    if (why === undefined) {
      this.#items.push(item);
      return true;
    }
    item.isOver = true;
    this.#outbox.dropped++;
    this.#onDropped(item, why);
    return false;
  }

  /** Takes the next item for the engine. */
  take(): T | undefined {
    let item = this.#items.at(this.#sent);
    while (item?.isOver) item = this.#items.at(++this.#sent);
    if (item !== undefined) this.#sent++;
    return item;
  }

  /** Takes the next items for the engine: at least one, if there is one, whatever its bytes. */
  takeBatch({ maxItems, maxBytes }: { readonly maxItems: number; readonly maxBytes: number }): T[] {
    const batch: T[] = [];
    let bytes = 0;
    while (batch.length < maxItems) {
      const item = this.take();
      if (item === undefined) break;
      bytes += item.bytes ?? 0;
      if (bytes > maxBytes && batch.length > 0) {
        this.#sent--;
        break;
      }
      batch.push(item);
    }
    return batch;
  }

  /** Sends all items again that the engine did not take: the next one to take is the oldest. */
  rewind(): void {
    this.#sent = 0;
  }

  /** Ends the wait of an item that the engine took; `false` if the item was over before. */
  settle(item: T): boolean {
    if (item.isOver) return false;
    item.isOver = true;
    this.#outbox.release(item);
    while (this.#items.first?.isOver) {
      this.#items.shift();
      if (this.#sent > 0) this.#sent--;
    }
    return true;
  }

  /** Gives up an item. */
  drop(item: T, why: string, cause?: unknown): void {
    if (!this.settle(item)) return;
    this.#outbox.dropped++;
    this.#onDropped(item, why, cause);
  }

  /** Gives up all items. */
  dropAll(why: string, cause?: unknown): void {
    this.#dropWhile(() => true, why, cause);
  }

  /** Gives up the items that are due at a look. */
  dropDue(look: number, why: string): void {
    this.#dropWhile((item) => item.due <= look, why);
  }

  /** Removes the line, which is empty, from the outbox. */
  leave(): void {
    this.#outbox.leave(this);
  }

  #dropWhile(isDue: (item: T) => boolean, why: string, cause?: unknown): void {
    for (let item = this.first; item !== undefined && isDue(item); item = this.first) {
      this.drop(item, why, cause);
    }
  }
}

/** Bytes that are sent at once: gathering more would not be cheaper. */
const MAX_GATHERED_BYTES = 32_768;

/**
 * Calls a function once at the end of a turn, so that the messages of one turn are one write here
 * and one read at the server.
 */
export class TurnBatch {
  readonly #runtime: Runtime;
  readonly #act: () => void;
  #isScheduled = false;
  #bytes = 0;

  /**
   * Creates an idle batch.
   *
   * @param runtime Calls back at the end of a turn.
   * @param act Called at the end of a turn.
   */
  constructor(runtime: Runtime, act: () => void) {
    this.#runtime = runtime;
    this.#act = act;
  }

  /** Schedules the call for the end of the turn; calls at once after many bytes. */
  gather(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= MAX_GATHERED_BYTES) return this.end();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.end();
    });
  }

  /** Calls now. */
  end(): void {
    this.#bytes = 0;
    this.#act();
  }
}
