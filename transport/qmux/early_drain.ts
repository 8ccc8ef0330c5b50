/** Early detection that a socket has drained. */
import type { Runtime } from "../../base/runtime.ts";
import type { MultiplexerLink } from "./multiplexer.ts";
import { MAX_BUFFERED_BYTES } from "./record_scheduler.ts";

/** Link for records or frames. */
type Wire = Pick<MultiplexerLink, "bufferedAmount" | "drained">;

/** The number of checks of a fast link, one in each turn of the event loop. */
const MAX_LOOKS = 32;

/**
 * Wait in milliseconds below which the link had drained before the timer fired: the link is fast
 * again.
 */
const SOON_MS = 4;

/**
 * Checks a link in quick succession while that succeeds, and leaves a slow link to its timer.
 * Sockets emit no event when they drain, and a timer is late: a fast socket is empty after
 * microseconds, and the timer fires after milliseconds.
 */
export class EarlyDrain {
  readonly #runtime: Runtime;
  readonly #wire: Wire;
  #looks = MAX_LOOKS;

  constructor(runtime: Runtime, wire: Wire) {
    this.#runtime = runtime;
    this.#wire = wire;
  }

  /** Waits until the link has few bytes buffered, or is closed. Never rejects. */
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
