/** Keeps the rows of one state in the client's store. */
import { hash32 } from "../../../session/rows/row_hash.ts";
import { outside, type Runtime, type Timer } from "../../../base/runtime.ts";
import { Collections } from "../../../session/rows/row_map.ts";
import { HIDDEN_PREFIX, MAX_ROW_NAME_BYTES, rowName } from "../../../session/wire/rows.ts";
import type { KeptRows, KeptSource } from "../../state/keeping.ts";
import type { KeptRow } from "../../state/rows.ts";
import type { GuardedStore } from "../guarded_store.ts";
import { keyIn, only, partsOf, rangeOf } from "../keys.ts";
import { holdLock, type LockHeld } from "../locks.ts";
import { entriesIn, isCount, jsonIn } from "../reading.ts";
import type { StoreEntry, StoreRange } from "../store.ts";

const ENCODER = /* @__PURE__ */ new TextEncoder();

/** Pause in which changes of rows collect before they are kept, in milliseconds. */
export const SAVE_MS = 500;

/** Interval at which the time of rows that don't change is kept, in milliseconds. */
export const TOUCH_MS = 60_000;

/** Number of rows that are stored together. More changes than that are kept as a new copy. */
const MAX_BATCH_ROWS = 1_000;

/** Maximum size of the rows of one state in the store, in bytes. A larger state is not kept. */
export const MAX_KEPT_STATE_BYTES = 16_777_216;

/** Maximum size of the rows of all states, in bytes. Those that were kept longest ago go first. */
export const MAX_KEPT_ROWS_BYTES = 67_108_864;

/** Maximum number of states whose rows are kept. */
export const MAX_KEPT_STATES = 256;

/** Time for which rows are kept, in milliseconds: 30 days. */
export const MAX_KEPT_ROWS_AGE_MS = 2_592_000_000;

/** Maximum number of collections of one state that are kept as not stored. */
const MAX_KEPT_NAMES = 256;

/** Number of attempts to read rows while another page writes them. */
const MAX_READS = 3;

/** The parts of a keeper that kept rows use. */
export interface RowsKeeper {
  readonly store: Pick<GuardedStore, "error" | "isExclusive" | "read" | "write" | "tell">;
}

/** The writes that the server has made, and that are kept until their rows are. */
export interface MadeWrites {
  /** True if there are such writes. */
  readonly hasMade: boolean;
  /** Resolves once the writes that wait are stored, or the store has failed. */
  flush(): Promise<void>;
  /** Returns the writes whose rows are kept with a position. */
  madeBefore(position: Pick<Head, "offset" | "tag">): MadeRanges;
  /** Deletes the writes whose rows are kept with a position; by default, all. */
  deleteMade(position?: Pick<Head, "offset" | "tag">): Promise<void>;
}

/** Writes to delete. */
export interface MadeRanges {
  readonly ranges: readonly StoreRange[];
  /** Called once they are deleted. */
  deleted(): void;
}

/** One copy of the rows of a state, as the store has it. */
interface Head {
  /** Number of the copy: random, because several pages may write copies. */
  readonly copy: number;
  readonly id: string;
  readonly offset: number;
  readonly tag: string;
  readonly contract?: number | undefined;
  /** The collections whose rows are not stored. */
  readonly ephemeral?: readonly string[] | undefined;
  readonly at: number;
  readonly count: number;
  /** Sum of the rows' names and versions, by which a copy that two pages have written is found. */
  readonly sum: number;
  readonly bytes: number;
}

/** The position of a copy, and what the state had there besides rows. */
type HeadPosition = Pick<Head, "offset" | "tag" | "ephemeral" | "at">;

/** The totals of a copy, which batches change. */
interface Totals {
  count: number;
  sum: number;
  bytes: number;
}

/**
 * Keeps the rows of one state.
 *
 * The store has a copy: an entry for each row, and a head with the position in the stream. Changes
 * that collect for a while are stored in one batch with the head, so the copy is always that of one
 * position, and a transaction is kept completely or not at all. A page that holds the lock of a copy
 * is the only one that changes it; where there are no locks, the sum in the head tells a copy that
 * several pages have changed, which is then read anew.
 */
export class KeptStateRows {
  readonly #keeper: RowsKeeper;
  readonly #source: KeptSource;
  readonly #runtime: Runtime;
  readonly #made: MadeWrites;
  /** The copy in the store, as this page has read or written it. */
  #head: Head | undefined;
  /** The rows of this copy. */
  #saved = new Collections();
  /** The lock of the copy. */
  #lock: LockHeld | undefined;
  /** True while this page waits for another one that keeps the state. */
  #isWaiting = false;
  /** The rows that differ from the copy, by name. */
  #dirty = new Map<string, readonly [type: string, key: string]>();
  /** True if the next save writes a new copy. */
  #isAnew = false;
  #isConfirmed = false;
  /** True once no more changes are noted. */
  #isClosing = false;
  #isEnded = false;
  #wasLive = false;
  /** Time at which the rows were last up to date. */
  #liveAt = 0;
  #timer: Timer | undefined;
  /** Time of the timer. */
  #dueAt = Infinity;
  /** The last operation; they run one after another. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    keeper: RowsKeeper,
    source: KeptSource,
    { runtime, made }: { readonly runtime: Runtime; readonly made: MadeWrites },
  ) {
    this.#keeper = keeper;
    this.#source = source;
    this.#runtime = runtime;
    this.#made = made;
  }

  /** Reads the rows that were kept; `undefined` if there are none that can be shown. */
  open(): Promise<KeptRows | undefined> {
    return this.#enqueue(() => this.#open());
  }

  /** Keeps rows from now on, because the server has confirmed the user. */
  confirmed(): void {
    this.#isConfirmed = true;
    this.changed();
  }

  /** Notes that the stream has delivered changes of rows. */
  delivered(changes: readonly { readonly type: string; readonly key: string }[]): void {
    if (this.#isAnew) return;
    for (const { type, key } of changes) this.#dirty.set(rowName(type, key), [type, key]);
    if (this.#dirty.size > MAX_BATCH_ROWS) this.restarted();
  }

  /** Notes that the rows are read from the start of the stream. */
  restarted(): void {
    this.#isAnew = true;
    this.#dirty.clear();
  }

  /** Returns whether rows of a version are still to be kept. */
  awaits(version: number): boolean {
    const { isReading, tag } = this.#source;
    if (this.#isEnded || !this.#isConfirmed || !isReading || tag === undefined) return false;
    return version > (this.#head?.tag === tag ? this.#head.offset : 0);
  }

  /** Notes that the rows are complete, or no longer up to date. */
  changed(): void {
    if (this.#isClosing || !this.#isConfirmed) return;
    const { isLive } = this.#source;
    const isLost = this.#wasLive && !isLive;
    this.#wasLive = isLive;
    if (isLive || isLost) this.#liveAt = this.#runtime.now();
    if (this.#isAnew || this.#dirty.size > 0 || isLost) this.#schedule(SAVE_MS);
    else if (isLive) this.#schedule(this.#head === undefined ? SAVE_MS : TOUCH_MS);
  }

  /** Deletes the rows, because the client may no longer read them, or they no longer exist. */
  forget(): void {
    this.restarted();
    this.#saved = new Collections();
    void this.#enqueue(async () => {
      const heads = await this.#heads();
      const own = heads?.filter((head) => this.#isOwn(head)) ?? [];
      this.#release();
      if (own.length > 0) await this.#keeper.store.write({ deletes: own.flatMap(rangesOf) });
    });
  }

  /** Keeps nothing more. */
  end(): void {
    this.#isClosing = this.#isEnded = true;
    this.#runtime.clearTimeout(this.#timer);
    this.#release();
  }

  /** The name of the lock that this page has. */
  get lock(): string | undefined {
    return this.#lock?.name;
  }

  /** Keeps nothing more, and deletes the copy. */
  async erase(): Promise<void> {
    const head = this.#head;
    this.end();
    await this.#last;
    if (head !== undefined) await this.#keeper.store.write({ deletes: rangesOf(head) });
  }

  /** Keeps the newest rows, and ends. */
  async close(): Promise<void> {
    if (this.#isClosing) return await this.#last.then(() => {});
    if (this.#wasLive) this.#liveAt = this.#runtime.now();
    const saving = this.#isConfirmed ? this.#enqueue(() => this.#save()) : this.#last;
    this.#isClosing = true;
    this.#runtime.clearTimeout(this.#timer);
    await saving;
    this.end();
  }

  #enqueue<T>(run: () => Promise<T>): Promise<T> {
    const running = this.#last.then(run);
    this.#last = running.catch(() => {});
    return running;
  }

  #schedule(afterMs: number): void {
    const dueAt = this.#runtime.monotonic() + afterMs;
    if (dueAt >= this.#dueAt) return;
    this.#runtime.clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    this.#timer = this.#runtime.setTimeout(() => {
      this.#dueAt = Infinity;
      void this.#enqueue(() => this.#save()).then(() => this.changed());
    }, afterMs);
  }

  #release(): void {
    this.#lock?.release();
    this.#lock = this.#head = undefined;
  }

  async #open(): Promise<KeptRows | undefined> {
    for (let i = 0; i < MAX_READS; i++) {
      const heads = await this.#heads();
      const [head] = heads?.filter((head) => this.#isOwn(head)) ?? [];
      if (head === undefined) return undefined;
      const { contractVersion } = this.#source;
      if (head.contract !== contractVersion) {
        await this.#drop(head, `of version ${head.contract} of the contract`, "rows-version");
        return undefined;
      }
      const rows = await this.#rowsOf(head);
      if (rows !== undefined) return this.#opened(head, rows);
      const after = await this.#heads();
      const isSame = after?.some((one) => JSON.stringify(one) === JSON.stringify(head));
      if (isSame) {
        await this.#drop(head, "damaged", "rows-damaged");
        return undefined;
      }
    }
    return undefined;
  }

  #opened(head: Head, rows: readonly KeptRow[]): KeptRows {
    const { offset, tag, at, ephemeral = [] } = head;
    this.#head = head;
    for (const { type, ...row } of rows) this.#saved.set(type, row);
    const keptAt = Math.min(at, this.#runtime.now());
    return { rows, ephemeral, position: { offset, tag }, keptAt };
  }

  /** Reads the heads of all copies, the newest first. */
  async #heads(): Promise<Head[] | undefined> {
    const entries = await this.#entries(rangeOf(keyIn("rows", 0)), 2 * MAX_KEPT_STATES);
    if (entries === undefined) return undefined;
    const heads: Head[] = [];
    const broken: StoreRange[] = [];
    const oldest = this.#runtime.now() - MAX_KEPT_ROWS_AGE_MS;
    for (const { key, value } of entries) {
      const [, copy] = partsOf(key, ["number", "number"]) as [number, number] | undefined ?? [];
      const head = copy === undefined ? undefined : headOf(copy, value);
      if (head !== undefined && head.at >= oldest) heads.push(head);
      else if (copy === undefined) broken.push(only(key));
      else broken.push(...rangesOf({ copy }));
    }
    if (broken.length > 0) await this.#keeper.store.write({ deletes: broken });
    return heads.sort((a, b) => b.at - a.at);
  }

  /** Reads the rows of a copy; `undefined` if they are not those that its head describes. */
  async #rowsOf({ copy, count, sum, bytes, offset }: Head): Promise<KeptRow[] | undefined> {
    if (bytes > MAX_KEPT_STATE_BYTES) return undefined;
    const entries = await this.#entries(rangeOf(keyIn("rows", 1, copy)), count);
    if (entries?.length !== count) return undefined;
    const rows: KeptRow[] = [];
    let found = 0;
    for (const { value } of entries) {
      const row = rowIn(value);
      if (row === undefined || row.version > offset) return undefined;
      found = (found + markOf(row.type, row)) >>> 0;
      rows.push(row);
    }
    return found === sum ? rows : undefined;
  }

  /** Reads the entries of a range, at most one more than the expected number. */
  async #entries(range: StoreRange, count: number): Promise<StoreEntry[] | undefined> {
    const { store } = this.#keeper;
    const entries: StoreEntry[] = [];
    for await (const entry of entriesIn(store, range)) {
      if (entries.push(entry) > count) break;
    }
    return store.error === undefined ? entries : undefined;
  }

  async #drop(head: Head, what: string, kind: string): Promise<void> {
    await this.#keeper.store.write({ deletes: rangesOf(head) });
    const { id } = this.#source;
    const message = `The rows of state "${id}" in the store are ${what}; they are read again`;
    this.#keeper.store.tell(kind, new Error(message));
  }

  async #save(): Promise<void> {
    await this.#made.flush();
    const { stored } = this.#source;
    if (this.#isEnded) return;
    if (stored === undefined || stored.position.tag === undefined) return;
    // The rows at this position, whatever changes while they are written.
    const now = stored.rows.copy();
    const { offset, tag } = stored.position;
    const names = [...this.#source.ephemeral].slice(0, MAX_KEPT_NAMES);
    const ephemeral = names.length > 0 ? names : undefined;
    const at = { offset, tag, ephemeral, at: this.#liveAt };
    // From now on, changes are noted for the next save.
    const [dirty, isAnew] = [this.#dirty, this.#isAnew];
    this.#dirty = new Map();
    this.#isAnew = false;
    const held = await this.#hold();
    if (held === undefined) {
      // The page that holds the copy keeps the rows.
      this.restarted();
      return await this.#deleteMade();
    }
    const isKept = isAnew || held !== "known" || this.#head === undefined
      ? await this.#replace(now, at)
      : await this.#update(this.#head, { rows: now, dirty }, at);
    if (isKept) this.#saved = now;
    else this.restarted();
    if (this.#isEnded) await this.#made.deleteMade();
    // Writes whose outcome came while the rows were stored.
    else if (isKept) await this.#made.deleteMade(at);
  }

  /** Deletes the writes whose rows another page has kept. */
  async #deleteMade(): Promise<void> {
    if (!this.#made.hasMade) return;
    const heads = await this.#heads();
    if (heads !== undefined) await this.#made.deleteMade(heads.find((head) => this.#isOwn(head)));
  }

  #isOwn({ id }: Head): boolean {
    return id === this.#source.id;
  }

  /**
   * Takes the lock of the copy. Returns whether this page knows the copy, or another page has
   * changed it; `undefined` while another page has the lock.
   */
  async #hold(): Promise<"known" | "changed" | undefined> {
    if (this.#isWaiting || this.#isEnded) return undefined;
    const heads = await this.#heads();
    if (heads === undefined) return undefined;
    const [head, ...others] = heads.filter((head) => this.#isOwn(head));
    if (head === undefined || this.#lock?.name === lockOf(head)) {
      for (const other of others) await this.#remove(other);
      return JSON.stringify(head) === JSON.stringify(this.#head) ? "known" : "changed";
    }
    const lock = await outside(this.#runtime, holdLock(lockOf(head)));
    if (lock === undefined) {
      this.#isWaiting = true;
      this.#release();
      void this.#await(lockOf(head));
      return undefined;
    }
    this.#setLock(lock);
    // Another page may have changed the copy before.
    return await this.#hold();
  }

  #setLock(lock: LockHeld): void {
    if (this.#isEnded) return lock.release();
    this.#lock?.release();
    this.#lock = lock;
    // Another page has called `forget()`.
    void lock.stolen?.then(() => this.#lock === lock ? this.erase() : undefined);
  }

  /** Deletes a copy, unless another page holds it. */
  async #remove(head: Head): Promise<void> {
    const lock = await outside(this.#runtime, holdLock(lockOf(head)));
    if (lock !== undefined) await this.#keeper.store.write({ deletes: rangesOf(head) });
    lock?.release();
  }

  /** Keeps the rows once the page that does so now has gone. */
  async #await(name: string): Promise<void> {
    const lock = await holdLock(name, this.#source.signal);
    this.#isWaiting = false;
    const heads = lock && !this.#isEnded ? await this.#heads() : undefined;
    lock?.release();
    if (heads === undefined) return;
    // If the copy is gone, the other page may no longer read the rows, or has forgotten them.
    if (heads.some((head) => this.#isOwn(head))) this.changed();
    else {
      this.end();
      await this.#made.deleteMade();
    }
  }

  /** Writes a new copy in place of the old one. */
  async #replace(rows: Collections, at: HeadPosition): Promise<boolean> {
    const { id, contractVersion: contract } = this.#source;
    const copy = this.#newCopy();
    const lock = await outside(this.#runtime, holdLock(lockOf({ copy })));
    const totals: Totals = { count: 0, sum: 0, bytes: 0 };
    let puts: StoreEntry[] = [];
    const isWritten = async () => {
      const batch = puts;
      puts = [];
      return await this.#keeper.store.write({ puts: batch }) !== undefined;
    };
    let isKept = true;
    for (const type of rows.names) {
      for (const row of rows.get(type).rows()) {
        const entry = entryOf(copy, type, row);
        puts.push(entry);
        add(totals, markOf(type, row), entry);
        if (puts.length >= MAX_BATCH_ROWS) isKept = await isWritten();
        if (totals.bytes > MAX_KEPT_STATE_BYTES) isKept = this.#tooLarge();
        if (!isKept) break;
      }
      if (!isKept) break;
    }
    const outdated = isKept ? await this.#outdated(totals.bytes) : undefined;
    if (outdated !== undefined) {
      const head = { ...at, ...totals, id, contract, copy };
      const made = this.#made.madeBefore(at);
      const deletes = [...outdated, ...made.ranges];
      isKept =
        await this.#keeper.store.write({ deletes, puts: [...puts, headEntry(head)] }) !== undefined;
      if (isKept) {
        made.deleted();
        if (lock !== undefined) this.#setLock(lock);
        this.#head = head;
        return true;
      }
    }
    await this.#keeper.store.write({ deletes: rangesOf({ copy }) });
    lock?.release();
    return false;
  }

  /** The copies that a new one replaces: the state's own, and the oldest ones beyond the bounds. */
  async #outdated(bytes: number): Promise<StoreRange[] | undefined> {
    const heads = await this.#heads();
    if (heads === undefined) return undefined;
    let [room, left] = [MAX_KEPT_ROWS_BYTES - bytes, MAX_KEPT_STATES - 1];
    const gone: Head[] = [];
    for (const head of heads) {
      const isOwn = this.#isOwn(head);
      if (!isOwn && (room -= head.bytes) >= 0 && left-- > 0) continue;
      gone.push(head);
      if (isOwn) continue;
      const message = `The rows of state "${head.id}" were deleted from the store, which has as ` +
        `many as it may: at most ${MAX_KEPT_ROWS_BYTES} bytes, and ${MAX_KEPT_STATES} states`;
      this.#keeper.store.tell("rows-full", new Error(message));
    }
    return gone.flatMap(rangesOf);
  }

  #tooLarge(): false {
    const message = `The state "${this.#source.id}" is too large for the store: ` +
      `at most ${MAX_KEPT_STATE_BYTES} bytes are kept`;
    this.#keeper.store.tell("rows-too-large", new Error(message));
    this.end();
    return false;
  }

  /** Changes the copy. */
  async #update(
    head: Head,
    { rows, dirty }: {
      readonly rows: Collections;
      readonly dirty: ReadonlyMap<string, readonly [type: string, key: string]>;
    },
    at: HeadPosition,
  ): Promise<boolean> {
    const { copy } = head;
    const totals: Totals = { count: head.count, sum: head.sum, bytes: head.bytes };
    const puts: StoreEntry[] = [];
    const deletes: StoreRange[] = [];
    for (const [type, key] of dirty.values()) {
      const before = this.#saved.get(type).get(key);
      const row = rows.get(type).get(key);
      if (before !== undefined) {
        const entry = entryOf(copy, type, before);
        totals.count--;
        totals.sum = (totals.sum - markOf(type, before)) >>> 0;
        totals.bytes -= entry.value.byteLength;
        if (row === undefined) {
          deletes.push(only(entry.key));
        }
      }
      if (row === undefined) continue;
      const entry = entryOf(copy, type, row);
      puts.push(entry);
      add(totals, markOf(type, row), entry);
    }
    if (totals.bytes > MAX_KEPT_STATE_BYTES) return this.#tooLarge();
    const next = { ...head, ...at, ...totals };
    puts.push(headEntry(next));
    const made = this.#made.madeBefore(at);
    deletes.push(...made.ranges);
    if (await this.#keeper.store.write({ deletes, puts }) === undefined) return false;
    made.deleted();
    this.#head = next;
    return true;
  }

  #newCopy(): number {
    const [high, low] = this.#runtime.getRandomValues(new Uint32Array(2));
    return (high! >>> 11) * 2 ** 32 + low!;
  }
}

function add(totals: Totals, mark: number, { value }: StoreEntry): void {
  totals.count++;
  totals.sum = (totals.sum + mark) >>> 0;
  totals.bytes += value.byteLength;
}

/** The names of the locks of all copies in a store. */
export async function rowLocks(store: RowsKeeper["store"]): Promise<string[]> {
  const locks: string[] = [];
  for await (const { key } of entriesIn(store, rangeOf(keyIn("rows", 0)))) {
    const [, copy] = partsOf(key, ["number", "number"]) ?? [];
    if (typeof copy === "number") locks.push(lockOf({ copy }));
  }
  return locks;
}

function lockOf({ copy }: Pick<Head, "copy">): string {
  return `skein-rows-${copy}`;
}

function rangesOf({ copy }: Pick<Head, "copy">): StoreRange[] {
  const key = keyIn("rows", 0, copy);
  return [only(key), rangeOf(keyIn("rows", 1, copy))];
}

function headEntry({ copy, ...head }: Head): StoreEntry {
  return { key: keyIn("rows", 0, copy), value: ENCODER.encode(JSON.stringify(head)) };
}

function headOf(copy: number, value: Uint8Array): Head | undefined {
  const { id, offset, tag, contract, ephemeral, at, count, sum, bytes } = Object(jsonIn(value));
  if (!isName(id) || !isName(tag) || contract !== undefined && !isCount(contract)) return undefined;
  if (!isCount(offset) || !isCount(at) || !isCount(count)) return undefined;
  if (!isCount(sum) || !isCount(bytes)) return undefined;
  const areNames = (names: unknown) =>
    Array.isArray(names) && names.length <= MAX_KEPT_NAMES && names.every(isName);
  if (ephemeral !== undefined && !areNames(ephemeral)) return undefined;
  return { offset, tag, ephemeral, at, count, sum, bytes, id, contract, copy };
}

function entryOf(
  copy: number,
  type: string,
  { key, version, value }: {
    readonly key: string;
    readonly version: number;
    readonly value: unknown;
  },
): StoreEntry {
  const text = JSON.stringify([type, key, version, value]);
  return {
    key: keyIn("rows", 1, copy, placeOf(rowName(type, key))),
    value: ENCODER.encode(text),
  };
}

function rowIn(bytes: Uint8Array): KeptRow | undefined {
  const row = jsonIn(bytes);
  if (!Array.isArray(row) || row.length !== 4) return undefined;
  const [type, key, version, value] = row as unknown[];
  if (typeof type !== "string" || typeof key !== "string") return undefined;
  if (type === "" || type.startsWith(HIDDEN_PREFIX) || type.length > MAX_ROW_NAME_BYTES) {
    return undefined;
  }
  if (key.length > MAX_ROW_NAME_BYTES) return undefined;
  if (!Number.isSafeInteger(version) || Number(version) <= 0) return undefined;
  return { type, key, version: Number(version), value };
}

/** True for the name of a state, of a stream or of a part of a row. */
export function isName(name: unknown): name is string {
  return typeof name === "string" && name.length > 0 && name.length <= MAX_ROW_NAME_BYTES;
}

/** The number that a row adds to the sum of its copy. */
function markOf(
  type: string,
  { key, version }: { readonly key: string; readonly version: number },
): number {
  return hash32(`${rowName(type, key)}:${version}`);
}

/** The number of a row in its copy: 53 bits of a hash of its name. */
function placeOf(name: string): number {
  return (hash32(name) >>> 11) * 2 ** 32 + hash32(name, 0x9e3779b9);
}
