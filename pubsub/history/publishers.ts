/**
 * Publishers of histories, which are the clients that created them. When topics or bytes run out, a
 * client with many of them loses some of its own before other clients lose their quiet topics.
 */

/** Time for which a history counts for its publisher, in milliseconds. */
const RECENT_MS = 3_600_000;

/** Maximum number of a publisher's histories within that time before it is singled out. */
export const MAX_MADE = 256;

/** Histories that were made within the last hour, by publisher. */
export class Publishers {
  /** Publishers by topic; bounded by the broker's topics. */
  readonly #publishers = new Map<string, string>();
  /** Each publisher's topics with their creation times, the oldest first. */
  readonly #made = new Map<string, Map<string, number>>();
  readonly #large = new Set<string>();
  /** Number of histories up to which a publisher is not singled out. */
  readonly #most: number;

  /**
   * @param maxTopics Maximum number of topics of the broker, half of which one publisher may create
   * without being singled out.
   */
  constructor(maxTopics: number) {
    this.#most = Math.min(MAX_MADE, Math.floor(maxTopics / 2));
  }

  /**
   * @param publisher The client that published first; `undefined` for the application.
   * @param now The time of the creation.
   */
  note(topic: string, publisher: string | undefined, now: number): void {
    this.forget(topic);
    if (publisher === undefined) return;
    let made = this.#made.get(publisher);
    if (made === undefined) this.#made.set(publisher, made = new Map());
    made.set(topic, now);
    this.#publishers.set(topic, publisher);
    this.#drop(publisher, now);
    if (made.size > this.#most) this.#large.add(publisher);
  }

  forget(topic: string): void {
    const publisher = this.#publishers.get(topic);
    if (publisher === undefined) return;
    const made = this.#made.get(publisher)!;
    this.#publishers.delete(topic);
    made.delete(topic);
    if (made.size <= this.#most) this.#large.delete(publisher);
    if (made.size === 0) this.#made.delete(publisher);
  }

  /**
   * Finds the history to forget first when room is needed.
   *
   * @param now The time.
   * @returns The oldest topic of the publisher that created the most within the last hour; `undefined`
   * if none created more than {@linkcode MAX_MADE}, or than half of `maxTopics` if that is less.
   */
  first(now: number): string | undefined {
    let most: Map<string, number> | undefined;
    for (const publisher of this.#large) {
      const made = this.#made.get(publisher)!;
      this.#drop(publisher, now);
      if (made.size > (most?.size ?? this.#most)) most = made;
    }
    return most?.keys().next().value;
  }

  clear(): void {
    for (const all of [this.#publishers, this.#made, this.#large]) all.clear();
  }

  #drop(publisher: string, now: number): void {
    for (const [topic, madeAt] of this.#made.get(publisher)!) {
      if (Math.abs(now - madeAt) < RECENT_MS) return;
      this.forget(topic);
    }
  }
}

/**
 * Fraction of the bytes of all histories up to which a client is not singled out. Eight clients
 * that hold equal amounts lose their quietest topics, whoever created them.
 */
const HELD_PART = 1 / 8;

/** The histories of one client. */
class Holder {
  readonly name: string;
  /** Topics with their bytes, the quietest first. */
  readonly topics = new Map<string, number>();
  bytes = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** The binary logarithm of the bytes, rounded up. */
  get rank(): number {
    return Math.ceil(Math.log2(this.bytes + 1));
  }
}

/** Bytes of existing histories, by the client that created them. */
export class Holders {
  /** Holders by topic; bounded by the broker's topics. */
  readonly #holders = new Map<string, Holder>();
  readonly #byName = new Map<string, Holder>();
  /** Holders by rank, to find the largest without searching all of them. */
  readonly #ranks = new Map<number, Set<Holder>>();

  /**
   * @param topic The topic, which has no bytes yet.
   * @param publisher The client that published first; `undefined` for the application.
   */
  note(topic: string, publisher: string | undefined): void {
    this.forget(topic);
    if (publisher === undefined) return;
    let holder = this.#byName.get(publisher);
    if (holder === undefined) this.#byName.set(publisher, holder = new Holder(publisher));
    holder.topics.set(topic, 0);
    this.#holders.set(topic, holder);
  }

  /** Marks a history as just published to, so that it is its client's least quiet history. */
  use(topic: string): void {
    const topics = this.#holders.get(topic)?.topics;
    const bytes = topics?.get(topic);
    if (bytes === undefined) return;
    topics!.delete(topic);
    topics!.set(topic, bytes);
  }

  /** Sets the current bytes of a history. */
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

  forget(topic: string): void {
    const holder = this.#holders.get(topic);
    if (holder === undefined) return;
    this.count(topic, 0);
    this.#holders.delete(topic);
    holder.topics.delete(topic);
    if (holder.topics.size === 0) this.#byName.delete(holder.name);
  }

  /**
   * Finds the history to forget first when bytes run out.
   *
   * @param total Bytes of all histories.
   * @returns The quietest topic of the client that holds the most bytes, or of one that holds at
   * least half as many; `undefined` if this client holds no more than an eighth of all bytes.
   */
  first(total: number): string | undefined {
    const [holder] = this.#ranks.get(Math.max(...this.#ranks.keys())) ?? [];
    if (holder === undefined || holder.bytes <= total * HELD_PART) return undefined;
    return holder.topics.keys().next().value;
  }

  clear(): void {
    for (const all of [this.#holders, this.#byName, this.#ranks]) all.clear();
  }
}
