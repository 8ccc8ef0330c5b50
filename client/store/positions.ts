/** The positions of subscriptions that a page keeps, so that the next page continues there. */
import { checkType, describe } from "../../base/error_text.ts";
import { withoutUndefined } from "../../base/options/options.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { GuardedStore } from "./guarded_store.ts";
import { keyIn, partsOf, rangeOf } from "./keys.ts";
import { isCount, jsonIn } from "./reading.ts";
import type { StoreEntry } from "./store.ts";

/** Maximum number of positions in a store. The oldest are deleted. */
export const MAX_POSITIONS = 1_000;

/** Maximum size of a position, in bytes. */
const MAX_POSITION_BYTES = 1_024;

/** Maximum size of a name, in bytes. */
const MAX_NAME_BYTES = 512;

/** The parts of a client that its positions use. */
export interface PositionsParts {
  readonly store: GuardedStore;
  readonly runtime: Runtime;
  /** Resolves once it is known if the newest session is the user's. */
  readonly confirmed: () => Promise<boolean>;
  /** Returns false while another user is signed in. */
  readonly isOwn: () => boolean;
}

interface Kept {
  readonly position: HistoryPosition;
  /** The time of the last change, in milliseconds since the Unix epoch. */
  readonly at: number;
}

/**
 * Positions of subscriptions to topics with a history, which outlive the page. The application
 * decides what it has processed, so it saves each position itself.
 *
 * - **Names:** by topic, or by another name, for example if two parts of a page read one topic.
 *   All tabs of a user share the names, and the last tab that saves a position wins.
 * - **Bounds:** a store has at most 1,000 positions. The oldest are deleted.
 * - **Lost messages:** if the topic's history no longer reaches back to a position, the subscription
 *   passes the reason to `onRecovery`, as after any loss of the connection.
 * - **Another user:** while another user is signed in, nothing is read or saved.
 */
export class KeptPositions {
  readonly #parts: Promise<PositionsParts>;
  readonly #attach: (parts: PositionsParts) => void;
  /** All positions, once they are read. */
  #all: Promise<Map<string, Kept>> | undefined;
  readonly #changed = new Set<string>();
  #writing: Promise<void> | undefined;

  /** @ignore */
  constructor() {
    const { promise, resolve } = Promise.withResolvers<PositionsParts>();
    this.#parts = promise;
    this.#attach = resolve;
  }

  /**
   * Starts to use a client's store.
   *
   * @ignore
   */
  attach(parts: PositionsParts): void {
    this.#attach(parts);
  }

  /**
   * Reads a position, for `since` of `client.subscribe`. It waits until a server has confirmed that
   * the session belongs to the store's user.
   *
   * @param name The topic, or another name.
   * @returns The position; `undefined` if there is none, or if another user is signed in.
   */
  async get(name: string): Promise<HistoryPosition | undefined> {
    const { confirmed } = await this.#parts;
    if (!await confirmed()) return undefined;
    return (await this.#read()).get(name)?.position;
  }

  /**
   * Saves a position. Several calls in one turn of the event loop are one write.
   *
   * @param name The topic, or another name of at most 512 bytes.
   * @param position The `position` of the subscription; `undefined` deletes the saved one.
   * @throws {RangeError} If the name is too long.
   * @throws {TypeError} If the position is not that of a subscription.
   */
  set(name: string, position: HistoryPosition | undefined): void {
    checkType("save position", "name", name, "string");
    if (position !== undefined && positionIn(position) === undefined) {
      const rule = "position must be that of a subscription, or undefined to delete the saved one";
      throw new TypeError(`Cannot save position: ${rule}, received ${describe(position)}`);
    }
    if (new TextEncoder().encode(name).length > MAX_NAME_BYTES) {
      throw new RangeError(`Cannot save position: name must have at most ${MAX_NAME_BYTES} bytes`);
    }
    this.#writing = this.#change(name, position, this.#writing);
  }

  /**
   * Forgets all positions, which the caller deletes from the store.
   *
   * @ignore
   */
  clear(): void {
    this.#changed.clear();
    this.#all = Promise.resolve(new Map());
  }

  /**
   * Waits until all positions are written.
   *
   * @ignore
   */
  async written(): Promise<void> {
    await this.#writing;
  }

  async #change(
    name: string,
    position: HistoryPosition | undefined,
    before: Promise<void> | undefined,
  ): Promise<void> {
    const { runtime, isOwn } = await this.#parts;
    if (!isOwn()) return await before;
    const all = await this.#read();
    all.delete(name); // The newest is last.
    if (position !== undefined) all.set(name, { position, at: runtime.now() });
    this.#changed.add(name);
    for (const [oldest] of all) {
      if (all.size <= MAX_POSITIONS) break;
      all.delete(oldest);
      this.#changed.add(oldest);
    }
    await before;
    await this.#write(all);
  }

  async #write(all: ReadonlyMap<string, Kept>): Promise<void> {
    const names = [...this.#changed];
    this.#changed.clear();
    if (names.length === 0) return;
    const puts: StoreEntry[] = [];
    for (const name of names) {
      const kept = all.get(name);
      if (kept === undefined) continue;
      const value = new TextEncoder().encode(JSON.stringify(kept));
      if (value.length <= MAX_POSITION_BYTES) puts.push({ key: keyIn("positions", name), value });
    }
    const deletes = names.filter((name) => !all.has(name))
      .map((name) => rangeOf(keyIn("positions", name)));
    await (await this.#parts).store.write({ deletes, puts });
  }

  #read(): Promise<Map<string, Kept>> {
    return this.#all ??= this.#readAll();
  }

  async #readAll(): Promise<Map<string, Kept>> {
    const { store } = await this.#parts;
    const range = rangeOf(keyIn("positions"));
    const page = await store.read(range, { maxEntries: MAX_POSITIONS + 1 });
    const found: [string, Kept][] = [];
    for (const { key, value } of page?.entries ?? []) {
      const [name] = partsOf(key, ["text"]) ?? [];
      const kept = keptIn(value);
      if (typeof name === "string" && kept) found.push([name, kept]);
    }
    return new Map(found.sort(([, a], [, b]) => a.at - b.at));
  }
}

/** Reads a position, which may be anybody's bytes. */
function keptIn(value: Uint8Array): Kept | undefined {
  if (value.length > MAX_POSITION_BYTES) return undefined;
  const { position: kept, at } = Object(jsonIn(value));
  const position = positionIn(kept);
  return position && Number.isFinite(at) ? { position, at } : undefined;
}

function positionIn(value: unknown): HistoryPosition | undefined {
  const { epoch, offset, tag } = Object(value);
  const isTag = tag === undefined || typeof tag === "string";
  if (typeof epoch !== "string" || !isCount(offset) || !isTag) return undefined;
  return withoutUndefined({ epoch, offset, tag });
}
