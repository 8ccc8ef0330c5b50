/**
 * One flush a turn: what one turn of the event loop produced for a session is
 * joined into as few frames as possible.
 *
 * @module
 */
import { platformSchedule, type Schedule } from "./schedule.ts";

/** Who sends what a turn gathered: the send queue of one session. */
export interface Sender {
  /** Whether the turn knows that it has something to send. */
  isMarked: boolean;
  /** Hands what waits to the wire; false if it failed. */
  flush(): boolean;
  /** Ends its session, for it has no room. */
  fail(): void;
}

/** Work that is done for many queues at once when a turn ends. */
export interface TurnWork {
  /** Hands out to the queues; `failed` takes those that have no room. */
  handOut(failed: Sender[]): void;
}

/**
 * Gathers what is to be sent until the turn of the event loop ends, then hands
 * it over.
 *
 * A server has one turn for all its sessions. The order of everything sent
 * within a turn is kept for each session, whether it came by a broadcast or not.
 */
export class Turn {
  /**
   * The broadcasts of the turn; made by the first of them, so that a page without broadcasts does
   * not load the code.
   *
   * @ignore
   */
  sharing: TurnWork | undefined = undefined;

  readonly #schedule: Schedule;
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
   * @param schedule Tells the end of a turn; the platform's own by default.
   */
  constructor(schedule: Schedule = platformSchedule()) {
    this.#schedule = schedule;
  }

  /**
   * Gives the next entry its place in the order.
   *
   * @returns A number larger than all before it.
   */
  nextSequence(): number {
    return ++this.#sequence;
  }

  /**
   * Flushes a queue when the turn ends. Idempotent.
   *
   * @ignore
   * @param queue A queue that has something to send.
   */
  mark(queue: Sender): void {
    if (queue.isMarked) return;
    queue.isMarked = true;
    this.#queues.push(queue);
    this.wake();
  }

  /**
   * Hands everything over now. Called when the turn ends, before the members of
   * a broadcast change, and when what is gathered reaches its bound.
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
    // Later, because closing a session runs the application's code, which may change the
    // members of the very broadcast that had this flush made.
    for (const queue of failed) queueMicrotask(() => queue.fail());
  }

  /**
   * Has the turn's end flush.
   *
   * @ignore
   */
  wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(this.#onTurn);
  }
}
