/** A reference model of histories with few topics: the topics that are forgotten, and their offsets. */
import type { HistoryBounds } from "../../../../../pubsub/broker.ts";

/** The topic whose publications expire. The only one: of two empty histories, either may go first. */
export const BRIEF = "brief";

/** The other topics. */
export const TOPICS: readonly string[] = Array.from({ length: 7 }, (_, i) => `topic-${i}`);

/** Bounds of topics whose publications stay; each round is much shorter than a brief time. */
const LASTING: HistoryBounds = { size: 3, ttlMs: 3_600_000, bytes: 1 << 16 };

/** Bounds of each topic. */
export const BOUNDS: Readonly<Record<string, HistoryBounds>> = {
  ...Object.fromEntries(TOPICS.map((topic) => [topic, LASTING])),
  [BRIEF]: { size: 3, ttlMs: 1_000, bytes: 500 },
};

/** Kind of the histories, and the most topics. */
export interface BoundedTopics {
  readonly engine: "memory" | "sqlite";
  readonly maxTopics: number;
}

/** A kept publication. */
interface Kept {
  readonly text: string;
  readonly offset: number;
}

/** A remembered topic. */
interface Remembered {
  readonly topic: string;
  head: number;
  kept: Kept[];
  /** Newest number of the producer. */
  newest: number;
  /** Running number of the last publication. */
  usedAt: number;
  /** Running number of the last publication, or of the later first or last listener. */
  placedAt: number;
}

/** The topics, as `MemoryHistories` and the page about files describe these. */
export class ForgettingModel {
  readonly #options: BoundedTopics;
  readonly #remembered = new Map<string, Remembered>();
  /** Topic with a listener to the offset at which a new history continues. */
  readonly #followed = new Map<string, number>();
  /** Newest number of the producer by topic, also of forgotten ones. */
  readonly #keys = new Map<string, number>();
  #floor = 0;
  #uses = 0;
  #forgotten = 0;

  /**
   * Remembers no topic yet.
   *
   * @param options See {@linkcode BoundedTopics}.
   */
  constructor(options: BoundedTopics) {
    this.#options = options;
  }

  /** Number of topics that were forgotten with publications. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /**
   * Tells the content of a topic.
   *
   * @param topic The topic.
   * @returns The newest offset, and the kept publications.
   */
  of(topic: string): { readonly head: number; readonly kept: readonly Kept[] } {
    return this.#remembered.get(topic) ?? { head: this.#startOf(topic), kept: [] };
  }

  /**
   * Tells the newest number of the producer of a topic.
   *
   * @param topic The topic.
   * @returns The number; `undefined` without any.
   */
  newestKeyOf(topic: string): number | undefined {
    return this.#keys.get(topic);
  }

  /**
   * Tells if a topic has a listener.
   *
   * @param topic The topic.
   * @returns True for a topic with a listener.
   */
  isFollowed(topic: string): boolean {
    return this.#followed.has(topic);
  }

  /**
   * Notes the first listener of a topic.
   *
   * @param topic The topic.
   */
  follow(topic: string): void {
    this.#followed.set(topic, this.of(topic).head);
    this.#place(topic);
  }

  /**
   * Notes the end of the last listener of a topic.
   *
   * @param topic The topic.
   */
  unfollow(topic: string): void {
    this.#followed.delete(topic);
    this.#place(topic);
  }

  /** Notes the end of all listeners, as at the end of a process. */
  unfollowAll(): void {
    this.#followed.clear();
  }

  /** Notes that all brief publications have expired. */
  sweep(): void {
    const brief = this.#remembered.get(BRIEF);
    if (brief !== undefined) brief.kept = [];
  }

  /**
   * Appends a publication.
   *
   * @param topic The topic.
   * @param publication The text, true for one without space in the history, and the number of the
   * producer.
   * @returns The offset; `undefined` for a repetition.
   */
  append(topic: string, { text, isLarge, key }: {
    readonly text: string;
    readonly isLarge: boolean;
    readonly key: number | undefined;
  }): number | undefined {
    const one = this.#remembered.get(topic) ?? {
      topic,
      head: this.#startOf(topic),
      kept: [],
      newest: -1,
      usedAt: 0,
      placedAt: 0,
    };
    if (key !== undefined) {
      if (key <= one.newest) return undefined;
      one.newest = key;
      this.#keys.set(topic, key);
    }
    this.#remembered.set(topic, one);
    const offset = ++one.head;
    one.kept = isLarge ? [] : [...one.kept, { text, offset }].slice(-BOUNDS[topic]!.size);
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
    if (kept.length > 0) this.#forgotten++;
    this.#floor = Math.max(this.#floor, head);
    if (this.#followed.has(topic)) this.#followed.set(topic, head);
  }

  #mostDispensable(): Remembered {
    const all = [...this.#remembered.values()];
    const empty = all.find(({ kept }) => kept.length === 0);
    if (empty !== undefined) return empty;
    const { engine, maxTopics } = this.#options;
    if (engine === "sqlite") return all.toSorted((a, b) => a.usedAt - b.usedAt)[0]!;
    const oldest = (isFollowed: boolean) =>
      all.filter(({ topic }) => this.isFollowed(topic) === isFollowed)
        .toSorted((a, b) => a.placedAt - b.placedAt);
    const [unheard, heard] = [oldest(false), oldest(true)];
    if (heard.length === 0 || heard.length <= maxTopics / 2) return unheard[0]!;
    const isQuieter = unheard.length > 0 && unheard[0]!.usedAt < heard[0]!.usedAt;
    return isQuieter ? unheard[0]! : heard[0]!;
  }
}
