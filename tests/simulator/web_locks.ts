/** The locks of the pages of one world, in place of `navigator.locks` of the process. */

/** A request that has the lock, or waits for it. */
interface Request {
  readonly callback: (lock: { readonly name: string } | null) => unknown;
  readonly settle: PromiseWithResolvers<unknown>;
}

interface LockOptions {
  readonly ifAvailable?: boolean;
  readonly steal?: boolean;
  readonly signal?: AbortSignal;
}

/**
 * The exclusive locks of https://w3c.github.io/web-locks/. They take no time, and no lock of another
 * world is in the way, although worlds with one seed draw the same names.
 */
export class WebLocks implements Disposable {
  readonly #held = new Map<string, Request>();
  readonly #waiting = new Map<string, Request[]>();

  constructor() {
    Object.defineProperty(navigator, "locks", { value: this, configurable: true });
  }

  /** Requests a lock. The other forms of the platform's method are not needed. */
  request(
    name: string,
    { ifAvailable = false, steal = false, signal }: LockOptions,
    callback: Request["callback"],
  ): Promise<unknown> {
    const request: Request = { callback, settle: Promise.withResolvers() };
    const holder = this.#held.get(name);
    if (steal) {
      holder?.settle.reject(new DOMException("The lock was stolen", "AbortError"));
      this.#grant(name, request);
    } else if (holder === undefined) {
      this.#grant(name, request);
    } else if (ifAvailable) {
      void this.#run(request, null);
    } else {
      this.#wait(name, request, signal);
    }
    return request.settle.promise;
  }

  /** No page of the world is in a cache, so nobody reads what this returns. */
  query(): Promise<object> {
    return Promise.resolve({});
  }

  #wait(name: string, request: Request, signal: AbortSignal | undefined): void {
    if (signal?.aborted) return request.settle.reject(signal.reason);
    this.#waiting.set(name, [...this.#waiting.get(name) ?? [], request]);
    signal?.addEventListener("abort", () => {
      const waiting = this.#waiting.get(name) ?? [];
      if (!waiting.includes(request)) return;
      this.#waiting.set(name, waiting.filter((it) => it !== request));
      request.settle.reject(signal.reason);
    }, { once: true });
  }

  #grant(name: string, request: Request): void {
    this.#held.set(name, request);
    void this.#run(request, { name }).then(() => {
      // A thief has the lock now.
      if (this.#held.get(name) !== request) return;
      this.#held.delete(name);
      const [next, ...others] = this.#waiting.get(name) ?? [];
      this.#waiting.set(name, others);
      if (next !== undefined) this.#grant(name, next);
    });
  }

  /** Calls back in a later turn, as the platform does. */
  async #run({ callback, settle }: Request, lock: { readonly name: string } | null): Promise<void> {
    await Promise.resolve();
    try {
      settle.resolve(await callback(lock));
    } catch (error) {
      settle.reject(error);
    }
  }

  /** Gives the platform's locks back. */
  [Symbol.dispose](): void {
    Reflect.deleteProperty(navigator, "locks");
  }
}
