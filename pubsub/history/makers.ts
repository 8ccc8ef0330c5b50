/**
 * Makers of histories: where topics or bytes run out, the one that has many gives way before the quiet
 * topics of others.
 */

/** Time for which a history counts for its maker, in milliseconds. */
const RECENT_MS = 3_600_000;

/** Most histories of that time with which a maker is nobody to look at first. */
export const MAX_MADE = 256;

/** Histories that were made within the last hour, by maker. */
export class Makers {
  /** Makers by topic; bounded by the topics of the engine. */
  readonly #makers = new Map<string, string>();
  /** Topics of each maker with the time at which each was made, the oldest first. */
  readonly #made = new Map<string, Map<string, number>>();
  /** Makers of more than `#most` histories. */
  readonly #large = new Set<string>();
  /** Most histories of a maker that is nobody to look at first. */
  readonly #most: number;

  /**
   * Begins without makers.
   *
   * @param maxTopics Most topics of the engine, of which one maker has at most half unnoticed.
   */
  constructor(maxTopics: number) {
    this.#most = Math.min(MAX_MADE, Math.floor(maxTopics / 2));
  }

  /**
   * Notes that a history was made.
   *
   * @param topic The topic.
   * @param maker The party that published first; `undefined` for the application.
   * @param now The time.
   */
  note(topic: string, maker: string | undefined, now: number): void {
    this.forget(topic);
    if (maker === undefined) return;
    let made = this.#made.get(maker);
    if (made === undefined) this.#made.set(maker, made = new Map());
    made.set(topic, now);
    this.#makers.set(topic, maker);
    this.#drop(maker, now);
    if (made.size > this.#most) this.#large.add(maker);
  }

  /** Notes that a history is no longer there. */
  forget(topic: string): void {
    const maker = this.#makers.get(topic);
    if (maker === undefined) return;
    const made = this.#made.get(maker)!;
    this.#makers.delete(topic);
    made.delete(topic);
    if (made.size <= this.#most) this.#large.delete(maker);
    if (made.size === 0) this.#made.delete(maker);
  }

  /**
   * Finds the history that goes first where one has to go.
   *
   * @param now The time.
   * @returns The oldest topic of the maker that made most within the last hour; `undefined` if nobody
   * made more than {@linkcode MAX_MADE}, or than half of all.
   */
  first(now: number): string | undefined {
    let most: Map<string, number> | undefined;
    for (const maker of this.#large) {
      const made = this.#made.get(maker)!;
      this.#drop(maker, now);
      if (made.size > (most?.size ?? this.#most)) most = made;
    }
    return most?.keys().next().value;
  }

  /** Forgets all. */
  clear(): void {
    for (const all of [this.#makers, this.#made, this.#large]) all.clear();
  }

  /** Forgets the histories of a maker that are no longer recent. */
  #drop(maker: string, now: number): void {
    for (const [topic, madeAt] of this.#made.get(maker)!) {
      if (Math.abs(now - madeAt) < RECENT_MS) return;
      this.forget(topic);
    }
  }
}

/**
 * Part of the bytes of all histories with which a party is nobody to look at first. Eight parties that
 * have the same lose their quietest topics, whoever made them.
 */
const HELD_PART = 1 / 8;

/** The histories of one party. */
class Holder {
  readonly name: string;
  /** Topics with their bytes, the quietest first. */
  readonly topics = new Map<string, number>();
  bytes = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** The power of two of the bytes. */
  get rank(): number {
    return Math.ceil(Math.log2(this.bytes + 1));
  }
}

/** Bytes of histories by the party that made them, for as long as they are there. */
export class Holders {
  /** Holders by topic; bounded by the topics of the engine. */
  readonly #holders = new Map<string, Holder>();
  readonly #byName = new Map<string, Holder>();
  /** Holders by their rank, so that the largest is found without a look at all. */
  readonly #ranks = new Map<number, Set<Holder>>();

  /**
   * Notes that a history was made.
   *
   * @param topic The topic, which has no bytes yet.
   * @param maker The party that published first; `undefined` for the application.
   */
  note(topic: string, maker: string | undefined): void {
    this.forget(topic);
    if (maker === undefined) return;
    let holder = this.#byName.get(maker);
    if (holder === undefined) this.#byName.set(maker, holder = new Holder(maker));
    holder.topics.set(topic, 0);
    this.#holders.set(topic, holder);
  }

  /** Notes that a history was published to, and so is the least quiet of its party. */
  use(topic: string): void {
    const topics = this.#holders.get(topic)?.topics;
    const bytes = topics?.get(topic);
    if (bytes === undefined) return;
    topics!.delete(topic);
    topics!.set(topic, bytes);
  }

  /** Counts the present bytes of a history. */
  count(topic: string, bytes: number): void {
    const holder = this.#holders.get(topic);
    if (holder === undefined) return;
    const before = holder.rank;
    holder.bytes += bytes - holder.topics.get(topic)!;
    holder.topics.set(topic, bytes);
    if (holder.rank === before) return;
    const last = this.#ranks.get(before);
    last?.delete(holder);
    if (last?.size === 0) this.#ranks.delete(before);
    if (holder.rank === 0) return;
    const next = this.#ranks.get(holder.rank) ?? new Set();
    this.#ranks.set(holder.rank, next.add(holder));
  }

  /** Notes that a history is no longer there. */
  forget(topic: string): void {
    const holder = this.#holders.get(topic);
    if (holder === undefined) return;
    this.count(topic, 0);
    this.#holders.delete(topic);
    holder.topics.delete(topic);
    if (holder.topics.size === 0) this.#byName.delete(holder.name);
  }

  /**
   * Finds the history that goes first where bytes run out.
   *
   * @param total Bytes of all histories.
   * @returns The quietest topic of the party with most bytes, to a factor of two; `undefined` if nobody
   * has an eighth of all.
   */
  first(total: number): string | undefined {
    const [holder] = this.#ranks.get(Math.max(...this.#ranks.keys())) ?? [];
    if (holder === undefined || holder.bytes <= total * HELD_PART) return undefined;
    return holder.topics.keys().next().value;
  }

  /** Forgets all. */
  clear(): void {
    for (const all of [this.#holders, this.#byName, this.#ranks]) all.clear();
  }
}
