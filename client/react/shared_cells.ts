/**
 * Cells that several components share. A cell stays open for a grace period after its last
 * component unmounts.
 */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import type { Cell } from "./cell.ts";

/**
 * The maximum number of cells without a component. A long list that scrolls leaves many topics
 * behind, and by default a server allows 128 topics per session.
 */
const MAX_UNUSED = 16;

/** A cell that has something to release when it closes. */
export type OpenCell = Cell<{ readonly error: Error | undefined }> & {
  /** The longest grace period of this cell, in milliseconds. */
  readonly maxGraceMs?: number | undefined;
  close(): void;
};

interface Shared {
  readonly cell: OpenCell;
  users: number;
  /** Runs while no component uses the cell. */
  timer: Timer | undefined;
}

/**
 * The cells by key. Each is open while a component uses it, and for the grace period afterwards.
 */
export class SharedCells {
  readonly #all = new Map<string, Shared>();
  /** The keys of the cells without users, oldest first. */
  readonly #unused = new Set<string>();
  readonly #runtime: Runtime;
  readonly #graceMs: number;

  constructor(runtime: Runtime, graceMs: number) {
    this.#runtime = runtime;
    this.#graceMs = graceMs;
  }

  /**
   * Returns the cell for a key, or `undefined` if there is none. It has no side effects, so it is
   * safe to call during a render.
   */
  peek(key: string): OpenCell | undefined {
    return this.#all.get(key)?.cell;
  }

  /**
   * Uses a cell, and opens it if it does not exist.
   *
   * @param key The name of the cell.
   * @param listener Called each time the cell has changed.
   * @returns A function that ends the use. Idempotent.
   */
  use(key: string, open: () => OpenCell, listener: () => void): () => void {
    let shared = this.#all.get(key);
    if (shared?.users === 0 && shared.cell.snapshot.error) {
      this.#end(key, shared); // The cell failed during the grace period.
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
    // A timer with a longer time fires immediately.
    const graceMs = Math.min(this.#graceMs, shared.cell.maxGraceMs ?? Infinity, MAX_TIMER_MS);
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
