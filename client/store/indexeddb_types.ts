/** The parts of IndexedDB that the store uses. Types of pages aren't available in the library. */

/** A request; its events come after the turn that made it. */
export interface IdbRequest<T> {
  readonly result: T;
  readonly error: unknown;
  onsuccess: (() => void) | null;
  onerror: ((event: { preventDefault(): void }) => void) | null;
}

export interface IdbOpenRequest extends IdbRequest<IdbDatabase> {
  readonly transaction: IdbTransaction | null;
  onupgradeneeded: (() => void) | null;
}

/** A connection to a database. */
export interface IdbDatabase {
  readonly objectStoreNames: Iterable<string>;
  transaction(
    store: string,
    mode: "readonly" | "readwrite",
    options: { readonly durability: "relaxed" | "strict" },
  ): IdbTransaction;
  createObjectStore(name: string): unknown;
  close(): void;
  /** Only the browser closes a connection with an event, for example if the user clears data. */
  onclose: (() => void) | null;
  onversionchange: ((event: { readonly newVersion: number | null }) => void) | null;
}

export interface IdbTransaction {
  readonly error: unknown;
  /** Missing in older browsers. */
  readonly durability?: "default" | "relaxed" | "strict" | undefined;
  objectStore(name: string): IdbObjectStore;
  /** Missing in older browsers, which commit when no request is left. */
  commit?(): void;
  abort(): void;
  oncomplete: (() => void) | null;
  onabort: (() => void) | null;
}

export interface IdbObjectStore {
  put(value: ArrayBufferLike, key: Uint8Array): IdbRequest<unknown>;
  delete(range: IdbKeyRange): IdbRequest<unknown>;
  getAll(range: IdbKeyRange, count: number): IdbRequest<unknown[]>;
  getAllKeys(range: IdbKeyRange, count: number): IdbRequest<ArrayBuffer[]>;
}

export interface IdbKeyRange {
  readonly lower: unknown;
}

/** The globals of a page or worker. */
export interface IdbGlobals {
  readonly indexedDB?: { open(name: string): IdbOpenRequest } | undefined;
  readonly IDBKeyRange: {
    bound(
      lower: unknown,
      upper: unknown,
      isLowerOpen: boolean,
      isUpperOpen: boolean,
    ): IdbKeyRange;
  };
}
