/** A store in memory with faults, for tests: slow, full, failing, killed, without power, damaged. */
import { StoreError } from "../../errors.ts";
import { compareBytes } from "../../base/bytes.ts";
import type {
  Durability,
  Store,
  StoreBatch,
  StoreEntry,
  StorePage,
  StoreRange,
  StoreReadOptions,
} from "./store.ts";
import { checkBatch, checkPageBounds, checkRange } from "./store_checks.ts";

/** One call of a store, for {@linkcode TestDisk.onOperation}. */
export interface DiskOperation {
  readonly kind: "read" | "write" | "delete";
  /** Number of the call on this disk, from 1. */
  readonly number: number;
  /** The batch of a write, or of a deletion. */
  readonly batch?: StoreBatch | undefined;
  /** The range of a read. */
  readonly range?: StoreRange | undefined;
}

/**
 * A disk that outlives the stores on it. Several stores may be open, as in several tabs.
 *
 * ```ts ignore
 * const disk = new TestDisk();
 * const store = disk.open();
 * disk.onOperation = async ({ kind }) => { if (kind === "write") await gate; }; // slow
 * disk.onOperation = () => { throw new StoreError("failed", "The disk broke"); }; // failing
 * disk.maxBytes = 100; // full
 * disk.losePower(2); // loses the last two writes; open stores hang, as in a page that is gone
 * ```
 */
export class TestDisk {
  /**
   * Runs before each operation takes effect. The operation waits for it; if it throws, the operation
   * rejects with its error and has no effect.
   */
  onOperation: ((operation: DiskOperation) => unknown) | undefined;
  /** Maximum bytes of all keys and values; a batch beyond rejects with the reason `full`. */
  maxBytes = Infinity;
  /** The durability of writes. Only `relaxed` writes are lost by {@linkcode losePower}. */
  durability: Durability = "relaxed";
  #entries: readonly StoreEntry[] = [];
  /** The entries before each relaxed write, the oldest first. */
  #before: (readonly StoreEntry[])[] = [];
  readonly #open = new Set<DiskStore>();
  #operations = 0;

  /** Opens a store on the disk. */
  open(): Store {
    const store = new DiskStore(this, () => this.#open.delete(store));
    this.#open.add(store);
    return store;
  }

  get openStores(): number {
    return this.#open.size;
  }

  /** Number of operations so far. */
  get operations(): number {
    return this.#operations;
  }

  /** All entries, in the order of their keys. A test may keep them and {@linkcode restore} them. */
  get entries(): readonly StoreEntry[] {
    return this.#entries;
  }

  /** Bytes of all keys and values. */
  get bytes(): number {
    return bytesOf(this.#entries);
  }

  /** Replaces all entries, for example by those of an older version of the program. */
  restore(entries: readonly StoreEntry[]): void {
    this.#before = [];
    this.#entries = entries.map(copyOf).sort((a, b) => compareBytes(a.key, b.key));
  }

  /** Puts or, without a value, removes an entry, without any check or fault. */
  put(key: Uint8Array, value?: Uint8Array): void {
    const others = this.#entries.filter((entry) => compareBytes(entry.key, key) !== 0);
    this.restore(value === undefined ? others : [...others, { key, value }]);
  }

  /** Kills the pages of all open stores: calls that wait neither take effect nor settle. */
  kill(): void {
    for (const store of this.#open) store.kill();
    this.#open.clear();
  }

  /**
   * Kills the pages, and loses the last relaxed writes.
   *
   * @param writes Number of the lost writes; by default, all since the last strict one.
   */
  losePower(writes = Infinity): void {
    this.kill();
    const lost = Math.min(writes, this.#before.length);
    if (lost > 0) this.#entries = this.#before.at(-lost)!;
    this.#before = [];
  }

  /** Applies an operation; called by the disk's stores. */
  async run<T>(
    operation: Omit<DiskOperation, "number">,
    apply: () => T | Promise<T>,
  ): Promise<T> {
    const numbered = { ...operation, number: ++this.#operations };
    await this.onOperation?.(numbered);
    return await apply();
  }

  /** Reads a page; called by the disk's stores. */
  page({ from, to }: StoreRange, options: StoreReadOptions = {}): StorePage {
    const { maxEntries, maxBytes } = checkPageBounds(options);
    const found: StoreEntry[] = [];
    let bytes = 0;
    for (const entry of this.#entries) {
      if (compareBytes(entry.key, from) < 0) continue;
      if (to !== undefined && compareBytes(entry.key, to) >= 0) break;
      bytes += bytesOf([entry]);
      const isBeyond = found.length === maxEntries || (found.length > 0 && bytes > maxBytes);
      if (isBeyond) return { entries: found, isComplete: false };
      found.push(copyOf(entry));
    }
    return { entries: found, isComplete: true };
  }

  /** Stores a batch; called by the disk's stores. */
  store({ deletes = [], puts = [] }: StoreBatch): Durability {
    const kept = this.#entries.filter(({ key }) =>
      !deletes.some(({ from, to }) =>
        compareBytes(key, from) >= 0 && (to === undefined || compareBytes(key, to) < 0)
      )
    );
    const put = new Map(puts.map((entry) => [entry.key.join(), entry]));
    const others = put.size === 0 ? kept : kept.filter(({ key }) => !put.has(key.join()));
    const next = [...others, ...[...put.values()].map(copyOf)];
    if (puts.length > 0 && bytesOf(next) > this.maxBytes) {
      throw new StoreError("full", "Cannot write to the store: the disk is full");
    }
    if (this.durability === "relaxed") this.#before.push(this.#entries);
    else this.#before = [];
    this.#entries = next.sort((a, b) => compareBytes(a.key, b.key));
    return this.durability;
  }
}

/** Calls of a killed page wait for this promise. */
const NEVER = new Promise<never>(() => {});

/** A store on a {@linkcode TestDisk}. */
class DiskStore implements Store {
  readonly name = "test disk";
  readonly #disk: TestDisk;
  readonly #closed: () => void;
  #last: Promise<unknown> = Promise.resolve();
  #state: "open" | "closed" | "killed" = "open";

  constructor(disk: TestDisk, closed: () => void) {
    this.#disk = disk;
    this.#closed = closed;
  }

  async read(range: StoreRange, options: StoreReadOptions = {}): Promise<StorePage> {
    checkRange(range, "read");
    checkPageBounds(options);
    options.signal?.throwIfAborted();
    const reading = this.#enqueue(
      { kind: "read", range },
      () => this.#disk.page(range, options),
    );
    return await untilAborted(reading, options.signal);
  }

  async write(batch: StoreBatch): Promise<Durability> {
    checkBatch(batch);
    return await this.#enqueue({ kind: "write", batch }, () => this.#disk.store(batch));
  }

  async delete(range: StoreRange): Promise<Durability> {
    checkRange(range, "delete");
    const batch = { deletes: [range] };
    return await this.#enqueue({ kind: "delete", batch }, () => this.#disk.store(batch));
  }

  async close(): Promise<void> {
    if (this.#state === "open") {
      this.#state = "closed";
      this.#last = this.#last.finally(this.#closed);
    }
    await this.#last;
  }

  kill(): void {
    this.#state = "killed";
  }

  get #isKilled(): boolean {
    return this.#state === "killed";
  }

  /** Runs operations one after another. Those of a killed page never settle. */
  async #enqueue<T>(operation: Omit<DiskOperation, "number">, apply: () => T): Promise<T> {
    if (this.#isKilled) return await NEVER;
    if (this.#state === "closed") {
      throw new StoreError("closed", `Cannot ${operation.kind}: the store is closed`);
    }
    const before = this.#last;
    const outcome = (async () => {
      await before;
      if (this.#isKilled) return await NEVER;
      try {
        return await this.#disk.run(operation, () => this.#isKilled ? NEVER : apply());
      } catch (error) {
        if (this.#isKilled) return await NEVER;
        throw error;
      }
    })();
    this.#last = outcome.then(() => {}, () => {});
    return await outcome;
  }
}

async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

function copyOf({ key, value }: StoreEntry): StoreEntry {
  return { key: key.slice(), value: value.slice() };
}

function bytesOf(entries: readonly StoreEntry[]): number {
  return entries.reduce((sum, { key, value }) => sum + key.byteLength + value.byteLength, 0);
}
