/**
 * How many streams may be opened before the peer takes some.
 *
 * @module
 */
import { TimeoutError } from "../../errors.ts";
import type { OpenStreamOptions, StreamDirection } from "../connection.ts";

/** Somebody who waits for a slot. */
interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A counted limit on streams. Who finds no free slot waits in line, until one
 * is free or its signal or timeout gives up.
 */
export class StreamSlots {
  #free: number;
  #error: { readonly cause: unknown } | undefined = undefined;
  readonly #waiters: Set<Waiter> = new Set();

  /**
   * Creates the limit.
   *
   * @param slots Free slots at first.
   */
  constructor(slots: number) {
    this.#free = slots;
  }

  /**
   * Takes a slot, waiting for it in line.
   *
   * @param direction What kind of stream it is for, to say so.
   * @param options Its `signal` and `timeoutMs` give up waiting.
   * @returns Resolves with a slot taken.
   * @throws {TimeoutError} If `timeoutMs` passed first.
   */
  async take(direction: StreamDirection, options: OpenStreamOptions = {}): Promise<void> {
    const { signal, timeoutMs } = options;
    signal?.throwIfAborted();
    if (this.#error !== undefined) throw this.#error.cause;
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter: Waiter = { resolve, reject };
    this.#waiters.add(waiter);
    const giveUp = (error: unknown) => {
      if (this.#waiters.delete(waiter)) reject(error);
    };
    const onAbort = () => giveUp(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => {
      giveUp(
        new TimeoutError(
          `Cannot open stream: the peer took no ${direction} stream within ${timeoutMs} ms`,
          timeoutMs,
        ),
      );
    }, timeoutMs);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Frees a slot, or hands it to whoever waits first. */
  release(): void {
    const [first] = this.#waiters;
    if (first === undefined) {
      this.#free++;
      return;
    }
    this.#waiters.delete(first);
    first.resolve();
  }

  /**
   * Refuses everybody who waits, and all who come.
   *
   * @param error What they get.
   */
  fail(error: unknown): void {
    this.#error = { cause: error };
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }
}
