/** Readers of one node that wait for changes of the same stream or topic. */
import type { BrokerSubscription } from "./broker.ts";
import type { Runtime, Timer } from "../base/runtime.ts";

/**
 * One stream or topic that readers of this node follow. All readers share its announcements.
 *
 * @typeParam R Type of the result of a read.
 */
export class Followed<R> {
  /** The subscription to the announcements; its owner ends it when the last reader leaves. */
  readonly subscription: BrokerSubscription;
  /** Readers that follow, as their owner counts them. */
  readers = 0;
  /** Number of announcements so far. */
  version = 0;
  readonly #runtime: Runtime;
  /** Reads that started after the last announcement, by their options; bounded by the readers. */
  readonly #reads = new Map<string, Promise<R>>();
  /** Reads that start once another one of the same page has ended; bounded by the readers. */
  readonly #next = new Map<string, Promise<R>>();
  readonly #waiting = new Set<() => void>(); // Bounded by the readers.
  #timer: Timer | undefined;

  /**
   * Starts to follow.
   *
   * @param runtime Provides the timers.
   * @param subscribe Subscribes to the announcements.
   */
  constructor(runtime: Runtime, subscribe: (onChange: () => void) => BrokerSubscription) {
    this.#runtime = runtime;
    this.subscription = subscribe(() => this.notify());
  }

  /** Wakes all waiting readers, which then read again. */
  notify(): void {
    this.version++;
    this.#reads.clear();
    this.#stop();
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) wake();
  }

  /**
   * Reads once for all readers that want the same page after the same announcement.
   *
   * @param key The options of the read.
   * @param read Performs the read.
   * @returns The result.
   */
  share(key: string, read: () => Promise<R>): Promise<R> {
    return this.#reads.get(key) ?? this.#start(key, read);
  }

  /**
   * Reads for a reader that has just come, and must not miss what was written before. Readers that
   * come while a read of the same page is under way share the next one.
   *
   * @param key The options of the read.
   * @param read Performs the read, which starts after this call.
   * @returns The result.
   */
  shareNext(key: string, read: () => Promise<R>): Promise<R> {
    const earlier = this.#reads.get(key);
    if (earlier === undefined) return this.#start(key, read);
    let next = this.#next.get(key);
    if (next === undefined) {
      const start = () => {
        this.#next.delete(key);
        return this.#start(key, read);
      };
      this.#next.set(key, next = earlier.then(start, start));
    }
    return next;
  }

  #start(key: string, read: () => Promise<R>): Promise<R> {
    const reading = read().finally(() => {
      if (this.#reads.get(key) === reading) this.#reads.delete(key);
    });
    this.#reads.set(key, reading);
    return reading;
  }

  /** Adds a waiting reader. One timer serves all readers until the next announcement. */
  wait(wake: () => void, timeoutMs: number): void {
    this.#waiting.add(wake);
    this.#timer ??= this.#runtime.setTimeout(() => this.notify(), timeoutMs);
  }

  /** Removes a reader that has left. */
  forget(wake: () => void): void {
    this.#waiting.delete(wake);
    if (this.#waiting.size === 0) this.#stop();
  }

  #stop(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
