/** Waits for several outcomes. */
import { outcomeOf } from "./examiner.ts";

/** Round-trip time of envelopes, in milliseconds. */
export const ROUND_MS = 150;

/** Waits for several outcomes. */
export class Waits {
  readonly #all: Promise<string>[] = [];

  /**
   * Adds promises to wait for.
   *
   * @param waits The promises.
   */
  add(...waits: readonly Promise<unknown>[]): void {
    this.#all.push(...waits.map(outcomeOf));
  }

  /**
   * Waits for all outcomes.
   *
   * @returns The names of the outcomes.
   */
  over(): Promise<string[]> {
    return Promise.all(this.#all);
  }
}

/**
 * Reads some items.
 *
 * @param most Number of items after which the reader leaves. By default, it reads all items.
 */
export async function read(items: AsyncIterable<unknown>, most = Infinity): Promise<void> {
  for await (const _ of items) if (--most === 0) break;
}
