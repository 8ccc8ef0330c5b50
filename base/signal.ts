/** Waiting for changes without missing one. */

/** Notifies of changes through promises. */
export class Signal {
  // Created when first awaited: most queues of a server are never awaited.
  #next: PromiseWithResolvers<void> | undefined;

  /** Resolves at the next change. */
  changed(): Promise<void> {
    this.#next ??= Promise.withResolvers();
    return this.#next.promise;
  }

  /** Resolves all promises of `changed`. */
  notify(): void {
    this.#next?.resolve();
    this.#next = undefined;
  }
}
