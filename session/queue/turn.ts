/**
 * Turn of the event loop, whose end flushes all messages of a session in as few frames as possible.
 */
import type { Runtime } from "../../base/runtime.ts";

/** Sender of the messages of a turn: the send queue of one session. */
export interface Sender {
  /** True while the turn has this sender on its list. */
  isMarked: boolean;
  /** Hands waiting messages to the connection. Returns false if the queue has failed. */
  flush(): boolean;
  /** Ends the session, because the queue has no room. */
  fail(): void;
}

/** Work done for many queues at once when a turn ends. */
export interface TurnWork {
  /** Hands entries to the queues; `failed` takes the queues without room. */
  handOut(failed: Sender[]): void;
}

/**
 * Gathers outgoing messages until the turn of the event loop ends, then sends them.
 *
 * A server has one turn for all its sessions. Each session keeps the order of all messages within a
 * turn, broadcasts included.
 */
export class Turn {
  /**
   * The broadcasts of the turn, set by the first broadcast, so that a page without broadcasts does
   * not load their code.
   *
   * @ignore
   */
  sharing: TurnWork | undefined = undefined;

  readonly #runtime: Runtime;
  #queues: Sender[] = [];
  #sequence = 0;
  #isScheduled = false;
  #isFlushing = false;
  readonly #onTurn = () => {
    this.#isScheduled = false;
    this.flush();
  };

  /**
   * Creates a turn.
   *
   * @param runtime Schedules the end of a turn.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Returns the sequence number of the next entry.
   *
   * @returns A number larger than all earlier ones.
   */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Flushes a queue when the turn ends. Idempotent.
   *
   * @ignore
   * @param queue A queue with waiting messages.
   */
  mark(queue: Sender): void {
    if (queue.isMarked) return;
    queue.isMarked = true;
    this.#queues.push(queue);
    this.wake();
  }

  /**
   * Flushes all queues now. Called when the turn ends, before the members of a broadcast change,
   * and when the gathered messages reach their bound.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    const failed: Sender[] = [];
    try {
      this.sharing?.handOut(failed);
      const queues = this.#queues;
      this.#queues = [];
      for (const queue of queues) {
        queue.isMarked = false;
        if (!queue.flush()) failed.push(queue);
      }
    } finally {
      this.#isFlushing = false;
    }
    // Deferred, because closing a session runs the application's code. That code may change the
    // members of the broadcast that caused this flush.
    for (const queue of failed) queueMicrotask(() => queue.fail());
  }

  /**
   * Schedules a flush at the end of the turn.
   *
   * @ignore
   */
  wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#runtime.schedule(this.#onTurn);
  }
}
