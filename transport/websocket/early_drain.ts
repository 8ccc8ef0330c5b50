/** Early detection that a socket drained. */
import type { Runtime } from "../../base/runtime.ts";

/** A wire that buffers bytes. */
export interface Draining {
  /** Buffered bytes. */
  readonly bufferedAmount: number;
  /** Waits until few bytes are buffered. Never rejects. */
  drained(): Promise<void>;
}

/** Bytes at or below which a wire counts as drained. */
const LOW_WATER_MARK = 32_768;

/** Checks of a fast wire, one each turn of the event loop. */
const MAX_LOOKS = 32;

/**
 * Wait in milliseconds below which the wire had drained before the timer fired: the wire is fast
 * again.
 */
const SOON_MS = 4;

/**
 * Checks a wire in quick succession while that succeeds, and leaves a slow wire to its timer.
 * Sockets emit no event when they drain, and a timer is late: a fast socket is empty after
 * microseconds, and the timer fires after milliseconds.
 */
export class EarlyDrain {
  readonly #runtime: Runtime;
  readonly #wire: Draining;
  #looks = MAX_LOOKS;

  /** Watches a wire. */
  constructor(runtime: Runtime, wire: Draining) {
    this.#runtime = runtime;
    this.#wire = wire;
  }

  /** Waits until the wire has few bytes buffered, or is closed. Never rejects. */
  async drained(): Promise<void> {
    if (this.#looks > 0 && await this.#look()) {
      this.#looks = Math.min(this.#looks * 2, MAX_LOOKS);
      return;
    }
    this.#looks >>= 1;
    const since = this.#runtime.monotonic();
    await this.#wire.drained();
    if (this.#looks === 0 && this.#runtime.monotonic() - since < SOON_MS) this.#looks = 1;
  }

  async #look(): Promise<boolean> {
    for (let left = this.#looks; left > 0; left--) {
      await new Promise<void>((resolve) => this.#runtime.schedule(resolve));
      if (this.#wire.bufferedAmount <= LOW_WATER_MARK) return true;
    }
    return false;
  }
}
