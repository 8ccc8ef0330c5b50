/** Work that is bounded: so much of it at once, the rest waits in order. */
import { platformSchedule, type Schedule } from "../../session/queue/schedule.ts";

/**
 * Lets so many in at once. Whoever waits gets in at the end of a turn of the event loop, so
 * that however many wait, other work has its turn between them.
 */
export class Line {
  readonly #max: number;
  readonly #schedule: Schedule;
  readonly #waiting = new Set<() => void>();
  #inside = 0;
  #isScheduled = false;

  constructor(max: number, schedule: Schedule = platformSchedule()) {
    this.#max = max;
    this.#schedule = schedule;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Waits for room; call `leave` afterwards, whatever happened.
   *
   * @param signal Gives up waiting.
   * @returns Whether there is room; false if it was given up, and nothing is to be left.
   */
  enter(signal?: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve(false);
      const giveUp = () => {
        this.#waiting.delete(admit);
        resolve(false);
      };
      const admit = () => {
        signal?.removeEventListener("abort", giveUp);
        resolve(true);
      };
      signal?.addEventListener("abort", giveUp);
      this.#waiting.add(admit);
      this.#wake();
    });
  }

  /** Makes room. */
  leave(): void {
    this.#inside--;
    this.#wake();
  }

  #wake(): void {
    if (this.#isScheduled || this.#waiting.size === 0 || this.#inside >= this.#max) return;
    this.#isScheduled = true;
    this.#schedule(() => {
      this.#isScheduled = false;
      for (const admit of this.#waiting) {
        if (this.#inside >= this.#max) return;
        this.#waiting.delete(admit);
        this.#inside++;
        admit();
      }
    });
  }
}
