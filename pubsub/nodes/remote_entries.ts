/** The copy of the entries that another node has in a scope. */
import type { Delta, Entries, Page } from "./directory_message.ts";

/** Most changes kept while an earlier change is missing; beyond that, pages replace the rest. */
const MAX_LATE = 256;

/** Most entries of one node in one scope; further ones are left out. */
const MAX_ENTRIES = 100_000;

/** Pages received so far, of a row of pages from a node. */
interface Pages {
  readonly n: number;
  readonly entries: (readonly [key: string, value: unknown])[];
  /** Index of the page that has to come next. */
  next: number;
}

/** Gets each change; `value` is `undefined` for an entry that was deleted. */
export type EntryListener = (key: string, value: unknown) => void;

/** The entries of one node in one scope. */
export class RemoteEntries {
  readonly entries: Map<string, unknown> = new Map();
  /** Number of the last change that this copy includes; 0 for an empty copy. */
  n = 0;
  readonly #tell: EntryListener;
  readonly #late = new Map<number, Delta>();
  #pages: Pages | undefined;

  /** Creates an empty copy. */
  constructor(tell: EntryListener) {
    this.#tell = tell;
  }

  /**
   * Applies a change, or keeps the change until those before it came.
   *
   * @returns False if an earlier change is missing: pages have to be requested.
   */
  take(delta: Delta): boolean {
    if (delta.n <= this.n) return true;
    if (delta.prev === 0) this.#replace(delta.n, delta.set);
    else if (delta.prev === this.n) this.#apply(delta);
    else {
      if (this.#late.size < MAX_LATE) this.#late.set(delta.prev, delta);
      return false;
    }
    return this.#takeLate();
  }

  /**
   * Takes one page of the node's entries; the last page of a row replaces the copy.
   *
   * @returns False if a page or a change is missing: pages have to be requested.
   */
  takePage({ n, page, pages, entries }: Page): boolean {
    if (n < this.n) return true;
    if (page === 0) this.#pages = { n, entries: [], next: 0 };
    const collected = this.#pages;
    if (collected === undefined || collected.n !== n || collected.next !== page) {
      this.#pages = undefined;
      return false;
    }
    collected.next++;
    for (const entry of entries) {
      if (collected.entries.length < MAX_ENTRIES) collected.entries.push(entry);
    }
    if (collected.next < pages) return true;
    this.#pages = undefined;
    this.#replace(n, collected.entries);
    return this.#takeLate();
  }

  /** Deletes all entries, and reports each to the listener. */
  clear(): void {
    const keys = [...this.entries.keys()];
    this.entries.clear();
    for (const key of keys) this.#tell(key, undefined);
  }

  #replace(n: number, entries: Entries): void {
    this.n = n;
    const gone = new Set(this.entries.keys());
    for (const [key, value] of entries) {
      gone.delete(key);
      this.#set(key, value);
    }
    for (const key of gone) this.#delete(key);
  }

  #apply({ n, set, del }: Delta): void {
    this.n = n;
    for (const [key, value] of set) this.#set(key, value);
    for (const key of del) this.#delete(key);
  }

  /** Applies the kept changes that follow the copy, and drops those that the copy includes. */
  #takeLate(): boolean {
    for (let next = this.#late.get(this.n); next; next = this.#late.get(this.n)) {
      this.#late.delete(this.n);
      this.#apply(next);
    }
    for (const [prev, { n }] of this.#late) if (n <= this.n) this.#late.delete(prev);
    return this.#late.size === 0;
  }

  #set(key: string, value: unknown): void {
    const known = this.entries.get(key);
    if (known === undefined && this.entries.size >= MAX_ENTRIES) return;
    if (known !== undefined && JSON.stringify(known) === JSON.stringify(value)) return;
    this.entries.set(key, value);
    this.#tell(key, value);
  }

  #delete(key: string): void {
    if (this.entries.delete(key)) this.#tell(key, undefined);
  }
}
