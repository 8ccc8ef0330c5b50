/** The conformance suite of stores. It needs no Deno, so that it runs in pages as well. */
import { platformRuntime } from "../../../base/runtime.ts";
import { StoreError } from "../../../errors.ts";
import type { Store, StoreEntry, StoreRange } from "../store.ts";
import { checkMatches, Model } from "./model.ts";

/** Registers a test; `Deno.test`, and `test` of Vitest, Jest or `node:test`, have this form. */
export type RegisterTest = (name: string, run: () => Promise<void>) => unknown;

/** Options of {@linkcode testStore}. */
export interface StoreTestOptions {
  /**
   * Registers a test.
   *
   * @default {Deno.test}
   */
  readonly test?: RegisterTest | undefined;
  /**
   * Removes the storage of a name after a test. All its stores are closed.
   *
   * @param storage The name.
   */
  readonly remove?: ((storage: string) => void | Promise<void>) | undefined;
}

/** Opens a store of a test. */
type Open = (storage?: string) => Promise<Store>;

type Test = (open: Open) => Promise<void>;

const ALL: StoreRange = { from: bytes() };

const TESTS: Readonly<Record<string, Test>> = {
  "keeps what was written for the next store of the same name": async (open) => {
    const store = await open();
    await store.write({ puts: [entry([1], [10, 20]), entry([2], [])] });
    same(await all(store), [[[1], [10, 20]], [[2], []]], "the entries");
    await store.close();
    const next = await open();
    same(await all(next), [[[1], [10, 20]], [[2], []]], "the entries of the next store");
    same(await all(await open("other")), [], "the entries of another name");
  },

  "returns what a write survives": async (open) => {
    const store = await open();
    const results = [
      await store.write({ puts: [entry([1], [1])] }),
      await store.write({}),
      await store.delete(ALL),
    ];
    for (const found of results) {
      same(["memory", "relaxed", "strict"].includes(found), true, `the durability ${found}`);
    }
  },

  "orders keys by their bytes, the beginning of a key first": async (open) => {
    const store = await open();
    const sorted = [[0], [0, 0], [0, 1], [1], [1, 0], [127], [128], [254, 255], [255], [255, 0]];
    await store.write({ puts: sorted.toReversed().map((key) => entry(key, [7])) });
    same(await keys(store), sorted, "the keys");
  },

  "reads and deletes from the start of a range up to its end": async (open) => {
    const store = await open();
    await store.write({ puts: [[1], [2], [2, 0], [3], [255]].map((key) => entry(key, key)) });
    const range = (from: number[], to?: number[]): StoreRange => ({
      from: bytes(...from),
      ...to && { to: bytes(...to) },
    });
    same(await keys(store, range([2], [3])), [[2], [2, 0]], "the range [2, 3)");
    same(await keys(store, range([2, 0], [255])), [[2, 0], [3]], "the range [2 0, 255)");
    same(await keys(store, range([2, 1])), [[3], [255]], "the range [2 1, end)");
    same(await keys(store, range([], [2])), [[1]], "the range [start, 2)");
    for (const empty of [range([2], [2]), range([3], [2]), range([], []), range([255, 0])]) {
      same(await keys(store, empty), [], `the empty range [${empty.from}, ${empty.to})`);
      await store.delete(empty);
    }
    await store.delete(range([2], [3]));
    same(await keys(store), [[1], [3], [255]], "the keys after a deletion");
    await store.delete(range([3]));
    same(await keys(store), [[1]], "the keys after a deletion up to the end");
  },

  "bounds a page by entries and by bytes": async (open) => {
    const store = await open();
    const puts = Array.from(
      { length: 1_010 },
      (_, i) => entry([i >> 8, i & 255], Array(98).fill(1)),
    );
    await store.write({ puts });
    const page = async (options?: { maxEntries?: number; maxBytes?: number }) => {
      const { entries, isComplete } = await store.read(ALL, options);
      return [entries.length, isComplete];
    };
    same(await page(), [1_000, false], "a page without options");
    same(await page({ maxEntries: 3 }), [3, false], "a page of 3 entries");
    same(
      await page({ maxEntries: 1_010 }),
      [1_010, true],
      "a page of as many entries as there are",
    );
    same(await page({ maxEntries: 5_000 }), [1_010, true], "a page of more entries than there are");
    same(await page({ maxBytes: 1 }), [1, false], "a page of one byte");
    same(await page({ maxBytes: 1_000 }), [10, false], "a page of 1,000 bytes");
    same(await page({ maxBytes: 1_099 }), [10, false], "a page of 1,099 bytes");
    same(await page({ maxBytes: 50_000 }), [500, false], "a page of 50,000 bytes");
    const range = { from: bytes(0, 5), to: bytes(0, 7) };
    same((await store.read(range, { maxEntries: 2 })).isComplete, true, "the end of a range");
  },

  "reads all entries page by page": async (open) => {
    const store = await open();
    const puts = Array.from({ length: 700 }, (_, i) => entry([i >> 8, i & 255], Array(i).fill(i)));
    await store.write({ puts });
    const found: StoreEntry[] = [];
    for (let from = bytes();;) {
      const { entries, isComplete } = await store.read({ from }, { maxBytes: 20_000 });
      found.push(...entries);
      if (isComplete) break;
      from = bytes(...entries.at(-1)!.key, 0);
    }
    same(shown(found), shown(puts), "the entries of all pages");
  },

  "applies the deletions of a batch before its entries, the last of a key counts": async (open) => {
    const store = await open();
    await store.write({ puts: [entry([1], [1]), entry([2], [2])] });
    await store.write({
      deletes: [ALL],
      puts: [entry([2], [3]), entry([4], [4]), entry([2], [5])],
    });
    same(await all(store), [[[2], [5]], [[4], [4]]], "the entries");
  },

  "stores nothing of a batch with an empty or too long key": async (open) => {
    const store = await open();
    await store.write({ puts: [entry([1], [1])] });
    const invalid: readonly StoreEntry[] = [
      entry([], [1]),
      { key: new Uint8Array(2_049), value: bytes(1) },
    ];
    for (const [i, bad] of invalid.entries()) {
      const batch = { deletes: [ALL], puts: [entry([2], [2]), bad, entry([4], [4])] };
      const error = await errorOf(store.write(batch), `a batch with the invalid key ${i}`);
      const isOfArgument = error instanceof TypeError || error instanceof RangeError;
      same(isOfArgument, true, `a TypeError or RangeError in place of ${error}`);
    }
    same(await all(store), [[[1], [1]]], "the entries");
  },

  "runs operations in the order of the calls, also if the caller does not wait": async (open) => {
    const store = await open();
    const results = await Promise.all([
      store.write({ puts: [entry([1], [1]), entry([2], [2])] }),
      store.read(ALL),
      store.delete({ from: bytes(2) }),
      store.read(ALL),
      store.write({ puts: [entry([3], [3])] }),
      store.read(ALL),
    ]);
    const pages = results.filter((result) => typeof result === "object");
    const found = pages.map(({ entries }) => entries.map(({ key }) => [...key]));
    same(found, [[[1], [2]], [[1]], [[1], [3]]], "the keys of the reads");
  },

  "takes hundreds of calls at once": async (open) => {
    const store = await open();
    const numbers = Array.from({ length: 300 }, (_, i) => i);
    await Promise.all(
      numbers.map((i) => store.write({ puts: [entry([1, i >> 8, i & 255], [1])] })),
    );
    const pages = await Promise.all(
      numbers.map((i) => store.read({ from: bytes(1, i >> 8, i & 255) })),
    );
    same(pages.map(({ entries }) => entries.length), numbers.map((i) => 300 - i), "the counts");
  },

  "keeps large values, empty values and long keys": async (open) => {
    const store = await open();
    const large = new Uint8Array(4_194_304).map((_, i) => i * 31 + (i >> 8));
    const long = new Uint8Array(2_048).fill(255);
    await store.write({
      puts: [{ key: bytes(1), value: large }, entry([2], []), { key: long, value: bytes(3) }],
    });
    const first = await store.read(ALL);
    same([first.entries.length, first.isComplete], [1, false], "the page of the large value");
    same(equal(first.entries[0]!.value, large), true, "the bytes of the large value");
    const { entries } = await store.read({ from: bytes(2) });
    same(entries.map(({ value }) => [...value]), [[], [3]], "the other values");
    same(equal(entries[1]!.key, long), true, "the bytes of the long key");
  },

  "stores and returns arrays that no one else changes": async (open) => {
    const store = await open();
    const buffer = new Uint8Array(1_000_000).fill(9);
    const put = { key: buffer.subarray(10, 12), value: buffer.subarray(20, 23) };
    await store.write({ puts: [put] });
    same([...put.key, ...put.value], [9, 9, 9, 9, 9], "the caller's arrays");
    buffer.fill(1);
    const [found] = (await store.read(ALL)).entries;
    same([[...found!.key], [...found!.value]], [[9, 9], [9, 9, 9]], "the stored part");
    found!.key.fill(0);
    found!.value.fill(0);
    same(await all(store), [[[9, 9], [9, 9, 9]]], "the stored part after the reader's change");
  },

  "stores a batch of ten thousand entries, and deletes it": async (open) => {
    const store = await open();
    const puts = Array.from({ length: 10_000 }, (_, i) => entry([i >> 8, i & 255], [1]));
    await store.write({ puts });
    const { entries, isComplete } = await store.read(ALL, { maxEntries: 10_000 });
    same([entries.length, isComplete], [10_000, true], "the page");
    await store.write({ deletes: puts.map(({ key }) => ({ from: key, to: bytes(...key, 0) })) });
    same(await keys(store), [], "the keys after a batch of ten thousand deletions");
  },

  "agrees with a model over random batches": async (open) => {
    const model = new Model();
    for (let round = 0; round < 5; round++) {
      const store = await open();
      for (let i = 0; i < 30; i++) {
        const batch = model.next();
        if (i % 3 === 0) await store.write(batch);
        else void store.write(batch);
        const range = model.range();
        const options = { maxEntries: 1 + model.below(40), maxBytes: 1 + model.below(2_000) };
        checkMatches(await store.read(range, options), model.read(range, options));
      }
      await store.close();
    }
  },

  "stops a read by its signal": async (open) => {
    const store = await open();
    const reason = new Error("Stopped by the test");
    const options = { signal: AbortSignal.abort(reason) };
    same(await errorOf(store.read(ALL, options), "an aborted read"), reason, "the reason");
    same(
      (await store.read(ALL, { signal: new AbortController().signal })).isComplete,
      true,
      "a page",
    );
    const stop = new AbortController();
    const read = store.read(ALL, { signal: stop.signal }).then(() => undefined, (error) => error);
    stop.abort(reason);
    const error = await read;
    same(
      error === undefined || error === reason,
      true,
      `the page or the reason in place of ${error}`,
    );
  },

  "completes what was called before it closes, and rejects later calls": async (open) => {
    const store = await open();
    const write = store.write({ puts: [entry([1], [1])] });
    const read = store.read(ALL);
    const closed = [store.close(), store.close()];
    const late = [store.read(ALL), store.write({}), store.delete(ALL)];
    for (const call of late) {
      const error = await errorOf(call, "a call after close()");
      same(error instanceof StoreError && error.reason, "closed", `the reason of ${error}`);
    }
    await Promise.all([write, ...closed]);
    same((await read).entries.length, 1, "the entries of the last read");
    await store.close();
    same(await keys(await open()), [[1]], "the keys of the next store");
  },

  "closes before its first operation": async (open) => {
    const store = await open();
    await store.close();
    const error = await errorOf(store.write({ puts: [entry([1], [1])] }), "a write after close()");
    same(error instanceof StoreError && error.reason, "closed", `the reason of ${error}`);
    same(await keys(await open()), [], "the keys of the next store");
  },
};

/**
 * Registers the conformance suite of {@linkcode Store}, with one test for each rule of the interface
 * that can be observed in one process. It needs neither Deno nor a page.
 *
 * Test the remaining rules yourself: a call settles if the storage breaks or disappears, a full
 * storage rejects with the reason `full`, and a batch is all or nothing if the process is killed,
 * for which {@linkcode writeUntilKilled} and {@linkcode checkAfterKill} are the two halves.
 *
 * @example Testing your own store
 * ```ts ignore
 * import { testStore } from "@skein/skein/store/testing";
 * import { AppStore } from "./app_store.ts";
 *
 * testStore("AppStore", (storage) => new AppStore(storage));
 * ```
 *
 * @param name Name of the store, a prefix of the test names.
 * @param open Opens a store on the storage of a name, which is new for each test. If a storage is
 * opened again, it still has its entries. The suite closes the stores.
 * @param options See {@linkcode StoreTestOptions}.
 */
export function testStore(
  name: string,
  open: (storage: string) => Store | Promise<Store>,
  options: StoreTestOptions = {},
): void {
  const { test = (name, run) => Deno.test(name, run), remove } = options;
  for (const [what, run] of Object.entries(TESTS)) {
    test(`${name} ${what}`, () => runTest(run, open, remove));
  }
}

async function runTest(
  run: Test,
  open: (storage: string) => Store | Promise<Store>,
  remove: StoreTestOptions["remove"],
): Promise<void> {
  const id = `skein-test-${platformRuntime().randomUUID().slice(0, 8)}`;
  const stores: Store[] = [];
  const storages = new Set<string>();
  try {
    await run(async (storage = "") => {
      storages.add(id + storage);
      const store = await open(id + storage);
      stores.push(store);
      return store;
    });
  } finally {
    for (const store of stores) await store.close();
    for (const storage of storages) await remove?.(storage);
  }
}

/** Entries of the batches of {@linkcode writeUntilKilled}. */
const BATCH_ENTRIES = 200;

/** Bytes of each value, so that a batch is larger than the buffers of most storages. */
const BATCH_VALUE_BYTES = 2_000;

/**
 * Writes one batch after another, until the process is killed. Each batch replaces the one before.
 *
 * @param store A store whose process is about to be killed.
 * @param onWritten Called after each batch with its number, which grows by one. Tell it the process
 * that kills this one.
 */
export async function writeUntilKilled(
  store: Store,
  onWritten: (number: number) => void | Promise<void>,
): Promise<never> {
  const [newest] = (await store.read(ALL)).entries;
  for (let number = newest === undefined ? 1 : numberIn(newest.value) + 1;; number++) {
    const value = new Uint8Array(BATCH_VALUE_BYTES);
    new DataView(value.buffer).setUint32(0, number);
    // Half of the keys change with each batch, so a batch both replaces and deletes.
    const puts = Array.from(
      { length: BATCH_ENTRIES },
      (_, i) => ({ key: bytes(1, i >> 8, i & 255, i % 2 === 0 ? 0 : number % 2), value }),
    );
    await store.write({ deletes: [ALL], puts });
    await onWritten(number);
  }
}

/**
 * Checks, after the process that ran {@linkcode writeUntilKilled} was killed, that the store has all
 * of one batch and nothing of another.
 *
 * @param store The same storage, opened again.
 * @param written The number of the last batch that the killed process told.
 * @returns The number of the batch in the store: the last one, or a later one that was complete.
 * @throws {Error} If a batch was lost, or is incomplete.
 */
export async function checkAfterKill(store: Store, written: number): Promise<number> {
  const { entries } = await store.read(ALL, { maxEntries: 1_000, maxBytes: 16_777_216 });
  const numbers = [...new Set(entries.map(({ value }) => numberIn(value)))];
  if (entries.length === 0 && written === 0) return 0;
  same([entries.length, numbers.length], [BATCH_ENTRIES, 1], "entries, and batches they are of");
  const [number = 0] = numbers;
  if (number < written) throw new Error(`Expected batch ${written} or later, found ${number}`);
  return number;
}

function numberIn(value: Uint8Array): number {
  return new DataView(value.buffer, value.byteOffset, value.byteLength).getUint32(0);
}

function bytes(...values: readonly number[]): Uint8Array {
  return Uint8Array.from(values);
}

function entry(key: readonly number[], value: readonly number[]): StoreEntry {
  return { key: bytes(...key), value: bytes(...value) };
}

function shown(entries: readonly StoreEntry[]): number[][][] {
  return entries.map(({ key, value }) => [[...key], [...value]]);
}

async function all(store: Store): Promise<number[][][]> {
  return shown((await store.read(ALL)).entries);
}

async function keys(store: Store, range = ALL): Promise<number[][]> {
  return (await store.read(range)).entries.map(({ key }) => [...key]);
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, i) => byte === b[i]);
}

async function errorOf(call: Promise<unknown>, what: string): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error(`Expected ${what} to reject`);
}

function same(found: unknown, expected: unknown, what: string): void {
  if (found === expected) return;
  const [foundText, expectedText] = [found, expected].map((value) => JSON.stringify(value));
  if (foundText === expectedText && typeof found === typeof expected) return;
  throw new Error(`Expected ${what} to be ${expectedText}, found ${foundText}`);
}
