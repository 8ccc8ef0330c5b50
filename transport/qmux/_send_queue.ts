/**
 * Which stream is written next.
 *
 * @module
 */
import type { SendHalf } from "./stream.ts";

/** Orders that are kept while no stream has them; making one costs more than a small message. */
const MAX_EMPTY_LEVELS = 8;

/** From so many streams that are gone on, a level makes room for those behind them. */
const COMPACT_AT = 1_024;

/** Streams of one order, in the order in which they came. */
interface Level {
  readonly order: number;
  halves: SendHalf[];
  head: number;
}

/** Streams that have something to send: of a higher order first, of the same one after the other. */
export class SendQueue {
  #levels: Level[] = [];
  #size = 0;

  /** How many streams have something to send. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds a stream behind those of its order.
   *
   * @param half One that is in no queue.
   */
  add(half: SendHalf): void {
    this.#size++;
    const order = half.sendOrder;
    let at = 0;
    while (at < this.#levels.length && this.#levels[at]!.order > order) at++;
    const level = this.#levels[at];
    if (level?.order === order) return void level.halves.push(half);
    if (this.#levels.length > MAX_EMPTY_LEVELS) {
      this.#levels = this.#levels.filter(({ halves }) => halves.length > 0);
      at = this.#levels.findIndex((other) => other.order < order);
      if (at < 0) at = this.#levels.length;
    }
    this.#levels.splice(at, 0, { order, halves: [half], head: 0 });
  }

  /** Takes the next stream out. */
  take(): SendHalf | undefined {
    for (const level of this.#levels) {
      const half = level.halves[level.head];
      if (half === undefined) continue;
      this.#size--;
      level.head++;
      if (level.head === level.halves.length) {
        level.halves.length = level.head = 0;
      } else if (level.head >= COMPACT_AT && level.head * 2 > level.halves.length) {
        level.halves = level.halves.slice(level.head);
        level.head = 0;
      }
      return half;
    }
    return undefined;
  }

  /** Forgets all of them. */
  clear(): void {
    this.#levels = [];
    this.#size = 0;
  }
}
