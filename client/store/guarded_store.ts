/** A client's store, whose failures never stop the client. */
import { StoreError, TimeoutError } from "../../errors.ts";
import { report, type SessionSettings } from "../../session/settings/settings.ts";
import { textOf } from "../../base/error_text.ts";
import { within } from "../../base/wait.ts";
import type {
  Durability,
  Store,
  StoreBatch,
  StorePage,
  StoreRange,
  StoreReadOptions,
} from "./store.ts";

/**
 * The longest wait for a store, in milliseconds. After that, the client goes on as if the store had
 * failed.
 */
export const MAX_STORE_WAIT_MS = 5_000;

/** A timer that is later than this tells that the device slept, in milliseconds. */
const LATE_MS = 1_000;

/**
 * A store that the parts of one client share.
 *
 * - **Failed or slow:** no later call reaches the store, and the client goes on in memory.
 * - **Full:** the batch isn't stored. Later batches are tried, because they may be smaller.
 *
 * The client reports each kind of problem once.
 */
export class GuardedStore {
  readonly #store: Store;
  readonly #settings: SessionSettings;
  readonly #told = new Set<string>();
  /** Why the store isn't used any more. */
  error: StoreError | undefined;

  constructor(store: Store, settings: SessionSettings) {
    this.#store = store;
    this.#settings = settings;
  }

  /** True if no other page or process can have the store open. */
  get isExclusive(): boolean {
    return this.#store.isExclusive === true;
  }

  /** Reads a page. Returns `undefined` if the store has failed. */
  read(range: StoreRange, options?: StoreReadOptions): Promise<StorePage | undefined> {
    return this.#guarded(() => this.#store.read(range, options));
  }

  /** Writes a batch. Returns `undefined` if it isn't stored. */
  write(batch: StoreBatch): Promise<Durability | undefined> {
    return this.#guarded(() => this.#store.write(batch));
  }

  /** Closes the store after the calls that were made before. */
  async close(): Promise<void> {
    await this.#guarded(() => this.#store.close());
  }

  /** Tells the application about a problem, once for each kind of problem. */
  tell(kind: string, error: Error): void {
    if (this.#told.has(kind)) return;
    this.#told.add(kind);
    const { handlers, console } = this.#settings;
    if (handlers.onError) report(this.#settings, error);
    else console.tell("store", error.message, { about: kind });
  }

  async #guarded<T>(call: () => Promise<T>): Promise<T | undefined> {
    if (this.error !== undefined) return undefined;
    try {
      return await this.#inTime(call());
    } catch (cause) {
      const reason = cause instanceof StoreError ? cause.reason : "failed";
      const advice = reason === "closed" ? "; create a store for each client" : "";
      const message =
        `The store (${this.#store.name}) can't keep data now (${reason}), so it is only in memory: ` +
        `${textOf(cause)}${advice}`;
      const error = new StoreError(reason, message, { cause });
      if (reason !== "full") this.error = error;
      this.tell(reason === "full" ? reason : "failed", error);
      return undefined;
    }
  }

  /** Waits for the store. The time in which the device slept doesn't count. */
  async #inTime<T>(result: Promise<T>): Promise<T> {
    const { runtime } = this.#settings;
    for (;;) {
      const askedAt = runtime.now();
      try {
        return await within(runtime, result, { timeoutMs: MAX_STORE_WAIT_MS });
      } catch (error) {
        const waitedMs = runtime.now() - askedAt;
        if (!(error instanceof TimeoutError) || waitedMs <= MAX_STORE_WAIT_MS + LATE_MS) {
          throw error;
        }
      }
    }
  }
}
