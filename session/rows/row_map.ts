/**
 * Collections of rows whose views never change, on servers and in clients. A view shares its rows
 * with the collection, so taking one costs the same for any number of rows.
 */

/** Number of rows of a chunk, which a change copies while a view shares it. */
const CHUNK_ROWS = 256;

/** The value of a row and its version. */
export interface LiveRow {
  /** The value, which is frozen. */
  readonly value: unknown;
  readonly version: number;
}

/**
 * Rows of a collection that changed together: by key, the value before the change, which is
 * `undefined` if the row did not exist.
 */
export type ChangedRows = Pick<
  ReadonlyMap<string, unknown>,
  "size" | "keys" | typeof Symbol.iterator
>;

/** Rows that changed together, by collection. */
export type RowChanges = ReadonlyMap<string, ChangedRows>;

/** The present rows of a collection, to read. */
export type Rows = Omit<RowMap, "set" | "delete">;

/** A row in a collection. */
export interface Row extends LiveRow {
  readonly key: string;
}

/** The rows of some places; a deleted row leaves its place empty. */
type Chunk = readonly (Row | undefined)[];

/**
 * The places of keys. Collections and views that have begun as copies of each other share them: a
 * key never changes its place, so a new one disturbs none of them.
 */
interface Places {
  readonly of: Map<string, number>;
  used: number;
}

/**
 * The rows of a collection.
 *
 * - **Order:** that of the first writes. A key that is written again after its deletion has its
 *   earlier place.
 * - **Memory:** a view that is kept holds the rows that it shows, and the chunks that were copied
 *   since, of 256 rows each. Empty places are removed once they are more than half.
 */
export class RowMap {
  #places: Places = { of: new Map(), used: 0 };
  #chunks: Chunk[] = [];
  #size = 0;
  /** True while no view or copy shares the list of chunks. */
  #ownsList = true;
  /** The chunks that no view or copy shares, by their index. */
  #owned = new Map<number, (Row | undefined)[]>();
  #view: RowView | undefined;

  get size(): number {
    return this.#size;
  }

  get(key: string): Row | undefined {
    const place = this.#places.of.get(key);
    return place === undefined ? undefined : rowAt(this.#chunks, place);
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  /** Yields the rows. They must not change in the meantime. */
  *rows(): Generator<Row, undefined> {
    for (const chunk of this.#chunks) for (const row of chunk ?? []) if (row) yield row;
  }

  /** Writes a row. */
  set(row: Row): void {
    const { of } = this.#places;
    let place = of.get(row.key);
    if (place === undefined) of.set(row.key, place = this.#places.used++);
    const chunk = this.#own(Math.floor(place / CHUNK_ROWS));
    if (chunk[place % CHUNK_ROWS] === undefined) this.#size++;
    chunk[place % CHUNK_ROWS] = row;
  }

  /** Deletes a row, if it exists. */
  delete(key: string): void {
    const place = this.#places.of.get(key);
    if (place === undefined || rowAt(this.#chunks, place) === undefined) return;
    this.#own(Math.floor(place / CHUNK_ROWS))[place % CHUNK_ROWS] = undefined;
    this.#size--;
    if (this.#places.used > 2 * this.#size + CHUNK_ROWS) this.#compact();
  }

  /** Returns the values by key, in a map that does not change. */
  get view(): ReadonlyMap<string, unknown> {
    return this.#view ??= new RowView(this.#places.of, this.#share(), this.#size);
  }

  /** Returns the rows that differ in a later state of the collection, with their values here. */
  changesTo(later: Rows): ChangedRows {
    if (this.#size === 0) return new NewRows(later.view);
    const changed = new Map<string, unknown>();
    const others = later as RowMap;
    if (others === this) return changed;
    const note = (row: Row | undefined, other: Row | undefined) => {
      if (row !== other && row?.value !== other?.value) {
        changed.set((row ?? other)!.key, row?.value);
      }
    };
    if (others.#places !== this.#places) {
      for (const row of others.rows()) note(this.get(row.key), row);
      for (const row of this.rows()) if (!others.has(row.key)) note(row, undefined);
      return changed;
    }
    for (let i = 0; i < Math.max(this.#chunks.length, others.#chunks.length); i++) {
      const [chunk = [], other = []] = [this.#chunks[i], others.#chunks[i]];
      if (chunk === other) continue;
      for (let j = 0; j < CHUNK_ROWS; j++) note(chunk[j], other[j]);
    }
    return changed;
  }

  /** Copies the collection, at the same cost as a view. */
  copy(): RowMap {
    const copy = new RowMap();
    copy.#places = this.#places;
    copy.#chunks = this.#share();
    copy.#ownsList = false;
    copy.#size = this.#size;
    copy.#view = this.#view;
    return copy;
  }

  #share(): readonly Chunk[] & Chunk[] {
    this.#ownsList = false;
    this.#owned = new Map();
    return this.#chunks;
  }

  /** Returns a chunk to change. */
  #own(index: number): (Row | undefined)[] {
    this.#view = undefined;
    const owned = this.#owned.get(index);
    if (owned !== undefined) return owned;
    if (!this.#ownsList) this.#chunks = [...this.#chunks];
    this.#ownsList = true;
    const chunk = [...this.#chunks[index] ?? []];
    this.#owned.set(index, chunk);
    return this.#chunks[index] = chunk;
  }

  /** Removes the empty places. */
  #compact(): void {
    const rows = [...this.rows()];
    this.#places = { of: new Map(), used: 0 };
    this.#chunks = [];
    this.#ownsList = true;
    this.#owned = new Map();
    this.#size = 0;
    for (const row of rows) this.set(row);
  }
}

/** A class apart from its subclass, because bundlers keep every class with such a member. */
const Shown = /* @__PURE__ */ (() =>
  class {
    /** Shows the rows in `console.log` of Deno and Node. */
    [Symbol.for("nodejs.util.inspect.custom")](
      _depth: number,
      options: object,
      inspect: (value: unknown, options: object) => string,
    ): string {
      return inspect(new Map(this as unknown as RowView), options);
    }
  })();

/** The values of a collection at some time. */
class RowView extends Shown implements ReadonlyMap<string, unknown> {
  readonly size: number;
  readonly #places: ReadonlyMap<string, number>;
  readonly #chunks: readonly Chunk[];

  constructor(places: ReadonlyMap<string, number>, chunks: readonly Chunk[], size: number) {
    super();
    this.size = size;
    this.#places = places;
    this.#chunks = chunks;
    // All readers share it.
    Object.freeze(this);
  }

  /** Keeps libraries such as Vue from wrapping the view. */
  get [Symbol.toStringTag](): string {
    return "RowMap";
  }

  get(key: string): unknown {
    const place = this.#places.get(key);
    return place === undefined ? undefined : rowAt(this.#chunks, place)?.value;
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  forEach(
    callback: (value: unknown, key: string, map: ReadonlyMap<string, unknown>) => void,
    thisArg?: unknown,
  ): void {
    for (const [key, value] of this) callback.call(thisArg, value, key, this);
  }

  *keys(): Generator<string, undefined> {
    for (const [key] of this.entries()) yield key;
  }

  *values(): Generator<unknown, undefined> {
    for (const [, value] of this.entries()) yield value;
  }

  *entries(): Generator<[string, unknown], undefined> {
    for (const chunk of this.#chunks) {
      for (const row of chunk ?? []) if (row !== undefined) yield [row.key, row.value];
    }
  }

  [Symbol.iterator](): Generator<[string, unknown], undefined> {
    return this.entries();
  }
}

/** The rows of a collection that had none before, however many they are. */
class NewRows implements ChangedRows {
  readonly size: number;
  readonly #rows: ReadonlyMap<string, unknown>;

  constructor(rows: ReadonlyMap<string, unknown>) {
    this.size = rows.size;
    this.#rows = rows;
  }

  keys(): MapIterator<string> {
    return this.#rows.keys();
  }

  *[Symbol.iterator](): Generator<[string, undefined], undefined> {
    for (const key of this.keys()) yield [key, undefined];
  }
}

function rowAt(chunks: readonly Chunk[], place: number): Row | undefined {
  return chunks[Math.floor(place / CHUNK_ROWS)]?.[place % CHUNK_ROWS];
}

const NOTHING = /* @__PURE__ */ new RowMap();

/** Collections of rows by name. A collection exists as long as it has rows. */
export class Collections {
  readonly #all = new Map<string, RowMap>();
  /** Names of the collections that no copy shares. */
  #owned = new Set<string>();

  get names(): Iterable<string> {
    return this.#all.keys();
  }

  get isEmpty(): boolean {
    return this.#all.size === 0;
  }

  /** Returns the rows of a collection. They are read only. */
  get(name: string): Rows {
    return this.#all.get(name) ?? NOTHING;
  }

  set(name: string, row: Row): void {
    this.#own(name).set(row);
  }

  delete(name: string, key: string): void {
    if (!this.get(name).has(key)) return;
    const rows = this.#own(name);
    rows.delete(key);
    if (rows.size === 0) this.#all.delete(name);
  }

  /** Shares the rows of a collection of others. */
  take(name: string, others: Collections): void {
    const rows = others.#all.get(name);
    others.#owned.delete(name);
    this.#owned.delete(name);
    if (rows === undefined) this.#all.delete(name);
    else this.#all.set(name, rows);
  }

  /** Copies the collections. The costs do not depend on the number of rows. */
  copy(): Collections {
    const copy = new Collections();
    for (const name of this.names) copy.take(name, this);
    return copy;
  }

  #own(name: string): RowMap {
    let rows = this.#all.get(name);
    if (rows === undefined || !this.#owned.has(name)) {
      rows = rows?.copy() ?? new RowMap();
      this.#all.set(name, rows);
      this.#owned.add(name);
    }
    return rows;
  }
}

/** Returns the rows that differ between two states of the collections, with their values before. */
export function difference(before: Collections, now: Collections): RowChanges {
  const changes = new Map<string, ChangedRows>();
  for (const name of new Set([...before.names, ...now.names])) {
    const changed = before.get(name).changesTo(now.get(name));
    if (changed.size > 0) changes.set(name, changed);
  }
  return changes;
}
