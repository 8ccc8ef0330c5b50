/**
 * Finds out early that a socket drained. It tells nothing when it did, so it is
 * asked by a timer, which is late: a fast one holds nothing any more after
 * microseconds, and the timer comes after milliseconds.
 *
 * @module
 */

/** What may drain. */
export interface Draining {
  /** Bytes that it holds. */
  readonly bufferedAmount: number;
  /** Waits until it holds little. Never rejects. */
  drained(): Promise<void>;
}

/** It holds little. */
const LOW_WATER_MARK = 32_768;

/** Looks at a wire that drains fast, each a turn of the event loop later. */
const MAX_LOOKS = 32;

/** A timer that found the wire drained so soon was late itself, in milliseconds. */
const SOON_MS = 4;

/** Looks often while that helps: a slow wire is left to its timer. */
export class EarlyDrain {
  readonly #wire: Draining;
  #looks = MAX_LOOKS;

  /** Watches a wire. */
  constructor(wire: Draining) {
    this.#wire = wire;
  }

  /** Waits until the wire holds little, or is over. Never rejects. */
  async drained(): Promise<void> {
    if (this.#looks > 0 && await this.#look()) {
      this.#looks = Math.min(this.#looks * 2, MAX_LOOKS);
      return;
    }
    this.#looks >>= 1;
    const since = performance.now();
    await this.#wire.drained();
    if (this.#looks === 0 && performance.now() - since < SOON_MS) this.#looks = 1;
  }

  async #look(): Promise<boolean> {
    const { port1, port2 } = new MessageChannel();
    try {
      for (let left = this.#looks; left > 0; left--) {
        await new Promise((resolve) => {
          port1.onmessage = resolve;
          port2.postMessage(null);
        });
        if (this.#wire.bufferedAmount <= LOW_WATER_MARK) return true;
      }
      return false;
    } finally {
      port1.close();
      port2.close();
    }
  }
}
