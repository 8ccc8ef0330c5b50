/** Items that arrive one after another, for the components on a page. */
import { Cell, errorOf, type Rounds } from "./cell.ts";

/**
 * The items of a stream so far.
 *
 * @typeParam I The type of an item.
 */
export interface StreamSnapshot<I = unknown> {
  /** The newest items, oldest first. */
  readonly items: readonly I[];
  /** All `items` that are strings, joined to one string. */
  readonly text: string;
  /** The number of older items that were left out of `items` because of `keep`. */
  readonly omitted: number;
  /** True while further items may arrive. */
  readonly isPending: boolean;
  /** True once the stream has ended completely. */
  readonly isDone: boolean;
  /** The error that ended the stream. */
  readonly error: Error | undefined;
}

/** A stream that has not started. */
export const NO_ITEMS: StreamSnapshot<never> = Object.freeze({
  items: Object.freeze([]) as readonly never[],
  text: "",
  omitted: 0,
  isPending: false,
  isDone: false,
  error: undefined,
});

/** A stream that has started but has no items yet. */
export const PENDING_ITEMS: StreamSnapshot<never> = Object.freeze({ ...NO_ITEMS, isPending: true });

type ItemSource = AsyncIterable<unknown> & {
  readonly offset?: string | undefined;
  cancel?(reason?: string): Promise<void>;
};

/** Reads one stream after another, and holds the items of the newest stream. */
export class StreamCell extends Cell<StreamSnapshot> {
  readonly #keep: number;
  #reading: AbortController | undefined;
  #source: ItemSource | undefined;
  #items: unknown[] = [];
  #omitted = 0;
  #text = "";
  #isDone = false;
  #error: Error | undefined;
  #offset: string | undefined;
  #parked: StreamSnapshot | undefined;

  constructor(rounds: Rounds, keep: number) {
    super(rounds, NO_ITEMS);
    this.#keep = keep;
  }

  /**
   * Starts to read a stream in place of the previous one.
   *
   * @param open Opens the stream. The signal aborts when the cell stops reading it.
   */
  begin(open: (signal: AbortSignal) => ItemSource): void {
    this.#reading?.abort();
    const reading = this.#reading = new AbortController();
    this.#items = [];
    this.#text = "";
    this.#omitted = 0;
    this.#isDone = false;
    this.#error = undefined;
    this.refresh();
    void this.#read(reading, open);
  }

  /** The last snapshot of a closed cell, which another cell may continue. */
  get parked(): StreamSnapshot | undefined {
    return this.#parked;
  }

  /**
   * Continues a closed cell after its newest item, unless the stream was complete.
   *
   * @param previous The closed cell.
   * @param open Opens the stream after an offset.
   */
  resume(previous: StreamCell, open: (signal: AbortSignal, after?: string) => ItemSource): void {
    this.#items = [...previous.#items];
    this.#omitted = previous.#omitted;
    this.#text = previous.#text;
    this.#isDone = previous.#isDone;
    this.#offset = previous.#offset;
    if (!this.#isDone) {
      const reading = this.#reading = new AbortController();
      void this.#read(reading, (signal) => open(signal, this.#offset));
    }
    this.refresh();
  }

  /** Stops the source and stops reading. If the source fails, the error is part of the snapshot. */
  cancel(reason?: string): void {
    const reading = this.#reading;
    if (reading === undefined) return;
    const stopped = this.#source?.cancel?.(reason);
    this.close();
    stopped?.catch((error) => {
      if (this.#reading === undefined) this.#fail(error);
    });
  }

  /** Stops reading. The items stay, and another stream may start. */
  close(): void {
    if (!this.#error) this.#parked = this.take();
    if (this.#reading === undefined) return;
    this.#leave();
    // Do this immediately, because the rounds of a hidden page stop in the same turn.
    this.refresh();
  }

  protected override take(): StreamSnapshot {
    const extra = Math.max(0, this.#items.length - this.#keep);
    const items = this.#items.slice(extra);
    return {
      items,
      // The text grows with each item. It is rebuilt only while items are left out.
      text: this.#omitted + extra > 0 ? joinedTexts(items) : this.#text,
      omitted: this.#omitted + extra,
      isPending: this.#reading !== undefined,
      isDone: this.#isDone,
      error: this.#error,
    };
  }

  async #read(reading: AbortController, open: (signal: AbortSignal) => ItemSource): Promise<void> {
    const isRead = () => this.#reading === reading;
    try {
      const source = this.#source = open(reading.signal);
      for await (const item of source) {
        if (!isRead()) return;
        this.#add(item);
        this.#offset = source.offset;
        this.changed();
      }
      if (isRead()) this.#isDone = true;
    } catch (error) {
      if (isRead()) this.#fail(error);
    }
    if (!isRead()) return;
    this.#leave();
    this.changed();
  }

  #leave(): void {
    this.#reading?.abort();
    this.#reading = this.#source = undefined;
  }

  #fail(error: unknown): void {
    this.#error = errorOf(error);
    this.changed();
  }

  #add(item: unknown): void {
    this.#items.push(item);
    // Hold at most twice the items of a snapshot, so that dropping the oldest is cheap.
    if (this.#items.length > 2 * this.#keep) {
      this.#items = this.#items.slice(-this.#keep);
      this.#omitted += this.#keep + 1;
    }
    if (this.#omitted === 0 && typeof item === "string") this.#text += item;
  }
}

function joinedTexts(items: readonly unknown[]): string {
  return items.filter((item) => typeof item === "string").join("");
}
