/** Work that is bounded: so much of it at once, the rest waits in order. */
import { platformSchedule, type Schedule } from "../session/schedule.ts";

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

  /** Resolves when there is room; call `leave` afterwards, whatever happened. */
  enter(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.add(resolve);
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
