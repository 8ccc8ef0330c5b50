/**
 * Sockets between the response to their upgrade and their `open`.
 *
 * @module
 */
import type { Connection } from "../transport/connection.ts";
import { Deadlines } from "../transport/deadlines.ts";

/** What is held for a socket that did not open yet. */
interface Opening {
  readonly held: readonly Disposable[];
}

/**
 * Frees what is held for sockets that never open: a peer that vanished before
 * the response leaves one that never says so.
 */
export class Openings implements Disposable {
  readonly #waiting: Deadlines<Opening>;

  /** Gives each socket this long, in milliseconds. */
  constructor(timeoutMs: number) {
    this.#waiting = new Deadlines(timeoutMs, free);
  }

  /** Calls back when the connection opens; what is held is freed if it does not, or not in time. */
  add(connection: Connection, held: readonly Disposable[], opened: () => void): void {
    const opening = { held };
    this.#waiting.add(opening);
    connection.ready.then(
      () => {
        this.#waiting.delete(opening);
        opened();
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
