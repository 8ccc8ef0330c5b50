/** Keeps one state in the client's store: its rows, and its writes. */
import { SessionClosedError } from "../../../errors.ts";
import type { Runtime } from "../../../base/runtime.ts";
import { internals, type Session } from "../../../session/session.ts";
import type { KeptParts, KeptSource, StateKeeping } from "../../state/keeping.ts";
import type { WrittenRow } from "../../state/rows.ts";
import type { QueuedWrite } from "../../state/write.ts";
import { type LockHeld, stealLock } from "../locks.ts";
import { KeptStateRows, rowLocks, type RowsKeeper } from "./kept_rows.ts";
import { KeptStateWrites, writeLocks, type WritesKeeper } from "./kept_writes.ts";

/** The parts of a keeper that a state uses. */
export interface StateKeeper extends RowsKeeper, WritesKeeper {
  confirmed(session: Session): Promise<boolean>;
}

export class KeptState implements StateKeeping {
  readonly #keeper: StateKeeper;
  readonly #source: KeptSource;
  readonly #rows: KeptStateRows;
  readonly #writes: KeptStateWrites;

  constructor(keeper: StateKeeper, source: KeptSource, runtime: Runtime) {
    this.#keeper = keeper;
    this.#source = source;
    this.#writes = new KeptStateWrites(keeper, source, runtime);
    this.#rows = new KeptStateRows(keeper, source, { runtime, made: this.#writes });
  }

  async open(): Promise<KeptParts> {
    const [rows, writes] = await Promise.all([this.#rows.open(), this.#writes.open()]);
    return { rows: rows && this.#writes.completed(rows), writes };
  }

  async ownerOf(session: Session): Promise<"own" | "other-user" | "unsupported"> {
    const owner = await this.#ownerOf(session);
    if (owner !== "own") this.#rows.end();
    else {
      this.#rows.confirmed();
      await this.adopt();
    }
    return owner;
  }

  async adopt(): Promise<void> {
    const writes = await this.#writes.adopt();
    if (writes.length > 0) this.#source.restore(writes);
  }

  async #ownerOf(session: Session): Promise<"own" | "other-user" | "unsupported"> {
    try {
      if (await this.#keeper.confirmed(session)) return "own";
    } catch (error) {
      if (error instanceof SessionClosedError) throw error;
      // For example, the client has introduced too many producers. The state goes on in memory.
      return "unsupported";
    }
    const { features } = session[internals].sending;
    return features?.includes("producers") ? "other-user" : "unsupported";
  }

  delivered(changes: readonly Pick<WrittenRow, "type" | "key">[]): void {
    this.#rows.delivered(changes);
  }

  restarted(): void {
    this.#rows.restarted();
  }

  changed(): void {
    this.#rows.changed();
  }

  forget(): void {
    this.#rows.forget();
    void this.#writes.deleteMade();
  }

  put(write: QueuedWrite): void {
    this.#writes.put(write);
  }

  async sending(writes: readonly QueuedWrite[]): Promise<void> {
    await this.#writes.sending(writes);
  }

  made(write: QueuedWrite, version: number): void {
    if (!this.#rows.awaits(version)) return this.#writes.drop(write);
    this.#writes.made(write, version);
  }

  drop(write: QueuedWrite, reason?: unknown): void {
    this.#writes.drop(write, reason);
  }

  /** Resolves once the writes that wait are stored, or the store has failed. */
  flush(): Promise<void> {
    return this.#writes.flush();
  }

  /** True if all writes that wait are stored. */
  get isStored(): boolean {
    return this.#writes.isStored;
  }

  /** Deletes what is kept, rejects the writes that wait, and keeps no more rows. */
  async erase(): Promise<void> {
    await Promise.all([this.#rows.erase(), this.#writes.erase()]);
  }

  /** The names of the locks that this page has. */
  get locks(): readonly string[] {
    return [...this.#writes.locks, ...this.#rows.lock ? [this.#rows.lock] : []];
  }

  /** Keeps nothing more, and leaves the store as it is. */
  kill(): void {
    this.#rows.end();
    this.#writes.end();
  }

  async close(): Promise<void> {
    await Promise.all([this.#rows.close(), this.#writes.close()]);
  }
}

/**
 * Deletes what is kept of the states of this page, and takes the locks of other pages, which then
 * delete theirs.
 *
 * @returns The locks, to be released once the store is empty.
 */
export async function eraseStates(
  store: StateKeeper["store"],
  states: readonly KeptState[],
): Promise<LockHeld[]> {
  const own = new Set(states.flatMap(({ locks }) => locks));
  const names = store.isExclusive ? [] : [...await rowLocks(store), ...await writeLocks(store)];
  const others = names.filter((name) => !own.has(name));
  const locks = await Promise.all(others.map((name) => stealLock(name)));
  await Promise.all(states.map((state) => state.erase()));
  return locks.filter((lock) => lock !== undefined);
}
