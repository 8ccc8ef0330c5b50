/** Work waiting to be sent to a broker: queues, their bounds, and the batches of a turn. */
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * A first-in, first-out queue with access to every item. Removing the first item takes constant
 * time on average, because removed items are discarded only once they are half of all items.
 */
export class Fifo<T> {
  #items: T[] = [];
  #start = 0;

  get length(): number {
    return this.#items.length - this.#start;
  }

  get first(): T | undefined {
    return this.#items[this.#start];
  }

  /** Returns the item at an index: 0 or more from the start, or -1 and below from the end. */
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

/** Bounds on all publications that wait for the broker. */
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

  /** True if there is room for one more publication. */
  hasRoom(bytes: number): boolean {
    return this.#messages < this.#maxMessages && this.#bytes + bytes <= this.#maxBytes;
  }

  /** Reserves room for one publication. Returns false if there is none. */
  take(bytes: number): boolean {
    if (!this.hasRoom(bytes)) return false;
    this.#messages++;
    this.#bytes += bytes;
    return true;
  }

  /** Releases the room of one publication. */
  give(bytes: number): void {
    this.#messages--;
    this.#bytes -= bytes;
  }
}

/** Limits of a {@linkcode WaitingBudget}. */
export interface WaitingLimits {
  /** Maximum number of publications. */
  readonly maxWaiting: number;
  /** Maximum number of bytes of all publications together. */
  readonly maxWaitingBytes: number;
}

/** One item to be sent to a broker. */
export interface Outgoing {
  /** Bytes that count toward the bound; `undefined` for an item that always has room. */
  readonly bytes: number | undefined;
  /** Number of the check at which the item is dropped, set by the outbox. */
  due: number;
  /** True once the broker accepted the item, or the item was dropped. */
  isOver: boolean;
}

/** Options for {@linkcode BrokerOutbox}. */
export interface OutboxOptions extends WaitingLimits {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  /** Name of the broker, for errors. */
  readonly broker: string;
  /**
   * Name of the items, for errors.
   *
   * @default {"publications"}
   */
  readonly items?: string | undefined;
  /** Time after which an item is dropped; if left out, items wait without a limit. */
  readonly giveUpMs?: number | undefined;
  /** The bound of another outbox to share, instead of a separate one. */
  readonly budget?: WaitingBudget | undefined;
}

/** Reason for dropping items at the close. */
const CLOSED = "the broker is closed";

/**
 * Number of checks for overdue items in each `giveUpMs`. Items carry the number of the check at
 * which they are due, because reading a clock for each item would be expensive. As a result, an
 * item may wait up to a tenth longer than `giveUpMs`.
 */
const LOOKS = 10;

/** Everything that a broker has to send to its store: several lines with one bound. */
export class BrokerOutbox {
  /** The bound on all items together; several outboxes may share it. */
  readonly budget: WaitingBudget;
  dropped = 0;
  readonly #options: OutboxOptions;
  /** Bounded by the owner: one for each topic with items, or one for each kind of item. */
  readonly #lines = new Set<OutboxLine>();
  #size = 0;
  #looks = 0;
  #look: Timer | undefined;
  #isClosed = false;
  #whenEmpty: PromiseWithResolvers<void> | undefined;

  /** @param options See {@linkcode OutboxOptions}. */
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

  /** Reserves room for an item. Returns the reason if there is none. */
  admit(item: Outgoing): string | undefined {
    const { broker, items = "publications", giveUpMs } = this.#options;
    if (this.#isClosed) return CLOSED;
    if (item.bytes !== undefined && !this.budget.take(item.bytes)) {
      return `too many ${items} wait for ${broker}`;
    }
    this.#size++;
    if (giveUpMs === undefined) return undefined;
    // Part of the time until the next check has already passed, unless this item starts the checks.
    item.due = this.#looks + LOOKS + (this.#look === undefined ? 0 : 1);
    this.#look ??= this.#lookLater(giveUpMs);
    return undefined;
  }

  /** Releases the room of an item. */
  release(item: Outgoing): void {
    if (item.bytes !== undefined) this.budget.give(item.bytes);
    if (--this.#size > 0) return;
    this.#whenEmpty?.resolve();
    this.#whenEmpty = undefined;
  }

  /** Resolves once no item waits. */
  empty(): Promise<void> {
    if (this.#size === 0) return Promise.resolve();
    return (this.#whenEmpty ??= Promise.withResolvers()).promise;
  }

  /** Drops all items, and accepts no more. */
  close(): void {
    this.#isClosed = true;
    this.#options.runtime.clearTimeout(this.#look);
    for (const line of this.#lines) line.dropAll(CLOSED);
  }

  #lookLater(giveUpMs: number): Timer {
    return this.#options.runtime.setTimeout(() => {
      // Keeps running until a check finds nothing, because a timer for each publication would be
      // expensive.
      this.#look = this.#size === 0 ? undefined : this.#lookLater(giveUpMs);
      const due = ++this.#looks;
      const why =
        `${this.#options.broker} did not acknowledge the publication within ${giveUpMs} ms`;
      for (const line of this.#lines) line.dropDue(due, why);
    }, giveUpMs / LOOKS);
  }
}

/** A line of an outbox, with items of any type. */
type OutboxLine = Pick<BrokerLine<Outgoing>, "dropAll" | "dropDue">;

/**
 * Items that are sent to the broker in the order in which they were pushed. Items at the front may
 * already have been sent; their acknowledgments may arrive in any order.
 *
 * - **Bounds:** a push without room in the outbox is rejected, and counts as dropped.
 * - **Time:** an item is dropped after `giveUpMs`, whether or not it was sent; the oldest item is
 *   dropped first.
 */
export class BrokerLine<T extends Outgoing> {
  readonly #outbox: BrokerOutbox;
  readonly #onDropped: (item: T, why: string, cause?: unknown) => void;
  /** The first item is not over. */
  readonly #items = new Fifo<T>();
  /** Number of items in front that have been sent, or are over. */
  #sent = 0;

  /** @param onDropped Called with each dropped item, and the reason. */
  constructor(outbox: BrokerOutbox, onDropped: (item: T, why: string, cause?: unknown) => void) {
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

  /** True if some items have not been sent. */
  get isWaiting(): boolean {
    return this.#items.length > this.#sent;
  }

  /** Number of items sent, including those between them that are over. */
  get sent(): number {
    return this.#sent;
  }

  /** Adds an item, or drops it immediately if there is no room. Returns true if there was room. */
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

  /** Takes the next item to send. */
  take(): T | undefined {
    let item = this.#items.at(this.#sent);
    while (item?.isOver) item = this.#items.at(++this.#sent);
    if (item !== undefined) this.#sent++;
    return item;
  }

  /** Takes the next items to send. If there are any, takes at least one, whatever its size. */
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

  /** Marks all unacknowledged items as unsent. The next item to take is the oldest. */
  rewind(): void {
    this.#sent = 0;
  }

  /** Removes an acknowledged item. Returns false if it had been removed before. */
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

  drop(item: T, why: string, cause?: unknown): void {
    if (!this.settle(item)) return;
    this.#outbox.dropped++;
    this.#onDropped(item, why, cause);
  }

  dropAll(why: string, cause?: unknown): void {
    this.#dropWhile(() => true, why, cause);
  }

  /** Drops the items that are due at a check. */
  dropDue(look: number, why: string): void {
    this.#dropWhile((item) => item.due <= look, why);
  }

  /** Removes the empty line from the outbox. */
  leave(): void {
    this.#outbox.leave(this);
  }

  #dropWhile(isDue: (item: T) => boolean, why: string, cause?: unknown): void {
    for (let item = this.first; item !== undefined && isDue(item); item = this.first) {
      this.drop(item, why, cause);
    }
  }
}

/** Bytes that are sent immediately, because gathering more saves nothing. */
const MAX_GATHERED_BYTES = 32_768;

/**
 * Calls functions once at the end of a turn, one right after the other, so that the messages of one
 * turn cause one write here and one read at the server, whichever queues they are in.
 */
export class TurnBatch {
  readonly #runtime: Runtime;
  readonly #acts = new Set<() => void>();
  #isScheduled = false;
  #bytes = 0;

  /** @param runtime Calls back at the end of a turn. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Schedules a call for the end of the turn. After many bytes, makes all calls immediately. */
  gather(act: () => void, bytes: number): void {
    this.#acts.add(act);
    this.#bytes += bytes;
    if (this.#bytes >= MAX_GATHERED_BYTES) return this.#end();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.#end();
    });
  }

  /** Makes the calls now. */
  #end(): void {
    this.#bytes = 0;
    const acts = [...this.#acts];
    this.#acts.clear();
    for (const act of acts) act();
  }
}
