/** Flushes the send queues of many sessions at the end of an event loop turn. */
import type { Runtime } from "../../base/runtime.ts";

/** Collects messages, and sends them when it is flushed. */
export interface Flushable {
  /** Sends the collected messages. MUST NOT throw. */
  flush(): void;
}

/**
 * Flushes outgoing messages at the end of each turn of the event loop, in as few frames as possible.
 *
 * A server has one flusher for all its sessions. Each session keeps the order of all its messages,
 * including broadcasts.
 */
export class Flusher {
  readonly #runtime: Runtime;
  #distributor: Flushable | undefined;
  #queues = new Set<Flushable>();
  #sequence = 0;
  #isScheduled = false;
  #isFlushing = false;

  /**
   * Creates a flusher.
   *
   * @param runtime The runtime, which schedules the flushes.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Returns the sequence number of the next entry, larger than all earlier ones. */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Includes a queue with waiting messages in the next flush. Idempotent.
   *
   * @ignore
   */
  mark(queue: Flushable): void {
    this.#queues.add(queue);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
      this.#isScheduled = false;
      this.flush();
    });
  }

  /**
   * Returns the part that passes broadcasts to the queues, and is flushed before them. The first
   * broadcast creates it, so that a bundle without broadcasts omits its code.
   *
   * @ignore
   */
  distributor<T extends Flushable>(create: new (flusher: Flusher) => T): T {
    return (this.#distributor ??= new create(this)) as T;
  }

  /**
   * Flushes all queues now. Called at the end of an event loop turn, before the members of a
   * broadcast change, and when the collected messages reach their limit.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    try {
      this.#distributor?.flush();
      const queues = this.#queues;
      this.#queues = new Set();
      for (const queue of queues) queue.flush();
    } finally {
      this.#isFlushing = false;
    }
  }
}
