/** The page of the tests of stores: the conformance suite, and calls for faults. */
import { platformRuntime } from "../../../base/runtime.ts";
import { IndexedDbStore } from "../../../client/store/indexeddb.ts";
import type { Store } from "../../../client/store/store.ts";
import {
  checkAfterKill,
  testStore,
  writeUntilKilled,
} from "../../../client/store/conformance/mod.ts";

declare global {
  var storePage: StorePage;
}

/** The calls of a test. */
export interface StorePage {
  /** Number of the last batch that `writeForever` has written. */
  written: number;
  /** Runs the conformance suite; resolves with the names and errors of its tests. */
  conform(): Promise<[name: string, error: string | null][]>;
  /** Writes batches until the page is gone. */
  writeForever(): void;
  /** Checks the last batch of a page that is gone. */
  checkAfterKill(written: number): Promise<number>;
  /** Writes an entry of a size; resolves with the durability, or the error's reason and message. */
  write(key: number, bytes?: number): Promise<string>;
  /** Returns the keys, or the error's reason. */
  keys(): Promise<number[] | string>;
  remove(): Promise<string>;
  /** Deletes the database; resolves with the name of the event. */
  deleteDatabase(): Promise<string>;
  /** Writes rows of 200 bytes, then reads them. */
  measure(rows: number): Promise<Measured>;
}

/** The measurement of a store, in milliseconds and bytes. */
export interface Measured {
  readonly writeMs: number;
  readonly firstPageMs: number;
  readonly allMs: number;
  readonly usageBytes: number;
}

const NAME = "store page";
const SETTINGS = { durability: "relaxed", runtime: platformRuntime() } as const;

/** The part of the page's globals in use here. */
const page = globalThis as unknown as {
  readonly indexedDB: {
    deleteDatabase(name: string): Record<"onsuccess" | "onblocked" | "onerror", () => void>;
  };
  readonly navigator: { readonly storage: { estimate(): Promise<{ usage: number }> } };
};

const store: Store = new IndexedDbStore(NAME, SETTINGS);

async function outcome<T>(call: Promise<T>): Promise<T | string> {
  try {
    return await call;
  } catch (error) {
    const { reason, message } = error as { reason?: string; message: string };
    return `${reason}: ${message}`;
  }
}

globalThis.storePage = {
  written: 0,
  async conform() {
    const tests: [string, () => Promise<void>][] = [];
    testStore("IndexedDB", (storage) => new IndexedDbStore(storage, SETTINGS), {
      test: (name, run) => tests.push([name, run]),
      remove: (storage) => void page.indexedDB.deleteDatabase(storage),
    });
    const results: [string, string | null][] = [];
    for (const [name, run] of tests) {
      results.push([name, await run().then(() => null, (error) => String(error))]);
    }
    return results;
  },
  writeForever() {
    void writeUntilKilled(store, (number) => void (this.written = number));
  },
  checkAfterKill: (written) => checkAfterKill(store, written),
  write: (key, bytes = 1) =>
    outcome(store.write({
      puts: [{
        key: Uint8Array.of(key),
        value: crypto.getRandomValues(new Uint8Array(65_536)).slice(0, bytes),
      }],
    })),
  async keys() {
    const read = store.read({ from: new Uint8Array() });
    return await outcome(read.then(({ entries }) => entries.map(({ key }) => key[0]!)));
  },
  remove: () => outcome(store.delete({ from: new Uint8Array() })),
  deleteDatabase() {
    const request = page.indexedDB.deleteDatabase(NAME);
    return new Promise((resolve) => {
      request.onsuccess = () => resolve("success");
      request.onerror = () => resolve("error");
      request.onblocked = () => resolve("blocked");
    });
  },
  async measure(rows) {
    const keyOf = (i: number) => Uint8Array.of(1, i >> 16, i >> 8, i);
    const startMs = performance.now();
    for (let i = 0; i < rows; i += 1_000) {
      const puts = Array.from({ length: Math.min(1_000, rows - i) }, (_, j) => ({
        key: keyOf(i + j),
        value: crypto.getRandomValues(new Uint8Array(200)),
      }));
      await store.write({ puts });
    }
    const writeMs = performance.now() - startMs;
    await store.close();
    const reopened = new IndexedDbStore(NAME, SETTINGS);
    const openMs = performance.now();
    let firstPageMs: number | undefined;
    let count = 0;
    for (let from = Uint8Array.of();;) {
      const { entries, isComplete } = await reopened.read({ from });
      firstPageMs ??= performance.now() - openMs;
      count += entries.length;
      if (isComplete) break;
      from = Uint8Array.of(...entries.at(-1)!.key, 0);
    }
    const allMs = performance.now() - openMs;
    if (count !== rows) throw new Error(`Expected ${rows} rows, found ${count}`);
    await reopened.close();
    const { usage } = await page.navigator.storage.estimate();
    return { writeMs, firstPageMs, allMs, usageBytes: usage };
  },
};
