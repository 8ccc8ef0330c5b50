/**
 * Sockets between the response to their upgrade and their `open`.
 *
 * @module
 */
import type { Connection } from "./transport/connection.ts";

interface Opening {
  readonly dueAt: number;
  readonly held: readonly Disposable[];
}

/**
 * Frees what is held for sockets that never open: a peer that vanished before
 * the response leaves one that never says so. One timer serves all of them,
 * since all have the same time.
 */
export class Openings {
  readonly #timeoutMs: number;
  readonly #waiting = new Map<Connection, Opening>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Gives each socket this long, in milliseconds. */
  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  /** Calls back when the connection opens; what is held is freed if it does not, or not in time. */
  add(connection: Connection, held: readonly Disposable[], opened: () => void): void {
    this.#waiting.set(connection, { dueAt: Date.now() + this.#timeoutMs, held });
    this.#timer ??= setTimeout(() => this.#sweep(), this.#timeoutMs);
    connection.ready.then(
      () => {
        this.#delete(connection);
        opened();
      },
      () => {
        this.#delete(connection);
        free(held);
      },
    );
  }

  #delete(connection: Connection): void {
    this.#waiting.delete(connection);
    if (this.#waiting.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #sweep(): void {
    this.#timer = undefined;
    const now = Date.now();
    for (const [connection, { dueAt, held }] of this.#waiting) {
      if (dueAt > now) {
        this.#timer = setTimeout(() => this.#sweep(), dueAt - now);
        return;
      }
      this.#waiting.delete(connection);
      free(held);
    }
  }
}

function free(held: readonly Disposable[]): void {
  for (const one of held) one[Symbol.dispose]();
}
