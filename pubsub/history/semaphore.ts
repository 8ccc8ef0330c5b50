/** Limits the number of concurrent tasks; further tasks wait in order. */
import type { Runtime } from "../../base/runtime.ts";

/**
 * Admits `max` concurrent tasks. Waiting tasks are admitted at the end of a turn of the event loop,
 * so that other work runs in between even if many tasks wait.
 */
export class Semaphore {
  readonly #runtime: Runtime;
  readonly #max: number;
  readonly #waiting = new Set<() => void>();
  #inside = 0;
  #isScheduled = false;

  constructor(runtime: Runtime, max: number) {
    this.#runtime = runtime;
    this.#max = max;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Waits for admission.
   *
   * @param signal Ends the wait.
   * @returns True if the task is admitted: the caller MUST then call `leave` afterwards, even after
   * a failure. False if the signal ended the wait: the caller MUST NOT call `leave`.
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

  /** Makes room for the next task. */
  leave(): void {
    this.#inside--;
    this.#wake();
  }

  #wake(): void {
    if (this.#isScheduled || this.#waiting.size === 0 || this.#inside >= this.#max) return;
    this.#isScheduled = true;
    this.#runtime.schedule(() => {
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
