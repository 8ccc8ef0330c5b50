/** The rows of a state in a client: the server's rows, and the values of writes under way. */
import { Signal } from "../../base/signal.ts";
import { Collections, difference, type RowChanges, type Rows } from "../../session/rows/row_map.ts";
import type { RowSource } from "../../session/state_changes.ts";
import { freezeRow, isSameRow } from "../../session/rows/row_values.ts";
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

export interface KeptRow extends WrittenRow {
  readonly version: number;
}

/** A write that gives values to rows before the server has, or the writer of an ephemeral row. */
export interface RowWriter {
  /** Its place among the others. The value of the last one is seen. */
  readonly order: number;
}

/** The rows as a write finds them: with earlier writes that are under way, without later ones. */
export interface EarlierRows {
  /** Returns the value of a stored row; `undefined` if the row does not exist. */
  get(type: string, key: string): Value;
  /** Returns the stored rows of a collection by key. */
  entries(type: string): ReadonlyMap<string, Value>;
}

/** The value that a write gives to a row. */
interface Written {
  readonly by: RowWriter;
  readonly value: Value;
}

/** The name of a collection, and the key of a row. */
type Place = readonly [type: string, key: string];

/**
 * The rows of one state. A row is seen as the newest write under way left it. Without one, it is
 * seen as the server's last reply or the stream has it, whichever is newer.
 *
 * Changes that the client has missed arrive in parts, which may divide a transaction. They are shown
 * in one step, once they are complete.
 */
export class ClientRows extends Signal implements RowSource {
  readonly listeners: Set<(changes: RowChanges) => void> = new Set();
  failure: unknown;
  /** True if the client may only write: no row is shown. */
  #isHidden = false;
  /** The rows that the stream has delivered. */
  #delivered = new Collections();
  /** The rows that replace them once they are complete. */
  #next: Collections | undefined = new Collections();
  /** True if these rows are read from the start of the stream. */
  #isAnew = true;
  /** Version up to which the rows have all changes of the stream. */
  version = 0;
  /** Version up to which the stream has delivered all changes, also those that are not shown yet. */
  received = 0;
  /** Rows known from replies, by name, until the stream reaches their versions. */
  readonly #ahead = new Map<string, KnownRow>();
  /** The collections whose rows are not in the stream. */
  ephemeral: ReadonlySet<string> = new Set();
  /** The rows of these collections as the server has them, by name. */
  readonly #ephemeral = new Map<string, KnownRow>();
  /** Rows that are missing so far in a list of all of them. */
  #missing: Set<string> | undefined;
  /** The values that writes under way give to a row, in their order; bounded by the writes. */
  readonly #written = new Map<string, Written[]>();
  /** The rows that the application sees. */
  #seen = new Collections();
  /** True once the rows were complete. */
  isLoaded = false;
  /**
   * Called when rows may have changed, before they are shown. Without places, all rows may have.
   * MUST NOT throw.
   */
  onTouched: (places?: readonly Place[]) => void = () => {};
  /** Number of calls under way that change rows. Rows are shown after the outermost one. */
  #depth = 0;
  /** True while rows that change are not shown. */
  isHeld = false;
  /** The rows to show. */
  #due: Place[] = [];
  /** True if all rows have to be shown anew. */
  #isAllDue = false;
  /** Called once these rows are shown. */
  #calls: (() => void)[] = [];

  collection(name: string): Rows {
    return this.#seen.get(name);
  }

  *collections(): IterableIterator<readonly [name: string, rows: ReadonlyMap<string, Value>]> {
    for (const name of [...this.#seen.names]) yield [name, this.collection(name).view];
  }

  /** Hides all rows from now on, because the client may not read them. */
  hide(): void {
    const before = this.#seen;
    this.#isHidden = true;
    this.ephemeral = new Set();
    this.#delivered = this.#seen = new Collections();
    this.#next = undefined;
    this.#touch();
    this.#tell(difference(before, this.#seen));
    this.notify();
  }

  valueAt(collection: string, key: string): unknown {
    return this.#seen.get(collection).get(key)?.value;
  }

  /** The version of a row without the writes under way; 0 if it does not exist. */
  versionOf(type: string, key: string): number {
    const { value, version } = this.known(type, key);
    return value === undefined ? 0 : version;
  }

  /** Returns a row without the writes under way. */
  known(type: string, key: string): KnownRow {
    const name = this.#ahead.size + this.ephemeral.size > 0 ? rowName(type, key) : "";
    if (this.ephemeral.has(type)) {
      return this.#ephemeral.get(name) ?? { value: undefined, version: 0 };
    }
    return this.#ahead.get(name) ?? this.#delivered.get(type).get(key) ??
      { value: undefined, version: this.version };
  }

  /** Returns the rows as a write finds them. */
  before({ order }: RowWriter): EarlierRows {
    const written = (name: string) => lastBefore(order, this.#written.get(name));
    return {
      get: (type, key) => (written(rowName(type, key)) ?? this.known(type, key)).value,
      entries: (type) => {
        const rows = this.#delivered.get(type).view;
        const own = new Map<string, Value>();
        for (const [name, { value }] of this.#ahead) note(name, value);
        for (const name of this.#written.keys()) {
          const last = written(name);
          if (last !== undefined) note(name, last.value);
        }
        function note(name: string, value: Value): void {
          const [of, key] = readRowName(name);
          if (of === type) own.set(key, value);
        }
        if (own.size === 0) return rows;
        return new Map([...rows, ...own].filter(([, value]) => value !== undefined));
      },
    };
  }

  /** True if a reply has told of a row of a collection that the stream has not reached. */
  isAhead(type: string): boolean {
    for (const name of this.#ahead.keys()) if (readRowName(name)[0] === type) return true;
    return false;
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
      else this.#ephemeral.set(name, { value: freezeRow(value), version });
      return name;
    });
    if (page !== undefined && !more) {
      for (const name of this.#missing ?? []) {
        this.#ephemeral.delete(name);
        names.push(name);
      }
      this.#missing = undefined;
    }
    this.#refresh(names.map(readRowName));
  }

  /** Shows rows that were kept at a version, until the stream goes on. */
  restore(kept: readonly KeptRow[], version: number): void {
    const next = this.#next = new Collections();
    for (const { type, ...row } of kept) next.set(type, { ...row, value: freezeRow(row.value) });
    this.complete(version);
  }

  /** The rows that the stream has delivered, without writes of this page; `undefined` until complete. */
  get stored(): Collections | undefined {
    return this.#next || this.#isHidden ? undefined : this.#delivered;
  }

  /** Shows no rows, until the stream has delivered all of them. */
  discard(): void {
    this.restart();
    this.isLoaded = false;
    this.#delivered = new Collections();
    this.#isAllDue = true;
    this.#touch();
  }

  /** Shows the rows of some collections no longer, which are not in the stream. */
  separate(names: Iterable<string>): void {
    this.ephemeral = new Set([...this.ephemeral, ...names]);
    for (const name of names) {
      this.#refresh([...this.#seen.get(name).view.keys()].map((key) => [name, key]));
    }
  }

  /** Collects the rows that the stream delivers from now on, to replace the present ones. */
  restart(): void {
    // A new stream with this id counts from 0 again.
    for (const [name, { value, version }] of this.#ahead) {
      const [type, key] = readRowName(name);
      if (value === undefined) this.#delivered.delete(type, key);
      else this.#delivered.set(type, { key, value, version });
    }
    this.#ahead.clear();
    this.version = this.received = 0;
    this.#next = new Collections();
    this.#isAnew = true;
  }

  /**
   * Applies all changes of the stream up to a version.
   *
   * @param isComplete True if there were no later changes when the server sent these. Otherwise,
   * they are shown by {@linkcode complete}.
   */
  deliver(changes: readonly VersionedRowMessage[], version: number, isComplete: boolean): void {
    this.received = version;
    if (this.#next === undefined && isComplete) {
      this.#put(this.#delivered, changes);
      this.version = version;
      return this.#touch([...changes.map(placeOf), ...this.#overtake()]);
    }
    this.#next ??= this.#delivered.copy();
    this.#put(this.#next, changes);
  }

  #put(rows: Collections, changes: readonly VersionedRowMessage[]): void {
    for (const { type, key, value, version, headers } of changes) {
      if (headers.operation === "delete") {
        rows.delete(type, key);
        continue;
      }
      // The stream repeats what a write has shown, and after a restart, what it had delivered.
      const shown = this.valueAt(type, key);
      const isSame = shown !== undefined && isSameRow(shown, value);
      rows.set(type, { key, value: isSame ? shown : freezeRow(value), version });
    }
  }

  /**
   * Shows the changes that the stream has delivered, in one step.
   *
   * @param version The version up to which the rows are complete, if the stream delivers no changes
   * up to it because their rows were deleted.
   */
  complete(version: number = 0): void {
    this.received = Math.max(this.received, version);
    this.version = Math.max(this.version, this.received);
    this.isLoaded = true;
    if (this.#next === undefined) return this.#touch([]);
    this.#delivered = this.#next;
    this.#next = undefined;
    this.#isAnew = false;
    this.#overtake();
    this.#isAllDue = true;
    this.#touch();
  }

  /** Shows all rows as they are now. */
  #showAll(): void {
    const before = this.#seen;
    this.#seen = this.#delivered.copy();
    for (const name of this.ephemeral) this.#seen.take(name, before);
    for (const [type, key] of this.#overlaid()) this.#show(type, key);
    // Nothing has seen the first rows that arrive.
    if (this.listeners.size === 0 && before.isEmpty) return this.notify();
    const changes = difference(before, this.#seen);
    // A collection without changes stays the same map.
    for (const name of before.names) if (!changes.has(name)) this.#seen.take(name, before);
    this.#tell(changes);
  }

  /** The rows that are not seen as the stream has delivered them. */
  #overlaid(): Place[] {
    return [...this.#ahead.keys(), ...this.#written.keys()].map(readRowName)
      .filter(([type]) => !this.ephemeral.has(type));
  }

  /** Drops the replies that the stream has reached, and returns their rows. */
  #overtake(): Place[] {
    const rows: Place[] = [];
    for (const [name, row] of this.#ahead) {
      if (row.version > this.version) continue;
      this.#ahead.delete(name);
      rows.push(readRowName(name));
    }
    return rows;
  }

  /** Shows the rows of a write before the server has replied. */
  begin(by: RowWriter, rows: readonly WrittenRow[]): void {
    for (const row of rows) this.#write(by, row);
    this.#refresh(rows.map(placeOf));
  }

  #write(by: RowWriter, { type, key, value }: WrittenRow): void {
    const name = rowName(type, key);
    const values = (this.#written.get(name) ?? []).filter((one) => one.by !== by);
    const later = values.findIndex((one) => one.by.order > by.order);
    values.splice(later < 0 ? values.length : later, 0, { by, value });
    this.#written.set(name, values);
  }

  #unwrite(by: RowWriter, { type, key }: WrittenRow): void {
    const name = rowName(type, key);
    const values = (this.#written.get(name) ?? []).filter((one) => one.by !== by);
    if (values.length > 0) this.#written.set(name, values);
    else this.#written.delete(name);
  }

  /** Replaces the value that a write gives to a row. It is shown in any case. */
  rewrite(by: RowWriter, row: WrittenRow): void {
    const values = this.#written.get(rowName(row.type, row.key));
    if (values?.some((one) => one.by === by)) this.#write(by, row);
    this.#refresh([placeOf(row)]);
    this.#touch([placeOf(row)]);
  }

  /**
   * Replaces the rows that a write shows, without a call of `onTouched`.
   *
   * @param by The write.
   * @param isNow True if they are shown in any case.
   */
  replace(
    by: RowWriter,
    { before, after }: {
      readonly before: readonly WrittenRow[];
      readonly after: readonly WrittenRow[];
    },
    isNow: boolean,
  ): void {
    for (const row of before) this.#unwrite(by, row);
    for (const row of after) this.#write(by, row);
    const places = [...before, ...after].map(placeOf);
    if (isNow) return this.#refresh(places);
    this.#due.push(...places);
    this.#showDue();
  }

  /**
   * Ends a write.
   *
   * @param by The write.
   * @param rows The rows that it shows.
   * @param made The rows that it has changed, and their version; `undefined` if it took no effect.
   */
  end(
    by: RowWriter,
    rows: readonly WrittenRow[],
    made?: { readonly rows: readonly WrittenRow[]; readonly version: number },
  ): void {
    for (const row of rows) this.#unwrite(by, row);
    for (const { type, key, value } of made?.rows ?? []) {
      this.#learn(type, key, { value, version: made!.version });
    }
    this.#touch([...rows, ...made?.rows ?? []].map(placeOf));
  }

  /** From now on, rows that change are shown by `show`. */
  hold(): void {
    this.isHeld = true;
  }

  /** Shows the rows that have changed meanwhile, in one step. */
  show(): void {
    this.isHeld = false;
    this.#showDue();
  }

  /** Calls a callback once all rows that have changed are shown. */
  afterShown(call: () => void): void {
    this.#calls.push(call);
    this.#showDue();
  }

  #showDue(): void {
    if (this.#depth > 0 || this.isHeld) return;
    const [places, isAll, calls] = [this.#due, this.#isAllDue, this.#calls];
    [this.#due, this.#isAllDue, this.#calls] = [[], false, []];
    if (isAll && !this.#isHidden) this.#showAll();
    else if (places.length > 0) this.#refresh(places);
    for (const call of calls) call();
  }

  /** Notes a row from the reply to a write. */
  learn(type: string, key: string, row: KnownRow): void {
    this.#learn(type, key, { ...row, value: freezeRow(row.value) });
    this.#touch([[type, key]]);
  }

  #learn(type: string, key: string, row: KnownRow): void {
    const name = rowName(type, key);
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
    if (!this.#isAnew && row.version <= this.version) return;
    const known = this.#ahead.get(name) ?? this.#delivered.get(type).get(key);
    if (row.version > (known?.version ?? 0)) this.#ahead.set(name, row);
  }

  /** Shows rows that may have changed, after functions that have read them; by default, all. */
  #touch(places?: readonly Place[]): void {
    for (const place of places ?? []) this.#due.push(place);
    this.#depth++;
    this.onTouched(places);
    this.#depth--;
    this.#showDue();
  }

  /** Shows rows as they are now, and tells the listeners about those that differ. */
  #refresh(rows: readonly Place[]): void {
    if (this.#isHidden) return;
    const changes = new Map<string, Map<string, Value>>();
    for (const [type, key] of rows) {
      const before = this.valueAt(type, key);
      if (!this.#show(type, key)) continue;
      const of = changes.get(type) ?? new Map<string, Value>();
      changes.set(type, of);
      if (!of.has(key)) of.set(key, before);
    }
    this.#tell(changes);
  }

  /** Shows a row as it is now. Returns false if it has not changed. */
  #show(type: string, key: string): boolean {
    const written = this.#written.size > 0
      ? this.#written.get(rowName(type, key))?.at(-1)
      : undefined;
    const { value } = written ?? this.known(type, key);
    const before = this.valueAt(type, key);
    if (value === before) return false;
    if (value !== undefined && before !== undefined && isSameRow(value, before)) return false;
    if (value === undefined) this.#seen.delete(type, key);
    else {
      const row = this.#delivered.get(type).get(key);
      this.#seen.set(type, row?.value === value ? row : { key, value, version: 0 });
    }
    return true;
  }

  #tell(changes: RowChanges): void {
    if (changes.size === 0) return;
    for (const listen of this.listeners) listen(changes);
    this.notify();
  }
}

/** Finds the last value of a write before a place among the writes, which many may have. */
function lastBefore(order: number, values: readonly Written[] = []): Written | undefined {
  let [from, to] = [0, values.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (values[middle]!.by.order < order) from = middle + 1;
    else to = middle;
  }
  return values[from - 1];
}

function placeOf({ type, key }: Pick<WrittenRow, "type" | "key">): Place {
  return [type, key];
}
