/**
 * Waiting for a change, without missing it.
 *
 * @module
 */

/** Something that changes, and tells whoever waits for it. */
export class Changing {
  // Made when first awaited: most queues of a server never are.
  #next: PromiseWithResolvers<void> | undefined;

  /** Resolves at the next change. */
  changed(): Promise<void> {
    this.#next ??= Promise.withResolvers();
    return this.#next.promise;
  }

  /** Wakes everybody who waits. */
  notify(): void {
    this.#next?.resolve();
    this.#next = undefined;
  }
}
