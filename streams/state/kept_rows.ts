/** Rows of states that transactions have iterated, kept for the next one. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";

/** Time for which the rows of a state are kept after the last transaction, in milliseconds. */
export const KEEP_MS = 10_000;

/** Maximum size of all rows that are kept, as the broker counts them, in bytes: 64 MiB. */
export const MAX_KEPT_BYTES = 67_108_864;

/** The rows of a state that are kept. */
interface Kept {
  readonly id: string;
  readonly bytes: number;
  readonly leave: () => void;
}

/**
 * Keeps rows, so that not each transaction reads all of them. They belong to no client: rows that are
 * dropped are read again. Beyond the maximum, those that were used longest ago are dropped.
 */
export class KeptRows {
  /** By id, the one that was used longest ago first; bounded by their bytes. */
  readonly #kept = new Map<string, Kept>();
  readonly #late: Deadlines<Kept>;
  #bytes = 0;
  #isClosed = false;

  constructor(runtime: Runtime) {
    this.#late = new Deadlines(runtime, KEEP_MS, (kept) => this.#drop(kept));
  }

  /**
   * Keeps the rows of a state.
   *
   * @param rows The size of the rows, and the function that stops using them.
   */
  add(id: string, { bytes, leave }: Omit<Kept, "id">): void {
    if (this.#isClosed || bytes > MAX_KEPT_BYTES) return leave();
    const before = this.#kept.get(id);
    const kept: Kept = { id, bytes, leave };
    this.#kept.delete(id);
    this.#kept.set(id, kept);
    this.#late.add(kept);
    this.#bytes += bytes;
    if (before !== undefined) this.#end(before);
    for (const oldest of this.#kept.values()) {
      if (this.#bytes <= MAX_KEPT_BYTES) break;
      this.#drop(oldest);
    }
  }

  /** Drops all rows. */
  close(): void {
    this.#isClosed = true;
    for (const kept of this.#kept.values()) this.#drop(kept);
    this.#late.clear();
  }

  #drop(kept: Kept): void {
    if (this.#kept.get(kept.id) === kept) this.#kept.delete(kept.id);
    this.#end(kept);
  }

  #end(kept: Kept): void {
    this.#late.delete(kept);
    this.#bytes -= kept.bytes;
    kept.leave();
  }
}
