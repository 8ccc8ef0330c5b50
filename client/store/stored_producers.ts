/** Writes producers and their items to a store, and reads what earlier pages have left there. */
import { Signal } from "../../base/signal.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { OutboxDrop } from "./dropped.ts";
import type { GuardedStore } from "./guarded_store.ts";
import {
  entryOf,
  itemIn,
  type KeptItem,
  type Producer,
  producerIn,
  recordOf,
} from "./kept_items.ts";
import { after, FORMAT, keyIn, only, partsOf, rangeOf, SPACES } from "./keys.ts";
import { entriesIn } from "./reading.ts";
import type { Durability, StoreEntry, StoreRange } from "./store.ts";

/** Maximum number of producers of earlier pages that are read at a time; the others wait. */
const MAX_PRODUCERS = 1_000;

/** The parts of a client that {@linkcode StoredProducers} uses. */
export interface StoredProducersParts {
  readonly runtime: Runtime;
  readonly store: GuardedStore;
  /** The maximum size of a message, in bytes. */
  readonly maxMessageBytes: number;
  readonly drop: (drop: OutboxDrop) => void;
  /** Resolves when other pages can tell that this one is open. Nothing is written before. */
  readonly locked: Promise<unknown>;
}

/**
 * The producers in a store. The changes of one turn of the event loop are one batch, and one batch
 * is written at a time.
 */
export class StoredProducers extends Signal {
  readonly #parts: StoredProducersParts;
  #locked: Promise<unknown>;
  /** The producers with changes that aren't written, and the numbers of their removed items. */
  readonly #changed = new Map<Producer, number[]>();
  /** The producers with items for which there was no room. */
  readonly #waiting = new Set<Producer>();
  /** The producers that have a record in the store, or may have one. */
  readonly #recorded = new Set<Producer>();
  /** True while a batch is written, and before {@linkcode begin}. */
  #isWriting = true;
  /** The numbers of the newest change, and of the newest one that was tried to write. */
  #changes = 0;
  #tried = 0;
  /** The durability of the newest batch; `undefined` if it isn't stored. */
  durability: Durability | undefined;

  constructor(parts: StoredProducersParts) {
    super();
    this.#parts = parts;
    this.#locked = parts.locked;
  }

  /** Writes nothing before another promise resolves, too. */
  lockedBy(locked: Promise<unknown>): void {
    this.#locked = locked;
  }

  /** Starts to write, once the time of this page's producer is known. */
  begin(): void {
    void this.#write();
  }

  /** Stores new items and the record of a producer at the end of this turn. */
  change(producer: Producer): void {
    if (!this.#changed.has(producer)) this.#changed.set(producer, []);
    this.#changes++;
    if (this.#isWriting) return;
    this.#isWriting = true;
    this.#parts.runtime.schedule(() => void this.#write());
  }

  /** Deletes an item that was removed from its producer. */
  remove(producer: Producer, { seq, isStored }: KeptItem): void {
    this.change(producer);
    if (isStored) this.#changed.get(producer)!.push(seq);
  }

  /** Leaves the entries of a producer to another page. */
  abandon(producer: Producer): void {
    this.#changed.delete(producer);
    this.#waiting.delete(producer);
    this.#recorded.delete(producer);
  }

  /** Deletes everything that producers have in the store. */
  async erase(ids: readonly string[]): Promise<void> {
    const deletes = ids.flatMap((id) => [
      rangeOf(keyIn("producers", id)),
      rangeOf(keyIn("items", id)),
    ]);
    await this.#parts.store.write({ deletes });
  }

  /**
   * Deletes everything that the store has, of any kind, except what belongs to a producer. Returns
   * false if the store has failed.
   */
  async eraseOthers({ id }: Producer): Promise<boolean> {
    const record = keyIn("producers", id);
    const items = rangeOf(keyIn("items", id));
    const deletes: StoreRange[] = [
      { from: Uint8Array.of(0), to: record },
      { from: after(record), to: items.from },
      { from: items.to! },
    ];
    return await this.#parts.store.write({ deletes }) !== undefined;
  }

  /** Reads the ids of all producers, also of those that other pages use. */
  async ids(): Promise<string[]> {
    const ids: string[] = [];
    for await (const { key } of entriesIn(this.#parts.store, rangeOf(keyIn("producers")))) {
      const [id] = partsOf(key, ["text"]) ?? [];
      if (typeof id === "string") ids.push(id);
    }
    return ids;
  }

  /** Waits until everything that was changed before is written, or can't be. */
  async written(): Promise<void> {
    const changes = this.#changes;
    while (this.#tried < changes) await this.changed();
  }

  async #write(): Promise<void> {
    const { store } = this.#parts;
    while (this.#tried < this.#changes) {
      await this.#locked;
      const changes = this.#changes;
      const changed = new Map(this.#changed);
      for (const producer of this.#waiting) if (!changed.has(producer)) changed.set(producer, []);
      this.#changed.clear();
      this.#waiting.clear();
      if (!await this.#store(changed) && store.error === undefined) {
        // There is no room. What can be deleted is deleted now, and the rest is tried again together
        // with the next change.
        const hasDeleted = await this.#store(changed, { isFull: true });
        for (const [producer, removed] of changed) {
          this.#waiting.add(producer);
          const later = this.#changed.get(producer) ?? [];
          if (!hasDeleted) this.#changed.set(producer, [...removed, ...later]);
        }
      }
      this.#tried = changes;
      this.notify();
    }
    this.#isWriting = false;
  }

  /** Writes a batch. Returns false if it isn't stored. */
  async #store(
    changed: ReadonlyMap<Producer, readonly number[]>,
    { isFull = false } = {},
  ): Promise<boolean> {
    const deletes: StoreRange[] = [];
    const puts: StoreEntry[] = [];
    const added: KeptItem[] = [];
    for (const [producer, removed] of changed) {
      const unstored = isFull ? [] : producer.items.filter(({ isStored }) => !isStored);
      added.push(...unstored);
      puts.push(...unstored.map((item) => entryOf(producer, item)));
      if (producer.items.length === 0) deletes.push(...this.#rangesOf(producer));
      else {
        deletes.push(...rangesOf(producer, removed));
        if (unstored.length > 0 || this.#recorded.has(producer)) puts.push(recordOf(producer));
      }
    }
    // An item that is removed during the write is deleted later.
    for (const item of added) item.isStored = true;
    for (const producer of changed.keys()) {
      if (producer.items.length > 0) this.#recorded.add(producer);
      else this.#recorded.delete(producer);
    }
    if (deletes.length + puts.length === 0) return true;
    const durability = await this.#parts.store.write({ deletes, puts });
    if (!isFull) this.durability = durability;
    if (durability !== undefined) return true;
    for (const item of added) item.isStored = false;
    return false;
  }

  #rangesOf(producer: Producer): StoreRange[] {
    if (!this.#recorded.has(producer)) return [];
    return [rangeOf(keyIn("producers", producer.id)), rangeOf(keyIn("items", producer.id))];
  }

  /**
   * Reads the producers of earlier pages, the oldest first, and drops what is damaged.
   *
   * @param isFree Returns true if no page uses a producer, which is `undefined` if it is damaged.
   */
  async load(
    isFree: (id: string, producer: Producer | undefined) => Promise<boolean>,
  ): Promise<Producer[]> {
    await this.#dropNewer();
    const page = await this.#parts.store.read(rangeOf(keyIn("producers")), {
      maxEntries: MAX_PRODUCERS,
    });
    const producers: Producer[] = [];
    for (const { key, value } of page?.entries ?? []) {
      const [id] = partsOf(key, ["text"]) ?? [];
      const producer = typeof id === "string" ? producerIn(id, value) : undefined;
      if (typeof id === "string" && !await isFree(id, producer)) continue;
      if (producer === undefined) await this.#dropDamaged(key, id as string | undefined);
      else {
        this.#recorded.add(producer);
        await this.#loadItems(producer);
        producers.push(producer);
      }
    }
    return producers.sort((a, b) => a.since - b.since);
  }

  async #loadItems(producer: Producer): Promise<void> {
    const { drop, maxMessageBytes, store } = this.#parts;
    for await (const { key, value } of entriesIn(store, rangeOf(keyIn("items", producer.id)))) {
      const seq = Number((partsOf(key, ["text", "number"]) ?? [])[1]);
      const item = itemIn(seq, value, maxMessageBytes);
      if (item !== undefined) producer.add(item);
      else {
        drop({ kind: undefined, topic: undefined, reason: "damaged" });
        await store.write({ deletes: [only(key)] });
      }
    }
    if (producer.items.length === 0) this.change(producer);
  }

  /** Drops a producer whose record is damaged, and all of its items. */
  async #dropDamaged(key: Uint8Array, id: string | undefined): Promise<void> {
    const { drop, maxMessageBytes, store } = this.#parts;
    const deletes: StoreRange[] = [only(key)];
    if (id !== undefined) {
      const items = rangeOf(keyIn("items", id));
      deletes.push(items);
      for await (const { value } of entriesIn(store, items)) {
        const { kind, topic, calledAt } = itemIn(0, value, maxMessageBytes) ?? {};
        drop({ kind, topic, calledAt, reason: "damaged" });
      }
    }
    await store.write({ deletes });
  }

  /** Drops what a newer version has stored, which this one can't send. */
  async #dropNewer(): Promise<void> {
    const { store } = this.#parts;
    const range = { from: Uint8Array.of(FORMAT + 1) };
    let isEmpty = true;
    for await (const { key } of entriesIn(store, range)) {
      isEmpty = false;
      const isUnsent = key[1] === SPACES.items || key[1] === SPACES.writes;
      if (isUnsent) this.#parts.drop({ kind: undefined, topic: undefined, reason: "newer" });
    }
    if (!isEmpty) await store.write({ deletes: [range] });
  }
}

/** The ranges of items that were removed from a producer that has others. */
function rangesOf({ id, items }: Producer, removed: readonly number[]): StoreRange[] {
  const first = items[0]!.seq;
  const ranges = removed.filter((seq) => seq > first).map((seq) => only(keyIn("items", id, seq)));
  // Most items are removed in order.
  if (ranges.length === removed.length) return ranges;
  return [{ from: keyIn("items", id, 0), to: keyIn("items", id, first) }, ...ranges];
}
