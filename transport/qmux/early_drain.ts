/** Detects early that a socket has drained. */
import type { Runtime } from "../../base/runtime.ts";
import type { MultiplexerLink } from "./multiplexer.ts";
import { MAX_BUFFERED_BYTES } from "./record_scheduler.ts";

/** A link for records or frames. */
type Wire = Pick<MultiplexerLink, "bufferedAmount" | "drained">;

/**
 * The maximum number of checks of a fast link. There is one check in each turn of the event loop.
 */
const MAX_LOOKS = 32;

/**
 * If a wait takes less than this time in milliseconds, the link had drained before the timer fired,
 * so the link is fast again.
 */
const SOON_MS = 4;

/**
 * Checks a link in quick succession as long as such checks succeed, and leaves a slow link to its
 * timer. The checks are needed because a socket emits no event when it drains, and a timer is late:
 * a fast socket is empty after microseconds, but the timer fires after milliseconds.
 */
export class EarlyDrain {
  readonly #runtime: Runtime;
  readonly #wire: Wire;
  #looks = MAX_LOOKS;

  constructor(runtime: Runtime, wire: Wire) {
    this.#runtime = runtime;
    this.#wire = wire;
  }

  /** Waits until the link has few buffered bytes, or is closed. Never rejects. */
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
      if (this.#wire.bufferedAmount <= MAX_BUFFERED_BYTES) return true;
    }
    return false;
  }
}
