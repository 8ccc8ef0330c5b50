/**
 * What another node has in a scope, as far as it is known here.
 *
 * @module
 */
import type { Delta, Entries, Page } from "./directory_message.ts";

/** Changes that wait for those before them; past it they are asked for again. */
const MAX_LATE = 256;

/** Entries that one node may have in one scope; more are left out. */
const MAX_ENTRIES = 100_000;

/** Pages that came, of those that a node sends in a row. */
interface Pages {
  readonly n: number;
  readonly entries: (readonly [key: string, value: unknown])[];
  /** Which one comes next. */
  next: number;
}

/** Told of each change; `value` is `undefined` for what is no more. */
export type EntryListener = (key: string, value: unknown) => void;

/** The entries of one node in one scope. */
export class RemoteEntries {
  /** What the node has. */
  readonly entries: Map<string, unknown> = new Map();
  /** Up to which change it is known; 0 if not at all. */
  n = 0;
  readonly #tell: EntryListener;
  readonly #late = new Map<number, Delta>();
  #pages: Pages | undefined;

  /** Creates a copy of nothing. */
  constructor(tell: EntryListener) {
    this.#tell = tell;
  }

  /**
   * Takes a change.
   *
   * @returns False if something before it is missing: a page has to be asked for.
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
   * Takes one page of what the node has.
   *
   * @returns Whether nothing is missing, as far as pages and changes tell.
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

  /** Tells of everything that it is no more. */
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

  /** Those before what is known now are of no use, those that follow it are. */
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
