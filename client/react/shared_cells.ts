/**
 * Cells that several components share, and that stay open for a grace period after the last of
 * them.
 */
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Cell } from "./cell.ts";

/**
 * Maximum number of cells without a component: a long list that scrolls leaves many topics, and by
 * default a server allows a session 128 topics.
 */
const MAX_UNUSED = 16;

/** A cell with something to release when it closes. */
export type OpenCell = Cell<{ readonly error: Error | undefined }> & {
  /** Longest grace period of this cell, in milliseconds. */
  readonly maxGraceMs?: number | undefined;
  close(): void;
};

interface Shared {
  readonly cell: OpenCell;
  users: number;
  /** Runs while there are no users. */
  timer: Timer | undefined;
}

/** Cells by key, each open while a component uses it, and for the grace period afterwards. */
export class SharedCells {
  readonly #all = new Map<string, Shared>();
  /** Keys of the cells without users, the oldest first. */
  readonly #unused = new Set<string>();
  readonly #runtime: Runtime;
  readonly #graceMs: number;

  constructor(runtime: Runtime, graceMs: number) {
    this.#runtime = runtime;
    this.#graceMs = graceMs;
  }

  /**
   * Returns the cell of a key; `undefined` if there is none. Has no effect, so it is safe during a
   * render.
   */
  peek(key: string): OpenCell | undefined {
    return this.#all.get(key)?.cell;
  }

  /**
   * Uses a cell, and opens it if there is none.
   *
   * @param key Name of the cell.
   * @param open Opens the cell.
   * @param listener Called after each change of the cell.
   * @returns A function that ends the use. Idempotent.
   */
  use(key: string, open: () => OpenCell, listener: () => void): () => void {
    let shared = this.#all.get(key);
    if (shared?.users === 0 && shared.cell.snapshot.error) {
      this.#end(key, shared); // Failed during the grace period.
      shared = undefined;
    }
    if (shared === undefined) {
      this.#all.set(key, shared = { cell: open(), users: 0, timer: undefined });
    }
    const { cell } = shared;
    shared.users++;
    this.#unused.delete(key);
    this.#runtime.clearTimeout(shared.timer);
    const unwatch = cell.watch(listener);
    let isUsed = true;
    return () => {
      if (!isUsed) return;
      isUsed = false;
      unwatch();
      if (--shared.users === 0) this.#leave(key, shared);
    };
  }

  /** Closes all cells. */
  close(): void {
    for (const [key, shared] of this.#all) this.#end(key, shared);
  }

  #leave(key: string, shared: Shared): void {
    if (this.#all.get(key) !== shared) return;
    // The next component tries again.
    if (shared.cell.snapshot.error) return this.#end(key, shared);
    this.#unused.add(key);
    const graceMs = Math.min(this.#graceMs, shared.cell.maxGraceMs ?? Infinity);
    shared.timer = this.#runtime.setTimeout(() => this.#end(key, shared), graceMs);
    if (this.#unused.size <= MAX_UNUSED) return;
    const [oldest] = this.#unused;
    this.#end(oldest!, this.#all.get(oldest!)!);
  }

  #end(key: string, shared: Shared): void {
    this.#all.delete(key);
    this.#unused.delete(key);
    this.#runtime.clearTimeout(shared.timer);
    shared.cell.close();
  }
}
