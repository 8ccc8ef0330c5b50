/** Log and state of one replica on its server's disk, which may lose unsynced writes. */

/** Entries that are kept although they are in the state, for replicas that are slightly behind. */
const MAX_OLD_ENTRIES = 1_024;

/**
 * Most entries since the last sync; beyond, the disk syncs early, because full files are synced.
 */
const MAX_UNSYNCED = 16_384;

/** An entry of the log of a group. */
export interface GroupEntry<C> {
  /** Term of the leader that wrote the entry. */
  readonly term: number;
  /** Unique identity in the whole simulation, even if disks lose entries. */
  readonly uid: number;
  /** The change; `undefined` for the first entry of a leader. */
  readonly change: C | undefined;
}

/** Everything that outlives the process. */
interface Kept<S> {
  readonly term: number;
  readonly vote: string;
  readonly lastIndex: number;
  readonly applied: number;
  readonly state: S;
}

/**
 * The disk of one replica.
 *
 * - **When the process ends**, nothing is lost, because the operating system has received all
 *   writes.
 * - **After a power loss**, the synced entries and some of the later ones remain.
 */
export class GroupDisk<S, C> {
  /** Newest term seen. */
  term = 0;
  /** Server that received the vote in the term; empty for none. */
  vote = "";
  /** State after the applied entries. */
  state: S;
  /** Index of the newest entry in the state. */
  applied = 0;
  #entries: GroupEntry<C>[] = [];
  /** Index and term of the entry before the first one that is kept. */
  #baseIndex = 0;
  #baseTerm = 0;
  #synced: Kept<S>;
  readonly #copy: (state: S) => S;

  /**
   * Creates an empty disk.
   *
   * @param state The first state.
   */
  constructor(state: S, copy: (state: S) => S) {
    this.state = state;
    this.#copy = copy;
    this.#synced = this.#kept();
  }

  /** Index of the newest entry. */
  get lastIndex(): number {
    return this.#baseIndex + this.#entries.length;
  }

  /** Index of the oldest kept entry, minus one. */
  get baseIndex(): number {
    return this.#baseIndex;
  }

  /**
   * Reads the term of an entry.
   *
   * @returns The term; `undefined` if the entry is unknown or not kept.
   */
  termAt(index: number): number | undefined {
    return index === this.#baseIndex ? this.#baseTerm : this.at(index)?.term;
  }

  /**
   * Reads an entry.
   *
   * @returns The entry; `undefined` if unknown or not kept.
   */
  at(index: number): GroupEntry<C> | undefined {
    return this.#entries[index - this.#baseIndex - 1];
  }

  /**
   * Reads entries.
   *
   * @param from Index of the first entry, which must still be stored.
   * @param count Maximum number of entries.
   */
  from(from: number, count: number): GroupEntry<C>[] {
    const at = from - this.#baseIndex - 1;
    return this.#entries.slice(at, at + count);
  }

  append(entry: GroupEntry<C>): void {
    this.#entries.push(entry);
    if (this.lastIndex - this.#synced.lastIndex > MAX_UNSYNCED) this.sync();
  }

  /** Removes the entry at an index and all later ones. */
  cutFrom(index: number): void {
    this.#entries.length = Math.max(0, index - this.#baseIndex - 1);
  }

  /**
   * Replaces the state and all entries with the state of another replica.
   *
   * @param state The state, which is copied.
   * @param index Index of the newest entry in the state.
   * @param term Term of that entry.
   */
  replace(state: S, index: number, term: number): void {
    this.state = this.#copy(state);
    this.applied = index;
    this.#entries = [];
    this.#baseIndex = index;
    this.#baseTerm = term;
    this.sync();
  }

  /** Copies the state, for another replica. */
  copy(): S {
    return this.#copy(this.state);
  }

  /** Erases everything, as if the disk was replaced. */
  wipe(state: S): void {
    this.replace(state, 0, 0);
    this.term = 0;
    this.vote = "";
    this.sync();
  }

  /** Makes everything written so far survive a power loss. */
  sync(): void {
    this.#synced = this.#kept();
    const old = Math.min(this.applied, this.lastIndex) - MAX_OLD_ENTRIES - this.#baseIndex;
    if (old <= 0) return;
    this.#baseTerm = this.#entries[old - 1]!.term;
    this.#entries.splice(0, old);
    this.#baseIndex += old;
  }

  /**
   * Loses unsynced entries, except for some of the oldest.
   *
   * @param random Decides how many entries are left.
   */
  losePower(random: () => number): void {
    const { term, vote, lastIndex, applied, state } = this.#synced;
    const unsynced = Math.max(0, this.lastIndex - lastIndex);
    const left = Math.min(lastIndex, this.lastIndex) + Math.floor(random() * (unsynced + 1));
    this.cutFrom(left + 1);
    // Term and vote are written together with entries.
    if (left === lastIndex) [this.term, this.vote] = [term, vote];
    this.state = this.#copy(state);
    this.applied = applied;
  }

  #kept(): Kept<S> {
    const { term, vote, lastIndex, applied } = this;
    return { term, vote, lastIndex, applied, state: this.#copy(this.state) };
  }
}
