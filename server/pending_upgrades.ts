/**
 * Connections between the answer to their request and the beginning of their session.
 *
 * @module
 */
import { Deadlines } from "../transport/deadlines.ts";

/** A place held for a connection whose session did not begin yet. */
interface Opening {
  readonly held: readonly Disposable[];
}

/**
 * Frees what is held for connections whose session never begins: a peer that vanished before the
 * response to its upgrade leaves a socket that never says so.
 */
export class Openings implements Disposable {
  readonly #waiting: Deadlines<Opening>;

  /** Gives each connection this long, in milliseconds. */
  constructor(timeoutMs: number) {
    this.#waiting = new Deadlines(timeoutMs, free);
  }

  /** Calls back when a session can begin; what is held is freed if none ever can, or not in time. */
  add(opened: Promise<unknown>, held: readonly Disposable[], begin: () => void): void {
    const opening = { held };
    this.#waiting.add(opening);
    opened.then(
      () => {
        this.#waiting.delete(opening);
        begin();
      },
      () => {
        this.#waiting.delete(opening);
        free(opening);
      },
    );
  }

  /** Waits for nothing any more. */
  [Symbol.dispose](): void {
    this.#waiting.clear();
  }
}

function free({ held }: Opening): void {
  for (const one of held) one[Symbol.dispose]();
}
