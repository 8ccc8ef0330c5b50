import { assertEquals } from "@std/assert";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import { turns } from "../../tests/waiting.ts";
import { GuardedStore, MAX_STORE_WAIT_MS } from "./guarded_store.ts";
import type { Store, StorePage } from "./store.ts";

/** A store that reads for as long as a test wants, and a clock that the test sets. */
class SlowStore implements Disposable {
  now = 1_000_000;
  readonly reading = Promise.withResolvers<StorePage>();
  readonly errors: unknown[] = [];
  readonly guarded: GuardedStore;
  #expire = () => {};

  constructor() {
    const platform = platformRuntime();
    const runtime: Runtime = Object.assign(platform, {
      now: () => this.now,
      setTimeout: (expire: () => void): Timer => {
        this.#expire = expire;
        return undefined as never;
      },
      clearTimeout() {},
    });
    const handlers = { onError: (error: unknown) => void this.errors.push(String(error)) };
    this.guarded = new GuardedStore(
      { name: "slow", read: () => this.reading.promise } as Partial<Store> as Store,
      { runtime, handlers } as Partial<SessionSettings> as SessionSettings,
    );
  }

  /** Lets the timer of the wait expire. */
  async expire(): Promise<void> {
    this.#expire();
    await turns(3);
  }

  [Symbol.dispose](): void {
    this.reading.resolve({ entries: [], isComplete: true });
  }
}

Deno.test("GuardedStore gives up a store that is slow, and tells once", async () => {
  using slow = new SlowStore();
  const read = slow.guarded.read({ from: new Uint8Array() });
  slow.now += MAX_STORE_WAIT_MS;
  await slow.expire();
  assertEquals(await read, undefined);
  assertEquals(await slow.guarded.read({ from: new Uint8Array() }), undefined);
  assertEquals(slow.errors, [
    "StoreError: The store (slow) can't keep data now (failed), so it is only in memory: " +
    "No result within 5000 ms",
  ]);
});

Deno.test("GuardedStore does not count the time in which the device slept", async () => {
  using slow = new SlowStore();
  const read = slow.guarded.read({ from: new Uint8Array() });
  slow.now += 3_600_000;
  await slow.expire();
  slow.reading.resolve({ entries: [], isComplete: true });
  assertEquals(await read, { entries: [], isComplete: true });
  assertEquals(slow.errors, []);
});
