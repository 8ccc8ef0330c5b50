/** Keeps the writes of one state in the client's store until their outcome is known. */
import { RequestError } from "../../../errors.ts";
import { outside, type Runtime } from "../../../base/runtime.ts";
import { freezeRow, isSameRow } from "../../../session/rows/row_values.ts";
import { conflict, HIDDEN_PREFIX, MAX_CHANGES, rowName } from "../../../session/wire/rows.ts";
import type { KeptMutation, KeptRows, KeptSource, KeptWrite } from "../../state/keeping.ts";
import type { MutationCall } from "../../state/programs.ts";
import type { QueuedWrite, WriteChange } from "../../state/write.ts";
import type { DropReason, KeptKind, OutboxDrop } from "../dropped.ts";
import { keyIn, only, partsOf, rangeOf } from "../keys.ts";
import { hasLocks, holdLock, type LockHeld } from "../locks.ts";
import { entriesIn, isCount, jsonIn } from "../reading.ts";
import { isName, type MadeRanges, type MadeWrites, type RowsKeeper } from "./kept_rows.ts";
import type { StoreEntry } from "../store.ts";

const ENCODER = /* @__PURE__ */ new TextEncoder();

/** Time for which a write is kept, in milliseconds: 7 days, as long as servers know mutations again. */
export const MAX_KEPT_WRITES_AGE_MS = 604_800_000;

/** Maximum number of kept writes of all states. */
export const MAX_KEPT_WRITES = 10_000;

/** Maximum size of these writes in bytes. The oldest are dropped. */
export const MAX_KEPT_WRITES_BYTES = 16_777_216;

/**
 * Age of the newest write of another page after which it counts as gone where pages have no locks,
 * in milliseconds.
 */
const UNLOCKED_MS = 600_000;

/** The parts of a keeper that kept writes use. */
export interface WritesKeeper extends RowsKeeper {
  /** Tells that a write was dropped which no promise can tell about. */
  dropped(drop: OutboxDrop): void;
}

/** An entry of the store with a write. */
interface Entry {
  readonly key: Uint8Array;
  readonly page: string;
  readonly bytes: number;
  readonly id: string;
  readonly at: number;
  /** The write; without one, a transaction whose function could not be kept. */
  readonly write: KeptWrite | undefined;
  readonly kind: KeptKind;
  readonly isSent: boolean;
  /** The version at which the server has made it. */
  readonly made: number | undefined;
}

/** A write that the server has made. */
interface MadeWrite {
  readonly key: Uint8Array;
  readonly tag: string | undefined;
  readonly version: number;
  readonly changes: readonly WriteChange[];
}

/**
 * Keeps the writes of one state.
 *
 * Each opening of a state has a random name, under which its writes are numbered, and a lock of this
 * name. A page that gets the lock of another one takes over its writes, and leaves them under their
 * keys until their outcome is known.
 *
 * A write that the server has made stays until the rows are kept at its version, so that a page
 * which opens before shows it, and doesn't send it again.
 */
export class KeptStateWrites implements MadeWrites {
  readonly #keeper: WritesKeeper;
  readonly #source: KeptSource;
  readonly #runtime: Runtime;
  readonly #page: string;
  #count = 0;
  /** The keys of the writes in the store, by txid. */
  readonly #keys = new Map<string, Uint8Array>();
  /** The entries to store or, without a value, to delete, by txid. */
  readonly #due = new Map<
    string,
    StoreEntry | { readonly key: Uint8Array; readonly value?: undefined }
  >();
  /** The writes that the server has made, by txid. */
  readonly #made = new Map<string, MadeWrite>();
  #flushing: Promise<void> | undefined;
  /** The locks of this opening and of those whose writes it has taken over, by name. */
  readonly #locks = new Map<string, LockHeld>();
  /** The openings that still have their locks. */
  readonly #awaited = new Set<string>();
  #isEnded = false;

  constructor(keeper: WritesKeeper, source: KeptSource, runtime: Runtime) {
    this.#keeper = keeper;
    this.#source = source;
    this.#runtime = runtime;
    this.#page = runtime.getRandomValues(new Uint32Array(4)).reduce(
      (name, part) => name + part.toString(36).padStart(7, "0"),
      "",
    );
  }

  /** Takes over the writes of pages that are gone. */
  async open(): Promise<KeptWrite[]> {
    const own = await outside(this.#runtime, holdLock(lockOf(this.#page)));
    if (own !== undefined) this.#setLock(this.#page, own);
    return await this.adopt();
  }

  /** Takes over the writes of pages that have gone since. */
  async adopt(): Promise<KeptWrite[]> {
    const writes: KeptWrite[] = [];
    for (const [page, entries] of this.#pagesOf(await this.#entries())) {
      if (this.#locks.has(page) || this.#isEnded) continue;
      const isGone = this.#keeper.store.isExclusive || hasLocks() ||
        entries.at(-1)!.at < this.#runtime.now() - UNLOCKED_MS;
      if (!isGone) continue;
      const lock = await outside(this.#runtime, holdLock(lockOf(page)));
      if (lock !== undefined) writes.push(...await this.#take(page, lock));
      else void this.#await(page);
    }
    return writes;
  }

  #setLock(page: string, lock: LockHeld): void {
    if (this.#isEnded) return lock.release();
    this.#locks.set(page, lock);
    void lock.stolen?.then(async () => {
      // Another page has called `forget()`.
      if (this.#isEnded) return;
      this.#source.cancel();
      const again = await holdLock(lockOf(page), this.#source.signal);
      if (again === undefined) return;
      if (this.#isEnded) again.release();
      else this.#setLock(page, again);
    });
  }

  /** Rejects the writes that wait, and deletes them. */
  async erase(): Promise<void> {
    this.#source.cancel();
    await this.flush();
    await this.deleteMade();
  }

  /** The names of the locks that this page has. */
  get locks(): readonly string[] {
    return [...this.#locks.keys()].map(lockOf);
  }

  async #await(page: string): Promise<void> {
    if (this.#awaited.has(page)) return;
    this.#awaited.add(page);
    const lock = await holdLock(lockOf(page), this.#source.signal);
    this.#awaited.delete(page);
    if (lock === undefined) return;
    if (this.#isEnded) return lock.release();
    this.#source.restore(await this.#take(page, lock));
  }

  /** Takes over the writes of a page whose lock this one has. */
  async #take(page: string, lock: LockHeld): Promise<KeptWrite[]> {
    this.#setLock(page, lock);
    const writes: KeptWrite[] = [];
    const lost: Entry[] = [];
    for (const entry of this.#pagesOf(await this.#entries(page)).get(page) ?? []) {
      const { write, key, made } = entry;
      if (write === undefined) lost.push(entry);
      else if (made !== undefined) {
        const { txid, tag, changes } = write;
        this.#made.set(txid, { key, tag, version: made, changes });
      } else {
        this.#keys.set(write.txid, key);
        writes.push(write);
      }
    }
    await this.#drop(lost, (entry) => entry.isSent ? "unknown" : "function");
    return writes;
  }

  #pagesOf(entries: readonly Entry[]): Map<string, Entry[]> {
    const own = entries.filter(({ id }) => id === this.#source.id);
    const pages = Map.groupBy(own, ({ page }) => page);
    return new Map([...pages].sort(([, [a]], [, [b]]) => a!.at - b!.at));
  }

  /** Reads the writes in the store, and removes those that can't be made any more. */
  async #entries(page?: string): Promise<Entry[]> {
    const range = rangeOf(page === undefined ? keyIn("writes") : keyIn("writes", page));
    const entries: Entry[] = [];
    const damaged: StoreEntry[] = [];
    for await (const one of entriesIn(this.#keeper.store, range)) {
      const entry = entryIn(one);
      if (entry === undefined) damaged.push(one);
      else if (entries.push(entry) > 2 * MAX_KEPT_WRITES) break;
    }
    if (damaged.length > 0) {
      await this.#keeper.store.write({ deletes: damaged.map(({ key }) => only(key)) });
      for (const _ of damaged) {
        this.#keeper.dropped({ kind: undefined, topic: undefined, reason: "damaged" });
      }
    }
    const oldest = this.#runtime.now() - MAX_KEPT_WRITES_AGE_MS;
    const late = entries.filter(({ at }) => at < oldest);
    await this.#drop(late, ({ isSent }) => isSent ? "unknown" : "expired");
    const kept = entries.filter(({ at }) => at >= oldest).sort((a, b) => b.at - a.at);
    let [room, left] = [MAX_KEPT_WRITES_BYTES, MAX_KEPT_WRITES];
    const isBeyond = ({ bytes }: Entry) => (room -= bytes) < 0 || left-- <= 0;
    const beyond = new Set(kept.filter(isBeyond));
    await this.#drop([...beyond], ({ isSent }) => isSent ? "unknown" : "full");
    return entries.filter((entry) => entry.at >= oldest && !beyond.has(entry));
  }

  async #drop(
    entries: readonly Entry[],
    reasonOf: (entry: Entry) => DropReason,
  ): Promise<void> {
    if (entries.length === 0) return;
    await this.#keeper.store.write({ deletes: entries.map(({ key }) => only(key)) });
    for (const entry of entries) {
      const { kind, id: topic, at: calledAt, write, made } = entry;
      if (made !== undefined) continue;
      const data = write && dataOf(write);
      this.#keeper.dropped({ kind, topic, reason: reasonOf(entry), data, calledAt });
    }
  }

  /** Keeps a write as it is now. */
  put(write: QueuedWrite): void {
    if (this.#isEnded) return;
    const { txid } = write;
    const key = this.#keys.get(txid) ?? keyIn("writes", this.#page, ++this.#count);
    this.#keys.set(txid, key);
    const value = encode(write, this.#source, this.#runtime.now());
    this.#due.set(txid, { key, value: ENCODER.encode(JSON.stringify(value)) });
    void this.flush();
  }

  /** Keeps writes as they are sent. */
  async sending(writes: readonly QueuedWrite[]): Promise<void> {
    for (const write of writes) this.put(write);
    await this.flush();
  }

  /**
   * Notes that the server has made a write.
   *
   * @param version The version of its rows.
   */
  made(write: QueuedWrite, version: number): void {
    const { txid, changes, program, isKept } = write;
    const key = this.#keys.get(txid);
    if (key === undefined || this.#isEnded) return;
    if (changes.length === 0 && !isKept) return this.drop(write);
    this.#keys.delete(txid);
    this.#made.set(txid, { key, tag: this.#source.tag, version, changes });
    // The server recognizes a mutation that is sent again.
    if (program?.of.mutation !== undefined) return;
    const value = encodeMade(write, this.#source, { at: this.#runtime.now(), made: version });
    this.#due.set(txid, { key, value: ENCODER.encode(JSON.stringify(value)) });
    void this.flush();
  }

  /** Adds the changes to rows that were made after these were kept. */
  completed(kept: KeptRows): KeptRows {
    const { offset, tag } = kept.position;
    const later = [...this.#made.values()]
      .filter((made) => made.tag === tag && made.version > offset)
      .sort((a, b) => a.version - b.version);
    if (later.length === 0) return kept;
    const rows = new Map(kept.rows.map((row) => [rowName(row.type, row.key), row]));
    for (const { changes, version } of later) {
      for (const { type, key, value } of changes) {
        if (value === undefined) rows.delete(rowName(type, key));
        else rows.set(rowName(type, key), { type, key, value, version });
      }
    }
    return { ...kept, rows: [...rows.values()] };
  }

  madeBefore(position?: { readonly offset: number; readonly tag: string }): MadeRanges {
    const made = [...this.#made].filter(([txid, { tag, version }]) =>
      // The rows of another stream have replaced them.
      position === undefined || !this.#due.has(txid) &&
        (tag !== position.tag || version <= position.offset)
    );
    return {
      ranges: made.map(([, { key }]) => only(key)),
      deleted: () => {
        for (const [txid] of made) this.#made.delete(txid);
      },
    };
  }

  get hasMade(): boolean {
    return this.#made.size > 0;
  }

  async deleteMade(position?: { readonly offset: number; readonly tag: string }): Promise<void> {
    if (!this.hasMade || this.#isEnded) return;
    await this.flush();
    const { ranges, deleted } = this.madeBefore(position);
    if (ranges.length === 0) return;
    if (await this.#keeper.store.write({ deletes: ranges }) !== undefined) deleted();
  }

  /** Deletes a write whose outcome is known. */
  drop(write: QueuedWrite, reason?: unknown): void {
    const { txid } = write;
    const key = this.#keys.get(txid);
    if (key === undefined || this.#isEnded) return;
    this.#keys.delete(txid);
    this.#due.set(txid, { key });
    void this.flush();
    if (reason === undefined || !write.isRestored) return;
    const isUnknown = reason instanceof RequestError && reason.failure.code === "unknown";
    this.#keeper.dropped({
      kind: kindOf(write),
      topic: this.#source.id,
      reason: isUnknown ? "unknown" : "rejected",
      data: dataOf({ changes: write.changes, mutation: write.program?.of.mutation }),
      error: reason instanceof RequestError ? reason : undefined,
    });
  }

  /** True if nothing is due. */
  get isStored(): boolean {
    return this.#due.size === 0;
  }

  /** Stores what is due. Resolves once it is stored, or the store has failed. */
  flush(): Promise<void> {
    return this.#flushing ??= this.#store().finally(() => this.#flushing = undefined);
  }

  async #store(): Promise<void> {
    // Writes of one turn are stored together.
    await Promise.resolve();
    while (this.#due.size > 0) {
      const due = [...this.#due];
      this.#due.clear();
      const puts = due.flatMap(([, { key, value }]) => value ? [{ key, value }] : []);
      const deletes = due.flatMap(([, { key, value }]) => value ? [] : [only(key)]);
      if (await this.#keeper.store.write({ puts, deletes }) !== undefined) continue;
      // The store has no room for now. It may have some at the next change.
      for (const [txid, entry] of due) if (!this.#due.has(txid)) this.#due.set(txid, entry);
      return;
    }
  }

  /** Keeps what is due, and leaves the writes to other pages. */
  async close(): Promise<void> {
    await Promise.resolve();
    await this.flush();
    this.end();
  }

  /** Keeps nothing more. */
  end(): void {
    this.#isEnded = true;
    for (const lock of this.#locks.values()) lock.release();
    this.#locks.clear();
  }
}

/** The call of a write, for the application. */
function dataOf(
  { changes, mutation }: {
    readonly changes: readonly WriteChange[];
    readonly mutation?: MutationCall | undefined;
  },
): unknown {
  if (mutation !== undefined) return { name: mutation.name, input: mutation.input };
  return changes.map(({ type, key, value }) => ({ collection: type, key, value }));
}

function kindOf({ program, update, changes, isTransaction }: QueuedWrite): KeptKind {
  if (program?.of.mutation !== undefined) return "mutation";
  if (program !== undefined || isTransaction) return "transaction";
  if (update !== undefined) return "update";
  return changes[0]?.value === undefined ? "delete" : "set";
}

function encode(write: QueuedWrite, { id, tag }: KeptSource, at: number): object {
  const { txid, program, isTransaction, isKept, state } = write;
  const of = { id, at, kind: kindOf(write), sent: state !== "new" || undefined };
  if (!isKept) return of;
  const { mutation } = program?.of ?? {};
  if (mutation !== undefined) {
    const { client, number, sentAt } = program!;
    return { ...of, txid, tag, mutation: { ...mutation, client, number, sentAt } };
  }
  return { ...of, txid, tag, isTransaction, changes: write.changes };
}

function encodeMade(
  write: QueuedWrite,
  { id, tag }: KeptSource,
  made: { readonly at: number; readonly made: number },
): object {
  const { txid, changes } = write;
  return { ...made, id, kind: kindOf(write), sent: true, txid, tag, changes };
}

function entryIn({ key, value }: StoreEntry): Entry | undefined {
  const [page] = partsOf(key, ["text", "number"]) as [string, number] | undefined ?? [];
  if (page === undefined) return undefined;
  const { id, at, kind, sent, txid, tag, changes, mutation, isTransaction, made } = Object(
    jsonIn(value),
  );
  if (!isName(id) || !isCount(at) || !KINDS.has(kind)) return undefined;
  if (made !== undefined && !(isCount(made) && isName(tag))) return undefined;
  const of = { key, page, bytes: value.byteLength, id, at, kind, isSent: sent === true, made };
  if (txid === undefined) return { ...of, write: undefined };
  if (!isName(txid) || tag !== undefined && !isName(tag)) return undefined;
  const isMutation = kind === "mutation";
  if (isMutation ? !isMutationCall(mutation) : !areChanges(changes)) return undefined;
  const isUpdate = kind === "update" && made === undefined;
  if (isUpdate && (changes.length > 1 || changes[0].base === undefined)) return undefined;
  const write: KeptWrite = {
    txid,
    page,
    tag,
    isSent: of.isSent,
    isTransaction: isMutation || isTransaction === true || undefined,
    changes: isMutation ? [] : changes.map(changeOf),
    update: isUpdate ? updateOf(changes[0]) : undefined,
    mutation: isMutation ? mutationOf(mutation) : undefined,
  };
  return { ...of, write };
}

const KINDS: ReadonlySet<unknown> = new Set(["delete", "mutation", "set", "transaction", "update"]);

function areChanges(changes: unknown): changes is readonly WriteChange[] {
  return Array.isArray(changes) && changes.length > 0 && changes.length <= MAX_CHANGES &&
    changes.every((change) => {
      const { type, key, seen, since, expect, ttlMs } = Object(change);
      const isOptional = (value: unknown) => value === undefined || isCount(value);
      return isName(type) && !type.startsWith(HIDDEN_PREFIX) && isName(key) &&
        Number.isSafeInteger(seen) && seen >= -1 && isOptional(since) && isOptional(expect) &&
        isOptional(ttlMs);
    });
}

function changeOf({ value, base, ...change }: WriteChange): WriteChange {
  const { type, key, ttlMs, expect, seen, since } = change;
  const values = { value: freezeRow(value), base: freezeRow(base) };
  return { type, key, ...values, ttlMs, expect, seen, since };
}

/**
 * Returns a function in place of the one that an earlier page has passed to `update`. The same value
 * may be that of a write before this one, or of another version.
 */
function updateOf({ base, value, ...row }: WriteChange): (present: unknown) => unknown {
  return (present) => {
    if (isSameRow(present, base)) return value;
    throw conflict(row, "has changed since the call of update");
  };
}

function isMutationCall(mutation: unknown): mutation is KeptMutation {
  const { name, client, number, sentAt } = Object(mutation);
  return isName(name) && typeof client === "string" && /^[\w-]{8,32}$/.test(client) &&
    isCount(number) && number > 0 && isCount(sentAt);
}

function mutationOf({ name, input, client, number, sentAt }: KeptMutation): KeptMutation {
  return { name, input: freezeRow(input), client, number, sentAt };
}

/** The names of the locks of all pages that have writes in a store. */
export async function writeLocks(store: RowsKeeper["store"]): Promise<string[]> {
  const pages = new Set<string>();
  for await (const { key } of entriesIn(store, rangeOf(keyIn("writes")))) {
    const [page] = partsOf(key, ["text", "number"]) ?? [];
    if (typeof page === "string") pages.add(page);
  }
  return Array.from(pages, lockOf);
}

function lockOf(page: string): string {
  return `skein-writes-${page}`;
}
