/** Connections between the response to a request and the start of the session. */
import { Deadlines } from "../base/deadlines.ts";
import type { Runtime } from "../base/runtime.ts";

/** Resources held for a connection without a session yet. */
interface Opening {
  readonly held: readonly Disposable[];
}

/**
 * Frees the resources of connections whose session never begins. If a peer vanishes before the
 * response to its upgrade, the socket emits no event.
 */
export class Openings implements Disposable {
  readonly #waiting: Deadlines<Opening>;

  /** Creates a registry with a time limit for each connection, in milliseconds. */
  constructor(runtime: Runtime, timeoutMs: number) {
    this.#waiting = new Deadlines(runtime, timeoutMs, free);
  }

  /**
   * Calls `begin` once the connection is open; frees the resources if opening fails or takes too
   * long.
   */
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

  /** Stops waiting for all connections. */
  [Symbol.dispose](): void {
    this.#waiting.clear();
  }
}

function free({ held }: Opening): void {
  for (const one of held) one[Symbol.dispose]();
}
