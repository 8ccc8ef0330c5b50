/**
 * A store in one item of a storage such as React Native's `AsyncStorage`, for the page "Write a
 * store". Replacing an item is atomic, so each batch is stored completely or not at all.
 *
 * Copy this file into your project.
 *
 * @module
 */
import {
  type Durability,
  type Store,
  type StoreBatch,
  type StoreEntry,
  StoreError,
  type StorePage,
  type StoreRange,
  type StoreReadOptions,
} from "../../client/store/mod.ts"; // jsr:@skein/skein/store

/** The calls of AsyncStorage that the store uses. */
export interface Items {
  getItem(name: string): Promise<string | null>;
  setItem(name: string, text: string): Promise<void>;
}

/** Keeps entries in one item, as JSON with the key and value of each entry in Latin-1. */
export class ItemStore implements Store {
  readonly name = "item";
  readonly isExclusive = true; // An app is one process, which has no locks.
  readonly #items: Items;
  readonly #item: string;
  readonly #maxBytes: number;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(items: Items, item: string, maxBytes = 16_777_216) {
    this.#items = items;
    this.#item = item;
    this.#maxBytes = maxBytes;
  }

  read({ from, to }: StoreRange, options: StoreReadOptions = {}): Promise<StorePage> {
    return this.#enqueue(async () => {
      options.signal?.throwIfAborted();
      const { maxEntries = 1_000, maxBytes = 1_048_576 } = options;
      const entries: StoreEntry[] = [];
      let size = 0;
      for (const [key, value] of await this.#load()) {
        if (key < textOf(from) || (to && key >= textOf(to))) continue;
        size += key.length + value.length;
        const isBeyond = entries.length === maxEntries || size > maxBytes;
        if (isBeyond && entries.length > 0) return { entries, isComplete: false };
        entries.push({ key: bytesOf(key), value: bytesOf(value) });
      }
      return { entries, isComplete: true };
    });
  }

  write({ deletes = [], puts = [] }: StoreBatch): Promise<Durability> {
    return this.#enqueue<Durability>(async () => {
      if (puts.some(({ key }) => key.length === 0 || key.length > 2_048)) {
        throw new RangeError("Cannot write: a key must have 1 to 2048 bytes");
      }
      const ranges = deletes.map(({ from, to }) => [textOf(from), to && textOf(to)] as const);
      const isDeleted = (key: string) =>
        ranges.some(([from, to]) => key >= from && (to === undefined || key < to));
      const entries = new Map((await this.#load()).filter(([key]) => !isDeleted(key)));
      for (const { key, value } of puts) entries.set(textOf(key), textOf(value));
      const text = JSON.stringify([...entries].sort(([a], [b]) => a < b ? -1 : 1));
      if (puts.length > 0 && text.length > this.#maxBytes) {
        throw new StoreError("full", "Cannot write: the item is full");
      }
      await this.#items.setItem(this.#item, text).catch(failed);
      return "relaxed";
    });
  }

  delete(range: StoreRange): Promise<Durability> {
    return this.write({ deletes: [range] });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#last;
  }

  async #load(): Promise<[key: string, value: string][]> {
    return JSON.parse(await this.#items.getItem(this.#item).catch(failed) ?? "[]");
  }

  /** Runs one operation after another, also if one fails. */
  async #enqueue<T>(run: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new StoreError("closed", "The store is closed");
    const result = this.#last.then(run);
    this.#last = result.catch(() => {});
    return await result;
  }
}

function failed(cause: unknown): never {
  throw new StoreError("failed", "The storage failed", { cause });
}

/** Texts of one character a byte have the order of the bytes. */
function textOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}
