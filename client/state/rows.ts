/** The rows of a state in a client: the server's rows, and the values of writes under way. */
import { Signal } from "../../base/signal.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import type { RowChanged, RowSource } from "../../session/state_changes.ts";
import {
  type EphemeralRowsPart,
  readRowName,
  rowName,
  type VersionedRowMessage,
} from "../../session/wire/rows.ts";

/** The value of a row; `undefined` if the row does not exist. */
type Value = unknown;

/** A row as the client knows it. */
export interface KnownRow {
  readonly value: Value;
  /** Version of the row; without a row, a version of the state that lacks the row. */
  readonly version: number;
  /** True if the client may not read the value, which is then unknown. */
  readonly isHidden?: boolean | undefined;
}

/**
 * Number of rows whose versions a client remembers that may only write, so that it can write the
 * row again with one message.
 */
const MAX_REMEMBERED = 1_000;

/** A row that a write sets, or deletes by the value `undefined`. */
export interface WrittenRow {
  readonly type: string;
  readonly key: string;
  readonly value: Value;
}

/** The rows of a collection, for the loops and callbacks that follow it. */
interface Feed {
  readonly feed: StatusFeed<ReadonlyMap<string, Value>>;
  /** Number of these loops and callbacks. */
  users: number;
}

/**
 * The rows of one state. A row is seen as the newest write under way left it. Without one, it is
 * seen as the server's last reply or the stream has it, whichever is newer.
 */
export class ClientRows extends Signal implements RowSource {
  readonly listeners: Set<(changes: readonly RowChanged[]) => void> = new Set();
  failure: unknown;
  #isClosed = false;
  /** True if the client may only write: no row is shown. */
  #isHidden = false;
  /** The rows that the stream has delivered, by name. */
  #delivered = new Map<string, KnownRow>();
  /** The rows that replace them once they are complete. */
  #next: Map<string, KnownRow> | undefined = new Map();
  /** Version up to which the stream has delivered all changes. */
  version = 0;
  /** Rows known from replies, until the stream reaches their versions. */
  readonly #ahead = new Map<string, KnownRow>();
  /** The collections whose rows are not in the stream. */
  ephemeral: ReadonlySet<string> = new Set();
  /** The rows of these collections as the server has them, by name. */
  readonly #ephemeral = new Map<string, KnownRow>();
  /** Rows that are missing so far in a list of all of them. */
  #missing: Set<string> | undefined;
  /** The values that writes under way give to a row, oldest first; bounded by the writes. */
  readonly #written = new Map<string, { readonly by: unknown; readonly value: Value }[]>();
  /** The rows that the application sees: collections with their rows by key. */
  readonly #seen = new Map<string, Map<string, Value>>();
  /** Copies of collections, until a row changes. */
  readonly #copies = new Map<string, ReadonlyMap<string, Value>>();
  /** The collections that the application follows. */
  readonly #feeds = new Map<string, Feed>();

  /** Returns the rows of a collection, in a map that changes with them. */
  collection(name: string): ReadonlyMap<string, unknown> {
    return this.#seen.get(name) ?? NOTHING;
  }

  *collections(): IterableIterator<readonly [name: string, rows: ReadonlyMap<string, Value>]> {
    for (const name of this.#seen.keys()) yield [name, this.copyOf(name)];
  }

  /** Returns the rows of a collection, in a map that does not change. */
  copyOf(name: string): ReadonlyMap<string, unknown> {
    const seen = this.#seen.get(name);
    if (seen === undefined) return NOTHING;
    const copy = this.#copies.get(name) ?? new Map(seen);
    this.#copies.set(name, copy);
    return copy;
  }

  /** Follows a collection until {@linkcode leave} is called once for each call. */
  follow(name: string): StatusFeed<ReadonlyMap<string, unknown>> {
    const known = this.#feeds.get(name);
    if (known !== undefined) {
      known.users++;
      return known.feed;
    }
    const feed = new StatusFeed(this.copyOf(name));
    if (this.#isClosed) feed.end(feed.current);
    else this.#feeds.set(name, { feed, users: 1 });
    return feed;
  }

  leave(name: string): void {
    const known = this.#feeds.get(name);
    if (known !== undefined && --known.users === 0) this.#feeds.delete(name);
  }

  /** Ends all feeds. */
  close(): void {
    this.#isClosed = true;
    for (const [name, { feed }] of this.#feeds) feed.end(this.copyOf(name));
    this.#feeds.clear();
    this.notify();
  }

  /** Hides all rows from now on, because the client may not read them. */
  hide(): void {
    this.#isHidden = true;
    this.ephemeral = new Set();
    this.#delivered.clear();
    this.#next?.clear();
    this.#seen.clear();
    this.#copies.clear();
    this.close();
  }

  valueAt(collection: string, key: string): unknown {
    return this.#seen.get(collection)?.get(key);
  }

  /** The version of a row without the writes under way; 0 if it does not exist. */
  versionOf(type: string, key: string): number {
    const { value, version } = this.known(type, key);
    return value === undefined ? 0 : version;
  }

  /** Returns a row without the writes under way. */
  known(type: string, key: string): KnownRow {
    const name = rowName(type, key);
    if (this.ephemeral.has(type)) {
      return this.#ephemeral.get(name) ?? { value: undefined, version: 0 };
    }
    return this.#ahead.get(name) ?? this.#delivered.get(name) ??
      { value: undefined, version: this.version };
  }

  /**
   * Applies changes of ephemeral rows, or a part of a list that replaces all of them. An older
   * version of a row never replaces a newer one.
   */
  deliverEphemeral({ rows, page, more }: EphemeralRowsPart): void {
    if (page === 0) {
      this.#missing = new Set(this.#ephemeral.keys());
      // Another server has its own versions.
      for (const [name, { value }] of this.#ephemeral) {
        this.#ephemeral.set(name, { value, version: -1 });
      }
    }
    const names = rows.map(([type, key, version, value]) => {
      const name = rowName(type, key);
      this.#missing?.delete(name);
      const known = this.#ephemeral.get(name);
      if (known !== undefined && version < known.version) return name;
      if (value === undefined) this.#ephemeral.delete(name);
      else this.#ephemeral.set(name, { value, version });
      return name;
    });
    if (page !== undefined && !more) {
      for (const name of this.#missing ?? []) {
        this.#ephemeral.delete(name);
        names.push(name);
      }
      this.#missing = undefined;
    }
    this.#refresh(names);
  }

  /** Collects the rows that the stream delivers from now on, to replace the present ones. */
  restart(): void {
    // A new stream with this id counts from 0 again.
    for (const [name, row] of this.#ahead) this.#delivered.set(name, row);
    this.#ahead.clear();
    this.version = 0;
    this.#next = new Map();
  }

  /** Applies all changes of the stream up to a version. */
  deliver(changes: readonly VersionedRowMessage[], version: number): void {
    const rows = this.#next ?? this.#delivered;
    const names = changes.map(({ type, key, value, version, headers }) => {
      const name = rowName(type, key);
      if (headers.operation === "delete") rows.delete(name);
      else rows.set(name, { value, version });
      return name;
    });
    this.version = version;
    if (this.#next === undefined) this.#refresh(new Set([...names, ...this.#overtake()]));
  }

  /**
   * Replaces the rows by those delivered since the restart, in one step.
   *
   * @param version The version up to which the rows are complete, if the stream delivers no changes
   * up to it because their rows were deleted.
   */
  complete(version: number = 0): void {
    this.version = Math.max(this.version, version);
    const next = this.#next;
    if (next === undefined) return;
    const names = new Set([...this.#delivered.keys(), ...next.keys(), ...this.#overtake()]);
    this.#delivered = next;
    this.#next = undefined;
    this.#refresh(names);
  }

  /** Drops the replies that the stream has reached, and returns the names of their rows. */
  #overtake(): string[] {
    const names: string[] = [];
    for (const [name, row] of this.#ahead) {
      if (row.version > this.version) continue;
      this.#ahead.delete(name);
      names.push(name);
    }
    return names;
  }

  /** Shows the rows of a write before the server has replied. */
  begin(by: unknown, rows: readonly WrittenRow[]): void {
    this.#refresh(rows.map(({ type, key, value }) => {
      const name = rowName(type, key);
      const values = this.#written.get(name) ?? [];
      this.#written.set(name, values);
      values.push({ by, value });
      return name;
    }));
  }

  /** Replaces the value that a write gives to a row. */
  rewrite(by: unknown, { type, key, value }: WrittenRow): void {
    const name = rowName(type, key);
    const values = this.#written.get(name) ?? [];
    this.#written.set(name, values.map((one) => one.by === by ? { by, value } : one));
    this.#refresh([name]);
  }

  /**
   * Ends a write.
   *
   * @param by The write.
   * @param rows Its rows.
   * @param version The version of the rows; `undefined` if the write took no effect.
   */
  end(by: unknown, rows: readonly WrittenRow[], version: number | undefined): void {
    this.#refresh(rows.map(({ type, key, value }) => {
      const name = rowName(type, key);
      const values = (this.#written.get(name) ?? []).filter((one) => one.by !== by);
      if (values.length > 0) this.#written.set(name, values);
      else this.#written.delete(name);
      if (version !== undefined) this.#learn(name, { value, version });
      return name;
    }));
  }

  /** Notes a row from the reply to a write. */
  learn(type: string, key: string, row: KnownRow): void {
    const name = rowName(type, key);
    this.#learn(name, row);
    this.#refresh([name]);
  }

  #learn(name: string, row: KnownRow): void {
    if (this.#isHidden) {
      this.#ahead.delete(name);
      this.#ahead.set(name, row);
      const [oldest] = this.#ahead.keys();
      if (this.#ahead.size > MAX_REMEMBERED) this.#ahead.delete(oldest!);
      return;
    }
    // A client that may read the rows receives the value from the stream.
    if (row.isHidden) return;
    // The stream has delivered this row, or a later change of it, such as a deletion.
    if (this.#next === undefined && row.version <= this.version) return;
    const known = this.#ahead.get(name) ?? this.#delivered.get(name);
    if (row.version > (known?.version ?? 0)) this.#ahead.set(name, row);
  }

  /** Shows rows as they are now, and tells the listeners about those that differ. */
  #refresh(names: Iterable<string>): void {
    if (this.#isHidden) return;
    const changes: RowChanged[] = [];
    for (const name of names) {
      const [collection, key] = readRowName(name);
      const before = this.valueAt(collection, key);
      const written = this.#written.get(name)?.at(-1);
      const { value } = written ?? this.known(collection, key);
      if (isSame(value, before)) continue;
      const rows = this.#seen.get(collection) ?? new Map<string, Value>();
      if (value === undefined) rows.delete(key);
      else rows.set(key, value);
      if (rows.size > 0) this.#seen.set(collection, rows);
      else this.#seen.delete(collection);
      changes.push({ collection, key, before });
    }
    if (changes.length === 0) return;
    for (const { collection } of changes) this.#copies.delete(collection);
    for (const [name, { feed }] of this.#feeds) {
      if (changes.some(({ collection }) => collection === name)) feed.set(this.copyOf(name));
    }
    for (const listen of this.listeners) listen(changes);
    this.notify();
  }
}

/** Compares values that come from JSON. The stream repeats what a write has already shown. */
function isSame(value: Value, other: Value): boolean {
  if (value === other) return true;
  if (value === undefined || other === undefined) return false;
  return JSON.stringify(value) === JSON.stringify(other);
}

const NOTHING: ReadonlyMap<string, unknown> = new Map();
