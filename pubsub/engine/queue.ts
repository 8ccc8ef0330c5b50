/** Work on its way to an engine: queues, their bounds, and the batches of a turn. */
import type { Runtime } from "../../base/runtime.ts";

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

  /** Adds items in front of all others. */
  unshift(items: readonly T[]): void {
    this.#items = [...items, ...this.#items.slice(this.#start)];
    this.#start = 0;
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

  /** Takes room for one publication; `false` if there is no room. */
  take(bytes: number): boolean {
    if (this.#messages >= this.#maxMessages || this.#bytes + bytes > this.#maxBytes) return false;
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
