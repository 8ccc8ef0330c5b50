/** Makers of histories: one of many gives way before the quiet topics of others. */

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
