/**
 * Reference model of histories with a small bound on topics: which topics are forgotten, and at
 * which offset they continue.
 */

export interface ForgettingModelOptions {
  /** True if topics with listeners are kept longer, up to half of all. */
  readonly prefersListeners: boolean;
  /** Maximum number of topics. */
  readonly maxTopics: number;
  /** Maximum number of publications of a topic. */
  readonly size: number;
}

interface ModelPublication {
  readonly text: string;
  readonly offset: number;
}

interface Remembered {
  readonly topic: string;
  head: number;
  kept: ModelPublication[];
  /** The producer's numbers. */
  readonly numbers: number[];
  /** Sequence number of the last publication. */
  usedAt: number;
  /**
   * Sequence number of the last publication, or of the last change to or from having listeners, if
   * later.
   */
  placedAt: number;
}

/** The topics, as documented by `MemoryHistories` and the options of `SqliteBroker`. */
export class ForgettingModel {
  /** Number of forgotten topics that had publications. */
  forgotten = 0;
  readonly #options: ForgettingModelOptions;
  readonly #remembered = new Map<string, Remembered>();
  /** Maps each topic with a listener to the offset at which a new history continues. */
  readonly #followed = new Map<string, number>();
  /** Highest offset of any forgotten topic. */
  #floor = 0;
  #uses = 0;

  /** @param options See {@linkcode ForgettingModelOptions}. */
  constructor(options: ForgettingModelOptions) {
    this.#options = options;
  }

  /**
   * Returns the content of a topic.
   *
   * @returns The newest offset, and the kept publications.
   */
  of(topic: string): { readonly head: number; readonly kept: readonly ModelPublication[] } {
    return this.#remembered.get(topic) ?? { head: this.#startOf(topic), kept: [] };
  }

  /** Records that a topic has its first listener. */
  follow(topic: string): void {
    this.#followed.set(topic, this.of(topic).head);
    this.#place(topic);
  }

  /** Records that a topic's last listener has left. */
  unfollow(topic: string): void {
    this.#followed.delete(topic);
    this.#place(topic);
  }

  /** Records the end of the process, with all listeners. */
  restart(): void {
    this.#followed.clear();
  }

  /** Records that all publications of a topic have expired. */
  expire(topic: string): void {
    const one = this.#remembered.get(topic);
    if (one !== undefined) one.kept = [];
  }

  /**
   * Appends a publication.
   *
   * @param publication The text, the producer's number, and in `isLarge`, `true` if the text is
   * larger than the history.
   * @returns The offset; `undefined` for a repetition.
   */
  append(topic: string, { text, isLarge, key }: {
    readonly text: string;
    readonly isLarge: boolean;
    readonly key: number | undefined;
  }): number | undefined {
    const head = this.#startOf(topic);
    const one = this.#remembered.get(topic) ??
      { topic, head, kept: [], numbers: [], usedAt: 0, placedAt: 0 };
    if (key !== undefined) {
      if (one.numbers.includes(key)) return undefined;
      one.numbers.push(key);
    }
    this.#remembered.set(topic, one);
    const offset = ++one.head;
    one.kept = isLarge ? [] : [...one.kept, { text, offset }].slice(-this.#options.size);
    one.usedAt = one.placedAt = ++this.#uses;
    if (this.#remembered.size > this.#options.maxTopics) this.#forget(this.#mostDispensable());
    return offset;
  }

  #startOf(topic: string): number {
    return this.#followed.get(topic) ?? this.#floor;
  }

  #place(topic: string): void {
    const one = this.#remembered.get(topic);
    if (one !== undefined) one.placedAt = ++this.#uses;
  }

  #forget({ topic, head, kept }: Remembered): void {
    this.#remembered.delete(topic);
    if (kept.length > 0) this.forgotten++;
    this.#floor = Math.max(this.#floor, head);
    if (this.#followed.has(topic)) this.#followed.set(topic, head);
  }

  #mostDispensable(): Remembered {
    const all = [...this.#remembered.values()];
    const empty = all.find(({ kept }) => kept.length === 0);
    if (empty !== undefined) return empty;
    const { prefersListeners, maxTopics } = this.#options;
    if (!prefersListeners) return all.toSorted((a, b) => a.usedAt - b.usedAt)[0]!;
    const oldest = (isFollowed: boolean) =>
      all.filter(({ topic }) => this.#followed.has(topic) === isFollowed)
        .toSorted((a, b) => a.placedAt - b.placedAt);
    const [unsubscribed, subscribed] = [oldest(false), oldest(true)];
    if (subscribed.length === 0 || subscribed.length <= maxTopics / 2) return unsubscribed[0]!;
    const isQuieter = unsubscribed.length > 0 && unsubscribed[0]!.usedAt < subscribed[0]!.usedAt;
    return isQuieter ? unsubscribed[0]! : subscribed[0]!;
  }
}
